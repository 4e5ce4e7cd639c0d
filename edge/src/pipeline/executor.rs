//! The thread `commands`: carries out what the appliance is asked, one command after the other.
//!
//! Only reading a directory and asking other threads happens here; a clip is cut by its source's
//! own thread, and whoever waits for it waits there.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crossbeam_channel::{Receiver, never, select};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use visualpath_core::{NS_PER_MS, NS_PER_S, Name, nearest};
use visualpath_media::clip::{ClipEntry, ClipRequest, ClipStore, EntryState, StoreError};
use visualpath_mqtt::{Command, CommandError, CommandId, CommandResponse, PublisherHandle};

use super::clip_events::Cut;
use super::events::new_id;
use super::evidence::Clips;
use super::line::LineShared;
use super::sink::ToEvents;
use super::wall::unix_ns;
use crate::clips::{ClipFilter, ClipList, FindError, find};
use crate::commands::{
    Answer, Asked, ClipAccepted, ClipArgs, CommandVerb, LAST_S, MAX_CLIP_S, MAX_LISTED, Outcome,
};
use crate::config::Config;

/// The path in messages and file names of a clip that no path asked for.
pub const COMMAND_PATH: &str = "command";
/// The label of one that was given none.
const COMMAND_LABEL: &str = "clip";

/// What the thread works on.
pub struct Executor {
    /// Where clips lie, also if no rule wants any.
    pub config: Config,
    /// The sources.
    pub walls: Arc<Mutex<Vec<Weak<LineShared>>>>,
    /// The clip directory, once there is one.
    pub store: Arc<OnceLock<Clips>>,
    /// Who cuts.
    pub events: ToEvents,
    /// Who answers over MQTT.
    pub publisher: Option<Arc<PublisherHandle>>,
}

fn error(code: &str, message: impl Into<String>) -> CommandError {
    CommandError::new(code, message)
}

impl From<FindError> for CommandError {
    fn from(e: FindError) -> Self {
        let code = match &e {
            FindError::Unknown { .. } => "unknown_clip",
            FindError::Ambiguous { .. } => "bad_args",
        };
        Self::new(code, e.to_string())
    }
}

fn failed(e: &StoreError) -> CommandError {
    let code = match e {
        StoreError::Unknown { .. } => "unknown_clip",
        _ => "failed",
    };
    error(code, e.to_string())
}

impl Executor {
    /// Until nobody holds the other end of `stop`.
    pub fn run(self, mqtt: &Receiver<Command>, asked: &Receiver<Asked>, stop: &Receiver<()>) {
        let (mut over_mqtt, mut from_here) = (mqtt.clone(), asked.clone());
        loop {
            select! {
                recv(over_mqtt) -> command => match command {
                    Ok(command) => self.over_mqtt(command),
                    // No broker, or nothing allowed over it.
                    Err(_) => over_mqtt = never(),
                },
                recv(from_here) -> asked => match asked {
                    Ok(Asked { verb, args, answer }) => self.execute(&verb, args, answer),
                    Err(_) => from_here = never(),
                },
                recv(stop) -> _ => break,
            }
        }
        // Whoever came just before is answered too; what comes from here on finds nobody.
        for command in mqtt.try_iter() {
            drop(self.answer_to(command.id));
        }
    }

    fn over_mqtt(&self, command: Command) {
        let Command { id, verb, args } = command;
        self.execute(&verb, args, self.answer_to(id));
    }

    fn answer_to(&self, id: CommandId) -> Answer {
        let publisher = self.publisher.clone();
        Answer::new(move |outcome: Outcome| {
            if let Some(publisher) = publisher {
                publisher.respond(&CommandResponse::new(Some(id), outcome));
            }
        })
    }

    fn execute(&self, verb: &str, args: Map<String, Value>, answer: Answer) {
        let said = Value::Object(args.clone()).to_string();
        tracing::info!(verb, args = said, "command");
        let outcome = match CommandVerb::of(verb) {
            Some(CommandVerb::Clip) => return self.clip(args, answer),
            Some(CommandVerb::ClipList) => parse(args).and_then(|filter| self.list(filter)),
            Some(CommandVerb::ClipPin) => self.of_clip(args, |store, clip| pin(store, clip, true)),
            Some(CommandVerb::ClipUnpin) => {
                self.of_clip(args, |store, clip| pin(store, clip, false))
            }
            Some(CommandVerb::ClipDelete) => self.of_clip(args, delete),
            None => Err(unknown_verb(verb)),
        };
        answer.give(outcome);
    }

    // -- clip ------------------------------------------------------------------------------

