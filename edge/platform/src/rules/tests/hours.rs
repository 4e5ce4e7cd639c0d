//! `active`: what can be written, and which moments it means.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use visualpath_core::{Fusion, FusionInput, NS_PER_MS, Phase};

use super::super::hours::{Hours, LocalClock};
use super::super::{Rules, RulesConfig};
use super::{ms, path, people};

fn unix_ns(time: &str) -> i64 {
    let time: Timestamp = time.parse().unwrap();
    i64::try_from(time.as_nanosecond()).unwrap()
}

/// Whether `hours` contain a moment on the wall of Berlin.
fn contain(hours: &str, time: &str) -> bool {
    let mut clock = LocalClock::new(TimeZone::get("Europe/Berlin").unwrap());
    Hours::parse(hours)
        .unwrap()
        .contain(clock.minute(unix_ns(time)))
}

#[test]
fn a_window_begins_on_its_days_and_may_end_on_the_next() {
    // 2026-11-23 is a Monday.
    let night = "Mon-Fri 18:00-08:00";
    for (time, inside) in [
        ("2026-11-23T17:59:59.999+01:00", false),
        ("2026-11-23T18:00:00+01:00", true),
        ("2026-11-23T23:59:59+01:00", true),
        ("2026-11-24T00:00:00+01:00", true),
        ("2026-11-24T07:59:59+01:00", true),
        ("2026-11-24T08:00:00+01:00", false),
        ("2026-11-23T07:00:00+01:00", false), // began on a Sunday
        ("2026-11-28T07:00:00+01:00", true),  // began on a Friday
        ("2026-11-28T19:00:00+01:00", false), // Saturday
        ("2026-11-23T17:00:00Z", true),       // 18:00 in Berlin
    ] {
        assert_eq!(contain(night, time), inside, "{time}");
    }
}

#[test]
fn days_are_lists_of_days_and_ranges_that_may_wrap() {
    let days = |hours: &str| -> String {
        ('0'..='6')
            .zip(23..)
            .filter(|(_, day)| contain(hours, &format!("2026-11-{day}T12:00:00+01:00")))
            .map(|(c, _)| c)
            .collect()
    };
    assert_eq!(days("Sat-Mon 00:00-24:00"), "056");
    assert_eq!(days("Mon,wed , FRI-sat 10:00-14:00"), "0245");
    assert_eq!(days("12:00-12:01"), "0123456");
    assert_eq!(days("Tue-Tue 8:00 - 16:30"), "1");
    assert_eq!(
        days("Mon 10:00-11:00; Tue 11:00-13:00;Sun 23:00-12:01"),
        "01"
    );
    assert_eq!(days("Sun-Sat 00:00-24:00"), "0123456");
    assert_eq!(days("Thu12:00-13:00"), "3");
    assert_eq!(days("18:00-00:00"), "");
}

#[test]
fn the_wall_is_followed_through_both_clock_changes() {
    // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
    let hour = "Sun 02:30-03:30";
    assert!(!contain(hour, "2026-03-29T01:59:00+01:00"));
    assert!(
        contain(hour, "2026-03-29T03:00:00+02:00"),
        "the first minute after"
    );
    assert!(!contain(hour, "2026-03-29T03:30:00+02:00"));
    assert!(contain(hour, "2026-10-25T02:30:00+02:00"));
    assert!(
        !contain(hour, "2026-10-25T02:29:00+01:00"),
        "02:29 for the second time"
    );
    assert!(
        contain(hour, "2026-10-25T02:30:00+01:00"),
        "02:30 for the second time"
    );
    assert!(!contain(hour, "2026-10-25T03:30:00+01:00"));
    // Eight in the morning is eight in the morning.
    let night = "Sat 18:00-08:00";
    for day in ["2026-03-29", "2026-10-25"] {
        let offset = if day.contains("-03-") {
            "+02:00"
        } else {
            "+01:00"
        };
        assert!(contain(night, &format!("{day}T07:59:00{offset}")));
        assert!(!contain(night, &format!("{day}T08:00:00{offset}")));
    }
}

#[test]
fn the_clock_tells_the_same_with_and_without_its_memory() {
    let zone = || TimeZone::get("America/New_York").unwrap();
    let mut kept = LocalClock::new(zone());
    let mut t = unix_ns("2026-10-31T00:00:00Z");
    for step in [
        0,
        1,
        59_999_999_999,
        1,
        30_000_000_000,
        7 * 3_600_000_000_000,
    ]
    .repeat(20)
    {
        t += step;
        assert_eq!(kept.minute(t), LocalClock::new(zone()).minute(t));
        let back = t - 61_000_000_000;
        assert_eq!(kept.minute(back), LocalClock::new(zone()).minute(back));
    }
    for absurd in [i64::MIN, i64::MAX, -1] {
        kept.minute(absurd);
    }
}

