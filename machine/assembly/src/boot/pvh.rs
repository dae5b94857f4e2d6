//! ELF kernels with a PVH entry point (Xen's x86/HVM direct boot ABI, `hvm_start_info` version 1).

use super::bzimage::memory_map;
use super::elf::{Elf, number};
use super::{Images, LoadError, Plan};
use bulkhead_engine::gpr;

const FORMAT: &str = "PVH ELF";
const NOTE_OWNER: &[u8] = b"Xen\0";
const NOTE_ENTRY: u32 = 18;
const MAGIC: u32 = 0x336e_c578;
const START_INFO: u64 = 0x6000;
const COMMAND_LINE: u64 = 0x2_0000;

pub fn load(images: Images<'_>, rsdp: u64, plan: &mut Plan) -> Result<(), LoadError> {
    let does_not_fit = |source| LoadError::DoesNotFit { format: FORMAT, source };
    let elf = Elf::parse(images.kernel).map_err(|reason| LoadError::Damaged { format: FORMAT, reason })?;
    let entry = elf.note(NOTE_OWNER, NOTE_ENTRY).and_then(|note| number(note, 0, note.len().min(8).min(4)));
    let entry = entry.ok_or_else(|| LoadError::Unsupported {
        format: FORMAT,
        reason: "it has no PVH entry point (a Xen note of type 18); build it with CONFIG_PVH".into(),
    })?;
    for (bytes, address, memory) in elf.loads() {
        plan.put("a segment", address, bytes.to_vec(), memory - bytes.len() as u64).map_err(does_not_fit)?;
    }
    let module = match images.initrd {
        Some(initrd) => {
            let at = plan.put_high("the initial RAM disk", 1 << 32, initrd.to_vec()).map_err(does_not_fit)?;
            Some((at, initrd.len() as u64))
        }
        None => None,
    };
    let mut line = images.command_line.as_bytes().to_vec();
    line.push(0);
    plan.put("the command line", COMMAND_LINE, line, 0).map_err(does_not_fit)?;
    let info = start_info(rsdp, module, plan);
    plan.put("the start information", START_INFO, info, 0).map_err(does_not_fit)?;
    plan.enter_32_bit(entry).map_err(does_not_fit)?;
    plan.state.gpr = [0; 16];
    plan.state.gpr[gpr::RBX] = START_INFO;
    Ok(())
}

/// `hvm_start_info`, then its module list, then its memory map.
fn start_info(rsdp: u64, module: Option<(u64, u64)>, plan: &Plan) -> Vec<u8> {
    const LEN: u64 = 56;
    const MODULE: u64 = 32;
    let map = memory_map(plan.ram());
    let modules_at = START_INFO + LEN;
    let map_at = modules_at + MODULE;
    let mut info = Vec::new();
    for word in [MAGIC, 1, 0, u32::from(module.is_some())] {
        info.extend(word.to_le_bytes());
    }
    for address in [modules_at, COMMAND_LINE, rsdp, map_at] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend([0; 4]);
    let (at, len) = module.unwrap_or((0, 0));
    for value in [at, len, 0, 0] {
        info.extend(value.to_le_bytes());
    }
    for (start, end, kind) in map {
        info.extend(start.to_le_bytes());
        info.extend((end - start).to_le_bytes());
        info.extend(kind.to_le_bytes());
        info.extend([0; 4]);
    }
    info
}
