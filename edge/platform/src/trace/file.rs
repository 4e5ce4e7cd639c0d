//! The file sink: JSON lines, at most two files of `max_bytes`.
//!
//! Lines gather in a buffer and reach the file when it is full, each second, and at the end. What
//! the file did not take stays in the buffer, to the byte, and is tried again: a disk that is full
//! for a while tears no line. While the buffer is full no further record is taken.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lane::{SinkError, TraceSink};
use super::record::Record;
use super::sinks::to_line;

/// `max_bytes` unless configured.
pub const DEFAULT_MAX_BYTES: u64 = 64 << 20;

/// Bytes that gather before they are written.
const BUFFER: usize = 64 << 10;

/// Records as JSON lines in a file. At `max_bytes` the file becomes `<file>.1` (an older one is
/// replaced) and a new one begins, with the session's first record again at its head.
pub struct FileSink {
    path: PathBuf,
    max_bytes: u64,
    file: Option<Open>,
    buffer: Vec<u8>,
    line: Vec<u8>,
    /// The last `session_start`.
    session: Option<Arc<Record>>,
    /// The next line is the first of a file that goes on with that session.
    at_head: bool,
}

struct Open {
    file: File,
    /// Bytes in it; `None` of what is no regular file, which is never rotated.
    size: Option<u64>,
    inode: (u64, u64),
}

impl FileSink {
    /// Appends to `path`, which is made with its directory when the first record is written.
    pub fn new(path: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self {
            path: path.into(),
            max_bytes: max_bytes.max(1),
            file: None,
            buffer: Vec::new(),
            line: Vec::new(),
            session: None,
            at_head: false,
        }
    }

    fn error(&self, what: &str, error: std::io::Error) -> SinkError {
        SinkError::Io {
            what: format!("{what} {}", self.path.display()),
            error,
        }
    }

    /// Writes the buffer out. What could not be written stays in it.
    fn drain(&mut self) -> Result<(), SinkError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            let opened = open(&self.path).map_err(|e| self.error("opening", e))?;
            self.file = Some(opened);
        }
        let mut done = 0;
        let result = match &mut self.file {
            Some(open) => {
                let result = put(&mut open.file, &self.buffer, &mut done);
                open.size = open.size.map(|size| size + done as u64);
                result
            }
            None => Ok(()),
        };
        self.buffer.drain(..done);
        result.map_err(|e| self.error("writing", e))
    }

    /// Whether `more` bytes would make the file too long. An empty file takes any line.
    fn is_full(&self, more: usize) -> bool {
        let size = match &self.file {
            Some(open) => open.size,
            // Not open yet: what an earlier run left.
            None => match std::fs::metadata(&self.path) {
                Ok(meta) => meta.is_file().then_some(meta.len()),
                Err(_) => Some(0),
            },
        };
        size.is_some_and(|size| {
            let there = size.saturating_add(self.buffer.len() as u64);
            there > 0 && there.saturating_add(more as u64) > self.max_bytes
        })
    }

    fn rotate(&mut self) -> Result<(), SinkError> {
        self.drain()?;
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        match std::fs::rename(&self.path, older) {
            Ok(()) => {}
            // Somebody else moved it away.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(self.error("renaming", e)),
        }
        self.file = None;
        self.at_head = true;
        Ok(())
    }

    /// The session's first record again, at the head of a file that goes on with it.
    fn head(&mut self) -> Result<(), SinkError> {
        if std::mem::take(&mut self.at_head)
            && let Some(session) = &self.session
            && let Record::SessionStart(start) = &**session
        {
            let mut start = start.clone();
            start.continued = true;
            let mut line = Vec::new();
            to_line(&Record::SessionStart(start), &mut line)?;
            self.buffer.extend_from_slice(&line);
        }
        Ok(())
    }

    /// Lets go of a file that was deleted or moved away under our hands: its space shall be free.
    fn follow(&mut self) -> Result<(), SinkError> {
        let Some(open) = &self.file else {
            return Ok(());
        };
        let there = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino()));
        let same = match there {
            Ok(inode) => inode == open.inode,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(self.error("looking at", e)),
        };
        // A torn line is finished in the file it began in.
        if !same && self.buffer.is_empty() {
            self.file = None;
            self.at_head = true;
        }
        Ok(())
    }
}

impl TraceSink for FileSink {
    fn kind(&self) -> &str {
        "file"
    }

    fn target(&self) -> String {
        self.path.display().to_string()
    }

    fn write(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        // Before this one is taken: an error must mean that it was not.
        if self.buffer.len() >= BUFFER {
            self.drain()?;
        }
        let mut line = std::mem::take(&mut self.line);
        let made = to_line(record, &mut line);
        let made = made.and_then(|()| {
            if self.is_full(line.len()) {
                self.rotate()?;
            }
            self.head()
        });
        if made.is_ok() {
            if matches!(**record, Record::SessionStart(_)) {
                self.session = Some(Arc::clone(record));
            }
            self.buffer.extend_from_slice(&line);
        }
        self.line = line;
        made
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.drain()?;
        self.follow()
    }

    fn pending(&self) -> u64 {
        self.buffer.iter().filter(|b| **b == b'\n').count() as u64
    }
}

/// Writes `bytes` from `done` on; `done` says how far it came, also on an error.
pub(super) fn put(out: &mut impl Write, bytes: &[u8], done: &mut usize) -> std::io::Result<()> {
    while *done < bytes.len() {
        match out.write(&bytes[*done..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => *done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<Open> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)?;
    }
    let regular = std::fs::metadata(path).map_or(true, |m| m.is_file());
    let mut file = OpenOptions::new()
        .append(true)
        .read(regular)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let meta = file.metadata()?;
    let mut size = meta.is_file().then_some(meta.len());
    if let Some(bytes) = &mut size
        && *bytes > 0
    {
        // A run that was cut off may have left half a line; ours begin on lines of their own.
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            *bytes += 1;
        }
    }
    Ok(Open {
        file,
        size,
        inode: (meta.dev(), meta.ino()),
    })
}
