//! The state directory: can it be written, does it last, how fast is it, how much fits.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use visualpath_media::clip::ClipStore;

use super::finding::{Code, Finding};
use crate::config::Config;

/// What stays free beside the clips: outbox, traces, an update.
const RESERVE: u64 = 256 << 20;
/// Less than this is full.
const FULL: u64 = 16 << 20;
/// Files that can still be made; a clip takes two and a directory a day.
const FEW_INODES: u64 = 1000;
/// `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Writes that are timed.
const WRITES: usize = 15;
/// The test ends here also with fewer writes: a card may take a second for each.
const PATIENCE: Duration = Duration::from_secs(3);
/// Slower than an SD card in good health.
const SLOW: Duration = Duration::from_millis(50);
/// An SSD or eMMC is below.
const FAST: Duration = Duration::from_millis(5);

/// Everything about the state directory.
pub fn check(config: &Config) -> Vec<Finding> {
    let dir = &config.device.state_dir;
    let subject = dir.display().to_string();
    let place = existing(dir);
    let mut found = Vec::new();
    match writable(&place) {
        Ok(speed) => {
            let detail = match place == *dir {
                true => "can be written".to_owned(),
                false => format!("will be made in {}", place.display()),
            };
            found.push(Finding::new(Code::StateDir, &subject, detail));
            found.push(verdict(&subject, speed));
        }
        Err(error) => {
            let read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
            let advice = if read_only {
                "mount it read-write, or set device.state_dir to a directory on a disk that is"
                    .to_owned()
            } else {
                format!(
                    "give the user that runs visualpath the right to write there (as root: mkdir -p {subject} && chown USER {subject}), or set device.state_dir"
                )
            };
            let detail = format!("{} can't be written: {error}", place.display());
            found.push(Finding::new(Code::StateDirUnwritable, &subject, detail).advise(advice));
        }
    }
    match statvfs(&place) {
        Ok(stat) => {
            let plugins = dir.join("plugins");
            if stat.f_flag.contains(StatVfsMountFlags::NOEXEC) && plugins.is_dir() {
                found.push(
                    Finding::new(
                        Code::StateDirNoexec,
                        plugins.display().to_string(),
                        "is mounted noexec: plugins that are programs can't be started",
                    )
                    .advise("put them into /usr/lib/visualpath/plugins, or mount without noexec"),
                );
            }
            let used = used(config);
            found.extend(space(
                config,
                &subject,
                stat.f_bavail.saturating_mul(stat.f_frsize),
                used,
            ));
            if stat.f_files > 0 && stat.f_favail < FEW_INODES {
                let left = stat.f_favail;
                found.push(
                    Finding::new(
                        Code::InodesShort,
                        &subject,
                        format!("{left} files can still be made, of {}", stat.f_files),
                    )
                    .advise("delete what makes many small files on this disk"),
                );
            }
        }
        Err(e) => {
            tracing::debug!(dir = %place.display(), error = %e, "statvfs");
        }
    }
    if let Ok(stat) = statfs(&place)
        && is_memory(stat.f_type)
    {
        found.push(
            Finding::new(
                Code::StateDirVolatile,
                &subject,
                "lies in memory (tmpfs): clips and messages are gone at the next boot",
            )
            .advise("set device.state_dir to a directory on a disk"),
        );
    }
    found
}

fn is_memory(f_type: rustix::fs::FsWord) -> bool {
    u64::try_from(f_type).is_ok_and(|t| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&t))
}

/// Whether this user may write to a directory, or make it.
pub fn can_write(dir: &Path) -> bool {
    tempfile::tempfile_in(existing(dir)).is_ok()
}

/// The directory itself, or the nearest above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let mut place = dir;
    loop {
        if place.as_os_str().is_empty() {
            return PathBuf::from(".");
        }
        if place.exists() {
            return place.to_owned();
        }
        match place.parent() {
            Some(parent) => place = parent,
            None => return PathBuf::from("/"),
        }
    }
}

/// Tries it, and takes the time: a median of 4 KiB appended and synced, as the outbox does it.
fn writable(place: &Path) -> io::Result<Duration> {
    // Has no name, so nothing is left of it.
    let file = tempfile::tempfile_in(place)?;
    let block = [0x5a; 4096];
    let began = Instant::now();
    let mut took = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        let one = Instant::now();
        file.write_all_at(&block, n as u64 * 4096)?;
        file.sync_data()?;
        took.push(one.elapsed());
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    took.sort();
    Ok(took.get(took.len() / 2).copied().unwrap_or_default())
}

