//! The plugins this process knows, by name: those linked in, and those discovery found.
//!
//! A name means one plugin. Linked plugins, executables and folders have one name space; each venv
//! has its own for what is installed in it, because the same plugin may be in several. What two
//! plugins claim is refused to whoever asks for it, and only to them: a folder that was dropped into
//! a plugin directory must not stop an appliance that does not use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use visualpath_core::{ExtractorPlugin, FusionPlugin, nearest};

use crate::discovery::{Discovered, External, Kind, Launch, Problem, resolved};

/// Where a plugin came from; named when two have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Linked into this binary.
    BuiltIn,
    /// Registered by the app that uses the library.
    App,
    /// The `plugin.toml` of a plugin folder.
    Manifest(PathBuf),
    /// An entry point of a package in this venv.
    Venv(PathBuf),
    /// An entry point of a package of this interpreter.
    Interpreter(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::App => f.write_str("registered by the app"),
            Self::Manifest(file) => write!(f, "from {}", file.display()),
            Self::Venv(venv) => write!(f, "in the venv {}", venv.display()),
            Self::Interpreter(python) => write!(f, "of {}", python.display()),
        }
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
    /// No such plugin in the venv that was asked for.
    #[error(
        "no {kind} plugin is called `{name}` in the venv {}{}; there: {}",
        venv.display(), hint(.near), list(.known)
    )]
    NotInVenv {
        /// `extractor` or `fusion`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The venv.
        venv: PathBuf,
        /// The nearest names in it.
        near: Vec<String>,
        /// All names in it.
        known: Vec<String>,
    },
    /// It is in several venvs, and none was asked for.
    #[error(
        "the {kind} plugin `{name}` is in several venvs: {}; say which with `venv = \"…\"`",
        paths(.venvs)
    )]
    SeveralVenvs {
        /// `extractor` or `fusion`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The venvs.
        venvs: Vec<PathBuf>,
    },
    /// There is such a plugin, but discovery could not read it.
    #[error("the plugin `{name}` can't be used: {why}")]
    Broken {
        /// The name asked for.
        name: String,
        /// What discovery said.
        why: String,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    paths.join(", ")
}

/// A plugin that was asked for: linked in, or to be started.
pub enum Found<P: ?Sized = dyn ExtractorPlugin> {
    /// Linked into this binary, or registered by the app.
    Linked(Arc<P>),
    /// To be started by itself.
    External(Arc<External>),
}

impl<P: ?Sized> Clone for Found<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Linked(plugin) => Self::Linked(Arc::clone(plugin)),
            Self::External(external) => Self::External(Arc::clone(external)),
        }
    }
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
    /// What discovery could not read.
    problems: Vec<Problem>,
}

struct Table<P: ?Sized> {
    kind: Kind,
    plugins: BTreeMap<String, (Origin, Arc<P>)>,
    /// In the order of discovery.
    externals: BTreeMap<String, Vec<Arc<External>>>,
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
                kind: Kind::Fusion.as_str(),
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

    /// Takes what discovery found in place of what an earlier one found. Gives the names that two
    /// plugins claim: each is refused to whoever asks for it, with the same error.
    pub fn set_discovered(&self, discovered: Discovered) -> Vec<RegistryError> {
        let mut tables = self.write();
        tables.extractors.externals.clear();
        tables.fusions.externals.clear();
        tables.problems = discovered.problems;
        for external in discovered.externals {
            match external.kind {
                Kind::Extractor => tables.extractors.add_external(external),
                Kind::Fusion => tables.fusions.add_external(external),
            }
        }
        let mut clashes = tables.extractors.clashes(None);
        clashes.extend(tables.fusions.clashes(Some(RULES)));
        clashes
    }

    /// The extractor plugin called `name`. With `venv`, the one installed there or, if it has a
    /// folder of its own, to be run there. Without, the one there is; only if it is in venvs and
    /// nowhere else, in one venv.
    ///
    /// # Errors
    /// If there is none, if two claim the name, if it is in several venvs, if it is broken.
    pub fn find_extractor(&self, name: &str, venv: Option<&Path>) -> Result<Found, RegistryError> {
        let tables = self.read();
        tables.extractors.find(name, venv, None, &tables.problems)
    }

