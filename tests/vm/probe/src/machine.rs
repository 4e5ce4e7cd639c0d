//! The machine's camera and encoder: the modules `vivid` and `vicodec`, parameters and controls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Patience for what the kernel does at once, on the machine's clock.
const SOON: Duration = Duration::from_secs(20);

/// How the camera's module is inserted.
#[derive(Debug, Clone, Copy)]
pub struct Camera {
    /// Number of its node.
    pub number: u32,
    /// The multi-planar API instead of the single-planar one.
    pub multiplanar: bool,
    /// Memory in one piece only, so that a user's own memory is refused.
    pub contiguous: bool,
    /// An HDMI input at 1280×720, 30 pictures a second, instead of a webcam.
    pub hdmi: bool,
}

impl Camera {
    /// A webcam at `/dev/video0`.
    pub const WEBCAM: Self = Self {
        number: 0,
        multiplanar: false,
        contiguous: false,
        hdmi: false,
    };

    /// Its node.
    pub fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/video{}", self.number))
    }

    /// Plugs it in; gives when its node was there. Its picture is the 75 % colour bars without text.
    pub fn insert(&self) -> Result<Instant> {
        run(&[
            "insmod",
            "/lib/modules/vivid.ko",
            "n_devs=1",
            "node_types=0x1",
            "num_inputs=1",
            &format!("input_types={}", if self.hdmi { 3 } else { 0 }),
            &format!("vid_cap_nr={}", self.number),
            &format!("multiplanar={}", 1 + u32::from(self.multiplanar)),
            &format!("allocators={}", u32::from(self.contiguous)),
        ])?;
        until("the camera's node", || Ok(self.node().exists()))?;
        let there = Instant::now();
        if self.hdmi {
            // 5: 1280x720p30.
            self.ctl(&["--set-dv-bt-timings", "index=5"])?;
        }
        self.set("osd_text_mode", 2)?;
        Ok(there)
    }

    /// Sets a control, or presses a button (any value).
    pub fn set(&self, control: &str, value: i64) -> Result<()> {
        self.ctl(&["-c", &format!("{control}={value}")]).map(drop)
    }

    /// Runs `v4l2-ctl` on it; gives what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let node = self.node().display().to_string();
        let mut all = vec!["v4l2-ctl", "-d", &node];
        all.extend(arguments);
        run(&all)
    }

    /// Unplugs it while somebody may have it open: whoever has must close it.
    pub fn pull(&self) -> Result<()> {
        // Closed by the last user, vivid comes back by itself: the module is removed before
        // whoever waits for it has opened it again.
        let patience = Instant::now() + SOON;
        while loaded()? {
            ensure!(
                Instant::now() < patience,
                "the camera is still in use {SOON:?} after it was unplugged"
            );
            // It may be unplugged already.
            if let Err(e) = self.set("disconnect", 1) {
                eprintln!("unplugging: {e:#}");
            }
            let again = Instant::now() + Duration::from_secs(1);
            while loaded()? && Instant::now() < again {
                if run(&["rmmod", "vivid"]).is_err() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        Ok(())
    }
}

/// Removes the camera's module, which nobody may have in use, if it is inserted.
pub fn remove_camera() -> Result<()> {
    if loaded()? {
        run(&["rmmod", "vivid"])?;
    }
    Ok(())
}

fn loaded() -> Result<bool> {
    Ok(Path::new("/sys/module/vivid").try_exists()?)
}

/// How the encoder's module is inserted.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    /// The multi-planar API instead of the single-planar one.
    pub multiplanar: bool,
}

impl Encoder {
    /// Plugs it in.
    pub fn insert(&self) -> Result<()> {
        let multiplanar = format!("multiplanar={}", u32::from(self.multiplanar));
        run(&["insmod", "/lib/modules/vicodec.ko", &multiplanar])?;
        until("the encoder's node", Self::is_there)
    }

    /// Unplugs it; nobody may have it open.
    pub fn remove(&self) -> Result<()> {
        run(&["rmmod", "vicodec"]).map(drop)
    }

    fn is_there() -> Result<bool> {
        for entry in std::fs::read_dir("/sys/class/video4linux")? {
            let entry = entry?;
            let name = std::fs::read_to_string(entry.path().join("name"))?;
            let node = Path::new("/dev").join(entry.file_name());
            if name.contains("stateful-encoder") && node.exists() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Removes the encoder's module, if it is inserted.
pub fn remove_encoder() -> Result<()> {
    if Path::new("/sys/module/vicodec").try_exists()? {
        run(&["rmmod", "vicodec"])?;
    }
    Ok(())
}

/// Runs a program; gives its output.
pub fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let out = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| (*program).to_owned())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let error = String::from_utf8_lossy(&out.stderr);
        bail!("{}: {}: {said}{error}", command.join(" "), out.status);
    }
    Ok(said)
}

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let patience = Instant::now() + SOON;
    while !is_so()? {
        ensure!(Instant::now() < patience, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Files this process has open.
pub fn open_files() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Memory of this process that is in RAM, bytes.
pub fn resident_bytes() -> Result<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")?
        .split_whitespace()
        .nth(1)
        .context("statm")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
