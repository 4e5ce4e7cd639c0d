//! One JPEG per frame, by libjpeg-turbo: for boards that are too weak for H.264.
//!
//! - **Colour.** A JPEG has no place to say what its samples mean; everybody takes them as BT.601
//!   full range. Frames that are that already (decoded from a camera's JPEGs, grey) are compressed
//!   as planes; all others, and odd sizes, go through RGB.
//! - **Bits.** Without a bit rate every picture has quality 85. With one, quality follows it between
//!   20 and 95, by the bytes of each picture against the source time it stands for, so that the same
//!   frames give the same bytes.
//! - **Size.** As it is, odd ones too.

use std::sync::Arc;

use bytes::Bytes;
use turbojpeg::{Compressor, Image, Subsamp, YuvPlanesImage};
use visualpath_core::{
    ColorMatrix, ColorRange, ColorSpec, FrameMeta, ImageLayout, NS_PER_S, PixelFormat,
};
use yuv::{YuvPlanarImage, YuvRange, YuvStandardMatrix, yuv420_to_rgb};

use super::i420::{Canvas, Picture, meaning};
use super::{Bitrate, Codec, CodecParams, EncodeError, Encoder, EncoderOptions, Packet, check};

/// What JPEG samples mean to everybody (JFIF 1.02).
const JPEG_COLOR: ColorSpec = ColorSpec {
    matrix: ColorMatrix::Bt601,
    range: ColorRange::Full,
};

/// See the module's text.
pub struct Mjpeg {
    quality: Quality,
    last_ns: Option<i64>,
    stream: Option<Stream>,
}

/// One run of pictures of one layout.
struct Stream {
    layout: ImageLayout,
    params: Arc<CodecParams>,
    compressor: Compressor,
    canvas: Canvas,
    rgb: Vec<u8>,
    jpeg: Vec<u8>,
}

impl Mjpeg {
    /// An encoder; the library is set up at the first frame.
    pub fn new(options: EncoderOptions) -> Self {
        Self {
            quality: Quality::new(&options),
            last_ns: None,
            stream: None,
        }
    }
}

impl Encoder for Mjpeg {
    fn name(&self) -> String {
        "libjpeg-turbo (software, one JPEG per frame)".to_owned()
    }

    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        let frame_id = meta.frame_id;
        check(meta, pixels, self.last_ns)?;
        let since_ns = self.last_ns.map(|last| meta.t_ns - last);
        self.last_ns = Some(meta.t_ns);
        let failed = |message: String| EncodeError::Jpeg { frame_id, message };
        let stream = match self.stream.take() {
            Some(stream) if stream.layout == meta.layout => self.stream.insert(stream),
            _ => self
                .stream
                .insert(Stream::begin(meta.layout).map_err(failed)?),
        };
        let data = stream
            .compress(pixels, self.quality.now())
            .map_err(failed)?;
        self.quality.spent(data.len(), since_ns);
        packets.push(Packet {
            data,
            is_key: true,
            pts_ns: meta.t_ns,
            dts_ns: meta.t_ns,
            frame_id,
            params: Arc::clone(&stream.params),
        });
        Ok(())
    }

    fn restart(&mut self) {
        // Every picture stands alone.
    }

    fn flush(&mut self, _packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        // Every frame's packet was returned with it.
        Ok(())
    }
}

impl Stream {
    fn begin(layout: ImageLayout) -> Result<Self, String> {
        let (width, height) = (layout.width, layout.height);
        let mut stream = Self {
            layout,
            params: Arc::new(CodecParams {
                codec: Codec::Mjpeg,
                width,
                height,
                color: JPEG_COLOR,
                vps: Bytes::new(),
                sps: Bytes::new(),
                pps: Bytes::new(),
            }),
            compressor: Compressor::new().map_err(|e| e.to_string())?,
            canvas: Canvas::exact(&layout),
            rgb: Vec::new(),
            jpeg: Vec::new(),
        };
        let subsamp = match layout.format {
            PixelFormat::Grey => Subsamp::Gray,
            _ => Subsamp::Sub2x2,
        };
        let set = stream.compressor.set_subsamp(subsamp);
        set.map_err(|e| e.to_string())?;
        let most = stream.compressor.buf_len(width as usize, height as usize);
        stream.jpeg = vec![0; most.map_err(|e| e.to_string())?];
        Ok(stream)
    }

    fn compress(&mut self, pixels: &[u8], quality: i32) -> Result<Bytes, String> {
        let set = self.compressor.set_quality(quality);
        set.map_err(|e| e.to_string())?;
        let packed = match self.layout.format {
            PixelFormat::Rgb => Some(turbojpeg::PixelFormat::RGB),
            PixelFormat::Bgr => Some(turbojpeg::PixelFormat::BGR),
            PixelFormat::Grey => Some(turbojpeg::PixelFormat::GRAY),
            _ => None,
        };
        // The library takes planes of whole chroma samples only.
        let (width, height) = (self.layout.width, self.layout.height);
        let even = width.is_multiple_of(2) && height.is_multiple_of(2);
        let written = if let Some(format) = packed {
            let plane = self.layout.planes().first().copied().unwrap_or_default();
            let pixels = self.layout.plane(pixels, 0).unwrap_or_default();
            self.packed(pixels, plane.stride, format)
        } else if meaning(&self.layout) == JPEG_COLOR && even {
            self.planes(pixels)
        } else {
            self.through_rgb(pixels)
        }?;
        let jpeg = self.jpeg.get(..written).unwrap_or_default();
        Ok(Bytes::copy_from_slice(jpeg))
    }

