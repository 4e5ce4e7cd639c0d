//! `visualpath doctor`: does everything that the config asks for work here, and how much of it does
//! this board hold.
//!
//! Every check gives findings: a code with one severity, what it is about, what was seen, what to do.
//! Whatever can be tried is tried for real: the camera gives pictures, the models look at them, a
//! message goes to the broker, bytes go to the disk. `docs/reference/doctor.md` lists the codes.

mod broker;
mod capacity;
mod disk;
mod finding;
mod inference;
mod machine;
pub mod program;
mod sandbox;
mod source;

use std::time::Duration;

use serde::Serialize;
use visualpath_media::encode::{EncoderKind, H264Encoder, hardware_encoder};
use visualpath_platform::{Bell, Registry};

use super::{ConfigArgs, fail, findings_of, say, say_json};
use crate::builtin;
use crate::config::{self, Config, Diagnostic, LoadOptions, Loaded};
use crate::exit::Exit;
use crate::pipeline::plan::{self, LinePlan, Plan};
use crate::pipeline::{StartError, evidence};
use capacity::{SourcePlan, Wants};
use finding::{Code, Finding, Severity};
use machine::Machine;

pub use disk::can_write;
pub use machine::Machine as ThisMachine;

/// How long each source is watched.
const WATCH: Duration = Duration::from_secs(3);

/// What is printed with `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
    plan: Vec<SourcePlan>,
    faults: usize,
    warnings: usize,
}

impl Report {
    /// Each once: an extractor of two sources is loaded twice.
    fn add(&mut self, found: impl IntoIterator<Item = Finding>) {
        for finding in found {
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    fn count(&mut self) {
        let of = |s: Severity| self.findings.iter().filter(|f| f.severity == s).count();
        (self.faults, self.warnings) = (of(Severity::Fault), of(Severity::Warn));
    }
}

/// The verb.
pub fn run(args: &ConfigArgs, quick: bool, json: bool) -> Exit {
    let registry = match builtin::registry() {
        Ok(registry) => registry,
        Err(e) => return fail(Exit::Plugin, &e.to_string()),
    };
    let mut report = Report::default();
    let config = the_config(args, &mut report);
    report.add(Machine::this().check());
    report.add([source::cameras()]);
    report.add(inference::runtimes());
    match &config {
        Some(loaded) => configured(loaded, &registry, quick, &mut report),
        // What a config with nothing but defaults would use.
        None => report.add(disk::check(&Config::default())),
    }
    report.count();
    let exit = match report.faults {
        0 => Exit::Ok,
        _ => Exit::Failed,
    };
    let said = match json {
        true => say_json(&report),
        false => say(&text(&report)),
    };
    if said == Exit::Ok { exit } else { said }
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    if !report.plan.is_empty() {
        lines.push("\nCapacity plan".to_owned());
        lines.extend(report.plan.iter().map(ToString::to_string));
    }
    let some = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    lines.push(format!(
        "\n{}, {}",
        some(report.faults, "fault"),
        some(report.warnings, "warning")
    ));
    lines.join("\n")
}

/// Loads the config and tells what is wrong with it.
fn the_config(args: &ConfigArgs, report: &mut Report) -> Option<Loaded> {
    let Some(path) = args.config.clone().or_else(config::find_default) else {
        report.add([Finding::new(
            Code::ConfigNone,
            "config",
            "neither ./visualpath.toml nor /etc/visualpath/visualpath.toml is there: only the machine is looked at",
        )
        .advise("`visualpath init` writes one that fits this board")]);
        return None;
    };
    let mut options = LoadOptions::new(&path);
    options.source_uri.clone_from(&args.source);
    match config::load(&options) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                report.add([diagnosed(warning)]);
            }
            Some(loaded)
        }
        Err(found) => {
            for diagnostic in &found {
                report.add([diagnosed(diagnostic)]);
            }
            None
        }
    }
}

fn diagnosed(d: &Diagnostic) -> Finding {
    let code = match d.is_error() {
        true => Code::ConfigInvalid,
        false => Code::ConfigWarning,
    };
    let place = match (d.line, d.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", d.file),
        _ => d.file.clone(),
    };
    let key = match d.key.as_str() {
        "" => "config".to_owned(),
        key => key.to_owned(),
    };
    let advice = d
        .hint
        .clone()
        .unwrap_or_else(|| "docs/reference/config.md says what the key takes".to_owned());
    Finding::new(code, key, format!("{place}: {}", d.message)).advise(advice)
}

