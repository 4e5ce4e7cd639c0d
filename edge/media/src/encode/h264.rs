//! Which H.264 encoder is at work: the board's, else OpenH264.
//!
//! ```text
//! first picture ──▶ hardware? ──yes──▶ V4L2 M2M ──fails──▶ warning ─┐
//!                       └──no────────────────────────────────────────┴──▶ OpenH264
//! ```
//!
//! The picture on which the hardware fails is encoded by OpenH264, so no picture is lost by the
//! change; only what the hardware had not given back yet is, and is counted
//! ([`Encoder::take_lost`]). The new encoder's parameter sets are others, so a clip ends there. There
//! is no way back until the lane is started again: what failed once is not trusted with evidence.

use std::path::{Path, PathBuf};

use visualpath_core::FrameMeta;

use super::openh264::{OpenH264, load};
use super::{EncodeError, Encoder, EncoderOptions, Packet};

/// Which encoder makes H.264.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum H264Encoder {
    /// The board's where it has one, else OpenH264.
    #[default]
    Auto,
    /// The board's; that OpenH264 has to stand in for it is told as a warning.
    Hardware,
    /// OpenH264, built from source.
    OpenH264,
    /// OpenH264, Cisco's own binary; never the one built from source.
    OpenH264Lib,
}

/// How H.264 is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct H264Options {
    /// By what.
    pub encoder: H264Encoder,
    /// Cisco's own binary. With it OpenH264 is never the one built from source, also where it only
    /// stands in for the hardware.
    pub library: Option<PathBuf>,
    /// Threads that OpenH264 may take, 1 to [`MAX_THREADS`](Self::MAX_THREADS). The hardware takes
    /// none.
    pub threads: u16,
}

impl Default for H264Options {
    fn default() -> Self {
        Self {
            encoder: H264Encoder::Auto,
            library: None,
            threads: 1,
        }
    }
}

impl H264Options {
    /// OpenH264 has no more.
    pub const MAX_THREADS: u16 = 4;

    /// Whether OpenH264 can be had as asked: loads Cisco's binary, if it is that.
    ///
    /// # Errors
    /// The file is missing, is not one that Cisco made, or can't be loaded.
    pub fn check(&self) -> Result<(), EncodeError> {
        load(self).map(drop)
    }

    /// Cisco's binary, where that is what is asked for.
    pub(super) fn binary(&self) -> Option<&Path> {
        match self.encoder {
            H264Encoder::OpenH264 => None,
            // Without a file its absence is an error, not a reason to take another.
            H264Encoder::OpenH264Lib => Some(self.library.as_deref().unwrap_or(Path::new(""))),
            H264Encoder::Auto | H264Encoder::Hardware => self.library.as_deref(),
        }
    }

    fn may_be_hardware(&self) -> bool {
        matches!(self.encoder, H264Encoder::Auto | H264Encoder::Hardware)
    }
}

/// See the module's text.
pub struct H264 {
    options: EncoderOptions,
    /// The first picture has not come yet, and may be the board's.
    undecided: bool,
    hardware: Option<Box<dyn Encoder>>,
    software: Option<Box<OpenH264>>,
    /// The next packet must be a key packet.
    restarts: bool,
    lost: u64,
}

impl H264 {
    /// An encoder; the first picture decides which.
    pub fn new(options: EncoderOptions) -> Self {
        Self {
            undecided: options.h264.may_be_hardware(),
            options,
            hardware: None,
            software: None,
            restarts: false,
            lost: 0,
        }
    }

    /// The same with another encoder in the place of the board's.
    #[cfg(test)]
    fn with_hardware(options: EncoderOptions, hardware: Box<dyn Encoder>) -> Self {
        Self {
            undecided: false,
            hardware: Some(hardware),
            ..Self::new(options)
        }
    }

    /// Whether the error says that the hardware is not to be used; tells so.
    fn gives_up(&self, error: &EncodeError) -> bool {
        match error {
            EncodeError::NoHardware { .. } if self.options.h264.encoder == H264Encoder::Auto => {
                tracing::debug!("the board has no H.264 encoder: OpenH264 encodes");
                true
            }
            EncodeError::NoHardware { .. } | EncodeError::Hardware { .. } => {
                let why = error.to_string();
                tracing::warn!(%why, "OpenH264 encodes instead of the hardware from here on");
                true
            }
            _ => false,
        }
    }
}

