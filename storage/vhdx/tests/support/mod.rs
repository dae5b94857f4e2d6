//! What the tests of this crate share: making images in memory, random operations against a model, the other readers.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod crash;

use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{Buffer, DiskFacts, File, Layer, MemoryFile, Node, RamDisk, Request, Stack, read_bytes, run_now};
use bulkhead_vhdx::format::parent_locator::ParentLocator;
use bulkhead_vhdx::{CreateOptions, Kind, OpenOptions, Opened, Vhdx, create};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;

/// Distinct, repeatable GUIDs.
pub fn guids(seed: u64) -> Rc<dyn Fn() -> Uuid> {
    let next = Cell::new(seed << 32);
    Rc::new(move || {
        next.set(next.get() + 1);
        Uuid::from_u64_pair(0x1111_2222_3333_4444 ^ seed, next.get())
    })
}

pub fn options(read_only: bool, seed: u64) -> OpenOptions {
    OpenOptions { read_only, new_guid: guids(seed) }
}

pub fn create_options(size: u64, kind: Kind, block_size: u64) -> CreateOptions {
    CreateOptions { block_size, ..CreateOptions::new(size, kind, guids(1)) }
}

pub fn new_image(options: &CreateOptions) -> MemoryFile {
    let file = MemoryFile::new("image.vhdx");
    run_now(create(&file, options)).unwrap();
    file
}

pub fn open(file: Rc<dyn File>, seed: u64) -> Opened {
    run_now(Vhdx::open(file, options(false, seed))).unwrap()
}

pub fn open_read_only(file: &MemoryFile) -> Vhdx {
    run_now(Vhdx::open(Rc::new(file.clone()), options(true, 99))).unwrap().image
}

pub fn stack(image: &Vhdx) -> Stack {
    Stack::new(vec![Rc::new(image.clone())])
}

/// A child of the image in `parent`, with `name` as the relative path.
pub fn child_options(parent: &MemoryFile, name: &str, block_size: u64) -> CreateOptions {
    let parent = open_read_only(parent);
    let facts = parent.facts();
    let locator = ParentLocator::new(parent.link_id(), &[format!(r".\{name}")]);
    CreateOptions {
        block_size,
        logical_sector: facts.logical_sector,
        identity: facts.identity,
        ..CreateOptions::new(facts.size, Kind::Differencing(locator), guids(2))
    }
}

/// Random writes, zeroes, discards, reads and flushes on `disk`, mirrored in `model`; every read is compared.
pub struct Mix {
    pub random: XorShift,
    pub model: RamDisk,
    /// Longest transfer in sectors.
    pub longest: u64,
    pub sector: u64,
    pub size: u64,
    /// Zeroes and discards cover whole blocks too. (libvhdi shows the parent's data under a child's ZERO block.)
    pub clear_blocks: bool,
}

impl Mix {
    pub fn new(seed: u64, facts: &DiskFacts) -> Self {
        let facts = DiskFacts { read_only: false, ..facts.clone() };
        Self {
            random: XorShift::new(seed),
            longest: if facts.logical_sector == 512 { 24 } else { 6 },
            sector: u64::from(facts.logical_sector),
            size: facts.size,
            model: RamDisk::with_facts(facts),
            clear_blocks: true,
        }
    }

    pub fn range(&mut self) -> std::ops::Range<u64> {
        let sectors = self.size / self.sector;
        let length = 1 + if self.random.one_in(500) {
            self.random.below(self.longest * 400)
        } else {
            let longest = self.longest;
            self.random.below(longest)
        };
        // Half of the operations meet in a small part of the disk.
        let area = if self.random.one_in(2) { sectors } else { (sectors / 16).max(1) };
        let start = self.random.below(area);
        let length = length.min(sectors - start);
        start * self.sector..(start + length) * self.sector
    }

    fn clear_range(&mut self) -> std::ops::Range<u64> {
        let range = self.range();
        let longest = if self.clear_blocks { self.size } else { self.longest * self.sector };
        range.start..range.end.min(range.start + longest)
    }

    /// `length` bytes that tell where and when they were written.
    pub fn payload(&mut self, length: u64) -> Vec<u8> {
        let stamp = self.random.next_u64().to_le_bytes();
        stamp.iter().copied().cycle().take(length as usize).collect()
    }

    pub fn step(&mut self, disk: &Stack) {
        match self.random.below(100) {
            0..50 => {
                let range = self.range();
                let data = self.payload(range.end - range.start);
                for node in [disk as &dyn Node, &self.model] {
                    let buffer = Buffer::copy_of(&data);
                    let fua = data[0].is_multiple_of(16);
                    run_now(node.run(Request::Write { offset: range.start, buffer, fua })).into_result().unwrap();
                }
            }
            50..80 => {
                let range = self.range();
                self.compare(disk, range);
            }
            80..90 => {
                let range = self.clear_range();
                let may_unmap = self.random.one_in(2);
                for node in [disk as &dyn Node, &self.model] {
                    let request = Request::WriteZeroes { range: range.clone(), may_unmap, fua: false };
                    run_now(node.run(request)).into_result().unwrap();
                }
            }
            90..97 => {
                let range = self.clear_range();
                self.discard(disk, range);
            }
            _ => {
                run_now(disk.run(Request::Flush)).into_result().unwrap();
            }
        }
    }

