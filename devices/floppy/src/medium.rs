//! Formats of media, by the size of their images.

/// Bytes of a sector in all of them.
pub(crate) const SECTOR: u64 = 512;
/// The size code of such sectors: 128 << 2.
pub(crate) const SIZE_CODE: u8 = 2;

/// How a medium is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub cylinders: u8,
    pub heads: u8,
    pub sectors: u8,
    /// What the data rate registers must hold: 0 = 500, 1 = 300, 2 = 250 kbit/s.
    pub rate: u8,
}

const FORMATS: [Format; 4] = [
    Format { cylinders: 80, heads: 2, sectors: 18, rate: 0 },
    Format { cylinders: 80, heads: 2, sectors: 15, rate: 0 },
    Format { cylinders: 80, heads: 2, sectors: 9, rate: 2 },
    Format { cylinders: 40, heads: 2, sectors: 9, rate: 2 },
];

impl Format {
    /// The format of an image of `size` bytes.
    pub fn of(size: u64) -> Option<Format> {
        FORMATS.into_iter().find(|format| format.bytes() == size)
    }

    fn bytes(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * SECTOR
    }

    /// First byte of a sector, if there is such a one.
    pub fn offset(self, cylinder: u8, head: u8, sector: u8) -> Option<u64> {
        if cylinder >= self.cylinders || head >= self.heads || sector == 0 || sector > self.sectors {
            return None;
        }
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        Some((track * u64::from(self.sectors) + u64::from(sector) - 1) * SECTOR)
    }
}
