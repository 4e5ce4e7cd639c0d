//! Says, once, when a camera gives far fewer pictures than it agreed to.

/// Below this share of the rate asked for it is said.
const ENOUGH: f64 = 0.8;
/// For so long, by the device's clock.
const WATCHED_NS: i64 = 10_000_000_000;

/// Counts pictures against time.
#[derive(Debug)]
pub(super) struct RateWatch {
    asked: Option<f64>,
    since_ns: Option<i64>,
    pictures: u64,
    said: bool,
}

impl RateWatch {
    pub(super) fn new(asked: Option<f64>) -> Self {
        Self {
            asked,
            since_ns: None,
            pictures: 0,
            said: false,
        }
    }

    /// Begins anew: what was between says nothing.
    pub(super) fn restart(&mut self, asked: Option<f64>) {
        self.asked = asked;
        self.since_ns = None;
    }

    /// `captured` pictures (those we missed too), the last of them at `t_ns`. The measured rate, if
    /// it has been too low.
    pub(super) fn captured(&mut self, captured: u64, t_ns: i64) -> Option<f64> {
        let asked = self.asked.filter(|_| !self.said)?;
        let Some(since) = self.since_ns else {
            (self.since_ns, self.pictures) = (Some(t_ns), 0);
            return None;
        };
        self.pictures = self.pictures.saturating_add(captured);
        let passed = t_ns.saturating_sub(since);
        if passed < WATCHED_NS {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        let rate = self.pictures as f64 / (passed as f64 / 1e9);
        (self.since_ns, self.pictures) = (Some(t_ns), 0);
        self.said = rate < asked * ENOUGH;
        self.said.then_some(rate)
    }
}

/// Whether a camera agreed to far fewer pictures than the config asks for.
pub(super) fn is_too_low(asked: Option<f64>, granted: Option<f64>) -> bool {
    asked
        .zip(granted)
        .is_some_and(|(asked, granted)| granted < asked * ENOUGH)
}

/// What to do about it.
pub(super) fn cure(has_dynamic_framerate: bool) -> &'static str {
    if has_dynamic_framerate {
        "long exposures slow it down: set control exposure_dynamic_framerate = 0, or more light; or it is on a USB 2 port: a smaller size, or format = \"mjpeg\""
    } else {
        "long exposures slow cameras down: more light, or a shorter exposure (controls auto_exposure, exposure_time_absolute); or it is on a USB 2 port: a smaller size, or format = \"mjpeg\""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(asked: f64, real: f64, seconds: u32) -> Vec<f64> {
        let mut watch = RateWatch::new(Some(asked));
        #[expect(clippy::cast_possible_truncation, reason = "small")]
        let pictures = (f64::from(seconds) * real) as i64;
        #[expect(clippy::cast_possible_truncation, reason = "small")]
        let interval = (1e9 / real) as i64;
        (0..pictures)
            .filter_map(|n| watch.captured(1, n * interval))
            .collect()
    }

    #[test]
    fn a_camera_that_agrees_to_half_the_rate_is_too_slow_from_the_start() {
        assert!(is_too_low(Some(30.0), Some(15.0)));
        assert!(!is_too_low(Some(30.0), Some(25.0)));
        assert!(!is_too_low(None, Some(5.0)), "nothing was asked for");
        assert!(!is_too_low(Some(30.0), None), "it does not say");
    }

    #[test]
    fn too_slow_for_ten_seconds_is_said_once() {
        assert_eq!(said(30.0, 29.0, 60), Vec::<f64>::new());
        let slow = said(30.0, 15.0, 60);
        assert_eq!(slow.len(), 1);
        assert!((slow[0] - 15.0).abs() < 0.2, "{slow:?}");
        assert_eq!(said(30.0, 15.0, 9), Vec::<f64>::new());
    }
}
