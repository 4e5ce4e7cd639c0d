//! What `[watch]` and `[mask]` promise: what a watch stands for, and that it runs; that masks hold
//! wherever an extractor runs.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use visualpath::config::{
    Config, LoadOptions, Loaded, Machine, SourceConfig, Start, WatchConfig, check_built, load,
    load_or_last_good, save_last_good, show, show_text,
};
use visualpath_core::{MaskKind, Name};

struct Case {
    dir: tempfile::TempDir,
    options: LoadOptions,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("visualpath.toml");
        fs::write(&path, text).unwrap();
        let options = LoadOptions {
            path,
            machine: Machine {
                host_name: "dock".to_owned(),
                machine_id: "42".to_owned(),
            },
            ..LoadOptions::default()
        };
        Self { dir, options }
    }

    fn load(&self) -> Loaded {
        let loaded = load(&self.options).unwrap_or_else(|found| panic!("{found:#?}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded
    }

    fn shown(&self, expanded: bool) -> String {
        let dir = format!("{}/", self.dir.path().display());
        show_text(&show(&self.load(), expanded)).replace(&dir, "")
    }
}

const SHORT: &str = "schema = 1
[source.cam0]
uri = \"video.mp4\"
[watch.person]
source = \"cam0\"
";

const LONG: &str = r#"schema = 1
[source.cam0]
uri = "a.mp4"
[source.cam1]
uri = "b.mp4"
[zone.door]
source = "cam0"
polygon = [[0.1, 0.4], [0.3, 0.4], [0.3, 1.0]]
[watch.visitor]
class = "person"
source = "cam0"
zone = "door"
for_ms = 900
clip = false
[watch.cup]
class = "Coffee cup"
source = "cam0"
min_confidence = 0.6
[watch.motion]
source = ["cam0", "cam1"]
pre_s = 1
"#;

#[test]
fn a_bare_watch_is_an_extractor_a_path_and_a_rule_and_says_where_it_is_written() {
    let case = Case::new(SHORT);
    let config = case.load().config;
    let objects = &config.extractor["objects"];
    assert_eq!(
        (objects.plugin.as_str(), objects.fps),
        ("object", Some(5.0))
    );
    assert_eq!(
        json!(objects.config),
        json!({"model": "ssd-oidv4", "classes": ["person"]})
    );
    assert_eq!(config.path["cam0"].extractors[0].as_str(), "objects");
    let rule = &config.fusion["cam0"].rules().unwrap().rule[0];
    assert_eq!(rule.label.as_str(), "person");
    assert_eq!(rule.when, "objects.person_count >= 1");
    assert!(config.watch.is_empty(), "it is replaced");
    let text = case.shown(true);
    for line in [
        "extractor.objects.plugin = \"object\"   # visualpath.toml:4:1",
        "when = \"objects.person_count >= 1\"   # visualpath.toml:4:1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let text = case.shown(false);
    assert!(text.contains("watch.person.source = \"cam0\"   # visualpath.toml:5:10"));
    assert!(!text.contains("objects"), "as written: {text}");
}

#[test]
fn watches_share_an_extractor_and_each_source_has_a_path_with_a_rule_for_each() {
    let config = Case::new(LONG).load().config;
    let names: Vec<&str> = config.extractor.keys().map(Name::as_str).collect();
    assert_eq!(names, ["motion", "objects"]);
    assert_eq!(
        json!(config.extractor["objects"].config),
        json!({"model": "ssd-oidv4", "classes": ["coffee cup", "person"], "threshold": 0.6})
    );
    let rules = |source: &str| -> Vec<(String, String)> {
        let rules = config.fusion[source].rules().unwrap();
        let each = rules.rule.iter();
        each.map(|r| (r.label.to_string(), r.when.clone()))
            .collect()
    };
    let pair = |label: &str, when: &str| (label.to_owned(), when.to_owned());
    let motion = pair("motion", "motion.score > 0.01");
    assert_eq!(rules("cam1"), std::slice::from_ref(&motion));
    assert_eq!(
        rules("cam0"),
        [
            pair("cup", "objects.coffee_cup_count >= 1"),
            motion,
            pair("visitor", "objects[\"person_count@door\"] >= 1"),
        ]
    );
    let visitor = &config.fusion["cam0"].rules().unwrap().rule[2];
    assert_eq!((visitor.for_ms, visitor.clip), (900, false));
    assert_eq!(config.path["cam0"].extractors.len(), 2);
    assert_eq!(config.path["cam1"].extractors[0].as_str(), "motion");
}

#[test]
fn what_is_shown_of_watches_loads_to_the_same_config() {
    for text in [SHORT, LONG] {
        let case = Case::new(text);
        for expanded in [false, true] {
            let again = Case::new(&case.shown(expanded)).load();
            assert_eq!(again.config, case.load().config, "expanded = {expanded}");
        }
        assert!(!case.shown(true).contains("watch."));
    }
}

#[test]
fn the_reference_says_what_watches_stand_for() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/config.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("## Watches").unwrap();
    let blocks: Vec<Config> = section
        .split("```toml\n")
        .skip(1)
        .take(2)
        .map(|rest| Case::new(rest.split("```").next().unwrap()).load().config)
        .collect();
    assert_eq!(blocks[0], blocks[1]);
}

#[test]
fn the_only_source_is_the_one_to_watch_also_that_of_the_command_line() {
    let mut case = Case::new("schema = 1\n[watch.dog]\n");
    assert!(load(&case.options).is_err(), "there is no source at all");
    case.options.source_uri = Some("yard.mp4".to_owned());
    let config = case.load().config;
    assert_eq!(config.source["cam0"].uri, "yard.mp4");
    assert!(config.path.contains_key("cam0"));
}

#[test]
fn variables_apps_and_the_last_good_config_know_watches() {
    let mut case = Case::new("");
    let state = case.dir.path().join("state");
    let text = format!("{SHORT}[device]\nstate_dir = {state:?}\n");
    fs::write(&case.options.path, &text).unwrap();
    let set = ("VISUALPATH__WATCH__PERSON__FOR_MS", "250");
    case.options.env = [set].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let loaded = case.load();
    let rule = |config: &Config| config.fusion["cam0"].rules().unwrap().rule[0].clone();
    assert_eq!(rule(&loaded.config).for_ms, 250);
    save_last_good(&case.options, &loaded).unwrap().unwrap();
    fs::write(&case.options.path, format!("{text}[mqtt\nx")).unwrap();
    case.options.env.clear();
    match load_or_last_good(&case.options).unwrap() {
        Start::LastGood { loaded: kept, .. } => assert_eq!(kept.config, loaded.config),
        Start::Asked(_) => panic!("the fault was not seen"),
    }

    let mut built = Config::default();
    let name = |n: &str| Name::new(n).unwrap();
    built
        .source
        .insert(name("cam0"), SourceConfig::new("a.mp4"));
    let watch: WatchConfig = serde_json::from_value(json!({})).unwrap();
    built.watch.insert(name("person"), watch);
    let checked = check_built(&built).unwrap();
    assert_eq!(rule(&checked.config).for_ms, 500);
}

#[test]
fn a_config_that_keeps_everything_in_processes_keeps_the_watch_there_too() {
    let isolated = Case::new(&format!("{SHORT}[isolation]\ndefault = \"process\"\n"));
    let of = |case: &Case| case.load().config.extractor["objects"].isolation;
    assert_eq!(of(&isolated), None, "the default holds");
    let thread = Some(visualpath::config::Isolation::Thread);
    assert_eq!(of(&Case::new(SHORT)), thread);
}

const MASKS: &str = r#"[mask.street]
source = ["cam0", "cam1"]
polygon = [[0, 0], [1, 0], [1, 0.2]]
kind = "motion"
[mask.window]
source = "cam0"
polygon = [[0, 0], [1, 0], [1, 0.3]]
kind = "privacy"
[mask.poster]
source = "cam1"
polygon = [[0, 0], [1, 0], [1, 0.4]]
kind = "objects"
"#;

#[test]
fn masks_reach_their_sources_and_privacy_nobody_but_the_source() {
    let config = Case::new(&format!("{LONG}{MASKS}")).load().config;
    let kinds = |source| -> Vec<MaskKind> {
        let masks = config.masks_of(source);
        masks.iter().map(|m| m.kind).collect()
    };
    assert_eq!(kinds("cam0"), [MaskKind::Motion]);
    assert_eq!(kinds("cam1"), [MaskKind::Objects, MaskKind::Motion]);
    let painted = vec![vec![[0.0, 0.0], [1.0, 0.0], [1.0, 0.3]]];
    assert_eq!(config.privacy_of("cam0"), painted);
    assert!(config.privacy_of("cam1").is_empty());
}

/// Six lines, a synthetic camera in which something moves from 3 s on, and where state goes.
fn moving(dir: &Path, more: &str) -> PathBuf {
    let text = format!(
        r#"schema = 1
[source.cam0]
uri = "synthetic:?code=0&text=0&fps=10&frames=60&shapes=1&shapes_at=30&seed=3"
realtime = false
[watch.motion]
clip = false
[device]
state_dir = {:?}
[mqtt]
url = "off"
{more}"#,
        dir.join("state")
    );
    let file = dir.join("visualpath.toml");
    fs::write(&file, text).unwrap();
    file
}

fn visualpath(args: &[&str], file: &Path) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_visualpath"))
        .args(args)
        .arg("-c")
        .arg(file)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// How many triggers a run gives.
fn triggers(file: &Path) -> usize {
    let (code, out, err) = visualpath(&["run", "--json"], file);
    assert_eq!(code, Some(0), "{err}");
    out.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["label"] == "motion")
        .count()
}

