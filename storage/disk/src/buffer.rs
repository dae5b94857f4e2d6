//! I/O memory: a list of uniquely owned pieces at stable addresses.

use crate::{DiskError, ErrorKind, Result};
use bulkhead_guest_memory::ScatterList;
use bytes::{Buf, BytesMut};
use std::fmt;
use std::ops::Range;

/// Alignment of buffers that [`Buffer::zeroed`] makes: good for O_DIRECT on every device.
const ALIGN: usize = 4096;

/// Memory of one request: uniquely owned, vectored, at an address that never changes while it is owned. Pieces are own
/// memory or guest RAM (which the guest may change meanwhile, so it is never lent out as a slice).
///
/// Whoever does I/O takes the buffer and gives it back in the completion. To do several transfers for one request, cut it
/// with [`Buffer::split_off`] and glue the pieces with [`Buffer::append`]: neither copies.
#[derive(Debug, Default)]
pub struct Buffer {
    pieces: Pieces,
}

/// One piece is the common case and needs no allocation of its own.
#[derive(Debug, Default)]
enum Pieces {
    #[default]
    None,
    One(Piece),
    Many(Vec<Piece>),
}

/// One run of memory (guest runs may be scattered themselves).
pub enum Piece {
    /// Own memory.
    Owned(BytesMut),
    /// Ranges of guest RAM.
    Guest(ScatterList),
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owned(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Guest(list) => write!(f, "{} guest bytes", list.len()),
        }
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            // A list is made of mapped memory, so its length fits usize.
            Self::Guest(list) => list.len() as usize,
        }
    }

    /// Keeps `[0, at)`, returns the rest; `at` is inside the piece.
    fn split_off(&mut self, at: usize) -> Self {
        match self {
            Self::Owned(bytes) => Self::Owned(bytes.split_off(at)),
            Self::Guest(list) => {
                let (cut, len) = (at as u64, list.len());
                let (head, tail) = (list.slice(0, cut), list.slice(cut, len - cut));
                let (Some(head), Some(tail)) = (head, tail) else { unreachable!("the cut is inside the list") };
                *list = head;
                Self::Guest(tail)
            }
        }
    }
}

impl Buffer {
    /// The buffer of requests without payload.
    pub const fn empty() -> Self {
        Self { pieces: Pieces::None }
    }

    /// `len` zero bytes in one piece; aligned for direct I/O when `len` is a sector or more.
    pub fn zeroed(len: usize) -> Self {
        if len < 512 {
            return Self::from(BytesMut::zeroed(len));
        }
        let mut bytes = BytesMut::zeroed(len + ALIGN);
        bytes.advance(bytes.as_ptr().align_offset(ALIGN));
        bytes.truncate(len);
        Self::from(bytes)
    }

    /// A buffer of `len` bytes like one from [`Buffer::zeroed`], but with any contents: in this buffer's memory if it has that
    /// length, for loops that fill it again and again.
    #[must_use]
    pub fn reuse(self, len: usize) -> Self {
        match &self.pieces {
            Pieces::One(Piece::Owned(bytes)) if bytes.len() == len => self,
            _ => Self::zeroed(len),
        }
    }

