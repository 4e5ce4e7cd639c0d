//! From what an extractor returned to what rules read: names and times filled in, masked objects
//! taken away, zones assigned, signals merged over several observations, counts per zone added.
//!
//! Masks are applied here and not in the plugins, so that they hold for every extractor that has
//! objects, at every isolation level. What is taken away is gone before anybody (rules, trace,
//! clips) sees the observation.

use std::sync::Arc;

use visualpath_core::{
    FrameMeta, Held, Mask, MaskKind, Name, NotFinite, Observation, PluginContext, Signals, Zone,
    class_slug,
};

/// Finishes the observations of one extractor of one source.
#[derive(Debug)]
pub struct Merger {
    extractor: Name,
    zones: Vec<Zone>,
    /// Those of kind `objects`.
    masks: Vec<Mask>,
    count: Arc<str>,
    max_confidence: Arc<str>,
    /// Per counting signal met so far: its name and `<signal>@<zone>` per zone, so that a frame
    /// formats no names.
    zone_names: Vec<(Arc<str>, Vec<Arc<str>>)>,
}

/// Plugins choose signal names; this many distinct counting signals are remembered per extractor.
const MAX_COUNTING: usize = 256;

impl Merger {
    /// For the extractor called `extractor`, looking at a source with these zones.
    pub fn new(extractor: Name, zones: Vec<Zone>) -> Self {
        Self {
            extractor,
            zones,
            masks: Vec::new(),
            count: "count".into(),
            max_confidence: "max_confidence".into(),
            zone_names: Vec::new(),
        }
    }

    /// For the extractor made with `context`, with the zones and masks of its source.
    pub fn of(context: &PluginContext) -> Self {
        let masks = context.masks.iter();
        Self {
            masks: masks
                .filter(|m| m.kind == MaskKind::Objects)
                .cloned()
                .collect(),
            ..Self::new(context.name.clone(), context.zones.clone())
        }
    }

    /// Checks and completes `observations` of the frame `meta`, which took `timing_ns` to make.
    pub fn merge(
        &mut self,
        meta: &FrameMeta,
        mut observations: Vec<Observation>,
        timing_ns: i64,
    ) -> Result<Held, NotFinite> {
        let mut signals = Signals::new();
        let (mut objects, mut confidence) = (0_usize, 0.0_f64);
        let of_objects = observations.iter().any(|o| !o.data.objects.is_empty());
        if of_objects && !self.masks.is_empty() {
            self.mask(&mut observations);
        }
        for o in &mut observations {
            o.extractor = self.extractor.clone();
            o.frame_id = meta.frame_id;
            o.t_ns = meta.t_ns;
            o.timing_ns = timing_ns;
            o.check_finite()?;
            for (name, value) in o.signals.iter() {
                signals.raise(Arc::clone(name), value);
            }
            if let Some(c) = o.confidence.filter(|c| c.is_finite()) {
                confidence = confidence.max(c);
            }
            objects += o.data.objects.len();
            for object in &mut o.data.objects {
                confidence = confidence.max(object.score);
                object.zones.clear();
                object.zones.extend(
                    self.zones
                        .iter()
                        .filter(|z| z.holds_box(object.bbox))
                        .map(|z| z.name.as_str().to_owned()),
                );
            }
        }
        if signals.get("count").is_none() {
            // Extractors that give one observation per thing have no objects to count.
            let n = if of_objects {
                objects
            } else {
                observations.len()
            };
            signals.set(Arc::clone(&self.count), count(n));
        }
        if signals.get("max_confidence").is_none() {
            signals.set(Arc::clone(&self.max_confidence), confidence);
        }
        if !self.zones.is_empty() {
            self.count_zones(&observations, &mut signals);
        }
        Ok(Held {
            frame_id: meta.frame_id,
            t_ns: meta.t_ns,
            observations,
            signals,
            timing_ns,
        })
    }

