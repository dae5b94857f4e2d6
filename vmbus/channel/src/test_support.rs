//! For tests of devices: the guest's side of a channel, without a bus.

use crate::{Channel, ChannelHost, ChannelParts, Gpadl, GpadlTable, Packet};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_vmbus_protocol::{Descriptor, Outgoing, USER_BYTES, Version, ring};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a device did to its channel's host.
#[derive(Debug, Default)]
pub struct FakeHost {
    /// Signals to the guest.
    pub signals: AtomicU32,
    /// [`Channel::wake`] calls.
    pub wakes: AtomicU32,
    /// Sub-channels that the device granted.
    pub sub_channels: AtomicU32,
}

impl ChannelHost for FakeHost {
    fn signal_guest(&self) {
        self.signals.fetch_add(1, Ordering::SeqCst);
    }
    fn wake_device(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
    }
    fn grant_sub_channels(&self, count: u16) -> u16 {
        self.sub_channels.store(count.into(), Ordering::SeqCst);
        count
    }
}

/// A guest's driver with rings of `pages` pages each at `base` in guest memory: it writes packets like a guest, and reads
/// what the device sent.
pub struct GuestChannel {
    memory: GuestMemory,
    base: u64,
    pages: u32,
    /// What the device did.
    pub host: Arc<FakeHost>,
    /// Give GPADLs to the device here.
    pub gpadls: GpadlTable,
}

impl GuestChannel {
    /// Rings at `base`, empty.
    ///
    /// # Panics
    /// When they are not in RAM.
    pub fn new(memory: &GuestMemory, base: u64, pages: u32) -> GuestChannel {
        memory.fill(base, u64::from(pages) * 2 * PAGE_SIZE, 0).expect("rings in RAM");
        GuestChannel::over(memory, base, pages)
    }

    /// Rings that are there already.
    pub fn over(memory: &GuestMemory, base: u64, pages: u32) -> GuestChannel {
        GuestChannel { memory: memory.clone(), base, pages, host: Arc::default(), gpadls: GpadlTable::default() }
    }

    /// The GPADL of both rings.
    ///
    /// # Panics
    /// When they are not in RAM.
    pub fn rings(&self) -> Gpadl {
        let first = self.base / PAGE_SIZE;
        let pages = (first..first + 2 * u64::from(self.pages)).collect();
        Gpadl::new(self.memory.clone(), 2 * self.pages * PAGE_SIZE as u32, 0, pages).expect("rings in RAM")
    }

    /// The device's side of the channel.
    ///
    /// # Panics
    /// When the rings are broken already.
    pub fn open(&self, index: u16, log: &Arc<GuestLog>, restored: bool) -> Channel {
        self.try_open(index, log, restored).expect("rings that were just made")
    }

    /// The device's side of the channel, if the rings are good.
    pub fn try_open(&self, index: u16, log: &Arc<GuestLog>, restored: bool) -> Option<Channel> {
        let parts = ChannelParts {
            index,
            version: Version::V5_3,
            user_data: [0; USER_BYTES],
            restored,
            rings: self.rings(),
            downstream_page: self.pages,
            gpadls: self.gpadls.clone(),
            host: self.host.clone(),
            log: log.clone(),
        };
        Channel::new(parts).ok()
    }

    /// Guest address of a control field of the guest-to-host ring (0) or the other one (1).
    pub fn control(&self, which: u64, field: u64) -> u64 {
        self.base + which * u64::from(self.pages) * PAGE_SIZE + field
    }

    fn size(&self) -> u32 {
        (self.pages - 1) * PAGE_SIZE as u32
    }

    fn read(&self, field: u64) -> u32 {
        self.memory.read_u32(self.base + field).expect("rings in RAM")
    }

    fn downstream(&self, field: u64) -> u64 {
        self.control(1, field)
    }

    /// Sends an in-band packet. The guest's signal is up to the test: call `signalled`.
    pub fn send(&self, transaction: u64, wants_completion: bool, payload: &[u8]) {
        let mut bytes = Vec::new();
        let packet = Outgoing::InBand { transaction, wants_completion, payload };
        let _ = packet.encode(self.read(ring::WRITE_INDEX), &mut bytes);
        self.put(&bytes);
    }

    /// Answers a packet of the device.
    pub fn complete(&self, transaction: u64, payload: &[u8]) {
        let mut bytes = Vec::new();
        let _ = Outgoing::Completion { transaction, payload }.encode(self.read(ring::WRITE_INDEX), &mut bytes);
        self.put(&bytes);
    }

