//! The capacity plan: what this board holds of what the config asks for.
//!
//! Inline extractors share the path thread, every other one has a thread or a process of its own,
//! and all of them, with the encoders, share the cores. A look's cost is the median of those
//! measured on the source's own pictures.

use std::fmt;

use serde::Serialize;
use visualpath_core::{Name, ViewSpec};
use visualpath_frames::{PoolLayout, PoolSpec};
use visualpath_media::encode::Bitrate;
use visualpath_platform::Isolation;

use super::disk::bytes;
use super::finding::{Code, Finding};
use super::source::asked_fps;
use crate::cli::measure::{Measured, round_fps};
use crate::config::{Config, SourceConfig};
use crate::pipeline::plan::LinePlan;

/// More than this share of what can be held leaves no room for a hot day.
const FULL: f64 = 0.9;
/// What is advised leaves this much.
const MARGIN: f64 = 0.75;

/// What a source's config asks for, taken from its plan before the extractors are loaded.
pub struct Wants {
    /// The source.
    pub source: Name,
    /// Its settings.
    pub settings: SourceConfig,
    /// Slots of its pool, without the driver's.
    pub slots: usize,
    /// Whether clips are made of it.
    pub clips: bool,
    /// Per extractor: name, isolation, limit, view.
    pub extractors: Vec<(Name, Isolation, Option<f64>, ViewSpec)>,
    /// The longest time a clip may begin before its rule fires, seconds.
    pub longest_pre_s: f64,
}

impl Wants {
    /// Of a line.
    pub fn of(line: &LinePlan) -> Self {
        Self {
            source: line.source.clone(),
            settings: line.settings.clone(),
            slots: line.slots(),
            clips: line.wants_clips(),
            extractors: line
                .extractors
                .iter()
                .map(|e| (e.name.clone(), e.isolation, e.settings.fps, e.view))
                .collect(),
            longest_pre_s: line.longest_pre_s(),
        }
    }
}

/// One extractor on one source.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractorPlan {
    /// Its name.
    pub extractor: String,
    /// Where it runs.
    pub isolation: &'static str,
    /// Median of a look, milliseconds.
    pub look_ms: f64,
    /// 95 of 100 looks take less.
    pub look_p95_ms: f64,
    /// Looks measured.
    pub looks: usize,
    /// Looks a second that the config asks for; absent where the source waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wants_fps: Option<f64>,
    /// Looks a second it can make.
    pub holds_fps: f64,
    /// What to set `fps` to, where that is too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advised_fps: Option<f64>,
}

/// One source and what is its own.
#[derive(Debug, Clone, Serialize)]
pub struct SourcePlan {
    /// Its name.
    pub source: String,
    /// `1280x720 nv12`.
    pub picture: String,
    /// Pictures a second, as measured.
    pub fps: f64,
    /// Its extractors.
    pub extractors: Vec<ExtractorPlan>,
    /// Median of encoding a picture, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encode_ms: Option<f64>,
    /// Slots of its pool.
    pub slots: usize,
    /// Bytes of its pool.
    pub pool_bytes: u64,
    /// Bytes of its ring; 0 if no rule wants clips.
    pub ring_bytes: u64,
    /// Seconds that the ring holds at the encoder's bit rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_s: Option<f64>,
    /// The longest time before a rule fires at which its clip begins.
    pub longest_pre_s: f64,
    /// Cores at work, all in all.
    pub cores: f64,
}

/// An extractor's part of the sum.
#[derive(Debug, Clone, Copy)]
struct Load {
    inline: bool,
    ms: f64,
    wants_fps: Option<f64>,
}

/// Looks a second that each can make.
fn holds(loads: &[Load]) -> Vec<f64> {
    let share = |l: &Load| l.wants_fps.unwrap_or(0.0) * l.ms / 1e3;
    let inline: f64 = loads.iter().filter(|l| l.inline).map(share).sum();
    loads
        .iter()
        .map(|l| {
            let alone = 1e3 / l.ms.max(1e-3);
            match (l.inline, l.wants_fps) {
                // They slow each other down alike.
                (true, Some(wants)) if inline > 1.0 => wants / inline,
                (true, Some(_)) => alone * (1.0 - inline + share(l)),
                _ => alone,
            }
        })
        .collect()
}

