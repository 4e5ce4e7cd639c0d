//! What a config promises: layers, overrides, expansion, defaults, places, what is shown, and the
//! last good one.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;
use visualpath::config::{
    Auto, Config, Diagnostic, DropPolicy, Isolation, LoadOptions, Loaded, Machine, Start,
    find_default, last_good_file, load, load_or_last_good, save_last_good, show, show_text,
};

const GOOD: &str = r#"schema = 1
[source.cam0]
uri = "video.mp4"
[extractor.person]
plugin = "object"
[extractor.person.config]
classes = ["person"]
[path.entrance]
source = "cam0"
extractors = ["person"]
fusion = "visitor"
[fusion.visitor]
plugin = "rules"
[[fusion.visitor.config.rule]]
label = "visitor"
when = "person.count >= 1"
[[fusion.visitor.config.rule]]
label = "crowd"
when = "person.count >= 5"
pre_s = 1.5
"#;

struct Case {
    dir: tempfile::TempDir,
    options: LoadOptions,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = LoadOptions {
            path: dir.path().join("visualpath.toml"),
            machine: Machine {
                host_name: "Dock".to_owned(),
                machine_id: "42".to_owned(),
            },
            ..LoadOptions::default()
        };
        let case = Self { dir, options };
        case.write("visualpath.toml", text);
        case
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn env(mut self, vars: &[(&str, &str)]) -> Self {
        self.options.env = vars
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        self
    }

    fn load(&self) -> Result<Loaded, Vec<String>> {
        load(&self.options).map_err(|found| self.texts(&found))
    }

    /// Findings without the directory.
    fn texts(&self, found: &[Diagnostic]) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        found
            .iter()
            .map(|d| d.to_string().replace(&dir, ""))
            .collect()
    }

    fn origin(&self, loaded: &Loaded, key: &str) -> String {
        let dir = format!("{}/", self.dir.path().display());
        loaded.origin(key).to_string().replace(&dir, "")
    }
}

fn rules(config: &Config) -> &visualpath::config::RulesConfig {
    config.fusion["visitor"].rules().unwrap()
}

#[test]
fn one_source_extractor_path_and_rule_are_enough() {
    let case = Case::new(GOOD);
    let loaded = case.load().unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = &loaded.config;
    assert!(config.device_id().starts_with("dock-"));
    assert_eq!(config.device.state_dir, Path::new("/var/lib/visualpath"));
    assert_eq!(config.clip_dir(), Path::new("/var/lib/visualpath/clips"));
    assert!(config.source["cam0"].realtime);
    assert_eq!(config.extractor["person"].timeout_ms, Auto::Auto);
    assert_eq!(config.extractor["person"].drop, Some(DropPolicy::Oldest));
    assert_eq!(rules(config).rule[0].pre_s, 3.0);
    assert_eq!(rules(config).rule[1].pre_s, 1.5);
    assert_eq!(config.mqtt.url, "mqtt://127.0.0.1:1883");
    let person = &config.extractor["person"];
    assert_eq!(
        config.isolation_of(person, Isolation::Inline),
        Isolation::Inline
    );
    assert_eq!(
        config.isolation_of(person, Isolation::Thread),
        Isolation::Thread
    );
}

#[test]
fn a_missing_schema_number_is_a_warning() {
    let case = Case::new(&GOOD.replace("schema = 1\n", ""));
    let loaded = case.load().unwrap();
    assert_eq!(
        case.texts(&loaded.warnings),
        ["visualpath.toml:1:1: warning: schema: missing: taken as 1; add `schema = 1` at the top"]
    );
}

#[test]
fn not_realtime_means_no_drops() {
    let case = Case::new(&GOOD.replace("\"video.mp4\"", "\"video.mp4\"\nrealtime = false"));
    assert_eq!(
        case.load().unwrap().config.extractor["person"].drop,
        Some(DropPolicy::None)
    );
}

