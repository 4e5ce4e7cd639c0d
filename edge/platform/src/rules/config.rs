//! `[fusion.<name>.config]` of a `rules` fusion: what can be written, its defaults and its bounds.
//!
//! Read by hand rather than derived, so that one `validate` names every wrong key of every rule,
//! with what was expected and the nearest known name.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use visualpath_core::{Name, TriggerKind, nearest};

/// Most rules one fusion may have; each is evaluated on every frame.
pub const MAX_RULES: usize = 64;

const MAX_MS: u64 = 86_400_000;
const MAX_ROLL_S: f64 = 600.0;
const MAX_RANGE_S: f64 = 3600.0;

const TOP_KEYS: [&str; 2] = ["rule", "stale_ms"];
/// Every key of a rule, in the order of the reference page.
pub(super) const KEYS: [&str; 11] = [
    "label",
    "when",
    "kind",
    "for_ms",
    "release_ms",
    "cooldown_ms",
    "pre_s",
    "post_s",
    "score",
    "max_s",
    "clip",
];
/// Known to the contract, not to this build.
const LATER: [&str; 3] = ["then", "within_ms", "unless"];

/// The whole config of one `rules` fusion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RulesConfig {
    /// `[[fusion.<name>.config.rule]]`, in the order they are written: the order they fire in.
    pub rule: Vec<RuleConfig>,
    /// How old a held value may be, milliseconds; `None` (`"auto"`): 2.5 × the extractor's nominal
    /// interval, at least 200. The aligner's business, not the rules': it hands out what is held.
    #[serde(serialize_with = "auto_or_number")]
    pub stale_ms: Option<u64>,
}

/// One rule with its defaults filled in. Durations are source time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleConfig {
    /// Names the trigger and `state/<label>`; unique in the fusion.
    pub label: Name,
    /// The condition: CEL giving true or false.
    pub when: String,
    /// An instant or a stretch of time. Default `point`.
    pub kind: TriggerKind,
    /// How long it must hold before the rule fires, milliseconds. Default 0.
    pub for_ms: u64,
    /// How long it must be false, without a break, before the rule can fire again (and a range
    /// ends), milliseconds. Default 300.
    pub release_ms: u64,
    /// Least time from one firing to the next, milliseconds. Default 2000.
    pub cooldown_ms: u64,
    /// Clip before the event's start, seconds. Default 3.
    pub pre_s: f64,
    /// Clip after the event's end, seconds. Default 2.
    pub post_s: f64,
    /// CEL giving a number, clamped to 0–1; evaluated on the frame the rule fires on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Longest range, seconds; a longer one is split. Default 60.
    pub max_s: f64,
    /// Whether a clip is wanted. Default true.
    pub clip: bool,
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

impl RulesConfig {
    /// Reads `[fusion.<name>.config]`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, rule by rule. Expressions are not looked at here: that needs the
    /// path's extractors, see [`Rules::compile`](super::Rules::compile).
    pub fn from_map(config: &Map<String, Value>) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        for key in config.keys().filter(|k| !TOP_KEYS.contains(&k.as_str())) {
            let message = format!(
                "unknown key; known: `rule`, `stale_ms`{}",
                hint(key, &TOP_KEYS)
            );
            errors.push(RuleError::new(None, key, message));
        }
        let stale_ms = read_stale_ms(config.get("stale_ms"), &mut errors);
        let rule = match config.get("rule") {
            Some(Value::Array(rules)) if !rules.is_empty() => read_rules(rules, &mut errors),
            None | Some(Value::Array(_)) => {
                errors.push(RuleError::new(
                    None,
                    "rule",
                    "a `rules` fusion needs at least one rule: [[fusion.<name>.config.rule]] with \
                     `label` and `when`",
                ));
                Vec::new()
            }
            Some(other) => {
                errors.push(RuleError::new(
                    None,
                    "rule",
                    format!(
                        "expected a list of tables ([[fusion.<name>.config.rule]]), got {}",
                        kind_of(other)
                    ),
                ));
                Vec::new()
            }
        };
        if errors.is_empty() {
            Ok(Self { rule, stale_ms })
        } else {
            Err(errors)
        }
    }
}

fn read_stale_ms(value: Option<&Value>, errors: &mut Vec<RuleError>) -> Option<u64> {
    let value = value.filter(|v| v.as_str() != Some("auto"))?;
    let ms = value.as_u64().filter(|ms| (1..=MAX_MS).contains(ms));
    if ms.is_none() {
        let message = format!(
            "expected \"auto\" or a whole number of milliseconds, 1 to {MAX_MS}, got {}",
            shown(value)
        );
        errors.push(RuleError::new(None, "stale_ms", message));
    }
    ms
}

fn auto_or_number<S: serde::Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(ms) => s.serialize_u64(*ms),
        None => s.serialize_str("auto"),
    }
}

