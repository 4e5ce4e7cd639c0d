//! The book of clips: which were asked for, and what became of each.
//!
//! The files say everything about clips that are there. What only the index knows is a clip that was
//! asked for and has no file yet, and one whose file is gone before anybody was told of it: without
//! it, a trigger's clip could be forgotten by a crash. Everything else in it can be made again from
//! the files, and is.
//!
//! ```text
//! open ──▶ ready | failed ──▶ told
//! ```

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use visualpath_core::Name;

use super::{ClipRequest, ClipResult, ClipState};

/// Where it lies, below the state directory.
const FILE: &str = "outbox/events.sqlite";
/// Results that were told are kept this many deep if their clip is gone.
const MOST_GONE: u32 = 1000;

/// Why the index could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database said no.
    #[error("the clip index {path}: {source}")]
    Sqlite {
        /// Its file.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A row is not what this program writes.
    #[error("the clip index {path}: clip {id}: {detail}")]
    Row {
        /// Its file.
        path: PathBuf,
        /// Whose.
        id: String,
        /// What is wrong.
        detail: String,
    },
    /// Only in tests of faults.
    #[error("{0}")]
    Injected(std::io::Error),
}

impl IndexError {
    /// Whether a write that works later says nothing about this one: the disk failed, and what it
    /// has is unknown. A full disk, a read-only one, a lock held too long leave what was there.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
            }
            Self::Row { .. } => false,
            Self::Injected(e) => rustix::io::Errno::from_io_error(e) == Some(rustix::io::Errno::IO),
        }
    }
}

/// A clip that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) source: Name,
    #[serde(flatten)]
    pub(super) request: ClipRequest,
    /// The clip whose file is to answer it, if not its own (`merge.rs`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) merged_into: Option<String>,
}

impl Asked {
    pub(super) fn new(source: &Name, request: &ClipRequest) -> Self {
        Self {
            source: source.clone(),
            request: request.clone(),
            merged_into: None,
        }
    }

    /// The same, joined to the clip `host`.
    pub(super) fn into_file_of(mut self, host: &str) -> Self {
        self.merged_into = Some(host.to_owned());
        self
    }

    /// The id of the clip whose file it is to be in.
    pub(super) fn host(&self) -> &str {
        self.merged_into.as_ref().unwrap_or(&self.request.id)
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) asked: Asked,
    /// Absent as long as it is open.
    pub(super) result: Option<ClipResult>,
    pub(super) is_told: bool,
}

/// Every call is durable when it returns. Those that write say whether there was anything to write.
pub(super) trait Index: Debug + Send {
    /// A clip is asked for. One that is known already stays what it is.
    fn open(&mut self, asked: &Asked) -> Result<bool, IndexError>;
    /// The end of its event is known, and when it was seen best, if it is; as long as it is open.
    fn set_end(&mut self, id: &str, end_ns: i64, best_ns: Option<i64>) -> Result<bool, IndexError>;
    /// Its file is another clip's, or not any more; as long as it is open.
    fn join(&mut self, asked: &Asked) -> Result<bool, IndexError>;
    /// It is ready or failed; whether it was told of stays.
    fn finish(&mut self, asked: &Asked, result: &ClipResult) -> Result<bool, IndexError>;
    /// Whoever had to know does.
    fn told(&mut self, id: &str) -> Result<bool, IndexError>;
    /// Clips that are there, and were told of before the index was lost.
    fn rebuild(&mut self, clips: &[(Asked, ClipResult)]) -> Result<bool, IndexError>;
    /// The files of these clips were deleted; all at once.
    fn forget(&mut self, ids: &[String]) -> Result<bool, IndexError>;
    /// All, oldest event first.
    fn rows(&mut self) -> Result<Vec<Row>, IndexError>;
}

/// SQLite, WAL, `synchronous = FULL`; one connection per process.
#[derive(Debug)]
pub(super) struct SqliteIndex {
    path: PathBuf,
    /// Of the clip directory, relative to the state directory: each has its own rows.
    dir: String,
    sqlite: Connection,
}

impl SqliteIndex {
    /// Opens or makes it. One that is damaged is put aside, and an empty one takes its place.
    pub(super) fn open(state_dir: &Path, dir: &str) -> Result<Self, IndexError> {
        let path = state_dir.join(FILE);
        match Self::open_at(&path, dir) {
            Err(IndexError::Sqlite { source, .. }) if is_damage(&source) => {
                let aside = path.with_extension("sqlite.damaged");
                tracing::error!(index = %path.display(), error = %source, aside = %aside.display(),
                    "the clip index is damaged; it is put aside and made again from the clips");
                for ending in ["", "-wal", "-shm"] {
                    let of = |p: &Path| PathBuf::from(format!("{}{ending}", p.display()));
                    if let Err(e) = std::fs::rename(of(&path), of(&aside))
                        && e.kind() != std::io::ErrorKind::NotFound
                    {
                        tracing::warn!(file = %of(&path).display(), error = %e, "can't be put aside");
                    }
                }
                Self::open_at(&path, dir)
            }
            other => other,
        }
    }