#[test]
fn every_key_keeps_file_line_and_column() {
    let case = Case::new(GOOD);
    let loaded = case.load().unwrap();
    for (key, place) in [
        ("source.cam0.uri", "visualpath.toml:3:7"),
        (
            "fusion.visitor.config.rule[1].pre_s",
            "visualpath.toml:20:9",
        ),
        ("extractor.person.config.classes[0]", "visualpath.toml:7:12"),
        // Not set: where its section begins.
        ("extractor.person.config.nms", "visualpath.toml:6:1"),
        ("extractor.person.fps", "visualpath.toml:4:1"),
    ] {
        assert_eq!(case.origin(&loaded, key), place, "{key}");
    }
    let late = loaded.error_at("fusion.visitor.config.rule[0].when", "no signal `cuont`");
    assert_eq!(
        case.texts(&[late]),
        ["visualpath.toml:16:8: error: fusion.visitor.config.rule[0].when: no signal `cuont`"]
    );
}

#[test]
fn conf_d_merges_tables_replaces_arrays_and_the_later_file_wins() {
    let case = Case::new(GOOD);
    case.write("conf.d/20-b.toml", "[source.cam0]\nfps = 12\n");
    case.write(
        "conf.d/10-a.toml",
        "source.cam0.fps = 5\nsource.cam0.loop = true\n[extractor.person.config]\nclasses = [\"car\", \"dog\"]\n",
    );
    case.write("conf.d/30-c.toml.off", "nonsense");
    case.write("conf.d/.40.toml", "nonsense");
    let loaded = case.load().unwrap();
    let source = &loaded.config.source["cam0"];
    assert_eq!(
        (source.fps, source.repeat, source.uri.as_str()),
        (Some(12.0), true, "video.mp4")
    );
    assert_eq!(
        loaded.config.extractor["person"].config["classes"],
        json!(["car", "dog"])
    );
    assert_eq!(
        case.origin(&loaded, "source.cam0.fps"),
        "conf.d/20-b.toml:2:7"
    );
    assert_eq!(
        case.origin(&loaded, "source.cam0.loop"),
        "conf.d/10-a.toml:2:20"
    );
    assert_eq!(
        case.origin(&loaded, "source.cam0.uri"),
        "visualpath.toml:3:7"
    );
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn faults_are_told_in_the_order_of_the_files() {
    let case = Case::new(&GOOD.replace("schema = 1", "schema = 1\nscheme = 2"));
    case.write("conf.d/a.toml", "[source.cam0]\nfps = \"x\"\nfsp = 1\n");
    assert_eq!(
        case.load().unwrap_err(),
        [
            "visualpath.toml:2:1: error: scheme: unknown key; did you mean `schema`?",
            "conf.d/a.toml:2:7: error: source.cam0.fps: expected a number from 0.01 to 1000 (frames per second), got \"x\"",
            "conf.d/a.toml:3:1: error: source.cam0.fsp: unknown key; did you mean `fps`?",
        ]
    );
}

#[test]
fn a_broken_file_of_conf_d_is_told_by_its_name() {
    let case = Case::new(GOOD);
    case.write("conf.d/a.toml", "x = \n");
    let found = case.load().unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("conf.d/a.toml:1:"), "{found:?}");
}

#[test]
fn variables_override_keys_whatever_their_case() {
    let case = Case::new(&GOOD.replace("classes", "minScore = 0.1\nclasses")).env(&[
        ("VISUALPATH__MQTT__URL", "mqtt://b:1883"),
        ("VISUALPATH__MQTT__PASSWORD_FILE", "/run/pw"),
        // A user name of digits stays text.
        ("VISUALPATH__MQTT__USERNAME", "1234"),
        ("VISUALPATH__SOURCE__CAM0__FPS", "7.5"),
        (
            "VISUALPATH__EXTRACTOR__PERSON__CONFIG__CLASSES",
            "[\"car\"]",
        ),
        ("VISUALPATH__EXTRACTOR__PERSON__CONFIG__MINSCORE", "0.9"),
        ("VISUALPATH__EXTRACTOR__PERSON__CONFIG__NEW", "a = b"),
        ("VISUALPATH__FUSION__VISITOR__CONFIG__RULE__1__PRE_S", "4"),
        ("VISUALPATH__CLIP", "{ gop_s = 1.0 }"),
        ("VISUALPATH_ASSETS", "not an override"),
    ]);
    let loaded = case.load().unwrap();
    let config = &loaded.config;
    assert_eq!(config.mqtt.url, "mqtt://b:1883");
    assert_eq!(config.mqtt.username.as_deref(), Some("1234"));
    assert_eq!(config.source["cam0"].fps, Some(7.5));
    let plugin = &config.extractor["person"].config;
    assert_eq!(plugin["classes"], json!(["car"]));
    assert_eq!(plugin["minScore"], json!(0.9));
    assert_eq!(plugin["new"], json!("a = b"));
    assert_eq!(rules(config).rule[1].pre_s, 4.0);
    assert_eq!(config.clip.gop_s, 1.0);
    assert_eq!(
        loaded.origin("mqtt.url").to_string(),
        "env:VISUALPATH__MQTT__URL"
    );
}

