//! The books of a state directory: which clips were named, which were told, what lies on the disk.
//!
//! The promise is about outcomes, so this looks at the appliance from the outside only: the lines of
//! `run --json`, over all runs, and the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A clip that a trigger named.
#[derive(Debug, Clone)]
pub struct Named {
    /// What it asked for, source time.
    pub start_ns: i64,
    pub end_ns: i64,
    /// A RANGE's end may still change.
    pub range: bool,
}

/// What all runs said.
#[derive(Debug, Default, Clone)]
pub struct Account {
    /// Clips by id.
    pub named: BTreeMap<String, Named>,
    /// Clip lines by id, with the number of the run.
    pub told: BTreeMap<String, Vec<(u32, Value)>>,
    /// Newest frame time that the present run is known to have reached.
    pub reached_ns: i64,
}

impl Account {
    /// Takes a line of run number `run`.
    pub fn note(&mut self, run: u32, event: &Value) {
        let id = |v: &Value| v["id"].as_str().map(str::to_owned);
        match event["event"].as_str() {
            Some("trigger") => {
                let ns = |key: &str| event[key].as_i64().unwrap();
                self.reached_ns = ns("fired_ns").max(ns("event_end_ns"));
                if let Some(id) = id(&event["clip"]) {
                    let named = Named {
                        start_ns: ns("t_start_ns"),
                        end_ns: ns("t_end_ns"),
                        range: event["kind"] == "range",
                    };
                    self.named.insert(id, named);
                }
            }
            Some("clip") => {
                let id = id(event).expect("a clip line has an id");
                let lines = self.told.entry(id).or_default();
                lines.push((run, event.clone()));
            }
            _ => {}
        }
    }

    /// Named, and no word about it yet.
    pub fn open(&self) -> Vec<&String> {
        let open = self.named.keys();
        open.filter(|id| !self.told.contains_key(*id)).collect()
    }

    /// What was said of a clip last.
    pub fn last(&self, id: &str) -> Option<&Value> {
        self.told.get(id)?.last().map(|(_, event)| event)
    }

    /// Every clip named was told of, and all that was told agrees. A clip may be told again by the
    /// run after a kill, which can't know whether the line got out; then it says the same.
    pub fn settle(&self, case: &str) {
        let open = self.open();
        assert!(
            open.is_empty(),
            "{case}: {} of {} clips were never told of: {open:?}",
            open.len(),
            self.named.len()
        );
        for (id, lines) in &self.told {
            let runs: BTreeSet<u32> = lines.iter().map(|(run, _)| *run).collect();
            assert_eq!(
                runs.len(),
                lines.len(),
                "{case}: {id} twice in one run: {lines:?}"
            );
            for key in ["state", "file", "sha256", "start_ns", "end_ns", "frames"] {
                let said: BTreeSet<String> =
                    lines.iter().map(|(_, l)| l[key].to_string()).collect();
                assert_eq!(
                    said.len(),
                    1,
                    "{case}: {id} was told of differently: {lines:?}"
                );
            }
        }
    }

    /// Clips told of more than once.
    pub fn repeated(&self) -> usize {
        self.told.values().filter(|lines| lines.len() > 1).count()
    }

    /// Clips that were told to be in the file of another.
    pub fn merged(&self) -> usize {
        let is_merged = |(_, line): &(&String, &Value)| line["merged_into"].is_string();
        self.ready().filter(is_merged).count()
    }

    /// The clips that were told ready.
    pub fn ready(&self) -> impl Iterator<Item = (&String, &Value)> {
        let last = self
            .told
            .iter()
            .filter_map(|(id, l)| Some((id, &l.last()?.1)));
        last.filter(|(_, l)| l["state"] == "ready")
    }
}

/// Every file below `dir` whose name ends so.
pub fn files(dir: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.insert(path);
        }
    }
    found
}

/// Clips that were told ready and may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// None.
    Never,
    /// The oldest, to make room.
    Oldest,
}

