//! The decoder against what the papers and a naive reference say.

use std::path::Path;

use proptest::prelude::*;
use visualpath_onnx::ModelCard;

use super::*;

const CARD: &str = include_str!("../../../models/ssd-oidv4.toml");

fn model_card() -> ModelCard {
    ModelCard::parse(Path::new("card"), CARD).unwrap()
}

fn ssd_card() -> SsdCard {
    model_card()
        .decoder("ssd", &SsdCard::KEYS, &SsdCard::ROLES)
        .unwrap()
}

fn settings() -> SsdSettings {
    SsdSettings {
        threshold: 0.4,
        nms_iou: 0.5,
        max_objects: 100,
        classes: (1..24).collect(),
    }
}

fn decoder(settings: SsdSettings) -> SsdDecoder {
    SsdDecoder::new(&ssd_card(), (300, 300), 24, settings).unwrap()
}

/// A small decoder: one grid of 2×2 cells with three shapes, four classes.
fn small(settings: SsdSettings) -> SsdDecoder {
    let card = SsdCard {
        anchors: 12,
        strides: vec![150],
        ..ssd_card()
    };
    SsdDecoder::new(&card, (300, 300), 4, settings).unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn anchors_are_those_of_the_papers_generator() {
    let decoder = decoder(settings());
    let anchors = decoder.anchors();
    // 19², 10², 5², 3², 2², 1² cells; 3 shapes in the first grid, 6 in the others.
    let counts = [19 * 19 * 3, 100 * 6, 25 * 6, 9 * 6, 4 * 6, 6];
    assert_eq!(anchors.len(), counts.iter().sum::<usize>());
    assert_eq!(anchors.len(), 1917);
    // First cell: squares of 0.1, then 2:1 and 1:2 of 0.2.
    let first = anchors[0];
    assert!(close(first.cx, 0.5 / 19.0) && close(first.cy, 0.5 / 19.0));
    assert!(close(first.w, 0.1) && close(first.h, 0.1));
    assert!(close(anchors[1].w, 0.2 * 2f64.sqrt()) && close(anchors[1].h, 0.2 / 2f64.sqrt()));
    assert!(close(anchors[2].w, anchors[1].h) && close(anchors[2].h, anchors[1].w));
    // Along a row first.
    assert!(close(anchors[3].cx, 1.5 / 19.0) && close(anchors[3].cy, first.cy));
    // Second grid: scale 0.35, and the interpolated square last.
    let second = anchors[counts[0]];
    assert!(close(second.w, 0.35) && close(second.cx, 0.05));
    assert!(close(anchors[counts[0] + 5].w, (0.35f64 * 0.5).sqrt()));
    // The last grid is one cell, its interpolated square reaches towards 1.
    let last = anchors[1916];
    assert!(close(last.cx, 0.5) && close(last.w, 0.95f64.sqrt()) && close(last.h, last.w));
}

#[test]
fn a_card_that_does_not_add_up_is_refused() {
    let wrong = |change: fn(&mut SsdCard)| {
        let mut card = ssd_card();
        change(&mut card);
        SsdDecoder::new(&card, (300, 300), 24, settings()).unwrap_err()
    };
    let (key, message) = wrong(|c| c.anchors = 1916);
    assert!(key == "anchors" && message.contains("1917"), "{message}");
    assert_eq!(wrong(|c| c.strides[0] = 0).0, "strides");
    assert_eq!(wrong(|c| c.box_order[0] = "z".to_owned()).0, "box_order");
    assert_eq!(wrong(|c| c.variances[1] = 0.0).0, "variances");
    assert_eq!(wrong(|c| c.score = "softmax".to_owned()).0, "score");
    assert_eq!(wrong(|c| c.background = Some(24)).0, "background");
    assert_eq!(wrong(|c| c.aspects[0] = -1.0).0, "aspects");
}

#[test]
fn the_cards_keys_are_all_known() {
    let text = CARD.replace("[ssd]", "[ssd]\nanchor = 1");
    let card = ModelCard::parse(Path::new("card"), &text).unwrap();
    let error = card
        .decoder::<SsdCard>("ssd", &SsdCard::KEYS, &SsdCard::ROLES)
        .unwrap_err();
    assert!(error.to_string().contains("`ssd.anchor`"), "{error}");
}

#[test]
fn a_box_is_the_anchor_moved_and_scaled() {
    let mut decoder = decoder(settings());
    let mut boxes = vec![0f32; 1917 * 4];
    let mut scores = vec![-20f32; 1917 * 24];
    // Anchor 3: cx 1.5/19, cy 0.5/19, 0.1 square. y + 10/10·h, x − 5/10·w, h·e^(5/5), w·e^0.
    boxes[12..16].copy_from_slice(&[10.0, -5.0, 5.0, 0.0]);
    scores[3 * 24 + 4] = 0.0;
    let found = run(&mut decoder, &boxes, &scores).unwrap().to_vec();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].class, 4);
    assert!(close(found[0].score, 0.5));
    let (cx, cy) = (1.5 / 19.0 - 0.05, 0.5 / 19.0 + 0.1);
    let (w, h) = (0.1, 0.1 * 1f64.exp());
    let expected = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
    for (got, want) in found[0].bbox.iter().zip(expected) {
        assert!(close(*got, want), "{:?} {expected:?}", found[0].bbox);
    }
}