    fn packed(
        &mut self,
        pixels: &[u8],
        pitch: usize,
        format: turbojpeg::PixelFormat,
    ) -> Result<usize, String> {
        let image = Image {
            pixels,
            width: self.layout.width as usize,
            pitch,
            height: self.layout.height as usize,
            format,
        };
        let done = self.compressor.compress_to_slice(image, &mut self.jpeg);
        done.map_err(|e| e.to_string())
    }

    fn planes(&mut self, pixels: &[u8]) -> Result<usize, String> {
        let picture = self.canvas.picture(pixels).ok_or("its pixels are short")?;
        let Picture {
            width,
            height,
            planes: [y_plane, u_plane, v_plane],
            strides: [y_stride, u_stride, v_stride],
        } = picture;
        let image = YuvPlanesImage {
            y_plane,
            u_plane,
            v_plane,
            width,
            height,
            y_stride,
            u_stride,
            v_stride,
            subsamp: Subsamp::Sub2x2,
        };
        let done = self
            .compressor
            .compress_yuv_planes_to_slice(&image, &mut self.jpeg);
        done.map_err(|e| e.to_string())
    }

    fn through_rgb(&mut self, pixels: &[u8]) -> Result<usize, String> {
        let picture = self.canvas.picture(pixels).ok_or("its pixels are short")?;
        let u32_of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let image = YuvPlanarImage {
            y_plane: picture.planes[0],
            y_stride: u32_of(picture.strides[0]),
            u_plane: picture.planes[1],
            u_stride: u32_of(picture.strides[1]),
            v_plane: picture.planes[2],
            v_stride: u32_of(picture.strides[2]),
            width: self.layout.width,
            height: self.layout.height,
        };
        let color = self.layout.color;
        let range = match color.range {
            ColorRange::Limited => YuvRange::Limited,
            ColorRange::Full => YuvRange::Full,
        };
        let matrix = match color.matrix {
            ColorMatrix::Bt601 => YuvStandardMatrix::Bt601,
            ColorMatrix::Bt709 => YuvStandardMatrix::Bt709,
        };
        let pitch = self.layout.width as usize * 3;
        let mut rgb = std::mem::take(&mut self.rgb);
        rgb.resize(pitch * self.layout.height as usize, 0);
        let converted = yuv420_to_rgb(&image, &mut rgb, u32_of(pitch), range, matrix);
        let done = match converted {
            Ok(()) => self.packed(&rgb, pitch, turbojpeg::PixelFormat::RGB),
            Err(e) => Err(e.to_string()),
        };
        self.rgb = rgb;
        done
    }
}

const FIXED_QUALITY: i32 = 85;
const QUALITIES: (f64, f64) = (20.0, 95.0);

/// The quality of the next picture.
struct Quality {
    bytes_per_s: Option<f64>,
    fps: f64,
    now: f64,
    /// Bytes spent beyond what was due, within a second's worth.
    ahead: f64,
}

impl Quality {
    fn new(options: &EncoderOptions) -> Self {
        let fps = options.fps;
        Self {
            bytes_per_s: match options.bitrate {
                Bitrate::Auto => None,
                Bitrate::BitsPerS(bits) => Some((f64::from(bits) / 8.0).max(1.0)),
            },
            fps: if fps.is_finite() { fps.max(1.0) } else { 30.0 },
            now: f64::from(FIXED_QUALITY),
            ahead: 0.0,
        }
    }

    fn now(&self) -> i32 {
        #[expect(clippy::cast_possible_truncation, reason = "1 to 100")]
        let now = self.now.round() as i32;
        now
    }

