//! A picture brought to another size, row by row: combined, resampled, coloured and stored while it is
//! in the cache. Nothing of the picture's size is kept in between.
//!
//! Interleaved formats are not taken apart: rows are combined as they lie, and only the combined row
//! is.

use visualpath_core::{ColorRange, Filter, ImageLayout, PixelFormat};

use super::axis::{Axis, AxisKey, LANES, Line, Tables};
use super::matrix::{self, Matrix};
use super::resample::{Row, Rows, Work, across, blend, every_second};
use super::{Inner, colour, is_packed};

/// Rows of RGB made before they are interleaved together.
pub(super) const STRIP: usize = 16;

/// Where one channel's samples lie.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Channel {
    plane: usize,
    /// Bytes from one sample to the next, and of the first.
    step: usize,
    first: usize,
    /// Pixels per sample, across and down.
    sub: (usize, usize),
}

const fn channel(plane: usize, step: usize, first: usize, sub: (usize, usize)) -> Channel {
    Channel {
        plane,
        step,
        first,
        sub,
    }
}

/// Y, U, V or R, G, B or grey.
fn channels(format: PixelFormat) -> &'static [Channel] {
    const ALL: (usize, usize) = (1, 1);
    const QUARTER: (usize, usize) = (2, 2);
    const HALF: (usize, usize) = (2, 1);
    const fn three(a: Channel, b: Channel, c: Channel) -> [Channel; 3] {
        [a, b, c]
    }
    const LUMA: Channel = channel(0, 1, 0, ALL);
    const I420: [Channel; 3] = three(LUMA, channel(1, 1, 0, QUARTER), channel(2, 1, 0, QUARTER));
    const NV12: [Channel; 3] = three(LUMA, channel(1, 2, 0, QUARTER), channel(1, 2, 1, QUARTER));
    const NV21: [Channel; 3] = three(LUMA, NV12[2], NV12[1]);
    const YUYV: [Channel; 3] = three(
        channel(0, 2, 0, ALL),
        channel(0, 4, 1, HALF),
        channel(0, 4, 3, HALF),
    );
    const UYVY: [Channel; 3] = three(
        channel(0, 2, 1, ALL),
        channel(0, 4, 0, HALF),
        channel(0, 4, 2, HALF),
    );
    const RGB: [Channel; 3] = three(
        channel(0, 3, 0, ALL),
        channel(0, 3, 1, ALL),
        channel(0, 3, 2, ALL),
    );
    const BGR: [Channel; 3] = three(RGB[2], RGB[1], RGB[0]);
    match format {
        PixelFormat::I420 => &I420,
        PixelFormat::Nv12 => &NV12,
        PixelFormat::Nv21 => &NV21,
        PixelFormat::Yuyv => &YUYV,
        PixelFormat::Uyvy => &UYVY,
        PixelFormat::Rgb => &RGB,
        PixelFormat::Bgr => &BGR,
        PixelFormat::Grey => &[LUMA],
    }
}

/// What a sample of nothing is, for each of [`channels`].
fn black(layout: &ImageLayout) -> [u8; 3] {
    match layout.format {
        PixelFormat::Rgb | PixelFormat::Bgr | PixelFormat::Grey => [0; 3],
        _ if layout.color.range == ColorRange::Limited => [16, 128, 128],
        _ => [0, 128, 128],
    }
}

/// Paints a whole image black.
pub(super) fn blacken(layout: &ImageLayout, dst: &mut [u8]) {
    if is_packed(layout.format) {
        return dst.fill(0);
    }
    for (channel, level) in channels(layout.format).iter().zip(black(layout)) {
        let Some(plane) = layout.planes().get(channel.plane) else {
            return;
        };
        let rows = dst.get_mut(plane.offset..).unwrap_or(&mut []);
        for row in rows.chunks_mut(plane.stride.max(1)).take(plane.rows) {
            let samples = row.iter_mut().take(plane.row_bytes);
            samples
                .skip(channel.first)
                .step_by(channel.step)
                .for_each(|s| *s = level);
        }
    }
}

