//! A camera that does not exist: pictures of which everything is known.
//!
//! ```text
//! synthetic:?width=640&… ─▶ Params ─┬─▶ SyntheticPictures ─ draw ─▶ slot     (a file's way from here)
//!                                   └─▶ truth(&params, n): where the shapes really are
//! luma of a frame, or of a clip made of it ─▶ read_frame_number: which picture this is
//! ```
//!
//! The same parameters give the same pictures, bit for bit, on every machine: all arithmetic is in
//! whole numbers. Pacing, looping, waiting for slots and stopping are those of a file.
//!
//! Parameters: `docs/reference/synthetic.md`.

mod code;
mod font;
mod paint;
mod params;
mod scene;

use visualpath_frames::SlotMut;

pub use self::code::read_frame_number;
pub use self::params::{Asked, Kinds, ParamError, Params, SCHEME, Scene};
pub use self::scene::{TruthObject, truth};
use super::file::{Fault, Pictures, Step, interval_ns};
use super::{SourceError, SourceInfo, SourceOptions, StopFlag};

/// Draws pictures instead of decoding them.
#[derive(Debug)]
pub(super) struct SyntheticPictures {
    params: Params,
    info: SourceInfo,
    painter: paint::Painter,
    /// The next picture of this round.
    next: u64,
    /// Rounds done.
    round: u64,
    /// Length of a round.
    round_ns: i64,
}

impl SyntheticPictures {
    /// # Errors
    /// When the URI's parameters are wrong.
    pub(super) fn open(opts: &SourceOptions) -> Result<Self, SourceError> {
        let asked = Asked {
            width: opts.width,
            height: opts.height,
            fps: opts.fps,
        };
        let params = Params::parse(&opts.uri, &asked).map_err(|error| SourceError::Parameter {
            uri: opts.uri.clone(),
            error,
        })?;
        let fps = params.fps();
        let round_ns = match params.frames.checked_sub(1) {
            Some(last) => scene::time_ns(&params, last).saturating_add(interval_ns(fps)),
            None => 0,
        };
        let layout = paint::layout(&params);
        let format = format!("{:?}", params.format).to_lowercase();
        let (width, height) = (params.width, params.height);
        let description = format!("synthetic {format} {width}x{height} {fps} fps");
        let info = SourceInfo {
            nominal_fps: Some(fps),
            duration_ns: (params.frames > 0).then_some(round_ns),
            ..SourceInfo::new(layout, description)
        };
        Ok(Self {
            painter: paint::Painter::new(&params),
            params,
            info,
            next: 0,
            round: 0,
            round_ns,
        })
    }
}

impl Pictures for SyntheticPictures {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn step(&mut self, _: &StopFlag) -> Result<Step, Fault> {
        if self.params.frames > 0 && self.next >= self.params.frames {
            return Ok(Step::End { damage: None });
        }
        let n = self.next;
        self.next += 1;
        let pts_ns = Some(scene::time_ns(&self.params, n));
        Ok(if scene::is_lost(&self.params, n) {
            Step::Lost { pts_ns }
        } else {
            Step::Picture { pts_ns }
        })
    }

    fn fill(&mut self, slot: &mut SlotMut, _: &StopFlag) -> Result<(), Fault> {
        let n = self.next.saturating_sub(1);
        // Number and time as the frame will have them: they go on over rounds.
        let rounds_ns = i64::try_from(self.round)
            .unwrap_or(i64::MAX)
            .saturating_mul(self.round_ns);
        let frame = self.round.saturating_mul(self.params.frames) + n;
        let t_ns = rounds_ns.saturating_add(scene::time_ns(&self.params, n));
        self.painter.draw(frame, t_ns, slot.pixels_mut());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.next = 0;
        self.round += 1;
        Ok(())
    }
}
