//! Multiboot 1 images (Multiboot Specification 0.6.96): ELF32, or raw with addresses in the header.

use super::bzimage::memory_map;
use super::elf::{Elf, is_one as is_elf, number};
use super::{Images, LoadError, Plan, PlanError};
use bulkhead_engine::gpr;

const FORMAT: &str = "multiboot";
/// The header is in the first 8 KiB, on a multiple of 4.
const SEARCH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// Flags that must be understood: page-aligned modules, memory, video mode (not given).
const UNDERSTOOD: u32 = 0x0001_0003;
const HAS_ADDRESSES: u32 = 1 << 16;
const INFO: u64 = 0x6000;
const COMMAND_LINE: u64 = 0x2_0000;
const LOADER_NAME: &[u8] = b"Bulkhead\0";

fn header_of(file: &[u8]) -> Option<usize> {
    (0..file.len().min(SEARCH)).step_by(4).find(|&at| {
        let word = |index: usize| number(file, at + 4 * index, 4).map(|word| word as u32);
        let (Some(magic), Some(flags), Some(checksum)) = (word(0), word(1), word(2)) else { return false };
        magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0
    })
}

pub fn is_one(file: &[u8]) -> bool {
    header_of(file).is_some()
}

pub fn load(images: Images<'_>, plan: &mut Plan) -> Result<(), LoadError> {
    let damaged = |reason: String| LoadError::Damaged { format: FORMAT, reason };
    let does_not_fit = |source: PlanError| LoadError::DoesNotFit { format: FORMAT, source };
    let file = images.kernel;
    let header = header_of(file).ok_or_else(|| damaged("its header is gone".into()))?;
    let word = |index: usize| number(file, header + 4 * index, 4).map_or(0, |word| word as u32);
    let flags = word(1);
    if flags & 0xffff & !UNDERSTOOD != 0 {
        let reason =
            format!("it demands features {:#x}, of which only page alignment and memory are there", flags & 0xffff);
        return Err(LoadError::Unsupported { format: FORMAT, reason });
    }
    let entry = if flags & HAS_ADDRESSES != 0 {
        let [header_at, load, load_end, bss_end, entry] = std::array::from_fn(|index| word(3 + index));
        let skip = (header as u32).checked_sub(header_at.wrapping_sub(load)).map(|start| start as usize);
        let rest =
            skip.and_then(|start| file.get(start..)).ok_or_else(|| damaged("its load address is wrong".into()))?;
        let len = if load_end == 0 { rest.len() } else { load_end.saturating_sub(load) as usize };
        let bytes = rest.get(..len).ok_or_else(|| damaged(format!("{len} bytes are announced: it is cut off")))?;
        let zeros = u64::from(bss_end.saturating_sub(load)).saturating_sub(len as u64);
        plan.put("its code", load.into(), bytes.to_vec(), zeros).map_err(does_not_fit)?;
        u64::from(entry)
    } else if is_elf(file) {
        let elf = Elf::parse(file).map_err(damaged)?;
        if elf.is_wide() {
            let reason = "it is an ELF64, which multiboot 1 does not start; use its 32-bit form".into();
            return Err(LoadError::Unsupported { format: FORMAT, reason });
        }
        for (bytes, address, memory) in elf.loads() {
            plan.put("a segment", address, bytes.to_vec(), memory - bytes.len() as u64).map_err(does_not_fit)?;
        }
        elf.entry
    } else {
        return Err(damaged("it is no ELF and its header has no addresses".into()));
    };
    let module = match images.initrd {
        Some(initrd) => {
            let at = plan.put_high("the module", 1 << 32, initrd.to_vec()).map_err(does_not_fit)?;
            Some((at, at + initrd.len() as u64))
        }
        None => None,
    };
    let mut line = images.command_line.as_bytes().to_vec();
    line.push(0);
    plan.put("the command line", COMMAND_LINE, line, 0).map_err(does_not_fit)?;
    let info = information(module, plan);
    plan.put("the multiboot information", INFO, info, 0).map_err(does_not_fit)?;
    plan.enter_32_bit(entry).map_err(does_not_fit)?;
    plan.state.gpr = [0; 16];
    plan.state.gpr[gpr::RAX] = LOADER_MAGIC;
    plan.state.gpr[gpr::RBX] = INFO;
    Ok(())
}

/// Memory sizes, command line, modules, memory map, loader name.
fn information(module: Option<(u64, u64)>, plan: &Plan) -> Vec<u8> {
    const MODULES: usize = 128;
    const NAME: usize = 160;
    const MAP: usize = 192;
    let mut info = vec![0; MAP];
    let mut set = |at: usize, value: u64| info[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    let flags = 1 | 1 << 2 | 1 << 6 | 1 << 9 | if module.is_some() { 1 << 3 } else { 0 };
    set(0, flags);
    set(4, 639);
    set(8, (plan.ram().low - (1 << 20)) >> 10);
    set(16, COMMAND_LINE);
    if let Some((start, end)) = module {
        set(20, 1);
        set(24, INFO + MODULES as u64);
        set(MODULES, start);
        set(MODULES + 4, end);
        set(MODULES + 8, COMMAND_LINE);
    }
    set(64, INFO + NAME as u64);
    let map = memory_map(plan.ram());
    set(44, map.len() as u64 * 24);
    set(48, INFO + MAP as u64);
    info[NAME..NAME + LOADER_NAME.len()].copy_from_slice(LOADER_NAME);
    for (start, end, kind) in map {
        info.extend(20u32.to_le_bytes());
        info.extend(start.to_le_bytes());
        info.extend((end - start).to_le_bytes());
        info.extend(kind.to_le_bytes());
    }
    info
}
