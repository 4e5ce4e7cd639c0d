//! What the events thread promises of clips: with a real lane, a real store and its index.

use std::path::Path;

use crossbeam_channel::unbounded;
use visualpath_core::{ColorSpec, MonotonicClock, TriggerKind};
use visualpath_media::clip::{ClipRequest, ClipStore, EvidenceLane, Finish, LaneOptions, Offered};
use visualpath_media::encode::{Codec, CodecParams, Packet};
use visualpath_mqtt::outbox::{Appended, EventKind, NewEvent, Outbox, Pending, Position};
use visualpath_mqtt::{
    ClipState, MemoryOutbox, MqttOptions, OutboxError, Publisher, PublisherHandle, Topics,
    parse_url,
};

use super::*;
use crate::pipeline::app::Clip;
use crate::pipeline::out::Print;

const LONG: Duration = Duration::from_secs(120);
/// 25 pictures per second.
const STEP_NS: i64 = 40_000_000;

fn at(picture: i64) -> i64 {
    picture * STEP_NS
}

fn packet(n: i64, params: &Arc<CodecParams>) -> Packet {
    Packet {
        data: vec![u8::try_from(n % 251).unwrap(); 100].into(),
        is_key: n % 10 == 0,
        pts_ns: at(n),
        dts_ns: at(n),
        frame_id: u64::try_from(n).unwrap(),
        params: Arc::clone(params),
    }
}

fn params() -> Arc<CodecParams> {
    Arc::new(CodecParams {
        codec: Codec::Mjpeg,
        width: 64,
        height: 48,
        color: ColorSpec::default(),
        vps: Vec::new().into(),
        sps: Vec::new().into(),
        pps: Vec::new().into(),
    })
}

/// A store that nobody else has, at `state_dir`.
fn store_at(state_dir: &Path) -> Arc<ClipStore> {
    ClipStore::open(state_dir, "clips", 1 << 30).unwrap()
}

/// A camera with its evidence, results to the channel.
fn line(
    store: &Arc<ClipStore>,
    merge_max_ns: Option<i64>,
) -> (Arc<LineShared>, Receiver<ClipResult>) {
    let mut options = LaneOptions::new(name("cam0"), Arc::clone(store));
    (options.realtime, options.merge_max_ns) = (false, merge_max_ns);
    let (tell, results) = unbounded();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    let line = LineShared::new(name("cam0"), WallClock::starting_now(false));
    (Arc::new(line.with_evidence(lane)), results)
}

/// A rule fires at a picture and asks for a clip.
fn fires(line: &Arc<LineShared>, label: &str, [from, event, to]: [i64; 3]) -> Event {
    let trigger = Trigger {
        label: name(label),
        kind: TriggerKind::Point,
        phase: Phase::Point,
        event: 1,
        frame_id: 3,
        t_ns: at(event),
        fired_ns: at(event),
        event_start_ns: at(event),
        event_end_ns: at(event),
        t_start_ns: at(from),
        t_end_ns: at(to),
        score: 1.0,
        reason: "test".to_owned(),
        observations_used: 1,
        signals: visualpath_core::Signals::new(),
        objects: vec![],
        best_ns: None,
        clip: true,
        metadata: serde_json::Map::new(),
    };
    Event::Fired {
        line: Arc::clone(line),
        path: name("entrance"),
        trigger: Box::new(trigger),
        times: Times::default(),
        extract_ns: 0,
    }
}

fn with_store(counts: &Arc<Counts>, app: Option<App>, store: &Arc<ClipStore>) -> Events {
    let thread = events(counts, app);
    assert!(thread.store.set(Clips::only(Arc::clone(store))).is_ok());
    thread
}

