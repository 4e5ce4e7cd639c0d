//! What extractors say about frames, and what became of a frame that was admitted.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Named numbers, sorted by name. A handful per observation: a sorted vector beats a tree.
#[derive(Clone, Default, PartialEq)]
pub struct Signals(Vec<(Arc<str>, f64)>);

impl Signals {
    /// No signals.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .ok()
            .map(|i| self.0[i].1)
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: f64) {
        let name = name.into();
        match self.0.binary_search_by(|(n, _)| (**n).cmp(&*name)) {
            Ok(i) => self.0[i].1 = value,
            Err(i) => self.0.insert(i, (name, value)),
        }
    }

    /// Sets `name` to the larger of its value and `value`.
    pub fn raise(&mut self, name: impl Into<Arc<str>>, value: f64) {
        let name = name.into();
        match self.0.binary_search_by(|(n, _)| (**n).cmp(&*name)) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(value),
            Err(i) => self.0.insert(i, (name, value)),
        }
    }

    /// Name and value, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, f64)> {
        self.0.iter().map(|(n, v)| (n, *v))
    }

    /// Number of signals.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<Arc<str>>> FromIterator<(N, f64)> for Signals {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(iter: I) -> Self {
        let mut signals = Self::new();
        for (n, v) in iter {
            signals.set(n, v);
        }
        signals
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(n, v)| (n, v)))
            .finish()
    }
}

impl Serialize for Signals {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(n, v)| (&**n, v)))
    }
}

impl<'de> Deserialize<'de> for Signals {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, f64>::deserialize(d)?;
        Ok(Self(map.into_iter().map(|(n, v)| (n.into(), v)).collect()))
    }
}

/// One thing found in a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Object {
    /// The track this object belongs to, where something tracks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_id: Option<u64>,
    /// Class name as the model's card gives it.
    pub label: String,
    /// Confidence, 0–1.
    pub score: f64,
    /// Left, top, right, bottom in units of the frame (0–1; clipped by the plugin).
    pub bbox: [f64; 4],
    /// Share of the frame the box covers, 0–1.
    #[serde(default)]
    pub area: f64,
    /// Names of the zones its anchor lies in; filled by the platform.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Points `x, y, score` in units of the frame, where the model gives them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keypoints: Vec<[f64; 3]>,
}

/// Class name as it appears in a signal: lower case, every other character an underscore.
pub fn class_slug(label: &str) -> String {
    label
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect()
}

/// What an observation carries beside its signals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Things found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Object>,
    /// Anything else the extractor gives.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What one extractor says about one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The extractor's name in the config.
    pub extractor: Name,
    /// The frame it is about.
    pub frame_id: u64,
    /// That frame's source time.
    pub t_ns: i64,
    /// Numbers for rules.
    pub signals: Signals,
    /// Objects and the like.
    #[serde(default)]
    pub data: Data,
    /// Facts about the observation itself.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The extractor's own confidence, 0–1, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Nanoseconds the extractor took, as measured around it.
    #[serde(default)]
    pub timing_ns: i64,
}

impl Observation {
    /// Whether every signal and every number of an object is finite.
    ///
    /// # Errors
    /// Names the first that is not; the whole answer for that frame counts as failed.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        for (name, value) in self.signals.iter() {
            if !value.is_finite() {
                return Err(NotFinite {
                    signal: name.to_string(),
                    value,
                });
            }
        }
        for object in &self.data.objects {
            let numbers = [&object.score, &object.area].into_iter();
            let mut numbers = numbers
                .chain(&object.bbox)
                .chain(object.keypoints.as_flattened());
            if let Some(value) = numbers.find(|v| !v.is_finite()) {
                return Err(NotFinite {
                    signal: "data.objects".to_owned(),
                    value: *value,
                });
            }
        }
        Ok(())
    }

    /// An observation of `frame_id` at `t_ns` without signals. The platform overwrites `extractor`
    /// with the name in the config, so a plugin may give any.
    pub fn new(extractor: Name, frame_id: u64, t_ns: i64) -> Self {
        Self {
            extractor,
            frame_id,
            t_ns,
            signals: Signals::new(),
            data: Data::default(),
            metadata: serde_json::Map::new(),
            confidence: None,
            timing_ns: 0,
        }
    }
}

/// A signal that is no number; the whole answer for that frame counts as failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("signal `{signal}` is {value}: signals must be finite")]
pub struct NotFinite {
    /// Its name.
    pub signal: String,
    /// What it was.
    pub value: f64,
}

/// Why an admitted frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The extractor's queue was full and a newer frame took the place.
    QueueFull,
    /// The extractor it depends on failed on this frame.
    Dependency,
    /// The worker is on Hold or restarting.
    WorkerHeld,
    /// The pipeline is stopping.
    Stopping,
}

impl DropReason {
    /// The word used in metrics, traces and summaries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Dependency => "dependency",
            Self::WorkerHeld => "worker_held",
            Self::Stopping => "stopping",
        }
    }
}

/// What became of an admitted frame. Every admitted frame leaves exactly one.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The extractor answered, maybe with nothing.
    Observed(Arc<Held>),
    /// The extractor gave an error or panicked.
    Failed(Arc<str>),
    /// No answer within its time-out.
    TimedOut,
    /// Never reached the extractor.
    Dropped(DropReason),
}

/// The observations of one extractor for one frame, with the signals merged as rules see them:
/// the largest value per signal, `count` and `max_confidence` supplied, zones counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Frame observed.
    pub frame_id: u64,
    /// Its source time.
    pub t_ns: i64,
    /// As given, names and zones filled in.
    pub observations: Vec<Observation>,
    /// Merged over the observations.
    pub signals: Signals,
    /// Nanoseconds the extractor took.
    pub timing_ns: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_sorted_and_unique() {
        let mut s: Signals = [("b", 1.0), ("a", 2.0), ("b", 3.0)].into_iter().collect();
        s.raise("a", 1.0);
        s.raise("c", -1.0);
        assert_eq!(s.len(), 3);
        assert_eq!(
            (s.get("a"), s.get("b"), s.get("c"), s.get("d")),
            (Some(2.0), Some(3.0), Some(-1.0), None)
        );
        let json = serde_json::to_string(&s).unwrap();
        assert_eq!(json, r#"{"a":2.0,"b":3.0,"c":-1.0}"#);
        assert_eq!(serde_json::from_str::<Signals>(&json).unwrap(), s);
    }

    #[test]
    fn slugs_are_lower_case_with_underscores() {
        assert_eq!(class_slug("Person"), "person");
        assert_eq!(class_slug("Coffee cup"), "coffee_cup");
        assert_eq!(class_slug("T-Shirt é2"), "t_shirt__2");
    }
}
