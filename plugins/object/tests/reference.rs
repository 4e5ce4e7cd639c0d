//! The plugin on real surveillance video, against the answers of an independent decoder.
//!
//! `fixtures/object_vtest.json` was made by a Python decode with ONNX Runtime at threshold 0.4 on
//! every 50th frame of vtest.avi. Promised: every box of it is found (IoU ≥ 0.9, score ± 0.03), and
//! nothing else but what may have been just under the threshold there. Both runtimes agree with
//! each other to IoU ≥ 0.99.
//!
//! Run `cross/setup.sh` first: it fetches the model, ONNX Runtime's library and the video.
#![allow(clippy::unwrap_used, reason = "test code outside a #[test]")]

mod support;

use support::{Found, assets, frames, iou, run};

const SCORE_TOLERANCE: f64 = 0.03;
const LEAST_IOU: f64 = 0.9;

#[derive(Debug)]
struct Reference {
    frame: usize,
    objects: Vec<Found>,
}

fn reference() -> Vec<Reference> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/object_vtest.json")).unwrap();
    let mut frames: Vec<Reference> = json["frames"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(frame, objects)| Reference {
            frame: frame.parse().unwrap(),
            objects: objects
                .as_array()
                .unwrap()
                .iter()
                .map(|o| Found {
                    label: o["label"].as_str().unwrap().to_owned(),
                    score: o["score"].as_f64().unwrap(),
                    // The plugin clips boxes to the picture, the reference does not.
                    bbox: std::array::from_fn(|i| o["bbox"][i].as_f64().unwrap().clamp(0.0, 1.0)),
                })
                .collect(),
        })
        .collect();
    frames.sort_by_key(|f| f.frame);
    frames
}

/// What the plugin finds, with scores so low that nothing of the reference can be missed.
fn found(runtime: &str) -> Vec<(usize, Vec<Found>)> {
    let video = frames(&assets().join("videos/vtest.avi"), 50);
    run(runtime, 0.4 - SCORE_TOLERANCE, &video)
}

fn meets_the_reference(runtime: &str) {
    let found = found(runtime);
    let reference = reference();
    assert_eq!(found.len(), reference.len(), "every 50th of 795 frames");
    let mut compared = 0;
    for (Reference { frame, objects }, (number, found)) in reference.iter().zip(&found) {
        assert_eq!(frame, number);
        let mut left: Vec<&Found> = found.iter().collect();
        for wanted in objects {
            let same = |f: &&Found| f.label == wanted.label;
            let best = left
                .iter()
                .enumerate()
                .filter(|(_, f)| same(f))
                .map(|(i, f)| (i, iou(&f.bbox, &wanted.bbox)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            let Some((index, overlap)) = best.filter(|(_, overlap)| *overlap >= LEAST_IOU) else {
                panic!("{runtime}, frame {frame}: {wanted:?} not among {found:?}");
            };
            let got = left.remove(index);
            assert!(
                (got.score - wanted.score).abs() <= SCORE_TOLERANCE,
                "{runtime}, frame {frame}: {wanted:?} found as {got:?} (IoU {overlap})"
            );
            compared += 1;
        }
        for extra in left {
            assert!(
                extra.score <= 0.4 + SCORE_TOLERANCE,
                "{runtime}, frame {frame}: {extra:?} is not in the reference"
            );
        }
    }
    assert!(compared >= 80, "only {compared} boxes compared");
}

#[test]
fn tract_meets_the_reference_on_real_video() {
    meets_the_reference("tract");
}

#[test]
fn onnx_runtime_meets_the_reference_on_real_video() {
    meets_the_reference("ort");
}

#[test]
fn both_runtimes_find_the_same_boxes() {
    let (tract, ort) = (found("tract"), found("ort"));
    let least = 0.4 - SCORE_TOLERANCE + 1e-3;
    for ((frame, tract), (_, ort)) in tract.iter().zip(&ort) {
        for (one, other) in [(tract, ort), (ort, tract)] {
            // A score within a hair of the threshold may fall on either side.
            for object in one.iter().filter(|o| o.score > least) {
                assert!(
                    other.iter().any(|o| {
                        o.label == object.label
                            && iou(&o.bbox, &object.bbox) >= 0.99
                            && (o.score - object.score).abs() < 1e-3
                    }),
                    "frame {frame}: {object:?} not in {other:?}"
                );
            }
        }
    }
}
