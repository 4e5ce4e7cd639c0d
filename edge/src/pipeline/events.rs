//! The events thread: triggers become messages, and only then is anybody told.
//!
//! ```text
//! path thread ─ Fired ─▶ outbox (id, seq) ─▶ run --json, on_trigger ─▶ clip request
//! clip thread ─ Clip  ─▶ outbox           ─▶ run --json
//! ```

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, never, select};
use visualpath_core::{ModelUse, Name, Phase, Trigger};
use visualpath_media::clip::{ClipResult, ClipState as Cut, EvidenceLane};
use visualpath_mqtt::payload::{ClipGap, Latency, Problem, TriggerContext};
use visualpath_mqtt::{
    ClipBody, ClipState, Event as Line, ExtractorStatus, TriggerBody, TriggerPayload,
};
use visualpath_platform::Times;

use super::evidence::clip_request;
use super::out::Out;
use super::wall::WallClock;
use super::{health_message, problem};

/// What reaches the events thread.
pub enum Event {
    /// A rule fired.
    Fired {
        /// Index of the path.
        path: usize,
        /// What its fusion said.
        trigger: Box<Trigger>,
        /// When the frame passed the path thread.
        times: Times,
        /// Nanoseconds in the slowest extractor of that frame.
        extract_ns: i64,
    },
    /// A label went ON or OFF.
    State {
        /// Index of the path.
        path: usize,
        /// The label.
        label: Name,
        /// ON.
        on: bool,
    },
    /// An extractor went on Hold.
    Held {
        /// Which.
        extractor: Name,
        /// Why.
        why: String,
    },
    /// Something the operator should know.
    Problem(Box<Problem>),
    /// Everything sent before has been taken care of once this sender is dropped.
    Flush(Sender<()>),
    /// Nothing follows.
    End,
}

/// What the events thread knows of a path.
pub struct PathInfo {
    /// Its name.
    pub name: Name,
    /// Its source.
    pub source: Name,
    /// The models its extractors use.
    pub models: Vec<ModelUse>,
}

/// What came of all events, readable while it runs.
#[derive(Debug, Default)]
pub struct Counts {
    /// Triggers fired. A RANGE counts once, when it starts.
    pub triggers: AtomicU64,
    /// Clips made.
    pub ready: AtomicU64,
    /// Clips not made.
    pub failed: AtomicU64,
    /// Events the outbox refused.
    pub refused: AtomicU64,
}

/// `health` is published again this often, also when nothing changed.
const HEALTH: Duration = Duration::from_secs(60);

/// Called with every trigger once it is in the outbox.
pub type OnTrigger = Box<dyn FnMut(&TriggerPayload) + Send>;

/// The state of the events thread.
pub struct Events {
    /// Where messages go.
    pub out: Out,
    /// The paths, by index.
    pub paths: Vec<PathInfo>,
    /// Cuts clips.
    pub evidence: Option<Arc<EvidenceLane>>,
    /// Turns source time into wall time.
    pub wall: WallClock,
    /// The device's id.
    pub device: String,
    /// This boot's id.
    pub boot_id: String,
    /// What is wrong, for `health`.
    pub problems: Vec<Problem>,
    /// The app's subscriber.
    pub on_trigger: Option<OnTrigger>,
    /// RANGEs that have started, by path and label.
    pub open: HashMap<(usize, Name), OpenRange>,
    /// Clips asked for, by id, with the trigger they belong to.
    pub asked: HashMap<String, (usize, TriggerBody)>,
    /// Totals.
    pub counts: Arc<Counts>,
}

/// A RANGE between its two messages.
pub struct OpenRange {
    trigger_id: String,
    clip_id: Option<String>,
}

impl Events {
    /// Takes events until [`Event::End`], or until every sender is gone; then every clip that was
    /// asked for and has no result gets its `failed`.
    pub fn run(mut self, events: &Receiver<Event>, clips: &Receiver<ClipResult>) {
        let mut said = Instant::now();
        loop {
            let wait = HEALTH.saturating_sub(said.elapsed());
            select! {
                recv(events) -> event => match event {
                    Ok(Event::End) | Err(_) => break,
                    Ok(event) => self.take(event),
                },
                recv(clips) -> result => {
                    // All senders gone: the lane has ended; only events follow.
                    let Ok(result) = result else {
                        return self.without_clips(events);
                    };
                    self.clip(result);
                }
                default(wait) => {
                    self.say_health();
                    said = Instant::now();
                }
            }
        }
        self.finish(clips);
    }

