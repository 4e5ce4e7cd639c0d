//! The events thread: triggers become messages, and only then is anybody told.
//!
//! ```text
//! path threads ─ Fired ─▶ outbox (id, seq) ─▶ run --json, on_trigger ─▶ clip request
//! clip threads ─ Clip  ─▶ outbox           ─▶ run --json, who waits for it
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};
use visualpath_core::{NS_PER_MS, Name, Phase, Trigger};
use visualpath_media::clip::{ClipResult, Unheard};
use visualpath_media::ring::Shortfall;
use visualpath_mqtt::payload::{Latency, Problem, TriggerContext};
use visualpath_mqtt::{ClipBody, Event as Line, ExtractorStatus, SourceStatus, TriggerBody};
use visualpath_platform::trace::ObservabilityHub;
use visualpath_platform::{Lateness, Times};

use super::app::App;
use super::clip_events::Cut;
use super::evidence::{Clips, clip_request};
use super::line::LineShared;
use super::out::Out;
use super::wall::WallClock;
use super::{health_message, problem};
use crate::commands::Answer;

/// What reaches the events thread.
pub enum Event {
    /// A rule fired.
    Fired {
        /// The source.
        line: Arc<LineShared>,
        /// The path.
        path: Name,
        /// What its fusion said.
        trigger: Box<Trigger>,
        /// When the frame passed the path thread.
        times: Times,
        /// Nanoseconds in the slowest extractor of that frame.
        extract_ns: i64,
    },
    /// A label went ON or OFF.
    State {
        /// The source.
        source: Name,
        /// The path.
        path: Name,
        /// The label.
        label: Name,
        /// ON.
        on: bool,
    },
    /// A source gives pictures, or none for now.
    Source {
        /// Which.
        source: Name,
        /// It gives some.
        online: bool,
    },
    /// An extractor went on Hold.
    Held {
        /// The source it looks at.
        source: Name,
        /// Which.
        extractor: Name,
        /// Why.
        why: String,
    },
    /// An extractor's process died and comes again (`why`), or is there.
    Restarting {
        /// The source it looks at.
        source: Name,
        /// Which.
        extractor: Name,
        /// Why it died; `None`: it is there.
        why: Option<String>,
    },
    /// An extractor's observations have been coming too late, or do so no more.
    Late {
        /// The source it looks at.
        source: Name,
        /// Which.
        extractor: Name,
        /// The paths that have it.
        paths: Vec<Name>,
        /// How late; `None` when it is over.
        lateness: Option<Lateness>,
    },
    /// Something the operator should know.
    Problem(Box<Problem>),
    /// A problem is over.
    Solved {
        /// Its code.
        code: String,
        /// Its subject.
        subject: String,
    },
    /// Clips of an earlier process that nobody was told of.
    Earlier(Vec<Unheard>),
    /// A command asks for a clip.
    Cut(Box<Cut>),
    /// Everything sent before has been taken care of once this sender is dropped.
    Flush(Sender<()>),
    /// Nothing follows.
    End,
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

/// How often the machine's clock is looked at.
const CLOCK: Duration = Duration::from_secs(5);

/// The state of the events thread.
pub struct Events {
    /// Where messages go.
    pub out: Out,
    /// The device's id.
    pub device: String,
    /// This boot's id.
    pub boot_id: String,
    /// What is wrong, for `health`.
    pub problems: Vec<Problem>,
    /// The app's subscriber.
    pub app: Option<App>,
    /// RANGEs that have started.
    pub open: HashMap<RangeKey, OpenRange>,
    /// Labels that are ON, by path and label, with the sources they are ON for.
    pub on: HashMap<(Name, Name), Vec<Name>>,
    /// Clips asked for, by id, with their path and what is known of them.
    pub asked: HashMap<String, (Name, ClipBody)>,
    /// Those of them that commands asked for, by id, and who waits for it.
    pub commanded: HashMap<String, Option<Answer>>,
    /// Where clips are kept, once there are some.
    pub store: Arc<OnceLock<Clips>>,
    /// Where trace records go.
    pub hub: Arc<ObservabilityHub>,
    /// Records each sink had lost when it was last looked at.
    pub sink_losses: HashMap<String, u64>,
    /// The sources, for their clocks.
    pub walls: Arc<Mutex<Vec<Weak<LineShared>>>>,
    /// Totals.
    pub counts: Arc<Counts>,
}

/// Source, path and label.
pub type RangeKey = (Name, Name, Name);

/// A RANGE between its two messages.
pub struct OpenRange {
    trigger_id: String,
    clip_id: Option<String>,
}

impl Events {
    /// Takes events until [`Event::End`], or until every sender is gone; then every clip that was
    /// asked for and has no result gets its `failed`.
    pub fn run(mut self, events: &Receiver<Event>, clips: &Receiver<ClipResult>) {
        let mut clips = clips.clone();
        let mut said = Instant::now();
        let mut looked = Instant::now();
        loop {
            let wait = HEALTH
                .saturating_sub(said.elapsed())
                .min(CLOCK.saturating_sub(looked.elapsed()));
            select! {
                recv(events) -> event => match event {
                    Ok(Event::End) | Err(_) => break,
                    Ok(event) => self.take(event),
                },
                recv(clips) -> result => match result {
                    Ok(result) => self.clip(result),
                    // All senders gone: there is no evidence lane; only events follow.
                    Err(_) => clips = never(),
                },
                default(wait) => {}
            }
            if said.elapsed() >= HEALTH {
                self.say_health();
                said = Instant::now();
            }
            if looked.elapsed() >= CLOCK {
                self.follow_clock();
                self.look_at_rings();
                self.look_at_sinks();
                self.look_at_store();
                self.look_at_commands();
                looked = Instant::now();
            }
        }
        self.finish(&clips);
    }

