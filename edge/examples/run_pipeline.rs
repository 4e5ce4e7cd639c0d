//! An app on the library: an extractor and a fusion of its own, and what to do with a trigger.
//!
//! ```text
//! cargo run --example run_pipeline -- OUT_DIR [VIDEO]
//! ```
//!
//! Watches VIDEO (or a drawn scene in which the light goes on) for jumps in brightness and copies
//! the clip of each into OUT_DIR. No broker, no config file.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an app that talks to people"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use visualpath::config::{ExtractorConfig, SourceConfig};
use visualpath::{
    AppContext, ExtractError, Extractor, ExtractorPlugin, FrameView, Fusion, FusionContext,
    FusionInput, FusionPlugin, FusionResult, Name, Observation, Phase, Pipeline, PluginContext,
    PluginError, Signals, Trigger, TriggerKind, TriggerPayload, ViewFormat, ViewSpec,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out: PathBuf = args
        .next()
        .ok_or("usage: run_pipeline OUT_DIR [VIDEO]")?
        .into();
    let drawn = "synthetic:?frames=100&fps=20&width=320&height=240&light_at=40&light_pct=160";
    let video = args.next().unwrap_or_else(|| drawn.to_owned());
    std::fs::create_dir_all(&out)?;

    let mut source = SourceConfig::new(video);
    source.realtime = false; // as fast as everything can follow
    let saved = out.clone();
    let report = Pipeline::builder()
        .state_dir(out.join("state"))
        .register_extractor(Arc::new(BrightnessPlugin))
        .register_fusion(Arc::new(JumpPlugin))
        .source("cam0", source)?
        .extractor("light", ExtractorConfig::new("brightness"))?
        .fusion("jump", "jump", serde_json::Map::new())?
        .path("room", &["cam0"], &["light"], "jump")?
        .build()?
        .on_trigger(move |trigger, cx| {
            if let Err(e) = save(trigger, cx, &saved) {
                eprintln!("{}: {e}", trigger.id);
            }
        })
        .run()?;
    let (frames, triggers) = (report.summary.frames, report.summary.triggers);
    println!("{frames} frames, {triggers} jumps");
    match report.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Copies the clip of a trigger. This is on the app's thread: the pipeline goes on meanwhile.
fn save(
    trigger: &TriggerPayload,
    cx: &AppContext,
    out: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let clip = cx.clip(trigger)?.wait(Duration::from_secs(60))?;
    let file = out.join(format!("{}.mp4", trigger.id));
    std::fs::copy(&clip.file, &file)?;
    println!("{}: {}", file.display(), trigger.trigger.reason);
    Ok(())
}

/// Mean luma of the picture, 0–255.
struct Brightness;

impl Extractor for Brightness {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        _: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        let pixels = frame
            .layout
            .plane(frame.pixels, 0)
            .ok_or_else(|| ExtractError("a view without pixels".into()))?;
        let sum: u64 = pixels.iter().map(|p| u64::from(*p)).sum();
        let name = Name::new("light").map_err(|e| ExtractError(e.to_string()))?;
        let mut seen = Observation::new(name, frame.meta.frame_id, frame.meta.t_ns);
        #[expect(clippy::cast_precision_loss, reason = "a mean of bytes")]
        let mean = sum as f64 / pixels.len().max(1) as f64;
        seen.signals.set("brightness", mean);
        Ok(vec![seen])
    }
}

struct BrightnessPlugin;

impl ExtractorPlugin for BrightnessPlugin {
    fn name(&self) -> &str {
        "brightness"
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(ViewSpec {
            format: ViewFormat::Grey,
            size: Some((64, 48)),
            ..ViewSpec::default()
        })
    }
    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(vec!["brightness".to_owned()])
    }
    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Ok(Box::new(Brightness))
    }
}

/// Fires when the picture is at least 20 brighter or darker than the one before.
#[derive(Default)]
struct Jump {
    last: Option<f64>,
    events: u64,
}

const LEAST: f64 = 20.0;
const SECOND_NS: i64 = 1_000_000_000;

impl Fusion for Jump {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        let FusionInput::Aligned(aligned) = input else {
            // What follows a gap can't be compared with what was before it.
            self.last = None;
            return FusionResult::default();
        };
        let held = aligned.entries.first().and_then(|e| e.held.as_ref());
        let Some(now) = held.and_then(|h| h.signals.get("brightness")) else {
            return FusionResult::default();
        };
        let Some(before) = self.last.replace(now) else {
            return FusionResult::default();
        };
        let Ok(label) = Name::new("jump") else {
            return FusionResult::default();
        };
        if (now - before).abs() < LEAST {
            return FusionResult::default();
        }
        self.events += 1;
        let (t_ns, reason) = (aligned.t_ns, format!("brightness {before:.0} → {now:.0}"));
        FusionResult {
            triggers: vec![Trigger {
                label,
                kind: TriggerKind::Point,
                phase: Phase::Point,
                event: self.events,
                frame_id: aligned.frame_id,
                t_ns,
                fired_ns: t_ns,
                event_start_ns: t_ns,
                event_end_ns: t_ns,
                best_ns: None,
                t_start_ns: t_ns - SECOND_NS,
                t_end_ns: t_ns + SECOND_NS,
                score: 1.0,
                reason,
                observations_used: 1,
                signals: Signals::from_iter([("light.brightness", now)]),
                objects: Vec::new(),
                clip: true,
                metadata: serde_json::Map::new(),
            }],
            ..FusionResult::default()
        }
    }

    fn reset(&mut self) {
        self.last = None;
    }
}

struct JumpPlugin;

impl FusionPlugin for JumpPlugin {
    fn name(&self) -> &str {
        "jump"
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn create(&self, _: &FusionContext) -> Result<Box<dyn Fusion>, PluginError> {
        Ok(Box::new(Jump::default()))
    }
}