    /// One that is there already, to read it.
    pub(super) fn existing(state_dir: &Path, dir: &str) -> Result<Option<Self>, IndexError> {
        let path = state_dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let open = || {
            let sqlite = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            sqlite.busy_timeout(std::time::Duration::from_secs(5))?;
            // The file is not for clips alone.
            let has_clips = sqlite.table_exists(None, "clip")?;
            Ok(has_clips.then_some(sqlite))
        };
        let sqlite = open().map_err(|source| IndexError::Sqlite {
            path: path.clone(),
            source,
        })?;
        Ok(sqlite.map(|sqlite| Self {
            path: path.clone(),
            dir: dir.to_owned(),
            sqlite,
        }))
    }

    fn open_at(path: &Path, dir: &str) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Sqlite {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent() {
            use std::os::unix::fs::DirBuilderExt as _;
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(dir);
            // What can't be made can't be opened, which is the error worth having.
            if let Err(e) = made {
                tracing::debug!(dir = %dir.display(), error = %e, "can't be made");
            }
        }
        let sqlite = Connection::open(path).map_err(failed)?;
        let set_up = || {
            // Another process of this appliance (`visualpath clip`) writes for milliseconds.
            sqlite.busy_timeout(std::time::Duration::from_secs(5))?;
            sqlite.pragma_update(None, "journal_mode", "WAL")?;
            sqlite.pragma_update(None, "synchronous", "FULL")?;
            sqlite.execute_batch(
                "CREATE TABLE IF NOT EXISTS clip (
                    dir TEXT NOT NULL, id TEXT NOT NULL, wall_ns INTEGER NOT NULL,
                    asked TEXT NOT NULL, result TEXT, told INTEGER NOT NULL DEFAULT 0,
                    PRIMARY KEY (dir, id)) WITHOUT ROWID;",
            )?;
            let found: String = sqlite.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
            match found.as_str() {
                "ok" => Ok(()),
                _ => Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                    Some(found),
                )),
            }
        };
        set_up().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            dir: dir.to_owned(),
            sqlite,
        })
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> IndexError {
        let path = self.path.clone();
        move |source| IndexError::Sqlite {
            path: path.clone(),
            source,
        }
    }

    /// Several writes with one sync; all of them, or none.
    fn at_once<T>(&self, act: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
        self.sqlite.execute_batch("BEGIN").map_err(self.failed())?;
        let done = act().and_then(|t| {
            let committed = self.sqlite.execute_batch("COMMIT");
            committed.map(|()| t).map_err(self.failed())
        });
        if done.is_err()
            && !self.sqlite.is_autocommit()
            && let Err(error) = self.sqlite.execute_batch("ROLLBACK")
        {
            tracing::warn!(index = %self.path.display(), %error, "can't be rolled back");
        }
        done
    }

    fn json<T: Serialize>(&self, id: &str, value: &T) -> Result<String, IndexError> {
        serde_json::to_string(value).map_err(|e| self.row(id, &e))
    }

    fn row(&self, id: &str, detail: &dyn ToString) -> IndexError {
        IndexError::Row {
            path: self.path.clone(),
            id: id.to_owned(),
            detail: detail.to_string(),
        }
    }
}

/// Whether the file is no database any more, as opposed to one that can't be had right now.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

impl Index for SqliteIndex {
    fn open(&mut self, asked: &Asked) -> Result<bool, IndexError> {
        let r = &asked.request;
        let json = self.json(&r.id, asked)?;
        let rows = self
            .sqlite
            .execute(
                "INSERT INTO clip (dir, id, wall_ns, asked) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
                params![self.dir, r.id, r.wall_ns, json],
            )
            .map_err(self.failed())?;
        Ok(rows > 0)
    }

