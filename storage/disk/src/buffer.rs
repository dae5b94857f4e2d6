//! I/O memory: a list of uniquely owned pieces at stable addresses.

use crate::{DiskError, ErrorKind, Result};
use bytes::BytesMut;
use std::io::{IoSlice, IoSliceMut};

/// Alignment of buffers that [`Buffer::zeroed`] makes: good for O_DIRECT on every device.
const ALIGN: usize = 4096;

/// Memory of one request: uniquely owned, vectored, at an address that never changes while it is owned.
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
    One(BytesMut),
    Many(Vec<BytesMut>),
}

impl Buffer {
    /// The buffer of requests without payload.
    pub const fn empty() -> Self {
        Self { pieces: Pieces::None }
    }

    /// `len` zero bytes; aligned for direct I/O when `len` is a sector or more.
    pub fn zeroed(len: usize) -> Self {
        if len < 512 {
            return Self::from(BytesMut::zeroed(len));
        }
        let mut bytes = BytesMut::zeroed(len + ALIGN);
        let skip = bytes.as_ptr().align_offset(ALIGN);
        let _ = bytes.split_to(skip);
        bytes.truncate(len);
        Self::from(bytes)
    }

    /// A copy of `data` (aligned).
    pub fn copy_of(data: &[u8]) -> Self {
        let mut buffer = Self::zeroed(data.len());
        buffer.copy_from(0, data);
        buffer
    }

    /// Total bytes.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(BytesMut::len).sum()
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn pieces(&self) -> &[BytesMut] {
        match &self.pieces {
            Pieces::None => &[],
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    fn pieces_mut(&mut self) -> &mut [BytesMut] {
        match &mut self.pieces {
            Pieces::None => &mut [],
            Pieces::One(piece) => std::slice::from_mut(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    fn into_pieces(self) -> Vec<BytesMut> {
        match self.pieces {
            Pieces::None => Vec::new(),
            Pieces::One(piece) => vec![piece],
            Pieces::Many(pieces) => pieces,
        }
    }

    fn from_pieces(mut pieces: Vec<BytesMut>) -> Self {
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
        if let Pieces::One(piece) = &mut self.pieces {
            return Self::from(piece.split_off(at.min(piece.len())));
        }
        let mut keep = std::mem::take(self).into_pieces();
        let mut rest = Vec::new();
        let mut left = at;
        for index in 0..keep.len() {
            let len = keep[index].len();
            if left < len {
                rest = keep.split_off(index);
                if left > 0 {
                    keep.push(rest[0].split_to(left));
                }
                break;
            }
            left -= len;
        }
        *self = Self::from_pieces(keep);
        Self::from_pieces(rest)
    }

    /// Adds `other` behind `self`; pieces that were cut from each other become one again.
    pub fn append(&mut self, other: Self) {
        if other.is_empty() {
            return;
        }
        let mut pieces = std::mem::take(self).into_pieces();
        for piece in other.into_pieces() {
            match pieces.last_mut() {
                // Joining without a copy is possible exactly when both are neighbours in one allocation.
                Some(last) if last.is_empty() => *last = piece,
                Some(last) if last.as_ptr_range().end == piece.as_ptr() => {
                    let whole = std::mem::take(last);
                    *last = join(whole, piece);
                }
                _ => pieces.push(piece),
            }
        }
        *self = Self::from_pieces(pieces);
    }

    /// The bytes, when they are one piece (always so for buffers from [`Buffer::zeroed`]).
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.pieces() {
            [] => Some(&[]),
            [piece] => Some(piece),
            _ => None,
        }
    }

    /// The bytes, when they are one piece.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        match self.pieces_mut() {
            [] => Some(&mut []),
            [piece] => Some(piece),
            _ => None,
        }
    }

    /// All bytes as one vector: free of copies when the buffer is one piece at the start of its allocation.
    pub fn into_vec(self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        self.copy_to(0, &mut out);
        out
    }

    /// The pieces for a vectored write.
    pub fn io_slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces().iter().map(|piece| IoSlice::new(piece)).collect()
    }

    /// The pieces for a vectored read.
    pub fn io_slices_mut(&mut self) -> Vec<IoSliceMut<'_>> {
        self.pieces_mut().iter_mut().map(|piece| IoSliceMut::new(piece)).collect()
    }

    /// Copies `data` into the buffer from byte `at`; what does not fit is left out.
    pub fn copy_from(&mut self, at: usize, mut data: &[u8]) {
        let mut skip = at;
        for piece in self.pieces_mut() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let room = &mut piece[skip..];
            let count = room.len().min(data.len());
            room[..count].copy_from_slice(&data[..count]);
            data = &data[count..];
            skip = 0;
        }
    }

    /// Copies bytes from `at` on into `out`; what the buffer does not have stays as it was.
    pub fn copy_to(&self, at: usize, mut out: &mut [u8]) {
        let mut skip = at;
        for piece in self.pieces() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let have = &piece[skip..];
            let count = have.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&have[..count]);
            out = later;
            skip = 0;
        }
    }

    /// Sets every byte to `value`.
    pub fn fill(&mut self, value: u8) {
        for piece in self.pieces_mut() {
            piece.fill(value);
        }
    }

    /// True when every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.pieces().iter().all(|piece| bytes_are_zero(piece))
    }

    /// True when every piece starts at and has a length of a multiple of `align`.
    pub fn is_aligned(&self, align: usize) -> bool {
        self.pieces()
            .iter()
            .all(|piece| piece.as_ptr().addr().is_multiple_of(align) && piece.len().is_multiple_of(align))
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

fn join(mut first: BytesMut, second: BytesMut) -> BytesMut {
    first.unsplit(second);
    first
}

fn bytes_are_zero(data: &[u8]) -> bool {
    let mut chunks = data.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && data.chunks_exact(64).remainder().iter().all(|byte| *byte == 0)
}

impl From<BytesMut> for Buffer {
    fn from(bytes: BytesMut) -> Self {
        Self { pieces: Pieces::One(bytes) }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(data: Vec<u8>) -> Self {
        // BytesMut takes a vector over without a copy through Bytes only when nobody shares it: nobody does here.
        Self::from(BytesMut::from(bytes::Bytes::from(data)))
    }
}

impl From<Vec<Vec<u8>>> for Buffer {
    fn from(pieces: Vec<Vec<u8>>) -> Self {
        Self::from_pieces(pieces.into_iter().map(|piece| BytesMut::from(bytes::Bytes::from(piece))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(buffer.into_vec()[8191], 255);
    }

    #[test]
    fn vectored_copy_split_and_zero_test() {
        let mut buffer = Buffer::from(vec![vec![1u8; 10], vec![2; 20], vec![3; 30]]);
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
}
