//! What a fusion is fed with and what it answers, between the wire and `visualpath-core`.
//!
//! A child is told what was seen at the frame itself. What rules call the held value (an extractor's
//! newest observation that is not stale) it is not told: a fusion that wants one keeps it.
//!
//! A trigger's `best_ns` travels in its metadata: the structs of protocol 1 can't grow.

use visualpath_core::{Aligned, FusionContext, FusionInput, FusionResult, Name, Outcome};

use crate::convert::{ConvertError, named};
use crate::lists::{ByExtractor, Extractors, States};
use crate::message::*;

impl FromParent {
    /// The request that feeds a fusion with `input`: `fuse`, `gap` or `end`.
    ///
    /// # Errors
    /// An observation with a number that JSON can't say.
    pub fn from_input(input: FusionInput<'_>) -> Result<Self, ConvertError> {
        Ok(match input {
            FusionInput::Aligned(aligned) => Self::Fuse(Fuse::from_core(aligned)?),
            FusionInput::Gap { from_ns, to_ns } => Self::Gap(Gap { from_ns, to_ns }),
            FusionInput::End { t_ns } => Self::End(End { t_ns }),
        })
    }
}

impl Fuse {
    /// For the wire. An extractor that observed the frame, if only to see nothing, is in
    /// `observations`; one that skipped it, failed or is late, in `missing`.
    ///
    /// # Errors
    /// An observation with a number that JSON can't say.
    pub fn from_core(aligned: &Aligned) -> Result<Self, ConvertError> {
        let (mut observations, mut missing) = (Vec::new(), Vec::new());
        for entry in &aligned.entries {
            let extractor = entry.extractor.as_str().to_owned();
            let Some(Outcome::Observed(seen)) = &entry.outcome else {
                missing.push(extractor);
                continue;
            };
            let seen = seen.observations.iter().map(Observation::from_core);
            observations.push((extractor, seen.collect::<Result<_, _>>()?));
        }
        Ok(Self {
            frame_id: aligned.frame_id,
            t_ns: aligned.t_ns,
            observations: ByExtractor(observations),
            missing,
            source: Some(aligned.source.as_str().to_owned()),
            unix_ns: Some(aligned.unix_ns),
        })
    }
}

impl From<&FusionContext> for Extractors {
    fn from(cx: &FusionContext) -> Self {
        Self(cx.extractors.iter().map(ExtractorSignals::from).collect())
    }
}

impl From<&visualpath_core::ExtractorSignals> for ExtractorSignals {
    fn from(extractor: &visualpath_core::ExtractorSignals) -> Self {
        let name = |n: &Name| n.as_str().to_owned();
        Self {
            name: name(&extractor.name),
            signals: extractor.signals.clone(),
            zones: extractor.zones.iter().map(name).collect(),
        }
    }
}

impl TryFrom<ExtractorSignals> for visualpath_core::ExtractorSignals {
    type Error = ConvertError;

    fn try_from(extractor: ExtractorSignals) -> Result<Self, ConvertError> {
        let zones = extractor.zones.iter();
        Ok(Self {
            name: named("extractors", &extractor.name)?,
            signals: extractor.signals,
            zones: zones
                .map(|zone| named("extractors.zones", zone))
                .collect::<Result<_, _>>()?,
        })
    }
}

// -- answers ---------------------------------------------------------------------------------------

/// Where `best_ns` is in a trigger's metadata.
const BEST: &str = "best_ns";

impl From<&visualpath_core::Trigger> for Trigger {
    fn from(t: &visualpath_core::Trigger) -> Self {
        let mut metadata = t.metadata.clone();
        if let Some(best_ns) = t.best_ns {
            metadata.insert(BEST.to_owned(), best_ns.into());
        }
        Self {
            label: t.label.as_str().to_owned(),
            kind: t.kind,
            phase: t.phase.clone(),
            event: t.event,
            frame_id: t.frame_id,
            t_ns: t.t_ns,
            fired_ns: t.fired_ns,
            event_start_ns: t.event_start_ns,
            event_end_ns: t.event_end_ns,
            t_start_ns: t.t_start_ns,
            t_end_ns: t.t_end_ns,
            score: t.score,
            reason: t.reason.clone(),
            observations_used: t.observations_used,
            signals: t.signals.clone(),
            objects: t.objects.iter().cloned().map(Object::from).collect(),
            clip: t.clip,
            metadata: metadata.into(),
        }
    }
}

