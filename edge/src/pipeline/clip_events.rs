//! The events thread and clips: asked for, answered, told of.
//!
//! Whoever was told of a trigger with a clip is told once what became of it: `ready`, or `failed`
//! with a reason; after a crash by the next process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use visualpath_core::Name;
use visualpath_media::clip::{ClipRequest, ClipResult, ClipState as Became, Unheard};
use visualpath_mqtt::payload::ClipGap;
use visualpath_mqtt::{
    ClipBody, ClipPayload, ClipState, CommandError, Event as Line, TriggerPayload,
};
use visualpath_platform::trace::record::ClipRecord;
use visualpath_platform::trace::{Level, Record};

use super::events::Events;
use super::line::LineShared;
use super::problem;
use crate::commands::{Answer, ClipAccepted, Outcome};

/// Clips of a source that commands asked for and that are being written, at most: they share the disk, the quota
/// and the places of a source with those that triggers ask for.
const MOST_COMMANDED: usize = 4;

/// A clip that a command asks for.
pub struct Cut {
    /// The source.
    pub line: Arc<LineShared>,
    /// What is asked.
    pub request: ClipRequest,
    /// The answer, …
    pub accepted: ClipAccepted,
    /// … unless it is to be the clip's message.
    pub wait: bool,
    /// Who asked.
    pub answer: Answer,
}

impl Events {
    /// No trigger asks for it, so nothing is told before it is ready or failed.
    pub(super) fn cut(&mut self, cut: Cut) {
        let Cut {
            line,
            request,
            accepted,
            wait,
            answer,
        } = cut;
        let Some(evidence) = line.evidence() else {
            let message = format!("source `{}` keeps no video", line.source);
            return answer.give(Err(CommandError::new("no_ring", message)));
        };
        let source = line.source.as_str();
        let of_commands = self.asked.iter().filter(|(id, (_, body))| {
            body.source == source && self.commanded.contains_key(id.as_str())
        });
        if of_commands.count() >= MOST_COMMANDED {
            let message = format!(
                "{MOST_COMMANDED} clips of `{source}` that commands asked for are being written: \
                 try again later"
            );
            return answer.give(Err(CommandError::new("busy", message)));
        }
        // Whoever is told its id has it answered for, also by the next process.
        evidence.announce(&request);
        let body = ClipBody::asked(
            &self.device,
            &request.trigger_id,
            [
                line.source.as_str(),
                request.path.as_str(),
                request.label.as_str(),
            ],
            (request.start_ns, request.end_ns),
        );
        self.asked
            .insert(request.id.clone(), (request.path.clone(), body));
        if wait {
            self.commanded.insert(request.id.clone(), Some(answer));
        } else {
            self.commanded.insert(request.id.clone(), None);
            let failed = |e: serde_json::Error| CommandError::new("failed", e.to_string());
            answer.give(serde_json::to_value(&accepted).map_err(failed));
        }
        evidence.request(request);
    }

    /// From here on `ready` or `failed` follows, whatever happens.
    pub(super) fn ask_for_clip(
        &mut self,
        line: &LineShared,
        path: &Name,
        request: ClipRequest,
        payload: &TriggerPayload,
    ) {
        let body = ClipBody::of(&payload.trigger);
        let Some(evidence) = line.evidence() else {
            let body = body.failed("no encoder: see the log at start");
            return self.clip_message(path, &request.id, body);
        };
        self.asked.insert(request.id.clone(), (path.clone(), body));
        evidence.request(request);
    }

    pub(super) fn clip(&mut self, result: ClipResult) {
        match self.asked.remove(&result.id) {
            Some((path, body)) => self.clip_is(&path, body, result),
            None => tracing::error!(clip = result.id, "a clip nobody asked for"),
        }
    }

    /// Clips of an earlier process that nobody has heard of.
    pub(super) fn earlier(&mut self, unheard: Vec<Unheard>) {
        for Unheard { request: r, result } in unheard {
            let (source, path, label) = (&result.source, &r.path, &r.label);
            let body = ClipBody::asked(
                &self.device,
                &r.trigger_id,
                [source.as_str(), path.as_str(), label.as_str()],
                (r.start_ns, r.end_ns),
            );
            self.clip_is(&r.path, body, result);
        }
    }

    fn clip_is(&mut self, path: &Name, body: ClipBody, result: ClipResult) {
        let after = result.clone();
        let clips = self.store.get();
        let body = match result.state {
            Became::Failed { reason } => body.failed(reason),
            Became::Ready(clip) => ClipBody {
                merged_into: clip.merged_into.clone(),
                lead_in_ms: clip.lead_in_ms,
                short_pre_ms: clip.short_pre_ms,
                short_pre_reason: clip.short_pre_reason.as_ref().and_then(word),
                short_post_ms: clip.short_post_ms,
                end_reason: word(&clip.end_reason),
                partial: clip.partial,
                playable: clips.and_then(|c| c.store.playable(&clip, c.beside)),
                frames: clip.frames,
                gaps: clip
                    .gaps
                    .iter()
                    .map(|g| ClipGap::new(g.from_ns, g.to_ns))
                    .collect(),
                codec: word(&clip.codec),
                sha256: Some(clip.sha256.clone()),
                bytes: clip.bytes,
                ..body
                    .ready(clip.file.clone(), clip.start_ns, clip.end_ns)
                    .with_still(
                        clips.and_then(|c| c.store.still(&clip, c.beside)),
                        clip.still_ns,
                    )
            },
        };
        self.clip_message(path, &after.id, body);
        // What shares a file shares what is made of it.
        let shares = matches!(&after.state, Became::Ready(clip) if clip.merged_into.is_some());
        if let Some(clips) = self.store.get().filter(|_| !shares) {
            clips.add(&after);
        }
    }

