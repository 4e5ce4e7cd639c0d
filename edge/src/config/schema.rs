//! The config's JSON Schema, and the list of all keys it gives.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use super::model::Config;

/// JSON Schema (draft 2020-12) of a whole config, made from the Rust types.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let generator = SchemaSettings::draft2020_12()
            .with(|s| s.meta_schema = Some("https://json-schema.org/draft/2020-12/schema".into()))
            .with_transform(NoNull)
            .into_generator();
        let mut schema = generator.into_root_schema_for::<Config>().to_value();
        if let Some(root) = schema.as_object_mut() {
            root.insert("title".into(), "visualpath config".into());
        }
        schema
    });
    &SCHEMA
}

/// TOML has no null: an optional key is simply absent.
#[derive(Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut schemars::Schema) {
        transform_subschemas(self, schema);
        let Some(map) = schema.as_object_mut() else {
            return;
        };
        let is_null = |v: &Value| v.get("type").is_some_and(|t| t == "null");
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|t| t != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(values)) = map.get_mut("enum") {
            values.retain(|v| !v.is_null());
        }
        if let Some(Value::Array(any)) = map.get_mut("anyOf") {
            any.retain(|v| !is_null(v));
            if let [Value::Object(only)] = any.as_slice() {
                let only = only.clone();
                map.remove("anyOf");
                for (key, value) in only {
                    map.entry(key).or_insert(value);
                }
            }
        }
        if map.get("default").is_some_and(Value::is_null) {
            map.remove("default");
        }
    }
}

/// Follows `$ref` to its definition.
pub(super) fn resolve(schema: &'static Value) -> &'static Value {
    let mut at = schema;
    // A reference leads to a definition, never around in a circle; the bound is for safety.
    for _ in 0..8 {
        let Some(name) = at
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|r| r.strip_prefix("#/$defs/"))
        else {
            break;
        };
        match self::schema().get("$defs").and_then(|defs| defs.get(name)) {
            Some(found) => at = found,
            None => break,
        }
    }
    at
}

/// The words a schema allows, if it allows only some.
pub(super) fn words(schema: &'static Value) -> Option<Vec<&'static str>> {
    let schema = resolve(schema);
    let list = |key: &str| schema.get(key).and_then(Value::as_array);
    if let Some(one_of) = list("oneOf") {
        return Some(one_of.iter().filter_map(words).flatten().collect());
    }
    if let Some(values) = list("enum") {
        return Some(values.iter().filter_map(Value::as_str).collect());
    }
    Some(vec![schema.get("const")?.as_str()?])
}

/// The schema of the value of `key` in a table with `schema`; `plugin` is the table's own
/// `plugin`, on which the schema of a fusion's config depends.
pub(super) fn property(
    schema: &'static Value,
    key: &str,
    plugin: Option<&str>,
) -> Option<&'static Value> {
    let schema = resolve(schema);
    let condition = schema
        .pointer("/if/properties/plugin/const")
        .and_then(Value::as_str);
    if condition.is_some()
        && condition == plugin
        && let Some(then) = schema.pointer("/then/properties").and_then(|p| p.get(key))
    {
        return Some(then);
    }
    schema.get("properties").and_then(|p| p.get(key))
}

/// One key as the reference lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyInfo {
    /// Its section, `*` for a name: `extractor.*`, `fusion.*.config.rule[]`; empty for the top.
    pub section: String,
    /// Its name.
    pub key: String,
    /// What it takes, in words.
    pub expects: String,
    /// Its default, if it has a fixed one.
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// What it means.
    pub description: String,
}

impl KeyInfo {
    /// Section and key.
    pub fn path(&self) -> String {
        super::tree::join(&self.section, &self.key)
    }
}

/// Every key of the config that is not a table of known keys itself: sections in the order of
/// [`SECTIONS`], in each the required keys first.
pub fn keys() -> Vec<KeyInfo> {
    let mut out = Vec::new();
    list_keys(schema(), String::new(), &mut out);
    let rank = |section: &str| SECTIONS.iter().position(|s| *s == section);
    out.sort_by(|a, b| {
        (rank(&a.section), !a.required, &a.key).cmp(&(rank(&b.section), !b.required, &b.key))
    });
    out
}

