//! What a starter can ask of the guest's own drivers and daemons: integration services, memory, input, sockets.

use serde::{Deserialize, Serialize};

/// Something for the guest. Answers wait for the guest, and come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestRequest {
    /// Shuts the guest's system down in good order. Answer: `done` once it has accepted; that it is off is an event.
    ShutDown {
        /// What it is to do.
        kind: ShutDownKind,
        /// Programs may not object.
        #[serde(default)]
        force: bool,
        /// For the guest's users.
        #[serde(default)]
        message: String,
    },
    /// How the guest is. Answer: `state`.
    State,
    /// Reads all keys of a pool. Answer: `keys`.
    ListKeys {
        /// Which.
        pool: KeyPool,
    },
    /// Reads a key. Answer: `value`.
    ReadKey {
        /// Which pool.
        pool: KeyPool,
        /// Which key.
        key: String,
    },
    /// Writes a key.
    WriteKey {
        /// Which pool.
        pool: KeyPool,
        /// Which key.
        key: String,
        /// What it will be.
        value: String,
    },
    /// Removes a key.
    DeleteKey {
        /// Which pool.
        pool: KeyPool,
        /// Which key.
        key: String,
    },
    /// Copies a file into the guest.
    CopyFile {
        /// The resource that is copied.
        source: String,
        /// The folder in the guest.
        folder: String,
        /// The file's name there.
        name: String,
        /// Replaces a file that is there.
        #[serde(default)]
        overwrite: bool,
        /// Makes folders that are not there.
        #[serde(default)]
        create_folders: bool,
    },
    /// Makes the guest's file systems stand still. They go on with `thaw`, or by themselves after `hold_seconds`.
    Freeze {
        /// After so long.
        hold_seconds: u32,
    },
    /// Lets them go on.
    Thaw,
    /// Offers an integration service, or takes it away. Names: `shutdown`, `time`, `heartbeat`, `kvp`, `vss`, `file-copy`.
    SetService {
        /// Which.
        name: String,
        /// Offer it.
        on: bool,
    },
    /// Keys of the keyboard, one after another.
    Keys {
        /// Which.
        keys: Vec<KeyStroke>,
    },
    /// The pointer moves, or its buttons or wheel are used.
    Pointer {
        /// From left, 0 to 32767.
        x: u16,
        /// From the top, 0 to 32767.
        y: u16,
        /// Left, right, middle, back, forward from bit 0 on.
        #[serde(default)]
        buttons: u8,
        /// Turns of the wheel away from the user.
        #[serde(default)]
        wheel: i16,
    },
    /// Moves the guest's memory towards a size. Answer: `done` at once; the size follows as the guest can.
    SetMemory {
        /// In bytes; absent: as its demand says.
        #[serde(default)]
        bytes: Option<u64>,
    },
    /// Connects to a port of the guest. Answer: `socket`, with the descriptor of a Unix socket; it closes when nobody listens.
    ConnectSocket {
        /// Which.
        port: u32,
    },
    /// Lets programs in the guest connect to a port of the host; each one is an event with a descriptor.
    ListenSocket {
        /// Which.
        port: u32,
        /// Or no more.
        on: bool,
    },
    /// Connects whoever connects at a listening Unix socket, which is a resource, to a port of the guest.
    ServeSocket {
        /// Which port.
        port: u32,
        /// The resource.
        listener: String,
    },
}

/// How a guest goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutDownKind {
    /// It switches itself off.
    PowerOff,
    /// It starts again.
    Restart,
    /// It writes its memory to its disk and switches itself off.
    Hibernate,
}

/// Where keys live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPool {
    /// Written by the host for programs in the guest.
    External,
    /// Written by programs in the guest for the host.
    Guest,
    /// What the guest says about its system.
    Auto,
    /// What the host says about itself.
    AutoExternal,
    /// For the host's own use.
    Internal,
}

/// A key going down or up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStroke {
    /// Its code in scan code set 1, with prefix E0h as E000h + code; Pause is E11Dh.
    pub code: u16,
    /// It goes down.
    pub down: bool,
}

/// What a guest request is answered with, beside `done`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAnswer {
    /// How the guest is.
    State(Box<GuestState>),
    /// Names and values.
    Keys(Vec<(String, String)>),
    /// A value.
    Value(String),
    /// The packet's descriptor is the host's end.
    Socket,
}

/// How the guest is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestState {
    /// `ok`, `lost`, `no contact`; absent when the service is off.
    pub heartbeat: Option<String>,
    /// Services and their state: `off`, `closed`, `negotiating`, `ready` and the version, `refused`.
    pub services: Vec<(String, String)>,
    /// Its memory, if it is dynamic.
    pub memory: Option<GuestMemoryState>,
}

/// Dynamic memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMemoryState {
    /// What the guest has.
    pub assigned: u64,
    /// What it uses.
    pub demand: Option<u64>,
    /// What it has free.
    pub available: Option<u64>,
    /// What it is moved towards.
    pub target: Option<u64>,
    /// What its balloon holds.
    pub ballooned: u64,
    /// What was added while it runs.
    pub hot_added: u64,
}
