//! What this build is, and what it finds on this machine.

use serde::Serialize;
use visualpath_mqtt::payload::Machine;
use visualpath_onnx::available_runtimes;

/// Commit this was built from; `None` outside a git checkout.
pub fn commit() -> Option<String> {
    option_env!("VISUALPATH_COMMIT")
        .filter(|c| !c.is_empty())
        .map(str::to_owned)
}

/// Rust target it was built for.
pub fn target() -> String {
    option_env!("VISUALPATH_TARGET")
        .unwrap_or("unknown")
        .to_owned()
}

/// What this build can do, in the words of the config.
pub fn capabilities() -> Vec<String> {
    let mut words = vec![
        "source:file",
        "isolation:inline",
        "isolation:thread",
        "clip:h264",
    ];
    if cfg!(feature = "tract") {
        words.push("runtime:tract");
    }
    if cfg!(feature = "ort") {
        words.push("runtime:ort");
    }
    if cfg!(feature = "embedded-broker") {
        words.push("mqtt:embedded");
    }
    if cfg!(feature = "web") {
        words.push("web");
    }
    words.into_iter().map(str::to_owned).collect()
}

/// The machine, for `info`.
pub fn machine() -> Machine {
    let memory_kb = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Machine {
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: memory_kb * 1024,
    }
}

/// `visualpath version --json`.
#[derive(Debug, Serialize)]
pub struct Version {
    version: &'static str,
    commit: Option<String>,
    target: String,
    features: Vec<String>,
    runtimes: Vec<RuntimeFound>,
}

#[derive(Debug, Serialize)]
struct RuntimeFound {
    runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

/// Looks at this build and this machine; opens ONNX Runtime's library if there is one.
pub fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION"),
        commit: commit(),
        target: target(),
        features: capabilities(),
        runtimes: available_runtimes()
            .into_iter()
            .map(|r| {
                let runtime = r.runtime.to_string();
                match r.state {
                    Ok(info) => RuntimeFound {
                        runtime,
                        version: Some(info.version),
                        provider: Some(info.provider),
                        missing: None,
                    },
                    Err(e) => RuntimeFound {
                        runtime,
                        version: None,
                        provider: None,
                        missing: Some(e.to_string()),
                    },
                }
            })
            .collect(),
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "visualpath {}", self.version)?;
        writeln!(
            f,
            "commit    {}",
            self.commit.as_deref().unwrap_or("unknown")
        )?;
        writeln!(f, "target    {}", self.target)?;
        write!(f, "features  {}", self.features.join(" "))?;
        for r in &self.runtimes {
            match (&r.version, &r.missing) {
                (Some(version), _) => write!(
                    f,
                    "\nruntime   {} {version} ({})",
                    r.runtime,
                    r.provider.as_deref().unwrap_or("cpu")
                )?,
                (None, missing) => write!(
                    f,
                    "\nruntime   {}: not available: {}",
                    r.runtime,
                    missing.as_deref().unwrap_or("unknown")
                )?,
            }
        }
        Ok(())
    }
}