/// The sections in reading order.
pub const SECTIONS: [&str; 23] = [
    "",
    "device",
    "isolation",
    "python",
    "source.*",
    "watch.*",
    "extractor.*",
    "extractor.*.sandbox",
    "zone.*",
    "mask.*",
    "path.*",
    "fusion.*",
    "fusion.*.sandbox",
    "fusion.*.config",
    "fusion.*.config.rule[]",
    "fusion.*.config.test[]",
    "fusion.*.config.test[].expect[]",
    "clip",
    "mqtt",
    "observability",
    "observability.sink[]",
    "web",
    "ota",
];

fn list_keys(schema: &'static Value, section: String, out: &mut Vec<KeyInfo>) {
    let schema = resolve(schema);
    let required = |key: &str| {
        schema
            .get("required")
            .and_then(Value::as_array)
            .is_some_and(|r| r.iter().any(|k| k == key))
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, info) in properties.into_iter().flatten() {
        let path = super::tree::join(&section, key);
        // Of a fusion's config, the keys of the built-in fusion are listed.
        let Some(deep) = property(schema, key, Some("rules")).map(resolve) else {
            continue;
        };
        let item = |key: &str| {
            let item = deep.get(key).map(resolve)?;
            item.get("properties").is_some().then_some(item)
        };
        if deep.get("properties").is_some() {
            list_keys(deep, path, out);
        } else if let Some(item) = item("additionalProperties") {
            list_keys(item, format!("{path}.*"), out);
        } else if let Some(item) = item("items") {
            list_keys(item, format!("{path}[]"), out);
        } else {
            let text = info.get("description").and_then(Value::as_str);
            out.push(KeyInfo {
                section: section.clone(),
                key: key.clone(),
                expects: super::conform::expected(info, key),
                default: info.get("default").cloned(),
                required: required(key),
                description: text
                    .unwrap_or_default()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keywords that [`super::super::conform`] checks, and those that check nothing.
    const CHECKED: [&str; 19] = [
        "$ref",
        "type",
        "properties",
        "additionalProperties",
        "propertyNames",
        "maxProperties",
        "required",
        "enum",
        "const",
        "oneOf",
        "anyOf",
        "items",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "pattern",
        "if",
        "then",
    ];
    const SILENT: [&str; 7] = [
        "$schema",
        "$defs",
        "title",
        "description",
        "default",
        "examples",
        "format",
    ];

    fn walk(schema: &Value, path: &str) {
        let Some(map) = schema.as_object() else {
            assert!(schema.is_boolean(), "{path}");
            return;
        };
        for (key, value) in map {
            let path = format!("{path}/{key}");
            assert!(
                CHECKED.contains(&key.as_str()) || SILENT.contains(&key.as_str()),
                "{path}: the check does not know this keyword"
            );
            match key.as_str() {
                "properties" | "$defs" => {
                    for (name, inner) in value.as_object().unwrap() {
                        walk(inner, &format!("{path}/{name}"));
                    }
                }
                "oneOf" | "anyOf" => {
                    for inner in value.as_array().unwrap() {
                        walk(inner, &path);
                    }
                }
                "items" | "additionalProperties" | "propertyNames" | "if" | "then" => {
                    walk(value, &path);
                }
                "pattern" => assert!(
                    value == super::super::model::NAME_PATTERN
                        || value == super::super::model::DEVICE_PATTERN,
                    "{path}"
                ),
                "type" => assert!(value.is_string() && value != "null", "{path}: {value}"),
                _ => {}
            }
        }
    }

    #[test]
    fn the_check_knows_every_keyword_of_the_schema() {
        walk(schema(), "");
    }

    #[test]
    fn every_section_is_listed_and_every_key_described() {
        for key in keys() {
            assert!(
                SECTIONS.contains(&key.section.as_str()),
                "add `{}` to SECTIONS",
                key.section
            );
            assert!(!key.description.is_empty(), "{}", key.path());
        }
        assert!(
            keys()
                .iter()
                .any(|k| k.path() == "fusion.*.config.rule[].when" && k.required)
        );
    }
}