    /// The rest of a run whose evidence lane is gone, or that never had one.
    fn without_clips(mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(HEALTH) {
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => self.say_health(),
            }
        }
        self.finish(&never());
    }

    fn finish(&mut self, clips: &Receiver<ClipResult>) {
        for result in clips.try_iter() {
            self.clip(result);
        }
        for (id, (index, trigger)) in std::mem::take(&mut self.asked) {
            let why = "still being written when the appliance stopped";
            self.clip_message(index, &id, ClipBody::failed(&trigger, why));
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Fired {
                path,
                trigger,
                times,
                extract_ns,
            } => {
                self.fired(path, &trigger, times, extract_ns);
            }
            Event::State { path, label, on } => self.out.state(&self.paths[path].name, &label, on),
            Event::Held { extractor, why } => self.held(&extractor, &why),
            Event::Problem(problem) => self.problem(*problem),
            Event::Flush(done) => drop(done),
            Event::End => {}
        }
    }

    fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
        self.say_health();
    }

    fn say_health(&self) {
        self.out
            .health(&health_message(&self.device, self.problems.clone()));
    }

    fn held(&mut self, extractor: &Name, why: &str) {
        if let Some(path) = self.paths.first() {
            self.out
                .extractor_status(&path.source, extractor, ExtractorStatus::Held);
        }
        let advice = "see the log; restart visualpath, or change the extractor's config or plugin";
        self.problem(problem("extractor_held", extractor.as_str(), why, advice));
    }

    fn fired(&mut self, index: usize, trigger: &Trigger, times: Times, extract_ns: i64) {
        let path = &self.paths[index];
        let key = (index, trigger.label.clone());
        let ends = matches!(trigger.phase, Phase::End { .. });
        let open = if ends { self.open.remove(&key) } else { None };
        let clip_id = match &open {
            Some(open) => open.clip_id.clone(),
            None => (trigger.clip && !ends).then(new_id),
        };
        if let (true, Some(id), Some(evidence)) = (ends, &clip_id, &self.evidence) {
            // Before anything can go wrong with the message: else the clip runs to its latest end.
            evidence.set_end(id, trigger.t_end_ns);
        }
        let body = TriggerBody::new(
            trigger,
            TriggerContext {
                device: &self.device,
                boot_id: &self.boot_id,
                path: &path.name,
                source: &path.source,
                time: self.wall.at(trigger.t_ns).to_string(),
                clock: self.wall.quality(),
                clip_id: clip_id.clone(),
                trigger_id: open.as_ref().map(|o| o.trigger_id.clone()),
                models: &path.models,
                latency_ms: latency(times, extract_ns),
            },
        );
        let payload = match self.out.trigger(&path.name, body) {
            Ok(payload) => payload,
            Err(e) => {
                // Nothing may be told about an event that is not kept.
                tracing::error!(path = %path.name, label = %trigger.label, error = %e, "trigger lost: the outbox refused it");
                self.refused();
                return;
            }
        };
        self.counts
            .triggers
            .fetch_add(u64::from(!ends), Ordering::Relaxed);
        self.out.print(&Line::Trigger(payload.clone()));
        self.tell(&payload);
        if let (false, Some(id)) = (ends, clip_id) {
            self.ask_for_clip(index, id, trigger, &payload);
        }
        if matches!(trigger.phase, Phase::Start) {
            let clip_id = payload.trigger.clip.as_ref().map(|c| c.id.clone());
            self.open.insert(
                key,
                OpenRange {
                    trigger_id: payload.trigger.trigger_id.clone(),
                    clip_id,
                },
            );
        }
    }

    /// A panicking subscriber is not called again; events go on.
    fn tell(&mut self, payload: &TriggerPayload) {
        let Some(told) = &mut self.on_trigger else {
            return;
        };
        if catch_unwind(AssertUnwindSafe(|| told(payload))).is_err() {
            tracing::error!("on_trigger panicked and is not called again");
            self.on_trigger = None;
        }
    }

    /// From here on `ready` or `failed` follows, whatever happens.
    fn ask_for_clip(
        &mut self,
        index: usize,
        id: String,
        trigger: &Trigger,
        payload: &TriggerPayload,
    ) {
        let body = payload.trigger.clone();
        let Some(evidence) = &self.evidence else {
            self.clip_message(
                index,
                &id,
                ClipBody::failed(&body, "no encoder: see the log at start"),
            );
            return;
        };
        let wall = self.wall.at(trigger.t_ns);
        let request = clip_request(&id, &self.paths[index], trigger, &body.trigger_id, wall);
        self.asked.insert(id, (index, body));
        evidence.request(request);
    }

    /// Once is enough for `health`.
    fn refused(&mut self) {
        if self.counts.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            let advice = "see the log; free memory or disk space";
            self.problem(problem(
                "event_refused",
                "outbox",
                "the outbox refused an event",
                advice,
            ));
        }
    }

    fn clip(&mut self, result: ClipResult) {
        let Some((index, trigger)) = self.asked.remove(&result.id) else {
            tracing::error!(clip = result.id, "a clip nobody asked for");
            return;
        };
        let body = match result.state {
            Cut::Failed { reason } => ClipBody::failed(&trigger, reason),
            Cut::Ready(clip) => ClipBody {
                lead_in_ms: clip.lead_in_ms,
                short_pre_ms: clip.short_pre_ms,
                short_post_ms: clip.short_post_ms,
                end_reason: word(&clip.end_reason),
                frames: clip.frames,
                gaps: clip
                    .gaps
                    .iter()
                    .map(|g| ClipGap::new(g.from_ns, g.to_ns))
                    .collect(),
                codec: word(&clip.codec),
                sha256: Some(clip.sha256.clone()),
                bytes: clip.bytes,
                ..ClipBody::ready(&trigger, clip.file.clone(), clip.start_ns, clip.end_ns)
            },
        };
        self.clip_message(index, &result.id, body);
    }

    fn clip_message(&mut self, index: usize, id: &str, body: ClipBody) {
        let count = match body.state {
            ClipState::Ready => &self.counts.ready,
            ClipState::Failed => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match self.out.clip(&self.paths[index].name, id, body) {
            Ok(payload) => self.out.print(&Line::Clip(payload)),
            Err(e) => {
                tracing::error!(clip = id, error = %e, "clip message lost: the outbox refused it");
                self.refused();
            }
        }
    }
}

