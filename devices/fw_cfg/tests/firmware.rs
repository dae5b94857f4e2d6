//! The access sequences of SeaBIOS (ports, DMA) and of Linux's `qemu_fw_cfg`.

use bulkhead_device::{Device, PortBus};
use bulkhead_fw_cfg::{FwCfg, ItemError, Items, PORTS, key};
use bulkhead_guest_memory::GuestMemory;
use parking_lot::Mutex;
use std::sync::Arc;

struct Firmware {
    ports: PortBus,
    memory: GuestMemory,
    device: Arc<Mutex<FwCfg>>,
}

fn items() -> Items {
    let mut items = Items::new();
    items.set(key::RAM_SIZE, (64u64 << 20).to_le_bytes());
    items.add_file("etc/e820", [1, 2, 3, 4, 5].as_slice()).unwrap();
    items.add_file("bootorder", b"/pci@i0cf8/ide@1,1/drive@0/disk@0\0".as_slice()).unwrap();
    items
}

impl Firmware {
    fn new() -> Firmware {
        let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
        Self::of(FwCfg::new("fw_cfg", items(), memory.clone()), memory)
    }

    fn of(device: FwCfg, memory: GuestMemory) -> Firmware {
        let (ports, device) = (PortBus::new(), Arc::new(Mutex::new(device)));
        ports.map(PORTS, &device, 0).unwrap();
        Firmware { ports, memory, device }
    }

    fn read_item(&self, key: u16, len: usize) -> Vec<u8> {
        self.ports.write(0x510, 2, key.into());
        let mut data = vec![0; len];
        self.ports.read_string(0x511, 1, &mut data);
        data
    }

    /// Writes the request at 0x1000 and rings; returns the control word left there.
    fn dma(&self, control: u32, len: u32, target: u64) -> u32 {
        let mut request = control.to_be_bytes().to_vec();
        request.extend(len.to_be_bytes());
        request.extend(target.to_be_bytes());
        self.memory.write(0x1000, &request).unwrap();
        self.ports.write(0x514, 4, 0);
        self.ports.write(0x518, 4, 0x1000u32.to_be());
        u32::from_be(self.memory.read_u32(0x1000).unwrap())
    }
}

#[test]
fn found_by_signature_and_read_by_name() {
    let firmware = Firmware::new();
    assert_eq!(firmware.read_item(0, 4), b"QEMU");
    assert_eq!(firmware.read_item(1, 4), [3, 0, 0, 0]);
    assert_eq!((firmware.ports.read(0x514, 4), firmware.ports.read(0x518, 4)), (0x554d_4551, 0x4746_4320));
    let directory = firmware.read_item(key::DIRECTORY, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    let entry = &directory[4 + 64..];
    let size = u32::from_be_bytes(entry[..4].try_into().unwrap());
    let file = u16::from_be_bytes(entry[4..6].try_into().unwrap());
    assert!(entry[8..].starts_with(b"etc/e820\0"));
    // Zeros behind the end.
    assert_eq!(firmware.read_item(file, size as usize + 2), [1, 2, 3, 4, 5, 0, 0]);
    assert_eq!(firmware.read_item(0x7777, 3), [0; 3]);
}

#[test]
fn dma_selects_skips_and_reads() {
    let firmware = Firmware::new();
    let select_and_skip = u32::from(key::FIRST_FILE) << 16 | 8 | 4;
    assert_eq!(firmware.dma(select_and_skip, 1, 0), 0);
    assert_eq!(firmware.dma(2, 3, 0x2000), 0);
    assert_eq!(firmware.memory.read_array::<3>(0x2000).unwrap(), *b"pci");
    // The rest is shorter than asked: zeros follow.
    firmware.memory.fill(0x3000, 64, 0xee).unwrap();
    assert_eq!(firmware.dma(2, 60, 0x3000), 0);
    assert_eq!(firmware.memory.read_array::<2>(0x3000 + 59).unwrap(), [0, 0xee]);
    // Not RAM, and a write.
    assert_eq!(firmware.dma(8 | 2, 16, (1 << 20) - 8), 1);
    assert_eq!(firmware.dma(u32::from(key::FIRST_FILE) << 16 | 8 | 16, 4, 0x2000), 1);
}

#[test]
fn goes_on_in_the_middle_after_restore() {
    let firmware = Firmware::new();
    firmware.read_item(key::RAM_SIZE, 3);
    firmware.ports.write(0x514, 4, 0);
    let saved = firmware.device.lock().save().unwrap();
    let device = FwCfg::restored("fw_cfg", items(), firmware.memory.clone(), &saved).unwrap();
    let again = Firmware::of(device, firmware.memory.clone());
    let rest: Vec<u32> = (0..5).map(|_| again.ports.read(0x511, 1)).collect();
    assert_eq!(rest, [4, 0, 0, 0, 0]);
    again.device.lock().reset();
    assert_eq!(again.ports.read(0x511, 1), u32::from(b'Q'));
}

#[test]
fn refuses_bad_names() {
    let mut items = items();
    assert!(matches!(items.add_file("bootorder", [].as_slice()), Err(ItemError::Duplicate(_))));
    assert!(matches!(items.add_file(&"n".repeat(56), [].as_slice()), Err(ItemError::Name(_))));
    assert!(items.add_file(&"n".repeat(55), [].as_slice()).is_ok());
}