    /// A clock that is set moves the wall times of live sources.
    fn follow_clock(&self) {
        let lines = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.iter().filter_map(Weak::upgrade) {
            if line.wall.follow() {
                tracing::warn!(source = %line.source, "the machine's clock was set; wall times follow");
            }
        }
    }

    /// A ring that can't hold the longest pre-roll at the bit rate there is.
    fn look_at_rings(&mut self) {
        const CODE: &str = "ring_short";
        let lines: Vec<Arc<LineShared>> = {
            let walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
            walls.iter().filter_map(Weak::upgrade).collect()
        };
        for line in lines {
            let subject = line.source.as_str();
            let known = |p: &Problem| p.code == CODE && p.subject == subject;
            match (line.ring_shortfall(), self.problems.iter().any(known)) {
                (Some(short), false) => {
                    let Shortfall {
                        asked_ms,
                        holds_ms,
                        bytes_per_s,
                        needs_bytes,
                    } = short;
                    let detail = format!(
                        "rules want {asked_ms} ms before their event, the ring holds {holds_ms} ms at {bytes_per_s} bytes a second"
                    );
                    let advice = format!("set clip.ring_bytes = {needs_bytes}, or a shorter pre_s");
                    tracing::warn!(
                        source = subject,
                        detail,
                        advice,
                        "clips will begin too late"
                    );
                    self.problem(problem(CODE, subject, &detail, &advice));
                }
                (None, true) => self.solved(CODE, subject),
                _ => {}
            }
        }
    }

