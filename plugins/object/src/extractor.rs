//! One frame through the detector.

use std::sync::Arc;

use visualpath_core::{
    ExtractError, Extractor, FrameView, ModelUse, Name, Object, Observation, Roi, Signals,
    class_slug,
};
use visualpath_onnx::{LoadedModel, Normalizer};

use crate::ssd::{Detection, SsdDecoder};

const COUNT: &str = "count";
const MAX_CONFIDENCE: &str = "max_confidence";

/// Names of the signals, shared by every observation.
pub(crate) struct SignalNames {
    /// Per class of the model: its label and `<slug>_count`; `None` for classes not looked for.
    classes: Vec<Option<(String, Arc<str>)>>,
    count: Arc<str>,
    max_confidence: Arc<str>,
}

impl SignalNames {
    pub(crate) fn new(labels: &[String], enabled: &[usize]) -> Self {
        let classes = labels
            .iter()
            .enumerate()
            .map(|(i, label)| {
                let name = format!("{}_count", class_slug(label));
                enabled.contains(&i).then(|| (label.clone(), name.into()))
            })
            .collect();
        Self {
            classes,
            count: COUNT.into(),
            max_confidence: MAX_CONFIDENCE.into(),
        }
    }

    /// All names, sorted, each once (two classes may share a slug).
    pub(crate) fn all(&self) -> Vec<String> {
        self.zeros().iter().map(|(n, _)| n.to_string()).collect()
    }

    /// Every signal at 0: what a frame without objects says.
    fn zeros(&self) -> Signals {
        self.classes
            .iter()
            .flatten()
            .map(|(_, name)| (Arc::clone(name), 0.0))
            .chain([
                (Arc::clone(&self.count), 0.0),
                (Arc::clone(&self.max_confidence), 0.0),
            ])
            .collect()
    }
}

/// The detector with its working memory.
pub(crate) struct ObjectExtractor {
    name: Name,
    model: LoadedModel,
    normalizer: Normalizer,
    decoder: SsdDecoder,
    names: SignalNames,
    zeros: Signals,
}

impl ObjectExtractor {
    pub(crate) fn new(
        name: Name,
        model: LoadedModel,
        normalizer: Normalizer,
        decoder: SsdDecoder,
        names: SignalNames,
    ) -> Self {
        let zeros = names.zeros();
        Self {
            name,
            model,
            normalizer,
            decoder,
            names,
            zeros,
        }
    }
}

impl Extractor for ObjectExtractor {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _deps: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let input = self
            .normalizer
            .fill(&frame.layout, frame.pixels)
            .map_err(|e| ExtractError(e.to_string()))?;
        let outputs = self
            .model
            .run(input)
            .map_err(|e| ExtractError(e.to_string()))?;
        let tensor = |i| outputs.get(i).map_err(|e| ExtractError(e.to_string()));
        let (boxes, scores) = (tensor(0)?, tensor(1)?);
        let found = self
            .decoder
            .decode(boxes, scores)
            .map_err(|e| ExtractError(format!("{}: {e}", self.model.model_use().name)))?;
        Ok(vec![observe(
            &self.name,
            frame,
            found,
            &self.names,
            &self.zeros,
        )])
    }

    fn models(&self) -> Vec<ModelUse> {
        vec![self.model.model_use().clone()]
    }
}

fn observe(
    extractor: &Name,
    frame: &FrameView<'_>,
    found: &[Detection],
    names: &SignalNames,
    zeros: &Signals,
) -> Observation {
    let mut signals = zeros.clone();
    let mut objects = Vec::with_capacity(found.len());
    let mut best: Option<f64> = None;
    for detection in found {
        let Some((label, signal)) = names.classes.get(detection.class).and_then(Option::as_ref)
        else {
            continue;
        };
        let Some(bbox) = in_frame(&frame.roi, detection.bbox) else {
            continue;
        };
        best = Some(best.map_or(detection.score, |b| b.max(detection.score)));
        for name in [signal, &names.count] {
            let count = signals.get(name).unwrap_or(0.0);
            signals.set(Arc::clone(name), count + 1.0);
        }
        objects.push(Object {
            track_id: None,
            label: label.clone(),
            score: detection.score,
            bbox,
            area: (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]),
            zones: Vec::new(),
            keypoints: Vec::new(),
        });
    }
    signals.set(Arc::clone(&names.max_confidence), best.unwrap_or(0.0));
    let mut observation = Observation::new(extractor.clone(), frame.meta.frame_id, frame.meta.t_ns);
    observation.signals = signals;
    observation.data.objects = objects;
    observation.confidence = best;
    observation
}

