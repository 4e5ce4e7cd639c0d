//! What `doctor` can find: every code with its severity, and a finding.

use std::fmt;

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The appliance runs, not as well as it could.
    Warn,
    /// Something the config asks for does not work.
    Fault,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fault => "fault",
        })
    }
}

/// One line a code: its name, its word, its severity. `docs/reference/doctor.md` lists the same; a
/// test compares them.
macro_rules! codes {
    ($($name:ident $word:literal $severity:ident)*) => {
        /// What was found. Each has one severity.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(
            #[doc = concat!("`", $word, "`")]
            $name,
        )* }

        impl Code {
            /// All of them.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word in JSON and docs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    ConfigValid "config_valid" Ok
    ConfigWarning "config_warning" Warn
    ConfigNone "config_none" Warn
    ConfigInvalid "config_invalid" Fault
    Cameras "cameras" Ok
    Source "source" Ok
    SourceSlow "source_slow" Warn
    SourceMissing "source_missing" Fault
    SourcePermission "source_permission" Fault
    SourceBusy "source_busy" Fault
    SourceOffline "source_offline" Fault
    SourceBroken "source_broken" Fault
    Program "program" Ok
    ProgramMissing "program_missing" Fault
    Runtime "runtime" Ok
    RuntimeFallback "runtime_fallback" Warn
    RuntimeMissing "runtime_missing" Fault
    Model "model" Ok
    ModelMissing "model_missing" Fault
    ModelDamaged "model_damaged" Fault
    ModelUnusable "model_unusable" Fault
    Extractor "extractor" Ok
    ExtractorFailed "extractor_failed" Fault
    StateDir "state_dir" Ok
    StateDirVolatile "state_dir_volatile" Warn
    StateDirNoexec "state_dir_noexec" Warn
    StateDirUnwritable "state_dir_unwritable" Fault
    DiskSpeed "disk_speed" Ok
    DiskSlow "disk_slow" Warn
    DiskSpace "disk_space" Ok
    DiskSmall "disk_small" Warn
    QuotaFull "quota_full" Warn
    InodesShort "inodes_short" Warn
    DiskFull "disk_full" Fault
    Clock "clock" Ok
    ClockUnsynced "clock_unsynced" Warn
    ClockWrong "clock_wrong" Fault
    Rtc "rtc" Ok
    RtcMissing "rtc_missing" Warn
    Broker "broker" Ok
    BrokerOff "broker_off" Ok
    BrokerUnreachable "broker_unreachable" Fault
    BrokerRefused "broker_refused" Fault
    BrokerSilent "broker_silent" Fault
    BrokerPortTaken "broker_port_taken" Fault
    BrokerConfig "broker_config" Fault
    Sandbox "sandbox" Ok
    SandboxUnused "sandbox_unused" Ok
    SandboxMissing "sandbox_missing" Warn
    SandboxMandatory "sandbox_mandatory" Fault
    Memory "memory" Ok
    MemoryShort "memory_short" Warn
    MemoryExhausted "memory_exhausted" Fault
    Temperature "temperature" Ok
    TemperatureHigh "temperature_high" Warn
    Throttled "throttled" Warn
    CpuGovernor "cpu_governor" Ok
    CpuPowersave "cpu_powersave" Warn
    H264Licence "h264_licence" Ok
    Capacity "capacity" Ok
    CapacityShort "capacity_short" Warn
    CpuShort "cpu_short" Warn
    Encoder "encoder" Ok
    EncoderSlow "encoder_slow" Warn
    Ring "ring" Ok
    RingShort "ring_short" Warn
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The source, extractor, directory, broker … it is about.
    pub subject: String,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// Nothing needs to be done about it.
    pub fn new(code: Code, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            subject: subject.into(),
            detail: detail.into(),
            advice: None,
        }
    }

    /// With what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (severity, code) = (self.severity.to_string(), self.code.as_str());
        write!(
            f,
            "{severity:5}  {code:20}  {}: {}",
            self.subject, self.detail
        )?;
        match &self.advice {
            Some(advice) => write!(f, "\n{:7}{:22}do: {advice}", "", ""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_code_with_its_severity_and_no_other() {
        let page = include_str!("../../../../docs/reference/doctor.md");
        let listed: Vec<(String, String)> = page
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .map(|l| {
                let mut cells = l.split('|').map(|c| c.trim().trim_matches('`').to_owned());
                let mut next = || cells.next().unwrap();
                (next(), next())
            })
            .collect();
        let defined: Vec<(String, String)> = Code::ALL
            .iter()
            .map(|c| (c.as_str().to_owned(), c.severity().to_string()))
            .collect();
        assert_eq!(listed, defined);
    }

    #[test]
    fn a_finding_reads_in_one_line_and_its_cure_in_the_next() {
        let finding =
            Finding::new(Code::BrokerUnreachable, "mqtt://a:1883", "refused").advise("start it");
        assert_eq!(
            finding.to_string(),
            "fault  broker_unreachable    mqtt://a:1883: refused\n                             do: start it"
        );
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["code"], "broker_unreachable");
        assert_eq!(json["severity"], "fault");
        assert_eq!(json["do"], "start it");
    }
}
