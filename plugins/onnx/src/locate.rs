//! Where models are found, and the check that they are what their cards say.
//!
//! `model = "ssd-oidv4"` is a card's name: the first directory that holds both `ssd-oidv4.toml` and
//! the file it names wins. `model = "some/dir/x.onnx"` is a file; its card is `some/dir/x.toml`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use visualpath_core::nearest;

use crate::card::{CardError, ModelCard, hint};

/// Where a device's packages put models.
const SYSTEM_DIR: &str = "/usr/lib/visualpath/models";
/// Most cards listed of one directory.
const MAX_CARDS: usize = 1000;

/// The directories models are looked up in, in order: `VISUALPATH_MODEL_PATH` (separated by
/// colons), `<state_dir>/models`, the user's cache, `/usr/lib/visualpath/models`.
pub fn default_model_dirs(state_dir: Option<&Path>) -> Vec<PathBuf> {
    model_dirs(state_dir, |key| std::env::var_os(key))
}

fn model_dirs(state_dir: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = env("VISUALPATH_MODEL_PATH")
        .map(|v| {
            std::env::split_paths(&v)
                .filter(|p| !p.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default();
    dirs.extend(state_dir.map(|d| d.join("models")));
    dirs.extend(cache_dir(&env).map(|d| d.join("models")));
    dirs.push(PathBuf::from(SYSTEM_DIR));
    dirs
}

/// `$XDG_CACHE_HOME/visualpath` or `~/.cache/visualpath`; `None` where there is no home.
pub(crate) fn cache_dir(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|h| h.join(".cache")))
        .map(|c| c.join("visualpath"))
}

/// Finds models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLocator {
    /// Looked in, first match wins.
    pub dirs: Vec<PathBuf>,
}

/// A model's bytes, checked against its card.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// Its card.
    pub card: ModelCard,
    /// Where it was read.
    pub path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// Of `bytes`.
    pub(crate) sha256: [u8; 32],
}

impl ModelFile {
    /// These bytes, not checked against the card; `path` is for messages.
    pub fn unchecked(card: ModelCard, path: PathBuf, bytes: Vec<u8>) -> Self {
        Self {
            sha256: Sha256::digest(&bytes).into(),
            card,
            path,
            bytes,
        }
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a model can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No card of that name anywhere.
    #[error(
        "no card `{model}.toml` in {}{}; run cross/setup.sh, or copy the card and its file into one of these directories",
        list(dirs),
        hint(nearest)
    )]
    NotFound {
        /// As asked for.
        model: String,
        /// Looked in.
        dirs: Vec<PathBuf>,
        /// Known cards with a like name.
        nearest: Vec<String>,
    },
    /// The card is there, its file is not.
    #[error(
        "{} is missing: its card {} names it, and it is not beside it; run cross/setup.sh, or copy the file there",
        file.display(), card.display()
    )]
    FileMissing {
        /// The card.
        card: PathBuf,
        /// Where the file should be.
        file: PathBuf,
    },
    /// The config names a file that is not there.
    #[error("{} does not exist; give the path of an .onnx file or the name of a card", file.display())]
    NoSuchFile {
        /// As asked for.
        file: PathBuf,
    },
    /// A bare file says nothing about its input, outputs and labels.
    #[error(
        "{} has no card: write {} with name, version, [licence], [file] (name, sha256, bytes), [input] (name, width, height, format, scale, bias), [output] (decoder and the names of its outputs), the decoder's table and [labels]; see docs/reference/model-card.md",
        file.display(), card.display()
    )]
    NoCard {
        /// The model.
        file: PathBuf,
        /// Where its card should be.
        card: PathBuf,
    },
    /// The card is wrong.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Not as long as the card says.
    #[error(
        "{} has {actual} bytes, its card says {expected}: {}; run cross/setup.sh or copy it again",
        file.display(),
        if actual < expected { "it was cut short" } else { "it is another file" }
    )]
    Size {
        /// The model.
        file: PathBuf,
        /// The card's.
        expected: u64,
        /// The file's.
        actual: u64,
    },
    /// Not the bytes the card pins.
    #[error(
        "{} has sha256 {actual}, its card says {expected}: it is damaged or another version; run cross/setup.sh or copy it again",
        file.display()
    )]
    Sha256 {
        /// The model.
        file: PathBuf,
        /// The card's.
        expected: String,
        /// The file's.
        actual: String,
    },
    /// The file can't be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The model.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

