//! Notices that an extractor's observations keep coming too late, and which value would fit.
//!
//! Late is what comes after its frame was settled (the path's window was too short for it) or
//! after its time-out. Counted in ten buckets of a second on the monotonic clock; nothing here
//! decides anything about frames.

use visualpath_core::NS_PER_S;

/// More than this share of late observations is a problem.
const SHARE: f64 = 0.05;
/// … over this many seconds.
const SECONDS: usize = 10;

/// One answer of an extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// In time.
    InTime,
    /// Its frame had settled; it came this long after the frame was dequeued.
    AfterWindow(i64),
    /// Its frame had timed out; it came this long after the extractor got it.
    AfterTimeout(i64),
}

/// What would have been enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lateness {
    /// Share of late observations, 0–1.
    pub share: f64,
    /// The slowest of those that missed a path's window, nanoseconds since they were dequeued.
    pub window_ns: Option<i64>,
    /// The slowest of those that missed their time-out, nanoseconds.
    pub timeout_ns: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    answers: u32,
    late: u32,
    window_ns: i64,
    timeout_ns: i64,
}

/// The last ten seconds of one extractor.
#[derive(Debug, Default)]
pub struct LateWatch {
    seconds: [Second; SECONDS],
    /// The second being counted, since the clock's zero.
    now: Option<i64>,
    /// Whole seconds counted so far.
    seen: usize,
    raised: bool,
}

impl LateWatch {
    /// Counts an answer.
    pub fn note(&mut self, now_ns: i64, answer: Answer) {
        self.turn(now_ns);
        let at = self.at();
        let second = &mut self.seconds[at];
        second.answers += 1;
        match answer {
            Answer::InTime => {}
            Answer::AfterWindow(ns) => {
                second.late += 1;
                second.window_ns = second.window_ns.max(ns);
            }
            Answer::AfterTimeout(ns) => {
                second.late += 1;
                second.timeout_ns = second.timeout_ns.max(ns);
            }
        }
    }

    /// Whether it has become, or ceased to be, a problem: `Some(None)` when it is none any more.
    pub fn judge(&mut self, now_ns: i64) -> Option<Option<Lateness>> {
        self.turn(now_ns);
        let (mut answers, mut late, mut window_ns, mut timeout_ns) = (0_u32, 0_u32, 0, 0);
        for second in &self.seconds {
            answers += second.answers;
            late += second.late;
            window_ns = window_ns.max(second.window_ns);
            timeout_ns = timeout_ns.max(second.timeout_ns);
        }
        let share = f64::from(late) / f64::from(answers.max(1));
        // One late answer of a slow extractor is no habit.
        let bad = share > SHARE && late > 1 && self.seen >= SECONDS;
        if bad == self.raised {
            return None;
        }
        self.raised = bad;
        let some = |ns: i64| (ns > 0).then_some(ns);
        Some(bad.then_some(Lateness {
            share,
            window_ns: some(window_ns),
            timeout_ns: some(timeout_ns),
        }))
    }

    fn at(&self) -> usize {
        usize::try_from(self.now.unwrap_or(0).rem_euclid(SECONDS as i64)).unwrap_or(0)
    }

    /// Empties the buckets of the seconds that have passed.
    fn turn(&mut self, now_ns: i64) {
        let second = now_ns.div_euclid(NS_PER_S);
        let Some(last) = self.now else {
            self.now = Some(second);
            return;
        };
        let passed = usize::try_from(second.saturating_sub(last)).unwrap_or(0);
        for _ in 0..passed.min(SECONDS) {
            self.now = self.now.map(|n| n + 1);
            let at = self.at();
            self.seconds[at] = Second::default();
        }
        self.seen = self.seen.saturating_add(passed);
        self.now = Some(last.max(second));
        if passed > 0 {
            let at = self.at();
            self.seconds[at] = Second::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten answers a second for `seconds`, `late` of them late.
    fn feed(watch: &mut LateWatch, from_s: i64, seconds: i64, late: i64) -> Vec<Option<Lateness>> {
        let mut said = Vec::new();
        for s in from_s..from_s + seconds {
            for n in 0..10 {
                let now = s * NS_PER_S + n * 100_000_000;
                let answer = if n < late {
                    Answer::AfterWindow(400_000_000 + n)
                } else {
                    Answer::InTime
                };
                watch.note(now, answer);
                said.extend(watch.judge(now));
            }
        }
        said
    }

    #[test]
    fn ten_seconds_of_more_than_five_percent_late_are_told_once_with_what_would_fit() {
        let mut watch = LateWatch::default();
        assert_eq!(feed(&mut watch, 100, 9, 2), [], "not ten seconds yet");
        let said = feed(&mut watch, 109, 20, 2);
        assert_eq!(said.len(), 1, "{said:?}");
        let lateness = said[0].unwrap();
        assert!((lateness.share - 0.2).abs() < 0.03, "{lateness:?}");
        assert_eq!(lateness.window_ns, Some(400_000_001));
        assert_eq!(lateness.timeout_ns, None);
        assert_eq!(feed(&mut watch, 129, 15, 0), [None], "and taken back once");
    }

    #[test]
    fn a_single_late_answer_is_no_problem() {
        let mut watch = LateWatch::default();
        assert_eq!(feed(&mut watch, 0, 15, 0), []);
        watch.note(15 * NS_PER_S, Answer::AfterTimeout(1));
        assert_eq!(watch.judge(15 * NS_PER_S), None);
        assert_eq!(feed(&mut watch, 15, 30, 0), []);
    }

    #[test]
    fn a_long_silence_or_a_clock_that_stands_still_does_no_harm() {
        let mut watch = LateWatch::default();
        feed(&mut watch, 0, 20, 5);
        assert_eq!(watch.judge(i64::MAX), Some(None));
        watch.note(0, Answer::AfterWindow(5));
        assert_eq!(watch.judge(i64::MIN), None);
    }
}
