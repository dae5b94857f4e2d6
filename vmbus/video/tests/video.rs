//! Synthetic video against a guest's side written from the layouts of the messages.

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_video::{Area, PictureError, SavedVideo, SynthVideo, VideoConfig, VideoMemory};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use parking_lot::Mutex;
use std::sync::Arc;

const WINDOW: u64 = 0xf800_0000;
const LEN: u64 = 8 << 20;

/// Video memory as a part of guest memory that no guest address names.
struct Vram {
    memory: GuestMemory,
    shown: Mutex<Option<u64>>,
}

impl VideoMemory for Vram {
    fn len(&self) -> u64 {
        LEN
    }

    fn show_at(&self, gpa: u64) -> Result<(), String> {
        if gpa < WINDOW {
            return Err("not in the window".into());
        }
        *self.shown.lock() = Some(gpa);
        Ok(())
    }

    fn hide(&self) {
        *self.shown.lock() = None;
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        self.memory.read(1 << 40 | offset, buffer).map_err(|error| error.to_string())
    }
}

struct Vm {
    _clock: VirtualReactor,
    reactor: Reactor,
    memory: GuestMemory,
    guest: GuestChannel,
    log: Arc<GuestLog>,
    vram: Arc<Vram>,
}

fn vm() -> Vm {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, 4 << 20).anonymous(1 << 40, LEN).build().unwrap();
    let log = Arc::new(GuestLog::new(&reactor, "test"));
    let vram = Arc::new(Vram { memory: memory.clone(), shown: Mutex::new(None) });
    Vm { _clock: clock, reactor, guest: GuestChannel::new(&memory, 0x10000, 16), memory, log, vram }
}

impl Vm {
    fn config(&self) -> VideoConfig {
        VideoConfig { preferred: (1024, 768), memory: self.vram.clone(), ram: self.memory.clone() }
    }

    fn send(&self, video: &mut SynthVideo, kind: u32, body: &[u8]) {
        let len = 8 + body.len() as u32;
        let mut bytes: Vec<u8> = [1, len, kind, len].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        bytes.extend(body);
        self.guest.send(0, false, &bytes);
        video.signalled(0);
    }

    /// The body of the next message, which is of this type.
    fn body(&self, kind: u32) -> Vec<u8> {
        let packet = self.guest.receive().expect("a message");
        let payload = packet.payload();
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8), word(4)), (1, kind, word(12)));
        payload[16..8 + word(4) as usize].to_vec()
    }

    /// A driver that has negotiated and put its frame buffer at `gpa`.
    fn driver(&self, gpa: u64) -> SynthVideo {
        let mut video = SynthVideo::new(&self.reactor, self.config());
        video.open(self.guest.open(0, &self.log, false)).unwrap();
        self.send(&mut video, 1, &0x5_0003u32.to_le_bytes());
        assert_eq!(self.body(2), [3, 0, 5, 0, 1, 1]);
        self.send(&mut video, 13, &[64]);
        let list = self.body(14);
        assert_eq!((list[128] as usize, list[129], &list[131..135]), ((list.len() - 131) / 4, 0, &[0, 4, 0, 3][..]));
        let place = [&7u64.to_le_bytes()[..], &[1], &gpa.to_le_bytes()].concat();
        self.send(&mut video, 3, &place);
        assert_eq!(self.body(4), 7u64.to_le_bytes());
        assert_eq!(self.body(9)[0], 1, "the guest is to say what it draws");
        video
    }
}

/// One output: active, offset, depth, width, height, pitch.
fn situation(offset: u32, depth: u8, width: u32, height: u32, pitch: u32) -> Vec<u8> {
    let mut body = 9u64.to_le_bytes().to_vec();
    body.extend([1, 1]);
    body.extend(offset.to_le_bytes());
    body.push(depth);
    [width, height, pitch].iter().for_each(|edge| body.extend(edge.to_le_bytes()));
    body
}

