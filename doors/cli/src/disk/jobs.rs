//! From the verbs to jobs: opens the files, runs the job, keeps or drops what it made.

use super::arguments::{Bitmap, Command, Convert, Create, Image, Serve};
use super::image_process::{Job, run as run_job};
use super::new_file::NewFile;
use super::{mount, print};
use crate::exit::Failure;
use anyhow::Context;
use bulkhead_vm_description::{ImageFormat, Medium, Size};
use bulkhead_worker_protocol::image::{BitmapAction, ImageFile, ImageJob, NewImageFile, ServeLimits, Tracking};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

/// Least bandwidth of a served disk: with less, clients give up.
const LEAST_BANDWIDTH: u64 = 64 << 10;

/// Files that a job has collected so far.
#[derive(Default)]
pub struct Files(Vec<OwnedFd>);

/// Runs one verb.
///
/// # Errors
/// [`Failure`].
pub fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Create(create) => make(&create),
        Command::Convert(arguments) => convert(&arguments),
        Command::Serve(serve) => serve_nbd(&serve),
        Command::Info { image, chain, output } => {
            let found = on_image(&image, true, |image| ImageJob::Info { image, chain })?;
            print::show(&found, output.json, print::info)
        }
        Command::Check { image, chain, repair, drop_damaged, output } => {
            let found = on_image(&image, !repair, |image| ImageJob::Check { image, repair, drop_damaged, chain })?;
            let good = found["clean"] == true && found["chain"]["whole"] != false;
            print::show(&found, output.json, print::check)?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Partitions { image, output } => {
            let found = on_image(&image, true, |image| ImageJob::Partitions { image })?;
            print::show(&found, output.json, print::partitions)
        }
        Command::Mount(arguments) => mount::mount(&arguments),
        Command::Unmount { mountpoint } => mount::unmount(&mountpoint),
        Command::Compare { a, b, a_format, b_format, output } => {
            let mut files = Files::default();
            let a = files.image(&a, a_format, true)?;
            let b = files.image(&b, b_format, true)?;
            let found = run_job(files.job(ImageJob::Compare { a, b }))?;
            let identical = found["identical"] == true;
            print::show(&found, output.json, print::compare)?;
            Ok(if identical { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Map { image, output } => {
            let found = on_image(&image, true, |image| ImageJob::Map { image })?;
            print::show(&found, output.json, print::map)
        }
        Command::Compact { image, no_zeros, output } => {
            let found = on_image(&image, false, |image| ImageJob::Compact { image, zeros: !no_zeros })?;
            print::show(&found, output.json, print::fields)
        }
        Command::Resize { image, size, shrink, output } => {
            let size = size.bytes();
            let found = on_image(&image, false, |image| ImageJob::Resize { image, size, shrink })?;
            print::show(&found, output.json, print::fields)
        }
        Command::Merge { image, into: Some(target), output, .. } => convert(&Convert {
            source: image.path,
            target,
            source_format: image.format,
            format: None,
            kind: "dynamic".into(),
            block_size: None,
            sparse: false,
            output,
        }),
        Command::Merge { image, into: None, keep, output } => {
            let mut files = Files::default();
            let child = files.image(&image.path, image.format, false)?;
            let job = Job { writable_parents: true, ..files.job(ImageJob::Merge { image: child }) };
            let mut found = run_job(job)?;
            if !keep {
                let path = &image.path;
                std::fs::remove_file(path).with_context(|| {
                    format!("{} is merged, but cannot be deleted; do not use it any more", path.display())
                })?;
            }
            found["deleted"] = (!keep).into();
            print::show(&found, output.json, print::fields)
        }
        Command::Bitmap { file, action } => bitmap(&file, action),
        Command::SetParent { image, parent, force, output } => {
            let mut files = Files::default();
            let child = files.image(&image.path, image.format, false)?;
            let paths = parent_paths(&image.path, &parent)?;
            let parent = files.image(&parent, None, true)?;
            let found = run_job(files.job(ImageJob::SetParent { image: child, parent, paths, force }))?;
            print::show(&found, output.json, print::fields)
        }
        Command::SetIdentity { image, id, output } => {
            let found = on_image(&image, false, |image| ImageJob::SetIdentity { image, identity: id })?;
            print::show(&found, output.json, print::fields)
        }
    }
}

/// The files that the disk of a medium consists of, the medium's own first.
///
/// # Errors
/// Those of opening the images; a parent that is not there is named.
pub fn chain_of(medium: &Medium) -> Result<Vec<String>, Failure> {
    let image = Image { path: PathBuf::from(&medium.file), format: medium.format };
    let found = on_image(&image, true, |image| ImageJob::Chain { image })?;
    let files = found["files"].as_array().into_iter().flatten();
    Ok(files.filter_map(|file| file.as_str().map(str::to_owned)).collect())
}

/// Opens a change tracking file, or makes it: a new one is empty.
///
/// # Errors
/// Not for this user, or the folder is missing.
pub fn open_tracking(path: &Path) -> Result<OwnedFd, Failure> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    Ok(opened.map_err(|error| Failure::of(error, format!("cannot open {}", path.display())))?.into())
}

/// A job on one image.
fn on_image(image: &Image, read_only: bool, job: impl FnOnce(ImageFile) -> ImageJob) -> Result<Value, Failure> {
    let mut files = Files::default();
    let image = files.image(&image.path, image.format, read_only)?;
    run_job(files.job(job(image)))
}

/// Whether an image is only read: asked for, or because its format is never written.
pub fn for_reading(image: &Image, read_only: bool) -> bool {
    let format = image.format.unwrap_or_else(|| ImageFormat::of_name(&image.path.to_string_lossy()));
    read_only || !["raw", "vhd", "vhdx"].contains(&format.name())
}

impl Files {
    /// Opens an existing image.
    ///
    /// # Errors
    /// It is not there, or not for this user.
    pub fn image(&mut self, path: &Path, format: Option<ImageFormat>, read_only: bool) -> Result<ImageFile, Failure> {
        let opened = OpenOptions::new().read(true).write(!read_only).open(path);
        let file = opened.map_err(|error| Failure::of(error, format!("cannot open {}", path.display())))?;
        self.0.push(file.into());
        Ok(self.named(path, format, read_only))
    }

    fn new_image(&mut self, path: &Path, format: Option<ImageFormat>) -> Result<(NewFile, ImageFile), Failure> {
        let file = NewFile::create(path)?;
        self.0.push(file.descriptor()?);
        Ok((file, self.named(path, format, false)))
    }

    /// See [`open_tracking`].
    fn tracking_file(&mut self, path: &Path) -> Result<ImageFile, Failure> {
        self.0.push(open_tracking(path)?);
        Ok(self.named(path, Some(ImageFormat::Raw), false))
    }

    /// The description of the file that was added last.
    fn named(&self, path: &Path, format: Option<ImageFormat>, read_only: bool) -> ImageFile {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let path = absolute.to_string_lossy().into_owned();
        let format = format.unwrap_or_else(|| ImageFormat::of_name(&path)).name().to_owned();
        ImageFile { path, format, descriptor: self.0.len() - 1, read_only }
    }

    /// The job that uses them.
    pub fn job(self, job: ImageJob) -> Job {
        Job { job, descriptors: self.0, writable_parents: false }
    }
}

fn make(create: &Create) -> Result<ExitCode, Failure> {
    let mut files = Files::default();
    let (file, image) = files.new_image(&create.path, create.format)?;
    let kind = create
        .kind
        .clone()
        .unwrap_or_else(|| if create.parent.is_some() { "differencing".into() } else { "dynamic".into() });
    let new = NewImageFile {
        file: image,
        kind,
        size: create.size.map(|size| size.bytes()),
        block_size: create.block_size.map(|size| u32::try_from(size.bytes()).unwrap_or(u32::MAX)),
        logical_sector: create.sector_size,
        sparse: create.sparse,
    };
    let parent = match &create.parent {
        None => None,
        Some(parent) => Some((files.image(parent, None, true)?, parent_paths(&create.path, parent)?)),
    };
    let made = run_job(files.job(ImageJob::Create { new, parent }))?;
    file.keep()?;
    print::show(&made, create.output.json, print::fields)
}

fn convert(arguments: &Convert) -> Result<ExitCode, Failure> {
    let mut files = Files::default();
    let source = files.image(&arguments.source, arguments.source_format, true)?;
    let (file, image) = files.new_image(&arguments.target, arguments.format)?;
    let new = NewImageFile {
        file: image,
        kind: arguments.kind.clone(),
        size: None,
        block_size: arguments.block_size.map(|size| u32::try_from(size.bytes()).unwrap_or(u32::MAX)),
        logical_sector: None,
        sparse: arguments.sparse,
    };
    let made = run_job(files.job(ImageJob::Convert { source, new }))?;
    file.keep()?;
    print::show(&made, arguments.output.json, print::fields)
}

fn bitmap(file: &Path, action: Bitmap) -> Result<ExitCode, Failure> {
    let (action, output) = match action {
        Bitmap::List { output } => (BitmapAction::List, output),
        Bitmap::Add { name, output } => (BitmapAction::Add { name }, output),
        Bitmap::Fork { name, frozen, output } => (BitmapAction::Fork { name, frozen }, output),
        Bitmap::Merge { frozen, into, output } => (BitmapAction::Merge { frozen, into }, output),
        Bitmap::Remove { name, output } => (BitmapAction::Remove { name }, output),
        Bitmap::Changes { name, output } => (BitmapAction::Changes { name }, output),
    };
    let mut files = Files::default();
    let file = files.image(file, Some(ImageFormat::Raw), false)?;
    let found = run_job(files.job(ImageJob::Bitmaps { file, action }))?;
    print::show(&found, output.json, print::bitmaps)
}

fn serve_nbd(serve: &Serve) -> Result<ExitCode, Failure> {
    let Some(socket) = serve.nbd.strip_prefix("unix:").filter(|path| !path.is_empty()) else {
        return Err(Failure::Usage(format!("{} is no address to listen at; write unix:SOCKET", serve.nbd)));
    };
    if let Some(bandwidth) = serve.max_bandwidth.filter(|size| size.bytes() < LEAST_BANDWIDTH) {
        let least = Size::from_bytes(LEAST_BANDWIDTH);
        return Err(Failure::Usage(format!("--max-bandwidth {bandwidth} is too little; {least} is the least")));
    }
    let mut files = Files::default();
    let image = files.image(&serve.image.path, serve.image.format, for_reading(&serve.image, serve.read_only))?;
    let listener = UnixListener::bind(socket);
    let listener = listener.map_err(|error| Failure::of(error, format!("cannot listen at {socket}")))?;
    let socket_file = SocketFile(PathBuf::from(socket));
    files.0.push(listener.into());
    let index = files.0.len() - 1;
    println!("nbd+unix:///{}?socket={socket}", serve.export);
    let tracking = match &serve.track {
        Some(path) => Some(Tracking { file: files.tracking_file(path)?, bitmaps: serve.bitmap.clone() }),
        None => None,
    };
    let max_bandwidth = serve.max_bandwidth.map(|size| size.bytes());
    let job = ImageJob::Serve {
        image,
        socket: index,
        export: serve.export.clone(),
        cache: serve.cache.clone(),
        persistent: serve.persistent,
        tracking,
        limits: ServeLimits { max_iops: serve.max_iops, max_bandwidth },
    };
    run_job(files.job(job))?;
    drop(socket_file);
    Ok(ExitCode::SUCCESS)
}

/// A socket's name, removed at the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody listens there any more; if it stays, the next server says so.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How a child writes down the way to its parent: relative to its own folder first, then absolute.
fn parent_paths(child: &Path, parent: &Path) -> Result<Vec<String>, Failure> {
    let resolve = |path: &Path| std::path::absolute(path).context("cannot resolve a path");
    let folder = resolve(child)?;
    let folder = folder.parent().unwrap_or(Path::new("/")).to_owned();
    let parent = std::fs::canonicalize(parent)
        .map_err(|error| Failure::of(error, format!("cannot find the parent {}", parent.display())))?;
    let folder = std::fs::canonicalize(&folder)
        .map_err(|error| Failure::of(error, format!("cannot find the folder {}", folder.display())))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![relative(&folder, &parent), text(&parent)])
}

/// The way from a folder to a file, in the form that Windows writes: `.\\a.vhdx`, `..\\base\\a.vhdx`.
fn relative(folder: &Path, file: &Path) -> String {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (folder.components().collect(), file.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let mut words: Vec<String> = vec!["..".into(); from.len() - common];
    if words.is_empty() {
        words.push(".".into());
    }
    words.extend(to[common..].iter().map(|part| part.as_os_str().to_string_lossy().into_owned()));
    words.join("\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_written_as_windows_does() {
        let relative = |folder: &str, file: &str| relative(Path::new(folder), Path::new(file));
        assert_eq!(relative("/vm/disks", "/vm/disks/base.vhdx"), ".\\base.vhdx");
        assert_eq!(relative("/vm/disks", "/vm/base/a.vhd"), "..\\base\\a.vhd");
        assert_eq!(relative("/", "/a.vhd"), ".\\a.vhd");
    }
}
