//! What the events thread promises.

use crossbeam_channel::unbounded;
use visualpath_core::{Signals, TriggerKind};

use super::*;
use crate::pipeline::out::Print;
use visualpath_platform::trace::Level;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn fired() -> Event {
    let trigger = Trigger {
        label: name("visitor"),
        kind: TriggerKind::Point,
        phase: Phase::Point,
        event: 1,
        frame_id: 3,
        t_ns: 300,
        fired_ns: 300,
        event_start_ns: 300,
        event_end_ns: 300,
        best_ns: None,
        t_start_ns: 0,
        t_end_ns: 500,
        score: 1.0,
        reason: "test".to_owned(),
        observations_used: 1,
        signals: Signals::new(),
        objects: vec![],
        clip: true,
        metadata: serde_json::Map::new(),
    };
    Event::Fired {
        line: Arc::new(LineShared::new(name("cam0"), WallClock::starting_now(true))),
        path: name("entrance"),
        trigger: Box::new(trigger),
        times: Times::default(),
        extract_ns: 0,
    }
}

fn events(counts: &Arc<Counts>, app: Option<App>) -> Events {
    Events {
        out: Out::new(None, Print::Nothing),
        device: "test".to_owned(),
        boot_id: "boot".to_owned(),
        problems: vec![],
        app,
        open: HashMap::new(),
        on: HashMap::new(),
        asked: HashMap::new(),
        commanded: HashMap::new(),
        store: Arc::default(),
        hub: Arc::new(ObservabilityHub::new(Level::Off)),
        sink_losses: HashMap::new(),
        walls: Arc::default(),
        counts: Arc::clone(counts),
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

#[test]
fn a_clip_without_a_result_when_the_appliance_stops_has_failed() {
    let counts = Arc::new(Counts::default());
    let mut thread = events(&counts, None);
    // Asked for, and the clip thread never answered.
    let Event::Fired { trigger, .. } = fired() else {
        unreachable!()
    };
    let body = TriggerBody::new(
        &trigger,
        TriggerContext {
            device: "test",
            boot_id: "boot",
            path: &name("entrance"),
            source: &name("cam0"),
            time: String::new(),
            clock: visualpath_mqtt::payload::ClockQuality::default(),
            clip_id: Some("a".to_owned()),
            trigger_id: None,
            models: &[],
            latency_ms: Latency::default(),
        },
    );
    thread
        .asked
        .insert("a".to_owned(), (name("entrance"), ClipBody::of(&body)));
    let (tx, rx) = unbounded();
    let (clip_tx, clips) = unbounded();
    tx.send(Event::End).unwrap();
    thread.run(&rx, &clips);
    drop(clip_tx);
    assert_eq!((read(&counts.ready), read(&counts.failed)), (0, 1));
}

#[test]
fn without_an_encoder_every_trigger_still_gets_its_answer() {
    let counts = Arc::new(Counts::default());
    let (tx, rx) = unbounded();
    let (clip_tx, clips) = unbounded();
    drop(clip_tx); // the lane is gone; events go on
    for event in [fired(), fired(), Event::End] {
        tx.send(event).unwrap();
    }
    events(&counts, None).run(&rx, &clips);
    assert_eq!((read(&counts.triggers), read(&counts.failed)), (2, 2));
}

#[test]
fn a_subscriber_that_panics_or_waits_for_ever_costs_no_event() {
    let (open, door) = unbounded::<()>();
    let subscribers: [super::super::app::OnTrigger; 2] = [
        Box::new(|_, _| panic!("subscriber")),
        Box::new(move |_, _| assert!(door.recv().is_err())),
    ];
    for told in subscribers {
        let counts = Arc::new(Counts::default());
        let (app, thread) = App::start(told, std::path::Path::new(".")).unwrap();
        let (tx, rx) = unbounded();
        let (_clip_tx, clips) = unbounded();
        for event in [fired(), fired(), fired(), Event::End] {
            tx.send(event).unwrap();
        }
        events(&counts, Some(app)).run(&rx, &clips);
        assert_eq!(read(&counts.triggers), 3);
        drop(thread);
    }
    drop(open);
}

#[test]
fn a_subscriber_can_wait_for_its_clip_and_is_told_when_there_is_none() {
    let (said, heard) = unbounded();
    let told: super::super::app::OnTrigger = Box::new(move |trigger, cx| {
        let clip = cx.clip(trigger).unwrap();
        said.send(clip.wait(Duration::from_secs(60))).unwrap();
    });
    let counts = Arc::new(Counts::default());
    let (app, thread) = App::start(told, std::path::Path::new(".")).unwrap();
    let (tx, rx) = unbounded();
    let (_clip_tx, clips) = unbounded();
    tx.send(fired()).unwrap();
    tx.send(Event::End).unwrap();
    events(&counts, Some(app)).run(&rx, &clips);
    thread.join().unwrap();
    let answer = heard.recv().unwrap().unwrap_err().to_string();
    assert!(answer.contains("no encoder"), "{answer}");
}

#[test]
fn a_problem_is_told_once_per_subject_and_can_be_over() {
    let counts = Arc::new(Counts::default());
    let mut thread = events(&counts, None);
    let (cam, person, paths) = (name("cam0"), name("person"), [name("entrance")]);
    let lateness = Lateness {
        share: 0.2,
        window_ns: Some(412_000_000),
        timeout_ns: None,
    };
    thread.late(&cam, &person, &paths, Some(lateness));
    thread.late(&cam, &person, &paths, Some(lateness));
    assert_eq!(thread.problems.len(), 1);
    let advice = &thread.problems[0].advice;
    assert!(advice.contains("path.entrance.window_ms = 520"), "{advice}");
    thread.late(&cam, &person, &paths, None);
    assert!(thread.problems.is_empty());
}

#[test]
fn a_label_is_on_while_it_is_for_any_source_of_its_path() {
    let counts = Arc::new(Counts::default());
    let mut thread = events(&counts, None);
    let (p, l) = (name("entrance"), name("visitor"));
    for (source, on, sources) in [
        ("a", true, 1),
        ("b", true, 2),
        ("a", true, 2),
        ("a", false, 1),
        ("b", false, 0),
    ] {
        thread.state(name(source), p.clone(), l.clone(), on);
        assert_eq!(thread.on[&(p.clone(), l.clone())].len(), sources);
    }
}

#[path = "clip_events_tests.rs"]
mod clips;
