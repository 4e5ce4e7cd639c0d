//! Rules, their tests, and the time zone of their hours.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use visualpath_core::{Name, TriggerKind, nearest};

use super::Check;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{RuleConfig, RuleTest, RulesConfig};

impl Check<'_> {
    pub(super) fn rules(&mut self, fusion: &Name, rules: &RulesConfig) {
        let mut labels = BTreeSet::new();
        for (index, rule) in rules.rule.iter().enumerate() {
            let key = |k: &str| format!("fusion.{fusion}.config.rule[{index}].{k}");
            if !labels.insert(&rule.label) {
                self.error(
                    key("label"),
                    format!("`{}` labels an earlier rule too", rule.label),
                )
                .hint = Some(
                    "give each rule of a fusion its own: topics and states are named after it"
                        .to_owned(),
                );
            }
            let conditions = [
                ("when", Some(&rule.when)),
                ("then", rule.then.as_ref()),
                ("unless", rule.unless.as_ref()),
            ];
            for (k, text) in conditions {
                if text.is_some_and(|text| text.trim().is_empty()) {
                    self.error(key(k), "expected a condition, got \"\"").hint =
                        Some("for example \"person.count >= 1\"".to_owned());
                }
            }
            if rule.score.as_ref().is_some_and(|s| s.trim().is_empty()) {
                self.error(
                    key("score"),
                    "expected a number or a CEL expression, got \"\"",
                );
            }
            for (k, message) in rule.faults() {
                self.error(key(k), message);
            }
            self.range_length(&key("max_s"), rule);
        }
    }

    fn range_length(&mut self, key: &str, rule: &RuleConfig) {
        // How long it takes at least from the condition's beginning to firing.
        let (fires_ms, why) = match (&rule.then, rule.within_ms) {
            (None, Some(within)) => (
                rule.for_ms.saturating_add(within),
                format!(
                    "for_ms + within_ms = {}",
                    rule.for_ms.saturating_add(within)
                ),
            ),
            _ => (rule.for_ms, format!("for_ms = {}", rule.for_ms)),
        };
        #[expect(clippy::cast_precision_loss, reason = "at most two days in ms")]
        if rule.kind == TriggerKind::Range && fires_ms as f64 > rule.max_s * 1000.0 {
            self.warning(
                key,
                format!(
                    "a range is split after {} s but fires only after {why}",
                    rule.max_s
                ),
            );
        }
    }

    pub(super) fn tests(&mut self, fusion: &Name, rules: &RulesConfig) {
        for (index, test) in rules.test.iter().enumerate() {
            let key = |k: &str| format!("fusion.{fusion}.config.test[{index}].{k}");
            if test.clip.as_os_str().is_empty() {
                self.error(key("clip"), "expected a video file, got \"\"");
            }
            self.test_path(&key("path"), fusion, test);
            self.test_time(&key("time"), test, rules);
            if !test.only && test.expect.is_empty() {
                self.warning(
                    key("expect"),
                    "tests nothing: no trigger is expected, any may come",
                )
                .hint = Some("remove `only = false`, or expect a trigger".to_owned());
            }
            for (nth, expected) in test.expect.iter().enumerate() {
                let at = format!("{}[{nth}].label", key("expect"));
                let labels: Vec<&str> = rules.rule.iter().map(|r| r.label.as_str()).collect();
                // That there is no rule at all is told once.
                if labels.is_empty() || labels.contains(&expected.label.as_str()) {
                    continue;
                }
                let near = nearest(expected.label.as_str(), labels.iter().copied());
                let origin = self.origin(&at);
                let message = format!("no rule of this fusion has the label `{}`", expected.label);
                let mut found = Diagnostic::error(&origin, at, message).did_you_mean(&near);
                if near.is_empty() {
                    found = found.hint(format!("there is: {}", labels.join(", ")));
                }
                self.push(found);
            }
        }
    }

    fn test_path(&mut self, key: &str, fusion: &Name, test: &RuleTest) {
        let with: Vec<&str> = self
            .config
            .path
            .iter()
            .filter(|(_, path)| path.fusion == *fusion)
            .map(|(name, _)| name.as_str())
            .collect();
        let there = format!("there is: {}", with.join(", "));
        match &test.path {
            Some(path) if with.contains(&path.as_str()) => {}
            Some(path) if self.config.path.contains_key(path) => {
                let message = format!("path `{path}` has another fusion");
                self.error(key, message).hint = (!with.is_empty()).then_some(there);
            }
            Some(path) => self.refers(key, "path", path),
            None if with.len() > 1 => {
                self.error(key, "missing: several paths have this fusion")
                    .hint = Some(there);
            }
            None => {}
        }
    }

    fn test_time(&mut self, key: &str, test: &RuleTest, rules: &RulesConfig) {
        match &test.time {
            Some(text) => {
                if text.parse::<Timestamp>().is_err() {
                    self.error(
                        key,
                        format!("expected an RFC 3339 time with its offset, got {text:?}"),
                    )
                    .hint = Some("for example \"2026-11-23T19:00:00+01:00\"".to_owned());
                }
            }
            None => {
                if let Some(rule) = rules.rule.iter().find(|r| r.active.is_some()) {
                    self.warning(
                        key,
                        format!(
                            "missing: rule `{}` has hours (`active`), so the result depends on \
                             when the test is run",
                            rule.label
                        ),
                    )
                    .hint = Some("for example time = \"2026-11-23T19:00:00+01:00\"".to_owned());
                }
            }
        }
    }

    pub(super) fn timezone(&mut self) {
        let Some(asked) = &self.config.device.timezone else {
            return;
        };
        if TimeZone::get(asked).is_ok() {
            return;
        }
        let known: Vec<String> = jiff::tz::db().available().map(|n| n.to_string()).collect();
        let near = nearest_zones(asked, &known);
        let origin = self.origin("device.timezone");
        let message = format!("there is no time zone `{asked}`");
        let mut found = Diagnostic::error(&origin, "device.timezone", message).did_you_mean(&near);
        if near.is_empty() {
            found = found.hint("expected an IANA name such as \"Europe/Berlin\" or \"UTC\"");
        }
        self.push(found);
    }
}

/// Zones of the city asked for, else those spelt nearly so.
fn nearest_zones<'a>(asked: &str, known: &'a [String]) -> Vec<&'a str> {
    let city = |name: &str| {
        let city = name.rsplit('/').next().unwrap_or(name);
        city.to_lowercase().replace(' ', "_")
    };
    let mut of_city: Vec<&str> = known
        .iter()
        .map(String::as_str)
        .filter(|name| city(name) == city(asked))
        .take(3)
        .collect();
    of_city.sort_unstable();
    if of_city.is_empty() {
        nearest(asked, known.iter().map(String::as_str))
    } else {
        of_city
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_found_by_its_city_or_its_spelling() {
        let known: Vec<String> = ["Europe/Berlin", "America/New_York", "UTC", "Asia/Tokyo"]
            .map(str::to_owned)
            .into();
        assert_eq!(nearest_zones("Berlin", &known), ["Europe/Berlin"]);
        assert_eq!(nearest_zones("us/new york", &known), ["America/New_York"]);
        assert_eq!(nearest_zones("Europe/Berln", &known), ["Europe/Berlin"]);
        assert_eq!(nearest_zones("nowhere", &known), [""; 0]);
    }
}
