//! Writing a frame to where it goes, in the form that the receiver takes.

use super::DataPlane;
use super::end::{HEADER, Head, Link};
use bulkhead_packets::{
    Checksum, Direction, FrameMeta, MacAddress, SegmentKind, VlanTag, complete_checksum, remove_tag, segments,
};
use bulkhead_port::{AttachOptions, Frame, Producer, RingError};
use bulkhead_switch_core::{DropReason, Egress, PortId};
use bulkhead_uplinks::Uplink;

/// The bytes of a frame behind its head.
pub enum Body<'a> {
    /// In a ring, where its owner may change them.
    Ring(&'a Frame<'a>),
    /// In a buffer of ours.
    Buffer(&'a [u8]),
}

/// What became of a frame at one receiver.
pub enum Delivered {
    /// It has it.
    Yes,
    /// There is no room now.
    Full,
    /// It will not get it.
    No(DropReason),
}

impl Body<'_> {
    /// The first bytes of the frame, as many as `to` takes: those that were judged from the head, the others from here.
    pub fn read(&self, head: &Head, to: &mut [u8]) -> Result<(), RingError> {
        let judged = head.header();
        let at_hand = judged.len().min(to.len());
        to[..at_hand].copy_from_slice(&judged[..at_hand]);
        match self {
            Body::Ring(frame) => frame.read(at_hand, &mut to[at_hand..]),
            Body::Buffer(bytes) => {
                let len = to.len();
                to[at_hand..].copy_from_slice(&bytes[at_hand..len]);
                Ok(())
            }
        }
    }
}

/// Whether a receiver takes the frame as it is.
#[inline]
fn takes(options: AttachOptions, meta: &FrameMeta) -> bool {
    match (meta.checksum, meta.segmentation) {
        (Checksum::Partial { .. }, None) => options.partial_checksum,
        (Checksum::Partial { .. }, Some(how)) if how.kind == SegmentKind::Udp => options.udp_segmentation,
        (Checksum::Partial { .. }, Some(_)) => options.tcp_segmentation,
        _ => true,
    }
}

