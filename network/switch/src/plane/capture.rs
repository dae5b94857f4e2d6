//! Copies of frames for captures. The data plane only queues them: whoever writes may be slow.

use super::DataPlane;
use super::deliver::Body;
use super::end::Head;
use bulkhead_packets::{Direction, FrameMeta, insert_tag};
use bulkhead_switch_core::PortId;
use rustix::time::{ClockId, clock_gettime};

/// A copy of a frame.
pub struct Captured {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Which way it went, seen from the port.
    pub direction: Direction,
    /// Its first bytes, with its tag in the frame.
    pub bytes: Vec<u8>,
    /// Its length.
    pub len: usize,
}

impl DataPlane {
    /// Copies a frame if `port` is captured. A full queue loses the copy.
    #[inline]
    pub(super) fn copy_for_capture(
        &self,
        port: PortId,
        direction: Direction,
        meta: &FrameMeta,
        head: &Head,
        body: &Body<'_>,
    ) {
        if self.ends[usize::from(port.0)].capture.is_some() {
            self.queue_copy(port, direction, *meta, head, body);
        }
    }

    #[cold]
    fn queue_copy(&self, port: PortId, direction: Direction, mut meta: FrameMeta, head: &Head, body: &Body<'_>) {
        let Some((queue, snap)) = &self.ends[usize::from(port.0)].capture else { return };
        let mut bytes = vec![0; head.len.min(*snap as usize)];
        if body.read(head, &mut bytes).is_err() {
            return;
        }
        let mut len = head.len;
        if let Some(tag) = insert_tag(&mut meta).filter(|_| bytes.len() >= 12) {
            bytes.splice(12..12, tag);
            len += 4;
        }
        let time = clock_gettime(ClockId::Realtime);
        let time = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        let _ = queue.try_send(Captured { time, direction, bytes, len });
    }
}
