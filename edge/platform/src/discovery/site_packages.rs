//! The plugins of a venv, read from what its packages' installer wrote.
//!
//! `lib/python3.*/site-packages/*.dist-info/{entry_points.txt, METADATA}`, and one step along
//! `*.pth` files, which is how editable installs of the old kind are found (those of the new kind
//! have a dist-info of their own). Python is not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::discovery::{Discovered, DiscoveryError, MAX_ENTRIES, Problem, entry_points, files};
use crate::discovery::{interpreter, resolved};
use crate::registry::Origin;

/// Largest `entry_points.txt` and `*.pth` read.
const MAX_BYTES: u64 = 1 << 20;
/// What of `METADATA` is read: its headers. A description after them can be long.
const MAX_HEADERS: u64 = 64 << 10;

/// The interpreter of a venv. The directory's own links are resolved, so that a worker goes on with
/// the packages it began with when `venvs/<name>` is switched to a new build; the interpreter's are
/// not, because by its place Python knows the venv.
pub fn venv_python(venv: &Path) -> PathBuf {
    resolved(venv).join("bin").join("python")
}

/// Adds the plugins of a venv.
pub fn read_venv(venv: &Path, found: &mut Discovered) {
    if let Err(error) = read(venv, found) {
        found.problems.push(Problem {
            plugin: None,
            venv: Some(venv.to_owned()),
            error,
        });
    }
}

fn read(venv: &Path, found: &mut Discovered) -> Result<(), DiscoveryError> {
    let fault = |message: String| DiscoveryError::Venv {
        path: venv.to_owned(),
        message,
    };
    let config = match files::text(&venv.join("pyvenv.cfg"), MAX_BYTES) {
        Ok(config) => config,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(fault(
                "no venv: there is no pyvenv.cfg in it; make one with `visualpath plugins venv` \
                 or `python3 -m venv`"
                    .to_owned(),
            ));
        }
        Err(e) => return Err(fault(format!("pyvenv.cfg: {e}"))),
    };
    let python = venv.join("bin").join("python");
    access(&python, Access::EXEC_OK).map_err(|e| {
        fault(format!(
            "a broken venv: bin/python: {e}; make it again (its Python may have been updated away)"
        ))
    })?;
    let origin = Origin::Venv(venv.to_owned());
    if setting(&config, "include-system-site-packages").is_some_and(|v| v == "true") {
        // What else it sees only it knows.
        return interpreter::ask_as(&python, &origin, found).map_err(fault);
    }
    let mut dists = Distributions::default();
    let dirs = site_dirs(venv, setting(&config, "version")).map_err(|e| fault(e.to_string()))?;
    for dir in &dirs {
        dists.scan(dir, found);
        for linked in path_files(dir, found) {
            dists.scan(&linked, found);
        }
    }
    for info in dists.by_name.values() {
        plugins(info, &origin, found);
    }
    Ok(())
}

/// `key = value` of pyvenv.cfg (PEP 405).
fn setting<'c>(config: &'c str, key: &str) -> Option<&'c str> {
    config.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim().eq_ignore_ascii_case(key)).then_some(value.trim())
    })
}

