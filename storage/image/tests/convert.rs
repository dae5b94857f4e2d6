//! Conversions between all formats and kinds that can be made, judged by `qemu-img compare`; comparisons by what was changed.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use bulkhead_block_io::{IoContext, IoLoop, IoMode, OpenOptions};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{Node, RamDisk, Result, Stack, write_bytes};
use bulkhead_image::compare::{Comparison, compare};
use bulkhead_image::convert::convert;
use bulkhead_image::create::NewImage;
use bulkhead_image::format::{Format, Kind};
use bulkhead_image::open::{open_disk, open_layer};
use bulkhead_image::{Control, Unattended};
use bulkhead_vhdx::NewGuid;
use uuid::Uuid;

const SIZE: u64 = 37 * (1 << 20) + 512;

fn guids() -> NewGuid {
    Rc::new(|| Uuid::from_u128(0x0123_4567_89ab_4def_8000_0000_0000_0001))
}

fn new_file(context: &IoContext, path: &Path) -> Rc<dyn bulkhead_disk::File> {
    Rc::new(OpenOptions::new().create_new(true).open(context, path).expect("the file is made"))
}

async fn open_disk_at(context: &IoContext, path: &Path, format: Format, read_only: bool) -> Rc<dyn Node> {
    let file = OpenOptions::new().read_only(read_only).open(context, path).expect("the file opens");
    let layer = open_layer(Rc::new(file), format, guids()).await.expect("the image opens");
    Rc::new(Stack::new(vec![layer]))
}

fn new_image(format: Format, kind: Kind) -> NewImage {
    NewImage::new(format, kind, SIZE, 1_700_000_000, guids())
}

/// Some data, some zeros, most of it holes.
async fn fill(node: &dyn Node) {
    let mut random = XorShift::new(11);
    for at in [0, 5 << 20, (20 << 20) + 4096, SIZE - 512] {
        let len = (SIZE - at).min(700 << 10) as usize / 512 * 512;
        let data: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
        write_bytes(node, at, &data).await.expect("a write");
    }
    write_bytes(node, 30 << 20, &vec![0; 1 << 20]).await.expect("a write");
}

fn qemu_compare(raw: &Path, other: &Path, format: &str) {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-f", "raw", "-F", format]).args([raw, other]);
    let output = command.output().expect("qemu-img (package qemu-utils)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("identical"), "{}: {text}", other.display());
}

#[test]
fn every_format_and_kind_converts_to_every_other_and_qemu_sees_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let io = IoLoop::new(IoMode::Auto).expect("a loop");
    let context = io.context();
    io.run_until(async move {
        let raw = path.join("source.raw");
        convert(
            &RamNode(RamDisk::new(SIZE)),
            new_file(&context, &raw),
            &new_image(Format::Raw, Kind::Dynamic),
            &Unattended,
        )
        .await
        .expect("an empty raw disk");
        fill(&*open_disk_at(&context, &raw, Format::Raw, false).await).await;
        let made = [
            (Format::Vhd, Kind::Dynamic, "vpc"),
            (Format::Vhd, Kind::Fixed, "vpc"),
            (Format::Vhdx, Kind::Dynamic, "vhdx"),
            (Format::Vhdx, Kind::Fixed, "vhdx"),
            (Format::Raw, Kind::Fixed, "raw"),
        ];
        for (format, kind, _) in made {
            let source = open_disk_at(&context, &raw, Format::Raw, true).await;
            let target = path.join(format!("{}.{}", kind.name(), format.name()));
            convert(&*source, new_file(&context, &target), &new_image(format, kind), &Unattended)
                .await
                .expect("converts");
            for (second, kind_2, qemu) in made {
                let source = open_disk_at(&context, &target, format, true).await;
                let last = path.join(format!("second.{}", second.name()));
                convert(&*source, new_file(&context, &last), &new_image(second, kind_2), &Unattended)
                    .await
                    .expect("converts again");
                qemu_compare(&raw, &last, qemu);
                let both = (
                    open_disk_at(&context, &target, format, true).await,
                    open_disk_at(&context, &last, second, true).await,
                );
                assert_eq!(compare(&*both.0, &*both.1, &Unattended).await.expect("compares"), Comparison::Identical);
                std::fs::remove_file(&last).expect("removes");
            }
        }
    })
    .expect("it runs");
}

