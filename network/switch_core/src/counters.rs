//! What a port counts.

/// Why a frame did not go (everywhere).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than its headers, or from a group address.
    Malformed,
    /// The port's cable is out.
    Disconnected,
    /// The source address is not the port's own, and spoofing is off.
    SpoofedMac,
    /// The source address belongs to another port.
    MacInUse,
    /// The port may not send into that VLAN.
    Vlan,
    /// It answers DHCP, and the port may not.
    DhcpGuard,
    /// It is a router advertisement or a redirect, and the port may not.
    RouterGuard,
    /// It claims an IP address that is not the port's.
    ArpGuard,
    /// A rule denies it.
    Acl,
    /// Too many broadcasts.
    Storm,
    /// Nobody is there: the only way to the destination is back through the port that it came from, or not open to it.
    NoReceiver,
    /// Longer than the switch carries.
    TooLong,
    /// The receiver does not drain its ring.
    ReceiverFull,
    /// It has to be cut or summed for a receiver, and its headers make no sense.
    Uncuttable,
    /// The uplink is down or refused it.
    Uplink,
    /// There are more addresses than the table holds; the frame went, but its source was not learned.
    TableFull,
}

impl DropReason {
    /// All of them.
    pub const ALL: [DropReason; 16] = [
        Self::Malformed,
        Self::Disconnected,
        Self::SpoofedMac,
        Self::MacInUse,
        Self::Vlan,
        Self::DhcpGuard,
        Self::RouterGuard,
        Self::ArpGuard,
        Self::Acl,
        Self::Storm,
        Self::NoReceiver,
        Self::TooLong,
        Self::ReceiverFull,
        Self::Uncuttable,
        Self::Uplink,
        Self::TableFull,
    ];

    /// Its name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Disconnected => "disconnected",
            Self::SpoofedMac => "spoofed_mac",
            Self::MacInUse => "mac_in_use",
            Self::Vlan => "vlan",
            Self::DhcpGuard => "dhcp_guard",
            Self::RouterGuard => "router_guard",
            Self::ArpGuard => "arp_guard",
            Self::Acl => "acl",
            Self::Storm => "storm",
            Self::NoReceiver => "no_receiver",
            Self::TooLong => "too_long",
            Self::ReceiverFull => "receiver_full",
            Self::Uncuttable => "uncuttable",
            Self::Uplink => "uplink",
            Self::TableFull => "table_full",
        }
    }
}

/// Counters of a port. `sent` and `received` as the port's owner sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the owner sent.
    pub sent_frames: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Frames that went to the owner.
    pub received_frames: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts a dropped frame.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Frames dropped for that reason: what the owner sent, but `ReceiverFull`, `Uncuttable` and `Uplink` count where the frame
    /// should have gone.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}
