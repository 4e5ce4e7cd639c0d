//! Where a picture's planes lie in the driver's memory.
//!
//! A format says how many planes of memory there are, and how long a row of the first is. The rest
//! is fixed (kernel, "Planar YUV formats"): in one piece of memory chroma follows luma, whose height
//! is the format's, not the picture's; rows of YU12's chroma are half as long as luma's.

use v4l::FourCC;

use crate::encode::i420::Picture;
use crate::source::v4l2::device::PixFormat;

/// The formats that pictures can be written as, the best first: in the first two planes are copied,
/// in the last two chroma is interleaved.
pub(super) const KNOWN: [FourCC; 4] = [
    FourCC { repr: *b"YU12" },
    FourCC { repr: *b"YM12" },
    FourCC { repr: *b"NV12" },
    FourCC { repr: *b"NM12" },
];

pub(super) fn is_known(fourcc: FourCC) -> bool {
    KNOWN.contains(&fourcc)
}

/// One plane of the picture in the driver's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Which plane of memory.
    memory: usize,
    offset: usize,
    stride: usize,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Y, U, V; or Y, UV.
    planes: Vec<Place>,
    /// Bytes of each plane of memory.
    pub(super) bytes: Vec<u32>,
}

impl Places {
    /// `None` for a format that is not one of [`KNOWN`], or makes no sense.
    pub(super) fn new(format: &PixFormat) -> Option<Self> {
        let is_nv12 = matches!(&format.fourcc.repr, b"NV12" | b"NM12");
        let apart = matches!(&format.fourcc.repr, b"YM12" | b"NM12");
        if !is_known(format.fourcc) {
            return None;
        }
        let count = if is_nv12 { 2 } else { 3 };
        let first = format.planes.first()?;
        let (width, height) = (format.width as usize, format.height as usize);
        let luma_stride = (first.stride as usize).max(width);
        let chroma_stride = |own: Option<u32>| match own {
            Some(stride) if stride > 0 => stride as usize,
            _ if is_nv12 => luma_stride,
            _ => luma_stride.div_ceil(2),
        };
        let mut planes = vec![Place {
            memory: 0,
            offset: 0,
            stride: luma_stride,
        }];
        let mut offset = luma_stride * height;
        for memory in 1..count {
            let own = format.planes.get(memory).map(|p| p.stride);
            if apart && own.is_none() {
                return None;
            }
            let stride = chroma_stride(own.filter(|_| apart));
            planes.push(Place {
                memory: if apart { memory } else { 0 },
                offset: if apart { 0 } else { offset },
                stride,
            });
            offset += stride * height.div_ceil(2);
        }
        let bytes = format.planes.iter().map(|p| p.bytes).collect();
        Some(Self { planes, bytes })
    }

    /// Writes a picture; `None` if it does not fit.
    pub(super) fn write(&self, picture: &Picture<'_>, memory: &mut [&mut [u8]]) -> Option<()> {
        let (width, height) = (picture.width, picture.height);
        let half = (width.div_ceil(2), height.div_ceil(2));
        for (i, place) in self.planes.iter().enumerate() {
            let (w, h) = if i == 0 { (width, height) } else { half };
            let out = memory.get_mut(place.memory)?.get_mut(place.offset..)?;
            let row = |plane: usize, y: usize| {
                let from = y * picture.strides[plane];
                picture.planes[plane].get(from..from + w)
            };
            let interleaved = i == 1 && self.planes.len() == 2;
            for y in 0..h {
                let to = y * place.stride;
                if interleaved {
                    let (u, v) = (row(1, y)?, row(2, y)?);
                    let out = out.get_mut(to..to + 2 * w)?;
                    for ((pair, u), v) in out.chunks_exact_mut(2).zip(u).zip(v) {
                        (pair[0], pair[1]) = (*u, *v);
                    }
                } else {
                    out.get_mut(to..to + w)?.copy_from_slice(row(i, y)?);
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::v4l2::device::PlaneFormat;

    fn format(fourcc: &[u8; 4], size: (u32, u32), planes: &[(u32, u32)]) -> PixFormat {
        let mut format = PixFormat::asked(FourCC { repr: *fourcc }, size.0, size.1);
        let plane = |(stride, bytes): &(u32, u32)| PlaneFormat {
            stride: *stride,
            bytes: *bytes,
        };
        format.planes = planes.iter().map(plane).collect();
        format
    }

    fn picture<'a>(y: &'a [u8], u: &'a [u8], v: &'a [u8]) -> Picture<'a> {
        Picture {
            width: 4,
            height: 2,
            planes: [y, u, v],
            strides: [5, 3, 2],
        }
    }

    /// A 4×2 picture with rows of 5, 3 and 2 bytes, into buffers with longer rows and more of them.
    #[test]
    fn every_sample_is_where_the_kernel_says() {
        let (y, u, v) = ([1, 2, 3, 4, 0, 5, 6, 7, 8], [11, 12], [21, 22]);
        let picture = picture(&y, &u, &v);

        let one = Places::new(&format(b"YU12", (4, 4), &[(8, 48)])).unwrap();
        let mut buffer = [0; 48];
        one.write(&picture, &mut [&mut buffer]).unwrap();
        assert_eq!(buffer[..4], [1, 2, 3, 4]);
        assert_eq!(buffer[8..12], [5, 6, 7, 8]);
        assert_eq!((&buffer[32..34], &buffer[40..42]), (&u[..], &v[..]));

        let one = Places::new(&format(b"NV12", (4, 4), &[(8, 48)])).unwrap();
        let mut buffer = [0; 48];
        one.write(&picture, &mut [&mut buffer]).unwrap();
        assert_eq!(buffer[32..36], [11, 21, 12, 22]);

        let many = Places::new(&format(b"YM12", (4, 2), &[(8, 16), (6, 6), (6, 6)])).unwrap();
        let (mut a, mut b, mut c) = ([0; 16], [0; 6], [0; 6]);
        many.write(&picture, &mut [&mut a, &mut b, &mut c]).unwrap();
        assert_eq!((a[8], b[1], c[0]), (5, 12, 21));
        assert_eq!(many.bytes, [16, 6, 6]);

        let many = Places::new(&format(b"NM12", (4, 2), &[(8, 16), (8, 8)])).unwrap();
        let (mut a, mut b) = ([0; 16], [0; 8]);
        many.write(&picture, &mut [&mut a, &mut b]).unwrap();
        assert_eq!(b[..4], [11, 21, 12, 22]);
    }

    #[test]
    fn a_buffer_that_is_too_small_is_refused_not_overrun() {
        let (y, u, v) = ([0; 9], [0; 2], [0; 2]);
        let places = Places::new(&format(b"YU12", (4, 2), &[(4, 12)])).unwrap();
        let mut buffer = [0; 11];
        assert!(
            places
                .write(&picture(&y, &u, &v), &mut [&mut buffer])
                .is_none()
        );
        assert!(places.write(&picture(&y, &u, &v), &mut []).is_none());
        assert!(Places::new(&format(b"YUYV", (4, 2), &[(8, 16)])).is_none());
        assert!(Places::new(&format(b"YM12", (4, 2), &[(8, 16)])).is_none());
        assert!(Places::new(&format(b"NV12", (4, 2), &[])).is_none());
    }
}
