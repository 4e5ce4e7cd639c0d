use super::*;
use serde_json::json;

/// The example of the contract (CONTRACTS.md §3), with the fields added since.
fn trigger() -> Value {
    let mut trigger = json!({"schema":"visualpath.trigger/1","id":"0193-a","stream":"0193-s","seq":1041,"replayed":false,"boot_id":"b",
     "device":"dock-3","path":"entrance","source":"cam0","label":"visitor","kind":"point","trigger_id":"0193-a",
     "frame_id":8123,"t_ns":270066000000_i64,"fired_ns":270766000000_i64,"event_start_ns":270066000000_i64,"event_end_ns":270766000000_i64,
     "t_start_ns":267066000000_i64,"t_end_ns":272766000000_i64,
     "t_ms":270066,"fired_ms":270766,"event_start_ms":270066,"event_end_ms":270766,"t_start_ms":267066,"t_end_ms":272766,
     "time":"2026-11-22T20:00:00.123456Z","clock":{"synced":true,"err_ms":3.0},
     "score":0.91,"reason":"person.count >= 1 for 700 ms","observations_used":2,
     "signals":{"person.count":1.0},
     "objects":[{"track_id":7,"label":"Person","score":0.91,"bbox":[0.1,0.2,0.3,0.8],"area":0.12,"zones":["door"]}],
     "clip":{"id":"0193-c"},"models":[{"name":"ssd","version":"1","sha256":"00","runtime":"tract"}],
     "latency_ms":{"extract":21.4,"settle":0.3,"fuse":0.0,"total":22.1},"metadata":{}});
    // One macro can't take any more.
    trigger["best_ns"] = 270_400_000_000_i64.into();
    trigger["best_ms"] = 270_400.into();
    trigger
}

fn clip() -> Value {
    json!({"schema":"visualpath.clip/1","id":"0193-c","replayed":false,"trigger_id":"0193-a","device":"dock-3",
     "state":"ready","file":"clips/2026-11-22/200000Z_entrance_visitor_0193.mp4","merged_into":"0193-b","reason":null,"source":"cam0",
     "path":"entrance","label":"visitor","start_ns":267066000000_i64,"start_ms":267066,"end_ns":272766000000_i64,"end_ms":272766,
     "lead_in_ms":400.0,"short_pre_ms":0.0,"short_pre_reason":null,"short_post_ms":0.0,"end_reason":"complete","frames":171,
     "gaps":[{"from_ns":1,"from_ms":0,"to_ns":2,"to_ms":0}],"playable":"clips/2026-11-22/200000Z_entrance_visitor_0193.mp4",
            "still":"clips/2026-11-22/200000Z_entrance_visitor_0193.jpg","still_ns":270400000000_i64,"still_ms":270400,
            "codec":"h264","sha256":"00","bytes":1})
}

fn examples() -> Vec<(&'static str, Value)> {
    vec![
        ("trigger", trigger()),
        ("clip", clip()),
        (
            "gap",
            json!({"schema":"visualpath.gap/1","id":"g","stream":"s","seq_from":3,"seq_to":9,"count":9,
             "triggers":7,"clips":2,"maybe_delivered":1,"replayed":false}),
        ),
        (
            "info",
            json!({"schema":"visualpath.info/1","device":"dock-3","boot_id":"b","version":"0.1.0","commit":null,
             "target":"aarch64-unknown-linux-gnu","capabilities":["clips"],
             "models":[{"name":"ssd","version":"1","sha256":"00","runtime":"tract","code_license":"Apache-2.0",
                        "weights_license":null,"data_license":null}],
             "sources":[{"source":"cam0","format":"RTSP h264 1280x720 (audio not captured)"}],
             "machine":{"os":"linux","arch":"aarch64","cores":4,"memory_bytes":1}}),
        ),
        (
            "health",
            json!({"schema":"visualpath.health/1","device":"dock-3","state":"degraded","time":"2026-11-22T20:00:00Z",
             "problems":[{"code":"broker_unreachable","subject":"mqtt","since":"2026-11-22T20:00:00Z",
                          "detail":"connection refused","do":"start the broker"}]}),
        ),
        (
            "summary",
            json!({"frames":795,"fps":29.9,"dropped":{"queue_full":3},"triggers":4,"clips":{"ready":4,"failed":0},
             "observations":{"person":795},"failed":{},"timed_out":{"person":2},"late":{"person":1},"evidence_lost":0,
             "sources":{"cam0":{"frames":795,"dropped":{"queue_full":3},"observations":{"person":795},
                 "skipped":{"person":{"rate":12}},"busy_ms":{"person":25000}}},"wall_s":26.5,"cpu_s":30.1,"events_undelivered":0}),
        ),
        (
            "command",
            json!({"id":"a1","verb":"clip","args":{"last_s":30}}),
        ),
        (
            "response",
            json!({"id":7,"ok":false,"error":{"code":"busy","message":"too many"}}),
        ),
    ]
}