impl TryFrom<Trigger> for visualpath_core::Trigger {
    type Error = ConvertError;

    fn try_from(t: Trigger) -> Result<Self, ConvertError> {
        let mut metadata = t.metadata.into_map();
        let best_ns = metadata.get(BEST).and_then(serde_json::Value::as_i64);
        if best_ns.is_some() {
            metadata.remove(BEST);
        }
        Ok(Self {
            label: named("label", &t.label)?,
            kind: t.kind,
            phase: t.phase,
            event: t.event,
            frame_id: t.frame_id,
            t_ns: t.t_ns,
            fired_ns: t.fired_ns,
            event_start_ns: t.event_start_ns,
            event_end_ns: t.event_end_ns,
            best_ns,
            t_start_ns: t.t_start_ns,
            t_end_ns: t.t_end_ns,
            score: t.score,
            reason: t.reason,
            observations_used: t.observations_used,
            signals: t.signals,
            objects: t.objects.into_iter().map(Into::into).collect(),
            clip: t.clip,
            metadata,
        })
    }
}

impl From<&FusionResult> for FusionAnswer {
    fn from(r: &FusionResult) -> Self {
        let state = |(label, on): &(Name, bool)| State {
            label: label.as_str().to_owned(),
            on: *on,
        };
        Self {
            triggers: r.triggers.iter().map(Trigger::from).collect(),
            score: r.score,
            reason: r.reason.clone(),
            observations_used: r.observations_used,
            metadata: r.metadata.clone().into(),
            states: Some(States(r.states.iter().map(state).collect())),
        }
    }
}

impl TryFrom<FusionAnswer> for FusionResult {
    type Error = ConvertError;

    fn try_from(r: FusionAnswer) -> Result<Self, ConvertError> {
        let States(states) = r.states.unwrap_or_default();
        Ok(Self {
            triggers: r
                .triggers
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            score: r.score,
            reason: r.reason,
            observations_used: r.observations_used,
            metadata: r.metadata.into_map(),
            states: states
                .into_iter()
                .map(|s| Ok((named("states", &s.label)?, s.on)))
                .collect::<Result<_, ConvertError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use visualpath_core::{Phase, Signals, TriggerKind};

    use super::*;

    fn trigger(best_ns: Option<i64>, metadata: &Value) -> visualpath_core::Trigger {
        visualpath_core::Trigger {
            label: Name::new("visitor").unwrap(),
            kind: TriggerKind::Point,
            phase: Phase::Point,
            event: 1,
            frame_id: 1,
            t_ns: 10,
            fired_ns: 30,
            event_start_ns: 10,
            event_end_ns: 30,
            best_ns,
            t_start_ns: 0,
            t_end_ns: 40,
            score: 0.5,
            reason: "test".to_owned(),
            observations_used: 1,
            signals: Signals::new(),
            objects: Vec::new(),
            clip: true,
            metadata: metadata.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn the_best_frame_goes_over_the_wire_in_the_metadata_and_nowhere_else() {
        for best_ns in [None, Some(20), Some(i64::MIN)] {
            let here = trigger(best_ns, &json!({"note": 1}));
            let there = Trigger::from(&here);
            let metadata = Value::Object(there.metadata.clone().into_map());
            assert_eq!(metadata.get("best_ns").and_then(Value::as_i64), best_ns);
            assert_eq!(visualpath_core::Trigger::try_from(there).unwrap(), here);
        }
        // Not a time: it stays what it is.
        let here = trigger(None, &json!({"best_ns": "soon"}));
        let back = visualpath_core::Trigger::try_from(Trigger::from(&here)).unwrap();
        assert_eq!(back, here);
    }
}
