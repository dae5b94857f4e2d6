//! Fuzz target: ports, the window, the frame buffer and BAR 2 from anybody; every screen is drawn.

use crate::{Picture, Vga, Wiring};
use bulkhead_device::{Device, Mmio, MmioBus, PortBus};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;

fn wiring(reactor: &Reactor, ports: &PortBus, memory: &MmioBus) -> Wiring {
    let rom: Arc<[u8]> = [0x55, 0xaa, 4].into();
    Wiring { reactor: reactor.clone(), ports: ports.clone(), memory: memory.clone(), rom: Some(rom) }
}

/// Takes `data` as a list of actions: operation, place, four bytes of value.
///
/// # Panics
/// When an adapter that is saved and restored differs, or draws another picture than it says.
pub fn fuzz(data: &[u8]) {
    const PORTS: [u16; 12] = [0x3c0, 0x3c2, 0x3c4, 0x3c5, 0x3c9, 0x3ce, 0x3cf, 0x3d4, 0x3d5, 0x3da, 0x1ce, 0x1cf];
    let (mut clock, reactor) = VirtualReactor::new(Time::ZERO, 1).expect("descriptors");
    let (ports, memory) = (PortBus::new(), MmioBus::new());
    let vga = Vga::new("vga", wiring(&reactor, &ports, &memory)).expect("free ports");
    let mut picture = Picture::default();
    for action in data.chunks_exact(6) {
        let (operation, which) = (action[0], action[1]);
        let value = u32::from_le_bytes([action[2], action[3], action[4], action[5]]);
        let port = PORTS[usize::from(which) % PORTS.len()];
        let window = 0xa_0000 + u64::from(value >> 8) % 0x2_0000;
        match operation % 16 {
            0..=4 => ports.write(port, 2, value),
            5 | 6 => ports.write(port, 1, value & 0xff),
            7 => {
                // A mode of the Bochs interface that is often good.
                for (index, value) in
                    [(1, value & 0xfff), (2, value >> 12 & 0xfff), (3, u32::from(which) & 0x38), (4, 1)]
                {
                    ports.write(0x1ce, 2, index);
                    ports.write(0x1cf, 2, value);
                }
            }
            8 => drop(ports.read(port, 1 << (which >> 7))),
            9..=11 => memory.write(window, &action[2..][..usize::from(which) % 5]),
            12 => memory.read(window, &mut vec![0; usize::from(which)]),
            13 => {
                let mut vga = vga.lock();
                vga.mmio_write_bytes(1 + operation / 16 % 2, u64::from(value & 0x00ff_ff0f), &action[2..]);
                vga.mmio_read_bytes(1 + operation / 16 % 3, u64::from(value & 0x00ff_ff0f), &mut [0; 9]);
            }
            14 => clock.advance_to(Time::from_nanos(u64::from(value))),
            _ => {
                let mut vga = vga.lock();
                vga.take_changes();
                if which < 12 {
                    vga.draw(&mut picture);
                    assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
                }
            }
        }
    }
    vga.lock().draw(&mut picture);
    let _ = vga.lock().inspect();
    let saved = vga.lock().save().expect("plain values");
    let again = Vga::restored("vga", wiring(&reactor, &PortBus::new(), &MmioBus::new()), &saved).expect("own state");
    let mut same = Picture::default();
    again.lock().draw(&mut same);
    assert!(again.lock().save().expect("plain values") == saved && picture == same);
    drop::<Arc<Mutex<Vga>>>(again);
}
