//! A cgroup (version 2) per worker: its memory and the number of its processes.
//!
//! For the parent. The one hard idea: **a cgroup that holds processes can't hand controllers to
//! its children.** So the parent first moves itself into a leaf of its own cgroup (`main`), and
//! workers get leaves beside it. systemd does that itself with `DelegateSubgroup=main`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The leaf that the parent lives in.
const MAIN: &str = "main";

/// What the leaf of a worker is called begins like this.
const WORKER: &str = "worker-";

/// What a cgroup must have.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// Why no worker can have a cgroup of its own here.
#[derive(Debug, thiserror::Error)]
pub enum NotDelegated {
    /// No cgroup2 file system.
    #[error("no cgroup version 2 is mounted")]
    NotMounted,
    /// The process is not in it.
    #[error("{}: no line `0::/…`", path.display())]
    NotInIt {
        /// The file that should say it.
        path: PathBuf,
    },
    /// Controllers are not there: in version 1, or kept by the service manager.
    #[error("{}: no controller {controller}", dir.display())]
    NoController {
        /// Which one.
        controller: &'static str,
        /// Of which cgroup.
        dir: PathBuf,
    },
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A worker's cgroup can't be made.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; check the service's Delegate=, or set no memory limit", path.display())]
pub struct CgroupError {
    /// The directory or file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The cgroup that was handed to the appliance.
#[derive(Debug)]
pub struct Delegation {
    base: PathBuf,
    /// The parent's own cgroup is the base, and it has to move out of it.
    inside: bool,
}

impl Delegation {
    /// Looks for it, and changes nothing.
    pub fn look() -> Result<Self, NotDelegated> {
        let mounts = read(Path::new("/proc/self/mountinfo"))?;
        let root = mount_point(&mounts).ok_or(NotDelegated::NotMounted)?;
        Self::look_at(&root, Path::new("/proc/self/cgroup"))
    }

    /// The same under another mount point and another `/proc/self/cgroup`.
    pub fn look_at(root: &Path, membership: &Path) -> Result<Self, NotDelegated> {
        let lines = read(membership)?;
        let own = lines
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or_else(|| NotDelegated::NotInIt {
                path: membership.to_path_buf(),
            })?;
        let own = root.join(own);
        let in_main = own.file_name().is_some_and(|name| name == MAIN);
        let (base, inside) = match own.parent() {
            Some(parent) if in_main => (parent.to_path_buf(), false),
            _ => (own, true),
        };
        let controllers = read(&base.join("cgroup.controllers"))?;
        for controller in CONTROLLERS {
            if !controllers.split_whitespace().any(|c| c == controller) {
                return Err(NotDelegated::NoController {
                    controller,
                    dir: base,
                });
            }
        }
        for path in [base.clone(), base.join("cgroup.subtree_control")] {
            rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).map_err(|e| {
                NotDelegated::File {
                    path,
                    source: e.into(),
                }
            })?;
        }
        Ok(Self { base, inside })
    }

    /// Makes ready for workers: moves this process into the leaf `main` if it has to, turns the
    /// controllers on, and removes what a parent that was killed left behind. Once, at start.
    pub fn prepare(&mut self) -> Result<(), CgroupError> {
        if self.inside {
            let main = self.base.join(MAIN);
            make(&main)?;
            // A write moves the whole process, whichever thread makes it.
            write(&main.join("cgroup.procs"), "0")?;
            self.inside = false;
        }
        write(&self.base.join("cgroup.subtree_control"), "+memory +pids")?;
        let entries = fs::read_dir(&self.base).map_err(failed(&self.base))?;
        for entry in entries {
            let entry = entry.map_err(failed(&self.base))?;
            if entry.file_name().to_string_lossy().starts_with(WORKER) {
                end(&entry.path());
            }
        }
        Ok(())
    }

    /// The directory that holds the workers' cgroups.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// A cgroup for one worker, removed when dropped. `name` is unique among living workers;
    /// what is no letter, digit, `-` or `_` of it becomes `_`.
    pub fn worker(
        &self,
        name: &str,
        memory_bytes: Option<u64>,
        processes: u64,
    ) -> Result<WorkerCgroup, CgroupError> {
        let clean: String = name
            .chars()
            .map(|c| match c.is_ascii_alphanumeric() || c == '-' {
                true => c,
                false => '_',
            })
            .collect();
        let dir = self.base.join(format!("{WORKER}{clean}"));
        make(&dir)?;
        // From here on it is removed if a limit can't be set.
        let cgroup = WorkerCgroup { dir };
        write(&cgroup.dir.join("pids.max"), &processes.to_string())?;
        if let Some(bytes) = memory_bytes {
            write(&cgroup.dir.join("memory.max"), &bytes.to_string())?;
            // All of the worker or nothing of it.
            write(&cgroup.dir.join("memory.oom.group"), "1")?;
            // Kernels without swap accounting have no such file.
            let swap = cgroup.dir.join("memory.swap.max");
            if swap.exists() {
                write(&swap, "0")?;
            }
        }
        Ok(cgroup)
    }
}

/// The cgroup of one worker. Drop it after the worker was reaped; what is left in it is killed.
#[derive(Debug)]
pub struct WorkerCgroup {
    dir: PathBuf,
}

impl WorkerCgroup {
    /// For [`Policy::cgroup`](crate::Policy::cgroup).
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Kills everything in it (Linux 5.14).
    pub fn kill(&self) -> Result<(), CgroupError> {
        write(&self.dir.join("cgroup.kill"), "1")
    }
}

impl Drop for WorkerCgroup {
    fn drop(&mut self) {
        end(&self.dir);
    }
}

/// Kills what is in a worker's cgroup and removes it. What can't be removed yet, because what
/// was killed is not gone yet, is removed by the next `prepare`.
fn end(dir: &Path) {
    let kill = dir.join("cgroup.kill");
    if kill.exists() {
        drop(write(&kill, "1"));
    }
    drop(fs::remove_dir(dir));
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done.map_err(failed(dir)),
    }
}

