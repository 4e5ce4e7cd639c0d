//! What a worker may do: the part of a [`Stage`](crate::Stage) that says how tight it is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::probe::{Layer, LayerName, LayerState};

/// How much the code of a plugin is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It may have bugs, but nobody wrote it to do harm: system calls by a deny-list.
    #[default]
    Normal,
    /// It may be hostile: system calls by an allow-list, and it starts only where the mandatory
    /// layers work.
    Untrusted,
}

impl Trust {
    /// The word in configs and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Untrusted => "untrusted",
        }
    }
}

/// A user of its own for a worker. The parent must be root or hold CAP_SETUID, CAP_SETGID and,
/// to end the worker, CAP_KILL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id; not 0.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, such as those that own granted devices (`video`, `render`).
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// What a worker may read, write and use. The default grants nothing beyond the system's own
/// libraries and the private directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which list of system calls, and whether missing layers are an error.
    pub trust: Trust,
    /// Files and directories to read and execute, beyond the system's. Absolute; they must exist.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Files and directories to write, beyond the private directory. Absolute; they must exist.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// Devices to read, write and send ioctls to. Absolute; the last component may hold one `*`.
    /// Not empty means a GPU or the like: no [`memory_bytes`](Self::memory_bytes) by rlimit.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
    /// Bytes of private writable memory (RLIMIT_DATA: heap, anonymous maps, thread stacks).
    /// Not set when `devices` is not empty: drivers map more than they use.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Open descriptors (RLIMIT_NOFILE).
    pub files: u64,
    /// Bytes of the longest file it may write (RLIMIT_FSIZE). A write beyond fails with EFBIG.
    pub file_bytes: u64,
    /// May start processes.
    #[serde(default)]
    pub processes: bool,
    /// May open internet sockets.
    #[serde(default)]
    pub network: bool,
    /// The cgroup to join, a directory ([`WorkerCgroup::path`](crate::WorkerCgroup::path)).
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// A user of its own.
    #[serde(default)]
    pub user: Option<User>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            trust: Trust::Normal,
            read: Vec::new(),
            write: Vec::new(),
            devices: Vec::new(),
            memory_bytes: None,
            files: 1024,
            file_bytes: 64 << 20,
            processes: false,
            network: false,
            cgroup: None,
            user: None,
        }
    }
}

/// A virtual environment that can't be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {source}; give the directory of a Python virtual environment (python3 -m venv …)",
    path.display()
)]
pub struct VenvError {
    /// The file that was looked for.
    pub path: PathBuf,
    /// Why it could not be read.
    pub source: std::io::Error,
}

impl Policy {
    /// Grants reading a Python virtual environment and the interpreter it was made from (the
    /// directory above `home` in its pyvenv.cfg, where that is not the system's).
    pub fn read_venv(&mut self, venv: &Path) -> Result<(), VenvError> {
        let path = venv.join("pyvenv.cfg");
        let text = std::fs::read_to_string(&path).map_err(|source| VenvError {
            path: path.clone(),
            source,
        })?;
        self.read.push(venv.to_path_buf());
        let home = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "home").then(|| PathBuf::from(value.trim()))
        });
        if let Some(prefix) = home.as_deref().and_then(Path::parent) {
            // `/usr/bin` and `/bin` are granted anyway; "/" must never be.
            if prefix.components().count() > 1 && !prefix.starts_with("/usr") {
                self.read.push(prefix.to_path_buf());
            }
        }
        Ok(())
    }

    /// The layers without which a worker of this trust must not start; empty: start it.
    ///
    /// An untrusted one needs no_new_privs, seccomp, and Landlock or a user of its own.
    pub fn mandatory_missing<'a>(&self, layers: &'a [Layer]) -> Vec<&'a Layer> {
        if self.trust == Trust::Normal {
            return Vec::new();
        }
        let own_user = self.user.is_some() && works(layers, LayerName::OwnUser);
        layers
            .iter()
            .filter(|layer| matches!(layer.state, LayerState::Missing { .. }))
            .filter(|layer| match layer.name {
                LayerName::NoNewPrivs | LayerName::Seccomp => true,
                LayerName::Landlock => !own_user,
                _ => false,
            })
            .collect()
    }
}

fn works(layers: &[Layer], name: LayerName) -> bool {
    layers
        .iter()
        .any(|layer| layer.name == name && matches!(layer.state, LayerState::Working(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(missing: &[LayerName]) -> Vec<Layer> {
        [
            LayerName::NoNewPrivs,
            LayerName::Seccomp,
            LayerName::Landlock,
            LayerName::OwnUser,
            LayerName::Cgroup,
        ]
        .into_iter()
        .map(|name| Layer {
            name,
            state: if missing.contains(&name) {
                LayerState::Missing {
                    why: "test".into(),
                    fix: "none".into(),
                }
            } else {
                LayerState::Working("test".into())
            },
        })
        .collect()
    }

    fn names(missing: Vec<&Layer>) -> Vec<LayerName> {
        missing.into_iter().map(|layer| layer.name).collect()
    }

    #[test]
    fn an_untrusted_plugin_needs_seccomp_and_landlock_or_its_own_user() {
        let mut policy = Policy {
            trust: Trust::Untrusted,
            ..Policy::default()
        };
        let missing = |policy: &Policy, gone: &[LayerName]| {
            let layers = layers(gone);
            names(policy.mandatory_missing(&layers))
        };
        assert_eq!(missing(&policy, &[LayerName::Cgroup]), []);
        assert_eq!(
            missing(&policy, &[LayerName::Seccomp]),
            [LayerName::Seccomp]
        );
        assert_eq!(
            missing(&policy, &[LayerName::Landlock]),
            [LayerName::Landlock]
        );
        policy.user = Some(User {
            uid: 1,
            gid: 1,
            groups: vec![],
        });
        assert_eq!(missing(&policy, &[LayerName::Landlock]), []);
        assert_eq!(
            missing(&policy, &[LayerName::Landlock, LayerName::OwnUser]),
            [LayerName::Landlock]
        );
        policy.trust = Trust::Normal;
        assert_eq!(
            missing(&policy, &[LayerName::Landlock, LayerName::Seccomp]),
            []
        );
    }

    #[test]
    fn a_venv_is_read_with_the_interpreter_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("pyvenv.cfg");
        let read_of = |home: &str| {
            std::fs::write(&config, format!("home = {home}\nversion = 3.11.7\n")).unwrap();
            let mut policy = Policy::default();
            policy.read_venv(dir.path()).unwrap();
            policy.read
        };
        let venv = dir.path().to_path_buf();
        assert_eq!(
            read_of("/srv/py/3.11/bin"),
            [venv.clone(), PathBuf::from("/srv/py/3.11")]
        );
        for system in ["/usr/bin", "/bin", "/usr/local/bin"] {
            assert_eq!(read_of(system), std::slice::from_ref(&venv));
        }
        std::fs::remove_file(&config).unwrap();
        let error = Policy::default().read_venv(dir.path()).unwrap_err();
        assert!(error.to_string().contains("pyvenv.cfg"), "{error}");
    }
}
