//! [`VlanList`]: VLANs as people write them, `10,20-29`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A set of VLANs, 1 to 4094, in ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VlanList(Vec<(u16, u16)>);

/// Why a text is no such set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no list of VLANs: write numbers from 1 to 4094 and ranges, like 10,20-29")]
pub struct VlanListError(String);

impl VlanList {
    /// Every VLAN.
    pub fn all() -> VlanList {
        VlanList(vec![(1, 4094)])
    }

    /// The VLANs in it.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|&(from, to)| from..=to)
    }
}

impl FromStr for VlanList {
    type Err = VlanListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || VlanListError(text.chars().take(60).collect());
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse().ok().filter(|vlan| (1..=4094).contains(vlan));
            let (from, to) = (number(from).ok_or_else(error)?, number(to).ok_or_else(error)?);
            if from > to || ranges.len() >= 4094 {
                return Err(error());
            }
            ranges.push((from, to));
        }
        Ok(VlanList(ranges))
    }
}

impl fmt::Display for VlanList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

impl TryFrom<String> for VlanList {
    type Error = VlanListError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VlanList> for String {
    fn from(list: VlanList) -> String {
        list.to_string()
    }
}