/// Writes into a file of the kernel's, which is never created.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CgroupError + '_ {
    |source| CgroupError {
        path: path.to_path_buf(),
        source,
    }
}

fn read(path: &Path) -> Result<String, NotDelegated> {
    fs::read_to_string(path).map_err(|source| NotDelegated::File {
        path: path.to_path_buf(),
        source,
    })
}

/// Where version 2 is mounted, from the text of `/proc/self/mountinfo` (proc(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_v2 = after.split(' ').next() == Some("cgroup2");
        is_v2.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file tree like the kernel's; nothing in it does anything.
    struct Tree {
        root: tempfile::TempDir,
        base: PathBuf,
    }

    fn tree(own: &str, controllers: &str) -> Tree {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("system.slice/visualpath.service");
        fs::create_dir_all(base.join(MAIN)).unwrap();
        fs::write(base.join("cgroup.controllers"), controllers).unwrap();
        fs::write(base.join("cgroup.subtree_control"), "").unwrap();
        fs::write(base.join("main/cgroup.procs"), "").unwrap();
        fs::write(root.path().join("membership"), own).unwrap();
        Tree { root, base }
    }

    fn look(tree: &Tree) -> Result<Delegation, NotDelegated> {
        Delegation::look_at(tree.root.path(), &tree.root.path().join("membership"))
    }

    const OWN: &str = "9:pids:/x\n0::/system.slice/visualpath.service\n";

    #[test]
    fn the_parent_moves_into_a_leaf_before_it_hands_controllers_out() {
        let tree = tree(OWN, "cpu io memory pids\n");
        let stale = tree.base.join("worker-left");
        fs::create_dir(&stale).unwrap();
        let mut delegation = look(&tree).unwrap();
        assert_eq!(delegation.base(), tree.base);
        delegation.prepare().unwrap();
        let read = |name: &str| fs::read_to_string(tree.base.join(name)).unwrap();
        assert_eq!(read("main/cgroup.procs"), "0");
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids");
        assert!(!stale.exists());
    }

    #[test]
    fn a_parent_that_lives_in_main_already_stays_there() {
        let own = "0::/system.slice/visualpath.service/main\n";
        let tree = tree(own, "memory pids");
        let mut delegation = look(&tree).unwrap();
        assert_eq!(delegation.base(), tree.base);
        delegation.prepare().unwrap();
        let procs = fs::read_to_string(tree.base.join("main/cgroup.procs")).unwrap();
        assert_eq!(procs, "");
    }

    #[test]
    fn what_is_not_delegated_is_named() {
        let error = look(&tree(OWN, "cpu memory")).unwrap_err();
        assert!(error.to_string().contains("pids"), "{error}");
        let error = look(&tree("1:memory:/x\n", "memory pids")).unwrap_err();
        assert!(error.to_string().contains("0::/"), "{error}");
        let tree = tree(OWN, "memory pids");
        fs::remove_file(tree.base.join("cgroup.subtree_control")).unwrap();
        let error = look(&tree).unwrap_err();
        assert!(error.to_string().contains("subtree_control"), "{error}");
    }

    #[test]
    fn a_worker_gets_its_limits_and_nothing_remains_of_a_failed_one() {
        let tree = tree(OWN, "memory pids");
        let delegation = look(&tree).unwrap();
        // The kernel makes these files with the directory.
        let dir = tree.base.join("worker-face__yard_");
        fs::create_dir(&dir).unwrap();
        for file in [
            "pids.max",
            "memory.max",
            "memory.oom.group",
            "memory.swap.max",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
        let worker = delegation.worker("face (yard)", Some(1 << 28), 64).unwrap();
        assert_eq!(worker.path(), dir);
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let limits = [
            "pids.max",
            "memory.max",
            "memory.oom.group",
            "memory.swap.max",
        ]
        .map(read);
        assert_eq!(limits, ["64", "268435456", "1", "0"]);

        let error = delegation.worker("b", None, 64).unwrap_err();
        assert!(error.to_string().contains("worker-b/pids.max"), "{error}");
        assert!(!tree.base.join("worker-b").exists());
    }

    #[test]
    fn version_2_is_found_among_mounts() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let found = mount_point(mounts).unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("30 1 0:26 / / rw - ext4 /dev/x rw\n"), None);
    }
}
