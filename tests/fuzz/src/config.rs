//! The config: a file's bytes, then, after a line that is one NUL, lines `NAME=value` of the
//! environment.
//!
//! What loads can be shown, and what is shown loads to the same config. What does not load says
//! why, each time with a place, in a bounded number of words.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use visualpath::config::{
    Diagnostic, LoadOptions, Loaded, load, load_or_last_good, show, show_text,
};

/// Separates the file from the environment.
pub const ENVIRONMENT: &[u8] = b"\n\0\n";
const OVERRIDE: &str = "VISUALPATH__";

/// Words of one finding may quote what is wrong, but not whole files.
const MAX_FINDING_BYTES: usize = 8 << 10;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    DIR.with(|dir| check_in(dir.path(), bytes))
}

fn check_in(dir: &Path, bytes: &[u8]) -> bool {
    let (file, env) = split(bytes);
    let options = LoadOptions {
        path: dir.join("c.toml"),
        env,
        ..LoadOptions::default()
    };
    fs::write(&options.path, file).unwrap();
    let loaded = load(&options);
    let good = loaded.is_ok();
    match loaded {
        Ok(loaded) => {
            told_well(&loaded.warnings, &options, file);
            assert!(
                !loaded.warnings.iter().any(Diagnostic::is_error),
                "loaded with an error"
            );
            shown_and_loaded_again(&loaded, &options);
        }
        Err(found) => {
            assert!(
                found.iter().any(Diagnostic::is_error),
                "refused without an error"
            );
            told_well(&found, &options, file);
        }
    }
    // There is no last good one here, but the broken text is read for its state directory.
    fs::write(&options.path, file).unwrap();
    drop(load_or_last_good(&options));
    good
}

fn split(bytes: &[u8]) -> (&[u8], BTreeMap<String, String>) {
    let at = bytes
        .windows(ENVIRONMENT.len())
        .position(|w| w == ENVIRONMENT);
    let (file, lines) = match at {
        Some(at) => (&bytes[..at], &bytes[at + ENVIRONMENT.len()..]),
        None => (bytes, &[][..]),
    };
    let env = String::from_utf8_lossy(lines)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (file, env)
}

/// Every finding has a place in the file, or names the variable it came from.
fn told_well(found: &[Diagnostic], options: &LoadOptions, file: &[u8]) {
    let name = options.path.display().to_string();
    let lines = file.split(|b| *b == b'\n').count();
    let mut total = 0;
    for finding in found {
        let text = finding.to_string();
        assert!(!finding.message.trim().is_empty(), "says nothing: {text}");
        if finding.file == name {
            let line = finding.line.map(|l| usize::try_from(l).unwrap());
            assert!(
                line.is_some_and(|l| (1..=lines).contains(&l)) && finding.column >= Some(1),
                "no place in the file: {finding:?}"
            );
        } else {
            assert!(
                finding.file.starts_with("env:"),
                "no place at all: {finding:?}"
            );
        }
        assert!(
            text.len() <= MAX_FINDING_BYTES + 2 * file.len(),
            "{} bytes to say one thing",
            text.len()
        );
        total += text.len();
    }
    let env: usize = options.env.values().map(String::len).sum();
    assert!(
        total <= (64 << 10) + 1000 * (file.len() + env),
        "{total} bytes of findings about {} bytes",
        file.len()
    );
}

fn shown_and_loaded_again(loaded: &Loaded, options: &LoadOptions) {
    for expanded in [false, true] {
        let text = show_text(&show(loaded, expanded));
        fs::write(&options.path, &text).unwrap();
        let mut again = options.clone();
        // The overrides are in the text, and of the expanded one all variables are.
        again
            .env
            .retain(|name, _| !expanded && !name.starts_with(OVERRIDE));
        let again = load(&again).unwrap_or_else(|f| panic!("shown but not loaded: {f:?}\n{text}"));
        assert_eq!(again.config, loaded.config, "{text}");
        let shown = show_text(&show(&again, expanded));
        assert_eq!(
            values(&shown),
            values(&text),
            "shown again, it is another text"
        );
    }
}

/// A shown text without the places, which change.
fn values(shown: &str) -> Vec<&str> {
    shown
        .lines()
        .map(|line| line.rsplit_once("   # ").map_or(line, |(value, _)| value))
        .collect()
}
