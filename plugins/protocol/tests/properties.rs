//! For any message: what is written is read back. For any bytes: no panic, and no more memory than
//! the bytes justify.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "support/samples.rs"]
mod samples;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::{Arc, Mutex};
use visualpath_core::{
    Aligned, AlignedEntry, DropReason, FusionInput, Held, Name, Outcome, Signals,
};
use visualpath_protocol::bounds::MAX_MESSAGE_BYTES;
use visualpath_protocol::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time, so that what is counted is its own.
static ALONE: Mutex<()> = Mutex::new(());

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no other", |n| n.is_finite())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn map() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-n].{0,4}", json(), 0..4).prop_map(|m| m.into_iter().collect())
}

fn signals() -> impl Strategy<Value = Signals> {
    prop::collection::btree_map(".{0,8}", finite(), 0..6).prop_map(|m| m.into_iter().collect())
}

fn core_object() -> impl Strategy<Value = visualpath_core::Object> {
    (
        any::<Option<u64>>(),
        ".{0,8}",
        finite(),
        prop::array::uniform4(finite()),
        finite(),
        prop::collection::vec("[a-z]{1,4}", 0..3),
        prop::collection::vec(prop::array::uniform3(finite()), 0..3),
    )
        .prop_map(|(track_id, label, score, bbox, area, zones, keypoints)| {
            visualpath_core::Object {
                track_id,
                label,
                score,
                bbox,
                area,
                zones,
                keypoints,
            }
        })
}

fn core_observation() -> impl Strategy<Value = visualpath_core::Observation> {
    (
        any::<(u64, i64, i64)>(),
        signals(),
        prop::collection::vec(core_object(), 0..3),
        map(),
        map(),
        prop::option::of(finite()),
    )
        .prop_map(
            |((frame_id, t_ns, timing_ns), signals, objects, other, metadata, confidence)| {
                visualpath_core::Observation {
                    extractor: Name::new("person").unwrap(),
                    frame_id,
                    t_ns,
                    signals,
                    data: visualpath_core::Data { objects, other },
                    metadata,
                    confidence,
                    timing_ns,
                }
            },
        )
}

fn observation() -> impl Strategy<Value = Observation> {
    (core_observation(), any::<Option<i64>>(), ".{0,8}").prop_map(|(core, t_ns, extractor)| {
        Observation {
            t_ns,
            extractor,
            ..Observation::from_core(&core).unwrap()
        }
    })
}

fn observations() -> impl Strategy<Value = Vec<Observation>> {
    prop::collection::vec(observation(), 0..3)
}

/// A sample, or one of the types with much in them, made at random.
fn from_child() -> impl Strategy<Value = FromChild> {
    let samples: Vec<FromChild> = samples::from_child().into_iter().map(|s| s.2).collect();
    prop_oneof![
        1 => prop::sample::select(samples),
        2 => (observations(), any::<(i64, i64)>()).prop_map(|(items, (extract_ns, total_ns))| {
            FromChild::Observations(Observations { items, timing: Timing { extract_ns, total_ns } })
        }),
        1 => (".{0,20}", any::<Option<String>>()).prop_map(|(error, traceback)| {
            FromChild::Error(ErrorReport { error, traceback, kind: None })
        }),
        1 => map().prop_map(|m| FromChild::Trace(TraceRecord { record: m.into() })),
        1 => (finite(), any::<String>())
            .prop_map(|(percent, text)| FromChild::Progress(Progress { percent, text })),
        1 => (signals(), map(), prop::collection::vec(core_object(), 0..3)).prop_map(|(s, m, o)| {
            let Some(FromChild::Result(mut answer)) = samples::from_child().into_iter()
                .find(|s| s.0 == "result_full").map(|s| s.2) else { unreachable!() };
            for trigger in &mut answer.triggers {
                trigger.signals = s.clone();
                trigger.objects = o.iter().cloned().map(Into::into).collect();
                trigger.metadata = m.clone().into();
            }
            FromChild::Result(answer)
        }),
    ]
}

