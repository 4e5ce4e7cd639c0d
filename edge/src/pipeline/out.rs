//! Where messages go: the publisher, and standard output.

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;
use visualpath_core::Name;
use visualpath_mqtt::payload::{CLIP_SCHEMA, ClipState, TRIGGER_SCHEMA};
use visualpath_mqtt::{
    ClipBody, ClipPayload, Event, ExtractorStatus, Health, Info, PublisherError, PublisherHandle,
    SourceStatus, TriggerBody, TriggerPayload,
};

use super::events::new_id;
use super::live::Live;

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// One JSON document per line.
    Json,
    /// One line for people.
    Text,
    /// Nothing.
    Nothing,
}

/// The way out.
pub struct Out {
    publisher: Option<Arc<PublisherHandle>>,
    print: Print,
    live: Option<Arc<Live>>,
    /// Numbers events when there is no publisher.
    stream: String,
    seq: u64,
}

impl Out {
    /// Publishes through `publisher`, if there is one.
    pub fn new(publisher: Option<Arc<PublisherHandle>>, print: Print) -> Self {
        Self {
            publisher,
            print,
            live: None,
            stream: new_id(),
            seq: 0,
        }
    }

    /// Notes what is said in `live`, too.
    #[must_use]
    pub fn noting(mut self, live: &Arc<Live>) -> Self {
        self.live = Some(Arc::clone(live));
        self
    }

    /// Keeps a trigger; it gets its `seq` here.
    pub fn trigger(
        &mut self,
        path: &Name,
        id: String,
        body: TriggerBody,
    ) -> Result<TriggerPayload, PublisherError> {
        let kept = self.keep(path, id, body);
        if let (Some(live), Ok(payload)) = (&self.live, &kept) {
            live.trigger(&payload.trigger);
        }
        kept
    }

    fn keep(
        &mut self,
        path: &Name,
        id: String,
        mut body: TriggerBody,
    ) -> Result<TriggerPayload, PublisherError> {
        if let Some(publisher) = &self.publisher {
            return publisher.trigger_as(path, id, body);
        }
        self.seq += 1;
        if body.trigger_id.is_empty() {
            body.trigger_id.clone_from(&id);
        }
        Ok(TriggerPayload {
            schema: TRIGGER_SCHEMA.to_owned(),
            id,
            stream: self.stream.clone(),
            seq: self.seq,
            replayed: false,
            trigger: body,
        })
    }

    /// Keeps a clip message.
    pub fn clip(
        &mut self,
        path: &Name,
        id: &str,
        body: ClipBody,
    ) -> Result<ClipPayload, PublisherError> {
        if let Some(publisher) = &self.publisher {
            return publisher.clip(path, id, body);
        }
        Ok(ClipPayload {
            schema: CLIP_SCHEMA.to_owned(),
            id: id.to_owned(),
            replayed: false,
            clip: body,
        })
    }

    /// Whether commands over MQTT are not heard for a while.
    pub fn is_deaf(&self) -> bool {
        self.publisher.as_ref().is_some_and(|p| p.is_deaf())
    }

    /// Sets `path/<path>/state/<label>`.
    pub fn state(&self, path: &Name, label: &Name, on: bool) {
        self.retain(|p| p.state(path, label, on));
    }

    /// Sets an extractor's status.
    pub fn extractor_status(&self, source: &Name, extractor: &Name, status: ExtractorStatus) {
        if let Some(live) = &self.live {
            live.worker(source, extractor, status);
        }
        self.retain(|p| p.extractor_status(source, extractor, status));
    }

    /// Sets the retained `health`, with the state of the rings.
    pub fn health(&self, mut health: Health) {
        if let Some(live) = &self.live {
            live.problems(&health.problems);
            health.sources = live.rings();
        }
        self.retain(|p| p.health(&health));
    }

    /// Sets the retained `info`.
    pub fn info(&self, info: &Info) {
        if let Some(live) = &self.live {
            live.models(&info.models);
        }
        self.retain(|p| p.info(info));
    }

    /// Sets a source's status.
    pub fn source_status(&self, source: &Name, status: SourceStatus) {
        self.retain(|p| p.source_status(source, status));
    }

    fn retain(&self, set: impl FnOnce(&PublisherHandle) -> Result<(), PublisherError>) {
        if let Some(publisher) = &self.publisher
            && let Err(e) = set(publisher)
        {
            tracing::warn!(error = %e, "a retained message could not be set");
        }
    }

    /// Prints an event in the form asked for.
    pub fn print(&self, event: &Event) {
        match self.print {
            Print::Nothing => {}
            Print::Json => line(event),
            Print::Text => text(&describe(event)),
        }
    }

    /// Prints any other document of `run --json`.
    pub fn print_json(&self, document: &impl Serialize) {
        if self.print == Print::Json {
            line(document);
        }
    }
}

fn line(document: &impl Serialize) {
    match serde_json::to_string(document) {
        Ok(json) => text(&json),
        Err(e) => tracing::error!(error = %e, "an event could not be printed"),
    }
}

/// A reader that went away is no reason to stop watching: it is said once.
fn text(line: &str) {
    static BROKEN: std::sync::Once = std::sync::Once::new();
    let mut stdout = std::io::stdout().lock();
    if let Err(e) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        BROKEN.call_once(|| tracing::warn!(error = %e, "standard output is gone"));
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Trigger(t) => {
            let b = &t.trigger;
            let phase = b
                .phase
                .map_or(String::new(), |p| format!(" {p:?}").to_lowercase());
            format!(
                "{} trigger {}/{}{phase} #{}: {} (frame {}, score {:.2})",
                seconds(b.event_start_ns),
                b.path,
                b.label,
                t.seq,
                b.reason,
                b.frame_id,
                b.score
            )
        }
        Event::Clip(c) => {
            let b = &c.clip;
            match b.state {
                ClipState::Ready => format!(
                    "{} clip {}/{}: {} ({} frames, {:.1} s)",
                    seconds(b.start_ns),
                    b.path,
                    b.label,
                    b.file.as_deref().unwrap_or("?"),
                    b.frames,
                    to_s(b.end_ns - b.start_ns)
                ),
                ClipState::Failed => format!(
                    "{} clip {}/{} failed: {}",
                    seconds(b.start_ns),
                    b.path,
                    b.label,
                    b.reason.as_deref().unwrap_or("?")
                ),
            }
        }
        Event::Summary(s) => format!(
            "{} frames in {:.1} s ({:.1}/s, {:.1} s CPU), {} triggers, {} clips ready, {} failed, dropped: {}",
            s.frames,
            s.wall_s,
            s.fps,
            s.cpu_s,
            s.triggers,
            s.clips.ready,
            s.clips.failed,
            if s.dropped.is_empty() {
                "none".to_owned()
            } else {
                s.dropped
                    .iter()
                    .map(|(r, n)| format!("{n} {r}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        ),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn to_s(ns: i64) -> f64 {
    ns as f64 / 1e9
}

fn seconds(ns: i64) -> String {
    format!("{:9.3} s", to_s(ns))
}
