//! Random 4 KiB I/O at queue depth 32 on one I/O loop: raw, dynamic VHD, VHDX, and chains of depth 1 and 20.
//!
//! `cargo run --release -p bulkhead_chain --example random_io -- FOLDER [direct] [chain]`
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement needs the clock")]

use bulkhead_block_io::{Cache, IoContext, IoLoop, IoMode, OpenOptions};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{Buffer, File, Layer, Node, ParentLink, RawImage, Request, Stack, read_bytes, write_bytes};
use bulkhead_vhd::{CreateOptions, Kind, VhdImage, create};
use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const SIZE: u64 = 2 << 30;
/// Each of the twenty disks takes this much.
const CHAIN_SIZE: u64 = 256 << 20;
const DEPTH: u64 = 32;
const TIME: Duration = Duration::from_secs(2);
/// Turns of a comparison of depths.
const TURNS: usize = 15;

type Disk = Rc<Stack>;

async fn open(context: &IoContext, path: &Path, cache: Cache, read_only: bool) -> Rc<dyn Layer> {
    let file: Rc<dyn File> = Rc::new(OpenOptions::new().cache(cache).read_only(read_only).open(context, path).unwrap());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("vhd") => Rc::new(VhdImage::open(file).await.unwrap()),
        Some("vhdx") => {
            let next = Cell::new(0u128);
            let new_guid: bulkhead_vhdx::NewGuid = Rc::new(move || {
                next.set(next.get() + 1);
                Uuid::from_u128(0xABCD_0000 + next.get())
            });
            Rc::new(
                bulkhead_vhdx::Vhdx::open(file, bulkhead_vhdx::OpenOptions { read_only, new_guid })
                    .await
                    .unwrap()
                    .image,
            )
        }
        _ => Rc::new(RawImage::open(file).await.unwrap()),
    }
}

async fn new_file(context: &IoContext, path: &Path) {
    let _ = std::fs::remove_file(path);
    let file = OpenOptions::new().create_new(true).open(context, path).unwrap();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("vhd") => create(&file, &CreateOptions::dynamic(SIZE, Uuid::from_u128(1), 0)).await.unwrap(),
        Some("vhdx") => {
            let next = Cell::new(0u128);
            let new_guid: bulkhead_vhdx::NewGuid = Rc::new(move || {
                next.set(next.get() + 1);
                Uuid::from_u128(0x9999 + next.get())
            });
            let options = bulkhead_vhdx::CreateOptions::new(SIZE, bulkhead_vhdx::Kind::Dynamic, new_guid);
            bulkhead_vhdx::create(&file, &options).await.unwrap();
        }
        _ => file.set_len(SIZE).await.unwrap(),
    }
}

async fn fill(disk: &Stack) {
    let data = vec![0x5A; 1 << 20];
    for offset in (0..SIZE).step_by(1 << 20) {
        write_bytes(disk, offset, &data).await.unwrap();
    }
    disk.run(Request::Flush).await.into_result().unwrap();
}

/// Runs `DEPTH` tasks for `TIME`, then a flush; operations per second.
async fn random(context: IoContext, disk: Disk, write: bool) -> f64 {
    let (start, done) = (Instant::now(), Rc::new(Cell::new(0u64)));
    let finished = Rc::new(Cell::new(0));
    for task in 0..DEPTH {
        let (disk, done, finished) = (Rc::clone(&disk), Rc::clone(&done), Rc::clone(&finished));
        context.spawn(async move {
            let mut random = XorShift::new(task + 1);
            let mut buffer = Buffer::zeroed(4096);
            while start.elapsed() < TIME {
                let offset = random.below(SIZE / 4096) * 4096;
                let request = if write {
                    Request::Write { offset, buffer, fua: false }
                } else {
                    Request::Read { offset, buffer }
                };
                buffer = disk.run(request).await.into_result().unwrap();
                done.set(done.get() + 1);
                bulkhead_disk::yield_now().await;
            }
            finished.set(finished.get() + 1);
        });
    }
    while finished.get() < DEPTH {
        context.sleep(Duration::from_millis(2)).await;
    }
    if write {
        disk.run(Request::Flush).await.into_result().unwrap();
    }
    done.get() as f64 / start.elapsed().as_secs_f64()
}

