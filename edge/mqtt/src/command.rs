//! Commands in: what somebody on the broker asks the appliance to do, and the answer.
//!
//! ```text
//! <p>/<d>/cmd         {"id","verb","args"} ─┐
//! <p>/<d>/cmd/<verb>  args, maybe "id"     ─┴▶ Inbox ─▶ bounded queue ─▶ who executes
//!                                               │                            │
//! <p>/<d>/cmd/response ◀── bounded queue ◀──────┴── refused at once ◀────────┘ respond
//! ```
//!
//! Everything here is bounded and nothing waits: a command that finds the queue full is answered
//! with `busy`. A command is executed at most once: its id is remembered, and the same id again
//! gets the same answer again. A *retained* command is ignored; it would come anew with every
//! connection. Answers are not events: they are sent while a broker is there, and the oldest go
//! when nobody takes them.

use std::collections::VecDeque;
use std::fmt;

use crossbeam_channel::{Sender, TrySendError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;
use visualpath_core::nearest;

use crate::publisher::MAX_MESSAGE;
use crate::topics::Topics;

/// Largest command in bytes.
pub const MAX_COMMAND: usize = 16 << 10;
/// Longest id in bytes.
const MAX_ID: usize = 128;
/// Ids remembered, beside those of commands that are under way.
const RECENT: usize = 128;
/// Bytes of answers remembered for a repeated id.
const RECENT_BYTES: usize = 512 << 10;
/// Answers that wait for the broker, at most, …
const WAITING: usize = 64;
/// … and their bytes, but for the newest.
const WAITING_BYTES: usize = 1 << 20;

/// Where commands go and which are taken.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// Every verb there is.
    pub known: Vec<String>,
    /// The verbs that may be asked for over MQTT (`mqtt.commands`).
    pub allowed: Vec<String>,
    /// Who executes them. Bounded: what does not fit is answered with `busy`.
    pub to: Sender<Command>,
}

/// The id of a command, given back in its answer as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CommandId {
    /// A whole number.
    Number(i64),
    /// 1 to 128 bytes.
    Text(String),
}

impl CommandId {
    /// A new UUIDv7.
    pub fn new() -> Self {
        Self::Text(Uuid::now_v7().to_string())
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(s) if (1..=MAX_ID).contains(&s.len()) => Some(Self::Text(s.clone())),
            Value::Number(n) => n.as_i64().map(Self::Number),
            _ => None,
        }
    }
}

impl Default for CommandId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(s) => f.write_str(s),
        }
    }
}

/// A command as it is sent to `<p>/<d>/cmd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandPayload {
    /// Comes back in the answer; a command without one gets a new UUIDv7. The same id again is the
    /// same command again: it is not executed twice, and gets the same answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<CommandId>,
    /// What to do.
    pub verb: String,
    /// With what; each verb has its own.
    #[serde(default)]
    pub args: Map<String, Value>,
}

/// A command to execute. Exactly one [`CommandResponse`] with its id is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// For the answer.
    pub id: CommandId,
    /// What to do; one of the known ones, and allowed.
    pub verb: String,
    /// With what.
    pub args: Map<String, Value>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// A word to branch on.
    pub code: String,
    /// What is wrong and what to do, for a person.
    pub message: String,
}

impl CommandError {
    /// From a code and a text.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// The answer to a command, at `<p>/<d>/cmd/response`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandResponse {
    /// Of the command; `null` where that could not be read.
    pub id: Option<CommandId>,
    /// Whether it was carried out: then there is a `result`, else an `error`.
    pub ok: bool,
    /// What came of it; each verb has its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<Value>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<CommandError>,
}

impl CommandResponse {
    /// The answer to `id`.
    pub fn new(id: Option<CommandId>, outcome: Result<Value, CommandError>) -> Self {
        let ok = outcome.is_ok();
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            id,
            ok,
            result,
            error,
        }
    }

    /// What came of it.
    ///
    /// # Errors
    /// The error it holds; one that says so if it holds neither.
    pub fn outcome(self) -> Result<Value, CommandError> {
        match (self.ok, self.result, self.error) {
            (true, result, _) => Ok(result.unwrap_or_default()),
            (false, _, Some(error)) => Err(error),
            (false, _, None) => Err(CommandError::new("failed", "no reason was given")),
        }
    }

    /// As sent; one that no broker would take becomes an error that says so.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of strings, numbers and flags always serialise.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() <= MAX_MESSAGE {
            return bytes;
        }
        let message = format!(
            "the answer of {} bytes is larger than {MAX_MESSAGE}: ask for less",
            bytes.len()
        );
        let error = CommandError::new("too_large", message);
        serde_json::to_vec(&Self::new(self.id.clone(), Err(error))).unwrap_or_default()
    }
}

