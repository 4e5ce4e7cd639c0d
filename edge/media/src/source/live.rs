//! Numbers and times of a live source's frames, over outages.
//!
//! Source time is the machine's monotonic clock, counted from the moment the source began (its
//! first `next`), so that it means the same before and after a camera was unplugged, and wall time
//! can be attached to it at any moment. A device's own time stamps are kept as long as they run on
//! that clock; those that do not are laid onto it by the first picture of an epoch.

use std::sync::Arc;

use visualpath_core::{Clock, NS_PER_S};

use super::Start;

/// How far a device's clock may be from ours before it is followed: a network's delays are less.
const SLACK_NS: i64 = NS_PER_S;
const NEGATIVE_SLACK_NS: i64 = -SLACK_NS;

/// Gives every captured picture its `frame_id`, `t_ns` and epoch.
pub(super) struct LiveTimeline {
    clock: Arc<dyn Clock>,
    start: Start,
    next_id: u64,
    epoch: u32,
    /// The clock when source time began.
    zero_ns: Option<i64>,
    /// Of this epoch: source time minus the device's time, and the device's newest time.
    offset_ns: Option<(i64, i64)>,
    last_ns: Option<i64>,
}

impl LiveTimeline {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            start: Start::default(),
            next_id: 0,
            epoch: 0,
            zero_ns: None,
            offset_ns: None,
            last_ns: None,
        }
    }

    /// Goes on where another source was.
    pub(super) fn begin(&mut self, start: Start) {
        self.start = start;
        self.next_id = start.frame_id;
        self.epoch = start.epoch;
    }

    /// Source time of now. The first call begins it.
    pub(super) fn now_ns(&mut self) -> i64 {
        let now = self.clock.now_ns();
        let zero = *self.zero_ns.get_or_insert(now);
        self.start.t_ns.saturating_add(now.saturating_sub(zero))
    }

    /// What follows has nothing to do with what came before.
    pub(super) fn new_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.offset_ns = None;
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Source time of the newest stamped picture.
    pub(super) fn last_ns(&self) -> Option<i64> {
        self.last_ns
    }

    /// Number and source time of a picture captured `age_ns` ago.
    pub(super) fn stamp_aged(&mut self, age_ns: i64) -> (u64, i64) {
        let t_ns = self.now_ns().saturating_sub(age_ns.max(0));
        self.stamp_at(t_ns)
    }

    /// Number and source time of a picture with a time stamp of the device's own clock. The first
    /// of an epoch counts as captured now, and the others keep their distance to it exactly, as
    /// long as that is within [`SLACK_NS`] of when they come. Beyond it (a clock that drifts, a
    /// server that began with pictures it had kept) time is brought back by 1 % at most.
    pub(super) fn stamp_device(&mut self, device_ns: i64) -> (u64, i64) {
        let now = self.now_ns();
        let here = now.saturating_sub(device_ns);
        let (offset, newest) = self.offset_ns.unwrap_or((here, device_ns));
        let most = device_ns.saturating_sub(newest).max(0) / 100;
        let ahead = offset.saturating_sub(here);
        let back = match ahead {
            SLACK_NS.. => (ahead - SLACK_NS).min(most),
            i64::MIN..=NEGATIVE_SLACK_NS => (ahead + SLACK_NS).max(-most),
            _ => 0,
        };
        let offset = offset.saturating_sub(back);
        self.offset_ns = Some((offset, newest.max(device_ns)));
        self.stamp_at(device_ns.saturating_add(offset))
    }

    /// Number and source time of a picture captured now.
    pub(super) fn stamp_now(&mut self) -> (u64, i64) {
        self.stamp_aged(0)
    }

    /// Uses up the numbers of pictures that nobody saw.
    pub(super) fn skip(&mut self, lost: u64) {
        self.next_id = self.next_id.saturating_add(lost);
    }

    /// Time never stands still nor goes back, nor before the source's beginning.
    fn stamp_at(&mut self, t_ns: i64) -> (u64, i64) {
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        let floor = self
            .last_ns
            .map_or(self.start.t_ns, |last| last.saturating_add(1));
        let t_ns = t_ns.max(floor);
        self.last_ns = Some(t_ns);
        (id, t_ns)
    }
}

#[cfg(test)]
mod tests {
    use visualpath_core::ManualClock;

    use super::*;

    #[test]
    fn an_outage_does_not_reset_time_and_a_devices_clock_may_be_its_own() {
        let clock = Arc::new(ManualClock::at(5_000));
        let mut t = LiveTimeline::new(clock.clone());
        assert_eq!(t.now_ns(), 0);
        clock.advance(300);
        assert_eq!(t.stamp_aged(100), (0, 200));
        clock.advance(40);
        assert_eq!(t.stamp_aged(100), (1, 240));
        t.skip(2);
        clock.advance(1_000_000);
        t.new_epoch();
        assert_eq!(t.stamp_device(7), (4, 1_000_340), "its clock says 7");
        clock.advance(50);
        assert_eq!(t.stamp_device(40), (5, 1_000_373), "as far apart as there");
        assert_eq!(
            t.stamp_device(40),
            (6, 1_000_374),
            "time never stands still"
        );
        assert_eq!(t.epoch(), 1);
    }

    /// However a camera's clock drifts, its time stays within a little more than the slack of ours.
    #[test]
    fn a_devices_clock_that_drifts_is_followed() {
        const S: i64 = 1_000_000_000;
        for ppm in [-50, 50] {
            let clock = Arc::new(ManualClock::at(0));
            let mut t = LiveTimeline::new(clock.clone());
            t.stamp_device(0);
            let mut furthest = 0;
            for second in 1..86_400 {
                clock.advance(S);
                let (_, t_ns) = t.stamp_device(second * (S + S / 1_000_000 * ppm));
                furthest = furthest.max((t_ns - t.now_ns()).abs());
            }
            assert!(furthest <= SLACK_NS + S / 1000, "{ppm} ppm: {furthest}");
            assert!(furthest > SLACK_NS / 2, "it drifted: {ppm} ppm: {furthest}");
        }
    }

    #[test]
    fn a_source_that_goes_on_for_another_keeps_its_numbers_and_clock() {
        let mut t = LiveTimeline::new(Arc::new(ManualClock::at(77)));
        t.begin(Start {
            frame_id: 9,
            t_ns: 1_000,
            epoch: 3,
        });
        assert_eq!(t.stamp_aged(50), (9, 1_000), "never before the beginning");
        assert_eq!(t.stamp_now(), (10, 1_001));
        assert_eq!(t.epoch(), 3);
    }
}
