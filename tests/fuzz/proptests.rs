//! The bodies of the fuzz targets, on mutated seeds, in every test run; and every input that once
//! broke a promise (`fixtures/<target>/`).
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "src/lib.rs"]
#[allow(dead_code, reason = "some of it is for the fuzzer only")]
mod bodies;

use std::path::Path;
use std::sync::LazyLock;

use bodies::{config, jpegs, mjpeg, nut, protocol, rules, seeds, trace};
use proptest::prelude::*;
use proptest::sample::Index;

type Seeds = LazyLock<Vec<Vec<u8>>>;
type Check = fn(&[u8]) -> bool;

static CONFIG: Seeds = LazyLock::new(seeds::config);
static RULES: Seeds = LazyLock::new(seeds::rules);
static NUT: Seeds = LazyLock::new(seeds::nut);
static JPEGS: Seeds = LazyLock::new(seeds::jpegs);
static TRACE: Seeds = LazyLock::new(seeds::trace);
static FROM_CHILD: Seeds = LazyLock::new(|| seeds::protocol("child"));
static FROM_PARENT: Seeds = LazyLock::new(|| seeds::protocol("parent"));

/// Pieces that meet in configs.
const CONFIG_PIECES: &[&str] = &[
    "nan",
    "-inf",
    "99999999999999999999",
    "-1",
    "1e308",
    "\"${A:-x}${B}\"",
    "\"$${\"",
    "\"$$\"",
    "[[0,0],[1,1]]",
    "{a = {b = [1, {c = 2}]}}",
    "1979-05-27T07:32:00Z",
    "[extractor.person]",
    "[[source]]",
    "[source.cam1]\nuri = \"b\"\n",
    "depends = [\"person\", \"person\"]\n",
    "\"\"",
    "\"\\u0000é\"",
    "'''\n'''",
    "\"a.b\" = 1\n",
    "\n\0\n",
    "VISUALPATH__EXTRACTOR__PERSON__CONFIG__X=[1, {a = 2}]\n",
    "VISUALPATH____=1\n",
    " = ",
    "\n",
    "#",
];
const RULES_PIECES: &[&str] = &[
    "person",
    ".count",
    "\"count@door\"",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    " && ",
    " || ",
    "!",
    "-",
    " + ",
    " * ",
    " / ",
    " % ",
    " == ",
    " < ",
    " in ",
    " ? ",
    " : ",
    "1",
    "1.0",
    "2u",
    "1e308",
    "9223372036854775807",
    "-9223372036854775808",
    "has(",
    "size(",
    "int(",
    "double(",
    "string(",
    "uint(",
    ".all(x, ",
    ".exists_one(x, ",
    ".map(x, ",
    ".filter(x, ",
    "null",
    "b\"\\xff\"",
    "'",
    "\"",
    "\\",
    "//",
    "\n",
    "\0",
    "\u{1F600}",
    "within_ms",
    ":",
    ",",
    "type(",
    "timestamp(",
    "duration(",
    ".matches(",
];

const PROTOCOL_PIECES: &[&str] = &[
    "null",
    "1e999",
    "-0.0",
    "{",
    "}",
    "\"",
    "[[",
    "18446744073709551616",
    "\u{0}",
    "\u{7F}",
    "ÿ",
    ",",
    "\"id\":",
    "\"v\":2,",
    "\"type\":\"ping\",",
];

/// One change of a seed.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Piece(Index, usize, Index),
    Number(Index, u64),
    Cut(Index, usize),
    Repeat(Index, usize, usize),
    /// A part of another seed.
    Part(Index, Index, Index, usize),
    End(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(a, b)| Change::Byte(a, b)),
        3 => (at(), 0..8_usize, at()).prop_map(|(a, n, p)| Change::Piece(a, n, p)),
        1 => (at(), any::<u64>()).prop_map(|(a, n)| Change::Number(a, n)),
        1 => (at(), 0..40_usize).prop_map(|(a, n)| Change::Cut(a, n)),
        1 => (at(), 1..60_usize, 1..4_usize).prop_map(|(a, n, t)| Change::Repeat(a, n, t)),
        1 => (at(), at(), at(), 1..200_usize).prop_map(|(a, s, f, n)| Change::Part(a, s, f, n)),
        1 => at().prop_map(Change::End),
    ];
    proptest::collection::vec(change, 0..8)
}

