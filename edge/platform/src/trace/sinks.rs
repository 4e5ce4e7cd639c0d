//! The sinks that are a few lines each: console, memory, null.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::{SinkError, TraceSink};
use super::record::Record;

/// A record as the line it is written as, with its newline, in `line`.
pub(super) fn to_line(record: &Record, line: &mut Vec<u8>) -> Result<(), SinkError> {
    let refused = |why: String| SinkError::Refused {
        record_type: record.record_type(),
        why,
    };
    line.clear();
    serde_json::to_writer(&mut *line, record).map_err(|e| refused(e.to_string()))?;
    line.push(b'\n');
    if line.len() > super::MAX_LINE_BYTES {
        return Err(refused(format!(
            "it has {} bytes, at most {} can be read back",
            line.len(),
            super::MAX_LINE_BYTES
        )));
    }
    Ok(())
}

/// JSON lines on standard error.
#[derive(Debug, Default)]
pub struct ConsoleSink {
    line: Vec<u8>,
}

impl TraceSink for ConsoleSink {
    fn kind(&self) -> &str {
        "console"
    }

    fn target(&self) -> String {
        "standard error".to_owned()
    }

    fn write(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        to_line(record, &mut self.line)?;
        std::io::stderr()
            .lock()
            .write_all(&self.line)
            .map_err(|error| SinkError::Io {
                what: "standard error".to_owned(),
                error,
            })
    }
}

/// The newest records, in memory.
#[derive(Debug)]
pub struct MemorySink {
    kept: MemoryRecords,
}

/// Reads what a [`MemorySink`] keeps, from any thread.
#[derive(Debug, Clone)]
pub struct MemoryRecords {
    most: usize,
    records: Arc<Mutex<VecDeque<Arc<Record>>>>,
}

impl MemorySink {
    /// Keeps the newest `most` records.
    pub fn new(most: usize) -> Self {
        Self {
            kept: MemoryRecords {
                most: most.max(1),
                records: Arc::default(),
            },
        }
    }

    /// The reading side.
    pub fn records(&self) -> MemoryRecords {
        self.kept.clone()
    }
}

impl MemoryRecords {
    /// What is kept, oldest first.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TraceSink for MemorySink {
    fn kind(&self) -> &str {
        "memory"
    }

    fn write(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        let mut records = self.kept.lock();
        if records.len() == self.kept.most {
            records.pop_front();
        }
        records.push_back(Arc::clone(record));
        Ok(())
    }

    fn memory(&self) -> Option<MemoryRecords> {
        Some(self.records())
    }
}

/// Nowhere: for measuring what tracing costs.
#[derive(Debug, Default)]
pub struct NullSink;

impl TraceSink for NullSink {
    fn kind(&self) -> &str {
        "null"
    }

    fn write(&mut self, _: &Arc<Record>) -> Result<(), SinkError> {
        Ok(())
    }
}