#[test]
fn a_watch_validates_and_runs_and_so_does_what_it_stands_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = moving(dir.path(), "");
    let (code, _, err) = visualpath(&["validate"], &file);
    assert_eq!(code, Some(0), "{err}");
    let (code, expanded, err) = visualpath(&["config", "show", "--expanded"], &file);
    assert_eq!(code, Some(0), "{err}");
    let fired = triggers(&file);
    assert!(fired >= 1, "something moves");
    fs::write(&file, expanded).unwrap();
    assert_eq!(triggers(&file), fired);
}

#[test]
fn a_watch_of_a_class_fits_what_the_plugin_and_its_model_say() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let case = Case::new(&LONG.replace(
        "[watch.motion]",
        "[watch.dog]\nsource = \"cam1\"\n[watch.motion]",
    ));
    let out = Command::new(env!("CARGO_BIN_EXE_visualpath"))
        .args(["validate", "-c"])
        .arg(&case.options.path)
        .env("VISUALPATH_MODEL_PATH", models)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
}

#[test]
fn a_mask_holds_wherever_the_extractor_runs() {
    let dir = tempfile::tempdir().unwrap();
    let polygon = "[[0, 0], [1, 0], [1, 1], [0, 1]]";
    for isolation in ["inline", "thread", "process"] {
        let more = format!("[isolation]\ndefault = \"{isolation}\"\n");
        assert!(triggers(&moving(dir.path(), &more)) >= 1, "{isolation}");
        let mask = format!(
            "{more}[mask.all]\nsource = \"cam0\"\npolygon = {polygon}\nkind = \"motion\"\n"
        );
        assert_eq!(triggers(&moving(dir.path(), &mask)), 0, "{isolation}");
    }
}
