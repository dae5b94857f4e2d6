//! Many requests in flight over the same blocks, with a file that answers late and in any order.

mod support;

use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{
    Buffer, Completion, Durability, Executor, File, FileFacts, Layer, LocalFuture, MemoryFile, Node, Request, Result,
    Stack, TaskWake, read_bytes, run_now, yield_now,
};
use bulkhead_vhdx::check::{CheckOptions, check};
use bulkhead_vhdx::{Kind, Vhdx};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use support::*;

/// Gives other tasks a random number of turns before and after every operation.
struct LateFile {
    file: Rc<MemoryFile>,
    random: RefCell<XorShift>,
}

impl LateFile {
    async fn turns(&self) {
        let count = self.random.borrow_mut().below(6);
        for _ in 0..count {
            yield_now().await;
        }
    }

    fn late<'a, T: 'a>(&'a self, work: impl Future<Output = T> + 'a) -> LocalFuture<'a, T> {
        Box::pin(async move {
            self.turns().await;
            let result = work.await;
            self.turns().await;
            result
        })
    }
}

impl File for LateFile {
    fn path(&self) -> &Path {
        self.file.path()
    }
    fn facts(&self) -> FileFacts {
        self.file.facts()
    }
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read(&self, offset: u64, buffer: Buffer) -> LocalFuture<'_, Completion> {
        self.late(async move { self.file.read(offset, buffer).await })
    }
    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion> {
        self.late(async move { self.file.write(offset, buffer, durability).await })
    }
    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        self.late(async move { self.file.flush().await })
    }
    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        self.late(async move { self.file.set_len(len).await })
    }
    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.late(async move { self.file.allocate(range).await })
    }
    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.late(async move { self.file.zero_range(range).await })
    }
    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.late(async move { self.file.punch(range).await })
    }
    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        self.late(async move { self.file.data_after(offset).await })
    }
}

const TASKS: u64 = 12;
const BLOCKS: u64 = 24;
/// A task's sectors in each block: so neighbours meet in every block and every bitmap byte.
const STRIDE: u64 = 2048 / TASKS;

/// One task: its own sectors in every shared block, plus two whole blocks of its own that it also clears.
async fn guest(disk: Rc<Stack>, task: u64, steps: usize, done: Rc<Cell<u64>>) {
    let mut random = XorShift::new(task + 100);
    let mut known = vec![0u8; (BLOCKS * STRIDE) as usize];
    let mut own = [0u8; 2];
    for step in 0..steps {
        let value = (step % 250 + 1) as u8;
        let at = random.below(BLOCKS * STRIDE);
        let offset = ((at / STRIDE) * 2048 + task * STRIDE + at % STRIDE) * 512;
        let block = random.below(2);
        let own_offset = (BLOCKS + task * 2 + block) * MIB;
        match random.below(20) {
            0..8 => {
                let request = Request::Write { offset, buffer: Buffer::copy_of(&[value; 512]), fua: step % 32 == 0 };
                disk.run(request).await.result.unwrap();
                known[at as usize] = value;
            }
            8..14 => {
                let found = read_bytes(&*disk, offset, 512).await.unwrap();
                assert_eq!(found, [known[at as usize]; 512], "task {task}, step {step}, shared sector");
            }
            14 => {
                let range = offset..offset + 512;
                disk.run(Request::WriteZeroes { range, may_unmap: step % 2 == 0, fua: false }).await.result.unwrap();
                known[at as usize] = 0;
            }
            15..17 => {
                let request = Request::Write {
                    offset: own_offset + random.below(2048) * 512,
                    buffer: Buffer::copy_of(&[value; 512]),
                    fua: false,
                };
                disk.run(request).await.result.unwrap();
                own[block as usize] = value;
            }
            17 => {
                let range = own_offset..own_offset + MIB;
                disk.run(Request::WriteZeroes { range, may_unmap: true, fua: false }).await.result.unwrap();
                let found = read_bytes(&*disk, own_offset, MIB as usize).await.unwrap();
                assert!(found.iter().all(|byte| *byte == 0), "task {task}, step {step}, a cleared block shows data");
                own[block as usize] = 0;
            }
            18 if own[block as usize] == 0 => {
                let found = read_bytes(&*disk, own_offset, MIB as usize).await.unwrap();
                assert!(
                    found.iter().all(|byte| *byte == 0),
                    "task {task}, step {step}, a cleared block shows old data"
                );
            }
            _ => disk.run(Request::Flush).await.result.unwrap(),
        }
    }
    done.set(done.get() + 1);
}

