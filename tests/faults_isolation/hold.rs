//! Workers that never come up, or die too often.

use crate::bad::{Bad, Fate, run};

#[test]
fn a_worker_that_never_comes_up_is_tried_again_until_it_is_on_hold() {
    let raw = |name, mode| Bad::raw(name, &[mode], Fate::Lives);
    let slow = "start_timeout_s = 1";
    let always = |name, act: &str, from, fate| {
        let mut bad = Bad::at(name, 1_000_000, "error", 0, fate);
        bad.toml += &format!("always = {{ from = {from}, act = \"{act}\", arg = 69 }}\n");
        bad
    };
    let fated = |mut bad: Bad, fate| {
        bad.fate = fate;
        bad
    };
    let done = run(
        360,
        &[
            fated(
                raw("not_at_all", "exit_before_hello"),
                Fate::Hold("exit code 4"),
            ),
            fated(raw("in_hello", "exit_in_hello"), Fate::Hold("exit code 5")),
            fated(
                raw("silent", "no_hello").with(slow),
                Fate::Restarting("said no hello within start_timeout_s = 1"),
            ),
            fated(
                raw("unready", "never_ready").with(slow),
                Fate::Restarting("was not ready within start_timeout_s = 1"),
            ),
            fated(
                raw("wrong_token", "wrong_token"),
                Fate::Restarting("another token"),
            ),
            fated(
                raw("stranger", "stranger"),
                Fate::Restarting("somebody else spoke"),
            ),
            fated(
                raw("too_new", "unknown_protocol"),
                Fate::Hold("speaks protocols [99]"),
            ),
            fated(
                raw("garbled", "garbage_hello"),
                Fate::Restarting("broke the protocol"),
            ),
            always("dies", "sigkill", 30, Fate::Hold("SIGKILL")),
            // Exit code 69: no use starting it again.
            always("gives_up", "exit", 30, Fate::Hold("exit code 69")),
            always(
                "panics",
                "panic",
                30,
                Fate::Hold("5 panics in 60 s, the last: told to panic"),
            ),
        ],
    );
    let deaths = |name: &str| {
        let states = done.states(name);
        states.iter().filter(|(s, _, _)| s == "restarting").count()
    };
    assert_eq!(
        deaths("dies"),
        4,
        "the fifth is the last: {:?}",
        done.states("dies")
    );
    assert_eq!(deaths("gives_up"), 0, "{:?}", done.states("gives_up"));
    assert_eq!(deaths("panics"), 0, "{:?}", done.states("panics"));
}
