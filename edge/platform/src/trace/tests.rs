//! Records, the reader, the file sink. What a sink does to others is in `tests/trace_sinks.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use visualpath_core::{DropReason, Held, Name, Observation, Phase, Signals, Trigger, TriggerKind};

use super::record::*;
use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn session(unix_ns: i64) -> SessionStart {
    SessionStart {
        timestamp_ns: 1,
        unix_ns,
        schema: SCHEMA.to_owned(),
        level: Level::Verbose,
        device: "dock-3".to_owned(),
        boot_id: "b".to_owned(),
        version: "0.1.0".to_owned(),
        config_sha256: "00".to_owned(),
        continued: true,
        paths: vec![SessionPath {
            path: name("entrance"),
            source: name("cam0"),
            fusion: name("visitor"),
            extractors: vec![SessionExtractor {
                extractor: name("person"),
                signals: vec!["count".to_owned()],
                zones: vec![name("door")],
            }],
        }],
    }
}

fn trigger() -> Trigger {
    Trigger {
        label: name("visitor"),
        kind: TriggerKind::Point,
        phase: Phase::Point,
        event: 1,
        frame_id: 7,
        t_ns: 70,
        fired_ns: 80,
        event_start_ns: 70,
        event_end_ns: 80,
        best_ns: Some(75),
        t_start_ns: -5,
        t_end_ns: 90,
        score: 0.1 + 0.2,
        reason: "why".to_owned(),
        observations_used: 1,
        signals: Signals::from_iter([("person.count", -0.0)]),
        objects: vec![],
        clip: true,
        metadata: serde_json::Map::new(),
    }
}

/// One of each type, every optional field given.
fn one_of_each() -> Vec<Record> {
    let (source, path) = (name("cam0"), name("entrance"));
    let (extractor, label) = (name("person"), name("visitor"));
    let timestamp_ns = 5;
    let mut observation = Observation::new(extractor.clone(), 7, 70);
    observation.signals.set("count", 1e-320);
    vec![
        Record::SessionStart(session(9)),
        Record::SessionEnd(SessionEnd {
            timestamp_ns,
            unix_ns: 10,
            reason: "end".to_owned(),
            frames: 8,
            triggers: 1,
        }),
        Record::TriggerFire(TriggerFire {
            timestamp_ns,
            source: source.clone(),
            path: path.clone(),
            label: label.clone(),
            phase: Phase::Start,
            event: 1,
            frame_id: 7,
            t_ns: 70,
            fired_ns: 80,
            score: 0.5,
            reason: "why".to_owned(),
            signals: Signals::new(),
        }),
        Record::Clip(ClipRecord {
            timestamp_ns,
            source: source.clone(),
            path: path.clone(),
            label: label.clone(),
            id: "c".to_owned(),
            trigger_id: "t".to_owned(),
            state: "ready".to_owned(),
            file: Some("f.mp4".to_owned()),
            reason: Some("r".to_owned()),
            start_ns: Some(-1),
            end_ns: Some(1),
        }),
        Record::Frame(FrameRecord {
            timestamp_ns,
            source: source.clone(),
            path: path.clone(),
            frame_id: 7,
            t_ns: 70,
            outcomes: [
                OutcomeWord::Observed,
                OutcomeWord::Failed,
                OutcomeWord::TimedOut,
                OutcomeWord::Dropped(DropReason::QueueFull),
                OutcomeWord::Skipped,
                OutcomeWord::Pending,
            ]
            .map(|outcome| ExtractorOutcome {
                extractor: extractor.clone(),
                outcome,
            })
            .to_vec(),
            settle_ms: 0.5,
            triggers: 1,
        }),
        Record::Timing(Timing {
            timestamp_ns,
            source: source.clone(),
            frame_id: 7,
            stage: Stage::Extract,
            component: extractor.clone(),
            processing_ms: 1.5,
            queue_depth: 2,
            is_slow: true,
        }),
        Record::FrameDrop(FrameDrop {
            timestamp_ns,
            source: source.clone(),
            frame_id: 7,
            t_ns: 70,
            extractor: extractor.clone(),
            reason: "failed".to_owned(),
            error: Some("no luck".into()),
        }),
        Record::SyncDelay(SyncDelay {
            timestamp_ns,
            source: source.clone(),
            path: path.clone(),
            frame_id: 7,
            delay_ms: 200.0,
            window_ms: 100.0,
            waiting_for: vec![extractor.clone()],
        }),
        Record::FpsSummary(FpsSummary {
            timestamp_ns,
            source: source.clone(),
            t_ns: 70,
            period_ms: 10_000.0,
            frames: 100,
            fps: 10.0,
            extractors: vec![ExtractorCounts {
                extractor: extractor.clone(),
                observed: 1,
                fps: 0.1,
                failed: 2,
                dropped: 3,
                skipped: 4,
            }],
        }),
        Record::StateChange(StateChange {
            timestamp_ns,
            source: source.clone(),
            path: path.clone(),
            label: label.clone(),
            on: true,
            t_ns: 70,
        }),
        Record::Worker(WorkerRecord {
            timestamp_ns,
            source: source.clone(),
            extractor: extractor.clone(),
            state: "held".to_owned(),
            why: "silent".to_owned(),
        }),
        Record::Plugin(PluginRecord {
            timestamp_ns,
            source: source.clone(),
            extractor: extractor.clone(),
            record: serde_json::Map::from_iter([("mine".to_owned(), 1.into())]),
        }),
        Record::Observation(ObservationRecord {
            timestamp_ns,
            source: source.clone(),
            extractor: extractor.clone(),
            held: Arc::new(Held {
                frame_id: 7,
                t_ns: 70,
                observations: vec![observation],
                signals: Signals::from_iter([("count", f64::MAX)]),
                timing_ns: 3,
            }),
        }),
        Record::FusionDecision(Box::new(FusionDecision {
            timestamp_ns,
            source,
            path,
            seq: 3,
            input: InputKind::Frame,
            frame_id: Some(7),
            t_ns: Some(70),
            unix_ns: Some(71),
            from_ns: Some(1),
            to_ns: Some(2),
            entries: vec![DecisionEntry {
                extractor,
                outcome: OutcomeWord::Skipped,
                held: Some(6),
                error: Some("no luck".into()),
                why: Some("rate".to_owned()),
            }],
            triggers: vec![trigger()],
            states: vec![(label, true)],
            observations_used: 1,
            panicked: true,
        })),
        Record::DroppedRecords(DroppedRecords {
            timestamp_ns,
            count: 4,
        }),
    ]
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).unwrap()
}

