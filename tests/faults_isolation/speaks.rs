//! Workers that break the protocol.

use crate::bad::{Bad, Fate, run};

#[test]
fn a_worker_that_breaks_the_protocol_while_it_works_is_ended_or_ignored() {
    let raw = |name, mode, fate| Bad::raw(name, &[mode, "30"], fate);
    let broke = "broke the protocol";
    let closed = "closed its connection, or sent a message too long";
    let done = run(
        180,
        &[
            raw("twice", "twice", Fate::Lives),
            raw("unknown_id", "unknown_id", Fate::Lives),
            raw("wrong_type", "wrong_type", Fate::Back(broke)),
            raw("garbage", "garbage", Fate::Back(broke)),
            raw("huge", "huge", Fate::Back(closed)),
            raw(
                "parts",
                "too_many_parts",
                Fate::Back("somebody else spoke on its socket"),
            ),
            raw("closes", "close", Fate::Back(closed)),
            raw(
                "floods",
                "log_flood",
                Fate::Restarting("more messages than any worker"),
            ),
        ],
    );
    for name in ["twice", "unknown_id"] {
        let told = done
            .lines_of(name)
            .any(|l| l.contains("what was not asked, or twice"));
        assert!(told, "{name}:\n{}", done.log);
    }
    let told = done
        .lines_of("floods")
        .filter(|l| l.contains("flood "))
        .count();
    assert!(
        (50..2000).contains(&told),
        "100 000 messages, at a bounded rate: {told}"
    );
}
