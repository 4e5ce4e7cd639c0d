//! Why each rule did or did not fire: a look at the rules as they are after an input, which changes
//! nothing.

use std::sync::Arc;

use visualpath_core::Name;

use super::Rules;
use super::expression::{self, Read};
use super::rule::Rule;

/// One rule as it is after the last input.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleView {
    /// Its label.
    pub label: Name,
    /// Its condition.
    pub when: String,
    /// Whether `when` holds on the values held; the error says why it counts as false.
    pub holds: Result<bool, String>,
    /// `idle`, `pending`, `waiting` (for `then`), `spent` (cancelled or too late) or `on`.
    pub state: &'static str,
    /// Source time since when it is pending or on.
    pub since_ns: Option<i64>,
    /// The signals it reads, as (extractor, signal), with the values held.
    pub reads: Vec<(Name, Arc<str>, Option<f64>)>,
}

impl Rules {
    /// Every rule as it is after the last input.
    pub fn explain(&self) -> Vec<RuleView> {
        let cx = expression::context(&self.env, &self.maps);
        let value = |read: &Read| {
            let map = &self.maps.0[read.extractor];
            let value = map.get_signal(&read.signal).map(|v| *v.inner());
            (map.extractor.clone(), Arc::clone(&read.signal), value)
        };
        let view = |rule: &Rule| {
            let (state, since_ns) = rule.state.machine.describe();
            RuleView {
                label: rule.config.label.clone(),
                when: rule.config.when.clone(),
                holds: rule.when.truth(&cx).map_err(|e| e.to_string()),
                state,
                since_ns,
                reads: rule.when.reads.iter().map(value).collect(),
            }
        };
        self.rules.iter().map(view).collect()
    }
}