    /// Takes away what stands in a mask. The counting signals of the same observation follow: what
    /// it counted beyond its objects (there may be more than are listed) stays counted.
    fn mask(&self, observations: &mut Vec<Observation>) {
        let several = observations.len() > 1;
        observations.retain_mut(|o| {
            let mut gone = Vec::new();
            o.data.objects.retain_mut(|object| {
                let masked = self.masks.iter().any(|m| m.holds_box(object.bbox));
                if masked {
                    let zones = self.zones.iter().filter(|z| z.holds_box(object.bbox));
                    gone.push((class_slug(&object.label), zones.collect::<Vec<_>>()));
                }
                !masked
            });
            if gone.is_empty() {
                return true;
            }
            // One of several is about its object, and goes with it.
            if several && o.data.objects.is_empty() {
                return false;
            }
            let best = o.data.objects.iter().map(|o| o.score).reduce(f64::max);
            o.confidence = o.confidence.and(best);
            let told: Vec<(Arc<str>, f64)> =
                o.signals.iter().map(|(n, v)| (Arc::clone(n), v)).collect();
            for (name, value) in told {
                if &*name == "max_confidence" {
                    o.signals.set(name, best.unwrap_or(0.0));
                    continue;
                }
                let (signal, zone) = match name.split_once('@') {
                    Some((signal, zone)) => (signal, Some(zone)),
                    None => (&*name, None),
                };
                let class = signal.strip_suffix("_count");
                if class.is_none() && signal != "count" {
                    continue;
                }
                let meant = gone.iter().filter(|(slug, zones)| {
                    class.is_none_or(|c| slug == c)
                        && zone.is_none_or(|zone| zones.iter().any(|z| z.name == *zone))
                });
                let left = (value - count(meant.count())).max(0.0);
                o.signals.set(name, left);
            }
            true
        });
    }