#[test]
fn every_record_comes_back_as_it_was_written() {
    for record in one_of_each() {
        let text = line(&record);
        let start = format!(
            "{{\"record_type\":\"{}\",\"timestamp_ns\":",
            record.record_type()
        );
        assert!(text.starts_with(&start), "{text}");
        let back = parse_line(&text).unwrap();
        assert_eq!(back, record);
        assert_eq!(line(&back), text, "to the bit: -0.0 is equal to 0.0");
        assert_ne!(record.level(), Level::Off);
    }
}

#[test]
fn every_drop_reason_has_one_word_everywhere() {
    for reason in [
        DropReason::QueueFull,
        DropReason::Dependency,
        DropReason::WorkerHeld,
        DropReason::Stopping,
    ] {
        let word = serde_json::to_value(OutcomeWord::Dropped(reason)).unwrap();
        assert_eq!(word, format!("dropped:{}", reason.as_str()));
        let back: OutcomeWord = serde_json::from_value(word).unwrap();
        assert_eq!(back, OutcomeWord::Dropped(reason));
    }
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let later = r#"{"record_type":"weather","timestamp_ns":1,"rain":true}"#;
    assert_eq!(parse_line(later).unwrap(), Record::Unknown);
    for record in one_of_each() {
        let mut json = serde_json::to_value(&record).unwrap();
        json["added_later"] = json!({"a": [1, 2.5, null]});
        assert_eq!(parse_line(&json.to_string()).unwrap(), record);
    }
    for bad in ["", "1", "{}", "[]", r#"{"record_type":"frame"}"#, "\u{0}"] {
        assert!(parse_line(bad).is_err(), "{bad}");
    }
}

