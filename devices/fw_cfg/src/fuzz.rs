//! Fuzz target: port accesses and DMA requests from anybody.

use crate::{FwCfg, Items};
use bulkhead_device::{Device, PortIo};
use bulkhead_guest_memory::GuestMemory;

const RAM: u64 = 1 << 20;

/// Takes `data` as a list of accesses: operation, offset, four bytes of value.
///
/// # Panics
/// When a device that is saved and restored differs.
pub fn fuzz(data: &[u8]) {
    let memory = GuestMemory::builder().anonymous(0, RAM).build().expect("memory");
    let mut items = Items::new();
    items.add_file("etc/test", data).expect("a good name");
    let mut device = FwCfg::new("fw_cfg", items.clone(), memory.clone());
    for access in data.chunks_exact(6) {
        let (operation, offset) = (access[0], u16::from(access[1] % 12));
        let value = u32::from_le_bytes([access[2], access[3], access[4], access[5]]);
        match operation % 4 {
            0 => drop(device.port_read(0, offset, 1 << ((operation >> 2) % 3))),
            1 => device.port_write(0, offset, 1 << ((operation >> 2) % 3), value),
            2 => {
                let request = u64::from(value) % RAM;
                let _ = memory.write(request, &access[1..]);
                device.port_write(0, 8, 4, (request as u32).swap_bytes());
            }
            _ => {
                let mut data = vec![0; usize::from(value as u16)];
                device.port_read_string(0, offset, 1, &mut data);
            }
        }
    }
    let saved = device.save().expect("plain values");
    let again = FwCfg::restored("fw_cfg", items, memory, &saved).expect("own state");
    assert_eq!(again.save().expect("plain values"), saved);
}
