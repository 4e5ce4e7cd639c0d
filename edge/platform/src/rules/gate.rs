//! `gate = "motion.score > 0.02"`: a condition that decides whether an extractor is offered a
//! frame.
//!
//! The same language and the same held values as rules. Cheap to ask on every frame: the
//! condition is evaluated only when one of the answers it reads is another than before.

use std::sync::Arc;

use cel::{Env, ExecutionError};
use visualpath_core::{ExtractorSignals, Held};

use super::expression::{self, Expression, Wanted};
use super::signals::HeldMaps;

/// A compiled gate, with its memory of when its condition last held.
pub struct Gate {
    text: String,
    env: Arc<Env>,
    condition: Expression,
    maps: HeldMaps,
    hold_ns: i64,
    /// What the condition gave on the answers in `maps`.
    last: Option<Truth>,
    held_at_ns: Option<i64>,
    errors: u64,
    missing: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Holds,
    Not,
    Missing,
    Error,
}

impl Gate {
    /// Checks `text` against the extractors it may read and makes the gate. It stays open for
    /// `hold_ns` after its condition last held.
    ///
    /// # Errors
    ///
    /// A message for the user: what can't work, where in `text`, the nearest known names.
    pub fn compile(
        text: &str,
        hold_ns: i64,
        extractors: &[ExtractorSignals],
    ) -> Result<Self, String> {
        let env = expression::environment();
        let condition = Expression::compile(&env, text, extractors, Wanted::Bool)?;
        Ok(Self {
            text: text.to_owned(),
            env,
            condition,
            maps: HeldMaps::new(extractors),
            hold_ns,
            last: None,
            held_at_ns: None,
            errors: 0,
            missing: 0,
        })
    }

    /// The extractors it reads, as indices into those it was compiled with, in the order it names
    /// them.
    pub fn reads(&self) -> &[usize] {
        &self.condition.extractors
    }

    /// Whether the frame at `t_ns` may pass: the condition holds, or held at most `hold_ns` before.
    /// `held` gives what an extractor holds at this frame. A missing signal or an error does not
    /// hold.
    pub fn open(&mut self, t_ns: i64, held: &mut dyn FnMut(usize) -> Option<Arc<Held>>) -> bool {
        let mut news = self.last.is_none();
        for &index in &self.condition.extractors {
            news |= self.maps.0[index].refill(held(index).as_ref());
        }
        let truth = match self.last {
            Some(truth) if !news => truth,
            _ => self.evaluate(),
        };
        self.last = Some(truth);
        match truth {
            Truth::Holds => {
                self.held_at_ns = Some(t_ns);
                return true;
            }
            Truth::Not => {}
            Truth::Missing => self.missing += 1,
            Truth::Error => self.errors += 1,
        }
        let since = self.held_at_ns.map(|held| t_ns.saturating_sub(held));
        self.hold_ns > 0 && since.is_some_and(|since| (0..=self.hold_ns).contains(&since))
    }

    /// Forgets when it was last open and what it read.
    pub fn reset(&mut self) {
        for map in &mut self.maps.0 {
            map.clear();
        }
        self.last = None;
        self.held_at_ns = None;
    }

    /// Frames on which the condition failed otherwise than by a missing signal.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Frames on which a signal it reads was not held.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    fn evaluate(&self) -> Truth {
        let cx = expression::context(&self.env, &self.maps);
        match self.condition.truth(&cx) {
            Ok(true) => Truth::Holds,
            Ok(false) => Truth::Not,
            Err(ExecutionError::NoSuchKey(_)) => Truth::Missing,
            Err(error) => {
                if self.errors == 0 {
                    tracing::warn!(
                        gate = self.text,
                        %error,
                        "a gate's condition failed and counts as false; further errors are only \
                         counted"
                    );
                }
                Truth::Error
            }
        }
    }
}