#[test]
fn the_threshold_is_met_exactly_and_the_background_never_reported() {
    // The logit of 0.5 is 0, in any precision.
    let mut decoder = decoder(SsdSettings {
        threshold: 0.5,
        ..settings()
    });
    let boxes = vec![0f32; 1917 * 4];
    let mut scores = vec![-20f32; 1917 * 24];
    scores[5 * 24] = 9.0;
    scores[100 * 24 + 1] = 0.0;
    scores[900 * 24 + 2] = -1e-5;
    let found = run(&mut decoder, &boxes, &scores).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].class, 1);
}

#[test]
fn a_tensor_of_another_shape_is_an_error() {
    let mut decoder = decoder(settings());
    let (boxes, scores) = (vec![0f32; 1917 * 4], vec![0f32; 1917 * 23]);
    let error = decoder.decode(
        TensorView {
            shape: &[1, 1917, 4],
            data: &boxes,
        },
        TensorView {
            shape: &[1, 1917, 23],
            data: &scores,
        },
    );
    assert!(matches!(
        error,
        Err(SsdError::Shape {
            output: "scores",
            ..
        })
    ));
    let error = decoder.decode(
        TensorView {
            shape: &[1, 1917, 4],
            data: &boxes[1..],
        },
        TensorView {
            shape: &[1, 1917, 24],
            data: &scores,
        },
    );
    assert!(matches!(
        error,
        Err(SsdError::Shape {
            output: "boxes",
            ..
        })
    ));
}

fn run<'d>(
    decoder: &'d mut SsdDecoder,
    boxes: &[f32],
    scores: &[f32],
) -> Result<&'d [Detection], SsdError> {
    let (anchors, classes) = (decoder.anchors.len(), decoder.class_count);
    decoder.decode(
        TensorView {
            shape: &[1, anchors, 4],
            data: boxes,
        },
        TensorView {
            shape: &[1, anchors, classes],
            data: scores,
        },
    )
}

/// Class by class, always the best that is left, everything that overlaps it removed: the
/// definition, quadratic and without a trick.
fn naive(decoder: &SsdDecoder, boxes: &[f32], scores: &[f32]) -> Vec<Detection> {
    let mut kept = Vec::new();
    for class in &decoder.settings.classes {
        let mut left: Vec<(usize, f32)> = (0..decoder.anchors.len())
            .map(|a| (a, scores[a * decoder.class_count + class]))
            .filter(|(_, logit)| sigmoid(f64::from(*logit)) >= decoder.settings.threshold)
            .collect();
        while !left.is_empty() {
            let best = (0..left.len())
                .reduce(|a, b| if left[b].1 > left[a].1 { b } else { a })
                .unwrap();
            let (anchor, logit) = left.remove(best);
            let bbox = decoder.decode_box(anchor, boxes).unwrap();
            left.retain(|(other, _)| {
                iou(&bbox, &decoder.decode_box(*other, boxes).unwrap()) <= decoder.settings.nms_iou
            });
            kept.push(Detection {
                class: *class,
                score: sigmoid(f64::from(logit)),
                bbox,
            });
        }
    }
    kept
}

fn key(d: &Detection) -> (usize, u64, [u64; 4]) {
    (d.class, d.score.to_bits(), d.bbox.map(f64::to_bits))
}

/// Numbers as broken models give them.
fn wild() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -6f32..6.0,
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_tensor_gives_finite_boxes_or_an_error(
        boxes in prop::collection::vec(wild(), 12 * 4),
        scores in prop::collection::vec(wild(), 12 * 4),
        max_objects in 1usize..20,
    ) {
        let mut decoder = small(SsdSettings { max_objects, classes: vec![1, 2, 3], ..settings() });
        if let Ok(found) = run(&mut decoder, &boxes, &scores) {
            prop_assert!(found.len() <= max_objects);
            for d in found {
                prop_assert!(d.bbox.iter().all(|v| v.is_finite()), "{d:?}");
                prop_assert!(d.bbox[0] <= d.bbox[2] && d.bbox[1] <= d.bbox[3], "{d:?}");
                prop_assert!((0.4 - 1e-6..=1.0).contains(&d.score), "{d:?}");
                prop_assert!((1..4).contains(&d.class));
            }
        }
    }

    #[test]
    fn suppression_is_that_of_the_naive_definition(
        boxes in prop::collection::vec(-8f32..8.0, 12 * 4),
        scores in prop::collection::vec(-3f32..3.0, 12 * 4),
        nms_iou in 0.05f64..0.95,
    ) {
        // At a threshold where no logit of f32 lies between the two comparisons.
        let mut decoder =
            small(SsdSettings { threshold: 0.5, nms_iou, max_objects: 100, classes: vec![1, 2, 3] });
        let mut found = run(&mut decoder, &boxes, &scores).unwrap().to_vec();
        prop_assert!(found.windows(2).all(|w| w[0].score >= w[1].score), "best first");
        let mut expected = naive(&decoder, &boxes, &scores);
        found.sort_by_key(key);
        expected.sort_by_key(key);
        prop_assert_eq!(found, expected);
    }
}
