//! File systems of one's own, in image files: to copy at any instant, to fill, to make read-only.
//! They need root and loop devices; a test that can't have them says so and is skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image; unmounted when dropped.
pub struct Volume {
    /// Where it is mounted.
    pub at: PathBuf,
    /// Mounted yet, or still.
    mounted: bool,
}

fn sh(program: &str, args: &[&std::ffi::OsStr]) -> Result<(), String> {
    let out = Command::new(program)
        .env("PATH", visualpath_tests::path_with_sbin())
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let error = String::from_utf8_lossy(&out.stderr);
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {args:?}: {}", error.trim())),
    }
}

/// An image of so many bytes with a file system on it.
pub fn make(mkfs: &str, image: &Path, bytes: u64) -> Result<(), String> {
    let file = std::fs::File::create(image).and_then(|f| f.set_len(bytes));
    file.map_err(|e| format!("{}: {e}", image.display()))?;
    sh(mkfs, &["-q".as_ref(), image.as_os_str()])
}

impl Volume {
    /// Mounts an image on a new directory `at`.
    pub fn mount(image: &Path, at: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()))?;
        let options: [&std::ffi::OsStr; 2] = ["-o".as_ref(), "loop".as_ref()];
        sh(
            "mount",
            &[options[0], options[1], image.as_os_str(), at.as_os_str()],
        )?;
        Ok(Self {
            at: at.to_owned(),
            mounted: true,
        })
    }

    /// Makes it read-only or writable, under whoever uses it. What is being written ends first, so
    /// it is tried again for a while.
    pub fn remount(&self, how: &str) -> Result<(), String> {
        let options = format!("remount,{how}");
        sh(
            "mount",
            &["-o".as_ref(), options.as_ref(), self.at.as_os_str()],
        )
    }

    /// Unmounts it.
    pub fn unmount(mut self) -> Result<(), String> {
        self.mounted = false;
        sh("umount", &[self.at.as_os_str()])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted
            && let Err(e) = sh("umount", &[self.at.as_os_str()])
        {
            eprintln!("{e}");
            // Gone as soon as the last file in it is closed.
            if let Err(e) = sh("umount", &["-l".as_ref(), self.at.as_os_str()]) {
                eprintln!("{e}");
            }
        }
    }
}

/// A copy of what the image holds at this instant, without copying.
pub fn reflink(image: &Path, copy: &Path) -> Result<(), String> {
    sh(
        "cp",
        &[
            "--reflink=always".as_ref(),
            image.as_os_str(),
            copy.as_os_str(),
        ],
    )
}

/// Says why a test is skipped, past the harness that keeps what passing tests say.
pub fn skipped(test: &str, why: &str) {
    let said = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    said.expect("standard error");
}
