//! A port's turn: its frames are judged and passed on until it has none, its turn is over, or the next one has to wait.

use super::deliver::{Body, Delivered};
use super::end::{HEADER, Head, Link, PATIENCE, Pending, Wire};
use super::{DataPlane, Due};
use bulkhead_packets::Direction;
use bulkhead_port::{PortRing, RingError};
use bulkhead_switch_core::{DropReason, PortId};

/// Frames in a row before others are looked at, however much a port may send.
const BATCH: usize = 256;
/// How long an empty ring is watched before the thread goes to sleep: waking it costs about as much.
const LINGER: u64 = 20_000;
/// When an interface that failed is tried again.
const RETRY: u64 = 100_000_000;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// It is done with, one way or another.
    Yes,
    /// It stays at the head of its port, whose turn ends here.
    Later,
}

impl DataPlane {
    pub(super) fn turn(&mut self, port: PortId) {
        // Taken out, so that the frames in it can be borrowed while others are written to. A frame never goes back to its port.
        let mut link = std::mem::take(&mut self.ends[usize::from(port.0)].link);
        let result = match &mut link {
            Link::None => {
                self.schedule.finish(port);
                Ok(())
            }
            Link::Ring(ring) => self.turn_of_ring(port, ring),
            Link::Wire(wire) => {
                self.turn_of_wire(port, wire);
                Ok(())
            }
        };
        self.ends[usize::from(port.0)].link = link;
        if let Err(error) = result {
            self.throw_out(port, &error);
        }
        self.publish();
    }

    fn turn_of_ring(&mut self, port: PortId, ring: &mut PortRing) -> Result<(), RingError> {
        for _ in 0..BATCH {
            let Some(frame) = ring.rx.peek()? else {
                return self.rest(port, ring);
            };
            let mut head = Head { len: frame.len(), meta: *frame.meta(), header: [0; HEADER] };
            frame.read(0, &mut head.header[..head.len.min(HEADER)])?;
            if self.pass(port, &head, &Body::Ring(&frame))? == Passed::Later {
                return ring.rx.release();
            }
            ring.rx.advance();
        }
        ring.rx.release()
    }

    /// The ring is empty: watch it a little longer, then sleep.
    fn rest(&mut self, port: PortId, ring: &mut PortRing) -> Result<(), RingError> {
        ring.rx.release()?;
        let end = &mut self.ends[usize::from(port.0)];
        if self.now < end.linger_until {
            self.schedule.rotate(port);
        } else if ring.rx.sleep()? {
            self.schedule.finish(port);
        }
        Ok(())
    }

    fn turn_of_wire(&mut self, port: PortId, wire: &mut Wire) {
        for _ in 0..BATCH {
            if wire.held.is_none() {
                match wire.uplink.receive(&mut wire.buffer) {
                    Ok(Some(held)) => wire.held = Some(held),
                    Ok(None) => {
                        self.schedule.finish(port);
                        return self.arm_wire(port, wire);
                    }
                    Err(_) => {
                        // Down or gone; it may come back.
                        self.schedule.finish(port);
                        return self.after(RETRY, Due::Retry(port));
                    }
                }
            }
            let Some((len, meta)) = wire.held else { return };
            let bytes = &wire.buffer[..len];
            let mut head = Head { len, meta, header: [0; HEADER] };
            let at_hand = len.min(HEADER);
            head.header[..at_hand].copy_from_slice(&bytes[..at_hand]);
            match self.pass(port, &head, &Body::Buffer(bytes)) {
                Ok(Passed::Yes) => wire.held = None,
                // Errors are about rings; an uplink's own buffer has none.
                Ok(Passed::Later) | Err(_) => return,
            }
        }
    }

    /// Judges a frame and passes it on.
    ///
    /// # Errors
    /// The sender broke its ring.
    #[inline]
    fn pass(&mut self, from: PortId, head: &Head, body: &Body<'_>) -> Result<Passed, RingError> {
        let index = usize::from(from.0);
        if let Some(pending) = self.ends[index].pending.take() {
            // What was judged is what goes, even if the sender has written over it since.
            if pending.head.len != head.len || pending.head.meta != head.meta {
                return Err(RingError::Broken { what: "a frame was changed while it waited" });
            }
            self.out = pending.out;
            return self.carry_out(from, &pending.head, body, pending.verdict, pending.paid);
        }
        let mut out = std::mem::take(&mut self.out);
        let verdict = self.switch.forward(from, head.header(), head.len, &head.meta, self.now, &mut out);
        self.out = out;
        self.copy_for_capture(from, Direction::Outbound, &head.meta, head, body);
        match verdict {
            Ok(verdict) => self.carry_out(from, head, body, verdict, false),
            Err(_) => Ok(Passed::Yes),
        }
    }

