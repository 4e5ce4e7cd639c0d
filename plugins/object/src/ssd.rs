//! Reads the outputs of a Single Shot Detector (Liu et al., 2016, with the anchors of the
//! TensorFlow Object Detection API's `ssd_anchor_generator`).
//!
//! The model gives, for each of a fixed set of *anchors* (boxes of some shapes at every cell of six
//! grids), four numbers that shift and scale the anchor and one logit per class. An anchor with
//! centre (cx, cy) and size (w, h) becomes, with variances (10, 10, 5, 5) and order y, x, h, w,
//!
//! ```text
//! y = cy + t₀/10 · h     x = cx + t₁/10 · w     height = h · exp(t₂/5)     width = w · exp(t₃/5)
//! ```
//!
//! The one idea for speed: sigmoid is monotonic, so logits are compared with logit(threshold), and
//! only the few that pass ever see an `exp`. Boxes are decoded when non-maximum suppression gets to
//! them.

use serde::Deserialize;
use visualpath_onnx::TensorView;

/// `[ssd]` of a model card.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SsdCard {
    /// How many anchors the model has, as a check.
    pub anchors: usize,
    /// Pixels per cell of each grid.
    pub strides: Vec<u32>,
    /// Scale of the first and the last grid, share of the picture.
    pub scale_min: f64,
    pub scale_max: f64,
    /// Width / height of the shapes of a cell.
    pub aspects: Vec<f64>,
    /// Whether each cell has a square between this grid's scale and the next's.
    pub interpolated: bool,
    /// Shapes of the first grid's cells instead: aspect, scale.
    #[serde(default)]
    pub first_layer: Vec<[f64; 2]>,
    /// What the four box numbers are.
    pub box_order: [String; 4],
    /// Divisors of the four box numbers, in `box_order`.
    pub variances: [f64; 4],
    /// How a logit becomes a score: `sigmoid`.
    pub score: String,
    /// The class that means "nothing here".
    pub background: Option<usize>,
}

impl SsdCard {
    /// The table's keys.
    pub(crate) const KEYS: [&str; 11] = [
        "anchors",
        "strides",
        "scale_min",
        "scale_max",
        "aspects",
        "interpolated",
        "first_layer",
        "box_order",
        "variances",
        "score",
        "background",
    ];
    /// The outputs it reads.
    pub(crate) const ROLES: [&str; 2] = ["boxes", "scores"];
    /// No detector has more.
    const MAX_ANCHORS: usize = 1_000_000;

    /// The anchors for an input of this size, in the model's order; `Err((key, message))`.
    pub(crate) fn anchors(&self, width: u32, height: u32) -> Result<Vec<Anchor>, Wrong> {
        let mut anchors = Vec::with_capacity(self.anchors.min(Self::MAX_ANCHORS));
        for (layer, stride) in self.strides.iter().enumerate() {
            if *stride == 0 {
                return Err(("strides", "must be at least 1".to_owned()));
            }
            let (columns, rows) = (width.div_ceil(*stride), height.div_ceil(*stride));
            let shapes = self.shapes(layer);
            let cells = columns as usize * rows as usize;
            if anchors.len() + cells * shapes.len() > Self::MAX_ANCHORS {
                return Err((
                    "strides",
                    format!("give over {} anchors", Self::MAX_ANCHORS),
                ));
            }
            for row in 0..rows {
                for column in 0..columns {
                    let cx = (f64::from(column) + 0.5) / f64::from(columns);
                    let cy = (f64::from(row) + 0.5) / f64::from(rows);
                    anchors.extend(shapes.iter().map(|[w, h]| Anchor {
                        cx,
                        cy,
                        w: *w,
                        h: *h,
                    }));
                }
            }
        }
        let good = |a: &Anchor| a.w.is_finite() && a.h.is_finite() && a.w > 0.0 && a.h > 0.0;
        if !anchors.iter().all(good) {
            return Err((
                "aspects",
                "with these scales and aspects some anchors have no size".to_owned(),
            ));
        }
        if anchors.len() != self.anchors {
            return Err((
                "anchors",
                format!(
                    "is {}, but the strides, aspects and scales give {} for {width}x{height}",
                    self.anchors,
                    anchors.len()
                ),
            ));
        }
        Ok(anchors)
    }

