//! One rule's state in source time: when it fires, when it is over.
//!
//! ```text
//! IDLE ─when→ PENDING(t0) ─when held for for_ms─┬─ cooldown over ──────────────→ ON
//!  ↑             │ not when → IDLE              └→ WAITING ─ then, or absence ─→ ON
//!  │             │ unless → SPENT                    │ unless, too late → SPENT
//!  ├─ when false for release_ms ── SPENT ←───────────┘
//!  └─ neither when nor then for release_ms; a range at max_s goes on as PENDING ── ON
//! ```
//!
//! It knows neither CEL nor observations: truth values per frame go in, `Fired` and `Ended` come
//! out. A plain rule (no `then`, no `within_ms`) never waits. All arithmetic saturates, so an
//! absurd time stamp can't panic it.

/// A gap longer than this interrupts: what was held before says nothing about what follows.
pub(super) const LONG_GAP_NS: i64 = 5 * visualpath_core::NS_PER_S;

/// A frame as an event remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub frame_id: u64,
    pub t_ns: i64,
}

/// A rule's conditions on one frame; one the rule has not is false.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Truths {
    pub when: bool,
    pub then: bool,
    pub unless: bool,
}

impl Truths {
    /// Outside the rule's hours: nothing holds, and what has not fired by now does not fire.
    pub const OUTSIDE: Self = Self {
        when: false,
        then: false,
        unless: true,
    };

    /// Whether a rule that is ON stays so.
    pub fn keeps_on(self) -> bool {
        self.when || self.then
    }
}

/// What must follow once `when` has held for `for_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Follow {
    /// Nothing: the rule fires.
    #[default]
    Nothing,
    /// `then`, at most this much later.
    Then { within_ns: i64 },
    /// Not `unless`, for this long.
    Absence { within_ns: i64 },
}