#[test]
fn faults_of_overrides_name_the_variable() {
    let case = Case::new(GOOD).env(&[
        ("VISUALPATH__SOURCE__CAM0__FPS", "fast"),
        ("VISUALPATH__MQT__URL", "mqtt://b"),
        ("VISUALPATH__FUSION__VISITOR__CONFIG__RULE__2__PRE_S", "4"),
        ("VISUALPATH____X", "4"),
        ("VISUALPATH__SCHEMA__X", "4"),
    ]);
    let mut found = case.load().unwrap_err();
    found.sort();
    assert_eq!(
        found,
        [
            "env:VISUALPATH__FUSION__VISITOR__CONFIG__RULE__2__PRE_S: error: fusion.visitor.config.rule[2].pre_s: there is no item 2: the list has 2, counted from 0",
            "env:VISUALPATH__MQT__URL: error: mqt: unknown key; did you mean `mqtt`?",
            "env:VISUALPATH__SCHEMA__X: error: schema.x: expected a table to set `x` in, got 1",
            "env:VISUALPATH__SOURCE__CAM0__FPS: error: source.cam0.fps: expected a number from 0.01 to 1000 (frames per second), got \"fast\"",
            "env:VISUALPATH____X: error: expected the parts of a key between `__`, e.g. VISUALPATH__MQTT__URL",
        ]
    );
}

#[test]
fn strings_of_files_expand_and_overrides_do_not() {
    let text = GOOD.replace("video.mp4", "${DIR:-/videos}/${FILE}.mp4")
        + "[mqtt]\nurl = \"mqtt://${HOST}\"\nprefix = \"cost$$\"\n";
    let case = Case::new(&text).env(&[
        ("FILE", "a"),
        ("HOST", "b"),
        ("VISUALPATH__MQTT__PREFIX", "a${HOST}$$"),
    ]);
    let loaded = case.load().unwrap();
    assert_eq!(loaded.config.source["cam0"].uri, "/videos/a.mp4");
    assert_eq!(loaded.config.mqtt.url, "mqtt://b");
    assert_eq!(loaded.config.mqtt.prefix, "a${HOST}$$");
}

#[test]
fn the_source_argument_replaces_the_uri_or_adds_a_source() {
    let mut case = Case::new(GOOD);
    case.options.source_uri = Some("other.avi".to_owned());
    let loaded = case.load().unwrap();
    assert_eq!(loaded.config.source["cam0"].uri, "other.avi");
    assert_eq!(loaded.origin("source.cam0.uri").to_string(), "--source");
    let mut case = Case::new(&GOOD.replace("[source.cam0]\nuri = \"video.mp4\"\n", ""));
    case.options.source_uri = Some("other.avi".to_owned());
    assert_eq!(case.load().unwrap().config.source["cam0"].uri, "other.avi");
}

