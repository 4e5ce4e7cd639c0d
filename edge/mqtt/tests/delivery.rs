//! What the publisher promises, against a real mosquitto.
#![allow(
    clippy::unwrap_used,
    reason = "clippy's allow-unwrap-in-tests covers test functions only, not their helpers"
)]

mod support;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::*;
use visualpath_mqtt::{ExtractorStatus, SourceStatus, schemas};

const TRIGGERS: &str = "visualpath/dock-3/path/+/trigger";
const LONG: Duration = Duration::from_secs(30);

#[test]
fn triggers_arrive_in_order_with_gapless_numbers_and_are_valid() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::new(broker.port, "visualpath/#");
    let p = publisher(options(broker.port));
    let (_, schema) = schemas()
        .into_iter()
        .find(|(n, _)| *n == "trigger")
        .unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let given: Vec<Value> = (1..=100)
        .map(|n| {
            let payload = p.trigger(&name("entrance"), trigger(n)).unwrap();
            clip(&p, n);
            serde_json::to_value(payload).unwrap()
        })
        .collect();
    for expected in &given {
        let got = subscriber.next_on("/trigger");
        assert_eq!(got.topic, "visualpath/dock-3/path/entrance/trigger");
        assert!(!got.retain);
        assert_eq!(&got.json(), expected, "what was returned is what is sent");
        assert!(schema.is_valid(&got.json()));
        let clip = subscriber.next_on("/clip").json();
        assert_eq!(clip["id"], expected["clip"]["id"]);
    }
    for (n, v) in (1_u64..).zip(&given) {
        assert_eq!(v["seq"], n);
        assert_eq!(v["stream"], given[0]["stream"]);
        assert_eq!(v["trigger_id"], v["id"]);
    }
    let report = p.finish(LONG);
    assert_eq!(
        (report.delivered, report.undelivered, report.evicted),
        (200, 0, 0)
    );
    assert_eq!(subscriber.next_on("/status").text(), "offline");
}

#[test]
fn a_broker_that_is_absent_at_start_gets_everything_later() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let door = free_port();
    let p = publisher(options(door));
    for n in 1..=50 {
        fire(&p, n);
    }
    assert!(!p.connected());
    assert_eq!(p.pending(), 50);
    broker.launch();
    let subscriber = Subscriber::new(broker.port, TRIGGERS);
    let gate = Gate::new(door, broker.port);
    gate.open();
    for n in 1..=50 {
        let m = subscriber.next();
        assert_eq!(seq(&m), n);
        assert_eq!(
            m.json()["replayed"],
            false,
            "no connection was given it before"
        );
    }
    eventually("all acknowledged", || p.pending() == 0);
}

/// Every seq at least once, first deliveries in order, repetitions marked.
fn check(messages: &[Message], last: u64) {
    let mut next = 1;
    let mut first: HashMap<u64, Value> = HashMap::new();
    for m in messages {
        let v = m.json();
        let n = seq(m);
        match first.get(&n) {
            None => {
                assert_eq!(n, next, "first deliveries are in order and without gaps");
                next += 1;
                first.insert(n, v);
            }
            Some(earlier) => {
                assert_eq!(v["replayed"], true, "{n} came again unmarked");
                assert_eq!(v["id"], earlier["id"]);
            }
        }
    }
    assert_eq!(next, last + 1);
}

