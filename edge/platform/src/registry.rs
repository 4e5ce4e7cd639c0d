//! The plugins this process knows, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use visualpath_core::{ExtractorPlugin, nearest};

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
    #[error("two extractor plugins are called `{name}`: one {first}, one {second}")]
    Duplicate {
        /// The name.
        name: String,
        /// The earlier one's origin.
        first: Origin,
        /// The later one's origin.
        second: Origin,
    },
    /// No such plugin.
    #[error("no plugin is called `{name}`{}; known: {}", hint(.near), .known.join(", "))]
    Unknown {
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

/// Extractor plugins by name.
#[derive(Clone, Default)]
pub struct Registry {
    extractors: BTreeMap<String, (Origin, Arc<dyn ExtractorPlugin>)>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a plugin under its own name.
    pub fn register_extractor(
        &mut self,
        origin: Origin,
        plugin: Arc<dyn ExtractorPlugin>,
    ) -> Result<(), RegistryError> {
        let name = plugin.name().to_owned();
        if let Some((first, _)) = self.extractors.get(&name) {
            return Err(RegistryError::Duplicate {
                name,
                first: first.clone(),
                second: origin,
            });
        }
        self.extractors.insert(name, (origin, plugin));
        Ok(())
    }

    /// The plugin called `name`.
    pub fn extractor(&self, name: &str) -> Result<&Arc<dyn ExtractorPlugin>, RegistryError> {
        self.extractors
            .get(name)
            .map(|(_, p)| p)
            .ok_or_else(|| RegistryError::Unknown {
                name: name.to_owned(),
                near: nearest(name, self.extractors.keys().map(String::as_str))
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                known: self.extractors.keys().cloned().collect(),
            })
    }

    /// Every plugin with its origin, in the order of names.
    pub fn extractors(&self) -> impl Iterator<Item = (&Origin, &Arc<dyn ExtractorPlugin>)> {
        self.extractors.values().map(|(o, p)| (o, p))
    }
}
