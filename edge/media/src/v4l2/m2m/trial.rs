//! The board's encoder for any coded format, without making sense of what comes out. `tests/vm` runs
//! it on the encoder that the kernel has for tests.

use v4l::FourCC;
use visualpath_core::ImageLayout;

use super::encoder::wanted;
use super::find;
use super::session::{Coding, Session};
use crate::encode::EncoderOptions;
use crate::encode::i420::{self, Canvas};

/// A coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialPacket {
    /// Of its picture, microseconds.
    pub stamp_us: i64,
    /// The driver says that it is a key picture.
    pub is_key: bool,
    /// What the driver made.
    pub data: Vec<u8>,
}

/// See the module's text.
pub struct Trial {
    session: Session,
    canvas: Canvas,
}

impl Trial {
    /// Takes the first encoder that makes `coded` (a fourcc).
    ///
    /// # Errors
    /// There is none, or it refuses, in words.
    pub fn begin(
        coded: [u8; 4],
        layout: &ImageLayout,
        options: &EncoderOptions,
    ) -> Result<Self, String> {
        let coding = Coding {
            fourcc: FourCC { repr: coded },
            has_picture: |_| true,
        };
        let size = (layout.width, layout.height);
        let wanted = wanted(options, coding, size, i420::meaning(layout));
        let device = find(coding.fourcc).map_err(|e| e.to_string())?;
        Ok(Self {
            session: Session::begin(device, &wanted).map_err(|e| e.to_string())?,
            canvas: Canvas::even(layout, 2),
        })
    }

    /// The node and its driver.
    pub fn device(&self) -> String {
        self.session.device()
    }

    /// What it does not do, of what was asked.
    pub fn refused(&self) -> Vec<&'static str> {
        self.session.refused.clone()
    }

    /// Pictures that did not come out yet, and those that never will.
    pub fn inside_and_lost(&mut self) -> (usize, u64) {
        (self.session.inside(), self.session.take_lost())
    }

    /// Encodes a picture.
    ///
    /// # Errors
    /// What the driver said, in words.
    pub fn encode(
        &mut self,
        pixels: &[u8],
        stamp_us: i64,
        packets: &mut Vec<TrialPacket>,
    ) -> Result<(), String> {
        let picture = self.canvas.picture(pixels).ok_or("too few pixels")?;
        let done = self.session.submit(&picture, stamp_us, false);
        self.take(packets);
        done.map_err(|e| e.to_string())
    }

    /// What is inside comes out.
    ///
    /// # Errors
    /// What the driver said, in words.
    pub fn drain(&mut self, packets: &mut Vec<TrialPacket>) -> Result<(), String> {
        let done = self.session.drain();
        self.take(packets);
        done.map_err(|e| e.to_string())
    }

    fn take(&mut self, packets: &mut Vec<TrialPacket>) {
        while let Some(coded) = self.session.pop() {
            packets.push(TrialPacket {
                stamp_us: coded.stamp_us,
                is_key: coded.is_key,
                data: coded.data,
            });
        }
    }
}
