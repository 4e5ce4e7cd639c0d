//! One rule: its expressions, its [`Machine`], and the triggers it makes.

use std::fmt::Write as _;
use std::sync::Arc;

use cel::{Context, Env, ExecutionError};
use visualpath_core::{
    EndReason, FusionResult, NS_PER_MS, NS_PER_S, Object, Phase, Signals, Trigger, TriggerKind,
};

use super::config::RuleConfig;
use super::counters::RuleCounters;
use super::expression::{Expression, Read, Wanted};
use super::hours::{Hours, LocalMinute};
use super::signals::HeldMaps;
use super::state::{Ended, Fired, Follow, Machine, Mark, Timing, Truths};
use super::{ExtractorSignals, MAX_OBJECTS};

/// What a rule was compiled to, and its state.
pub(super) struct Rule {
    pub config: RuleConfig,
    pub when: Expression,
    then: Option<Expression>,
    unless: Option<Expression>,
    score: Option<Expression>,
    hours: Option<Hours>,
    /// Without `score`: the extractor whose `max_confidence` is the score.
    confidence_of: Option<usize>,
    /// Without `score`: those of `when` and `then` whose largest `max_confidence` tells the best frame.
    confidences_of: Vec<usize>,
    /// Every extractor its conditions name, once each.
    asked: Vec<usize>,
    pre_ns: i64,
    post_ns: i64,
    pub state: RuleState,
}

/// What a rule remembers from frame to frame.
#[derive(Debug)]
pub(super) struct RuleState {
    pub machine: Machine,
    /// Events so far.
    pub events: u64,
    /// The start message of the range that is open.
    open: Option<Box<Trigger>>,
    /// The best frame of the event that may become one, or is one.
    best: Option<Best>,
}

/// The frame of an event with the highest score so far; the earliest of several.
#[derive(Debug, Clone, Copy)]
struct Best {
    /// The event's first frame: another one is another event.
    start: Mark,
    t_ns: i64,
    /// Absent while nobody has given any.
    score: Option<f64>,
}

impl Best {
    fn of(start: Mark) -> Self {
        Self {
            start,
            t_ns: start.t_ns,
            score: None,
        }
    }

    fn see(&mut self, t_ns: i64, score: f64) {
        if self.score.is_none_or(|s| score > s) {
            (self.t_ns, self.score) = (t_ns, Some(score));
        }
    }
}

impl RuleState {
    pub fn new(timing: Timing) -> Self {
        Self {
            machine: Machine::new(timing),
            events: 0,
            open: None,
            best: None,
        }
    }

    /// Closes what is open: a long gap, the end, or a reload that has no such rule.
    pub fn interrupt(&mut self, config: &RuleConfig, result: &mut FusionResult) {
        if let Some(ended) = self.machine.interrupt() {
            self.end(config, ended, EndReason::Interrupted, result);
            result.states.push((config.label.clone(), false));
        }
    }

    /// The end message of a range; a point has none.
    fn end(
        &mut self,
        config: &RuleConfig,
        ended: Ended,
        reason: EndReason,
        result: &mut FusionResult,
    ) {
        let Some(mut trigger) = self.open.take() else {
            return;
        };
        trigger.phase = Phase::End { reason };
        trigger.event_end_ns = ended.end_ns;
        trigger.t_end_ns = ended.end_ns.saturating_add(seconds_ns(config.post_s));
        trigger.best_ns = self.best.take().map(|b| b.t_ns).or(trigger.best_ns);
        result.triggers.push(*trigger);
    }
}