/// Buffers that are kept from picture to picture.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    tables: Tables,
    work: Work,
    /// A combined row as it is interleaved, its every second sample, and those of one channel.
    blended: Row,
    half: Row,
    lane: Row,
    /// Rows at the target's width.
    rows: [Row; 3],
    /// The same as bytes, [`STRIP`] of them.
    pub(super) bytes: [Vec<u8>; 3],
}

#[cfg(test)]
impl Buffers {
    pub(super) fn tables(&self) -> usize {
        self.tables.len()
    }
}

/// A picture and the place it is scaled to.
pub(super) struct Scaling<'a> {
    pub(super) native: &'a ImageLayout,
    pub(super) src: &'a [u8],
    pub(super) view: &'a ImageLayout,
    pub(super) inner: Inner,
    /// `None` if the size stays.
    pub(super) filter: Option<Filter>,
}

/// One channel with its axes, ready to give rows.
#[derive(Clone, Copy)]
struct Feed<'t> {
    channel: Channel,
    columns: &'t Axis,
    rows: &'t Axis,
    /// Samples of a target row, and how many there are in a source row.
    width: usize,
    src_width: usize,
}

/// Where samples of a view's channel lie: the first across and down, and how many.
#[derive(Clone, Copy)]
struct Place {
    first: (usize, usize),
    count: (usize, usize),
    /// Pixels of the first sample that lie before the picture.
    lead: (usize, usize),
}

impl Inner {
    fn place(self, (across, down): (usize, usize)) -> Place {
        let first = (self.left / across, self.top / down);
        Place {
            first,
            count: (
                (self.left + self.width).div_ceil(across) - first.0,
                (self.top + self.height).div_ceil(down) - first.1,
            ),
            lead: (self.left % across, self.top % down),
        }
    }
}