/// Reads and writes a document as its type.
fn round_trip(name: &str, value: Value) -> Value {
    fn through<T: serde::de::DeserializeOwned + Serialize>(v: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(v).unwrap()).unwrap()
    }
    match name {
        "trigger" => through::<TriggerPayload>(value),
        "clip" => through::<ClipPayload>(value),
        "gap" => through::<GapPayload>(value),
        "info" => through::<Info>(value),
        "health" => through::<Health>(value),
        "summary" => through::<Summary>(value),
        "command" => through::<CommandPayload>(value),
        "response" => through::<CommandResponse>(value),
        other => panic!("no type for {other}"),
    }
}

#[test]
fn every_example_is_valid_and_survives_its_type_unchanged() {
    let schemas = schemas();
    let examples = examples();
    assert_eq!(
        schemas.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        examples.iter().map(|(n, _)| *n).collect::<Vec<_>>()
    );
    for ((name, schema), (_, example)) in schemas.iter().zip(examples) {
        let validator = jsonschema::validator_for(schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&example)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        assert_eq!(round_trip(name, example.clone()), example, "{name}");
    }
}

#[test]
fn a_schema_refuses_a_document_with_any_required_field_missing_or_retyped() {
    // Fields that may be absent or null.
    let optional = [
        "commit",
        "clip",
        "file",
        "merged_into",
        "short_pre_reason",
        "end_reason",
        "codec",
        "sha256",
        "playable",
        "still",
        "still_ns",
        "still_ms",
        "seq_from",
        "seq_to",
        "bytes",
        "events_undelivered",
        "failed",
        "timed_out",
        "late",
        "sources",
        "evidence_lost",
    ];
    for ((name, schema), (_, example)) in schemas().iter().zip(examples()) {
        let validator = jsonschema::validator_for(schema).unwrap();
        let fields = example.as_object().unwrap();
        for field in fields.keys() {
            let mut retyped = fields.clone();
            retyped.insert(field.clone(), json!([[0]]));
            assert!(
                !validator.is_valid(&retyped.into()),
                "{name}.{field} retyped"
            );
            let mut missing = fields.clone();
            missing.remove(field);
            let command = ["command", "response"].contains(name);
            let may_miss = match field.as_str() {
                "id" | "args" | "error" => command,
                "reason" => name != &"trigger",
                field => optional.contains(&field),
            };
            assert!(
                may_miss || !validator.is_valid(&missing.into()),
                "{name} without {field}"
            );
        }
    }
}

