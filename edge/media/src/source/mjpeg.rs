//! A bare sequence of JPEGs (`.mjpeg`), decoded here: no colour conversion, no child.
//!
//! JPEG pictures are full range BT.601 (JFIF 1.02). 4:2:0 ones are decoded straight into the slot;
//! other samplings are brought to 4:2:0, grey ones stay grey.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Subsamp, YuvImage};
use visualpath_core::{ColorMatrix, ColorRange, ColorSpec, ImageLayout, PixelFormat};
use visualpath_frames::{MAX_SIDE, SlotMut};

use super::file::{Fault, Pictures, Step};
use super::jpeg::{JpegSplitter, Piece};
use super::{SourceError, SourceInfo, StopFlag};

/// JPEGs carry no time; this is their rate where none is asked for.
const DEFAULT_FPS: f64 = 25.0;
/// A progressive JPEG can ask for thousands of passes over the picture.
const MAX_SCANS: u32 = 200;

/// Decodes a bare sequence of JPEGs.
pub(super) struct MjpegPictures {
    file: PathBuf,
    splitter: JpegSplitter<File>,
    decompressor: Decompressor,
    info: SourceInfo,
    fps: f64,
    jpeg: Vec<u8>,
    scratch: Vec<u8>,
    header: Option<DecompressHeader>,
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
        let mut decompressor = Decompressor::new().map_err(|e| turbo(file, &e))?;
        decompressor
            .set_scan_limit(MAX_SCANS)
            .map_err(|e| turbo(file, &e))?;
        let placeholder = ImageLayout::packed(PixelFormat::I420, 0, 0, JPEG_COLOR);
        let mut this = Self {
            file: file.to_owned(),
            splitter,
            decompressor,
            info: info_of(placeholder, fps),
            fps,
            jpeg: Vec::new(),
            scratch: Vec::new(),
            header: None,
            announced: false,
            index: 0,
            broken: 0,
        };
        // The first picture that has a size decides what is delivered.
        loop {
            match this.read_jpeg()? {
                Piece::Jpeg => {
                    if let Some(header) = this.read_header() {
                        this.info = info_of(layout_of(&header), fps);
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

    /// The current JPEG's header, if it is one this can decode.
    fn read_header(&mut self) -> Option<DecompressHeader> {
        let header = self.decompressor.read_header(&self.jpeg).ok()?;
        let side = 1..=MAX_SIDE as usize;
        let good = side.contains(&header.width)
            && side.contains(&header.height)
            && header.subsamp != Subsamp::Unknown
            && !header.is_lossless
            && matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray);
        good.then_some(header)
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
            let Some(header) = self.read_header() else {
                return Ok(self.lost());
            };
            self.header = Some(header);
            let layout = layout_of(&header);
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
        let Some(header) = self.header else {
            return Err(Fault::Undecodable);
        };
        let layout = self.info.layout;
        let direct = fits_as_it_is(&header);
        let decoded = decode(
            &mut self.decompressor,
            &self.jpeg,
            &header,
            &layout,
            &mut self.scratch,
            slot.pixels_mut(),
        );
        if let Err(e) = decoded {
            tracing::debug!(file = %self.file.display(), "JPEG {}: {e}", self.index);
            self.broken += 1;
            return Err(Fault::Undecodable);
        }
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

const JPEG_COLOR: ColorSpec = ColorSpec {
    matrix: ColorMatrix::Bt601,
    range: ColorRange::Full,
};

fn open_file(file: &Path) -> Result<File, SourceError> {
    File::open(file).map_err(|cause| SourceError::Unreadable {
        file: file.to_owned(),
        cause,
    })
}

fn turbo(file: &Path, error: &turbojpeg::Error) -> SourceError {
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

/// Sides were checked to be at most [`MAX_SIDE`].
fn layout_of(header: &DecompressHeader) -> ImageLayout {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(0);
    let format = match header.subsamp {
        Subsamp::Gray => PixelFormat::Grey,
        _ => PixelFormat::I420,
    };
    ImageLayout::packed(format, side(header.width), side(header.height), JPEG_COLOR)
}

/// Whether libjpeg-turbo's planes lie as ours do. It pads luma to whole chroma samples.
fn fits_as_it_is(header: &DecompressHeader) -> bool {
    match header.subsamp {
        Subsamp::Gray => true,
        Subsamp::Sub2x2 => header.width.is_multiple_of(2) && header.height.is_multiple_of(2),
        _ => false,
    }
}

fn decode(
    decompressor: &mut Decompressor,
    jpeg: &[u8],
    header: &DecompressHeader,
    layout: &ImageLayout,
    scratch: &mut Vec<u8>,
    dst: &mut [u8],
) -> Result<(), turbojpeg::Error> {
    let (width, height, subsamp) = (header.width, header.height, header.subsamp);
    let need = turbojpeg::yuv_pixels_len(width, 1, height, subsamp)?;
    if fits_as_it_is(header) && dst.len() == need {
        let image = YuvImage {
            pixels: dst,
            width,
            align: 1,
            height,
            subsamp,
        };
        return decompressor.decompress_to_yuv(jpeg, image);
    }
    scratch.resize(need, 0);
    let mut image = YuvImage {
        pixels: scratch.as_mut_slice(),
        width,
        align: 1,
        height,
        subsamp,
    };
    let (y_size, uv_size) = (image.y_size(), image.uv_size());
    decompressor.decompress_to_yuv(jpeg, image.as_deref_mut())?;
    let (sub_x, sub_y) = subsamp.size();
    let (luma, chroma) = scratch.split_at(y_size.0 * y_size.1);
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
        let Some(out) = dst.get_mut(plane.offset..) else {
            break;
        };
        for (y, row) in out.chunks_mut(plane.stride).take(plane.rows).enumerate() {
            let ys = covered(y, scale, sub.1, rows);
            for (x, out) in row.iter_mut().take(plane.row_bytes).enumerate() {
                let xs = covered(x, scale, sub.0, stride);
                *out = mean(src, stride, xs, ys.clone());
            }
        }
    }
    Ok(())
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
