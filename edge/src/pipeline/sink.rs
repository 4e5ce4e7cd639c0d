//! From the path thread to the events thread.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};
use visualpath_core::{Aligned, FusionInput, FusionResult, Name, Outcome};
use visualpath_mqtt::payload::Problem;
use visualpath_platform::{PathSink, Times};

use super::events::Event;

/// Hands fusion results on. Sending waits when the events thread is far behind: events are never
/// dropped.
pub struct ToEvents {
    events: Sender<Event>,
}

impl ToEvents {
    /// Sends to `events`.
    pub fn new(events: Sender<Event>) -> Self {
        Self { events }
    }

    /// Returns once the events thread has taken care of everything sent before, or when it has
    /// not within `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, all) = crossbeam_channel::bounded::<()>(0);
        if self.events.send_timeout(Event::Flush(done), limit).is_ok() {
            // Nothing is ever sent: it disconnects when the event has been taken.
            if let Err(RecvTimeoutError::Timeout) = all.recv_timeout(limit) {
                tracing::error!("the events thread does not keep up");
            }
        }
    }

    /// Ends the events thread, after everything sent before.
    pub fn end(&self, limit: Duration) {
        if self.events.send_timeout(Event::End, limit).is_err() {
            tracing::error!("the events thread could not be told to end");
        }
    }

    /// Something the operator should know.
    pub fn problem(&self, problem: Problem) {
        self.send(Event::Problem(Box::new(problem)));
    }

    fn send(&self, event: Event) {
        // The events thread outlives the others unless it panicked, which stops the run.
        if self.events.send(event).is_err() {
            tracing::error!("the events thread is gone; an event is lost");
        }
    }
}

impl PathSink for ToEvents {
    fn fused(&mut self, path: usize, input: FusionInput<'_>, result: FusionResult, times: Times) {
        if result.triggers.is_empty() && result.states.is_empty() {
            return;
        }
        let extract_ns = match input {
            FusionInput::Aligned(aligned) => slowest_ns(aligned),
            FusionInput::Gap { .. } | FusionInput::End { .. } => 0,
        };
        for trigger in result.triggers {
            self.send(Event::Fired {
                path,
                trigger: Box::new(trigger),
                times,
                extract_ns,
            });
        }
        for (label, on) in result.states {
            self.send(Event::State { path, label, on });
        }
    }

    fn held(&mut self, extractor: &Name, why: &str) {
        self.send(Event::Held {
            extractor: extractor.clone(),
            why: why.to_owned(),
        });
    }
}

/// Time in the slowest extractor that looked at this very frame.
fn slowest_ns(aligned: &Aligned) -> i64 {
    aligned
        .entries
        .iter()
        .filter_map(|e| match &e.outcome {
            Some(Outcome::Observed(held)) => Some(held.timing_ns),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}