#[test]
fn every_example_in_the_reference_is_valid() {
    let page = include_str!("../../../docs/reference/mqtt.md");
    let schemas = schemas();
    let mut seen = 0;
    for block in page.split("```json\n").skip(1) {
        let text = block.split("```").next().unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        let name = match value["schema"].as_str() {
            Some(schema) => schema,
            None if value.get("verb").is_some() => "command",
            None => "response",
        };
        let name = name
            .trim_start_matches("visualpath.")
            .trim_end_matches("/1");
        let (_, schema) = schemas.iter().find(|(n, _)| *n == name).unwrap();
        let validator = jsonschema::validator_for(schema).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn another_version_of_a_schema_is_another_document() {
    for ((name, schema), (_, mut example)) in schemas().iter().zip(examples()) {
        if example.get("schema").is_none() {
            continue;
        }
        example["schema"] = json!("visualpath.other/2");
        let validator = jsonschema::validator_for(schema).unwrap();
        assert!(!validator.is_valid(&example), "{name}");
    }
}

#[test]
fn a_line_of_run_json_is_the_payload_and_its_event() {
    let payload: TriggerPayload = serde_json::from_value(trigger()).unwrap();
    let line = serde_json::to_value(Event::Trigger(payload)).unwrap();
    let mut expected = trigger();
    expected["event"] = json!("trigger");
    assert_eq!(line, expected);
    let line = serde_json::to_value(Event::Summary(Summary::default())).unwrap();
    assert_eq!(line["event"], "summary");
    assert_eq!(line["clips"], json!({"ready": 0, "failed": 0}));
}

#[test]
fn milliseconds_keep_the_order_of_negative_times() {
    assert_eq!([ms(-1), ms(0), ms(999_999), ms(1_000_000)], [-1, 0, 0, 1]);
}

#[test]
fn a_trigger_says_what_its_path_said() {
    let name = |t: &str| Name::new(t).unwrap();
    let trigger = Trigger {
        label: name("visitor"),
        kind: TriggerKind::Range,
        phase: Phase::End {
            reason: EndReason::MaxS,
        },
        event: 1,
        frame_id: 7,
        t_ns: 2_000_000,
        fired_ns: 3_000_000,
        event_start_ns: 2_000_000,
        event_end_ns: 4_000_000,
        best_ns: Some(3_000_000),
        t_start_ns: -1_000_000,
        t_end_ns: 6_000_000,
        score: 0.5,
        reason: "because".into(),
        observations_used: 2,
        signals: [("person.count", 1.0)].into_iter().collect(),
        objects: Vec::new(),
        clip: true,
        metadata: Map::new(),
    };
    let (path, source) = (name("entrance"), name("cam0"));
    let body = TriggerBody::new(
        &trigger,
        TriggerContext {
            device: "dock-3",
            boot_id: "b",
            path: &path,
            source: &source,
            time: "2026-11-22T20:00:00Z".into(),
            clock: ClockQuality::default(),
            clip_id: None,
            trigger_id: Some("start".into()),
            models: &[],
            latency_ms: Latency::default(),
        },
    );
    let json = serde_json::to_value(&body).unwrap();
    assert_eq!(json["kind"], "range");
    assert_eq!(json["phase"], "end");
    assert_eq!(json["end_reason"], "max_s");
    assert_eq!(json["trigger_id"], "start");
    assert_eq!(
        (&json["t_start_ms"], &json["t_end_ms"]),
        (&json!(-1), &json!(6))
    );
    assert_eq!(
        (&json["best_ns"], &json["best_ms"]),
        (&json!(3_000_000), &json!(3))
    );
    assert!(json.get("clip").is_none());
}

#[test]
fn a_number_json_can_not_say_is_taken_out_and_named() {
    let payload: TriggerPayload = serde_json::from_value(trigger()).unwrap();
    let mut body = payload.trigger;
    body.score = f64::NAN;
    body.signals.set("person.area", f64::INFINITY);
    let mut bad = body.objects[0].clone();
    bad.bbox[2] = f64::NAN;
    body.objects.push(bad);
    assert_eq!(
        body.drop_non_finite(),
        ["score", "signals.person.area", "objects"]
    );
    assert_eq!(body.score, 0.0);
    assert_eq!((body.signals.len(), body.objects.len()), (1, 1));
    assert!(body.drop_non_finite().is_empty());
}
