//! Checks the tree against the schema: unknown keys, missing keys, types, words, bounds, names.
//!
//! What is wrong is reported and cut out of the tree, so that the rest can still be read as a
//! [`super::Config`] and checked for sense: all faults come out in one run.

use serde_json::Value as Json;
use visualpath_core::{Name, nearest};

use super::diagnostic::Diagnostic;
use super::model::{DeviceId, NAME_PATTERN};
use super::schema::{keys, property, resolve, schema, words};
use super::show::example as example_text;
use super::tree::{Node, Table, Value, join, toml_string};

/// Most known keys listed in a hint.
const MAX_KNOWN: usize = 24;

/// Checks `root` against the config's schema and leaves in it only what is right.
pub fn conform(root: &mut Node, out: &mut Vec<Diagnostic>) {
    check(root, schema(), "", out);
}

/// The same of the part that is `key` of the top. Gives whether anything is left of it.
pub fn conform_part(node: &mut Node, key: &str, out: &mut Vec<Diagnostic>) -> bool {
    property(schema(), key, None).is_some_and(|part| check(node, part, key, out))
}

/// Whether `node` is right; a wrong part that can be left out is removed and does not count.
fn check(node: &mut Node, schema: &'static Json, path: &str, out: &mut Vec<Diagnostic>) -> bool {
    let schema = resolve(schema);
    if let Value::Float(f) = node.value
        && !f.is_finite()
    {
        let message = format!("expected a finite number, got {}", node.describe());
        out.push(Diagnostic::error(&node.origin, path, message));
        return false;
    }
    if let Some(any) = schema.get("anyOf").and_then(Json::as_array) {
        return check_any(node, schema, any, path, out);
    }
    if let Some(words) = words(schema) {
        let good = node.as_str().is_some_and(|text| words.contains(&text));
        return good || wrong(node, schema, path, out);
    }
    let kind = schema.get("type").and_then(Json::as_str);
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    let within = |x: f64| {
        bound("minimum").is_none_or(|min| x >= min) && bound("maximum").is_none_or(|max| x <= max)
    };
    match (&mut node.value, kind) {
        (Value::Table(_), Some("object") | None) => return check_table(node, schema, path, out),
        (Value::Array(items), Some("array") | None) => {
            let item_schema = schema.get("items").unwrap_or(&Json::Bool(true));
            let mut good = true;
            for (index, item) in items.iter_mut().enumerate() {
                good &= check(item, item_schema, &format!("{path}[{index}]"), out);
            }
            #[expect(clippy::cast_precision_loss, reason = "lists of a config are short")]
            let len = items.len() as f64;
            let fits = bound("minItems").is_none_or(|min| len >= min)
                && bound("maxItems").is_none_or(|max| len <= max);
            if good && !fits {
                let message = format!(
                    "expected {}, got a list of {len}",
                    expected(schema, last_key(path))
                );
                out.push(Diagnostic::error(&node.origin, path, message));
            }
            return good && fits;
        }
        (_, None) | (Value::Bool(_), Some("boolean")) => return true,
        #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^53")]
        (Value::Integer(i), Some("integer" | "number")) if within(*i as f64) => return true,
        (Value::Float(f), Some("number")) if within(*f) => return true,
        (Value::String { text, .. }, Some("string")) => {
            let fault = match schema.get("pattern").and_then(Json::as_str) {
                None => return true,
                Some(NAME_PATTERN) => Name::new(text).err().map(|e| e.to_string()),
                Some(_) => DeviceId::new(text).err(),
            };
            let Some(message) = fault else {
                return true;
            };
            out.push(Diagnostic::error(&node.origin, path, message));
            return false;
        }
        _ => {}
    }
    wrong(node, schema, path, out)
}

/// A value of several possible kinds.
fn check_any(
    node: &mut Node,
    schema: &'static Json,
    any: &'static [Json],
    path: &str,
    out: &mut Vec<Diagnostic>,
) -> bool {
    let silent = |schema: &'static Json| {
        let mut faults = Vec::new();
        let good = check(&mut node.clone(), schema, path, &mut faults);
        good && faults.is_empty()
    };
    if any.iter().any(silent) {
        return true;
    }
    // A list or table says itself which kind was meant; then its own faults are of more use.
    let meant = match node.value {
        Value::Array(_) => Some("array"),
        Value::Table(_) => Some("object"),
        _ => None,
    };
    let alternative = any
        .iter()
        .find(|s| meant.is_some() && resolve(s).get("type").and_then(Json::as_str) == meant);
    match alternative {
        Some(alternative) => check(node, alternative, path, out),
        None => wrong(node, schema, path, out),
    }
}

