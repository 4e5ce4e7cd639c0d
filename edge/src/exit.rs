//! Exit codes, the one place that defines them (CONTRACTS: command line).

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed in a way none of the others names.
    Failed = 1,
    /// The command line is wrong. clap uses the same number.
    Usage = 2,
    /// The config is wrong.
    Config = 3,
    /// The source or device can't be opened, or broke.
    Source = 4,
    /// The broker address can't be used.
    Broker = 5,
    /// A plugin or model can't be had.
    Plugin = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
