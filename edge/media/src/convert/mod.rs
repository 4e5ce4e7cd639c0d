//! Pixel conversion: from a source's picture to the view an extractor asks for.
//!
//! ```text
//! planar YUV ─ resample each plane to the target size ─▶ YUV 4:4:4 ─ colour matrix ─▶ RGB, BGR
//!          └── luma only ──────────────────────────────▶ expand to 0–255 ───────────▶ grey
//! RGB, BGR  ── resample ─▶ swap, or weigh ─▶ RGB, BGR, grey
//! ```
//!
//! Resampling comes before the colour matrix: both are linear, so the order does not matter but
//! for rounding and clamping, and there are half as many samples to resample, and only the
//! target's to convert.
//!
//! Meaning of the filters: `docs/design/sources.md`, "Views".

mod colour;
mod privacy;
mod resample;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use visualpath_core::{Filter, ImageLayout, PixelFormat, ViewSpec};
use visualpath_frames::{ViewError, ViewMaker};

pub use privacy::PrivacyMask;
use resample::{Axis, AxisKey, Rows, RowsMut, resample};

/// Tables kept: a view of a planar picture takes four, and there are few views.
const MAX_TABLES: usize = 32;
/// Scratch sets kept for threads that convert at the same time.
const MAX_IDLE: usize = 8;

/// Makes views by converting pixels. Shared by all threads; keeps its buffers, so that in steady
/// state nothing is allocated.
#[derive(Debug, Default)]
pub struct Converter {
    idle: Mutex<Vec<Scratch>>,
}

/// Buffers of one conversion.
#[derive(Debug, Default)]
struct Scratch {
    tables: Vec<Axis>,
    mid: Vec<u16>,
    /// Planes of a picture that came interleaved.
    split: [Vec<u8>; 3],
    /// Planes at the target's size.
    planes: [Vec<u8>; 3],
    /// An RGB picture at the target's size.
    packed: Vec<u8>,
}

impl Converter {
    /// A converter without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl ViewMaker for Converter {
    fn make(
        &self,
        spec: &ViewSpec,
        native: &ImageLayout,
        src: &[u8],
        view: &ImageLayout,
        dst: &mut [u8],
    ) -> Result<(), ViewError> {
        let job = Job::new(spec, native, src, view, dst.len())?;
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let popped = idle().pop();
        let mut scratch = popped.unwrap_or_default();
        let done = job.run(&mut scratch, dst);
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(scratch);
        }
        done
    }
}

/// One checked conversion.
struct Job<'a> {
    native: &'a ImageLayout,
    src: &'a [u8],
    view: &'a ImageLayout,
    filter: Filter,
    /// The picture inside the view: left, top, width, height.
    inner: (usize, usize, usize, usize),
}

/// A plane of samples: bytes, how many across and down, and picture pixels per sample.
#[derive(Clone, Copy)]
struct Samples<'a> {
    rows: Rows<'a>,
    width: usize,
    height: usize,
    sub: (usize, usize),
}

impl<'a> Job<'a> {
    fn new(
        spec: &ViewSpec,
        native: &'a ImageLayout,
        src: &'a [u8],
        view: &'a ImageLayout,
        room: usize,
    ) -> Result<Self, ViewError> {
        let (inner_w, inner_h) = spec.content(native);
        let fits = inner_w <= view.width && inner_h <= view.height;
        if src.len() < native.bytes() || room < view.bytes() || !fits {
            return Err(failed(view, "its bytes are not there".to_owned()));
        }
        if [native.width, native.height, inner_w, inner_h].contains(&0) {
            return Err(failed(view, "a picture without pixels".to_owned()));
        }
        Ok(Self {
            native,
            src,
            view,
            filter: spec.filter,
            inner: (
                ((view.width - inner_w) / 2) as usize,
                ((view.height - inner_h) / 2) as usize,
                inner_w as usize,
                inner_h as usize,
            ),
        })
    }

    fn run(&self, scratch: &mut Scratch, dst: &mut [u8]) -> Result<(), ViewError> {
        use PixelFormat::{Bgr, Grey, I420, Nv12, Rgb, Yuyv};
        let (from, to) = (self.native.format, self.view.format);
        let unsupported = Err(ViewError::Unsupported { from, to });
        if from == to && self.is_whole() && !self.resizes() {
            return self.copy(dst);
        }
        let dst = &mut dst[..self.view.bytes()];
        match (from, to) {
            // Black would have to be put around subsampled planes, on half a sample.
            (I420, I420) if !self.is_whole() => unsupported,
            (I420, I420) => self.planes_to_planes(scratch, dst),
            (I420 | Nv12 | Yuyv, Grey) => {
                self.black(dst);
                self.luma(scratch, dst)
            }
            (I420 | Nv12 | Yuyv, Rgb | Bgr) => {
                self.black(dst);
                self.yuv_to_rgb(scratch, dst)
            }
            (Rgb | Bgr | Grey, Rgb | Bgr | Grey) => {
                self.black(dst);
                self.packed(scratch, dst)
            }
            _ => unsupported,
        }
    }

