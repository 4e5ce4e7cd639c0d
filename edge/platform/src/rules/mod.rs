//! The built-in fusion `rules`: conditions over held signals, in CEL, that fire triggers.
//!
//! ```text
//! Aligned ─▶ HeldMaps (refilled where new) ─▶ each rule: Expressions ─▶ Machine ─▶ Trigger
//! ```
//!
//! [`RulesConfig`] is the config, [`Rules::compile`] checks every expression against
//! the path's extractors and makes the [`Fusion`]. A [`Gate`] is one such condition by itself, in
//! front of an extractor. What is decided here and not in the contract is on
//! `docs/reference/rules.md`.
//!
//! The hard idea is that an answer depends on the inputs only: no clock, no random order, no
//! memory but the machines', so a recorded trace replays to the same triggers. The hour of day is
//! an input too ([`Aligned::unix_ns`]).

mod check;
mod config;
mod counters;
mod explain;
mod expression;
mod gate;
mod hours;
mod rule;
mod signals;
mod state;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;

use cel::Env;
use visualpath_core::{Aligned, Fusion, FusionInput, FusionResult};

pub use jiff::tz::TimeZone;
pub use visualpath_core::ExtractorSignals;

pub use config::{ExpectedTrigger, MAX_RULES, RuleConfig, RuleError, RuleTest, RulesConfig};
pub use counters::{RuleCounters, RuleCounts};
pub use explain::RuleView;
pub use expression::MAX_EXPRESSION_BYTES;
pub use gate::Gate;

use hours::LocalClock;
use rule::{Evaluation, Rule};
use signals::HeldMaps;
use state::{LONG_GAP_NS, Mark};

/// Most objects a trigger carries; `metadata.objects_left_out` counts the rest.
pub const MAX_OBJECTS: usize = 64;

/// The fusion `rules`. Made by [`Rules::compile`].
pub struct Rules {
    env: Arc<Env>,
    /// The path's extractors, as they declare themselves.
    extractors: Vec<ExtractorSignals>,
    maps: HeldMaps,
    /// Extractors any rule reads, as indices into `maps`.
    read: Vec<usize>,
    rules: Vec<Rule>,
    /// The device's wall, for rules with hours.
    clock: LocalClock,
    counters: Arc<RuleCounters>,
}

