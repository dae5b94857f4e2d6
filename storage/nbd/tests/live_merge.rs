//! Disks of a chain are merged while fio writes to it through the server; fio verifies what it wrote, and the files hold it in the
//! end.
#![allow(clippy::disallowed_methods, reason = "the server runs on a thread of its own")]

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_block_io::{IoContext, IoMode, IoSeed, OpenOptions};
use bulkhead_chain::{Merge, MergeControl, check_link, merge};
use bulkhead_disk::{
    Completion, DiskFacts, File, Layer, LocalFuture, Node, Notify, ParentLink, Request, Result, Stack, StatusExtent,
    read_bytes, run_now, write_bytes,
};
use bulkhead_nbd::{Export, Server};
use bulkhead_vhd::{CreateOptions, VhdImage, create};
use uuid::Uuid;

const SIZE: u64 = 32 << 20;
const DEPTH: usize = 8;
/// Writes that must come before each merge, and during each.
const WRITES: u64 = 40;

async fn open(context: &IoContext, path: &Path, read_only: bool) -> Rc<dyn Layer> {
    // The parent is opened a second time for writing while the chain still reads it.
    let file = OpenOptions::new().read_only(read_only).lock(false).open(context, path).expect("the image opens");
    Rc::new(VhdImage::open(Rc::new(file) as Rc<dyn File>).await.expect("it is a VHD"))
}

fn link_to(parent: &dyn Layer) -> ParentLink {
    let path = parent.file().path().to_owned();
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let paths = vec![format!("./{name}"), path.display().to_string()];
    ParentLink { id: parent.link_id(), second_id: None, timestamp: parent.link_timestamp(), paths }
}

/// Each disk holds something of its own; the top first.
async fn make_chain(context: &IoContext, folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for number in 0..DEPTH {
        let path = folder.join(format!("{number}.vhd"));
        let id = Uuid::from_u128(100 + number as u128);
        let mut options = CreateOptions::dynamic(SIZE, id, 0);
        if let Some(parent) = paths.first() {
            options = CreateOptions::differencing(SIZE, link_to(&*open(context, parent, true).await), id, 0);
        }
        create(&OpenOptions::new().create_new(true).open(context, &path).expect("a file"), &options)
            .await
            .expect("a VHD");
        let disk = Stack::new(vec![open(context, &path, false).await]);
        for piece in 0..64u64 {
            let data = vec![number as u8 + 1; 3 << 12];
            write_bytes(&disk, (piece * 9 + number as u64) * 40_960 % (SIZE - 65536) / 512 * 512, &data)
                .await
                .expect("a write");
        }
        disk.close().await.expect("it closes");
        paths.insert(0, path);
    }
    paths
}

/// The disk as it is served: counts the writes that went through.
struct Counted {
    disk: Rc<Stack>,
    writes: Cell<u64>,
    changed: Notify,
    /// fio is done: there is nothing to wait for.
    idle: Arc<AtomicBool>,
}

impl Counted {
    /// Waits until `count` more writes went through.
    async fn more_writes(&self, count: u64) {
        let until = self.writes.get() + count;
        while self.writes.get() < until && !self.idle.load(Ordering::SeqCst) {
            self.changed.wait().await;
        }
    }
}

impl Node for Counted {
    fn facts(&self) -> DiskFacts {
        self.disk.facts()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        let write = request.is_write();
        Box::pin(async move {
            let completion = self.disk.run(request).await;
            self.writes.set(self.writes.get() + u64::from(write));
            self.changed.notify_all();
            completion
        })
    }

    fn status(&self, range: std::ops::Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        self.disk.status(range)
    }
}

impl MergeControl for Counted {
    fn progress(&self, _: u64, _: u64) -> LocalFuture<'_, Result<()>> {
        Box::pin(async {
            self.more_writes(WRITES).await;
            Ok(())
        })
    }
}

/// Merges the top and disks from the middle, in turn, until two disks are left.
async fn merge_all(context: IoContext, served: Rc<Counted>, names: Rc<RefCell<Vec<PathBuf>>>) {
    while names.borrow().len() > 2 {
        served.more_writes(WRITES).await;
        let now = names.borrow().clone();
        let index = [0, now.len() - 2, now.len() / 2 - 1][now.len() % 3];
        let parent = open(&context, &now[index + 1], false).await;
        let above = if index > 1 { Some(open(&context, &now[index - 1], false).await) } else { None };
        let paths = link_to(&*parent).paths;
        merge(&served.disk, Merge { index, parent, child: None, above, paths }, &*served)
            .await
            .expect("the merge succeeds");
        std::fs::remove_file(&now[index]).expect("nobody needs it");
        names.borrow_mut().remove(index);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("cannot start {program} (Debian packages: xtask/packages.toml): {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[test]
fn disks_are_merged_while_fio_writes_and_verifies() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let seed = IoSeed::new(IoMode::Auto).expect("a loop");
    let remote = seed.remote();
    let (idle, place) = (Arc::new(AtomicBool::new(false)), folder.path().to_owned());
    let done = Arc::clone(&idle);
    let thread = std::thread::spawn(move || {
        let io = seed.build().expect("a loop");
        let context = io.context();
        io.run_until(async move {
            let names = make_chain(&context, &place).await;
            let mut layers = Vec::new();
            for (number, name) in names.iter().enumerate() {
                layers.push(open(&context, name, number > 0).await);
            }
            let disk = Rc::new(Stack::new(layers));
            let served = Counted { disk: Rc::clone(&disk), writes: Cell::new(0), changed: Notify::default(), idle };
            let served = Rc::new(served);
            let server = Server::new(vec![Export::new("disk", served.clone())], context.clone());
            let accepting = Rc::clone(&server);
            context.spawn(async move { drop(accepting.listen(listener).await) });
            let names = Rc::new(RefCell::new(names));
            merge_all(context.clone(), Rc::clone(&served), Rc::clone(&names)).await;
            assert!(!served.idle.load(Ordering::SeqCst), "fio ended before the last merge: the merges saw no writes");
            // fio and nbdcopy are still to come to their ends.
            server.until(true, || served.idle.load(Ordering::SeqCst)).await;
            disk.close().await.expect("it closes");
            names.take()
        })
        .expect("it runs")
    });
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    let words = ["--name=live", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--size=32M", "--loops=4"];
    let checks = ["--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"];
    let said = run("fio", &[&words[..], &checks, &[&format!("--uri={uri}")]].concat());
    assert!(said.contains("err= 0"), "{said}");
    let copy = folder.path().join("copy");
    run("nbdcopy", &[&uri, copy.to_str().expect("a path")]);
    done.store(true, Ordering::SeqCst);
    let left = thread.join().expect("the server and the merges succeed");
    drop(remote);
    assert_eq!(left.len(), 2);
    let layers: Vec<Rc<dyn Layer>> = left
        .iter()
        .map(|path| {
            let file = OpenOptions::new().read_only(true).open_inline(path).expect("it opens");
            Rc::new(run_now(VhdImage::open(Rc::new(file))).expect("it is a VHD")) as Rc<dyn Layer>
        })
        .collect();
    check_link(&*layers[0], &*layers[1], Default::default()).expect("the link fits");
    let ours = run_now(read_bytes(&Stack::new(layers), 0, SIZE as usize)).expect("it reads");
    assert!(ours == std::fs::read(&copy).expect("the copy"), "the files do not hold what the server showed");
}
