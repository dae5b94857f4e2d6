//! Pixels out of a frame buffer, and PNG.

use crate::message::Situation;

/// Longest edge of a picture.
const MAX_EDGE: u32 = 16_384;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The guest's driver shows nothing.
    #[error("the guest's display driver shows nothing")]
    Off,
    /// The guest's frame buffer cannot be.
    #[error("the guest's frame buffer of {width} by {height} pixels at {depth} bits, {pitch} bytes a row, is refused")]
    Shape {
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bits of a pixel.
        depth: u8,
        /// Bytes of a row.
        pitch: u32,
    },
    /// It does not lie in memory.
    #[error("the guest's frame buffer cannot be read: {why}")]
    Memory {
        /// What is wrong.
        why: String,
    },
    /// PNG.
    #[error("the picture cannot be written as PNG")]
    Png(#[from] png::EncodingError),
}

/// Pixels, row by row, red, green and blue a byte each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Reads a frame buffer by `read(offset, row)`.
    pub(crate) fn read(
        shape: &Situation,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), String>,
    ) -> Result<Picture, PictureError> {
        let Situation { active, offset, depth, width, height, pitch } = *shape;
        if !active {
            return Err(PictureError::Off);
        }
        let bytes = u32::from(depth / 8);
        let known = matches!(depth, 16 | 32);
        if !known || !(1..=MAX_EDGE).contains(&width) || !(1..=MAX_EDGE).contains(&height) || pitch < width * bytes {
            return Err(PictureError::Shape { width, height, depth, pitch });
        }
        let mut row = vec![0; (width * bytes) as usize];
        let mut rgb = Vec::with_capacity(3 * width as usize * height as usize);
        for y in 0..height {
            let at = u64::from(offset) + u64::from(y) * u64::from(pitch);
            read(at, &mut row).map_err(|why| PictureError::Memory { why })?;
            match depth {
                // Blue, green, red, unused.
                32 => rgb.extend(row.as_chunks::<4>().0.iter().flat_map(|pixel| [pixel[2], pixel[1], pixel[0]])),
                _ => rgb.extend(row.as_chunks::<2>().0.iter().flat_map(|pixel| from_565(u16::from_le_bytes(*pixel)))),
            }
        }
        Ok(Picture { width, height, rgb })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`PictureError::Png`].
    pub fn to_png(&self) -> Result<Vec<u8>, PictureError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(file)
    }
}

/// 5 bits of red, 6 of green, 5 of blue, each stretched to a byte.
fn from_565(pixel: u16) -> [u8; 3] {
    let stretch = |value: u16, bits: u32| (u32::from(value) * 255 / ((1 << bits) - 1)) as u8;
    [stretch(pixel >> 11, 5), stretch(pixel >> 5 & 0x3f, 6), stretch(pixel & 0x1f, 5)]
}
