//! What a venv is made of, and the fingerprint by which a second run knows that nothing changed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use visualpath_platform::discovery::normalized;

use super::{Recipe, SDK, VenvError, io};

/// Counts up when venvs are built differently, so that old ones are built again.
const BUILD: u32 = 1;
/// Where a device's packages put the SDK's wheel.
const SYSTEM_WHEELS: &str = "/usr/lib/visualpath/wheels";
/// Most files of a plugin's folder.
const MAX_FILES: usize = 20_000;
/// Deepest nesting of a plugin's folder.
const MAX_DEPTH: usize = 32;
/// At the top of a plugin's folder: what building leaves behind, and what is no part of the plugin.
const SKIPPED: [&str; 6] = ["build", "dist", "target", "venv", "node_modules", "wheels"];

/// What is installed, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// The SDK.
    pub sdk: Sdk,
    /// `requirements.lock`, else `requirements.txt`.
    pub requirements: Option<PathBuf>,
    /// The plugin's own package.
    pub package: Option<Package>,
}

/// Where the SDK comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sdk {
    /// A wheel or a source directory.
    Path(PathBuf),
    /// The newest wheel in this directory.
    Wheels(PathBuf),
}

/// Where the plugin's package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Package {
    /// A wheel in the folder.
    Wheel(PathBuf),
    /// The folder, which has a pyproject.toml.
    Source(PathBuf),
    /// A wheel of that name among the wheels: offline, sources can rarely be built.
    Named(String),
}

pub fn find(recipe: &Recipe) -> Result<Inputs, VenvError> {
    let folder = &recipe.folder;
    let requirements = ["requirements.lock", "requirements.txt"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|file| file.is_file());
    Ok(Inputs {
        sdk: sdk(recipe)?,
        requirements,
        package: package(recipe)?,
    })
}

fn sdk(recipe: &Recipe) -> Result<Sdk, VenvError> {
    if let Some(path) = &recipe.sdk {
        // pip would take a word for the name of a package on the index.
        return path.canonicalize().map(Sdk::Path).map_err(io(path));
    }
    let system = PathBuf::from(SYSTEM_WHEELS);
    let dirs: Vec<PathBuf> = recipe.wheels.clone().into_iter().chain([system]).collect();
    match dirs.iter().find(|dir| has_wheel(dir, SDK)) {
        Some(dir) => Ok(Sdk::Wheels(dir.clone())),
        None => Err(VenvError::NoSdk(dirs)),
    }
}

fn package(recipe: &Recipe) -> Result<Option<Package>, VenvError> {
    let folder = &recipe.folder;
    let wheels = wheels(folder).map_err(io(folder))?;
    match wheels.as_slice() {
        [] => {}
        [one] => return Ok(Some(Package::Wheel(folder.join(one)))),
        [one, other, ..] => {
            return Err(VenvError::Folder {
                path: folder.clone(),
                message: format!("there are several wheels in it ({one}, {other}); keep one"),
            });
        }
    }
    let file = folder.join("pyproject.toml");
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&file).map_err(io(&file))?;
    let name = project_name(&text);
    Ok(Some(match (&recipe.wheels, name) {
        (Some(wheels), Some(name)) if has_wheel(wheels, &name) => Package::Named(name),
        _ => Package::Source(folder.clone()),
    }))
}

