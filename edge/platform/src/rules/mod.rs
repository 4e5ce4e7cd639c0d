//! The built-in fusion `rules`: conditions over held signals, in CEL, that fire triggers.
//!
//! ```text
//! Aligned ─▶ HeldMaps (refilled where new) ─▶ each rule: Expression ─▶ Machine ─▶ Trigger
//! ```
//!
//! [`RulesConfig`] is the config, [`Rules::compile`] checks every expression against
//! the path's extractors and makes the [`Fusion`]. What is decided here and not in the contract is
//! on `docs/reference/rules.md`.
//!
//! The hard idea is that an answer depends on the inputs only: no clock, no random order, no
//! memory but the [`Machine`]'s, so a recorded trace replays to the same triggers.

mod check;
mod config;
mod counters;
mod explain;
mod expression;
mod signals;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use cel::{Context, Env, ExecutionError};
use visualpath_core::{
    Aligned, EndReason, Fusion, FusionInput, FusionResult, NS_PER_MS, NS_PER_S, Object, Phase,
    Signals, Trigger, TriggerKind,
};

pub use visualpath_core::ExtractorSignals;

pub use config::{MAX_RULES, RuleConfig, RuleError, RulesConfig};
pub use counters::{RuleCounters, RuleCounts};
pub use explain::RuleView;
pub use expression::MAX_EXPRESSION_BYTES;

use expression::{Expression, Wanted};
use signals::{HeldMap, HeldMaps};
use state::{Ended, Fired, LONG_GAP_NS, Machine, Mark, Timing};

/// Most objects a trigger carries; `metadata.objects_left_out` counts the rest.
pub const MAX_OBJECTS: usize = 64;

/// The fusion `rules`. Made by [`Rules::compile`].
pub struct Rules {
    env: Arc<Env>,
    maps: HeldMaps,
    /// Extractors any rule reads, as indices into `maps`.
    read: Vec<usize>,
    rules: Vec<Rule>,
    counters: Arc<RuleCounters>,
}

/// One rule: what it was compiled to, and its state.
struct Rule {
    config: RuleConfig,
    when: Expression,
    score: Option<Expression>,
    /// Without `score`: the extractor whose `max_confidence` is the score.
    confidence_of: Option<usize>,
    reason: String,
    pre_ns: i64,
    post_ns: i64,
    machine: Machine,
    /// Events so far.
    events: u64,
    /// The start message of the range that is open.
    open: Option<Box<Trigger>>,
}

impl Rules {
    /// Checks `config` against the path's extractors, in the path's order.
    ///
    /// # Errors
    ///
    /// Every expression that can't work: a name that is not of this path, a signal its plugin does
    /// not declare, operands CEL won't take, a result that is not a truth (or, for `score`, a
    /// number).
    pub fn compile(
        config: RulesConfig,
        extractors: &[ExtractorSignals],
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
            maps: HeldMaps(
                extractors
                    .iter()
                    .map(|e| HeldMap::new(e.name.clone()))
                    .collect(),
            ),
            read,
            rules,
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
            map.refill(entry);
        }
        let frame = Mark {
            frame_id: aligned.frame_id,
            t_ns: aligned.t_ns,
        };
        let cx = expression::context(&self.env, &self.maps);
        let mut result = FusionResult {
            observations_used: observations(&self.maps, self.read.iter()),
            ..FusionResult::default()
        };
        for (index, rule) in self.rules.iter_mut().enumerate() {
            let mut evaluation = Evaluation {
                index,
                cx: &cx,
                maps: &self.maps,
                counters: &self.counters,
            };
            rule.step(frame, &mut evaluation, &mut result);
        }
        summarise(&mut result);
        result
    }

    /// Closes whatever is open.
    fn interrupt(&mut self) -> FusionResult {
        let mut result = FusionResult::default();
        for rule in &mut self.rules {
            if let Some(ended) = rule.machine.interrupt() {
                rule.end(ended, EndReason::Interrupted, &mut result);
                result.states.push((rule.config.label.clone(), false));
            }
        }
        for map in &mut self.maps.0 {
            map.clear();
        }
        summarise(&mut result);
        result
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
            rule.machine = Machine::new(rule.timing());
            rule.events = 0;
            rule.open = None;
        }
        for map in &mut self.maps.0 {
            map.clear();
        }
    }
}