/// What mosquitto has acknowledged it has also written to its subscribers' sockets, so with the
/// subscriber always there before the publisher (the gate sees to that), nothing may be missing.
#[test]
fn nothing_is_lost_when_the_broker_is_killed_at_random_instants() {
    let rounds = if std::env::var("VISUALPATH_SOAK").is_ok_and(|v| v == "1") {
        1000
    } else {
        50
    };
    let mut random = Random(0x5eed_2026_1122);
    let mut broker = Mosquitto::start();
    let gate = Gate::new(0, broker.port);
    let p = publisher(options(gate.port));
    let mut got = Vec::new();
    let mut fired = 0;
    let mut cut_short = 0;
    for _ in 0..rounds {
        let subscriber = Subscriber::silent(broker.port, TRIGGERS);
        gate.open();
        for _ in 0..5 + random.below(60) {
            fired += 1;
            fire(&p, fired);
        }
        // The instant: behind some of the messages, and a little more.
        for _ in 0..random.below(40) {
            match subscriber.next_within(Duration::from_millis(200)) {
                Some(m) => got.push(m),
                None => break,
            }
        }
        let instant = Instant::now() + Duration::from_micros(random.below(2000));
        while Instant::now() < instant {
            std::hint::spin_loop();
        }
        broker.kill();
        gate.close();
        cut_short += u32::from(p.pending() > 0);
        got.extend(subscriber.rest());
        broker.launch();
    }
    let subscriber = Subscriber::silent(broker.port, TRIGGERS);
    gate.open();
    let mut newest = got.iter().map(seq).max().unwrap_or(0);
    while newest < fired {
        let m = subscriber.next();
        newest = newest.max(seq(&m));
        got.push(m);
    }
    eventually("all acknowledged", || p.pending() == 0);
    check(&got, fired);
    assert!(
        cut_short > rounds / 4,
        "the kills hit too little: {cut_short}"
    );
    assert!(
        got.iter().any(|m| m.json()["replayed"] == true),
        "no re-send was ever needed"
    );
}

#[test]
fn a_broker_that_hangs_is_left_and_served_again_when_it_wakes() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::new(broker.port, TRIGGERS);
    let p = publisher(options(broker.port));
    for n in 1..=5 {
        fire(&p, n);
    }
    let mut got: Vec<Message> = (0..5).map(|_| subscriber.next()).collect();
    broker.signal("STOP");
    for n in 6..=60 {
        fire(&p, n);
    }
    eventually("the silence is noticed", || !p.connected());
    assert!(p.pending() >= 55);
    broker.signal("CONT");
    while got.iter().map(seq).max() != Some(60) {
        got.push(subscriber.next());
    }
    eventually("all acknowledged", || p.pending() == 0);
    // The hung broker still holds what the first connection sent, so the next connection's
    // repetitions come after it: order of first deliveries and marks are as always.
    while let Some(m) = subscriber.next_within(Duration::from_millis(200)) {
        got.push(m);
    }
    check(&got, 60);
    eventually("online in the end", || {
        let late = Subscriber::new(broker.port, "visualpath/dock-3/status");
        late.next().text() == "online"
    });
}

#[test]
fn retained_values_are_there_for_late_subscribers_and_after_a_broker_restart() {
    let mut broker = Mosquitto::start();
    let p = publisher(options(broker.port));
    let (cam, person) = (name("cam0"), name("person"));
    p.source_status(&cam, SourceStatus::Offline).unwrap();
    p.source_status(&cam, SourceStatus::Online).unwrap();
    p.extractor_status(&cam, &person, ExtractorStatus::Running)
        .unwrap();
    p.state(&name("entrance"), &name("visitor"), true).unwrap();
    let expected: HashMap<String, String> = [
        ("status", "online"),
        ("source/cam0/status", "online"),
        ("source/cam0/extractor/person/status", "running"),
        ("path/entrance/state/visitor", "ON"),
    ]
    .into_iter()
    .map(|(t, v)| (format!("visualpath/dock-3/{t}"), v.to_owned()))
    .collect();
    for round in 0..2 {
        eventually("all four are retained", || {
            let late = Subscriber::new(broker.port, "visualpath/#");
            let mut seen = HashMap::new();
            while let Some(m) = late.next_within(Duration::from_millis(100)) {
                if m.retain {
                    seen.insert(m.topic.clone(), m.text().to_owned());
                }
            }
            seen == expected
        });
        if round == 0 {
            broker.kill();
            broker.launch();
        }
    }
}

