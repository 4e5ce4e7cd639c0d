//! The golden vectors of protocol 1: every message as bytes, the same for ever.
//!
//! `VISUALPATH_WRITE_VECTORS=1 cargo test -p visualpath-protocol --test vectors` writes them; without
//! it they are compared byte for byte. A difference is a new version, not a new vector.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "support/samples.rs"]
mod samples;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use visualpath_protocol::{
    Codec, DecodeError, EncodeError, FromChild, FromParent, Message, decode, encode,
};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/1")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

/// Files by name: two per message, the refused ones, and the index.
fn files() -> Vec<(String, String)> {
    let (mut files, mut vectors) = (Vec::new(), Vec::new());
    for (name, id, message) in samples::from_child() {
        add(
            "child",
            &format!("child_{name}"),
            id,
            &message,
            &mut files,
            &mut vectors,
        );
    }
    for (name, id, message) in samples::from_parent() {
        add(
            "parent",
            &format!("parent_{name}"),
            id,
            &message,
            &mut files,
            &mut vectors,
        );
    }
    let refused: Vec<Value> = samples::REFUSED
        .iter()
        .map(|(name, from, error, text)| {
            files.push((format!("refused_{name}.json"), (*text).to_owned()));
            json!({"name": name, "from": from, "error": error, "json": format!("refused_{name}.json")})
        })
        .collect();
    let lines = |list: &[Value]| {
        list.iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(",\n")
    };
    files.push((
        "index.json".to_owned(),
        format!(
            "{{\"protocol\":1,\n\"vectors\":[\n{}\n],\n\"refused\":[\n{}\n]}}",
            lines(&vectors),
            lines(&refused)
        ),
    ));
    files
}

fn add<M: Message + PartialEq + std::fmt::Debug>(
    from: &str,
    name: &str,
    id: u64,
    message: &M,
    files: &mut Vec<(String, String)>,
    vectors: &mut Vec<Value>,
) {
    let json = encode(Codec::Json1, id, message).unwrap();
    let back = decode::<M>(Codec::Json1, &json).unwrap();
    assert_eq!((back.id, &back.message), (id, message), "{name}");
    files.push((format!("{name}.json"), String::from_utf8(json).unwrap()));
    let postcard = match encode(Codec::Postcard1, id, message) {
        Ok(bytes) => {
            let back = decode::<M>(Codec::Postcard1, &bytes).unwrap();
            assert_eq!((back.id, &back.message), (id, message), "{name}");
            files.push((format!("{name}.postcard.hex"), hex(&bytes)));
            json!(format!("{name}.postcard.hex"))
        }
        Err(EncodeError::HelloIsJson) => Value::Null,
        Err(e) => panic!("{name}: {e}"),
    };
    vectors.push(
        json!({"name": name, "from": from, "type": message.name(), "id": id,
        "json": format!("{name}.json"), "postcard": postcard}),
    );
}

#[test]
fn every_message_has_the_bytes_it_always_had() {
    let files = files();
    let write = std::env::var_os("VISUALPATH_WRITE_VECTORS").is_some();
    for (name, content) in &files {
        let path = dir().join(name);
        let content = format!("{content}\n");
        if write {
            std::fs::write(&path, content).unwrap();
        } else {
            let golden = std::fs::read_to_string(&path).unwrap();
            assert!(
                golden == content,
                "{name} has changed:\n{golden}\nis now\n{content}"
            );
        }
    }
    let here: BTreeSet<String> = std::fs::read_dir(dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let wanted: BTreeSet<String> = files.into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        here, wanted,
        "a file that no message writes, or one missing"
    );
}

#[test]
fn every_type_has_a_vector() {
    let child: BTreeSet<_> = samples::from_child()
        .iter()
        .map(|(_, _, m)| m.name())
        .collect();
    assert_eq!(child, FromChild::names().iter().copied().collect());
    let parent: BTreeSet<_> = samples::from_parent()
        .iter()
        .map(|(_, _, m)| m.name())
        .collect();
    assert_eq!(parent, FromParent::names().iter().copied().collect());
}

#[test]
fn what_must_be_refused_is_and_says_why() {
    for (name, from, kind, text) in samples::REFUSED {
        let error = match *from {
            "child" => decode::<FromChild>(Codec::Json1, text.as_bytes()).map(|_| ()),
            _ => decode::<FromParent>(Codec::Json1, text.as_bytes()).map(|_| ()),
        }
        .expect_err(name);
        let came = match &error {
            DecodeError::Version { id: 7, came: 2 } => "version",
            DecodeError::Type { id: 7, came } if came.to_string() == "\"dance\"" => "type",
            DecodeError::Type { .. } => "type",
            DecodeError::Envelope { .. } => "envelope",
            DecodeError::TooComplex { .. } => "complex",
            DecodeError::Body { .. } | DecodeError::Broken { .. } => "body",
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(came, *kind, "{name}: {error}");
        encode(
            Codec::Json1,
            error.id().unwrap_or(0),
            &FromParent::Error(error.answer()),
        )
        .unwrap();
    }
}

#[test]
fn unknown_fields_are_passed_over_and_absent_options_are_none() {
    let text = br#"{"id":7,"new":[{}],"type":"error","v":1,"error":"e"}"#;
    let told = decode::<FromChild>(Codec::Json1, text).unwrap();
    let FromChild::Error(report) = &told.message else {
        panic!("{told:?}");
    };
    assert_eq!(
        (told.id, report.error.as_str(), &report.traceback),
        (7, "e", &None)
    );
}

#[test]
fn postcard_tells_unknown_types_trailing_bytes_and_hellos() {
    let unknown = decode::<FromChild>(Codec::Postcard1, &[77, 9]).unwrap_err();
    assert_eq!(unknown.to_string(), "unknown message type 77");
    assert_eq!(unknown.id(), Some(9));
    // A parent's message read as a child's.
    let ping = encode(Codec::Postcard1, 3, &FromParent::Ping(Default::default())).unwrap();
    assert!(matches!(
        decode::<FromChild>(Codec::Postcard1, &ping),
        Err(DecodeError::Type { id: 3, .. })
    ));
    let mut ok = encode(Codec::Postcard1, 1, &FromChild::Ok(Default::default())).unwrap();
    ok.push(0);
    assert!(matches!(
        decode::<FromChild>(Codec::Postcard1, &ok),
        Err(DecodeError::Body { id: 1, .. })
    ));
    assert!(matches!(
        decode::<FromChild>(Codec::Postcard1, &[1, 0]),
        Err(DecodeError::Body { .. })
    ));
}

#[test]
fn every_example_in_the_page_is_a_message_and_every_bound_as_it_says() {
    let page = include_str!("../PROTOCOL.md");
    let examples: Vec<&str> = page
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect();
    for example in &examples {
        let bytes = example.as_bytes();
        let child = decode::<FromChild>(Codec::Json1, bytes).map(|_| ());
        let parent = decode::<FromParent>(Codec::Json1, bytes).map(|_| ());
        assert!(
            child.is_ok() || parent.is_ok(),
            "{child:?} {parent:?}: {example}"
        );
    }
    assert!(examples.len() >= FromChild::names().len() + FromParent::names().len());
    let source = include_str!("../src/bounds.rs");
    let constants = source.lines().filter_map(|l| l.strip_prefix("pub const "));
    for constant in constants {
        let (name, value) = constant.split_once(": usize = ").unwrap();
        let value = value
            .trim_end_matches(';')
            .replace('_', "")
            .replace("4 << 20", "4194304");
        assert!(
            page.contains(&format!("| `{name}` | {value} |")),
            "{name} = {value}"
        );
    }
}