/// Names of the first column of the tables under each heading "### `record_type`".
fn documented(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found: Vec<(String, BTreeSet<String>)> = vec![];
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            found.push((heading.trim_matches('`').to_owned(), BTreeSet::new()));
        } else if let (Some(cell), Some((_, fields))) = (line.strip_prefix("| `"), found.last_mut())
        {
            fields.insert(cell.split('`').next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn the_reference_has_every_record_type_and_every_field() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/trace.md");
    let text = fs::read_to_string(page).unwrap();
    let mut expected = vec![];
    let keys = |v: &Value| -> BTreeSet<String> { v.as_object().unwrap().keys().cloned().collect() };
    for record in one_of_each() {
        let json = serde_json::to_value(&record).unwrap();
        let mut fields = keys(&json);
        // Fields of what is inside are listed as `outer[].inner`.
        for (list, inner) in [
            ("paths", "extractors"),
            ("outcomes", ""),
            ("extractors", ""),
            ("entries", ""),
        ] {
            let Some(item) = json.get(list).and_then(|l| l.get(0)) else {
                continue;
            };
            for key in keys(item) {
                fields.insert(format!("{list}[].{key}"));
            }
            if let Some(item) = item.get(inner).and_then(|l| l.get(0)) {
                for key in keys(item) {
                    fields.insert(format!("{list}[].{inner}[].{key}"));
                }
            }
        }
        fields.remove("record_type");
        fields.remove("timestamp_ns");
        expected.push((record.record_type().to_owned(), fields));
    }
    assert_eq!(documented(&text), expected);
}

fn read(bytes: &[u8]) -> (Vec<Result<u64, String>>, Option<u64>) {
    let mut reader = TraceReader::new("t.jsonl", Cursor::new(bytes.to_vec()));
    let items = reader
        .by_ref()
        .map(|item| item.map(|(line, _)| line).map_err(|e| e.to_string()))
        .collect();
    (items, reader.torn())
}

#[test]
fn a_torn_last_line_is_told_and_is_no_error() {
    let good = line(&one_of_each()[1]);
    let whole = format!("{good}\n{good}\n");
    assert_eq!(read(whole.as_bytes()), (vec![Ok(1), Ok(2)], None));
    // Cut off anywhere within the second line.
    for cut in good.len() + 2..2 * good.len() + 1 {
        let (items, torn) = read(&whole.as_bytes()[..cut]);
        assert_eq!((items, torn), (vec![Ok(1)], Some(2)), "cut at {cut}");
    }
    // Only the newline is missing.
    assert_eq!(
        read(&whole.as_bytes()[..whole.len() - 1]),
        (vec![Ok(1), Ok(2)], None)
    );
    assert_eq!(read(b""), (vec![], None));
}

#[test]
fn a_bad_line_is_named_and_those_after_it_are_read() {
    let good = line(&one_of_each()[1]);
    let mut bytes = format!("{good}\n\nnot json\n").into_bytes();
    bytes.extend_from_slice(b"\xff\xfe\n");
    bytes.extend(std::iter::repeat_n(b'x', MAX_LINE_BYTES + 1));
    bytes.extend_from_slice(format!("\n{good}\n").as_bytes());
    let (items, torn) = read(&bytes);
    assert_eq!(torn, None);
    assert_eq!(items[0], Ok(1));
    let error = |i: usize| items[i].clone().unwrap_err();
    assert!(
        error(1).starts_with("t.jsonl:3: not a trace record: "),
        "{}",
        error(1)
    );
    assert_eq!(error(2), "t.jsonl:4: not UTF-8: not a trace record");
    assert!(
        error(3).starts_with("t.jsonl:5: longer than "),
        "{}",
        error(3)
    );
    assert_eq!(items[4], Ok(6));
    assert_eq!(items.len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_line_panics_the_parser(text in "\\PC{0,200}") {
        drop(parse_line(&text));
    }

    #[test]
    fn a_damaged_line_never_panics_and_what_parses_can_be_written_again(
        which in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[0-9a-z\"{}\\[\\],:.eE+-]{0,6}"), 1..4),
    ) {
        let all = one_of_each();
        let mut text: Vec<char> = line(which.get(&all)).chars().collect();
        for (at, length, piece) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(record) = parse_line(&text) && record != Record::Unknown {
            let again = parse_line(&line(&record)).unwrap();
            prop_assert_eq!(line(&again), line(&record));
        }
    }

    #[test]
    fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(read(&bytes));
    }
}

fn numbered(n: i64) -> Arc<Record> {
    Arc::new(Record::SessionEnd(SessionEnd {
        timestamp_ns: n,
        unix_ns: 0,
        reason: "x".repeat(100),
        frames: 0,
        triggers: 0,
    }))
}

