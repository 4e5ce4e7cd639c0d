//! `visualpath trace`: a recorded run, gone through again.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use visualpath_core::{ExtractorSignals, Fusion, Name, Phase, Signals, Trigger};
use visualpath_platform::rules::{RuleView, Rules};
use visualpath_platform::trace::record::{FusionDecision, InputKind, OutcomeWord};
use visualpath_platform::trace::replay::Replayed;
use visualpath_platform::trace::{ReadError, Record, Replay, ReplayReport, TraceReader};

use super::{ConfigArgs, complain, complain_line, fail, load_options, say, say_json};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::pipeline::trace::config_sha256;

/// Differences shown to people; `--json` has more.
const SHOWN: usize = 10;

fn load(args: &ConfigArgs) -> Result<Config, Exit> {
    let loaded = config::load(&load_options(args)?).map_err(|findings| {
        complain(&findings);
        Exit::Config
    })?;
    Ok(loaded.config)
}

/// Makes a path's fusion as the config has it, for the extractors as the trace has them.
fn make_fusion(
    config: &Config,
    path: &Name,
    extractors: &[ExtractorSignals],
) -> Result<Box<dyn Fusion>, String> {
    let settings = config
        .path
        .get(path)
        .ok_or_else(|| format!("the config has no path `{path}`"))?;
    let name = &settings.fusion;
    let rules = config
        .fusion
        .get(name)
        .and_then(|f| f.rules())
        .ok_or_else(|| format!("fusion `{name}` is not of the built-in plugin `rules`"))?;
    match Rules::compile(rules.clone(), extractors, config.timezone()) {
        Ok(rules) => Ok(Box::new(rules)),
        Err(errors) => {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Err(texts.join("; "))
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ReplayLine<'a> {
    Trigger(&'a Replayed),
    Replay {
        identical: bool,
        #[serde(flatten)]
        report: &'a ReplayReport,
    },
}

/// `trace replay`.
pub fn replay(file: &Path, args: &ConfigArgs, json: bool) -> Exit {
    let config = match load(args) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let replayed = TraceReader::open(file).and_then(|reader| run_again(reader, &config));
    let mut report = match replayed {
        Ok(report) => report,
        Err(e) => return fail(Exit::Failed, &e.to_string()),
    };
    for replayed in &report.triggers {
        let said = if json {
            say_json(&ReplayLine::Trigger(replayed))
        } else {
            say(&describe(replayed))
        };
        if said != Exit::Ok {
            return said;
        }
    }
    report.triggers.clear();
    let identical = report.identical();
    let said = if json {
        let report = &report;
        say_json(&ReplayLine::Replay { identical, report })
    } else {
        sum_up(file, &report);
        Exit::Ok
    };
    match said {
        Exit::Ok if !identical => Exit::Failed,
        said => said,
    }
}

fn run_again(
    mut reader: TraceReader<impl std::io::BufRead>,
    config: &Config,
) -> Result<ReplayReport, ReadError> {
    let sha256 = config_sha256(config);
    let mut replay = Replay::new(|path: &Name, _: &Name, extractors: &[ExtractorSignals]| {
        make_fusion(config, path, extractors)
    });
    let mut other = BTreeSet::new();
    for item in reader.by_ref() {
        match item {
            Ok((line, record)) => {
                if let Record::SessionStart(s) = &record
                    && s.config_sha256 != sha256
                {
                    other.insert(line);
                }
                replay.step(line, record);
            }
            Err(e @ ReadError::Io { .. }) => return Err(e),
            Err(ReadError::Line { line, error, .. }) => replay.unreadable(line, &error.to_string()),
        }
    }
    let mut report = replay.finish();
    report.notes.extend(
        other
            .into_iter()
            .take(SHOWN)
            .map(|line| format!("line {line}: the run had another config, or another device's")),
    );
    if let Some(line) = reader.torn() {
        let note = format!("line {line} is torn: the run was cut off there");
        report.notes.push(note);
    }
    Ok(report)
}

/// For people, on standard error: standard output has the triggers.
fn sum_up(file: &Path, report: &ReplayReport) {
    let ReplayReport {
        differences,
        different,
        missing,
        missing_pieces,
        notes,
        decisions,
        ..
    } = report;
    for note in notes {
        complain_line(&format!("note: {note}"));
    }
    for (what, told, all) in [
        ("different", differences, different),
        ("missing", missing, missing_pieces),
    ] {
        for one in told.iter().take(SHOWN) {
            complain_line(&format!("{what}: {one}"));
        }
        let more = all.saturating_sub(SHOWN as u64);
        if more > 0 {
            complain_line(&format!("{what}: and {more} more"));
        }
    }
    let file = file.display();
    complain_line(&if report.identical() {
        format!("{file}: {decisions} decisions, all as recorded")
    } else {
        format!(
            "{file}: {decisions} decisions, {different} differences, {missing_pieces} missing pieces"
        )
    });
}

fn describe(r: &Replayed) -> String {
    let t: &Trigger = &r.trigger;
    let phase = match &t.phase {
        Phase::Point => "point",
        Phase::Start => "start",
        Phase::End { .. } => "end",
    };
    format!(
        "{:10.3} s  {}  {}  {} {phase} #{}  score {:.2}  {}",
        seconds(t.fired_ns),
        r.source,
        r.path,
        t.label,
        t.event,
        t.score,
        t.reason
    )
}

/// One decision, explained.
#[derive(Debug, Serialize)]
struct Explained {
    path: Name,
    source: Name,
    /// The line of the decision.
    line: u64,
    input: InputKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_id: Option<u64>,
    t_ns: i64,
    extractors: Vec<Given>,
    /// Labels of the triggers it gave.
    fired: Vec<Name>,
    /// Absent without a config, and of a fusion that is not `rules`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<Vec<RuleExplained>>,
    /// Why there are no rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What the fusion had of one extractor.
#[derive(Debug, Serialize)]
struct Given {
    extractor: Name,
    outcome: OutcomeWord,
    /// The frame it holds, and how old that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signals: Option<Signals>,
}

#[derive(Debug, Serialize)]
struct RuleExplained {
    label: Name,
    when: String,
    holds: bool,
    /// Why `when` counts as false.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ns: Option<i64>,
    reads: Vec<ReadExplained>,
}

#[derive(Debug, Serialize)]
struct ReadExplained {
    signal: String,
    value: Option<f64>,
    age_ms: Option<f64>,
}

/// `trace explain`.
pub fn explain(file: &Path, at_s: f64, config: Option<PathBuf>, json: bool) -> Exit {
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let at_ns = (at_s * 1e9).round() as i64;
    let config = match config {
        None => None,
        config => match load(&ConfigArgs {
            config,
            source: None,
        }) {
            Ok(config) => Some(config),
            Err(exit) => return exit,
        },
    };
    let reader = match TraceReader::open(file) {
        Ok(reader) => reader,
        Err(e) => return fail(Exit::Failed, &e.to_string()),
    };
    match look(reader, at_ns, config.as_ref()) {
        Err(e) => fail(Exit::Failed, &e.to_string()),
        Ok(found) if found.is_empty() => fail(
            Exit::Failed,
            &format!(
                "{}: no fusion_decision at or before {at_s} s; it takes level = \"verbose\" to \
                 record them",
                file.display()
            ),
        ),
        Ok(found) if json => say_json(&found),
        Ok(found) => say(&found.iter().map(tell).collect::<Vec<_>>().join("\n\n")),
    }
}

/// Feeds the fusions up to the moment, then asks them. Of a file with several sessions, the first
/// that reaches the moment counts.
fn look(
    reader: TraceReader<impl std::io::BufRead>,
    at_ns: i64,
    config: Option<&Config>,
) -> Result<Vec<Explained>, ReadError> {
    let mut problems = BTreeMap::new();
    let mut replay = Replay::new(|path: &Name, _: &Name, extractors: &[ExtractorSignals]| {
        let made = match config {
            Some(config) => make_fusion(config, path, extractors),
            None => Err("give the config with -c to see the rules".to_owned()),
        };
        made.inspect_err(|why| drop(problems.insert(path.clone(), why.clone())))
    });
    let mut found: BTreeMap<(Name, Name), Explained> = BTreeMap::new();
    let mut past = BTreeSet::new();
    for item in reader {
        let (line, record) = match item {
            Ok(item) => item,
            Err(e @ ReadError::Io { .. }) => return Err(e),
            Err(ReadError::Line { line, error, .. }) => {
                replay.unreadable(line, &error.to_string());
                continue;
            }
        };
        match &record {
            Record::SessionStart(s) if !s.continued => {
                if !past.is_empty() {
                    break;
                }
                found.clear();
            }
            Record::FusionDecision(decision) => {
                let key = (decision.path.clone(), decision.source.clone());
                let t_ns = decision.t_ns.or(decision.to_ns).unwrap_or(i64::MIN);
                if past.contains(&key) {
                    continue;
                }
                if t_ns > at_ns {
                    past.insert(key);
                    let all = replay.current_session().map_or(0, |s| s.paths.len());
                    if past.len() >= all.max(1) {
                        break;
                    }
                    continue;
                }
                // Looked up now: the observations are kept only for a while.
                let explained = given(&replay, line, t_ns, decision);
                found.insert(key, explained);
            }
            _ => {}
        }
        replay.step(line, record);
    }
    for ((path, source), explained) in &mut found {
        let fusion = replay.fusion(path, source).map(|f| f as &dyn Any);
        if let Some(rules) = fusion.and_then(<dyn Any>::downcast_ref::<Rules>) {
            let ages: BTreeMap<_, _> = explained
                .extractors
                .iter()
                .filter_map(|e| Some((e.extractor.clone(), e.age_ms?)))
                .collect();
            let rules = rules.explain().into_iter();
            explained.rules = Some(rules.map(|view| rule(view, &ages)).collect());
        }
    }
    drop(replay);
    for explained in found.values_mut() {
        explained.problem = problems.get(&explained.path).cloned();
    }
    Ok(found.into_values().collect())
}

fn given<F>(replay: &Replay<F>, line: u64, t_ns: i64, decision: &FusionDecision) -> Explained
where
    F: visualpath_platform::trace::replay::MakeFusion,
{
    let extractors = decision.entries.iter().map(|entry| {
        let id = entry.held;
        let held = id.and_then(|id| replay.held(&decision.source, &entry.extractor, id));
        Given {
            extractor: entry.extractor.clone(),
            outcome: entry.outcome,
            held: id,
            age_ms: held.map(|h| seconds(t_ns.saturating_sub(h.t_ns)) * 1e3),
            signals: held.map(|h| h.signals.clone()),
        }
    });
    Explained {
        path: decision.path.clone(),
        source: decision.source.clone(),
        line,
        input: decision.input,
        frame_id: decision.frame_id,
        t_ns,
        extractors: extractors.collect(),
        fired: decision.triggers.iter().map(|t| t.label.clone()).collect(),
        rules: None,
        problem: None,
    }
}

fn rule(view: RuleView, ages: &BTreeMap<Name, f64>) -> RuleExplained {
    let reads = view
        .reads
        .into_iter()
        .map(|(extractor, signal, value)| ReadExplained {
            age_ms: value.and_then(|_| ages.get(&extractor).copied()),
            signal: format!("{extractor}.{signal}"),
            value,
        });
    RuleExplained {
        label: view.label,
        when: view.when,
        holds: view.holds == Ok(true),
        error: view.holds.err(),
        state: view.state,
        since_ns: view.since_ns,
        reads: reads.collect(),
    }
}

fn tell(e: &Explained) -> String {
    let input = match (e.input, e.frame_id) {
        (InputKind::Frame, Some(id)) => format!("frame {id}"),
        (InputKind::Gap, _) => "gap".to_owned(),
        (InputKind::End, _) => "end".to_owned(),
        (InputKind::TakeOver, _) => "new rules".to_owned(),
        (InputKind::Frame, None) => "frame".to_owned(),
    };
    let mut text = format!(
        "path {} on {}: {input} at {:.3} s (line {})",
        e.path,
        e.source,
        seconds(e.t_ns),
        e.line
    );
    for x in &e.extractors {
        text.push_str(&format!("\n  {}: {}", x.extractor, x.outcome));
        match (x.held, x.age_ms) {
            (Some(id), Some(age)) => {
                text.push_str(&format!(", holds frame {id} ({age:.0} ms old)"))
            }
            (Some(id), None) => text.push_str(&format!(", holds frame {id}, which is missing")),
            (None, _) => text.push_str(", holds nothing"),
        }
        if let (None, Some(signals)) = (&e.rules, &x.signals) {
            for (name, value) in signals.iter() {
                text.push_str(&format!("\n    {name} = {value}"));
            }
        }
    }
    for r in e.rules.iter().flatten() {
        let holds = match &r.error {
            None if r.holds => "holds".to_owned(),
            None => "does not hold".to_owned(),
            Some(error) => format!("counts as false: {error}"),
        };
        let since = r
            .since_ns
            .map_or_else(String::new, |ns| format!(" since {:.3} s", seconds(ns)));
        let fired = if e.fired.contains(&r.label) {
            "; FIRED"
        } else {
            ""
        };
        text.push_str(&format!(
            "\n  rule {}: `{}` {holds}; {}{since}{fired}",
            r.label, r.when, r.state
        ));
        for read in &r.reads {
            text.push_str(&match (read.value, read.age_ms) {
                (Some(value), Some(age)) => {
                    format!("\n    {} = {value} ({age:.0} ms old)", read.signal)
                }
                (Some(value), None) => format!("\n    {} = {value}", read.signal),
                (None, _) => format!("\n    {}: none held", read.signal),
            });
        }
    }
    if let Some(problem) = &e.problem {
        text.push_str(&format!("\n  {problem}"));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}
