//! What the types alone do not say: every number finite, every name and list within its bound.
//! Runs before a message is written and after one is read.

use visualpath_core::Signals;

use crate::bounds::*;
use crate::json_object::JsonObject;
use crate::lists::{ByExtractor, Extractors, Masks, ModelDirs};
use crate::message::*;

/// What is wrong, and where in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An infinity or no number.
    #[error("{at} is not a finite number")]
    NotFinite {
        /// The field, e.g. `items.signals`.
        at: String,
    },
    /// Too many elements.
    #[error("{at} has {came} elements; at most {most} are allowed")]
    TooMany {
        /// The field.
        at: String,
        /// How many there are.
        came: usize,
        /// How many there may be.
        most: usize,
    },
    /// A text too long.
    #[error("{at} has {came} bytes; at most {most} are allowed")]
    TooLong {
        /// The field.
        at: String,
        /// How long it is.
        came: usize,
        /// How long it may be.
        most: usize,
    },
    /// JSON too deep.
    #[error("{at} is nested deeper than {most}")]
    TooDeep {
        /// The field.
        at: String,
        /// How deep it may be.
        most: usize,
    },
}

impl Broken {
    fn within(mut self, outer: &str) -> Self {
        let (Self::NotFinite { at }
        | Self::TooMany { at, .. }
        | Self::TooLong { at, .. }
        | Self::TooDeep { at, .. }) = &mut self;
        at.insert(0, '.');
        at.insert_str(0, outer);
        self
    }
}

type Checked = Result<(), Broken>;

/// What is counted over a whole message.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Tally {
    json_parts: usize,
}

impl Tally {
    fn json(&mut self, at: &str, object: &JsonObject) -> Checked {
        let shape = object.shape();
        if shape.depth > MAX_OBJECT_DEPTH {
            return Err(Broken::TooDeep {
                at: at.to_owned(),
                most: MAX_OBJECT_DEPTH,
            });
        }
        self.json_parts = self.json_parts.saturating_add(shape.parts);
        count(at, self.json_parts, MAX_JSON_PARTS)
    }

    /// A whole JSON message.
    pub(crate) fn whole(shape: Shape) -> Checked {
        if shape.depth > MAX_JSON_DEPTH {
            return Err(Broken::TooDeep {
                at: "the message".to_owned(),
                most: MAX_JSON_DEPTH,
            });
        }
        count("the message", shape.parts, MAX_JSON_PARTS)
    }
}

#[doc(hidden)]
pub trait Check {
    /// # Errors
    /// The first thing that is wrong.
    fn check(&self, tally: &mut Tally) -> Checked;
}

fn count(at: &str, came: usize, most: usize) -> Checked {
    if came <= most {
        return Ok(());
    }
    let at = at.to_owned();
    Err(Broken::TooMany { at, came, most })
}

fn length(at: &str, text: &str, most: usize) -> Checked {
    if text.len() <= most {
        return Ok(());
    }
    Err(Broken::TooLong {
        at: at.to_owned(),
        came: text.len(),
        most,
    })
}

fn name(at: &str, text: &str) -> Checked {
    length(at, text, MAX_NAME_BYTES)
}

fn text(at: &str, text: &str) -> Checked {
    length(at, text, MAX_TEXT_BYTES)
}

fn names(at: &str, list: &[String], most: usize) -> Checked {
    count(at, list.len(), most)?;
    list.iter().try_for_each(|n| name(at, n))
}

fn finite<'a>(at: &str, numbers: impl IntoIterator<Item = &'a f64>) -> Checked {
    if numbers.into_iter().all(|n| n.is_finite()) {
        return Ok(());
    }
    Err(Broken::NotFinite { at: at.to_owned() })
}

fn each<T: Check>(at: &str, list: &[T], most: usize, tally: &mut Tally) -> Checked {
    count(at, list.len(), most)?;
    list.iter()
        .try_for_each(|element| element.check(tally).map_err(|b| b.within(at)))
}

fn signals(at: &str, signals: &Signals) -> Checked {
    count(at, signals.len(), MAX_SIGNALS)?;
    signals.iter().try_for_each(|(n, value)| {
        name(at, n)?;
        finite(at, [&value]).map_err(|_| Broken::NotFinite {
            at: format!("{at}.{n}"),
        })
    })
}

impl<T: Check> Check for Box<T> {
    fn check(&self, tally: &mut Tally) -> Checked {
        (**self).check(tally)
    }
}

impl Check for Nothing {
    fn check(&self, _: &mut Tally) -> Checked {
        Ok(())
    }
}

impl Check for ChildHello {
    fn check(&self, _: &mut Tally) -> Checked {
        name("token", &self.token)?;
        name("name", &self.name)?;
        name("version", &self.version)?;
        count("protocols", self.protocols.len(), MAX_OFFERS)?;
        names("codecs", &self.codecs, MAX_OFFERS)?;
        names("signals", &self.signals, MAX_SIGNALS)
    }
}

impl Check for Progress {
    fn check(&self, _: &mut Tally) -> Checked {
        finite("percent", [&self.percent])?;
        text("text", &self.text)
    }
}

impl Check for Ready {
    fn check(&self, tally: &mut Tally) -> Checked {
        if let Some(signals) = &self.signals {
            names("signals", &signals.0, MAX_SIGNALS)?;
        }
        if let Some(models) = &self.models {
            each("models", &models.0, MAX_MODELS, tally)?;
        }
        Ok(())
    }
}

