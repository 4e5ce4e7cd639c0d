//! Every message: empty, full, and with extreme values.

use serde_json::{Map, Value, json};
use visualpath_core::{
    Anchor, ColorMatrix, ColorRange, ColorSpec, EndReason, Filter, Fit, MaskKind, Phase,
    PixelFormat, Signals, TriggerKind, ViewFormat,
};
use visualpath_protocol::*;

fn map(value: Value) -> JsonObject {
    let Value::Object(map) = value else {
        return Map::new().into();
    };
    map.into()
}

fn signals(list: &[(&str, f64)]) -> Signals {
    list.iter().copied().collect()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&s| s.to_owned()).collect()
}

fn empty_observation() -> Observation {
    Observation {
        extractor: String::new(),
        frame_id: 0,
        t_ns: None,
        signals: Signals::new(),
        data: JsonObject::new(),
        metadata: JsonObject::new(),
        confidence: None,
        timing_ns: None,
    }
}

fn observation() -> Observation {
    Observation {
        extractor: "person".to_owned(),
        frame_id: 8123,
        t_ns: Some(270_066_000_000),
        signals: signals(&[
            ("count", 1.0),
            ("count@door", 1.0),
            ("max_confidence", 0.91),
        ]),
        data: map(json!({
            "objects": [{"label": "Person", "score": 0.91, "bbox": [0.1, 0.2, 0.3, 0.8],
                "area": 0.12, "track_id": 7, "keypoints": [[0.2, 0.3, 1.0]], "zones": ["door"]}],
            "text": "é \"quoted\" \\ \u{1F600} \n",
            "nested": [{"a": [null, true, -1, 2.5, {}]}, []],
        })),
        metadata: map(json!({"model": "ssd-oidv4"})),
        confidence: Some(0.91),
        timing_ns: Some(21_400_000),
    }
}

fn extreme_observation() -> Observation {
    Observation {
        extractor: "x".repeat(256),
        frame_id: u64::MAX,
        t_ns: Some(i64::MIN),
        signals: signals(&[
            ("", -0.0),
            ("largest", f64::MAX),
            ("least", f64::MIN_POSITIVE),
            ("lowest", f64::MIN),
            ("subnormal", 5e-324),
            ("third", 1.0 / 3.0),
        ]),
        data: map(json!({"big": u64::MAX, "low": i64::MIN, "tiny": 5e-324})),
        metadata: JsonObject::new(),
        confidence: Some(1.0),
        timing_ns: Some(i64::MAX),
    }
}

fn trigger(kind: TriggerKind, phase: Phase) -> Trigger {
    Trigger {
        label: "visitor".to_owned(),
        kind,
        phase,
        event: 3,
        frame_id: 8123,
        t_ns: 270_066_000_000,
        fired_ns: 270_766_000_000,
        event_start_ns: 270_066_000_000,
        event_end_ns: 270_766_000_000,
        t_start_ns: -2_934_000_000,
        t_end_ns: 272_766_000_000,
        score: 0.91,
        reason: "person.count >= 1 for 700 ms".to_owned(),
        observations_used: 2,
        signals: signals(&[("person.count", 1.0)]),
        objects: vec![Object {
            track_id: None,
            label: "Person".to_owned(),
            score: 0.91,
            bbox: [0.1, 0.2, 0.3, 0.8],
            area: 0.12,
            zones: strings(&["door"]),
            keypoints: vec![[0.2, 0.3, 1.0], [0.25, 0.35, 0.5]],
        }],
        clip: true,
        metadata: map(json!({"note": 1})),
    }
}

fn input(format: ViewFormat, size: Option<u32>, fit: Fit, filter: Filter) -> Input {
    Input {
        format,
        width: size,
        height: size,
        fit: Some(fit),
        filter: Some(filter),
    }
}