fn from_parent() -> impl Strategy<Value = FromParent> {
    let samples: Vec<FromParent> = samples::from_parent().into_iter().map(|s| s.2).collect();
    let by_extractor = prop::collection::btree_map(".{0,8}", observations(), 0..4);
    prop_oneof![
        1 => prop::sample::select(samples),
        2 => (observations(), any::<Option<u32>>(), prop::array::uniform4(finite()), any::<(u32, u64, i64)>())
            .prop_map(|(deps, deadline_ms, roi, (slot, frame_id, t_ns))| {
                let Some(FromParent::Extract(mut extract)) = samples::from_parent().into_iter()
                    .find(|s| s.0 == "extract_full").map(|s| s.2) else { unreachable!() };
                extract.frame = FrameRef { roi, slot, frame_id, t_ns, ..extract.frame };
                FromParent::Extract(Box::new(Extract { deps, deadline_ms, ..*extract }))
            }),
        2 => (
            any::<(u64, i64, Option<i64>)>(), by_extractor, prop::collection::vec(".{0,8}", 0..4),
            prop::option::of(".{0,8}"),
        ).prop_map(|((frame_id, t_ns, unix_ns), observations, missing, source)| {
            let observations = ByExtractor(observations.into_iter().collect());
            FromParent::Fuse(Fuse { frame_id, t_ns, observations, missing, source, unix_ns })
        }),
        1 => any::<(i64, i64)>()
            .prop_map(|(from_ns, to_ns)| FromParent::Gap(Gap { from_ns, to_ns })),
        1 => any::<i64>().prop_map(|t_ns| FromParent::End(End { t_ns })),
        1 => prop::collection::vec((".{0,8}", strings(), strings()), 0..4).prop_map(|list| {
            let each = |(name, signals, zones)| ExtractorSignals { name, signals, zones };
            let extractors = Some(Extractors(list.into_iter().map(each).collect()));
            FromParent::Hello(ParentHello { extractors, ..ParentHello::default() })
        }),
    ]
}

fn strings() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,8}", 0..4)
}

/// One entry per extractor: seen (maybe nothing), or anything else that can become of a frame.
fn core_aligned() -> impl Strategy<Value = Aligned> {
    let entry = |(index, seen, how): (usize, Option<Vec<visualpath_core::Observation>>, u8)| {
        let outcome = match (seen, how % 4) {
            (Some(observations), _) => Some(Outcome::Observed(Arc::new(Held {
                frame_id: 1,
                t_ns: 2,
                observations,
                signals: Signals::new(),
                timing_ns: 3,
            }))),
            (None, 0) => None,
            (None, 1) => Some(Outcome::Failed("no".into())),
            (None, 2) => Some(Outcome::TimedOut),
            (None, _) => Some(Outcome::Dropped(DropReason::QueueFull)),
        };
        AlignedEntry {
            extractor: Name::new(&format!("extractor{index}")).unwrap(),
            outcome,
            held: None,
        }
    };
    let seen = prop::option::of(prop::collection::vec(core_observation(), 0..3));
    let entries = prop::collection::vec((seen, any::<u8>()), 0..5);
    (any::<(u64, i64, i64)>(), entries).prop_map(move |((frame_id, t_ns, unix_ns), list)| Aligned {
        source: Name::new("cam0").unwrap(),
        frame_id,
        t_ns,
        unix_ns,
        entries: list
            .into_iter()
            .enumerate()
            .map(|(i, (seen, how))| entry((i, seen, how)))
            .collect(),
    })
}

fn comes_back<M: Message + PartialEq + std::fmt::Debug>(id: u64, message: &M) {
    for codec in [Codec::Json1, Codec::Postcard1] {
        let bytes = match encode(codec, id, message) {
            Err(EncodeError::HelloIsJson) => continue,
            bytes => bytes.unwrap(),
        };
        let back = decode::<M>(codec, &bytes).unwrap();
        assert_eq!((back.id, &back.message), (id, message), "{codec}");
        assert_eq!(
            encode(codec, id, &back.message).unwrap(),
            bytes,
            "{codec}: the same bytes"
        );
    }
}