fn list(dirs: &[PathBuf]) -> String {
    if dirs.is_empty() {
        return "(no directory is configured)".to_owned();
    }
    let names: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
    names.join(", ")
}

impl ModelLocator {
    /// Looks in `dirs`, in order.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// The card of `model`, without touching the model's file (which may be missing).
    pub fn card(&self, model: &str) -> Result<ModelCard, ModelError> {
        Ok(self.find(model)?.0)
    }

    /// Reads `model` and checks it: size, then sha256.
    pub fn open(&self, model: &str) -> Result<ModelFile, ModelError> {
        let (card, path) = self.find(model)?;
        let read_error = |source| ModelError::Read {
            file: path.clone(),
            source,
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ModelError::FileMissing {
                    card: card.path.clone(),
                    file: path,
                });
            }
            Err(e) => return Err(read_error(e)),
        };
        let expected = card.file.bytes;
        let actual = file.metadata().map_err(read_error)?.len();
        if actual != expected {
            return Err(ModelError::Size {
                file: path,
                expected,
                actual,
            });
        }
        // The card's reader bounds `bytes`, so this can't be asked for more than 2 GiB.
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        (&mut file)
            .take(expected + 1)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        let file = ModelFile::unchecked(card, path, bytes);
        let actual = hex(&file.sha256);
        if actual != file.card.file.sha256 {
            return Err(ModelError::Sha256 {
                file: file.path,
                expected: file.card.file.sha256,
                actual,
            });
        }
        Ok(file)
    }

    /// Names of all cards in the directories, sorted, each once.
    pub fn known(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .dirs
            .iter()
            .filter_map(|d| std::fs::read_dir(d).ok())
            .flat_map(|entries| entries.take(MAX_CARDS).filter_map(Result::ok))
            .filter_map(|e| {
                let path = e.path();
                let card = path.extension().is_some_and(|x| x == "toml");
                let stem = path.file_stem()?.to_str()?.to_owned();
                card.then_some(stem)
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Card and path of the file of `model`.
    fn find(&self, model: &str) -> Result<(ModelCard, PathBuf), ModelError> {
        if model.contains('/') || model.ends_with(".onnx") {
            return find_file(Path::new(model));
        }
        let card_name = format!("{model}.toml");
        let mut without_file = None;
        for dir in &self.dirs {
            let path = dir.join(&card_name);
            if model.is_empty() || !path.is_file() {
                continue;
            }
            let card = ModelCard::read(&path)?;
            let file = dir.join(&card.file.name);
            if file.is_file() {
                return Ok((card, file));
            }
            without_file.get_or_insert((card, file));
        }
        without_file.ok_or_else(|| ModelError::NotFound {
            model: model.to_owned(),
            dirs: self.dirs.clone(),
            nearest: nearest(model, self.known().iter().map(String::as_str))
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    }
}

fn find_file(file: &Path) -> Result<(ModelCard, PathBuf), ModelError> {
    if !file.is_file() {
        return Err(ModelError::NoSuchFile {
            file: file.to_owned(),
        });
    }
    let card = file.with_extension("toml");
    if !card.is_file() {
        return Err(ModelError::NoCard {
            file: file.to_owned(),
            card,
        });
    }
    Ok((ModelCard::read(&card)?, file.to_owned()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
            // Writing to a String can't fail.
            let written = write!(text, "{b:02x}");
            debug_assert!(written.is_ok());
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = include_str!("../../../models/ssd-oidv4.toml");

    /// A card named `name` for the bytes `model`.
    fn card(name: &str, file: &str, model: &[u8]) -> String {
        let real = ModelCard::parse(Path::new("card"), CARD).unwrap();
        CARD.replace("\"ssd-oidv4\"", &format!("{name:?}"))
            .replace("\"ssd-oidv4.onnx\"", &format!("{file:?}"))
            .replace(&real.file.sha256, &hex(&Sha256::digest(model)))
            .replace(
                &format!("bytes = {}", real.file.bytes),
                &format!("bytes = {}", model.len()),
            )
    }

    fn locator(dirs: &[&Path]) -> ModelLocator {
        ModelLocator::new(dirs.iter().map(|d| d.to_path_buf()).collect())
    }

    #[test]
    fn directories_come_in_the_promised_order() {
        let env = |key: &str| match key {
            "VISUALPATH_MODEL_PATH" => Some("/a::/b".into()),
            "XDG_CACHE_HOME" => None,
            "HOME" => Some("/home/u".into()),
            _ => None,
        };
        let dirs = model_dirs(Some(Path::new("/var/lib/visualpath")), env);
        let expected = [
            "/a",
            "/b",
            "/var/lib/visualpath/models",
            "/home/u/.cache/visualpath/models",
            "/usr/lib/visualpath/models",
        ];
        assert_eq!(dirs, expected.map(PathBuf::from));
        let dirs = model_dirs(None, |k| (k == "XDG_CACHE_HOME").then(|| "/c".into()));
        assert_eq!(dirs[0], Path::new("/c/visualpath/models"));
    }

    #[test]
    fn the_first_directory_with_card_and_file_wins() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            std::fs::write(dir.path().join("m.toml"), card("m", "m.onnx", b"bytes")).unwrap();
        }
        let locator = locator(&[a.path(), b.path()]);
        // The card can be read before any file is there.
        assert_eq!(locator.card("m").unwrap().path, a.path().join("m.toml"));
        let error = locator.open("m").unwrap_err().to_string();
        assert!(
            error.contains("m.onnx is missing") && error.contains("setup.sh"),
            "{error}"
        );
        std::fs::write(b.path().join("m.onnx"), b"bytes").unwrap();
        let file = locator.open("m").unwrap();
        assert_eq!(
            (file.path, file.bytes),
            (b.path().join("m.onnx"), b"bytes".to_vec())
        );
    }

    #[test]
    fn a_missing_model_lists_where_it_was_looked_for_and_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ssd-oidv4.toml"), CARD).unwrap();
        let error = locator(&[dir.path(), Path::new("/nowhere")])
            .open("ssd-oidv3")
            .unwrap_err()
            .to_string();
        for part in [
            dir.path().to_str().unwrap(),
            "/nowhere",
            "did you mean `ssd-oidv4`?",
            "cross/setup.sh",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn wrong_bytes_are_refused_with_both_sums() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m.toml"), card("m", "m.onnx", b"right")).unwrap();
        let locator = locator(&[dir.path()]);
        let file = dir.path().join("m.onnx");
        std::fs::write(&file, b"wrong").unwrap();
        let error = locator.open("m").unwrap_err().to_string();
        for part in [
            file.to_str().unwrap(),
            &hex(&Sha256::digest(b"right")),
            &hex(&Sha256::digest(b"wrong")),
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        std::fs::write(&file, b"rig").unwrap();
        let error = locator.open("m").unwrap_err().to_string();
        assert!(
            error.contains("3 bytes, its card says 5: it was cut short"),
            "{error}"
        );
        std::fs::write(&file, b"righteous").unwrap();
        let error = locator.open("m").unwrap_err().to_string();
        assert!(error.contains("another file"), "{error}");
    }

    #[test]
    fn a_path_uses_the_card_beside_it_or_says_what_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.onnx");
        let name = file.to_str().unwrap();
        let error = locator(&[]).open(name).unwrap_err();
        assert!(matches!(error, ModelError::NoSuchFile { .. }), "{error}");
        std::fs::write(&file, b"bytes").unwrap();
        let error = locator(&[]).open(name).unwrap_err().to_string();
        for part in ["mine.toml", "[input]", "[output]", "[labels]", "sha256"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        std::fs::write(
            dir.path().join("mine.toml"),
            card("mine", "other.onnx", b"bytes"),
        )
        .unwrap();
        assert_eq!(locator(&[]).open(name).unwrap().card.name, "mine");
    }
}