    /// Width and height of the shapes of one cell of grid `layer`.
    fn shapes(&self, layer: usize) -> Vec<[f64; 2]> {
        let shape = |aspect: f64, scale: f64| [scale * aspect.sqrt(), scale / aspect.sqrt()];
        if layer == 0 && !self.first_layer.is_empty() {
            return self
                .first_layer
                .iter()
                .map(|[aspect, scale]| shape(*aspect, *scale))
                .collect();
        }
        let scale = self.scale(layer);
        let mut shapes: Vec<[f64; 2]> = self.aspects.iter().map(|a| shape(*a, scale)).collect();
        if self.interpolated {
            let next = if layer + 1 == self.strides.len() {
                1.0
            } else {
                self.scale(layer + 1)
            };
            shapes.push(shape(1.0, (scale * next).sqrt()));
        }
        shapes
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of grids")]
    fn scale(&self, layer: usize) -> f64 {
        let steps = self.strides.len().saturating_sub(1).max(1) as f64;
        self.scale_min + (self.scale_max - self.scale_min) * layer as f64 / steps
    }

    /// Positions of y, x, h, w among the four box numbers.
    fn order(&self) -> Result<[usize; 4], Wrong> {
        let at = |what: &str| self.box_order.iter().position(|w| w == what);
        match (at("y"), at("x"), at("h"), at("w")) {
            (Some(y), Some(x), Some(h), Some(w)) => Ok([y, x, h, w]),
            _ => Err(("box_order", "must hold y, x, h and w once each".to_owned())),
        }
    }
}

/// Which key is wrong, and why.
pub(crate) type Wrong = (&'static str, String);

/// A box the model starts from, in units of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// Centre.
    pub cx: f64,
    /// Centre.
    pub cy: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

/// One thing found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Index among the card's labels.
    pub class: usize,
    /// 0–1.
    pub score: f64,
    /// Left, top, right, bottom in units of the model's input, not clipped.
    pub bbox: [f64; 4],
}

/// What is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct SsdSettings {
    /// Least score, 0–1 exclusive.
    pub threshold: f64,
    /// Largest overlap (intersection over union) of two boxes of one class that both stay.
    pub nms_iou: f64,
    /// Most objects.
    pub max_objects: usize,
    /// Classes looked for, by index.
    pub classes: Vec<usize>,
}

/// The model's outputs can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SsdError {
    /// They have another shape than the card says.
    #[error("output `{output}` has shape {found:?}, the card says {expected:?}")]
    Shape {
        /// Role of the output.
        output: &'static str,
        /// As given.
        found: Vec<usize>,
        /// As the card says.
        expected: [usize; 3],
    },
    /// A score or box that is not a number: the model, its input or its runtime is broken.
    #[error("output `{output}` is not a finite number at anchor {anchor}")]
    NotFinite {
        /// Role of the output.
        output: &'static str,
        /// Which anchor.
        anchor: usize,
    },
}

/// Reads outputs; keeps its working memory between frames.
#[derive(Debug, Clone)]
pub struct SsdDecoder {
    anchors: Vec<Anchor>,
    order: [usize; 4],
    /// Divisors of y, x, h, w.
    variances: [f64; 4],
    class_count: usize,
    settings: SsdSettings,
    /// The smallest logit whose score passes.
    least_logit: f32,
    candidates: Vec<Candidate>,
    kept: Vec<Detection>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    anchor: u32,
    class: u32,
}

impl SsdDecoder {
    /// For a model with this card, input size and number of classes (background included).
    pub(crate) fn new(
        card: &SsdCard,
        (width, height): (u32, u32),
        class_count: usize,
        settings: SsdSettings,
    ) -> Result<Self, Wrong> {
        if card.score != "sigmoid" {
            return Err((
                "score",
                format!("`{}` is not known, only `sigmoid`", card.score),
            ));
        }
        if !card.variances.iter().all(|v| v.is_finite() && *v != 0.0) {
            return Err(("variances", "must be finite and not 0".to_owned()));
        }
        if card.background.is_some_and(|b| b >= class_count) {
            return Err(("background", format!("the model has {class_count} classes")));
        }
        let order = card.order()?;
        #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
        let least_logit = (settings.threshold / (1.0 - settings.threshold)).ln() as f32;
        Ok(Self {
            anchors: card.anchors(width, height)?,
            order,
            variances: order.map(|i| card.variances[i]),
            class_count,
            least_logit,
            candidates: Vec::new(),
            kept: Vec::with_capacity(settings.max_objects.min(1000)),
            settings,
        })
    }