impl Scaling<'_> {
    /// Whether the view has samples of more than one pixel, that is, its own chroma.
    fn to_chroma(&self) -> bool {
        channels(self.view.format).iter().any(|c| c.sub != (1, 1))
    }

    pub(super) fn run(&self, buffers: &mut Buffers, dst: &mut [u8]) -> Result<(), String> {
        let from = channels(self.native.format);
        let keys = |c: &Channel| self.keys(*c, if self.to_chroma() { c.sub } else { (1, 1) });
        // Grey has one channel; three times the same key is one table.
        let (Some(luma), Some(chroma)) = (from.first().map(keys), from.last().map(keys)) else {
            return Ok(());
        };
        let Buffers { tables, .. } = buffers;
        let mut tables = std::mem::take(tables);
        let [luma_x, luma_y, chroma_x, chroma_y] = tables.get([luma.0, luma.1, chroma.0, chroma.1]);
        let feed = |i: usize| {
            let channel = from.get(i).copied()?;
            let (keys, columns, rows) = if i == 0 {
                (luma, luma_x, luma_y)
            } else {
                (chroma, chroma_x, chroma_y)
            };
            Some(Feed {
                channel,
                columns,
                rows,
                width: keys.0.dst,
                src_width: keys.0.src,
            })
        };
        let done = match [feed(0), feed(1), feed(2)] {
            [Some(a), Some(b), Some(c)] => self.three([a, b, c], buffers, dst),
            [Some(one), ..] => self.one(one, buffers, dst),
            [None, ..] => Ok(()),
        };
        buffers.tables = tables;
        done
    }

    fn keys(&self, channel: Channel, dst_sub: (usize, usize)) -> (AxisKey, AxisKey) {
        let place = self.inner.place(dst_sub);
        let key = |src_pixels: u32, src_sub: usize, dst, dst_pixels, dst_sub, lead| AxisKey {
            src: (src_pixels as usize).div_ceil(src_sub),
            src_pixels: src_pixels as usize,
            src_sub,
            dst,
            dst_pixels,
            dst_sub,
            lead,
            filter: self.filter,
        };
        let (count, lead) = (place.count, place.lead);
        let Inner { width, height, .. } = self.inner;
        let (across, down) = channel.sub;
        (
            key(self.native.width, across, count.0, width, dst_sub.0, lead.0),
            key(self.native.height, down, count.1, height, dst_sub.1, lead.1),
        )
    }

    fn three(
        &self,
        feeds: [Feed<'_>; 3],
        buffers: &mut Buffers,
        dst: &mut [u8],
    ) -> Result<(), String> {
        use PixelFormat::{Bgr, Grey, Rgb};
        let yuv = !matches!(self.native.format, Rgb | Bgr);
        match self.view.format {
            Grey if yuv => self.one(feeds[0], buffers, dst),
            Grey => {
                self.grey_of_rgb(feeds, buffers, dst);
                Ok(())
            }
            Rgb | Bgr => self.colours(feeds, yuv, buffers, dst),
            _ => {
                self.channels_as_they_are(&feeds, buffers, dst);
                Ok(())
            }
        }
    }

    /// Luma or grey, to grey, RGB or BGR.
    fn one(&self, feed: Feed<'_>, buffers: &mut Buffers, dst: &mut [u8]) -> Result<(), String> {
        if self.view.format != PixelFormat::Grey {
            return self.colours([feed; 3], false, buffers, dst);
        }
        let luma = self.native.format != PixelFormat::Grey
            && self.native.color.range == ColorRange::Limited;
        let matrix = Matrix::new(self.native.color);
        let mut rower = Rower::new(self, buffers);
        for y in 0..self.inner.height {
            rower.row(feed, y, 0);
            let Buffers { rows, bytes, .. } = &mut *rower.buffers;
            let [bytes, ..] = bytes;
            bytes.resize(rows[0].len(), 0);
            if luma {
                matrix.luma(&rows[0], bytes);
            } else {
                matrix::levels(&rows[0], bytes);
            }
            self.store(bytes, y, dst);
        }
        Ok(())
    }

    fn grey_of_rgb(&self, feeds: [Feed<'_>; 3], buffers: &mut Buffers, dst: &mut [u8]) {
        let mut rower = Rower::new(self, buffers);
        for y in 0..self.inner.height {
            for (i, feed) in feeds.into_iter().enumerate() {
                rower.row(feed, y, i);
            }
            let Buffers { rows, bytes, .. } = &mut *rower.buffers;
            let ([r, g, b], [bytes, ..]) = (&*rows, bytes);
            bytes.resize(r.len(), 0);
            matrix::grey_of([r, g, b], bytes);
            self.store(bytes, y, dst);
        }
    }

    /// A row of grey into the picture inside the view.
    fn store(&self, bytes: &[u8], y: usize, dst: &mut [u8]) {
        let Inner { width, .. } = self.inner;
        let out = self.inner.rows(self.view, dst, 1);
        let row = out.bytes.get_mut(y * out.stride..).unwrap_or(&mut []);
        for (out, byte) in row.iter_mut().zip(bytes).take(width) {
            *out = *byte;
        }
    }

    /// To RGB or BGR; `yuv` says what the three are.
    fn colours(
        &self,
        feeds: [Feed<'_>; 3],
        yuv: bool,
        buffers: &mut Buffers,
        dst: &mut [u8],
    ) -> Result<(), String> {
        let Inner { width, height, .. } = self.inner;
        let matrix = Matrix::new(self.native.color);
        let same = feeds[0].channel == feeds[2].channel;
        let padded = width.next_multiple_of(LANES);
        let mut rower = Rower::new(self, buffers);
        for plane in &mut rower.buffers.bytes {
            plane.resize(padded * STRIP, 0);
        }
        for top in (0..height).step_by(STRIP) {
            let count = STRIP.min(height - top);
            for i in 0..count {
                for (c, feed) in feeds.into_iter().enumerate() {
                    if c == 0 || !same {
                        rower.row(feed, top + i, c);
                    }
                }
                let Buffers { rows, bytes, .. } = &mut *rower.buffers;
                let [a, b, c] = &*rows;
                let out = bytes.each_mut().map(|plane| {
                    plane
                        .get_mut(i * padded..(i + 1) * padded)
                        .unwrap_or(&mut [])
                });
                if yuv {
                    matrix.rgb([a, b, c], out);
                } else {
                    matrix::levels(a, out[0]);
                    if !same {
                        matrix::levels(b, out[1]);
                        matrix::levels(c, out[2]);
                    }
                }
            }
            let [r, g, b] = &rower.buffers.bytes;
            let planes = if same { [r, r, r] } else { [r, g, b] };
            let mut out = self.inner.rows(self.view, dst, 3);
            out.bytes = out.bytes.get_mut(top * out.stride..).unwrap_or(&mut []);
            let bgr = self.view.format == PixelFormat::Bgr;
            colour::interleave(planes.map(|p| &p[..]), padded, (width, count), out, bgr)?;
        }
        Ok(())
    }

    /// A native view: every channel at its own size, stored as it was.
    fn channels_as_they_are(&self, feeds: &[Feed<'_>], buffers: &mut Buffers, dst: &mut [u8]) {
        let mut rower = Rower::new(self, buffers);
        for y in 0..self.inner.height + 1 {
            for feed in feeds {
                let Channel {
                    plane, step, first, ..
                } = feed.channel;
                let place = self.inner.place(feed.channel.sub);
                let Some(plane) = self.view.planes().get(plane).filter(|_| y < place.count.1)
                else {
                    continue;
                };
                rower.row(*feed, y, 0);
                let Buffers { rows, bytes, .. } = &mut *rower.buffers;
                bytes[0].resize(rows[0].len(), 0);
                matrix::levels(&rows[0], &mut bytes[0]);
                let start = plane.offset + (place.first.1 + y) * plane.stride;
                let out = dst.get_mut(start + place.first.0 * step + first..);
                let out = out.unwrap_or(&mut []).iter_mut().step_by(step);
                for (out, byte) in out.zip(&bytes[0]).take(place.count.0) {
                    *out = *byte;
                }
            }
        }
    }
}

/// Makes rows of channels, and remembers the combined row that several of them lie in.
struct Rower<'a, 'b> {
    scaling: &'a Scaling<'a>,
    buffers: &'b mut Buffers,
    blended: Option<(usize, Line)>,
    /// Which half of the combined row is in `half`.
    half: Option<bool>,
}

impl<'a, 'b> Rower<'a, 'b> {
    fn new(scaling: &'a Scaling<'a>, buffers: &'b mut Buffers) -> Self {
        Self {
            scaling,
            buffers,
            blended: None,
            half: None,
        }
    }

    /// Row `y` of a channel into `rows[to]`.
    fn row(&mut self, feed: Feed<'_>, y: usize, to: usize) {
        let Channel {
            plane: index,
            step,
            first,
            ..
        } = feed.channel;
        let Some(&line) = feed.rows.lines.get(y) else {
            return;
        };
        let Buffers {
            work,
            blended,
            half,
            lane,
            rows,
            ..
        } = &mut *self.buffers;
        let Scaling { native, src, .. } = self.scaling;
        let plane = native.planes().get(index).copied().unwrap_or_default();
        if self.blended != Some((index, line)) {
            let rows = Rows {
                bytes: native.plane(src, index).unwrap_or(&[]),
                stride: plane.stride,
            };
            blend(rows, line, plane.row_bytes, work, blended);
            (self.blended, self.half) = (Some((index, line)), None);
        }
        let (row, channels) = match step {
            2 => {
                every_second(blended, first == 1, feed.src_width, lane);
                (&*lane, 1)
            }
            4 => {
                let odd = first % 2 == 1;
                if self.half != Some(odd) {
                    every_second(blended, odd, plane.row_bytes / 2, half);
                    self.half = Some(odd);
                }
                every_second(half, first >= 2, feed.src_width, lane);
                (&*lane, 1)
            }
            3 => (&*blended, 3),
            _ => (&*blended, 1),
        };
        let at = (first.min(channels - 1), channels);
        across(row, at, feed.columns, feed.width, work, &mut rows[to]);
    }
}
