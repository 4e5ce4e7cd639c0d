//! The layers that keep worker processes in.

use visualpath_platform::Isolation;
use visualpath_sandbox::{LayerState, Policy};

use super::finding::{Code, Finding};
use crate::config::{Config, Trust};
use crate::pipeline::plan::LinePlan;

/// Every layer, judged by whether anything of this config runs in a process of its own.
pub fn check(config: &Config, lines: &[LinePlan]) -> Vec<Finding> {
    let fusions = config.fusion.values().filter(|f| f.other().is_some());
    let in_process = lines
        .iter()
        .flat_map(|line| &line.extractors)
        .any(|e| matches!(e.isolation, Isolation::Process | Isolation::Venv))
        || fusions.count() > 0;
    let layers = visualpath_sandbox::probe();
    let mut found: Vec<Finding> = layers
        .iter()
        .map(|layer| {
            let subject = layer.name.to_string();
            match &layer.state {
                LayerState::Working(how) => Finding::new(Code::Sandbox, subject, how),
                // Nothing to be done about what nobody uses.
                LayerState::Missing { why, .. } if !in_process => Finding::new(
                    Code::SandboxUnused,
                    subject,
                    format!(
                        "missing: {why}; no plugin of this config runs in a process of its own"
                    ),
                ),
                LayerState::Missing { why, fix } => Finding::new(
                    Code::SandboxMissing,
                    subject,
                    format!("missing: {why}; workers run without it"),
                )
                .advise(fix),
            }
        })
        .collect();
    let untrusted = config
        .extractor
        .iter()
        .filter(|(_, e)| e.trust == Trust::Untrusted);
    let policy = Policy {
        trust: visualpath_sandbox::Trust::Untrusted,
        ..Policy::default()
    };
    for (name, _) in untrusted {
        for layer in policy.mandatory_missing(&layers) {
            found.push(
                Finding::new(
                    Code::SandboxMandatory,
                    format!("extractor.{name}"),
                    format!("trust = \"untrusted\", and {layer}"),
                )
                .advise("make the layer work, or run the plugin on another machine"),
            );
        }
    }
    found
}
