//! FXSAVE, FXRSTOR, XSAVE and XRSTOR: memory images of x87, SSE and AVX state (SDM vol. 1, chapter 13).

use crate::ReservedBits;
use crate::state::{MXCSR_MASK, NativeState, X87Image, X87Pointers};

const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// The components that exist here.
pub(crate) const ALL: u64 = X87 | SSE | AVX;

// Offsets in the area.
const MXCSR: usize = 24;
const XMM: usize = 160;
const HEADER: usize = 512;
const YMM_HIGH: usize = 576;

impl NativeState {
    /// FXSAVE into `out`, of which bytes 416–511 (and XMM8–15 if `registers` is 8) stay as they are.
    ///
    /// `wide` (REX.W) stores 64-bit FIP and FDP; otherwise 32 bits and the selectors.
    pub fn fxsave(&mut self, out: &mut [u8; 512], wide: bool, registers: usize) {
        self.save_x87_part(out, wide);
        self.save_mxcsr(out);
        self.save_xmm(out, registers);
    }

    /// FXRSTOR. An error is #GP(0), and nothing is loaded.
    pub fn fxrstor(&mut self, image: &[u8; 512], wide: bool, registers: usize) -> Result<(), ReservedBits> {
        self.set_mxcsr(u32_at(image, MXCSR))?;
        self.load_x87_part(image, wide);
        self.load_xmm(image, registers);
        Ok(())
    }

    /// XSAVE of the components in `mask` (EDX:EAX and XCR0) into an area that holds the guest's old bytes.
    pub fn xsave(&mut self, out: &mut [u8; 832], mask: u64, wide: bool, registers: usize) {
        let in_use = self.in_use();
        if mask & X87 != 0 {
            self.save_x87_part(out, wide);
        }
        if mask & (SSE | AVX) != 0 {
            self.save_mxcsr(out);
        }
        if mask & SSE != 0 {
            self.save_xmm(out, registers);
        }
        if mask & AVX != 0 {
            for (high, vector) in out[YMM_HIGH..].chunks_exact_mut(16).zip(&self.vector).take(registers) {
                high.copy_from_slice(&vector.0[16..]);
            }
        }
        let present = u64_at(out, HEADER) & !mask | in_use & mask;
        out[HEADER..HEADER + 8].copy_from_slice(&present.to_le_bytes());
    }

    /// XRSTOR of the components in `mask`; those that the header does not list take their initial state. An error is
    /// #GP(0), and nothing is loaded. The compacted format is refused: it is not offered in CPUID.
    pub fn xrstor(
        &mut self,
        image: &[u8; 832],
        mask: u64,
        xcr0: u64,
        wide: bool,
        registers: usize,
    ) -> Result<(), ReservedBits> {
        let present = u64_at(image, HEADER);
        if present & !xcr0 != 0 || image[HEADER + 8..HEADER + 24].iter().any(|&byte| byte != 0) {
            return Err(ReservedBits);
        }
        if mask & (SSE | AVX) != 0 {
            self.set_mxcsr(u32_at(image, MXCSR))?;
        }
        match (mask & X87 != 0, present & X87 != 0) {
            (true, true) => self.load_x87_part(image, wide),
            (true, false) => {
                self.pointers = X87Pointers::default();
                self.change_x87(|image, _| image.init());
            }
            _ => {}
        }
        match (mask & SSE != 0, present & SSE != 0) {
            (true, true) => self.load_xmm(image, registers),
            (true, false) => self.vector.iter_mut().take(registers).for_each(|vector| vector.0[..16].fill(0)),
            _ => {}
        }
        if mask & AVX != 0 {
            let zeros = [0; 256];
            let high = if present & AVX != 0 { &image[YMM_HIGH..] } else { &zeros[..] };
            for (high, vector) in high.chunks_exact(16).zip(&mut self.vector).take(registers) {
                vector.0[16..].copy_from_slice(high);
            }
        }
        Ok(())
    }

    /// XINUSE: the components that are not in their initial state. MXCSR belongs to none (SDM vol. 1, 13.6).
    fn in_use(&mut self) -> u64 {
        let used = |range: std::ops::Range<usize>, vectors: &[crate::Vector]| {
            vectors.iter().any(|vector| vector.0[range.clone()].iter().any(|&byte| byte != 0))
        };
        let sse = used(0..16, &self.vector);
        let avx = used(16..32, &self.vector);
        let mut initial = X87Image([0; 512]);
        initial.init();
        let pointers = self.pointers;
        let image = self.x87();
        let x87 = pointers != X87Pointers::default()
            || image.0[..5] != initial.0[..5]
            || (0..8).any(|i| image.register(i) != initial.register(i));
        u64::from(x87) | u64::from(sse) << 1 | u64::from(avx) << 2
    }

    fn save_x87_part(&mut self, out: &mut [u8], wide: bool) {
        let X87Pointers { fip, fdp, fcs, fds, fop } = self.pointers;
        out[..24].fill(0);
        out[32..160].fill(0);
        let image = self.x87();
        out[..5].copy_from_slice(&image.0[..5]);
        for i in 0..8 {
            out[32 + 16 * i..42 + 16 * i].copy_from_slice(image.register(i));
        }
        out[6..8].copy_from_slice(&fop.to_le_bytes());
        if wide {
            out[8..16].copy_from_slice(&fip.to_le_bytes());
            out[16..24].copy_from_slice(&fdp.to_le_bytes());
        } else {
            out[8..12].copy_from_slice(&(fip as u32).to_le_bytes());
            out[12..14].copy_from_slice(&fcs.to_le_bytes());
            out[16..20].copy_from_slice(&(fdp as u32).to_le_bytes());
            out[20..22].copy_from_slice(&fds.to_le_bytes());
        }
    }

    fn load_x87_part(&mut self, from: &[u8], wide: bool) {
        let word = |at: usize| u16::from_le_bytes([from[at], from[at + 1]]);
        self.pointers = X87Pointers {
            fip: if wide { u64_at(from, 8) } else { u64::from(u32_at(from, 8)) },
            fdp: if wide { u64_at(from, 16) } else { u64::from(u32_at(from, 16)) },
            fcs: if wide { 0 } else { word(12) },
            fds: if wide { 0 } else { word(20) },
            fop: word(6) & 0x7ff,
        };
        self.change_x87(|image, _| {
            image.set_u16(0, word(0) & 0x1f3f | 0x40);
            image.set_u16(2, word(2));
            image.0[4] = from[4];
            image.update_summary();
            for i in 0..8 {
                image.set_register(i, &from[32 + 16 * i..42 + 16 * i]);
            }
        });
    }

    fn save_mxcsr(&self, out: &mut [u8]) {
        out[MXCSR..MXCSR + 4].copy_from_slice(&self.mxcsr().to_le_bytes());
        out[MXCSR + 4..MXCSR + 8].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    }

    fn save_xmm(&self, out: &mut [u8], registers: usize) {
        for (xmm, vector) in out[XMM..].chunks_exact_mut(16).zip(&self.vector).take(registers) {
            xmm.copy_from_slice(&vector.0[..16]);
        }
    }

    fn load_xmm(&mut self, from: &[u8], registers: usize) {
        for (xmm, vector) in from[XMM..].chunks_exact(16).zip(&mut self.vector).take(registers) {
            vector.0[..16].copy_from_slice(xmm);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
