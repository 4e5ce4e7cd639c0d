//! The appliance ends, in every way there is: no worker outlives it, and nothing lies about.

use std::time::Duration;

use rustix::process::Signal;
use visualpath_tests::workers::{Done, Place, Run, of};

/// Three workers in processes, for ever.
const THREE: &str = r#"
[source.cam]
uri = "synthetic:?width=160&height=120&fps=30"
[extractor.one]
plugin = "scripted"
timeout_ms = 10000
[extractor.one.config]
bye = true
[extractor.two]
plugin = "scripted"
timeout_ms = 10000
trust = "untrusted"
[extractor.two.config]
bye = true
[extractor.three]
plugin = "motion"
isolation = "process"
timeout_ms = 10000
[path.yard]
source = "cam"
extractors = ["one", "two", "three"]
fusion = "f"
window_ms = 500
[fusion.f]
plugin = "rules"
[[fusion.f.config.rule]]
label = "never"
when = "three.score > 2.0"
clip = false
"#;

fn running(place: &Place) -> Run<'_> {
    place.config(THREE);
    let mut run = place.start();
    run.until("frames", |t| of(t, "frame").count() > 10);
    assert_eq!(run.children().len(), 3);
    run
}

/// Both scripted workers ended by themselves: what a killed one can't do.
fn ended_in_order(place: &Place, done: &Done) {
    for name in ["one", "two"] {
        let bye = place.path(&format!("state/work/cam.{name}/bye"));
        assert!(bye.exists(), "{name} cleaned up\n{}", done.log);
    }
    assert_eq!(done.code, 0, "{}", done.log);
    assert!(
        !done.log.contains("did not end when told to"),
        "{}",
        done.log
    );
    assert!(!done.log.contains("worker process died"), "{}", done.log);
    place.until_empty();
    assert_eq!(place.left_behind(done.pid), [""; 0]);
}

#[test]
fn sigterm_ends_in_order_and_workers_end_by_themselves() {
    let place = Place::new();
    let run = running(&place);
    run.signal(Signal::TERM);
    ended_in_order(&place, &run.finish());
}

#[test]
fn ctrl_c_for_the_whole_process_group_ends_in_order_too() {
    let place = Place::new();
    let run = running(&place);
    run.signal_group(Signal::INT);
    ended_in_order(&place, &run.finish());
}

#[test]
fn a_second_sigterm_ends_at_once_and_takes_the_workers_along() {
    let place = Place::new();
    // One that does not end by itself, so that the first is not done before the second comes.
    let text = THREE.replace(
        "[extractor.one.config]",
        "[extractor.one.config]\nacts = [{ at = 5, act = \"sleep\" }]",
    );
    place.config(&text.replace("timeout_ms = 10000", "timeout_ms = 600000"));
    let mut run = place.start();
    run.until("frames", |t| {
        t.iter()
            .filter(|r| r["record_type"] == "observation")
            .count()
            > 50
    });
    run.signal(Signal::TERM);
    while !place.log().contains("a second signal stops at once") {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.signal(Signal::TERM);
    let done = run.finish();
    assert_eq!(done.code, 128 + 15, "{}", done.log);
    place.until_empty();
    assert_eq!(place.left_behind(done.pid), [""; 0]);
}

#[test]
fn a_worker_that_does_not_end_when_told_to_is_killed_and_does_not_keep_the_others() {
    let place = Place::new();
    let text = THREE.replace(
        "[extractor.one.config]",
        "[extractor.one.config]\nacts = [{ at = 5, act = \"sigstop\" }]",
    );
    place.config(&text.replace("timeout_ms = 10000", "timeout_ms = 600000"));
    let mut run = place.start();
    run.until("frames", |t| {
        t.iter()
            .filter(|r| r["record_type"] == "observation")
            .count()
            > 50
    });
    run.signal(Signal::TERM);
    let done = run.finish();
    assert_eq!(done.code, 0, "{}", done.log);
    assert!(
        place.path("state/work/cam.two/bye").exists(),
        "{}",
        done.log
    );
    place.until_empty();
    assert_eq!(place.left_behind(done.pid), [""; 0]);
}

#[test]
fn killed_at_any_moment_the_appliance_takes_its_workers_along_and_the_next_start_tidies_up() {
    let soak = std::env::var_os("VISUALPATH_SOAK").is_some();
    let place = Place::new();
    // One of them sleeps: it does not see that the appliance is gone.
    let asleep = "[extractor.one.config]\nacts = [{ at = 2, act = \"sleep\" }]";
    place.config(&THREE.replace("[extractor.one.config]", asleep));
    let mut seed = 0x51ed_2701_9a3c_44b7_u64;
    let (mut pids, mut with_children, mut slowest) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..100 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut run = place.start();
        pids.push(run.pid());
        // While children start, and while they work: starting all of it takes some 150 ms.
        std::thread::sleep(Duration::from_micros(seed % 350_000));
        with_children += usize::from(!run.children().is_empty());
        run.child.kill().unwrap();
        run.child.wait().unwrap();
        let took = place.until_empty();
        slowest = slowest.max(took);
        let limit = if soak { 1 } else { 5 };
        assert!(
            took <= Duration::from_secs(limit),
            "round {round}: the last one was gone after {took:?}"
        );
    }
    assert!(
        with_children > 50,
        "it had workers when it was killed, mostly: {with_children}"
    );
    eprintln!("100 kills, {with_children} with workers; all gone after {slowest:?} at most");
    // What a kill between bind and hello left is gone with the next start.
    let run = running(&place);
    run.signal(Signal::TERM);
    let done = run.finish();
    assert_eq!(done.code, 0, "{}", done.log);
    for pid in pids {
        assert_eq!(place.left_behind(pid), [""; 0]);
    }
}
