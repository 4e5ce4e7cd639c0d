//! `visualpath validate --tests`: recordings, and the triggers that rules must give on them.
//!
//! ```text
//! [[fusion.X.config.test]] ─▶ a config of one path on the clip ─▶ Pipeline ─▶ triggers ─▶ compare
//! ```
//!
//! A case runs through the same [`Pipeline`] as the appliance, as fast as it goes and without
//! drops, so it gives the same triggers on every machine. It publishes nothing, makes no clips and
//! has a state directory of its own.

use std::fmt;
use std::path::{Path, PathBuf};

use crossbeam_channel::Receiver;
use jiff::Timestamp;
use serde::Serialize;
use visualpath_core::Name;
use visualpath_mqtt::payload::PhaseWord;
use visualpath_platform::Registry;

use crate::config::{
    Config, DropPolicy, ExpectedTrigger, FusionSettings, OneOrMany, RuleTest, RulesConfig,
    SourceFormat, WebConfig,
};
use crate::pipeline::Pipeline;

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseResult {
    /// The case's name, else its clip's.
    pub name: String,
    /// The fusion it belongs to.
    pub fusion: Name,
    /// The clip, as the config has it.
    pub clip: PathBuf,
    /// Whether there is no fault.
    pub passed: bool,
    /// The triggers that came.
    pub found: Vec<Found>,
    /// What is not as expected.
    pub faults: Vec<Fault>,
}

/// A trigger that came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Its label.
    pub label: String,
    /// Source time at which the event began, seconds.
    pub at_s: f64,
}

/// One difference between what was expected and what came.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// It came, but too early or too late.
    Off {
        /// Which.
        label: String,
        /// When it was expected.
        at_s: f64,
        /// When it came.
        found_s: f64,
        /// What would have been right.
        tolerance_s: f64,
    },
    /// It did not come.
    Missing {
        /// Which.
        label: String,
        /// When it was expected.
        at_s: f64,
    },
    /// Nobody expected it.
    Unexpected {
        /// Which.
        label: String,
        /// When it came.
        at_s: f64,
    },
    /// The case could not be run, or its run ended badly.
    NotRun {
        /// Why.
        message: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off {
                label,
                at_s,
                found_s,
                tolerance_s,
            } => {
                let off = found_s - at_s;
                let word = if off < 0.0 { "early" } else { "late" };
                write!(
                    f,
                    "{label} came at {found_s:.3} s, {:.3} s too {word} (expected at {at_s} s, \
                     tolerance {tolerance_s} s)",
                    off.abs()
                )
            }
            Self::Missing { label, at_s } => write!(f, "{label} at {at_s} s is missing"),
            Self::Unexpected { label, at_s } => write!(f, "unexpected {label} at {at_s:.3} s"),
            Self::NotRun { message } => write!(f, "could not be run: {message}"),
        }
    }
}

/// `PASS name: …` or `FAIL name: …`.
impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed {
            let n = self.found.len();
            let s = if n == 1 { "" } else { "s" };
            return write!(f, "PASS {}: {n} trigger{s} as expected", self.name);
        }
        write!(f, "FAIL {}: ", self.name)?;
        for (index, fault) in self.faults.iter().enumerate() {
            let comma = if index > 0 { "; " } else { "" };
            write!(f, "{comma}{fault}")?;
        }
        Ok(())
    }
}

/// Runs every case of a checked config, in the order of the file. Relative clips are relative to
/// `dir`, the config file's. `told` hears of each as it is done.
pub fn run(
    config: &Config,
    dir: &Path,
    registry: &Registry,
    mut told: impl FnMut(&CaseResult),
) -> Vec<CaseResult> {
    let mut results = Vec::new();
    for (fusion, settings) in &config.fusion {
        let tests = settings.rules().map_or(&[][..], |rules| &rules.test);
        for test in tests {
            let (found, faults) = match case(config, dir, registry, fusion, test) {
                Ok(found) => {
                    let faults = compare(&test.expect, &found, test.only);
                    (found, faults)
                }
                Err(message) => (Vec::new(), vec![Fault::NotRun { message }]),
            };
            let result = CaseResult {
                name: name_of(test),
                fusion: fusion.clone(),
                clip: test.clip.clone(),
                passed: faults.is_empty(),
                found,
                faults,
            };
            told(&result);
            results.push(result);
        }
    }
    results
}

fn name_of(test: &RuleTest) -> String {
    test.name.clone().unwrap_or_else(|| {
        let file = test.clip.file_name().unwrap_or(test.clip.as_os_str());
        file.to_string_lossy().into_owned()
    })
}

