//! The encoder on a scripted device: real H.264, any errno, any order of buffers.

use rustix::io::Errno;
use v4l::FourCC;
use v4l::v4l_sys as raw;
use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat};

use super::M2mError;
use super::encoder::M2mEncoder;
use super::scripted::{Fault, Shared};
use super::session::{HOLDS_BACK_MS, STALL_MS};
use crate::decode;
use crate::encode::{Bitrate, EncodeError, Encoder, EncoderOptions, Packet};

const MS: i64 = 1_000_000;

fn layout(format: PixelFormat, width: u32, height: u32) -> ImageLayout {
    ImageLayout::packed(format, width, height, ColorSpec::default())
}

/// An encoder on the device, and everything that came out of it.
struct Rig {
    device: Shared,
    encoder: M2mEncoder,
    packets: Vec<Packet>,
    offered: u64,
    failed: u64,
    lost: u64,
    layout: ImageLayout,
    epoch: u32,
}

impl Rig {
    fn new(device: &Shared, options: EncoderOptions) -> Self {
        let world = device.clone();
        Self {
            device: device.clone(),
            encoder: M2mEncoder::with(options, Box::new(move || Ok(world.open()))),
            packets: Vec::new(),
            offered: 0,
            failed: 0,
            lost: 0,
            layout: layout(PixelFormat::I420, 64, 48),
            epoch: 0,
        }
    }

    fn meta(&self, t_ns: i64) -> FrameMeta {
        FrameMeta {
            frame_id: self.offered,
            t_ns,
            epoch: self.epoch,
            layout: self.layout,
        }
    }

    /// A picture all of whose samples are its number.
    fn offer(&mut self, t_ns: i64) -> Result<(), EncodeError> {
        let meta = self.meta(t_ns);
        let level = level(self.offered);
        self.offered += 1;
        let pixels = vec![level; self.layout.bytes()];
        let done = self.encoder.encode(&meta, &pixels, &mut self.packets);
        self.failed += u64::from(done.is_err());
        self.lost += self.encoder.take_lost();
        self.accounted();
        done
    }

    fn flush(&mut self) -> Result<(), EncodeError> {
        let done = self.encoder.flush(&mut self.packets);
        self.lost += self.encoder.take_lost();
        self.accounted();
        assert_eq!(self.encoder.inside(), 0);
        done
    }

    /// Every frame is a packet, inside, lost, or was refused with an error.
    fn accounted(&self) {
        let out = self.packets.len() as u64 + self.encoder.inside();
        assert_eq!(out + self.lost + self.failed, self.offered);
        let times: Vec<i64> = self.packets.iter().map(|p| p.pts_ns).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        let violations = self.device.world().violations.clone();
        assert!(violations.is_empty(), "{violations:?}");
    }

    fn ids(&self) -> Vec<u64> {
        self.packets.iter().map(|p| p.frame_id).collect()
    }

    fn keys(&self) -> Vec<u64> {
        let keys = self.packets.iter().filter(|p| p.is_key);
        keys.map(|p| p.frame_id).collect()
    }

    /// Decodes everything and looks for each picture's own level everywhere in it.
    fn shows_every_picture(&self) {
        let mut decoder = decode::open(&self.packets[0].params, 1).unwrap();
        for packet in &self.packets {
            if packet.params != self.packets[0].params {
                decoder = decode::open(&packet.params, 1).unwrap();
            }
            decoder.push(packet).unwrap();
            let picture = decoder.ready().unwrap().unwrap();
            assert_eq!(picture.frame_id, packet.frame_id);
            let mut pixels = vec![0; picture.layout.bytes()];
            decoder.take(&mut pixels).unwrap();
            let wanted = level(packet.frame_id);
            let worst = pixels.iter().map(|p| p.abs_diff(wanted)).max();
            assert!(
                worst < Some(16),
                "frame {} of {:?}: {worst:?}, {} bytes",
                packet.frame_id,
                self.layout,
                packet.data.len()
            );
        }
    }
}

/// Far enough from its neighbours to survive coding.
fn level(frame_id: u64) -> u8 {
    u8::try_from(40 + frame_id % 8 * 20).unwrap()
}

fn options(gop_ns: i64) -> EncoderOptions {
    EncoderOptions {
        gop_ns,
        ..EncoderOptions::default()
    }
}