/// Takes commands from the broker.
#[derive(Debug)]
pub(crate) struct Inbox {
    options: CommandOptions,
    command: String,
    response: String,
    recent: Recent,
}

impl Inbox {
    pub fn new(options: CommandOptions, topics: &Topics) -> Self {
        Self {
            options,
            command: topics.command().as_str().to_owned(),
            response: topics.command_response().as_str().to_owned(),
            recent: Recent::default(),
        }
    }

    /// What to subscribe to: `cmd` and everything directly below it.
    pub fn filters(&self) -> [String; 2] {
        [self.command.clone(), format!("{}/+", self.command)]
    }

    /// Hands a message on; gives the answer if there is one at once.
    pub fn take(&mut self, topic: &str, payload: &[u8], retained: bool) -> Option<Vec<u8>> {
        // The filter has the answers too.
        if topic == self.response {
            return None;
        }
        if retained {
            tracing::warn!(
                topic,
                "a retained command is ignored: it would be executed again with every connection. \
                 Remove it (an empty retained message), and send commands without the retain flag"
            );
            return None;
        }
        let (id, parsed) = self.parse(topic, payload);
        let error = match parsed {
            Err(error) => error,
            Ok((verb, args)) => {
                match id.as_ref().and_then(|id| self.recent.find(id)) {
                    Some(Known::UnderWay) => return None,
                    Some(Known::Answered(bytes)) => return Some(bytes.clone()),
                    None => {}
                }
                match self.hand_on(id.clone(), verb, args) {
                    Ok(()) => return None,
                    Err(error) => error,
                }
            }
        };
        tracing::warn!(topic, code = error.code, error = %error, "a command was refused");
        Some(CommandResponse::new(id, Err(error)).to_bytes())
    }