/// `name` of `[project]`, as far as a look at the lines can tell; pip reads it properly.
fn project_name(pyproject: &str) -> Option<String> {
    let lines = pyproject.lines().map(str::trim);
    let project = lines.skip_while(|line| *line != "[project]").skip(1);
    let mut own = project.take_while(|line| !line.starts_with('['));
    let name = own.find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='))?;
    let name = name.split('#').next()?.trim().trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// Names of the wheels in a directory.
fn wheels(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".whl") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether there is a wheel of a distribution in a directory.
pub fn has_wheel(dir: &Path, distribution: &str) -> bool {
    let of = |wheel: &str| wheel.split('-').next().map(normalized);
    let wanted = Some(normalized(distribution));
    wheels(dir).is_ok_and(|names| names.iter().any(|name| of(name) == wanted))
}

/// SHA-256, hexadecimal, of everything the build depends on: contents of the plugin's folder and
/// of the SDK, which wheels there are, and which Python.
pub fn fingerprint(recipe: &Recipe, inputs: &Inputs, python: &str) -> Result<String, VenvError> {
    let mut hash = Sha256::new();
    let mut add = |label: &str, bytes: &[u8]| {
        let head = format!("{label} {}\0", bytes.len());
        hash.update(head.as_bytes());
        hash.update(bytes);
    };
    add("build", BUILD.to_string().as_bytes());
    add("python", recipe.python.as_os_str().as_bytes());
    add("version", python.as_bytes());
    add(
        "entry point",
        recipe.entry_point.as_deref().unwrap_or_default().as_bytes(),
    );
    add("inputs", format!("{inputs:?}").as_bytes());
    let mut listed: Vec<&Path> = recipe.wheels.as_deref().into_iter().collect();
    if let Sdk::Wheels(dir) = &inputs.sdk {
        listed.push(dir);
    }
    for dir in listed {
        for name in wheels(dir).map_err(io(dir))? {
            let path = dir.join(&name);
            let bytes = path.metadata().map_err(io(&path))?.len();
            add("wheel", format!("{name} {bytes}").as_bytes());
        }
    }
    let mut trees = vec![recipe.folder.as_path()];
    if let Sdk::Path(path) = &inputs.sdk {
        trees.push(path);
    }
    for tree in trees {
        for (relative, path) in files(tree)? {
            add("file", relative.as_os_str().as_bytes());
            add("is", &digest(&path)?);
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn digest(path: &Path) -> Result<Vec<u8>, VenvError> {
    let mut file = File::open(path).map_err(io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = file.read(&mut buffer).map_err(io(path))?;
        if n == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..n]);
    }
}

/// Copies what [`files`] lists.
pub fn copy(from: &Path, to: &Path) -> Result<(), VenvError> {
    for (relative, path) in files(from)? {
        let target = to.join(relative);
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir).map_err(io(dir))?;
        }
        fs::copy(&path, &target).map_err(io(&path))?;
    }
    Ok(())
}

/// The regular files of a tree in order, without what Python and builds leave behind; of a file
/// that file. A link to a file counts as the file, a link to a directory is not followed.
fn files(tree: &Path) -> Result<Vec<(PathBuf, PathBuf)>, VenvError> {
    if tree.is_file() {
        let name = tree.file_name().unwrap_or_default();
        return Ok(vec![(name.into(), tree.to_owned())]);
    }
    let mut files = Vec::new();
    walk(tree, Path::new(""), 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(
    tree: &Path,
    under: &Path,
    depth: usize,
    files: &mut Vec<(PathBuf, PathBuf)>,
) -> Result<(), VenvError> {
    let too = |message: String| VenvError::Folder {
        path: tree.to_owned(),
        message,
    };
    if depth > MAX_DEPTH {
        return Err(too(format!("nested deeper than {MAX_DEPTH} directories")));
    }
    let dir = tree.join(under);
    for entry in fs::read_dir(&dir).map_err(io(&dir))? {
        let entry = entry.map_err(io(&dir))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let left = text == "__pycache__" || text.ends_with(".egg-info");
        let top = text.starts_with('.') || SKIPPED.contains(&text.as_ref());
        if left || (depth == 0 && top) {
            continue;
        }
        let (relative, path) = (under.join(&name), entry.path());
        let kind = entry.file_type().map_err(io(&path))?;
        if kind.is_dir() {
            walk(tree, &relative, depth + 1, files)?;
        } else if path.is_file() {
            files.push((relative, path));
        }
        if files.len() > MAX_FILES {
            return Err(too(format!(
                "more than {MAX_FILES} files; is it the plugin's folder?"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_name_is_that_of_the_project_table() {
        let text =
            "[tool.x]\nname = \"no\"\n[project]\nversion = \"1\"\nname = 'my-faces' # ours\n";
        assert_eq!(project_name(text).as_deref(), Some("my-faces"));
        assert_eq!(project_name("[project]\n[tool.x]\nname = \"no\"\n"), None);
    }
}
