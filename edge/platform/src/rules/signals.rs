//! What expressions see: one map per extractor of the path, signal name → double.
//!
//! The hard idea: nothing is built per frame. Each extractor has one [`HeldMap`] for the life of
//! the fusion; a frame that brings a new held outcome refills its vector in place (no allocation
//! once it has grown), any other frame costs one pointer comparison. CEL is handed references into
//! these maps through a [`VariableResolver`], for all rules of the frame alike.

use std::any::Any;
use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelDouble, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;
use visualpath_core::{ExtractorSignals, Held, Name};

/// The held signals of one extractor.
#[derive(Debug, Clone)]
pub(super) struct HeldMap {
    pub extractor: Name,
    held: Option<Arc<Held>>,
    /// Sorted by name, as [`visualpath_core::Signals`] is.
    values: Vec<(Arc<str>, CelDouble)>,
}

impl HeldMap {
    pub fn new(extractor: Name) -> Self {
        Self {
            extractor,
            held: None,
            values: Vec::new(),
        }
    }

    /// A map in which every one of `names` is `value`, for trying expressions out.
    pub fn dummy(extractor: Name, mut names: Vec<Arc<str>>, value: f64) -> Self {
        names.sort();
        names.dedup();
        Self {
            extractor,
            held: None,
            values: names.into_iter().map(|n| (n, value.into())).collect(),
        }
    }

    /// Takes what the extractor holds at this frame; whether that is something else than before.
    pub fn refill(&mut self, held: Option<&Arc<Held>>) -> bool {
        let same = match (held, &self.held) {
            (Some(held), Some(before)) => Arc::ptr_eq(held, before),
            (None, None) => true,
            _ => false,
        };
        if same {
            return false;
        }
        match held {
            Some(held) => {
                self.values.clear();
                self.values.extend(
                    held.signals
                        .iter()
                        .map(|(name, value)| (Arc::clone(name), value.into())),
                );
                self.held = Some(Arc::clone(held));
            }
            None => self.clear(),
        }
        true
    }

    pub fn clear(&mut self) {
        self.held = None;
        self.values.clear();
    }

    pub fn held(&self) -> Option<&Held> {
        self.held.as_deref()
    }

    pub fn get_signal(&self, signal: &str) -> Option<&CelDouble> {
        let at = self.values.binary_search_by(|(n, _)| (**n).cmp(signal));
        at.ok().map(|i| &self.values[i].1)
    }
}

impl Val for HeldMap {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for HeldMap {}

impl Container for HeldMap {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(key
            .downcast_ref::<CelString>()
            .is_some_and(|k| self.get_signal(k.inner()).is_some()))
    }
}

impl Indexer for HeldMap {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = key
            .downcast_ref::<CelString>()
            .ok_or_else(|| ExecutionError::UnexpectedType {
                got: key.get_type().name().to_owned(),
                want: "string".to_owned(),
            })?
            .inner();
        match self.get_signal(key) {
            Some(value) => Ok(CowVal::Borrowed(value)),
            None => Err(ExecutionError::no_such_key(key)),
        }
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

/// All maps of a fusion, as CEL's variables.
#[derive(Debug)]
pub(super) struct HeldMaps(pub Vec<HeldMap>);

impl HeldMaps {
    /// Empty maps of these extractors.
    pub fn new(extractors: &[ExtractorSignals]) -> Self {
        Self(
            extractors
                .iter()
                .map(|e| HeldMap::new(e.name.clone()))
                .collect(),
        )
    }

    /// Observations held by these extractors.
    pub fn observations(&self, extractors: &[usize]) -> u32 {
        let held = extractors.iter().filter_map(|i| self.0[*i].held());
        held.fold(0, |sum, held| {
            sum.saturating_add(u32::try_from(held.observations.len()).unwrap_or(u32::MAX))
        })
    }
}

impl VariableResolver for HeldMaps {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.0
            .iter()
            .find(|map| map.extractor == *variable)
            .map(|map| CowVal::Borrowed(map as &dyn Val))
    }
}