fn verdict(subject: &str, median: Duration) -> Finding {
    let detail = format!(
        "{:.1} ms for 4 KiB written and synced (median)",
        median.as_secs_f64() * 1e3
    );
    if median > SLOW {
        return Finding::new(Code::DiskSlow, subject, detail).advise(
            "every event waits for that: use another SD card (A2, or a high-endurance one) or an SSD; a card that was fast and is not any more is worn out",
        );
    }
    let like = if median > FAST {
        "an SD card in good health"
    } else {
        "fast"
    };
    Finding::new(Code::DiskSpeed, subject, format!("{detail}: {like}"))
}

/// Bytes of the clips that are there.
fn used(config: &Config) -> u64 {
    let dir = config.clip.dir.to_string_lossy();
    ClipStore::open(&config.device.state_dir, &dir, config.clip.quota_bytes)
        .map_or(0, |store| store.bytes())
}

fn space(config: &Config, subject: &str, free: u64, used: u64) -> Vec<Finding> {
    let quota = config.clip.quota_bytes;
    let detail = format!(
        "{} free; clips take {} of {}",
        bytes(free),
        bytes(used),
        bytes(quota)
    );
    let missing = quota
        .saturating_sub(used)
        .saturating_add(RESERVE)
        .saturating_sub(free);
    let mut found = Vec::new();
    if free < FULL {
        found.push(
            Finding::new(Code::DiskFull, subject, detail).advise(
                "delete what is not needed on this disk, or set device.state_dir to another",
            ),
        );
    } else if missing > 0 {
        let fits = free.saturating_add(used).saturating_sub(RESERVE);
        let advice = if fits > quota / 8 {
            format!(
                "set clip.quota_bytes = {} or less: that leaves {} for everything else",
                fits / (1 << 20) * (1 << 20),
                bytes(RESERVE)
            )
        } else {
            "free some room on this disk, or set device.state_dir to another".to_owned()
        };
        let detail = format!(
            "{detail}; the quota and a reserve need {} more",
            bytes(missing)
        );
        found.push(Finding::new(Code::DiskSmall, subject, detail).advise(advice));
    } else {
        found.push(Finding::new(Code::DiskSpace, subject, detail));
    }
    // Every further clip costs an old one.
    if used >= quota / 20 * 19 {
        found.push(
            Finding::new(
                Code::QuotaFull,
                subject,
                format!(
                    "clips take {} of {}: every new one deletes the oldest",
                    bytes(used),
                    bytes(quota)
                ),
            )
            .advise("copy away what is to be kept, or raise clip.quota_bytes if the disk has room"),
        );
    }
    found
}

/// For people.
#[expect(clippy::cast_precision_loss, reason = "rounded for people")]
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= f64::from(1 << 30) => format!("{:.1} GiB", n / f64::from(1 << 30)),
        n if n >= f64::from(1 << 20) => format!("{:.0} MiB", n / f64::from(1 << 20)),
        n => format!("{:.0} KiB", n / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(found: &[Finding]) -> Vec<Code> {
        found.iter().map(|f| f.code).collect()
    }

    #[test]
    fn space_is_judged_by_what_the_quota_may_still_take() {
        let mut config = Config::default();
        config.clip.quota_bytes = 2 << 30;
        let judge = |free: u64, used: u64| codes(&space(&config, "d", free, used));
        assert_eq!(judge(8 << 30, 0), [Code::DiskSpace]);
        assert_eq!(judge(1 << 30, 0), [Code::DiskSmall]);
        assert_eq!(judge(1 << 30, 3 << 29), [Code::DiskSpace], "most is there");
        assert_eq!(judge(8 << 30, 2 << 30), [Code::DiskSpace, Code::QuotaFull]);
        assert_eq!(judge(1 << 20, 0), [Code::DiskFull]);
        let advice = space(&config, "d", 1 << 30, 0)[0].advice.clone().unwrap();
        assert!(advice.contains("clip.quota_bytes = 805306368"), "{advice}");
    }

    #[test]
    fn a_slow_disk_is_a_warning() {
        let code = |ms| verdict("d", Duration::from_millis(ms)).code;
        assert_eq!(code(1), Code::DiskSpeed);
        assert_eq!(code(20), Code::DiskSpeed);
        assert_eq!(code(80), Code::DiskSlow);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_looked_for_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(existing(Path::new("not/there")), Path::new("."));
        assert!(writable(dir.path()).unwrap() > Duration::ZERO);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(writable(&file).is_err(), "not a directory");
    }
}
