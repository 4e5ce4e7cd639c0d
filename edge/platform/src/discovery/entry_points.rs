//! Python entry points: `name = package.module:Class` under a group.
//!
//! Format: Python packaging user guide, "Entry points specification". Read as text; nothing is
//! imported.

use std::path::{Path, PathBuf};

use crate::discovery::{Discovered, DiscoveryError, External, Kind, Launch};
use crate::registry::Origin;
use crate::worker::Isolation;

/// Groups that hold plugins.
const GROUPS: [(&str, Kind); 2] = [
    ("visualpath.extractors", Kind::Extractor),
    ("visualpath.fusions", Kind::Fusion),
];
/// Longest name or value.
const MAX_TEXT: usize = 256;

/// A line of `entry_points.txt` in one of our groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    /// Of its group.
    pub kind: Kind,
    /// Left of `=`.
    pub name: String,
    /// Right of `=`.
    pub value: String,
}

/// The kind of plugins of a group, if it is one of ours.
pub fn kind_of(group: &str) -> Option<Kind> {
    GROUPS
        .iter()
        .find(|(name, _)| *name == group)
        .map(|(_, kind)| *kind)
}

/// Our entry points of an `entry_points.txt`. What is wrong in other groups does not matter here;
/// what is wrong with the file's form makes all of it doubtful.
pub fn parse(text: &str) -> Result<Vec<EntryPoint>, String> {
    let mut found = Vec::new();
    // `None` before the first group.
    let mut group: Option<Option<Kind>> = None;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name
                .strip_suffix(']')
                .ok_or_else(|| format!("line {number}: a group without `]`"))?;
            group = Some(kind_of(name.trim()));
            continue;
        }
        let kind = group.ok_or_else(|| format!("line {number}: an entry before any [group]"))?;
        let Some(kind) = kind else { continue };
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {number}: expected `name = module:Class`"))?;
        found.push(EntryPoint {
            kind,
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
        });
    }
    Ok(found)
}

/// Checks `package.module:Class`; a class of a class is `module:Outer.Inner`.
pub fn object(entry_point: &str) -> Result<(), String> {
    let dotted = |text: &str| text.split('.').all(is_identifier);
    match entry_point.split_once(':') {
        Some((module, object)) if dotted(module) && dotted(object) => Ok(()),
        _ => Err(format!(
            "expected `package.module:Class`, got {entry_point:?}"
        )),
    }
}

/// Python language reference, 2.3: close enough, the interpreter has the last word.
fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    first && chars.all(|c| c.is_alphanumeric() || c == '_')
}

/// Names the specification recommends, which are safe as file names too.
fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= MAX_TEXT
        && text.chars().all(good)
}

/// Adds what one distribution offers. `file` is where it says so.
pub fn add(
    entries: Vec<EntryPoint>,
    version: &str,
    origin: &Origin,
    file: &Path,
    found: &mut Discovered,
) {
    for entry in entries {
        // `[extras]` after the object are of the past and mean nothing here.
        let value = entry.value.split('[').next().unwrap_or_default();
        let value: String = value
            .split(':')
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(":");
        let fault = if !is_name(&entry.name) {
            let expected = "letters, digits, `_`, `-` and `.`";
            Some(format!(
                "{:?} can't be a plugin's name; it has {expected}",
                entry.name
            ))
        } else if value.len() > MAX_TEXT {
            Some(format!("`{}`: longer than {MAX_TEXT} bytes", entry.name))
        } else {
            let wrong = object(&value).err();
            wrong.map(|why| format!("`{}`: {why}", entry.name))
        };
        if let Some(message) = fault {
            let path = file.to_owned();
            let error = DiscoveryError::Distribution { path, message };
            found.problem(Some(entry.name), error);
            continue;
        }
        found.externals.push(External {
            name: entry.name,
            version: version.to_owned(),
            kind: entry.kind,
            origin: origin.clone(),
            launch: Launch::Python { entry_point: value },
            input: None,
            signals: Vec::new(),
            isolation: match origin {
                Origin::Venv(_) => Isolation::Venv,
                _ => Isolation::Process,
            },
            dir: None,
        });
    }
}

/// A distribution's name as all its spellings have it (packaging user guide, "Name normalization").
pub fn normalized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

/// A warning about one distribution.
pub fn broken(file: PathBuf, message: String, found: &mut Discovered) {
    let error = DiscoveryError::Distribution {
        path: file,
        message,
    };
    found.problem(None, error);
}
