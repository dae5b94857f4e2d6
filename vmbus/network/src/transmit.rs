//! Frames from the guest to the port.

use bulkhead_guest_memory::{GuestRange, ScatterList};
use bulkhead_packets::{ETHERNET_HEADER, MAX_FRAME};
use bulkhead_vmbus_channel::Packet;

use crate::adapter::NetworkAdapter;
use crate::nvsp::Status;
use crate::offload::{HEADERS, Transmit};
use crate::rndis::{HEADER, PACKET_HEADER, PacketLayout};

/// Packets in one message at most; what INIT said is 8, but a guest may pad.
const MOST_PACKETS: usize = 64;
/// Bytes of per-packet information that are read.
const MOST_INFORMATION: usize = 512;
/// Bytes of a control message at most.
const MOST_CONTROL: u64 = 16 << 10;
/// Room that the port must have before a packet is taken from the guest: what one packet may hold, twice, because a record of the
/// ring does not wrap.
const PORT_ROOM: u32 = 2 * (MAX_FRAME as u32 + 1024);

impl NetworkAdapter {
    /// Whether the port takes another packet. If not, it wakes us when it does. Without a port everything is taken, and lost.
    pub(crate) fn port_has_room(&mut self) -> bool {
        let Some(port) = &mut self.port else { return true };
        let tx = &mut port.ring.tx;
        // False of `wait_for_room`: there is room by now.
        let room = tx.room().and_then(|room| Ok(room >= PORT_ROOM || !tx.wait_for_room()?));
        room.unwrap_or_else(|_| {
            self.port_failed();
            true
        })
    }

    /// Takes the messages of one NVSP packet: a section of the send buffer, if any, followed by guest memory.
    pub(crate) fn rndis(
        &mut self,
        control: bool,
        section: Option<(u32, u32)>,
        packet: &Packet,
    ) -> Result<Status, &'static str> {
        let mut ranges: Vec<GuestRange> = Vec::new();
        if let Some((section, len)) = section {
            let buffer = self.send_buffer.as_ref().ok_or("it names a section of a send buffer that is not there")?;
            ranges.extend(buffer.section(section, len).map_err(|_| "a section that is not in the send buffer")?);
        }
        ranges.extend(packet.data());
        let channel = self.primary().ok_or("frames without a primary channel")?;
        let bytes = channel.scatter_list(&ranges).map_err(|_| "it sends what is not RAM")?;
        if control {
            return self.control_messages(&bytes);
        }
        if !self.session.initialized {
            return Ok(Status::Failure);
        }
        let mut at = 0;
        for _ in 0..MOST_PACKETS {
            // What follows the last message is padding.
            if bytes.len() - at < PACKET_HEADER as u64 {
                return Ok(Status::Success);
            }
            let len = self.frame(&bytes, at)?;
            at = at.saturating_add(len).next_multiple_of(8).min(bytes.len());
        }
        Ok(Status::Success)
    }

    fn control_messages(&mut self, bytes: &ScatterList) -> Result<Status, &'static str> {
        let mut message = vec![0; bytes.len().min(MOST_CONTROL) as usize];
        bytes.copy_to_slice(0, &mut message).ok_or("a control message that is not there")?;
        if message.len() < HEADER {
            return Err("a control message without a header");
        }
        self.control(&message)?;
        Ok(Status::Success)
    }

    /// Sends the frame of the message at `at`. Returns the message's length.
    fn frame(&mut self, bytes: &ScatterList, at: u64) -> Result<u64, &'static str> {
        let mut header = [0; PACKET_HEADER];
        bytes.copy_to_slice(at, &mut header).ok_or("a message that is not there")?;
        let available = usize::try_from(bytes.len() - at).unwrap_or(usize::MAX);
        let layout = PacketLayout::decode(&header, available).ok_or("a malformed RNDIS packet")?;
        let mut info = [0; MOST_INFORMATION];
        let info = info.get_mut(..layout.info_len).ok_or("too much per-packet information")?;
        bytes.copy_to_slice(at + layout.info as u64, info).ok_or("information that is not there")?;
        let wanted = Transmit::decode(info).map_err(|_| "malformed per-packet information")?;
        let len = layout.frame_len;
        if !(ETHERNET_HEADER..=MAX_FRAME).contains(&len) {
            self.counters.send_dropped += 1;
            return Ok(layout.message_len as u64);
        }
        let mut frame = std::mem::take(&mut self.scratch);
        frame.resize(len, 0);
        let copied = bytes.copy_to_slice(at + layout.frame as u64, &mut frame);
        if copied.is_some() {
            self.send_frame(&mut frame, wanted);
        }
        self.scratch = frame;
        copied.map(|()| layout.message_len as u64).ok_or("a frame that is not there")
    }

    fn send_frame(&mut self, frame: &mut [u8], wanted: Transmit) {
        let len = frame.len();
        let meta = wanted.apply(&mut frame[..len.min(HEADERS)], len);
        let (Ok(meta), Some(port)) = (meta, &mut self.port) else {
            self.counters.send_dropped += 1;
            return;
        };
        // A frame beyond the MTU goes out only if it is to be cut.
        let too_long = meta.segmentation.is_none() && len > self.objects.max_frame() as usize + 4;
        if too_long {
            self.counters.send_dropped += 1;
            return;
        }
        match port.ring.tx.send(&meta, &[frame]) {
            Ok(true) => {
                self.counters.sent += 1;
                self.counters.sent_bytes += len as u64;
            }
            Ok(false) | Err(bulkhead_port::RingError::Frame(_)) => self.counters.send_dropped += 1,
            Err(_) => {
                self.counters.send_dropped += 1;
                self.port_failed();
            }
        }
    }
}