    #[inline]
    fn carry_out(
        &mut self,
        from: PortId,
        head: &Head,
        body: &Body<'_>,
        verdict: bulkhead_switch_core::Verdict,
        mut paid: bool,
    ) -> Result<Passed, RingError> {
        let first = self.out.first().copied();
        if verdict.unicast
            && let Some(egress) = first
            && self.schedule.is_waited_for(egress.port)
        {
            self.schedule.park(from, egress.port);
            return Ok(self.keep(from, head, verdict, paid));
        }
        if !self.schedule.spend(from, head.len) {
            self.schedule.rotate(from);
            return Ok(self.keep(from, head, verdict, paid));
        }
        if !paid && let Err(later) = self.switch.may_send(from, head.len, self.now) {
            self.schedule.refund(from, head.len);
            self.schedule.hold(from);
            self.due.push(std::cmp::Reverse((later, Due::Release(from))));
            return Ok(self.keep(from, head, verdict, paid));
        }
        paid = true;
        self.ends[usize::from(from.0)].linger_until = self.now + LINGER;
        let mut next = 0;
        while let Some(&egress) = self.out.get(next) {
            next += 1;
            if let Err(later) = self.switch.may_receive(egress.port, head.len, self.now) {
                if verdict.unicast && !egress.copy {
                    self.schedule.refund(from, head.len);
                    self.schedule.park(from, egress.port);
                    self.due.push(std::cmp::Reverse((later, Due::Open(egress.port))));
                    return Ok(self.keep(from, head, verdict, paid));
                }
                self.switch.dropped(egress.port, DropReason::ReceiverFull);
                continue;
            }
            let mut delivered = self.deliver(&egress, head, body, verdict.tag_in_frame)?;
            if matches!(delivered, Delivered::Full) && verdict.unicast && !egress.copy {
                if self.wait_for(egress.port) {
                    self.schedule.refund(from, head.len);
                    self.schedule.park(from, egress.port);
                    return Ok(self.keep(from, head, verdict, paid));
                }
                delivered = self.deliver(&egress, head, body, verdict.tag_in_frame)?;
            }
            match delivered {
                Delivered::Yes if egress.copy => {}
                Delivered::Yes => self.switch.delivered(egress.port, head.len),
                Delivered::Full => self.switch.dropped(egress.port, DropReason::ReceiverFull),
                Delivered::No(reason) => self.switch.dropped(egress.port, reason),
            }
        }
        Ok(Passed::Yes)
    }

    #[cold]
    fn keep(&mut self, from: PortId, head: &Head, verdict: bulkhead_switch_core::Verdict, paid: bool) -> Passed {
        let out = std::mem::take(&mut self.out);
        self.ends[usize::from(from.0)].pending = Some(Box::new(Pending { head: *head, verdict, out, paid }));
        Passed::Later
    }

    /// A receiver has no room: whether it is worth waiting for. If not, either there is room by now, or the frame is to be dropped.
    #[cold]
    fn wait_for(&mut self, port: PortId) -> bool {
        let now = self.now;
        let end = &mut self.ends[usize::from(port.0)];
        match &mut end.link {
            Link::None => false,
            Link::Wire(wire) => {
                wire.blocked = true;
                self.arm(port);
                true
            }
            Link::Ring(_) if end.stalled => false,
            Link::Ring(ring) => {
                // At least a tenth of the patience must be left, or waiting is not worth its bookkeeping.
                let mut patience = end.patience;
                if !patience.take(PATIENCE / 10, now) {
                    end.stalled = true;
                    return false;
                }
                match ring.tx.wait_for_room() {
                    Ok(true) => {
                        end.waiting_since = Some(now);
                        end.pending_then = ring.tx.pending().unwrap_or(u32::MAX);
                        self.after(PATIENCE, Due::Impatience(port));
                        true
                    }
                    Ok(false) => false,
                    Err(error) => {
                        self.throw_out(port, &error);
                        false
                    }
                }
            }
        }
    }
}
