//! The clip thread: it alone owns the ring and the open clips.
//!
//! In realtime mode it reads the injected clock, to give up waiting for pictures that do not come.
//! Otherwise it reads none: it waits for packets or for the end of them, so the same input gives
//! the same clips however slow the machine is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};
use visualpath_core::{Clock, NS_PER_S, Name};

use super::lane::{PACKET_QUEUE, Shared};
use super::merge::{Merging, Settled};
use super::open::{ClipError, OpenClip, Step, failed};
use super::{ClipEnd, ClipRequest, ClipStore};
use crate::encode::Packet;
use crate::ring::{Gap, GapCause, Ring, RingError};

/// How long the post-roll is waited for beyond its length.
const PATIENCE_NS: i64 = 2 * NS_PER_S;
/// How often the clock is looked at while a clip is open in realtime mode.
const TICK: Duration = Duration::from_millis(50);
/// Clips one source may have open at once.
const MOST_OPEN: usize = 64;

/// From the encoder thread, in source order, or from the source itself.
pub(super) enum Evidence {
    Packet {
        packet: Packet,
        /// Frames that the encoder has done with this.
        encoded: u64,
    },
    Gap(Gap),
    /// A picture that the device encoded.
    Direct(Direct),
    /// Source time went on without a packet.
    Passed {
        t_ns: i64,
        error: String,
        /// Frames that the encoder has done with this.
        encoded: u64,
    },
}

/// A picture that went past the encoder thread.
pub(super) struct Direct {
    pub(super) packet: Packet,
    /// What is missing before it.
    pub(super) gaps: Vec<Gap>,
    /// Frames that were given to the encoder before it: their packets come first.
    pub(super) after: u64,
}

/// From whoever fuses.
pub(super) enum Command {
    Request(ClipRequest),
    SetEnd {
        id: String,
        end_ns: i64,
        best_ns: Option<i64>,
    },
}

pub(super) struct Writer {
    pub(super) source: Name,
    pub(super) store: Arc<ClipStore>,
    /// Read in realtime mode only.
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) ring: Ring,
    pub(super) clips: Vec<OpenClip>,
    /// Clips share files.
    pub(super) merging: Option<Merging>,
    /// Requests that were joined to a clip in vain, until `ask_again`: never while `clips` is walked
    /// through, because they end clips, too.
    pub(super) left: VecDeque<ClipRequest>,
    pub(super) evidence: Receiver<Evidence>,
    /// Pictures from the device that wait for the encoder to be done with the frames before them;
    /// as long as that takes.
    pub(super) held: VecDeque<Direct>,
    /// Frames that the encoder has done.
    pub(super) encoded: u64,
    /// A packet was refused: nothing can decode those after it, up to the next key.
    pub(super) needs_key: bool,
    pub(super) commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) encoder_error: Option<String>,
}

enum Event {
    Evidence(Evidence),
    Command(Command),
    Tick,
    End,
}

impl Writer {
    /// Runs until the encoder thread is gone and every clip has its result.
    pub(super) fn run(mut self) {
        loop {
            match self.next() {
                Event::Evidence(e) => {
                    // A request is obeyed before any packet of a frame that was offered after it:
                    // such a packet could only be sent after the request. So what a clip begins
                    // with does not depend on which of the two this thread looks at first.
                    self.obey_all();
                    self.take(e);
                }
                Event::Command(c) => self.obey(c),
                Event::Tick => {}
                Event::End => break,
            }
            self.release(false);
            self.give_up_waiting();
        }
        self.obey_all();
        self.release(true);
        // From here on a request is answered by the lane itself; those before are in the channel.
        self.shared.close();
        self.obey_all();
        let reason = self.shared.end_reason();
        while let Some(clip) = self.clips.pop() {
            self.end(clip, reason);
            self.ask_again();
        }
    }

    fn next(&self) -> Event {
        let mut select = Select::new();
        let evidence = select.recv(&self.evidence);
        select.recv(&self.commands);
        let ready = match self.clock {
            Some(_) if !self.clips.is_empty() => match select.ready_timeout(TICK) {
                Ok(ready) => ready,
                Err(_) => return Event::Tick,
            },
            _ => select.ready(),
        };
        if ready == evidence {
            // `ready` may be wrong for once; then it is asked again.
            match self.evidence.recv_timeout(Duration::ZERO) {
                Ok(e) => Event::Evidence(e),
                Err(RecvTimeoutError::Timeout) => Event::Tick,
                Err(RecvTimeoutError::Disconnected) => Event::End,
            }
        } else {
            match self.commands.try_recv() {
                Ok(c) => Event::Command(c),
                // The lane keeps its sender until this thread ended.
                Err(_) => Event::Tick,
            }
        }
    }