    /// A broker that drops whoever wants to hear commands.
    pub(super) fn look_at_commands(&mut self) {
        const CODE: &str = "commands_off";
        match (
            self.out.is_deaf(),
            self.problems.iter().any(|p| p.code == CODE),
        ) {
            (true, false) => {
                let detail = "connection after connection is lost after subscribing to `cmd`: \
                              commands are not heard for a while";
                let advice = "remove a retained message there, let this client read `cmd` and \
                              `cmd/+` (broker's access rules), or set mqtt.commands = []";
                self.problem(problem(CODE, "mqtt", detail, advice));
            }
            (false, true) => self.solved(CODE, "mqtt"),
            _ => {}
        }
    }

    /// A store that keeps no clips any more, or can't keep its books.
    pub(super) fn look_at_store(&mut self) {
        const CODE: &str = "clip_store";
        self.look_at_index();
        let Some(trouble) = self
            .store
            .get()
            .and_then(|c| c.store.trouble().map(str::to_owned))
        else {
            return;
        };
        if self.problems.iter().all(|p| p.code != CODE) {
            let advice = "check the disk (dmesg says what the kernel saw), then start visualpath again; triggers go on";
            self.problem(problem(CODE, "clips", &trouble, advice));
        }
    }

    /// An index that can't be written.
    fn look_at_index(&mut self) {
        const CODE: &str = "clip_index";
        let known = self.problems.iter().any(|p| p.code == CODE);
        let trouble = self.store.get().and_then(|c| c.store.index_trouble());
        match (trouble, known) {
            (Some(trouble), false) => {
                let advice = "free disk space, or check the disk (dmesg says what the kernel saw) and start visualpath again; until then a clip that is being written when the power goes may never be told of";
                self.problem(problem(CODE, "clips", &trouble, advice));
            }
            (None, true) => self.solved(CODE, "clips"),
            _ => {}
        }
    }

    fn trace_clip(&self, path: &Name, id: &str, body: &ClipBody) {
        if !self.hub.enabled(Level::Minimal) {
            return;
        }
        // They were names before they were texts.
        let (Ok(source), Ok(label)) = (Name::new(&body.source), Name::new(&body.label)) else {
            return;
        };
        self.hub.emit_with(Level::Minimal, || {
            let ready = body.state == ClipState::Ready;
            Record::Clip(ClipRecord {
                timestamp_ns: self.hub.now_ns(),
                source,
                path: path.clone(),
                label,
                id: id.to_owned(),
                trigger_id: body.trigger_id.clone(),
                state: if ready { "ready" } else { "failed" }.to_owned(),
                file: body.file.clone(),
                reason: body.reason.clone(),
                start_ns: ready.then_some(body.start_ns),
                end_ns: ready.then_some(body.end_ns),
            })
        });
    }

    fn clip_message(&mut self, path: &Name, id: &str, body: ClipBody) {
        let count = match body.state {
            ClipState::Ready => &self.counts.ready,
            ClipState::Failed => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.trace_clip(path, id, &body);
        let answer = self.commanded.remove(id).flatten();
        match self.out.clip(path, id, body) {
            Ok(payload) => {
                if let Some(app) = &self.app {
                    app.clip(&payload);
                }
                if let Some(answer) = answer {
                    answer.give(outcome(&payload));
                }
                self.out.print(&Line::Clip(payload));
                if let Some(clips) = self.store.get() {
                    clips.store.told(id);
                }
            }
            Err(e) => {
                tracing::error!(clip = id, error = %e, "clip message lost: the outbox refused it");
                if let Some(answer) = answer {
                    let message = format!("clip {id}: its message was refused: {e}");
                    answer.give(Err(CommandError::new("failed", message)));
                }
                self.refused();
            }
        }
    }

    pub(super) fn finish(&mut self, clips: &Receiver<ClipResult>) {
        for result in clips.try_iter() {
            self.clip(result);
        }
        // Whoever waits for one that did not make it hears that the appliance stops.
        self.commanded.clear();
        let is_answered_later = self.store.get().is_some_and(|c| c.store.has_index());
        for (id, (path, body)) in std::mem::take(&mut self.asked) {
            if is_answered_later {
                // The disk may yet finish it. It is on the books, and the next start tells.
                tracing::warn!(
                    clip = id,
                    "still being written when the appliance stopped; told of after the next start"
                );
                continue;
            }
            let why = "still being written when the appliance stopped";
            self.clip_message(&path, &id, body.failed(why));
        }
    }
}

/// What whoever waited for a clip is told.
fn outcome(clip: &ClipPayload) -> Outcome {
    match (clip.clip.state, &clip.clip.reason) {
        (ClipState::Ready, _) => {
            serde_json::to_value(clip).map_err(|e| CommandError::new("failed", e.to_string()))
        }
        (ClipState::Failed, reason) => {
            let reason = reason.as_deref().unwrap_or("no reason was given");
            let message = format!("clip {} failed: {reason}", clip.id);
            Err(CommandError::new("clip_failed", message))
        }
    }
}

/// The word an enum has in messages.
pub(crate) fn word(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value)
        .ok()?
        .as_str()
        .map(str::to_owned)
}