/// What one source and its extractors come to, and what to say of it.
pub fn source(config: &Config, wants: &Wants, measured: &Measured) -> (SourcePlan, Vec<Finding>) {
    let live = wants.settings.realtime;
    let layout = measured.info.layout;
    // A file that is paced keeps its own rate, however busy this machine was just now.
    let fps = asked_fps(&wants.settings, measured)
        .filter(|_| measured.frames < 4 || measured.ended)
        .unwrap_or(measured.fps);
    let (loads, plans) = lookers(wants, measured, fps);
    let mut views: Vec<ViewSpec> = Vec::new();
    for (_, _, _, view) in &wants.extractors {
        if !views.contains(view) {
            views.push(*view);
        }
    }
    let slots = wants.slots + measured.info.driver_slots;
    let spec = PoolSpec {
        pool_id: 1,
        slots,
        native: layout,
        native_room: measured.info.native_room,
        views,
    };
    let pool_bytes = PoolLayout::plan(&spec).map_or(0, |l| l.total_bytes() as u64);
    let encode_ms = measured.encode.quantile(0.5);
    let bitrate = match config.clip.bitrate.value() {
        None => Bitrate::Auto,
        Some(bits) => Bitrate::BitsPerS(u32::try_from(bits).unwrap_or(u32::MAX)),
    };
    let bits = bitrate.bits_per_s(layout.width, layout.height, fps);
    // What an encoded source sends is its own affair.
    let encodes = wants.clips && measured.info.encoded.is_none();
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    let ring_s = encodes.then(|| config.clip.ring_bytes as f64 * 8.0 / f64::from(bits.max(1)));
    let looking: f64 = loads
        .iter()
        .zip(&plans)
        .map(|(l, p)| l.ms / 1e3 * l.wants_fps.unwrap_or(0.0).min(p.holds_fps))
        .sum();
    let encoding = encode_ms.filter(|_| live).map_or(0.0, |ms| ms * fps / 1e3);
    let plan = SourcePlan {
        source: wants.source.to_string(),
        picture: format!(
            "{}x{} {}",
            layout.width,
            layout.height,
            format!("{:?}", layout.format).to_lowercase()
        ),
        fps,
        extractors: plans,
        encode_ms,
        slots,
        pool_bytes,
        ring_bytes: if wants.clips {
            config.clip.ring_bytes
        } else {
            0
        },
        ring_s,
        longest_pre_s: wants.longest_pre_s,
        cores: looking + encoding,
    };
    let found = judge(config, &plan, live, measured.encode_error.as_deref());
    (plan, found)
}

/// What each extractor takes, and what that comes to at this rate of the source.
fn lookers(wants: &Wants, measured: &Measured, fps: f64) -> (Vec<Load>, Vec<ExtractorPlan>) {
    let (mut loads, mut plans) = (Vec::new(), Vec::new());
    for (name, isolation, limit, _) in &wants.extractors {
        let Some(looks) = measured.looks.iter().find(|l| l.extractor == *name) else {
            continue;
        };
        let (Some(ms), Some(p95)) = (looks.times.quantile(0.5), looks.times.quantile(0.95)) else {
            continue;
        };
        let live = wants.settings.realtime;
        let wants_fps = live.then(|| limit.map_or(fps, |l| l.min(fps)));
        loads.push(Load {
            inline: *isolation == Isolation::Inline,
            ms,
            wants_fps,
        });
        plans.push(ExtractorPlan {
            extractor: name.to_string(),
            isolation: isolation.as_str(),
            look_ms: ms,
            look_p95_ms: p95,
            looks: looks.times.n(),
            wants_fps,
            holds_fps: 0.0,
            advised_fps: None,
        });
    }
    for (plan, holds) in plans.iter_mut().zip(holds(&loads)) {
        plan.holds_fps = holds;
        let short = plan.wants_fps.is_some_and(|wants| wants > FULL * holds);
        plan.advised_fps = short.then(|| round_fps(MARGIN * holds));
    }
    (loads, plans)
}