    fn now_ns(&self) -> i64 {
        self.clock.as_ref().map_or(0, |c| c.now_ns())
    }

    fn obey_all(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Request(request) => self.request(request, false),
            Command::SetEnd {
                id,
                end_ns,
                best_ns,
            } => {
                let found = self.clips.iter().position(|c| c.is_of(&id));
                match found {
                    Some(i) => {
                        if let Step::Done(end) = self.clips[i].set_end(&id, end_ns, best_ns) {
                            let clip = self.clips.swap_remove(i);
                            self.end(clip, end);
                        }
                    }
                    None => {
                        tracing::debug!(clip = %id, "the end of a clip that is finished was set")
                    }
                }
            }
        }
        self.ask_again();
    }

    /// Gives those a clip of their own that were joined to one in vain.
    fn ask_again(&mut self) {
        // It ends: each time a clip is gone, or the request is not joined any more.
        while let Some(request) = self.left.pop_front() {
            self.request(request, true);
        }
    }

    /// `again`: it had been joined to a clip, in vain.
    fn request(&mut self, request: ClipRequest, again: bool) {
        let newest_ns = self.ring.newest_ns();
        let host = self.merging;
        let host = host.and_then(|m| m.host(&self.clips, &request, newest_ns));
        if let Some(i) = host {
            return self.join(i, request);
        }
        if again {
            self.store.joined(&self.source, &request, None);
        }
        if self.clips.len() >= MOST_OPEN {
            let reason = format!("{MOST_OPEN} clips of this source are being written already");
            return self.report(failed(request, self.source.clone(), &reason));
        }
        let reached = self.ring.decoded_ns() >= Some(request.start_ns);
        let reversed = request.end_ns < request.start_ns;
        let clip = OpenClip::new(request, self.source.clone(), self.now_ns());
        self.clips.push(clip);
        if reached || reversed {
            self.begin(self.clips.len() - 1);
        }
    }

    /// Lets the clip at `i` answer this request, too.
    fn join(&mut self, i: usize, request: ClipRequest) {
        // First where it outlives this process: the file does not say so before it is finished.
        let host = self.clips[i].request.id.clone();
        self.store.joined(&self.source, &request, Some(&host));
        let now_ns = self.now_ns();
        let clip = &mut self.clips[i];
        clip.heard_ns = now_ns;
        let step = clip.join(request);
        self.after(i, step);
    }

    /// Begins the waiting clip at `i`; one that is done or fails leaves the list.
    fn begin(&mut self, i: usize) {
        let error = self.encoder_error.as_deref();
        let step = self.clips[i].begin(&self.ring, &self.store, error);
        self.after(i, step);
    }

    /// Lets the clip at `i` go if it is done.
    fn after(&mut self, i: usize, step: Result<Step, ClipError>) {
        match step {
            Ok(Step::Open) => {}
            Ok(Step::Done(reason)) => {
                let clip = self.clips.swap_remove(i);
                let settled = clip.finish(reason, self.ring.newest_ns());
                self.settle(settled);
            }
            Err(e) => {
                let clip = self.clips.swap_remove(i);
                self.settle(clip.fail(&e));
            }
        }
    }

    fn take(&mut self, evidence: Evidence) {
        let now_ns = self.now_ns();
        match evidence {
            Evidence::Gap(gap) => {
                self.ring.add_gap(gap);
                self.clips.iter_mut().for_each(|c| c.push_gap(gap));
            }
            Evidence::Passed {
                t_ns,
                error,
                encoded,
            } => {
                self.encoded = encoded;
                self.encoder_error = Some(error);
                self.time_passed(t_ns);
            }
            Evidence::Packet { packet, encoded } => {
                self.encoded = encoded;
                self.encoder_error = None;
                self.packet(packet, now_ns);
            }
            Evidence::Direct(direct) => {
                // In the order they were captured, whichever way they came.
                self.held.push_back(direct);
                return self.release(false);
            }
        }
        self.ask_again();
        let state = self.ring.state();
        self.shared.stats(|s| s.ring = state);
    }

    /// Takes the device's pictures whose turn it is.
    fn release(&mut self, all: bool) {
        while let Some(direct) = self.held.pop_front() {
            let waits = self.encoded < direct.after && self.held.len() < PACKET_QUEUE;
            if waits && !all {
                self.held.push_front(direct);
                return;
            }
            for gap in direct.gaps {
                self.take(Evidence::Gap(gap));
            }
            self.take(Evidence::Packet {
                packet: direct.packet,
                encoded: self.encoded,
            });
        }
    }

    fn packet(&mut self, packet: Packet, now_ns: i64) {
        let (t_ns, dts_ns) = (packet.pts_ns, packet.dts_ns);
        // A waiting clip whose start lies before this packet is cut before the packet is added:
        // adding it may evict the GOP that the clip begins in.
        let newest = self
            .ring
            .gops()
            .next_back()
            .and_then(|g| g.params().cloned());
        let change = newest.as_ref().is_some_and(|p| *p != packet.params);
        for i in (0..self.clips.len()).rev() {
            let clip = &mut self.clips[i];
            clip.heard_ns = now_ns;
            let other_side = change && t_ns <= clip.event_ns();
            if other_side {
                // The event's side is kept: what was written of the other goes.
                clip.wait_again();
            }
            let reached = newest.is_some() && dts_ns > clip.request.start_ns;
            if clip.is_waiting() && reached && !other_side {
                self.begin(i);
            }
        }
        let kept = match self.needs_key && !packet.is_key {
            true => Err(RingError::Params { pts_ns: t_ns }),
            false => self.ring.add(packet.clone()),
        };
        match kept {
            Ok(()) => self.needs_key = false,
            // Too long without a key packet for the ring. A clip that has the last one goes on.
            Err(RingError::NoKey { .. }) => {}
            Err(e @ RingError::NoEnd { .. }) => {
                tracing::warn!(source = %self.source, error = %e, "no pre-roll");
            }
            Err(e @ (RingError::Order { .. } | RingError::Params { .. })) => {
                if !self.needs_key {
                    tracing::warn!(source = %self.source, error = %e, "a packet was not kept");
                }
                self.needs_key = true;
                let gap = Gap {
                    from_ns: self.ring.newest_ns().unwrap_or(t_ns),
                    to_ns: t_ns,
                    lost: 1,
                    cause: GapCause::EncoderError,
                };
                return self.take(Evidence::Gap(gap));
            }
        }
        for i in (0..self.clips.len()).rev() {
            let clip = &mut self.clips[i];
            if !clip.is_waiting() {
                let step = clip.push(&packet);
                self.after(i, step);
            } else if dts_ns >= clip.request.start_ns && self.ring.oldest_ns().is_some() {
                self.begin(i);
            }
        }
    }

    /// Ends clips whose end lies so far back in source time that their pictures will not come.
    fn time_passed(&mut self, t_ns: i64) {
        for i in (0..self.clips.len()).rev() {
            if t_ns >= self.clips[i].end_ns().saturating_add(PATIENCE_NS) {
                let clip = self.clips.swap_remove(i);
                self.end(clip, ClipEnd::GapTimeout);
            }
        }
    }

    /// In realtime mode, ends clips that heard nothing for what is left of their post-roll and 2 s.
    fn give_up_waiting(&mut self) {
        if self.clock.is_none() || self.clips.is_empty() {
            return;
        }
        let now_ns = self.now_ns();
        let newest_ns = self.ring.newest_ns();
        for i in (0..self.clips.len()).rev() {
            let clip = &self.clips[i];
            let left_ns = clip
                .end_ns()
                .saturating_sub(newest_ns.unwrap_or(clip.event_ns()))
                .max(0);
            let patience_ns = left_ns.saturating_add(PATIENCE_NS);
            if now_ns.saturating_sub(clip.heard_ns) > patience_ns {
                let clip = self.clips.swap_remove(i);
                self.end(clip, ClipEnd::GapTimeout);
            }
        }
        self.ask_again();
    }

    /// Ends a clip that gets no more packets, with what there is.
    fn end(&mut self, mut clip: OpenClip, reason: ClipEnd) {
        let begun = match clip.is_waiting() {
            true => clip.begin(&self.ring, &self.store, self.encoder_error.as_deref()),
            false => Ok(Step::Open),
        };
        let newest_ns = self.ring.newest_ns();
        let settled = match begun {
            Ok(Step::Open) => clip.finish(reason, newest_ns),
            Ok(Step::Done(sooner)) => clip.finish(sooner, newest_ns),
            Err(e) => clip.fail(&e),
        };
        self.settle(settled);
    }

    fn settle(&mut self, settled: Settled) {
        for result in settled.results {
            self.report(result);
        }
        self.left.extend(settled.left);
    }

    fn report(&self, result: super::ClipResult) {
        self.shared.report(result);
    }
}
