//! Numbers and times of a source's frames, over loops.
//!
//! A file's first picture has time 0, whatever its own time stamp is (a camera's recording may
//! start at hours; a rule's clock should not). All others keep their distance to it exactly. When
//! the file starts again, the next round begins one nominal interval after the last picture.

use visualpath_core::{Clock, NS_PER_MS};

use super::{Start, StopFlag};

/// Gives every picture its `frame_id` and `t_ns`.
#[derive(Debug)]
pub(super) struct Timeline {
    next_id: u64,
    nominal_ns: i64,
    /// Source time of this round's first picture.
    base_ns: i64,
    /// This round's first time stamp, as in the file.
    first_pts_ns: Option<i64>,
    last_ns: Option<i64>,
    /// Pictures whose time stamp did not come after the one before.
    disordered: u64,
}

impl Timeline {
    /// A timeline for pictures that come `nominal_ns` apart where nothing else is known.
    pub(super) fn new(nominal_ns: i64) -> Self {
        Self {
            next_id: 0,
            nominal_ns: nominal_ns.max(1),
            base_ns: 0,
            first_pts_ns: None,
            last_ns: None,
            disordered: 0,
        }
    }

    /// Goes on where another timeline was.
    pub(super) fn begin(&mut self, start: Start) {
        self.next_id = start.frame_id;
        self.base_ns = start.t_ns;
    }

    /// Number and source time of the next picture. Without a time stamp it comes one nominal
    /// interval after the last; one that does not come after the last is put 1 ns behind it, so
    /// that time never stands still.
    pub(super) fn stamp(&mut self, pts_ns: Option<i64>) -> (u64, i64) {
        let id = self.next_id;
        self.next_id += 1;
        let t_ns = match (pts_ns, self.last_ns) {
            (Some(pts), _) => {
                let first = *self.first_pts_ns.get_or_insert(pts);
                self.base_ns.saturating_add(pts.saturating_sub(first))
            }
            (None, _) if self.first_pts_ns.is_none() => {
                self.first_pts_ns = Some(0);
                self.base_ns
            }
            (None, Some(last)) => last.saturating_add(self.nominal_ns),
            (None, None) => self.base_ns,
        };
        let t_ns = match self.last_ns {
            Some(last) if t_ns <= last => {
                self.disordered += 1;
                last.saturating_add(1)
            }
            _ => t_ns,
        };
        self.last_ns = Some(t_ns);
        (id, t_ns)
    }

    /// The picture just stamped is passed over: the next one gets its number. Its time stays known.
    pub(super) fn take_back_id(&mut self) {
        self.next_id = self.next_id.saturating_sub(1);
    }

    /// The file starts again.
    pub(super) fn wrap(&mut self) {
        if let Some(last) = self.last_ns {
            self.base_ns = last.saturating_add(self.nominal_ns);
        }
        self.first_pts_ns = None;
    }

    pub(super) fn last_ns(&self) -> Option<i64> {
        self.last_ns
    }

    pub(super) fn disordered(&self) -> u64 {
        self.disordered
    }
}

/// Lets pictures out at the pace of their time stamps.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Clock and source time of the first picture. Every later one is due at a fixed distance
    /// from it, so a late wake-up is not carried on.
    anchor: Option<(i64, i64)>,
}

impl Pacer {
    /// Waits until the picture of `t_ns` is due; one that is late already does not wait. False if
    /// asked to stop meanwhile.
    pub(super) fn wait(&mut self, t_ns: i64, clock: &dyn Clock, stop: &StopFlag) -> bool {
        let (clock0, t0) = *self.anchor.get_or_insert_with(|| (clock.now_ns(), t_ns));
        let due = clock0.saturating_add(t_ns.saturating_sub(t0));
        loop {
            if stop.is_set() {
                return false;
            }
            let left = due.saturating_sub(clock.now_ns());
            if left <= 0 {
                return true;
            }
            // In slices: a stop is seen soon, and a clock moved by hand is looked at again.
            let slice = left.min(20 * NS_PER_MS);
            std::thread::sleep(std::time::Duration::from_nanos(slice.unsigned_abs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use visualpath_core::ManualClock;

    use super::*;

    #[test]
    fn the_first_picture_is_at_0_and_all_others_keep_their_distance() {
        let mut t = Timeline::new(40);
        let out: Vec<_> = [7_000, 7_041, 7_042, 9_000]
            .map(|pts| t.stamp(Some(pts)))
            .into();
        assert_eq!(out, [(0, 0), (1, 41), (2, 42), (3, 2_000)]);
    }

    #[test]
    fn the_next_round_goes_on_one_nominal_interval_later() {
        let mut t = Timeline::new(40);
        t.stamp(Some(100));
        t.stamp(Some(150));
        t.wrap();
        assert_eq!(t.stamp(Some(100)), (2, 90));
        assert_eq!(t.stamp(Some(150)), (3, 140));
        t.wrap();
        assert_eq!(t.stamp(None), (4, 180));
        assert_eq!(t.stamp(None), (5, 220));
    }

    #[test]
    fn time_never_stands_still_nor_goes_back() {
        let mut t = Timeline::new(40);
        let out: Vec<_> = [Some(10), Some(10), Some(5), None, Some(i64::MAX), Some(0)]
            .map(|pts| t.stamp(pts).1)
            .into();
        assert_eq!(out[..4], [0, 1, 2, 42]);
        assert_eq!(t.disordered(), 3);
    }

    #[test]
    fn a_late_picture_does_not_wait_and_lateness_is_not_carried_on() {
        let clock = ManualClock::at(1_000);
        let stop = StopFlag::new();
        let mut pacer = Pacer::default();
        assert!(pacer.wait(500, &clock, &stop), "the first sets the anchor");
        clock.advance(1_000);
        assert!(pacer.wait(600, &clock, &stop), "900 late");
        assert!(
            pacer.wait(1_500, &clock, &stop),
            "due exactly now, counted from the first"
        );
        stop.stop();
        assert!(!pacer.wait(1_501, &clock, &stop), "would wait for ever");
    }
}