    fn hand_on(
        &mut self,
        id: Option<CommandId>,
        verb: String,
        args: Map<String, Value>,
    ) -> Result<(), CommandError> {
        let known = &self.options.known;
        if !known.contains(&verb) {
            let near = nearest(&verb, known.iter().map(String::as_str));
            let hint = match near.first() {
                Some(n) => format!("did you mean `{n}`?"),
                None => format!("there is: {}", known.join(", ")),
            };
            let message = format!("there is no verb `{}`; {hint}", shortened(&verb));
            return Err(CommandError::new("unknown_verb", message));
        }
        if !self.options.allowed.contains(&verb) {
            let message = format!(
                "`{verb}` is not allowed over MQTT: add \"{verb}\" to mqtt.commands in the config \
                 and restart"
            );
            return Err(CommandError::new("not_allowed", message));
        }
        let remembered = id.clone();
        let id = id.unwrap_or_default();
        match self.options.to.try_send(Command { id, verb, args }) {
            Ok(()) => {
                if let Some(id) = remembered {
                    self.recent.began(id);
                }
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(CommandError::new(
                "busy",
                "too many commands are waiting: try again later",
            )),
            Err(TrySendError::Disconnected(_)) => Err(stopping()),
        }
    }

    /// Its answer, for the same id again.
    pub fn answered(&mut self, id: &CommandId, bytes: &[u8]) {
        self.recent.answered(id, bytes);
    }

    /// The id, as far as it can be read, and what is asked.
    #[expect(clippy::type_complexity, reason = "a pair of what was read")]
    fn parse(
        &self,
        topic: &str,
        payload: &[u8],
    ) -> (
        Option<CommandId>,
        Result<(String, Map<String, Value>), CommandError>,
    ) {
        let wrong = |message: String| Err(CommandError::new("malformed", message));
        if payload.len() > MAX_COMMAND {
            let message = format!(
                "the command has {} bytes, {MAX_COMMAND} are the most",
                payload.len()
            );
            return (None, Err(CommandError::new("too_large", message)));
        }
        let verb = topic
            .strip_prefix(&self.command)
            .and_then(|rest| rest.strip_prefix('/'));
        // `cmd/clip` with nothing in it is the verb with its defaults.
        let text = if verb.is_some() && payload.trim_ascii().is_empty() {
            b"{}"
        } else {
            payload
        };
        let mut object = match serde_json::from_slice(text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => {
                let message = format!("expected a JSON object, got {}", kind(&other));
                return (None, wrong(message));
            }
            Err(e) => return (None, wrong(format!("the command is not JSON: {e}"))),
        };
        let id = match object.remove("id") {
            None | Some(Value::Null) => None,
            Some(value) => match CommandId::of(&value) {
                Some(id) => Some(id),
                None => {
                    let message = format!(
                        "id: expected a text of 1 to {MAX_ID} bytes or a whole number, got {}",
                        kind(&value)
                    );
                    return (None, wrong(message));
                }
            },
        };
        if let Some(verb) = verb {
            return (id, Ok((verb.to_owned(), object)));
        }
        let parsed = match (object.remove("verb"), object.remove("args")) {
            (None, _) => wrong(format!(
                "verb: missing; expected {{\"id\", \"verb\", \"args\"}} with one of {}",
                self.options.known.join(", ")
            )),
            (Some(Value::String(verb)), args) => match (args, object.keys().next()) {
                (_, Some(key)) => wrong(format!(
                    "`{}`: unknown key, expected id, verb, args",
                    shortened(key)
                )),
                (None | Some(Value::Null), None) => Ok((verb, Map::new())),
                (Some(Value::Object(args)), None) => Ok((verb, args)),
                (Some(other), None) => {
                    wrong(format!("args: expected an object, got {}", kind(&other)))
                }
            },
            (Some(other), _) => wrong(format!("verb: expected a text, got {}", kind(&other))),
        };
        (id, parsed)
    }
}

/// The answer of an appliance that ends.
pub fn stopping() -> CommandError {
    CommandError::new("stopping", "the appliance is stopping")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What a stranger wrote, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[derive(Debug, Clone)]
enum Known {
    UnderWay,
    Answered(Vec<u8>),
}

/// The last commands by id. A sender that lost its connection sends again what was not
/// acknowledged (MQTT 3.1.1, 4.3.2), and the broker takes that for a new message.
#[derive(Debug, Default)]
struct Recent {
    ids: VecDeque<(CommandId, Known)>,
    bytes: usize,
}

impl Recent {
    fn find(&self, id: &CommandId) -> Option<&Known> {
        self.ids.iter().find(|(i, _)| i == id).map(|(_, k)| k)
    }

    fn began(&mut self, id: CommandId) {
        self.ids.push_back((id, Known::UnderWay));
        self.trim();
    }

    fn answered(&mut self, id: &CommandId, bytes: &[u8]) {
        if let Some((_, known)) = self.ids.iter_mut().find(|(i, _)| i == id) {
            *known = Known::Answered(bytes.to_vec());
            self.bytes += bytes.len();
            self.trim();
        }
    }

    fn trim(&mut self) {
        // One that is under way must not be executed a second time: whoever executes bounds them.
        let is_answered = |(_, known): &(CommandId, Known)| matches!(known, Known::Answered(_));
        while self.ids.len() > RECENT || self.bytes > RECENT_BYTES {
            let newest = self.ids.len().saturating_sub(1);
            let oldest = self
                .ids
                .iter()
                .position(is_answered)
                .filter(|at| *at < newest);
            match oldest.and_then(|at| self.ids.remove(at)) {
                Some((_, Known::Answered(bytes))) => {
                    self.bytes = self.bytes.saturating_sub(bytes.len());
                }
                _ => return,
            }
        }
    }
}

/// Answers on their way to the broker.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
}

impl Answers {
    /// One more; the oldest go if there are too many.
    pub fn push(&mut self, answer: Vec<u8>) {
        self.bytes += answer.len();
        self.waiting.push_back(answer);
        self.trim();
    }

    /// Was given to a connection that is lost: first in the next one.
    pub fn push_again(&mut self, answer: Vec<u8>) {
        self.bytes += answer.len();
        self.waiting.push_front(answer);
        self.trim();
    }

    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let answer = self.waiting.pop_front()?;
        self.bytes -= answer.len();
        Some(answer)
    }

    fn trim(&mut self) {
        while self.waiting.len() > WAITING || (self.bytes > WAITING_BYTES && self.waiting.len() > 1)
        {
            if self.pop().is_some() {
                self.lost += 1;
                if self.lost.is_power_of_two() {
                    tracing::warn!(
                        lost = self.lost,
                        "answers to commands are lost: more commands come than the broker takes answers"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
