//! From one source's path thread to the events thread.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender};
use visualpath_core::{Aligned, FusionInput, FusionResult, Name, Outcome};
use visualpath_mqtt::CommandError;
use visualpath_mqtt::payload::Problem;
use visualpath_platform::{Lateness, PathSink, Times};

use super::clip_events::Cut;
use super::events::Event;
use super::line::LineShared;

/// What the supervisor's thread waits for the events thread before it leaves a notice unsaid.
const PATIENCE: Duration = Duration::from_secs(1);

/// Hands fusion results on. Sending waits when the events thread is far behind: events are never
/// dropped. Only the supervisor's own notices are: whoever can stop the run must not be stuck
/// behind a reader of standard output that has gone to sleep.
#[derive(Clone)]
pub struct ToEvents {
    events: Sender<Event>,
    patience: Option<Duration>,
}

impl ToEvents {
    /// The supervisor's, to `events`.
    pub fn new(events: Sender<Event>) -> Self {
        Self {
            events,
            patience: Some(PATIENCE),
        }
    }

    /// The one for the threads of a line.
    pub fn for_line(&self) -> Self {
        Self {
            events: self.events.clone(),
            patience: None,
        }
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

    /// That problem is over.
    pub fn solved(&self, code: &str, subject: &str) {
        self.send(Event::Solved {
            code: code.to_owned(),
            subject: subject.to_owned(),
        });
    }

    /// A source is there, or gone for now.
    pub fn source(&self, source: &Name, online: bool) {
        self.send(Event::Source {
            source: source.clone(),
            online,
        });
    }

    /// A command asks for a clip; if the events thread has no time for it, it is answered so.
    pub(super) fn cut(&self, cut: Cut) {
        let patience = self.patience.unwrap_or(PATIENCE);
        let event = Event::Cut(Box::new(cut));
        if let Err(SendTimeoutError::Timeout(Event::Cut(cut))) =
            self.events.send_timeout(event, patience)
        {
            let message = "the events thread does not keep up: try again later";
            cut.answer.give(Err(CommandError::new("busy", message)));
        }
    }

    pub(super) fn send(&self, event: Event) {
        let sent = match self.patience {
            None => self.events.send(event).map_err(SendTimeoutError::from),
            Some(patience) => self.events.send_timeout(event, patience),
        };
        match sent {
            Ok(()) => {}
            // It outlives the others unless it panicked, which stops the run.
            Err(SendTimeoutError::Disconnected(_)) => {
                tracing::error!("the events thread is gone; an event is lost");
            }
            Err(SendTimeoutError::Timeout(_)) => {
                tracing::error!("the events thread does not keep up; a notice is left unsaid");
            }
        }
    }
}

/// What one source's path thread says.
pub struct LineSink {
    /// Where to.
    pub events: ToEvents,
    /// Whose.
    pub line: Arc<LineShared>,
}

impl PathSink for LineSink {
    fn fused(&mut self, path: &Name, input: FusionInput<'_>, result: FusionResult, times: Times) {
        if result.triggers.is_empty() && result.states.is_empty() {
            return;
        }
        let extract_ns = match input {
            FusionInput::Aligned(aligned) => slowest_ns(aligned),
            FusionInput::Gap { .. } | FusionInput::End { .. } => 0,
        };
        for trigger in result.triggers {
            self.events.send(Event::Fired {
                line: Arc::clone(&self.line),
                path: path.clone(),
                trigger: Box::new(trigger),
                times,
                extract_ns,
            });
        }
        for (label, on) in result.states {
            self.events.send(Event::State {
                source: self.line.source.clone(),
                path: path.clone(),
                label,
                on,
            });
        }
    }

    fn held(&mut self, extractor: &Name, why: &str) {
        self.events.send(Event::Held {
            source: self.line.source.clone(),
            extractor: extractor.clone(),
            why: why.to_owned(),
        });
    }

    fn restarting(&mut self, extractor: &Name, why: Option<&str>) {
        self.events.send(Event::Restarting {
            source: self.line.source.clone(),
            extractor: extractor.clone(),
            why: why.map(str::to_owned),
        });
    }

    fn late(&mut self, extractor: &Name, lateness: Option<Lateness>) {
        self.events.send(Event::Late {
            source: self.line.source.clone(),
            extractor: extractor.clone(),
            paths: self.line.paths_with(extractor),
            lateness,
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
