//! The plugin as the platform sees it: what it declares, what it counts, what it refuses.

mod support;

use std::path::Path;

use serde_json::json;
use support::{assets, context, extractor, frames, view};
use visualpath_core::{Filter, Fit, PluginContext, PluginError, ViewFormat};
use visualpath_plugin_object::plugin;

/// The project's cards, without any model file beside them.
fn cards_only() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn context_in(dir: &Path, config: serde_json::Value) -> PluginContext {
    PluginContext {
        model_dirs: vec![dir.to_owned()],
        ..context(config)
    }
}

fn create_error(cx: &PluginContext) -> PluginError {
    match plugin().create(cx) {
        Ok(_) => panic!("created from {:?}", cx.config),
        Err(error) => error,
    }
}

#[test]
fn view_and_signals_are_known_from_the_card_alone() {
    let cx = context_in(&cards_only(), json!({"classes": ["PERSON", "coffee cup"]}));
    let view = plugin().input(&cx).unwrap();
    assert_eq!(view.size, Some((300, 300)));
    assert_eq!(
        (view.format, view.fit, view.filter),
        (ViewFormat::Rgb, Fit::Stretch, Filter::Bilinear)
    );
    assert_eq!(
        plugin().signals(&cx).unwrap(),
        [
            "coffee_cup_count",
            "count",
            "max_confidence",
            "person_count"
        ]
    );
    let all = plugin()
        .signals(&context_in(&cards_only(), json!({})))
        .unwrap();
    assert_eq!(all.len(), 23 + 2);
    // Without the file it can't be made, and says so.
    let error = create_error(&cx).to_string();
    assert!(
        error.contains("ssd-oidv4.onnx is missing") && error.contains("setup.sh"),
        "{error}"
    );
}

#[test]
fn an_observation_has_exactly_the_declared_signals() {
    let config = json!({"classes": ["person", "dog"], "runtime": "tract"});
    let declared = plugin().signals(&context(config.clone())).unwrap();
    let mut extractor = extractor(config);
    let models = extractor.models();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].name, "ssd-oidv4");
    assert!(models[0].runtime.starts_with("tract "), "{models:?}");

    let (number, pixels) = frames(&assets().join("videos/vtest.avi"), 100).remove(3);
    let o = extractor
        .extract(&view(number, &pixels), &[])
        .unwrap()
        .remove(0);
    let given: Vec<String> = o.signals.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(given, declared);
    let signal = |n: &str| o.signals.get(n).unwrap();
    assert!(signal("person_count") >= 3.0, "{:?}", o.signals);
    assert_eq!(signal("dog_count"), 0.0);
    assert_eq!(signal("count"), signal("person_count"));
    assert_eq!(Some(signal("max_confidence")), o.confidence);
    for object in &o.data.objects {
        assert_eq!(object.label, "Person", "as the card writes it");
        let [l, t, r, b] = object.bbox;
        assert!(
            0.0 <= l && l < r && r <= 1.0 && 0.0 <= t && t < b && b <= 1.0,
            "{object:?}"
        );
        assert!((object.area - (r - l) * (b - t)).abs() < 1e-12);
    }
}

#[test]
fn max_objects_keeps_the_best() {
    let (number, pixels) = frames(&assets().join("videos/vtest.avi"), 100).remove(2);
    let scores = |config| -> Vec<f64> {
        let o = extractor(config)
            .extract(&view(number, &pixels), &[])
            .unwrap()
            .remove(0);
        o.data.objects.iter().map(|o| o.score).collect()
    };
    let all = scores(json!({"runtime": "tract"}));
    let two = scores(json!({"runtime": "tract", "max_objects": 2}));
    assert!(all.len() > 2);
    assert_eq!(two, all[..2], "best first");
}

#[test]
fn another_view_is_an_error_of_that_frame_only() {
    let mut extractor = extractor(json!({"runtime": "tract"}));
    let pixels = vec![0; 300 * 300 * 3];
    let short = view(1, &pixels[..100]);
    let error = extractor.extract(&short, &[]).unwrap_err().to_string();
    assert!(error.contains("the view has 100 bytes"), "{error}");
    assert!(extractor.extract(&view(2, &pixels), &[]).is_ok());
}

#[test]
fn wrong_configs_say_what_they_must() {
    let cases = [
        (
            json!({"clases": ["person"]}),
            "clases: unknown key; did you mean `classes`?",
        ),
        (
            json!({"classes": ["persn"]}),
            "classes[0]: the model knows no class `persn`; did you mean `Person`?",
        ),
        (
            json!({"model": "ssd-oidv5"}),
            "model `ssd-oidv5`: no card `ssd-oidv5.toml` in ",
        ),
        (json!({"model": "ssd-oidv5"}), "did you mean `ssd-oidv4`?"),
        (
            json!({"model": "/nowhere/x.onnx"}),
            "/nowhere/x.onnx does not exist",
        ),
    ];
    for (config, says) in cases {
        let cx = context_in(&cards_only(), config);
        for error in [
            plugin().input(&cx).unwrap_err(),
            plugin().signals(&cx).unwrap_err(),
            create_error(&cx),
        ] {
            assert!(error.to_string().contains(says), "{:?}: {error}", cx.config);
        }
    }
}

#[test]
fn damaged_models_are_told_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let card = std::fs::read_to_string(cards_only().join("ssd-oidv4.toml")).unwrap();
    let table: toml::Table = card.parse().unwrap();
    let pinned = table["file"]["sha256"].as_str().unwrap().to_owned();
    let whole = std::fs::read(assets().join("models/ssd-oidv4.onnx")).expect("run cross/setup.sh");
    std::fs::write(dir.path().join("ssd-oidv4.toml"), &card).unwrap();
    let file = dir.path().join("ssd-oidv4.onnx");
    let cx = context_in(dir.path(), json!({"runtime": "tract"}));

    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let error = create_error(&cx).to_string();
    assert!(
        error.contains("cut short") && error.contains(file.to_str().unwrap()),
        "{error}"
    );

    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let error = create_error(&cx).to_string();
    assert!(
        error.contains("has sha256") && error.contains(&pinned),
        "{error}"
    );
    assert!(matches!(create_error(&cx), PluginError::Model { .. }));

    // A card that does not fit its model: another input, another number of anchors.
    for (from, to, says) in [
        ("width = 300 ", "width = 320 ", "ssd.anchors"),
        ("anchors = 1917", "anchors = 1900", "give 1917 for 300x300"),
        (
            "\"Car\",",
            "\"Car\", \"Van\",",
            "output `scores` has shape [1, 1917, 24]",
        ),
    ] {
        assert!(card.contains(from) || from.ends_with(' '), "{from}");
        let from = if card.contains(from) {
            from
        } else {
            from.trim_end()
        };
        std::fs::write(dir.path().join("m.toml"), card.replacen(from, to, 1)).unwrap();
        std::fs::copy(
            assets().join("models/ssd-oidv4.onnx"),
            dir.path().join("ssd-oidv4.onnx"),
        )
        .unwrap();
        let cx = context_in(dir.path(), json!({"runtime": "tract", "model": "m"}));
        let error = match plugin().create(&cx) {
            Err(error) => error.to_string(),
            // The number of classes only shows when the model has run.
            Ok(mut made) => {
                let pixels = vec![0; 300 * 300 * 3];
                made.extract(&view(0, &pixels), &[])
                    .unwrap_err()
                    .to_string()
            }
        };
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
}
