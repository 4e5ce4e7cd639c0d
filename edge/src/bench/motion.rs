//! What `motion` and `quality` cost a frame: on synthetic pictures, noise and all.

use std::time::Instant;

use anyhow::Context;
use visualpath_core::{FrameView, ImageLayout, Name, PluginContext, Roi, StopFlag, ViewSpec};
use visualpath_media::source::{self, SourceEvent, SourceOptions};

use super::{Row, Samples, allocations, allocations_since};
use crate::builtin;
use crate::pipeline::build;
use crate::pipeline::summary::cpu_seconds;

/// Frames of one round; the first second, in which `motion` learns, is not counted.
const FRAMES: usize = 150;
const WARM_UP: usize = 75;

/// What is to be seen, and how much of it moves.
const SCENES: [(&str, &str); 4] = [
    ("still", "scene=empty"),
    ("one shape", "shapes=1"),
    ("eight shapes", "shapes=8&size=30"),
    ("half of it moves", "shapes=1&size=90"),
];

/// Rows for each scene, and for making the view they both look at.
pub fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (plugin, config) in [("motion", r#"{"learn_s": 1}"#), ("quality", "{}")] {
        for (scene, query) in SCENES {
            let mut costs = Costs::default();
            for _ in 0..rounds.max(1) {
                costs.round(plugin, config, query)?;
            }
            rows.push(Row {
                width: Some(320),
                height: Some(240),
                extractor: Some(plugin.to_owned()),
                cpu_us: Some(costs.cpu_us()),
                allocs: costs.allocs,
                ..row(format!("{plugin} 320x240, {scene}"), &costs.extract)
            });
            if plugin == "motion" && scene == "still" {
                let name = "view 640x360 i420 to 320x240 grey, area".to_owned();
                rows.push(row(name, &costs.view));
            }
        }
    }
    Ok(rows)
}

fn row(name: String, samples: &Samples) -> Row {
    Row {
        name,
        isolation: Some("inline"),
        p50_us: Some(samples.quantile(0.5)),
        p99_us: Some(samples.quantile(0.99)),
        n: samples.0.len(),
        ..Row::default()
    }
}

#[derive(Default)]
struct Costs {
    extract: Samples,
    view: Samples,
    cpu_s: f64,
    allocs: Option<f64>,
}

impl Costs {
    fn round(&mut self, plugin: &str, config: &str, query: &str) -> anyhow::Result<()> {
        let plugin = builtin::registry()?.extractor(plugin)?.clone();
        let cx = PluginContext {
            name: Name::new("bench")?,
            config: serde_json::from_str(config)?,
            zones: Vec::new(),
            masks: Vec::new(),
            model_dirs: Vec::new(),
        };
        let spec = plugin.input(&cx)?;
        let mut extractor = plugin.create(&cx)?;
        // Views first, so that the extractor alone is measured afterwards.
        let views = self.views(spec, query)?;
        let (mut before, mut cpu) = (None, 0.0);
        for (i, view) in views.iter().enumerate() {
            if i == WARM_UP {
                (before, cpu) = (allocations(), cpu_seconds());
            }
            let started = Instant::now();
            let seen = extractor.extract(&view.borrowed(), &[]);
            let took = started.elapsed();
            std::hint::black_box(seen).context("the extractor failed")?;
            if i >= WARM_UP {
                self.extract.add(took);
            }
        }
        self.cpu_s += cpu_seconds() - cpu;
        self.allocs = allocations_since(before, views.len() - WARM_UP);
        Ok(())
    }

    fn views(&mut self, spec: ViewSpec, query: &str) -> anyhow::Result<Vec<View>> {
        let uri = format!(
            "synthetic:?width=640&height=360&fps=30&code=0&text=0&noise=2&frames={FRAMES}&shapes_at=40&{query}"
        );
        let options = SourceOptions::new(Name::new("bench")?, uri);
        let mut source = source::open(&options, build::clock())?;
        let pool = build::pool(source.info(), 1, 1, &[spec])?;
        let id = pool.view_id(&spec).context("the pool has the view")?;
        let mut views = Vec::with_capacity(FRAMES);
        let stop = StopFlag::new();
        while let SourceEvent::Frame(frame) = source.next(&pool, &stop)? {
            let started = Instant::now();
            let view = frame.view(id)?;
            self.view.add(started.elapsed());
            views.push(View {
                meta: view.meta,
                layout: view.layout,
                roi: view.roi,
                pixels: view.pixels.to_vec(),
            });
        }
        anyhow::ensure!(views.len() == FRAMES, "{} frames", views.len());
        Ok(views)
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / self.extract.0.len().max(1) as f64
    }
}

/// A view that outlives its frame.
struct View {
    meta: visualpath_core::FrameMeta,
    layout: ImageLayout,
    roi: Roi,
    pixels: Vec<u8>,
}

impl View {
    fn borrowed(&self) -> FrameView<'_> {
        FrameView {
            meta: self.meta,
            layout: self.layout,
            roi: self.roi,
            pixels: &self.pixels,
        }
    }
}