/// A chain of `depth` VHDs; each layer rewrites one of `depth` 64 KiB clusters.
async fn chain(context: &IoContext, folder: &Path, depth: u64, cache: Cache) -> Disk {
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..depth {
        let path = folder.join(format!("chain-{depth}-{number}.vhd"));
        let _ = std::fs::remove_file(&path);
        let mut options = CreateOptions::dynamic(CHAIN_SIZE, Uuid::from_u128(1000 + u128::from(number)), 0);
        if let Some(parent) = files.last() {
            let image = open(context, parent, cache, true).await;
            let link = ParentLink {
                id: image.link_id(),
                second_id: None,
                timestamp: image.link_timestamp(),
                paths: vec!["./p.vhd".into()],
            };
            options.kind = Kind::Differencing { block_size: 2 << 20, parent: link };
        }
        create(&OpenOptions::new().create_new(true).open(context, &path).unwrap(), &options).await.unwrap();
        let layer = open(context, &path, cache, false).await;
        let disk = Stack::new(vec![layer]);
        for cluster in 0..CHAIN_SIZE / 65536 {
            if number == 0 || cluster % depth == number {
                write_bytes(&disk, cluster * 65536, &[number as u8; 65536]).await.unwrap();
            }
        }
        disk.close().await.unwrap();
        files.push(path);
    }
    let mut layers = Vec::new();
    for path in files.iter().rev() {
        layers.push(open(context, path, cache, true).await);
    }
    Rc::new(Stack::new(layers))
}

/// Operations per second of wall time and of this thread's processor time: the second hardly notices what else the machine
/// does.
#[derive(Clone, Copy)]
struct Rate {
    wall: f64,
    cpu: f64,
}

/// Nanoseconds that this thread has run.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

async fn random_reads(context: &IoContext, disk: &Disk, time: Duration) -> Rate {
    let size = disk.facts().size;
    let (start, cpu, done, finished) = (Instant::now(), cpu_nanos(), Rc::new(Cell::new(0u64)), Rc::new(Cell::new(0)));
    for task in 0..DEPTH {
        let (disk, done, finished) = (Rc::clone(disk), Rc::clone(&done), Rc::clone(&finished));
        context.spawn(async move {
            let mut random = XorShift::new(task + 1);
            let mut buffer = Buffer::zeroed(4096);
            while start.elapsed() < time {
                let offset = random.below(size / 4096) * 4096;
                buffer = disk.run(Request::Read { offset, buffer }).await.into_result().unwrap();
                done.set(done.get() + 1);
                bulkhead_disk::yield_now().await;
            }
            finished.set(finished.get() + 1);
        });
    }
    while finished.get() < DEPTH {
        context.sleep(Duration::from_millis(2)).await;
    }
    let done = done.get() as f64;
    Rate { wall: done / start.elapsed().as_secs_f64(), cpu: done * 1e9 / (cpu_nanos() - cpu) as f64 }
}

/// Where the sectors of a disk are: the files, and per 64 KiB the file's number and offset.
struct Plain {
    files: Vec<std::fs::File>,
    places: Vec<(usize, u64)>,
}

impl Plain {
    async fn of(disk: &Disk) -> Self {
        let files = disk.layers().iter().map(|layer| std::fs::File::open(layer.file().path()).unwrap()).collect();
        let mut places = Vec::new();
        for run in disk.status(0..disk.facts().size).await.unwrap() {
            for at in run.range.clone().step_by(65536) {
                places.push((usize::from(run.layer), run.file_offset.unwrap() + at - run.range.start));
            }
        }
        Self { files, places }
    }

