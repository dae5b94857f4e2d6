//! The buses: look-up, splitting, unclaimed addresses, overlaps and regions that move.

use bulkhead_device::{Device, Mmio, MmioBus, PortBus, PortIo};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::{Arc, Weak};

/// Reads as its bank and offset; logs all accesses.
struct Probe {
    name: String,
    width: u8,
    log: Vec<(char, u8, u64, u8, u64)>,
}

impl Probe {
    fn new(name: &str, width: u8) -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe { name: name.into(), width, log: Vec::new() }))
    }
}

impl Device for Probe {
    fn name(&self) -> &str {
        &self.name
    }
    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode("probe", 1, &self.width)
    }
    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "accesses": self.log.len() })
    }
    fn reset(&mut self) {
        self.log.clear();
    }
}

fn pattern(bank: u8, offset: u64) -> u64 {
    (0..8).fold(0, |value, index| value | ((offset + index + 0x40 * u64::from(bank)) & 0xff) << (8 * index))
}

impl PortIo for Probe {
    fn port_read(&mut self, bank: u8, offset: u16, size: u8) -> u32 {
        self.log.push(('r', bank, offset.into(), size, 0));
        pattern(bank, offset.into()) as u32
    }
    fn port_write(&mut self, bank: u8, offset: u16, size: u8, value: u32) {
        self.log.push(('w', bank, offset.into(), size, value.into()));
    }
    fn port_width(&self, _bank: u8) -> u8 {
        self.width
    }
}

impl Mmio for Probe {
    fn mmio_read(&mut self, bank: u8, offset: u64, size: u8) -> u64 {
        self.log.push(('r', bank, offset, size, 0));
        pattern(bank, offset)
    }
    fn mmio_write(&mut self, bank: u8, offset: u64, size: u8, value: u64) {
        self.log.push(('w', bank, offset, size, value));
    }
    fn mmio_unit(&self, _bank: u8) -> u8 {
        self.width
    }
}

#[test]
fn wide_port_accesses_arrive_in_the_devices_width() {
    let (bus, narrow, wide) = (PortBus::new(), Probe::new("narrow", 1), Probe::new("wide", 4));
    bus.map(0x70..=0x73, &narrow, 1).unwrap();
    bus.map(0xcf8..=0xcff, &wide, 0).unwrap();
    assert_eq!(bus.read(0x70, 4), 0x4342_4140);
    bus.write(0x70, 2, 0xffff_1234);
    assert_eq!(narrow.lock().log[4..], [('w', 1, 0, 1, 0x34), ('w', 1, 1, 1, 0x12)]);
    bus.write(0xcf8, 4, 0x8000_0000);
    assert_eq!(bus.read(0xcfe, 2), 0x0706);
    assert_eq!(wide.lock().log, [('w', 0, 0, 4, 0x8000_0000), ('r', 0, 6, 2, 0)]);
}

#[test]
fn an_access_over_the_edge_of_a_range_is_split_and_the_rest_reads_ones() {
    let (bus, device) = (PortBus::new(), Probe::new("d", 4));
    bus.map(0x100..=0x101, &device, 0).unwrap();
    assert_eq!(bus.read(0x100, 4), 0xffff_0100);
    assert_eq!(bus.read(0xff, 4), 0xff01_00ff);
    assert_eq!(bus.read(0x102, 4), u32::MAX);
    assert_eq!(bus.read(0x102, 2), 0xffff);
    // The port space wraps around for the bytes above FFFFh.
    assert_eq!(bus.read(0xffff, 4), u32::MAX);
}