/// Takes the bytes or says why not; what it takes is a message like any other.
fn stays_in_bounds<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    for codec in [Codec::Json1, Codec::Postcard1] {
        let region = Region::new(ALLOCATOR);
        let told = decode::<M>(codec, bytes);
        let allocated = region.change().bytes_allocated;
        // The worst is a JSON `{"":0},`: 7 bytes, one node of a map (about 630 bytes).
        assert!(
            allocated <= 4096 + 160 * bytes.len(),
            "{codec}: {allocated} for {}",
            bytes.len()
        );
        match told {
            Ok(envelope) => comes_back(envelope.id, &envelope.message),
            Err(error) => {
                let words = error.to_string();
                assert!((1..1000).contains(&words.len()), "{words}");
                comes_back(error.id().unwrap_or(0), &FromChild::Error(error.answer()));
            }
        }
    }
}

fn changed(mut bytes: Vec<u8>, changes: &[(Index, u8, u8)]) -> Vec<u8> {
    for (at, kind, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind % 5 {
            0 => bytes[at] = *byte,
            1 => bytes[at] ^= 1 << (byte % 8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *byte),
            _ => drop(bytes.splice(at..at, [0xFF; 4])),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_of_a_child_comes_back(id: u64, message in from_child()) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        comes_back(id, &message);
    }

    #[test]
    fn any_message_of_a_parent_comes_back(id: u64, message in from_parent()) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        comes_back(id, &message);
    }

    #[test]
    fn any_observation_of_core_comes_back(core in core_observation(), json: bool) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let codec = if json { Codec::Json1 } else { Codec::Postcard1 };
        let items = vec![Observation::from_core(&core).unwrap()];
        let sent = FromChild::Observations(Observations { items, timing: Timing::default() });
        let bytes = encode(codec, 1, &sent).unwrap();
        let FromChild::Observations(mut got) = decode::<FromChild>(codec, &bytes).unwrap().message else {
            unreachable!()
        };
        let back = got.items.remove(0).into_core(&Name::new("person").unwrap(), 0).unwrap();
        prop_assert_eq!(back, core);
    }

    #[test]
    fn a_fusion_is_told_what_each_extractor_saw_and_which_saw_nothing_of_it(
        aligned in core_aligned(), json: bool,
    ) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let codec = if json { Codec::Json1 } else { Codec::Postcard1 };
        let asked = FromParent::from_input(FusionInput::Aligned(&aligned)).unwrap();
        let bytes = encode(codec, 1, &asked).unwrap();
        let FromParent::Fuse(fuse) = decode::<FromParent>(codec, &bytes).unwrap().message else {
            unreachable!()
        };
        prop_assert_eq!((fuse.frame_id, fuse.t_ns), (aligned.frame_id, aligned.t_ns));
        prop_assert_eq!(fuse.unix_ns, Some(aligned.unix_ns));
        prop_assert_eq!(fuse.source.as_deref(), Some("cam0"));
        let (mut seen, mut missing) = (fuse.observations.0.into_iter(), fuse.missing.into_iter());
        let person = Name::new("person").unwrap();
        for entry in &aligned.entries {
            let Some(Outcome::Observed(held)) = &entry.outcome else {
                prop_assert_eq!(missing.next().unwrap(), entry.extractor.as_str());
                continue;
            };
            let (extractor, observations) = seen.next().unwrap();
            prop_assert_eq!(extractor.as_str(), entry.extractor.as_str());
            let back: Vec<_> =
                observations.into_iter().map(|o| o.into_core(&person, 0).unwrap()).collect();
            prop_assert_eq!(&back, &held.observations);
        }
        prop_assert_eq!((seen.next(), missing.next()), (None, None));
    }

    #[test]
    fn random_bytes_are_told(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        stays_in_bounds::<FromChild>(&bytes);
        stays_in_bounds::<FromParent>(&bytes);
    }

    #[test]
    fn damaged_messages_are_told(
        child in from_child(),
        parent in from_parent(),
        json: bool,
        changes in prop::collection::vec(any::<(Index, u8, u8)>(), 1..4),
    ) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let codec = if json { Codec::Json1 } else { Codec::Postcard1 };
        let bytes = [encode(codec, 9, &child), encode(codec, 9, &parent)];
        for bytes in bytes.into_iter().flatten() {
            let bytes = changed(bytes, &changes);
            stays_in_bounds::<FromChild>(&bytes);
            stays_in_bounds::<FromParent>(&bytes);
        }
    }
}

