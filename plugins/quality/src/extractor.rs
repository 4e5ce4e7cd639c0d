//! One frame's way: measure, judge, tell.

use std::sync::Arc;

use visualpath_core::{
    ExtractError, Extractor, FrameView, Name, Observation, PixelFormat, Signals,
};

use crate::config::Config;
use crate::measure::Measures;

/// Signals in the order of names.
pub(crate) const SIGNALS: [&str; 6] = [
    "blur",
    "brightness",
    "contrast",
    "count",
    "quality_gate",
    "quality_score",
];

pub(crate) struct QualityExtractor {
    name: Name,
    config: Config,
    signals: [Arc<str>; 6],
}

impl QualityExtractor {
    pub(crate) fn new(name: Name, config: Config) -> Self {
        Self {
            name,
            config,
            signals: SIGNALS.map(Arc::from),
        }
    }

    fn passes(&self, m: &Measures) -> bool {
        let c = &self.config;
        c.min_blur.is_none_or(|least| m.blur >= least)
            && c.min_brightness.is_none_or(|least| m.brightness >= least)
            && c.max_brightness.is_none_or(|most| m.brightness <= most)
            && c.min_contrast.is_none_or(|least| m.contrast >= least)
    }
}

impl Extractor for QualityExtractor {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let layout = &frame.layout;
        let (width, height) = (self.config.width, self.config.height);
        let plane = layout.plane(frame.pixels, 0);
        let packed = layout.planes().first().map(|p| p.stride) == Some(width as usize);
        let asked = layout.format == PixelFormat::Grey
            && (layout.width, layout.height) == (width, height)
            && packed;
        let Some(luma) = plane.filter(|_| asked) else {
            return Err(ExtractError(format!(
                "the view is {:?} {}x{} of {} bytes, expected is grey {width}x{height} without padding",
                layout.format,
                layout.width,
                layout.height,
                frame.pixels.len(),
            )));
        };
        let m = Measures::of(luma, width as usize);
        let gate = f64::from(u8::from(self.passes(&m)));
        // It counts nothing; left out, the platform would count its observation: 1 for ever.
        let values = [m.blur, m.brightness, m.contrast, 0.0, gate, m.score()];
        let mut o = Observation::new(self.name.clone(), frame.meta.frame_id, frame.meta.t_ns);
        o.signals = self
            .signals
            .iter()
            .cloned()
            .zip(values)
            .collect::<Signals>();
        Ok(vec![o])
    }
}