#[test]
fn every_frame_is_a_packet_at_once_with_its_own_time() {
    let device = Shared::new();
    let mut rig = Rig::new(&device, EncoderOptions::default());
    // Nanoseconds that no microsecond holds, and two frames in one microsecond.
    let times: Vec<i64> = (0..40)
        .map(|i| 123 + i * 33 * MS + (i % 7) * 1_234_567 - i64::from(i % 2 == 1) * 33 * MS)
        .scan(-1, |last, t| {
            *last = t.max(*last + 300);
            Some(*last)
        })
        .collect();
    for t_ns in &times {
        rig.offer(*t_ns).unwrap();
        assert_eq!(rig.encoder.inside(), 0);
    }
    rig.flush().unwrap();
    let out: Vec<i64> = rig.packets.iter().map(|p| p.pts_ns).collect();
    assert_eq!(out, times);
    assert_eq!(rig.keys(), [0]);
    assert_eq!((rig.lost, device.world().silent_ms), (0, 0));
    assert!(rig.encoder.name().contains("/dev/video11 (scripted)"));
}

#[test]
fn pictures_of_any_format_and_size_are_shown_whole_in_padded_buffers() {
    for (format, width, height) in [
        (PixelFormat::I420, 64, 48),
        (PixelFormat::Nv12, 66, 50),
        (PixelFormat::Yuyv, 65, 49),
        (PixelFormat::Grey, 40, 40),
    ] {
        for pad in [(0, 0), (16, 8)] {
            let device = Shared::new();
            device.world().pad = pad;
            // All key pictures: as the encoder is here, others are not exact at the edges.
            let mut rig = Rig::new(&device, options(1));
            rig.layout = layout(format, width, height);
            if format == PixelFormat::Grey {
                // Its chroma is 128, which is no level of the rig.
                rig.offer(0).unwrap();
            } else {
                (0..9).for_each(|i| rig.offer(i * 40 * MS).unwrap());
                rig.shows_every_picture();
            }
            let params = &rig.packets[0].params;
            let even = (width.next_multiple_of(2), height.next_multiple_of(2));
            assert_eq!((params.width, params.height), even, "{format:?} {pad:?}");
        }
    }
}

#[test]
fn a_driver_that_holds_pictures_back_is_found_out_and_loses_none() {
    for holds in 1..4 {
        let device = Shared::new();
        device.world().holds = holds;
        let mut rig = Rig::new(&device, EncoderOptions::default());
        for i in 0..20 {
            rig.offer(i * 40 * MS).unwrap();
        }
        assert_eq!(rig.encoder.inside(), holds as u64);
        // Waited for in vain once per picture that it keeps, not once per picture.
        let silent_ms = device.world().silent_ms;
        assert_eq!(silent_ms, HOLDS_BACK_MS * i32::try_from(holds).unwrap());
        rig.flush().unwrap();
        assert_eq!(rig.ids(), (0..20).collect::<Vec<_>>());
        assert_eq!(rig.lost, 0);
        rig.shows_every_picture();
        // And after that a new stream begins.
        rig.offer(2_000 * MS).unwrap();
        rig.flush().unwrap();
        assert_eq!(rig.keys(), [0, 20]);
    }
}

#[test]
fn without_a_drain_command_what_does_not_come_is_lost_and_counted() {
    let device = Shared::new();
    (device.world().drains, device.world().holds) = (false, 2);
    let mut rig = Rig::new(&device, EncoderOptions::default());
    (0..6).for_each(|i| rig.offer(i * 40 * MS).unwrap());
    rig.flush().unwrap();
    assert_eq!((rig.ids().len(), rig.lost), (4, 2));
}

#[test]
fn a_key_picture_comes_by_source_time_at_a_new_epoch_and_after_a_restart() {
    let device = Shared::new();
    let mut rig = Rig::new(&device, options(1_000 * MS));
    // 10 per second, then a pause.
    for i in 0..25 {
        rig.offer(i * 100 * MS).unwrap();
    }
    rig.offer(9_000 * MS).unwrap();
    assert_eq!(rig.keys(), [0, 10, 20, 25]);
    rig.offer(9_100 * MS).unwrap();
    rig.encoder.restart();
    rig.offer(9_200 * MS).unwrap();
    rig.offer(9_300 * MS).unwrap();
    rig.epoch = 1;
    rig.offer(9_400 * MS).unwrap();
    rig.offer(9_500 * MS).unwrap();
    assert_eq!(rig.keys(), [0, 10, 20, 25, 27, 29]);
    assert_eq!(device.world().opens, 1, "told, not begun anew");
    rig.shows_every_picture();
}

#[test]
fn a_driver_that_makes_no_key_picture_when_told_is_begun_anew_where_one_must_come() {
    let device = Shared::new();
    let force = raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME;
    device.world().controls.remove(&force);
    let mut rig = Rig::new(&device, options(1_000 * MS));
    for i in 0..30 {
        if i == 10 {
            rig.encoder.restart();
        }
        rig.epoch = u32::from(i >= 20);
        rig.offer(i * 100 * MS).unwrap();
    }
    assert_eq!(rig.keys(), [0, 10, 20]);
    assert_eq!((device.world().opens, rig.lost), (3, 0));
}