/// A rule's durations in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    pub for_ns: i64,
    pub follow: Follow,
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
    /// Of a rule that waited: how long, since `when` had held for `for_ms`.
    pub waited_ns: Option<i64>,
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
        /// It goes on with a range that was split: nothing has to be proved again.
        proved: bool,
    },
    Waiting {
        start: Mark,
        /// When `when` had held for `for_ms`.
        met_ns: i64,
        /// Since when `when` is false.
        false_since_ns: Option<i64>,
    },
    /// Cancelled, or what must follow came too late: not armed until released.
    Spent {
        false_since_ns: Option<i64>,
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

    /// The state in a word, and the source time since when; idle and spent have none.
    pub fn describe(&self) -> (&'static str, Option<i64>) {
        match &self.state {
            State::Idle => ("idle", None),
            State::Pending { start, .. } => ("pending", Some(start.t_ns)),
            State::Waiting { start, .. } => ("waiting", Some(start.t_ns)),
            State::Spent { .. } => ("spent", None),
            State::On { start, .. } => ("on", Some(start.t_ns)),
        }
    }

    /// The first frame of the event that is on its way, or ON.
    pub fn event_start(&self) -> Option<Mark> {
        match self.state {
            State::Idle | State::Spent { .. } => None,
            State::Pending { start, .. }
            | State::Waiting { start, .. }
            | State::On { start, .. } => Some(start),
        }
    }

    pub fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. })
    }

    /// Takes the conditions' values at `frame`.
    pub fn step(&mut self, frame: Mark, truths: Truths) -> Step {
        let ended = self.end_if_over(frame.t_ns, truths);
        if matches!(self.state, State::Idle) {
            let proved = ended.is_some_and(|e| e.split) && truths.keeps_on();
            if proved || truths.when {
                let start = frame;
                self.state = State::Pending { start, proved };
            }
        }
        let fired = match self.state {
            State::Pending { start, proved } => self.pending(frame, truths, start, proved),
            State::Waiting {
                start,
                met_ns,
                false_since_ns,
            } => {
                let since = false_since(truths.when, false_since_ns, frame.t_ns);
                self.waiting(frame, truths, start, met_ns, since)
            }
            State::Spent { false_since_ns } => {
                self.spend(
                    frame.t_ns,
                    false_since(truths.when, false_since_ns, frame.t_ns),
                );
                None
            }
            State::Idle | State::On { .. } => None,
        };
        Step { ended, fired }
    }

    /// Closes whatever is open and forgets what has not fired: a long gap, or the end of the
    /// source.
    pub fn interrupt(&mut self) -> Option<Ended> {
        let state = std::mem::replace(&mut self.state, State::Idle);
        match state {
            State::On { last_true_ns, .. } => Some(Ended {
                end_ns: last_true_ns,
                split: false,
            }),
            State::Idle | State::Pending { .. } | State::Waiting { .. } | State::Spent { .. } => {
                None
            }
        }
    }

    /// ON → IDLE when released, or when a range is as long as it may be.
    fn end_if_over(&mut self, t_ns: i64, truths: Truths) -> Option<Ended> {
        let State::On {
            start,
            last_true_ns,
            false_since_ns,
        } = &mut self.state
        else {
            return None;
        };
        *false_since_ns = false_since(truths.keeps_on(), *false_since_ns, t_ns);
        if self.timing.released(*false_since_ns, t_ns) {
            let end_ns = *last_true_ns;
            self.state = State::Idle;
            return Some(Ended {
                end_ns,
                split: false,
            });
        }
        if truths.keeps_on() {
            *last_true_ns = t_ns;
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

    fn pending(&mut self, frame: Mark, truths: Truths, start: Mark, proved: bool) -> Option<Fired> {
        if proved {
            if truths.keeps_on() {
                return self.fire(frame, truths, start, None);
            }
            self.state = State::Idle;
            return None;
        }
        if !truths.when {
            self.state = State::Idle;
            return None;
        }
        if truths.unless {
            self.spend(frame.t_ns, None);
            return None;
        }
        if frame.t_ns.saturating_sub(start.t_ns) < self.timing.for_ns {
            return None;
        }
        match self.timing.follow {
            Follow::Nothing => self.fire(frame, truths, start, None),
            Follow::Then { .. } | Follow::Absence { .. } => {
                self.waiting(frame, truths, start, frame.t_ns, None)
            }
        }
    }

    fn waiting(
        &mut self,
        frame: Mark,
        truths: Truths,
        start: Mark,
        met_ns: i64,
        false_since_ns: Option<i64>,
    ) -> Option<Fired> {
        self.state = State::Waiting {
            start,
            met_ns,
            false_since_ns,
        };
        let waited_ns = frame.t_ns.saturating_sub(met_ns);
        let (over, due) = match self.timing.follow {
            Follow::Then { within_ns } => (waited_ns > within_ns, truths.then),
            // One that is due inside the cooldown is passed over once `when` is released.
            Follow::Absence { within_ns } => {
                let due = waited_ns >= within_ns;
                let passed =
                    frame.t_ns < self.cool_ns && self.timing.released(false_since_ns, frame.t_ns);
                (due && passed, due)
            }
            Follow::Nothing => (true, false),
        };
        if truths.unless || over {
            self.spend(frame.t_ns, false_since_ns);
            None
        } else if due {
            self.fire(frame, truths, start, Some(waited_ns))
        } else {
            None
        }
    }

    /// SPENT, or IDLE if `when` has been false for long enough already.
    fn spend(&mut self, t_ns: i64, false_since_ns: Option<i64>) {
        self.state = if self.timing.released(false_since_ns, t_ns) {
            State::Idle
        } else {
            State::Spent { false_since_ns }
        };
    }

    /// → ON, if the cooldown is over.
    fn fire(
        &mut self,
        frame: Mark,
        truths: Truths,
        start: Mark,
        waited_ns: Option<i64>,
    ) -> Option<Fired> {
        if frame.t_ns < self.cool_ns {
            return None;
        }
        // A range that would be over as it fires (a long cooldown, a long wait, a slow source)
        // starts here.
        let start = match self.timing.max_ns {
            Some(max_ns) if frame.t_ns.saturating_sub(start.t_ns) >= max_ns => frame,
            _ => start,
        };
        self.cool_ns = frame.t_ns.saturating_add(self.timing.cooldown_ns);
        self.state = State::On {
            start,
            last_true_ns: frame.t_ns,
            // An absence may fire when nothing holds any more.
            false_since_ns: (!truths.keeps_on()).then_some(frame.t_ns),
        };
        Some(Fired { start, waited_ns })
    }
}

impl Timing {
    fn released(&self, false_since_ns: Option<i64>, t_ns: i64) -> bool {
        false_since_ns.is_some_and(|since| t_ns.saturating_sub(since) >= self.release_ns)
    }
}

/// Since when a condition is false, now that it `holds` or not at `t_ns`.
fn false_since(holds: bool, before_ns: Option<i64>, t_ns: i64) -> Option<i64> {
    if holds {
        None
    } else {
        Some(before_ns.unwrap_or(t_ns))
    }
}
