//! A rate limit by source time.

/// Keeps a rate on a grid of source time, so that it does not drift: 12, 20 or 25 of 30 frames
/// per second come out as 12, 20 and 25.
#[derive(Debug, Clone)]
pub struct RateGate {
    interval_ns: i64,
    /// A frame this much before its grid point still takes it: time stamps are rounded and jitter.
    tolerance_ns: i64,
    due_ns: Option<i64>,
}

impl RateGate {
    /// At most `fps` frames per second of source time. `None` if `fps` is not a positive number.
    pub fn new(fps: f64) -> Option<Self> {
        if !(fps.is_finite() && fps > 0.0) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "saturates; at least 1 ns")]
        let interval_ns = ((1e9 / fps).round() as i64).max(1);
        Some(Self {
            interval_ns,
            tolerance_ns: interval_ns / 4,
            due_ns: None,
        })
    }

    /// Whether the frame at `t_ns` is wanted.
    pub fn admits(&mut self, t_ns: i64) -> bool {
        let due = match self.due_ns {
            None => t_ns,
            // Time went back (it must not): start a new grid rather than starve.
            Some(due) if t_ns < due - 2 * self.interval_ns => t_ns,
            Some(due) => due,
        };
        if t_ns < due - self.tolerance_ns {
            self.due_ns = Some(due);
            return false;
        }
        // The next grid point after this frame; after a hole in the stream the missed ones are
        // not made up for.
        let behind = (t_ns - due + self.tolerance_ns).max(0) / self.interval_ns;
        self.due_ns = Some(due + (behind + 1) * self.interval_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(source_fps: f64, want_fps: f64, seconds: f64, round_to_ns: i64) -> usize {
        let mut gate = RateGate::new(want_fps).unwrap();
        let frames = (source_fps * seconds) as usize;
        (0..frames)
            .filter(|i| {
                let t = (*i as f64 * 1e9 / source_fps) as i64;
                gate.admits(t / round_to_ns * round_to_ns)
            })
            .count()
    }

    #[test]
    fn a_rate_limit_does_not_drift() {
        for (want, source) in [
            (12.0, 30.0),
            (20.0, 30.0),
            (25.0, 30.0),
            (10.0, 29.97),
            (7.5, 60.0),
        ] {
            for round_to_ns in [1, 1_000_000] {
                let n = kept(source, want, 60.0, round_to_ns);
                let expected = (want * 60.0) as i64;
                assert!(
                    (n as i64 - expected).abs() <= 1,
                    "{want} of {source}: {n} not {expected}"
                );
            }
        }
    }

    #[test]
    fn a_limit_at_or_above_the_source_rate_keeps_every_frame() {
        assert_eq!(
            kept(30.0, 30.0, 60.0, 1_000_000),
            1800,
            "rounded to milliseconds"
        );
        assert_eq!(kept(29.97, 30.0, 60.0, 1), 1798);
        assert_eq!(kept(10.0, 30.0, 60.0, 1), 600);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_never_starved(
            steps in proptest::collection::vec(1_i64..200_000_000, 10..400),
            fps in 1.0_f64..60.0,
        ) {
            let mut gate = RateGate::new(fps).unwrap();
            let interval = 1e9 / fps;
            let (mut t, mut taken, mut since_last) = (0_i64, 0_usize, 0_i64);
            for step in steps {
                t += step;
                since_last += step;
                if gate.admits(t) {
                    taken += 1;
                    since_last = 0;
                }
                prop_assert!(taken as f64 <= t as f64 / interval + 2.0);
                prop_assert!((since_last as f64) < 2.0 * interval + 1.0, "starved for {since_last} ns");
            }
        }
    }
}