#[test]
fn triggers_whose_clips_share_a_file_are_each_answered_in_a_message_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_at(dir.path());
    assert_eq!(store.take_over().unwrap(), []);
    let (line, results) = line(&store, Some(300 * visualpath_core::NS_PER_S));
    let (said, heard) = unbounded();
    let told: super::super::super::app::OnTrigger = Box::new(move |trigger, cx| {
        said.send((trigger.clone(), cx.clip(trigger).unwrap()))
            .unwrap();
    });
    let (app, app_thread) = App::start(told, dir.path()).unwrap();
    let counts = Arc::new(Counts::default());
    let thread = with_store(&counts, Some(app), &store);
    let (tx, rx) = unbounded();
    let (counted, shared) = (Arc::clone(&counts), Arc::clone(&line));
    let running = std::thread::spawn(move || thread.run(&rx, &results));

    let params = params();
    let mut next = 0;
    let mut until = |last: i64| {
        while next <= last {
            let offered = shared
                .evidence()
                .unwrap()
                .offer_packet(packet(next, &params));
            assert_eq!(offered, Offered::Taken);
            next += 1;
        }
    };
    for (picture, label, range) in [
        (30, "first", [20, 30, 60]),
        (40, "second", [10, 40, 80]),
        (50, "third", [45, 50, 70]),
    ] {
        until(picture);
        tx.send(fires(&line, label, range)).unwrap();
        // The clip has been asked for when the events thread has gone on to this.
        let (done, asked) = unbounded();
        tx.send(Event::Flush(done)).unwrap();
        assert!(asked.recv_timeout(LONG).is_err(), "it is dropped");
    }
    until(100);
    let clips: Vec<(_, Clip)> = (0..3)
        .map(|_| {
            let (trigger, clip) = heard.recv_timeout(LONG).unwrap();
            let clip = clip.wait(LONG).unwrap();
            (trigger, clip)
        })
        .collect();
    tx.send(Event::End).unwrap();
    running.join().unwrap();
    app_thread.join().unwrap();

    let first = clips[0].1.message.clone();
    assert!(clips[0].1.file.exists());
    for (n, (trigger, clip)) in clips.iter().enumerate() {
        let message = &clip.message;
        assert_eq!(message.id, trigger.trigger.clip.as_ref().unwrap().id);
        let body = &message.clip;
        assert_eq!(body.trigger_id, trigger.trigger.trigger_id);
        assert_eq!(body.label, trigger.trigger.label);
        assert_eq!(
            (body.state, &body.file),
            (ClipState::Ready, &first.clip.file)
        );
        assert_eq!((body.start_ns, body.end_ns), (at(20), at(80)));
        assert_eq!(
            (&body.sha256, body.bytes),
            (&first.clip.sha256, first.clip.bytes)
        );
        // Ten pictures of what the second asked for are not there.
        let short = if n == 1 { 400.0 } else { 0.0 };
        assert_eq!((body.short_pre_ms, body.short_post_ms), (short, 0.0));
        assert_eq!(body.end_reason.as_deref(), Some("complete"));
        let into = (n > 0).then(|| first.id.clone());
        assert_eq!(body.merged_into, into);
        let json = serde_json::to_value(message).unwrap();
        assert_eq!(json.get("merged_into").is_some(), n > 0);
    }
    assert_eq!((read(&counted.ready), read(&counted.failed)), (3, 0));

    // Each has been told of: the next start has nothing to say.
    line.evidence()
        .unwrap()
        .finish(Finish::Stopped, LONG)
        .unwrap();
    drop((line, shared, store));
    assert_eq!(store_at(dir.path()).take_over().unwrap(), []);
}

/// An outbox that takes everything but clips.
struct Refuses(MemoryOutbox);

impl Outbox for Refuses {
    fn stream(&self) -> &str {
        self.0.stream()
    }
    fn append(&mut self, event: NewEvent) -> Result<Appended, OutboxError> {
        if event.kind == EventKind::Clip {
            let place = "a test".to_owned();
            let source = "no room".into();
            return Err(OutboxError::Store { place, source });
        }
        self.0.append(event)
    }
    fn next_after(&mut self, after: Position) -> Result<Option<Pending>, OutboxError> {
        self.0.next_after(after)
    }
    fn sent(&mut self, position: Position) -> Result<(), OutboxError> {
        self.0.sent(position)
    }
    fn delivered(&mut self, position: Position) -> Result<(), OutboxError> {
        self.0.delivered(position)
    }
    fn connection_lost(&mut self) -> Result<(), OutboxError> {
        self.0.connection_lost()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn evicted(&self) -> u64 {
        self.0.evicted()
    }
}

fn refusing() -> PublisherHandle {
    let topics = Topics::new("visualpath", "test").unwrap();
    let options = MqttOptions::new(parse_url("mqtt://127.0.0.1:1").unwrap(), topics.clone());
    let outbox = Refuses(MemoryOutbox::new(options.limits, topics.gap()));
    let clock = Arc::new(MonotonicClock::new());
    Publisher::start_with(options, clock, Box::new(outbox)).unwrap()
}

#[test]
fn a_clip_whose_message_the_outbox_refused_is_told_of_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_at(dir.path());
    assert_eq!(store.take_over().unwrap(), []);
    let (line, results) = line(&store, None);
    let publisher = refusing();
    let counts = Arc::new(Counts::default());
    let mut thread = with_store(&counts, None, &store);
    thread.out = Out::new(Some(Arc::new(publisher)), Print::Nothing);

    let params = params();
    for n in 0..=30 {
        let offered = line.evidence().unwrap().offer_packet(packet(n, &params));
        assert_eq!(offered, Offered::Taken);
    }
    let (tx, rx) = unbounded();
    tx.send(fires(&line, "visitor", [10, 20, 25])).unwrap();
    let (done, asked) = unbounded();
    tx.send(Event::Flush(done)).unwrap();
    let feeding = Arc::clone(&line);
    let feed = std::thread::spawn(move || {
        assert!(asked.recv_timeout(LONG).is_err(), "it is dropped");
        let evidence = feeding.evidence().unwrap();
        evidence.finish(Finish::SourceEnd, LONG).unwrap();
        tx.send(Event::End).unwrap();
    });
    thread.run(&rx, &results);
    feed.join().unwrap();
    assert_eq!(read(&counts.refused), 1);