    fn discard(&mut self, disk: &Stack, range: std::ops::Range<u64>) {
        run_now(disk.run(Request::Discard { range: range.clone() })).into_result().unwrap();
        let length = (range.end - range.start) as usize;
        let found = run_now(read_bytes(disk, range.start, length)).unwrap();
        let known = run_now(read_bytes(&self.model, range.start, length)).unwrap();
        for (found, known) in found.chunks(self.sector as usize).zip(known.chunks(self.sector as usize)) {
            assert!(found == known || found.iter().all(|byte| *byte == 0), "a discard invented data");
        }
        let request = Request::Write { offset: range.start, buffer: Buffer::copy_of(&found), fua: false };
        self.model.execute(request).into_result().unwrap();
    }

    pub fn compare(&self, disk: &Stack, range: std::ops::Range<u64>) {
        let length = (range.end - range.start) as usize;
        let found = run_now(read_bytes(disk, range.start, length)).unwrap();
        let known = run_now(read_bytes(&self.model, range.start, length)).unwrap();
        if let Some(at) = found.iter().zip(&known).position(|(found, known)| found != known) {
            panic!("byte {} of the disk is {:#x}, not {:#x}", range.start + at as u64, found[at], known[at]);
        }
    }

    pub fn compare_all(&self, disk: &Stack) {
        for start in (0..self.size).step_by(MIB as usize) {
            self.compare(disk, start..self.size.min(start + MIB));
        }
    }

    pub fn content(&self) -> Vec<u8> {
        run_now(read_bytes(&self.model, 0, self.size as usize)).unwrap()
    }
}

/// `count` operations, multiplied in the long run.
pub fn rounds(count: usize) -> usize {
    if std::env::var_os("BULKHEAD_LONG").is_some() { count * 20 } else { count }
}

/// Writes a memory file to the host, sparse.
pub fn save(file: &MemoryFile, path: &Path) {
    use std::os::unix::fs::FileExt;
    let host = fs::File::create(path).unwrap();
    host.set_len(file.len()).unwrap();
    let mut at = 0;
    while let Some(data) = run_now(file.data_after(at)).unwrap() {
        let mut bytes = vec![0; (data.end - data.start) as usize];
        file.peek(data.start, &mut bytes);
        host.write_all_at(&bytes, data.start).unwrap();
        at = data.end;
    }
}

/// Reads a host file into memory.
pub fn load(path: &Path) -> MemoryFile {
    MemoryFile::with_data(path, &fs::read(path).unwrap())
}

pub fn has(tool: &str, test: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {test}: {tool} is not installed");
    }
    found
}

/// Runs a tool; its output must be a success.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}: {text}");
    text
}

/// Whether qemu reads exactly `content` from the VHDX at `path`.
pub fn qemu_agrees(path: &Path, content: &[u8]) {
    let raw = path.with_extension("raw");
    fs::write(&raw, content).unwrap();
    let (raw, path) = (raw.to_str().unwrap(), path.to_str().unwrap());
    run("qemu-img", &["compare", "-f", "raw", "-F", "vhdx", raw, path]);
    run("qemu-img", &["check", "-f", "vhdx", path]);
}

const LIBVHDI: &str = r#"
import pyvhdi, sys
layers = []
for path in sys.argv[2:]:
    layer = pyvhdi.file()
    layer.open(path)
    if layers:
        layers[-1].set_parent(layer)
    layers.append(layer)
out = open(sys.argv[1], "wb")
top = layers[0]
left = top.get_media_size()
while left:
    data = top.read_buffer(min(left, 1 << 20))
    out.write(data)
    left -= len(data)
"#;

/// Whether Debian's Python can read VHDX through libvhdi.
pub fn has_libvhdi(test: &str) -> bool {
    let found = Command::new("/usr/bin/python3").args(["-c", "import pyvhdi"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {test}: python3-libvhdi is not installed");
    }
    found
}

/// What libvhdi reads from a chain, the top first.
pub fn libvhdi_read(chain: &[&Path]) -> Vec<u8> {
    let out = chain[0].with_extension("libvhdi");
    let mut arguments = vec!["-c", LIBVHDI, out.to_str().unwrap()];
    arguments.extend(chain.iter().map(|path| path.to_str().unwrap()));
    run("/usr/bin/python3", &arguments);
    fs::read(out).unwrap()
}

pub fn assert_same(found: &[u8], expected: &[u8], who: &str) {
    assert_eq!(found.len(), expected.len(), "{who}: length");
    if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        panic!("{who}: byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}
