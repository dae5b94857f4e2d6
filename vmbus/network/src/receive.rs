//! Frames from the port to the guest.

use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_vmbus_channel::Outgoing;

use crate::adapter::NetworkAdapter;
use crate::buffers::Chain;
use crate::nvsp::Reply;
use crate::offload::receive_information;
use crate::rndis::packet_header;

/// Frames in one packet at most.
const BATCH: usize = 16;

/// Frames of one packet, in the making.
#[derive(Default)]
struct Batch {
    channel: usize,
    chain: Chain,
    ranges: Vec<(u32, u32)>,
}

impl NetworkAdapter {
    /// Brings up to `most` frames to the guest. What finds no room waits in the port, so that its sender sees that we are slow.
    pub(crate) fn receive_frames(&mut self, most: usize) {
        let mut batch = Batch::default();
        let mut frame = std::mem::take(&mut self.scratch);
        for turn in 0.. {
            if turn == most {
                if let Some(channel) = self.primary() {
                    channel.wake();
                }
                break;
            }
            match self.peek(&mut frame) {
                Some(meta) => {
                    if !self.receive_frame(&frame, &meta, &mut batch) {
                        break;
                    }
                }
                None => break,
            }
        }
        self.send_batch(&mut batch);
        self.scratch = frame;
        for channel in self.channels.iter_mut().flatten() {
            channel.flush();
        }
        if let Some(port) = &mut self.port
            && port.ring.rx.release().is_err()
        {
            self.port_failed();
        }
    }

    /// Copies the next frame, or asks to be woken by it.
    fn peek(&mut self, frame: &mut Vec<u8>) -> Option<FrameMeta> {
        let port = self.port.as_mut()?;
        let rx = &mut port.ring.rx;
        let mut next = || loop {
            if let Some(next) = rx.peek()? {
                next.read_all(frame)?;
                return Ok(Some(*next.meta()));
            }
            if rx.sleep()? {
                return Ok::<_, bulkhead_port::RingError>(None);
            }
        };
        next().unwrap_or_else(|_| {
            self.port_failed();
            None
        })
    }

    fn advance(&mut self) {
        if let Some(port) = &mut self.port {
            port.ring.rx.advance();
        }
    }

    /// Puts a frame into the receive buffer. False: there is no room, and the frame stays where it is.
    fn receive_frame(&mut self, frame: &[u8], meta: &FrameMeta, batch: &mut Batch) -> bool {
        let destination = MacAddress::from_slice(frame).unwrap_or_default();
        if !self.session.initialized || !self.objects.wants(destination) {
            self.counters.filtered += 1;
            self.advance();
            return true;
        }
        let info = receive_information(meta);
        let Some(buffer) = &self.receive_buffer else { return false };
        if frame.len() > self.objects.max_frame() as usize + 4 {
            self.counters.too_long += 1;
            self.advance();
            return true;
        }
        let free = buffer.free();
        let channel = usize::from(self.objects.rss.channel(frame));
        let channel = if self.channels.get(channel).is_some_and(Option::is_some) { channel } else { 0 };
        if free == 0 || batch.ranges.len() == BATCH || channel != batch.channel {
            self.send_batch(batch);
        }
        if free == 0 || batch.ranges.is_empty() && !self.channel_has_room(channel) {
            return false;
        }
        batch.channel = channel;
        let header = packet_header(info.len(), frame.len());
        let Some(buffer) = &mut self.receive_buffer else { return false };
        match buffer.fill(&[&header, &info, frame], &mut batch.chain) {
            Some(Ok(range)) => batch.ranges.push(range),
            _ => {
                self.fail(0, "its receive buffer cannot be written");
                return false;
            }
        }
        self.counters.received += 1;
        self.counters.received_bytes += frame.len() as u64;
        self.advance();
        true
    }

    /// Whether a channel takes a whole batch; if not, the guest signals when it does.
    fn channel_has_room(&mut self, index: usize) -> bool {
        let ranges = [(0, 0); BATCH];
        let payload = Reply::Rndis { control: false }.encode();
        let longest = Outgoing::TransferPages { transaction: 0, set: 0, ranges: &ranges, payload: &payload }.ring_len();
        self.channels.get_mut(index).and_then(Option::as_mut).is_some_and(|channel| channel.reserve(longest))
    }

    fn send_batch(&mut self, batch: &mut Batch) {
        let Batch { channel: index, chain, ranges } = std::mem::take(batch);
        let (Some(transaction), Some(buffer)) = (chain.transaction(), &self.receive_buffer) else { return };
        let payload = Reply::Rndis { control: false }.encode();
        let packet = Outgoing::TransferPages { transaction, set: buffer.id, ranges: &ranges, payload: &payload };
        let sent = self.channels.get_mut(index).and_then(Option::as_mut).map(|channel| channel.push(packet));
        if !matches!(sent, Some(Ok(()))) {
            // Room was there a moment ago: the guest moved its indices back.
            self.fail(index, "the room in its ring went away");
        }
    }
}
