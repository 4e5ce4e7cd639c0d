//! One frame's way through the parts.

use std::sync::Arc;

use serde_json::{Map, Value};
use visualpath_core::{
    ExtractError, Extractor, FrameView, Mask, Name, Object, Observation, PixelFormat, Signals, Zone,
};

use crate::background::{Background, ones};
use crate::cells::{Cells, Region};
use crate::config::Config;
use crate::light;
use crate::masked::Looked;
use crate::shadow::Shadow;
use crate::smooth::smooth;
use crate::zones::ZoneMask;

/// Regions handed on as objects; all are counted.
const MAX_OBJECTS: usize = 64;

pub(crate) struct MotionExtractor {
    name: Name,
    config: Config,
    looked: Looked,
    background: Background,
    shadow: Shadow,
    cells: Cells,
    zones: Vec<ZoneMask>,
    signals: SignalNames,
    picture: Vec<u8>,
    row: Vec<u8>,
    changed: Vec<u8>,
    hard: Vec<u8>,
    moving: Vec<u8>,
}

struct SignalNames {
    score: Arc<str>,
    count: Arc<str>,
    light_switch: Arc<str>,
}

/// What became of a frame.
enum Seen {
    Learning,
    LightSwitch,
    Compared,
}

impl MotionExtractor {
    pub(crate) fn new(name: Name, config: Config, zones: &[Zone], masks: &[Mask]) -> Self {
        let (w, h) = (config.width as usize, config.height as usize);
        let pixels = w * h;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of the pixels"
        )]
        let least = (config.min_area * pixels as f64).ceil() as usize;
        let looked = Looked::new(masks, config.width, config.height);
        Self {
            name,
            background: Background::new(config, pixels, looked.mask()),
            shadow: Shadow::new(w),
            cells: Cells::new(w, h, least),
            zones: zones
                .iter()
                .map(|z| ZoneMask::new(z, config.width, config.height, looked.mask()))
                .collect(),
            signals: SignalNames {
                score: "score".into(),
                count: "count".into(),
                light_switch: "light_switch".into(),
            },
            looked,
            config,
            picture: vec![0; pixels],
            row: vec![0; w],
            changed: vec![0; pixels],
            hard: vec![0; pixels],
            moving: vec![0; pixels],
        }
    }

    /// The view's luma, if it is the view that was asked for.
    fn luma<'a>(&self, frame: &FrameView<'a>) -> Result<&'a [u8], ExtractError> {
        let layout = &frame.layout;
        let asked = (self.config.width, self.config.height);
        if layout.format != PixelFormat::Grey || (layout.width, layout.height) != asked {
            return Err(ExtractError(format!(
                "the view is {:?} {}x{}, expected is grey {}x{}",
                layout.format, layout.width, layout.height, asked.0, asked.1
            )));
        }
        let packed = layout.planes().first().map(|p| p.stride) == Some(asked.0 as usize);
        let plane = layout.plane(frame.pixels, 0).filter(|_| packed);
        plane.ok_or_else(|| {
            ExtractError(format!(
                "the view has {} bytes, expected are {} without padding",
                frame.pixels.len(),
                layout.bytes()
            ))
        })
    }

    /// Compares and learns; what moves is then in `moving` and in the list given back.
    fn look(&mut self, luma: &[u8], t_ns: i64) -> (Seen, &[Region]) {
        let width = self.config.width as usize;
        let area = self.looked.area();
        let luma = self.looked.of(luma);
        smooth(luma, width, &mut self.row, &mut self.picture);
        self.looked.even(&mut self.picture);
        let (picture, background) = (&self.picture, &mut self.background);
        if background.is_learning(t_ns) {
            background.begin(picture, t_ns);
            self.moving.fill(0);
            return (Seen::Learning, &[]);
        }
        if background.compare(picture, &mut self.changed) == 0 {
            self.moving.fill(0);
            background.learn(picture, &self.changed, &self.moving, t_ns);
            return (Seen::Compared, &[]);
        }
        let (level, noise) = (background.level(), background.noise());
        if light::is_switch(picture, level, &self.changed, width, area, noise) {
            background.adopt(picture);
            self.moving.fill(0);
            return (Seen::LightSwitch, &[]);
        }
        let hard = self.config.shadows.then(|| {
            let (changed, hard) = (&self.changed, &mut self.hard);
            let shadow = &mut self.shadow;
            shadow.mark_hard(picture, level, changed, noise, hard);
            &*hard
        });
        let regions = self.cells.find(
            &self.changed,
            hard.map(Vec::as_slice),
            (picture, level),
            &mut self.moving,
        );
        background.learn(picture, &self.changed, &self.moving, t_ns);
        (Seen::Compared, regions)
    }
}

impl Extractor for MotionExtractor {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let luma = self.luma(frame)?;
        let (threshold, size) = (
            f64::from(self.config.threshold),
            (self.config.width, self.config.height),
        );
        let (seen, regions) = self.look(luma, frame.meta.t_ns);
        let count = regions.len();
        let objects = regions
            .iter()
            .take(MAX_OBJECTS)
            .map(|r| object(r, frame, size, threshold))
            .collect();

        let mut o = Observation::new(self.name.clone(), frame.meta.frame_id, frame.meta.t_ns);
        o.data.objects = objects;
        let names = &self.signals;
        let moving = &self.moving;
        let own = [
            (&names.count, to_f64(count)),
            (
                &names.light_switch,
                f64::from(u8::from(matches!(seen, Seen::LightSwitch))),
            ),
            (
                &names.score,
                to_f64(ones(moving)) / to_f64(self.looked.area().max(1)),
            ),
        ];
        let zones = self.zones.iter().map(|z| {
            let share = if count == 0 { 0.0 } else { z.share(moving) };
            (&z.signal, share)
        });
        o.signals = own
            .into_iter()
            .chain(zones)
            .map(|(name, value)| (Arc::clone(name), value))
            .collect::<Signals>();
        let note = match seen {
            Seen::Learning => Some("learning"),
            Seen::LightSwitch => Some("light_switch"),
            Seen::Compared => None,
        };
        o.metadata = note
            .map(|note| (note.to_owned(), Value::Bool(true)))
            .into_iter()
            .collect::<Map<_, _>>();
        Ok(vec![o])
    }

    fn reset(&mut self) {
        self.background.reset();
    }
}

/// A region in units of the frame. Its score is how far it stands out: 0.5 is the threshold.
fn object(region: &Region, frame: &FrameView<'_>, size: (u32, u32), threshold: f64) -> Object {
    let at = |x: usize, y: usize| {
        let (x, y) = (to_f64(x) / f64::from(size.0), to_f64(y) / f64::from(size.1));
        let (x, y) = frame.roi.to_frame(x, y);
        (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0))
    };
    let ((l, t), (r, b)) = (at(region.left, region.top), at(region.right, region.bottom));
    let difference = to_f64(region.difference) / to_f64(region.area.max(1));
    Object {
        track_id: None,
        label: "motion".to_owned(),
        score: (difference / (2.0 * threshold)).min(1.0),
        bbox: [l, t, r, b],
        area: (r - l) * (b - t),
        zones: Vec::new(),
        keypoints: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
fn to_f64(n: usize) -> f64 {
    n as f64
}
