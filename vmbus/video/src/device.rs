//! The device: negotiation, the place and shape of the frame buffer, and what changed.

use crate::message::{self, Area, FromGuest, Situation};
use crate::picture::{Picture, PictureError};
use crate::saved_state::{KIND, SavedVideo, VERSION};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_info, guest_warn};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, class};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

/// Sizes that are offered beside the preferred one.
const SIZES: [(u16, u16); 6] = [(800, 600), (1024, 768), (1152, 864), (1280, 1024), (1600, 1200), (1920, 1080)];
/// Answers that may wait for room; the guest waits for each one, so there are never many.
const MAX_UNSENT: usize = 16;

/// Memory for the frame buffer, and where the guest sees it.
pub trait VideoMemory: Send + Sync {
    /// Bytes.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows all of it to the guest at an address, and nowhere else.
    ///
    /// # Errors
    /// The address is not in the window for it.
    fn show_at(&self, gpa: u64) -> Result<(), String>;

    /// Takes it away from the guest.
    fn hide(&self);

    /// Reads from it.
    ///
    /// # Errors
    /// Not in it.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), String>;
}

/// How the display is made.
#[derive(Clone)]
pub struct VideoConfig {
    /// The resolution that the guest is to prefer.
    pub preferred: (u16, u16),
    /// Where frame buffers lie that are not in the guest's RAM.
    pub memory: Arc<dyn VideoMemory>,
    /// The guest's RAM.
    pub ram: GuestMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    /// In the video memory, which is shown at this address.
    Window(u64),
    /// In RAM at this address.
    Ram(u64),
}

/// The display.
pub struct SynthVideo {
    log: GuestLog,
    config: VideoConfig,
    channel: Option<Channel>,
    ready: bool,
    place: Place,
    shape: Situation,
    changed: Option<Area>,
    unsent: VecDeque<Vec<u8>>,
}

impl SynthVideo {
    /// Its name in the machine.
    pub const NAME: &str = "synthetic_video";
    /// Address space for the frame buffer, in MiB: what hosts have always given.
    pub const MEGABYTES: u16 = 8;

    /// A display that no driver has opened.
    pub fn new(reactor: &Reactor, config: VideoConfig) -> SynthVideo {
        SynthVideo {
            log: GuestLog::new(reactor, SynthVideo::NAME),
            config,
            channel: None,
            ready: false,
            place: Place::Nowhere,
            shape: Situation::default(),
            changed: None,
            unsent: VecDeque::new(),
        }
    }

