//! `visualpath validate` and `visualpath config`.

use std::path::Path;

use serde::Serialize;
use visualpath_core::Name;
use visualpath_platform::{Bell, LaneWorker, Registry};

use super::{
    ConfigArgs, complain, exit_of, fail, findings_of, load_options, refuse, say, say_json,
};
use crate::builtin;
use crate::config::{self, Config, Diagnostic};
use crate::exit::Exit;
use crate::pipeline::build::{self, Nursery};
use crate::pipeline::{StartError, plan};
use crate::rule_tests::{self, CaseResult};

/// What `validate` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Models and plugins too.
    pub plugins: bool,
    /// The tests beside the rules too.
    pub tests: bool,
    /// JSON.
    pub json: bool,
}

/// With `--tests --json`.
#[derive(Serialize)]
struct Document<'a> {
    findings: &'a [Diagnostic],
    tests: &'a [CaseResult],
    passed: usize,
    failed: usize,
}

pub fn validate(args: &ConfigArgs, wanted: Wanted) -> Exit {
    let options = match load_options(args) {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    let loaded = match config::load(&options) {
        Ok(loaded) => loaded,
        Err(findings) => return answer(&findings, &[], wanted, Exit::Config),
    };
    let registry = match builtin::registry() {
        Ok(registry) => registry,
        Err(e) => return fail(Exit::Plugin, &e.to_string()),
    };
    let mut findings = loaded.warnings.clone();
    let planned = plan::plan(&loaded.config, &registry).and_then(|plan| {
        let slots: Vec<(Name, usize)> = plan
            .lines
            .iter()
            .map(|line| (line.source.clone(), line.slots()))
            .collect();
        #[cfg(feature = "web")]
        crate::web::options(&loaded.config)?;
        if wanted.plugins {
            try_plugins(&loaded.config, plan.lines)?;
        }
        Ok(slots)
    });
    let slots = match planned {
        Ok(slots) => slots,
        Err(error) => {
            return match findings_of(&loaded, &error) {
                Some(wrong) => {
                    findings.extend(wrong);
                    answer(&findings, &[], wanted, exit_of(&error))
                }
                None => refuse(&loaded, &error),
            };
        }
    };
    if wanted.tests {
        return test(&options.path, &loaded.config, &registry, &findings, wanted);
    }
    let exit = answer(&findings, &[], wanted, Exit::Ok);
    if exit != Exit::Ok || wanted.json {
        return exit;
    }
    let checked = if wanted.plugins {
        "config, plugins and models"
    } else {
        "config and rules"
    };
    let slots: Vec<String> = slots
        .iter()
        .map(|(source, n)| format!("{source} {n}"))
        .collect();
    say(&format!(
        "{}: {checked} are valid; frame slots: {}",
        options.path.display(),
        slots.join(", ")
    ))
}

/// Lets every extractor look at a test picture, where the config wants it to run.
fn try_plugins(config: &Config, lines: Vec<plan::LinePlan>) -> Result<(), StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Thread(e.to_string());
    let bell = Bell::new().map_err(|e| failed(&e))?;
    // Nothing of a trial is left in the appliance's own directories.
    let work = tempfile::tempdir().map_err(|e| failed(&e))?;
    let nursery = Nursery {
        config,
        bell: &bell,
        work_dir: Some(work.path()),
    };
    for line in lines {
        for mut planned in line.extractors {
            let mut loaded = build::load(&mut planned, &line.source, &nursery)?;
            if let LaneWorker::Child(child) = &loaded.worker
                && let Some(gone) = child.gone()
            {
                return Err(StartError::Worker {
                    extractor: loaded.name,
                    message: gone.why.to_string(),
                });
            }
            build::warm_up(&mut loaded)?;
        }
        for path in line.paths {
            build::try_fusion(&line.source, path, &nursery)?;
        }
    }
    Ok(())
}

/// Runs the tests of a valid config, and tells of each as it is done.
fn test(
    file: &Path,
    config: &Config,
    registry: &Registry,
    findings: &[Diagnostic],
    wanted: Wanted,
) -> Exit {
    if !wanted.json {
        complain(findings);
    }
    let dir = file.parent().unwrap_or(Path::new(""));
    let mut said = Exit::Ok;
    let tests = rule_tests::run(config, dir, registry, |case| {
        if !wanted.json && said == Exit::Ok {
            said = say(&case.to_string());
        }
    });
    let exit = match tests.iter().all(|t| t.passed) {
        true => Exit::Ok,
        false => Exit::Failed,
    };
    if wanted.json {
        return answer(findings, &tests, wanted, exit);
    }
    if tests.is_empty() && said == Exit::Ok {
        said = say(&format!(
            "{}: no tests; write [[fusion.<name>.config.test]] beside the rules",
            file.display()
        ));
    }
    if said == Exit::Ok { exit } else { said }
}

/// Findings go to standard error for people, to standard output for programs.
fn answer(findings: &[Diagnostic], tests: &[CaseResult], wanted: Wanted, exit: Exit) -> Exit {
    if !wanted.json {
        complain(findings);
        return exit;
    }
    let said = if wanted.tests {
        let passed = tests.iter().filter(|t| t.passed).count();
        say_json(&Document {
            findings,
            tests,
            passed,
            failed: tests.len() - passed,
        })
    } else {
        say_json(&findings)
    };
    if said == Exit::Ok { exit } else { said }
}

pub fn schema(message: Option<&str>) -> Exit {
    let Some(name) = message else {
        return pretty(config::schema());
    };
    let mut all = visualpath_mqtt::schemas();
    all.extend(crate::commands::schemas());
    all.push(("status", crate::pipeline::status::schema()));
    match all.iter().find(|(n, _)| *n == name) {
        Some((_, schema)) => pretty(schema),
        None => {
            let known: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
            fail(
                Exit::Usage,
                &format!("no message is called `{name}`; known: {}", known.join(", ")),
            )
        }
    }
}

fn pretty(document: &serde_json::Value) -> Exit {
    say(&format!("{document:#}"))
}

pub fn show(args: &ConfigArgs, expanded: bool, json: bool) -> Exit {
    let options = match load_options(args) {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    match config::load(&options) {
        Ok(loaded) => {
            complain(&loaded.warnings);
            let keys = config::show(&loaded, expanded);
            if json {
                say_json(&keys)
            } else {
                say(config::show_text(&keys).trim_end())
            }
        }
        Err(findings) => {
            complain(&findings);
            Exit::Config
        }
    }
}
