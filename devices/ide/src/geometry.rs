//! Cylinders, heads and sectors of a disk whose image records none.

use bulkhead_disk::{DiskFacts, Geometry, SECTOR};

/// The geometry that a VHD of `size` bytes has (VHD specification, appendix "CHS calculation").
pub fn default_geometry(size: u64) -> Geometry {
    const MOST: u64 = 65535 * 16 * 255;
    let total = (size / SECTOR).min(MOST);
    let (sectors, heads, tracks) = if total >= 65535 * 16 * 63 {
        (255, 16, total / 255)
    } else {
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            (17, heads, tracks)
        } else if total / 31 < 16 * 1024 {
            (31, 16, total / 31)
        } else {
            (63, 16, total / 63)
        }
    };
    // At most 65535 and 16 by construction.
    Geometry { cylinders: (tracks / heads) as u16, heads: heads as u8, sectors: sectors as u8 }
}

/// What IDENTIFY shows: above 8.4 GB always 16383/16/63, as ATA wants.
pub(crate) fn shown_geometry(facts: &DiskFacts) -> Geometry {
    let recorded = facts.geometry.filter(|g| g.cylinders > 0 && (1..=16).contains(&g.heads) && g.sectors > 0);
    let geometry = recorded.unwrap_or_else(|| default_geometry(facts.size));
    if facts.size / SECTOR >= 16383 * 16 * 63 {
        return Geometry { cylinders: 16383, heads: 16, sectors: 63 };
    }
    geometry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_measured() {
        let chs = |size| {
            let Geometry { cylinders, heads, sectors } = default_geometry(size);
            (cylinders, heads, sectors)
        };
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let vectors = [
            (MIB, (30, 4, 17)),
            (64 * MIB, (963, 8, 17)),
            (GIB, (2080, 16, 63)),
            (2 * GIB, (4161, 16, 63)),
            (8 * GIB, (16644, 16, 63)),
            (32 * GIB, (16448, 16, 255)),
            (127 * GIB, (65278, 16, 255)),
            (2040 * GIB, (65535, 16, 255)),
        ];
        for (size, geometry) in vectors {
            assert_eq!(chs(size), geometry, "{size}");
        }
        assert_eq!(shown_geometry(&DiskFacts::plain(8 * GIB, "raw")).cylinders, 16383);
    }
}
