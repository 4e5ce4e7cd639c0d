//! `exec:CMD`: whatever a program writes to its standard output, live; and two presets of it,
//! `libcamera:N` (Raspberry Pi) and `argus:N` (Jetson), whose sensors have no other door.
//!
//! The command is split into words like a shell's (quotes and backslashes), but no shell runs it:
//! no variables, no wildcards, no pipes. Who needs these writes `exec:sh -c '…'`. What it writes is
//! told by its first bytes: H.264 or H.265 byte stream (without B pictures: it has no time stamps),
//! JPEGs one after the other, Y4M, or NUT with one of these or raw pictures in it, which keeps the
//! program's own time stamps. Its stderr goes to the log. It is ended with everything it started,
//! and started again when it ends or stalls (`encoded/mod.rs`).

mod cutter;
mod forms;
mod preset;
mod stream;
mod words;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::Clock;

use super::encoded::{Connect, ConnectError, EncodedSource, PacketStream};
use super::{Source, SourceError, SourceOptions, StopFlag};
use crate::process::Process;
use stream::ExecStream;

/// A camera program puts its sensor to sleep on SIGTERM; it gets so long for it.
const GRACE: Duration = Duration::from_secs(1);

/// Program and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    program: OsString,
    args: Vec<OsString>,
    /// For people; the program by default.
    label: String,
}

/// Whether a URI is for here.
pub(super) fn is_uri(uri: &str) -> bool {
    ["exec:", "libcamera:", "argus:"]
        .iter()
        .any(|scheme| uri.starts_with(scheme))
}

/// Checks that the program is there; it is started with the first `next`.
pub(super) fn open(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    let line = line_of(opts, &Path::exists).map_err(|detail| SourceError::Unsupported {
        uri: opts.uri.clone(),
        detail,
    })?;
    let connect = Exec {
        owner: opts.name.as_str().to_owned(),
        line,
    };
    Ok(Box::new(EncodedSource::new(opts, clock, connect)))
}

/// What to run; the error says what is wrong or missing. `exists` is asked about files.
fn line_of(opts: &SourceOptions, exists: &dyn Fn(&Path) -> bool) -> Result<Line, String> {
    let line = if let Some(command) = opts.uri.strip_prefix("exec:") {
        let mut words = words::split(command)?.into_iter();
        let program = words
            .next()
            .ok_or("no command; write `exec:` and a program with its arguments")?;
        Line {
            label: format!("exec {}", base_name(&program)),
            program: program.into(),
            args: words.map(OsString::from).collect(),
        }
    } else if let Some(number) = opts.uri.strip_prefix("libcamera:") {
        preset::libcamera(number, opts, &|program| find(program, exists).is_some())?
    } else {
        let number = opts.uri.strip_prefix("argus:").unwrap_or_default();
        let model = std::fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
        preset::argus(number, opts, &model, &|program| {
            find(program, exists).is_some()
        })?
    };
    let program = line.program.to_string_lossy();
    let Some(file) = find(&program, exists) else {
        return Err(format!(
            "`{program}` was not found; install it, or write its whole path"
        ));
    };
    match std::fs::metadata(&file) {
        Ok(meta) if meta.is_dir() => Err(format!("`{program}` is a directory, not a program")),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Err(format!(
            "`{program}` may not be executed; `chmod +x {program}`"
        )),
        _ => Ok(line),
    }
}

fn base_name(program: &str) -> String {
    let path = Path::new(program);
    path.file_name()
        .map_or_else(|| program.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// The file a program's name stands for.
fn find(program: &str, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| exists(p));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| exists(p))
}

/// Starts the program for each connection.
struct Exec {
    owner: String,
    line: Line,
}

impl Connect for Exec {
    fn connect(&mut self, stop: &StopFlag) -> Result<Box<dyn PacketStream>, ConnectError> {
        if stop.is_set() {
            return Err(ConnectError::Stopped);
        }
        let mut command = Command::new(&self.line.program);
        command.args(&self.line.args);
        let (process, pipes) =
            Process::spawn(command, &self.owner, false, GRACE).map_err(|e| self.failed(&e))?;
        let stream = ExecStream::new(process, pipes.stdout, self.describe(), stop.clone());
        Ok(Box::new(stream))
    }

    fn describe(&self) -> String {
        self.line.label.clone()
    }
}

impl Exec {
    fn failed(&self, error: &io::Error) -> ConnectError {
        let program = self.line.program.to_string_lossy();
        ConnectError::failed(
            format!("`{program}` can't be started: {error}"),
            "check that it is installed and may be executed",
        )
    }
}
