//! `visualpath validate` and `visualpath config`.

use visualpath_core::Name;

use super::{
    ConfigArgs, complain, exit_of, fail, findings_of, load_options, refuse, say, say_json,
};
use crate::builtin;
use crate::config::{self, Diagnostic};
use crate::exit::Exit;
use crate::pipeline::{build, plan};

pub fn validate(args: &ConfigArgs, plugins: bool, json: bool) -> Exit {
    let options = match load_options(args) {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    let loaded = match config::load(&options) {
        Ok(loaded) => loaded,
        Err(findings) => return answer(&findings, json, Exit::Config),
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
        if plugins {
            for planned in plan.lines.iter().flat_map(|line| &line.extractors) {
                build::warm_up(&mut build::load(planned)?, planned.view)?;
            }
        }
        Ok(slots)
    });
    match planned {
        Ok(slots) => {
            let exit = answer(&findings, json, Exit::Ok);
            if exit != Exit::Ok || json {
                return exit;
            }
            let checked = if plugins {
                "config, plugins and models"
            } else {
                "config and rules"
            };
            say(&format!(
                "{}: {checked} are valid; frame slots: {}",
                options.path.display(),
                slots
                    .iter()
                    .map(|(source, n)| format!("{source} {n}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
        }
        Err(error) => match findings_of(&loaded, &error) {
            Some(wrong) => {
                findings.extend(wrong);
                answer(&findings, json, exit_of(&error))
            }
            None => refuse(&loaded, &error),
        },
    }
}

/// Findings go to standard error for people, to standard output for programs.
fn answer(findings: &[Diagnostic], json: bool, exit: Exit) -> Exit {
    if json {
        let said = say_json(&findings);
        return if said == Exit::Ok { exit } else { said };
    }
    complain(findings);
    exit
}

pub fn schema(message: Option<&str>) -> Exit {
    let Some(name) = message else {
        return pretty(config::schema());
    };
    let all = visualpath_mqtt::schemas();
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
