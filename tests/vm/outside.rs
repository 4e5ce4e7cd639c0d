//! The appliance inside the machine, a broker and a subscriber outside.

use serde_json::Value;
use visualpath_tests::{Mosquitto, Subscriber};

use crate::machine::{Clock, Machine};

type Message = (String, String, bool);

fn boot(scenario: &str, broker: &Mosquitto) -> Machine {
    Machine::boot(
        Clock::Real,
        &[format!("{scenario}=10.0.2.2:{}", broker.port)],
    )
}

fn trigger(message: &Message) -> Option<Value> {
    let (topic, payload, _) = message;
    (topic == "visualpath/arm/path/entrance/trigger")
        .then(|| serde_json::from_str(payload).unwrap())
}

fn status(message: &Message, status: &str) -> bool {
    message.0 == "visualpath/arm/source/cam0/status" && message.1 == status
}

/// What a client that comes now is told of the source.
fn retained_status(broker: &Mosquitto) -> String {
    let late = Subscriber::start(broker.port, &[]);
    let seen = late.until(|m| m.iter().any(|m| m.0.ends_with("source/cam0/status")));
    let found = seen
        .into_iter()
        .find(|m| m.0.ends_with("source/cam0/status"));
    let (_, status, retained) = found.unwrap();
    assert!(retained);
    status
}

#[test]
#[ignore = "needs the ARM machine: cross/vm.sh"]
fn the_appliance_runs_and_triggers_reach_a_broker_outside() {
    let name = "the_appliance_runs_and_triggers_reach_a_broker_outside";
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let mut machine = boot(name, &broker);
    machine.until_stage("drawn");
    let seen = subscriber.until(|m| m.iter().any(|m| trigger(m).is_some()));
    let first = seen.iter().find_map(trigger).unwrap();
    assert_eq!(first["label"], "moves");
    machine.go_on("drawn");
    machine.finish().expect(name);
}

#[test]
#[ignore = "needs the ARM machine: cross/vm.sh"]
fn a_pulled_camera_is_offline_at_the_broker_and_comes_back() {
    let name = "a_pulled_camera_is_offline_at_the_broker_and_comes_back";
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(broker.port, &[]);
    let mut machine = boot(name, &broker);
    machine.until_stage("moves");
    subscriber.until(triggered_while_online);
    machine.go_on("moves");

    machine.until_stage("pulled");
    subscriber.until(|m| m.iter().any(|m| status(m, "offline")));
    assert_eq!(retained_status(&broker), "offline");
    machine.go_on("pulled");

    machine.until_stage("back");
    subscriber.until(triggered_while_online);
    assert_eq!(retained_status(&broker), "online");
    machine.go_on("back");
    machine.finish().expect(name);
}

/// The source came online, and then there was a trigger.
fn triggered_while_online(messages: &[Message]) -> bool {
    let online = messages.iter().position(|m| status(m, "online"));
    online.is_some_and(|at| messages[at..].iter().any(|m| trigger(m).is_some()))
}
