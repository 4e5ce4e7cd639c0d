//! `json/1` and `postcard/1`.
//!
//! ```text
//! json/1       {"v":1,"id":7,"type":"extract", …the body's fields}
//! postcard/1   type: u16 │ id: u64 │ body             varints, no version: the hello chose it
//! ```
//!
//! The two hellos are JSON whatever was chosen. What [`encode`] gives, [`decode`] takes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::agree::PROTOCOL;
use crate::bounds::{MAX_JSON_DEPTH, MAX_JSON_PARTS, MAX_MESSAGE_BYTES, Shape};
use crate::check::{Broken, Check, Tally};
use crate::message::{ErrorKind, ErrorReport, FromChild, FromParent};

/// How messages become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Readable, self-describing; every worker speaks it.
    Json1,
    /// Small and quick; Rust workers.
    Postcard1,
}

impl Codec {
    /// Its name in hellos.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json1 => "json/1",
            Self::Postcard1 => "postcard/1",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A codec that this crate does not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a codec: expected json/1 or postcard/1")]
pub struct UnknownCodec(pub String);

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        [Self::Json1, Self::Postcard1]
            .into_iter()
            .find(|c| c.as_str() == name)
            .ok_or_else(|| UnknownCodec(quoted(name)))
    }
}

/// A message with the id that joins requests and answers; 0 where nothing is asked or answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<M> {
    /// The request it is, or answers.
    pub id: u64,
    /// What is said.
    pub message: M,
}

/// All messages of one direction: [`FromChild`] or [`FromParent`].
pub trait Message: Body {
    /// Its `type` in JSON.
    fn name(&self) -> &'static str;
}

/// Reading and writing bodies; made by the `direction!` macro.
#[doc(hidden)]
pub trait Body: Check + Sized {
    /// All types.
    const NAMES: &'static [&'static str];
    fn number(&self) -> u16;
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;
    fn write_postcard(&self, out: &mut Vec<u8>) -> Result<(), postcard::Error>;
    fn read_json(name: &str, bytes: &[u8]) -> Option<Result<Self, serde_json::Error>>;
    fn read_postcard(number: u16, bytes: &[u8]) -> Option<Result<(Self, &[u8]), postcard::Error>>;
}

/// Numbers of the hellos, which postcard never carries.
const HELLOS: [u16; 2] = [1, 101];

/// Why a message of our own can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Something in it is over a bound or not finite.
    #[error("{name}: {broken}")]
    Broken {
        /// The message's type.
        name: &'static str,
        /// What is wrong.
        broken: Broken,
    },
    /// It is too large as a whole.
    #[error("{name}: {bytes} bytes, of which a message has at most {MAX_MESSAGE_BYTES}")]
    TooLong {
        /// The message's type.
        name: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The hellos are JSON: nobody knows yet what was chosen.
    #[error("hello is always json/1")]
    HelloIsJson,
    /// It could not be written.
    #[error("{name}: {reason}")]
    Write {
        /// The message's type.
        name: &'static str,
        /// What the codec said.
        reason: String,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too many bytes to look at.
    #[error("a message of {bytes} bytes; at most {MAX_MESSAGE_BYTES} are taken")]
    TooLong {
        /// How many came.
        bytes: usize,
    },
    /// Too many brackets and commas, or too deep.
    #[error(
        "a message of {parts} parts, {depth} deep; at most {MAX_JSON_PARTS}, {MAX_JSON_DEPTH} deep are taken"
    )]
    TooComplex {
        /// Opening brackets and commas.
        parts: usize,
        /// Brackets open at once.
        depth: usize,
    },
    /// Not even an envelope.
    #[error("no message: {reason}")]
    Envelope {
        /// What the codec said.
        reason: String,
    },
    /// Another version of the protocol.
    #[error("protocol {came}; this side speaks {PROTOCOL}")]
    Version {
        /// The request it is, or answers.
        id: u64,
        /// Its version.
        came: u64,
    },
    /// A type that this direction does not have.
    #[error("unknown message type {came}")]
    Type {
        /// The request it is, or answers.
        id: u64,
        /// What it calls itself.
        came: UnknownType,
    },
    /// The type is known, its body is not as it should be.
    #[error("{name}: {reason}")]
    Body {
        /// The request it is, or answers.
        id: u64,
        /// The message's type; a number in postcard.
        name: String,
        /// What the codec said.
        reason: String,
    },
    /// Something in it is over a bound or not finite.
    #[error("{name}: {broken}")]
    Broken {
        /// The request it is, or answers.
        id: u64,
        /// The message's type.
        name: &'static str,
        /// What is wrong.
        broken: Broken,
    },
}

/// The type of a message that this side does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownType {
    /// In JSON, shortened.
    Name(String),
    /// In postcard.
    Number(u16),
}

impl fmt::Display for UnknownType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl DecodeError {
    /// The request it answers, as far as it could be read.
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::TooLong { .. } | Self::TooComplex { .. } | Self::Envelope { .. } => None,
            Self::Version { id, .. }
            | Self::Type { id, .. }
            | Self::Body { id, .. }
            | Self::Broken { id, .. } => Some(*id),
        }
    }

    /// The `error` to answer the sender with, under [`DecodeError::id`] or 0.
    pub fn answer(&self) -> ErrorReport {
        ErrorReport {
            error: self.to_string(),
            traceback: None,
            kind: Some(ErrorKind::Protocol),
        }
    }
}

/// The bytes of one message.
///
/// # Errors
/// When the message breaks a bound of the protocol; nothing that would be refused is ever sent.
pub fn encode<M: Message>(codec: Codec, id: u64, message: &M) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    encode_into(codec, id, message, &mut out)?;
    Ok(out)
}