/// The box in units of the frame, clipped to it; `None` if nothing of it is inside.
fn in_frame(roi: &Roi, [l, t, r, b]: [f64; 4]) -> Option<[f64; 4]> {
    let (l, t) = roi.to_frame(l, t);
    let (r, b) = roi.to_frame(r, b);
    let clipped = [l, t, r, b].map(|v| v.clamp(0.0, 1.0));
    (clipped[0] < clipped[2] && clipped[1] < clipped[3]).then_some(clipped)
}

#[cfg(test)]
mod tests {
    use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat};

    use super::*;

    fn frame(roi: Roi) -> FrameView<'static> {
        let layout = ImageLayout::packed(PixelFormat::Rgb, 300, 300, ColorSpec::default());
        FrameView {
            meta: FrameMeta {
                frame_id: 7,
                t_ns: 42,
                epoch: 0,
                layout,
            },
            layout,
            roi,
            pixels: &[],
        }
    }

    fn names() -> SignalNames {
        let labels = ["???", "Person", "Coffee cup", "Car"].map(str::to_owned);
        SignalNames::new(&labels, &[1, 2])
    }

    fn detection(class: usize, score: f64, bbox: [f64; 4]) -> Detection {
        Detection { class, score, bbox }
    }

    #[test]
    fn a_frame_without_objects_says_zero_for_every_enabled_class() {
        let names = names();
        assert_eq!(
            names.all(),
            [
                "coffee_cup_count",
                "count",
                "max_confidence",
                "person_count"
            ]
        );
        let o = observe(
            &Name::new("x").unwrap(),
            &frame(Roi::FULL),
            &[],
            &names,
            &names.zeros(),
        );
        assert_eq!((o.frame_id, o.t_ns, o.confidence), (7, 42, None));
        assert_eq!(o.signals, names.zeros());
        assert!(o.data.objects.is_empty());
    }

    #[test]
    fn objects_are_counted_clipped_and_labelled_as_the_card_does() {
        let names = names();
        let found = [
            detection(1, 0.9, [0.5, 0.5, 1.5, 0.75]),
            detection(1, 0.6, [0.0, 0.0, 0.1, 0.2]),
            detection(2, 0.7, [1.1, 0.0, 1.2, 0.5]),
        ];
        let o = observe(
            &Name::new("x").unwrap(),
            &frame(Roi::FULL),
            &found,
            &names,
            &names.zeros(),
        );
        let signal = |n: &str| o.signals.get(n);
        assert_eq!(
            signal("count"),
            Some(2.0),
            "the cup lies outside the picture"
        );
        assert_eq!(signal("person_count"), Some(2.0));
        assert_eq!(signal("coffee_cup_count"), Some(0.0));
        assert_eq!(signal("max_confidence"), Some(0.9));
        assert_eq!(o.confidence, Some(0.9));
        assert_eq!(o.data.objects[0].label, "Person");
        assert_eq!(o.data.objects[0].bbox, [0.5, 0.5, 1.0, 0.75]);
        assert!((o.data.objects[0].area - 0.125).abs() < 1e-12);
    }

    #[test]
    fn boxes_are_told_in_units_of_the_frame() {
        // The view is the right half of the frame.
        let roi = Roi {
            l: 0.5,
            ..Roi::FULL
        };
        assert_eq!(
            in_frame(&roi, [0.0, 0.25, 0.5, 1.0]),
            Some([0.5, 0.25, 0.75, 1.0])
        );
    }
}