    /// Adds `<signal>@<zone>` for every counting signal: `count` and `<class>_count`.
    fn count_zones(&mut self, observations: &[Observation], signals: &mut Signals) {
        let counting: Vec<Arc<str>> = signals
            .iter()
            .map(|(n, _)| n)
            .filter(|n| (&***n == "count" || n.ends_with("_count")) && !n.contains('@'))
            .cloned()
            .collect();
        for signal in counting {
            let class = signal.strip_suffix("_count");
            let known = self.zone_names.iter().position(|(n, _)| *n == signal);
            let fresh: Vec<Arc<str>>;
            let names = match known {
                Some(i) => &self.zone_names[i].1,
                None => {
                    fresh = self
                        .zones
                        .iter()
                        .map(|z| format!("{signal}@{}", z.name).into())
                        .collect();
                    if self.zone_names.len() < MAX_COUNTING {
                        self.zone_names.push((Arc::clone(&signal), fresh.clone()));
                    }
                    &fresh
                }
            };
            for (zone, name) in self.zones.iter().zip(names) {
                if signals.get(name).is_some() {
                    continue;
                }
                let n = observations
                    .iter()
                    .flat_map(|o| &o.data.objects)
                    .filter(|o| class.is_none_or(|c| class_slug(&o.label) == c))
                    .filter(|o| o.zones.iter().any(|z| zone.name == **z))
                    .count();
                signals.set(Arc::clone(name), count(n));
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of objects in one picture"
)]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use visualpath_core::{Anchor, ColorSpec, ImageLayout, Object, PixelFormat};

    use super::*;

    fn meta() -> FrameMeta {
        let layout = ImageLayout::packed(PixelFormat::Grey, 8, 8, ColorSpec::default());
        FrameMeta {
            frame_id: 7,
            t_ns: 700,
            epoch: 0,
            layout,
        }
    }

    fn object(label: &str, score: f64, bbox: [f64; 4]) -> Object {
        Object {
            track_id: None,
            label: label.into(),
            score,
            bbox,
            area: 0.0,
            zones: vec!["forged".into()],
            keypoints: vec![],
        }
    }

    fn merger() -> Merger {
        let polygon = vec![[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
        let zone = Zone::new(Name::new("door").unwrap(), polygon, Anchor::Bottom).unwrap();
        Merger::new(Name::new("person").unwrap(), vec![zone])
    }

    #[test]
    fn several_observations_merge_to_the_largest_and_are_counted() {
        let mut a = Observation::new(Name::new("x").unwrap(), 0, 99);
        a.signals.set("size", 1.0);
        a.confidence = Some(0.25);
        let mut b = a.clone();
        b.signals.set("size", 3.0);
        let held = merger().merge(&meta(), vec![a, b], 5).unwrap();
        assert_eq!(held.signals.get("size"), Some(3.0));
        assert_eq!(held.signals.get("count"), Some(2.0));
        assert_eq!(held.signals.get("max_confidence"), Some(0.25));
        let o = &held.observations[0];
        assert_eq!(
            (o.extractor.as_str(), o.frame_id, o.t_ns),
            ("person", 7, 700),
            "not the plugin's word"
        );
    }

    #[test]
    fn zones_are_assigned_and_counted_also_when_empty() {
        let mut m = merger();
        let mut o = Observation::new(Name::new("x").unwrap(), 0, 0);
        o.signals.set("person_count", 2.0);
        o.signals.set("traffic_light_count", 0.0);
        o.data.objects = vec![
            object("Person", 0.9, [0.1, 0.1, 0.3, 0.9]),
            object("Person", 0.5, [0.6, 0.1, 0.8, 0.9]),
        ];
        let held = m.merge(&meta(), vec![o], 0).unwrap();
        for (signal, value) in [
            ("count", 2.0),
            ("count@door", 1.0),
            ("person_count@door", 1.0),
            ("traffic_light_count@door", 0.0),
            ("max_confidence", 0.9),
        ] {
            assert_eq!(held.signals.get(signal), Some(value), "{signal}");
        }
        assert_eq!(held.observations[0].data.objects[0].zones, ["door"]);
        assert!(held.observations[0].data.objects[1].zones.is_empty());
        let held = m.merge(&meta(), vec![], 0).unwrap();
        assert_eq!(
            held.signals.get("count@door"),
            Some(0.0),
            "nothing seen is a zero, not a missing key"
        );
    }

    /// With the right half masked for objects, and the whole picture for motion.
    fn masked() -> Merger {
        let mask = |name, kind, l: f64| {
            let polygon = vec![[l, 0.0], [1.0, 0.0], [1.0, 1.0], [l, 1.0]];
            Mask::new(Name::new(name).unwrap(), kind, polygon).unwrap()
        };
        let whole = vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
        let zone = Zone::new(Name::new("door").unwrap(), whole, Anchor::Bottom).unwrap();
        Merger::of(&PluginContext {
            name: Name::new("person").unwrap(),
            config: serde_json::Map::new(),
            zones: vec![zone],
            masks: vec![
                mask("street", MaskKind::Objects, 0.5),
                mask("leaves", MaskKind::Motion, 0.0),
            ],
            model_dirs: vec![],
        })
    }

    const LEFT: [f64; 4] = [0.1, 0.1, 0.3, 0.9];
    const RIGHT: [f64; 4] = [0.6, 0.1, 0.8, 0.9];

    #[test]
    fn what_stands_in_a_mask_is_not_there_and_every_count_says_so() {
        let mut o = Observation::new(Name::new("x").unwrap(), 0, 0);
        o.confidence = Some(0.9);
        for (signal, value) in [
            ("count", 5.0),
            ("person_count", 2.0),
            ("car_count", 1.0),
            ("person_count@door", 2.0),
            ("max_confidence", 0.9),
            ("brightness", 80.0),
        ] {
            o.signals.set(signal, value);
        }
        o.data.objects = vec![
            object("Person", 0.9, RIGHT),
            object("Person", 0.5, LEFT),
            object("Car", 0.8, RIGHT),
        ];
        let held = masked().merge(&meta(), vec![o], 0).unwrap();
        for (signal, value) in [
            ("count", 3.0),
            ("person_count", 1.0),
            ("car_count", 0.0),
            ("max_confidence", 0.5),
            ("count@door", 1.0),
            ("person_count@door", 1.0),
            ("car_count@door", 0.0),
            ("brightness", 80.0),
        ] {
            assert_eq!(held.signals.get(signal), Some(value), "{signal}");
        }
        let o = &held.observations[0];
        assert_eq!((o.data.objects.len(), o.confidence), (1, Some(0.5)));
        assert_eq!(o.data.objects[0].bbox, LEFT);
        assert_eq!(o.signals.get("person_count"), Some(1.0), "as traced");
    }

    #[test]
    fn masked_objects_of_an_extractor_that_counts_nothing_itself_are_none() {
        let of = |bbox| {
            let mut o = Observation::new(Name::new("x").unwrap(), 0, 0);
            o.signals.set("smile", 0.7);
            o.data.objects = vec![object("Face", 0.9, bbox)];
            o
        };
        let mut m = masked();
        let held = m.merge(&meta(), vec![of(RIGHT)], 0).unwrap();
        assert_eq!(held.signals.get("count"), Some(0.0), "not its observations");
        assert_eq!(held.signals.get("max_confidence"), Some(0.0));
        let held = m.merge(&meta(), vec![of(RIGHT), of(RIGHT)], 0).unwrap();
        assert_eq!(held.signals.get("count"), Some(0.0));
        assert_eq!(held.signals.get("smile"), None, "of nobody");
        let held = m.merge(&meta(), vec![of(RIGHT), of(LEFT)], 0).unwrap();
        assert_eq!(held.signals.get("count"), Some(1.0));
        assert_eq!(held.observations.len(), 1);
    }

    #[test]
    fn a_signal_that_is_no_number_fails_the_answer() {
        let mut o = Observation::new(Name::new("x").unwrap(), 0, 0);
        o.signals.set("blur", f64::NAN);
        assert_eq!(
            merger().merge(&meta(), vec![o], 0).unwrap_err().signal,
            "blur"
        );
    }
}
