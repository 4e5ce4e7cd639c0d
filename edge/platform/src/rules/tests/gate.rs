//! A condition in front of an extractor.

use std::sync::Arc;

use visualpath_core::{Held, NS_PER_MS};

use super::super::Gate;
use super::{held, path};

/// Asks the gate at these times (ms) with what `motion` holds then.
fn ask(gate: &mut Gate, frames: &[(i64, Option<f64>)]) -> Vec<bool> {
    frames
        .iter()
        .map(|(t_ms, score)| {
            let held = score.map(|s| Arc::new(held(&[("score", s)])));
            gate.open(t_ms * NS_PER_MS, &mut |index| {
                assert_eq!(index, 1, "it reads motion only");
                held.clone()
            })
        })
        .collect()
}

fn gate(text: &str, hold_ms: i64) -> Gate {
    Gate::compile(text, hold_ms * NS_PER_MS, &path()).unwrap()
}

#[test]
fn a_gate_is_open_while_its_condition_holds_and_for_its_hold_after() {
    let frames = [
        (0, Some(0.0)),
        (100, Some(0.5)),
        (200, Some(0.0)),
        (300, Some(0.0)),
        (400, Some(0.0)),
    ];
    let mut shut = gate("motion.score > 0.02", 0);
    assert_eq!(ask(&mut shut, &frames), [false, true, false, false, false]);
    let mut held = gate("motion.score > 0.02", 200);
    assert_eq!(ask(&mut held, &frames), [false, true, true, true, false]);
    // Time that goes back is not within the hold.
    assert_eq!(
        ask(&mut held, &[(500, Some(0.5)), (400, Some(0.0))]),
        [true, false]
    );
    held.reset();
    assert_eq!(ask(&mut held, &[(500, Some(0.0))]), [false]);
}

#[test]
fn a_missing_signal_or_an_error_does_not_open_and_is_counted() {
    let mut missing = gate("motion.score >= 0", 0);
    let frames = [(0, None), (100, None), (200, Some(0.5)), (300, None)];
    assert_eq!(ask(&mut missing, &frames), [false, false, true, false]);
    assert_eq!((missing.missing(), missing.errors()), (3, 0));
    let mut error = gate("1 / int(motion.score) > 0", 0);
    let frames = [(0, Some(0.0)), (100, Some(1.0)), (200, Some(0.0))];
    assert_eq!(ask(&mut error, &frames), [false, true, false]);
    assert_eq!((error.missing(), error.errors()), (0, 2));
}

#[test]
fn a_gate_sees_every_new_answer_and_keeps_one() {
    let mut gate = gate("motion.score > 0.02", 0);
    let answer: Arc<Held> = Arc::new(held(&[("score", 0.5)]));
    for t in 0..5 {
        assert!(gate.open(t, &mut |_| Some(Arc::clone(&answer))));
    }
    // The gate holds the one it has seen, once.
    assert_eq!(Arc::strong_count(&answer), 2);
    let next = Arc::new(held(&[("score", 0.0)]));
    assert!(!gate.open(5, &mut |_| Some(Arc::clone(&next))));
    assert_eq!(Arc::strong_count(&answer), 1);
    assert!(gate.open(6, &mut |_| Some(Arc::clone(&answer))));
    assert!(!gate.open(7, &mut |_| None));
}

#[test]
fn any_of_the_extractors_it_reads_may_bring_the_news() {
    let mut gate = gate("motion.score > 0 && person.count > 0", 0);
    let with = |score: f64, count: f64| {
        [("count", count), ("score", score)].map(|signal| Arc::new(held(&[signal])))
    };
    let mut answers = with(0.5, 1.0);
    let mut ask = |answers: &[Arc<Held>; 2]| gate.open(0, &mut |i| Some(Arc::clone(&answers[i])));
    assert!(ask(&answers));
    answers[1] = Arc::clone(&with(0.0, 1.0)[1]);
    assert!(!ask(&answers), "motion");
    answers[1] = Arc::clone(&with(0.5, 1.0)[1]);
    assert!(ask(&answers));
    answers[0] = Arc::clone(&with(0.5, 0.0)[0]);
    assert!(!ask(&answers), "person");
}

#[test]
fn a_gate_names_what_it_reads_and_is_checked_like_a_rule() {
    assert_eq!(
        gate("motion.score > 0 && person.count > 0", 0).reads(),
        [1, 0]
    );
    assert_eq!(gate("true", 0).reads(), [0; 0]);
    let wrong = Gate::compile("motoin.score > 0", 0, &path()).err().unwrap();
    assert!(wrong.contains("did you mean `motion`?"), "{wrong}");
    let number = Gate::compile("motion.score", 0, &path()).err().unwrap();
    assert!(number.contains("not true or false"), "{number}");
}
