//! Pixel conversion: from a source's picture to the view an extractor asks for.
//!
//! ```text
//! same size     ─ colour matrix ─────────────────────────────────────────────▶ RGB, BGR, grey
//! another size  ─ per row: combine source rows ─ combine columns ─┬ matrix ──▶ RGB, BGR, grey
//!                                          (16 bits in between)   └ as it is ▶ native
//! ```
//!
//! Resampling comes before the colour matrix: both are linear, so the order does not matter but
//! for rounding and clamping, and there are half as many samples to resample, and only the
//! target's to convert.
//!
//! Meaning of the filters: `docs/design/sources.md`, "Views".

mod axis;
mod colour;
mod matrix;
mod privacy;
mod resample;
mod scaled;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use visualpath_core::{ImageLayout, PixelFormat, ViewSpec};
use visualpath_frames::{ViewError, ViewMaker};

use colour::RowsMut;
pub use privacy::PrivacyMask;
use resample::Rows;
use scaled::{Buffers, Scaling, blacken};

/// Buffers kept for threads that convert at the same time.
const MAX_IDLE: usize = 8;

/// Makes views by converting pixels. Shared by all threads; keeps its buffers, so that in steady
/// state nothing is allocated.
#[derive(Debug, Default)]
pub struct Converter {
    idle: Mutex<Vec<Buffers>>,
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
        let mut buffers = popped.unwrap_or_default();
        let done = job.run(&mut buffers, dst);
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(buffers);
        }
        done
    }
}

/// The part of a view that the picture fills, in pixels.
#[derive(Debug, Clone, Copy)]
struct Inner {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Inner {
    /// Its rows in a view of one plane.
    fn rows<'d>(self, view: &ImageLayout, dst: &'d mut [u8], channels: usize) -> RowsMut<'d> {
        let stride = view.planes().first().map_or(0, |p| p.stride);
        let start = self.top * stride + self.left * channels;
        RowsMut {
            bytes: dst.get_mut(start..).unwrap_or(&mut []),
            stride,
        }
    }
}

/// One checked conversion.
struct Job<'a>(Scaling<'a>);

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
        let resizes = (inner_w, inner_h) != (native.width, native.height);
        // Subsampled chroma can come to lie between the view's samples without being resized.
        let moves = !is_packed(view.format);
        Ok(Self(Scaling {
            native,
            src,
            view,
            filter: (resizes || moves).then_some(spec.filter),
            inner: Inner {
                left: ((view.width - inner_w) / 2) as usize,
                top: ((view.height - inner_h) / 2) as usize,
                width: inner_w as usize,
                height: inner_h as usize,
            },
        }))
    }

    fn run(&self, buffers: &mut Buffers, dst: &mut [u8]) -> Result<(), ViewError> {
        let Scaling { native, view, .. } = self.0;
        let (from, to) = (native.format, view.format);
        if from != to && !is_packed(to) {
            return Err(ViewError::Unsupported { from, to });
        }
        let (is_whole, resizes) = (self.is_whole(), self.resizes());
        if from == to && is_whole && !resizes {
            self.copy(dst);
            return Ok(());
        }
        let dst = &mut dst[..view.bytes()];
        if !is_whole {
            blacken(view, dst);
        }
        let done = if resizes {
            self.0.run(buffers, dst)
        } else {
            self.same_size(buffers, dst)
        };
        done.map_err(|reason| failed(view, reason))
    }

    fn resizes(&self) -> bool {
        let Scaling { inner, native, .. } = self.0;
        (inner.width, inner.height) != (native.width as usize, native.height as usize)
    }

    /// Whether the picture fills the view.
    fn is_whole(&self) -> bool {
        let Scaling { inner, view, .. } = self.0;
        (inner.width, inner.height) == (view.width as usize, view.height as usize)
    }

    fn copy(&self, dst: &mut [u8]) {
        let Scaling { native, view, .. } = self.0;
        for (from, to) in native.planes().iter().zip(view.planes()) {
            let src = self.0.src[from.offset..].chunks(from.stride.max(1));
            let dst = dst[to.offset..].chunks_mut(to.stride.max(1));
            for (src, dst) in src.zip(dst).take(from.rows.min(to.rows)) {
                let n = from.row_bytes.min(to.row_bytes);
                dst[..n].copy_from_slice(&src[..n]);
            }
        }
    }

    /// Without resampling.
    fn same_size(&self, buffers: &mut Buffers, dst: &mut [u8]) -> Result<(), String> {
        use PixelFormat::{Bgr, Grey, I420, Nv12, Nv21, Rgb, Uyvy, Yuyv};
        let Scaling {
            native,
            src,
            view,
            inner,
            ..
        } = self.0;
        let size = (inner.width, inner.height);
        let rows = Rows {
            bytes: native.plane(src, 0).unwrap_or(&[]),
            stride: native.planes().first().map_or(0, |p| p.stride),
        };
        let channels = if view.format == Grey { 1 } else { 3 };
        let out = inner.rows(view, dst, channels);
        match (native.format, view.format) {
            (Rgb, Rgb) | (Bgr, Bgr) => colour::copy_rows(rows, out, (size.0 * 3, size.1)),
            (Rgb | Bgr, Rgb | Bgr) => return colour::swap_red_and_blue(rows, out, size),
            (Rgb | Bgr, _) => colour::weigh_rgb(rows, out, size, native.format == Bgr),
            (Grey, Grey) => colour::copy_rows(rows, out, size),
            (Grey, _) => return colour::spread_grey(rows, out, size),
            (_, Grey) => colour::luma(native, rows, out, size),
            (I420, Rgb | Bgr) => return colour::planar_to_rgb(native, src, out, view.format),
            // `yuv` leaves out the last two rows if the second does not reach to its stride's end.
            (Nv12 | Nv21, Rgb | Bgr) if self.is_whole() => {
                return colour::semi_planar_to_rgb(native, src, out, view.format);
            }
            (Yuyv | Uyvy, Rgb | Bgr) => {
                return colour::packed_to_rgb(native, rows, &mut buffers.bytes, out, view.format);
            }
            _ => return self.0.run(buffers, dst),
        }
        Ok(())
    }
}

/// Whether a format has all channels of a pixel together, or only one.
fn is_packed(format: PixelFormat) -> bool {
    use PixelFormat::{Bgr, Grey, Rgb};
    matches!(format, Rgb | Bgr | Grey)
}

fn failed(view: &ImageLayout, reason: String) -> ViewError {
    ViewError::Failed {
        to: view.format,
        width: view.width,
        height: view.height,
        reason,
    }
}