    drop((rx, line, store));
    let again = store_at(dir.path());
    let unheard = again.take_over().unwrap();
    let ids: Vec<&str> = unheard.iter().map(|u| u.result.id.as_str()).collect();
    assert_eq!(ids.len(), 1, "{unheard:?}");
}

#[test]
fn an_index_that_can_not_be_written_is_a_problem_in_health_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_at(dir.path());
    assert_eq!(store.take_over().unwrap(), []);
    let counts = Arc::new(Counts::default());
    let mut thread = with_store(&counts, None, &store);
    thread.look_at_store();
    assert!(thread.problems.is_empty());
    // Another process holds the database, for longer than one waits.
    let other = rusqlite::Connection::open(dir.path().join("outbox/events.sqlite")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let request = ClipRequest {
        id: new_id(),
        trigger_id: "trigger".to_owned(),
        path: name("entrance"),
        label: name("visitor"),
        event_ns: 0,
        wall_ns: 0,
        start_ns: 0,
        end_ns: 0,
        best_ns: None,
    };
    store.asked(&name("cam0"), &request);
    thread.look_at_store();
    thread.look_at_store();
    let told: Vec<_> = thread
        .problems
        .iter()
        .map(|p| (&*p.code, &*p.subject))
        .collect();
    assert_eq!(told, [("clip_index", "clips")]);
    assert!(thread.problems[0].detail.contains("locked"));
    other.execute_batch("ROLLBACK").unwrap();
    // What finds nothing to write says nothing about writing.
    store.told(&request.id);
    thread.look_at_store();
    assert_eq!(thread.problems.len(), 1);
    store.asked(&name("cam0"), &request);
    thread.look_at_store();
    assert!(thread.problems.is_empty(), "it is over");
}

/// A command asks for a clip that goes on for long.
fn cut(line: &Arc<LineShared>, wait: bool) -> (Event, Receiver<crate::commands::Outcome>) {
    let (told, outcome) = unbounded();
    let request = ClipRequest {
        id: new_id(),
        trigger_id: String::new(),
        path: name("command"),
        label: name("clip"),
        event_ns: 0,
        wall_ns: 0,
        start_ns: 0,
        end_ns: at(1000),
        best_ns: None,
    };
    let accepted = crate::commands::ClipAccepted {
        id: request.id.clone(),
        source: name("cam0"),
        path: name("command"),
        label: name("clip"),
        start_ns: 0,
        start_ms: 0,
        end_ns: at(1000),
        end_ms: 40_000,
        from: String::new(),
        to: String::new(),
    };
    let cut = crate::pipeline::clip_events::Cut {
        line: Arc::clone(line),
        request,
        accepted,
        wait,
        answer: Answer::new(move |o| drop(told.send(o))),
    };
    (Event::Cut(Box::new(cut)), outcome)
}

#[test]
fn commands_take_only_so_many_places_and_whoever_waits_is_answered_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_at(dir.path());
    assert_eq!(store.take_over().unwrap(), []);
    let (line, results) = line(&store, None);
    let counts = Arc::new(Counts::default());
    let mut thread = with_store(&counts, None, &store);
    let outcomes: Vec<Receiver<_>> = (0..6)
        .map(|n| {
            let (event, outcome) = cut(&line, n == 0);
            thread.take(event);
            outcome
        })
        .collect();
    assert!(outcomes[0].try_recv().is_err(), "it waits for its clip");
    for accepted in &outcomes[1..4] {
        assert!(accepted.try_recv().unwrap().is_ok());
    }
    for refused in &outcomes[4..] {
        assert_eq!(refused.try_recv().unwrap().unwrap_err().code, "busy");
    }
    // One that has its result makes room for another.
    line.evidence()
        .unwrap()
        .finish(Finish::Stopped, LONG)
        .unwrap();
    let first: ClipResult = results.recv().unwrap();
    thread.clip(first);
    let (event, again) = cut(&line, false);
    thread.take(event);
    assert!(again.try_recv().unwrap().is_ok());
    let (none, never) = unbounded();
    drop(none);
    thread.finish(&never);
    let waited = outcomes[0].try_recv().unwrap().unwrap_err();
    assert!(
        ["stopping", "clip_failed"].contains(&&*waited.code),
        "{waited}"
    );
    assert!(outcomes[0].try_recv().is_err(), "once");
}

#[test]
fn whoever_waits_for_a_clip_hears_that_its_message_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_at(dir.path());
    assert_eq!(store.take_over().unwrap(), []);
    let (line, results) = line(&store, None);
    let counts = Arc::new(Counts::default());
    let mut thread = with_store(&counts, None, &store);
    thread.out = Out::new(Some(Arc::new(refusing())), Print::Nothing);
    let (event, outcome) = cut(&line, true);
    thread.take(event);
    line.evidence()
        .unwrap()
        .finish(Finish::Stopped, LONG)
        .unwrap();
    thread.clip(results.recv().unwrap());
    let error = outcome.try_recv().unwrap().unwrap_err();
    assert_eq!(error.code, "failed");
    assert!(error.message.contains("refused"), "{error}");
}
