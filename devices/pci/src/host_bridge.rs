//! The 440FX host bridge: what lies in the addresses of the legacy ROM area and of SMRAM.

use crate::saved_state::SavedHostBridge;
use bulkhead_device::{ConfigSpace, Device, PciFunction, PciIdentity};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::json;
use std::ops::Range;
use std::sync::Arc;

const KIND: &str = "host-bridge";
const VERSION: u32 = 1;
/// The first of seven PAM registers.
const PAM: usize = 0x59;
const SMRAM: usize = 0x72;
const SMRAM_FIXED: u8 = 0x02;
const SMRAM_LOCK: u8 = 0x10;
const SMRAM_OPEN: u8 = 0x40;
const SEGMENTS: usize = 13;

/// What the processors see in a segment of the legacy ROM area.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentAccess {
    /// Reads and fetches go to RAM; otherwise to what is on the bus (ROM).
    pub read_ram: bool,
    /// Writes go to RAM; otherwise to the bus, where they vanish.
    pub write_ram: bool,
}

/// Remaps memory when the guest asks for it. Called under the bridge's lock, on the thread of the VP that asked, which must
/// see the new mapping from its next instruction on.
pub trait MemoryWindows: Send + Sync {
    /// A segment between C_0000h and F_FFFFh, 16 KiB long (64 KiB at F_0000h), has changed. All are on the bus after reset.
    fn set_segment(&self, segment: Range<u64>, access: SegmentAccess);

    /// Whether A_0000h–B_FFFFh is RAM (SMRAM opened for its set-up) instead of the VGA's frame buffer. Closed after reset.
    fn set_smram(&self, open: bool);
}

/// The host bridge.
pub struct HostBridge {
    name: String,
    config: ConfigSpace,
    windows: Arc<dyn MemoryWindows>,
    segments: [SegmentAccess; SEGMENTS],
    smram_open: bool,
}

impl HostBridge {
    /// A bridge after reset.
    pub fn new(name: &str, windows: Arc<dyn MemoryWindows>) -> HostBridge {
        HostBridge { name: name.into(), config: config(), windows, segments: Default::default(), smram_open: false }
    }

    /// The bridge that was saved; it maps memory as it was.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        windows: Arc<dyn MemoryWindows>,
        state: &SavedState,
    ) -> Result<HostBridge, SavedStateError> {
        let saved: SavedHostBridge = state.decode(VERSION..=VERSION)?;
        let mut bridge = HostBridge::new(name, windows);
        bridge.config = bridge.config.restored(&saved.config);
        bridge.apply();
        Ok(bridge)
    }

    /// Tells about what differs from what was told before.
    fn apply(&mut self) {
        for index in 0..SEGMENTS {
            let access = self.access(index);
            if std::mem::replace(&mut self.segments[index], access) != access {
                self.windows.set_segment(segment(index), access);
            }
        }
        let open = self.config.u8(SMRAM) & SMRAM_OPEN != 0;
        if std::mem::replace(&mut self.smram_open, open) != open {
            self.windows.set_smram(open);
        }
    }

    /// What the PAM registers say about a segment.
    fn access(&self, index: usize) -> SegmentAccess {
        // Segment 0 is the upper half of the first register; the others follow, lower half first.
        let nibble =
            self.config.u8(PAM + index.div_ceil(2)) >> if index == 0 || index.is_multiple_of(2) { 4 } else { 0 };
        SegmentAccess { read_ram: nibble & 1 != 0, write_ram: nibble & 2 != 0 }
    }
}

/// The addresses of a segment: 0 is F_0000h, the others count from C_0000h.
fn segment(index: usize) -> Range<u64> {
    match index {
        0 => 0xf_0000..0x10_0000,
        _ => {
            let start = 0xc_0000 + 0x4000 * (index as u64 - 1);
            start..start + 0x4000
        }
    }
}

fn config() -> ConfigSpace {
    let identity =
        PciIdentity { vendor: 0x8086, device: 0x1237, revision: 2, class: 0x06_0000, subsystem: (0x1af4, 0x1100) };
    ConfigSpace::new(identity)
        // Memory and mastering are always on; the bridge claims no accesses itself.
        .with_register(0x04, [0x06, 0x00], [0x40, 0x01])
        .with_register(0x06, [0x80, 0x02], [0, 0])
        .with_register(0x50, [0; 9], [0xff; 9])
        .with_register(PAM, [0; 7], [0x33; 7])
        .with_register(PAM, [0], [0x30])
        .with_register(0x60, [0; 18], [0xff; 18])
        .with_register(SMRAM, [SMRAM_FIXED], [0x78])
}

impl Device for HostBridge {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(KIND, VERSION, &SavedHostBridge { config: self.config.save() })
    }

    fn inspect(&self) -> serde_json::Value {
        let segments: Vec<_> = (0..SEGMENTS)
            .map(|index| {
                let SegmentAccess { read_ram, write_ram } = self.segments[index];
                json!({ "start": segment(index).start, "readRam": read_ram, "writeRam": write_ram })
            })
            .collect();
        json!({ "segments": segments, "smramOpen": self.smram_open })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.apply();
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        let smram = self.config.u8(SMRAM);
        self.config.write(offset, size, value);
        if smram & SMRAM_LOCK != 0 {
            self.config.set_u8(SMRAM, smram);
        } else if self.config.u8(SMRAM) & SMRAM_LOCK != 0 {
            self.config.set_u8(SMRAM, self.config.u8(SMRAM) & !SMRAM_OPEN);
        }
        self.apply();
    }
}
