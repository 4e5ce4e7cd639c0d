//! `[fusion.<name>.config]` of a `rules` fusion: what can be written, its defaults and its bounds.
//!
//! The one place where these keys are defined: the config's JSON Schema, its checks and
//! `docs/reference` are made from these types.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use visualpath_core::{Auto, Name, TriggerKind, nearest};

/// Most rules one fusion may have; each is evaluated on every frame.
pub const MAX_RULES: usize = 64;

/// A day: the longest time a rule may count.
const MAX_MS: u64 = 86_400_000;

/// Config of the built-in fusion `rules`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RulesConfig {
    /// The rules; each stands alone.
    pub rule: Vec<RuleConfig>,
    /// A held signal older than this is missing; `auto` is 2.5 × the extractor's interval, from
    /// 200.
    #[schemars(schema_with = "stale_schema")]
    pub stale_ms: Auto<u64>,
}

/// One rule. All times are source time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Name of its triggers.
    #[schemars(extend("examples" = ["visitor"]))]
    pub label: Name,
    /// CEL condition over the signals of the path's extractors.
    #[schemars(extend("examples" = ["person.count >= 1"]))]
    pub when: String,
    /// An event at the time the condition began, or a range from then until it ended.
    #[serde(default = "point")]
    pub kind: TriggerKind,
    /// The condition must hold this long without a break.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub for_ms: u64,
    /// And be false this long without a break to re-arm.
    #[serde(default = "release_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub release_ms: u64,
    /// No second trigger within this time after one.
    #[serde(default = "cooldown_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub cooldown_ms: u64,
    /// The clip starts this long before the condition began.
    #[serde(default = "pre_s")]
    #[schemars(range(min = 0, max = 600))]
    pub pre_s: f64,
    /// The clip ends this long after the event.
    #[serde(default = "post_s")]
    #[schemars(range(min = 0, max = 600))]
    pub post_s: f64,
    /// CEL number, clamped to 0–1, evaluated on the frame the rule fires on. Default: the
    /// `max_confidence` of the first extractor the rule reads, if its plugin declares it, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// A range longer than this is split.
    #[serde(default = "max_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub max_s: f64,
    /// Whether a clip is made.
    #[serde(default = "yes")]
    pub clip: bool,
    /// CEL condition that must follow `when` within `within_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    /// See `then`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub within_ms: Option<u64>,
    /// CEL condition that cancels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
}

impl RuleConfig {
    /// A POINT rule with every default.
    pub fn new(label: Name, when: impl Into<String>) -> Self {
        Self {
            label,
            when: when.into(),
            kind: point(),
            for_ms: 0,
            release_ms: release_ms(),
            cooldown_ms: cooldown_ms(),
            pre_s: pre_s(),
            post_s: post_s(),
            score: None,
            max_s: max_s(),
            clip: yes(),
            then: None,
            within_ms: None,
            unless: None,
        }
    }

    /// The keys it has that this build can't do.
    pub(super) fn not_built(&self) -> impl Iterator<Item = &'static str> {
        [
            ("then", self.then.is_some()),
            ("within_ms", self.within_ms.is_some()),
            ("unless", self.unless.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
    }
}

impl RulesConfig {
    /// What is wrong apart from expressions: too many rules, a label used twice, numbers out of
    /// bounds (also for apps that make this type themselves), keys of a later build.
    pub(super) fn faults(&self) -> Vec<RuleError> {
        let mut faults = Vec::new();
        if self.rule.len() > MAX_RULES {
            let message = format!(
                "{} rules, at most {MAX_RULES} in one fusion: spread them over several paths",
                self.rule.len()
            );
            faults.push(RuleError::new(None, "rule", message));
        }
        for (index, rule) in self.rule.iter().enumerate() {
            if let Some(earlier) = self.rule[..index]
                .iter()
                .position(|r| r.label == rule.label)
            {
                let message = format!(
                    "`{}` is the label of rule[{earlier}] already; each rule needs its own (it \
                     names the topic state/<label>)",
                    rule.label
                );
                faults.push(RuleError::new(Some(index), "label", message));
            }
            for (key, seconds, least, most) in [
                ("pre_s", rule.pre_s, 0.0, 600.0),
                ("post_s", rule.post_s, 0.0, 600.0),
                ("max_s", rule.max_s, 1.0, 3600.0),
            ] {
                if !(least..=most).contains(&seconds) {
                    let message = format!("expected seconds, {least} to {most}, got {seconds}");
                    faults.push(RuleError::new(Some(index), key, message));
                }
            }
            for (key, ms) in [
                ("for_ms", rule.for_ms),
                ("release_ms", rule.release_ms),
                ("cooldown_ms", rule.cooldown_ms),
            ] {
                if ms > MAX_MS {
                    let message = format!("expected milliseconds, 0 to {MAX_MS}, got {ms}");
                    faults.push(RuleError::new(Some(index), key, message));
                }
            }
            for key in rule.not_built() {
                faults.push(RuleError::new(
                    Some(index),
                    key,
                    "not in this build yet; remove it",
                ));
            }
        }
        faults
    }
}

fn point() -> TriggerKind {
    TriggerKind::Point
}
fn release_ms() -> u64 {
    300
}
fn cooldown_ms() -> u64 {
    2000
}
fn pre_s() -> f64 {
    3.0
}
fn post_s() -> f64 {
    2.0
}
fn max_s() -> f64 {
    60.0
}
fn yes() -> bool {
    true
}

fn stale_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"const": "auto"},
        {"type": "integer", "minimum": 1, "maximum": 86_400_000},
    ]})
}

/// One thing wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RuleError {
    /// Which rule, counted from 0; `None` for the fusion's config itself.
    pub rule: Option<usize>,
    /// The key at fault, relative to that rule (or to the config).
    pub key: String,
    /// What is wrong, what was expected, and the nearest known name where there is one.
    pub message: String,
}

impl RuleError {
    pub(super) fn new(rule: Option<usize>, key: &str, message: impl Into<String>) -> Self {
        Self {
            rule,
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// The key's path relative to `[fusion.<name>.config]`, e.g. `rule[0].when`.
    pub fn path(&self) -> String {
        match self.rule {
            Some(index) => format!("rule[{index}].{}", self.key),
            None => self.key.clone(),
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path(), self.message)
    }
}

/// `; did you mean …?` or nothing.
pub(super) fn hint(word: &str, known: &[&str]) -> String {
    let near = nearest(word, known.iter().copied());
    if near.is_empty() {
        String::new()
    } else {
        let quoted: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
        format!("; did you mean {}?", quoted.join(" or "))
    }
}