/// Everything on the disk is whole and told of: no part is left, every clip has its sidecar, its sum
/// is right, it decodes without a word, and shows as many pictures as it says.
/// `deleted` says what may be gone: the oldest clips are deleted when there is no room.
pub fn check_files(
    case: &str,
    state: &Path,
    account: &Account,
    viewer: &mut Viewer,
    deleted: Deleted,
) {
    let clips = state.join("clips");
    let parts = files(&clips, ".part");
    assert!(parts.is_empty(), "{case}: left behind: {parts:?}");
    let on_disk = files(&clips, ".mp4");
    let (merged, own): (Vec<_>, Vec<_>) = account
        .ready()
        .partition(|(_, l)| l["merged_into"].is_string());
    let told: BTreeMap<PathBuf, (&String, &Value)> = own
        .into_iter()
        .map(|(id, l)| (state.join(l["file"].as_str().unwrap()), (id, l)))
        .collect();
    // Who is in another's file is told the same of the file, and is in its sidecar.
    for (id, line) in merged {
        let (host, of_file) = told[&state.join(line["file"].as_str().unwrap())];
        assert_eq!(line["merged_into"], host.as_str(), "{case}: {id}");
        for key in ["sha256", "frames", "start_ns", "end_ns"] {
            assert_eq!(line[key], of_file[key], "{case}: {id}: {key}");
        }
        let json = state
            .join(line["file"].as_str().unwrap())
            .with_extension("json");
        if json.exists() {
            let sidecar = std::fs::read_to_string(&json).unwrap();
            assert!(sidecar.contains(id.as_str()), "{case}: {id}: {sidecar}");
        }
    }
    let told_files: BTreeSet<PathBuf> = told.keys().cloned().collect();
    let orphans: Vec<_> = on_disk.difference(&told_files).collect();
    assert!(orphans.is_empty(), "{case}: nobody was told of {orphans:?}");
    let missing: Vec<_> = told_files.difference(&on_disk).collect();
    assert!(
        missing.is_empty() || deleted == Deleted::Oldest,
        "{case}: told ready, and gone: {missing:?}"
    );
    let sums = sha256(&on_disk);
    for (file, (id, line)) in told.iter().filter(|(f, _)| on_disk.contains(*f)) {
        let case = format!("{case}: {}", file.display());
        let sidecar = file.with_extension("json");
        let sidecar = std::fs::read(&sidecar).unwrap_or_else(|e| panic!("{case}: sidecar: {e}"));
        let sidecar: Value = serde_json::from_slice(&sidecar).unwrap();
        assert_eq!(sidecar["id"].as_str(), Some(id.as_str()), "{case}");
        for key in ["sha256", "frames", "start_ns", "end_ns", "file"] {
            assert_eq!(sidecar[key], line[key], "{case}: {key}");
        }
        assert_eq!(line["sha256"], sums[file], "{case}");
        let shown = viewer.shown(&case, file, &sums[file]);
        assert_eq!(line["frames"].as_u64(), Some(shown), "{case}: {line}");
    }
    let sidecars = files(&clips, ".json");
    assert_eq!(sidecars.len(), on_disk.len(), "{case}: a sidecar each");
}

fn sha256(files: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, String> {
    if files.is_empty() {
        return BTreeMap::new();
    }
    let out = Command::new("sha256sum").args(files).output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let lines = text.lines().map(|l| l.split_once("  ").unwrap());
    lines.map(|(sum, file)| (file.into(), sum.into())).collect()
}

/// Looks at clips; one that it has seen (by its sum) it knows.
#[derive(Debug, Default)]
pub struct Viewer(BTreeMap<String, u64>);

impl Viewer {
    fn shown(&mut self, case: &str, file: &Path, sha256: &str) -> u64 {
        let known = self.0.entry(sha256.to_owned());
        *known.or_insert_with(|| shown(case, file))
    }
}

/// Pictures that ffmpeg shows of a clip; it must not complain.
fn shown(case: &str, file: &Path) -> u64 {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-nostdin", "-threads", "1", "-i"])
        .arg(file)
        .args(["-fps_mode", "passthrough", "-enc_time_base", "-1"])
        .args(["-f", "framecrc", "-"])
        .output()
        .expect("ffmpeg is missing: run cross/setup.sh first");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && errors.is_empty(),
        "{case}: {errors}"
    );
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter(|l| !l.starts_with('#')).count() as u64
}