    /// The display that was saved.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(reactor: &Reactor, config: VideoConfig, state: &SavedState) -> Result<SynthVideo, SavedStateError> {
        let saved: SavedVideo = state.decode(1..=VERSION)?;
        let mut video = SynthVideo::new(reactor, config);
        video.ready = saved.ready;
        let (active, offset, width, height, pitch) = saved.shown;
        video.shape = Situation { active, offset, depth: saved.depth, width, height, pitch };
        video.unsent = saved.unsent.into_iter().take(MAX_UNSENT).map(Vec::from).collect();
        if let Some(gpa) = saved.gpa {
            video.put_at(gpa);
        }
        Ok(video)
    }

    /// What to offer on the bus.
    pub fn offer() -> Offer {
        let offer = Offer::pipe(SynthVideo::NAME, class::VIDEO, class::VIDEO_INSTANCE);
        Offer { mmio_megabytes: SynthVideo::MEGABYTES, ..offer }
    }

    /// Whether the guest's driver shows something here.
    pub fn is_active(&self) -> bool {
        self.shape.active && self.place != Place::Nowhere
    }

    /// What is on the screen.
    ///
    /// # Errors
    /// [`PictureError`].
    pub fn picture(&self) -> Result<Picture, PictureError> {
        let (memory, ram) = (&self.config.memory, &self.config.ram);
        match self.place {
            Place::Nowhere => Err(PictureError::Off),
            Place::Window(_) => Picture::read(&self.shape, |offset, row| memory.read(offset, row)),
            Place::Ram(gpa) => Picture::read(&self.shape, |offset, row| {
                let at = gpa.checked_add(offset).ok_or("it lies beyond all memory")?;
                ram.read(at, row).map_err(|error| error.to_string())
            }),
        }
    }

    /// What was drawn on since the last call.
    pub fn take_changes(&mut self) -> Option<Area> {
        self.changed.take()
    }

    fn put_at(&mut self, gpa: u64) {
        self.config.memory.hide();
        self.place = match self.config.memory.show_at(gpa) {
            Ok(()) => Place::Window(gpa),
            // Drivers without a window of their own take RAM.
            Err(_) if self.config.ram.check(gpa, 1).is_ok() => Place::Ram(gpa),
            Err(error) => {
                guest_warn!(self.log, "the frame buffer at {gpa:#x} cannot be shown: {error}");
                Place::Nowhere
            }
        };
    }

    fn message(&mut self, payload: &[u8]) {
        let message = match message::read(payload) {
            Ok(message) => message,
            Err(error) => {
                guest_warn!(self.log, "a message is ignored: {error}");
                return;
            }
        };
        let answer = match message {
            FromGuest::Version(version) => {
                let (major, minor) = (version & 0xffff, version >> 16);
                let accepted = major == 3;
                guest_info!(self.log, "synthetic video {major}.{minor}: {accepted}");
                self.ready = accepted;
                message::version_response(version, accepted)
            }
            FromGuest::Resolutions { most } => self.resolutions(most),
            FromGuest::VramLocation { context, gpa } => {
                if let Some(gpa) = gpa {
                    self.put_at(gpa);
                }
                self.answer(message::vram_location_ack(context));
                message::feature_change()
            }
            FromGuest::Situation { context, output } => {
                self.shape = output;
                self.draw(Area { x1: 0, y1: 0, x2: output.width as i32, y2: output.height as i32 });
                message::situation_ack(context)
            }
            FromGuest::Dirty(area) => {
                if let Some(area) = area {
                    self.draw(area);
                }
                return;
            }
            FromGuest::Pointer => return,
        };
        self.answer(answer);
    }

    fn draw(&mut self, area: Area) {
        self.changed = Some(self.changed.map_or(area, |changed| changed.with(area)));
    }

    fn answer(&mut self, answer: Vec<u8>) {
        self.unsent.push_back(answer);
    }

    fn resolutions(&self, most: u8) -> Vec<u8> {
        let fits = |(width, height): (u16, u16)| u64::from(width) * u64::from(height) * 4 <= self.config.memory.len();
        let preferred = self.config.preferred;
        let others = SIZES.into_iter().filter(|size| *size != preferred && fits(*size));
        let list: Vec<_> = std::iter::once(preferred).chain(others).take(usize::from(most.max(1))).collect();
        message::resolutions(&list, 0)
    }

    fn send(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        while let Some(payload) = self.unsent.front() {
            let packet = Outgoing::InBand { transaction: 0, wants_completion: false, payload };
            if channel.send(packet).is_err() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    fn forget(&mut self) {
        self.config.memory.hide();
        (self.ready, self.place, self.shape, self.changed) = (false, Place::Nowhere, Situation::default(), None);
        self.unsent.clear();
    }
}

impl ChannelDevice for SynthVideo {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if !channel.is_restored() {
            self.forget();
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        self.channel = None;
        self.forget();
        drop(quiet);
    }

    fn signalled(&mut self, _index: u16) {
        let mut packet = Packet::default();
        for _ in 0..64 {
            let Some(channel) = &mut self.channel else { return };
            if self.unsent.len() + 2 > MAX_UNSENT || !channel.receive_into(&mut packet) {
                break;
            }
            self.message(packet.payload());
            self.send();
        }
        self.send();
        let more = |channel: &&Channel| channel.has_packets() && self.unsent.len() + 2 <= MAX_UNSENT;
        if let Some(channel) = self.channel.as_ref().filter(more) {
            channel.wake();
        }
    }
}

impl Device for SynthVideo {
    fn name(&self) -> &str {
        SynthVideo::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let Situation { active, offset, depth, width, height, pitch } = self.shape;
        let saved = SavedVideo {
            ready: self.ready,
            gpa: match self.place {
                Place::Nowhere => None,
                Place::Window(gpa) | Place::Ram(gpa) => Some(gpa),
            },
            shown: (active, offset, width, height, pitch),
            depth,
            unsent: self.unsent.iter().cloned().map(Into::into).collect(),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let Situation { active, width, height, depth, .. } = self.shape;
        json!({
            "ready": self.ready, "place": format!("{:x?}", self.place),
            "active": active, "width": width, "height": height, "depth": depth,
        })
    }

    /// The bus closes the channel, and that resets the rest.
    fn reset(&mut self) {}
}
