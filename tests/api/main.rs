//! The public API changes only as the version number says (semver.org; cargo's rules for 0.x).
//!
//! `docs/reference/api/<package>.txt` lists what apps can use, one item a line, as it was when the
//! version in its first line began. `cross/api.sh` makes rustdoc's JSON of the code as it is,
//! runs the ignored test here to compare, and writes the listings anew when asked to.
//!
//! Breaking is: a line that is gone or different; a field more in a struct that can be built from
//! its fields, or a variant more in an enum that can be matched in full; a method more that a trait
//! demands. Not seen: `Send` and `Sync` that are lost, and behaviour.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod listing;
mod rules;

use std::path::{Path, PathBuf};

use listing::Listing;
use rules::{Change, compare};

/// The packages whose API is promised (CONTRACTS §5): package and crate.
const PROMISED: [(&str, &str); 2] = [
    ("visualpath", "visualpath"),
    ("visualpath-core", "visualpath_core"),
];

fn file(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/reference/api/{package}.txt"))
}

#[test]
#[ignore = "run by cross/api.sh, which makes the JSON"]
fn the_public_api_changes_only_as_the_version_says() {
    let dir = PathBuf::from(std::env::var_os("VISUALPATH_API_JSON").expect("VISUALPATH_API_JSON"));
    let mode = std::env::var("VISUALPATH_API_MODE").unwrap_or_default();
    let mut faults = Vec::new();
    for (package, name) in PROMISED {
        let now = Listing::of_crate(&dir, package, name);
        assert!(now.lines.len() > 50, "{package}: hardly anything is listed");
        let path = file(package);
        let then = std::fs::read_to_string(&path)
            .ok()
            .map(|text| Listing::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}")));
        match (mode.as_str(), then) {
            ("overwrite", _) | ("update", None) => now.write(&path),
            ("update", Some(then)) => match told(package, &then, &now) {
                Err(fault) if !allowed(&then, &now) => faults.push(fault),
                _ => now.write(&path),
            },
            (_, Some(then)) => faults.extend(told(package, &then, &now).err()),
            (_, None) => faults.push(format!("{}: run cross/api.sh update", path.display())),
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Whether what changed fits the version.
fn allowed(then: &Listing, now: &Listing) -> bool {
    let breaks = compare(&then.lines, &now.lines)
        .iter()
        .any(Change::is_breaking);
    !breaks || rules::may_break(&then.version, &now.version)
}

/// Nothing changed, or what did and what to do.
fn told(package: &str, then: &Listing, now: &Listing) -> Result<(), String> {
    let changes = compare(&then.lines, &now.lines);
    if changes.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let todo = if allowed(then, now) {
        "run `cross/api.sh update` and commit the listing"
    } else {
        "this breaks apps: undo it, or raise the version in Cargo.toml as semver asks and run \
         `cross/api.sh update`"
    };
    Err(format!(
        "the public API of {package} {} is not that of {}:\n{}\n{todo}\n",
        now.version,
        then.version,
        list.join("\n")
    ))
}
