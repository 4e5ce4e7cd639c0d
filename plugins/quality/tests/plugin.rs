//! What the numbers say about pictures whose faults are known.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test; its numbers are small"
)]

use serde_json::json;
use visualpath_core::{
    ColorSpec, FrameMeta, FrameView, ImageLayout, Name, Observation, PixelFormat, PluginContext,
    Roi,
};
use visualpath_plugin_quality::plugin;

const W: usize = 320;
const H: usize = 240;

fn context(config: serde_json::Value) -> PluginContext {
    PluginContext {
        name: Name::new("quality").unwrap(),
        config: config.as_object().unwrap().clone(),
        zones: vec![],
        masks: vec![],
        model_dirs: vec![],
    }
}

fn look(config: serde_json::Value, picture: &[f64]) -> Observation {
    let layout = ImageLayout::packed(PixelFormat::Grey, W as u32, H as u32, ColorSpec::default());
    let pixels: Vec<u8> = picture
        .iter()
        .map(|p| p.round().clamp(0.0, 255.0) as u8)
        .collect();
    let view = FrameView {
        meta: FrameMeta {
            frame_id: 3,
            t_ns: 30,
            epoch: 0,
            layout,
        },
        layout,
        roi: Roi::FULL,
        pixels: &pixels,
    };
    let mut extractor = plugin().create(&context(config)).unwrap();
    extractor.extract(&view, &[]).unwrap().remove(0)
}

fn signal(o: &Observation, name: &str) -> f64 {
    o.signals.get(name).unwrap()
}

/// Blocks of all sizes and levels, with edges.
fn scene() -> Vec<f64> {
    (0..W * H)
        .map(|i| {
            let (x, y) = (i % W, i / W);
            let block = (x / 23 * 7 + y / 17 * 13) % 9;
            40.0 + block as f64 * 20.0
        })
        .collect()
}

/// The mean over a square of 2·`radius` + 1.
fn blurred(picture: &[f64], radius: usize) -> Vec<f64> {
    let across = |p: &[f64], step: usize, n: usize, at: usize, i: usize| -> f64 {
        let from = i.saturating_sub(radius);
        let to = (i + radius + 1).min(n);
        let sum: f64 = (from..to).map(|k| p[at - i * step + k * step]).sum();
        sum / (to - from) as f64
    };
    let rows: Vec<f64> = (0..W * H)
        .map(|at| across(picture, 1, W, at, at % W))
        .collect();
    (0..W * H)
        .map(|at| across(&rows, W, H, at, at / W))
        .collect()
}

#[test]
fn the_more_a_picture_is_blurred_the_lower_its_blur_and_its_score() {
    let sharp = signal(&look(json!({}), &scene()), "blur");
    let mut last = (f64::INFINITY, f64::INFINITY);
    for radius in 0..6 {
        let o = look(json!({}), &blurred(&scene(), radius));
        let now = (signal(&o, "blur"), signal(&o, "quality_score"));
        assert!(
            now.0 < last.0 && now.1 < last.1,
            "radius {radius}: {now:?} after {last:?}"
        );
        last = now;
    }
    assert!(last.0 < sharp / 50.0, "{last:?} of {sharp}");
}

#[test]
fn brightness_and_contrast_follow_the_light() {
    let plain = look(json!({}), &scene());
    let mean = scene().iter().sum::<f64>() / (W * H) as f64;
    assert!((signal(&plain, "brightness") - mean).abs() < 0.51);
    assert_eq!(signal(&plain, "contrast"), 160.0);
    let with = |f: fn(f64) -> f64| -> Observation {
        look(json!({}), &scene().into_iter().map(f).collect::<Vec<_>>())
    };
    let brighter = with(|p| p + 30.0);
    assert!((signal(&brighter, "brightness") - signal(&plain, "brightness") - 30.0).abs() < 0.01);
    assert_eq!(signal(&brighter, "contrast"), 160.0);
    let foggy = with(|p| 120.0 + (p - 120.0) * 0.2);
    assert_eq!(signal(&foggy, "contrast"), 32.0);
    for bad in [foggy, with(|p| p * 0.08), with(|p| p + 200.0)] {
        assert!(
            signal(&bad, "quality_score") < 0.5 * signal(&plain, "quality_score"),
            "{:?}",
            bad.signals
        );
    }
}

#[test]
fn the_gate_is_open_when_every_configured_limit_holds() {
    let o = look(json!({}), &scene());
    let gate = |config| signal(&look(config, &scene()), "quality_gate");
    assert_eq!(gate(json!({})), 1.0, "without limits everything passes");
    let (blur, brightness) = (signal(&o, "blur"), signal(&o, "brightness"));
    for (config, open) in [
        (json!({"min_blur": blur - 1.0}), 1.0),
        (json!({"min_blur": blur + 1.0}), 0.0),
        (json!({"min_brightness": brightness - 1.0}), 1.0),
        (json!({"min_brightness": brightness + 1.0}), 0.0),
        (json!({"max_brightness": brightness + 1.0}), 1.0),
        (json!({"max_brightness": brightness - 1.0}), 0.0),
        (json!({"min_contrast": 160}), 1.0),
        (json!({"min_contrast": 161}), 0.0),
        (json!({"min_blur": 0, "min_contrast": 161}), 0.0),
    ] {
        assert_eq!(gate(config.clone()), open, "{config}");
    }
}

#[test]
fn it_gives_the_signals_it_declares_and_counts_nothing() {
    let o = look(json!({}), &scene());
    let given: Vec<String> = o.signals.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(given, plugin().signals(&context(json!({}))).unwrap());
    assert_eq!(signal(&o, "count"), 0.0);
    assert!(o.data.objects.is_empty() && o.confidence.is_none());
    assert_eq!((o.frame_id, o.t_ns), (3, 30));
}