impl Rules {
    /// Checks `config` against the path's extractors, in the path's order. The hours of rules
    /// (`active`) are those of `timezone`.
    ///
    /// # Errors
    ///
    /// Every expression that can't work: a name that is not of this path, a signal its plugin does
    /// not declare, operands CEL won't take, a result that is not a truth (or, for `score`, a
    /// number); and every key that is out of bounds or does not go with another.
    pub fn compile(
        config: RulesConfig,
        extractors: &[ExtractorSignals],
        timezone: TimeZone,
    ) -> Result<Self, Vec<RuleError>> {
        let env = expression::environment();
        let mut errors = config.faults();
        let mut rules = Vec::with_capacity(config.rule.len());
        for (index, rule) in config.rule.into_iter().enumerate() {
            match Rule::compile(&env, rule, extractors) {
                Ok(rule) => rules.push(rule),
                Err(wrong) => errors.extend(
                    wrong
                        .into_iter()
                        .map(|(key, message)| RuleError::new(Some(index), key, message)),
                ),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let read = (0..extractors.len())
            .filter(|i| rules.iter().any(|r| r.reads_extractor(*i)))
            .collect();
        let counters = RuleCounters::new(
            rules
                .iter()
                .map(|r| (r.config.label.clone(), r.signal_names())),
        );
        Ok(Self {
            env,
            extractors: extractors.to_vec(),
            maps: HeldMaps::new(extractors),
            read,
            rules,
            clock: LocalClock::new(timezone),
            counters: Arc::new(counters),
        })
    }

    /// The counters, to be read from any thread.
    pub fn counters(&self) -> Arc<RuleCounters> {
        Arc::clone(&self.counters)
    }

    /// The rules with their defaults filled in.
    pub fn configs(&self) -> impl Iterator<Item = &RuleConfig> {
        self.rules.iter().map(|r| &r.config)
    }

    fn aligned(&mut self, aligned: &Aligned) -> FusionResult {
        for &index in &self.read {
            let map = &mut self.maps.0[index];
            let entry = match aligned.entries.get(index) {
                Some(entry) if entry.extractor == map.extractor => Some(entry),
                _ => aligned.entry(map.extractor.as_str()),
            };
            map.refill(entry.and_then(|e| e.held.as_ref()));
        }
        let frame = Mark {
            frame_id: aligned.frame_id,
            t_ns: aligned.t_ns,
        };
        let cx = expression::context(&self.env, &self.maps);
        let mut result = FusionResult {
            observations_used: self.maps.observations(&self.read),
            ..FusionResult::default()
        };
        for (index, rule) in self.rules.iter_mut().enumerate() {
            let evaluation = Evaluation {
                index,
                cx: &cx,
                maps: &self.maps,
                counters: &self.counters,
            };
            let now = rule.has_hours().then(|| self.clock.minute(aligned.unix_ns));
            rule.step(frame, now, &evaluation, &mut result);
        }
        summarise(&mut result);
        result
    }

    /// Closes whatever is open.
    fn interrupt(&mut self) -> FusionResult {
        let mut result = FusionResult::default();
        for rule in &mut self.rules {
            rule.state.interrupt(&rule.config, &mut result);
        }
        for map in &mut self.maps.0 {
            map.clear();
        }
        summarise(&mut result);
        result
    }

    /// Goes on where `old` is: each rule that both have keeps its state, every other of `old` is
    /// closed. Events of a label are counted on in any case.
    fn go_on_from(&mut self, mut old: Self) -> FusionResult {
        let mut result = FusionResult::default();
        for at in 0..old.rules.len() {
            let label = &old.rules[at].config.label;
            let new = self.rules.iter().position(|r| r.config.label == *label);
            if let Some(new) = new
                && self.rules[new].config == old.rules[at].config
                && self.sees_alike(new, &old)
            {
                std::mem::swap(&mut self.rules[new].state, &mut old.rules[at].state);
                self.counters.go_on_from(new, &old.counters, at);
                continue;
            }
            let rule = &mut old.rules[at];
            rule.state.interrupt(&rule.config, &mut result);
            if let Some(new) = new {
                self.rules[new].state.events = rule.state.events;
            }
        }
        summarise(&mut result);
        result
    }

    /// Whether what rule `index` reads, and when, means the same here as in `old`.
    fn sees_alike(&self, index: usize, old: &Self) -> bool {
        let rule = &self.rules[index];
        let same_hours = !rule.has_hours() || self.clock.timezone() == old.clock.timezone();
        same_hours
            && self
                .extractors
                .iter()
                .enumerate()
                .all(|(i, e)| !rule.reads_extractor(i) || old.extractors.contains(e))
    }
}

impl Fusion for Rules {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        match input {
            FusionInput::Aligned(aligned) => self.aligned(aligned),
            FusionInput::Gap { from_ns, to_ns } if to_ns.saturating_sub(from_ns) > LONG_GAP_NS => {
                self.interrupt()
            }
            FusionInput::Gap { .. } => FusionResult::default(),
            FusionInput::End { .. } => self.interrupt(),
        }
    }

    /// Forgets everything without a word: a range that is open gets no end message. A stream that
    /// breaks off is told by [`FusionInput::Gap`] or [`FusionInput::End`] instead.
    fn reset(&mut self) {
        for rule in &mut self.rules {
            rule.reset();
        }
        for map in &mut self.maps.0 {
            map.clear();
        }
    }

    /// A rule whose config and whose extractors' declarations are the same goes on as if nothing
    /// had happened; what has gone or changed is interrupted.
    fn take_over(&mut self, mut old: Box<dyn Fusion>, t_ns: i64) -> FusionResult {
        let known: &dyn Any = &*old;
        if !known.is::<Self>() {
            return old.update(FusionInput::End { t_ns });
        }
        let old: Box<dyn Any> = old;
        match old.downcast::<Self>() {
            Ok(old) => self.go_on_from(*old),
            // It is one, as was just seen.
            Err(_) => FusionResult::default(),
        }
    }
}

/// The largest score and all reasons of a result's triggers.
fn summarise(result: &mut FusionResult) {
    for trigger in &result.triggers {
        result.score = result.score.max(trigger.score);
        if !result.reason.is_empty() {
            result.reason.push_str("; ");
        }
        result.reason.push_str(&trigger.reason);
    }
}
