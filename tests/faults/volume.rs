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
    // Of an ext4: the root may use no more than others, and errors make it read-only.
    let options: &[&str] = match mkfs {
        "mkfs.ext4" => &["-q", "-m", "0", "-e", "remount-ro"],
        _ => &["-q"],
    };
    let options = options.iter().map(|o| o.as_ref());
    let args: Vec<&std::ffi::OsStr> = options.chain([image.as_os_str()]).collect();
    sh(mkfs, &args)
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

    /// Free bytes.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all the room there is: a file `ballast`, made larger until there is no more.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(self.ballast())?;
        // Blocks for the most of it, bytes for the rest.
        let (len, free) = (file.metadata()?.len(), self.free());
        let most = free.saturating_sub(1 << 20);
        if most > 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, most)?;
        }
        let block = [1_u8; 4096];
        loop {
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// The file that takes the room.
    pub fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Makes an ext4 read-only under its users, as the kernel does on an error in the file system.
    /// (A remount is refused while a file is open for writing.)
    pub fn break_ext4(&self) -> Result<(), String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
        let at = self.at.display().to_string();
        let mut lines = mounts.lines().map(|l| l.split(' '));
        let device = lines.find_map(|mut l| l.next().filter(|_| l.next() == Some(&at)));
        let device = device.ok_or("not mounted")?.trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&trigger, "a test").map_err(|e| format!("{trigger}: {e}"))
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
            say(&e);
            // Gone as soon as the last file in it is closed.
            if let Err(e) = sh("umount", &["-l".as_ref(), self.at.as_os_str()]) {
                say(&e);
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

/// Says why a test is skipped.
pub fn skipped(test: &str, why: &str) {
    say(&format!("skipped: {test}: {why}"));
}

/// Says it past the harness, which keeps what passing tests say.
pub fn say(text: &str) {
    let said = writeln!(std::io::stderr(), "{text}");
    said.expect("standard error");
}