#[test]
fn images_of_other_products_convert_and_qemu_sees_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let io = IoLoop::new(IoMode::Auto).expect("a loop");
    let context = io.context();
    io.run_until(async move {
        let raw = path.join("source.raw");
        std::fs::File::create(&raw).and_then(|file| file.set_len(SIZE)).expect("a file");
        fill(&*open_disk_at(&context, &raw, Format::Raw, false).await).await;
        let made = [
            (Format::Qcow2, "compression_type=zstd", true),
            (Format::Qcow2, "extended_l2=on", false),
            (Format::Vmdk, "subformat=streamOptimized", false),
            (Format::Vmdk, "subformat=monolithicSparse", false),
            (Format::Vdi, "static=off", false),
        ];
        for (format, options, packed) in made {
            let image = path.join(format!("a.{}", format.name()));
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-f", "raw", "-O", format.name(), "-o", options]);
            command.args(packed.then_some("-c")).args([&raw, &image]);
            assert!(command.status().expect("qemu-img (package qemu-utils)").success());
            let file = OpenOptions::new().read_only(true).open(&context, &image).expect("the file opens");
            let source = open_disk(Rc::new(file), format, guids()).await.expect("the image opens");
            let target = path.join("target.vhdx");
            convert(&*source, new_file(&context, &target), &new_image(Format::Vhdx, Kind::Dynamic), &Unattended)
                .await
                .expect("converts");
            qemu_compare(&raw, &target, "vhdx");
            std::fs::remove_file(&target).expect("removes");
        }
    })
    .expect("it runs");
}

/// The RAM disk as a node.
struct RamNode(RamDisk);

impl Node for RamNode {
    fn facts(&self) -> bulkhead_disk::DiskFacts {
        bulkhead_disk::Disk::facts(&self.0)
    }

    fn run(&self, request: bulkhead_disk::Request) -> bulkhead_disk::LocalFuture<'_, bulkhead_disk::Completion> {
        Box::pin(async move { self.0.execute(request) })
    }

    fn status(
        &self,
        range: std::ops::Range<u64>,
    ) -> bulkhead_disk::LocalFuture<'_, Result<Vec<bulkhead_disk::StatusExtent>>> {
        Box::pin(async move { self.0.extents(range) })
    }
}

#[test]
fn comparing_names_the_first_byte_that_differs_and_tells_sizes_apart() {
    bulkhead_disk::run_now(async {
        let (a, b) = (RamNode(RamDisk::new(SIZE)), RamNode(RamDisk::new(SIZE)));
        fill(&a).await;
        fill(&b).await;
        assert_eq!(compare(&a, &b, &Unattended).await.expect("compares"), Comparison::Identical);
        write_bytes(&b, 33 << 20, &[0; 512]).await.expect("a write");
        assert_eq!(compare(&a, &b, &Unattended).await.expect("compares"), Comparison::Identical);
        let mut sector = [0; 512];
        sector[100] = 1;
        write_bytes(&b, 33 << 20, &sector).await.expect("a write");
        let found = compare(&a, &b, &Unattended).await.expect("compares");
        assert_eq!(found, Comparison::Different { offset: (33 << 20) + 100 });
        let larger = RamNode(RamDisk::new(SIZE + (1 << 20)));
        fill(&larger).await;
        write_bytes(&larger, SIZE, &[0; 512]).await.expect("a write");
        let found = compare(&a, &larger, &Unattended).await.expect("compares");
        assert_eq!(found, Comparison::OnlySizesDiffer { common: SIZE });
    });
}

/// Stops after some progress.
struct StopAt(u64);

impl Control for StopAt {
    fn progress(&self, done: u64, _: u64) -> bool {
        done < self.0
    }
}

#[test]
fn a_stopped_conversion_is_an_error_of_its_own_kind() {
    bulkhead_disk::run_now(async {
        let source = RamNode(RamDisk::new(SIZE));
        fill(&source).await;
        let target = Rc::new(bulkhead_disk::MemoryFile::new("target"));
        let result = convert(&source, target, &new_image(Format::Vhdx, Kind::Dynamic), &StopAt(8 << 20)).await;
        assert_eq!(result.expect_err("it was stopped").kind(), bulkhead_disk::ErrorKind::Cancelled);
    });
}