#[test]
fn strings_reach_the_device_whole_or_item_by_item() {
    let (bus, device) = (PortBus::new(), Probe::new("d", 2));
    bus.map(0x1f0..=0x1f7, &device, 0).unwrap();
    let mut data = [0; 4];
    bus.read_string(0x1f0, 2, &mut data);
    assert_eq!(data, [0, 1, 0, 1]);
    bus.read_string(0x1f0, 4, &mut data);
    assert_eq!(data, [0, 1, 2, 3]);
    bus.write_string(0x1f0, 2, &[1, 2, 3, 4]);
    assert_eq!(device.lock().log[4..], [('w', 0, 0, 2, 0x0201), ('w', 0, 0, 2, 0x0403)]);
    bus.read_string(0x300, 1, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn memory_accesses_are_cut_into_aligned_pieces() {
    let (bus, device) = (MmioBus::new(), Probe::new("d", 4));
    bus.map(0x1000..0x1100, &device, 0).unwrap();
    let mut data = [0; 15];
    bus.read(0x1001, &mut data);
    assert_eq!(data, std::array::from_fn(|index| index as u8 + 1));
    let sizes: Vec<_> = device.lock().log.iter().map(|entry| (entry.2, entry.3)).collect();
    assert_eq!(sizes, [(1, 1), (2, 2), (4, 4), (8, 4), (12, 4)]);
    let mut edge = [0; 4];
    bus.read(0x10fe, &mut edge);
    assert_eq!(edge, [0xfe, 0xff, 0xff, 0xff]);
    bus.write(0xffe, &[1, 2, 3, 4]);
    assert_eq!(device.lock().log.last(), Some(&('w', 0, 0, 2, 0x0403)));
}

#[test]
fn fixed_overlaps_are_refused_with_both_names() {
    let (bus, one, two) = (PortBus::new(), Probe::new("pic", 1), Probe::new("pit", 1));
    bus.map(0x20..=0x21, &one, 0).unwrap();
    let message = bus.map(0x1f..=0x20, &two, 0).unwrap_err().to_string();
    assert!(message.contains("pic") && message.contains("pit") && message.contains("0x20+0x2"), "{message}");
    bus.map(0x22..=0x22, &two, 0).unwrap();
    bus.map(0x1f..=0x1f, &two, 0).unwrap();
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let empty = bus.map(5..=4, &two, 0);
    assert!(empty.is_err());
}

#[test]
fn a_dropped_device_is_absent_and_a_dropped_region_too() {
    let (bus, device) = (PortBus::new(), Probe::new("d", 1));
    let weak: Weak<Mutex<Probe>> = Arc::downgrade(&device);
    let region = bus.region(4, "d", weak, 2);
    assert_eq!(bus.read(0x400, 1), 0xff);
    region.move_to(0x400);
    assert_eq!(bus.read(0x401, 1), 0x81);
    region.move_to(0x500);
    assert_eq!((bus.read(0x401, 1), bus.read(0x503, 1)), (0xff, 0x83));
    region.move_to(0xfffe);
    assert_eq!(bus.read(0xfffe, 1), 0xff);
    region.move_to(0x500);
    drop(region);
    assert_eq!(bus.read(0x500, 1), 0xff);
    bus.map(0x60..=0x60, &device, 0).unwrap();
    drop(device);
    assert_eq!(bus.read(0x60, 1), 0xff);
}

proptest! {
    /// Against a table that is filled address by address.
    #[test]
    fn moving_regions_agree_with_a_plain_table(
        moves in prop::collection::vec((0usize..6, prop::option::of(0u64..70)), 1..40)
    ) {
        let bus = MmioBus::new();
        let lens = [8u64, 4, 16, 1, 32, 7];
        let devices: Vec<_> = (0..6).map(|index| Probe::new(&index.to_string(), 1)).collect();
        bus.map(20..24, &devices[0], 9).unwrap();
        let regions: Vec<_> = devices
            .iter()
            .zip(lens)
            .enumerate()
            .map(|(index, (device, len))| {
                let weak: Weak<Mutex<Probe>> = Arc::downgrade(device);
                bus.region(len, "r", weak, index as u8)
            })
            .collect();
        let mut places = [None; 6];
        for (index, place) in moves {
            places[index] = place;
            match place {
                Some(base) => regions[index].move_to(base),
                None => regions[index].unmap(),
            }
            for address in 0..110u64 {
                let fixed = (20..24).contains(&address).then(|| pattern(9, address - 20) as u8);
                let moving = || (0..6).find_map(|index| {
                    let offset = address.checked_sub(places[index]?)?;
                    (offset < lens[index]).then(|| pattern(index as u8, offset) as u8)
                });
                let mut data = [0];
                bus.read(address, &mut data);
                prop_assert_eq!(data[0], fixed.or_else(moving).unwrap_or(0xff), "address {}", address);
            }
        }
    }
}
