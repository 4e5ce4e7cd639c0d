//! How often each rule was evaluated, fired, erred or found a signal missing. Written on the path
//! thread, read from any other; never read by the rules themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use visualpath_core::Name;

/// The counters of one fusion's rules, in rule order. They only grow: a reset of the fusion does
/// not touch them.
#[derive(Debug)]
pub struct RuleCounters {
    rules: Vec<Counts>,
}

#[derive(Debug)]
struct Counts {
    label: Name,
    evaluated: AtomicU64,
    fired: AtomicU64,
    errors: AtomicU64,
    missing: Vec<(Arc<str>, AtomicU64)>,
}

/// One rule's counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCounts {
    /// The rule.
    pub label: Name,
    /// Frames on which its conditions were evaluated: those within its hours.
    pub evaluated: u64,
    /// Times it fired.
    pub fired: u64,
    /// Evaluations, of a condition or of `score`, that ended in an error other than a missing signal.
    pub errors: u64,
    /// Evaluations that ended because a signal was missing (its extractor has not answered yet, or
    /// its last answer is stale), by `extractor.signal`; keys computed by the expression count
    /// under `?`.
    pub missing: Vec<(Arc<str>, u64)>,
}

impl RuleCounters {
    pub(super) fn new(rules: impl Iterator<Item = (Name, Vec<Arc<str>>)>) -> Self {
        Self {
            rules: rules
                .map(|(label, signals)| Counts {
                    label,
                    evaluated: AtomicU64::new(0),
                    fired: AtomicU64::new(0),
                    errors: AtomicU64::new(0),
                    missing: signals
                        .into_iter()
                        .chain([Arc::from("?")])
                        .map(|s| (s, AtomicU64::new(0)))
                        .collect(),
                })
                .collect(),
        }
    }

    pub(super) fn evaluated(&self, rule: usize) {
        self.rules[rule].evaluated.fetch_add(1, Relaxed);
    }

    pub(super) fn fired(&self, rule: usize) {
        self.rules[rule].fired.fetch_add(1, Relaxed);
    }

    /// Counts an error; whether it is the rule's first.
    pub(super) fn error(&self, rule: usize) -> bool {
        self.rules[rule].errors.fetch_add(1, Relaxed) == 0
    }

    /// Counts a missing signal, by `extractor.signal`; `None` for one with a computed name.
    pub(super) fn missing(&self, rule: usize, signal: Option<&str>) {
        let missing = &self.rules[rule].missing;
        let named = missing.iter().find(|(s, _)| Some(&**s) == signal);
        if let Some((_, count)) = named.or(missing.last()) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts rule `rule` on from rule `before` of `old`; both read the same signals.
    pub(super) fn go_on_from(&self, rule: usize, old: &Self, before: usize) {
        let (rule, before) = (&self.rules[rule], &old.rules[before]);
        let add = |to: &AtomicU64, from: &AtomicU64| to.fetch_add(from.load(Relaxed), Relaxed);
        add(&rule.evaluated, &before.evaluated);
        add(&rule.fired, &before.fired);
        add(&rule.errors, &before.errors);
        for ((_, to), (_, from)) in rule.missing.iter().zip(&before.missing) {
            add(to, from);
        }
    }

    /// All counters now; signals never missed are left out.
    pub fn snapshot(&self) -> Vec<RuleCounts> {
        self.rules
            .iter()
            .map(|c| RuleCounts {
                label: c.label.clone(),
                evaluated: c.evaluated.load(Relaxed),
                fired: c.fired.load(Relaxed),
                errors: c.errors.load(Relaxed),
                missing: c
                    .missing
                    .iter()
                    .map(|(s, n)| (Arc::clone(s), n.load(Relaxed)))
                    .filter(|(_, n)| *n > 0)
                    .collect(),
            })
            .collect()
    }
}
