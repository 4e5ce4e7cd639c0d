//! `visualpath init`: finds a camera and a broker, measures what this board does with them, and
//! writes a config of some lines that holds.
//!
//! ```text
//! source, broker, state directory ─▶ draft ─▶ measured with the real model ─▶ fps with a margin
//!                                       └──────────── config, checked as `validate` does ◀──┘
//! ```

mod broker;
mod draw;
mod source;
mod text;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use visualpath_core::{FrameMeta, FrameView, ImageLayout, PixelFormat, Roi};
use visualpath_media::jpeg;
use visualpath_media::source::SourceOptions;
use visualpath_platform::Bell;

use super::doctor::{self, ThisMachine};
use super::measure::{Asked, MeasureError, Measured, Picture, measure, round_fps};
use super::{complain_line, exit_of, fail, findings_of, say, say_json};
use crate::builtin;
use crate::config::{self, Config, Diagnostic, LoadOptions, Loaded};
use crate::exit::Exit;
use crate::pipeline::StartError;
use crate::pipeline::build::{self, Nursery};
use crate::pipeline::line::source_options;
use crate::pipeline::plan::{self, LinePlan};
use text::Facts;

/// A look's rate may take this much of what the slower looks allow.
const MARGIN: f64 = 0.7;
/// Quality of the snapshot.
const QUALITY: i32 = 90;
/// Beside the config.
const SNAPSHOT: &str = "snapshot.jpg";

/// What `init` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The config to write.
    pub out: PathBuf,
    /// Use this source.
    pub source: Option<String>,
    /// Use this broker.
    pub broker: Option<String>,
    /// How long to measure.
    pub seconds: f64,
    /// Write over what is there.
    pub force: bool,
    /// Don't ask.
    pub yes: bool,
    /// JSON.
    pub json: bool,
}

/// Why no config was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there.
    #[error("{} is there already: name another with --out, or give --force", .0.display())]
    Exists(PathBuf),
    /// Nothing to look at.
    #[error("no camera: {0}")]
    NoCamera(String),
    /// `--source` is empty or makes no sense.
    #[error("{0}")]
    Source(String),
    /// `--broker`.
    #[error("--broker: {0}")]
    BrokerUrl(String),
    /// The broker asked for.
    #[error(
        "--broker: {0}; start it, or leave --broker out: init takes one on this machine or at the router, else the appliance's own"
    )]
    Broker(String),
    /// What was written is no good config: a bug, or a `conf.d` beside it.
    #[error("the config would not be valid:\n{0}")]
    Invalid(String),
    /// A plugin or its model.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nothing could be measured.
    #[error("{uri}: {error}")]
    Measure {
        /// The source.
        uri: String,
        /// Why.
        error: Box<MeasureError>,
    },
    /// Too short to tell anything.
    #[error("{0}: no look was finished; measure longer (--seconds)")]
    NoLook(String),
    /// The snapshot.
    #[error("the snapshot can't be made: {0}")]
    Snapshot(#[from] jpeg::JpegError),
    /// A file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something of this machine.
    #[error("{0}")]
    Machine(String),
    /// The answer was no.
    #[error("nothing was written")]
    Declined,
}