impl Rule {
    pub fn compile(
        env: &Arc<Env>,
        config: RuleConfig,
        path: &[ExtractorSignals],
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut expression =
            |key: &'static str, text: Option<&str>, wanted| match Expression::compile(
                env, text?, path, wanted,
            ) {
                Ok(expression) => Some(expression),
                Err(message) => {
                    wrong.push((key, message));
                    None
                }
            };
        let when = expression("when", Some(&config.when), Wanted::Bool);
        let then = expression("then", config.then.as_deref(), Wanted::Bool);
        let unless = expression("unless", config.unless.as_deref(), Wanted::Bool);
        let score = expression("score", config.score.as_deref(), Wanted::Number);
        let when = match when {
            Some(when) if wrong.is_empty() => when,
            _ => return Err(wrong),
        };
        // What is wrong with the text is among `RuleConfig::faults`.
        let hours = config.active.as_deref().map(Hours::parse);
        let mut asked = Vec::new();
        for index in [Some(&when), then.as_ref(), unless.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|e| &e.extractors)
        {
            if !asked.contains(index) {
                asked.push(*index);
            }
        }
        let declares = |i: &usize| path[*i].signals.iter().any(|s| s == "max_confidence");
        let about = |i: &&usize| {
            when.extractors.contains(i) || then.as_ref().is_some_and(|t| t.extractors.contains(i))
        };
        let confidences = asked.iter().filter(about).filter(|i| declares(i));
        Ok(Self {
            confidences_of: confidences.copied().collect(),
            confidence_of: when.extractors.first().copied().filter(declares),
            hours: hours.and_then(Result::ok),
            asked,
            pre_ns: seconds_ns(config.pre_s),
            post_ns: seconds_ns(config.post_s),
            state: RuleState::new(timing(&config)),
            when,
            then,
            unless,
            score,
            config,
        })
    }

    /// As it was when it was made.
    pub fn reset(&mut self) {
        self.state = RuleState::new(timing(&self.config));
    }

    pub fn has_hours(&self) -> bool {
        self.hours.is_some()
    }

    /// The conditions it has.
    fn conditions(&self) -> impl Iterator<Item = &Expression> {
        std::iter::once(&self.when)
            .chain(&self.then)
            .chain(&self.unless)
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.conditions().chain(&self.score)
    }

    pub fn reads_extractor(&self, index: usize) -> bool {
        self.expressions().any(|e| e.extractors.contains(&index))
    }

    /// Names of the signals it reads, once each.
    pub fn signal_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for read in self.expressions().flat_map(|e| &e.reads) {
            if !names.contains(&read.full) {
                names.push(Arc::clone(&read.full));
            }
        }
        names
    }

    /// Takes one frame. `now` is asked only of a rule that [`Self::has_hours`].
    pub fn step(
        &mut self,
        frame: Mark,
        now: Option<LocalMinute>,
        evaluation: &Evaluation<'_>,
        result: &mut FusionResult,
    ) {
        let outside = |hours: &Hours| now.is_some_and(|now| !hours.contain(now));
        let truths = if self.hours.as_ref().is_some_and(outside) {
            Truths::OUTSIDE
        } else {
            evaluation.truths(self)
        };
        let was_on = self.state.machine.is_on();
        let step = self.state.machine.step(frame, truths);
        if let Some(ended) = step.ended {
            let reason = if ended.split {
                EndReason::MaxS
            } else {
                EndReason::Released
            };
            self.state.end(&self.config, ended, reason, result);
        }
        self.look_for_best(frame, truths, step.fired.is_some(), evaluation);
        if let Some(fired) = step.fired {
            self.fire(fired, frame, evaluation, result);
        }
        let is_on = self.state.machine.is_on();
        if is_on != was_on {
            result.states.push((self.config.label.clone(), is_on));
        }
    }

    /// Keeps the best frame of the event as long as there is one that it may be told of: of a point
    /// until it fires, of a range until it ends.
    fn look_for_best(
        &mut self,
        frame: Mark,
        truths: Truths,
        fires: bool,
        evaluation: &Evaluation<'_>,
    ) {
        let Some(start) = self.state.machine.event_start() else {
            self.state.best = None;
            return;
        };
        if self.state.best.is_none_or(|b| b.start != start) {
            self.state.best = Some(Best::of(start));
        }
        let is_told = self.config.kind == TriggerKind::Point && !fires;
        if !truths.keeps_on() || (is_told && self.state.machine.is_on()) {
            return;
        }
        let score = evaluation.picture_score(self);
        if let (Some(best), Some(score)) = (&mut self.state.best, score) {
            best.see(frame.t_ns, score);
        }
    }

    fn fire(
        &mut self,
        fired: Fired,
        frame: Mark,
        evaluation: &Evaluation<'_>,
        result: &mut FusionResult,
    ) {
        evaluation.counters.fired(evaluation.index);
        self.state.events += 1;
        let start = fired.start;
        let mut trigger = Trigger {
            label: self.config.label.clone(),
            kind: self.config.kind,
            phase: Phase::Point,
            event: self.state.events,
            frame_id: start.frame_id,
            t_ns: start.t_ns,
            fired_ns: frame.t_ns,
            event_start_ns: start.t_ns,
            event_end_ns: frame.t_ns,
            best_ns: Some(self.state.best.map_or(start.t_ns, |b| b.t_ns)),
            t_start_ns: start.t_ns.saturating_sub(self.pre_ns),
            t_end_ns: frame.t_ns.saturating_add(self.post_ns),
            score: evaluation.score(self),
            reason: reason(&self.config, fired.waited_ns),
            observations_used: evaluation.maps.observations(&self.asked),
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
        if let Some(max_ns) = timing(&self.config).max_ns {
            trigger.phase = Phase::Start;
            trigger.t_end_ns = start
                .t_ns
                .saturating_add(max_ns)
                .saturating_add(self.post_ns);
            self.state.open = Some(Box::new(trigger.clone()));
        }
        result.triggers.push(trigger);
    }

    /// The signals its conditions name that are held, by `extractor.signal`.
    fn signals(&self, maps: &HeldMaps) -> Signals {
        let held = |read: &Read| {
            let value = maps.0[read.extractor].get_signal(&read.signal)?;
            Some((Arc::clone(&read.full), *value.inner()))
        };
        self.conditions()
            .flat_map(|e| &e.reads)
            .filter_map(held)
            .collect()
    }

    /// Objects of the extractors `when` and `then` name; how many there was no room for. When all
    /// they name of an extractor are zone signals, only the objects in those zones.
    fn collect_objects(&self, maps: &HeldMaps, objects: &mut Vec<Object>) -> u64 {
        let mut left_out = 0;
        let about = || std::iter::once(&self.when).chain(&self.then);
        let named = |index: &&usize| about().any(|e| e.extractors.contains(index));
        for &index in self.asked.iter().filter(named) {
            let Some(held) = maps.0[index].held() else {
                continue;
            };
            let reads = || {
                about()
                    .flat_map(|e| &e.reads)
                    .filter(|r| r.extractor == index)
            };
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
pub(super) struct Evaluation<'a> {
    pub index: usize,
    pub cx: &'a Context<'a, 'a>,
    pub maps: &'a HeldMaps,
    pub counters: &'a RuleCounters,
}

impl Evaluation<'_> {
    fn truths(&self, rule: &Rule) -> Truths {
        self.counters.evaluated(self.index);
        let truth = |e: &Expression| self.truth(rule, e);
        Truths {
            when: truth(&rule.when),
            then: rule.then.as_ref().is_some_and(truth),
            unless: rule.unless.as_ref().is_some_and(truth),
        }
    }

    /// Whether a condition holds. An error, a missing signal included, makes it false.
    fn truth(&self, rule: &Rule, condition: &Expression) -> bool {
        match condition.truth(self.cx) {
            Ok(truth) => truth,
            Err(error) => {
                self.count(rule, condition, &error);
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

    /// What tells the best frame, 0–1, if anything does now. What can't be had is counted when the
    /// rule fires.
    fn picture_score(&self, rule: &Rule) -> Option<f64> {
        let said = rule.score.as_ref().and_then(|s| s.number(self.cx).ok());
        let held = |i: &usize| self.maps.0[*i].get_signal("max_confidence");
        let confidences = rule.confidences_of.iter().filter_map(held);
        said.or_else(|| confidences.map(|c| *c.inner()).reduce(f64::max))
            .map(|score| score.clamp(0.0, 1.0))
    }

    fn count(&self, rule: &Rule, expression: &Expression, error: &ExecutionError) {
        if let ExecutionError::NoSuchKey(key) = error {
            let missing = expression.missing(key, self.maps);
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

fn timing(config: &RuleConfig) -> Timing {
    let within_ns = config.within_ms.map(millis_ns);
    Timing {
        for_ns: millis_ns(config.for_ms),
        follow: match (&config.then, within_ns) {
            (_, None) => Follow::Nothing,
            (Some(_), Some(within_ns)) => Follow::Then { within_ns },
            (None, Some(within_ns)) => Follow::Absence { within_ns },
        },
        release_ns: millis_ns(config.release_ms),
        cooldown_ns: millis_ns(config.cooldown_ms),
        max_ns: (config.kind == TriggerKind::Range).then(|| seconds_ns(config.max_s)),
    }
}

/// `person.count >= 1 for 700 ms, then door.open > 0 after 1.2 s, without badge.count > 0`.
fn reason(config: &RuleConfig, waited_ns: Option<i64>) -> String {
    let mut text = String::new();
    say_condition(&mut text, "", &config.when);
    if config.for_ms > 0 {
        say(&mut text, format_args!(" for {} ms", config.for_ms));
    }
    if let Some(then) = &config.then {
        say_condition(&mut text, ", then ", then);
        if let Some(ns) = waited_ns {
            say(&mut text, format_args!(" after {}", Tenths(ns)));
        }
    }
    if let Some(unless) = &config.unless {
        say_condition(&mut text, ", without ", unless);
        if let (None, Some(ms)) = (&config.then, config.within_ms) {
            say(&mut text, format_args!(" for {ms} ms"));
        }
    }
    text
}

/// A condition on one line.
fn say_condition(text: &mut String, before: &str, condition: &str) {
    text.push_str(before);
    for (index, word) in condition.split_whitespace().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
}

fn say(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    if text.write_fmt(words).is_err() {
        text.push('…');
    }
}

/// Nanoseconds as seconds with one decimal, rounded down: `1.2 s`.
struct Tenths(i64);

impl std::fmt::Display for Tenths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = self.0.max(0) / (100 * NS_PER_MS);
        write!(f, "{}.{} s", tenths / 10, tenths % 10)
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