/// Runs the guests, and meanwhile grows the disk twice (once so far that the BAT moves).
fn run_guests(file: Rc<MemoryFile>, parents: Vec<MemoryFile>, seed: u64, grow: bool) {
    let late = Rc::new(LateFile { file: Rc::clone(&file), random: RefCell::new(XorShift::new(seed)) });
    let image = {
        let opened = run_now(Vhdx::open(late, options(false, seed))).unwrap();
        opened.image
    };
    let mut layers: Vec<Rc<dyn Layer>> = vec![Rc::new(image.clone())];
    layers.extend(parents.iter().map(|file| Rc::new(open_read_only(file)) as Rc<dyn Layer>));
    let disk = Rc::new(Stack::new(layers));
    let executor = Executor::new(Arc::new(TaskWake::default()));
    let done = Rc::new(Cell::new(0));
    for task in 0..TASKS {
        executor.spawn(guest(Rc::clone(&disk), task, rounds(600), Rc::clone(&done)));
    }
    if grow {
        let (image, done) = (image.clone(), Rc::clone(&done));
        executor.spawn(async move {
            for size in [100 << 20, 200 << 30] {
                for _ in 0..2000 {
                    yield_now().await;
                }
                image.resize(size).await.unwrap();
            }
            done.set(done.get() + 1);
        });
    }
    executor.run_ready();
    assert_eq!(done.get(), TASKS + u64::from(grow), "a task waits for ever");
    run_now(disk.close()).unwrap();
    let options = CheckOptions { repair: false, drop_damaged_blocks: false, new_guid: guids(7) };
    let report = run_now(check(file, options)).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

fn size() -> u64 {
    (BLOCKS + TASKS * 2) * MIB
}

#[test]
fn dynamic_disk_that_grows_meanwhile() {
    for seed in 1..4 {
        run_guests(Rc::new(new_image(&create_options(size(), Kind::Dynamic, MIB))), Vec::new(), seed, true);
    }
}

#[test]
fn differencing_disk() {
    for seed in 1..4 {
        let parent = new_image(&create_options(size(), Kind::Dynamic, 2 * MIB));
        let child = new_image(&child_options(&parent, "p.vhdx", MIB));
        run_guests(Rc::new(child), vec![parent], seed, false);
    }
}

/// A write that is dropped half-way leaves nothing behind that blocks or corrupts the block.
#[test]
fn dropped_writes() {
    let file = Rc::new(new_image(&create_options(size(), Kind::Dynamic, MIB)));
    for turns in 0..60 {
        let late = Rc::new(LateFile { file: Rc::clone(&file), random: RefCell::new(XorShift::new(turns)) });
        let image = run_now(Vhdx::open(late, options(false, turns))).unwrap().image;
        let disk = stack(&image);
        let block = turns % 40;
        {
            let buffer = Buffer::copy_of(&[0xEE; 8192]);
            let mut write = disk.run(Request::Write { offset: block * MIB + 4096, buffer, fua: false });
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for _ in 0..turns {
                if write.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
        }
        let request = Request::Write { offset: block * MIB, buffer: Buffer::copy_of(&[1; 512]), fua: true };
        run_now(disk.run(request)).result.unwrap();
        let found = run_now(read_bytes(&disk, block * MIB, 16384)).unwrap();
        assert!(found[..512].iter().all(|byte| *byte == 1));
        assert!(found[512..].iter().all(|byte| [0, 0xEE].contains(byte)));
        run_now(disk.run(Request::Discard { range: block * MIB..(block + 1) * MIB })).result.unwrap();
        run_now(disk.close()).unwrap();
    }
}
