//! JPEG pictures by libjpeg-turbo, straight into the slot and no larger than they are needed.
//!
//! - **Colour.** JPEG is full range BT.601 (JFIF 1.02). Nothing is converted: 4:2:0 and grey are
//!   decoded as they are, other samplings are brought to 4:2:0.
//! - **Scale.** The inverse transform can give N of 8 samples each way, which is a mean over the
//!   picture's own frequencies. With [`Decoder::at_least`] the smallest N/8 is taken that is not
//!   below the size asked for: what the views do not need is never made.
//! - **Tables.** Cameras leave the Huffman tables out (Motion JPEG). Such a picture is given those
//!   of T.81, K.3, whatever the picture before it used.

use bytes::Bytes;
use turbojpeg::{
    Colorspace, DecompressHeader, Decompressor, ScalingFactor, Subsamp, YuvImage, yuv_pixels_len,
};
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};
use visualpath_frames::MAX_SIDE;

use super::{DecodeError, Decoded, Decoder};
use crate::encode::Packet;

/// A progressive JPEG can ask for thousands of passes over the picture.
const MAX_SCANS: u32 = 200;
const SOF: [u8; 3] = [0xC0, 0xC1, 0xC2];
const DHT: u8 = 0xC4;
const SOS: u8 = 0xDA;

/// What the samples of every JPEG mean.
pub const JPEG_COLOR: ColorSpec = ColorSpec {
    matrix: ColorMatrix::Bt601,
    range: ColorRange::Full,
};

/// Decodes JPEGs one by one. Packets go through [`Decoder`]; who has the bytes elsewhere uses
/// [`JpegDecoder::look`] and [`JpegDecoder::decode`].
pub struct JpegDecoder {
    library: Decompressor,
    at_least: Option<(u32, u32)>,
    /// Of the JPEG last looked at.
    plan: Option<Plan>,
    /// A JPEG whose tables had to be put in.
    completed: Vec<u8>,
    /// Planes of a sampling that is not ours.
    planes: Vec<u8>,
    packet: Option<Packet>,
}

#[derive(Clone, Copy)]
struct Plan {
    /// After scaling.
    header: DecompressHeader,
    factor: ScalingFactor,
    layout: ImageLayout,
    /// Where the scan begins, if tables must be put in before it.
    tables_at: Option<usize>,
}

impl JpegDecoder {
    /// A decoder.
    ///
    /// # Errors
    /// If the library can't be set up (no memory).
    pub fn new() -> Result<Self, DecodeError> {
        let gone = |e: turbojpeg::Error| DecodeError::Gone(format!("libjpeg-turbo: {e}"));
        let mut library = Decompressor::new().map_err(gone)?;
        library.set_scan_limit(MAX_SCANS).map_err(gone)?;
        Ok(Self {
            library,
            at_least: None,
            plan: None,
            completed: Vec::new(),
            planes: Vec::new(),
            packet: None,
        })
    }