/// What a kill left of a clip.
#[derive(Debug, Clone)]
pub struct LeftOver {
    /// The last digits of the clip's id.
    pub id8: String,
    /// Pictures that the whole fragments show; `None` if it was being finished and is no plain
    /// fragmented file any more.
    pub shown: Option<u64>,
}

/// Looks at a `.mp4.part`: its whole fragments are what must be kept.
pub fn left_over(part: &Path) -> LeftOver {
    let name = part.file_name().unwrap().to_string_lossy().into_owned();
    let stem = name.split_once('.').unwrap().0;
    // `…_<id8>`, or `…_<id8>_2` if the name was taken.
    let id8 = stem.rsplit('_').find(|p| p.len() == 8).unwrap().to_owned();
    let bytes = std::fs::read(part).unwrap();
    let (mut at, mut end, mut moovs, mut in_fragment) = (0_usize, 0, 0, false);
    while let Some(head) = bytes.get(at..at + 8) {
        let size = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        if size < 8 || at + size > bytes.len() {
            break;
        }
        match &head[4..] {
            b"moov" => moovs += 1,
            b"moof" => in_fragment = true,
            b"mdat" if in_fragment => {
                in_fragment = false;
                end = at + size;
            }
            b"mdat" => moovs += 1,
            _ => {}
        }
        at += size;
    }
    let shown = match (moovs, end) {
        (0, _) | (1, 0) => Some(0),
        (1, _) => Some(shown_of_fragments(&bytes[..end])),
        _ => None,
    };
    LeftOver { id8, shown }
}

/// Of a fragmented file ffmpeg takes the edit list's offset: what is not shown has negative times.
fn shown_of_fragments(bytes: &[u8]) -> u64 {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let out = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_entries",
            "packet=pts",
            "-of",
            "csv=p=0",
        ])
        .arg(file.path())
        .output()
        .expect("ffprobe is missing: run cross/setup.sh first");
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let times = text.lines().map(|l| l.trim_end_matches(',').parse::<i64>());
    times.filter(|t| t.clone().unwrap() >= 0).count() as u64
}

/// What must have become of what a kill left.
pub fn check_left_over(case: &str, left: &LeftOver, account: &Account) {
    let ids = account.told.keys().chain(account.named.keys());
    let id = ids.filter(|id| id.ends_with(&left.id8)).max();
    let id = id.unwrap_or_else(|| panic!("{case}: nobody ever named {left:?}"));
    let line = account.last(id);
    let line = line.unwrap_or_else(|| panic!("{case}: no word of {id}: {left:?}"));
    let Some(shown) = left.shown else {
        // It was complete but for its name: nothing of it may be lost.
        assert_eq!(line["state"], "ready", "{case}: {left:?}: {line}");
        return;
    };
    if shown == 0 {
        return;
    }
    assert_eq!(line["state"], "ready", "{case}: {left:?}: {line}");
    // What the first of several asked for may be there in full; the file is cut off all the same.
    let shares = account
        .ready()
        .any(|(_, l)| l["merged_into"] == id.as_str());
    let is_there = shares && line["end_reason"] == "complete" && line["short_post_ms"] == 0.0;
    if !is_there {
        assert_eq!(line["partial"], true, "{case}: {left:?}: {line}");
        assert_eq!(
            line["end_reason"], "interrupted",
            "{case}: {left:?}: {line}"
        );
    }
    let range = shares || account.named.get(id).is_none_or(|n| n.range);
    let frames = line["frames"].as_u64().unwrap();
    assert!(
        frames == shown || range && (1..=shown).contains(&frames),
        "{case}: whole fragments are kept: {left:?}: {line}"
    );
}
