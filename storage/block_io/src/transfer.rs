//! The operations on a host file, done by the calling thread: for the pool, for inline mode, for cached writes.

use bulkhead_disk::{Buffer, Piece};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

/// One operation on a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Read { offset: u64 },
    Write { offset: u64, stable: bool },
    Flush,
    Allocate { mode: FallocateFlags, offset: u64, len: u64 },
}

/// Performs it completely; a read that meets the end of the file is `UnexpectedEof`.
pub(crate) fn perform(file: &OwnedFd, operation: Operation, buffer: &mut Buffer) -> io::Result<()> {
    match operation {
        Operation::Read { offset } => read(file, offset, buffer),
        Operation::Write { offset, stable } => {
            write(file, offset, buffer)?;
            if stable { Ok(rustix::fs::fdatasync(file)?) } else { Ok(()) }
        }
        Operation::Flush => Ok(rustix::fs::fdatasync(file)?),
        Operation::Allocate { mode, offset, len } => retry(|| rustix::fs::fallocate(file, mode, offset, len)),
    }
}

fn read(file: &OwnedFd, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
    let mut at = offset;
    for piece in buffer.pieces_mut() {
        match piece {
            Piece::Owned(bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    match rustix::io::pread(file, &mut bytes[done..], at) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(count) => (done, at) = (done + count, at + count as u64),
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Piece::Guest(list) => {
                if list.read_file_at(file, at)? < list.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += list.len();
            }
        }
    }
    Ok(())
}

fn write(file: &OwnedFd, offset: u64, buffer: &Buffer) -> io::Result<()> {
    let mut at = offset;
    for piece in buffer.pieces() {
        match piece {
            Piece::Owned(bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    match rustix::io::pwrite(file, &bytes[done..], at) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(count) => (done, at) = (done + count, at + count as u64),
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Piece::Guest(list) => {
                if list.write_file_at(file, at)? < list.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += list.len();
            }
        }
    }
    Ok(())
}

/// Reads if every byte is in the page cache; false = not, and the buffer's contents are undefined.
pub(crate) fn read_cached(file: &OwnedFd, offset: u64, buffer: &mut Buffer) -> bool {
    let Some(bytes) = buffer.as_mut_slice() else { return false };
    let want = bytes.len();
    let got = rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], offset, ReadWriteFlags::NOWAIT);
    got == Ok(want)
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
