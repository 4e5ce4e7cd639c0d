//! Discovery on real directories, and what the registry makes of it.

mod folders;
mod interpreter;
mod names;
mod properties;
mod venvs;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use visualpath_core::{
    Extractor, ExtractorPlugin, Filter, Fit, PluginContext, PluginError, ViewFormat, ViewSpec,
};

use super::*;
use crate::registry::{Found, Registry, RegistryError};

/// A linked plugin that is only there to have a name.
pub struct Linked(pub &'static str);

impl ExtractorPlugin for Linked {
    fn name(&self) -> &str {
        self.0
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(ViewSpec::default())
    }
    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(Vec::new())
    }
    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Err(PluginError::Config {
            key: "x".into(),
            message: "only a name".into(),
        })
    }
}

/// A plugin as discovery would give it.
pub fn external(name: &str, origin: Origin, entry_point: Option<&str>) -> External {
    External {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        kind: Kind::Extractor,
        origin,
        launch: match entry_point {
            Some(entry_point) => Launch::Python {
                entry_point: entry_point.to_owned(),
            },
            None => Launch::Exec {
                program: "/p/bin/a".into(),
                args: Vec::new(),
            },
        },
        input: None,
        signals: Vec::new(),
        isolation: Isolation::Process,
        dir: None,
    }
}

const FACE: &str = r#"
name = "face"
version = "1.2.0"
kind = "extractor"
protocol = 1
isolation = "process"
exec = "bin/face"
args = ["--fast"]
[input]
format = "rgb"
width = 320
height = 240
fit = "letterbox"
filter = "area"
[output]
signals = ["count", "max_confidence"]
"#;

/// A plugin folder with an executable `bin/face`.
fn folder(dir: &Path, name: &str, manifest: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(folder.join("bin")).unwrap();
    let program = folder.join("bin/face");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join(MANIFEST), manifest).unwrap();
    folder
}

fn plugins(dir: &Path) -> Discovered {
    discover(&Places {
        plugins: vec![dir.to_owned()],
        ..Places::default()
    })
}

/// The only problem there is, as text.
fn problem(found: &Discovered) -> String {
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    found.problems[0].error.to_string()
}

/// A venv as far as discovery reads it: made by hand, so without Python.
fn venv(dir: &Path, name: &str) -> PathBuf {
    let venv = dir.join(name);
    fs::create_dir_all(venv.join("bin")).unwrap();
    fs::create_dir_all(site(&venv)).unwrap();
    fs::write(
        venv.join("pyvenv.cfg"),
        "home = /usr/bin\nversion = 3.11.2\n",
    )
    .unwrap();
    symlink("/bin/sh", venv.join("bin/python")).unwrap();
    venv
}

fn site(venv: &Path) -> PathBuf {
    venv.join("lib/python3.11/site-packages")
}

/// Installs a distribution by hand.
fn dist(site: &Path, name: &str, version: &str, entry_points: &str) -> PathBuf {
    let info = site.join(format!("{name}-{version}.dist-info"));
    fs::create_dir_all(&info).unwrap();
    let metadata =
        format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 9\n");
    fs::write(info.join("METADATA"), metadata).unwrap();
    fs::write(info.join("entry_points.txt"), entry_points).unwrap();
    info
}

fn venvs(venvs: &[&PathBuf]) -> Discovered {
    discover(&Places {
        venvs: venvs.iter().map(|v| v.to_path_buf()).collect(),
        ..Places::default()
    })
}

const FACES: &str = "[console_scripts]\nx = y\n\n[visualpath.extractors]\nface = faces.face:Face\n";
