//! Connection numbers of hypercalls, and protocol versions.

/// Where guests post and signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// Messages of every version; first contact before 5.0.
    pub const MESSAGES: ConnectionId = ConnectionId(1);
    /// The shared event of guests that ignore dedicated interrupts. Unused: every offer has its own.
    pub const SHARED_EVENT: ConnectionId = ConnectionId(2);
    /// First contact from 5.0 on, and the messages after it.
    pub const MESSAGES_V5: ConnectionId = ConnectionId(4);
}

/// The connection by which a guest signals channel `relid`: the number that real hosts use (relid, SINT 2).
pub const fn event_connection(relid: u32) -> ConnectionId {
    ConnectionId(relid | (crate::SINT as u32) << 12)
}

/// A protocol version: major in the upper half, minor in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// 2.4: Windows Server 2012.
    pub const V2_4: Version = Version(0x0002_0004);
    /// 3.0: Windows Server 2012 R2; adds Unload.
    pub const V3_0: Version = Version(0x0003_0000);
    /// 4.0: Windows Server 2016; adds sockets.
    pub const V4_0: Version = Version(0x0004_0000);
    /// 4.1: adds ModifyChannel.
    pub const V4_1: Version = Version(0x0004_0001);
    /// 5.0: contact on connection 4, and the host names the connection for what follows.
    pub const V5_0: Version = Version(0x0005_0000);
    /// 5.1.
    pub const V5_1: Version = Version(0x0005_0001);
    /// 5.2.
    pub const V5_2: Version = Version(0x0005_0002);
    /// 5.3: ModifyChannel is answered.
    pub const V5_3: Version = Version(0x0005_0003);

    /// Whether we speak it.
    pub fn is_supported(self) -> bool {
        const KNOWN: [Version; 8] = [
            Version::V2_4,
            Version::V3_0,
            Version::V4_0,
            Version::V4_1,
            Version::V5_0,
            Version::V5_1,
            Version::V5_2,
            Version::V5_3,
        ];
        KNOWN.contains(&self)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}
