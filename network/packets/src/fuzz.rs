//! Fuzz target: frames that anybody may send.
#![doc(hidden)]

use crate::{Checksum, Ethernet, FrameMeta, Network, SegmentKind, Segmentation, VlanTag};
use crate::{complete_checksum, insert_tag, remove_tag, segments};

/// Parses, completes and cuts `data[8..]` as a frame, with metadata from the first eight bytes.
pub fn fuzz(data: &[u8]) {
    let Some((head, frame)) = data.split_first_chunk::<8>() else { return };
    let [kind, size, header_len, start, offset, tag, ..] = *head;
    let kind = match kind % 4 {
        0 => None,
        1 => Some(SegmentKind::TcpIpv4),
        2 => Some(SegmentKind::TcpIpv6),
        _ => Some(SegmentKind::Udp),
    };
    let mut meta = FrameMeta {
        checksum: Checksum::Partial { start: start.into(), offset: offset.into() },
        segmentation: kind.map(|kind| Segmentation { kind, size: size.into(), header_len: header_len.into() }),
        vlan: None,
        hash: 0,
    };
    if let Some(ethernet) = Ethernet::parse(frame) {
        let _ = Network::parse(&ethernet, frame);
        if let Some(tag) = ethernet.tag {
            remove_tag(&mut meta.clone(), tag);
        }
    }
    if meta.check(frame.len()).is_err() {
        return;
    }
    if let Ok(mut pieces) = segments(frame, &meta) {
        let mut piece = Vec::new();
        let mut total = 0;
        while let Some(meta) = pieces.next(&mut piece) {
            assert!(meta.check(piece.len()).is_ok(), "a piece is a frame");
            total += 1;
        }
        assert!(total <= frame.len().max(1), "no more pieces than bytes");
    }
    let mut whole = frame.to_vec();
    complete_checksum(&mut whole, &mut meta);
    meta.vlan = Some(VlanTag(tag.into()));
    let _ = insert_tag(&mut meta);
}
