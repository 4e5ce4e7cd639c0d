//! The config as a tree in which every key knows where it was written.
//!
//! TOML files, environment variables and arguments all become such trees and are merged into one:
//! tables merge, anything else replaces. The checks read the merged tree, so a finding can always
//! name its place, even for a key of a plugin's own config.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// Deepest nesting of tables and lists; what walks the tree may recurse.
const MAX_DEPTH: usize = 32;
/// Address space for the parser's stack; only what it uses becomes memory.
const PARSER_STACK_BYTES: usize = 64 << 20;

/// Where a key or value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A place in a file, both from 1, columns in characters.
    File {
        /// As the user named it.
        file: Arc<str>,
        /// Line.
        line: u32,
        /// Column.
        column: u32,
    },
    /// An environment variable.
    Env(Arc<str>),
    /// An argument of the command line.
    Argument(Arc<str>),
    /// Nobody set it.
    Default,
}

impl Origin {
    /// The top of a file.
    pub fn top_of(file: &str) -> Self {
        Self::File {
            file: file.into(),
            line: 1,
            column: 1,
        }
    }

    /// File (or what stands for it), line, column.
    pub fn place(&self) -> (String, Option<u32>, Option<u32>) {
        match self {
            Self::File { file, line, column } => (file.to_string(), Some(*line), Some(*column)),
            other => (other.to_string(), None, None),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Argument(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands (of a table: its header).
    pub origin: Origin,
}

/// A TOML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text; `written` is what stood there when `${…}` was expanded.
    String {
        /// In force.
        text: String,
        /// As written, if different.
        written: Option<String>,
    },
    /// Whole number.
    Integer(i64),
    /// Any number, also `nan` and `inf`.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date or time, as written.
    Datetime(String),
    /// A list.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// Keys of a table.
pub type Table = BTreeMap<String, Entry>;

/// A key with its place, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key stands.
    pub key: Origin,
    /// The value.
    pub node: Node,
}

/// A fault of one file that leaves nothing to check.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntaxError {
    /// Where.
    pub origin: Origin,
    /// What the parser says.
    pub message: String,
}

/// One step of a key's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into a table.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Node {
    /// A text.
    pub fn string(text: impl Into<String>, origin: Origin) -> Self {
        Self {
            value: Value::String {
                text: text.into(),
                written: None,
            },
            origin,
        }
    }

    /// An empty table.
    pub fn table(origin: Origin) -> Self {
        Self {
            value: Value::Table(Table::new()),
            origin,
        }
    }

    /// The table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The value under one key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_table()?.get(key).map(|entry| &entry.node)
    }

    /// The value at a path.
    pub fn at(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match step {
            Step::Key(key) => node.get(key),
            Step::Index(index) => match &node.value {
                Value::Array(items) => items.get(*index),
                _ => None,
            },
        })
    }

    /// Where the value at `path` stands, else its nearest ancestor that exists.
    pub fn origin_of(&self, path: &[Step]) -> &Origin {
        (0..=path.len())
            .rev()
            .find_map(|n| self.at(&path[..n]))
            .map_or(&self.origin, |node| &node.origin)
    }

    /// Lays `over` on top: tables merge, anything else replaces.
    pub fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(base), Value::Table(table)) => {
                for (key, entry) in table {
                    match base.get_mut(&key) {
                        Some(below) => below.node.merge(entry.node),
                        None => {
                            base.insert(key, entry);
                        }
                    }
                }
            }
            (base, value) => {
                *base = value;
                self.origin = over.origin;
            }
        }
    }

    /// As JSON. Dates become text; the schema check has refused non-finite numbers before.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::String { text, .. } => Json::from(text.as_str()),
            Value::Integer(i) => Json::from(*i),
            Value::Float(f) => Json::from(*f),
            Value::Bool(b) => Json::from(*b),
            Value::Datetime(text) => Json::from(text.as_str()),
            Value::Array(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(table) => Json::Object(
                table
                    .iter()
                    .map(|(k, e)| (k.clone(), e.node.to_json()))
                    .collect(),
            ),
        }
    }

    /// From JSON, every node with the same origin; nulls are left out.
    pub fn from_json(json: &serde_json::Value, origin: &Origin) -> Option<Self> {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => return None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(i) => Value::Integer(i),
                None => Value::Float(n.as_f64()?),
            },
            Json::String(text) => return Some(Self::string(text, origin.clone())),
            Json::Array(items) => Value::Array(
                items
                    .iter()
                    .filter_map(|item| Self::from_json(item, origin))
                    .collect(),
            ),
            Json::Object(map) => Value::Table(
                map.iter()
                    .filter_map(|(key, json)| {
                        let node = Self::from_json(json, origin)?;
                        let key_origin = origin.clone();
                        Some((
                            key.clone(),
                            Entry {
                                key: key_origin,
                                node,
                            },
                        ))
                    })
                    .collect(),
            ),
        };
        Some(Self {
            value,
            origin: origin.clone(),
        })
    }

    /// What it is, for "got …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::String { text, .. } => quote_short(text),
            Value::Integer(i) => i.to_string(),
            Value::Float(f) if f.is_nan() => "nan".to_owned(),
            Value::Float(f) => format!("{f:?}"),
            Value::Bool(b) => b.to_string(),
            Value::Datetime(text) => format!("the date {text}"),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }
}