    fn set_end(&mut self, id: &str, end_ns: i64, best_ns: Option<i64>) -> Result<bool, IndexError> {
        let rows = self
            .sqlite
            .execute(
                "UPDATE clip SET asked = json_set(asked, '$.end_ns', ?3, '$.best_ns',
                    coalesce(?4, json_extract(asked, '$.best_ns')))
                 WHERE dir = ?1 AND id = ?2 AND result IS NULL",
                params![self.dir, id, end_ns, best_ns],
            )
            .map_err(self.failed())?;
        Ok(rows > 0)
    }

    fn join(&mut self, asked: &Asked) -> Result<bool, IndexError> {
        let r = &asked.request;
        let json = self.json(&r.id, asked)?;
        // Of one that is known already only this changes: its end may be known better by now.
        let rows = self
            .sqlite
            .execute(
                "INSERT INTO clip (dir, id, wall_ns, asked) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE
                 SET asked = json_patch(asked, json_object('merged_into', ?5))
                 WHERE result IS NULL",
                params![self.dir, r.id, r.wall_ns, json, asked.merged_into],
            )
            .map_err(self.failed())?;
        Ok(rows > 0)
    }

    fn finish(&mut self, asked: &Asked, result: &ClipResult) -> Result<bool, IndexError> {
        let r = &asked.request;
        let (json, result) = (self.json(&r.id, asked)?, self.json(&r.id, result)?);
        let rows = self
            .sqlite
            .execute(
                "INSERT INTO clip (dir, id, wall_ns, asked, result) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET result = excluded.result",
                params![self.dir, r.id, r.wall_ns, json, result],
            )
            .map_err(self.failed())?;
        Ok(rows > 0)
    }

    fn told(&mut self, id: &str) -> Result<bool, IndexError> {
        let failed = self.failed();
        let state: Option<Option<String>> = self
            .sqlite
            .query_row(
                "SELECT result FROM clip WHERE dir = ? AND id = ?",
                params![self.dir, id],
                |row| row.get(0),
            )
            .optional()
            .map_err(&failed)?;
        let is_ready = state.flatten().is_some_and(|json| {
            let parsed = serde_json::from_str::<ClipResult>(&json);
            parsed.is_ok_and(|r| matches!(r.state, ClipState::Ready(_)))
        });
        let rows = self
            .sqlite
            .execute(
                "UPDATE clip SET told = 1 WHERE dir = ? AND id = ?",
                params![self.dir, id],
            )
            .map_err(&failed)?;
        if !is_ready {
            // Failures that were told are of interest for a while.
            self.sqlite
                .execute(
                    "DELETE FROM clip WHERE dir = ?1 AND told = 1
                     AND result LIKE '%\"state\":\"failed\"%'
                     AND id NOT IN (SELECT id FROM clip WHERE dir = ?1
                        ORDER BY wall_ns DESC LIMIT ?2)",
                    params![self.dir, MOST_GONE],
                )
                .map_err(&failed)?;
        }
        Ok(rows > 0)
    }

    fn rebuild(&mut self, clips: &[(Asked, ClipResult)]) -> Result<bool, IndexError> {
        // There may be thousands.
        self.at_once(|| {
            let mut rows = 0;
            for (asked, result) in clips {
                let r = &asked.request;
                let (json, result) = (self.json(&r.id, asked)?, self.json(&r.id, result)?);
                rows += self
                    .sqlite
                    .execute(
                        "INSERT INTO clip (dir, id, wall_ns, asked, result, told)
                         VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO NOTHING",
                        params![self.dir, r.id, r.wall_ns, json, result],
                    )
                    .map_err(self.failed())?;
            }
            Ok(rows > 0)
        })
    }

    fn forget(&mut self, ids: &[String]) -> Result<bool, IndexError> {
        self.at_once(|| {
            let mut rows = 0;
            for id in ids {
                // One that nobody was told of has to be, even if its file is gone.
                rows += self
                    .sqlite
                    .execute(
                        "DELETE FROM clip WHERE dir = ? AND id = ? AND told = 1",
                        params![self.dir, id],
                    )
                    .map_err(self.failed())?;
            }
            Ok(rows > 0)
        })
    }

    fn rows(&mut self) -> Result<Vec<Row>, IndexError> {
        let failed = self.failed();
        let mut select = self
            .sqlite
            .prepare("SELECT id, asked, result, told FROM clip WHERE dir = ? ORDER BY wall_ns, id")
            .map_err(&failed)?;
        type Columns = (String, String, Option<String>, bool);
        let columns = |row: &rusqlite::Row<'_>| {
            Ok::<Columns, _>((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        let found = select
            .query_map(params![self.dir], columns)
            .map_err(&failed)?;
        let mut rows = Vec::new();
        for columns in found {
            let (id, asked, result, is_told) = columns.map_err(&failed)?;
            let asked = serde_json::from_str(&asked);
            let result = result.map(|json| serde_json::from_str(&json)).transpose();
            match asked.and_then(|asked| Ok((asked, result?))) {
                Ok((asked, result)) => rows.push(Row {
                    asked,
                    result,
                    is_told,
                }),
                // Of a newer version, perhaps. The others count all the same.
                Err(e) => {
                    let error = self.row(&id, &e);
                    tracing::error!(%error, "a row of the clip index is passed over");
                }
            }
        }
        Ok(rows)
    }
}
