use crossbeam_channel::{Receiver, bounded};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const CMD: &str = "visualpath/dock-3/cmd";

fn inbox(queue: usize) -> (Inbox, Receiver<Command>) {
    let (to, from) = bounded(queue);
    let options = CommandOptions {
        known: ["clip", "clip_list", "delete"].map(str::to_owned).to_vec(),
        allowed: ["clip", "clip_list"].map(str::to_owned).to_vec(),
        to,
    };
    let topics = Topics::new("visualpath", "dock-3").unwrap();
    (Inbox::new(options, &topics), from)
}

/// The code and the text of the answer.
fn refused(answer: Option<Vec<u8>>) -> (Value, String, String) {
    let response: CommandResponse = serde_json::from_slice(&answer.expect("an answer")).unwrap();
    assert!(!response.ok && response.result.is_none());
    let error = response.error.unwrap();
    (
        serde_json::to_value(response.id).unwrap(),
        error.code,
        error.message,
    )
}

#[test]
fn both_forms_of_a_command_are_handed_on() {
    let (mut inbox, commands) = inbox(8);
    let whole = br#"{"id": "a", "verb": "clip", "args": {"last_s": 5}}"#;
    assert_eq!(inbox.take(CMD, whole, false), None);
    let short = br#"{"id": 7, "last_s": 5}"#;
    assert_eq!(inbox.take(&format!("{CMD}/clip"), short, false), None);
    assert_eq!(inbox.take(&format!("{CMD}/clip"), b"", false), None);
    let got: Vec<Command> = commands.try_iter().collect();
    assert_eq!(got[0].id, CommandId::Text("a".into()));
    assert_eq!(got[1].id, CommandId::Number(7));
    for command in &got[..2] {
        assert_eq!(command.verb, "clip");
        assert_eq!(Value::Object(command.args.clone()), json!({"last_s": 5}));
    }
    assert!(got[2].args.is_empty());
    assert_ne!(got[2].id, CommandId::new(), "its own id");
}