impl InitError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoCamera(_) | Self::Source(_) => Exit::Source,
            Self::BrokerUrl(_) | Self::Broker(_) => Exit::Broker,
            Self::Invalid(_) => Exit::Config,
            Self::Start(error) => exit_of(error),
            Self::Measure { error, .. } => match &**error {
                MeasureError::Extractor { .. } => Exit::Plugin,
                MeasureError::Source(_) | MeasureError::NoPicture { .. } => Exit::Source,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    source: source::Chosen,
    broker: broker::Chosen,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    measured: Numbers,
    snapshot: String,
    /// Objects in the snapshot.
    seen: usize,
    lines: usize,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
struct Numbers {
    /// What the source delivers.
    source: String,
    width: u32,
    height: u32,
    /// Pictures a second.
    fps: f64,
    frames: u64,
    lost: u64,
    looks: usize,
    look_ms: f64,
    look_p95_ms: f64,
    /// What runs the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Looks a second that this board can make.
    holds_fps: f64,
    /// What the config asks for.
    extractor_fps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_c: Option<f64>,
}

/// The verb.
pub fn run(options: &Options) -> Exit {
    let report = match init(options) {
        Ok(report) => report,
        Err(e) => return fail(e.exit(), &e.to_string()),
    };
    if options.json {
        return say_json(&report);
    }
    say(&report.text())
}

impl Report {
    fn text(&self) -> String {
        let m = &self.measured;
        let heat = m
            .temperature_c
            .map_or_else(String::new, |c| format!(", {c:.0} °C"));
        let mut lines = vec![
            format!("source    {} ({})", self.source.uri, self.source.found),
            format!("          {}: {:.1} pictures a second", m.source, m.fps),
        ];
        for other in &self.source.others {
            lines.push(format!("          also there: {other}"));
        }
        lines.push(format!(
            "broker    {} ({})",
            self.broker.url, self.broker.found
        ));
        lines.push(format!(
            "model     {}: {:.1} ms a look (95 %: {:.1}), holds {:.1} a second{heat}",
            m.model.as_deref().unwrap_or("object"),
            m.look_ms,
            m.look_p95_ms,
            m.holds_fps
        ));
        lines.push(format!(
            "written   {}: {} lines, looks {} times a second",
            self.file,
            self.lines,
            text::number(m.extractor_fps)
        ));
        lines.push(format!("snapshot  {}: {} seen", self.snapshot, self.seen));
        lines.push(format!("next      visualpath run -c {}", self.file));
        lines.join("\n")
    }
}

fn init(options: &Options) -> Result<Report, InitError> {
    let dir = match options.out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    let snapshot = dir.join(SNAPSHOT);
    for path in [&options.out, &snapshot] {
        if !options.force && path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path.clone()));
        }
    }
    let source = source::choose(options.source.as_deref())?;
    let broker = broker::choose(options.broker.as_deref())?;
    let mut facts = Facts {
        comment: String::new(),
        uri: source.uri.clone(),
        size: source.size,
        source_fps: source.fps,
        state_dir: state_dir(),
        mqtt_url: broker.url.clone(),
        fps: None,
    };
    complain_line(&format!(
        "visualpath: measuring {} for {} s",
        source.uri,
        text::number(options.seconds)
    ));
    let (draft, line) = check(&options.out, &dir, &text::config(&facts))?;
    let (measured, model) = look(&draft.config, line, options.seconds)?;
    let numbers = numbers(&measured, model, &source.uri)?;
    facts.fps = Some(numbers.extractor_fps);
    facts.comment = comment(&numbers);
    let config = text::config(&facts);
    let (checked, _) = check(&options.out, &dir, &config)?;
    if !options.yes && !options.json && io::stdin().is_terminal() {
        ask(&config, &options.out)?;
    }
    let seen = measured.picture.as_ref().map_or(0, |p| p.objects.len());
    if let Some(picture) = measured.picture {
        let bytes = boxed(picture)?;
        write(&dir, &snapshot, &bytes, options.force)?;
    }
    write(&dir, &options.out, config.as_bytes(), options.force)?;
    Ok(Report {
        file: options.out.display().to_string(),
        source,
        broker,
        state_dir: Some(checked.config.device.state_dir.display().to_string()),
        measured: numbers,
        snapshot: snapshot.display().to_string(),
        seen,
        lines: config.lines().count(),
    })
}

/// Loads a text as if it were the config at `out`, with what else counts there (`conf.d`,
/// environment), and plans it as `validate` does.
fn check(out: &Path, dir: &Path, text: &str) -> Result<(Loaded, LinePlan), InitError> {
    let failed = |error: io::Error| InitError::File {
        path: out.to_owned(),
        error,
    };
    let mut draft = tempfile::Builder::new()
        .prefix(".visualpath-")
        .suffix(".toml")
        .tempfile_in(dir)
        .map_err(failed)?;
    draft.write_all(text.as_bytes()).map_err(failed)?;
    let told = |found: &[Diagnostic]| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        InitError::Invalid(format!("{}\n{text}", lines.join("\n")))
    };
    let loaded = config::load(&LoadOptions::new(draft.path())).map_err(|found| told(&found))?;
    let registry = builtin::registry().map_err(|e| InitError::Machine(e.to_string()))?;
    let mut lines = match plan::plan(&loaded.config, &registry) {
        Ok(plan) => plan.lines,
        Err(error) => {
            return Err(match (&error, findings_of(&loaded, &error)) {
                (StartError::Config(_), Some(found)) => told(&found),
                _ => error.into(),
            });
        }
    };
    match lines.pop() {
        Some(line) => Ok((loaded, line)),
        None => Err(InitError::Invalid("no path has a source".to_owned())),
    }
}

/// Lets the model look at the source, and says what runs it.
fn look(
    config: &Config,
    line: LinePlan,
    seconds: f64,
) -> Result<(Measured, Option<String>), InitError> {
    let slots = line.slots();
    let machine = |e: &dyn std::fmt::Display| InitError::Machine(e.to_string());
    let bell = Bell::new().map_err(|e| machine(&e))?;
    let work = tempfile::tempdir().map_err(|e| machine(&e))?;
    let nursery = Nursery {
        config,
        bell: &bell,
        work_dir: Some(work.path()),
    };
    let mut extractors = Vec::new();
    for mut planned in line.extractors {
        extractors.push(build::load(&mut planned, &line.source, &nursery)?);
    }
    let models = extractors.iter().flat_map(|e| &e.models);
    let model = models
        .map(|m| format!("{} on {}", m.name, m.runtime))
        .next();
    let asked = Asked {
        source: SourceOptions {
            // A short file is begun again; a camera does not care.
            loop_: true,
            ..source_options(config, &line.source, &line.settings)?
        },
        length: Duration::from_secs_f64(seconds),
        slots,
        encode: None,
        picture: true,
    };
    let measured = measure(&asked, &mut extractors).map_err(|error| InitError::Measure {
        uri: line.settings.uri.clone(),
        error: Box::new(error),
    })?;
    Ok((measured, model))
}

