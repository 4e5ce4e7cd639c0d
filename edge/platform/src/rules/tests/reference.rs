//! `docs/reference/rules.md` against the code.

use serde_json::{Value, json};

use super::super::{MAX_EXPRESSION_BYTES, MAX_OBJECTS, MAX_RULES, RuleConfig};
use super::compile;

const PAGE: &str = include_str!("../../../../../docs/reference/rules.md");

#[test]
fn the_reference_lists_every_key_with_its_default() {
    let defaults = compile(&json!([{"label": "r", "when": "true"}])).unwrap();
    let defaults = serde_json::to_value(defaults.configs().next().unwrap()).unwrap();
    let schema = schemars::schema_for!(RuleConfig).to_value();
    let mut keys: Vec<&str> = schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let rows: Vec<Vec<&str>> = PAGE
        .lines()
        .skip_while(|l| *l != "## Keys of a rule")
        .filter(|l| l.starts_with("| `"))
        .take(keys.len())
        .map(|l| {
            l.split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect()
        })
        .collect();
    let mut listed: Vec<&str> = rows.iter().map(|row| row[1]).collect();
    listed.sort_unstable();
    keys.sort_unstable();
    assert_eq!(listed, keys);
    for row in rows {
        let (key, default) = (row[1], row[2]);
        match defaults.get(key) {
            Some(_) if default == "required" => assert!(["label", "when"].contains(&key)),
            Some(value) => assert_eq!(value.to_string(), default, "{key}"),
            None if key == "score" => assert_eq!(default, "see below"),
            None => assert_eq!(default, "–", "{key}"),
        }
    }
}

#[test]
fn the_references_conditions_compile() {
    let block = PAGE
        .split("```cel\n")
        .nth(1)
        .and_then(|b| b.split("```").next());
    let conditions: Vec<&str> = block.unwrap().lines().collect();
    assert!(conditions.len() > 5);
    for when in conditions {
        assert!(
            compile(&json!([{"label": "r", "when": when}])).is_ok(),
            "{when}"
        );
    }
}

#[test]
fn the_references_bounds_are_the_codes() {
    for words in [
        format!("1 to {MAX_RULES} of them"),
        format!("at most {MAX_EXPRESSION_BYTES} bytes"),
        format!("at most {MAX_OBJECTS} (the others"),
    ] {
        assert!(PAGE.contains(&words), "{words}");
    }
    for (key, beyond) in [
        ("for_ms", json!(86_400_001)),
        ("release_ms", json!(86_400_001)),
        ("cooldown_ms", json!(86_400_001)),
        ("pre_s", json!(600.5)),
        ("post_s", json!(600.5)),
        ("max_s", json!(3600.5)),
        ("within_ms", json!(86_400_001)),
    ] {
        let row = PAGE
            .lines()
            .find(|l| l.starts_with(&format!("| `{key}`")))
            .unwrap();
        let most = row
            .split(" to ")
            .nth(1)
            .and_then(|s| s.split(' ').next())
            .unwrap();
        let most: u64 = most.parse().unwrap();
        let with = |value: &Value| {
            let mut rule = json!({"label": "r", "when": "true", "unless": "false"});
            rule[key] = value.clone();
            compile(&json!([rule]))
        };
        assert!(with(&json!(most)).is_ok(), "{key}");
        assert!(with(&beyond).is_err(), "{key}");
    }
}
