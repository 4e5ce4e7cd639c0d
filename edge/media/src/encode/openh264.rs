//! The software encoder: Cisco's OpenH264, built from source or Cisco's own binary, no dropped
//! picture.
//!
//! - **Time.** Frames keep their own time stamps. Rate control runs by them (`RC_TIMESTAMP_MODE`),
//!   so a variable frame rate spends the bits per second that were asked for; frame skipping is off.
//! - **GOP.** A key picture is forced when the last one is `gop_ns` or more of source time old, at a
//!   new epoch and at a new layout; nothing else makes one (scene-change detection is off), so the
//!   GOPs of an input are the same on every run, as is the whole output.
//! - **Size.** The sequence parameter set crops what fills up macroblocks, in steps of two pixels:
//!   4:2:0 can't crop to an odd size. An odd width or height is therefore padded to the next even
//!   one by repeating the last column or row (nothing the camera saw is cut off), and so is a size
//!   below 16.
//! - **Colour.** The VUI says what `ColorSpec` says: BT.601 or BT.709, limited or full range. Grey
//!   frames are full-range BT.601 with neutral chroma, RGB becomes limited-range BT.601.
//! - **Threads.** One, or as many as are asked for: then a picture is cut into that many parts, and
//!   into slices of at most [`SLICE_BYTES`], since the library gives each thread slices of its own.
//!   The bytes are others, but the same on every run.
//! - **Whose binary.** [`load`]: the patent licence that Cisco pays for covers only the binary that
//!   Cisco built. Its file must be one whose SHA-256 the crate `openh264` knows.
//! - **Profile.** Constrained Baseline: no reordering, so pts = dts, and every decoder takes it.

use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use openh264::OpenH264API;
use openh264::Timestamp;
use openh264::encoder::{
    BitRate, Complexity, Encoder as Library, EncoderConfig, FrameRate, FrameType, IntraFramePeriod,
    RateControlMode, SpsPpsStrategy, UsageType, VuiConfig,
};
use openh264::formats::YUVSource;
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, FrameMeta, ImageLayout, NS_PER_MS};

use super::i420::{self, Canvas, Picture};
use super::{Codec, CodecParams, EncodeError, Encoder, EncoderOptions, H264Options, Packet, check};

/// H.264 table 7-1.
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
/// Smaller pictures are padded: the library refuses a side below one macroblock.
const SMALLEST_SIDE: usize = 16;
/// Largest slice where several threads encode.
const SLICE_BYTES: u32 = 60_000;

/// OpenH264 as asked for.
pub(super) fn load(options: &H264Options) -> Result<OpenH264API, EncodeError> {
    match options.binary() {
        None => Ok(OpenH264API::from_source()),
        Some(path) => binary(path).map_err(|message| EncodeError::OpenH264Library {
            path: path.to_owned(),
            message,
        }),
    }
}

#[cfg(feature = "openh264-lib")]
fn binary(path: &Path) -> Result<OpenH264API, String> {
    if path.as_os_str().is_empty() {
        return Err("clip.openh264_library is not set".to_owned());
    }
    OpenH264API::from_blob_path(path).map_err(|e| match e {
        openh264_sys2::Error::InvalidHash(sum) => {
            format!("it is none of the files that Cisco built, as far as this build knows them (its sha256 is {sum})")
        }
        e => e.to_string(),
    })
}

#[cfg(not(feature = "openh264-lib"))]
fn binary(_path: &Path) -> Result<OpenH264API, String> {
    Err("this build can't load it (feature `openh264-lib`; clip.openh264_library)".to_owned())
}

/// See the module's text.
pub struct OpenH264 {
    options: EncoderOptions,
    stream: Option<Stream>,
    last_ns: Option<i64>,
    restarts: bool,
}

/// One run of pictures of one layout.
struct Stream {
    library: Library,
    layout: ImageLayout,
    epoch: u32,
    color: ColorSpec,
    first_ns: i64,
    last_key_ns: i64,
    /// The next picture must be a key picture.
    restarts: bool,
    params: Option<Arc<CodecParams>>,
    canvas: Canvas,
}