    fn clip(&self, args: Map<String, Value>, answer: Answer) {
        let wanted = parse(args).and_then(|args| {
            let line = self.line(&args)?;
            let span = self.span(&line, &args)?;
            let (request, accepted) = request(&args, &line, &span)?;
            Ok((line, request, accepted, args.wait))
        });
        match wanted {
            Ok((line, request, accepted, wait)) => self.events.cut(Cut {
                line,
                request,
                accepted,
                wait,
                answer,
            }),
            Err(e) => answer.give(Err(e)),
        }
    }

    /// The source that is meant.
    fn line(&self, args: &ClipArgs) -> Result<Arc<LineShared>, CommandError> {
        let lines: Vec<Arc<LineShared>> = {
            let walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
            walls.iter().filter_map(Weak::upgrade).collect()
        };
        let mut names: Vec<&str> = lines.iter().map(|l| l.source.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let wanted = match (&args.source, names.as_slice()) {
            (Some(name), _) => name.as_str(),
            (None, [only]) => only,
            (None, []) => return Err(error("unknown_source", "no source is running")),
            (None, many) => {
                let message = format!("which source? There are: {}", many.join(", "));
                return Err(error("bad_args", message));
            }
        };
        // One that replaces another comes after it.
        let line = lines.iter().rev().find(|l| l.source.as_str() == wanted);
        line.cloned().ok_or_else(|| {
            let hint = match nearest(wanted, names.iter().copied()).first() {
                Some(n) => format!("did you mean `{n}`?"),
                None => format!("there are: {}", names.join(", ")),
            };
            error(
                "unknown_source",
                format!("no source `{wanted}` is running; {hint}"),
            )
        })
    }

    /// What is asked for, in source time, and whether the ring can have any of it.
    fn span(&self, line: &LineShared, args: &ClipArgs) -> Result<Span, CommandError> {
        let Some(evidence) = line.evidence() else {
            let message = format!(
                "source `{}` keeps no video: no rule of its paths has `clip = true`; set \
                 clip.always = true",
                line.source
            );
            return Err(error("no_ring", message));
        };
        let ring = evidence.stats().ring;
        let (Some(oldest_ns), Some(newest_ns)) = (ring.oldest_ns, ring.newest_ns) else {
            let message = format!("source `{}` has given no picture yet", line.source);
            return Err(error("no_ring", message));
        };
        let span = Span::of(args, newest_ns, &|time| {
            unix_ns(time).saturating_sub(line.wall.unix_ns(0))
        })?;
        if span.end_ns < oldest_ns {
            let at = |t_ns| line.wall.at(t_ns);
            let message = format!(
                "source `{}` has video from {} to {} only: {} is kept no longer (clip.ring_bytes)",
                line.source,
                at(oldest_ns),
                at(newest_ns),
                at(span.end_ns),
            );
            return Err(error("no_ring", message));
        }
        Ok(span)
    }

    // -- the clips there are ------------------------------------------------------------------

    fn store(&self) -> Result<Arc<ClipStore>, CommandError> {
        if let Some(clips) = self.store.get() {
            return Ok(Arc::clone(&clips.store));
        }
        // No rule wants clips now; there may be older ones.
        let (state_dir, clip) = (&self.config.device.state_dir, &self.config.clip);
        ClipStore::open(state_dir, &clip.dir.to_string_lossy(), clip.quota_bytes)
            .map_err(|e| failed(&e))
    }

    fn list(&self, mut filter: ClipFilter) -> Outcome {
        let most = filter.limit.unwrap_or(50);
        if most > MAX_LISTED {
            let message =
                format!("limit: {MAX_LISTED} are the most; ask with `until` for older ones");
            return Err(error("bad_args", message));
        }
        filter.limit = Some(most);
        let entries = self.store()?.entries().map_err(|e| failed(&e))?;
        to_value(&ClipList::new(&entries, &filter))
    }

    fn of_clip(
        &self,
        args: Map<String, Value>,
        act: impl FnOnce(&ClipStore, &ClipEntry) -> Outcome,
    ) -> Outcome {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Args {
            clip: String,
        }
        let Args { clip } = parse(args)?;
        let store = self.store()?;
        let entries = store.entries().map_err(|e| failed(&e))?;
        let entry = find(&entries, &clip)?;
        if entry.state != EntryState::Ready {
            let message = format!(
                "clip {} has no file: it is {}",
                entry.id,
                super::word(&crate::clips::ListState::from(entry.state)).unwrap_or_default()
            );
            return Err(error("unknown_clip", message));
        }
        act(&store, entry)
    }
}

fn pin(store: &ClipStore, clip: &ClipEntry, on: bool) -> Outcome {
    store.pin(&clip.id, on).map_err(|e| failed(&e))?;
    Ok(serde_json::json!({"clip": clip.id, "pinned": on}))
}

/// Not a pinned one: it was pinned so that it stays.
fn delete(store: &ClipStore, clip: &ClipEntry) -> Outcome {
    store.delete(&clip.id).map_err(|e| match e {
        StoreError::Pinned { .. } => error("pinned", e.to_string()),
        e => failed(&e),
    })?;
    Ok(serde_json::json!({"clip": clip.id, "deleted": true}))
}

fn unknown_verb(verb: &str) -> CommandError {
    let known = CommandVerb::ALL.map(CommandVerb::word).join(", ");
    error(
        "unknown_verb",
        format!("there is no verb `{verb}`; there is: {known}"),
    )
}

fn parse<T: DeserializeOwned>(args: Map<String, Value>) -> Result<T, CommandError> {
    serde_json::from_value(Value::Object(args)).map_err(|e| error("bad_args", e.to_string()))
}

fn to_value(document: &impl serde::Serialize) -> Outcome {
    serde_json::to_value(document).map_err(|e| error("failed", e.to_string()))
}

/// The request, and what is said of it at once.
fn request(
    args: &ClipArgs,
    line: &LineShared,
    span: &Span,
) -> Result<(ClipRequest, ClipAccepted), CommandError> {
    let name = |text: &str| Name::new(text).map_err(|e| error("failed", e.to_string()));
    let path = name(COMMAND_PATH)?;
    let label = match &args.label {
        Some(label) => label.clone(),
        None => name(COMMAND_LABEL)?,
    };
    let Span {
        start_ns,
        end_ns,
        now_ns,
    } = *span;
    let event_ns = now_ns.clamp(start_ns, end_ns);
    let request = ClipRequest {
        id: new_id(),
        trigger_id: String::new(),
        path,
        label,
        event_ns,
        best_ns: None,
        wall_ns: line.wall.unix_ns(event_ns),
        start_ns,
        end_ns,
    };
    let accepted = ClipAccepted {
        id: request.id.clone(),
        source: line.source.clone(),
        path: request.path.clone(),
        label: request.label.clone(),
        start_ns,
        start_ms: start_ns.div_euclid(NS_PER_MS),
        end_ns,
        end_ms: end_ns.div_euclid(NS_PER_MS),
        from: line.wall.at(start_ns).to_string(),
        to: line.wall.at(end_ns).to_string(),
    };
    Ok((request, accepted))
}

/// A stretch of source time, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start_ns: i64,
    end_ns: i64,
    /// The newest picture's.
    now_ns: i64,
}