/// Runs one case; the triggers in the order they were fired.
fn case(
    config: &Config,
    dir: &Path,
    registry: &Registry,
    fusion: &Name,
    test: &RuleTest,
) -> Result<Vec<Found>, String> {
    let time = test
        .time
        .as_deref()
        .map(str::parse::<Timestamp>)
        .transpose()
        .map_err(|e| format!("time: {e}"))?;
    let clip = dir.join(&test.clip);
    if !clip.is_file() {
        return Err(format!("there is no file {}", clip.display()));
    }
    let state =
        StateDir::new(&config.device.state_dir).map_err(|e| format!("a state directory: {e}"))?;
    let mut alone = alone(config, fusion, test.path.as_ref(), &clip)?;
    alone.device.state_dir = state.path().to_owned();
    let (mut pipeline, triggers) = collecting(Pipeline::new(alone, registry.clone()));
    if let Some(time) = time {
        pipeline = pipeline.starting_at(time);
    }
    let report = pipeline.run().map_err(|e| e.to_string())?;
    match report.error {
        Some(error) => Err(error.to_string()),
        None => Ok(triggers.try_iter().collect()),
    }
}

/// The one place that knows how an app hears of triggers.
fn collecting(pipeline: Pipeline) -> (Pipeline, Receiver<Found>) {
    let (tell, triggers) = crossbeam_channel::unbounded();
    let pipeline = pipeline.on_trigger(move |payload, _| {
        let body = &payload.trigger;
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        let at_s = body.event_start_ns as f64 / 1e9;
        let found = Found {
            label: body.label.clone(),
            at_s,
        };
        // A range is told when it starts.
        if body.phase != Some(PhaseWord::End) && tell.send(found).is_err() {
            tracing::error!("a trigger of a test is lost: nobody listens");
        }
    });
    (pipeline, triggers)
}

/// The config of one path by itself, on a file.
fn alone(
    config: &Config,
    fusion: &Name,
    path: Option<&Name>,
    clip: &Path,
) -> Result<Config, String> {
    let with: Vec<&Name> = config
        .path
        .iter()
        .filter(|(_, p)| p.fusion == *fusion)
        .map(|(name, _)| name)
        .collect();
    let name = match (path, with.as_slice()) {
        (Some(path), with) if with.contains(&path) => path,
        (None, [only]) => only,
        (None, []) => return Err("no path has this fusion".to_owned()),
        (None, _) => return Err("several paths have this fusion: name one as `path`".to_owned()),
        (Some(path), _) => return Err(format!("path `{path}` is not one with this fusion")),
    };
    let mut alone = config.clone();
    alone.path.retain(|n, _| n == name);
    let Some(path) = alone.path.get_mut(name) else {
        return Err(format!("there is no path `{name}`"));
    };
    let Some(source) = path.source.as_slice().first().cloned() else {
        return Err(format!("path `{name}` has no source"));
    };
    path.source = OneOrMany::One(source.clone());
    let needed: Vec<&str> = config
        .path
        .get(name)
        .map(|path| config.extractors_of(path))
        .unwrap_or_default();
    alone.extractor.retain(|n, _| needed.contains(&n.as_str()));
    for extractor in alone.extractor.values_mut() {
        extractor.drop = Some(DropPolicy::None);
    }
    alone.zone.retain(|_, zone| zone.source == source);
    alone.source.retain(|n, _| *n == source);
    let Some(settings) = alone.source.get_mut(&source) else {
        return Err(format!("there is no source `{source}`"));
    };
    settings.uri = clip
        .to_str()
        .ok_or_else(|| format!("{} is not UTF-8", clip.display()))?
        .to_owned();
    (settings.realtime, settings.repeat) = (false, false);
    (settings.width, settings.height) = (None, None);
    settings.format = SourceFormat::Auto;
    alone.fusion.retain(|n, _| n == fusion);
    for settings in alone.fusion.values_mut() {
        if let FusionSettings::Rules(RulesConfig { rule, .. }) = &mut settings.config {
            for rule in rule {
                rule.clip = false;
            }
        }
    }
    crate::broker::OFF.clone_into(&mut alone.mqtt.url);
    let quiet = Config::default();
    (alone.observability, alone.ota) = (quiet.observability, quiet.ota);
    alone.web = WebConfig::off();
    Ok(alone)
}

/// A state directory that goes when it is dropped, with the models and plugins of the real one: a
/// test may run beside the appliance, and as another user.
struct StateDir(tempfile::TempDir);