#[cfg(feature = "v4l2")]
fn hardware(options: &EncoderOptions) -> Option<Box<dyn Encoder>> {
    Some(Box::new(crate::source::v4l2::M2mEncoder::new(
        options.clone(),
    )))
}

#[cfg(not(feature = "v4l2"))]
fn hardware(_options: &EncoderOptions) -> Option<Box<dyn Encoder>> {
    None
}

/// The board's H.264 encoder, as `/dev/video11 (bcm2835-codec)`; `None` if it has none, or this
/// build does not know hardware encoders.
pub fn hardware_encoder() -> Option<String> {
    #[cfg(feature = "v4l2")]
    {
        crate::source::v4l2::hardware_encoder()
    }
    #[cfg(not(feature = "v4l2"))]
    {
        None
    }
}

impl Encoder for H264 {
    fn name(&self) -> String {
        match (&self.hardware, &self.software) {
            (Some(hardware), _) => hardware.name(),
            (None, Some(software)) => software.name(),
            (None, None) => "h264 (not chosen yet)".to_owned(),
        }
    }

    fn encode(
        &mut self,
        meta: &FrameMeta,
        pixels: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<(), EncodeError> {
        if std::mem::take(&mut self.undecided) {
            self.hardware = hardware(&self.options);
        }
        if let Some(mut hardware) = self.hardware.take() {
            if std::mem::take(&mut self.restarts) {
                hardware.restart();
            }
            let done = hardware.encode(meta, pixels, packets);
            self.lost += hardware.take_lost();
            if !done.as_ref().is_err_and(|e| self.gives_up(e)) {
                self.hardware = Some(hardware);
                return done;
            }
        }
        let software = self
            .software
            .get_or_insert_with(|| Box::new(OpenH264::new(self.options.clone())));
        if std::mem::take(&mut self.restarts) {
            software.restart();
        }
        software.encode(meta, pixels, packets)
    }

    fn restart(&mut self) {
        self.restarts = true;
    }

    fn inside(&self) -> u64 {
        self.hardware.as_ref().map_or(0, |h| h.inside())
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
        if let Some(hardware) = &mut self.hardware {
            let done = hardware.flush(packets);
            self.lost += hardware.take_lost();
            done?;
        }
        match &mut self.software {
            Some(software) => software.flush(packets),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use visualpath_core::{ColorSpec, ImageLayout, PixelFormat};

    use super::*;

    /// Gives OpenH264's packets one picture late and fails at the `fails`-th.
    struct Late {
        inner: OpenH264,
        kept: Vec<Packet>,
        taken: usize,
        fails: usize,
        lost: u64,
    }

    impl Encoder for Late {
        fn name(&self) -> String {
            "late".into()
        }
        fn encode(
            &mut self,
            meta: &FrameMeta,
            pixels: &[u8],
            packets: &mut Vec<Packet>,
        ) -> Result<(), EncodeError> {
            if self.taken == self.fails {
                self.lost += self.kept.drain(..).count() as u64;
                return Err(EncodeError::Hardware {
                    frame_id: meta.frame_id,
                    message: "it broke".into(),
                });
            }
            self.taken += 1;
            packets.append(&mut self.kept);
            self.inner.encode(meta, pixels, &mut self.kept)
        }
        fn restart(&mut self) {
            self.inner.restart();
        }
        fn inside(&self) -> u64 {
            self.kept.len() as u64
        }
        fn take_lost(&mut self) -> u64 {
            std::mem::take(&mut self.lost)
        }
        fn flush(&mut self, packets: &mut Vec<Packet>) -> Result<(), EncodeError> {
            packets.append(&mut self.kept);
            Ok(())
        }
    }

    #[test]
    fn when_the_hardware_fails_openh264_goes_on_with_that_very_picture() {
        let options = EncoderOptions::default();
        let late = Late {
            inner: OpenH264::new(options.clone()),
            kept: Vec::new(),
            taken: 0,
            fails: 5,
            lost: 0,
        };
        let mut encoder = H264::with_hardware(options, Box::new(late));
        assert_eq!(encoder.name(), "late");
        let layout = ImageLayout::packed(PixelFormat::I420, 64, 48, ColorSpec::default());
        let (mut packets, mut lost) = (Vec::new(), 0);
        for frame_id in 0..10u64 {
            let meta = FrameMeta {
                frame_id,
                t_ns: i64::try_from(frame_id).unwrap() * 40_000_000,
                epoch: 0,
                layout,
            };
            let pixels = vec![100; layout.bytes()];
            encoder.encode(&meta, &pixels, &mut packets).unwrap();
            lost += encoder.take_lost();
            let done = packets.len() as u64 + lost + encoder.inside();
            assert_eq!(done, frame_id + 1, "every picture is somewhere");
        }
        let ids: Vec<u64> = packets.iter().map(|p| p.frame_id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!(lost, 1, "the one that was inside");
        let keys: Vec<u64> = packets
            .iter()
            .filter(|p| p.is_key)
            .map(|p| p.frame_id)
            .collect();
        assert_eq!(keys, [0, 5], "the new encoder begins with a key picture");
        assert!(encoder.name().starts_with("openh264"));
    }

    #[test]
    fn a_board_without_an_encoder_gets_openh264_and_loses_nothing() {
        if hardware_encoder().is_some() {
            return;
        }
        for which in [H264Encoder::Auto, H264Encoder::Hardware] {
            let mut options = EncoderOptions::default();
            options.h264.encoder = which;
            let mut encoder = H264::new(options);
            let layout = ImageLayout::packed(PixelFormat::Yuyv, 64, 48, ColorSpec::default());
            let mut packets = Vec::new();
            encoder.restart();
            for frame_id in 0..3 {
                let meta = FrameMeta {
                    frame_id,
                    t_ns: i64::try_from(frame_id).unwrap(),
                    epoch: 0,
                    layout,
                };
                let pixels = vec![100; layout.bytes()];
                encoder.encode(&meta, &pixels, &mut packets).unwrap();
            }
            encoder.flush(&mut packets).unwrap();
            assert_eq!((packets.len(), encoder.take_lost()), (3, 0));
        }
    }

    #[test]
    fn the_source_build_is_never_taken_where_ciscos_binary_is_asked_for() {
        let options = |encoder, library: Option<&str>| H264Options {
            encoder,
            library: library.map(PathBuf::from),
            threads: 1,
        };
        let lib = |o: H264Options| o.binary().map(Path::to_owned);
        let file = Some("/opt/libopenh264.so");
        assert_eq!(lib(options(H264Encoder::OpenH264, file)), None);
        assert_eq!(lib(options(H264Encoder::Auto, None)), None);
        for encoder in [
            H264Encoder::Auto,
            H264Encoder::Hardware,
            H264Encoder::OpenH264Lib,
        ] {
            assert_eq!(lib(options(encoder, file)), file.map(PathBuf::from));
        }
        let e = options(H264Encoder::OpenH264Lib, None)
            .check()
            .unwrap_err()
            .to_string();
        assert!(e.contains("clip.openh264_library"), "{e}");
    }

    #[test]
    fn a_missing_or_foreign_library_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = dir.path().join("libopenh264-2.6.0-linux64.8.so");
        std::fs::write(&foreign, b"not Cisco's").unwrap();
        let missing = dir.path().join("none.so");
        for (file, word) in [(&foreign, "sha256"), (&missing, "No such file")] {
            let h264 = H264Options {
                encoder: H264Encoder::OpenH264Lib,
                library: Some(file.clone()),
                threads: 1,
            };
            let said = h264.check().unwrap_err().to_string();
            assert!(said.contains(&file.display().to_string()), "{said}");
            if cfg!(feature = "openh264-lib") {
                assert!(said.contains(word), "{said}");
            }
            // And nothing is encoded by another in its stead.
            let layout = ImageLayout::packed(PixelFormat::I420, 64, 48, ColorSpec::default());
            let meta = FrameMeta {
                frame_id: 1,
                t_ns: 1,
                epoch: 0,
                layout,
            };
            let mut packets = Vec::new();
            let e = H264::new(EncoderOptions {
                h264,
                ..EncoderOptions::default()
            })
            .encode(&meta, &vec![0; layout.bytes()], &mut packets);
            assert!(matches!(e, Err(EncodeError::OpenH264Library { .. })));
            assert!(packets.is_empty());
        }
    }
}