    /// The fusion plugin called `name`, as [`Registry::find_extractor`]; not `rules`.
    ///
    /// # Errors
    /// The same.
    pub fn find_fusion(
        &self,
        name: &str,
        venv: Option<&Path>,
    ) -> Result<Found<dyn FusionPlugin>, RegistryError> {
        let tables = self.read();
        tables
            .fusions
            .find(name, venv, Some(RULES), &tables.problems)
    }

    /// Every plugin that discovery found, extractors first, in the order of names.
    pub fn externals(&self) -> Vec<Arc<External>> {
        let tables = self.read();
        let extractors = tables.extractors.externals.values();
        let all = extractors.chain(tables.fusions.externals.values());
        all.flatten().cloned().collect()
    }

    /// What discovery could not read.
    pub fn problems(&self) -> Vec<Problem> {
        self.read().problems.clone()
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

impl Default for Table<dyn ExtractorPlugin> {
    fn default() -> Self {
        Self {
            kind: Kind::Extractor,
            plugins: BTreeMap::new(),
            externals: BTreeMap::new(),
        }
    }
}

impl Default for Table<dyn FusionPlugin> {
    fn default() -> Self {
        Self {
            kind: Kind::Fusion,
            plugins: BTreeMap::new(),
            externals: BTreeMap::new(),
        }
    }
}

impl<P: ?Sized> Table<P> {
    fn add(&mut self, name: String, origin: Origin, plugin: Arc<P>) -> Result<(), RegistryError> {
        let linked = self.plugins.get(&name).map(|(first, _)| first);
        let external = || Some(&self.externals.get(&name)?.first()?.origin);
        if let Some(first) = linked.or_else(external) {
            return Err(self.duplicate(&name, first, &origin));
        }
        self.plugins.insert(name, (origin, plugin));
        Ok(())
    }

    fn add_external(&mut self, external: External) {
        let all = self.externals.entry(external.name.clone()).or_default();
        all.push(Arc::new(external));
    }

    fn get(&self, name: &str, beside: Option<&str>) -> Result<Arc<P>, RegistryError> {
        match self.plugins.get(name) {
            Some((_, plugin)) => Ok(Arc::clone(plugin)),
            None => Err(self.unknown(name, self.plugins.keys().map(String::as_str).chain(beside))),
        }
    }

    fn find(
        &self,
        name: &str,
        venv: Option<&Path>,
        beside: Option<&str>,
        problems: &[Problem],
    ) -> Result<Found<P>, RegistryError> {
        if let Some(clash) = self.clash(name, beside) {
            return Err(clash);
        }
        if let Some((_, plugin)) = self.plugins.get(name) {
            return Ok(Found::Linked(Arc::clone(plugin)));
        }
        let here = self.externals.get(name).map_or(&[][..], Vec::as_slice);
        let found = match venv {
            Some(venv) => in_venv(here, venv),
            None => one_of(here).map_err(|venvs| RegistryError::SeveralVenvs {
                kind: self.kind.as_str(),
                name: name.to_owned(),
                venvs,
            })?,
        };
        found
            .map(Found::External)
            .ok_or_else(|| self.none(name, venv, beside, problems))
    }

    /// Why there is none: discovery may know.
    fn none(
        &self,
        name: &str,
        venv: Option<&Path>,
        beside: Option<&str>,
        problems: &[Problem],
    ) -> RegistryError {
        let about = |problem: &&Problem| {
            let venv_of = |of: &PathBuf| venv.is_some_and(|venv| same(of, venv));
            problem.plugin.as_deref() == Some(name) || problem.venv.as_ref().is_some_and(venv_of)
        };
        if let Some(problem) = problems.iter().find(about) {
            return RegistryError::Broken {
                name: name.to_owned(),
                why: problem.error.to_string(),
            };
        }
        let names = self.externals.iter();
        let Some(venv) = venv else {
            let linked = self.plugins.keys().map(String::as_str);
            let known = linked.chain(names.map(|(n, _)| n.as_str())).chain(beside);
            return self.unknown(name, known);
        };
        let known = names
            .filter(|(_, all)| in_venv(all, venv).is_some_and(|e| e.entry_point().is_some()))
            .map(|(name, _)| name.as_str());
        let known: Vec<&str> = known.collect();
        RegistryError::NotInVenv {
            kind: self.kind.as_str(),
            name: name.to_owned(),
            venv: venv.to_owned(),
            near: owned(&nearest(name, known.iter().copied())),
            known: owned(&known),
        }
    }

    fn unknown<'k>(&self, name: &str, known: impl Iterator<Item = &'k str>) -> RegistryError {
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        RegistryError::Unknown {
            kind: self.kind.as_str(),
            name: name.to_owned(),
            near: owned(&nearest(name, known.iter().copied())),
            known: owned(&known),
        }
    }

    fn clashes(&self, beside: Option<&str>) -> Vec<RegistryError> {
        let names = self.externals.keys();
        names.filter_map(|name| self.clash(name, beside)).collect()
    }

    /// The first two plugins that claim one name.
    fn clash(&self, name: &str, beside: Option<&str>) -> Option<RegistryError> {
        let here = self.externals.get(name)?;
        let linked = match self.plugins.get(name) {
            Some((origin, _)) => Some(origin),
            None => (beside == Some(name)).then_some(&Origin::BuiltIn),
        };
        if let (Some(linked), Some(first)) = (linked, here.first()) {
            return Some(self.duplicate(name, linked, &first.origin));
        }
        here.iter().enumerate().find_map(|(n, later)| {
            let earlier = here[..n].iter().find(|earlier| differ(earlier, later))?;
            Some(self.duplicate(name, &earlier.origin, &later.origin))
        })
    }

    fn duplicate(&self, name: &str, first: &Origin, second: &Origin) -> RegistryError {
        RegistryError::Duplicate {
            kind: self.kind.as_str(),
            name: name.to_owned(),
            first: first.clone(),
            second: second.clone(),
        }
    }
}

/// Whether two finds of one name are two plugins. A Python plugin may well be found several times:
/// by its folder, and in each place it is installed.
fn differ(a: &External, b: &External) -> bool {
    let (Launch::Python { entry_point: one }, Launch::Python { entry_point: other }) =
        (&a.launch, &b.launch)
    else {
        return true;
    };
    match (&a.origin, &b.origin) {
        (Origin::Venv(a), Origin::Venv(b)) => same(a, b),
        (Origin::Manifest(_), Origin::Manifest(_))
        | (Origin::Interpreter(_), Origin::Interpreter(_)) => true,
        (Origin::Manifest(_), _) | (_, Origin::Manifest(_)) => one != other,
        _ => false,
    }
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || resolved(a) == resolved(b)
}

fn folder(here: &[Arc<External>]) -> Option<&Arc<External>> {
    let of_folder = |e: &&Arc<External>| matches!(e.origin, Origin::Manifest(_));
    here.iter().find(of_folder)
}

/// The plugin as it is installed in a venv, else its folder, which any Python can be shown. What
/// the folder's manifest says of view and signals holds for both.
fn in_venv(here: &[Arc<External>], venv: &Path) -> Option<Arc<External>> {
    let installed = here
        .iter()
        .find(|e| e.venv().is_some_and(|v| same(v, venv)));
    match (installed, folder(here)) {
        (Some(installed), Some(folder)) => Some(Arc::new(External {
            input: folder.input,
            signals: folder.signals.clone(),
            dir: folder.dir.clone(),
            ..External::clone(installed)
        })),
        (installed, folder) => installed.or(folder).cloned(),
    }
}

/// The plugin where no venv is asked for; the error is the venvs to choose from.
fn one_of(here: &[Arc<External>]) -> Result<Option<Arc<External>>, Vec<PathBuf>> {
    let outside = here.iter().find(|e| e.venv().is_none());
    match (folder(here).or(outside), here) {
        (Some(one), _) | (None, [one]) => Ok(Some(Arc::clone(one))),
        (None, []) => Ok(None),
        (None, several) => Err(several
            .iter()
            .filter_map(|e| e.venv().map(Path::to_owned))
            .collect()),
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