fn changed(seeds: &[Vec<u8>], seed: Index, changes: Vec<Change>, pieces: &[&str]) -> Vec<u8> {
    let mut bytes = seed.get(seeds).clone();
    for change in changes {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match change {
            Change::Byte(at, byte) => {
                let at = place(&at);
                bytes.splice(at..(at + 1).min(bytes.len()), [byte]);
            }
            Change::Piece(at, over, piece) if !pieces.is_empty() => {
                let (at, piece) = (place(&at), piece.get(pieces));
                bytes.splice(at..(at + over).min(bytes.len()), piece.bytes());
            }
            Change::Piece(..) => {}
            Change::Number(at, number) => {
                let at = place(&at);
                bytes.splice(at..(at + 8).min(bytes.len()), number.to_be_bytes());
            }
            Change::Cut(at, len) => {
                let at = place(&at);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Change::Repeat(at, len, times) => {
                let at = place(&at);
                let part = bytes[at..(at + len).min(bytes.len())].repeat(times);
                bytes.splice(at..at, part);
            }
            Change::Part(at, other, from, len) => {
                let (at, other) = (place(&at), other.get(seeds));
                let from = from.index(other.len() + 1);
                let part = other[from..(from + len).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            Change::End(at) => bytes.truncate(place(&at)),
        }
    }
    bytes
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_damaged_config_is_told_and_a_good_one_shown(seed: Index, changes in changes()) {
        config::check(&changed(&CONFIG, seed, changes, CONFIG_PIECES));
    }

    #[test]
    fn a_damaged_rule_is_told_and_a_good_one_answers_in_bounds(seed: Index, changes in changes()) {
        rules::check(&changed(&RULES, seed, changes, RULES_PIECES));
    }

    #[test]
    fn a_damaged_nut_stream_gives_no_more_than_is_in_it(seed: Index, changes in changes()) {
        nut::check(&changed(&NUT, seed, changes, &[]));
    }

    #[test]
    fn damaged_jpegs_are_split_the_same_however_they_come(seed: Index, changes in changes()) {
        jpegs::check(&changed(&JPEGS, seed, changes, &["\u{0}"]));
    }

    #[test]
    fn a_damaged_trace_line_is_a_record_or_told(seed: Index, changes in changes()) {
        trace::check(&changed(&TRACE, seed, changes, &["null", "1e999", "-0.0", "{", "\"", "[[", "9223372036854775808"]));
    }

    #[test]
    fn a_damaged_message_of_a_worker_is_read_or_told(seed: Index, changes in changes()) {
        protocol::from_child(&changed(&FROM_CHILD, seed, changes, PROTOCOL_PIECES));
    }

    #[test]
    fn a_damaged_message_to_a_worker_is_read_or_told(seed: Index, changes in changes()) {
        protocol::from_parent(&changed(&FROM_PARENT, seed, changes, PROTOCOL_PIECES));
    }

    #[test]
    fn a_damaged_mjpeg_file_gives_frames_in_order_and_ends(seed: Index, changes in changes()) {
        mjpeg::check(&changed(&JPEGS, seed, changes, &[]));
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn random_bytes_hurt_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let all: [Check; 8] = [
            config::check,
            rules::check,
            nut::check,
            jpegs::check,
            mjpeg::check,
            trace::check,
            protocol::from_child,
            protocol::from_parent,
        ];
        for check in all {
            check(&bytes);
        }
    }

    #[test]
    fn a_changed_value_of_a_config_is_told_or_shown(
        line: Index,
        value in prop_oneof![proptest::sample::select(CONFIG_PIECES).prop_map(str::to_owned), "\\PC{0,20}"],
    ) {
        let mut lines: Vec<String> =
            visualpath::config::default_text().lines().map(str::to_owned).collect();
        let settings: Vec<usize> =
            (0..lines.len()).filter(|i| lines[*i].contains(" = ")).collect();
        let at = *line.get(&settings);
        let key = lines[at].trim_start_matches('#').split(" = ").next().unwrap().to_owned();
        lines[at] = format!("{key} = {value}");
        config::check(lines.join("\n").as_bytes());
    }

    #[test]
    fn odd_overrides_are_told_or_shown(
        vars in proptest::collection::btree_map(
            "VISUALPATH__(MQTT|CLIP|FUSION__VISITOR|EXTRACTOR__PERSON|SCHEMA|[A-Z0]{1,4})(__(CONFIG|RULE|0|9|FPS|URL|[A-Za-z_]{1,5})){0,4}",
            prop_oneof![proptest::sample::select(CONFIG_PIECES).prop_map(str::to_owned), "\\PC{0,20}"],
            0..4,
        ),
    ) {
        let env: String = vars.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let text = visualpath::config::default_text().as_bytes();
        config::check(&[text, config::ENVIRONMENT, env.as_bytes()].concat());
    }
}

#[test]
fn many_extractors_that_all_depend_on_each_other_end_soon() {
    let names: Vec<String> = (0..200).map(|i| format!("\"e{i}\"")).collect();
    let mut text = visualpath::config::default_text().to_owned();
    for i in 0..200 {
        text.push_str(&format!(
            "\n[extractor.e{i}]\nplugin = \"object\"\ndepends = [{}]\n",
            names.join(", ")
        ));
    }
    config::check(text.as_bytes());
    // A chain as long as allowed.
    let mut text = visualpath::config::default_text().to_owned();
    for i in 0..255 {
        text.push_str(&format!(
            "\n[extractor.e{i}]\nplugin = \"object\"\ndepends = [\"e{}\"]\n",
            (i + 1).min(254)
        ));
    }
    config::check(text.as_bytes());
}

/// Writes the seeds where cross/fuzz.sh wants them.
#[test]
#[ignore = "run by cross/fuzz.sh"]
fn seeds_for_the_fuzzer() {
    let dir = std::env::var_os("VISUALPATH_FUZZ_SEEDS").expect("VISUALPATH_FUZZ_SEEDS");
    for (target, seeds) in [
        ("config", seeds::config()),
        ("rules", seeds::rules()),
        ("nut", seeds::nut()),
        ("jpegs", seeds::jpegs()),
        ("mjpeg", seeds::jpegs()),
        ("trace", seeds::trace()),
        ("from_child", seeds::protocol("child")),
        ("from_parent", seeds::protocol("parent")),
    ] {
        let dir = Path::new(&dir).join(target);
        std::fs::create_dir_all(&dir).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number:03}")), seed).unwrap();
        }
    }
}

/// The seeds must reach what they are for, or mutating them says little.
#[test]
fn seeds_are_valid() {
    // Most seeds of the config are the wrong ones of its tests; sequences of rules are refused.
    let checks: [(&Seeds, Check, usize); 8] = [
        (&CONFIG, config::check, 2),
        (&RULES, rules::check, 18),
        (&NUT, nut::check, NUT.len()),
        (&JPEGS, jpegs::check, JPEGS.len()),
        (&JPEGS, mjpeg::check, JPEGS.len()),
        (&TRACE, trace::check, TRACE.len() - 1),
        (&FROM_CHILD, protocol::from_child, FROM_CHILD.len()),
        (&FROM_PARENT, protocol::from_parent, FROM_PARENT.len()),
    ];
    for (number, (seeds, check, least)) in checks.into_iter().enumerate() {
        let good = seeds.iter().filter(|seed| check(seed)).count();
        assert!(
            good >= least,
            "check {number}: {good} of {} are good",
            seeds.len()
        );
    }
    for stream in NUT.iter() {
        let mut right = stream.clone();
        nut::put_checksums_right(&mut right);
        assert!(right == *stream, "ffmpeg's own checksums are others");
    }
}

#[test]
fn what_broke_a_promise_once_does_not_again() {
    let checks: [(&str, Check); 8] = [
        ("from_child", protocol::from_child),
        ("from_parent", protocol::from_parent),
        ("trace", trace::check),
        ("config", config::check),
        ("rules", rules::check),
        ("nut", nut::check),
        ("jpegs", jpegs::check),
        ("mjpeg", mjpeg::check),
    ];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fixtures");
    for (target, check) in checks {
        let Ok(entries) = std::fs::read_dir(dir.join(target)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            check(&std::fs::read(path).unwrap());
        }
    }
}
