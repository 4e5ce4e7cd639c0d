//! Commands over real brokers: mosquitto, through a gate that cuts connections, and the embedded.
#![allow(
    clippy::unwrap_used,
    reason = "clippy's allow-unwrap-in-tests covers test functions only, not their helpers"
)]

mod support;

use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Map, Value, json};
use support::*;
use visualpath_mqtt::{
    AskError, Command, CommandOptions, CommandResponse, MqttOptions, PublisherHandle, ask,
};

const CMD: &str = "visualpath/dock-3/cmd";

fn start(mut options: MqttOptions, queue: usize) -> (Arc<PublisherHandle>, Receiver<Command>) {
    let (to, commands) = bounded(queue);
    options.commands = Some(CommandOptions {
        known: ["clip", "delete"].map(str::to_owned).to_vec(),
        allowed: vec!["clip".to_owned()],
        to,
    });
    (Arc::new(publisher(options)), commands)
}

/// Answers every command with its arguments and how many there have been.
fn echo(publisher: &Arc<PublisherHandle>, commands: Receiver<Command>) {
    let publisher = Arc::clone(publisher);
    std::thread::spawn(move || {
        for (n, command) in commands.iter().enumerate() {
            let result = json!({"args": command.args, "n": n + 1});
            publisher.respond(&CommandResponse::new(Some(command.id), Ok(result)));
        }
    });
}

fn publish(port: u16, topic: &str, payload: &str, more: &[&str]) {
    let status = Process::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"])
        .args(["-t", topic, "-m", payload])
        .args(more)
        .status()
        .expect("mosquitto_pub is missing: run cross/setup.sh first");
    assert!(status.success());
}

/// Connected, and its subscription in force: a client that asks gets an answer. (The connection
/// counts as up before the broker has the subscription.)
fn ready(port: u16) {
    eventually("commands are heard", || {
        ask(
            &options(port),
            "clip",
            Map::new(),
            Duration::from_millis(500),
        )
        .is_ok()
    });
}

