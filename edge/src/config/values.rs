//! Kinds of values that several keys share, with their schemas.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Form of a name; the schema's patterns are this or [`DEVICE_PATTERN`].
pub const NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
/// Form of a device id.
pub const DEVICE_PATTERN: &str = "^[a-z][a-z0-9_-]{0,63}$";

/// Most entries of one kind; what walks `depends` may recurse.
const MAX_ENTRIES: u32 = 256;

/// A checked device id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// Checks the form; the error says what was expected.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut chars = text.bytes();
        let form = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
            && text.len() <= 64;
        if form {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is not a device id: expected a lower-case letter, then lower-case letters, digits, _ or -, at most 64"
            ))
        }
    }

    /// For ids made of a checked alphabet.
    pub(super) fn unchecked(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl JsonSchema for DeviceId {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "DeviceId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DEVICE_PATTERN})
    }
}

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": NAME_PATTERN})
}

pub(super) fn names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}})
}

pub(super) fn name_or_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"type": "string", "pattern": NAME_PATTERN},
        {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "minItems": 1},
    ]})
}

pub(super) fn auto_integer<const MIN: u64, const MAX: u64>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [
        {"const": "auto"},
        {"type": "integer", "minimum": MIN, "maximum": MAX},
    ]})
}

pub(super) fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<T>();
    json_schema!({
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN},
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": item,
    })
}