/// Lengths that nothing follows, and the densest things that there are.
#[test]
fn a_large_message_costs_no_more_than_it_weighs() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let claim = [5, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    stays_in_bounds::<FromChild>(&claim);
    let fill = |head: &[u8], unit: &[u8]| {
        let mut bytes = head.to_vec();
        while bytes.len() + unit.len() < MAX_MESSAGE_BYTES {
            bytes.extend_from_slice(unit);
        }
        bytes
    };
    // Observations of a few bytes each, maps of nothing, brackets.
    stays_in_bounds::<FromChild>(&fill(
        &claim,
        &[0, 0, 0, 0, 2, b'{', b'}', 2, b'{', b'}', 0, 0],
    ));
    stays_in_bounds::<FromChild>(&fill(&claim, &[0]));
    stays_in_bounds::<FromChild>(&fill(
        br#"{"v":1,"id":1,"type":"trace","record":{"a":["#,
        b"{\"\":0},",
    ));
    stays_in_bounds::<FromChild>(&fill(
        br#"{"v":1,"id":1,"type":"trace","record":{"a":"#,
        b"[",
    ));
    let over = vec![b' '; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(
        decode::<FromChild>(Codec::Json1, &over),
        Err(DecodeError::TooLong { .. })
    ));
}

#[test]
fn a_fusion_is_told_of_gaps_the_end_and_its_extractors() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let told = FromParent::from_input(FusionInput::Gap {
        from_ns: -1,
        to_ns: 2,
    })
    .unwrap();
    assert_eq!(
        told,
        FromParent::Gap(Gap {
            from_ns: -1,
            to_ns: 2
        })
    );
    let told = FromParent::from_input(FusionInput::End { t_ns: 3 }).unwrap();
    assert_eq!(told, FromParent::End(End { t_ns: 3 }));

    let person = visualpath_core::ExtractorSignals {
        name: Name::new("person").unwrap(),
        signals: vec!["count".to_owned()],
        zones: vec![Name::new("door").unwrap()],
    };
    let cx = visualpath_core::FusionContext {
        name: Name::new("crowd").unwrap(),
        config: Map::new(),
        extractors: vec![person.clone()],
    };
    let Extractors(mut told) = Extractors::from(&cx);
    assert_eq!(
        visualpath_core::ExtractorSignals::try_from(told.remove(0)),
        Ok(person)
    );
    let unnamed = ExtractorSignals::default();
    let error = visualpath_core::ExtractorSignals::try_from(unnamed).unwrap_err();
    assert!(error.to_string().starts_with("extractors:"), "{error}");
}

#[test]
fn too_many_extractors_of_a_fusion_are_never_written() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let hello = |count| {
        let extractors = Some(Extractors(vec![ExtractorSignals::default(); count]));
        FromParent::Hello(ParentHello {
            extractors,
            ..ParentHello::default()
        })
    };
    comes_back(1, &hello(64));
    let told = encode(Codec::Json1, 1, &hello(65)).unwrap_err();
    assert!(told.to_string().contains("extractors"), "{told}");
}

#[test]
fn what_breaks_a_bound_is_never_written() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(FromChild::Observations(full)) = samples::from_child()
        .into_iter()
        .find(|s| s.0 == "observations_full")
        .map(|s| s.2)
    else {
        unreachable!()
    };
    let refused = |change: &dyn Fn(&mut Observations)| {
        let mut broken = full.clone();
        change(&mut broken);
        for codec in [Codec::Json1, Codec::Postcard1] {
            let told = encode(codec, 1, &FromChild::Observations(broken.clone())).unwrap_err();
            assert!(told.to_string().contains("items"), "{told}");
        }
    };
    refused(&|o| o.items[0].signals.set("score", f64::NAN));
    refused(&|o| o.items[0].confidence = Some(f64::INFINITY));
    refused(&|o| o.items = vec![o.items[0].clone(); 257]);
    refused(&|o| o.items[0].extractor = "x".repeat(257));
    let deep = (0..60).fold(Value::Null, |inside, _| Value::Array(vec![inside]));
    refused(&|o| {
        let mut map = Map::new();
        map.insert("a".to_owned(), deep.clone());
        o.items[0].data = map.into();
    });
    refused(&|o| {
        let mut map = Map::new();
        map.insert("a".to_owned(), vec![0; 66_000].into());
        o.items[0].data = map.into();
    });
}
