//! The geometry that a VHD footer records for a size.

use bulkhead_disk::{Geometry, SECTOR};

/// Cylinders, heads and sectors for a disk of `size` bytes, by the rule of the VHD specification: C·H·S ≤ size / 512, capped
/// at 65535/16/255 (127.5 GiB).
pub fn geometry(size: u64) -> Geometry {
    let total = (size / SECTOR).min(65535 * 16 * 255);
    let (heads, sectors) = if total >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let heads = (total / 17).div_ceil(1024).max(4);
        if heads <= 16 && total / 17 < heads * 1024 {
            (heads, 17)
        } else if total / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    // At most 65535 by the cap; heads and sectors are small.
    Geometry { cylinders: (total / sectors / heads) as u16, heads: heads as u8, sectors: sectors as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_measured_vectors() {
        const GIB: u64 = 1 << 30;
        let vectors = [
            (1 << 20, (30, 4, 17)),
            (64 << 20, (963, 8, 17)),
            (GIB, (2080, 16, 63)),
            (2 * GIB, (4161, 16, 63)),
            (8 * GIB, (16644, 16, 63)),
            (32 * GIB, (16448, 16, 255)),
            (127 * GIB, (65278, 16, 255)),
            (2040 * GIB, (65535, 16, 255)),
        ];
        for (size, (c, h, s)) in vectors {
            assert_eq!(geometry(size), Geometry { cylinders: c, heads: h, sectors: s }, "{size}");
        }
    }
}
