//! Linux bzImage, through its 32-bit entry point (Documentation/arch/x86/boot.rst). It starts 32-bit and 64-bit kernels alike.

use super::{Images, LoadError, Plan};
use crate::layout::{RamLayout, SHADOW};
use bulkhead_engine::gpr;

const FORMAT: &str = "Linux";
/// Offset of the setup header in the file and in boot_params.
const HEADER: usize = 0x1f1;
const MAGIC: usize = 0x202;
const BOOT_PARAMS: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
const LOADED_HIGH: u8 = 1;
/// Protocol 2.05: relocatable kernels, 2.06 command line size, 2.10 init_size.
const OLDEST_PROTOCOL: u16 = 0x205;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

pub fn is_one(file: &[u8]) -> bool {
    file.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// Numbers of the setup header.
struct Header<'a> {
    file: &'a [u8],
}

impl Header<'_> {
    fn u8(&self, at: usize) -> u8 {
        self.file.get(at).copied().unwrap_or(0)
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

pub fn load(images: Images<'_>, rsdp: u64, plan: &mut Plan) -> Result<(), LoadError> {
    let header = Header { file: images.kernel };
    let protocol = header.u16(0x206);
    if protocol < OLDEST_PROTOCOL || header.u8(0x211) & LOADED_HIGH == 0 {
        let reason = format!(
            "its boot protocol {}.{:02} is older than 2.05 or loads low; use a newer kernel",
            protocol >> 8,
            protocol & 0xff
        );
        return Err(LoadError::Unsupported { format: FORMAT, reason });
    }
    let sectors = match header.u8(HEADER) {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * 512;
    let code = images.kernel.get(start..).filter(|code| !code.is_empty()).ok_or_else(|| LoadError::Damaged {
        format: FORMAT,
        reason: format!("it has {} bytes, and its code begins at {start}: the file is cut off", images.kernel.len()),
    })?;
    // The header tells how long the code is, in paragraphs; a cut-off file would fail much later, in the guest.
    let told = header.u32(0x1f4) as usize * 16;
    if told > code.len() + 15 {
        let reason = format!("{told} bytes of code are announced, {} are there: the file is cut off", code.len());
        return Err(LoadError::Damaged { format: FORMAT, reason });
    }
    place(images, &header, code, rsdp, plan)
}

fn place(images: Images<'_>, header: &Header<'_>, code: &[u8], rsdp: u64, plan: &mut Plan) -> Result<(), LoadError> {
    let does_not_fit = |source| LoadError::DoesNotFit { format: FORMAT, source };
    let protocol = header.u16(0x206);
    let mut address = 0x10_0000;
    let mut room = code.len() as u64;
    if protocol >= 0x20a {
        let preferred = header.u64(0x258);
        address = if (0x10_0000..1 << 32).contains(&preferred) { preferred } else { address };
        room = room.max(header.u32(0x260).into());
    }
    let zeros = room - code.len() as u64;
    plan.put("its code", address, code.to_vec(), zeros).map_err(does_not_fit)?;

    let limit = if protocol >= 0x203 { u64::from(header.u32(0x22c)) + 1 } else { 0x3800_0000 };
    let initrd = match images.initrd {
        Some(initrd) => {
            Some((plan.put_high("the initial RAM disk", limit, initrd.to_vec()).map_err(does_not_fit)?, initrd.len()))
        }
        None => None,
    };
    let most = if protocol >= 0x206 { header.u32(0x238) as usize } else { 255 };
    if images.command_line.len() > most {
        let reason = format!("its command line may have {most} bytes, not {}", images.command_line.len());
        return Err(LoadError::Unsupported { format: FORMAT, reason });
    }
    let mut line = images.command_line.as_bytes().to_vec();
    line.push(0);
    plan.put("the command line", COMMAND_LINE, line, 0).map_err(does_not_fit)?;
    let params = boot_params(images.kernel, header, plan.ram(), rsdp, initrd);
    plan.put("the boot parameters", BOOT_PARAMS, params, 0).map_err(does_not_fit)?;
    plan.enter_32_bit(address).map_err(does_not_fit)?;
    plan.state.gpr = [0; 16];
    plan.state.gpr[gpr::RSI] = BOOT_PARAMS;
    Ok(())
}

/// The "zero page": the file's header with our answers, and the memory map.
fn boot_params(file: &[u8], header: &Header<'_>, ram: RamLayout, rsdp: u64, initrd: Option<(u64, usize)>) -> Vec<u8> {
    let mut params = vec![0; 4096];
    // The header's length follows from the jump at its start.
    let end = (0x202 + usize::from(header.u8(0x201))).min(0x290).min(file.len());
    params[HEADER..end].copy_from_slice(&file[HEADER..end]);
    let mut set = |at: usize, bytes: &[u8]| params[at..at + bytes.len()].copy_from_slice(bytes);
    // No video mode set; an unregistered boot loader; heap and high load as usual.
    set(0x1fa, &0xffff_u16.to_le_bytes());
    set(0x210, &[0xff]);
    set(0x211, &[header.u8(0x211) | LOADED_HIGH]);
    set(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    if let Some((at, len)) = initrd {
        set(0x218, &(at as u32).to_le_bytes());
        set(0x21c, &(len as u32).to_le_bytes());
    }
    // Where the ACPI root pointer is (protocol 2.14), so that nobody has to search.
    set(0x70, &rsdp.to_le_bytes());
    let map = memory_map(ram);
    set(0x1e8, &[map.len() as u8]);
    for (index, (start, end, kind)) in map.into_iter().enumerate() {
        let at = 0x2d0 + index * 20;
        set(at, &start.to_le_bytes());
        set(at + 8, &(end - start).to_le_bytes());
        set(at + 16, &kind.to_le_bytes());
    }
    // Text mode 3, 80×25, a VGA adapter: what the display shows before any driver.
    set(0x06, &[3, 80]);
    set(0x0e, &[25, 1, 16, 0]);
    params
}

/// What a BIOS would tell with E820.
pub fn memory_map(ram: RamLayout) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, 0x9_fc00, E820_RAM),
        (0x9_fc00, 0xa_0000, E820_RESERVED),
        (0xe_0000, SHADOW.end, E820_RESERVED),
        (SHADOW.end, ram.low, E820_RAM),
    ];
    if ram.high > 0 {
        map.push((crate::layout::HIGH_RAM, crate::layout::HIGH_RAM + ram.high, E820_RAM));
    }
    map
}