#[test]
fn a_picture_is_read_from_video_memory() {
    let vm = vm();
    let mut video = vm.driver(WINDOW + 0x10_0000);
    assert_eq!(*vm.vram.shown.lock(), Some(WINDOW + 0x10_0000));
    assert!(matches!(video.picture(), Err(PictureError::Off)));
    vm.send(&mut video, 5, &situation(64, 32, 2, 2, 16));
    assert_eq!(vm.body(6), 9u64.to_le_bytes());
    vm.memory.write((1 << 40) + 64, &[1, 2, 3, 0, 4, 5, 6, 0]).unwrap();
    vm.memory.write((1 << 40) + 80, &[7, 8, 9, 0, 10, 11, 12, 0]).unwrap();
    let picture = video.picture().unwrap();
    assert_eq!((picture.width, picture.height), (2, 2));
    assert_eq!(picture.rgb, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
    assert_eq!(picture.to_png().unwrap()[..4], [0x89, b'P', b'N', b'G']);
    assert_eq!(video.take_changes(), Some(Area { x1: 0, y1: 0, x2: 2, y2: 2 }));
    let mut dirty = vec![0, 2];
    [0u32, 0, 1, 1, 1, 1, 2, 2].iter().for_each(|edge| dirty.extend(edge.to_le_bytes()));
    vm.send(&mut video, 10, &dirty);
    assert_eq!(video.take_changes(), Some(Area { x1: 0, y1: 0, x2: 2, y2: 2 }));
    assert_eq!(video.take_changes(), None);
}

#[test]
fn a_frame_buffer_may_lie_in_ram() {
    let vm = vm();
    let mut video = vm.driver(0x20_0000);
    vm.send(&mut video, 5, &situation(0, 16, 3, 1, 6));
    vm.memory.write(0x20_0000, &[0x00, 0xf8, 0xe0, 0x07, 0x1f, 0x00]).unwrap();
    assert_eq!(video.picture().unwrap().rgb, [255, 0, 0, 0, 255, 0, 0, 0, 255]);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let vm = vm();
    let mut video = vm.driver(WINDOW);
    let cases: [(u32, u8, u32, u32, u32); 6] = [
        (0, 32, 100_000, 1, u32::MAX),
        (0, 32, 2, 2, 4),
        (0, 24, 2, 2, 16),
        (0, 32, 0, 2, 16),
        (u32::MAX, 32, 2, 2, 8),
        (0, 32, 1920, 16_384, 7680),
    ];
    for (offset, depth, width, height, pitch) in cases {
        vm.send(&mut video, 5, &situation(offset, depth, width, height, pitch));
        vm.body(6);
        assert!(matches!(video.picture(), Err(PictureError::Shape { .. } | PictureError::Memory { .. })), "{pitch}");
    }
}

#[test]
fn the_picture_survives_save_and_restore_and_ends_with_the_channel() {
    let vm = vm();
    let mut video = vm.driver(WINDOW);
    vm.send(&mut video, 5, &situation(0, 32, 4, 4, 16));
    vm.body(6);
    let before = video.picture().unwrap();
    let state = video.save().unwrap();
    vm.vram.hide();
    let mut video = SynthVideo::restore(&vm.reactor, vm.config(), &state).unwrap();
    assert_eq!(*vm.vram.shown.lock(), Some(WINDOW));
    video.open(vm.guest.open(0, &vm.log, true)).unwrap();
    assert_eq!(video.picture().unwrap(), before);
    video.close(0, QuiesceToken::new(|| {}));
    assert_eq!((*vm.vram.shown.lock(), video.is_active()), (None, false));
}

#[test]
fn the_saved_form_has_not_changed() {
    let saved = SavedVideo {
        ready: true,
        gpa: Some(WINDOW),
        shown: (true, 64, 1024, 768, 4096),
        depth: 32,
        unsent: vec![vec![1, 2].into()],
    };
    let state = SavedState::encode("synthetic-video", 1, &saved).unwrap();
    golden::check("tests/golden/synthetic-video-1.state", state.body());
    let vm = vm();
    assert_eq!(SynthVideo::restore(&vm.reactor, vm.config(), &state).unwrap().save().unwrap(), state);
}
