//! The plugins this process knows, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use visualpath_core::{ExtractorPlugin, FusionPlugin, nearest};

/// Where a plugin came from; named when two have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Linked into this binary.
    BuiltIn,
    /// Registered by the app that uses the library.
    App,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BuiltIn => "built in",
            Self::App => "registered by the app",
        })
    }
}

/// Why the registry refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two plugins with one name.
    #[error("two {kind} plugins are called `{name}`: one {first}, one {second}")]
    Duplicate {
        /// `extractor` or `fusion`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The earlier one's origin.
        first: Origin,
        /// The later one's origin.
        second: Origin,
    },
    /// No such plugin.
    #[error("no {kind} plugin is called `{name}`{}; known: {}", hint(.near), .known.join(", "))]
    Unknown {
        /// `extractor` or `fusion`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The nearest names.
        near: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
}

fn hint(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; did you mean `{}`?", near.join("` or `"))
    }
}

/// Extractor and fusion plugins by name. Clones share one table, so that an app can register
/// plugins while a pipeline runs; the next reload finds them.
#[derive(Clone, Default)]
pub struct Registry {
    tables: Arc<RwLock<Tables>>,
}

#[derive(Default)]
struct Tables {
    extractors: Table<dyn ExtractorPlugin>,
    fusions: Table<dyn FusionPlugin>,
}

struct Table<P: ?Sized> {
    kind: &'static str,
    plugins: BTreeMap<String, (Origin, Arc<P>)>,
}

impl Registry {
    /// An empty registry; `rules` is always known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an extractor plugin under its own name.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn register_extractor(
        &self,
        origin: Origin,
        plugin: Arc<dyn ExtractorPlugin>,
    ) -> Result<(), RegistryError> {
        let name = plugin.name().to_owned();
        self.write().extractors.add(name, origin, plugin)
    }

    /// Adds a fusion plugin under its own name. `rules` is taken.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn register_fusion(
        &self,
        origin: Origin,
        plugin: Arc<dyn FusionPlugin>,
    ) -> Result<(), RegistryError> {
        let name = plugin.name().to_owned();
        if name == RULES {
            return Err(RegistryError::Duplicate {
                kind: FUSION,
                name,
                first: Origin::BuiltIn,
                second: origin,
            });
        }
        self.write().fusions.add(name, origin, plugin)
    }

    /// The extractor plugin called `name`.
    ///
    /// # Errors
    /// If there is none, with the nearest names.
    pub fn extractor(&self, name: &str) -> Result<Arc<dyn ExtractorPlugin>, RegistryError> {
        self.read().extractors.get(name, None)
    }

    /// The fusion plugin called `name`; not `rules`, which the platform makes itself.
    ///
    /// # Errors
    /// If there is none, with the nearest names.
    pub fn fusion(&self, name: &str) -> Result<Arc<dyn FusionPlugin>, RegistryError> {
        self.read().fusions.get(name, Some(RULES))
    }

    /// Every extractor plugin with its origin, in the order of names.
    pub fn extractors(&self) -> Vec<(Origin, Arc<dyn ExtractorPlugin>)> {
        self.read().extractors.plugins.values().cloned().collect()
    }

    /// Every registered fusion plugin with its origin, in the order of names.
    pub fn fusions(&self) -> Vec<(Origin, Arc<dyn FusionPlugin>)> {
        self.read().fusions.plugins.values().cloned().collect()
    }

    // Nothing panics while the lock is held.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fusion that is always there.
const RULES: &str = "rules";
const EXTRACTOR: &str = "extractor";
const FUSION: &str = "fusion";

impl Default for Table<dyn ExtractorPlugin> {
    fn default() -> Self {
        Self {
            kind: EXTRACTOR,
            plugins: BTreeMap::new(),
        }
    }
}

impl Default for Table<dyn FusionPlugin> {
    fn default() -> Self {
        Self {
            kind: FUSION,
            plugins: BTreeMap::new(),
        }
    }
}

impl<P: ?Sized> Table<P> {
    fn add(&mut self, name: String, origin: Origin, plugin: Arc<P>) -> Result<(), RegistryError> {
        if let Some((first, _)) = self.plugins.get(&name) {
            return Err(RegistryError::Duplicate {
                kind: self.kind,
                name,
                first: first.clone(),
                second: origin,
            });
        }
        self.plugins.insert(name, (origin, plugin));
        Ok(())
    }

    fn get(&self, name: &str, beside: Option<&str>) -> Result<Arc<P>, RegistryError> {
        if let Some((_, plugin)) = self.plugins.get(name) {
            return Ok(Arc::clone(plugin));
        }
        let known = || self.plugins.keys().map(String::as_str).chain(beside);
        Err(RegistryError::Unknown {
            kind: self.kind,
            name: name.to_owned(),
            near: nearest(name, known())
                .into_iter()
                .map(str::to_owned)
                .collect(),
            known: known().map(str::to_owned).collect(),
        })
    }
}
