//! Protocol 1: what the appliance and its workers say to each other, as data.
//!
//! ```text
//! child                                        parent
//!   hello {token, protocols, codecs, …}  ─▶                              always JSON
//!                                        ◀─    hello {codec, config, …}  always JSON
//!   progress … ready                     ─▶
//!                                        ◀─    extract {frame, deps}     the codec chosen
//!   observations {items, timing}         ─▶
//! ```
//!
//! [`FromChild`] and [`FromParent`] are the messages, [`encode`] and [`decode`] their two codecs,
//! [`Accepts::agree`] the choice of version and codec. Nothing here opens a socket or starts a
//! process. `PROTOCOL.md` beside this crate describes every field for authors in other languages;
//! `vectors/1` holds every message as bytes.
//!
//! The other side is not trusted: decoding is bounded by [`bounds`], refuses what is not finite and
//! names what came when it is of another version or of an unknown type, so that the peer can be
//! answered ([`DecodeError::answer`]).
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, reason = "small numbers in tests")
)]
#![forbid(unsafe_code)]

mod agree;
pub mod bounds;
mod check;
mod codec;
mod convert;
mod fusion;
mod json_object;
mod lists;
mod message;

pub use agree::{Accepts, Agreed, PROTOCOL, Refusal};
pub use check::Broken;
pub use codec::{
    Codec, DecodeError, EncodeError, Envelope, Message, UnknownCodec, UnknownType, decode, encode,
    encode_into,
};
pub use convert::{ConvertError, FrameAt};
pub use json_object::JsonObject;
pub use lists::{ByExtractor, Extractors, Masks, ModelDirs, Models, SignalNames, States};
pub use message::{
    ChildHello, End, ErrorKind, ErrorReport, Extract, ExtractorSignals, FrameRef, FromChild,
    FromParent, Fuse, FusionAnswer, Gap, Input, Layout, Level, Log, Mask, Model, Nothing, Object,
    Observation, Observations, ParentHello, PixelsIn, Pong, Pool, Progress, Ready, State, Timing,
    TraceRecord, Trigger, Zone,
};
