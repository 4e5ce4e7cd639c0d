//! Sinks that block, fail, panic or fall behind: nobody else notices, and the trace says what is
//! missing.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use visualpath_platform::trace::record::SessionEnd;
use visualpath_platform::trace::{
    FileSink, LaneOptions, Level, MemoryRecords, MemorySink, ObservabilityHub, Record, SinkError,
    TraceReader, TraceSink,
};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);
const NO_PATIENCE: Duration = Duration::from_millis(1);

fn numbered(n: u64) -> Record {
    Record::SessionEnd(SessionEnd {
        timestamp_ns: n as i64,
        unix_ns: 0,
        reason: String::new(),
        frames: n,
        triggers: 0,
    })
}

/// The number of a record, or how many are missing.
fn what(record: &Record) -> String {
    match record {
        Record::SessionEnd(e) => e.frames.to_string(),
        Record::DroppedRecords(d) => format!("{} lost", d.count),
        other => other.record_type().to_owned(),
    }
}

fn kept(records: &MemoryRecords) -> Vec<String> {
    records.records().iter().map(|r| what(r)).collect()
}

fn numbers(of: std::ops::Range<u64>) -> Vec<String> {
    of.map(|n| n.to_string()).collect()
}

/// A hub at level verbose with a memory sink that takes everything.
fn hub() -> (ObservabilityHub, MemoryRecords) {
    let hub = ObservabilityHub::new(Level::Verbose);
    let memory = MemorySink::new(100_000);
    let records = memory.records();
    let room = LaneOptions {
        queue: 100_000,
        ..LaneOptions::default()
    };
    hub.add_sink_with(Box::new(memory), room);
    (hub, records)
}

fn small_queue() -> LaneOptions {
    LaneOptions {
        queue: 16,
        retry: Duration::ZERO,
        retry_at_most: Duration::ZERO,
        ..LaneOptions::default()
    }
}

/// Calls a closure for each record, then notes it.
struct Scripted {
    each: Each,
    seen: Arc<Mutex<Vec<String>>>,
}

type Each = Box<dyn FnMut(&Record) -> Result<(), SinkError> + Send>;
type Seen = Arc<Mutex<Vec<String>>>;

fn scripted(
    each: impl FnMut(&Record) -> Result<(), SinkError> + Send + 'static,
) -> (Box<dyn TraceSink>, Seen) {
    let seen = Seen::default();
    let sink = Scripted {
        each: Box::new(each),
        seen: Arc::clone(&seen),
    };
    (Box::new(sink), seen)
}

impl TraceSink for Scripted {
    fn kind(&self) -> &str {
        "scripted"
    }

    fn write(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        (self.each)(record)?;
        self.seen.lock().unwrap().push(what(record));
        Ok(())
    }
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// Blocks until told, and says when it does.
fn gate() -> (
    impl FnMut(&Record) -> Result<(), SinkError> + Send + 'static,
    Receiver<()>,
    crossbeam_channel::Sender<()>,
) {
    let (entered, is_in) = unbounded();
    let (open, opened) = unbounded::<()>();
    let each = move |_: &Record| {
        entered.send(()).unwrap();
        // Told once, or let go: both go on.
        opened.recv().unwrap_or(());
        Ok(())
    };
    (each, is_in, open)
}

#[test]
fn a_file_sink_on_a_pipe_nobody_reads_is_named_and_left_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    mkfifo(&pipe);
    let (hub, others) = hub();
    hub.add_sink_with(Box::new(FileSink::new(&pipe, 1 << 20)), small_queue());
    for n in 0..5000 {
        hub.emit(numbered(n));
    }
    assert!(!hub.flush(NO_PATIENCE), "the pipe's sink can't");
    until("the other sink has all", || others.records().len() == 5000);
    assert_eq!(kept(&others), numbers(0..5000));
    let problems = hub.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].thread, "trace-file");
    assert_eq!(problems[0].target, pipe.display().to_string());
    assert!(problems[0].lost >= 5000 - 16 - 2000, "{problems:?}");
    assert_eq!(hub.close(Duration::from_millis(50)), ["trace-file"]);
    assert!(!hub.enabled(Level::Minimal));
    // Lets the thread that was left behind end.
    drop(std::io::copy(
        &mut File::open(&pipe).unwrap(),
        &mut std::io::sink(),
    ));
}

