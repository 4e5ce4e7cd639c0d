//! What the appliance can be asked to do while it runs: the verbs, and the way to who executes them.
//!
//! ```text
//! MQTT cmd ─▶ Command ─┐
//!                      ├─▶ thread `commands` ─┬─▶ the clip directory (list, pin, delete)
//! Commands::ask ───────┘                      └─▶ thread `events` ─▶ a source's ring (clip)
//! ```
//!
//! Whoever asks is answered exactly once, whatever happens: an [`Answer`] that is dropped says so
//! itself.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use visualpath_core::Name;
use visualpath_mqtt::CommandError;
use visualpath_mqtt::command::stopping;

use crate::clips::ClipList;

/// Longest stretch of time that may be asked for at once, and how far ahead it may end, seconds.
pub const MAX_CLIP_S: f64 = 3600.0;
/// What `clip` cuts if nothing is said: the last so many seconds.
pub const LAST_S: f64 = 30.0;
/// Commands that may wait.
pub(crate) const QUEUE: usize = 16;
/// Most clips in one answer, so that it fits into a message.
pub const MAX_LISTED: usize = 200;

/// A verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CommandVerb {
    /// Cut a clip out of a source's ring.
    Clip,
    /// The clips there are.
    ClipList,
    /// Keep a clip from being deleted for room.
    ClipPin,
    /// No longer.
    ClipUnpin,
    /// Delete a clip.
    ClipDelete,
}

impl CommandVerb {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Clip,
        Self::ClipList,
        Self::ClipPin,
        Self::ClipUnpin,
        Self::ClipDelete,
    ];

    /// As in messages and in `mqtt.commands`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::ClipList => "clip_list",
            Self::ClipPin => "clip_pin",
            Self::ClipUnpin => "clip_unpin",
            Self::ClipDelete => "clip_delete",
        }
    }

    /// The verb of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.word() == word)
    }
}

/// What `clip` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClipArgs {
    /// The camera; needed if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// The last so many seconds, 30 if nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_s: Option<f64>,
    /// And so many seconds from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_s: Option<f64>,
    /// Instead of `last_s`: from this moment. RFC 3339, `now`, or relative to it (`-30s`, `-2m`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// With `from`: up to this moment; `now` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What it is called; `clip` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Name>,
    /// Answer when the clip is ready (or failed), with its whole message, instead of at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wait: bool,
}

/// The answer to `clip` without `wait`; the clip message follows when it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClipAccepted {
    /// The clip's UUID.
    pub id: String,
    /// The camera.
    pub source: Name,
    /// Where its message comes: `path/<path>/clip`.
    pub path: Name,
    /// What it is called.
    pub label: Name,
    /// Asked start, source time.
    pub start_ns: i64,
    /// The same in milliseconds.
    pub start_ms: i64,
    /// Asked end.
    pub end_ns: i64,
    /// The same in milliseconds.
    pub end_ms: i64,
    /// The asked start as wall time, RFC 3339, UTC.
    pub from: String,
    /// The asked end.
    pub to: String,
}

/// Name and JSON Schema of what `clip` takes and of what the verbs answer.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("clip_args", schemars::schema_for!(ClipArgs).into()),
        ("clip_accepted", schemars::schema_for!(ClipAccepted).into()),
        ("clip_list", schemars::schema_for!(ClipList).into()),
    ]
}

/// What an answer is.
pub type Outcome = Result<Value, CommandError>;

/// Whoever waits for a command. Called once; dropped without, it says that nobody answers.
pub struct Answer(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Answer {
    /// Calls `told` with what came of it.
    pub fn new(told: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(told)))
    }

    /// Answers.
    pub fn give(mut self, outcome: Outcome) {
        if let Some(told) = self.0.take() {
            told(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told(Err(stopping()));
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

/// One command on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub verb: String,
    pub args: Map<String, Value>,
    pub answer: Answer,
}

/// The way to whoever executes commands. Without a bound of its own: this kind of channel drops what
/// is in it, and so answers it, when the receiver goes; [`Commands::ask`] keeps it short.
pub(crate) fn channel() -> (Commands, Receiver<Asked>) {
    let (to, asked) = unbounded();
    (Commands { to }, asked)
}

/// Asks a running appliance, from any thread of its process.
#[derive(Debug, Clone)]
pub struct Commands {
    to: Sender<Asked>,
}

impl Commands {
    /// Hands a command over. `answer` is called once, on another thread, perhaps long after.
    pub fn ask(
        &self,
        verb: &str,
        args: Map<String, Value>,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let asked = Asked {
            verb: verb.to_owned(),
            args,
            answer: Answer::new(answer),
        };
        if self.to.len() >= QUEUE {
            let message = "too many commands are waiting: try again later";
            return asked.answer.give(Err(CommandError::new("busy", message)));
        }
        // One that can't be sent answers as it is dropped.
        drop(self.to.send(asked));
    }

    /// The same, waiting for at most `limit`. A command that is answered later is executed all the
    /// same.
    ///
    /// # Errors
    /// Why it was not carried out; code `timeout` if that is not known.
    pub fn ask_and_wait(&self, verb: &str, args: Map<String, Value>, limit: Duration) -> Outcome {
        let (told, outcome) = bounded(1);
        self.ask(verb, args, move |outcome| {
            // Whoever asked may have given up.
            drop(told.send(outcome));
        });
        outcome.recv_timeout(limit).unwrap_or_else(|_| {
            let message = format!("no answer within {} s", limit.as_secs_f32());
            Err(CommandError::new("timeout", message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_answered_also_if_nobody_does() {
        let (commands, asked) = channel();
        let (told, outcomes) = bounded(QUEUE + 2);
        let ask = || {
            let told = told.clone();
            commands.ask("clip", Map::new(), move |o| told.send(o).unwrap());
        };
        (0..=QUEUE).for_each(|_| ask());
        assert_eq!(outcomes.try_recv().unwrap().unwrap_err().code, "busy");
        assert!(outcomes.try_recv().is_err(), "the others are still waiting");
        drop(asked);
        for _ in 0..QUEUE {
            assert_eq!(outcomes.try_recv().unwrap().unwrap_err().code, "stopping");
        }
        ask();
        assert_eq!(outcomes.try_recv().unwrap().unwrap_err().code, "stopping");
        assert!(outcomes.try_recv().is_err(), "each is answered once");
    }

    #[test]
    fn every_verb_is_found_by_its_word_and_has_that_word_in_configs() {
        for verb in CommandVerb::ALL {
            assert_eq!(CommandVerb::of(verb.word()), Some(verb));
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.word());
        }
    }
}
