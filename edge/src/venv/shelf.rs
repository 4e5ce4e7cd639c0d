//! Where the builds of one venv lie: `.face.7`, `.face.8`, and the link `face` to the one in use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, syncfs};
use visualpath_core::Name;

use super::{VenvError, io};

/// One venv's builds, locked against a second builder until dropped.
pub struct Shelf {
    /// `<state_dir>/venvs`, without links.
    dir: PathBuf,
    name: Name,
    _lock: File,
}

/// A build that is not in use yet; dropping it removes it.
pub struct Draft<'s> {
    shelf: &'s Shelf,
    dir: PathBuf,
    published: bool,
}

impl Shelf {
    pub fn open(state_dir: &Path, name: &Name) -> Result<Self, VenvError> {
        let dir = state_dir.join("venvs");
        // The state directory keeps others out. Inside it the appliance's user must be able to read
        // what root has built.
        for (dir, mode) in [(state_dir, 0o750), (dir.as_path(), 0o755)] {
            let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
            made.map_err(io(dir))?;
        }
        let dir = dir.canonicalize().map_err(io(&dir))?;
        let path = dir.join(format!(".{name}.lock"));
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(&path).map_err(io(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                dir,
                name: name.clone(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(VenvError::Busy(name.clone())),
            Err(e) => Err(io(&path)(e.into())),
        }
    }

    /// What users and configs call it.
    pub fn link(&self) -> PathBuf {
        self.dir.join(self.name.as_str())
    }

    /// The build in use.
    pub fn current(&self) -> Result<Option<PathBuf>, VenvError> {
        let link = self.link();
        match fs::read_link(&link) {
            Ok(target) => {
                let target = self.dir.join(target);
                Ok(target.is_dir().then_some(target))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(_) => Err(VenvError::NotOurs(link)),
        }
    }

    /// Removes every build but the one in use, and begins one.
    pub fn begin(&self) -> Result<Draft<'_>, VenvError> {
        let current = self.current()?;
        let mut newest = 0;
        let entries = fs::read_dir(&self.dir).map_err(io(&self.dir))?;
        for entry in entries {
            let entry = entry.map_err(io(&self.dir))?;
            let Some(number) = self.number(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            newest = newest.max(number);
            let path = entry.path();
            if current.as_ref() != Some(&path) {
                fs::remove_dir_all(&path).map_err(io(&path))?;
            }
        }
        let number = newest.saturating_add(1);
        Ok(Draft {
            shelf: self,
            dir: self.dir.join(format!(".{}.{number}", self.name)),
            published: false,
        })
    }

    /// Of `.face.8`: 8.
    fn number(&self, file: &str) -> Option<u64> {
        let rest = file.strip_prefix('.')?.strip_prefix(self.name.as_str())?;
        rest.strip_prefix('.')?.parse().ok()
    }
}

impl Draft<'_> {
    /// Where it is built, and will stay.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts it in use. Its files are on the disk before the link is switched, so that after a power
    /// loss the link leads to a whole venv, this or the one before.
    pub fn publish(mut self) -> Result<(), VenvError> {
        let dir = File::open(&self.dir).map_err(io(&self.dir))?;
        syncfs(&dir).map_err(|e| io(&self.dir)(e.into()))?;
        let link = self.shelf.link();
        let new = self.shelf.dir.join(format!(".{}.new", self.shelf.name));
        match fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&new)(e)),
            _ => {}
        }
        let target = self.dir.file_name().unwrap_or_default();
        symlink(target, &new).map_err(io(&new))?;
        fs::rename(&new, &link).map_err(io(&link))?;
        self.published = true;
        let venvs = File::open(&self.shelf.dir).map_err(io(&self.shelf.dir))?;
        venvs.sync_all().map_err(io(&self.shelf.dir))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.published || !self.dir.exists() {
            return;
        }
        // The next build removes what is left.
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "an unfinished venv could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::new("face").unwrap()
    }

    /// A build that is only a file.
    fn build(shelf: &Shelf, text: &str) {
        let draft = shelf.begin().unwrap();
        fs::create_dir(draft.dir()).unwrap();
        fs::write(draft.dir().join("file"), text).unwrap();
        draft.publish().unwrap();
    }

    fn in_use(shelf: &Shelf) -> String {
        fs::read_to_string(shelf.link().join("file")).unwrap()
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let entries = fs::read_dir(&shelf.dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_build_before_is_kept_until_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), &name()).unwrap();
        for text in ["one", "two", "three"] {
            build(&shelf, text);
            assert_eq!(in_use(&shelf), text);
        }
        assert_eq!(names(&shelf), [".face.2", ".face.3", ".face.lock", "face"]);
    }

    #[test]
    fn a_build_that_is_given_up_or_interrupted_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), &name()).unwrap();
        build(&shelf, "good");
        let draft = shelf.begin().unwrap();
        fs::create_dir(draft.dir()).unwrap();
        fs::write(draft.dir().join("file"), "half").unwrap();
        drop(draft);
        assert_eq!(names(&shelf), [".face.1", ".face.lock", "face"]);
        // As after SIGKILL: nothing was cleaned up, nor the new link renamed.
        let draft = shelf.begin().unwrap();
        fs::create_dir(draft.dir()).unwrap();
        fs::write(draft.dir().join("file"), "half").unwrap();
        symlink(".face.2", shelf.dir.join(".face.new")).unwrap();
        std::mem::forget(draft);
        drop(shelf);
        let shelf = Shelf::open(dir.path(), &name()).unwrap();
        assert_eq!(in_use(&shelf), "good");
        build(&shelf, "next");
        assert_eq!(in_use(&shelf), "next");
        assert_eq!(names(&shelf), [".face.1", ".face.3", ".face.lock", "face"]);
    }

    #[test]
    fn venvs_of_other_plugins_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let face = Shelf::open(dir.path(), &name()).unwrap();
        let other = Shelf::open(dir.path(), &Name::new("face_2").unwrap()).unwrap();
        build(&other, "other");
        build(&face, "face");
        build(&face, "face");
        build(&face, "face");
        assert_eq!(in_use(&other), "other");
    }

    #[test]
    fn two_can_not_build_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Shelf::open(dir.path(), &name()).unwrap();
        assert!(matches!(
            Shelf::open(dir.path(), &name()),
            Err(VenvError::Busy(_))
        ));
        drop(first);
        Shelf::open(dir.path(), &name()).unwrap();
    }
}
