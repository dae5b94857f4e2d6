//! Any foreign image as a node of the storage graph.

use std::ops::Range;
use std::rc::Rc;

use bulkhead_disk::{
    BlockKind, Buffer, Completion, DiskFacts, File, LocalFuture, Node, Request, Result, StatusExtent, check_range,
};

use crate::mapping::{ForeignInfo, Mapping, Place, Run};
use crate::tables::Tables;
use crate::unpack::Unpacked;
use crate::{qcow2, vdi, vmdk};

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignFormat {
    /// QEMU's.
    Qcow2,
    /// VMware's, as one file.
    Vmdk,
    /// VirtualBox's.
    Vdi,
}

/// A foreign image as a read-only disk.
pub struct ForeignDisk {
    tables: Tables,
    mapping: Box<dyn Mapping>,
    unpacked: Unpacked,
    facts: DiskFacts,
}

impl ForeignDisk {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// `Corrupt` for what breaks the format, `Unsupported` for what would need another file, a key, or a feature that this
    /// build lacks; those of the file.
    pub async fn open(file: Rc<dyn File>, format: ForeignFormat) -> Result<Self> {
        let tables = Tables::new(file);
        let (mapping, name): (Box<dyn Mapping>, _) = match format {
            ForeignFormat::Qcow2 => (Box::new(qcow2::Qcow2::open(&tables).await?), "qcow2"),
            ForeignFormat::Vmdk => (Box::new(vmdk::Vmdk::open(&tables).await?), "vmdk"),
            ForeignFormat::Vdi => (Box::new(vdi::Vdi::open(&tables).await?), "vdi"),
        };
        let facts = DiskFacts { read_only: true, ..DiskFacts::plain(mapping.info().size, name) };
        Ok(Self { tables, mapping, unpacked: Unpacked::default(), facts })
    }

    /// What the headers say.
    pub fn info(&self) -> ForeignInfo {
        self.mapping.info()
    }

    async fn runs(&self, range: Range<u64>) -> Result<Vec<Run>> {
        let runs = self.mapping.find(&self.tables, range.clone()).await?;
        debug_assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), range.end - range.start);
        Ok(runs)
    }

    /// Fills `buffer` from a run that begins at `at` on the disk.
    async fn read_run(&self, at: u64, place: Place, mut buffer: Buffer) -> Completion {
        let file = &*self.tables.file;
        match place {
            Place::Zero | Place::Hole => {
                buffer.fill(0);
                Completion::ok(buffer)
            }
            Place::File(offset) => {
                let stored = file.len().saturating_sub(offset).min(buffer.len() as u64);
                let mut rest = buffer.split_off(stored as usize);
                rest.fill(0);
                if stored == 0 {
                    return Completion::ok(rest);
                }
                let Completion { result, mut buffer } = file.read(offset, buffer).await;
                buffer.append(rest);
                Completion { result, buffer }
            }
            Place::Packed(unit) => match self.unpacked.get(file, unit).await {
                Ok(data) => {
                    let from = (at - unit.start) as usize;
                    buffer.copy_from(0, &data[from..from + buffer.len()]);
                    Completion::ok(buffer)
                }
                Err(error) => Completion::failed(error, buffer),
            },
        }
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Completion {
        let runs = match self.runs(offset..offset + buffer.len() as u64).await {
            Ok(runs) => runs,
            Err(error) => return Completion::failed(error, buffer),
        };
        let (mut left, mut filled, mut at) = (buffer, Buffer::empty(), offset);
        let mut result = Ok(());
        for run in runs {
            let rest = left.split_off(run.len as usize);
            let done = self.read_run(at, run.place, left).await;
            filled.append(done.buffer);
            left = rest;
            at += run.len;
            if done.result.is_err() {
                result = done.result;
                break;
            }
        }
        filled.append(left);
        Completion { result, buffer: filled }
    }
}

impl Node for ForeignDisk {
    fn facts(&self) -> DiskFacts {
        self.facts.clone()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            if let Err(error) = check_range(&self.facts, &request.range(), request.is_write()) {
                return Completion::failed(error, request.into_buffer());
            }
            match request {
                Request::Read { offset, buffer } if !buffer.is_empty() => self.read(offset, buffer).await,
                other => Completion::ok(other.into_buffer()),
            }
        })
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        Box::pin(async move {
            check_range(&self.facts, &range, false)?;
            let mut extents: Vec<StatusExtent> = Vec::new();
            if range.is_empty() {
                return Ok(extents);
            }
            let file_len = self.tables.file.len();
            let mut at = range.start;
            for run in self.runs(range).await? {
                let end = at + run.len;
                let (kind, file_offset) = match run.place {
                    Place::File(offset) if offset < file_len => (BlockKind::Data, Some(offset)),
                    Place::Packed(_) => (BlockKind::Data, None),
                    Place::File(_) | Place::Zero => (BlockKind::Zero, None),
                    Place::Hole => (BlockKind::Hole, None),
                };
                match extents.last_mut() {
                    Some(last) if last.kind == kind && last.file_offset.is_none() && file_offset.is_none() => {
                        last.range.end = end;
                    }
                    _ => extents.push(StatusExtent { range: at..end, kind, layer: 0, file_offset }),
                }
                at = end;
            }
            Ok(extents)
        })
    }
}
