//! Schema, default text and reference docs tell the same keys.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use visualpath::config::not_built::NOT_BUILT;
use visualpath::config::{
    Diagnostic, KeyInfo, LoadOptions, Loaded, SECTIONS, Severity, default_text, keys, load, schema,
};

fn load_text(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("visualpath.toml");
    fs::write(&path, text).unwrap();
    load(&LoadOptions {
        path,
        ..LoadOptions::default()
    })
}

/// Paths of all keys of a TOML text, names as `*`, items as `[]`, in the form of
/// [`KeyInfo::path`].
fn key_paths(text: &str) -> BTreeMap<String, toml::Value> {
    fn walk(value: &toml::Value, path: String, out: &mut BTreeMap<String, toml::Value>) {
        const NAMED: [&str; 7] = [
            "source",
            "extractor",
            "zone",
            "mask",
            "path",
            "fusion",
            "watch",
        ];
        // Their keys are a plugin's, or a camera's.
        const FREE: [&str; 2] = ["extractor.*.config", "source.*.controls"];
        match value {
            toml::Value::Table(table) if !FREE.contains(&path.as_str()) => {
                for (key, value) in table {
                    let key = if NAMED.contains(&path.as_str()) {
                        "*"
                    } else {
                        key
                    };
                    let path = if path.is_empty() {
                        key.to_owned()
                    } else {
                        format!("{path}.{key}")
                    };
                    walk(value, path, out);
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for item in items {
                    walk(item, format!("{path}[]"), out);
                }
            }
            _ => {
                out.insert(path, value.clone());
            }
        }
    }
    let mut out = BTreeMap::new();
    let table: toml::Table = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    walk(&toml::Value::Table(table), String::new(), &mut out);
    out
}

/// The default text with every `#key = …` and `#[section]` in force.
fn uncommented(text: &str) -> String {
    text.lines()
        .map(|line| {
            let setting = line
                .strip_prefix('#')
                .is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
            let line = if setting { &line[1..] } else { line };
            format!("{line}\n")
        })
        .collect()
}

#[test]
fn the_default_config_is_valid_as_it_is() {
    let loaded = load_text(default_text()).unwrap_or_else(|f| panic!("{f:#?}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_default_config_shows_every_key_of_the_schema() {
    let shown: BTreeSet<String> = key_paths(&uncommented(default_text()))
        .into_keys()
        .collect();
    let known: BTreeSet<String> = keys().iter().map(KeyInfo::path).collect();
    assert_eq!(shown, known);
}

#[test]
fn the_default_config_shows_defaults_or_says_that_it_is_an_example() {
    let shown = key_paths(&uncommented(default_text()));
    let example: BTreeSet<&str> = default_text()
        .lines()
        .filter(|l| l.starts_with('#') && l.contains("# example"))
        .filter_map(|l| l[1..].split_once(" = ").map(|(key, _)| key))
        .collect();
    for info in keys() {
        let commented = default_text()
            .lines()
            .any(|l| l.starts_with(&format!("#{} = ", info.key)));
        if !commented || example.contains(info.key.as_str()) || info.required {
            continue;
        }
        let default = info.default.clone().unwrap_or(Value::Null);
        let shown = serde_json::to_value(&shown[&info.path()]).unwrap();
        let same = match (shown.as_f64(), default.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => shown == default,
        };
        assert!(same, "{}: shown {shown}, default {default}", info.path());
    }
}

#[test]
fn with_every_key_in_force_only_what_is_not_built_is_found() {
    let found = match load_text(&uncommented(default_text())) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found,
    };
    assert!(!found.is_empty(), "update this test: everything is built");
    for d in found {
        assert!(
            d.message.contains("not in this build yet")
                || d.message.contains("has no effect on a file")
                // The default level is off.
                || d.message.contains("no sink gets a record"),
            "{d}"
        );
    }
}

#[test]
fn another_validator_accepts_what_the_check_accepts() {
    let validator = jsonschema::validator_for(schema()).unwrap();
    assert!(jsonschema::meta::is_valid(schema()));
    for text in [default_text().to_owned(), uncommented(default_text())] {
        let config: toml::Table = toml::from_str(&text).unwrap();
        let json = serde_json::to_value(config).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(&json)
            .map(|e| e.to_string())
            .collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
    // The config in force is one too, defaults and all.
    let json = serde_json::to_value(load_text(default_text()).unwrap().config).unwrap();
    assert!(validator.is_valid(&json));
    for wrong in [
        r#"{"schema": 2}"#,
        r#"{"clip": {"gop_s": 0}}"#,
        r#"{"fusion": {"a": {"plugin": "rules", "config": {"rule": [{"label": "x"}]}}}}"#,
        r#"{"source": {"Cam": {"uri": "x"}}}"#,
        r#"{"path": {"a": {"source": "s", "extractors": [], "fusion": "f"}}}"#,
    ] {
        let json: Value = serde_json::from_str(wrong).unwrap();
        assert!(!validator.is_valid(&json), "{wrong}");
    }
}

#[test]
fn what_is_not_built_names_keys_of_the_schema() {
    let known: BTreeSet<String> = keys().iter().map(KeyInfo::path).collect();
    for row in NOT_BUILT {
        let section = SECTIONS.contains(&format!("{}[]", row.key).as_str());
        assert!(known.contains(row.key) || section, "{}", row.key);
    }
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The generated part of `docs/reference/config.md`.
fn reference_tables() -> String {
    let mut out = String::new();
    let all = keys();
    for section in SECTIONS {
        let rows: Vec<&KeyInfo> = all.iter().filter(|k| k.section == section).collect();
        let title = match section {
            "" => "Top of the file".to_owned(),
            list if list.ends_with("[]") => format!("`[[{}]]`", list.trim_end_matches("[]")),
            table => format!("`[{table}]`"),
        };
        if rows.is_empty() {
            continue;
        }
        out.push_str(&format!(
            "\n### {title}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n"
        ));
        for row in rows {
            let default = match (&row.default, row.required) {
                (_, true) => "**required**".to_owned(),
                (Some(default), _) => format!("`{default}`"),
                (None, _) => "–".to_owned(),
            };
            let mut meaning = row.description.clone();
            for not in NOT_BUILT.iter().filter(|n| n.key == row.path()) {
                meaning.push_str(&format!(
                    " *Not in this build yet{}",
                    match not.used {
                        visualpath::config::not_built::Use::Set => String::new(),
                        visualpath::config::not_built::Use::Is(words) =>
                            format!(": `{}`", words.join("`, `")),
                        visualpath::config::not_built::Use::StartsWith(starts) =>
                            format!(": `{}`", starts.join("`, `")),
                    }
                ));
                meaning.push_str(match not.severity {
                    Severity::Error => " (error).*",
                    Severity::Warning => " (warning).*",
                    Severity::Note => ".*",
                });
            }
            let cell = |text: &str| text.replace('|', "\\|");
            out.push_str(&format!(
                "| `{}` | {} | {} | {} |\n",
                row.key,
                cell(&row.expects),
                cell(&default),
                cell(&meaning)
            ));
        }
    }
    out
}

const BEGIN: &str = "<!-- keys: generated from the schema; VISUALPATH_WRITE_DOCS=1 rewrites -->\n";
const END: &str = "\n<!-- end of keys -->";

#[test]
fn the_reference_lists_every_key_as_the_schema_has_it() {
    let file = docs().join("reference/config.md");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin mark");
    let (there, after) = rest.split_once(END).expect("the end mark");
    let tables = reference_tables();
    if std::env::var_os("VISUALPATH_WRITE_DOCS").is_some() {
        fs::write(&file, format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            there, tables,
            "run this test with VISUALPATH_WRITE_DOCS=1 and commit"
        );
    }
}

/// The ```toml blocks of a page that are configs: those with a line `schema = 1` are whole.
fn toml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            None if line.trim() == "```toml" => open = Some((index + 2, String::new())),
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

fn pages(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, out);
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
}

#[test]
fn every_config_in_the_docs_is_valid() {
    let mut files = Vec::new();
    pages(&docs(), &mut files);
    let readme = docs().join("../README.md");
    if readme.exists() {
        files.push(readme);
    }
    let mut whole = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (line, block) in toml_blocks(&text) {
            let place = format!("{}:{line}", file.display());
            toml::from_str::<toml::Table>(&block).unwrap_or_else(|e| panic!("{place}: {e}"));
            if !block.lines().any(|l| l.starts_with("schema = 1")) {
                continue;
            }
            whole += 1;
            if let Err(found) = load_text(&block) {
                panic!("{place}: {found:#?}");
            }
        }
    }
    assert!(whole >= 2, "the reference has examples");
}