    /// The anchors, in the model's order.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// What is in the picture, best first. `boxes` is 1 × anchors × 4, `scores` 1 × anchors ×
    /// classes.
    pub fn decode(
        &mut self,
        boxes: TensorView<'_>,
        scores: TensorView<'_>,
    ) -> Result<&[Detection], SsdError> {
        self.check("boxes", boxes, 4)?;
        self.check("scores", scores, self.class_count)?;
        self.collect(scores.data)?;
        // Best first; equal scores in the model's order, so that the answer is always the same.
        self.candidates.sort_unstable_by(|a, b| {
            b.logit
                .total_cmp(&a.logit)
                .then_with(|| (a.anchor, a.class).cmp(&(b.anchor, b.class)))
        });
        self.kept.clear();
        for i in 0..self.candidates.len() {
            if self.kept.len() >= self.settings.max_objects {
                break;
            }
            let candidate = self.candidates[i];
            let bbox = self.decode_box(candidate.anchor as usize, boxes.data)?;
            let class = candidate.class as usize;
            let covered = self
                .kept
                .iter()
                .any(|k| k.class == class && iou(&k.bbox, &bbox) > self.settings.nms_iou);
            if !covered {
                self.kept.push(Detection {
                    class,
                    score: sigmoid(f64::from(candidate.logit)),
                    bbox,
                });
            }
        }
        Ok(&self.kept)
    }

    fn check(
        &self,
        output: &'static str,
        tensor: TensorView<'_>,
        last: usize,
    ) -> Result<(), SsdError> {
        let expected = [1, self.anchors.len(), last];
        let right =
            tensor.shape == expected && tensor.data.len() == expected.iter().product::<usize>();
        if right {
            Ok(())
        } else {
            Err(SsdError::Shape {
                output,
                found: tensor.shape.to_vec(),
                expected,
            })
        }
    }

    /// Every (anchor, class) whose score passes.
    fn collect(&mut self, scores: &[f32]) -> Result<(), SsdError> {
        self.candidates.clear();
        for (anchor, logits) in scores.chunks_exact(self.class_count).enumerate() {
            for class in &self.settings.classes {
                let Some(logit) = logits.get(*class).copied() else {
                    continue;
                };
                if logit.is_nan() {
                    return Err(SsdError::NotFinite {
                        output: "scores",
                        anchor,
                    });
                }
                if logit >= self.least_logit {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "at most a million anchors; a class index is below the card's labels"
                    )]
                    self.candidates.push(Candidate {
                        logit,
                        anchor: anchor as u32,
                        class: *class as u32,
                    });
                }
            }
        }
        Ok(())
    }

    fn decode_box(&self, index: usize, boxes: &[f32]) -> Result<[f64; 4], SsdError> {
        let not_finite = SsdError::NotFinite {
            output: "boxes",
            anchor: index,
        };
        let (Some(anchor), Some(raw)) = (self.anchors.get(index), boxes.chunks_exact(4).nth(index))
        else {
            return Err(not_finite);
        };
        let value = |k: usize| f64::from(raw[self.order[k]]) / self.variances[k];
        let cy = anchor.cy + value(0) * anchor.h;
        let cx = anchor.cx + value(1) * anchor.w;
        let h = anchor.h * value(2).exp();
        let w = anchor.w * value(3).exp();
        let bbox = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
        // exp of a wild number overflows to infinity; a difference of infinities is NaN.
        if bbox.iter().all(|v| v.is_finite()) {
            Ok(bbox)
        } else {
            Err(not_finite)
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Intersection over union; 0 for boxes without area.
pub(crate) fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |r: &[f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let overlap = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    let both = area(&overlap);
    let union = area(a) + area(b) - both;
    if union > 0.0 && union.is_finite() {
        both / union
    } else {
        0.0
    }
}

#[cfg(test)]
#[path = "ssd_tests.rs"]
mod tests;