    /// A copy of `data` in one piece (aligned).
    pub fn copy_of(data: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(data.len() + ALIGN);
        let skip = bytes.as_ptr().align_offset(ALIGN);
        bytes.resize(skip, 0);
        bytes.extend_from_slice(data);
        bytes.advance(skip);
        Self::from(bytes)
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Piece::len).sum()
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in order (file implementations).
    pub fn pieces(&self) -> &[Piece] {
        match &self.pieces {
            Pieces::None => &[],
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    /// The pieces, in order (file implementations).
    pub fn pieces_mut(&mut self) -> &mut [Piece] {
        match &mut self.pieces {
            Pieces::None => &mut [],
            Pieces::One(piece) => std::slice::from_mut(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    fn into_pieces(self) -> Vec<Piece> {
        match self.pieces {
            Pieces::None => Vec::new(),
            Pieces::One(piece) => vec![piece],
            Pieces::Many(pieces) => pieces,
        }
    }

    fn from_pieces(mut pieces: Vec<Piece>) -> Self {
        let pieces = match pieces.len() {
            0 => Pieces::None,
            1 => Pieces::One(pieces.remove(0)),
            _ => Pieces::Many(pieces),
        };
        Self { pieces }
    }

    /// Keeps `[0, at)` and returns the rest; `at` beyond the end returns an empty buffer.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut keep = std::mem::take(self).into_pieces();
        let mut rest = Vec::new();
        let mut left = at;
        for index in 0..keep.len() {
            let len = keep[index].len();
            if left < len {
                rest = keep.split_off(index);
                if left > 0 {
                    let tail = rest[0].split_off(left);
                    keep.push(std::mem::replace(&mut rest[0], tail));
                }
                break;
            }
            left -= len;
        }
        *self = Self::from_pieces(keep);
        Self::from_pieces(rest)
    }

    /// Adds `other` behind `self`; own memory that was cut apart becomes one piece again.
    pub fn append(&mut self, other: Self) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            *self = other;
            return;
        }
        let mut pieces = std::mem::take(self).into_pieces();
        for piece in other.into_pieces() {
            match (pieces.last_mut(), piece) {
                // Joining without a copy is possible exactly when both are neighbours in one allocation.
                (Some(Piece::Owned(last)), Piece::Owned(next)) if last.as_ptr_range().end == next.as_ptr() => {
                    last.unsplit(next);
                }
                (_, piece) => pieces.push(piece),
            }
        }
        *self = Self::from_pieces(pieces);
    }

    /// The bytes, when they are one piece of own memory (always so for buffers from [`Buffer::zeroed`]).
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.pieces() {
            [] => Some(&[]),
            [Piece::Owned(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// The bytes, when they are one piece of own memory.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        match self.pieces_mut() {
            [] => Some(&mut []),
            [Piece::Owned(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        self.copy_to(0, &mut out);
        out
    }

    /// Calls `each(piece, offset inside it, bytes)` for the part of the buffer from `at` on, at most `len` bytes.
    fn each_part(&mut self, at: usize, len: usize, mut each: impl FnMut(&mut Piece, usize, Range<usize>)) {
        let (mut skip, mut done) = (at, 0);
        for piece in self.pieces_mut() {
            let have = piece.len();
            if skip >= have {
                skip -= have;
                continue;
            }
            let count = (have - skip).min(len - done);
            if count == 0 {
                return;
            }
            each(piece, skip, done..done + count);
            done += count;
            skip = 0;
        }
    }

    /// Copies `data` into the buffer from byte `at`; what does not fit is left out.
    pub fn copy_from(&mut self, at: usize, data: &[u8]) {
        self.each_part(at, data.len(), |piece, start, part| match piece {
            Piece::Owned(bytes) => bytes[start..start + part.len()].copy_from_slice(&data[part]),
            Piece::Guest(list) => drop(list.copy_from_slice(start as u64, &data[part])),
        });
    }

    /// Copies bytes from `at` on into `out`; what the buffer does not have stays as it was.
    pub fn copy_to(&self, at: usize, out: &mut [u8]) {
        let (mut skip, mut done) = (at, 0);
        for piece in self.pieces() {
            let have = piece.len();
            if skip >= have {
                skip -= have;
                continue;
            }
            let count = (have - skip).min(out.len() - done);
            let out = &mut out[done..done + count];
            match piece {
                Piece::Owned(bytes) => out.copy_from_slice(&bytes[skip..skip + count]),
                Piece::Guest(list) => drop(list.copy_to_slice(skip as u64, out)),
            }
            done += count;
            skip = 0;
        }
    }

    /// Sets every byte to `value`.
    pub fn fill(&mut self, value: u8) {
        for piece in self.pieces_mut() {
            match piece {
                Piece::Owned(bytes) => bytes.fill(value),
                Piece::Guest(list) => drop(list.fill(0, list.len(), value)),
            }
        }
    }

    /// The memory for the kernel: valid, and at these addresses, until the buffer is dropped, split or joined. After the
    /// kernel wrote into it, call [`Buffer::mark_filled`].
    pub fn iovecs(&mut self) -> Vec<libc::iovec> {
        let mut iovecs = Vec::with_capacity(1);
        for piece in self.pieces_mut() {
            match piece {
                Piece::Owned(bytes) => {
                    iovecs.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
                }
                Piece::Guest(list) => iovecs.extend_from_slice(list.iovecs()),
            }
        }
        iovecs
    }

    /// Tells the guest's dirty log that the kernel wrote into the buffer.
    pub fn mark_filled(&self) {
        for piece in self.pieces() {
            if let Piece::Guest(list) = piece {
                let _ = list.mark_written(0, list.len());
            }
        }
    }

    /// True when every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.pieces().iter().all(|piece| match piece {
            Piece::Owned(bytes) => bytes_are_zero(bytes),
            Piece::Guest(list) => {
                let mut copy = vec![0; piece.len()];
                list.copy_to_slice(0, &mut copy).is_some() && bytes_are_zero(&copy)
            }
        })
    }

    /// True when every run of memory starts at and has a length of a multiple of `align`.
    pub fn is_aligned(&self, align: usize) -> bool {
        let fits = |address: usize, len: usize| address.is_multiple_of(align) && len.is_multiple_of(align);
        self.pieces().iter().all(|piece| match piece {
            Piece::Owned(bytes) => fits(bytes.as_ptr().addr(), bytes.len()),
            Piece::Guest(list) => list.iovecs().iter().all(|run| fits(run.iov_base.addr(), run.iov_len)),
        })
    }

    /// Checks that the buffer has exactly `len` bytes.
    pub fn expect_len(&self, len: u64) -> Result<()> {
        if self.len() as u64 == len {
            return Ok(());
        }
        Err(DiskError::new(
            ErrorKind::InvalidInput,
            "start the request",
            format!("its buffer has {} bytes, its range {len}", self.len()),
        ))
    }
}

fn bytes_are_zero(data: &[u8]) -> bool {
    let mut chunks = data.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && data.chunks_exact(64).remainder().iter().all(|byte| *byte == 0)
}

impl From<BytesMut> for Buffer {
    fn from(bytes: BytesMut) -> Self {
        Self { pieces: Pieces::One(Piece::Owned(bytes)) }
    }
}

impl From<ScatterList> for Buffer {
    fn from(list: ScatterList) -> Self {
        Self { pieces: Pieces::One(Piece::Guest(list)) }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(data: Vec<u8>) -> Self {
        Self::from(BytesMut::from(bytes::Bytes::from(data)))
    }
}

impl FromIterator<Piece> for Buffer {
    fn from_iter<T: IntoIterator<Item = Piece>>(pieces: T) -> Self {
        Self::from_pieces(pieces.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_guest_memory::{GuestMemory, GuestRange};

    #[test]
    fn cut_and_glued_without_moving() {
        let mut buffer = Buffer::copy_of(&(0..=255).cycle().take(8192).collect::<Vec<u8>>());
        let address = buffer.as_slice().unwrap().as_ptr();
        let mut rest = buffer.split_off(512);
        let tail = rest.split_off(4096);
        assert_eq!((buffer.len(), rest.len(), tail.len()), (512, 4096, 3584));
        buffer.append(rest);
        buffer.append(tail);
        assert_eq!(buffer.as_slice().unwrap().as_ptr(), address);
        assert_eq!(buffer.to_vec()[8191], 255);
    }

    #[test]
    fn vectored_copy_split_and_zero_test() {
        let pieces = [(1u8, 10), (2, 20), (3, 30)];
        let mut buffer: Buffer =
            pieces.map(|(value, len)| Piece::Owned(vec![value; len].as_slice().into())).into_iter().collect();
        buffer.copy_from(5, &[9; 10]);
        let mut out = [0; 12];
        buffer.copy_to(4, &mut out);
        assert_eq!(out, [1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 2]);
        let rest = buffer.split_off(30);
        assert_eq!((buffer.len(), rest.len()), (30, 30));
        let mut zero = Buffer::zeroed(200);
        assert!(zero.is_zero());
        zero.copy_from(199, &[1]);
        assert!(!zero.is_zero());
        assert!(Buffer::zeroed(1024).is_aligned(512));
    }

    #[test]
    fn guest_memory_is_split_copied_and_logged() {
        let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
        memory.dirty().enable();
        let ranges = [GuestRange { gpa: 0x1000, len: 0x1000 }, GuestRange { gpa: 0x8000, len: 0x1000 }];
        let mut buffer = Buffer::from(memory.scatter_list(ranges).unwrap());
        let mut rest = buffer.split_off(0x1800);
        rest.copy_from(0, &[5; 0x800]);
        buffer.append(rest);
        assert_eq!((buffer.len(), buffer.iovecs().len(), buffer.is_zero()), (0x2000, 3, false));
        let mut byte = [0];
        memory.read(0x8800, &mut byte).unwrap();
        assert_eq!(byte, [5]);
        buffer.mark_filled();
        assert_eq!(memory.dirty().harvest_ranges(), [1..2, 8..9]);
        assert!(buffer.is_aligned(512) && buffer.as_slice().is_none());
    }
}