    /// A trace sink that loses records or fails is told once it does, and when it works again.
    fn look_at_sinks(&mut self) {
        const CODE: &str = "trace_sink";
        let mut failing = self.hub.problems();
        // What was lost once is no problem for ever.
        let known = &mut self.sink_losses;
        failing.retain(|sink| {
            let before = known.insert(sink.target.clone(), sink.lost).unwrap_or(0);
            sink.error.is_some() || sink.lost > before
        });
        let over: Vec<String> = self
            .problems
            .iter()
            .filter(|p| p.code == CODE && failing.iter().all(|f| f.target != p.subject))
            .map(|p| p.subject.clone())
            .collect();
        for subject in over {
            self.solved(CODE, &subject);
        }
        for sink in failing {
            let known = |p: &Problem| p.code == CODE && p.subject == sink.target;
            if self.problems.iter().any(known) {
                continue;
            }
            let error = sink.error.as_deref().unwrap_or("it does not keep up");
            let detail = format!("{error}; {} records lost", sink.lost);
            let advice = "free disk space, or take a lower observability.level";
            self.problem(problem(CODE, &sink.target, &detail, advice));
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Fired {
                line,
                path,
                trigger,
                times,
                extract_ns,
            } => self.fired(&line, &path, &trigger, times, extract_ns),
            Event::State {
                source,
                path,
                label,
                on,
            } => self.state(source, path, label, on),
            Event::Source { source, online } => {
                let status = match online {
                    true => SourceStatus::Online,
                    false => SourceStatus::Offline,
                };
                self.out.source_status(&source, status);
            }
            Event::Held {
                source,
                extractor,
                why,
            } => self.held(&source, &extractor, &why),
            Event::Restarting {
                source,
                extractor,
                why,
            } => self.restarting(&source, &extractor, why.as_deref()),
            Event::Late {
                source,
                extractor,
                paths,
                lateness,
            } => self.late(&source, &extractor, &paths, lateness),
            Event::Problem(problem) => self.problem(*problem),
            Event::Solved { code, subject } => self.solved(&code, &subject),
            Event::Earlier(unheard) => self.earlier(unheard),
            Event::Cut(cut) => self.cut(*cut),
            Event::Flush(done) => drop(done),
            Event::End => {}
        }
    }

    /// A label of a path over several sources is ON while it is for any of them.
    fn state(&mut self, source: Name, path: Name, label: Name, on: bool) {
        let sources = self.on.entry((path.clone(), label.clone())).or_default();
        let was = !sources.is_empty();
        sources.retain(|s| *s != source);
        if on {
            sources.push(source);
        }
        let is = !sources.is_empty();
        if was != is || on {
            self.out.state(&path, &label, is);
        }
    }

    /// One problem per code and subject: a new word on it replaces the old.
    pub(super) fn problem(&mut self, problem: Problem) {
        let same = |p: &&mut Problem| p.code == problem.code && p.subject == problem.subject;
        match self.problems.iter_mut().find(same) {
            Some(known) => {
                let since = std::mem::take(&mut known.since);
                *known = Problem { since, ..problem };
            }
            None => self.problems.push(problem),
        }
        self.say_health();
    }

    pub(super) fn solved(&mut self, code: &str, subject: &str) {
        let before = self.problems.len();
        self.problems
            .retain(|p| p.code != code || p.subject != subject);
        if self.problems.len() != before {
            self.say_health();
        }
    }

    fn say_health(&self) {
        self.out
            .health(health_message(&self.device, self.problems.clone()));
    }

    fn held(&mut self, source: &Name, extractor: &Name, why: &str) {
        self.out
            .extractor_status(source, extractor, ExtractorStatus::Held);
        let advice = "see the log; restart visualpath, or change the extractor's config or plugin";
        let subject = format!("{source}/{extractor}");
        self.solved("extractor_restarting", &subject);
        self.problem(problem("extractor_held", &subject, why, advice));
    }

    fn restarting(&mut self, source: &Name, extractor: &Name, why: Option<&str>) {
        let subject = format!("{source}/{extractor}");
        let status = match why {
            Some(why) => {
                let advice =
                    "it is started again by itself; if it does not stop dying, see the log";
                self.problem(problem("extractor_restarting", &subject, why, advice));
                ExtractorStatus::Restarting
            }
            None => {
                self.solved("extractor_restarting", &subject);
                ExtractorStatus::Running
            }
        };
        self.out.extractor_status(source, extractor, status);
    }

