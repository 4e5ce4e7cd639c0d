//! Reads everything a config is made of and lays it together.
//!
//! From below: the file, `conf.d/*.toml` beside it in name order, `VISUALPATH__…` variables, the
//! command line. A later layer wins per key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::conform::takes_text;
use super::diagnostic::Diagnostic;
use super::machine::Machine;
use super::schema::{property, resolve, schema};
use super::tree::{self, Entry, Node, Origin, Step, Value, path_text};

/// Largest file read.
const MAX_BYTES: u64 = 1 << 20;
/// Most files in `conf.d`.
const MAX_FILES: usize = 256;
/// Most parts of an override's name.
const MAX_PARTS: usize = 16;

/// Variables that override keys begin so.
pub const OVERRIDE_PREFIX: &str = "VISUALPATH__";

/// What to load, and the outside it depends on.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The file.
    pub path: PathBuf,
    /// Environment, for overrides and `${VAR}`.
    pub env: BTreeMap<String, String>,
    /// Variables left out of `env` because they are not UTF-8.
    pub not_utf8: Vec<String>,
    /// `--source URI`: replaces the source's `uri`, or adds a source `cam0`.
    pub source_uri: Option<String>,
    /// For the default device id.
    pub machine: Machine,
}

impl LoadOptions {
    /// With the environment of this process, on this machine.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let mut env = BTreeMap::new();
        let mut not_utf8 = Vec::new();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => {
                    env.insert(name, value);
                }
                (Ok(name), Err(_)) => not_utf8.push(name),
                // No key and no `${…}` can mean a name that is no text.
                (Err(_), _) => {}
            }
        }
        Self {
            path: path.into(),
            env,
            not_utf8,
            source_uri: None,
            machine: Machine::this(),
        }
    }
}

/// All layers as one tree.
#[derive(Debug)]
pub struct Layers {
    /// Merged.
    pub root: Node,
    /// The files read, in order.
    pub files: Vec<PathBuf>,
}

/// Reads and merges; `with_conf_d` is false for a saved config, which is whole by itself.
/// Unreadable or malformed files are errors that leave nothing to check.
pub fn read(options: &LoadOptions, with_conf_d: bool) -> Result<Layers, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut files = vec![options.path.clone()];
    if with_conf_d {
        match conf_d(&options.path) {
            Ok(more) => files.extend(more),
            Err(fault) => faults.push(fault),
        }
    }
    let mut root: Option<Node> = None;
    for file in &files {
        let name = file.display().to_string();
        match read_file(file).and_then(|text| {
            tree::parse(&name, &text)
                .map_err(|e| Diagnostic::error(&e.origin, "", format!("not TOML: {}", e.message)))
        }) {
            Ok(node) => match &mut root {
                Some(root) => root.merge(node),
                None => root = Some(node),
            },
            Err(fault) => faults.push(fault),
        }
    }
    match root {
        Some(root) if faults.is_empty() => Ok(Layers { root, files }),
        _ => Err(faults),
    }
}

