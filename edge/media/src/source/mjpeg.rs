//! A bare sequence of JPEGs (`.mjpeg`), decoded here: no colour conversion, no child.
//!
//! How: [`JpegDecoder`].

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use visualpath_core::{ImageLayout, PixelFormat};
use visualpath_frames::SlotMut;

use super::file::{Fault, Pictures, Step};
use super::jpeg::{JpegSplitter, Piece};
use super::{SourceError, SourceInfo, StopFlag};
use crate::decode::{DecodeError, JPEG_COLOR, JpegDecoder};

/// JPEGs carry no time; this is their rate where none is asked for.
const DEFAULT_FPS: f64 = 25.0;

/// Decodes a bare sequence of JPEGs.
pub(super) struct MjpegPictures {
    file: PathBuf,
    splitter: JpegSplitter<File>,
    decoder: JpegDecoder,
    info: SourceInfo,
    fps: f64,
    jpeg: Vec<u8>,
    /// The current picture has been announced as a new format, and not yet as a picture.
    announced: bool,
    index: u64,
    broken: u64,
}

impl MjpegPictures {
    pub(super) fn open(file: &Path, fps: Option<f64>) -> Result<Self, SourceError> {
        let fps = fps
            .filter(|f| f.is_finite() && *f > 0.0)
            .unwrap_or(DEFAULT_FPS);
        let splitter = JpegSplitter::new(open_file(file)?);
        let decoder = JpegDecoder::new().map_err(|e| turbo(file, &e))?;
        let placeholder = ImageLayout::packed(PixelFormat::I420, 0, 0, JPEG_COLOR);
        let mut this = Self {
            file: file.to_owned(),
            splitter,
            decoder,
            info: info_of(placeholder, fps),
            fps,
            jpeg: Vec::new(),
            announced: false,
            index: 0,
            broken: 0,
        };
        // The first picture that has a size decides what is delivered.
        loop {
            match this.read_jpeg()? {
                Piece::Jpeg => {
                    if let Ok(layout) = this.decoder.look(&this.jpeg) {
                        this.info = info_of(layout, fps);
                        break;
                    }
                }
                Piece::Broken => {}
                Piece::End => {
                    return Err(SourceError::Damaged {
                        file: file.to_owned(),
                        frames_delivered: 0,
                        detail: "no JPEG in it can be decoded".to_owned(),
                    });
                }
            }
        }
        this.rewind()?;
        Ok(this)
    }

    fn read_jpeg(&mut self) -> Result<Piece, SourceError> {
        self.splitter
            .next_piece(&mut self.jpeg)
            .map_err(|cause| SourceError::Unreadable {
                file: self.file.clone(),
                cause,
            })
    }

    fn pts_ns(&self) -> Option<i64> {
        // From the number, not by adding intervals: nothing adds up.
        let ns = (self.index as f64 * 1e9 / self.fps).round();
        #[expect(clippy::cast_possible_truncation, reason = "float casts saturate")]
        let ns = ns as i64;
        Some(ns)
    }

    fn lost(&mut self) -> Step {
        self.broken += 1;
        let pts_ns = self.pts_ns();
        self.index += 1;
        Step::Lost { pts_ns }
    }

    fn damage(&self) -> Option<String> {
        let between = self.splitter.bytes_between();
        match (self.broken, between) {
            (0, 0) => None,
            (0, bytes) => Some(format!("{bytes} bytes in it belong to no JPEG")),
            (n, _) => Some(format!("{n} of its {} JPEGs can't be decoded", self.index)),
        }
    }
}

impl Pictures for MjpegPictures {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn step(&mut self, _stop: &StopFlag) -> Result<Step, Fault> {
        if !std::mem::take(&mut self.announced) {
            match self.read_jpeg().map_err(Fault::Fatal)? {
                Piece::Jpeg => {}
                Piece::Broken => return Ok(self.lost()),
                Piece::End => {
                    return Ok(Step::End {
                        damage: self.damage(),
                    });
                }
            }
            let Ok(layout) = self.decoder.look(&self.jpeg) else {
                return Ok(self.lost());
            };
            if layout != self.info.layout {
                self.info = info_of(layout, self.fps);
                self.announced = true;
                return Ok(Step::NewFormat);
            }
        }
        let pts_ns = self.pts_ns();
        self.index += 1;
        Ok(Step::Picture { pts_ns })
    }

    fn fill(&mut self, slot: &mut SlotMut, _stop: &StopFlag) -> Result<(), Fault> {
        let direct = match self.decoder.decode(&self.jpeg, slot.pixels_mut()) {
            Ok(direct) => direct,
            Err(e) => {
                tracing::debug!(file = %self.file.display(), "JPEG {}: {e}", self.index);
                self.broken += 1;
                return Err(Fault::Undecodable);
            }
        };
        if !direct {
            slot.count_copy();
        }
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        let mut file = open_file(&self.file)?;
        file.seek(SeekFrom::Start(0))
            .map_err(|cause| SourceError::Unreadable {
                file: self.file.clone(),
                cause,
            })?;
        self.splitter = JpegSplitter::new(file);
        self.announced = false;
        self.index = 0;
        self.broken = 0;
        Ok(())
    }
}

fn open_file(file: &Path) -> Result<File, SourceError> {
    File::open(file).map_err(|cause| SourceError::Unreadable {
        file: file.to_owned(),
        cause,
    })
}

fn turbo(file: &Path, error: &DecodeError) -> SourceError {
    SourceError::Decoder {
        program: "libjpeg-turbo",
        file: file.to_owned(),
        frames_delivered: 0,
        detail: error.to_string(),
    }
}

fn info_of(layout: ImageLayout, fps: f64) -> SourceInfo {
    let (width, height) = (layout.width, layout.height);
    let description = format!("libjpeg-turbo mjpeg {width}x{height} {fps} fps");
    SourceInfo {
        nominal_fps: Some(fps),
        ..SourceInfo::new(layout, description)
    }
}