fn judge(
    config: &Config,
    plan: &SourcePlan,
    live: bool,
    encode_error: Option<&str>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for e in &plan.extractors {
        let subject = format!("extractor.{}", e.extractor);
        let on = &plan.source;
        let cost = format!("{:.1} ms a look on `{on}`", e.look_ms);
        let Some(wants) = e.wants_fps else {
            let detail = format!(
                "{cost}: {:.1} a second, and the file waits for it",
                e.holds_fps
            );
            found.push(Finding::new(Code::Capacity, subject, detail));
            continue;
        };
        let detail = format!(
            "{cost}: holds {:.1} of {wants:.1} fps on this board",
            e.holds_fps
        );
        found.push(match e.advised_fps {
            None => Finding::new(Code::Capacity, subject, detail),
            Some(fps) => Finding::new(Code::CapacityShort, &subject, detail).advise(format!(
                "set {subject}.fps = {fps}; the frames it has no time for are dropped all the same, less evenly"
            )),
        });
    }
    let subject = format!("source.{}", plan.source);
    if let Some(error) = encode_error {
        found.push(
            Finding::new(
                Code::EncoderSlow,
                &subject,
                format!("no clips of it: {error}"),
            )
            .advise("ask the camera for another format (source.<name>.format)"),
        );
    }
    if let Some(ms) = plan.encode_ms {
        let holds = 1e3 / ms.max(1e-3);
        let detail = format!(
            "{ms:.1} ms a picture: holds {holds:.1} of {:.1} fps",
            plan.fps
        );
        found.push(if live && plan.fps > FULL * holds {
            Finding::new(Code::EncoderSlow, &subject, detail).advise(
                "take a smaller picture or a lower rate (source.<name>.width, height, fps), or a camera that gives H.264",
            )
        } else {
            Finding::new(Code::Encoder, &subject, detail)
        });
    }
    if let Some(ring_s) = plan.ring_s {
        let needs = plan.longest_pre_s + config.clip.gop_s;
        let detail = format!(
            "{} of pre-roll hold {ring_s:.0} s; the rules want {needs:.1} s",
            bytes(plan.ring_bytes)
        );
        found.push(if ring_s < needs {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "bytes of some minutes of video"
            )]
            let enough = (plan.ring_bytes as f64 * needs / ring_s * 1.2) as u64;
            Finding::new(Code::RingShort, &subject, detail)
                .advise(format!("set clip.ring_bytes = {enough}, or shorten pre_s"))
        } else {
            Finding::new(Code::Ring, &subject, detail)
        });
    }
    found
}

/// All sources together: cores.
pub fn cores(plans: &[SourcePlan]) -> Option<Finding> {
    let have = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let need: f64 = plans.iter().map(|p| p.cores).sum();
    #[expect(clippy::cast_precision_loss, reason = "cores")]
    let all = have as f64;
    (need > FULL * all).then(|| {
        Finding::new(
            Code::CpuShort,
            "cpu",
            format!("looking and encoding take {need:.1} of {have} cores, and decoding comes on top"),
        )
        .advise("lower extractor.<name>.fps or source.<name>.fps, or gate the expensive ones (`gate = \"motion.score > 0.02\"`)")
    })
}

impl fmt::Display for SourcePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} at {:.1} fps, {} slots of frames ({})",
            self.source,
            self.picture,
            self.fps,
            self.slots,
            bytes(self.pool_bytes)
        )?;
        for e in &self.extractors {
            write!(
                f,
                "\n  {:16} {:8} {:7.1} ms (95 %: {:.1})  holds {:.1}",
                e.extractor, e.isolation, e.look_ms, e.look_p95_ms, e.holds_fps
            )?;
            if let Some(wants) = e.wants_fps {
                write!(f, " of {wants:.1} fps")?;
            }
            if let Some(fps) = e.advised_fps {
                write!(f, "; set fps = {fps}")?;
            }
        }
        if let Some(ms) = self.encode_ms {
            write!(f, "\n  {:16} {:8} {ms:7.1} ms", "(encoder)", "thread")?;
        }
        if let Some(ring_s) = self.ring_s {
            write!(
                f,
                "\n  {:16} {ring_s:.0} s in {}, wanted {:.1} s",
                "(pre-roll)",
                bytes(self.ring_bytes),
                self.longest_pre_s
            )?;
        }
        write!(f, "\n  {:16} {:.2}", "(cores at work)", self.cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(inline: bool, ms: f64, wants: f64) -> Load {
        Load {
            inline,
            ms,
            wants_fps: Some(wants),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn inline_extractors_share_one_thread_and_others_do_not() {
        let one = holds(&[load(true, 80.0, 30.0)]);
        assert!(near(one[0], 12.5), "{one:?}");
        // 0.5 and 0.25 of the thread: what the other leaves is its own.
        let two = holds(&[load(true, 50.0, 10.0), load(true, 25.0, 10.0)]);
        assert!(near(two[0], 15.0) && near(two[1], 20.0), "{two:?}");
        // 1.5 of the thread: each gets two thirds.
        let full = holds(&[load(true, 50.0, 20.0), load(true, 50.0, 10.0)]);
        assert!(
            near(full[0], 20.0 / 1.5) && near(full[1], 10.0 / 1.5),
            "{full:?}"
        );
        let apart = holds(&[load(false, 50.0, 30.0), load(true, 10.0, 30.0)]);
        assert!(near(apart[0], 20.0) && near(apart[1], 100.0), "{apart:?}");
    }
}
