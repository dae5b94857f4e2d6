//! VLANs of a port: which it sends into, which reach it, and with which tag.

use bulkhead_packets::VlanTag;

/// VLANs 0 to 4094; 0 stands for untagged frames.
pub const VLANS: u16 = 4095;

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// No VLAN.
    pub fn none() -> VlanSet {
        VlanSet(Box::new([0; 64]))
    }

    /// Every VLAN, 1 to 4094.
    pub fn all() -> VlanSet {
        (1..VLANS).collect()
    }

    /// Whether `vlan` is in it.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        self.0[usize::from(vlan >> 6) & 63] >> (vlan & 63) & 1 != 0
    }

    /// Adds a VLAN.
    pub fn insert(&mut self, vlan: u16) {
        self.0[usize::from(vlan >> 6) & 63] |= 1 << (vlan & 63);
    }
}

impl FromIterator<u16> for VlanSet {
    fn from_iter<T: IntoIterator<Item = u16>>(vlans: T) -> Self {
        let mut set = VlanSet::none();
        vlans.into_iter().for_each(|vlan| set.insert(vlan));
        set
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..VLANS).filter(|&vlan| self.contains(vlan))).finish()
    }
}

/// How a port deals with VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// Sends and receives untagged, in one VLAN; 0 is the untagged network.
    Access(u16),
    /// Sends and receives tagged; untagged frames are in `native`.
    Trunk {
        /// VLAN of untagged frames.
        native: u16,
        /// The others that may pass.
        allowed: VlanSet,
    },
    /// Private VLAN: talks to promiscuous ports only.
    Isolated {
        /// The VLAN of the promiscuous ports.
        primary: u16,
        /// The one that its own frames carry on a trunk.
        secondary: u16,
    },
    /// Private VLAN: talks to promiscuous ports and to its own community.
    Community {
        /// The VLAN of the promiscuous ports.
        primary: u16,
        /// The community.
        secondary: u16,
    },
    /// Private VLAN: talks to everybody in it.
    Promiscuous {
        /// Its own VLAN.
        primary: u16,
        /// Those of the isolated and community ports.
        secondary: VlanSet,
    },
}

impl VlanMode {
    /// Everything, untagged frames in the untagged network: what uplinks do unless told otherwise.
    pub fn trunk_of_all() -> VlanMode {
        VlanMode::Trunk { native: 0, allowed: VlanSet::all() }
    }

    /// The VLAN of a frame that the port sends with `tag`; `None` if it may not.
    #[inline]
    pub(crate) fn classify(&self, tag: Option<VlanTag>) -> Option<u16> {
        let tagged = tag.map_or(0, VlanTag::id);
        match self {
            // A tag of VLAN 0 carries a priority only.
            VlanMode::Access(vlan) => (tagged == 0).then_some(*vlan),
            VlanMode::Trunk { native, allowed } => match tagged {
                0 => Some(*native),
                vlan => allowed.contains(vlan).then_some(vlan),
            },
            VlanMode::Isolated { secondary, .. } | VlanMode::Community { secondary, .. } => {
                (tagged == 0).then_some(*secondary)
            }
            VlanMode::Promiscuous { primary, .. } => (tagged == 0).then_some(*primary),
        }
    }

    /// Whether a frame of `vlan` may reach the port.
    #[inline]
    pub(crate) fn admits(&self, vlan: u16) -> bool {
        match self {
            VlanMode::Access(own) => vlan == *own,
            VlanMode::Trunk { native, allowed } => vlan == *native || allowed.contains(vlan),
            VlanMode::Isolated { primary, .. } => vlan == *primary,
            VlanMode::Community { primary, secondary } => vlan == *primary || vlan == *secondary,
            VlanMode::Promiscuous { primary, secondary } => vlan == *primary || secondary.contains(vlan),
        }
    }

    /// The tag with which a frame of `vlan`, which came with `tag`, leaves through the port. The priority stays.
    #[inline]
    pub(crate) fn tag(&self, vlan: u16, tag: Option<VlanTag>) -> Option<VlanTag> {
        match self {
            VlanMode::Trunk { native, .. } if vlan != *native => Some(tag.unwrap_or(VlanTag::new(0)).with_id(vlan)),
            _ => None,
        }
    }

    /// The VLANs that share the addresses of another: secondary ones, with their primary.
    pub(crate) fn secondaries(&self) -> Vec<(u16, u16)> {
        match self {
            VlanMode::Isolated { primary, secondary } | VlanMode::Community { primary, secondary } => {
                vec![(*secondary, *primary)]
            }
            VlanMode::Promiscuous { primary, secondary } => {
                (1..VLANS).filter(|&vlan| secondary.contains(vlan)).map(|vlan| (vlan, *primary)).collect()
            }
            VlanMode::Access(_) | VlanMode::Trunk { .. } => Vec::new(),
        }
    }
}