/// Name, id, message.
pub fn from_child() -> Vec<(String, u64, FromChild)> {
    let mut all = Vec::new();
    let mut add = |name: &str, id, message| all.push((name.to_owned(), id, message));
    add("hello_empty", 0, FromChild::Hello(ChildHello::default()));
    let hello = |input| {
        FromChild::Hello(ChildHello {
            token: "5f1c0a".to_owned(),
            name: "face".to_owned(),
            version: "1.0.0".to_owned(),
            protocols: vec![1, u32::MAX],
            codecs: strings(&["postcard/1", "json/1", "cbor/9"]),
            signals: strings(&["count", "max_confidence"]),
            input: Some(input),
        })
    };
    add(
        "hello_full",
        0,
        hello(input(
            ViewFormat::Rgb,
            Some(320),
            Fit::Letterbox,
            Filter::Area,
        )),
    );
    add("hello_native", 0, hello(Input::default()));
    add(
        "progress",
        1,
        FromChild::Progress(Progress {
            percent: 42.5,
            text: "loading face.onnx".to_owned(),
        }),
    );
    add("ready_empty", 1, FromChild::Ready(Ready::default()));
    let model = Model {
        name: "face".to_owned(),
        version: "2".to_owned(),
        sha256: "ab".repeat(32),
        runtime: "onnxruntime 1.32.0".to_owned(),
    };
    add(
        "ready_full",
        1,
        FromChild::Ready(Ready {
            signals: Some(SignalNames(strings(&["count"]))),
            input: Some(input(ViewFormat::Bgr, None, Fit::Stretch, Filter::Bilinear)),
            models: Some(Models(vec![model])),
        }),
    );
    add(
        "ready_grey",
        1,
        FromChild::Ready(Ready {
            input: Some(input(
                ViewFormat::Grey,
                Some(16_384),
                Fit::Stretch,
                Filter::Area,
            )),
            ..Ready::default()
        }),
    );
    add(
        "pong",
        2,
        FromChild::Pong(Pong {
            extractor: "person".to_owned(),
        }),
    );
    add(
        "observations_empty",
        3,
        FromChild::Observations(Observations::default()),
    );
    add(
        "observations_full",
        127,
        FromChild::Observations(Observations {
            items: vec![observation(), empty_observation()],
            timing: Timing {
                extract_ns: 21_400_000,
                total_ns: 21_950_000,
            },
        }),
    );
    add(
        "observations_extreme",
        u64::MAX,
        FromChild::Observations(Observations {
            items: vec![extreme_observation()],
            timing: Timing {
                extract_ns: i64::MIN,
                total_ns: i64::MAX,
            },
        }),
    );
    let error = |error: &str, traceback: Option<&str>, kind| {
        FromChild::Error(ErrorReport {
            error: error.to_owned(),
            traceback: traceback.map(str::to_owned),
            kind,
        })
    };
    add("error_bare", 4, error("no face model", None, None));
    add(
        "error_full",
        128,
        error(
            "ValueError: x",
            Some("Traceback (most recent call last):\n  …\n"),
            Some(ErrorKind::Plugin),
        ),
    );
    for (name, kind) in [
        ("config", ErrorKind::Config),
        ("model", ErrorKind::Model),
        ("runtime", ErrorKind::Runtime),
        ("protocol", ErrorKind::Protocol),
    ] {
        add(
            &format!("error_{name}"),
            16_384,
            error("", None, Some(kind)),
        );
    }
    add(
        "result_empty",
        5,
        FromChild::Result(FusionAnswer::default()),
    );
    let end = |reason| trigger(TriggerKind::Range, Phase::End { reason });
    add(
        "result_full",
        5,
        FromChild::Result(FusionAnswer {
            triggers: vec![
                trigger(TriggerKind::Point, Phase::Point),
                trigger(TriggerKind::Range, Phase::Start),
                end(EndReason::Released),
                end(EndReason::MaxS),
                end(EndReason::Interrupted),
            ],
            score: 0.91,
            reason: "person.count >= 1".to_owned(),
            observations_used: u32::MAX,
            metadata: map(json!({"rule": "visitor"})),
            states: Some(States(vec![
                State {
                    label: "visitor".to_owned(),
                    on: true,
                },
                State {
                    label: "car".to_owned(),
                    on: false,
                },
            ])),
        }),
    );
    add("ok", 6, FromChild::Ok(Nothing {}));
    add("trace_empty", 0, FromChild::Trace(TraceRecord::default()));
    add(
        "trace_full",
        0,
        FromChild::Trace(TraceRecord {
            record: map(json!({"record_type": "mine", "timestamp_ns": 5, "x": [1.5]})),
        }),
    );
    for (name, level) in [
        ("trace", Level::Trace),
        ("debug", Level::Debug),
        ("info", Level::Info),
        ("warn", Level::Warn),
        ("error", Level::Error),
    ] {
        add(
            &format!("log_{name}"),
            0,
            FromChild::Log(Log {
                level,
                msg: "two\nlines".to_owned(),
            }),
        );
    }
    all
}

fn color(matrix: ColorMatrix, range: ColorRange) -> Option<ColorSpec> {
    Some(ColorSpec { matrix, range })
}

fn frame() -> FrameRef {
    FrameRef {
        pool_id: 1,
        slot: 4,
        generation: 81,
        frame_id: 8123,
        t_ns: 270_066_000_000,
        width: 192,
        height: 192,
        format: PixelFormat::Rgb,
        stride: 576,
        view: Some(0),
        offset: 7_344_128,
        frame_width: 1280,
        frame_height: 720,
        roi: [0.0, -0.388_888_888_888_888_9, 1.0, 1.388_888_888_888_888_9],
        frame_format: Some(PixelFormat::I420),
        color: color(ColorMatrix::Bt709, ColorRange::Limited),
        epoch: Some(2),
        pixels: Some(PixelsIn::Slot),
    }
}

