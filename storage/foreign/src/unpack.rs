//! Compressed clusters and grains.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;

use bulkhead_disk::{DiskError, File, Result, read_vec};
use flate2::{Decompress, FlushDecompress, Status};

use crate::mapping::PackedUnit;
use crate::tables::bytes;

/// Unpacked units kept for reads smaller than one: at most 4 × 8 MiB.
const MOST_UNITS: usize = 4;

/// How a unit is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// QCOW2: a bare deflate stream, then anything.
    Deflate,
    /// QCOW2: a zstd frame, then anything.
    Zstd,
    /// VMDK: a grain marker (sector, length), then a zlib stream.
    Grain,
}

/// The units that were unpacked last.
#[derive(Default)]
pub struct Unpacked {
    units: RefCell<VecDeque<(PackedUnit, Rc<Vec<u8>>)>>,
}

impl Unpacked {
    /// The contents of a unit.
    pub async fn get(&self, file: &dyn File, unit: PackedUnit) -> Result<Rc<Vec<u8>>> {
        if let Some((_, data)) = self.units.borrow().iter().find(|(other, _)| *other == unit) {
            return Ok(data.clone());
        }
        // What is announced as packed may reach over the end of the file: the length is in sectors.
        let packed_len = unit.packed_len.min(file.len().saturating_sub(unit.offset));
        let packed = read_vec(file, unit.offset, packed_len as usize).await?;
        let failed = |reason: String| {
            DiskError::corrupt("unpack a compressed cluster", reason).with_path(file.path()).at(unit.offset)
        };
        let data = Rc::new(unpack(unit, &packed).map_err(failed)?);
        let mut units = self.units.borrow_mut();
        units.push_back((unit, data.clone()));
        if units.len() > MOST_UNITS {
            units.pop_front();
        }
        Ok(data)
    }
}

fn unpack(unit: PackedUnit, packed: &[u8]) -> Result<Vec<u8>, String> {
    // The length was bounded when the header was checked.
    let mut out = vec![0; unit.len as usize];
    match unit.packing {
        Packing::Deflate => inflate(Decompress::new(false), packed, &mut out)?,
        Packing::Grain => {
            let len = u32::from_le_bytes(bytes(packed, 8)) as usize;
            let stream = packed.get(12..).and_then(|rest| rest.get(..len));
            let stream = stream.ok_or_else(|| format!("its marker says {len} bytes, {} are there", packed.len()))?;
            inflate(Decompress::new(true), stream, &mut out)?;
        }
        Packing::Zstd => {
            let mut decoder =
                ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| format!("no zstd frame: {error}"))?;
            decoder.read_exact(&mut out).map_err(|error| format!("the zstd frame is damaged: {error}"))?;
        }
    }
    Ok(out)
}

fn inflate(mut stream: Decompress, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let status = stream.decompress(packed, out, FlushDecompress::Finish);
    match status {
        Ok(Status::Ok | Status::BufError | Status::StreamEnd) if stream.total_out() == out.len() as u64 => Ok(()),
        Ok(_) => Err(format!("it holds {} bytes instead of {}", stream.total_out(), out.len())),
        Err(error) => Err(format!("the deflate stream is damaged: {error}")),
    }
}