    /// Reads a JPEG's headers: how [`JpegDecoder::decode`] will lay it out.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub fn look(&mut self, jpeg: &[u8]) -> Result<ImageLayout, DecodeError> {
        self.plan = None;
        let header = self.library.read_header(jpeg).map_err(|e| damaged(&e))?;
        let side = 1..=MAX_SIDE as usize;
        if !side.contains(&header.width) || !side.contains(&header.height) {
            return Err(DecodeError::Damaged(format!(
                "{}x{} pixels; at most {MAX_SIDE} a side are taken",
                header.width, header.height
            )));
        }
        if header.subsamp == Subsamp::Unknown
            || header.is_lossless
            || !matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray)
        {
            return Err(DecodeError::Damaged(format!(
                "a JPEG in {:?} with sampling {:?}: expected is a grey or YCbCr one",
                header.colorspace, header.subsamp
            )));
        }
        let factor = factor_for(&header, self.at_least);
        let header = header.scaled(factor);
        let format = match header.subsamp {
            Subsamp::Gray => PixelFormat::Grey,
            _ => PixelFormat::I420,
        };
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(0);
        let layout =
            ImageLayout::packed(format, side(header.width), side(header.height), JPEG_COLOR);
        self.plan = Some(Plan {
            header,
            factor,
            layout,
            tables_at: scan_without_tables(jpeg),
        });
        Ok(layout)
    }

    /// Decodes the JPEG last looked at into `out`, exactly its layout's bytes. Gives whether the
    /// library wrote there itself; otherwise the planes were brought to 4:2:0 on the way.
    ///
    /// # Errors
    /// If it is cut off or wrong; what `out` then holds is of no use.
    pub fn decode(&mut self, jpeg: &[u8], out: &mut [u8]) -> Result<bool, DecodeError> {
        let Some(plan) = self.plan else {
            return Err(DecodeError::Damaged("its headers were not read".to_owned()));
        };
        self.library
            .set_scaling_factor(plan.factor)
            .map_err(|e| damaged(&e))?;
        let jpeg = match plan.tables_at {
            Some(at) => {
                let (head, scan) = jpeg.split_at_checked(at).unwrap_or((jpeg, &[]));
                self.completed.clear();
                self.completed.extend_from_slice(head);
                self.completed.extend_from_slice(&standard_tables());
                self.completed.extend_from_slice(scan);
                &self.completed
            }
            None => jpeg,
        };
        let DecompressHeader {
            width,
            height,
            subsamp,
            ..
        } = plan.header;
        let need = yuv_pixels_len(width, 1, height, subsamp).map_err(|e| damaged(&e))?;
        let direct = fits_as_it_is(&plan.header) && out.len() == need;
        let pixels = if direct {
            &mut *out
        } else {
            self.planes.resize(need, 0);
            &mut self.planes
        };
        let image = YuvImage {
            pixels,
            width,
            align: 1,
            height,
            subsamp,
        };
        match self.library.decompress_to_yuv(jpeg, image) {
            Err(e) if !harmless(&e) => return Err(damaged(&e)),
            _ => {}
        }
        if !direct {
            to_420(&self.planes, &plan.header, &plan.layout, out);
        }
        Ok(direct)
    }
}

impl Decoder for JpegDecoder {
    fn name(&self) -> &'static str {
        "libjpeg-turbo"
    }

    fn at_least(&mut self, size: Option<(u32, u32)>) {
        self.at_least = size;
    }

    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        self.packet = None;
        self.look(&packet.data)?;
        self.packet = Some(packet.clone());
        Ok(())
    }

    fn ready(&mut self) -> Result<Option<Decoded>, DecodeError> {
        Ok(match (&self.packet, &self.plan) {
            (Some(packet), Some(plan)) => Some(Decoded {
                frame_id: packet.frame_id,
                pts_ns: packet.pts_ns,
                layout: plan.layout,
            }),
            _ => None,
        })
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), DecodeError> {
        let data = self.packet.take().map_or_else(Bytes::new, |p| p.data);
        self.decode(&data, out).map(|_direct| ())
    }

    fn skip(&mut self) {
        self.packet = None;
    }

    fn reset(&mut self) {
        self.packet = None;
        self.plan = None;
    }
}

fn damaged(error: &turbojpeg::Error) -> DecodeError {
    DecodeError::Damaged(error.to_string())
}

/// Some cameras pad the coded data before the end mark. The picture is whole; the library says so
/// in words only.
fn harmless(error: &turbojpeg::Error) -> bool {
    let text = error.to_string();
    text.contains("extraneous bytes before marker 0xd9")
}

fn factor_for(header: &DecompressHeader, at_least: Option<(u32, u32)>) -> ScalingFactor {
    let Some((width, height)) = at_least else {
        return ScalingFactor::ONE;
    };
    (1..8)
        .map(|n| ScalingFactor::new(n, 8))
        .find(|f| {
            f.scale(header.width) >= width as usize && f.scale(header.height) >= height as usize
        })
        .unwrap_or(ScalingFactor::ONE)
}

/// Whether the library's planes lie as ours do. It pads luma to whole chroma samples.
fn fits_as_it_is(header: &DecompressHeader) -> bool {
    match header.subsamp {
        Subsamp::Gray => true,
        Subsamp::Sub2x2 => header.width.is_multiple_of(2) && header.height.is_multiple_of(2),
        _ => false,
    }
}