fn check_table(
    node: &mut Node,
    schema: &'static Json,
    path: &str,
    out: &mut Vec<Diagnostic>,
) -> bool {
    let Value::Table(table) = &mut node.value else {
        return true;
    };
    let plugin = table
        .get("plugin")
        .and_then(|e| e.node.as_str())
        .map(str::to_owned);
    if let Some(max) = schema.get("maxProperties").and_then(Json::as_u64)
        && usize::try_from(max).is_ok_and(|max| table.len() > max)
    {
        let message = format!("expected at most {max} entries, got {}", table.len());
        out.push(Diagnostic::error(&node.origin, path, message));
        return false;
    }
    let given: Vec<String> = table.keys().cloned().collect();
    let additional = schema.get("additionalProperties");
    for key in &given {
        let Some(entry) = table.get_mut(key) else {
            continue;
        };
        let path = join(path, key);
        let good = if let Some(known) = property(schema, key, plugin.as_deref()) {
            check(&mut entry.node, known, &path, out)
        } else if additional == Some(&Json::Bool(false)) {
            out.push(unknown_key(&entry.key, schema, key, &path));
            false
        } else {
            let named = schema.get("propertyNames").is_some();
            match Name::new(key) {
                Err(e) if named => {
                    out.push(Diagnostic::error(&entry.key, &path, e.to_string()));
                    false
                }
                _ => check(
                    &mut entry.node,
                    additional.unwrap_or(&Json::Bool(true)),
                    &path,
                    out,
                ),
            }
        };
        if !good {
            table.remove(key);
        }
    }
    let mut complete = true;
    for key in required(schema) {
        if table.contains_key(key) {
            continue;
        }
        complete = false;
        if !given.iter().any(|g| g == key) {
            let known = property(schema, key, None).unwrap_or(&Json::Null);
            let message = format!("missing: expected {}", expected(known, key));
            let mut missing = Diagnostic::error(&node.origin, join(path, key), message);
            if let Some(example) = known.pointer("/examples/0") {
                missing = missing.hint(format!("add `{key} = {}`", example_text(example)));
            }
            out.push(missing);
        }
    }
    complete
}