/// The files of `conf.d` beside `path`, in name order.
pub fn conf_d(path: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    let dir = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let fault = |message: String| {
        let origin = Origin::Argument(dir.display().to_string().into());
        Diagnostic::error(&origin, "", message)
    };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fault(format!("can't be listed: {e}"))),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fault(format!("can't be listed: {e}")))?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".") || !name.ends_with(b".toml") {
            continue;
        }
        files.push(entry.path());
        if files.len() > MAX_FILES {
            return Err(fault(format!("holds more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// The text of one file.
pub fn read_file(path: &Path) -> Result<String, Diagnostic> {
    let name = path.display().to_string();
    let fault =
        |message: String| Diagnostic::error(&Origin::Argument(name.as_str().into()), "", message);
    let unreadable = |e: std::io::Error| fault(format!("can't be read: {e}"));
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fault(format!("is larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        let origin = Origin::File {
            file: name.as_str().into(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        };
        Diagnostic::error(&origin, "", "not TOML: a byte that is not UTF-8")
    })
}

/// Applies `VISUALPATH__…` variables.
pub fn apply_env(root: &mut Node, options: &LoadOptions, out: &mut Vec<Diagnostic>) {
    for name in &options.not_utf8 {
        if name.starts_with(OVERRIDE_PREFIX) {
            let origin = Origin::Env(name.as_str().into());
            out.push(Diagnostic::error(&origin, "", "its value is not UTF-8"));
        }
    }
    for (name, value) in &options.env {
        let Some(parts) = name.strip_prefix(OVERRIDE_PREFIX) else {
            continue;
        };
        let origin = Origin::Env(name.as_str().into());
        let parts: Vec<&str> = parts.split("__").collect();
        if parts.iter().any(|p| p.is_empty()) || parts.len() > MAX_PARTS {
            let message = "expected the parts of a key between `__`, e.g. VISUALPATH__MQTT__URL";
            out.push(Diagnostic::error(&origin, "", message));
            continue;
        }
        let (steps, schema) = match_steps(root, &parts);
        let node = override_value(value, schema, &origin);
        if let Err(message) = put(root, &steps, node, &origin) {
            out.push(Diagnostic::error(&origin, path_text(&steps), message));
        }
    }
}

/// Applies `--source URI`.
pub fn apply_source(root: &mut Node, uri: &str, out: &mut Vec<Diagnostic>) {
    let origin = Origin::Argument("--source".into());
    let names = super::conform::names(root, "source");
    let name = match names.as_slice() {
        [] => "cam0".to_owned(),
        [only] => (*only).to_owned(),
        many => {
            let message = format!("the config has several sources ({})", many.join(", "));
            let found = Diagnostic::error(&origin, "", message)
                .hint("set one by VISUALPATH__SOURCE__<NAME>__URI");
            out.push(found);
            return;
        }
    };
    let steps = ["source".to_owned(), name, "uri".to_owned()].map(Step::Key);
    if let Err(message) = put(root, &steps, Node::string(uri, origin.clone()), &origin) {
        out.push(Diagnostic::error(&origin, path_text(&steps), message));
    }
}

/// The keys meant by upper-case parts: one that is there, else one the schema knows, else the
/// lower-case part. Also the schema of the value.
fn match_steps(root: &Node, parts: &[&str]) -> (Vec<Step>, Option<&'static serde_json::Value>) {
    let mut steps = Vec::new();
    let mut at = Some(root);
    let mut known = Some(schema());
    for part in parts {
        if let Some(Value::Array(items)) = at.map(|n| &n.value)
            && let Ok(index) = part.parse::<usize>()
        {
            at = items.get(index);
            known = known.and_then(|s| resolve(s).get("items"));
            steps.push(Step::Index(index));
            continue;
        }
        let table = at.and_then(Node::as_table);
        let there = table.and_then(|t| t.keys().find(|k| k.eq_ignore_ascii_case(part)));
        let in_schema = known
            .and_then(|s| resolve(s).get("properties"))
            .and_then(|p| p.as_object())
            .and_then(|p| p.keys().find(|k| k.eq_ignore_ascii_case(part)));
        let key = there
            .or(in_schema)
            .cloned()
            .unwrap_or_else(|| part.to_ascii_lowercase());
        let plugin = table
            .and_then(|t| t.get("plugin"))
            .and_then(|e| e.node.as_str());
        known = known.and_then(|s| {
            property(s, &key, plugin).or_else(|| resolve(s).get("additionalProperties"))
        });
        at = at.and_then(|n| n.get(&key));
        steps.push(Step::Key(key));
    }
    (steps, known)
}

/// TOML if it parses as one value, else text; where the key takes text, `30` is text too.
fn override_value(
    value: &str,
    schema: Option<&'static serde_json::Value>,
    origin: &Origin,
) -> Node {
    let text = || Node::string(value, origin.clone());
    let Ok(document) = tree::parse("", &format!("v = {value}")) else {
        return text();
    };
    let Value::Table(mut table) = document.value else {
        return text();
    };
    let Some(entry) = table.remove("v").filter(|_| table.is_empty()) else {
        return text();
    };
    let mut node = entry.node;
    let plain = !matches!(
        node.value,
        Value::String { .. } | Value::Array(_) | Value::Table(_)
    );
    if plain && schema.is_some_and(takes_text) {
        return text();
    }
    set_origin(&mut node, origin);
    node
}

fn set_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_origin(item, origin)),
        Value::Table(table) => table.values_mut().for_each(|entry| {
            entry.key = origin.clone();
            set_origin(&mut entry.node, origin);
        }),
        _ => {}
    }
}

/// Puts `node` at `steps`, making the tables on the way.
fn put(root: &mut Node, steps: &[Step], node: Node, origin: &Origin) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        root.merge(node);
        return Ok(());
    };
    let what = root.describe();
    match (step, &mut root.value) {
        (Step::Key(key), Value::Table(table)) => {
            let entry = table.entry(key.clone()).or_insert_with(|| Entry {
                key: origin.clone(),
                node: Node::table(origin.clone()),
            });
            put(&mut entry.node, rest, node, origin)
        }
        (Step::Index(index), Value::Array(items)) => {
            let len = items.len();
            let item = items.get_mut(*index).ok_or_else(|| {
                format!("there is no item {index}: the list has {len}, counted from 0")
            })?;
            put(item, rest, node, origin)
        }
        (Step::Key(key), _) => Err(format!("expected a table to set `{key}` in, got {what}")),
        (Step::Index(index), _) => Err(format!(
            "expected a list to set item {index} of, got {what}"
        )),
    }
}

/// The default config: `./visualpath.toml`, else `/etc/visualpath/visualpath.toml`.
pub fn find_default() -> Option<PathBuf> {
    ["visualpath.toml", "/etc/visualpath/visualpath.toml"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}
