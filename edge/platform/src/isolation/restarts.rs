//! When a child that died is started again, and when no more.

use std::time::Duration;

/// The first pause; every further one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// So many deaths …
const DEATHS_TO_HOLD: usize = 5;
/// … within this time put it on Hold. One that lives longer begins anew.
const WINDOW: Duration = Duration::from_secs(60);

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this time.
    After(Duration),
    /// Leave it.
    Hold,
}

/// The deaths of one child, by the monotonic clock.
#[derive(Debug, Default)]
pub struct Restarts {
    deaths: heapless::Deque<Duration, DEATHS_TO_HOLD>,
    pause: Option<Duration>,
}

impl Restarts {
    /// It died at `now`, having been up since `up` (`None`: it never came up).
    pub fn died(&mut self, now: Duration, up: Option<Duration>) -> Verdict {
        if up.is_some_and(|up| now.saturating_sub(up) >= WINDOW) {
            self.pause = None;
        }
        while self
            .deaths
            .front()
            .is_some_and(|death| now.saturating_sub(*death) >= WINDOW)
        {
            self.deaths.pop_front();
        }
        // Never full: it would have been on Hold.
        if self.deaths.push_back(now).is_err() || self.deaths.is_full() {
            return Verdict::Hold;
        }
        let pause = self.pause.map_or(FIRST, |p| (p * 2).min(LONGEST));
        self.pause = Some(pause);
        Verdict::After(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn pauses_double_and_the_fifth_death_within_a_minute_is_the_last() {
        let mut restarts = Restarts::default();
        let pauses: Vec<Verdict> = [0.0, 1.0, 3.0, 8.0, 59.9]
            .iter()
            .map(|t| restarts.died(s(*t), None))
            .collect();
        let after = |t| Verdict::After(s(t));
        assert_eq!(
            pauses,
            [
                after(0.5),
                after(1.0),
                after(2.0),
                after(4.0),
                Verdict::Hold
            ]
        );
    }

    #[test]
    fn deaths_far_apart_never_hold_and_pauses_end_at_thirty_seconds() {
        let mut restarts = Restarts::default();
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            let now = 20.0 * f64::from(n) + 10.0;
            match restarts.died(s(now), Some(s(now - 5.0))) {
                Verdict::After(pause) => longest = longest.max(pause),
                Verdict::Hold => panic!("death {n}: three a minute"),
            }
        }
        assert_eq!(longest, s(30.0));
    }

    #[test]
    fn a_child_that_lived_a_minute_begins_with_the_shortest_pause() {
        let mut restarts = Restarts::default();
        restarts.died(s(0.0), None);
        restarts.died(s(10.0), None);
        assert_eq!(
            restarts.died(s(75.0), Some(s(12.0))),
            Verdict::After(s(0.5))
        );
    }
}