    /// The same reads as [`random_reads`] does, by nothing but `pread`: what the host alone costs.
    fn random_reads(&self, time: Duration) -> Rate {
        let (start, cpu, mut done) = (Instant::now(), cpu_nanos(), 0u64);
        let mut randoms: Vec<XorShift> = (0..DEPTH).map(|task| XorShift::new(task + 1)).collect();
        let mut buffers = vec![vec![0u8; 4096]; DEPTH as usize];
        while start.elapsed() < time {
            for (random, buffer) in randoms.iter_mut().zip(&mut buffers) {
                let offset = random.below(self.places.len() as u64 * 16) * 4096;
                let (file, place) = self.places[(offset / 65536) as usize];
                self.files[file].read_exact_at(buffer, place + offset % 65536).unwrap();
                done += 1;
            }
        }
        Rate { wall: done as f64 / start.elapsed().as_secs_f64(), cpu: done as f64 * 1e9 / (cpu_nanos() - cpu) as f64 }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Depth 1 against depth 20, ours and plain `pread`, in turns of a tenth of a second; medians.
async fn compare_depths(context: &IoContext, folder: &Path, cache: Cache) {
    let disks = [chain(context, folder, 1, cache).await, chain(context, folder, 20, cache).await];
    let plain = [Plain::of(&disks[0]).await, Plain::of(&disks[1]).await];
    for disk in &disks {
        for offset in (0..CHAIN_SIZE).step_by(1 << 20) {
            read_bytes(&**disk, offset, 1 << 20).await.unwrap();
        }
    }
    let turn = Duration::from_millis(100);
    let mut rates: [Vec<Rate>; 4] = Default::default();
    for _ in 0..TURNS {
        for depth in 0..2 {
            rates[depth].push(random_reads(context, &disks[depth], turn).await);
            rates[2 + depth].push(plain[depth].random_reads(turn));
        }
    }
    for (kind, of) in [("wall", (|rate| rate.wall) as fn(&Rate) -> f64), ("cpu", |rate| rate.cpu)] {
        let [one, twenty, plain_one, plain_twenty] = [0, 1, 2, 3].map(|n| median(rates[n].iter().map(of).collect()));
        println!(
            "reads per {kind} second: depth 1 {one:.0}, depth 20 {twenty:.0} ({:.2}); plain pread {plain_one:.0}, {plain_twenty:.0} ({:.2})",
            twenty / one,
            plain_twenty / plain_one
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let rest: Vec<String> = arguments.collect();
    let cache = if rest.iter().any(|word| word == "direct") { Cache::Direct } else { Cache::Writeback };
    let only_chain = rest.iter().any(|word| word == "chain");
    let io = IoLoop::new(IoMode::Auto).unwrap();
    let context = io.context();
    io.run_until(async move {
        let names: &[&str] = if only_chain { &[] } else { &["a.raw", "a.vhd", "a.vhdx"] };
        for name in names {
            let path = folder.join(name);
            new_file(&context, &path).await;
            let disk = Stack::new(vec![open(&context, &path, cache, false).await]);
            fill(&disk).await;
            disk.close().await.unwrap();
        }
        for round in 0..3 {
            for name in names {
                let disk = Rc::new(Stack::new(vec![open(&context, &folder.join(name), cache, false).await]));
                let writes = random(context.clone(), Rc::clone(&disk), true).await;
                let reads = random(context.clone(), Rc::clone(&disk), false).await;
                disk.close().await.unwrap();
                println!("round {round} {name}: write {writes:.0} read {reads:.0} per second");
            }
        }
        for name in if only_chain { &[][..] } else { &["b.vhd", "b.vhdx"][..] } {
            let path = folder.join(name);
            new_file(&context, &path).await;
            let start = Instant::now();
            let disk = Stack::new(vec![open(&context, &path, cache, false).await]);
            for block in 0..400u64 {
                write_bytes(&disk, block * (4 << 20) % SIZE + block / 512 * (2 << 20), &[1; 65536]).await.unwrap();
            }
            disk.run(Request::Flush).await.into_result().unwrap();
            println!("{name}: 400 first writes {:.3} s", start.elapsed().as_secs_f64());
            disk.close().await.unwrap();
        }
        compare_depths(&context, &folder, cache).await;
    })
    .unwrap();
}
