//! `validate --tests` on real video with the real model.

use std::path::Path;

use serde_json::Value;
use visualpath_tests::{Config, Output, cut_vtest, run};

/// When the first visitor of vtest.avi comes, in the part cut from here on.
const FROM_S: f64 = 17.0;
const VISITOR_S: f64 = 19.1 - FROM_S;

/// The demo's config with these tests, its source a camera that is not there.
fn validate(dir: &Path, tests: &str, json: bool) -> Output {
    let mut config = Config::demo("nowhere.avi".into(), "mqtt://127.0.0.1:1");
    config.realtime = true;
    config.more = tests.to_owned();
    config.write(dir);
    let file = dir.join("visualpath.toml");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut args = vec!["validate", "--tests", "-c", file.to_str().unwrap()];
    args.extend(json.then_some("--json"));
    // From another directory: clips are relative to the config's.
    run(elsewhere.path(), &args)
}

fn test(name: &str, clip: &Path, expect: &str, more: &str) -> String {
    let clip = clip.file_name().unwrap().to_str().unwrap();
    format!(
        "[[fusion.visitor.config.test]]\nname = \"{name}\"\nclip = \"{clip}\"\n\
         expect = [{expect}]\n{more}\n"
    )
}

#[test]
fn a_recording_with_the_triggers_it_must_give_passes_and_any_other_fails() {
    let dir = tempfile::tempdir().unwrap();
    let visit = cut_vtest(dir.path(), FROM_S, 4.0);
    let nobody = cut_vtest(dir.path(), 10.0, 1.0);
    let visitor = |at_s: f64| format!("{{ label = \"visitor\", at_s = {at_s} }}");
    let good = [
        test("comes", &visit, &visitor(VISITOR_S), ""),
        test("nobody", &nobody, "", "path = \"entrance\""),
    ];
    let out = validate(dir.path(), &good.concat(), false);
    assert_eq!(
        out.stdout, "PASS comes: 1 trigger as expected\nPASS nobody: 0 triggers as expected\n",
        "{}",
        out.stderr
    );
    assert_eq!(out.code, 0);
    assert!(
        !dir.path().join("state").exists(),
        "nothing of the appliance's is touched"
    );

    let bad = [
        test("late", &visit, &visitor(VISITOR_S - 1.5), ""),
        test(
            "twice",
            &visit,
            &[visitor(VISITOR_S), visitor(3.9)].join(", "),
            "",
        ),
        test("none", &visit, "", ""),
        test("gone", Path::new("gone.avi"), "", ""),
        test("comes", &visit, &visitor(VISITOR_S), "only = false"),
    ];
    let out = validate(dir.path(), &bad.concat(), true);
    assert_eq!(out.code, 1, "{}", out.stderr);
    let document: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(document["findings"], serde_json::json!([]));
    assert_eq!(
        (&document["passed"], &document["failed"]),
        (&1.into(), &4.into())
    );
    let faults: Vec<Vec<&str>> = document["tests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| {
            let faults = t["faults"].as_array().unwrap();
            faults
                .iter()
                .map(|f| f["fault"].as_str().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(
        faults,
        [
            vec!["off"],
            vec!["missing"],
            vec!["unexpected"],
            vec!["not_run"],
            vec![]
        ]
    );
    let off = &document["tests"][0]["faults"][0];
    let late = off["found_s"].as_f64().unwrap() - off["at_s"].as_f64().unwrap();
    assert!((1.0..2.0).contains(&late), "{off}");
    let text = document["tests"][3]["faults"][0]["message"].to_string();
    assert!(text.contains("gone.avi"), "{text}");
}

#[test]
fn a_wrong_config_is_told_before_any_test_runs() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = "{ label = \"visitr\", at_s = 1 }";
    let wrong = test("a", Path::new("a.avi"), unknown, "");
    let out = validate(dir.path(), &wrong, false);
    assert_eq!((out.code, out.stdout.as_str()), (3, ""));
    assert!(
        out.stderr.contains("did you mean `visitor`?"),
        "{}",
        out.stderr
    );
    let out = validate(dir.path(), &wrong, true);
    let document: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((out.code, &document["tests"]), (3, &serde_json::json!([])));
    assert_eq!(document["findings"].as_array().unwrap().len(), 1);
    let none = validate(dir.path(), "", false);
    assert_eq!(none.code, 0);
    assert!(none.stdout.contains("no tests"), "{}", none.stdout);
}
