//! Brokers that are late, inside, or not wanted.

use serde_json::Value;
use visualpath_tests::{Config, Mosquitto, Running, Subscriber, cut_vtest, run};

#[test]
fn a_broker_that_comes_late_gets_every_event_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    // A session that outlives its client and the broker: what is published is kept for it.
    drop(Subscriber::start(broker.port, &["-c", "-i", "late"]));
    let stopped = broker.stop();
    let url = format!("mqtt://127.0.0.1:{}", stopped.port());
    let mut config = Config::demo(cut_vtest(dir.path(), 0.0, 10.0), url);
    config.realtime = true;
    config.rule = "for_ms = 0\nrelease_ms = 0\ncooldown_ms = 200\npre_s = 0.5\npost_s = 0.5".into();
    // Scores go up and down all the time, so this fires again and again.
    config.when = "\"person.max_confidence > 0.58\"";
    let file = config.write(dir.path());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("realtime = true", "realtime = true\nloop = true"),
    )
    .unwrap();
    let mut run = Running::start(&file);
    let mut events: Vec<Value> = vec![];
    let mut stopped = Some(stopped);
    let mut subscriber = None;
    for line in &mut run.lines {
        events.push(serde_json::from_str(&line.unwrap()).unwrap());
        // The appliance runs and fires without a broker; then there is one, and what had been
        // kept arrives; then the appliance is told to stop.
        let fired = events.iter().filter(|e| e["event"] == "trigger").count();
        if fired == 2
            && let Some(stopped) = stopped.take()
        {
            let broker = stopped.start();
            let late = Subscriber::start(broker.port, &["-c", "-i", "late"]);
            let first = late.until(|m| m.iter().filter(|(t, _, _)| is_trigger(t)).count() >= 2);
            subscriber = Some((broker, late, first));
            let pid = run.child.id().to_string();
            assert!(
                std::process::Command::new("kill")
                    .arg(pid)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
    let (code, log) = run.finish();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("broker"), "it says that there is none: {log}");
    let (_broker, late, mut seen) = subscriber.expect("at least two triggers");
    let fired = events.iter().filter(|e| e["event"] == "trigger").count();
    let summary = events.last().unwrap();
    assert_eq!(summary["events_undelivered"], 0, "{summary}\n{log}");
    seen.extend(late.until(|m| {
        m.iter()
            .any(|(t, p, _)| t.ends_with("test/status") && p == "offline")
    }));
    let mut seqs: Vec<u64> = seen
        .iter()
        .filter(|(t, _, _)| is_trigger(t))
        .map(|(_, p, _)| {
            serde_json::from_str::<Value>(p).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .collect();
    seqs.dedup(); // what a reconnecting subscriber had not acknowledged may come twice
    assert_eq!(
        seqs,
        (1..=fired as u64).collect::<Vec<_>>(),
        "gapless, in order"
    );
}

fn is_trigger(topic: &str) -> bool {
    topic.ends_with("/trigger")
}

#[test]
fn the_embedded_broker_serves_a_separate_subscriber_on_a_free_port() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::demo(cut_vtest(dir.path(), 10.0, 14.0), "embedded://127.0.0.1:0");
    let mut running = Running::start(&config.write(dir.path()));
    let ready: Value = serde_json::from_str(&running.lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(ready["event"], "ready");
    let port = u16::try_from(ready["mqtt"]["port"].as_u64().unwrap()).unwrap();
    let subscriber = Subscriber::start(port, &[]);
    let seen = subscriber.until(|m| m.iter().any(|(t, _, _)| t.ends_with("/clip")));
    let trigger = seen
        .iter()
        .find(|(t, _, _)| t == "visualpath/test/path/entrance/trigger")
        .unwrap();
    let trigger: Value = serde_json::from_str(&trigger.1).unwrap();
    assert_eq!(trigger["label"], "visitor");
    for line in &mut running.lines {
        line.unwrap();
    }
    let (code, log) = running.finish();
    assert_eq!(code, 0, "{log}");
}

#[test]
fn retained_topics_say_what_runs_and_how_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start();
    let config = Config::demo(
        cut_vtest(dir.path(), 0.0, 1.0),
        format!("mqtt://127.0.0.1:{}", broker.port),
    );
    let file = config.write(dir.path());
    let out = run(dir.path(), &["run", "-c", file.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let subscriber = Subscriber::start(broker.port, &[]);
    let seen =
        subscriber.until(|m| m.iter().any(|(t, _, _)| t.ends_with("/health")) && m.len() >= 5);
    let value = |topic: &str| {
        let (_, payload, retained) = seen
            .iter()
            .find(|(t, _, _)| *t == format!("visualpath/test/{topic}"))
            .unwrap_or_else(|| panic!("{topic}: {seen:?}"));
        assert!(retained, "{topic}");
        payload.clone()
    };
    assert_eq!(value("status"), "offline", "it said good-bye");
    assert_eq!(value("source/yard/status"), "offline");
    assert_eq!(value("source/yard/extractor/person/status"), "running");
    for name in ["info", "health"] {
        let document: Value = serde_json::from_str(&value(name)).unwrap();
        let (_, schema) = visualpath_mqtt::schemas()
            .into_iter()
            .find(|(n, _)| *n == name)
            .unwrap();
        assert!(jsonschema::is_valid(&schema, &document), "{document}");
    }
    let info: Value = serde_json::from_str(&value("info")).unwrap();
    assert_eq!(info["models"][0]["name"], "ssd-oidv4");
    assert_eq!(info["models"][0]["weights_license"], "Apache-2.0");
    let source = &info["sources"][0];
    assert_eq!(source["source"], "yard");
    assert!(
        source["format"].as_str().unwrap().contains("768x576"),
        "{info}"
    );
}