    fn resizes(&self) -> bool {
        (self.inner.2, self.inner.3) != (self.native.width as usize, self.native.height as usize)
    }

    /// Whether the picture fills the view.
    fn is_whole(&self) -> bool {
        (self.inner.2, self.inner.3) == (self.view.width as usize, self.view.height as usize)
    }

    fn black(&self, dst: &mut [u8]) {
        if !self.is_whole() {
            dst.fill(0);
        }
    }

    fn copy(&self, dst: &mut [u8]) -> Result<(), ViewError> {
        for (from, to) in self.native.planes().iter().zip(self.view.planes()) {
            let src = self.src[from.offset..].chunks(from.stride.max(1));
            let dst = dst[to.offset..].chunks_mut(to.stride.max(1));
            for (src, dst) in src.zip(dst).take(from.rows.min(to.rows)) {
                let n = from.row_bytes.min(to.row_bytes);
                dst[..n].copy_from_slice(&src[..n]);
            }
        }
        Ok(())
    }

    /// The part of a packed view that the picture fills.
    fn inner_rows<'d>(&self, dst: &'d mut [u8], channels: usize) -> RowsMut<'d> {
        let stride = self.view.planes().first().map_or(0, |p| p.stride);
        let (left, top, _, _) = self.inner;
        RowsMut {
            bytes: &mut dst[top * stride + left * channels..],
            stride,
        }
    }

    fn plane(&self, index: usize, width: usize, sub: (usize, usize)) -> Samples<'a> {
        let plane = self.native.planes().get(index).copied().unwrap_or_default();
        Samples {
            rows: Rows {
                bytes: self.native.plane(self.src, index).unwrap_or(&[]),
                stride: plane.stride,
            },
            width,
            height: plane.rows,
            sub,
        }
    }

    /// The picture's Y, U and V as planes; interleaved ones are taken apart into `split`.
    fn yuv<'s>(&self, split: &'s mut [Vec<u8>; 3]) -> [Samples<'s>; 3]
    where
        'a: 's,
    {
        let (w, h) = (self.native.width as usize, self.native.height as usize);
        let half_w = w.div_ceil(2);
        let chroma = |bytes: &'s [u8], height, sub| Samples {
            rows: Rows {
                bytes,
                stride: half_w,
            },
            width: half_w,
            height,
            sub,
        };
        match self.native.format {
            PixelFormat::Nv12 => {
                let uv = self.plane(1, half_w, (2, 2));
                let [_, u, v] = split;
                colour::take_apart(uv.rows, (half_w, uv.height), 2, [(u, 0), (v, 1)]);
                let sub = (2, 2);
                [
                    self.plane(0, w, (1, 1)),
                    chroma(u, uv.height, sub),
                    chroma(v, uv.height, sub),
                ]
            }
            PixelFormat::Yuyv => {
                let all = self.plane(0, half_w * 4, (1, 1));
                let [luma, u, v] = split;
                colour::take_apart(all.rows, (half_w, h), 4, [(u, 1), (v, 3)]);
                colour::take_luma(all.rows, (w, h), luma);
                let y = Samples {
                    rows: Rows {
                        bytes: luma,
                        stride: w,
                    },
                    width: w,
                    height: h,
                    sub: (1, 1),
                };
                [y, chroma(u, h, (2, 1)), chroma(v, h, (2, 1))]
            }
            _ => [
                self.plane(0, w, (1, 1)),
                self.plane(1, half_w, (2, 2)),
                self.plane(2, half_w, (2, 2)),
            ],
        }
    }

    fn resample_plane(
        &self,
        from: Samples<'_>,
        to: (usize, usize),
        tables: &mut Vec<Axis>,
        mid: &mut Vec<u16>,
        dst: RowsMut<'_>,
    ) {
        let (w, h) = (self.native.width as usize, self.native.height as usize);
        let columns = AxisKey::new(from.width, w, from.sub.0, to.0, self.filter);
        let rows = AxisKey::new(from.height, h, from.sub.1, to.1, self.filter);
        let (columns, rows) = tables_for(tables, columns, rows);
        let (columns, rows) = (&tables[columns], &tables[rows]);
        resample::<1>(from.rows, columns, rows, mid, dst);
    }

    fn planes_to_planes(&self, scratch: &mut Scratch, dst: &mut [u8]) -> Result<(), ViewError> {
        let Scratch {
            tables, mid, split, ..
        } = scratch;
        for (from, to) in self.yuv(split).into_iter().zip(self.view.planes()) {
            let rows = RowsMut {
                bytes: &mut dst[to.offset..to.offset + to.stride * to.rows],
                stride: to.stride,
            };
            self.resample_plane(from, (to.row_bytes, to.rows), tables, mid, rows);
        }
        Ok(())
    }

    fn luma(&self, scratch: &mut Scratch, dst: &mut [u8]) -> Result<(), ViewError> {
        let Scratch {
            tables, mid, split, ..
        } = scratch;
        let (_, _, w, h) = self.inner;
        let [y, ..] = self.yuv(split);
        let rows = self.inner_rows(dst, 1);
        if self.resizes() {
            self.resample_plane(y, (w, h), tables, mid, rows);
        } else {
            colour::copy_rows(y.rows, rows, (w, h));
        }
        colour::expand(self.inner_rows(dst, 1), (w, h), self.native.color.range);
        Ok(())
    }

    fn yuv_to_rgb(&self, scratch: &mut Scratch, dst: &mut [u8]) -> Result<(), ViewError> {
        let (_, _, w, h) = self.inner;
        let bgr = self.view.format == PixelFormat::Bgr;
        let rows = self.inner_rows(dst, 3);
        let done = if self.resizes() {
            let Scratch {
                tables,
                mid,
                split,
                planes,
                ..
            } = scratch;
            for (from, plane) in self.yuv(split).into_iter().zip(planes.iter_mut()) {
                plane.resize(w * h, 0);
                let rows = RowsMut {
                    bytes: plane,
                    stride: w,
                };
                self.resample_plane(from, (w, h), tables, mid, rows);
            }
            colour::yuv444_to_rgb(planes, (w, h), self.native.color, rows, bgr)
        } else {
            colour::unscaled_to_rgb(self.native, self.src, rows, bgr)
        };
        done.map_err(|reason| failed(self.view, reason))
    }

    /// RGB, BGR and grey among themselves.
    fn packed(&self, scratch: &mut Scratch, dst: &mut [u8]) -> Result<(), ViewError> {
        let (_, _, w, h) = self.inner;
        let channels = |format| if format == PixelFormat::Grey { 1 } else { 3 };
        let (from, to) = (self.native.format, self.view.format);
        let (from_channels, to_channels) = (channels(from), channels(to));
        let native = self.plane(0, self.native.width as usize, (1, 1));
        let mut rows = native.rows;
        if self.resizes() {
            let Scratch {
                tables,
                mid,
                packed,
                ..
            } = scratch;
            let key = |src, dst| AxisKey::new(src, src, 1, dst, self.filter);
            let (columns, lines) = tables_for(tables, key(native.width, w), key(native.height, h));
            let (columns, lines) = (&tables[columns], &tables[lines]);
            packed.resize(w * h * from_channels, 0);
            let stride = w * from_channels;
            let out = RowsMut {
                bytes: packed,
                stride,
            };
            if from_channels == 1 {
                resample::<1>(rows, columns, lines, mid, out);
            } else {
                resample::<3>(rows, columns, lines, mid, out);
            }
            rows = Rows {
                bytes: packed,
                stride,
            };
        }
        let out = self.inner_rows(dst, to_channels);
        match (from, to) {
            (PixelFormat::Grey, PixelFormat::Grey) => colour::copy_rows(rows, out, (w, h)),
            (PixelFormat::Grey, _) => colour::spread_grey(rows, out, (w, h)),
            (_, PixelFormat::Grey) => {
                colour::weigh_rgb(rows, out, (w, h), from == PixelFormat::Bgr);
            }
            (from, to) if from == to => colour::copy_rows(rows, out, (w * 3, h)),
            _ => colour::swap_red_and_blue(rows, out, (w, h)),
        }
        Ok(())
    }
}

/// Positions of the two tables, made if they are not there yet.
fn tables_for(tables: &mut Vec<Axis>, columns: AxisKey, rows: AxisKey) -> (usize, usize) {
    let known = |key| tables.iter().any(|t| *t.key() == key);
    if tables.len() + 2 > MAX_TABLES && !(known(columns) && known(rows)) {
        // More views than anyone has: start again, before the first of the two is looked up.
        tables.clear();
    }
    let mut find = |key: AxisKey| {
        let known = tables.iter().position(|t| *t.key() == key);
        known.unwrap_or_else(|| {
            tables.push(Axis::new(key));
            tables.len() - 1
        })
    };
    (find(columns), find(rows))
}

fn failed(view: &ImageLayout, reason: String) -> ViewError {
    ViewError::Failed {
        to: view.format,
        width: view.width,
        height: view.height,
        reason,
    }
}
