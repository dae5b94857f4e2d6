//! Messages of synthetic video: pipe header {u32 1, u32 size}, then {u32 type, u32 size of type, size and body}, then the body.

/// Bytes in front of the body.
const HEADER: usize = 16;
const PIPE_DATA: u32 = 1;

const VERSION_REQUEST: u32 = 1;
const VERSION_RESPONSE: u32 = 2;
const VRAM_LOCATION: u32 = 3;
const VRAM_LOCATION_ACK: u32 = 4;
const SITUATION: u32 = 5;
const SITUATION_ACK: u32 = 6;
const POINTER_POSITION: u32 = 7;
const POINTER_SHAPE: u32 = 8;
const FEATURE_CHANGE: u32 = 9;
const DIRTY: u32 = 10;
const RESOLUTION_REQUEST: u32 = 13;
const RESOLUTION_RESPONSE: u32 = 14;

/// What the guest shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Situation {
    /// The picture is on.
    pub active: bool,
    /// Where it begins in video memory.
    pub offset: u32,
    /// Bits of a pixel.
    pub depth: u8,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from row to row.
    pub pitch: u32,
}

/// A part of the picture: first and last-plus-one pixel in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Left edge.
    pub x1: i32,
    /// Upper edge.
    pub y1: i32,
    /// Behind the right edge.
    pub x2: i32,
    /// Behind the lower edge.
    pub y2: i32,
}

impl Area {
    /// The least area that has both in it.
    pub fn with(self, other: Area) -> Area {
        Area {
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
            x2: self.x2.max(other.x2),
            y2: self.y2.max(other.y2),
        }
    }
}

/// A message of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromGuest {
    /// The version that it wants to speak: `minor << 16 | major`.
    Version(u32),
    /// Where its frame buffer is.
    VramLocation {
        /// To be sent back.
        context: u64,
        /// Guest address, if it says one.
        gpa: Option<u64>,
    },
    /// What it shows.
    Situation {
        /// To be sent back.
        context: u64,
        /// Of the first output.
        output: Situation,
    },
    /// Which resolutions are there?
    Resolutions {
        /// How many it takes.
        most: u8,
    },
    /// The picture has changed here; the union of all areas.
    Dirty(Option<Area>),
    /// About the pointer, which the guest draws itself.
    Pointer,
}

/// Why a message cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Shorter than its type needs.
    #[error("a message of {len} bytes is too short for its type")]
    Short {
        /// Its length.
        len: usize,
    },
    /// No type that guests send.
    #[error("a message of type {kind} does not come from guests")]
    Kind {
        /// Its type.
        kind: u32,
    },
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], MessageError> {
        let field = self.0.get(at..at + N).and_then(|field| field.first_chunk());
        field.copied().ok_or(MessageError::Short { len: self.0.len() })
    }

    fn u32(&self, at: usize) -> Result<u32, MessageError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, MessageError> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn u8(&self, at: usize) -> Result<u8, MessageError> {
        self.array(at).map(u8::from_le_bytes)
    }
}

/// Reads a message.
///
/// # Errors
/// [`MessageError`].
pub fn read(bytes: &[u8]) -> Result<FromGuest, MessageError> {
    let fields = Fields(bytes);
    let kind = fields.u32(8)?;
    Ok(match kind {
        VERSION_REQUEST => FromGuest::Version(fields.u32(HEADER)?),
        VRAM_LOCATION => {
            let gpa = (fields.u8(HEADER + 8)? != 0).then(|| fields.u64(HEADER + 9)).transpose()?;
            FromGuest::VramLocation { context: fields.u64(HEADER)?, gpa }
        }
        SITUATION => {
            let context = fields.u64(HEADER)?;
            let mut output = Situation::default();
            if fields.u8(HEADER + 8)? > 0 {
                output = Situation {
                    active: fields.u8(HEADER + 9)? != 0,
                    offset: fields.u32(HEADER + 10)?,
                    depth: fields.u8(HEADER + 14)?,
                    width: fields.u32(HEADER + 15)?,
                    height: fields.u32(HEADER + 19)?,
                    pitch: fields.u32(HEADER + 23)?,
                };
            }
            FromGuest::Situation { context, output }
        }
        RESOLUTION_REQUEST => FromGuest::Resolutions { most: fields.u8(HEADER)? },
        DIRTY => {
            let mut union: Option<Area> = None;
            for index in 0..usize::from(fields.u8(HEADER + 1)?) {
                let edge = |edge: usize| fields.u32(HEADER + 2 + 16 * index + 4 * edge).map(u32::cast_signed);
                let area = Area { x1: edge(0)?, y1: edge(1)?, x2: edge(2)?, y2: edge(3)? };
                union = Some(union.map_or(area, |union| union.with(area)));
            }
            FromGuest::Dirty(union)
        }
        POINTER_POSITION | POINTER_SHAPE => FromGuest::Pointer,
        kind => return Err(MessageError::Kind { kind }),
    })
}

fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = 8 + body.len() as u32;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    for word in [PIPE_DATA, len, kind, len] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

/// Whether a version is spoken; there is one output.
pub fn version_response(version: u32, accepted: bool) -> Vec<u8> {
    let mut body = version.to_le_bytes().to_vec();
    body.extend([u8::from(accepted), 1]);
    message(VERSION_RESPONSE, &body)
}

/// The frame buffer's place is known.
pub fn vram_location_ack(context: u64) -> Vec<u8> {
    message(VRAM_LOCATION_ACK, &context.to_le_bytes())
}

/// The shape is known.
pub fn situation_ack(context: u64) -> Vec<u8> {
    message(SITUATION_ACK, &context.to_le_bytes())
}

/// The guest is to say what it draws and what it shows; its pointer it draws itself.
pub fn feature_change() -> Vec<u8> {
    message(FEATURE_CHANGE, &[1, 0, 0, 1])
}

/// The resolutions, of which number `preferred` is the one to use. No EDID.
pub fn resolutions(list: &[(u16, u16)], preferred: u8) -> Vec<u8> {
    let mut body = vec![0; 128];
    body.extend([list.len() as u8, preferred, 0]);
    for (width, height) in list {
        body.extend(width.to_le_bytes());
        body.extend(height.to_le_bytes());
    }
    message(RESOLUTION_RESPONSE, &body)
}
