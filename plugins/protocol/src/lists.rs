//! Lists and maps of messages, each with its bound.
//!
//! Types of their own where the whole list may be absent: serde takes an absent field for `None`
//! only where no function of ours reads it.

use serde::{Deserialize, Serialize};
use visualpath_core::Signals;

use crate::bounds::{self, *};
use crate::message::{ExtractorSignals, Mask, Model, Observation, State};

/// Names of signals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SignalNames(
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_SIGNALS>")] pub Vec<String>,
);

/// Models in use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Models(#[serde(deserialize_with = "bounds::list::<_, _, MAX_MODELS>")] pub Vec<Model>);

/// Labels that went ON or OFF.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct States(#[serde(deserialize_with = "bounds::list::<_, _, MAX_TRIGGERS>")] pub Vec<State>);

/// Directories, first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelDirs(
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_MODELS>")] pub Vec<String>,
);

/// Extractors of a path, in the config's order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extractors(
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_EXTRACTORS>")] pub Vec<ExtractorSignals>,
);

/// Masks of a source.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Masks(#[serde(deserialize_with = "bounds::list::<_, _, MAX_ZONES>")] pub Vec<Mask>);

/// Observations by extractor: a JSON object whose order is that of the config.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ByExtractor(pub Vec<(String, Vec<Observation>)>);

/// The list of one extractor.
#[derive(Deserialize)]
struct OfOne(
    #[serde(deserialize_with = "bounds::list::<_, _, MAX_OBSERVATIONS>")] Vec<Observation>,
);

impl Serialize for ByExtractor {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            self.0
                .iter()
                .map(|(name, observations)| (name, observations)),
        )
    }
}

impl<'de> Deserialize<'de> for ByExtractor {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let entries = bounds::entries::<D, OfOne, MAX_EXTRACTORS>(from)?;
        Ok(Self(
            entries
                .into_iter()
                .map(|(name, of_one)| (name, of_one.0))
                .collect(),
        ))
    }
}

pub(crate) fn signals<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Signals, D::Error> {
    let entries = bounds::entries::<D, f64, MAX_SIGNALS>(from)?;
    Ok(entries.into_iter().collect())
}