/// Like [`encode`], into a buffer that is used again: its content is replaced.
///
/// # Errors
/// As [`encode`]; the buffer's content is then of no use.
pub fn encode_into<M: Message>(
    codec: Codec,
    id: u64,
    message: &M,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let name = message.name();
    let broken = |broken| EncodeError::Broken { name, broken };
    message.check(&mut Tally::default()).map_err(broken)?;
    out.clear();
    match codec {
        Codec::Json1 => write_json(id, message, out)?,
        Codec::Postcard1 if HELLOS.contains(&message.number()) => {
            return Err(EncodeError::HelloIsJson);
        }
        Codec::Postcard1 => write_postcard(id, message, out).map_err(|e| EncodeError::Write {
            name,
            reason: e.to_string(),
        })?,
    }
    if out.len() > MAX_MESSAGE_BYTES {
        return Err(EncodeError::TooLong {
            name,
            bytes: out.len(),
        });
    }
    if codec == Codec::Json1 {
        Tally::whole(Shape::of_text(out)).map_err(broken)?;
    }
    Ok(())
}

fn write_postcard<M: Message>(
    id: u64,
    message: &M,
    out: &mut Vec<u8>,
) -> Result<(), postcard::Error> {
    postcard::to_io(&(message.number(), id), &mut *out)?;
    message.write_postcard(out)
}

fn write_json<M: Message>(id: u64, message: &M, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let name = message.name();
    out.extend_from_slice(format!(r#"{{"v":{PROTOCOL},"id":{id},"type":"{name}""#).as_bytes());
    let body = out.len();
    message.write_json(out).map_err(|e| EncodeError::Write {
        name,
        reason: e.to_string(),
    })?;
    // A body is an object: `{"a":1}` goes on as `,"a":1}`, `{}` as `}`.
    if out.get(body + 1) == Some(&b'}') {
        out.remove(body);
    } else if let Some(bracket) = out.get_mut(body) {
        *bracket = b',';
    }
    Ok(())
}

/// Reads one message.
///
/// # Errors
/// What is wrong with it, and, as far as it can be known, which request it answers.
pub fn decode<M: Message>(codec: Codec, bytes: &[u8]) -> Result<Envelope<M>, DecodeError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLong { bytes: bytes.len() });
    }
    let envelope = match codec {
        Codec::Json1 => read_json::<M>(bytes),
        Codec::Postcard1 => read_postcard::<M>(bytes),
    }?;
    let message = &envelope.message;
    message
        .check(&mut Tally::default())
        .map_err(|broken| DecodeError::Broken {
            id: envelope.id,
            name: message.name(),
            broken,
        })?;
    Ok(envelope)
}

/// What every JSON message has; the rest is passed over.
#[derive(Deserialize)]
struct Head<'a> {
    v: u64,
    #[serde(default)]
    id: u64,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

fn read_json<M: Message>(bytes: &[u8]) -> Result<Envelope<M>, DecodeError> {
    let Shape { parts, depth } = Shape::of_text(bytes);
    if parts > MAX_JSON_PARTS || depth > MAX_JSON_DEPTH {
        return Err(DecodeError::TooComplex { parts, depth });
    }
    // serde would take an array for a struct.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(DecodeError::Envelope {
            reason: "expected a JSON object".to_owned(),
        });
    }
    let head: Head<'_> = serde_json::from_slice(bytes).map_err(|e| DecodeError::Envelope {
        reason: quoted(&e.to_string()),
    })?;
    let id = head.id;
    if head.v != u64::from(PROTOCOL) {
        return Err(DecodeError::Version { id, came: head.v });
    }
    match M::read_json(&head.kind, bytes) {
        Some(Ok(message)) => Ok(Envelope { id, message }),
        Some(Err(e)) => Err(DecodeError::Body {
            id,
            name: head.kind.into_owned(),
            reason: quoted(&e.to_string()),
        }),
        None => Err(DecodeError::Type {
            id,
            came: UnknownType::Name(quoted(&head.kind)),
        }),
    }
}

fn read_postcard<M: Message>(bytes: &[u8]) -> Result<Envelope<M>, DecodeError> {
    let ((number, id), body) =
        postcard::take_from_bytes::<(u16, u64)>(bytes).map_err(|e| DecodeError::Envelope {
            reason: e.to_string(),
        })?;
    let wrong = |reason: String| DecodeError::Body {
        id,
        name: number.to_string(),
        reason,
    };
    if HELLOS.contains(&number) {
        return Err(wrong("hello is always json/1".to_owned()));
    }
    match M::read_postcard(number, body) {
        Some(Ok((message, []))) => Ok(Envelope { id, message }),
        Some(Ok((_, rest))) => Err(wrong(format!("{} bytes too many", rest.len()))),
        Some(Err(e)) => Err(wrong(quoted(&e.to_string()))),
        None => Err(DecodeError::Type {
            id,
            came: UnknownType::Number(number),
        }),
    }
}

/// A peer's words, short enough to be said again.
fn quoted(words: &str) -> String {
    const MOST: usize = 200;
    if words.len() <= MOST {
        return words.to_owned();
    }
    let mut end = MOST;
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &words[..end])
}

/// Every type name, for documentation and its test.
impl FromChild {
    /// `type` of every message of this direction.
    pub fn names() -> &'static [&'static str] {
        <Self as Body>::NAMES
    }
}

impl FromParent {
    /// `type` of every message of this direction.
    pub fn names() -> &'static [&'static str] {
        <Self as Body>::NAMES
    }
}