impl OpenH264 {
    /// An encoder; the library is set up at the first frame, whose size it needs.
    pub fn new(options: EncoderOptions) -> Self {
        Self {
            options,
            stream: None,
            last_ns: None,
            restarts: false,
        }
    }
}

impl Encoder for OpenH264 {
    fn name(&self) -> String {
        match self.options.h264.binary() {
            Some(path) => format!("openh264 (software, {})", path.display()),
            None => "openh264 (software, built from source)".to_owned(),
        }
    }

    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        check(meta, pixels, self.last_ns)?;
        self.last_ns = Some(meta.t_ns);
        let stream = match self.stream.take() {
            Some(stream) if stream.layout == meta.layout => self.stream.insert(stream),
            _ => self.stream.insert(Stream::begin(&self.options, meta)?),
        };
        stream.restarts |= std::mem::take(&mut self.restarts);
        let packet = stream.encode(meta, pixels, self.options.gop_ns)?;
        packets.push(packet);
        Ok(())
    }

    fn restart(&mut self) {
        self.restarts = true;
    }

    fn flush(&mut self, _packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        // Every frame's packet was returned with it.
        Ok(())
    }
}

impl Stream {
    fn begin(options: &EncoderOptions, meta: &FrameMeta) -> Result<Self, EncodeError> {
        let layout = meta.layout;
        let color = i420::meaning(&layout);
        let vui = match color.matrix {
            ColorMatrix::Bt601 => VuiConfig::bt601(),
            ColorMatrix::Bt709 => VuiConfig::bt709(),
        }
        .full_range(color.range == ColorRange::Full);
        let bits = options
            .bitrate
            .bits_per_s(layout.width, layout.height, options.fps);
        let fps = if options.fps.is_finite() {
            options.fps.clamp(1.0, 60.0)
        } else {
            30.0
        };
        #[expect(clippy::cast_possible_truncation, reason = "1 to 60")]
        let fps = fps as f32;
        let threads = options.h264.threads.clamp(1, H264Options::MAX_THREADS);
        let mut config = EncoderConfig::new()
            .bitrate(BitRate::from_bps(bits))
            .max_frame_rate(FrameRate::from_hz(fps))
            .rate_control_mode(RateControlMode::Timestamp)
            .skip_frames(false)
            .usage_type(UsageType::CameraVideoRealTime)
            .complexity(Complexity::Low)
            .scene_change_detect(false)
            .sps_pps_strategy(SpsPpsStrategy::ConstantId)
            .intra_frame_period(IntraFramePeriod::from_num_frames(0))
            .num_threads(threads)
            .vui(vui);
        if threads > 1 {
            config = config.max_slice_len(SLICE_BYTES);
        }
        let library = Library::with_api_config(load(&options.h264)?, config)
            .map_err(|e| library_error(meta, &e))?;
        Ok(Self {
            library,
            layout,
            epoch: meta.epoch,
            color,
            first_ns: meta.t_ns,
            last_key_ns: meta.t_ns,
            restarts: false,
            params: None,
            canvas: Canvas::even(&layout, SMALLEST_SIDE),
        })
    }

    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        gop_ns: i64,
    ) -> Result<Packet, EncodeError> {
        let t_ns = meta.t_ns;
        // The first picture is a key picture by itself; asking before the library is set up is
        // not allowed.
        let begun = self.params.is_some();
        let due = t_ns - self.last_key_ns >= gop_ns || meta.epoch != self.epoch || self.restarts;
        if begun && due {
            self.library.force_intra_frame();
        }
        self.epoch = meta.epoch;
        let picture = self.canvas.picture(pixels);
        let picture = picture.ok_or(EncodeError::Pixels {
            frame_id: meta.frame_id,
            have: pixels.len(),
            need: self.layout.bytes(),
        })?;
        let (width, height) = (picture.width, picture.height);
        // Rate control counts in whole milliseconds and takes 0 for "unknown".
        let ms = u64::try_from((t_ns - self.first_ns) / NS_PER_MS).unwrap_or(0) + 1;
        let bits = self
            .library
            .encode_at(&picture, Timestamp::from_millis(ms))
            .map_err(|e| library_error(meta, &e))?;
        let is_key = match bits.frame_type() {
            FrameType::IDR => true,
            FrameType::I | FrameType::P | FrameType::IPMixed => false,
            FrameType::Skip | FrameType::Invalid => {
                let frame_id = meta.frame_id;
                return Err(EncodeError::Skipped { frame_id });
            }
        };
        let layers = || (0..bits.num_layers()).filter_map(|i| bits.layer(i));
        let mut room = 0;
        for layer in layers() {
            let nals = (0..layer.nal_count()).filter_map(|i| layer.nal_unit(i));
            room += nals.map(|nal| nal.len() + 4).sum::<usize>();
        }
        let mut data = BytesMut::with_capacity(room);
        let (mut sps, mut pps) = (None, None);
        for layer in layers() {
            for nal in (0..layer.nal_count()).filter_map(|i| layer.nal_unit(i)) {
                let nal = without_start_code(nal);
                match nal.first().map(|b| b & 0x1F) {
                    Some(NAL_SPS) => sps = Some(Bytes::copy_from_slice(nal)),
                    Some(NAL_PPS) => pps = Some(Bytes::copy_from_slice(nal)),
                    Some(_) => {
                        // A NAL unit of 4 GiB can't come out of a 4K picture.
                        data.put_u32(u32::try_from(nal.len()).unwrap_or(u32::MAX));
                        data.put_slice(nal);
                    }
                    None => {}
                }
            }
        }
        if let (Some(sps), Some(pps)) = (sps, pps) {
            let params = CodecParams {
                codec: Codec::H264,
                vps: Bytes::new(),
                width: u32::try_from(width).unwrap_or(self.layout.width),
                height: u32::try_from(height).unwrap_or(self.layout.height),
                color: self.color,
                sps,
                pps,
            };
            if self.params.as_deref() != Some(&params) {
                self.params = Some(Arc::new(params));
            }
        }
        let frame_id = meta.frame_id;
        let missing = |what| EncodeError::Begin { frame_id, what };
        let params = self.params.clone().ok_or(missing("parameter sets"))?;
        if !begun && !is_key {
            self.params = None;
            return Err(missing("a key picture"));
        }
        if is_key {
            self.last_key_ns = t_ns;
            self.restarts = false;
        }
        Ok(Packet {
            data: data.freeze(),
            is_key,
            pts_ns: t_ns,
            dts_ns: t_ns,
            frame_id,
            params,
        })
    }
}