/// Everything that a config names.
fn configured(loaded: &Loaded, registry: &Registry, quick: bool, report: &mut Report) {
    let config = &loaded.config;
    report.add(disk::check(config));
    report.add([broker::check(config)]);
    for (name, settings) in &config.source {
        report.add(source::programs(name, settings));
    }
    let lines = match plan::plan(config, registry) {
        Ok(Plan { lines }) => {
            let files: Vec<String> = loaded
                .files
                .iter()
                .map(|f| f.display().to_string())
                .collect();
            report.add([Finding::new(Code::ConfigValid, "config", files.join(", "))]);
            lines
        }
        Err(error) => {
            report.add(unplanned(loaded, registry, &error));
            for (name, settings) in &config.source {
                let finding = source::device(name, settings);
                report.add([finding.unwrap_or_else(|| source::open(config, name, settings))]);
            }
            return report.add(sandbox::check(config, &[]));
        }
    };
    report.add(sandbox::check(config, &lines));
    if lines.iter().any(LinePlan::wants_clips) {
        report.add(h264_licence(config));
    }
    sources(config, lines, quick, report);
}

/// Whose H.264 encoder it is, and who pays for its patents.
fn h264_licence(config: &Config) -> Option<Finding> {
    if evidence::encoder_kind(config) != EncoderKind::H264 {
        return None;
    }
    let h264 = evidence::h264(config);
    if let Err(e) = h264.check() {
        let finding = Finding::new(Code::ConfigInvalid, "clip.openh264_library", e.to_string());
        return Some(finding.advise("clip.openh264_library must name Cisco's own binary"));
    }
    let software = match (h264.encoder, &h264.library) {
        (H264Encoder::OpenH264, _) | (_, None) => "OpenH264, built from source: the patent licence that Cisco pays for covers Cisco's own binary only (clip.encoder = \"openh264-lib\"); for a product, ask who counsels you".to_owned(),
        (_, Some(file)) => format!(
            "OpenH264, Cisco's own binary `{}`, which the patent licence that Cisco pays for covers if this device downloaded it itself",
            file.display()
        ),
    };
    let may_be_hardware = matches!(h264.encoder, H264Encoder::Auto | H264Encoder::Hardware);
    let detail = match may_be_hardware.then(hardware_encoder).flatten() {
        Some(device) => format!(
            "clips are encoded by the board's encoder {device} (its maker says whether the patents are paid for); if it fails, by {software}"
        ),
        None => format!("clips are encoded by {software}"),
    };
    Some(Finding::new(Code::H264Licence, "clip.encoder", detail))
}

/// A plan that can't be made, told part by part.
fn unplanned(loaded: &Loaded, registry: &Registry, error: &StartError) -> Vec<Finding> {
    match (error, findings_of(loaded, error)) {
        (StartError::Config(_), Some(diagnostics)) => diagnostics.iter().map(diagnosed).collect(),
        _ => inference::one_by_one(&loaded.config, registry, error),
    }
}

/// Loads every extractor, lets it look at its source, and adds up what that takes.
fn sources(config: &Config, lines: Vec<LinePlan>, quick: bool, report: &mut Report) {
    let bell = Bell::new().map_err(|e| e.to_string());
    let work = tempfile::tempdir().map_err(|e| e.to_string());
    let (bell, work) = match (bell, work) {
        (Ok(bell), Ok(work)) => (bell, work),
        (Err(e), _) | (_, Err(e)) => {
            return report.add([Finding::new(
                Code::ExtractorFailed,
                "extractors",
                format!("can't be tried: {e}"),
            )
            .advise(
                "there must be room and a right to write in the directory for temporary files",
            )]);
        }
    };
    for line in lines {
        let wants = Wants::of(&line);
        let (mut extractors, found) =
            inference::load(config, &line.source, line.extractors, &bell, work.path());
        report.add(found);
        if let Some(finding) = source::device(&line.source, &line.settings) {
            report.add([finding]);
            continue;
        }
        if quick {
            report.add([source::open(config, &line.source, &line.settings)]);
            continue;
        }
        let wanted = source::Wanted {
            name: &wants.source,
            settings: &wants.settings,
            slots: wants.slots,
            clips: wants.clips,
            length: WATCH,
        };
        match source::try_out(config, &wanted, &mut extractors) {
            Ok((measured, finding)) => {
                report.add([finding]);
                let (plan, found) = capacity::source(config, &wants, &measured);
                report.add(found);
                report.plan.push(plan);
            }
            Err(finding) => report.add([finding]),
        }
        for loaded in extractors {
            close(loaded.worker);
        }
    }
    if !report.plan.is_empty() {
        let pools = report.plan.iter().map(|p| p.pool_bytes).sum();
        let rings = report.plan.iter().map(|p| p.ring_bytes).sum();
        report.findings.extend(capacity::cores(&report.plan));
        report.findings.extend(Machine::this().memory(pools, rings));
    }
}

/// How long a plugin's process has to end by itself.
const CHILD_GRACE: Duration = Duration::from_secs(5);

fn close(worker: visualpath_platform::LaneWorker) {
    if let visualpath_platform::LaneWorker::Child(child) = worker {
        // Nothing is ever sent: it disconnects when the process is gone.
        let ended = child.close(CHILD_GRACE).recv();
        tracing::debug!(?ended, "worker process ended");
    }
}
