use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::topics::Topics;
use visualpath_core::Name;

fn outbox(messages: usize, bytes: usize) -> MemoryOutbox {
    let topics = Topics::new("p", "d").unwrap();
    MemoryOutbox::new(OutboxLimits { messages, bytes }, topics.gap())
}

fn event(kind: EventKind, size: usize) -> NewEvent {
    let topics = Topics::new("p", "d").unwrap();
    let path = Name::new("a").unwrap();
    NewEvent {
        kind,
        topic: match kind {
            EventKind::Trigger => topics.trigger(&path),
            EventKind::Clip => topics.clip(&path),
        },
        id: new_id(),
        body: format!(r#"{{"x":"{}"}}"#, "x".repeat(size)).into_bytes(),
    }
}

fn all(outbox: &mut MemoryOutbox) -> Vec<(Position, Value)> {
    let mut after = Position::START;
    let mut out = Vec::new();
    while let Some(p) = outbox.next_after(after).unwrap() {
        after = p.position;
        out.push((p.position, serde_json::from_slice(&p.payload).unwrap()));
    }
    out
}

#[test]
fn triggers_are_numbered_without_gaps_and_clips_take_no_number() {
    let mut o = outbox(100, 1 << 20);
    for kind in [EventKind::Trigger, EventKind::Clip, EventKind::Trigger] {
        o.append(event(kind, 1)).unwrap();
    }
    let seqs: Vec<Option<u64>> = all(&mut o).iter().map(|(_, v)| v["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(1), None, Some(2)]);
    assert!(all(&mut o)[1].1.get("stream").is_none());
}

#[test]
fn replayed_is_true_only_on_a_connection_after_the_one_that_was_given_it() {
    let mut o = outbox(100, 1 << 20);
    let a = o.append(event(EventKind::Trigger, 1)).unwrap();
    o.append(event(EventKind::Trigger, 1)).unwrap();
    o.sent(a.position).unwrap();
    let replayed = |o: &mut MemoryOutbox| -> Vec<bool> {
        all(o)
            .iter()
            .map(|(_, v)| v["replayed"].as_bool().unwrap())
            .collect()
    };
    assert_eq!(replayed(&mut o), [false, false]);
    let before = all(&mut o);
    o.connection_lost().unwrap();
    assert_eq!(replayed(&mut o), [true, false]);
    let mut after = all(&mut o);
    after[0].1["replayed"] = Value::Bool(false);
    assert_eq!(after, before, "a re-send differs in nothing else");
}

#[test]
fn a_full_outbox_keeps_one_gap_with_the_exact_count_in_the_evicted_events_place() {
    let mut o = outbox(10, 1 << 20);
    for i in 0..25 {
        o.append(event(EventKind::Trigger, 1)).unwrap();
        if i % 5 == 0 {
            o.append(event(EventKind::Clip, 1)).unwrap();
        }
    }
    assert_eq!(o.len(), 10);
    let kept = all(&mut o);
    let gap = &kept[0].1;
    assert_eq!(gap["schema"], GAP_SCHEMA);
    assert_eq!(
        kept.iter()
            .filter(|(_, v)| v["schema"] == GAP_SCHEMA)
            .count(),
        1
    );
    let (from, to) = (
        gap["seq_from"].as_u64().unwrap(),
        gap["seq_to"].as_u64().unwrap(),
    );
    assert_eq!(from, 1);
    let next = kept.iter().find_map(|(_, v)| v["seq"].as_u64()).unwrap();
    assert_eq!(to + 1, next);
    assert_eq!(gap["triggers"].as_u64().unwrap(), to);
    assert_eq!(gap["count"].as_u64().unwrap(), 30 - 9);
    assert_eq!(o.evicted(), 30 - 9);
}

#[test]
fn what_is_in_flight_is_not_evicted() {
    let mut o = outbox(10, 1 << 20);
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(o.append(event(EventKind::Trigger, 1)).unwrap());
    }
    for s in &sent {
        o.sent(s.position).unwrap();
    }
    for _ in 0..50 {
        o.append(event(EventKind::Trigger, 1)).unwrap();
    }
    let seqs: Vec<u64> = all(&mut o)
        .iter()
        .take(4)
        .filter_map(|(_, v)| v["seq"].as_u64())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    assert_eq!(all(&mut o)[4].1["seq_from"], 5);
    for s in sent {
        o.delivered(s.position).unwrap();
    }
    assert_eq!(all(&mut o)[0].1["seq_from"], 5);
}

#[test]
fn a_gap_that_may_have_been_seen_grows_under_a_new_id() {
    let mut o = outbox(2, 1 << 20);
    for _ in 0..4 {
        o.append(event(EventKind::Trigger, 1)).unwrap();
    }
    let (position, first) = all(&mut o)[0].clone();
    o.sent(position).unwrap();
    o.connection_lost().unwrap();
    assert_eq!(all(&mut o)[0].1["id"], first["id"]);
    assert_eq!(all(&mut o)[0].1["replayed"], true);
    o.append(event(EventKind::Trigger, 1)).unwrap();
    let grown = all(&mut o)[0].1.clone();
    assert_ne!(grown["id"], first["id"]);
    assert_eq!(
        grown["seq_to"].as_u64(),
        first["seq_to"].as_u64().map(|s| s + 1)
    );
}

#[test]
fn a_body_that_is_no_object_is_refused_and_takes_no_number() {
    let mut o = outbox(10, 1 << 20);
    for body in ["", "{}", "[1]", "\"x\"", "{\"a\":1"] {
        let mut e = event(EventKind::Trigger, 1);
        e.body = body.as_bytes().to_vec();
        assert!(
            matches!(o.append(e), Err(OutboxError::Body { .. })),
            "{body}"
        );
    }
    assert_eq!(o.append(event(EventKind::Trigger, 1)).unwrap().seq, Some(1));
}

#[derive(Debug, Clone)]
enum Step {
    Append(bool, usize),
    Send(usize),
    Deliver(usize),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 0_usize..300).prop_map(|(t, n)| Step::Append(t, n)),
        2 => (1_usize..6).prop_map(Step::Send),
        2 => (1_usize..6).prop_map(Step::Deliver),
        1 => Just(Step::Lose),
    ]
}