    /// A picture took so many bytes, and stands for the time since the one before.
    fn spent(&mut self, bytes: usize, since_ns: Option<i64>) {
        let Some(bytes_per_s) = self.bytes_per_s else {
            return;
        };
        let since_s = since_ns.map_or(1.0 / self.fps, |ns| ns as f64 / NS_PER_S as f64);
        let due = bytes_per_s * since_s.clamp(0.001, 1.0);
        let bytes = (bytes as f64).max(1.0);
        self.ahead = (self.ahead + bytes - due).clamp(-bytes_per_s, bytes_per_s);
        // What is ahead is to be paid back over the next second. Six steps of quality are about a
        // third more or less bytes, so this comes close from one side.
        let wanted = (due - self.ahead * since_s.clamp(0.001, 1.0)).max(due / 8.0);
        let step = (6.0 * (wanted / bytes).log2()).clamp(-10.0, 5.0);
        self.now = (self.now + step).clamp(QUALITIES.0, QUALITIES.1);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers in tests")]
mod tests {
    use super::*;

    fn meta(layout: ImageLayout, i: u64) -> FrameMeta {
        FrameMeta {
            frame_id: i,
            t_ns: i as i64 * NS_PER_S / 10,
            epoch: 0,
            layout,
        }
    }

    fn color(matrix: ColorMatrix, range: ColorRange) -> ColorSpec {
        ColorSpec { matrix, range }
    }

    /// A flat picture of one RGB colour, in YUV of this meaning.
    fn flat(layout: &ImageLayout, [r, g, b]: [f64; 3]) -> Vec<u8> {
        let (kr, kb) = match layout.color.matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (cb, cr) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
        let samples = match layout.color.range {
            ColorRange::Full => [y * 255.0, 128.0 + cb * 255.0, 128.0 + cr * 255.0],
            ColorRange::Limited => [16.0 + y * 219.0, 128.0 + cb * 224.0, 128.0 + cr * 224.0],
        };
        let mut out = Vec::new();
        for (plane, sample) in layout.planes().iter().zip(samples) {
            out.resize(
                plane.offset + plane.stride * plane.rows,
                sample.round() as u8,
            );
        }
        out
    }

    #[test]
    fn a_jpeg_shows_the_colour_the_frame_meant() {
        let rgb = [0.8, 0.3, 0.2];
        for matrix in [ColorMatrix::Bt601, ColorMatrix::Bt709] {
            for range in [ColorRange::Limited, ColorRange::Full] {
                let spec = color(matrix, range);
                for (width, height) in [(37, 21), (38, 22)] {
                    let layout = ImageLayout::packed(PixelFormat::I420, width, height, spec);
                    let mut encoder = Mjpeg::new(EncoderOptions::default());
                    let mut packets = Vec::new();
                    let pixels = flat(&layout, rgb);
                    encoder
                        .encode(&meta(layout, 0), &pixels, &mut packets)
                        .unwrap();
                    let packet = &packets[0];
                    assert_eq!((packet.params.width, packet.params.height), (width, height));
                    let (w, h, bgr) = crate::jpeg::decode_bgr(&packet.data).unwrap();
                    assert_eq!((w as u32, h as u32), (width, height));
                    for pixel in bgr.chunks_exact(3) {
                        for (have, want) in pixel.iter().rev().zip(rgb) {
                            assert!(
                                (f64::from(*have) - want * 255.0).abs() <= 3.0,
                                "{spec:?}: {pixel:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    fn noise(layout: &ImageLayout, seed: u64) -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3] >> 1
        };
        (0..layout.bytes()).map(step).collect()
    }

    fn bytes_of(bitrate: Bitrate) -> Vec<usize> {
        let spec = color(ColorMatrix::Bt601, ColorRange::Full);
        let layout = ImageLayout::packed(PixelFormat::I420, 160, 120, spec);
        let options = EncoderOptions {
            bitrate,
            fps: 10.0,
            ..EncoderOptions::default()
        };
        let mut encoder = Mjpeg::new(options);
        let mut packets = Vec::new();
        for i in 0..60 {
            let pixels = noise(&layout, i);
            encoder
                .encode(&meta(layout, i), &pixels, &mut packets)
                .unwrap();
        }
        assert!(packets.iter().all(|p| p.is_key));
        packets.iter().map(|p| p.data.len()).collect()
    }

    #[test]
    fn an_asked_bit_rate_is_kept_where_the_qualities_reach_it() {
        let fixed = bytes_of(Bitrate::Auto);
        for share in [0.4, 0.6, 0.9] {
            let asked = (fixed[0] as f64 * 10.0 * share) as u32;
            let bytes = bytes_of(Bitrate::BitsPerS(asked * 8));
            let per_s = bytes[20..].iter().sum::<usize>() as f64 / 4.0;
            let ratio = per_s / f64::from(asked);
            assert!((0.85..1.15).contains(&ratio), "{share}: {ratio} {bytes:?}");
        }
        // Beyond it the qualities end, and it does not run away.
        let least = bytes_of(Bitrate::BitsPerS(8));
        assert!(least[59] > 100 && least[59] < fixed[59] / 2);
    }

    #[test]
    fn a_frame_that_can_not_be_taken_is_an_error_and_the_next_one_is() {
        let layout = ImageLayout::packed(PixelFormat::Nv12, 20, 10, ColorSpec::default());
        let mut encoder = Mjpeg::new(EncoderOptions::default());
        let mut packets = Vec::new();
        let e = encoder.encode(&meta(layout, 1), &[0; 10], &mut packets);
        assert!(matches!(e, Err(EncodeError::Pixels { have: 10, .. })));
        let pixels = vec![100; layout.bytes()];
        let mut take = |i| encoder.encode(&meta(layout, i), &pixels, &mut packets);
        take(2).unwrap();
        assert!(matches!(take(2), Err(EncodeError::Time { .. })));
        take(3).unwrap();
        assert_eq!(packets.len(), 2);
    }
}