/// The place of the first scan of a Huffman-coded JPEG that defines no tables before it. Source:
/// T.81, B.2: segments with a length up to the scan.
fn scan_without_tables(jpeg: &[u8]) -> Option<usize> {
    let mut at = 2;
    let mut huffman = false;
    loop {
        let (&[ff, marker, hi, lo], _) = jpeg.get(at..)?.split_first_chunk::<4>()?;
        match (ff, marker) {
            (0xFF, 0xFF) => {
                at += 1;
                continue;
            }
            (0xFF, DHT) => return None,
            (0xFF, SOS) => return huffman.then_some(at),
            (0xFF, sof) => huffman |= SOF.contains(&sof),
            _ => return None,
        }
        at += 2 + usize::from(u16::from_be_bytes([hi, lo]));
    }
}

/// The planes of any sampling as those of 4:2:0: each sample is the mean of those it covers.
fn to_420(planes: &[u8], header: &DecompressHeader, layout: &ImageLayout, out: &mut [u8]) {
    let image = YuvImage {
        pixels: planes,
        width: header.width,
        align: 1,
        height: header.height,
        subsamp: header.subsamp,
    };
    let (y_size, uv_size) = (image.y_size(), image.uv_size());
    let (sub_x, sub_y) = header.subsamp.size();
    let (luma, chroma) = planes.split_at((y_size.0 * y_size.1).min(planes.len()));
    let (u, v) = chroma.split_at((uv_size.0 * uv_size.1).min(chroma.len()));
    for (index, (src, stride, rows, sub)) in [
        (luma, y_size.0, y_size.1, (1, 1)),
        (u, uv_size.0, uv_size.1, (sub_x, sub_y)),
        (v, uv_size.0, uv_size.1, (sub_x, sub_y)),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(plane) = layout.planes().get(index) else {
            break;
        };
        let scale = if index == 0 { 1 } else { 2 };
        let Some(out) = out.get_mut(plane.offset..) else {
            break;
        };
        for (y, row) in out.chunks_mut(plane.stride).take(plane.rows).enumerate() {
            let ys = covered(y, scale, sub.1, rows);
            if scale == sub.0 && ys.len() == 1 {
                let from = ys.start * stride;
                if let Some(src) = src.get(from..from + plane.row_bytes)
                    && let Some(row) = row.get_mut(..plane.row_bytes)
                {
                    row.copy_from_slice(src);
                    continue;
                }
            }
            for (x, out) in row.iter_mut().take(plane.row_bytes).enumerate() {
                let xs = covered(x, scale, sub.0, stride);
                *out = mean(src, stride, xs, ys.clone());
            }
        }
    }
}

/// Samples of a plane subsampled by `sub` that lie under sample `i` of one subsampled by `scale`.
fn covered(i: usize, scale: usize, sub: usize, len: usize) -> std::ops::Range<usize> {
    let from = (i * scale / sub).min(len.saturating_sub(1));
    let to = ((i + 1) * scale).div_ceil(sub).clamp(from + 1, len.max(1));
    from..to
}

fn mean(src: &[u8], stride: usize, xs: std::ops::Range<usize>, ys: std::ops::Range<usize>) -> u8 {
    let count = (xs.len() * ys.len()).max(1);
    let sum: usize = ys
        .map(|y| {
            src.get(y * stride + xs.start..y * stride + xs.end)
                .map_or(0, |s| s.iter().map(|&v| usize::from(v)).sum())
        })
        .sum();
    u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX)
}

/// The tables of T.81, K.3 as one DHT segment: for each how many codes of every length there are,
/// then their values.
fn standard_tables() -> Vec<u8> {
    const DC_VALUES: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    let tables: [(u8, &[u8; 16], &[u8]); 4] = [
        (
            0x00,
            &[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
            &DC_VALUES,
        ),
        (
            0x01,
            &[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
            &DC_VALUES,
        ),
        (
            0x10,
            &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D],
            &AC_LUMA,
        ),
        (
            0x11,
            &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
            &AC_CHROMA,
        ),
    ];
    let mut segment = vec![0xFF, DHT, 0, 0];
    for (class_and_place, counts, values) in tables {
        segment.push(class_and_place);
        segment.extend_from_slice(counts);
        segment.extend_from_slice(values);
    }
    let len = u16::try_from(segment.len() - 2).unwrap_or(0).to_be_bytes();
    segment[2..4].copy_from_slice(&len);
    segment
}

#[rustfmt::skip]
const AC_LUMA: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
    0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
    0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];

#[rustfmt::skip]
const AC_CHROMA: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
    0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
    0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
    0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];

#[cfg(test)]
mod tests;
