//! From the path thread to the events thread.

use crossbeam_channel::Sender;
use visualpath_core::{Aligned, FusionInput, FusionResult, Name, Outcome};
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

    /// Returns once the events thread has taken care of everything sent before.
    pub fn flush(&self) {
        let (done, all) = crossbeam_channel::bounded(0);
        self.send(Event::Flush(done));
        // Nothing is ever sent: it disconnects when the event has been taken.
        if all.recv().is_ok() {
            tracing::debug!("a flush was answered");
        }
    }

    /// Ends the events thread, after everything sent before.
    pub fn end(&self) {
        self.send(Event::End);
    }

    fn send(&self, event: Event) {
        // The events thread outlives the path thread unless it panicked, which its join reports.
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
