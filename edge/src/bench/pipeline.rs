//! The whole path on a real video, beside the bare loop in Rust and, if given, the loop in Python.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use serde::Deserialize;
use visualpath_core::{Name, PluginContext};
use visualpath_media::source::{self, SourceEvent, SourceOptions, StopFlag};
use visualpath_onnx::default_model_dirs;

use super::{Options, Row, Samples, median, rss_mb};
use crate::builtin;
use crate::config::Config;
use crate::pipeline::Pipeline;
use crate::pipeline::build;
use crate::pipeline::summary::cpu_seconds;

/// What a run of the loop came to; also what the Python loop prints.
#[derive(Debug, Clone, Deserialize)]
struct Run {
    frames: u64,
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "frames of a video")]
    fn cpu_ms(&self) -> f64 {
        self.cpu_s * 1e3 / self.frames.max(1) as f64
    }
    #[expect(clippy::cast_precision_loss, reason = "frames of a video")]
    fn fps(&self) -> f64 {
        self.frames as f64 / self.wall_s.max(1e-9)
    }
}

/// Rows for this program, the bare loop and the Python loop, in turns.
pub fn rows(video: &Path, options: &Options) -> anyhow::Result<Vec<Row>> {
    let (mut ours, mut bare, mut python) = (vec![], vec![], vec![]);
    for _ in 0..options.rounds.max(1) {
        bare.push(bare_loop(video)?);
        ours.push(whole_path(video)?);
        if let Some(command) = &options.python_loop {
            python.push(python_loop(command, video)?);
        }
    }
    let row = |peer: &str, runs: &[Run], floor: Option<(&'static str, &[Run])>| Row {
        name: format!(
            "{peer}, object on {}",
            video.file_name().unwrap_or_default().to_string_lossy()
        ),
        video: Some(
            video
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        ),
        extractor: Some("object".to_owned()),
        fps: Some(Samples(runs.iter().map(Run::fps).collect()).quantile(0.5)),
        cpu_ms_per_frame: Some(Samples(runs.iter().map(Run::cpu_ms).collect()).quantile(0.5)),
        rss_mb: runs.last().map(|r| r.rss_mb),
        peer: Some(peer.to_owned()),
        n: runs.len(),
        ratio: floor.map(|(_, f)| {
            median(
                &runs
                    .iter()
                    .zip(f)
                    .map(|(r, f)| r.cpu_ms() / f.cpu_ms())
                    .collect::<Vec<_>>(),
            )
        }),
        floor: floor.map(|(name, _)| name),
        ..Row::default()
    };
    let mut rows = vec![
        row("bare", &bare, None),
        row("visualpath", &ours, Some(("CPU of bare", &bare))),
    ];
    if !python.is_empty() {
        rows.push(row("python", &python, Some(("CPU of bare", &bare))));
    }
    Ok(rows)
}

/// Decode, view, extract, in one thread, nothing else; the same decoder, plugin and runtime.
fn bare_loop(video: &Path) -> anyhow::Result<Run> {
    let registry = builtin::registry()?;
    let plugin = registry.extractor("object")?;
    let name = Name::new("person")?;
    let cx = PluginContext {
        name: name.clone(),
        config: person(),
        zones: vec![],
        masks: vec![],
        model_dirs: default_model_dirs(None),
    };
    let view = plugin.input(&cx)?;
    let mut extractor = plugin.create(&cx)?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let uri = video.to_str().context("the video's path is not UTF-8")?;
    let mut source = source::open(&SourceOptions::new(name, uri), build::clock())?;
    let pool = build::pool(source.info(), 1, 2, &[view])?;
    let id = pool.view_id(&view).context("the view is laid out")?;
    let stop = StopFlag::new();
    let mut frames = 0;
    loop {
        match source.next(&pool, &stop)? {
            SourceEvent::Frame(frame) => {
                frames += 1;
                std::hint::black_box(extractor.extract(&frame.view(id)?, &[])?);
            }
            SourceEvent::End(_) | SourceEvent::Stopped => break,
            _ => {}
        }
    }
    drop(source); // waits for the decoder, whose CPU time counts
    Ok(Run {
        frames,
        wall_s: started.elapsed().as_secs_f64(),
        cpu_s: cpu_seconds() - cpu,
        rss_mb: rss_mb(),
    })
}

fn person() -> serde_json::Map<String, serde_json::Value> {
    [("classes".to_owned(), serde_json::json!(["person"]))]
        .into_iter()
        .collect()
}

/// The appliance, clips and publishing off.
fn whole_path(video: &Path) -> anyhow::Result<Run> {
    let state = std::env::temp_dir().join(format!("visualpath-bench-{}", std::process::id()));
    let config: Config = serde_json::from_value(serde_json::json!({
        "schema": 1,
        "device": {"id": "bench", "state_dir": state},
        "source": {"video": {"uri": video, "realtime": false}},
        "extractor": {"person": {"plugin": "object", "config": person()}},
        "path": {"main": {"source": "video", "extractors": ["person"], "fusion": "seen"}},
        "fusion": {"seen": {"plugin": "rules", "config": {
            "rule": [{"label": "seen", "when": "person.count >= 1", "clip": false}]}}},
        "mqtt": {"url": "off"},
    }))?;
    let report = Pipeline::new(config, builtin::registry()?).run();
    std::fs::remove_dir_all(&state)?;
    let report = report?;
    if let Some(error) = report.error {
        return Err(error.into());
    }
    let s = report.summary;
    Ok(Run {
        frames: s.frames,
        wall_s: s.wall_s,
        cpu_s: s.cpu_s,
        rss_mb: rss_mb(),
    })
}

fn python_loop(command: &str, video: &Path) -> anyhow::Result<Run> {
    let out = Command::new("sh")
        .arg("-c")
        .arg(format!("{command} \"$1\""))
        .arg("python-loop")
        .arg(video)
        .output()
        .context("the Python loop")?;
    anyhow::ensure!(
        out.status.success(),
        "the Python loop failed: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).context("what the Python loop printed")
}