fn bare_frame(format: PixelFormat, stride: u32, pixels: Option<PixelsIn>) -> FrameRef {
    FrameRef {
        pool_id: 0,
        slot: 0,
        generation: 0,
        frame_id: 0,
        t_ns: -1,
        width: 2,
        height: 2,
        format,
        stride,
        view: None,
        offset: 0,
        frame_width: 2,
        frame_height: 2,
        roi: [0.0, 0.0, 1.0, 1.0],
        frame_format: None,
        color: None,
        epoch: None,
        pixels,
    }
}

/// Name, id, message.
pub fn from_parent() -> Vec<(String, u64, FromParent)> {
    let mut all = Vec::new();
    let mut add = |name: &str, id, message| all.push((name.to_owned(), id, message));
    let layout = Layout {
        format: PixelFormat::Nv12,
        width: 1280,
        height: 720,
        stride: 1280,
        color: color(ColorMatrix::Bt601, ColorRange::Full),
    };
    let pool = Pool {
        pool_id: 1,
        slots: 8,
        slot_bytes: 1_495_040,
        layout,
    };
    let zone = |anchor| Zone {
        name: "door".to_owned(),
        polygon: vec![[0.1, 0.4], [0.3, 0.4], [0.3, 1.0], [0.1, 1.0]],
        anchor,
    };
    let mask = |name: &str, kind| Mask {
        name: name.to_owned(),
        kind,
        polygon: vec![[0.0, 0.0], [1.0, 0.0], [0.5, 0.25]],
    };
    add("hello_empty", 1, FromParent::Hello(ParentHello::default()));
    add(
        "hello_full",
        1,
        FromParent::Hello(ParentHello {
            codec: "postcard/1".to_owned(),
            config: map(
                json!({"model": "face", "threshold": 0.4, "classes": ["face"], "deep": {"a": []}}),
            ),
            zones: vec![zone(Anchor::Bottom), zone(Anchor::Center)],
            pools: vec![pool.clone()],
            name: Some("face".to_owned()),
            model_dirs: Some(ModelDirs(strings(&[
                "models",
                "/usr/lib/visualpath/models",
            ]))),
            extractors: None,
            masks: Some(Masks(vec![
                mask("street", MaskKind::Motion),
                mask("poster", MaskKind::Objects),
            ])),
        }),
    );
    let extractor = |name: &str, signals: &[&str], zones: &[&str]| ExtractorSignals {
        name: name.to_owned(),
        signals: strings(signals),
        zones: strings(zones),
    };
    add(
        "hello_fusion",
        1,
        FromParent::Hello(ParentHello {
            codec: "json/1".to_owned(),
            config: map(json!({"min_count": 2})),
            name: Some("crowd".to_owned()),
            extractors: Some(Extractors(vec![
                extractor("person", &["count", "max_confidence"], &["door"]),
                extractor("face", &[], &[]),
            ])),
            ..ParentHello::default()
        }),
    );
    add("ping", 2, FromParent::Ping(Nothing {}));
    add(
        "extract_full",
        3,
        FromParent::Extract(Box::new(Extract {
            frame: frame(),
            deps: vec![observation()],
            deadline_ms: Some(1000),
        })),
    );
    for (name, format, stride, pixels) in [
        ("i420", PixelFormat::I420, 2, None),
        ("nv12", PixelFormat::Nv12, 2, Some(PixelsIn::Raw)),
        ("yuyv", PixelFormat::Yuyv, 4, Some(PixelsIn::Slot)),
        ("bgr", PixelFormat::Bgr, 6, Some(PixelsIn::Jpeg)),
        ("grey", PixelFormat::Grey, 2, None),
    ] {
        let frame = bare_frame(format, stride, pixels);
        add(
            &format!("extract_{name}"),
            3,
            FromParent::Extract(Box::new(Extract {
                frame,
                deps: vec![],
                deadline_ms: None,
            })),
        );
    }
    let extreme = FrameRef {
        pool_id: u32::MAX,
        slot: u32::MAX,
        generation: u64::MAX,
        frame_id: u64::MAX,
        t_ns: i64::MIN,
        width: u32::MAX,
        height: u32::MAX,
        stride: u32::MAX,
        view: Some(u32::MAX),
        offset: u64::MAX,
        frame_width: u32::MAX,
        frame_height: u32::MAX,
        roi: [f64::MIN, -0.0, 5e-324, f64::MAX],
        epoch: Some(u32::MAX),
        ..frame()
    };
    add(
        "extract_extreme",
        u64::MAX,
        FromParent::Extract(Box::new(Extract {
            frame: extreme,
            deps: vec![extreme_observation()],
            deadline_ms: Some(u32::MAX),
        })),
    );
    add("fuse_empty", 4, FromParent::Fuse(Fuse::default()));
    add(
        "fuse_full",
        4,
        FromParent::Fuse(Fuse {
            frame_id: 8123,
            t_ns: 270_066_000_000,
            // Not in the order of their names: the config's.
            observations: ByExtractor(vec![
                ("person".to_owned(), vec![observation(), observation()]),
                ("face".to_owned(), vec![]),
            ]),
            missing: strings(&["motion"]),
            source: Some("cam0".to_owned()),
            unix_ns: Some(1_795_377_600_123_456_789),
        }),
    );
    add(
        "fuse_extreme",
        u64::MAX,
        FromParent::Fuse(Fuse {
            frame_id: u64::MAX,
            t_ns: i64::MIN,
            source: Some("x".repeat(256)),
            unix_ns: Some(i64::MIN),
            ..Fuse::default()
        }),
    );
    add("reset", 5, FromParent::Reset(Nothing {}));
    add("pool", 6, FromParent::Pool(pool));
    add(
        "pool_extreme",
        6,
        FromParent::Pool(Pool {
            pool_id: u32::MAX,
            slots: u32::MAX,
            slot_bytes: u64::MAX,
            layout: Layout {
                color: None,
                ..layout
            },
        }),
    );
    add("shutdown", 7, FromParent::Shutdown(Nothing {}));
    add(
        "error",
        8,
        FromParent::Error(ErrorReport {
            error: "unknown message type \"dance\"".to_owned(),
            traceback: None,
            kind: Some(ErrorKind::Protocol),
        }),
    );
    let gap = |from_ns, to_ns| FromParent::Gap(Gap { from_ns, to_ns });
    add("gap", 9, gap(270_066_000_000, 275_066_000_000));
    add("gap_extreme", 9, gap(i64::MIN, i64::MAX));
    let end = |t_ns| FromParent::End(End { t_ns });
    add("end", 10, end(275_066_000_000));
    add("end_extreme", 10, end(i64::MIN));
    all
}