fn required(schema: &'static Json) -> impl Iterator<Item = &'static str> {
    schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
}

/// "unknown key", with the nearest known one, else where such a key belongs, else what is known.
fn unknown_key(
    origin: &super::tree::Origin,
    schema: &'static Json,
    key: &str,
    path: &str,
) -> Diagnostic {
    let found = Diagnostic::error(origin, path, "unknown key");
    let mut known: Vec<&str> = schema
        .get("properties")
        .and_then(Json::as_object)
        .map(|p| p.keys().map(String::as_str).collect())
        .unwrap_or_default();
    known.sort_unstable();
    let near = nearest(&key.to_lowercase(), known.iter().copied());
    if !near.is_empty() {
        return found.did_you_mean(&near);
    }
    let mut sections: Vec<String> = keys()
        .into_iter()
        .filter(|k| k.key == key && !k.section.is_empty())
        .map(|k| format!("[{}]", k.section))
        .collect();
    sections.dedup();
    if !sections.is_empty() {
        return found.hint(format!("`{key}` belongs in {}", sections.join(" or ")));
    }
    known.truncate(MAX_KNOWN);
    found.hint(format!("known keys: {}", known.join(", ")))
}

/// Reports a value of the wrong kind, word or size.
fn wrong(node: &Node, schema: &'static Json, path: &str, out: &mut Vec<Diagnostic>) -> bool {
    let want = expected(schema, last_key(path));
    let message = format!("expected {want}, got {}", node.describe());
    let mut fault = Diagnostic::error(&node.origin, path, message);
    let known = all_words(schema);
    let kinds = kinds(schema);
    match &node.value {
        Value::String { text, .. } => {
            let number = text.trim().parse::<f64>().is_ok_and(f64::is_finite)
                && kinds.iter().any(|k| matches!(*k, "integer" | "number"));
            let flag = matches!(text.as_str(), "true" | "false") && kinds.contains(&"boolean");
            if number || flag {
                fault = fault.hint(format!("write {} without quotes", text.trim()));
            } else {
                let near = nearest(&text.to_lowercase(), known);
                fault = fault.did_you_mean(&near);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::Datetime(_)
            if kinds == ["string"] =>
        {
            let text = match &node.value {
                Value::Datetime(text) => text.clone(),
                _ => node.describe(),
            };
            fault = fault.hint(format!("write {}", toml_string(&text)));
        }
        _ => {}
    }
    out.push(fault);
    false
}

/// Alternatives of a schema, itself if it has none.
fn alternatives(schema: &'static Json) -> Vec<&'static Json> {
    let schema = resolve(schema);
    match schema.get("anyOf").and_then(Json::as_array) {
        Some(any) => any.iter().map(resolve).collect(),
        None => vec![schema],
    }
}

fn all_words(schema: &'static Json) -> Vec<&'static str> {
    alternatives(schema)
        .into_iter()
        .filter_map(words)
        .flatten()
        .collect()
}

fn kinds(schema: &'static Json) -> Vec<&'static str> {
    alternatives(schema)
        .into_iter()
        .filter_map(|s| s.get("type").and_then(Json::as_str))
        .collect()
}

/// Whether a text may stand for `key path` as it is: its schema takes strings of any form.
pub fn takes_text(schema: &'static Json) -> bool {
    alternatives(schema)
        .iter()
        .any(|s| s.get("type").is_some_and(|t| t == "string"))
}

/// What a schema wants, in words; `key` gives the unit.
pub fn expected(schema: &'static Json, key: &str) -> String {
    let of_one = |schema: &'static Json| {
        if let Some(words) = words(schema) {
            let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
            return match quoted.as_slice() {
                [only] => only.clone(),
                many => format!("one of {}", many.join(", ")),
            };
        }
        let number = |article: &str| {
            let bound = |k: &str| schema.get(k).and_then(Json::as_f64);
            let range = match (bound("minimum"), bound("maximum")) {
                (Some(min), Some(max)) if min == max => return format!("`{min}`"),
                (Some(min), Some(max)) => format!(" from {min} to {max}"),
                (Some(min), None) => format!(" from {min}"),
                (None, Some(max)) => format!(" up to {max}"),
                (None, None) => String::new(),
            };
            format!("{article}{range}{}", unit(key))
        };
        match schema.get("type").and_then(Json::as_str) {
            Some("string") if schema.get("pattern").is_some_and(|p| p == NAME_PATTERN) => {
                "a name".to_owned()
            }
            Some("string") => "a string".to_owned(),
            Some("boolean") => "true or false".to_owned(),
            Some("integer") => number("an integer"),
            Some("number") => number("a number"),
            Some("array") => list(schema),
            Some("object") => "a table".to_owned(),
            _ => "a value".to_owned(),
        }
    };
    let parts: Vec<String> = alternatives(schema).into_iter().map(of_one).collect();
    parts.join(" or ")
}

fn list(schema: &'static Json) -> String {
    let item = schema.get("items").map(resolve);
    let of = item.map_or("values", |item| {
        let named = item.get("pattern").is_some_and(|p| p == NAME_PATTERN);
        match item.get("type").and_then(Json::as_str) {
            Some("string") if named => "names",
            Some("string") => "strings",
            Some("array") => "[x, y] pairs",
            Some("number" | "integer") => "numbers",
            Some("object") => "tables",
            _ => "values",
        }
    });
    let count = |key: &str| schema.get(key).and_then(Json::as_u64);
    match (count("minItems"), count("maxItems")) {
        (Some(min), Some(max)) if min == max => format!("a list of {min} {of}"),
        (Some(min), _) => format!("a list of at least {min} {}", singular(of, min)),
        _ => format!("a list of {of}"),
    }
}

fn singular(of: &str, count: u64) -> &str {
    if count == 1 {
        of.strip_suffix('s').unwrap_or(of)
    } else {
        of
    }
}

fn unit(key: &str) -> &'static str {
    match key {
        "fps" => " (frames per second)",
        "width" | "height" => " (pixels)",
        "bitrate" => " (bits per second)",
        key if key.ends_with("_ms") => " (milliseconds)",
        key if key.ends_with("_s") => " (seconds)",
        key if key.ends_with("_bytes") => " (bytes)",
        _ => "",
    }
}

fn last_key(path: &str) -> &str {
    let end = path.find('[').map_or(path.len(), |_| {
        path.trim_end_matches(|c: char| c == '[' || c == ']' || c.is_ascii_digit())
            .len()
    });
    path[..end].rsplit('.').next().unwrap_or_default()
}

/// Names under one of the top tables (or of the top: `""`), also of entries that are wrong inside.
pub fn names<'t>(root: &'t Node, section: &str) -> Vec<&'t str> {
    let node = if section.is_empty() {
        Some(root)
    } else {
        root.get(section)
    };
    node.and_then(Node::as_table)
        .map(|table: &Table| table.keys().map(String::as_str).collect())
        .unwrap_or_default()
}