impl Rule {
    fn compile(
        env: &Arc<Env>,
        config: RuleConfig,
        path: &[ExtractorSignals],
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let when = Expression::compile(env, &config.when, path, Wanted::Bool);
        let score = config
            .score
            .as_deref()
            .map(|text| Expression::compile(env, text, path, Wanted::Number))
            .transpose();
        let (when, score) = match (when, score) {
            (Ok(when), Ok(score)) => (when, score),
            (when, score) => {
                let when = when.err().map(|message| ("when", message));
                let score = score.err().map(|message| ("score", message));
                return Err(when.into_iter().chain(score).collect());
            }
        };
        let declares = |i: &usize| path[*i].signals.iter().any(|s| s == "max_confidence");
        let mut rule = Self {
            confidence_of: when.extractors.first().copied().filter(declares),
            reason: reason(&config),
            pre_ns: seconds_ns(config.pre_s),
            post_ns: seconds_ns(config.post_s),
            machine: Machine::new(Timing::default()),
            events: 0,
            open: None,
            when,
            score,
            config,
        };
        rule.machine = Machine::new(rule.timing());
        Ok(rule)
    }

    fn timing(&self) -> Timing {
        Timing {
            for_ns: millis_ns(self.config.for_ms),
            release_ns: millis_ns(self.config.release_ms),
            cooldown_ns: millis_ns(self.config.cooldown_ms),
            max_ns: (self.config.kind == TriggerKind::Range).then(|| seconds_ns(self.config.max_s)),
        }
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        std::iter::once(&self.when).chain(&self.score)
    }

    fn reads_extractor(&self, index: usize) -> bool {
        self.expressions().any(|e| e.extractors.contains(&index))
    }

    /// Names of the signals it reads, once each.
    fn signal_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for read in self.expressions().flat_map(|e| &e.reads) {
            if !names.contains(&read.full) {
                names.push(Arc::clone(&read.full));
            }
        }
        names
    }

    fn step(&mut self, frame: Mark, evaluation: &mut Evaluation<'_>, result: &mut FusionResult) {
        let holds = evaluation.truth(self);
        let was_on = self.machine.is_on();
        let step = self.machine.step(frame, holds);
        if let Some(ended) = step.ended {
            let reason = if ended.split {
                EndReason::MaxS
            } else {
                EndReason::Released
            };
            self.end(ended, reason, result);
        }
        if let Some(fired) = step.fired {
            self.fire(fired, frame, evaluation, result);
        }
        let is_on = self.machine.is_on();
        if is_on != was_on {
            result.states.push((self.config.label.clone(), is_on));
        }
    }

    fn fire(
        &mut self,
        Fired { start }: Fired,
        frame: Mark,
        evaluation: &Evaluation<'_>,
        result: &mut FusionResult,
    ) {
        evaluation.counters.fired(evaluation.index);
        self.events += 1;
        let mut trigger = Trigger {
            label: self.config.label.clone(),
            kind: self.config.kind,
            phase: Phase::Point,
            event: self.events,
            frame_id: start.frame_id,
            t_ns: start.t_ns,
            fired_ns: frame.t_ns,
            event_start_ns: start.t_ns,
            event_end_ns: frame.t_ns,
            t_start_ns: start.t_ns.saturating_sub(self.pre_ns),
            t_end_ns: frame.t_ns.saturating_add(self.post_ns),
            score: evaluation.score(self),
            reason: self.reason.clone(),
            observations_used: observations(evaluation.maps, self.when.extractors.iter()),
            signals: self.signals(evaluation.maps),
            objects: Vec::new(),
            clip: self.config.clip,
            metadata: serde_json::Map::new(),
        };
        let left_out = self.collect_objects(evaluation.maps, &mut trigger.objects);
        if left_out > 0 {
            trigger
                .metadata
                .insert("objects_left_out".to_owned(), left_out.into());
        }
        if let Some(max_ns) = self.timing().max_ns {
            trigger.phase = Phase::Start;
            trigger.t_end_ns = start
                .t_ns
                .saturating_add(max_ns)
                .saturating_add(self.post_ns);
            self.open = Some(Box::new(trigger.clone()));
        }
        result.triggers.push(trigger);
    }

    /// The end message of a range; a point has none.
    fn end(&mut self, ended: Ended, reason: EndReason, result: &mut FusionResult) {
        let Some(mut trigger) = self.open.take() else {
            return;
        };
        trigger.phase = Phase::End { reason };
        trigger.event_end_ns = ended.end_ns;
        trigger.t_end_ns = ended.end_ns.saturating_add(self.post_ns);
        result.triggers.push(*trigger);
    }

    /// The signals `when` names that are held, by `extractor.signal`.
    fn signals(&self, maps: &HeldMaps) -> Signals {
        let held = |read: &expression::Read| {
            let value = maps.0[read.extractor].get_signal(&read.signal)?;
            Some((Arc::clone(&read.full), *value.inner()))
        };
        self.when.reads.iter().filter_map(held).collect()
    }

    /// Objects of the extractors `when` names; how many there was no room for. When all it names
    /// of an extractor are zone signals, only the objects in those zones.
    fn collect_objects(&self, maps: &HeldMaps, objects: &mut Vec<Object>) -> u64 {
        let mut left_out = 0;
        for &index in &self.when.extractors {
            let Some(held) = maps.0[index].held() else {
                continue;
            };
            let reads = || self.when.reads.iter().filter(|r| r.extractor == index);
            let anywhere = reads().any(|r| r.zone().is_none()) || reads().next().is_none();
            let wanted = |object: &&Object| {
                anywhere || reads().any(|r| object.zones.iter().any(|z| r.zone() == Some(z)))
            };
            for object in held
                .observations
                .iter()
                .flat_map(|o| &o.data.objects)
                .filter(wanted)
            {
                if objects.len() < MAX_OBJECTS {
                    objects.push(object.clone());
                } else {
                    left_out += 1;
                }
            }
        }
        left_out
    }
}