fn numbers(measured: &Measured, model: Option<String>, uri: &str) -> Result<Numbers, InitError> {
    let times = measured.looks.first().map(|l| &l.times);
    let quantile = |share| times.and_then(|t| t.quantile(share));
    let (Some(look_ms), Some(look_p95_ms)) = (quantile(0.5), quantile(0.95)) else {
        return Err(InitError::NoLook(uri.to_owned()));
    };
    Ok(Numbers {
        source: measured.info.description.clone(),
        width: measured.info.layout.width,
        height: measured.info.layout.height,
        fps: measured.fps,
        frames: measured.frames,
        lost: measured.lost,
        looks: times.map_or(0, super::measure::Times::n),
        look_ms,
        look_p95_ms,
        model,
        holds_fps: 1e3 / look_ms.max(1e-3),
        extractor_fps: chosen_fps(measured.info.nominal_fps, measured.fps, look_p95_ms),
        temperature_c: ThisMachine::this().hottest_c(),
    })
}

/// The source's own rate if the slower looks leave room for it, else the next lower round one.
fn chosen_fps(nominal: Option<f64>, captured: f64, look_p95_ms: f64) -> f64 {
    let holds = MARGIN * 1e3 / look_p95_ms.max(1e-3);
    // What the device says it does, as long as that is about what it did.
    let own = nominal
        .filter(|n| (captured - n).abs() <= 0.2 * n)
        .unwrap_or_else(|| captured.round().max(1.0));
    if own <= holds { own } else { round_fps(holds) }
}

fn comment(m: &Numbers) -> String {
    let heat = m
        .temperature_c
        .map_or_else(String::new, |c| format!(", {c:.0} °C"));
    format!(
        "visualpath init, {}: {}x{} at {:.1} fps, {:.1} ms a look (95 %: {:.1}), {}{heat}",
        jiff::Zoned::now().date(),
        m.width,
        m.height,
        m.fps,
        m.look_ms,
        m.look_p95_ms,
        m.model.as_deref().unwrap_or("object"),
    )
}

/// What `device.state_dir` must be, if its default does not do for this user.
fn state_dir() -> Option<String> {
    let default = Config::default().device.state_dir;
    if std::env::var_os("VISUALPATH__DEVICE__STATE_DIR").is_some() || doctor::can_write(&default) {
        return None;
    }
    let set = |key: &str| {
        std::env::var_os(key)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let own = set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|h| h.join(".local/state")))
        .map(|d| d.join("visualpath"))
        .or_else(|| std::env::current_dir().ok().map(|d| d.join("state")))?;
    Some(own.to_string_lossy().into_owned())
}

fn ask(config: &str, out: &Path) -> Result<(), InitError> {
    complain_line(&format!(
        "\n{config}\nWrite this to {}? [Y/n]",
        out.display()
    ));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|e| InitError::Machine(format!("no answer: {e}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "" | "y" | "yes" => Ok(()),
        _ => Err(InitError::Declined),
    }
}

/// The picture with boxes, as a JPEG.
fn boxed(mut picture: Picture) -> Result<Vec<u8>, InitError> {
    draw::objects(&mut picture);
    let color = visualpath_core::ColorSpec::default();
    let layout = ImageLayout::packed(PixelFormat::Rgb, picture.width, picture.height, color);
    let view = FrameView {
        meta: FrameMeta {
            frame_id: 0,
            t_ns: 0,
            epoch: 0,
            layout,
        },
        layout,
        roi: Roi::FULL,
        pixels: &picture.rgb,
    };
    Ok(jpeg::encode(&view, QUALITY)?)
}

/// Whole or not at all, and never over what somebody else has put there meanwhile.
fn write(dir: &Path, path: &Path, bytes: &[u8], force: bool) -> Result<(), InitError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => InitError::File {
            path: path.to_owned(),
            error,
        },
    };
    let mut file = tempfile::Builder::new()
        .prefix(".visualpath-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let placed = match force {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    };
    placed.map_err(|e| failed(e.error)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_chosen_holds_with_a_margin() {
        // 20 ms a look: 35 a second with the margin.
        assert_eq!(chosen_fps(Some(30.0), 29.8, 20.0), 30.0);
        assert_eq!(chosen_fps(Some(10.0), 10.1, 20.0), 10.0);
        assert_eq!(chosen_fps(Some(60.0), 60.0, 20.0), 30.0);
        assert_eq!(chosen_fps(Some(30.0), 30.0, 80.0), 8.0);
        assert_eq!(chosen_fps(None, 14.7, 20.0), 15.0);
        // It says 30 and gives 15, in the dark.
        assert_eq!(chosen_fps(Some(30.0), 15.0, 20.0), 15.0);
        assert_eq!(chosen_fps(Some(30.0), 30.0, 2000.0), 0.3);
    }
}