    fn late(
        &mut self,
        source: &Name,
        extractor: &Name,
        paths: &[Name],
        lateness: Option<Lateness>,
    ) {
        const CODE: &str = "late_observations";
        let subject = format!("{source}/{extractor}");
        let Some(lateness) = lateness else {
            return self.solved(CODE, &subject);
        };
        let share = lateness.share * 100.0;
        let detail = format!(
            "{share:.0} % of its observations in the last 10 s came after their frame was settled"
        );
        let problem = problem(CODE, &subject, &detail, &cure(extractor, paths, lateness));
        tracing::warn!(
            subject,
            detail,
            advice = problem.advice,
            "observations too late"
        );
        self.problem(problem);
    }

    fn fired(
        &mut self,
        line: &Arc<LineShared>,
        path: &Name,
        trigger: &Trigger,
        times: Times,
        extract_ns: i64,
    ) {
        let key = (line.source.clone(), path.clone(), trigger.label.clone());
        let ends = matches!(trigger.phase, Phase::End { .. });
        let open = if ends { self.open.remove(&key) } else { None };
        let clip_id = match &open {
            Some(open) => open.clip_id.clone(),
            None => (trigger.clip && !ends).then(new_id),
        };
        if let (true, Some(id), Some(evidence)) = (ends, &clip_id, line.evidence()) {
            // Before anything can go wrong with the message: else the clip runs to its latest end.
            evidence.set_end(id, trigger.t_end_ns, trigger.best_ns);
        }
        let models = line.models(path);
        let id = new_id();
        let trigger_id = open.as_ref().map_or(&id, |o| &o.trigger_id).clone();
        let body = TriggerBody::new(
            trigger,
            TriggerContext {
                device: &self.device,
                boot_id: &self.boot_id,
                path,
                source: &line.source,
                time: line.wall.at(trigger.t_ns).to_string(),
                clock: WallClock::quality(),
                clip_id: clip_id.clone(),
                trigger_id: Some(trigger_id.clone()),
                models: &models,
                latency_ms: latency(times, extract_ns),
            },
        );
        // Before anybody hears of the clip it is on the disk that one was asked for: whatever
        // happens from here on, it is answered for.
        let wall_ns = line.wall.unix_ns(trigger.t_ns);
        let request = match (ends, &clip_id) {
            (false, Some(id)) => Some(clip_request(id, path, trigger, &trigger_id, wall_ns)),
            _ => None,
        };
        if let (Some(request), Some(evidence)) = (&request, line.evidence()) {
            evidence.announce(request);
        }
        let payload = match self.out.trigger(path, id, body) {
            Ok(payload) => payload,
            Err(e) => {
                // Nothing may be told about an event that is not kept.
                tracing::error!(%path, label = %trigger.label, error = %e, "trigger lost: the outbox refused it");
                self.refused();
                if let (Some(request), Some(evidence)) = (&request, line.evidence()) {
                    evidence.withdraw(request);
                }
                return;
            }
        };
        self.counts
            .triggers
            .fetch_add(u64::from(!ends), Ordering::Relaxed);
        self.out.print(&Line::Trigger(payload.clone()));
        if let Some(app) = &self.app {
            app.tell(&payload);
        }
        if let Some(request) = request {
            self.ask_for_clip(line, path, request, &payload);
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

    /// Once is enough for `health`.
    pub(super) fn refused(&mut self) {
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
}

/// Which key, with which value, would have been enough.
fn cure(extractor: &Name, paths: &[Name], lateness: Lateness) -> String {
    // A quarter more than the slowest seen, in round numbers.
    let fits = |ns: i64| {
        let ms = ns.max(0) / NS_PER_MS;
        (ms + ms / 4 + 9) / 10 * 10
    };
    let mut keys = Vec::new();
    if let Some(ns) = lateness.timeout_ns {
        keys.push(format!("extractor.{extractor}.timeout_ms = {}", fits(ns)));
    }
    if let Some(ns) = lateness.window_ns {
        let window = |p: &Name| format!("path.{p}.window_ms = {}", fits(ns));
        keys.extend(paths.iter().map(window));
    }
    format!(
        "set {}; or let it look less often (extractor.{extractor}.fps)",
        keys.join(" and ")
    )
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
#[path = "events_tests.rs"]
mod tests;
