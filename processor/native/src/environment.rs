//! FNSTENV, FLDENV, FNSAVE and FRSTOR: the four x87 environment formats (SDM vol. 1, figures 8-9 to 8-12).

use crate::state::{NativeState, X87Image, X87Pointers};

/// Which format the mode and operand size of an instruction mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvFormat {
    /// Selectors and offsets; false in real and virtual-8086 mode, where there are linear addresses.
    pub protected: bool,
    /// 28 bytes (32-bit operand size, always so in 64-bit mode without prefix) instead of 14.
    pub wide: bool,
}

impl EnvFormat {
    /// Bytes of FNSTENV's image; FNSAVE's is 80 longer.
    pub const fn size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }
}

/// The fields of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Environment {
    control: u16,
    status: u16,
    tags: u16,
    pointers: X87Pointers,
}

const ALL_MASKED: u16 = 0x3f;
/// FOP has eleven bits.
const OPCODE: u16 = 0x7ff;

impl NativeState {
    /// FNSTENV: the image and its length. Masks all exceptions, so call it once the memory is known to be writable.
    pub fn fnstenv(&mut self, format: EnvFormat) -> ([u8; 28], usize) {
        let bytes = self.environment().encode(format);
        self.change_x87(|image, _| {
            image.set_u16(0, image.u16(0) | ALL_MASKED);
            image.update_summary();
        });
        (bytes, format.size())
    }

    /// FLDENV of at least [`EnvFormat::size`] bytes.
    pub fn fldenv(&mut self, bytes: &[u8], format: EnvFormat) {
        let environment = Environment::decode(bytes, format);
        self.change_x87(|image, pointers| {
            image.set_u16(0, environment.control & 0x1f3f | 0x40);
            image.set_status(environment.status);
            image.0[4] = abridged_tags(environment.tags);
            image.update_summary();
            *pointers = environment.pointers;
        });
    }

    /// FNSAVE: the image and its length. Initialises x87 afterwards.
    pub fn fnsave(&mut self, format: EnvFormat) -> ([u8; 108], usize) {
        let mut bytes = [0; 108];
        let len = format.size();
        bytes[..len].copy_from_slice(&self.environment().encode(format)[..len]);
        let image = self.x87();
        for (i, register) in bytes[len..len + 80].chunks_exact_mut(10).enumerate() {
            register.copy_from_slice(image.register(i));
        }
        self.fninit();
        (bytes, len + 80)
    }

    /// FRSTOR of at least [`EnvFormat::size`] + 80 bytes.
    pub fn frstor(&mut self, bytes: &[u8], format: EnvFormat) {
        let (environment, registers) = bytes.split_at(format.size());
        self.fldenv(environment, format);
        self.change_x87(|image, _| {
            for (i, register) in registers.chunks_exact(10).take(8).enumerate() {
                image.set_register(i, register);
            }
        });
    }

    fn environment(&mut self) -> Environment {
        let pointers = self.pointers;
        let image = self.x87();
        Environment { control: image.u16(0), status: image.u16(2), tags: image.full_tags(), pointers }
    }
}

impl X87Image {
    /// Error summary and busy: set while an unmasked exception is pending.
    pub(crate) fn update_summary(&mut self) {
        let (control, status) = (self.u16(0), self.u16(2));
        let pending = status & !control & 0x3f != 0;
        self.set_u16(2, status & !0x8080 | if pending { 0x8080 } else { 0 });
    }

    /// Two bits per physical register: 0 valid, 1 zero, 2 special, 3 empty. FXSAVE keeps only empty or not.
    fn full_tags(&self) -> u16 {
        (0..8).fold(0, |tags, physical| {
            let position = (physical as u8).wrapping_sub(self.top()) & 7;
            let full = self.0[4] >> physical & 1 != 0;
            let tag = if full { tag(self.register(usize::from(position))) } else { 3 };
            tags | tag << (2 * physical)
        })
    }
}

fn tag(register: &[u8]) -> u16 {
    let exponent = u16::from_le_bytes([register[8], register[9]]) & 0x7fff;
    let zero = register[..8].iter().all(|&byte| byte == 0);
    let normal = register[7] >= 0x80;
    match exponent {
        0 if zero => 1,
        0 | 0x7fff => 2,
        _ if normal => 0,
        _ => 2,
    }
}

fn abridged_tags(tags: u16) -> u8 {
    (0..8).fold(0, |abridged, i| abridged | u8::from(tags >> (2 * i) & 3 != 3) << i)
}

impl Environment {
    fn encode(&self, format: EnvFormat) -> [u8; 28] {
        let X87Pointers { fip, fdp, fcs, fds, fop } = self.pointers;
        let fop = fop & OPCODE;
        // Linear addresses, 32 bits.
        let (ip, dp) = (linear(fcs, fip), linear(fds, fdp));
        let mut bytes = [0; 28];
        if format.wide {
            // The reserved upper halves read as ones.
            let reserved = 0xffff_0000;
            let tail = if format.protected {
                [fip as u32, u32::from(fop) << 16 | u32::from(fcs), fdp as u32, u32::from(fds) | reserved]
            } else {
                let high = |address: u32| address >> 16 << 12;
                [ip & 0xffff | reserved, high(ip) | u32::from(fop), dp & 0xffff | reserved, high(dp)]
            };
            let head = [self.control, self.status, self.tags].map(|word| u32::from(word) | reserved);
            for (word, value) in bytes.chunks_exact_mut(4).zip(head.into_iter().chain(tail)) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        } else {
            let tail = if format.protected {
                [fip as u16, fcs, fdp as u16, fds]
            } else {
                let high = |address: u32| ((address >> 16 & 0xf) << 12) as u16;
                [ip as u16, high(ip) | fop, dp as u16, high(dp)]
            };
            let head = [self.control, self.status, self.tags];
            for (word, value) in bytes.chunks_exact_mut(2).zip(head.into_iter().chain(tail)) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }

    fn decode(bytes: &[u8], format: EnvFormat) -> Self {
        let size = if format.wide { 4 } else { 2 };
        let word = |index: usize| {
            let mut value = [0; 4];
            value[..size].copy_from_slice(&bytes[index * size..(index + 1) * size]);
            u32::from_le_bytes(value)
        };
        let pointers = match (format.protected, format.wide) {
            (true, true) => X87Pointers {
                fip: u64::from(word(3)),
                fcs: word(4) as u16,
                fop: (word(4) >> 16) as u16 & OPCODE,
                fdp: u64::from(word(5)),
                fds: word(6) as u16,
            },
            (true, false) => X87Pointers {
                fip: u64::from(word(3)),
                fcs: word(4) as u16,
                fop: 0,
                fdp: u64::from(word(5)),
                fds: word(6) as u16,
            },
            (false, wide) => {
                let high = |word: u32| if wide { word << 4 & 0xffff_0000 } else { word << 4 & 0xf_0000 };
                X87Pointers {
                    fip: u64::from(word(3) & 0xffff | high(word(4))),
                    fcs: 0,
                    fop: word(4) as u16 & OPCODE,
                    fdp: u64::from(word(5) & 0xffff | high(word(6))),
                    fds: 0,
                }
            }
        };
        Self { control: word(0) as u16, status: word(1) as u16, tags: word(2) as u16, pointers }
    }
}

fn linear(selector: u16, offset: u64) -> u32 {
    (u32::from(selector) << 4).wrapping_add(offset as u32)
}
