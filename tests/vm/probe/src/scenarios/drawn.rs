//! The number that vivid draws into each picture: the driver's `sequence`.
//!
//! It is read by comparing 8×16 pixels with the digits' shapes, which are learned from the camera
//! itself: the first picture whose number has two digits is number 10, and the last digits of it and
//! of the nine that follow are 0 to 9.

use anyhow::{Context, Result, bail, ensure};
use visualpath_core::PixelFormat;
use visualpath_frames::Frame;

use crate::camera::Running;

/// Where the number begins: the text is ` HH:MM:SS:mmm NUMBER` at (16, 16), 8 pixels a letter.
const LEFT: usize = 16 + 8 * 14;
const TOP: usize = 16;
/// First row below the text.
pub const BELOW_TEXT: usize = 40;

type Shape = [u8; 16];

/// The shapes of the ten digits.
pub struct Digits([Shape; 10]);

impl Digits {
    /// Learns them from a camera that has just begun to count.
    pub fn learn(running: &mut Running) -> Result<Self> {
        for _ in 0..12 {
            let frame = running.frame()?;
            if !is_letter(&shape(&frame, 1)?) {
                continue;
            }
            let ten = frame.meta().frame_id;
            let mut digits = [[0; 16]; 10];
            digits[0] = shape(&frame, 1)?;
            drop(frame);
            for (n, digit) in digits.iter_mut().enumerate().skip(1) {
                let frame = running.frame()?;
                let id = frame.meta().frame_id;
                ensure!(id == ten + n as u64, "frame {id} is missing its neighbour");
                *digit = shape(&frame, 1)?;
            }
            for (n, digit) in digits.iter().enumerate() {
                ensure!(
                    !digits[..n].contains(digit),
                    "two digits look alike: {digits:?}"
                );
            }
            return Ok(Self(digits));
        }
        bail!("no number 10 in the first 12 pictures")
    }

    /// The number in a picture.
    pub fn number(&self, frame: &Frame) -> Result<u64> {
        let mut number = None;
        for place in 0..9 {
            let shape = shape(frame, place)?;
            if !is_letter(&shape) {
                break;
            }
            let digit = self.0.iter().position(|d| *d == shape);
            let digit = digit.with_context(|| format!("no digit at place {place}: {shape:?}"))?;
            number = Some(number.unwrap_or(0) * 10 + digit as u64);
        }
        number.context("no number in the picture")
    }
}

/// Whether there is a letter: those have nothing in their first row and something below. Right of
/// the text are the bars, of which each row is the same.
fn is_letter(shape: &Shape) -> bool {
    shape[0] == 0 && *shape != [0; 16]
}

/// The bright pixels of one letter.
fn shape(frame: &Frame, place: usize) -> Result<Shape> {
    let layout = frame.layout();
    ensure!(layout.format == PixelFormat::Yuyv, "read from YUYV only");
    let (plane, pixels) = (layout.planes()[0], frame.pixels());
    let mut shape = [0; 16];
    for (y, bits) in shape.iter_mut().enumerate() {
        for x in 0..8 {
            let at = plane.offset + (TOP + y) * plane.stride + (LEFT + 8 * place + x) * 2;
            *bits |= u8::from(pixels[at] > 128) << x;
        }
    }
    Ok(shape)
}

/// Whether all rows below the text are the same, as they are in a pattern of vertical bars,
/// wherever these have moved to.
pub fn one_picture(frame: &Frame) -> Result<()> {
    let (plane, pixels) = (frame.layout().planes()[0], frame.pixels());
    let row = |y: usize| {
        let at = plane.offset + y * plane.stride;
        &pixels[at..at + plane.row_bytes]
    };
    let top = row(BELOW_TEXT);
    for y in BELOW_TEXT + 1..plane.rows {
        ensure!(
            row(y) == top,
            "frame {} is torn: row {y} is not as row {BELOW_TEXT}",
            frame.meta().frame_id
        );
    }
    Ok(())
}
