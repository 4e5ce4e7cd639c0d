//! `visualpath plugins new`: a plugin to begin with. The templates are beside this file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use visualpath_core::Name;

/// Language of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// A program of its own, with the Rust SDK.
    Rust,
    /// A package, run by the Python SDK in a venv.
    Python,
}

/// Path (with placeholders) and text of each file.
type Template = &'static [(&'static str, &'static str)];

const RUST: Template = &[
    ("Cargo.toml", include_str!("scaffold/rust/Cargo.toml.in")),
    ("README.md", include_str!("scaffold/rust/README.md.in")),
    ("plugin.toml", include_str!("scaffold/rust/plugin.toml.in")),
    ("src/main.rs", include_str!("scaffold/rust/main.rs.in")),
];

const PYTHON: Template = &[
    ("README.md", include_str!("scaffold/python/README.md.in")),
    (
        "plugin.toml",
        include_str!("scaffold/python/plugin.toml.in"),
    ),
    (
        "pyproject.toml",
        include_str!("scaffold/python/pyproject.toml.in"),
    ),
    (
        "src/@module@/__init__.py",
        include_str!("scaffold/python/plugin.py.in"),
    ),
    (
        "tests/test_@name@.py",
        include_str!("scaffold/python/test.py.in"),
    ),
];

/// Why no plugin was written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// Something is there.
    #[error("{} exists; choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The SDK is not where it was said to be.
    #[error("--sdk {}: there is no Cargo.toml in it", .0.display())]
    NoSdk(PathBuf),
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

/// Writes a plugin into `dir`, which must not exist. Gives the files, relative to it.
pub fn write(
    name: &Name,
    lang: Lang,
    sdk: Option<&Path>,
    dir: &Path,
) -> Result<Vec<String>, ScaffoldError> {
    let fill = placeholders(name, sdk)?;
    // Making the directory is what refuses to overwrite: there is no moment in between.
    fs::create_dir(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ScaffoldError::Exists(dir.to_owned()),
        _ => ScaffoldError::Io {
            path: dir.to_owned(),
            error,
        },
    })?;
    let template = match lang {
        Lang::Rust => RUST,
        Lang::Python => PYTHON,
    };
    let mut written = Vec::new();
    for (file, text) in template {
        let file = replaced(file, &fill);
        let path = dir.join(&file);
        let parent = path.parent().unwrap_or(dir);
        let wrote =
            fs::create_dir_all(parent).and_then(|()| fs::write(&path, replaced(text, &fill)));
        if let Err(error) = wrote {
            // It was made here, so nothing of anybody else's is in it.
            if let Err(left) = fs::remove_dir_all(dir) {
                tracing::warn!(dir = %dir.display(), error = %left, "half a plugin is left");
            }
            return Err(ScaffoldError::Io { path, error });
        }
        written.push(file);
    }
    Ok(written)
}

type Fill = [(&'static str, String)];

fn placeholders(
    name: &Name,
    sdk: Option<&Path>,
) -> Result<[(&'static str, String); 5], ScaffoldError> {
    let sdk = match sdk {
        None => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
        Some(path) => {
            let found = path.canonicalize().ok();
            let found = found.filter(|dir| dir.join("Cargo.toml").is_file());
            let found = found.ok_or_else(|| ScaffoldError::NoSdk(path.to_owned()))?;
            // A TOML string and a Rust string literal are alike in what paths have.
            format!("{{ path = {:?} }}", found.display().to_string())
        }
    };
    Ok([
        ("@name@", name.as_str().to_owned()),
        ("@class@", class(name.as_str())),
        // No word of Rust or Python, no module of the standard library and no other package.
        ("@module@", format!("visualpath_plugin_{name}")),
        (
            "@package@",
            format!("visualpath-plugin-{}", name.as_str().replace('_', "-")),
        ),
        ("@sdk@", sdk),
    ])
}

fn replaced(text: &str, fill: &Fill) -> String {
    fill.iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// `front_door` → `FrontDoor`. A digit can't begin one, because it can't begin a name.
fn class(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut chars = word.chars();
            let first = chars.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(chars)
        })
        .chain("Extractor".chars())
        .collect()
}
