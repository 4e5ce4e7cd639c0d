//! Which files a worker reaches, by Landlock: an allow-list that holds even for root.
//!
//! The one hard idea: **a rule is tied to the file, not to its name.** On disk that is the same
//! thing. In `/proc` it is not: the kernel forgets those files when memory is short and makes
//! new ones on the next look, which no rule knows. So either all of `/proc` is granted, whose
//! root is never forgotten, or the few files of it that are granted are held open for the
//! worker's life ([`Restricted::pins`]). Seen with `echo 2 > /proc/sys/vm/drop_caches`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use crate::policy::{Policy, Trust};
use crate::stage::{StageError, Step};

/// The newest Landlock ABI this crate was tested with; of a newer kernel no more is asked.
pub const LANDLOCK_ABI_TESTED: u32 = 7;

/// From this ABI on signals to processes outside are refused by Landlock.
pub(crate) const ABI_SIGNALS: u32 = 6;

/// Read and executed by every worker, where they exist. Of `/etc` only what the loader, the
/// C library's look-ups and TLS read: never shadow, ssl/private, machine-id or other programs'.
const SYSTEM: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/etc/alternatives",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Read besides by a worker that is trusted or has devices: where drivers and ONNX Runtime look
/// for them. It holds serial numbers, which are no untrusted worker's business.
const SYSTEM_DEVICES: &[&str] = &[
    "/etc/OpenCL",
    "/etc/glvnd",
    "/etc/nv_tegra_release",
    "/etc/vulkan",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/firmware/devicetree/base",
    "/sys/module",
];

/// Read besides by a worker with network.
const SYSTEM_NETWORK: &[&str] = &["/etc/gai.conf", "/etc/resolv.conf"];

/// Of `/proc`, for an untrusted worker; held open (see the module's page).
const PROC_UNTRUSTED: &[&str] = &[
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm/overcommit_memory",
];

/// Written by every worker.
const SINKS: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];

/// Read by every worker.
const SPRINGS: &[&str] = &["/dev/random", "/dev/urandom"];

/// What Landlock was told.
pub(crate) struct Restricted {
    /// The ABI whose restrictions are in force; 0: none, the kernel has no Landlock.
    pub abi: u32,
    /// Files of `/proc` that must stay open as long as the worker lives.
    pub pins: Vec<OwnedFd>,
}

/// Restricts the process to what `policy` and its private directory grant. `program` is what it
/// will exec.
pub(crate) fn restrict(
    policy: &Policy,
    dir: &Path,
    program: Option<&Path>,
) -> Result<Restricted, StageError> {
    let Ok(kernel) = crate::sys::landlock_abi() else {
        return Ok(Restricted {
            abi: 0,
            pins: Vec::new(),
        });
    };
    let level = kernel.min(LANDLOCK_ABI_TESTED);
    let (ruleset, pins) = allowed(policy, dir, program, level)?;
    let status = ruleset.restrict_self().map_err(refused)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(refused_by(
            "restrict_self enforced nothing",
            io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        ));
    }
    Ok(Restricted { abi: level, pins })
}

