//! The examples of the HTTP reference are documents of their schemas.
#![cfg(feature = "web")]

use serde_json::Value;
use visualpath::pipeline::status::{Status, schema};

#[test]
fn the_status_of_the_reference_page_is_one() {
    let page = include_str!("../../docs/reference/http.md");
    let blocks = page.split("```json\n").skip(1);
    let examples: Vec<Value> = blocks
        .map(|rest| serde_json::from_str(rest.split("\n```").next().unwrap()).unwrap())
        .collect();
    let status = examples.iter().find(|e| e.get("schema").is_some()).unwrap();
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(status)
        .map(|e| e.to_string())
        .collect();
    assert_eq!(faults, Vec::<String>::new());
    // Every field is there, and no other.
    let typed: Status = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(&serde_json::to_value(typed).unwrap(), status);
}
