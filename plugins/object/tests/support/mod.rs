//! Real frames through the real plugin.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code outside a #[test]; pictures of known size"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use visualpath_core::{
    ColorSpec, Extractor, FrameMeta, FrameView, ImageLayout, Name, PixelFormat, PluginContext, Roi,
};
use visualpath_plugin_object::plugin;

/// vtest.avi.
pub const WIDTH: usize = 768;
pub const HEIGHT: usize = 576;
const SIDE: usize = 300;

/// One object of one frame.
#[derive(Debug, Clone)]
pub struct Found {
    pub label: String,
    pub score: f64,
    pub bbox: [f64; 4],
}

/// `$VISUALPATH_ASSETS`, else the cache set-up writes to.
pub fn assets() -> PathBuf {
    let set = |key| {
        std::env::var_os(key)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("VISUALPATH_ASSETS")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("visualpath")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/visualpath")))
        .expect("HOME is set")
}

/// A plugin's context with this config and the fetched models.
pub fn context(config: serde_json::Value) -> PluginContext {
    PluginContext {
        name: Name::new("person").unwrap(),
        config: config.as_object().unwrap().clone(),
        zones: Vec::new(),
        masks: vec![],
        model_dirs: vec![assets().join("models")],
    }
}

/// The extractor of this config.
pub fn extractor(config: serde_json::Value) -> Box<dyn Extractor> {
    plugin()
        .create(&context(config))
        .unwrap_or_else(|e| panic!("run cross/setup.sh first: {e}"))
}

/// Every `step`th frame of the video: its number and its 300×300 RGB bytes.
pub fn frames(video: &Path, step: usize) -> Vec<(usize, Vec<u8>)> {
    assert!(
        video.is_file(),
        "{} is missing: run cross/setup.sh first",
        video.display()
    );
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(video)
        .args(["-vf", &format!("select=not(mod(n\\,{step}))")])
        .args(["-fps_mode", "passthrough", "-f", "rawvideo"])
        .args(["-pix_fmt", "rgb24", "-"])
        .stderr(Stdio::inherit())
        .output()
        .expect("ffmpeg is installed (cross/setup.sh)");
    assert!(output.status.success(), "ffmpeg: {}", output.status);
    output
        .stdout
        .chunks_exact(WIDTH * HEIGHT * 3)
        .enumerate()
        .map(|(i, rgb)| (i * step, shrink(rgb)))
        .collect()
}

/// Two-tap linear interpolation at pixel centres.
fn shrink(rgb: &[u8]) -> Vec<u8> {
    let tap = |i: usize, from: usize| {
        let x = ((i as f64 + 0.5) * from as f64 / SIDE as f64 - 0.5).clamp(0.0, from as f64 - 1.0);
        let low = x as usize;
        (low, (low + 1).min(from - 1), x - low as f64)
    };
    let mut out = Vec::with_capacity(SIDE * SIDE * 3);
    for row in 0..SIDE {
        let (y0, y1, fy) = tap(row, HEIGHT);
        for column in 0..SIDE {
            let (x0, x1, fx) = tap(column, WIDTH);
            for c in 0..3 {
                let at = |y: usize, x: usize| f64::from(rgb[(y * WIDTH + x) * 3 + c]);
                let top = at(y0, x0) * (1.0 - fx) + at(y0, x1) * fx;
                let bottom = at(y1, x0) * (1.0 - fx) + at(y1, x1) * fx;
                out.push((top * (1.0 - fy) + bottom * fy).round() as u8);
            }
        }
    }
    out
}

/// A view of frame `number`.
pub fn view(number: usize, pixels: &[u8]) -> FrameView<'_> {
    let packed = |format, w: usize, h: usize| {
        ImageLayout::packed(format, w as u32, h as u32, ColorSpec::default())
    };
    FrameView {
        meta: FrameMeta {
            frame_id: number as u64,
            t_ns: number as i64 * 100_000_000,
            epoch: 0,
            layout: packed(PixelFormat::I420, WIDTH, HEIGHT),
        },
        layout: packed(PixelFormat::Rgb, SIDE, SIDE),
        roi: Roi::FULL,
        pixels,
    }
}

/// What the plugin finds in these frames.
pub fn run(runtime: &str, threshold: f64, video: &[(usize, Vec<u8>)]) -> Vec<(usize, Vec<Found>)> {
    let mut extractor = extractor(json!({"runtime": runtime, "threshold": threshold}));
    video
        .iter()
        .map(|(number, pixels)| {
            let observations = extractor.extract(&view(*number, pixels), &[]).unwrap();
            assert_eq!(observations.len(), 1);
            let o = &observations[0];
            assert_eq!(o.frame_id, *number as u64);
            assert_eq!(o.signals.get("count"), Some(o.data.objects.len() as f64));
            let objects = o.data.objects.iter().map(|o| Found {
                label: o.label.clone(),
                score: o.score,
                bbox: o.bbox,
            });
            (*number, objects.collect())
        })
        .collect()
}

/// Intersection over union.
pub fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = area([
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ]);
    both / (area(*a) + area(*b) - both)
}