#[test]
fn what_is_wrong_with_hours_is_told_with_what_was_expected() {
    let form = "expected days and times as in \"Mon-Fri 18:00-08:00\", several separated by `;`";
    let day = "expected one of Mon, Tue, Wed, Thu, Fri, Sat, Sun, or a range such as Mon-Fri";
    let time = "expected HH:MM, 00:00 to 24:00";
    for (hours, message) in [
        ("", format!("a window is empty: {form}")),
        ("Mon 8:00-9:00;", format!("a window is empty: {form}")),
        ("weekdays", format!("`weekdays` has no times: {form}")),
        ("Mon 18:00", format!("`Mon 18:00` has no end: {form}")),
        (
            "Monday 18:00-20:00",
            format!("`Monday` is not a day: {day}"),
        ),
        ("Mon- 18:00-20:00", format!("`` is not a day: {day}")),
        (
            "Mon-Fri-Sun 18:00-20:00",
            format!("`Fri-Sun` is not a day: {day}"),
        ),
        ("Mo,Di 18:00-20:00", format!("`Mo` is not a day: {day}")),
        ("18:00-25:00", format!("`25:00` is not a time: {time}")),
        ("18:00-24:01", format!("`24:01` is not a time: {time}")),
        ("18:60-20:00", format!("`18:60` is not a time: {time}")),
        ("18-20", format!("`18` is not a time: {time}")),
        ("6pm-8pm", format!("`6pm` is not a time: {time}")),
        (
            "18:00-20:00 Mon",
            format!("`20:00 Mon` is not a time: {time}"),
        ),
        ("18:0-20:00", format!("`18:0` is not a time: {time}")),
        (
            "24:00-08:00",
            "24:00 can only end a window: write 00:00 of the next day".to_owned(),
        ),
        (
            "Mon 8:00-08:00",
            "`8:00-08:00` ends when it begins; the whole day is 00:00-24:00".to_owned(),
        ),
        (&"8:00-9:00;".repeat(40), "more than 32 windows".to_owned()),
    ] {
        assert_eq!(Hours::parse(hours), Err(message), "{hours}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[A-Za-z0-9:;, é-]{0,40}|\\PC{0,20}") {
        drop(Hours::parse(&text));
    }
}

const SEEN: &str = "person.count >= 1";

/// One rule with these keys, on Berlin's wall.
fn rules(more: &serde_json::Value) -> Rules {
    let mut table = json!({
        "label": "r", "when": SEEN, "release_ms": 200, "cooldown_ms": 0,
        "active": "Mon 18:00-18:01", "kind": "range",
    });
    for (key, value) in more.as_object().unwrap() {
        table[key] = value.clone();
    }
    let config: RulesConfig = serde_json::from_value(json!({"rule": [table]})).unwrap();
    Rules::compile(config, &path(), TimeZone::get("Europe/Berlin").unwrap()).unwrap()
}

/// Feeds one frame every 100 ms; the wall says 18:00:00 at `begin_ms`. `#` = a person, `.` = none.
fn feed(rules: &mut Rules, pattern: &str, begin_ms: i64) -> Vec<(bool, i64, i64)> {
    let begin = unix_ns("2026-11-23T18:00:00+01:00");
    let mut said = Vec::new();
    for (i, c) in pattern.chars().enumerate() {
        let t_ms = i as i64 * 100;
        let mut frame = people(i as u64, t_ms, Some(f64::from(u8::from(c == '#'))));
        frame.unix_ns = begin + (t_ms - begin_ms) * NS_PER_MS;
        let result = rules.update(FusionInput::Aligned(&frame));
        said.extend(result.triggers.iter().map(|t| {
            let ends = matches!(t.phase, Phase::End { .. });
            let at = if ends {
                t.event_end_ns
            } else {
                t.event_start_ns
            };
            (ends, ms(at), t_ms)
        }));
    }
    said
}

#[test]
fn outside_its_hours_nothing_holds() {
    let mut range = rules(&json!({}));
    // (end, event's start or end, told at)
    assert_eq!(feed(&mut range, "#######", 400), [(false, 400, 400)]);
    assert_eq!(
        range.counters().snapshot()[0].evaluated,
        3,
        "not even asked"
    );
    // At 60 s the hour is over; the open range is released.
    let mut range = rules(&json!({}));
    assert_eq!(
        feed(&mut range, &"#".repeat(10), -59_600),
        [(false, 0, 0), (true, 300, 600)]
    );
    let mut held = rules(&json!({"for_ms": 300, "kind": "point"}));
    assert_eq!(feed(&mut held, "########", 400), [(false, 400, 700)]);
}

#[test]
fn outside_its_hours_nothing_fires() {
    let absence = json!({"unless": "motion.score > 0.5", "within_ms": 300, "kind": "point"});
    assert_eq!(
        feed(&mut rules(&absence), "#....", -1000),
        [(false, 0, 300)]
    );
    let mut late = rules(&absence);
    assert_eq!(
        feed(&mut late, "#......", -59_800),
        [],
        "left its hours while waiting"
    );
    let sequence = json!({"then": "person.count == 0", "within_ms": 500, "kind": "point"});
    assert_eq!(
        feed(&mut rules(&sequence), "##.", -59_600),
        [(false, 0, 200)]
    );
    assert_eq!(feed(&mut rules(&sequence), "##.", -59_800), []);
}
