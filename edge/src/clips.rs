//! The clips there are, as `visualpath clip list` and the command `clip_list` show them.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use visualpath_core::{NS_PER_MS, Name};
use visualpath_media::clip::{ClipEntry, ClipState, EntryState};

/// Fewest last characters of an id that stand for all of it; file names end in 8.
const SHORTEST_ID: usize = 6;

/// Why an id stands for no clip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No such clip.
    #[error("there is no clip `{id}`: `visualpath clip list` shows those there are")]
    Unknown {
        /// As asked.
        id: String,
    },
    /// Several clips end so.
    #[error("`{id}` stands for {count} clips: give more of it")]
    Ambiguous {
        /// As asked.
        id: String,
        /// How many.
        count: usize,
    },
}

/// The one clip that an id, or its last 6 or more characters, stands for.
///
/// # Errors
/// If there is none, or several.
pub fn find<'a>(entries: &'a [ClipEntry], id: &str) -> Result<&'a ClipEntry, FindError> {
    if let Some(entry) = entries.iter().find(|e| e.id == id) {
        return Ok(entry);
    }
    let by_end: Vec<&ClipEntry> = match id.len() >= SHORTEST_ID {
        true => entries.iter().filter(|e| e.id.ends_with(id)).collect(),
        false => Vec::new(),
    };
    match by_end.as_slice() {
        [one] => Ok(one),
        [] => Err(FindError::Unknown { id: id.to_owned() }),
        many => Err(FindError::Ambiguous {
            id: id.to_owned(),
            count: many.len(),
        }),
    }
}

/// Which clips are wanted; everything that is absent lets all through.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipFilter {
    /// Of this camera.
    pub source: Option<Name>,
    /// Of this path.
    pub path: Option<Name>,
    /// With this label.
    pub label: Option<Name>,
    /// In this state.
    pub state: Option<ListState>,
    /// Whose event began at this time or later, RFC 3339.
    #[serde(with = "time_text")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// Whose event began before this time, RFC 3339.
    #[serde(with = "time_text")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// At most so many, the newest.
    pub limit: Option<usize>,
}

/// A time as RFC 3339.
mod time_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(
        time: &Option<jiff::Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|t| t.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<jiff::Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|t| t.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}

/// State of a clip in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListState {
    /// Being written.
    Open,
    /// There.
    Ready,
    /// Not there, with a reason.
    Failed,
}

impl std::str::FromStr for ListState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "ready" => Ok(Self::Ready),
            "failed" => Ok(Self::Failed),
            other => Err(format!("`{other}`: expected open, ready or failed")),
        }
    }
}

impl From<EntryState> for ListState {
    fn from(state: EntryState) -> Self {
        match state {
            EntryState::Open => Self::Open,
            EntryState::Ready => Self::Ready,
            EntryState::Failed => Self::Failed,
        }
    }
}

/// One clip of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClipItem {
    /// Its UUID.
    pub id: String,
    /// Of the trigger that asked for it; empty if a command did.
    pub trigger_id: String,
    /// What became of it.
    pub state: ListState,
    /// The camera.
    pub source: String,
    /// The path; `command` if a command asked for it.
    pub path: String,
    /// The label.
    pub label: String,
    /// When the event began, wall time, RFC 3339, UTC.
    pub time: String,
    /// What it shows: start, source time. `null` unless ready, like all that follow but `reason`.
    pub start_ns: Option<i64>,
    /// The same in milliseconds.
    pub start_ms: Option<i64>,
    /// What it shows: end.
    pub end_ns: Option<i64>,
    /// The same in milliseconds.
    pub end_ms: Option<i64>,
    /// Frames shown.
    pub frames: Option<u64>,
    /// E.g. `h264`.
    pub codec: Option<String>,
    /// Relative to the state directory.
    pub file: Option<String>,
    /// Size of the file.
    pub bytes: u64,
    /// The clip whose file it is in (`clip.merge`); `null` if its own. What is done to the file is done to
    /// all clips in it.
    pub merged_into: Option<String>,
    /// It was cut off by a crash and ends with what was on the disk.
    pub partial: bool,
    /// It is not deleted for room.
    pub pinned: bool,
    /// Why it failed.
    pub reason: Option<String>,
}

impl From<&ClipEntry> for ClipItem {
    fn from(entry: &ClipEntry) -> Self {
        let (ready, reason) = match entry.result.as_ref().map(|r| &r.state) {
            Some(ClipState::Ready(ready)) => (Some(ready), None),
            Some(ClipState::Failed { reason }) => (None, Some(reason.clone())),
            None => (None, None),
        };
        let ms = |ns: i64| ns.div_euclid(NS_PER_MS);
        Self {
            id: entry.id.clone(),
            trigger_id: entry.trigger_id.clone(),
            state: entry.state.into(),
            source: entry.source.to_string(),
            path: entry.path.to_string(),
            label: entry.label.to_string(),
            time: timestamp(entry.wall_ns).to_string(),
            start_ns: ready.map(|r| r.start_ns),
            start_ms: ready.map(|r| ms(r.start_ns)),
            end_ns: ready.map(|r| r.end_ns),
            end_ms: ready.map(|r| ms(r.end_ns)),
            frames: ready.map(|r| r.frames),
            codec: ready.and_then(|r| crate::pipeline::word(&r.codec)),
            file: entry.file.clone(),
            bytes: entry.bytes,
            merged_into: entry.merged_into.clone(),
            partial: ready.is_some_and(|r| r.partial),
            pinned: entry.is_pinned,
            reason,
        }
    }
}