/// The word an enum has in messages.
fn word(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value)
        .ok()?
        .as_str()
        .map(str::to_owned)
}

/// A new UUIDv7.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Zero where no clock was read.
fn latency(times: Times, extract_ns: i64) -> Latency {
    if times.dequeued_ns == 0 {
        return Latency::default();
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    let ms = |ns: i64| ns.max(0) as f64 / 1e6;
    Latency {
        extract: ms(extract_ns),
        settle: ms(times.settled_ns - times.dequeued_ns - extract_ns),
        fuse: ms(times.fused_ns - times.settled_ns),
        total: ms(times.fused_ns - times.dequeued_ns),
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;
    use visualpath_core::{Signals, TriggerKind};

    use super::*;
    use crate::pipeline::out::Print;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn fired() -> Event {
        let trigger = Trigger {
            label: name("visitor"),
            kind: TriggerKind::Point,
            phase: Phase::Point,
            event: 1,
            frame_id: 3,
            t_ns: 300,
            fired_ns: 300,
            event_start_ns: 300,
            event_end_ns: 300,
            t_start_ns: 0,
            t_end_ns: 500,
            score: 1.0,
            reason: "test".to_owned(),
            observations_used: 1,
            signals: Signals::new(),
            objects: vec![],
            clip: true,
            metadata: serde_json::Map::new(),
        };
        Event::Fired {
            path: 0,
            trigger: Box::new(trigger),
            times: Times::default(),
            extract_ns: 0,
        }
    }

    fn events(counts: &Arc<Counts>, on_trigger: Option<OnTrigger>) -> Events {
        let path = PathInfo {
            name: name("entrance"),
            source: name("cam0"),
            models: vec![],
        };
        Events {
            out: Out::new(None, Print::Nothing),
            paths: vec![path],
            evidence: None,
            wall: WallClock::starting_now(),
            device: "test".to_owned(),
            boot_id: "boot".to_owned(),
            problems: vec![],
            on_trigger,
            open: HashMap::new(),
            asked: HashMap::new(),
            counts: Arc::clone(counts),
        }
    }

    fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }

    #[test]
    fn a_clip_without_a_result_when_the_appliance_stops_has_failed() {
        let counts = Arc::new(Counts::default());
        let mut thread = events(&counts, None);
        // Asked for, and the clip thread never answered.
        let Event::Fired { trigger, .. } = fired() else {
            unreachable!()
        };
        let body = TriggerBody::new(
            &trigger,
            TriggerContext {
                device: "test",
                boot_id: "boot",
                path: &name("entrance"),
                source: &name("cam0"),
                time: String::new(),
                clock: visualpath_mqtt::payload::ClockQuality::default(),
                clip_id: Some("a".to_owned()),
                trigger_id: None,
                models: &[],
                latency_ms: Latency::default(),
            },
        );
        thread.asked.insert("a".to_owned(), (0, body));
        let (tx, rx) = unbounded();
        let (clip_tx, clips) = unbounded();
        tx.send(Event::End).unwrap();
        thread.run(&rx, &clips);
        drop(clip_tx);
        assert_eq!((read(&counts.ready), read(&counts.failed)), (0, 1));
    }

    #[test]
    fn without_an_encoder_every_trigger_still_gets_its_answer() {
        let counts = Arc::new(Counts::default());
        let (tx, rx) = unbounded();
        let (clip_tx, clips) = unbounded();
        drop(clip_tx); // the lane is gone; events go on
        for event in [fired(), fired(), Event::End] {
            tx.send(event).unwrap();
        }
        events(&counts, None).run(&rx, &clips);
        assert_eq!((read(&counts.triggers), read(&counts.failed)), (2, 2));
    }

    #[test]
    fn a_subscriber_that_panics_costs_no_event() {
        let counts = Arc::new(Counts::default());
        let (tx, rx) = unbounded();
        let (_clip_tx, clips) = unbounded();
        for event in [fired(), fired(), fired(), Event::End] {
            tx.send(event).unwrap();
        }
        events(&counts, Some(Box::new(|_| panic!("subscriber")))).run(&rx, &clips);
        assert_eq!(read(&counts.triggers), 3);
    }
}
