//! `[fusion.<name>.config]` of a `rules` fusion: what can be written, its defaults and its bounds.
//!
//! The one place where these keys are defined: the config's JSON Schema, its checks and
//! `docs/reference` are made from these types.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use visualpath_core::{Auto, Name, TriggerKind, nearest};

use super::hours::Hours;

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
    /// Recordings and what the rules must say about them: run by `visualpath validate --tests`,
    /// not read otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<RuleTest>,
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
    /// CEL condition that must follow: the rule fires when it holds, at most `within_ms` after
    /// `when` has held for `for_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    /// How long `then` is waited for. Without `then`: the rule fires if `unless` did not hold for
    /// this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub within_ms: Option<u64>,
    /// CEL condition that cancels, as long as the rule has not fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
    /// Hours of the week, in the time zone of `device.timezone`: `Mon-Fri 18:00-08:00`, several
    /// separated by `;`. Outside them its conditions count as false and nothing fires. Default:
    /// always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
}

/// A recording and the triggers that the rules must give on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleTest {
    /// The video file; a relative path is relative to the directory of the config file.
    #[schemars(extend("examples" = ["tests/visitor.mp4"]))]
    pub clip: PathBuf,
    /// What it is about, for the report. Default: the clip's file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path to run; needed when several paths have this fusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Name>,
    /// The triggers that must come; of a range, its start. An empty list: none.
    #[schemars(extend("examples" = [[{"label": "visitor", "at_s": 12.5}]]))]
    pub expect: Vec<ExpectedTrigger>,
    /// Whether any other trigger fails the test.
    #[serde(default = "yes")]
    pub only: bool,
    /// Wall time of the clip's first moment, RFC 3339, for rules with `active`. Default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// A trigger a [`RuleTest`] waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectedTrigger {
    /// The rule's label.
    #[schemars(extend("examples" = ["visitor"]))]
    pub label: Name,
    /// Source time at which the event began: when `when` became true.
    #[schemars(range(min = 0, max = 86_400), extend("examples" = [12.5]))]
    pub at_s: f64,
    /// Largest difference.
    #[serde(default = "tolerance_s")]
    #[schemars(range(min = 0, max = 3600))]
    pub tolerance_s: f64,
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
            active: None,
        }
    }

    /// What is wrong with its keys together, or with `active`: the key, and a message. Expressions
    /// are checked by [`super::Rules::compile`].
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        match (&self.then, self.within_ms, &self.unless) {
            (Some(_), None, _) => faults.push((
                "then",
                "needs `within_ms`: how long after `when` it may come".to_owned(),
            )),
            (None, Some(_), None) => faults.push((
                "within_ms",
                "says how long to wait, but there is neither `then` to come nor `unless` to stay \
                 away"
                    .to_owned(),
            )),
            _ => {}
        }
        if let Some(Err(message)) = self.active.as_deref().map(Hours::parse) {
            faults.push(("active", message));
        }
        faults
    }
}

impl RulesConfig {
    /// What is wrong apart from expressions: too many rules, a label used twice, numbers out of
    /// bounds (also for apps that make this type themselves), keys that don't go together.
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
                ("within_ms", rule.within_ms.unwrap_or(1)),
            ] {
                let least = u64::from(key == "within_ms");
                if !(least..=MAX_MS).contains(&ms) {
                    let message = format!("expected milliseconds, {least} to {MAX_MS}, got {ms}");
                    faults.push(RuleError::new(Some(index), key, message));
                }
            }
            for (key, message) in rule.faults() {
                faults.push(RuleError::new(Some(index), key, message));
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
fn tolerance_s() -> f64 {
    0.5
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