/// `"text"`, cut to what fits a message.
pub fn quote_short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Whether a key can stand in TOML without quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

/// `path.key`, the key quoted where it must be.
pub fn join(path: &str, key: &str) -> String {
    let key = if is_bare(key) {
        key.to_owned()
    } else {
        toml_string(key)
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// A TOML basic string.
pub fn toml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The path of steps as text: `rule[0].when`.
pub fn path_text(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => join(&path, key),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

/// The steps of a path as text; what is not well formed is read as a bare key.
pub fn parse_path(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some((index, after)) = rest
            .strip_prefix('[')
            .and_then(|r| r.split_once(']'))
            .and_then(|(digits, after)| Some((digits.parse().ok()?, after)))
        {
            steps.push(Step::Index(index));
            rest = after;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let mut key = String::new();
            let mut end = quoted.len();
            let mut chars = quoted.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => key.extend(chars.next().map(|(_, c)| match c {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        c => c,
                    })),
                    c => key.push(c),
                }
            }
            steps.push(Step::Key(key));
            rest = &quoted[end..];
        } else {
            let end = rest
                .char_indices()
                .skip(1)
                .find_map(|(at, c)| matches!(c, '.' | '[').then_some(at))
                .unwrap_or(rest.len());
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

/// Line starts of one text, to turn byte offsets into lines and columns.
struct Places<'t> {
    file: Arc<str>,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Places<'t> {
    fn new(file: &str, text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            file: file.into(),
            text,
            starts,
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .map_or(1, |s| s.chars().count() + 1);
        Origin::File {
            file: Arc::clone(&self.file),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

/// Reads TOML. `file` is what messages call it.
pub fn parse(file: &str, text: &str) -> Result<Node, SyntaxError> {
    on_deep_stack(file, || {
        let places = Places::new(file, text);
        let table = DeTable::parse(text).map_err(|e| SyntaxError {
            origin: places.origin(e.span().map_or(0, |span| span.start)),
            message: e.message().to_owned(),
        })?;
        let value = from_table(table.get_ref(), &places, 0)?;
        Ok(Node {
            value,
            origin: places.origin(0),
        })
    })
}

/// Reads as much as can be read of a text that may be broken.
pub fn parse_what_can_be(file: &str, text: &str) -> Result<Node, SyntaxError> {
    on_deep_stack(file, || {
        let places = Places::new(file, text);
        let (table, _errors) = DeTable::parse_recoverable(text);
        let value = from_table(table.get_ref(), &places, 0)?;
        Ok(Node {
            value,
            origin: places.origin(0),
        })
    })
}

/// Runs the TOML parser where it can recurse. It bounds nesting and dotted keys to 80 each, but
/// not their product, and overflows a usual stack (see the test `depth_is_bounded`). What comes
/// out is no deeper than [`MAX_DEPTH`].
fn on_deep_stack(
    file: &str,
    read: impl FnOnce() -> Result<Node, SyntaxError> + Send,
) -> Result<Node, SyntaxError> {
    let fault = |message: String| SyntaxError {
        origin: Origin::top_of(file),
        message,
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("config-parse".to_owned())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, read)
            .map_err(|e| fault(format!("no thread to read it on: {e}")))?
            .join()
            .unwrap_or_else(|_| Err(fault("the TOML parser failed on it".to_owned())))
    })
}

fn from_table(
    table: &DeTable<'_>,
    places: &Places<'_>,
    depth: usize,
) -> Result<Value, SyntaxError> {
    let mut out = Table::new();
    for (key, value) in table {
        let origin = places.origin(key.span().start);
        let node = from_value(value, places, depth + 1)?;
        out.insert(
            key.get_ref().clone().into_owned(),
            Entry { key: origin, node },
        );
    }
    Ok(Value::Table(out))
}

fn from_value(
    value: &toml::Spanned<DeValue<'_>>,
    places: &Places<'_>,
    depth: usize,
) -> Result<Node, SyntaxError> {
    let origin = places.origin(value.span().start);
    let fault = |message: String| SyntaxError {
        origin: origin.clone(),
        message,
    };
    if depth > MAX_DEPTH {
        return Err(fault(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String {
            text: text.clone().into_owned(),
            written: None,
        },
        DeValue::Integer(i) => Value::Integer(
            i64::from_str_radix(i.as_str(), i.radix())
                .map_err(|_| fault(format!("{i} does not fit into a 64-bit integer")))?,
        ),
        DeValue::Float(f) => Value::Float(
            f.as_str()
                .parse()
                .map_err(|_| fault(format!("{f} is not a number")))?,
        ),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(d) => Value::Datetime(d.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| from_value(item, places, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => from_table(table, places, depth)?,
    };
    Ok(Node { value, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "\"é\" = \"ü\"\n[a.b]\nc = 1_0\n[[r]]\nz = [true,\n  false]\n";
        let node = parse("f.toml", text).unwrap();
        let place = |path: &str| node.origin_of(&parse_path(path)).to_string();
        assert_eq!(place("\"é\""), "f.toml:1:7", "columns count characters");
        assert_eq!(place("a.b"), "f.toml:2:1");
        assert_eq!(place("a.b.c"), "f.toml:3:5");
        assert_eq!(place("a.b.x.y"), "f.toml:2:1", "nearest ancestor");
        assert_eq!(place("r[0].z[1]"), "f.toml:6:3");
        assert_eq!(
            node.as_table().unwrap()["a"].key.to_string(),
            "f.toml:2:2",
            "the key's own place"
        );
    }

    #[test]
    fn paths_survive_text() {
        for text in [
            "a.b",
            "a[0].b",
            "a.\"x.y\\\"\".z[3]",
            "\"\"",
            "a-b._c",
            "a.\"[0]\"",
        ] {
            assert_eq!(path_text(&parse_path(text)), text);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let keys = ["k"; 70].join(".");
        let mut text = String::new();
        for _ in 0..70 {
            text.push_str(&format!("{{{keys} = "));
        }
        text = format!("a = {text}1{}", "}".repeat(70));
        let error = parse("f", &text).unwrap_err();
        assert!(
            error.message.contains("nested deeper than 32"),
            "{}",
            error.message
        );
        parse_what_can_be("f", &text).unwrap_err();
        parse("f", &format!("a = {}", "[".repeat(100_000))).unwrap_err();
    }

    #[test]
    fn numbers_that_fit_nowhere_are_faults_with_a_place() {
        let error = parse("f", "\na = 99999999999999999999").unwrap_err();
        assert_eq!(error.origin.to_string(), "f:2:5");
    }
}