fn read_rules(rules: &[Value], errors: &mut Vec<RuleError>) -> Vec<RuleConfig> {
    if rules.len() > MAX_RULES {
        errors.push(RuleError::new(
            None,
            "rule",
            format!(
                "{} rules, at most {MAX_RULES} in one fusion: spread them over several paths",
                rules.len()
            ),
        ));
        return Vec::new();
    }
    let mut read: Vec<(usize, RuleConfig)> = Vec::with_capacity(rules.len());
    for (index, value) in rules.iter().enumerate() {
        let Value::Object(table) = value else {
            errors.push(RuleError {
                rule: None,
                key: format!("rule[{index}]"),
                message: format!("expected a table, got {}", kind_of(value)),
            });
            continue;
        };
        let Some(rule) = RuleTable::read(index, table, errors) else {
            continue;
        };
        if let Some((earlier, _)) = read.iter().find(|(_, r)| r.label == rule.label) {
            errors.push(RuleError::new(
                Some(index),
                "label",
                format!(
                    "`{}` is the label of rule[{earlier}] already; each rule needs its own (it \
                     names the topic state/<label>)",
                    rule.label
                ),
            ));
        }
        read.push((index, rule));
    }
    read.into_iter().map(|(_, rule)| rule).collect()
}

/// One rule's table while it is read.
struct RuleTable<'a> {
    index: usize,
    table: &'a Map<String, Value>,
    errors: &'a mut Vec<RuleError>,
}

impl<'a> RuleTable<'a> {
    /// The rule, or `None` when `label` or `when` can't be had. Whatever is wrong goes to `errors`.
    fn read(
        index: usize,
        table: &'a Map<String, Value>,
        errors: &'a mut Vec<RuleError>,
    ) -> Option<RuleConfig> {
        let mut t = Self {
            index,
            table,
            errors,
        };
        t.refuse_unknown_keys();
        let label = t.label();
        let when = t.required_text("when", "a condition such as \"person.count >= 1\"");
        Some(RuleConfig {
            kind: t.kind(),
            for_ms: t.millis("for_ms", 0, MAX_MS),
            release_ms: t.millis("release_ms", 300, MAX_MS),
            cooldown_ms: t.millis("cooldown_ms", 2000, MAX_MS),
            pre_s: t.seconds("pre_s", 3.0, 0.0, MAX_ROLL_S),
            post_s: t.seconds("post_s", 2.0, 0.0, MAX_ROLL_S),
            score: t.text("score", "an expression such as \"person.max_confidence\""),
            max_s: t.seconds("max_s", 60.0, 1.0, MAX_RANGE_S),
            clip: t.flag("clip", true),
            label: label?,
            when: when?,
        })
    }

    fn wrong(&mut self, key: &str, message: String) {
        self.errors
            .push(RuleError::new(Some(self.index), key, message));
    }

    fn refuse_unknown_keys(&mut self) {
        for key in self.table.keys() {
            if LATER.contains(&key.as_str()) {
                self.wrong(key, "not in this build yet; remove it".to_owned());
            } else if !KEYS.contains(&key.as_str()) {
                let message = format!("unknown key{}", hint(key, &KEYS));
                self.wrong(key, message);
            }
        }
    }

    fn label(&mut self) -> Option<Name> {
        let text = self.required_text("label", "a name such as \"visitor\"")?;
        match Name::new(&text) {
            Ok(name) => Some(name),
            Err(e) => {
                self.wrong("label", e.to_string());
                None
            }
        }
    }

    fn required_text(&mut self, key: &str, expected: &str) -> Option<String> {
        if !self.table.contains_key(key) {
            self.wrong(key, format!("missing; expected {expected}"));
            return None;
        }
        self.text(key, expected)
    }

    fn text(&mut self, key: &str, expected: &str) -> Option<String> {
        match self.table.get(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            Value::String(_) => {
                self.wrong(key, format!("empty; expected {expected}"));
                None
            }
            other => {
                self.wrong(key, format!("expected {expected}, got {}", kind_of(other)));
                None
            }
        }
    }

    fn kind(&mut self) -> TriggerKind {
        match self.table.get("kind") {
            None => TriggerKind::Point,
            Some(Value::String(s)) if s == "point" => TriggerKind::Point,
            Some(Value::String(s)) if s == "range" => TriggerKind::Range,
            Some(other) => {
                let near = match other {
                    Value::String(s) => hint(s, &["point", "range"]),
                    _ => String::new(),
                };
                self.wrong(
                    "kind",
                    format!(
                        "expected \"point\" or \"range\", got {}{near}",
                        shown(other)
                    ),
                );
                TriggerKind::Point
            }
        }
    }

    fn millis(&mut self, key: &str, default: u64, max: u64) -> u64 {
        match self.table.get(key) {
            None => default,
            Some(v) => match v.as_u64() {
                Some(n) if n <= max => n,
                _ => {
                    self.wrong(
                        key,
                        format!(
                            "expected a whole number of milliseconds, 0 to {max}, got {}",
                            shown(v)
                        ),
                    );
                    default
                }
            },
        }
    }

    fn seconds(&mut self, key: &str, default: f64, min: f64, max: f64) -> f64 {
        match self.table.get(key) {
            None => default,
            Some(v) => match v.as_f64() {
                Some(n) if (min..=max).contains(&n) => n,
                _ => {
                    self.wrong(
                        key,
                        format!("expected seconds, {min} to {max}, got {}", shown(v)),
                    );
                    default
                }
            },
        }
    }

    fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.table.get(key) {
            None => default,
            Some(Value::Bool(b)) => *b,
            Some(v) => {
                self.wrong(key, format!("expected true or false, got {}", shown(v)));
                default
            }
        }
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

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// A scalar as it was written, else what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= 40 => value.to_string(),
        other => kind_of(other).to_owned(),
    }
}
