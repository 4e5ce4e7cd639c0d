//! The machine: clock, memory, temperature, power, processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::disk::bytes;
use super::finding::{Code, Finding};
use super::program;

/// Nothing of this was built before (2026-01-01).
const EARLIEST_S: i64 = 1_767_225_600;
/// Hotter than this, boards begin to slow down (a Pi at 80 °C).
const HOT_C: f64 = 78.0;
/// How long the time services may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The machine's files, somewhere else in tests.
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The one this runs on.
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Entries of a directory whose name begins so, in order.
    fn entries(&self, dir: &str, begins: &str) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> = fs::read_dir(self.root.join(dir))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(begins))
            .map(|e| e.path())
            .collect();
        entries.sort();
        entries
    }

    /// Memory that can still be had, bytes.
    pub fn available(&self) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        let kb: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kb * 1024)
    }

    /// Clock, temperature, power and processor.
    pub fn check(&self) -> Vec<Finding> {
        let mut found = self.clock();
        found.extend(self.temperature());
        found.extend(self.throttled());
        found.extend(self.governor());
        found
    }

    fn clock(&self) -> Vec<Finding> {
        let now = Timestamp::now();
        let mut found = Vec::new();
        if let Some(wrong) = implausible(now, built()) {
            found.push(wrong);
        } else {
            found.push(synced(self.synced_by()));
        }
        let rtc = self.entries("sys/class/rtc", "rtc");
        found.push(match rtc.first() {
            Some(rtc) => {
                let name = fs::read_to_string(rtc.join("name")).unwrap_or_default();
                Finding::new(Code::Rtc, "rtc", format!("there is one: {}", name.trim()))
            }
            None => Finding::new(
                Code::RtcMissing,
                "rtc",
                "none: after a power cut the clock is wrong until the network has told the time",
            )
            .advise(
                "triggers of that time carry `clock.synced = false`; fit a clock with a battery (Pi 5: its battery connector) if that matters",
            ),
        });
        found
    }

    /// Who keeps the clock right; `None` if nobody says so.
    fn synced_by(&self) -> Option<&'static str> {
        if self.root.join("run/systemd/timesync/synchronized").exists() {
            return Some("systemd-timesyncd");
        }
        if self.root != Path::new("/") {
            return None;
        }
        let args = ["show", "-p", "NTPSynchronized", "--value"];
        if program::answer("timedatectl", &args, PATIENCE).is_some_and(|a| a.trim() == "yes") {
            return Some("the kernel's clock discipline");
        }
        let tracking = program::answer("chronyc", &["-c", "tracking"], PATIENCE)?;
        chrony_synced(&tracking).then_some("chrony")
    }

    fn temperature(&self) -> Option<Finding> {
        let hottest = self.hottest_c()?;
        let detail = format!("{hottest:.0} °C");
        Some(if hottest >= HOT_C {
            Finding::new(Code::TemperatureHigh, "cpu", detail)
                .advise("the board slows down at about 80 °C: fit a heat sink or a fan, or give it less to do (fps)")
        } else {
            Finding::new(Code::Temperature, "cpu", detail)
        })
    }

    /// Of the hottest thermal zone, °C.
    pub fn hottest_c(&self) -> Option<f64> {
        self.entries("sys/class/thermal", "thermal_zone")
            .iter()
            .filter_map(|zone| fs::read_to_string(zone.join("temp")).ok())
            .filter_map(|milli| milli.trim().parse::<f64>().ok())
            .map(|milli| milli / 1000.0)
            // What a zone without a sensor says.
            .filter(|c| (-40.0..150.0).contains(c) && *c != 0.0)
            .reduce(f64::max)
    }

    /// A Raspberry Pi says when it was short of power or too hot.
    fn throttled(&self) -> Option<Finding> {
        let text = self.text("sys/devices/platform/soc/soc:firmware/get_throttled")?;
        let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
        let said = |shift: u32| -> Vec<&str> {
            let meanings = [
                "the supply's voltage is too low",
                "its frequency is capped",
                "it is throttled",
                "its soft temperature limit is reached",
            ];
            (0..)
                .zip(meanings)
                .filter(|(bit, _)| bits >> (shift + bit) & 1 == 1)
                .map(|(_, meaning)| meaning)
                .collect()
        };
        let (now, since_boot) = (said(0), said(16));
        if now.is_empty() && since_boot.is_empty() {
            return None;
        }
        let mut detail = Vec::new();
        if !now.is_empty() {
            detail.push(format!("now: {}", now.join(", ")));
        }
        if !since_boot.is_empty() {
            detail.push(format!("since boot: {}", since_boot.join(", ")));
        }
        let advice = if bits & 0x1_0001 != 0 {
            "use the board's own power supply and a short cable; cameras and disks may need a powered hub"
        } else {
            "cool it: a heat sink, a fan, air"
        };
        Some(Finding::new(Code::Throttled, "board", detail.join("; ")).advise(advice))
    }

    fn governor(&self) -> Option<Finding> {
        let cpus = self.entries("sys/devices/system/cpu", "cpu");
        let mut governors: Vec<String> = cpus
            .iter()
            .filter_map(|cpu| fs::read_to_string(cpu.join("cpufreq/scaling_governor")).ok())
            .map(|g| g.trim().to_owned())
            .collect();
        // Each cluster of cores has its own; a driver that scales by itself calls both its modes so.
        governors.sort();
        governors.dedup();
        let detail = governors.join(", ");
        let active = self
            .text("sys/devices/system/cpu/intel_pstate/status")
            .is_some_and(|s| s == "active");
        match governors.iter().any(|g| g == "powersave") && !active {
            _ if governors.is_empty() => None,
            true => Some(
                Finding::new(Code::CpuPowersave, "cpu", detail).advise(
                    "it stays at its lowest frequency: `cpupower frequency-set -g schedutil` (or ondemand)",
                ),
            ),
            false => Some(Finding::new(Code::CpuGovernor, "cpu", detail)),
        }
    }

    /// Whether what is going to be allocated fits.
    pub fn memory(&self, pools: u64, rings: u64) -> Option<Finding> {
        let available = self.available()?;
        let need = pools.saturating_add(rings);
        let detail = format!(
            "{} for frames and {} for the clips' pre-roll, of {} available (models are loaded already)",
            bytes(pools),
            bytes(rings),
            bytes(available)
        );
        let advice = "take a smaller picture (source.width, height), fewer extractors, or set clip.ring_bytes lower";
        Some(if need > available {
            Finding::new(Code::MemoryExhausted, "memory", detail).advise(advice)
        } else if need > available / 10 * 7 {
            Finding::new(Code::MemoryShort, "memory", detail).advise(advice)
        } else {
            Finding::new(Code::Memory, "memory", detail)
        })
    }
}

