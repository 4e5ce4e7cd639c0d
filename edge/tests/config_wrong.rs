//! Wrong configs, each with the message it must give.
//!
//! Every file of `fixtures/wrong_configs` begins with `# expect: LINE:COLUMN: KEY: MESSAGE` lines
//! (`# warn:` for warnings, `# note:` for notes; the `KEY: ` is absent for a whole file). All findings of the file must
//! be these, word for word: what is not found and what is found too much both fail.
//! Lines of a hint with several lines are joined by ` | `.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use visualpath::config::{Diagnostic, LoadOptions, Machine, Severity, load};

const WORDS: [&str; 3] = ["# expect: ", "# warn: ", "# note: "];

fn fixtures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wrong_configs");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

fn options(path: &Path) -> LoadOptions {
    LoadOptions {
        path: path.to_owned(),
        env: BTreeMap::from([("HOST".to_owned(), "broker".to_owned())]),
        machine: Machine::default(),
        ..LoadOptions::default()
    }
}

fn line(path: &Path, d: &Diagnostic) -> String {
    let text = d.to_string();
    let text = text
        .strip_prefix(&format!("{}:", path.display()))
        .unwrap_or_else(|| panic!("{text} does not begin with the file"));
    let (word, text) = match d.severity {
        Severity::Error => ("expect", text.replacen("error: ", "", 1)),
        Severity::Warning => ("warn", text.replacen("warning: ", "", 1)),
        Severity::Note => ("note", text.replacen("note: ", "", 1)),
    };
    // A second place in the same file.
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = text.replace(&path.display().to_string(), name);
    format!("# {word}: {}", text.replace("\n    ", " | "))
}

#[test]
fn every_wrong_config_gives_its_messages_and_no_others() {
    let files = fixtures();
    assert!(files.len() >= 25, "only {} wrong configs", files.len());
    let mut faults = String::new();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let expected: Vec<String> = text
            .lines()
            .take_while(|l| WORDS.iter().any(|word| l.starts_with(word)))
            .map(str::to_owned)
            .collect();
        let found: Vec<String> = match load(&options(path)) {
            Err(found) => found.iter().map(|d| line(path, d)).collect(),
            Ok(loaded) => loaded.warnings.iter().map(|d| line(path, d)).collect(),
        };
        if found != expected || expected.is_empty() {
            faults.push_str(&format!(
                "\n{}\n  expected\n{}\n  found\n{}\n",
                path.display(),
                expected.join("\n"),
                found.join("\n")
            ));
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_error_fixture_is_refused() {
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        let refused = load(&options(&path)).is_err();
        assert_eq!(refused, text.contains("# expect: "), "{}", path.display());
    }
}
