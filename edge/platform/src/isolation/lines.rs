//! A child's standard output and error: drained always, told line by line, at a bounded rate.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use visualpath_core::Name;

/// Longer lines are cut.
const MAX_LINE: usize = 4096;
/// So many lines a second are told …
const RATE: f64 = 20.0;
/// … and so many at once.
const BURST: f64 = 100.0;

/// A token bucket for lines of one child.
#[derive(Debug)]
pub struct Budget {
    tokens: f64,
    since: Instant,
    /// Lines that were not told since the last that was.
    swallowed: u64,
    /// When the last of them came.
    last: Instant,
}

/// After so long without a line it is said how many were not told.
const QUIET: Duration = Duration::from_secs(1);

impl Budget {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            since: now,
            swallowed: 0,
            last: now,
        }
    }

    /// Whether one more line may be told; then also how many were not since the last.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        if self.tokens < 1.0 {
            self.swallowed += 1;
            self.last = now;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.swallowed))
    }

    /// Lines that were not told, once no more come: nobody else will say so.
    pub fn rest(&mut self, now: Instant) -> Option<u64> {
        self.rest_at().filter(|at| now >= *at)?;
        Some(std::mem::take(&mut self.swallowed))
    }

    /// When [`Budget::rest`] has something to say.
    pub fn rest_at(&self) -> Option<Instant> {
        (self.swallowed > 0).then(|| self.last + QUIET)
    }
}

/// One pipe, without blocking.
pub struct Lines<R> {
    pipe: Option<R>,
    line: Vec<u8>,
    /// The line was longer than is kept.
    cut: bool,
}

/// Bytes read at a turn, so that a chatty child does not keep the others waiting.
const TURN: usize = 64 << 10;

impl<R: Read + AsRawFd> Lines<R> {
    /// Of a non-blocking pipe.
    pub fn new(pipe: R) -> Self {
        Self {
            pipe: Some(pipe),
            line: Vec::new(),
            cut: false,
        }
    }

    /// To be polled; `None` once it has ended.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Reads what is there, at most one turn's worth, and gives each whole line to `told`. True
    /// while there may be more.
    pub fn read(&mut self, mut told: impl FnMut(&str)) -> bool {
        let Some(pipe) = &mut self.pipe else {
            return false;
        };
        let mut buffer = [0_u8; 8192];
        let mut left = TURN;
        while left > 0 {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    left = left.saturating_sub(n);
                    for byte in &buffer[..n] {
                        match byte {
                            b'\n' => {
                                tell(&mut self.line, &mut self.cut, &mut told);
                            }
                            _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                            _ => self.cut = true,
                        }
                    }
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        if left == 0 {
            return true;
        }
        // The end: what has no line end is a line too.
        tell(&mut self.line, &mut self.cut, &mut told);
        self.pipe = None;
        false
    }
}

fn tell(line: &mut Vec<u8>, cut: &mut bool, told: &mut impl FnMut(&str)) {
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if !line.is_empty() {
        let mut text = String::from_utf8_lossy(line).into_owned();
        if *cut {
            text.push('…');
        }
        told(&text);
    }
    line.clear();
    *cut = false;
}

/// Says that lines of a child are missing.
pub fn log_swallowed(extractor: &Name, source: &Name, lines: u64) {
    tracing::warn!(%extractor, %source, lines, "lines of this worker were not logged: it writes too many");
}

/// Writes a child's line to the log under its name, at the level it begins with.
pub fn log_line(extractor: &Name, source: &Name, line: &str, swallowed: u64) {
    if swallowed > 0 {
        log_swallowed(extractor, source, swallowed);
    }
    let line = line.trim_start();
    let (level, text) = line.split_once(' ').unwrap_or(("", line));
    match level {
        "ERROR" => tracing::error!(%extractor, %source, "{text}"),
        "WARN" => tracing::warn!(%extractor, %source, "{text}"),
        "DEBUG" => tracing::debug!(%extractor, %source, "{text}"),
        "TRACE" => tracing::trace!(%extractor, %source, "{text}"),
        "INFO" => tracing::info!(%extractor, %source, "{text}"),
        _ => tracing::info!(%extractor, %source, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        (reader, writer)
    }

    #[test]
    fn lines_come_whole_however_they_are_written_and_the_last_without_an_end_too() {
        let (reader, mut writer) = pipe();
        let mut lines = Lines::new(reader);
        let mut told = Vec::new();
        writer.write_all(b"on").unwrap();
        lines.read(|l| told.push(l.to_owned()));
        writer.write_all(b"e\r\n\ntwo\nthr").unwrap();
        lines.read(|l| told.push(l.to_owned()));
        assert_eq!(told, ["one", "two"]);
        drop(writer);
        lines.read(|l| told.push(l.to_owned()));
        assert_eq!(told, ["one", "two", "thr"]);
        assert_eq!(lines.descriptor(), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let (reader, mut writer) = pipe();
        let mut lines = Lines::new(reader);
        let mut told = Vec::new();
        for _ in 0..20 {
            writer.write_all(&[b'x'; 60_000]).unwrap();
            while lines.read(|l| told.push(l.len())) {}
        }
        drop(writer);
        while lines.read(|l| told.push(l.len())) {}
        assert_eq!(told, [MAX_LINE + "…".len()]);
    }

    #[test]
    fn a_chatty_child_is_told_at_a_bounded_rate_with_the_count_of_the_rest() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let told = (0..1000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(told, 100);
        assert_eq!(budget.take(start + Duration::from_secs(1)), Some(900));
        assert_eq!(budget.rest_at(), None);
    }

    #[test]
    fn how_many_were_not_told_is_said_also_when_no_more_come() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..150 {
            budget.take(start);
        }
        assert_eq!(budget.rest(start), None, "more may come");
        assert_eq!(budget.rest(budget.rest_at().unwrap()), Some(50));
        assert_eq!(budget.rest_at(), None, "once");
    }
}