#[test]
fn what_is_malformed_is_answered_with_where_it_is_wrong() {
    let (mut inbox, commands) = inbox(8);
    for (payload, id, says) in [
        (
            &br#"{"id": "a", "verb": "#[..],
            Value::Null,
            "line 1 column 20",
        ),
        (b"[1]", Value::Null, "expected a JSON object, got a list"),
        (b"", Value::Null, "line 1 column 0"),
        (b"\xff\xfe", Value::Null, "not JSON"),
        (br#"{"id": "a"}"#, json!("a"), "verb: missing"),
        (
            br#"{"id": "a", "verb": 3}"#,
            json!("a"),
            "verb: expected a text, got a number",
        ),
        (
            br#"{"id": [], "verb": "clip"}"#,
            Value::Null,
            "id: expected a text of 1 to 128 bytes",
        ),
        (
            br#"{"id": "a", "verb": "clip", "args": 3}"#,
            json!("a"),
            "args: expected an object",
        ),
        (
            br#"{"id": "a", "verb": "clip", "last_s": 3}"#,
            json!("a"),
            "`last_s`: unknown key",
        ),
    ] {
        let (given, code, message) = refused(inbox.take(CMD, payload, false));
        assert_eq!((given, code.as_str()), (id, "malformed"), "{message}");
        assert!(message.contains(says), "{says}: {message}");
    }
    let large = vec![b' '; MAX_COMMAND + 1];
    assert_eq!(refused(inbox.take(CMD, &large, false)).1, "too_large");
    assert!(commands.is_empty());
}

#[test]
fn a_verb_that_is_unknown_or_not_allowed_is_told_what_to_change() {
    let (mut inbox, commands) = inbox(8);
    let (_, code, message) = refused(inbox.take(CMD, br#"{"verb": "clop"}"#, false));
    assert_eq!(code, "unknown_verb");
    assert!(message.contains("did you mean `clip`?"), "{message}");
    let (_, code, message) = refused(inbox.take(CMD, br#"{"verb": "delete"}"#, false));
    assert_eq!(code, "not_allowed");
    assert!(
        message.contains(r#"add "delete" to mqtt.commands"#),
        "{message}"
    );
    assert!(commands.is_empty());
}

#[test]
fn a_flood_is_answered_and_not_kept() {
    let (mut inbox, commands) = inbox(2);
    let command = |n: u32| format!(r#"{{"id": {n}, "verb": "clip"}}"#).into_bytes();
    for n in 0..2 {
        assert_eq!(inbox.take(CMD, &command(n), false), None);
    }
    for n in 2..1000 {
        assert_eq!(refused(inbox.take(CMD, &command(n), false)).1, "busy");
    }
    assert_eq!(commands.try_iter().count(), 2);
    // What was refused can be asked again under the same id.
    assert_eq!(inbox.take(CMD, &command(500), false), None);
    assert_eq!(commands.len(), 1);
    drop(commands);
    assert_eq!(refused(inbox.take(CMD, &command(9), false)).1, "stopping");
}

#[test]
fn the_same_id_again_is_executed_once_and_gets_the_same_answer() {
    let (mut inbox, commands) = inbox(8);
    let command = br#"{"id": "a", "verb": "clip"}"#;
    assert_eq!(inbox.take(CMD, command, false), None);
    assert_eq!(
        inbox.take(CMD, command, false),
        None,
        "the answer is to come"
    );
    assert_eq!(commands.len(), 1);
    let id = CommandId::Text("a".into());
    let bytes = CommandResponse::new(Some(id.clone()), Ok(json!({"n": 1}))).to_bytes();
    inbox.answered(&id, &bytes);
    assert_eq!(inbox.take(CMD, command, false), Some(bytes));
    assert_eq!(commands.len(), 1);
    // Only so many are remembered.
    for n in 0..RECENT {
        let other = format!(r#"{{"id": {n}, "verb": "clip"}}"#);
        inbox.take(CMD, other.as_bytes(), false);
        drop(commands.try_recv());
        inbox.answered(&CommandId::Number(n as i64), &vec![0; 4096]);
    }
    assert!(inbox.recent.ids.len() <= RECENT && inbox.recent.bytes <= RECENT_BYTES);
    while commands.try_recv().is_ok() {}
    assert_eq!(inbox.take(CMD, command, false), None);
    assert_eq!(commands.len(), 1, "forgotten");
}

#[test]
fn retained_commands_and_ones_own_answers_are_ignored() {
    let (mut inbox, commands) = inbox(8);
    let command = br#"{"id": "a", "verb": "clip"}"#;
    assert_eq!(inbox.take(CMD, command, true), None);
    assert_eq!(inbox.take(&format!("{CMD}/response"), command, false), None);
    assert!(commands.is_empty());
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_the_oldest_go() {
    let mut answers = Answers::default();
    for n in 0..1000_u32 {
        answers.push(n.to_be_bytes().to_vec());
    }
    answers.push_again(vec![9]);
    assert_eq!(answers.waiting.len(), WAITING);
    for _ in 0..10 {
        answers.push(vec![0; WAITING_BYTES / 2]);
    }
    assert!(answers.bytes <= WAITING_BYTES, "{}", answers.bytes);
    while answers.pop().is_some() {}
    assert_eq!(answers.bytes, 0);
}

#[test]
fn a_command_that_is_under_way_is_not_executed_again_however_many_come_after_it() {
    let (mut inbox, commands) = inbox(RECENT * 3);
    let text = |n: usize| format!(r#"{{"id": {n}, "verb": "clip"}}"#).into_bytes();
    assert_eq!(inbox.take(CMD, &text(0), false), None);
    for n in 1..RECENT * 2 {
        assert_eq!(inbox.take(CMD, &text(n), false), None);
        let id = CommandId::Number(i64::try_from(n).unwrap());
        inbox.answered(&id, &vec![b'x'; RECENT_BYTES / 4]);
    }
    assert!(inbox.recent.bytes <= RECENT_BYTES, "answers are bounded");
    let handed_on = commands.len();
    assert_eq!(inbox.take(CMD, &text(0), false), None, "no answer yet");
    assert_eq!(commands.len(), handed_on, "and not handed on again");
}

#[test]
fn an_answer_too_large_for_a_broker_says_so() {
    let id = Some(CommandId::Number(1));
    let long = Value::String("x".repeat(MAX_MESSAGE));
    let bytes = CommandResponse::new(id, Ok(long)).to_bytes();
    assert_eq!(refused(Some(bytes)).1, "too_large");
}

proptest! {
    #[test]
    fn no_message_is_handed_on_without_a_known_verb(
        topic in prop_oneof![Just(CMD.to_owned()), Just(format!("{CMD}/clip")), "\\PC{0,40}"],
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "\\{(\"(id|verb|args|x)\": (\"clip\"|1|null|\\{\\}),? ?){0,4}\\}".prop_map(String::into_bytes),
        ],
    ) {
        let (mut inbox, commands) = inbox(1);
        let answer = inbox.take(&topic, &payload, false);
        // Handed on, or answered; never both.
        prop_assert_eq!(answer.is_none(), commands.len() == 1 || topic == format!("{CMD}/response"));
        if let Ok(command) = commands.try_recv() {
            prop_assert_eq!(command.verb, "clip");
        }
    }
}
