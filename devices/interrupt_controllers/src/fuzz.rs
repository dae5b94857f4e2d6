//! Fuzz target: a guest that uses the controllers at random, while lines move and processors acknowledge and end interrupts.

use crate::{InterruptLines, Ioapic, Pic, SavedIoapic, SavedPic};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, Mmio, Msi, MsiSink, PortIo};
use parking_lot::Mutex;
use std::sync::Arc;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send_msi(&self, _msi: Msi) {}
}

/// Runs `data` as a guest; afterwards a saved and restored pair of controllers must save the same again, and a damaged state
/// must not hurt.
pub fn fuzz(data: &[u8]) {
    let pic = Arc::new(Mutex::new(Pic::new("pic", Line::unconnected())));
    let ioapic = Arc::new(Mutex::new(Ioapic::new("ioapic", Arc::new(Nowhere))));
    run(&pic, &ioapic, data);
    let (saved_pic, saved_ioapic) = (pic.lock().save().expect("plain"), ioapic.lock().save().expect("plain"));
    let again = Pic::restore("pic", Line::unconnected(), &saved_pic).expect("just saved");
    assert_eq!(again.save().expect("plain"), saved_pic);
    let again = Ioapic::restore("ioapic", Arc::new(Nowhere), &saved_ioapic).expect("just saved");
    assert_eq!(again.save().expect("plain"), saved_ioapic);
    let (pic, ioapic) = (damaged::<SavedPic>(&saved_pic, data), damaged::<SavedIoapic>(&saved_ioapic, data));
    if let (Some(pic), Some(ioapic)) = (pic, ioapic)
        && let Ok(pic) = Pic::restore("pic", Line::unconnected(), &pic)
        && let Ok(ioapic) = Ioapic::restore("ioapic", Arc::new(Nowhere), &ioapic)
    {
        run(&Arc::new(Mutex::new(pic)), &Arc::new(Mutex::new(ioapic)), data);
    }
}

fn run(pic: &Arc<Mutex<Pic>>, ioapic: &Arc<Mutex<Ioapic>>, data: &[u8]) {
    let lines = InterruptLines::new(pic.clone(), ioapic.clone());
    let inputs: Vec<Line> = (0..24).map(|gsi| lines.line(gsi)).collect();
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(pic.lock().port_read((port % 3) as u8, port >> 8 & 1, 1)),
            Step::PortWrite(port, _, value) => {
                pic.lock().port_write((port % 3) as u8, port >> 8 & 1, 1, value & 0xff);
            }
            Step::MmioRead(at, size) => drop(ioapic.lock().mmio_read(0, u64::from(at) & 0xffc, size.min(4))),
            Step::MmioWrite(at, size, value) => {
                let at = u64::from(at) & if value & 0x100 == 0 { 0x10 } else { 0xfff };
                ioapic.lock().mmio_write(0, at, size.min(4), value);
            }
            Step::Advance(_) => drop(pic.lock().acknowledge()),
            Step::Event(event) if event & 0x8000 != 0 => ioapic.lock().end_of_interrupt(event as u8),
            Step::Event(event) => inputs[event as usize % 24].set(event & 0x4000 != 0),
        }
    }
}