    /// Sends a GPA-direct packet with one range: `len` bytes, `offset` into the first of `pages` (page numbers).
    pub fn send_pages(&self, transaction: u64, len: u32, offset: u32, pages: &[u64], payload: &[u8]) {
        let mut body = Vec::new();
        body.extend([0; 4]);
        body.extend(1u32.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(offset.to_le_bytes());
        pages.iter().for_each(|page| body.extend(page.to_le_bytes()));
        let head = body.len();
        body.extend(payload);
        let mut bytes = Vec::new();
        let packet = Outgoing::InBand { transaction, wants_completion: true, payload: &body };
        let _ = packet.encode(self.read(ring::WRITE_INDEX), &mut bytes);
        bytes[0] = 9;
        bytes[2..4].copy_from_slice(&((Descriptor::LEN + head) as u16 / 8).to_le_bytes());
        self.put(&bytes);
    }

    /// Writes any bytes as the next packet and moves the write index.
    ///
    /// # Panics
    /// When the ring has no room.
    pub fn put(&self, bytes: &[u8]) {
        let (size, write) = (self.size(), self.read(ring::WRITE_INDEX));
        assert!(self.has_room(bytes.len() as u32), "the guest's ring is full");
        for (at, byte) in bytes.iter().enumerate() {
            let at = (write + at as u32) % size;
            self.memory.write(self.base + ring::DATA + u64::from(at), &[*byte]).expect("rings in RAM");
        }
        self.memory
            .write_u32(self.base + ring::WRITE_INDEX, (write + bytes.len() as u32) % size)
            .expect("rings in RAM");
    }

    /// Whether the ring to the device is sound and has room for `len` bytes.
    pub fn has_room(&self, len: u32) -> bool {
        let (size, write, read) = (self.size(), self.read(ring::WRITE_INDEX), self.read(ring::READ_INDEX));
        write < size && read < size && len < size - (write + size - read) % size
    }

    /// The next packet from the device; `None` also when the ring is broken.
    pub fn try_receive(&self) -> Option<Packet> {
        let field = |field| self.memory.read_u32(self.downstream(field)).expect("rings in RAM");
        let sound = [ring::READ_INDEX, ring::WRITE_INDEX].iter().all(|index| {
            let index = field(*index);
            index < self.size() && index.is_multiple_of(8)
        });
        let mut packet = Packet::default();
        packet.bytes = sound.then(|| self.packet_bytes(false)).flatten()?;
        packet.parse().ok().map(|()| packet)
    }

    /// The next packet from the device, whole (descriptor and all), without its trailer.
    ///
    /// # Panics
    /// When the device wrote something that is no packet.
    pub fn receive_raw(&self) -> Option<Vec<u8>> {
        self.packet_bytes(true)
    }

    fn packet_bytes(&self, strict: bool) -> Option<Vec<u8>> {
        let field = |field| self.memory.read_u32(self.downstream(field)).expect("rings in RAM");
        let (size, read, write) = (self.size(), field(ring::READ_INDEX), field(ring::WRITE_INDEX));
        if read == write {
            return None;
        }
        let byte = |at: u32| {
            let at = u64::from((read + at) % size);
            self.memory.read_u8(self.downstream(ring::DATA) + at).expect("rings in RAM")
        };
        let head: [u8; Descriptor::LEN] = std::array::from_fn(|at| byte(at as u32));
        let len = Descriptor::read(&head).len as u32;
        let whole = len + ring::TRAILER <= (write + size - read) % size;
        if strict {
            assert!(whole, "a packet of {len} bytes");
            let trailer: [u8; 8] = std::array::from_fn(|at| byte(len + at as u32));
            assert_eq!(u64::from_le_bytes(trailer) >> 32, u64::from(read), "the trailer");
        } else if !whole {
            return None;
        }
        let packet = (0..len).map(byte).collect();
        let next = (read + len + ring::TRAILER) % size;
        self.memory.write_u32(self.downstream(ring::READ_INDEX), next).expect("rings in RAM");
        Some(packet)
    }

    /// The next packet from the device.
    ///
    /// # Panics
    /// When the device wrote something that is no packet.
    pub fn receive(&self) -> Option<Packet> {
        let mut packet = Packet::default();
        packet.bytes = self.receive_raw()?;
        packet.parse().expect("a good packet");
        Some(packet)
    }
}