impl StateDir {
    fn new(real: &Path) -> std::io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("visualpath-test-")
            .tempdir()?;
        for shared in ["models", "plugins"] {
            let there = std::path::absolute(real.join(shared))?;
            if there.is_dir() {
                std::os::unix::fs::symlink(there, dir.path().join(shared))?;
            }
        }
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What is not as expected. Each trigger meets one expectation of its label at most; as many
/// expectations are met as can be.
fn compare(expected: &[ExpectedTrigger], found: &[Found], only: bool) -> Vec<Fault> {
    let mut met = vec![false; expected.len()];
    let mut left: Vec<&Found> = found.iter().collect();
    left.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    // In the order of time, each trigger goes to the expectation that could wait the least.
    left.retain(|found| {
        let within = |e: &ExpectedTrigger| {
            e.label == *found.label && (found.at_s - e.at_s).abs() <= e.tolerance_s + 1e-9
        };
        let latest = |e: &ExpectedTrigger| e.at_s + e.tolerance_s;
        let first = (0..expected.len())
            .filter(|i| !met[*i] && within(&expected[*i]))
            .min_by(|a, b| latest(&expected[*a]).total_cmp(&latest(&expected[*b])));
        if let Some(first) = first {
            met[first] = true;
        }
        first.is_none()
    });
    let mut faults = Vec::new();
    for (expected, _) in expected.iter().zip(&met).filter(|(_, met)| !**met) {
        let label = expected.label.to_string();
        let off = |found: &Found| (found.at_s - expected.at_s).abs();
        let nearest = (0..left.len())
            .filter(|i| left[*i].label == label)
            .min_by(|a, b| off(left[*a]).total_cmp(&off(left[*b])));
        faults.push(match nearest {
            Some(nearest) => Fault::Off {
                found_s: left.remove(nearest).at_s,
                label,
                at_s: expected.at_s,
                tolerance_s: expected.tolerance_s,
            },
            None => Fault::Missing {
                label,
                at_s: expected.at_s,
            },
        });
    }
    if only {
        faults.extend(left.into_iter().map(|found| Fault::Unexpected {
            label: found.label.clone(),
            at_s: found.at_s,
        }));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(label: &str, at_s: f64, tolerance_s: f64) -> ExpectedTrigger {
        ExpectedTrigger {
            label: Name::new(label).unwrap(),
            at_s,
            tolerance_s,
        }
    }

    fn found(label: &str, at_s: f64) -> Found {
        Found {
            label: label.to_owned(),
            at_s,
        }
    }

    fn texts(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_came_as_expected_is_no_fault() {
        let expected = [expect("a", 1.0, 0.5), expect("b", 2.0, 0.0)];
        let came = [found("a", 1.5), found("b", 2.0)];
        assert_eq!(compare(&expected, &came, true), []);
        assert_eq!(compare(&[], &[], true), []);
    }

    #[test]
    fn what_did_not_is_told_with_how_much_it_is_off() {
        let expected = [
            expect("a", 1.0, 0.5),
            expect("a", 9.0, 0.5),
            expect("b", 2.0, 0.5),
        ];
        let came = [found("a", 0.25), found("c", 3.0)];
        assert_eq!(
            texts(&compare(&expected, &came, true)),
            [
                "a came at 0.250 s, 0.750 s too early (expected at 1 s, tolerance 0.5 s)",
                "a at 9 s is missing",
                "b at 2 s is missing",
                "unexpected c at 3.000 s",
            ]
        );
        let tolerant = texts(&compare(&expected, &came, false));
        assert_eq!(tolerant.len(), 3, "others may come: {tolerant:?}");
    }

    #[test]
    fn one_trigger_meets_one_expectation_and_as_many_are_met_as_can_be() {
        let expected = [expect("a", 1.0, 2.0), expect("a", 1.0, 0.2)];
        // The narrow one must get the trigger it alone needs.
        let came = [found("a", 1.1), found("a", 2.0)];
        assert_eq!(compare(&expected, &came, true), []);
        assert_eq!(
            texts(&compare(&expected, &came[..1], true)),
            ["a at 1 s is missing"]
        );
        let thrice = [found("a", 1.0), found("a", 1.1), found("a", 1.2)];
        assert_eq!(
            texts(&compare(&expected, &thrice, true)),
            ["unexpected a at 1.200 s"]
        );
    }

    #[test]
    fn a_case_is_one_line() {
        let mut case = CaseResult {
            name: "front door".to_owned(),
            fusion: Name::new("visitor").unwrap(),
            clip: "a.mp4".into(),
            passed: true,
            found: vec![found("a", 1.0)],
            faults: vec![],
        };
        assert_eq!(case.to_string(), "PASS front door: 1 trigger as expected");
        case.passed = false;
        case.faults = compare(&[], &[found("a", 1.0), found("b", 2.5)], true);
        assert_eq!(
            case.to_string(),
            "FAIL front door: unexpected a at 1.000 s; unexpected b at 2.500 s"
        );
        assert_eq!(
            serde_json::to_value(&case.faults[1]).unwrap(),
            serde_json::json!({"fault": "unexpected", "label": "b", "at_s": 2.5})
        );
    }
}