/// When this program was written to the disk, as far as known.
fn built() -> Option<SystemTime> {
    let program = std::env::current_exe().ok()?;
    fs::metadata(program).ok()?.modified().ok()
}

fn implausible(now: Timestamp, built: Option<SystemTime>) -> Option<Finding> {
    let built = built
        .and_then(|b| Timestamp::try_from(b).ok())
        .map_or(EARLIEST_S, |b| b.as_second().max(EARLIEST_S));
    // A package is unpacked with the builder's times, which may be a little ahead.
    (now.as_second() < built - 86_400).then(|| {
        Finding::new(
            Code::ClockWrong,
            "clock",
            format!("it is {now:.0}, before this program was built"),
        )
        .advise(
            "let it have a network and a time server (timedatectl set-ntp true), or set it by hand",
        )
    })
}

fn synced(by: Option<&'static str>) -> Finding {
    match by {
        Some(by) => Finding::new(Code::Clock, "clock", format!("set by {by}")),
        None => Finding::new(
            Code::ClockUnsynced,
            "clock",
            "nobody says that it is synchronised (systemd-timesyncd, chrony)",
        )
        .advise("`timedatectl set-ntp true`, or install chrony; times in triggers and file names come from this clock"),
    }
}

/// chronyc's `tracking` as comma-separated values ends with the leap status.
fn chrony_synced(tracking: &str) -> bool {
    let last = tracking.trim().rsplit(',').next().unwrap_or_default();
    matches!(last, "Normal" | "Insert second" | "Delete second")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = dir.path().to_owned();
        (dir, Machine { root })
    }

    fn code(found: Option<Finding>) -> Option<Code> {
        found.map(|f| f.code)
    }

    #[test]
    fn a_pi_that_was_short_of_power_says_so_and_what_helps() {
        let at = |value: &str| {
            let file = "sys/devices/platform/soc/soc:firmware/get_throttled";
            let (_dir, machine) = fake(&[(file, value)]);
            machine.throttled()
        };
        assert!(at("0x0").is_none());
        let low = at("50005\n").unwrap();
        assert!(low.detail.contains("now: the supply's voltage"), "{low}");
        assert!(low.detail.contains("since boot"), "{low}");
        assert!(low.advice.unwrap().contains("power supply"));
        let hot = at("0x80000").unwrap();
        assert!(hot.advice.unwrap().contains("fan"));
    }

    #[test]
    fn heat_and_a_governor_that_saves_power_are_warnings() {
        let zone = |n: u8, milli: &'static str| {
            fake(&[
                ("sys/class/thermal/thermal_zone0/temp", "41000\n"),
                (
                    match n {
                        1 => "sys/class/thermal/thermal_zone1/temp",
                        _ => "sys/class/thermal/thermal_zone2/temp",
                    },
                    milli,
                ),
            ])
        };
        let (_dir, machine) = zone(1, "83500\n");
        assert_eq!(code(machine.temperature()), Some(Code::TemperatureHigh));
        let (_dir, machine) = zone(2, "-274000");
        assert_eq!(machine.hottest_c(), Some(41.0), "no sensor there");
        let governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        let (_dir, machine) = fake(&[(governor, "powersave\n")]);
        assert_eq!(code(machine.governor()), Some(Code::CpuPowersave));
        let (_dir, machine) = fake(&[(governor, "ondemand\n")]);
        assert_eq!(code(machine.governor()), Some(Code::CpuGovernor));
        let (_dir, machine) = fake(&[]);
        assert!(machine.governor().is_none() && machine.temperature().is_none());
    }

    #[test]
    fn memory_is_judged_by_what_is_available() {
        let (_dir, machine) = fake(&[(
            "proc/meminfo",
            "MemTotal:  1000000 kB\nMemAvailable:   102400 kB\n",
        )]);
        let judge = |pools: u64, rings: u64| code(machine.memory(pools << 20, rings << 20));
        assert_eq!(judge(10, 40), Some(Code::Memory));
        assert_eq!(judge(30, 60), Some(Code::MemoryShort));
        assert_eq!(judge(60, 64), Some(Code::MemoryExhausted));
    }

    #[test]
    fn a_clock_from_before_the_program_was_built_is_a_fault() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        assert_eq!(code(implausible(at(0), None)), Some(Code::ClockWrong));
        assert!(implausible(Timestamp::now(), built()).is_none());
        let built = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let at = implausible(at(1_800_000_000), Some(built));
        assert_eq!(code(at), Some(Code::ClockWrong));
    }

    #[test]
    fn who_keeps_the_clock_is_believed() {
        let (_dir, machine) = fake(&[("run/systemd/timesync/synchronized", "")]);
        assert_eq!(machine.synced_by(), Some("systemd-timesyncd"));
        let (_dir, machine) = fake(&[]);
        assert_eq!(machine.synced_by(), None);
        assert_eq!(synced(None).code, Code::ClockUnsynced);
        assert!(chrony_synced(
            "A9FEA9FE,169.254.169.123,3,1.0,0,0,0,0,0,0,0,0,0,Normal\n"
        ));
        assert!(!chrony_synced(
            "00000000,,0,0,0,0,0,0,0,0,0,0,0,Not synchronised\n"
        ));
    }
}