fn library_error(meta: &FrameMeta, error: &openh264::Error) -> EncodeError {
    EncodeError::Library {
        frame_id: meta.frame_id,
        width: meta.layout.width,
        height: meta.layout.height,
        message: error.to_string(),
    }
}

/// Annex B start codes are 00 00 01, with any number of zero bytes before (H.264 B.1).
fn without_start_code(nal: &[u8]) -> &[u8] {
    let zeros = nal.iter().take_while(|b| **b == 0).count();
    match nal.get(zeros) {
        Some(1) if zeros >= 2 => &nal[zeros + 1..],
        _ => nal,
    }
}

impl YUVSource for Picture<'_> {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }
    fn strides(&self) -> (usize, usize, usize) {
        let [y, u, v] = self.strides;
        (y, u, v)
    }
    fn y(&self) -> &[u8] {
        self.planes[0]
    }
    fn u(&self) -> &[u8] {
        self.planes[1]
    }
    fn v(&self) -> &[u8] {
        self.planes[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use visualpath_core::{NS_PER_S, PixelFormat};

    fn meta(layout: ImageLayout, frame_id: u64, t_ns: i64) -> FrameMeta {
        FrameMeta {
            frame_id,
            t_ns,
            epoch: 0,
            layout,
        }
    }

    fn layout(width: u32, height: u32) -> ImageLayout {
        ImageLayout::packed(PixelFormat::I420, width, height, ColorSpec::default())
    }

    /// Noise that changes with every frame: the hardest input for rate control.
    fn noise(layout: &ImageLayout, seed: u64) -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..layout.bytes())
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x.to_le_bytes()[3]
            })
            .collect()
    }

    fn run(layout: ImageLayout, times_ns: &[i64], options: EncoderOptions) -> Vec<Packet> {
        let mut encoder = OpenH264::new(options);
        let mut packets = Vec::new();
        for (i, t_ns) in times_ns.iter().enumerate() {
            let m = meta(layout, i as u64, *t_ns);
            encoder
                .encode(&m, &noise(&layout, i as u64), &mut packets)
                .unwrap();
        }
        encoder.flush(&mut packets).unwrap();
        packets
    }

    #[test]
    fn no_picture_is_dropped_however_few_bits_there_are() {
        let times: Vec<i64> = (0..60).map(|i| i * 33_333_333).collect();
        let options = EncoderOptions {
            bitrate: super::super::Bitrate::BitsPerS(10_000),
            ..EncoderOptions::default()
        };
        let packets = run(layout(320, 240), &times, options);
        let out: Vec<i64> = packets.iter().map(|p| p.pts_ns).collect();
        assert_eq!(out, times);
    }

    #[test]
    fn a_key_picture_comes_when_the_last_is_gop_s_of_source_time_old() {
        // 10 per second, then 40 per second, then a pause of 5 s.
        let mut times: Vec<i64> = (0..20).map(|i| i * 100_000_000).collect();
        times.extend((0..80).map(|i| 2 * NS_PER_S + i * 25_000_000));
        times.extend((0..5).map(|i| 9 * NS_PER_S + i * 25_000_000));
        let options = EncoderOptions {
            gop_ns: NS_PER_S,
            ..EncoderOptions::default()
        };
        let packets = run(layout(64, 48), &times, options);
        let keys: Vec<i64> = packets
            .iter()
            .filter(|p| p.is_key)
            .map(|p| p.pts_ns)
            .collect();
        let wanted = [0, 1, 2, 3, 9].map(|s| s * NS_PER_S);
        assert_eq!(keys, wanted);
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let times: Vec<i64> = (0..40)
            .map(|i| i * 40_000_000 + (i % 7) * 1_234_567)
            .collect();
        let a = run(layout(160, 120), &times, EncoderOptions::default());
        let b = run(layout(160, 120), &times, EncoderOptions::default());
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((a.pts_ns, a.is_key), (b.pts_ns, b.is_key));
            assert_eq!(a.data, b.data, "at {}", a.pts_ns);
            assert_eq!(a.params, b.params);
        }
    }

    #[test]
    fn several_threads_give_the_same_bytes_on_every_run_and_lose_no_picture() {
        let times: Vec<i64> = (0..12).map(|i| i * 40_000_000).collect();
        let layout = layout(640, 480);
        let with = |threads| {
            let mut options = EncoderOptions::default();
            options.h264.threads = threads;
            run(layout, &times, options)
        };
        let one = with(1);
        for threads in [2, 4, 9] {
            let (a, b) = (with(threads), with(threads));
            let bytes = |p: &[Packet]| p.iter().map(|p| p.data.clone()).collect::<Vec<_>>();
            assert_eq!(bytes(&a), bytes(&b), "{threads} threads");
            assert_ne!(bytes(&a), bytes(&one), "{threads} threads are used");
            let mut decoder = crate::decode::open(&a[0].params, 1).unwrap();
            for packet in &a {
                decoder.push(packet).unwrap();
                let picture = decoder.ready().unwrap().unwrap();
                assert_eq!(picture.frame_id, packet.frame_id);
                decoder.skip();
            }
        }
    }

    #[test]
    fn packets_are_length_prefixed_and_carry_no_parameter_sets() {
        let packets = run(layout(160, 120), &[0, 1, 2], EncoderOptions::default());
        for p in &packets {
            let mut rest = &p.data[..];
            let mut units = Vec::new();
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*len) as usize;
                units.push(tail[0] & 0x1F);
                rest = &tail[len..];
            }
            assert!(rest.is_empty());
            assert!(units.contains(&if p.is_key { 5 } else { 1 }), "{units:?}");
            assert!(!units.contains(&NAL_SPS) && !units.contains(&NAL_PPS));
            assert_eq!(p.params.sps[0] & 0x1F, NAL_SPS);
            assert_eq!(p.params.pps[0] & 0x1F, NAL_PPS);
        }
        assert!(packets[0].is_key);
    }

    #[test]
    fn odd_and_tiny_sizes_are_padded_not_cut() {
        for (w, h, coded) in [
            (33, 17, (34, 18)),
            (5, 3, (16, 16)),
            (16, 16, (16, 16)),
            (322, 242, (322, 242)),
        ] {
            let packets = run(layout(w, h), &[0, 1], EncoderOptions::default());
            let p = &packets[0].params;
            assert_eq!((p.width, p.height), coded, "{w}x{h}");
        }
    }

    #[test]
    fn a_new_size_or_epoch_begins_with_a_key_picture() {
        let mut encoder = OpenH264::new(EncoderOptions::default());
        let mut packets = Vec::new();
        let (small, large) = (layout(64, 48), layout(128, 96));
        for (i, (l, epoch)) in [(small, 0), (small, 0), (small, 1), (large, 1), (large, 1)]
            .into_iter()
            .enumerate()
        {
            let m = FrameMeta {
                epoch,
                ..meta(l, i as u64, i as i64)
            };
            encoder.encode(&m, &noise(&l, 1), &mut packets).unwrap();
        }
        let keys: Vec<bool> = packets.iter().map(|p| p.is_key).collect();
        assert_eq!(keys, [true, false, true, true, false]);
        assert_eq!(packets[2].params, packets[0].params);
        assert_eq!(packets[4].params.width, 128);
    }

    #[test]
    fn a_restarted_encoder_begins_with_a_key_picture_even_after_a_failure() {
        let mut encoder = OpenH264::new(EncoderOptions::default());
        let mut packets = Vec::new();
        let l = layout(64, 48);
        for i in 0..6 {
            if i == 2 {
                encoder.restart();
                let e = encoder.encode(&meta(l, 9, 2), &[0; 10], &mut packets);
                assert!(e.is_err());
            }
            let m = meta(l, i, 10 + i as i64);
            encoder.encode(&m, &noise(&l, 1), &mut packets).unwrap();
        }
        let keys: Vec<bool> = packets.iter().map(|p| p.is_key).collect();
        assert_eq!(keys, [true, false, true, false, false, false]);
    }

    #[test]
    fn what_can_not_be_encoded_is_an_error_and_the_next_frame_is_taken() {
        let mut encoder = OpenH264::new(EncoderOptions::default());
        let mut packets = Vec::new();
        let l = layout(64, 48);
        let empty = layout(0, 48);
        let e = encoder.encode(&meta(empty, 1, 0), &[0; 10], &mut packets);
        assert!(matches!(e, Err(EncodeError::Pixels { .. })));
        let e = encoder.encode(&meta(l, 2, 0), &[0; 10], &mut packets);
        assert!(matches!(e, Err(EncodeError::Pixels { have: 10, .. })));
        let big = layout(4000, 2200);
        let e = encoder.encode(&meta(big, 3, 5), &noise(&big, 0), &mut packets);
        assert!(matches!(e, Err(EncodeError::Library { .. })));
        encoder
            .encode(&meta(l, 4, 6), &noise(&l, 0), &mut packets)
            .unwrap();
        let e = encoder.encode(&meta(l, 5, 6), &noise(&l, 0), &mut packets);
        assert!(matches!(e, Err(EncodeError::Time { last_ns: 6, .. })));
        assert_eq!(packets.len(), 1);
    }
}