proptest! {
    /// Plays a publisher against the outbox and accounts for every event.
    #[test]
    fn every_event_is_delivered_kept_or_in_a_gap(steps in prop::collection::vec(step(), 1..200)) {
        const IN_FLIGHT: usize = 4;
        let (limit, byte_limit) = (12, 4000);
        let mut o = outbox(limit, byte_limit);
        let (mut triggers, mut clips) = (0_u64, 0_u64);
        let mut flight: VecDeque<(Position, Value)> = VecDeque::new();
        let mut cursor = Position::START;
        let mut delivered: Vec<Value> = Vec::new();
        for s in steps {
            match s {
                Step::Append(trigger, size) => {
                    let kind = if trigger { EventKind::Trigger } else { EventKind::Clip };
                    let appended = o.append(event(kind, size)).unwrap();
                    if trigger { triggers += 1 } else { clips += 1 }
                    prop_assert_eq!(appended.seq, trigger.then_some(triggers));
                }
                Step::Send(n) => for _ in 0..n {
                    if flight.len() >= IN_FLIGHT { break }
                    let Some(p) = o.next_after(cursor).unwrap() else { break };
                    o.sent(p.position).unwrap();
                    cursor = p.position;
                    flight.push_back((p.position, serde_json::from_slice(&p.payload).unwrap()));
                },
                Step::Deliver(n) => for _ in 0..n {
                    let Some((position, value)) = flight.pop_front() else { break };
                    o.delivered(position).unwrap();
                    delivered.push(value);
                },
                Step::Lose => {
                    o.connection_lost().unwrap();
                    flight.clear();
                    cursor = Position::START;
                }
            }
            prop_assert!(o.len() <= limit + IN_FLIGHT + 2);
            prop_assert!(o.bytes() <= byte_limit + (IN_FLIGHT + 2) * 600, "{}", o.bytes());
        }
        let mut seqs = BTreeSet::new();
        let (mut clips_seen, mut evicted) = (0, 0);
        let kept: Vec<Value> = all(&mut o).into_iter().map(|(_, v)| v).collect();
        for v in delivered.iter().chain(&kept) {
            if v["schema"] == GAP_SCHEMA {
                evicted += v["count"].as_u64().unwrap();
                clips_seen += v["clips"].as_u64().unwrap();
                if let Some(from) = v["seq_from"].as_u64() {
                    let to = v["seq_to"].as_u64().unwrap();
                    prop_assert_eq!(v["triggers"].as_u64().unwrap(), to - from + 1);
                    for s in from..=to { prop_assert!(seqs.insert(s), "{} twice", s); }
                }
            } else if let Some(s) = v["seq"].as_u64() {
                prop_assert!(seqs.insert(s), "{} twice", s);
            } else {
                clips_seen += 1;
            }
        }
        prop_assert_eq!(seqs, (1..=triggers).collect::<BTreeSet<u64>>());
        prop_assert_eq!(clips_seen, clips);
        prop_assert_eq!(evicted, o.evicted());
        let bytes: usize = o.entries.iter().map(Entry::bytes).sum();
        prop_assert_eq!(bytes, o.bytes());
    }
}