/// `lib/python3.X/site-packages`, of the venv's own version if it says which: an older one may lie
/// beside it.
fn site_dirs(venv: &Path, version: Option<&str>) -> std::io::Result<Vec<PathBuf>> {
    let own = version.and_then(|v| {
        let (major, rest) = v.split_once('.')?;
        let minor = rest.split('.').next()?;
        Some(format!("python{major}.{minor}"))
    });
    let mut dirs: Vec<PathBuf> = Vec::new();
    for lib in ["lib", "lib64"] {
        let lib = venv.join(lib);
        let names = match files::names(&lib, MAX_ENTRIES) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let mut versions: Vec<String> = names
            .iter()
            .filter_map(|name| name.to_str())
            .filter(|name| name.starts_with("python3."))
            .map(str::to_owned)
            .collect();
        if let Some(own) = own.as_ref().filter(|own| versions.contains(own)) {
            versions.retain(|version| version == own);
        }
        for version in versions {
            let dir = resolved(&lib.join(version).join("site-packages"));
            if dir.is_dir() && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
    }
    match dirs.is_empty() {
        true => Err(std::io::Error::other(
            "no lib/python3.*/site-packages in it",
        )),
        false => Ok(dirs),
    }
}

/// One installed distribution.
struct Info {
    /// `*.dist-info` or `*.egg-info`.
    dir: PathBuf,
}

/// What is installed, by normalised name: as for Python, the first on the path wins.
#[derive(Default)]
struct Distributions {
    by_name: BTreeMap<String, Info>,
}

impl Distributions {
    fn scan(&mut self, dir: &Path, found: &mut Discovered) {
        let names = match files::names(dir, MAX_ENTRIES) {
            Ok(names) => names,
            Err(e) => return entry_points::broken(dir.to_owned(), e.to_string(), found),
        };
        for name in names.iter().filter_map(|name| name.to_str()) {
            let Some(stem) = name
                .strip_suffix(".dist-info")
                .or_else(|| name.strip_suffix(".egg-info"))
            else {
                continue;
            };
            let path = dir.join(name);
            let dist = entry_points::normalized(stem.split('-').next().unwrap_or_default());
            match self.by_name.get(&dist) {
                None => {
                    self.by_name.insert(dist, Info { dir: path });
                }
                Some(first) if first.dir.parent() == Some(dir) => {
                    let message = format!(
                        "is installed beside {} of the same distribution; the latter is used, \
                         `pip install --force-reinstall {dist}` mends it",
                        first.dir.file_name().unwrap_or_default().display()
                    );
                    entry_points::broken(path, message, found);
                }
                Some(_) => {}
            }
        }
    }
}

/// The directories that `*.pth` files add. Lines that are code are left to Python.
fn path_files(site: &Path, found: &mut Discovered) -> Vec<PathBuf> {
    let names = files::names(site, MAX_ENTRIES).unwrap_or_default();
    let mut dirs = Vec::new();
    for name in names {
        let file = site.join(name);
        if file.extension() != Some("pth".as_ref()) {
            continue;
        }
        let text = match files::text(&file, MAX_BYTES) {
            Ok(text) => text,
            Err(e) => {
                entry_points::broken(file, e.to_string(), found);
                continue;
            }
        };
        let is_path = |line: &&str| {
            !line.is_empty() && !line.starts_with('#') && !line.starts_with("import ")
        };
        let lines = text.lines().map(str::trim).filter(is_path);
        dirs.extend(
            lines
                .map(|line| site.join(line))
                .filter(|dir| dir.is_dir())
                .take(MAX_ENTRIES),
        );
    }
    dirs
}

/// The plugins of one distribution.
fn plugins(info: &Info, origin: &Origin, found: &mut Discovered) {
    let file = info.dir.join("entry_points.txt");
    if file.symlink_metadata().is_err() {
        return; // most distributions have none
    }
    let entries = files::text(&file, MAX_BYTES)
        .map_err(|e| e.to_string())
        .and_then(|text| entry_points::parse(&text));
    let entries = match entries {
        Ok(entries) if entries.is_empty() => return,
        Ok(entries) => entries,
        Err(message) => return entry_points::broken(file, message, found),
    };
    let version = version(&info.dir).unwrap_or_else(|(file, message)| {
        entry_points::broken(file, message, found);
        String::new()
    });
    entry_points::add(entries, &version, origin, &file, found);
}

/// `Version:` of `METADATA` (of an egg-info: `PKG-INFO`).
fn version(info: &Path) -> Result<String, (PathBuf, String)> {
    let name = match info.extension() == Some("egg-info".as_ref()) {
        true => "PKG-INFO",
        false => "METADATA",
    };
    let file = info.join(name);
    let headers = match files::start(&file, MAX_HEADERS) {
        Ok(headers) => headers,
        Err(e) => return Err((file, format!("{e}; the plugin's version is unknown"))),
    };
    let headers = String::from_utf8_lossy(&headers);
    headers
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .find_map(|line| line.strip_prefix("Version:"))
        .map(|version| {
            version
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(64)
                .collect()
        })
        .ok_or_else(|| (file, "says no version".to_owned()))
}
