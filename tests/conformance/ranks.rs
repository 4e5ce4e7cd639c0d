//! Each crate has a rank; dependencies go only to lower ranks (docs/design/layers.md).

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Crates that wrap one heavy dependency, which no other crate may see.
const ONLY: [(&str, &str); 6] = [
    ("rumqttc-v4-next", "visualpath-mqtt"),
    ("rumqttd", "visualpath-mqtt"),
    ("axum", "visualpath-web"),
    ("hyper", "visualpath-web"),
    ("tract-onnx", "visualpath-onnx"),
    ("ort", "visualpath-onnx"),
];

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Normal and build dependencies of every workspace crate, by name, with the ranks of our own.
fn violations(packages: &[Value]) -> Vec<String> {
    let ranks: BTreeMap<&str, Option<u64>> = packages
        .iter()
        .map(|p| {
            (
                p["name"].as_str().unwrap(),
                p["metadata"]["visualpath"]["rank"].as_u64(),
            )
        })
        .collect();
    let mut bad = vec![];
    for p in packages {
        let name = p["name"].as_str().unwrap();
        let Some(rank) = ranks[name] else {
            bad.push(format!("{name} has no [package.metadata.visualpath] rank"));
            continue;
        };
        for d in p["dependencies"].as_array().unwrap() {
            let dep = d["name"].as_str().unwrap();
            let dev = d["kind"] == "dev";
            if let Some(Some(other)) = ranks.get(dep)
                && *other >= rank
                && !dev
            {
                bad.push(format!(
                    "{name} (rank {rank}) depends on {dep} (rank {other})"
                ));
            }
            if let Some((_, owner)) = ONLY.iter().find(|(heavy, _)| *heavy == dep)
                && name != *owner
                && rank < 6
            {
                bad.push(format!("{name} sees {dep}; only {owner} may"));
            }
            let plugin = p["manifest_path"].as_str().unwrap().contains("/plugins/") && rank == 4;
            let allowed = ["visualpath-core", "visualpath-onnx", "visualpath-plugin"];
            if plugin && !dev && dep.starts_with("visualpath") && !allowed.contains(&dep) {
                bad.push(format!(
                    "plugin {name} sees {dep}; it may see only {allowed:?}"
                ));
            }
        }
    }
    bad
}

#[test]
fn dependencies_go_only_to_lower_ranks() {
    let meta = metadata();
    assert_eq!(
        violations(meta["packages"].as_array().unwrap()),
        Vec::<String>::new()
    );
}

#[test]
fn the_rank_check_sees_a_wrong_edge() {
    let meta = metadata();
    let mut packages = meta["packages"].as_array().unwrap().clone();
    let core = packages
        .iter_mut()
        .find(|p| p["name"] == "visualpath-core")
        .unwrap();
    let edge = serde_json::json!({"name": "visualpath-mqtt", "kind": null});
    core["dependencies"].as_array_mut().unwrap().push(edge);
    assert_eq!(
        violations(&packages),
        ["visualpath-core (rank 0) depends on visualpath-mqtt (rank 4)"]
    );
}
