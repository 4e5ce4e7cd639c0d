//! Free-form JSON inside a message: `config`, `data`, `metadata`, `record`.
//!
//! In `json/1` it is a JSON object like any other. In `postcard/1` it is a byte string of JSON
//! text, and stays text until somebody asks for what is in it: a worker that passes data on never
//! builds it, and a hostile megabyte of `{"":0},` is refused while it is still a megabyte.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::bounds::Shape;

/// A JSON object, parsed or still text.
#[derive(Clone)]
pub struct JsonObject(Form);

#[derive(Clone)]
enum Form {
    Map(Map<String, Value>),
    /// Valid JSON of an object whose numbers are all finite.
    Text {
        text: Box<str>,
        shape: Shape,
    },
}

impl JsonObject {
    /// `{}`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes JSON text of an object, checked but not built.
    ///
    /// # Errors
    /// When it is no JSON, no object, or holds a number too large for an f64.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<SkimmedObject>(text)?;
        Ok(Self(Form::Text {
            text: text.into(),
            shape: Shape::of_text(text.as_bytes()),
        }))
    }

    /// What is in it, built now if it was text.
    pub fn into_map(self) -> Map<String, Value> {
        match self.0 {
            Form::Map(map) => map,
            // It was checked; were it not, nothing would be in it.
            Form::Text { text, .. } => serde_json::from_str(&text).unwrap_or_default(),
        }
    }

    /// A copy of what is in it.
    pub fn to_map(&self) -> Map<String, Value> {
        self.clone().into_map()
    }

    /// What is in it, as a type.
    ///
    /// # Errors
    /// When it does not have that form; the message names the field.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        match self.0 {
            Form::Map(map) => serde_json::from_value(Value::Object(map)),
            Form::Text { text, .. } => serde_json::from_str(&text),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        match &self.0 {
            Form::Map(map) => Shape::of_map(map),
            Form::Text { shape, .. } => *shape,
        }
    }
}

impl Default for JsonObject {
    fn default() -> Self {
        Self(Form::Map(Map::new()))
    }
}

impl From<Map<String, Value>> for JsonObject {
    fn from(map: Map<String, Value>) -> Self {
        Self(Form::Map(map))
    }
}

/// Equal if they say the same, in whichever form.
impl PartialEq for JsonObject {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Map(a), Form::Map(b)) => a == b,
            (Form::Text { text: a, .. }, Form::Text { text: b, .. }) if a == b => true,
            _ => self.to_map() == other.to_map(),
        }
    }
}

impl fmt::Debug for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Map(map) => write!(f, "{}", Value::Object(map.clone())),
            Form::Text { text, .. } => f.write_str(text),
        }
    }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            return match &self.0 {
                Form::Map(map) => map.serialize(to),
                Form::Text { .. } => self.to_map().serialize(to),
            };
        }
        match &self.0 {
            Form::Map(map) => {
                to.serialize_bytes(&serde_json::to_vec(map).map_err(S::Error::custom)?)
            }
            Form::Text { text, .. } => to.serialize_bytes(text.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            return Map::deserialize(from).map(Self::from);
        }
        from.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = JsonObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes of a JSON object")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<JsonObject, E> {
        let text = std::str::from_utf8(bytes).map_err(E::custom)?;
        JsonObject::from_text(text).map_err(E::custom)
    }
}

/// Reads any JSON value, keeps nothing. Unlike `IgnoredAny` it reads the numbers, so one that no
/// f64 can hold is found now and not when the text is built.
struct Skimmed;

impl<'de> Deserialize<'de> for Skimmed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SkimVisitor)
    }
}

/// The same, of an object.
struct SkimmedObject;

impl<'de> Deserialize<'de> for SkimmedObject {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(SkimVisitor).map(|Skimmed| Self)
    }
}

struct SkimVisitor;

impl<'de> Visitor<'de> for SkimVisitor {
    type Value = Skimmed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Skimmed, E> {
        Ok(Skimmed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Skimmed, E> {
        Ok(Skimmed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Skimmed, E> {
        Ok(Skimmed)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Skimmed, E> {
        if value.is_finite() {
            Ok(Skimmed)
        } else {
            Err(E::custom("a number that is not finite"))
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<Skimmed, E> {
        Ok(Skimmed)
    }

    fn visit_unit<E>(self) -> Result<Skimmed, E> {
        Ok(Skimmed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skimmed, A::Error> {
        while seq.next_element::<Skimmed>()?.is_some() {}
        Ok(Skimmed)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skimmed, A::Error> {
        while map.next_entry::<Skimmed, Skimmed>()?.is_some() {}
        Ok(Skimmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_finite_numbers_are_taken() {
        for bad in [
            "",
            "[]",
            "1",
            "null",
            "{",
            "{}x",
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
            "{a:1}",
        ] {
            assert!(JsonObject::from_text(bad).is_err(), "{bad}");
        }
        for good in ["{}", r#" {"a":[1,-2,3.5,null,true,"x",{"b":{}}]} "#] {
            let taken = JsonObject::from_text(good).unwrap();
            assert_eq!(taken, JsonObject::from(taken.to_map()), "{good}");
        }
    }
}