#[test]
fn shown_keys_tell_value_and_origin() {
    let text = GOOD.replace("\"video.mp4\"", "\"${FILE}\"\nfps = 10");
    let case = Case::new(&text).env(&[("FILE", "a.mp4"), ("VISUALPATH__CLIP__GOP_S", "1")]);
    let loaded = case.load().unwrap();
    let dir = format!("{}/", case.dir.path().display());
    let text = show_text(&show(&loaded, false)).replace(&dir, "");
    for line in [
        "source.cam0.fps = 10   # visualpath.toml:4:7",
        "source.cam0.uri = \"${FILE}\"   # visualpath.toml:3:7",
        "clip.gop_s = 1   # env:VISUALPATH__CLIP__GOP_S",
        "[[fusion.visitor.config.rule]]",
        "label = \"crowd\"   # visualpath.toml:19:9",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("default"));
    let text = show_text(&show(&loaded, true)).replace(&dir, "");
    for line in [
        "source.cam0.uri = \"a.mp4\"   # visualpath.toml:3:7",
        "source.cam0.realtime = true   # default",
        "extractor.person.drop = \"oldest\"   # default",
        "release_ms = 300   # default",
        "mqtt.prefix = \"visualpath\"   # default",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let json = serde_json::to_value(show(&loaded, true)).unwrap();
    assert!(
        json.as_array()
            .unwrap()
            .contains(&json!({"key": "source.cam0.realtime", "value": true, "origin": "default"}))
    );
}

#[test]
fn what_is_shown_loads_to_the_same_config() {
    let text = GOOD.replace(
        "classes",
        "odd = { \"a b\" = [1, [2.5, { x = \"$$\\\"\\n\" }]], when = 2024-01-01 }\nempty = {}\nlist = [{a = 1}, {b = {c = 2}}]\nclasses",
    );
    let case = Case::new(&text).env(&[("VISUALPATH__MQTT__PREFIX", "a$$b")]);
    let loaded = case.load().unwrap();
    for expanded in [false, true] {
        let again = Case::new(&show_text(&show(&loaded, expanded)));
        let again = again.load().unwrap();
        assert_eq!(again.config, loaded.config, "expanded = {expanded}");
    }
}

#[test]
fn findings_as_json_have_place_key_and_hint() {
    let case = Case::new(&GOOD.replace("classes", "clases"));
    let found = load(&case.options).unwrap().warnings;
    assert!(found.is_empty(), "a plugin's keys are its own");
    let case = Case::new(&GOOD.replace("plugin = \"object\"", "plugni = \"object\""));
    let found = load(&case.options).unwrap_err();
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        json!([
            {"severity": "error", "file": case.options.path, "line": 4, "column": 1,
             "key": "extractor.person.plugin", "message": "missing: expected a string",
             "hint": "add `plugin = \"object\"`"},
            {"severity": "error", "file": case.options.path, "line": 5, "column": 1,
             "key": "extractor.person.plugni", "message": "unknown key",
             "hint": "did you mean `plugin`?"},
        ])
    );
}

#[test]
fn files_that_cant_be_read_are_named() {
    let mut case = Case::new(GOOD);
    case.options.path = case.dir.path().join("nope.toml");
    let found = case.load().unwrap_err();
    assert!(
        found[0].starts_with("nope.toml: error: can't be read: "),
        "{found:?}"
    );
    let case = Case::new(GOOD);
    fs::write(&case.options.path, b"schema = 1\n# \xff\n").unwrap();
    assert_eq!(
        case.load().unwrap_err(),
        ["visualpath.toml:2:3: error: not TOML: a byte that is not UTF-8"]
    );
    let case = Case::new(&format!("# {}\n", "x".repeat(1 << 20)));
    assert_eq!(
        case.load().unwrap_err(),
        ["visualpath.toml: error: is larger than 1048576 bytes"]
    );
}

fn with_state_dir(text: &str, dir: &Path) -> String {
    format!("{text}[device]\nstate_dir = {:?}\n", dir.join("state"))
}