/// Evaluates one rule's expressions on one frame and counts what goes wrong.
struct Evaluation<'a> {
    index: usize,
    cx: &'a Context<'a, 'a>,
    maps: &'a HeldMaps,
    counters: &'a RuleCounters,
}

impl Evaluation<'_> {
    /// Whether `when` holds. An error, a missing signal included, makes it false.
    fn truth(&self, rule: &Rule) -> bool {
        self.counters.evaluated(self.index);
        match rule.when.truth(self.cx) {
            Ok(truth) => truth,
            Err(error) => {
                self.count(rule, &rule.when, &error);
                false
            }
        }
    }

    /// The score at firing, 0–1. A score that can't be had must not cost the trigger.
    fn score(&self, rule: &Rule) -> f64 {
        if let Some(score) = &rule.score {
            match score.number(self.cx) {
                Ok(score) => return score.clamp(0.0, 1.0),
                Err(error) => self.count(rule, score, &error),
            }
        }
        rule.confidence_of
            .and_then(|i| self.maps.0[i].get_signal("max_confidence"))
            .map_or(1.0, |score| score.inner().clamp(0.0, 1.0))
    }

    fn count(&self, rule: &Rule, expression: &Expression, error: &ExecutionError) {
        if let ExecutionError::NoSuchKey(key) = error {
            let missing = expression.reads.iter().find(|read| {
                *read.signal == ***key
                    && self.maps.0[read.extractor]
                        .get_signal(&read.signal)
                        .is_none()
            });
            self.counters
                .missing(self.index, missing.map(|read| &*read.full));
        } else if self.counters.error(self.index) {
            tracing::warn!(
                rule = %rule.config.label,
                %error,
                "an expression failed and its condition counts as false; further errors of this \
                 rule are only counted"
            );
        }
    }
}

/// Observations held by these extractors.
fn observations<'a>(maps: &HeldMaps, extractors: impl Iterator<Item = &'a usize>) -> u32 {
    let held = extractors.filter_map(|i| maps.0[*i].held());
    held.fold(0, |sum, held| {
        sum.saturating_add(u32::try_from(held.observations.len()).unwrap_or(u32::MAX))
    })
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

/// `person.count >= 1 for 700 ms`.
fn reason(config: &RuleConfig) -> String {
    let when: Vec<&str> = config.when.split_whitespace().collect();
    let when = when.join(" ");
    match config.for_ms {
        0 => when,
        ms => format!("{when} for {ms} ms"),
    }
}

fn millis_ns(ms: u64) -> i64 {
    i64::try_from(ms)
        .unwrap_or(i64::MAX)
        .saturating_mul(NS_PER_MS)
}

/// Config bounds keep this within an hour or so, far from what f64 or i64 can't hold.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "bounded by RulesConfig; a float-to-int cast saturates"
)]
fn seconds_ns(s: f64) -> i64 {
    (s * NS_PER_S as f64).round() as i64
}
