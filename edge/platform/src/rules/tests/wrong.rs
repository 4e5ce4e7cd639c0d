//! Wrong rules, each with the message it must give.

use serde_json::{Value, json};

use super::super::{MAX_EXPRESSION_BYTES, MAX_RULES};
use super::compile;

/// Every error of these rules, as shown to the user.
fn errors(rules: &Value) -> Vec<String> {
    match compile(rules) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// `when`, and what is said about it.
const CONDITIONS: &[(&str, &str)] = &[
    (
        "persn.count >= 1",
        "column 1: `persn` is not an extractor of this path; there are `person`, `motion`, \
         `free`; did you mean `person`?",
    ),
    (
        "xyzzy.count >= 1",
        "column 1: `xyzzy` is not an extractor of this path; there are `person`, `motion`, `free`",
    ),
    (
        "person.cuont >= 1",
        "column 1: `person` has no signal `cuont`; there are `count`, `max_confidence`, \
         `car_count`; did you mean `count`?",
    ),
    (
        r#"person["cuont@door"] >= 1"#,
        "column 1: `person` has no signal `cuont@door`; there are `count`, `max_confidence`, \
         `car_count`; did you mean `count@door`?",
    ),
    (
        r#"person["count@dor"] >= 1"#,
        "column 1: `dor` in `person[\"count@dor\"]` is not a zone of its source; there are \
         `door`, `gate`; did you mean `door`?",
    ),
    (
        r#"person["max_confidence@door"] >= 1"#,
        "column 1: `max_confidence` of `person` is not counted per zone; per zone there are \
         `count@door`, `car_count@door`",
    ),
    (
        r#""cuont" in person"#,
        "column 12: `person` has no signal `cuont`; there are `count`, `max_confidence`, \
         `car_count`; did you mean `count`?",
    ),
    (
        "has(person.cuont)",
        "column 5: `person` has no signal `cuont`; there are `count`, `max_confidence`, \
         `car_count`; did you mean `count`?",
    ),
    (
        "person > 1",
        "column 1: `person` is an extractor, not a number: name one of its signals, e.g. \
         `person.count`",
    ),
    (
        "person[1] > 1",
        r#"column 8: a signal's name is a text: person["count"]"#,
    ),
    (
        "person.count",
        "gives a double, not true or false: compare it, e.g. with `> 0`",
    ),
    (
        "person.count + 1 > 2",
        "column 14: `+` does not mix double and int (signals are doubles): write `1.0`",
    ),
    (
        "2u * person.count > 2",
        "column 4: `*` does not mix uint and double (signals are doubles): write `2.0`",
    ),
    (
        "person.count + int(motion.score) > 2",
        "column 14: `+` does not mix double and int (signals are doubles): convert one side, e.g. \
         double(…)",
    ),
    (
        "person.count % 2 == 0",
        "column 14: `%` takes whole numbers, not double and int: write int(…) % 2",
    ),
    (
        "person.count % 2.0 == 0",
        "column 14: `%` takes whole numbers, not double and double: write int(…) % 2",
    ),
    (
        "person.count >= 1 || person.count + 1 > 2",
        "column 35: `+` does not mix double and int (signals are doubles): write `1.0`",
    ),
    (
        "person.count && true",
        "column 7: `&&` needs true or false, got a double: compare it, e.g. with `> 0`",
    ),
    (
        "false && person.count",
        "column 16: `&&` needs true or false, got a double: compare it, e.g. with `> 0`",
    ),
    (
        "!person.count",
        "column 1: `!` needs true or false, got a double: compare it, e.g. with `> 0`",
    ),
    (
        "1 <= person.count <= 3",
        "column 19: `<=` can't compare a bool with an int; join two comparisons with &&",
    ),
    (
        r#"person.count > "1""#,
        "column 14: `>` can't compare a double with a string",
    ),
    (
        r#"person.count == "1""#,
        "column 14: a double and a string are never equal",
    ),
    (
        "person.count == true",
        "column 14: a double and a bool are never equal",
    ),
    (
        "person.count.x > 1",
        "column 13: a double has nothing inside: a signal is a number",
    ),
    (
        "person.count[0] > 1",
        "column 13: a double has nothing inside: a signal is a number",
    ),
    (
        "now() > 1",
        "column 4: unknown function `now`; there are bool, contains, double, endsWith, int, size, \
         startsWith, string, uint, has, all, exists, exists_one, map, filter",
    ),
    (
        r#"person.count.matches("a")"#,
        "column 21: unknown function `matches`; there are bool, contains, double, endsWith, int, \
         size, startsWith, string, uint, has, all, exists, exists_one, map, filter",
    ),
    (
        "'a'.startWith('a')",
        "column 14: unknown function `startWith`; there are bool, contains, double, endsWith, \
         int, size, startsWith, string, uint, has, all, exists, exists_one, map, filter; did you \
         mean `startsWith`?",
    ),
    (
        "person.count = 1",
        "column 14: not a CEL expression: unexpected '= '; equality is ==, at least is >=",
    ),
    (
        "person.count >= 1 and motion.score > 0",
        "column 19: not a CEL expression: unexpected 'and'; CEL writes && for and",
    ),
    (
        "person.count >= 1 & motion.score > 0",
        "column 19: not a CEL expression: unexpected '& '; CEL writes && for and",
    ),
    (
        "not person.count >= 1",
        "column 5: not a CEL expression: unexpected 'person'; CEL writes ! for not",
    ),
    (
        "person.count >=",
        "column 16: not a CEL expression: it ends too early",
    ),
    ("", "column 1: not a CEL expression: it ends too early"),
    (
        "person.count >= 1)",
        "column 18: not a CEL expression: unexpected ')'",
    ),
    (
        "person.count@door >= 1",
        "column 13: not a CEL expression: unexpected '@'; a zone signal is written \
         person[\"count@door\"]",
    ),
    (
        "person.?count > 1",
        "column 7: not a CEL expression: unsupported syntax '.?'",
    ),
    (
        "1 / int(person.count - 1.0) > 1",
        "fails when every signal is 1.0: Division by zero of Int(1); guard it, e.g. `n != 0.0 && \
         …`",
    ),
    (
        "{'a': 1}.a > 0",
        "column 1: map literals are not part of the rule language",
    ),
    (
        "person.count > 0 ? 1 : 2",
        "gives an int, not true or false: compare it, e.g. with `> 0`",
    ),
    (
        "person.count > 0 ? true : 2",
        "gives an int, not true or false: compare it, e.g. with `> 0`",
    ),
    (
        "[1].exists(x, [2].exists(y, y > x))",
        "column 25: all, exists, exists_one, map and filter can't be nested or chained in a rule",
    ),
    (
        "person.exists(k, k == 'count')",
        "column 1: `person` is an extractor, not a number: name one of its signals, e.g. \
         `person.count`",
    ),
    (
        "[1.0].exists(x, x + 1 > 1)",
        "column 13: `+` does not mix double and int (signals are doubles): convert one side, e.g. \
         double(…)",
    ),
    (
        "1 < 99999999999999999999",
        "column 5: not a CEL expression: invalid int literal",
    ),
    (
        "double",
        "column 1: `double` is not an extractor of this path; there are `person`, `motion`, `free`",
    ),
    (
        "size(person) > 0",
        "column 6: `person` is an extractor, not a number: name one of its signals, e.g. \
         `person.count`",
    ),
    ("size(1) > 0", "column 5: `size` can't take (int)"),
    ("-(person.count > 0)", "column 1: `-` can't negate a bool"),
    (
        "'a' + 1 == 'b'",
        "column 5: `+` can't take a string and an int",
    ),
    (
        "\n person.count > 0 &&\n  person.cuont > 0",
        "line 3, column 3: `person` has no signal `cuont`; there are `count`, `max_confidence`, \
         `car_count`; did you mean `count`?",
    ),
    (
        "Foo{a: 1}",
        "column 4: `Foo{…}`: messages are not part of the rule language",
    ),
    (
        "1 in person.count",
        "column 3: `in` needs a list or an extractor, not a double",
    ),
];

#[test]
fn a_wrong_condition_is_told_what_is_wrong_where() {
    for (when, message) in CONDITIONS {
        let said = errors(&json!([{"label": "r", "when": when}]));
        assert_eq!(said, [format!("rule[0].when: {message}")], "{when}");
    }
}

#[test]
fn a_number_out_of_bounds_is_told_with_its_bounds() {
    let said = errors(&json!([
        {"label": "a", "when": "true", "pre_s": 601.0, "max_s": 0.5, "for_ms": 86_400_001},
        {"label": "b", "when": "true", "then": "true", "active": "Mon"},
    ]));
    assert_eq!(
        said,
        [
            "rule[0].pre_s: expected seconds, 0 to 600, got 601",
            "rule[0].max_s: expected seconds, 1 to 3600, got 0.5",
            "rule[0].for_ms: expected milliseconds, 0 to 86400000, got 86400001",
            "rule[1].then: needs `within_ms`: how long after `when` it may come",
            "rule[1].active: `Mon` has no times: expected days and times as in \"Mon-Fri \
             18:00-08:00\", several separated by `;`",
        ]
    );
    let many = vec![json!({"label": "a", "when": "true"}); MAX_RULES + 1];
    let first = errors(&json!(many)).into_iter().next();
    let expected = "rule: 65 rules, at most 64 in one fusion: spread them over several paths";
    assert_eq!(first.as_deref(), Some(expected));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let said = errors(&json!([
        {"label": "a", "when": "true"},
        {"label": "a", "when": "1"},
    ]));
    assert_eq!(
        said[0],
        "rule[1].label: `a` is the label of rule[0] already; each rule needs its own (it \
         names the topic state/<label>)"
    );
    assert!(said[1].starts_with("rule[1].when: "), "{said:?}");
    let said = errors(&json!([
        {"label": "a", "when": "xyzzy.a", "score": "xyzzy.b"},
        {"label": "b", "when": "1"},
    ]));
    let starts: Vec<&str> = said.iter().filter_map(|s| s.split(' ').next()).collect();
    assert_eq!(starts, ["rule[0].when:", "rule[0].score:", "rule[1].when:"]);
}

#[test]
fn an_expression_is_bounded_in_length_and_depth() {
    let said = |when: String| errors(&json!([{"label": "r", "when": when}]));
    let long = format!("true{}", " ".repeat(MAX_EXPRESSION_BYTES));
    assert_eq!(
        said(long),
        ["rule[0].when: the expression has 1004 bytes, at most 1000: split it into several rules"]
    );
    let brackets = format!("{}true{}", "(".repeat(17), ")".repeat(17));
    assert_eq!(
        said(brackets),
        ["rule[0].when: brackets nest more than 16 deep"]
    );
    let chain = format!("1{} > 0", "+1".repeat(64));
    assert_eq!(
        said(chain),
        ["rule[0].when: operators nest or chain more than 64 deep: split it into several rules"]
    );
    assert_eq!(
        said(format!("true{}", " || true".repeat(100))),
        [""; 0],
        "balanced by the parser"
    );
}