/// Name, direction, what is wrong, JSON.
#[allow(
    dead_code,
    reason = "not every test that includes this file refuses something"
)]
pub const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "version",
        "child",
        "version",
        r#"{"v":2,"id":7,"type":"ok"}"#,
    ),
    ("type", "child", "type", r#"{"v":1,"id":7,"type":"dance"}"#),
    (
        "other_direction",
        "parent",
        "type",
        r#"{"v":1,"id":7,"type":"observations","items":[],"timing":{"extract_ns":0,"total_ns":0}}"#,
    ),
    ("nothing", "child", "envelope", ""),
    ("array", "child", "envelope", r#"[1,7,"ok"]"#),
    ("no_version", "child", "envelope", r#"{"id":7,"type":"ok"}"#),
    ("cut", "child", "envelope", r#"{"v":1,"id":7,"type":"ok""#),
    (
        "two",
        "child",
        "envelope",
        r#"{"v":1,"id":7,"type":"ok"}{}"#,
    ),
    (
        "negative_id",
        "child",
        "envelope",
        r#"{"v":1,"id":-7,"type":"ok"}"#,
    ),
    (
        "nan",
        "child",
        "envelope",
        r#"{"v":1,"id":7,"type":"progress","percent":NaN,"text":""}"#,
    ),
    (
        "infinite",
        "child",
        "body",
        r#"{"v":1,"id":7,"type":"progress","percent":1e999,"text":""}"#,
    ),
    (
        "null_number",
        "child",
        "body",
        r#"{"v":1,"id":7,"type":"progress","percent":null,"text":""}"#,
    ),
    (
        "missing_field",
        "child",
        "body",
        r#"{"v":1,"id":7,"type":"progress","percent":1}"#,
    ),
    (
        "wrong_form",
        "parent",
        "body",
        r#"{"v":1,"id":7,"type":"fuse","frame_id":0.5,"t_ns":0,"observations":{},"missing":[]}"#,
    ),
    (
        "gap_without_end",
        "parent",
        "body",
        r#"{"v":1,"id":7,"type":"gap","from_ns":0}"#,
    ),
    (
        "end_is_no_float",
        "parent",
        "body",
        r#"{"v":1,"id":7,"type":"end","t_ns":1.5}"#,
    ),
    (
        "bool_is_no_number",
        "child",
        "body",
        r#"{"v":1,"id":7,"type":"progress","percent":true,"text":""}"#,
    ),
    (
        "unknown_level",
        "child",
        "body",
        r#"{"v":1,"id":7,"type":"log","level":"loud","msg":""}"#,
    ),
    (
        "too_deep",
        "child",
        "complex",
        r#"{"v":1,"id":7,"type":"trace","record":{"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}"#,
    ),
];
