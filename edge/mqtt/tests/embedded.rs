//! The broker inside the process.
#![cfg(feature = "embedded")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy's allow-unwrap-in-tests covers test functions only, not their helpers"
)]

mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::*;
use visualpath_mqtt::{BrokerError, BrokerOptions, EmbeddedBroker, MqttOptions, SourceStatus};

fn broker() -> EmbeddedBroker {
    EmbeddedBroker::start(BrokerOptions {
        listen: local(0),
        allow_remote: false,
    })
    .unwrap()
}

fn options_for(broker: &EmbeddedBroker) -> MqttOptions {
    let mut o = options(broker.address().port());
    o.url = broker.url();
    o
}

#[test]
fn it_takes_a_free_port_and_delivers_to_subscribers() {
    let broker = broker();
    assert_ne!(broker.address().port(), 0);
    let subscriber = Subscriber::new(broker.address().port(), "visualpath/#");
    let p = publisher(options_for(&broker));
    for n in 1..=200 {
        fire(&p, n);
    }
    for n in 1..=200 {
        assert_eq!(seq(&subscriber.next_on("/trigger")), n);
    }
    assert_eq!(p.finish(Duration::from_secs(30)).undelivered, 0);
    subscriber.wait_for("/status", "offline");
}

#[test]
fn mosquitto_sub_gets_the_triggers_too() {
    let broker = broker();
    let port = broker.address().port().to_string();
    // Into a pipe it would keep its lines in a buffer.
    let child = Command::new("stdbuf")
        .args(["-oL", "mosquitto_sub", "-W", "60"])
        .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-d"])
        .args(["-t", "visualpath/+/path/+/trigger", "-C", "10"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    // -d says so; before that a message would pass it by.
    assert!(
        lines.any(|l| l.unwrap().starts_with("Subscribed")),
        "mosquitto_sub does not run: run cross/setup.sh first"
    );
    let p = publisher(options_for(&broker));
    for n in 1..=10 {
        fire(&p, n);
    }
    let got: Vec<u64> = lines
        .map_while(Result::ok)
        .filter(|l| l.starts_with('{'))
        .map(|l| {
            let v: serde_json::Value = serde_json::from_str(&l).unwrap();
            v["seq"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(got, (1..=10).collect::<Vec<u64>>());
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn it_keeps_retained_values_and_publishes_the_last_will() {
    let broker = broker();
    let p = publisher(options_for(&broker));
    p.source_status(&name("cam0"), SourceStatus::Online)
        .unwrap();
    eventually("both are retained", || {
        let late = Subscriber::new(broker.address().port(), "visualpath/#");
        let mut seen = HashSet::new();
        while let Some(m) = late.next_within(Duration::from_millis(100)) {
            assert_eq!(m.text(), "online");
            seen.insert(m.topic);
        }
        seen.len() == 2
    });
    let watcher = Subscriber::new(broker.address().port(), "visualpath/dock-3/status");
    watcher.wait_for("/status", "online");
    // Without `finish` the connection is cut, as by a crash.
    drop(p);
    watcher.wait_for("/status", "offline");
    eventually("offline is retained", || {
        let late = Subscriber::new(broker.address().port(), "visualpath/dock-3/status");
        late.next().text() == "offline"
    });
}

#[test]
fn triggers_are_taken_without_any_subscriber() {
    let broker = broker();
    let p = publisher(options_for(&broker));
    for n in 1..=100 {
        fire(&p, n);
    }
    let report = p.finish(Duration::from_secs(30));
    assert_eq!((report.delivered, report.undelivered), (100, 0));
}

#[test]
fn a_large_message_passes() {
    let broker = broker();
    let subscriber = Subscriber::new(broker.address().port(), "visualpath/#");
    let p = publisher(options_for(&broker));
    let mut big = trigger(1);
    big.metadata
        .insert("x".into(), "x".repeat(250 << 10).into());
    let given = p.trigger(&name("entrance"), big).unwrap();
    assert!(given.trigger.trimmed.is_empty());
    assert_eq!(seq(&subscriber.next_on("/trigger")), 1);
}

#[test]
fn a_port_in_use_and_an_open_address_are_refused() {
    let broker = broker();
    let again = EmbeddedBroker::start(BrokerOptions {
        listen: broker.address(),
        allow_remote: false,
    });
    let error = again.err().unwrap();
    assert!(matches!(error, BrokerError::Listen { .. }));
    assert!(error.to_string().contains("embedded://127.0.0.1:0"));
    let open = EmbeddedBroker::start(BrokerOptions {
        listen: "0.0.0.0:0".parse().unwrap(),
        allow_remote: false,
    });
    assert!(matches!(open, Err(BrokerError::NotLoopback(_))));
}

#[test]
fn it_closes_its_port_when_dropped() {
    let broker = broker();
    let address = broker.address();
    assert!(TcpStream::connect(address).is_ok());
    drop(broker);
    assert!(TcpStream::connect(address).is_err());
    let again = EmbeddedBroker::start(BrokerOptions {
        listen: address,
        allow_remote: false,
    });
    assert_eq!(again.unwrap().address(), address);
}
