//! No input makes the config panic, hang or overflow: random bytes, damaged configs, odd trees.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use visualpath::config::{LoadOptions, default_text, load, load_or_last_good, show, show_text};

/// Loads `bytes`; what loads must survive being shown.
fn try_load(bytes: &[u8], env: BTreeMap<String, String>) {
    let dir = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        path: dir.path().join("c.toml"),
        env,
        ..LoadOptions::default()
    };
    fs::write(&options.path, bytes).unwrap();
    match load(&options) {
        Ok(loaded) => {
            for expanded in [false, true] {
                let text = show_text(&show(&loaded, expanded));
                fs::write(&options.path, &text).unwrap();
                // The overrides are in the text.
                let env = options
                    .env
                    .iter()
                    .filter(|(k, _)| !k.starts_with("VISUALPATH__"))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                let again = load(&LoadOptions {
                    env,
                    ..options.clone()
                })
                .unwrap_or_else(|f| panic!("shown but not loaded: {f:?}\n{text}"));
                assert_eq!(again.config, loaded.config);
            }
        }
        Err(found) => {
            assert!(
                found.iter().any(|d| d.is_error()),
                "refused without an error"
            );
            for d in &found {
                assert!(!d.to_string().is_empty());
            }
        }
    }
    // Finds no last good one here, but reads the broken text for its state directory.
    fs::write(&options.path, bytes).unwrap();
    let mut nowhere = options;
    nowhere.env.insert(
        "VISUALPATH__DEVICE__STATE_DIR".to_owned(),
        dir.path().display().to_string(),
    );
    drop(load_or_last_good(&nowhere));
    nowhere.env.remove("VISUALPATH__DEVICE__STATE_DIR");
    drop(load_or_last_good(&nowhere));
}

/// Pieces that meet in configs.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("nan".to_owned()),
        Just("-inf".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("1e308".to_owned()),
        Just("\"${A:-x}${B}\"".to_owned()),
        Just("\"$${\"".to_owned()),
        Just("[[0,0],[1,1]]".to_owned()),
        Just("{a = {b = [1, {c = 2}]}}".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("[extractor.person]".to_owned()),
        Just("[[source]]".to_owned()),
        Just("depends = [\"person\", \"person\"]".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"\\u0000é\"".to_owned()),
        "[a-z_]{1,8} = .{0,12}",
        "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        try_load(&bytes, BTreeMap::new());
    }

    #[test]
    fn a_damaged_config_never_panics(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..30, piece()), 1..5),
    ) {
        let mut text: Vec<char> = default_text().chars().collect();
        for (at, length, piece) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        try_load(text.as_bytes(), BTreeMap::new());
    }

    #[test]
    fn a_changed_value_never_panics(line in any::<prop::sample::Index>(), value in piece()) {
        let mut lines: Vec<String> = default_text().lines().map(str::to_owned).collect();
        let settings: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
        let at = settings[line.index(settings.len())];
        let key = lines[at].trim_start_matches('#').split(" = ").next().unwrap().to_owned();
        lines[at] = format!("{key} = {value}");
        try_load(lines.join("\n").as_bytes(), BTreeMap::new());
    }

    #[test]
    fn odd_overrides_never_panic(
        vars in proptest::collection::btree_map(
            "VISUALPATH__(MQTT|CLIP|FUSION__VISITOR|EXTRACTOR__PERSON|SCHEMA|[A-Z0]{1,4})(__(CONFIG|RULE|0|9|FPS|URL|[A-Za-z_]{1,5})){0,4}",
            piece(),
            0..4,
        ),
    ) {
        try_load(default_text().as_bytes(), vars);
    }
}

#[test]
fn many_extractors_that_all_depend_on_each_other_end_soon() {
    let names: Vec<String> = (0..200).map(|i| format!("\"e{i}\"")).collect();
    let mut text = default_text().to_owned();
    for i in 0..200 {
        text.push_str(&format!(
            "\n[extractor.e{i}]\nplugin = \"object\"\ndepends = [{}]\n",
            names.join(", ")
        ));
    }
    try_load(text.as_bytes(), BTreeMap::new());
    // A chain as long as allowed.
    let mut text = default_text().to_owned();
    for i in 0..255 {
        text.push_str(&format!(
            "\n[extractor.e{i}]\nplugin = \"object\"\ndepends = [\"e{}\"]\n",
            (i + 1).min(254)
        ));
    }
    try_load(text.as_bytes(), BTreeMap::new());
}
