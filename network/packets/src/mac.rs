//! [`MacAddress`]: the 48-bit address of a NIC.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address. Shown as Hyper-V shows it, `00-15-5D-01-02-03`; colons and plain digits are read as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no MAC address: expected twelve hexadecimal digits, like 00-15-5D-01-02-03")]
pub struct ParseMacError {
    text: String,
}

impl MacAddress {
    /// All stations.
    pub const BROADCAST: MacAddress = MacAddress([0xFF; 6]);

    /// From the first six bytes of a slice.
    #[inline]
    pub fn from_slice(bytes: &[u8]) -> Option<MacAddress> {
        Some(MacAddress(*bytes.first_chunk::<6>()?))
    }

    /// Whether it means a group of stations (broadcast is one).
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as the low 48 bits of an integer.
    #[inline]
    pub fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}-{b:02X}-{c:02X}-{d:02X}-{e:02X}-{g:02X}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError { text: text.chars().take(40).collect() };
        let separated = match text.len() {
            12 => false,
            17 => true,
            _ => return Err(error()),
        };
        let mut bytes = [0; 6];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let at = if separated { index * 3 } else { index * 2 };
            let digits = text.get(at..at + 2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(digits.ok_or_else(error)?, 16).map_err(|_| error())?;
            if separated && index < 5 && !matches!(text.as_bytes()[at + 2], b'-' | b':') {
                return Err(error());
            }
        }
        Ok(MacAddress(bytes))
    }
}
