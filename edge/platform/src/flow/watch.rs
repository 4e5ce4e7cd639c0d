//! What time does on the path thread: time-outs, hangs, Hold.

use std::time::Duration;

use visualpath_core::{DropReason, Outcome};

use super::lane::Worker;
use super::{Flow, PathSink, TICK};

impl<S: PathSink> Flow<S> {
    /// Time-outs and hangs of realtime sources, and the deadline of a stop.
    pub(super) fn expire(&mut self, now_ns: i64) {
        let stop = self
            .stop_deadline_ns
            .is_some_and(|d| self.clock.now_ns() >= d);
        for i in 0..self.lanes.len() {
            let lane = &mut self.lanes[i];
            if self.realtime
                && let Some(lateness) = lane.late.judge(now_ns)
            {
                self.sink.late(&lane.name, lateness);
            }
            let Some(f) = &mut lane.in_flight else {
                continue;
            };
            let silent_ns = now_ns.saturating_sub(f.since_ns);
            let hung = self.realtime && silent_ns >= lane.hang_ns;
            if stop || hung {
                let why = match stop {
                    true => "still busy when stopping",
                    false => "silent past hang_ms",
                };
                match &mut lane.worker {
                    // It comes again, so it is not on Hold.
                    Worker::Child(child) if !stop => {
                        child.kill(why);
                        self.time_out(i);
                    }
                    _ => self.hold(i, why),
                }
            } else if self.realtime && silent_ns >= lane.timeout_ns {
                self.time_out(i);
            }
        }
    }

    /// The frame in flight is not waited for any more; its worker has it until it answers.
    fn time_out(&mut self, i: usize) {
        if let Some(f) = &mut self.lanes[i].in_flight
            && !f.timed_out
        {
            f.timed_out = true;
            let frame_id = f.frame_id;
            self.outcome(i, frame_id, Outcome::TimedOut, None);
        }
    }

    /// Nothing came for a whole patience. Without a clock this is how a hung worker is found.
    pub(super) fn idle(&mut self) {
        self.find_gone_threads();
        self.idle_ns = self
            .idle_ns
            .saturating_add(i64::try_from(TICK.as_nanos()).unwrap_or(i64::MAX));
        self.judge_idle();
    }

    pub(super) fn find_gone_threads(&mut self) {
        for i in 0..self.lanes.len() {
            if !self.lanes[i].held
                && matches!(&self.lanes[i].worker, Worker::Thread(t) if t.is_gone())
            {
                self.hold(i, "its thread is gone");
            }
        }
    }

    /// Not realtime: who has had a frame for as long as nothing has happened at all?
    pub(super) fn judge_idle(&mut self) {
        if self.realtime {
            return;
        }
        for i in 0..self.lanes.len() {
            let lane = &mut self.lanes[i];
            if lane.in_flight.is_some() && self.idle_ns >= lane.hang_ns {
                match &mut lane.worker {
                    Worker::Child(child) => child.kill("silent past hang_ms"),
                    _ => self.hold(i, "silent past hang_ms"),
                }
            }
        }
    }

    /// The worker gets no more frames; what it owes is settled now. The frame it has stays leased
    /// until it answers.
    pub(super) fn hold(&mut self, i: usize, why: &str) {
        let lane = &mut self.lanes[i];
        if !lane.held {
            lane.held = true;
            let name = lane.name.clone();
            if self.stop_deadline_ns.is_none() {
                tracing::error!(extractor = %name, why, "extractor on Hold; the pipeline goes on without it");
                self.sink.held(&name, why);
                self.trace.worker(&name, "held", why);
            }
        }
        if let Some(f) = self.lanes[i].in_flight.take()
            && !f.timed_out
        {
            self.outcome(i, f.frame_id, Outcome::TimedOut, None);
        }
        self.give_up_waiting(i, DropReason::WorkerHeld);
    }

    pub(super) fn give_up_waiting(&mut self, i: usize, reason: DropReason) {
        let parked = self.lanes[i].parked.take();
        if let Some(job) = parked {
            let id = job.frame.meta().frame_id;
            self.outcome(i, id, Outcome::Dropped(reason), None);
        }
        while let Some(job) = self.lanes[i].limiter.take_waiting() {
            let id = job.frame.meta().frame_id;
            self.outcome(i, id, Outcome::Dropped(reason), None);
        }
    }

    /// How long to wait for the next message: until the next window, time-out or hang.
    pub(super) fn patience(&self, now_ns: i64) -> Duration {
        if !self.realtime {
            return TICK;
        }
        let lanes = self.lanes.iter().filter_map(|l| {
            let f = l.in_flight.as_ref()?;
            // One that is being killed is waited for by its death.
            if f.timed_out
                && matches!(l.worker, Worker::Child(_))
                && now_ns.saturating_sub(f.since_ns) >= l.hang_ns
            {
                return None;
            }
            f.since_ns
                .checked_add(if f.timed_out { l.hang_ns } else { l.timeout_ns })
        });
        let next_ns = self
            .aligner
            .next_deadline_ns()
            .into_iter()
            .chain(lanes)
            .min();
        next_ns.map_or(TICK, |at| {
            Duration::from_nanos(at.saturating_sub(now_ns).max(0).unsigned_abs()).min(TICK)
        })
    }
}
