//! How large anything in a message may be. Part of the protocol: both sides check them, when they
//! write and when they read, so that what one writes the other takes.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Bytes of one encoded message; pixels that travel beside it are not counted.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Opening brackets and commas outside strings: of a JSON message, and of all JSON objects inside
/// one message together. A parsed `{}` takes some 600 bytes, so this bounds memory, not bytes.
pub const MAX_JSON_PARTS: usize = 65_536;
/// Brackets open at once in a JSON message.
pub const MAX_JSON_DEPTH: usize = 64;
/// Brackets open at once in a JSON object inside a message (`config`, `data`, `metadata`,
/// `record`).
pub const MAX_OBJECT_DEPTH: usize = 56;
/// Bytes of a name: extractor, signal, label, zone, mask, codec, version, token.
pub const MAX_NAME_BYTES: usize = 256;
/// Bytes of a text: error, traceback, reason, log line, path of a directory.
pub const MAX_TEXT_BYTES: usize = 65_536;
/// Observations of one list (`items`, `deps`, one extractor's in `observations`).
pub const MAX_OBSERVATIONS: usize = 256;
/// Signals of one observation or trigger, and signals that an extractor declares.
pub const MAX_SIGNALS: usize = 256;
/// Objects of one observation or trigger.
pub const MAX_OBJECTS: usize = 1024;
/// Key points of one object.
pub const MAX_KEYPOINTS: usize = 1024;
/// Zones: of a source, or that one object lies in. Masks of a source.
pub const MAX_ZONES: usize = 64;
/// Corners of one zone or mask.
pub const MAX_CORNERS: usize = 256;
/// Extractors that a fusion reads, missing ones too.
pub const MAX_EXTRACTORS: usize = 64;
/// Triggers, and states, of one answer of a fusion.
pub const MAX_TRIGGERS: usize = 64;
/// Pools in a hello.
pub const MAX_POOLS: usize = 16;
/// Protocols, and codecs, that a child offers.
pub const MAX_OFFERS: usize = 16;
/// Models of one extractor, and directories to look for them.
pub const MAX_MODELS: usize = 64;

/// Elements that are made room for before the first has been seen.
const FIRST_ROOM: usize = 16;

/// A list of at most `MOST` elements. Stops at the first one too many, and makes room only as
/// elements come: a length is a claim.
pub(crate) fn list<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(FIRST_ROOM));
            while let Some(element) = seq.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom(format_args!("more than {MOST} elements")));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(List::<T, MOST>(PhantomData))
}

/// Names and values in the order they came, at most `MOST`.
pub(crate) fn entries<'de, D, V, const MOST: usize>(from: D) -> Result<Vec<(String, V)>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Entries<V, const MOST: usize>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<V, MOST> {
        type Value = Vec<(String, V)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a map of at most {MOST}")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0).min(FIRST_ROOM));
            while let Some(entry) = map.next_entry()? {
                if entries.len() == MOST {
                    return Err(A::Error::custom(format_args!("more than {MOST} entries")));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    from.deserialize_map(Entries::<V, MOST>(PhantomData))
}

/// What a JSON text would take, found without building it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Opening brackets and commas outside strings.
    pub parts: usize,
    /// Brackets open at once.
    pub depth: usize,
}

impl Shape {
    /// One pass over the bytes; right for JSON, and harmless for what is not.
    pub fn of_text(text: &[u8]) -> Self {
        let (mut parts, mut depth, mut open) = (0_usize, 0_usize, 0_usize);
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => {
                    while let Some(inside) = bytes.next() {
                        match inside {
                            b'\\' => drop(bytes.next()),
                            b'"' => break,
                            _ => {}
                        }
                    }
                }
                b'{' | b'[' => {
                    parts += 1;
                    open += 1;
                    depth = depth.max(open);
                }
                b'}' | b']' => open = open.saturating_sub(1),
                b',' => parts += 1,
                _ => {}
            }
        }
        Self { parts, depth }
    }

    /// The same of a parsed object. Looks no deeper than one beyond [`MAX_OBJECT_DEPTH`].
    pub fn of_map(map: &serde_json::Map<String, serde_json::Value>) -> Self {
        let mut shape = Self { parts: 0, depth: 0 };
        shape.add(map.values(), map.len(), 1);
        shape
    }

    fn add<'a>(
        &mut self,
        values: impl Iterator<Item = &'a serde_json::Value>,
        len: usize,
        depth: usize,
    ) {
        self.parts += 1 + len.saturating_sub(1);
        self.depth = self.depth.max(depth);
        if depth > MAX_OBJECT_DEPTH {
            return;
        }
        for value in values {
            match value {
                serde_json::Value::Array(a) => self.add(a.iter(), a.len(), depth + 1),
                serde_json::Value::Object(o) => self.add(o.values(), o.len(), depth + 1),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_text_is_that_of_what_it_says() {
        for text in [
            "{}",
            r#"{"a":[],"b":{"c":[1,2,[3]]}}"#,
            r#"{"a,[{":"\"],,[\\","b":1}"#,
            r#"{"a":"\\"}"#,
        ] {
            let map = serde_json::from_str(text).unwrap();
            assert_eq!(
                Shape::of_text(text.as_bytes()),
                Shape::of_map(&map),
                "{text}"
            );
        }
        assert_eq!(
            Shape::of_text(br#"{"a":[],"b":{"c":[1,2,[3]]}}"#),
            Shape { parts: 8, depth: 4 }
        );
    }
}