#[test]
fn a_broken_config_starts_the_last_good_one_and_says_what_is_broken() {
    let case = Case::new("").env(&[("FILE", "a.mp4"), ("VISUALPATH__MQTT__PREFIX", "site")]);
    let good = with_state_dir(&GOOD.replace("video.mp4", "${FILE}"), case.dir.path());
    case.write("visualpath.toml", &good);
    case.write("conf.d/a.toml", "[source.cam0]\nfps = 3\n");
    let Ok(Start::Asked(asked)) = load_or_last_good(&case.options) else {
        panic!("the good config did not load");
    };
    let kept = save_last_good(&case.options, &asked).unwrap().unwrap();
    assert_eq!(
        kept,
        last_good_file(&case.dir.path().join("state"), &case.options.path)
    );
    let names: Vec<_> = fs::read_dir(kept.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");

    // Broken in every way a file can be: wrong key, no TOML from some line on, a bad override.
    let faults = [
        good.replace("plugin = \"object\"", "plugni = \"object\""),
        format!("{good}[mqtt\nx"),
        good.clone(),
    ];
    for (index, text) in faults.iter().enumerate() {
        case.write("visualpath.toml", text);
        let mut options = case.options.clone();
        if index == 2 {
            options.env = BTreeMap::from([(
                "VISUALPATH__SOURCE__CAM0__FPS".to_owned(),
                "fast".to_owned(),
            )]);
        }
        match load_or_last_good(&options).unwrap() {
            Start::LastGood {
                loaded,
                file,
                broken,
            } => {
                assert_eq!(loaded.config, asked.config, "fault {index}");
                assert_eq!(file, kept);
                assert!(broken.iter().any(Diagnostic::is_error));
                // Keeping it again changes nothing.
                let before = fs::read(&kept).unwrap();
                save_last_good(&options, &loaded).unwrap();
                assert_eq!(fs::read(&kept).unwrap(), before);
            }
            Start::Asked(_) => panic!("fault {index} was not seen"),
        }
    }
}

#[test]
fn with_no_last_good_config_every_fault_is_told() {
    let case = Case::new("");
    case.write(
        "visualpath.toml",
        &with_state_dir(&GOOD.replace("rules", "rulse"), case.dir.path()),
    );
    let found = load_or_last_good(&case.options).unwrap_err();
    assert_eq!(
        case.texts(&found),
        [
            "visualpath.toml:13:10: error: fusion.visitor.plugin: there is no fusion plugin `rulse`; did you mean `rules`?"
        ]
    );
    // A last good one that is damaged is told too, after the faults of the one asked for.
    let kept = last_good_file(&case.dir.path().join("state"), &case.options.path);
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "schema = ").unwrap();
    let found = load_or_last_good(&case.options).unwrap_err();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[1].to_string().contains("can't be used either"));
}

#[test]
fn a_run_with_another_source_is_not_kept() {
    let mut case = Case::new("");
    case.write("visualpath.toml", &with_state_dir(GOOD, case.dir.path()));
    case.options.source_uri = Some("x.mp4".to_owned());
    let loaded = case.load().unwrap();
    assert_eq!(save_last_good(&case.options, &loaded).unwrap(), None);
    assert!(!case.dir.path().join("state").exists());
}

#[test]
fn zones_and_dependencies_reach_their_users() {
    let text = format!(
        "{GOOD}[extractor.motion]\nplugin = \"motion\"\n[zone.door]\nsource = \"cam0\"\npolygon = [[0, 0], [1, 0], [1, 1]]\n"
    )
    .replace("plugin = \"object\"", "plugin = \"object\"\ndepends = [\"motion\"]");
    let case = Case::new(&text);
    let loaded = case.load().unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = &loaded.config;
    assert_eq!(config.zones_of("cam0").len(), 1);
    assert_eq!(
        config.extractors_of(&config.path["entrance"]),
        ["motion", "person"]
    );
    assert_eq!(config.sources_of("motion")[0].0.as_str(), "cam0");
}

#[test]
fn an_extractor_on_several_sources_has_each_ones_drop_policy() {
    let text = format!(
        "{GOOD}[source.tape]\nuri = \"b.mp4\"\nrealtime = false\n[extractor.motion]\nplugin = \"motion\"\n"
    )
    .replace("source = \"cam0\"", "source = [\"cam0\", \"tape\"]")
    .replace("plugin = \"object\"", "plugin = \"object\"\ngate = \"motion.score > 0.1\"");
    let case = Case::new(&text);
    let loaded = case.load().unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = &loaded.config;
    let person = &config.extractor["person"];
    assert_eq!(person.drop, None, "no one answer");
    let policies: Vec<DropPolicy> = config
        .sources_of("person")
        .into_iter()
        .map(|(_, s)| visualpath::config::Config::drop_policy_of(person, s.realtime))
        .collect();
    assert_eq!(policies, [DropPolicy::Oldest, DropPolicy::None]);
    let tape = config.sources_of("motion")[1].0.clone();
    assert_eq!(
        config.extractors_on(&tape),
        ["motion", "person"],
        "through the gate"
    );
}

#[test]
fn the_default_place_is_the_working_directory_first() {
    // Only what can be said of any machine: a file found exists.
    if let Some(found) = find_default() {
        assert!(found.is_file());
    }
}