/// The answer to `clip_list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClipList {
    /// Oldest first; if there are more than asked for, the newest.
    pub clips: Vec<ClipItem>,
    /// How many there are that match.
    pub total: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

impl ClipList {
    /// The entries that `filter` lets through; they come oldest first.
    pub fn new(entries: &[ClipEntry], filter: &ClipFilter) -> Self {
        let matching: Vec<&ClipEntry> = entries.iter().filter(|e| filter.lets(e)).collect();
        let total = matching.len();
        let skip = total.saturating_sub(filter.limit.unwrap_or(usize::MAX));
        Self {
            total,
            bytes: bytes(&matching),
            clips: matching.into_iter().skip(skip).map(Into::into).collect(),
        }
    }
}

/// Of all files; clips that were merged share one.
fn bytes(entries: &[&ClipEntry]) -> u64 {
    let mut counted: HashSet<&str> = HashSet::new();
    let mut bytes = 0;
    for entry in entries {
        if entry
            .file
            .as_deref()
            .is_none_or(|file| counted.insert(file))
        {
            bytes += entry.bytes;
        }
    }
    bytes
}

impl ClipFilter {
    fn lets(&self, entry: &ClipEntry) -> bool {
        let same = |wanted: &Option<Name>, is: &Name| wanted.as_ref().is_none_or(|w| w == is);
        let time = timestamp(entry.wall_ns);
        same(&self.source, &entry.source)
            && same(&self.path, &entry.path)
            && same(&self.label, &entry.label)
            && self.state.is_none_or(|s| s == entry.state.into())
            && self.since.is_none_or(|since| since <= time)
            && self.until.is_none_or(|until| time < until)
    }
}

/// Nanoseconds since 1970 as a time, whole milliseconds.
fn timestamp(wall_ns: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH
        .saturating_add(SignedDuration::from_millis(wall_ns.div_euclid(NS_PER_MS)))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, source: &str, second: i64) -> ClipEntry {
        let name = |n: &str| Name::new(n).unwrap();
        ClipEntry {
            id: id.to_owned(),
            trigger_id: String::new(),
            source: name(source),
            path: name("entrance"),
            label: name("visitor"),
            event_ns: 0,
            wall_ns: second * 1_000_000_000,
            state: EntryState::Open,
            file: None,
            bytes: 10,
            is_pinned: false,
            merged_into: None,
            result: None,
        }
    }

    #[test]
    fn a_clip_is_found_by_its_id_or_the_end_of_it_and_never_by_chance() {
        let entries = [
            entry("a-11112222", "cam0", 1),
            entry("b-11112222", "cam0", 2),
            entry("c-33334444", "cam0", 3),
        ];
        assert_eq!(find(&entries, "b-11112222").unwrap().id, "b-11112222");
        assert_eq!(find(&entries, "33334444").unwrap().id, "c-33334444");
        let many = find(&entries, "11112222").unwrap_err();
        assert_eq!(
            many.to_string(),
            "`11112222` stands for 2 clips: give more of it"
        );
        for unknown in ["4444", "55556666", ""] {
            assert!(
                matches!(find(&entries, unknown), Err(FindError::Unknown { .. })),
                "{unknown}"
            );
        }
    }

    #[test]
    fn a_list_has_the_newest_that_match_oldest_first_and_counts_them_all() {
        let entries: Vec<ClipEntry> = (0..6)
            .map(|n| entry(&format!("clip-{n}"), ["cam0", "cam1"][n % 2], n as i64))
            .collect();
        let filter = ClipFilter {
            source: Some(Name::new("cam1").unwrap()),
            limit: Some(2),
            ..ClipFilter::default()
        };
        let list = ClipList::new(&entries, &filter);
        let ids: Vec<&str> = list.clips.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(
            (ids.as_slice(), list.total, list.bytes),
            (&["clip-3", "clip-5"][..], 3, 30)
        );
        let between = ClipFilter {
            since: Some("1970-01-01T00:00:01Z".parse().unwrap()),
            until: Some("1970-01-01T00:00:03Z".parse().unwrap()),
            ..ClipFilter::default()
        };
        let ids: Vec<String> = ClipList::new(&entries, &between)
            .clips
            .into_iter()
            .map(|c| c.id)
            .collect();
        assert_eq!(ids, ["clip-1", "clip-2"]);
        let failed = ClipFilter {
            state: Some(ListState::Failed),
            ..ClipFilter::default()
        };
        assert_eq!(ClipList::new(&entries, &failed).total, 0);
    }
}