impl Check for Model {
    fn check(&self, _: &mut Tally) -> Checked {
        name("name", &self.name)?;
        name("version", &self.version)?;
        name("sha256", &self.sha256)?;
        name("runtime", &self.runtime)
    }
}

impl Check for Pong {
    fn check(&self, _: &mut Tally) -> Checked {
        name("extractor", &self.extractor)
    }
}

impl Check for Observations {
    fn check(&self, tally: &mut Tally) -> Checked {
        each("items", &self.items, MAX_OBSERVATIONS, tally)
    }
}

impl Check for Observation {
    fn check(&self, tally: &mut Tally) -> Checked {
        name("extractor", &self.extractor)?;
        signals("signals", &self.signals)?;
        tally.json("data", &self.data)?;
        tally.json("metadata", &self.metadata)?;
        finite("confidence", &self.confidence)
    }
}

impl Check for ErrorReport {
    fn check(&self, _: &mut Tally) -> Checked {
        text("error", &self.error)?;
        text("traceback", self.traceback.as_deref().unwrap_or_default())
    }
}

impl Check for FusionAnswer {
    fn check(&self, tally: &mut Tally) -> Checked {
        each("triggers", &self.triggers, MAX_TRIGGERS, tally)?;
        finite("score", [&self.score])?;
        text("reason", &self.reason)?;
        tally.json("metadata", &self.metadata)?;
        if let Some(states) = &self.states {
            each("states", &states.0, MAX_TRIGGERS, tally)?;
        }
        Ok(())
    }
}

impl Check for State {
    fn check(&self, _: &mut Tally) -> Checked {
        name("label", &self.label)
    }
}

impl Check for Trigger {
    fn check(&self, tally: &mut Tally) -> Checked {
        name("label", &self.label)?;
        finite("score", [&self.score])?;
        text("reason", &self.reason)?;
        signals("signals", &self.signals)?;
        each("objects", &self.objects, MAX_OBJECTS, tally)?;
        tally.json("metadata", &self.metadata)
    }
}

impl Check for Object {
    fn check(&self, _: &mut Tally) -> Checked {
        name("label", &self.label)?;
        finite("score", [&self.score])?;
        finite("bbox", &self.bbox)?;
        finite("area", [&self.area])?;
        names("zones", &self.zones, MAX_ZONES)?;
        count("keypoints", self.keypoints.len(), MAX_KEYPOINTS)?;
        finite("keypoints", self.keypoints.as_flattened())
    }
}

impl Check for TraceRecord {
    fn check(&self, tally: &mut Tally) -> Checked {
        tally.json("record", &self.record)
    }
}

impl Check for Log {
    fn check(&self, _: &mut Tally) -> Checked {
        text("msg", &self.msg)
    }
}

impl Check for ParentHello {
    fn check(&self, tally: &mut Tally) -> Checked {
        name("codec", &self.codec)?;
        tally.json("config", &self.config)?;
        each("zones", &self.zones, MAX_ZONES, tally)?;
        count("pools", self.pools.len(), MAX_POOLS)?;
        name("name", self.name.as_deref().unwrap_or_default())?;
        if let Some(ModelDirs(dirs)) = &self.model_dirs {
            count("model_dirs", dirs.len(), MAX_MODELS)?;
            dirs.iter().try_for_each(|dir| text("model_dirs", dir))?;
        }
        if let Some(Extractors(extractors)) = &self.extractors {
            each("extractors", extractors, MAX_EXTRACTORS, tally)?;
        }
        if let Some(Masks(masks)) = &self.masks {
            each("masks", masks, MAX_ZONES, tally)?;
        }
        Ok(())
    }
}

impl Check for ExtractorSignals {
    fn check(&self, _: &mut Tally) -> Checked {
        name("name", &self.name)?;
        names("signals", &self.signals, MAX_SIGNALS)?;
        names("zones", &self.zones, MAX_ZONES)
    }
}

impl Check for Zone {
    fn check(&self, _: &mut Tally) -> Checked {
        name("name", &self.name)?;
        count("polygon", self.polygon.len(), MAX_CORNERS)?;
        finite("polygon", self.polygon.as_flattened())
    }
}

impl Check for Mask {
    fn check(&self, _: &mut Tally) -> Checked {
        name("name", &self.name)?;
        count("polygon", self.polygon.len(), MAX_CORNERS)?;
        finite("polygon", self.polygon.as_flattened())
    }
}

impl Check for Pool {
    fn check(&self, _: &mut Tally) -> Checked {
        Ok(())
    }
}

impl Check for Extract {
    fn check(&self, tally: &mut Tally) -> Checked {
        finite("frame.roi", &self.frame.roi)?;
        each("deps", &self.deps, MAX_OBSERVATIONS, tally)
    }
}

impl Check for Fuse {
    fn check(&self, tally: &mut Tally) -> Checked {
        let ByExtractor(observations) = &self.observations;
        count("observations", observations.len(), MAX_EXTRACTORS)?;
        for (extractor, of_one) in observations {
            name("observations", extractor)?;
            each("observations", of_one, MAX_OBSERVATIONS, tally)?;
        }
        names("missing", &self.missing, MAX_EXTRACTORS)?;
        name("source", self.source.as_deref().unwrap_or_default())
    }
}

impl Check for Gap {
    fn check(&self, _: &mut Tally) -> Checked {
        Ok(())
    }
}

impl Check for End {
    fn check(&self, _: &mut Tally) -> Checked {
        Ok(())
    }
}