fn args(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn a_command_is_executed_and_answered_over_mosquitto() {
    let broker = Mosquitto::start();
    let (publisher, commands) = start(options(broker.port), 8);
    echo(&publisher, commands);
    ready(broker.port);
    let asked = args(json!({"last_s": 30}));
    let result = ask(&options(broker.port), "clip", asked.clone(), PATIENCE).unwrap();
    assert_eq!(result["args"], json!(asked));
    let refused = ask(&options(broker.port), "delete", Map::new(), PATIENCE).unwrap_err();
    let AskError::Failed(error) = refused else {
        panic!("{refused}");
    };
    assert_eq!(error.code, "not_allowed");
    assert!(error.message.contains("mqtt.commands"), "{error}");
}

#[test]
fn anybody_can_ask_with_a_bare_mqtt_client() {
    let broker = Mosquitto::start();
    let (publisher, commands) = start(options(broker.port), 8);
    echo(&publisher, commands);
    ready(broker.port);
    let answers = Subscriber::new(broker.port, &format!("{CMD}/response"));
    publish(
        broker.port,
        &format!("{CMD}/clip"),
        r#"{"id": 5, "last_s": 3}"#,
        &[],
    );
    let answer = answers.next().json();
    assert_eq!((&answer["id"], &answer["ok"]), (&json!(5), &json!(true)));
    assert_eq!(answer["result"]["args"], json!({"last_s": 3}));
    publish(broker.port, CMD, r#"{"verb": }"#, &[]);
    let answer = answers.next().json();
    assert_eq!(answer["error"]["code"], "malformed");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("line 1 column 10"), "{message}");
    // Twice the same: executed once.
    let first = r#"{"id": "once", "verb": "clip"}"#;
    publish(broker.port, CMD, first, &[]);
    let once = answers.next().payload;
    publish(broker.port, CMD, first, &[]);
    assert_eq!(answers.next().payload, once);
}

#[test]
fn a_retained_command_is_not_executed() {
    let broker = Mosquitto::start();
    publish(
        broker.port,
        CMD,
        r#"{"id": "old", "verb": "clip"}"#,
        &["-r"],
    );
    let answers = Subscriber::new(broker.port, &format!("{CMD}/response"));
    let (publisher, commands) = start(options(broker.port), 8);
    echo(&publisher, commands);
    // Retained messages come with the subscription, so before this one.
    ready(broker.port);
    let answer = answers.next().json();
    assert_ne!(answer["id"], "old");
    assert_eq!(answer["result"]["n"], 1, "{answer}");
}

#[test]
fn commands_work_again_after_every_lost_connection_and_no_answer_is_lost() {
    let broker = Mosquitto::start();
    let gate = Gate::new(0, broker.port);
    let (publisher, commands) = start(options(gate.port), 8);
    let answers = Subscriber::new(broker.port, &format!("{CMD}/response"));
    for round in 0..5 {
        gate.open();
        eventually("connected", || publisher.connected());
        // Asked until it is heard: what comes before the subscription is not.
        let id = format!("round {round}");
        let text = format!(r#"{{"id": "{id}", "verb": "clip"}}"#);
        let mut command = None;
        eventually("heard", || {
            publish(broker.port, CMD, &text, &[]);
            command = commands.recv_timeout(Duration::from_millis(200)).ok();
            command.is_some()
        });
        gate.close();
        eventually("cut", || !publisher.connected());
        // Answered while there is no connection.
        let id = command.map(|c| c.id);
        publisher.respond(&CommandResponse::new(id, Ok(json!(round))));
        gate.open();
        assert_eq!(answers.next().json()["result"], json!(round));
        // Repeated askings have had the same answer again.
        while answers.next_within(Duration::from_millis(100)).is_some() {}
        assert!(commands.is_empty(), "executed twice");
    }
}

#[test]
fn a_flood_is_answered_with_busy_and_the_events_go_on() {
    let broker = Mosquitto::start();
    let (publisher, commands) = start(options(broker.port), 2);
    let subscriber = Subscriber::new(broker.port, "visualpath/#");
    eventually("heard", || {
        publish(broker.port, &format!("{CMD}/clip"), "{}", &[]);
        !commands.is_empty()
    });
    // Nobody executes. 2000 commands through one connection of a real client.
    let lines = "{}\n".repeat(2000);
    let mut child = Process::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-q", "1"])
        .args(["-t", &format!("{CMD}/clip"), "-l"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), lines.as_bytes()).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let answer = subscriber.next_on("/cmd/response").json();
    assert_eq!(answer["error"]["code"], "busy");
    fire(&publisher, 1);
    assert_eq!(seq(&subscriber.next_on("/trigger")), 1);
    assert_eq!(commands.len(), 2);
}

#[test]
fn who_asks_is_told_when_nobody_is_there() {
    let port = free_port();
    let nobody = ask(&options(port), "clip", Map::new(), Duration::from_secs(5)).unwrap_err();
    assert!(matches!(nobody, AskError::Unreachable { .. }), "{nobody}");

    let broker = Mosquitto::start();
    let short = Duration::from_millis(300);
    let never = ask(&options(broker.port), "clip", Map::new(), short).unwrap_err();
    assert!(matches!(never, AskError::NoAnswer { .. }), "{never}");
    assert!(never.to_string().contains("device.id"), "{never}");

    let (publisher, _commands) = start(options(broker.port), 8);
    eventually("connected", || publisher.connected());
    publisher.finish(PATIENCE);
    let gone = ask(&options(broker.port), "clip", Map::new(), PATIENCE).unwrap_err();
    assert!(matches!(gone, AskError::Offline { .. }), "{gone}");
}

#[cfg(feature = "embedded")]
#[test]
fn a_command_is_executed_and_answered_over_the_embedded_broker() {
    use visualpath_mqtt::{BrokerOptions, EmbeddedBroker};
    let broker = EmbeddedBroker::start(BrokerOptions {
        listen: local(0),
        allow_remote: false,
    })
    .unwrap();
    let port = broker.address().port();
    let mut own = options(port);
    own.url = broker.url();
    let (publisher, commands) = start(own, 8);
    echo(&publisher, commands);
    ready(port);
    let asked = args(json!({"last_s": 30}));
    let result = ask(&options(port), "clip", asked.clone(), PATIENCE).unwrap();
    assert_eq!(result["args"], json!(asked));
    publish(port, &format!("{CMD}/clip"), r#"{"last_s": 1}"#, &[]);
    let answers = Subscriber::new(port, &format!("{CMD}/response"));
    publish(
        port,
        &format!("{CMD}/clip"),
        r#"{"id": 2, "last_s": 2}"#,
        &[],
    );
    while answers.next().json()["id"] != json!(2) {}
}

/// A broker holds a retained message that is larger than the client takes: each subscription ends the
/// connection.
#[test]
fn a_message_that_no_client_takes_silences_commands_and_not_the_events() {
    let broker = Mosquitto::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(9 << 20).unwrap();
    let status = Process::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-q", "1"])
        .args(["-r", "-t", &format!("{CMD}/clip"), "-f"])
        .arg(file.path())
        .status()
        .unwrap();
    assert!(status.success());
    let mut options = options(broker.port);
    options.backoff_min = Duration::from_millis(10);
    options.backoff_max = Duration::from_millis(100);
    let (publisher, _commands) = start(options, 8);
    eventually("it is deaf", || publisher.is_deaf());
    let triggers = Subscriber::new(broker.port, "visualpath/dock-3/path/+/trigger");
    fire(&publisher, 1);
    triggers.next();
    eventually("delivered", || publisher.pending() == 0);
    assert!(publisher.connected() && publisher.is_deaf());
}