#[test]
fn a_bounded_outbox_that_overflows_sends_one_gap_with_the_exact_count() {
    let broker = Mosquitto::start();
    let door = free_port();
    let mut o = options(door);
    o.limits.messages = 100;
    let p = publisher(o);
    for n in 1..=250 {
        fire(&p, n);
        if n % 10 == 0 {
            clip(&p, n);
        }
    }
    assert_eq!(p.pending(), 100);
    let subscriber = Subscriber::new(broker.port, "visualpath/#");
    let gate = Gate::new(door, broker.port);
    gate.open();
    let (mut gaps, mut seqs, mut clips) = (Vec::new(), Vec::new(), 0);
    while seqs.last() != Some(&250) || clips == 0 || gaps.is_empty() {
        let m = subscriber.next();
        match m.topic.rsplit('/').next().unwrap() {
            "gap" => gaps.push(m.json()),
            "trigger" => seqs.push(seq(&m)),
            "clip" => clips += 1,
            _ => {}
        }
    }
    let report = p.finish(LONG);
    subscriber.wait_for("/status", "offline");
    assert_eq!(gaps.len(), 1);
    let gap = &gaps[0];
    assert_eq!(gap["seq_from"], 1);
    let first = gap["seq_to"].as_u64().unwrap() + 1;
    assert_eq!(seqs, (first..=250).collect::<Vec<u64>>());
    assert_eq!(gap["count"], 275 - 99);
    assert_eq!(gap["triggers"], first - 1);
    assert_eq!(report.evicted, 275 - 99);
    assert_eq!(report.undelivered, 0);
}

#[test]
fn finish_with_the_broker_away_says_what_is_left() {
    let p = publisher(options(free_port()));
    for n in 1..=3 {
        fire(&p, n);
    }
    let report = p.finish(Duration::from_millis(300));
    assert_eq!((report.delivered, report.undelivered), (0, 3));
    assert_eq!(p.finish(Duration::ZERO), report, "again only reports");
    let nothing = publisher(options(free_port()));
    assert_eq!(nothing.finish(LONG).undelivered, 0);
}

#[test]
fn finish_delivers_what_is_left_and_leaves_offline() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::new(broker.port, "visualpath/#");
    let p = publisher(options(broker.port));
    for n in 1..=500 {
        fire(&p, n);
    }
    assert_eq!(p.finish(LONG).undelivered, 0);
    for n in 1..=500 {
        assert_eq!(seq(&subscriber.next_on("/trigger")), n);
    }
    subscriber.wait_for("/status", "offline");
    let late = Subscriber::new(broker.port, "visualpath/dock-3/status");
    assert_eq!(late.next().text(), "offline");
    assert!(
        subscriber.next_within(Duration::from_millis(200)).is_none(),
        "after a DISCONNECT there is no last will"
    );
}

const CHILD_PORT: &str = "VISUALPATH_TEST_CHILD_PORT";

/// The other process of the test below.
#[test]
fn child_publishes_until_killed() {
    let Ok(port) = std::env::var(CHILD_PORT) else {
        return;
    };
    let p = publisher(options(port.parse().unwrap()));
    fire(&p, 1);
    // Standard input ends with the parent, should that be killed itself.
    std::io::read_to_string(std::io::stdin()).unwrap();
}

#[test]
fn the_last_will_says_offline_when_the_appliance_is_killed() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::new(broker.port, "visualpath/#");
    let child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .args(["child_publishes_until_killed", "--exact"])
            .env(CHILD_PORT, broker.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    subscriber.wait_for("/status", "online");
    assert_eq!(seq(&subscriber.next_on("/trigger")), 1);
    drop(child);
    assert_eq!(subscriber.next_on("/status").text(), "offline");
    let late = Subscriber::new(broker.port, "visualpath/dock-3/status");
    let m = late.next();
    assert!(m.retain && m.text() == "offline");
}

#[test]
fn a_trigger_too_large_for_a_broker_is_trimmed_and_says_so() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::new(broker.port, TRIGGERS);
    let p = publisher(options(broker.port));
    let mut big = trigger(1);
    big.metadata
        .insert("x".into(), "x".repeat(300 << 10).into());
    let given = p.trigger(&name("entrance"), big).unwrap();
    assert_eq!(given.trigger.trimmed, ["metadata"]);
    let got = subscriber.next().json();
    assert_eq!(got["trimmed"][0], "metadata");
    assert_eq!(got["seq"], 1);
    let mut hopeless = trigger(2);
    hopeless.reason = "x".repeat(300 << 10);
    assert!(p.trigger(&name("entrance"), hopeless).is_err());
    fire(&p, 2);
    assert_eq!(
        seq(&subscriber.next()),
        2,
        "a refused trigger takes no number"
    );
}