#[test]
fn what_overflows_is_counted_at_its_place() {
    let (each, is_in, open) = gate();
    let (sink, seen) = scripted(each);
    let (hub, others) = hub();
    hub.add_sink_with(sink, small_queue());
    hub.emit(numbered(0));
    is_in.recv_timeout(PATIENCE).unwrap();
    // 0 is in the sink's hands; 1 to 16 wait; 17 to 99 find no room.
    for n in 1..100 {
        hub.emit(numbered(n));
    }
    assert_eq!(hub.problems()[0].lost, 83);
    // Two leave the queue (0 and 1 are written, 2 is in the sink's hands): room for the word that
    // records are missing, and for one more.
    for _ in 0..2 {
        open.send(()).unwrap();
        is_in.recv_timeout(PATIENCE).unwrap();
    }
    hub.emit(numbered(100));
    hub.emit(numbered(101)); // no room again
    drop(open);
    assert!(hub.flush(PATIENCE));
    let mut expected = numbers(0..17);
    expected.extend(["83 lost", "100", "1 lost"].map(str::to_owned));
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(hub.problems()[0].lost, 84);
    assert_eq!(kept(&others), numbers(0..102));
    assert_eq!(hub.close(PATIENCE), Vec::<String>::new());
}

#[test]
fn a_sink_that_parks_for_ever_costs_the_others_nothing() {
    let (each, is_in, open) = gate();
    let (sink, _) = scripted(each);
    let (hub, others) = hub();
    hub.add_sink_with(sink, small_queue());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let room = LaneOptions {
        queue: 10_000,
        ..LaneOptions::default()
    };
    let file = hub.add_sink_with(Box::new(FileSink::new(&path, 1 << 20)), room);
    for n in 0..1000 {
        hub.emit(numbered(n));
    }
    is_in.recv_timeout(PATIENCE).unwrap();
    hub.remove_sink(file).unwrap();
    let written: Vec<String> = TraceReader::open(&path)
        .unwrap()
        .map(|r| what(&r.unwrap().1))
        .collect();
    assert_eq!(
        written,
        numbers(0..1000),
        "a removed sink writes what it has"
    );
    until("the other sink has all", || others.records().len() == 1000);
    assert_eq!(hub.close(Duration::from_millis(50)), ["trace-scripted"]);
    drop(open);
}

#[test]
fn a_full_disk_is_told_and_costs_the_others_nothing() {
    let (hub, others) = hub();
    let options = LaneOptions {
        queue: 10_000,
        ..small_queue()
    };
    hub.add_sink_with(Box::new(FileSink::new("/dev/full", 1 << 20)), options);
    for n in 0..1000 {
        hub.emit(numbered(n));
    }
    assert!(hub.flush(PATIENCE));
    let problem = &hub.problems()[0];
    assert_eq!(
        (&*problem.thread, &*problem.target),
        ("trace-file", "/dev/full")
    );
    let error = problem.error.as_deref().unwrap();
    assert!(
        error.starts_with("writing /dev/full: No space left"),
        "{error}"
    );
    assert_eq!(kept(&others), numbers(0..1000));
    assert_eq!(hub.close(PATIENCE), Vec::<String>::new(), "it ends");
}

fn full() -> SinkError {
    SinkError::Io {
        what: "writing t".to_owned(),
        error: std::io::ErrorKind::StorageFull.into(),
    }
}

#[test]
fn a_sink_that_works_again_goes_on_and_says_what_is_missing() {
    let mut answers: VecDeque<bool> = [true, false, false, false, true].into();
    let (sink, seen) = scripted(move |_| match answers.pop_front() {
        Some(false) => Err(full()),
        _ => Ok(()),
    });
    let (hub, _) = hub();
    hub.add_sink_with(sink, small_queue());
    for n in 0..6 {
        hub.emit(numbered(n));
        // Each by itself: the queue is small.
        assert!(hub.flush(PATIENCE));
        let failing = (1..=3).contains(&n);
        // The flush that follows a failed write works, so the sink is taken to work again.
        assert_eq!(hub.problems().first().map_or(0, |p| p.lost), n.min(3));
        if !failing {
            assert_eq!(hub.problems().first().and_then(|p| p.error.clone()), None);
        }
    }
    // 1 failed; then the word that one is missing failed before 2, and again before 3.
    assert_eq!(*seen.lock().unwrap(), ["0", "3 lost", "4", "5"]);
}