#[test]
fn bits_gop_and_profile_are_set_within_what_the_driver_takes() {
    let device = Shared::new();
    let mut asked = options(2_000 * MS);
    (asked.bitrate, asked.fps) = (Bitrate::BitsPerS(90_000_000), 25.0);
    let mut rig = Rig::new(&device, asked.clone());
    rig.offer(0).unwrap();
    let set = device.world().set.clone();
    let of = |id: u32| set.iter().find(|(i, _)| *i == id).map(|(_, v)| *v);
    assert_eq!(of(raw::V4L2_CID_MPEG_VIDEO_BITRATE), Some(25_000_000));
    assert_eq!(of(raw::V4L2_CID_MPEG_VIDEO_H264_PROFILE), Some(4));
    // Ours come first: its own key pictures are four times as far apart.
    assert_eq!(of(raw::V4L2_CID_MPEG_VIDEO_H264_I_PERIOD), Some(200));
    assert_eq!(of(raw::V4L2_CID_MPEG_VIDEO_GOP_SIZE), None);

    let device = Shared::new();
    let force = raw::V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME;
    device.world().controls.remove(&force);
    Rig::new(&device, asked).offer(0).unwrap();
    let set = device.world().set.clone();
    let period = (raw::V4L2_CID_MPEG_VIDEO_H264_I_PERIOD, 50);
    assert!(set.contains(&period), "{set:?}");
}

#[test]
fn a_new_size_ends_the_stream_and_loses_nothing() {
    let device = Shared::new();
    device.world().holds = 2;
    let mut rig = Rig::new(&device, EncoderOptions::default());
    for i in 0..12 {
        if i == 6 {
            rig.layout = layout(PixelFormat::I420, 96, 64);
        }
        rig.offer(i * 40 * MS).unwrap();
    }
    rig.flush().unwrap();
    assert_eq!(rig.ids(), (0..12).collect::<Vec<_>>());
    assert_eq!(rig.keys(), [0, 6]);
    assert_eq!(rig.packets[6].params.width, 96);
    let world = device.world();
    assert_eq!((world.opens, world.closes), (2, 2));
}

#[test]
fn parameter_sets_in_a_buffer_of_their_own_are_taken() {
    let device = Shared::new();
    device.world().faults.insert(0, Fault::HeaderApart);
    let mut rig = Rig::new(&device, EncoderOptions::default());
    (0..5).for_each(|i| rig.offer(i * 40 * MS).unwrap());
    rig.flush().unwrap();
    assert_eq!(rig.ids(), [0, 1, 2, 3, 4]);
    rig.shows_every_picture();
}

#[test]
fn a_picture_that_the_driver_swallows_is_lost_and_the_others_keep_their_times() {
    let device = Shared::new();
    device.world().faults.insert(3, Fault::Swallowed);
    let mut rig = Rig::new(&device, EncoderOptions::default());
    (0..8).for_each(|i| rig.offer(i * 40 * MS).unwrap());
    rig.flush().unwrap();
    assert_eq!((rig.ids(), rig.lost), (vec![0, 1, 2, 4, 5, 6, 7], 1));
}

/// After each failure: the frame is refused with an error that names the device, what was inside is
/// counted, the device is closed, and the next frame begins a new stream.
fn breaks_and_begins_anew(device: &Shared, what: &str, words: &str) {
    let mut rig = Rig::new(device, EncoderOptions::default());
    let mut said = Vec::new();
    for i in 0..12 {
        if let Err(e) = rig.offer(i * 40 * MS) {
            assert!(matches!(e, EncodeError::Hardware { .. }), "{what}: {e}");
            let world = device.world();
            assert_eq!(world.opens, world.closes, "{what}: left open");
            said.push(e.to_string());
        }
    }
    if let Err(e) = rig.flush() {
        said.push(e.to_string());
    }
    assert_eq!(said.len(), 1, "{what}: {said:?}");
    assert!(said[0].contains("/dev/video11 (scripted): "), "{}", said[0]);
    assert!(said[0].contains(words), "{what}: {}", said[0]);
    let last = rig.packets.last().unwrap();
    assert!(last.frame_id == 11 || words.contains("ENC_CMD"), "{what}");
}

