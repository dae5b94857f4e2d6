//! A seeded, bounded round of the fuzz targets. `BULKHEAD_LONG` makes it twenty times as long.

mod support;

use bulkhead_disk::test_support::XorShift;
use bulkhead_vhdx::Kind;
use bulkhead_vhdx::format::geometry::Geometry;
use bulkhead_vhdx::format::metadata::Metadata;
use bulkhead_vhdx::format::parent_locator::ParentLocator;
use bulkhead_vhdx::fuzz::{fuzz, fuzz_image};
use support::*;
use uuid::Uuid;

/// Changes a few bytes, mostly to values at the border of something.
fn damage(random: &mut XorShift, data: &mut [u8], count: u64) {
    for _ in 0..1 + random.below(count) {
        let at = random.below(data.len() as u64) as usize;
        match random.below(4) {
            0 => data[at] ^= 1 << random.below(8),
            1 => data[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5) as usize],
            2 => {
                let end = (at + 8).min(data.len());
                let value = [0, 1, u64::MAX, 1 << 63, 1 << 20, (1 << 44) - 1][random.below(6) as usize];
                data[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            _ => {
                let end = (at + random.below(64) as usize).min(data.len());
                data[at..end].fill(random.next_u64() as u8);
            }
        }
    }
}

#[test]
fn parsers() {
    let locator = ParentLocator::new(Uuid::from_u128(9), &[r"..\a\b.vhdx".into(), r"\\?\C:\b.vhdx".into()]);
    let metadata = Metadata {
        geometry: Geometry::new(1 << 30, 1 << 20, 512, 4096, true).unwrap(),
        leave_blocks_allocated: false,
        page_83: Uuid::from_u128(1),
        parent: Some(locator.clone()),
    };
    let seeds = [locator.to_bytes(), metadata.to_region(), vec![0; 9000], b"vhdxfile".to_vec()];
    let mut random = XorShift::new(11);
    for round in 0..rounds(6000) {
        let mut data = seeds[round % seeds.len()].clone();
        damage(&mut random, &mut data, 12);
        fuzz(&data);
    }
}

#[test]
fn whole_images() {
    let parent = new_image(&create_options(6 * MIB, Kind::Dynamic, MIB));
    let seeds: Vec<Vec<u8>> =
        [new_image(&create_options(6 * MIB, Kind::Fixed, MIB)), new_image(&child_options(&parent, "p", MIB)), parent]
            .map(|file| file.to_vec())
            .to_vec();
    let mut random = XorShift::new(12);
    // Where the structures are: damage elsewhere is guest data.
    let areas = [
        0..520,
        65536..65616,
        131_072..131_152,
        196_608..196_704,
        0x20_0000..0x20_0100,
        0x21_0000..0x21_0040,
        0x30_0000..0x30_0040,
    ];
    for round in 0..rounds(600) {
        let mut data = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random.below(3) {
            let area = areas[random.below(areas.len() as u64) as usize].clone();
            damage(&mut random, &mut data[area], 3);
        }
        if random.one_in(10) {
            data.truncate(random.below(data.len() as u64) as usize);
        }
        fuzz_image(&data);
    }
}