#[test]
fn a_failing_sink_is_not_asked_again_before_its_time() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let (sink, _) = scripted(move |_| {
        *count.lock().unwrap() += 1;
        Err(full())
    });
    let (hub, _) = hub();
    let options = LaneOptions {
        queue: 10_000,
        retry: Duration::from_secs(3600),
        retry_at_most: Duration::from_secs(3600),
        ..LaneOptions::default()
    };
    hub.add_sink_with(sink, options);
    for n in 0..1000 {
        hub.emit(numbered(n));
    }
    assert!(hub.flush(PATIENCE));
    assert_eq!(*asked.lock().unwrap(), 1);
    assert_eq!(hub.problems()[0].lost, 1000);
    assert_eq!(hub.close(PATIENCE), Vec::<String>::new());
    assert_eq!(
        *asked.lock().unwrap(),
        2,
        "once more at the end, for what is missing"
    );
}

#[test]
fn a_panicking_sink_ends_alone() {
    let (hub, others) = hub();
    let (sink, _) = scripted(|record| match record {
        Record::SessionEnd(e) if e.frames == 3 => panic!("three"),
        _ => Ok(()),
    });
    hub.add_sink_with(sink, small_queue());
    for n in 0..10 {
        hub.emit(numbered(n));
    }
    until("its end is told", || {
        let problems = hub.problems();
        problems.iter().any(|p| p.error.is_some())
    });
    let problem = hub.problems().remove(0);
    assert_eq!(
        problem.error.as_deref(),
        Some("it panicked; it gets no more records")
    );
    hub.emit(numbered(10));
    until("the others go on", || others.records().len() == 11);
    assert!(hub.problems()[0].lost >= 1, "what came after is counted");
    assert_eq!(hub.close(PATIENCE), Vec::<String>::new());
    // The only sink gone, nothing is traced any more.
    let hub = ObservabilityHub::new(Level::Verbose);
    let (sink, _) = scripted(|_| panic!("at once"));
    hub.add_sink(sink);
    assert!(hub.enabled(Level::Verbose));
    hub.emit(numbered(0));
    until("it is off", || !hub.enabled(Level::Minimal));
}

#[test]
fn a_level_lets_through_what_it_says() {
    let hub = ObservabilityHub::new(Level::Off);
    let (sink, seen) = scripted(|_| Ok(()));
    let id = hub.add_sink(sink);
    hub.emit(numbered(0));
    for level in [Level::Off, Level::Minimal, Level::Normal, Level::Verbose] {
        assert!(!hub.enabled(level));
    }
    assert!(hub.remove_sink(id).is_ok());
    assert!(hub.remove_sink(id).is_ok(), "it is gone: nothing to do");
    let memory = MemorySink::new(2);
    assert_eq!(
        hub.configure(Level::Minimal, vec![Box::new(memory)]),
        Vec::<String>::new()
    );
    assert!(hub.enabled(Level::Minimal) && !hub.enabled(Level::Normal));
    assert!(!hub.enabled(Level::Off), "nothing is recorded at off");
    for n in 1..5 {
        hub.emit(numbered(n));
        hub.emit_with(Level::Verbose, || unreachable!("not at this level"));
    }
    assert!(hub.flush(PATIENCE));
    let recent: Vec<String> = hub.recent().iter().map(|r| what(r)).collect();
    assert_eq!(recent, ["3", "4"], "the newest two");
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    assert_eq!(hub.configure(Level::Verbose, vec![]), Vec::<String>::new());
    assert!(!hub.enabled(Level::Minimal), "no sink");
}

#[test]
fn records_of_one_thread_keep_their_order_among_those_of_others() {
    let (hub, records) = hub();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let hub = &hub;
            scope.spawn(move || (0..500).for_each(|n| hub.emit(numbered(thread * 1000 + n))));
        }
    });
    assert!(hub.flush(PATIENCE));
    let all: Vec<u64> = kept(&records).iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(all.len(), 2000);
    for thread in 0..4 {
        let of: Vec<u64> = all.iter().copied().filter(|n| n / 1000 == thread).collect();
        assert!(of.is_sorted(), "thread {thread}");
    }
}

#[test]
fn adding_and_removing_sinks_while_records_come_loses_none_of_the_others() {
    let (hub, records) = hub();
    let (stop, stopped) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let hub = &hub;
        scope.spawn(move || {
            while stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) {
                let id = hub.add_sink(Box::new(MemorySink::new(3)));
                hub.remove_sink(id).unwrap();
            }
        });
        for n in 0..2000 {
            hub.emit(numbered(n));
        }
        drop(stop);
    });
    assert!(hub.flush(PATIENCE));
    assert_eq!(kept(&records), numbers(0..2000));
}