/// The records of a file, as their types or numbers.
fn records(path: &Path) -> Vec<String> {
    TraceReader::open(path)
        .unwrap()
        .map(|item| match item.unwrap().1 {
            Record::SessionStart(s) => format!("start{}", if s.continued { " again" } else { "" }),
            Record::SessionEnd(e) => e.timestamp_ns.to_string(),
            other => other.record_type().to_owned(),
        })
        .collect()
}

#[test]
fn a_full_file_becomes_the_old_one_and_the_new_one_tells_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/t.jsonl");
    let mut sink = FileSink::new(&path, 1500);
    let mut start = session(9);
    start.continued = false;
    sink.write(&Arc::new(Record::SessionStart(start))).unwrap();
    for n in 0..40 {
        sink.write(&numbered(n)).unwrap();
        sink.flush().unwrap();
    }
    let old = dir.path().join("deep/t.jsonl.1");
    for file in [&path, &old] {
        assert!(fs::metadata(file).unwrap().len() <= 1500);
        assert_eq!(records(file)[0], "start again");
    }
    // No record is lost between the two, and the last is in the newer.
    let mut all = records(&old);
    all.extend(records(&path));
    all.retain(|r| r != "start again");
    let first: usize = all[0].parse().unwrap();
    let expected: Vec<String> = (first..40).map(|n| n.to_string()).collect();
    assert_eq!(all, expected);
    assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 2);
}

#[test]
fn a_file_is_appended_to_and_a_torn_end_spoils_no_further_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    fs::write(&path, "{\"record_type\":\"sess").unwrap();
    let mut sink = FileSink::new(&path, DEFAULT_MAX_BYTES);
    sink.write(&numbered(1)).unwrap();
    assert_eq!(sink.pending(), 1);
    sink.flush().unwrap();
    assert_eq!(sink.pending(), 0);
    let (items, _) = read(&fs::read(&path).unwrap());
    assert!(items[0].is_err());
    assert_eq!(items[1], Ok(2));
}

#[test]
fn a_file_that_was_taken_away_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let mut sink = FileSink::new(&path, DEFAULT_MAX_BYTES);
    let mut start = session(9);
    start.continued = false;
    sink.write(&Arc::new(Record::SessionStart(start))).unwrap();
    sink.flush().unwrap();
    fs::remove_file(&path).unwrap();
    sink.flush().unwrap(); // notices
    sink.write(&numbered(1)).unwrap();
    sink.flush().unwrap();
    assert_eq!(records(&path), ["start again", "1"]);
}

#[test]
fn a_failing_file_keeps_what_it_took_and_takes_no_more_than_its_buffer() {
    let mut sink = FileSink::new("/dev/full", 1);
    let mut taken = 0;
    while sink.write(&numbered(taken)).is_ok() {
        taken += 1;
        assert!(taken < 10_000, "its memory is bounded");
    }
    assert_eq!(sink.pending(), u64::try_from(taken).unwrap());
    let error = sink.flush().unwrap_err().to_string();
    assert!(
        error.starts_with("writing /dev/full: No space left"),
        "{error}"
    );
    assert_eq!(sink.pending(), u64::try_from(taken).unwrap());
}

/// Takes so many bytes, then is full, again and again.
struct FullNowAndThen {
    room: usize,
    taken: Vec<u8>,
}

impl std::io::Write for FullNowAndThen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.room == 0 {
            self.room = 7;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let n = self.room.min(bytes.len()).min(3);
        self.room -= n;
        self.taken.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_is_full_now_and_then_tears_no_line() {
    let text = b"one line\nand another\nand the last\n";
    let mut disk = FullNowAndThen {
        room: 5,
        taken: vec![],
    };
    let (mut done, mut failed) = (0, 0);
    while super::file::put(&mut disk, text, &mut done).is_err() {
        failed += 1;
        assert_eq!(done, disk.taken.len());
    }
    assert_eq!(failed, 5);
    assert_eq!(disk.taken, text);
}

#[test]
fn a_record_longer_than_any_reader_takes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let mut sink = FileSink::new(&path, DEFAULT_MAX_BYTES);
    let mut long = session(1);
    long.device = "x".repeat(MAX_LINE_BYTES);
    let error = sink
        .write(&Arc::new(Record::SessionStart(long)))
        .unwrap_err();
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    sink.write(&numbered(1)).unwrap();
    sink.flush().unwrap();
    assert_eq!(records(&path), ["1"]);
}
