//! Chains in memory, of VHD and VHDX, found by path.
#![allow(dead_code, reason = "every test binary uses its part")]

use bulkhead_chain::{MergeControl, Opener};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{
    DiskError, ErrorKind, File, Layer, LocalFuture, MemoryFile, ParentLink, RamDisk, Result, Stack, read_bytes,
    run_now, write_bytes,
};
use bulkhead_vhd::{CreateOptions, Kind, VhdImage, create};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use uuid::Uuid;

pub const BLOCK: u32 = 512 << 10;
pub const SIZE: u64 = 10 * BLOCK as u64;

/// The disks of [`vhd_chain`], the top first.
pub const NAMES: [&str; 4] = ["/vm/d.avhd", "/vm/c.avhd", "/vm/b.avhd", "/vm/a.vhd"];

/// A folder tree in memory.
#[derive(Default)]
pub struct Store {
    pub files: RefCell<BTreeMap<PathBuf, Rc<MemoryFile>>>,
}

pub fn guids(seed: u64) -> bulkhead_vhdx::NewGuid {
    let next = Cell::new(seed);
    Rc::new(move || {
        next.set(next.get() + 1);
        Uuid::from_u64_pair(0xFACE ^ seed, next.get())
    })
}

/// Opens a file by its extension.
pub fn open_file(file: Rc<dyn File>, read_only: bool) -> Result<Rc<dyn Layer>> {
    if file.path().extension().is_some_and(|extension| extension == "vhdx" || extension == "avhdx") {
        // Different GUIDs for every open, as in real life.
        thread_local!(static SEED: Cell<u64> = const { Cell::new(1000) });
        SEED.set(SEED.get() + 1000);
        let options = bulkhead_vhdx::OpenOptions { read_only, new_guid: guids(SEED.get()) };
        return Ok(Rc::new(run_now(bulkhead_vhdx::Vhdx::open(file, options))?.image));
    }
    Ok(Rc::new(run_now(VhdImage::open(file))?))
}

impl Store {
    pub fn file(&self, path: &str) -> Rc<MemoryFile> {
        Rc::clone(&self.files.borrow()[Path::new(path)])
    }

    pub fn put(&self, path: &str, file: MemoryFile) {
        self.files.borrow_mut().insert(path.into(), Rc::new(file));
    }

    pub fn layer(&self, path: &str, read_only: bool) -> Rc<dyn Layer> {
        open_file(self.file(path), read_only).unwrap()
    }

    pub fn base(&self, path: &str, id: u128) {
        let file = MemoryFile::new(path);
        let kind = Kind::Dynamic { block_size: BLOCK };
        run_now(create(&file, &CreateOptions { size: SIZE, kind, id: Uuid::from_u128(id), timestamp: 5 })).unwrap();
        self.put(path, file);
    }

    pub fn child(&self, path: &str, id: u128, parent: &str) {
        let link = self.link(parent);
        let file = MemoryFile::new(path);
        let kind = Kind::Differencing { block_size: BLOCK, parent: link };
        run_now(create(&file, &CreateOptions { size: SIZE, kind, id: Uuid::from_u128(id), timestamp: 5 })).unwrap();
        self.put(path, file);
    }

    pub fn link(&self, parent: &str) -> ParentLink {
        let layer = self.layer(parent, true);
        ParentLink { id: layer.link_id(), second_id: None, timestamp: layer.link_timestamp(), paths: paths_to(parent) }
    }

    /// The stack of these files, the top first and writable.
    pub fn stack(&self, paths: &[&str]) -> Stack {
        Stack::new(paths.iter().enumerate().map(|(number, path)| self.layer(path, number > 0)).collect())
    }
}

/// How a child in the same folder writes the way to `parent` down.
pub fn paths_to(parent: &str) -> Vec<String> {
    let name = Path::new(parent).file_name().unwrap().to_str().unwrap();
    vec![format!("./{name}"), parent.to_owned()]
}

impl Opener for Store {
    fn open<'a>(&'a self, path: &'a Path, read_only: bool) -> LocalFuture<'a, Result<Rc<dyn Layer>>> {
        let file = self.files.borrow().get(path).cloned();
        Box::pin(async move {
            match file {
                Some(file) => open_file(file, read_only),
                None => Err(DiskError::new(ErrorKind::NotFound, "open the disk", "no such file").with_path(path)),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a Path) -> LocalFuture<'a, Option<Vec<PathBuf>>> {
        let inside = |path: &&PathBuf| path.parent() == Some(folder);
        let found = self.files.borrow().keys().filter(inside).cloned().collect();
        Box::pin(async move { Some(found) })
    }
}

/// Random writes to both.
pub fn scribble(disk: &Stack, model: &RamDisk, seed: u64, count: u64) {
    let mut random = XorShift::new(seed);
    for _ in 0..count {
        let first = random.below(SIZE / 512 - 64);
        let data = vec![random.next_u64() as u8 | 1; (1 + random.below(64)) as usize * 512];
        run_now(write_bytes(disk, first * 512, &data)).unwrap();
        run_now(write_bytes(model, first * 512, &data)).unwrap();
    }
}

pub fn same(disk: &Stack, model: &RamDisk) -> bool {
    run_now(read_bytes(disk, 0, SIZE as usize)).unwrap() == run_now(read_bytes(model, 0, SIZE as usize)).unwrap()
}

/// A merge that nobody watches.
pub struct Quiet;

impl MergeControl for Quiet {
    fn progress(&self, _: u64, _: u64) -> LocalFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A chain of four with something in each disk.
pub fn vhd_chain(seed: u64) -> (Store, RamDisk) {
    let (store, model) = (Store::default(), RamDisk::new(SIZE));
    store.base(NAMES[3], 1);
    for number in (0..4).rev() {
        if number < 3 {
            store.child(NAMES[number], 10 - number as u128, NAMES[number + 1]);
        }
        let disk = store.stack(&NAMES[number..]);
        scribble(&disk, &model, seed * 10 + number as u64, 40);
        run_now(disk.close()).unwrap();
    }
    (store, model)
}

/// The same with three VHDX.
pub fn vhdx_chain(seed: u64) -> (Store, RamDisk, [&'static str; 3]) {
    use bulkhead_vhdx::format::parent_locator::ParentLocator;
    use bulkhead_vhdx::{CreateOptions, Kind, create};
    let names = ["/vm/c.avhdx", "/vm/b.avhdx", "/vm/a.vhdx"];
    let (store, model) = (Store::default(), RamDisk::new(SIZE));
    for number in (0..3).rev() {
        let kind = if number == 2 {
            Kind::Dynamic
        } else {
            let parent = store.layer(names[number + 1], true);
            Kind::Differencing(ParentLocator::new(parent.link_id(), &[format!(".\\{}", &names[number + 1][4..])]))
        };
        let file = MemoryFile::new(names[number]);
        let options =
            CreateOptions { block_size: 1 << 20, ..CreateOptions::new(SIZE, kind, guids(seed + number as u64)) };
        run_now(create(&file, &options)).unwrap();
        store.put(names[number], file);
        let disk = store.stack(&names[number..]);
        scribble(&disk, &model, seed * 10 + number as u64, 40);
        run_now(disk.close()).unwrap();
    }
    (store, model, names)
}