impl Span {
    /// What the arguments mean when the newest picture is `now_ns`. `to_source` makes source time of
    /// wall time.
    fn of(
        args: &ClipArgs,
        now_ns: i64,
        to_source: &dyn Fn(Timestamp) -> i64,
    ) -> Result<Self, CommandError> {
        let seconds = |key: &str, s: f64| {
            if s.is_finite() && (0.0..=MAX_CLIP_S).contains(&s) {
                #[expect(clippy::cast_possible_truncation, reason = "checked just now")]
                let ns = (s * NS_PER_S as f64) as i64;
                Ok(ns)
            } else {
                let message = format!("{key}: expected 0 to {MAX_CLIP_S} seconds");
                Err(error("bad_args", message))
            }
        };
        let at = |key: &str, text: &str| moment(key, text, now_ns, to_source);
        let (start_ns, end_ns) = match (&args.from, &args.to) {
            (None, None) => {
                let last_ns = seconds("last_s", args.last_s.unwrap_or(LAST_S))?;
                let post_ns = seconds("post_s", args.post_s.unwrap_or(0.0))?;
                (
                    now_ns.saturating_sub(last_ns),
                    now_ns.saturating_add(post_ns),
                )
            }
            (None, Some(_)) => {
                return Err(error("bad_args", "to: only together with `from`"));
            }
            (Some(_), _) if args.last_s.is_some() || args.post_s.is_some() => {
                let message = "from: not together with `last_s` or `post_s`; say `to` instead";
                return Err(error("bad_args", message));
            }
            (Some(from), to) => {
                let to = to.as_deref().unwrap_or("now");
                (at("from", from)?, at("to", to)?)
            }
        };
        let length_s = seconds_of(end_ns.saturating_sub(start_ns));
        let ahead_s = seconds_of(end_ns.saturating_sub(now_ns));
        let refused = match () {
            () if end_ns < start_ns => Some("`to` is before `from`".to_owned()),
            () if length_s > MAX_CLIP_S => Some(format!(
                "{length_s:.0} s are asked for, {MAX_CLIP_S} are the most"
            )),
            () if ahead_s > MAX_CLIP_S => Some(format!(
                "it would end in {ahead_s:.0} s, {MAX_CLIP_S} are the most"
            )),
            () => None,
        };
        match refused {
            Some(message) => Err(error("bad_args", message)),
            None => Ok(Self {
                start_ns,
                end_ns,
                now_ns,
            }),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds_of(ns: i64) -> f64 {
    ns as f64 / NS_PER_S as f64
}

/// A moment in source time: RFC 3339, `now` (the newest picture), or relative to it.
fn moment(
    key: &str,
    text: &str,
    now_ns: i64,
    to_source: &dyn Fn(Timestamp) -> i64,
) -> Result<i64, CommandError> {
    if text == "now" {
        return Ok(now_ns);
    }
    if text.starts_with(['-', '+'])
        && let Ok(relative) = text.trim_start_matches('+').parse::<SignedDuration>()
    {
        let far = i128::from(i64::MAX);
        let ns = relative.as_nanos().clamp(-far, far);
        // It fits now.
        return Ok(now_ns.saturating_add(i64::try_from(ns).unwrap_or_default()));
    }
    text.parse::<Timestamp>().map(to_source).map_err(|_| {
        let message = format!(
            "{key}: `{}` is no moment: expected a time like 2026-11-23T14:00:00Z, `now`, or \
             -30s, -2m",
            text.chars().take(40).collect::<String>()
        );
        error("bad_args", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = NS_PER_S;

    /// Source time 0 is 12:00:00, the newest picture is at 100 s.
    fn span(args: Value) -> Result<(i64, i64), String> {
        let Value::Object(args) = args else {
            panic!("an object");
        };
        let zero: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let args = parse(args).map_err(|e| e.message)?;
        Span::of(&args, 100 * S, &|t| unix_ns(t) - unix_ns(zero))
            .map(|s| (s.start_ns / S, s.end_ns / S))
            .map_err(|e| {
                assert_eq!(e.code, "bad_args");
                e.message
            })
    }

    #[test]
    fn the_last_seconds_moments_and_wall_times_become_source_time() {
        for (args, expected) in [
            (serde_json::json!({}), (70, 100)),
            (serde_json::json!({"last_s": 10}), (90, 100)),
            (serde_json::json!({"last_s": 0, "post_s": 5.5}), (100, 105)),
            (serde_json::json!({"from": "-20s"}), (80, 100)),
            (serde_json::json!({"from": "-1m", "to": "-10s"}), (40, 90)),
            (serde_json::json!({"from": "now", "to": "+5s"}), (100, 105)),
            (
                serde_json::json!({"from": "2026-11-23T12:00:30Z", "to": "2026-11-23T13:00:40+01:00"}),
                (30, 40),
            ),
            // Before the source began: the clip says what is missing.
            (
                serde_json::json!({"from": "2026-11-23T11:59:50Z", "to": "now"}),
                (-10, 100),
            ),
        ] {
            assert_eq!(span(args.clone()).unwrap(), expected, "{args}");
        }
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_the_key() {
        for (args, words) in [
            (serde_json::json!({"lst_s": 10}), "unknown field `lst_s`"),
            (
                serde_json::json!({"last_s": -1}),
                "last_s: expected 0 to 3600",
            ),
            (
                serde_json::json!({"last_s": 1e300}),
                "last_s: expected 0 to 3600",
            ),
            (serde_json::json!({"post_s": 4000}), "post_s: expected"),
            (
                serde_json::json!({"to": "now"}),
                "to: only together with `from`",
            ),
            (
                serde_json::json!({"from": "-5s", "last_s": 3}),
                "not together with `last_s`",
            ),
            (
                serde_json::json!({"from": "yesterday"}),
                "from: `yesterday` is no moment",
            ),
            (
                serde_json::json!({"from": "-5s", "to": "-10s"}),
                "`to` is before `from`",
            ),
            (
                serde_json::json!({"from": "-2h", "to": "now"}),
                "7200 s are asked for",
            ),
            (
                serde_json::json!({"from": "+59m", "to": "+61m"}),
                "it would end in 3660 s",
            ),
            (
                serde_json::json!({"from": "-99999999999999h"}),
                "are the most",
            ),
            (serde_json::json!({"source": "Not A Name"}), "Not A Name"),
        ] {
            let message = span(args.clone()).unwrap_err();
            assert!(message.contains(words), "{args}: {message}");
        }
    }
}
