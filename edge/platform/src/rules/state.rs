//! One rule's state in source time: when it fires, when it is over.
//!
//! ```text
//! IDLE ─true→ PENDING(t0) ─held for for_ms, cooldown over→ ON ─false for release_ms→ IDLE
//!                │any false→ IDLE                           └─ a range at max_s → PENDING or IDLE
//! ```
//!
//! It knows neither CEL nor observations: a truth value per frame goes in, `Fired` and `Ended`
//! come out. All arithmetic saturates, so an absurd time stamp can't panic it.

/// A gap longer than this interrupts: what was held before says nothing about what follows.
pub(super) const LONG_GAP_NS: i64 = 5 * visualpath_core::NS_PER_S;

/// A frame as an event remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub frame_id: u64,
    pub t_ns: i64,
}

/// A rule's durations in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    pub for_ns: i64,
    pub release_ns: i64,
    pub cooldown_ns: i64,
    /// Longest range; `None` for a point.
    pub max_ns: Option<i64>,
}

/// The rule fired on this frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fired {
    /// First frame of the event.
    pub start: Mark,
}

/// What had fired is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Until when the condition held.
    pub end_ns: i64,
    /// Whether `max_s` ended it rather than the condition.
    pub split: bool,
}

/// What one frame brought. When both are set, the end comes first (a range was split).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub ended: Option<Ended>,
    pub fired: Option<Fired>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Idle,
    Pending {
        /// Where the event would start.
        start: Mark,
        /// Held for `for_ms` already, in the range this one continues.
        proved: bool,
    },
    On {
        start: Mark,
        last_true_ns: i64,
        false_since_ns: Option<i64>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Machine {
    timing: Timing,
    state: State,
    /// No firing before this time.
    cool_ns: i64,
}

impl Machine {
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            state: State::Idle,
            cool_ns: i64::MIN,
        }
    }

    pub fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. })
    }

    /// The state in a word, and the source time since when; IDLE has none.
    pub fn describe(&self) -> (&'static str, Option<i64>) {
        match &self.state {
            State::Idle => ("idle", None),
            State::Pending { start, .. } => ("pending", Some(start.t_ns)),
            State::On { start, .. } => ("on", Some(start.t_ns)),
        }
    }

    /// Takes the condition's value at `frame`.
    pub fn step(&mut self, frame: Mark, holds: bool) -> Step {
        let ended = self.end_if_over(frame.t_ns, holds);
        let fired = match (holds, self.state) {
            (true, State::Idle) => {
                self.state = State::Pending {
                    start: frame,
                    // What follows a split has been proved by what came before it.
                    proved: ended.is_some_and(|e| e.split),
                };
                self.fire_if_due(frame)
            }
            (true, State::Pending { .. }) => self.fire_if_due(frame),
            (false, State::Pending { .. }) => {
                self.state = State::Idle;
                None
            }
            (false, State::Idle) | (_, State::On { .. }) => None,
        };
        Step { ended, fired }
    }

    /// Closes whatever is open: a long gap, or the end of the source.
    pub fn interrupt(&mut self) -> Option<Ended> {
        let state = std::mem::replace(&mut self.state, State::Idle);
        match state {
            State::On { last_true_ns, .. } => Some(Ended {
                end_ns: last_true_ns,
                split: false,
            }),
            State::Idle | State::Pending { .. } => None,
        }
    }

    /// ON → IDLE when released, or when a range is as long as it may be.
    fn end_if_over(&mut self, t_ns: i64, holds: bool) -> Option<Ended> {
        let State::On {
            start,
            last_true_ns,
            false_since_ns,
        } = &mut self.state
        else {
            return None;
        };
        let since = (!holds).then(|| *false_since_ns.get_or_insert(t_ns));
        if since.is_some_and(|since| t_ns.saturating_sub(since) >= self.timing.release_ns) {
            let end_ns = *last_true_ns;
            self.state = State::Idle;
            return Some(Ended {
                end_ns,
                split: false,
            });
        }
        if holds {
            *last_true_ns = t_ns;
            *false_since_ns = None;
        }
        if let Some(max_ns) = self.timing.max_ns
            && t_ns.saturating_sub(start.t_ns) >= max_ns
        {
            let end_ns = (*last_true_ns).min(start.t_ns.saturating_add(max_ns));
            self.state = State::Idle;
            return Some(Ended {
                end_ns,
                split: true,
            });
        }
        None
    }

    /// PENDING → ON when it has held long enough and the cooldown is over.
    fn fire_if_due(&mut self, frame: Mark) -> Option<Fired> {
        let State::Pending { start, proved } = self.state else {
            return None;
        };
        let held_ns = frame.t_ns.saturating_sub(start.t_ns);
        if !(proved || held_ns >= self.timing.for_ns) || frame.t_ns < self.cool_ns {
            return None;
        }
        // A range that would be over as it fires (a long cooldown, a slow source) starts here.
        let start = match self.timing.max_ns {
            Some(max_ns) if held_ns >= max_ns => frame,
            _ => start,
        };
        self.cool_ns = frame.t_ns.saturating_add(self.timing.cooldown_ns);
        self.state = State::On {
            start,
            last_true_ns: frame.t_ns,
            false_since_ns: None,
        };
        Some(Fired { start })
    }
}
