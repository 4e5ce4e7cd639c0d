//! Small drawings of which everything is known, as the plugin sees them.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code outside a #[test]; pictures of known size"
)]

use visualpath_core::{
    Anchor, ColorSpec, Extractor, FrameMeta, FrameView, ImageLayout, Mask, MaskKind, Name,
    Observation, PixelFormat, PluginContext, Roi, Zone,
};
use visualpath_plugin_motion::plugin;

pub const W: usize = 320;
pub const H: usize = 240;

/// A plugin's context with this config and these zones.
pub fn context(config: serde_json::Value, zones: &[(&str, [[f64; 2]; 4])]) -> PluginContext {
    PluginContext {
        name: Name::new("motion").unwrap(),
        config: config.as_object().unwrap().clone(),
        zones: zones
            .iter()
            .map(|(name, polygon)| {
                Zone::new(Name::new(name).unwrap(), polygon.to_vec(), Anchor::Center).unwrap()
            })
            .collect(),
        masks: vec![],
        model_dirs: vec![],
    }
}

/// One scene: a room with texture, in which things are drawn anew for every frame.
pub struct Room {
    extractor: Box<dyn Extractor>,
    wall: Vec<u8>,
    pub picture: Vec<u8>,
    dice: u64,
    frame_id: u64,
    pub t_ns: i64,
    pub step_ns: i64,
}

impl Room {
    pub fn new(config: serde_json::Value, zones: &[(&str, [[f64; 2]; 4])]) -> Self {
        Self::of(&context(config, zones))
    }

    /// The room with this part of it masked.
    pub fn masked(
        config: serde_json::Value,
        zones: &[(&str, [[f64; 2]; 4])],
        kind: MaskKind,
        polygon: [[f64; 2]; 4],
    ) -> Self {
        let mut context = context(config, zones);
        let mask = Mask::new(Name::new("street").unwrap(), kind, polygon.to_vec());
        context.masks = vec![mask.unwrap()];
        Self::of(&context)
    }

    /// The room as an extractor made with this context sees it.
    pub fn of(context: &PluginContext) -> Self {
        // Planks, with a grain of their own.
        let wall: Vec<u8> = (0..W * H)
            .map(|i| {
                let (x, y) = (i % W, i / W);
                let grain = (x * 7 + y * 13) / 8 * 2_654_435_761 % 23;
                (90 + x / 20 % 2 * 30 + y / 30 % 3 * 10 + grain) as u8
            })
            .collect();
        Self {
            extractor: plugin().create(context).unwrap(),
            picture: wall.clone(),
            wall,
            dice: 1,
            frame_id: 0,
            t_ns: 0,
            step_ns: 100_000_000,
        }
    }

    /// A room that has been looked at, empty, for 3 s.
    pub fn learned() -> Self {
        let mut room = Self::new(serde_json::json!({}), &[]);
        room.empty(31);
        room
    }

    /// Looks at the empty room `frames` times.
    pub fn empty(&mut self, frames: usize) {
        for _ in 0..frames {
            self.clear();
            self.look();
        }
    }

    pub fn clear(&mut self) {
        self.picture.copy_from_slice(&self.wall);
    }

    /// A thing of one level.
    pub fn thing(&mut self, [l, t, r, b]: [usize; 4], level: u8) {
        for y in t..b {
            self.picture[y * W + l..y * W + r].fill(level);
        }
    }

    /// Every level becomes what `f` makes of it and its place.
    pub fn shade(&mut self, f: impl Fn(f64, usize, usize) -> f64) {
        for (i, p) in self.picture.iter_mut().enumerate() {
            *p = f(f64::from(*p), i % W, i / W).round().clamp(0.0, 255.0) as u8;
        }
    }

    /// Camera noise of this standard deviation, nearly a bell curve.
    pub fn noise(&mut self, sigma: f64) {
        for p in &mut self.picture {
            let mut sum = 0.0;
            for _ in 0..12 {
                self.dice = self
                    .dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                sum += (self.dice >> 40) as f64 / f64::from(1 << 24);
            }
            *p = (f64::from(*p) + (sum - 6.0) * sigma)
                .round()
                .clamp(0.0, 255.0) as u8;
        }
    }

    /// Lets the extractor see the picture as the next frame.
    pub fn look(&mut self) -> Observation {
        let layout =
            ImageLayout::packed(PixelFormat::Grey, W as u32, H as u32, ColorSpec::default());
        let view = FrameView {
            meta: FrameMeta {
                frame_id: self.frame_id,
                t_ns: self.t_ns,
                epoch: 0,
                layout,
            },
            layout,
            roi: Roi::FULL,
            pixels: &self.picture,
        };
        self.frame_id += 1;
        self.t_ns += self.step_ns;
        let mut all = self.extractor.extract(&view, &[]).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// As the platform does on a new epoch.
    pub fn reset(&mut self) {
        self.extractor.reset();
    }
}

pub fn signal(o: &Observation, name: &str) -> f64 {
    o.signals
        .get(name)
        .unwrap_or_else(|| panic!("no {name}: {:?}", o.signals))
}

pub fn score(o: &Observation) -> f64 {
    signal(o, "score")
}
