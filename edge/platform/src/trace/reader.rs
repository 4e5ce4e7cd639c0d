//! Reads a trace back, line by line.
//!
//! A trace may come from a machine that lost power: its last line may be torn, and when the run
//! after it went on in the same file, a torn line stands in the middle. Whatever stands there, a
//! line costs at most [`MAX_LINE_BYTES`] of memory and the lines after it are read.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::record::Record;

/// Longest line, bytes; no sink writes a longer one.
pub const MAX_LINE_BYTES: usize = 8 << 20;

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, or not of the form of its `record_type`.
    #[error("not a trace record: {0}")]
    Form(#[from] serde_json::Error),
    /// Longer than any record.
    #[error("longer than {MAX_LINE_BYTES} bytes: not a trace record")]
    TooLong,
    /// Not text.
    #[error("not UTF-8: not a trace record")]
    NotText,
}

/// One line as a record. A type this build does not know is [`Record::Unknown`].
pub fn parse_line(line: &str) -> Result<Record, ParseError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(ParseError::TooLong);
    }
    Ok(serde_json::from_str(line)?)
}

/// What could not be read, and where.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("{file}: {error}")]
    Io {
        /// Which.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// One line; those after it can be read.
    #[error("{file}:{line}: {error}")]
    Line {
        /// Which file.
        file: String,
        /// Which line, from 1.
        line: u64,
        /// Why.
        error: ParseError,
    },
}

/// Gives the records of a trace with their line numbers.
pub struct TraceReader<R> {
    name: String,
    input: R,
    line: u64,
    buffer: Vec<u8>,
    torn: Option<u64>,
    broken: bool,
}

impl TraceReader<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(name, BufReader::with_capacity(64 << 10, file))),
            Err(error) => Err(ReadError::Io { file: name, error }),
        }
    }
}

impl<R: BufRead> TraceReader<R> {
    /// Reads from `input`, called `name` in errors.
    pub fn new(name: impl Into<String>, input: R) -> Self {
        Self {
            name: name.into(),
            input,
            line: 0,
            buffer: Vec::new(),
            torn: None,
            broken: false,
        }
    }

    /// What is read, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last line if it was cut off in the middle, known once all has been read. It is no error:
    /// that is what a power cut leaves.
    pub fn torn(&self) -> Option<u64> {
        self.torn
    }

    /// Reads one line into the buffer. `None` at the end; else whether it ended in a newline, and
    /// whether it was too long to be kept.
    fn read_line(&mut self) -> std::io::Result<Option<(bool, bool)>> {
        self.buffer.clear();
        let mut too_long = false;
        loop {
            let there = match self.input.fill_buf() {
                Ok(there) => there,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if there.is_empty() {
                let nothing = self.buffer.is_empty() && !too_long;
                return Ok((!nothing).then_some((false, too_long)));
            }
            let end = there.iter().position(|b| *b == b'\n');
            let part = &there[..end.unwrap_or(there.len())];
            too_long |= self.buffer.len() + part.len() > MAX_LINE_BYTES;
            if too_long {
                self.buffer.clear();
            } else {
                self.buffer.extend_from_slice(part);
            }
            let used = end.map_or(there.len(), |at| at + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some((true, too_long)));
            }
        }
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<(u64, Record), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.broken {
            let (ended, too_long) = match self.read_line() {
                Ok(Some(line)) => line,
                Ok(None) => return None,
                Err(error) => {
                    self.broken = true;
                    let file = self.name.clone();
                    return Some(Err(ReadError::Io { file, error }));
                }
            };
            self.line += 1;
            let parsed = if too_long {
                Err(ParseError::TooLong)
            } else {
                match std::str::from_utf8(&self.buffer) {
                    Ok(text) if text.trim().is_empty() => continue,
                    Ok(text) => parse_line(text),
                    Err(_) => Err(ParseError::NotText),
                }
            };
            return match parsed {
                Ok(record) => Some(Ok((self.line, record))),
                Err(_) if !ended => {
                    self.torn = Some(self.line);
                    None
                }
                Err(error) => Some(Err(ReadError::Line {
                    file: self.name.clone(),
                    line: self.line,
                    error,
                })),
            };
        }
        None
    }
}
