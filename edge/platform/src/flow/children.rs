//! Lanes whose extractor runs in a process of its own.
//!
//! With such lanes the path thread sleeps on their sockets and a bell instead of on its channels;
//! see [`crate::bell`].

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use visualpath_core::DropReason;

use super::lane::Worker;
use super::{Captured, Flow, PathSink, TICK};
use crate::isolation::{ChildEvent, sleep};
use crate::worker::Reply;

/// Events of one child taken at a turn, so that a chatty one does not keep the others waiting.
const AT_ONCE: usize = 32;

impl<S: PathSink> Flow<S> {
    /// Takes one thing of everything that is there, or sleeps until there is something.
    pub(super) fn turn(&mut self, source: &Receiver<Captured>, now_ns: i64) {
        let any = self.look(source);
        // After what came meanwhile was heard: this thread may have been busy for long.
        if self.looked_at.elapsed() >= TICK {
            self.look_after_children();
        }
        if any {
            return;
        }
        let patience = self.patience(now_ns);
        self.bell.arm();
        // Whoever sends something after this look rings.
        if self.replies.is_empty() && self.changes.is_empty() && !is_ready(source) {
            let lanes = self.children.iter().map(|i| &self.lanes[*i]);
            let items = lanes.filter_map(|lane| match &lane.worker {
                Worker::Child(child) => child.poll_item(),
                _ => None,
            });
            // What woke it is found at the next turn.
            sleep(&self.bell, items, Some(patience));
        }
        self.bell.disarm();
    }

    /// Four times a second: threads that are gone, hung workers of a file, processes that have had
    /// nothing to say for long. Not after a sleep that nothing broke: there may be none.
    fn look_after_children(&mut self) {
        self.looked_at = Instant::now();
        self.find_gone_threads();
        self.idle_ns = i64::try_from(self.moved_at.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.judge_idle();
        for k in 0..self.children.len() {
            let lane = &mut self.lanes[self.children[k]];
            let hang = Duration::from_nanos(lane.hang_ns.unsigned_abs());
            if let Worker::Child(child) = &mut lane.worker {
                child.heartbeat(hang);
            }
        }
    }

    /// Whether there was anything.
    fn look(&mut self, source: &Receiver<Captured>) -> bool {
        let mut any = false;
        for k in 0..self.children.len() {
            any |= self.hear(self.children[k]);
        }
        if let Ok(reply) = self.replies.try_recv() {
            any = true;
            self.replied(Some(reply));
        }
        match self.changes.try_recv() {
            Ok(change) => {
                self.changed(Some(change));
                return true;
            }
            Err(TryRecvError::Disconnected) => self.changed(None),
            Err(TryRecvError::Empty) => {}
        }
        // An answer may have taken the room that the source was asked with. Else the source has its
        // turn, however much the children say.
        if any && !self.can_take() {
            return true;
        }
        match source.try_recv() {
            Ok(item) => self.came(item),
            // A capture thread that died without a word is an end too.
            Err(TryRecvError::Disconnected) => self.came(Captured::End),
            Err(TryRecvError::Empty) => return any,
        }
        true
    }

    /// Said at the beginning: which processes did not come up.
    pub(super) fn say_down(&mut self) {
        for i in 0..self.lanes.len() {
            self.say_if_down(i);
        }
    }

    /// What became of a process while somebody else had its events (it was started, warmed up).
    pub(super) fn say_if_down(&mut self, i: usize) {
        let Worker::Child(child) = &self.lanes[i].worker else {
            return;
        };
        if !self.lanes[i].down {
            return;
        }
        match child.gone().cloned() {
            Some(gone) if gone.for_good => self.hold(i, &gone.why.why),
            Some(gone) => self.say_restarting(i, &gone.why.why),
            None => self.say_restarting(i, "its process is not there yet"),
        }
    }

    fn say_restarting(&mut self, i: usize, why: &str) {
        let name = self.lanes[i].name.clone();
        self.sink.restarting(&name, Some(why));
        self.trace.worker(&name, "restarting", why);
    }

    /// Everything that has happened to a child. Whether anything has.
    pub(super) fn hear(&mut self, i: usize) -> bool {
        for n in 0..AT_ONCE {
            let Worker::Child(child) = &mut self.lanes[i].worker else {
                return n > 0;
            };
            let Some(event) = child.event() else {
                return n > 0;
            };
            match event {
                ChildEvent::Reply(reply) => {
                    self.moved();
                    self.answered(i, reply);
                }
                ChildEvent::Trace(record) => self.trace.foreign(&self.lanes[i].name, record),
                ChildEvent::Up(_) => self.up(i),
                ChildEvent::Down(why, reply) => self.down(i, &why.why, reply),
                ChildEvent::Hold(why, reply) => {
                    self.lanes[i].down = true;
                    self.last_word(i, reply);
                    self.hold(i, &why.why);
                }
            }
        }
        true
    }

    fn up(&mut self, i: usize) {
        let lane = &mut self.lanes[i];
        lane.down = false;
        let name = lane.name.clone();
        self.sink.restarting(&name, None);
        self.trace.worker(&name, "running", "");
        let lane = &mut self.lanes[i];
        if lane.in_flight.is_some() {
            return;
        }
        let next = lane.parked.take().or_else(|| lane.limiter.completed());
        if let Some(next) = next {
            self.dispatch(i, next);
        }
    }

    fn down(&mut self, i: usize, why: &str, reply: Option<Reply>) {
        // First, so that what waits is not given to nobody.
        self.lanes[i].down = true;
        self.last_word(i, reply);
        if self.stop_deadline_ns.is_some() {
            return self.hold(i, why);
        }
        self.say_restarting(i, why);
        if self.realtime {
            self.give_up_waiting(i, DropReason::WorkerHeld);
        }
    }

    /// What became of the frame that a process had when it died.
    fn last_word(&mut self, i: usize, reply: Option<Reply>) {
        if let Some(reply) = reply {
            self.answered(i, reply);
        }
    }
}

/// Whether it would give something, its end included.
fn is_ready(source: &Receiver<Captured>) -> bool {
    let mut select = crossbeam_channel::Select::new();
    select.recv(source);
    select.try_ready().is_ok()
}
