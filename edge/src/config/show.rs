//! What is in force and where it came from, as text that is a config again.

use serde::Serialize;
use serde_json::Value as Json;

use super::tree::{Entry, Node, Origin, Step, Value, path_text, toml_string};
use super::{Loaded, expand};

/// One key in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownKey {
    /// Full path.
    pub key: String,
    /// Its value.
    pub value: Json,
    /// `file:line:column`, `env:NAME`, an argument, or `default`.
    pub origin: String,
    #[serde(skip)]
    steps: Vec<Step>,
    #[serde(skip)]
    toml: String,
}

/// Which text of an expanded string is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    AsWritten,
    InForce,
}

/// The keys in force. Without `expanded`: those that someone set, with `${…}` and `[watch]` as
/// written; with it: defaults too, and `${…}` and `[watch]` replaced.
pub fn show(loaded: &Loaded, expanded: bool) -> Vec<ShownKey> {
    let mut out = Vec::new();
    if expanded {
        let mut root = loaded.origins.root.clone();
        // The config was deserialised from JSON, so it can be written as JSON.
        if let Ok(all) = serde_json::to_value(&loaded.config) {
            fill(&mut root, &all);
        }
        leaves(&root, &mut Vec::new(), Text::InForce, &mut out);
    } else {
        leaves(
            &loaded.origins.written,
            &mut Vec::new(),
            Text::AsWritten,
            &mut out,
        );
    }
    out
}

/// As TOML, one key a line, each with its origin: `source.cam0.fps = 10   # visualpath.toml:12:7`.
pub fn show_text(keys: &[ShownKey]) -> String {
    text(keys, true)
}

/// What is in force without defaults, as a config that stands alone.
pub(super) fn in_force(root: &Node) -> String {
    let mut out = Vec::new();
    leaves(root, &mut Vec::new(), Text::InForce, &mut out);
    text(&out, false)
}

fn text(keys: &[ShownKey], origins: bool) -> String {
    let mut out = String::new();
    let mut line = |key: &str, shown: &ShownKey| {
        out.push_str(&format!("{key} = {}", shown.toml));
        if origins {
            out.push_str(&format!("   # {}", shown.origin));
        }
        out.push('\n');
    };
    let split = |shown: &ShownKey| {
        let at = shown
            .steps
            .iter()
            .position(|s| matches!(s, Step::Index(_)))?;
        let (list, rest) = shown.steps.split_at(at);
        let (item, inside) = rest.split_first()?;
        Some((list.to_vec(), item.clone(), inside.to_vec()))
    };
    for shown in keys.iter().filter(|k| split(k).is_none()) {
        line(&shown.key, shown);
    }
    // A list of tables follows as blocks; TOML wants all plain keys before.
    let mut block = None;
    let mut blocks = String::new();
    for shown in keys {
        let Some((list, item, inside)) = split(shown) else {
            continue;
        };
        let header = Some((list, item));
        if header != block {
            if let Some((list, _)) = &header {
                blocks.push_str(&format!("\n[[{}]]\n", path_text(list)));
            }
            block = header;
        }
        if !inside.is_empty() {
            blocks.push_str(&format!("{} = {}", path_text(&inside), shown.toml));
            if origins {
                blocks.push_str(&format!("   # {}", shown.origin));
            }
            blocks.push('\n');
        }
    }
    out + &blocks
}

/// A value of the schema (an example) as TOML.
pub(super) fn example(json: &Json) -> String {
    Node::from_json(json, &Origin::Default)
        .map_or_else(|| json.to_string(), |node| toml_of(&node, Text::AsWritten))
}

/// Adds what `all` has and `node` has not, as defaults.
fn fill(node: &mut Node, all: &Json) {
    match (&mut node.value, all) {
        (Value::Table(table), Json::Object(all)) => {
            for (key, json) in all {
                match table.get_mut(key) {
                    Some(entry) => fill(&mut entry.node, json),
                    None => {
                        if let Some(node) = Node::from_json(json, &Origin::Default) {
                            let key_origin = Origin::Default;
                            table.insert(
                                key.clone(),
                                Entry {
                                    key: key_origin,
                                    node,
                                },
                            );
                        }
                    }
                }
            }
        }
        (Value::Array(items), Json::Array(all)) => {
            for (item, json) in items.iter_mut().zip(all) {
                fill(item, json);
            }
        }
        _ => {}
    }
}

fn leaves(node: &Node, steps: &mut Vec<Step>, which: Text, out: &mut Vec<ShownKey>) {
    let in_list = steps.iter().any(|s| matches!(s, Step::Index(_)));
    match &node.value {
        Value::Table(table) if !table.is_empty() => {
            for (key, entry) in table {
                steps.push(Step::Key(key.clone()));
                leaves(&entry.node, steps, which, out);
                steps.pop();
            }
        }
        // A list of tables, if it is not inside another: its keys are shown one by one.
        Value::Array(items)
            if !in_list
                && !items.is_empty()
                && items
                    .iter()
                    .all(|i| i.as_table().is_some_and(|t| !t.is_empty())) =>
        {
            for (index, item) in items.iter().enumerate() {
                steps.push(Step::Index(index));
                leaves(item, steps, which, out);
                steps.pop();
            }
        }
        _ if steps.is_empty() => {}
        _ => out.push(ShownKey {
            key: path_text(steps),
            value: json_of(node, which),
            origin: node.origin.to_string(),
            steps: steps.clone(),
            toml: toml_of(node, which),
        }),
    }
}

fn json_of(node: &Node, which: Text) -> Json {
    match &node.value {
        Value::String {
            written: Some(written),
            ..
        } if which == Text::AsWritten => Json::from(written.as_str()),
        Value::Array(items) => items.iter().map(|i| json_of(i, which)).collect(),
        Value::Table(table) => Json::Object(
            table
                .iter()
                .map(|(k, e)| (k.clone(), json_of(&e.node, which)))
                .collect(),
        ),
        _ => node.to_json(),
    }
}

fn toml_of(node: &Node, which: Text) -> String {
    match &node.value {
        Value::String { text, written } => match (which, written, &node.origin) {
            (Text::AsWritten, Some(written), _) => toml_string(written),
            // Unchanged by expansion, so it is its own spelling.
            (Text::AsWritten, None, Origin::File { .. }) => toml_string(text),
            _ => toml_string(&expand::escape(text)),
        },
        Value::Integer(i) => i.to_string(),
        Value::Float(f) if f.is_nan() => "nan".to_owned(),
        Value::Float(f) => format!("{f:?}"),
        Value::Bool(b) => b.to_string(),
        Value::Datetime(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|i| toml_of(i, which)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => {
            let items: Vec<String> = table
                .iter()
                .map(|(k, e)| {
                    let key = path_text(&[Step::Key(k.clone())]);
                    format!("{key} = {}", toml_of(&e.node, which))
                })
                .collect();
            if items.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", items.join(", "))
            }
        }
    }
}