impl DataPlane {
    /// Writes a frame to one receiver. `tag_in_frame` is to be taken out on the way.
    ///
    /// # Errors
    /// The sender broke its ring; a receiver that did is thrown out.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        egress: &Egress,
        head: &Head,
        body: &Body<'_>,
        tag_in_frame: Option<VlanTag>,
    ) -> Result<Delivered, RingError> {
        let mut meta = head.meta;
        if let Some(tag) = tag_in_frame {
            remove_tag(&mut meta, tag);
        }
        meta.vlan = egress.tag;
        let cut = if tag_in_frame.is_some() { 4 } else { 0 };
        let index = usize::from(egress.port.0);
        let Some(end) = self.ends.get_mut(index) else { return Ok(Delivered::No(DropReason::NoReceiver)) };
        let options = end.options;
        let delivered = match &mut end.link {
            Link::None => return Ok(Delivered::No(DropReason::Disconnected)),
            Link::Ring(ring) if takes(options, &meta) => {
                let sent = send_to_ring(&mut ring.tx, head, body, cut, &meta);
                if matches!(sent, Ok(Delivered::Yes)) && !end.dirty {
                    end.dirty = true;
                    self.dirty.push(egress.port);
                }
                sent
            }
            Link::Ring(_) => self.send_converted(egress.port, head, body, cut, meta),
            Link::Wire(wire) => {
                if let (Body::Buffer(bytes), 0) = (body, cut) {
                    Ok(send_to_wire(&mut *wire.uplink, bytes, meta))
                } else {
                    gather(&mut self.scratch, head, body, cut)?;
                    Ok(send_to_wire(&mut *wire.uplink, &self.scratch, meta))
                }
            }
        };
        match delivered {
            Ok(Delivered::Yes) => {
                let captured = FrameMeta { vlan: egress.tag, ..head.meta };
                self.copy_for_capture(egress.port, Direction::Inbound, &captured, head, body);
                Ok(Delivered::Yes)
            }
            Ok(other) => Ok(other),
            // Only the sender's memory is read, and always inside the frame: what is left is the receiver's doing.
            Err(error) => {
                self.throw_out(egress.port, &error);
                Ok(Delivered::No(DropReason::Disconnected))
            }
        }
    }

    /// Completes or cuts a frame for a receiver that cannot.
    #[cold]
    fn send_converted(
        &mut self,
        port: PortId,
        head: &Head,
        body: &Body<'_>,
        cut: usize,
        mut meta: FrameMeta,
    ) -> Result<Delivered, RingError> {
        gather(&mut self.scratch, head, body, cut)?;
        let end = &mut self.ends[usize::from(port.0)];
        let Link::Ring(ring) = &mut end.link else { return Ok(Delivered::Full) };
        if !end.dirty {
            end.dirty = true;
            self.dirty.push(port);
        }
        if meta.segmentation.is_none() {
            complete_checksum(&mut self.scratch, &mut meta);
            let sent = ring.tx.send(&meta, &[&self.scratch])?;
            return Ok(if sent { Delivered::Yes } else { Delivered::Full });
        }
        let Ok(mut pieces) = segments(&self.scratch, &meta) else {
            return Ok(Delivered::No(DropReason::Uncuttable));
        };
        // All pieces or none. Each repeats the headers and is rounded up, twice the frame is more than that for sane sizes.
        let size = meta.segmentation.map_or(1, |how| usize::from(how.size));
        let needed = self.scratch.len() + (self.scratch.len() / size + 2) * 256;
        if needed > 200_000 {
            return Ok(Delivered::No(DropReason::Uncuttable));
        }
        if (ring.tx.room()? as usize) < needed {
            return Ok(Delivered::Full);
        }
        while let Some(piece_meta) = pieces.next(&mut self.piece) {
            if !ring.tx.send(&piece_meta, &[&self.piece])? {
                return Ok(Delivered::Full);
            }
        }
        Ok(Delivered::Yes)
    }

    /// Makes what was written visible to those who got something.
    pub(super) fn publish(&mut self) {
        while let Some(port) = self.dirty.pop() {
            let end = &mut self.ends[usize::from(port.0)];
            end.dirty = false;
            if let Link::Ring(ring) = &mut end.link
                && let Err(error) = ring.tx.publish()
            {
                self.throw_out(port, &error);
            }
        }
    }

    /// Tells the network behind an uplink that the stations of this switch are behind its new link: a reverse ARP request from each.
    pub(super) fn announce(&mut self, uplink: PortId) {
        let addresses: Vec<(u16, MacAddress)> = self
            .switch
            .addresses()
            .iter()
            .filter(|&(_, _, port, _)| port != uplink)
            .map(|(vlan, mac, _, _)| (vlan, mac))
            .collect();
        let Some(Link::Wire(wire)) = self.ends.get_mut(usize::from(uplink.0)).map(|end| &mut end.link) else { return };
        for (vlan, mac) in addresses {
            let mut frame = [0; 60];
            frame[..6].fill(0xFF);
            frame[6..12].copy_from_slice(&mac.0);
            // Ethertype RARP; Ethernet, IPv4, lengths 6 and 4, request reverse; sender and target are the station.
            frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
            frame[22..28].copy_from_slice(&mac.0);
            frame[32..38].copy_from_slice(&mac.0);
            let meta = FrameMeta { vlan: (vlan != 0).then(|| VlanTag::new(vlan)), ..FrameMeta::default() };
            // One that does not get out is learned when the station next speaks.
            let _ = wire.uplink.send(&frame, meta);
        }
    }
}

/// Copies a frame from ring to ring: judged bytes from the head, the others straight across.
#[inline]
fn send_to_ring(
    to: &mut Producer,
    head: &Head,
    body: &Body<'_>,
    cut: usize,
    meta: &FrameMeta,
) -> Result<Delivered, RingError> {
    let Some(mut slot) = to.reserve(head.len - cut)? else { return Ok(Delivered::Full) };
    let judged = head.header();
    if cut == 0 {
        slot.write(0, judged)?;
    } else {
        slot.write(0, &judged[..12])?;
        slot.write(12, &judged[12 + cut..])?;
    }
    let rest = head.len - judged.len();
    if rest > 0 {
        match body {
            Body::Ring(frame) => slot.copy_from(judged.len() - cut, frame, HEADER, rest)?,
            Body::Buffer(bytes) => slot.write(judged.len() - cut, &bytes[HEADER..])?,
        }
    }
    slot.commit(meta)?;
    Ok(Delivered::Yes)
}

/// Puts a whole frame into one buffer.
fn gather(to: &mut Vec<u8>, head: &Head, body: &Body<'_>, cut: usize) -> Result<(), RingError> {
    to.resize(head.len, 0);
    body.read(head, to)?;
    if cut > 0 {
        to.drain(12..12 + cut);
    }
    Ok(())
}

fn send_to_wire(to: &mut dyn Uplink, frame: &[u8], meta: FrameMeta) -> Delivered {
    match to.send(frame, meta) {
        Ok(()) => Delivered::Yes,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Delivered::Full,
        Err(_) => Delivered::No(DropReason::Uplink),
    }
}