/// Every rule, for a kernel of that Landlock ABI, and what must stay open for them to last.
fn allowed(
    policy: &Policy,
    dir: &Path,
    program: Option<&Path>,
    level: u32,
) -> Result<(RulesetCreated, Vec<OwnedFd>), StageError> {
    let abi = ABI::from(i32::try_from(level).unwrap_or(0));
    let mut rules = Rules {
        ruleset: ruleset(abi, policy).map_err(refused)?,
        abi,
    };
    let mut pins = Vec::new();

    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
    let sink = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
    let device = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});
    for path in system(policy) {
        rules.grant_if_there(path, read)?;
    }
    for path in SINKS {
        rules.grant_if_there(path, sink)?;
    }
    for path in SPRINGS {
        rules.grant_if_there(path, AccessFs::ReadFile.into())?;
    }
    if policy.trust == Trust::Normal || policy.processes {
        // A child's own /proc directory does not exist yet: no rule could name it.
        rules.grant_if_there("/proc", AccessFs::ReadFile | AccessFs::ReadDir)?;
    } else {
        for path in PROC_UNTRUSTED {
            let pin = rules.grant_if_there(path, AccessFs::ReadFile | AccessFs::ReadDir)?;
            pins.extend(pin);
        }
    }
    if let Some(program) = program {
        rules.grant(program, AccessFs::ReadFile | AccessFs::Execute, "")?;
    }
    for path in &policy.read {
        rules.grant(path, read, "take it out of `read`, or create it")?;
    }
    rules.grant(dir, write(), "the parent must create the private directory")?;
    for path in &policy.write {
        rules.grant(path, write(), "take it out of `write`, or create it")?;
    }
    for pattern in &policy.devices {
        for path in matches(pattern)? {
            rules.grant(
                &path,
                device,
                "take it out of `devices`, or load its driver",
            )?;
        }
    }
    Ok((rules.ruleset, pins))
}

fn system(policy: &Policy) -> impl Iterator<Item = &'static &'static str> {
    let hidden = policy.trust == Trust::Untrusted && policy.devices.is_empty();
    let devices: &[&str] = if hidden { &[] } else { SYSTEM_DEVICES };
    let network: &[&str] = if policy.network { SYSTEM_NETWORK } else { &[] };
    SYSTEM.iter().chain(devices).chain(network)
}

/// Everything but making device nodes, and no executing: what it wrote it may not run.
fn write() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | Refer | RemoveDir | RemoveFile
            | MakeDir | MakeReg | MakeSym | MakeFifo | MakeSock
    })
}

/// What is forbidden unless a rule grants it.
fn ruleset(abi: ABI, policy: &Policy) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?;
    let net = AccessNet::from_all(abi);
    if !policy.network && !net.is_empty() {
        ruleset = ruleset.handle_access(net)?;
    }
    let scope = Scope::from_all(abi);
    if !scope.is_empty() {
        ruleset = ruleset.scope(scope)?;
    }
    ruleset.create()
}

struct Rules {
    ruleset: RulesetCreated,
    abi: ABI,
}

impl Rules {
    /// Grants `access` to what is at `path`, as far as the kernel knows it and a file has it.
    fn grant(
        &mut self,
        path: &Path,
        access: BitFlags<AccessFs>,
        fix: &str,
    ) -> Result<OwnedFd, StageError> {
        let failed = |e: io::Error, fix: &str| {
            Step::Landlock.failed(path.display().to_string(), e, fix.to_string())
        };
        if !path.is_absolute() {
            let relative = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(failed(relative, "give an absolute path"));
        }
        let fd = open_path(path).map_err(|e| failed(e, fix))?;
        self.rule(&fd, access)
            .map_err(|e| failed(e, "report this with the kernel's version"))?;
        Ok(fd)
    }

