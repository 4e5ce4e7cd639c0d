//! The language of conditions: what works, and that no text can hurt.

use proptest::prelude::*;
use serde_json::json;
use visualpath_core::{Fusion, FusionInput};

use super::super::MAX_EXPRESSION_BYTES;
use super::{aligned, compile, held, rule};

/// Whether the condition holds with two people, one at the door, and some motion.
fn holds(when: &str) -> bool {
    let person = held(&[("car_count", 0.0), ("count", 2.0), ("count@door", 1.0)]);
    let motion = held(&[("score", 0.05)]);
    let frame = aligned(0, 0, &[("person", Some(person)), ("motion", Some(motion))]);
    rule(when, &json!({}))
        .update(FusionInput::Aligned(&frame))
        .should_trigger()
}

#[test]
fn doubles_compare_with_whole_numbers_as_the_contract_writes_them() {
    for when in [
        "person.count >= 1",
        "person.count == 2",
        "person.count != 1",
        "2 == person.count",
        "person.count < 2.5",
        "person.count > 1u",
        "person.car_count > 0 || motion.score > 0.02",
        "person.car_count == 0 && motion.score > 0.02",
        r#"person["count@door"] >= 1"#,
        r#"person["count"] - person["count@door"] == 1"#,
        r#""count@door" in person"#,
        r#"!("count@gate" in person)"#,
        "has(person.count) && !has(person.max_confidence)",
        "person.count + 1.0 > 2 * 1",
        "int(person.count) % 2 == 0",
        "person.count in [1, 2, 3]",
        "(person.count > 5 ? motion.score : person.count) == 2",
        "[person.count, motion.score].exists(x, x > 1.0)",
        "person.count > 1 // two or more",
        "\n  person.count > 1 &&\n  motion.score > 0\n",
        "has(free.anything) || true",
        "true",
    ] {
        assert!(holds(when), "{when}");
    }
}

#[test]
fn a_missing_signal_makes_the_condition_false_also_under_not() {
    assert!(!holds("free.x > 0"));
    assert!(!holds("!(free.x > 0)"));
    assert!(!holds("free.x > 0 && person.count > 0"));
    assert!(!holds(r#"person["count@gate"] == 0"#));
    // Logic decided by the other side needs no second one (CEL: commutative && and ||).
    assert!(holds("free.x > 0 || person.count > 0"));
    assert!(holds("person.count > 0 || free.x > 0"));
}

#[test]
fn a_loop_variable_may_be_called_like_an_extractor() {
    assert!(holds("[3.0].all(person, person > 2.0) && person.count > 1"));
}

/// Compiles and, if that worked, runs on two frames.
fn survive(text: &str) {
    let rules =
        json!([{"label": "r", "when": text}, {"label": "s", "when": "true", "score": text}]);
    if let Ok(mut rules) = compile(&rules) {
        for frame in [aligned(0, 0, &[]), super::people(1, 1, Some(2.0))] {
            rules.update(FusionInput::Aligned(&frame));
        }
    }
}

#[test]
fn the_deepest_texts_fit_a_threads_stack() {
    let n = MAX_EXPRESSION_BYTES;
    let chain = |first: &str, link: &str| {
        let mut text = first.to_owned();
        while text.len() + link.len() <= n {
            text.push_str(link);
        }
        text
    };
    let texts = [
        chain("1", "+1"),
        chain("free.a", "+free.a"),
        chain("a", ".b"),
        chain("a", "[1]"),
        chain("a", "[a"),
        chain("1", "==1"),
        chain("a", ".f()"),
        chain("f(", "f("),
        chain("", "("),
        chain("", "["),
        chain("", "{"),
        chain("", "!"),
        chain("", "-"),
        chain("", "!-"),
        chain("true", "?1:1"),
        chain("true", "||true"),
        chain("[1]", ".map(x,x)"),
        chain("", "[1].map(x,"),
        chain("", "?"),
        chain("", "\""),
        chain("", "9"),
        chain("", "x in "),
        chain("", "\u{e9}"),
    ];
    // A thread's default stack; an overflow aborts the whole test binary.
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let run = thread
        .spawn(move || texts.iter().for_each(|t| survive(t)))
        .unwrap();
    run.join().unwrap();
}

/// Texts that look like rules: tokens of the language in any order.
fn soup() -> impl Strategy<Value = String> {
    let tokens = [
        "person",
        "motion",
        "free",
        ".count",
        ".score",
        "[\"count@door\"]",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        ",",
        "<",
        ">=",
        "==",
        "!=",
        " in ",
        "1",
        "0",
        "1.0",
        "2u",
        "'a'",
        "\"",
        "'",
        "true",
        "null",
        "has(",
        "int(",
        "size(",
        ".map(x,",
        ".exists(x,",
        "x",
        "0x",
        "1e",
        "b'",
        "r\"",
        "\\u12",
        "//",
        "\n",
        "@",
        "`",
        "9223372036854775807",
        "-9223372036854775808",
        "string(",
    ];
    prop::collection::vec(prop::sample::select(tokens.to_vec()), 0..24).prop_map(|v| v.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn no_bytes_make_a_rule_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_token_soup_makes_a_rule_panic(text in soup()) {
        survive(&text);
    }
}