#[test]
fn any_errno_of_any_call_is_a_failure_that_names_the_call() {
    for (call, nth, words) in [
        ("ENUM_FMT", 1, "listing its formats"),
        ("S_FMT", 1, "setting H264 64x48 (S_FMT)"),
        ("S_FMT", 2, "setting YU12 64x48 (S_FMT)"),
        ("REQBUFS", 1, "REQBUFS"),
        ("REQBUFS", 2, "REQBUFS"),
        ("mmap", 1, "mapping"),
        ("mmap", 7, "mapping"),
        ("QBUF", 1, "QBUF"),
        ("QBUF", 5, "QBUF"),
        ("QBUF", 6, "QBUF"),
        ("QBUF", 9, "QBUF"),
        ("DQBUF", 3, "DQBUF"),
        ("DQBUF", 10, "DQBUF"),
        ("STREAMON", 1, "STREAMON"),
        ("STREAMON", 2, "STREAMON"),
        ("ENC_CMD", 1, "ENC_CMD"),
    ] {
        for errno in [Errno::IO, Errno::NOMEM, Errno::NODEV, Errno::BUSY] {
            for holds in [0, 2] {
                let device = Shared::new();
                device.world().holds = holds;
                device.world().fail = Some((call, nth, errno));
                breaks_and_begins_anew(&device, &format!("{call} {nth} {errno}"), words);
            }
        }
    }
    let device = Shared::new();
    (device.world().holds, device.world().fail) = (2, Some(("poll", 2, Errno::NOMEM)));
    breaks_and_begins_anew(&device, "poll", "poll");
    // These can't be had from every driver, and are not needed.
    for call in ["S_PARM", "S_CTRL", "STREAMOFF"] {
        let device = Shared::new();
        device.world().fail = Some((call, 1, Errno::NOTTY));
        let mut rig = Rig::new(&device, EncoderOptions::default());
        (0..4).for_each(|i| rig.offer(i * 40 * MS).unwrap());
        rig.flush().unwrap();
        assert_eq!(rig.ids().len(), 4);
    }
}

#[test]
fn what_a_driver_does_wrong_is_a_failure_that_says_what() {
    for (fault, words) in [
        (Fault::Damaged, "is damaged"),
        (Fault::Empty, "an empty picture"),
        (Fault::WrongStamp, "which no picture had"),
        (Fault::Gone, "No such device"),
        (Fault::WrongBuffer, "buffer 77, which it did not have"),
    ] {
        for picture in [0, 5] {
            let device = Shared::new();
            device.world().faults.insert(picture, fault);
            breaks_and_begins_anew(&device, &format!("{fault:?} {picture}"), words);
        }
    }
    let device = Shared::new();
    device.world().faults.insert(0, Fault::NoHeader);
    breaks_and_begins_anew(&device, "no header", "without parameter sets");
    let device = Shared::new();
    device.world().faults.insert(0, Fault::Nonsense);
    breaks_and_begins_anew(&device, "nonsense", "it began without");
}

#[test]
fn a_driver_that_hangs_is_given_up_after_a_bounded_wait() {
    let device = Shared::new();
    device.world().faults.insert(4, Fault::Hangs);
    breaks_and_begins_anew(&device, "hangs", "4 pictures are inside");
    assert_eq!(device.world().silent_ms, 3 * HOLDS_BACK_MS + STALL_MS);
}

#[test]
fn pictures_the_driver_does_not_take_whole_are_refused() {
    let device = Shared::new();
    (device.world().pad, device.world().crops) = ((16, 16), false);
    let e = Rig::new(&device, EncoderOptions::default())
        .offer(0)
        .unwrap_err();
    assert!(e.to_string().contains("asked for pictures of 64x48"), "{e}");
    let device = Shared::new();
    device.world().raw_formats = vec![FourCC { repr: *b"RGB3" }];
    let e = Rig::new(&device, EncoderOptions::default())
        .offer(0)
        .unwrap_err();
    assert!(e.to_string().contains("it takes none of YU12"), "{e}");
}

#[test]
fn a_frame_that_is_wrong_is_no_failure_of_the_hardware() {
    let device = Shared::new();
    let mut rig = Rig::new(&device, EncoderOptions::default());
    rig.offer(5 * MS).unwrap();
    let e = rig.offer(5 * MS).unwrap_err();
    assert!(matches!(e, EncodeError::Time { .. }));
    rig.offer(6 * MS).unwrap();
    assert_eq!((rig.ids(), device.world().opens), (vec![0, 2], 1));
}

#[test]
fn a_board_without_an_encoder_says_so() {
    let none = || {
        Err(M2mError::None {
            coded: "H264".into(),
            denied: vec!["/dev/video11".into()],
        })
    };
    let mut encoder = M2mEncoder::with(EncoderOptions::default(), Box::new(none));
    let rig = Rig::new(&Shared::new(), EncoderOptions::default());
    let pixels = vec![0; rig.layout.bytes()];
    let e = encoder
        .encode(&rig.meta(0), &pixels, &mut Vec::new())
        .unwrap_err();
    assert!(matches!(e, EncodeError::NoHardware { .. }));
    assert!(
        e.to_string().contains("/dev/video11 may not be opened"),
        "{e}"
    );
}