    /// The same for a path of our own lists: what is not there, or not for this user, needs no
    /// rule.
    fn grant_if_there(
        &mut self,
        path: &str,
        access: BitFlags<AccessFs>,
    ) -> Result<Option<OwnedFd>, StageError> {
        match self.grant(Path::new(path), access, "") {
            Ok(fd) => Ok(Some(fd)),
            Err(StageError::Step { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn rule(&mut self, fd: &OwnedFd, access: BitFlags<AccessFs>) -> io::Result<()> {
        let is_dir = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory;
        let known = match is_dir {
            true => AccessFs::from_all(self.abi),
            false => AccessFs::from_file(self.abi),
        };
        let rule = PathBeneath::new(fd.as_fd(), access & known);
        (&mut self.ruleset)
            .add_rule(rule)
            .map_err(io::Error::other)?;
        Ok(())
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// The paths of a device pattern: itself, or with one `*` in its last component what matches.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, StageError> {
    let failed = |what: &Path, e: io::Error, fix: &'static str| {
        Step::Landlock.failed(format!("device {}", what.display()), e, fix)
    };
    let (Some(name), Some(parent)) = (pattern.file_name(), pattern.parent()) else {
        let not_a_file = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(failed(pattern, not_a_file, "name a device in `devices`"));
    };
    let Some((start, end)) = name.to_str().and_then(|name| name.split_once('*')) else {
        return Ok(vec![pattern.to_path_buf()]);
    };
    let fix = "take it out of `devices`, or load its driver";
    let mut found = Vec::new();
    let entries = std::fs::read_dir(parent).map_err(|e| failed(parent, e, fix))?;
    for entry in entries {
        let name = entry.map_err(|e| failed(parent, e, fix))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end) {
            found.push(parent.join(name));
        }
    }
    if found.is_empty() {
        let none = io::Error::from_raw_os_error(libc::ENOENT);
        return Err(failed(pattern, none, fix));
    }
    found.sort();
    Ok(found)
}

fn refused(error: RulesetError) -> StageError {
    refused_by("the kernel", io::Error::other(error))
}

fn refused_by(what: &str, error: io::Error) -> StageError {
    Step::Landlock.failed(what, error, "report this with the kernel's version")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_star_in_a_device_names_every_match_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nvhost-ctrl", "nvhost-gpu", "nvmap", "xnvhost-a"] {
            File::create(dir.path().join(name)).unwrap();
        }
        let found = matches(&dir.path().join("nvhost-*")).unwrap();
        assert_eq!(
            found,
            [
                dir.path().join("nvhost-ctrl"),
                dir.path().join("nvhost-gpu")
            ]
        );
        let none = matches(&dir.path().join("card*")).unwrap_err().to_string();
        assert!(
            none.contains("card*") && none.contains("`devices`"),
            "{none}"
        );
        let plain = dir.path().join("nvmap");
        assert_eq!(matches(&plain).unwrap(), [plain]);
    }

    #[test]
    fn every_kernel_since_the_first_with_landlock_takes_the_rules() {
        let Ok(kernel) = crate::sys::landlock_abi() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        for level in 1..=kernel.min(LANDLOCK_ABI_TESTED) {
            for (trust, network) in [(Trust::Normal, false), (Trust::Untrusted, true)] {
                let policy = Policy {
                    trust,
                    network,
                    read: vec!["/etc/passwd".into()],
                    write: vec![dir.path().into()],
                    devices: vec!["/dev/null".into(), "/dev/zer*".into()],
                    ..Policy::default()
                };
                let program = Some(Path::new("/bin/sh"));
                allowed(&policy, dir.path(), program, level).unwrap();
            }
        }
    }

    #[test]
    fn the_reference_names_every_path() {
        let page = include_str!("../../../docs/reference/sandbox.md");
        let lists = [
            SYSTEM,
            SYSTEM_DEVICES,
            SYSTEM_NETWORK,
            PROC_UNTRUSTED,
            SINKS,
            SPRINGS,
        ];
        for path in lists.into_iter().flatten() {
            // `/lib64` is `/lib*` there, `/etc/ld.so.conf` is `ld.so.*`.
            let short = path
                .trim_start_matches("/etc/")
                .trim_start_matches("/proc/");
            let starred = ["/lib", "ld.so."]
                .iter()
                .any(|start| short.starts_with(start));
            let last = short.rsplit('/').next().unwrap();
            assert!(starred || page.contains(last), "{path}");
        }
    }

    #[test]
    fn no_list_of_ours_reaches_a_secret() {
        for path in SYSTEM.iter().chain(SYSTEM_DEVICES).chain(SYSTEM_NETWORK) {
            for secret in [
                "/etc/shadow",
                "/etc/ssl/private",
                "/etc/machine-id",
                "/root",
            ] {
                assert!(
                    !Path::new(secret).starts_with(path),
                    "{path} holds {secret}"
                );
            }
        }
    }
}
