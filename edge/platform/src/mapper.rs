//! Mappers: observations to and from JSON where they leave the process (traces, child processes,
//! Python).
//!
//! The usual form is the one serde gives. A plugin whose `data` means more than JSON can say adds
//! a mapper of its own in front; the first that takes an observation wins.

use serde_json::Value;
use visualpath_core::Observation;

/// Turns observations into documents and back.
pub trait ObservationMapper: Send + Sync {
    /// The document of an observation; `None` leaves it to the next mapper.
    fn encode(&self, observation: &Observation) -> Option<Result<Value, MapError>>;

    /// The observation of a document; `None` leaves it to the next mapper.
    fn decode(&self, document: &Value) -> Option<Result<Observation, MapError>>;
}

/// Why an observation could not be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Not what a mapper that took it expected.
    #[error("{mapper}: {message}")]
    Wrong {
        /// Which mapper.
        mapper: &'static str,
        /// What is wrong.
        message: String,
    },
}

/// The usual form: every field of [`Observation`], as serde has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonMapper;

impl ObservationMapper for JsonMapper {
    fn encode(&self, observation: &Observation) -> Option<Result<Value, MapError>> {
        Some(serde_json::to_value(observation).map_err(|e| wrong(&e)))
    }

    fn decode(&self, document: &Value) -> Option<Result<Observation, MapError>> {
        Some(serde_json::from_value(document.clone()).map_err(|e| wrong(&e)))
    }
}

fn wrong(error: &serde_json::Error) -> MapError {
    MapError::Wrong {
        mapper: "json",
        message: error.to_string(),
    }
}

/// Mappers in order; the first that takes an observation wins, and [`JsonMapper`] is the last.
#[derive(Default)]
pub struct CompositeMapper {
    mappers: Vec<Box<dyn ObservationMapper>>,
}

impl CompositeMapper {
    /// Only the usual form.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a mapper in front of all others.
    pub fn add_mapper(&mut self, mapper: Box<dyn ObservationMapper>) {
        self.mappers.insert(0, mapper);
    }
}

impl ObservationMapper for CompositeMapper {
    fn encode(&self, observation: &Observation) -> Option<Result<Value, MapError>> {
        self.mappers
            .iter()
            .find_map(|m| m.encode(observation))
            .or_else(|| JsonMapper.encode(observation))
    }

    fn decode(&self, document: &Value) -> Option<Result<Observation, MapError>> {
        self.mappers
            .iter()
            .find_map(|m| m.decode(document))
            .or_else(|| JsonMapper.decode(document))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use visualpath_core::Name;

    use super::*;

    /// Keeps a temperature as text with its unit.
    struct Celsius(&'static str);

    impl ObservationMapper for Celsius {
        fn encode(&self, o: &Observation) -> Option<Result<Value, MapError>> {
            let t = o.signals.get("temperature")?;
            Some(Ok(json!(format!("{t} {}", self.0))))
        }

        fn decode(&self, document: &Value) -> Option<Result<Observation, MapError>> {
            let t = document.as_str()?.strip_suffix(self.0)?.trim();
            let parsed = t.parse::<f64>().map_err(|e| MapError::Wrong {
                mapper: "celsius",
                message: e.to_string(),
            });
            Some(parsed.map(|t| {
                let mut o = observation();
                o.signals.set("temperature", t);
                o
            }))
        }
    }

    fn observation() -> Observation {
        Observation::new(Name::new("x").unwrap(), 1, 2)
    }

    #[test]
    fn the_mapper_added_last_is_asked_first_and_json_is_always_there() {
        let mut mapper = CompositeMapper::new();
        let mut warm = observation();
        warm.signals.set("temperature", 0.1 + 0.2);
        let plain = mapper.encode(&warm).unwrap().unwrap();
        assert_eq!(
            mapper.decode(&plain),
            Some(Ok(warm.clone())),
            "to the last bit"
        );

        mapper.add_mapper(Box::new(Celsius("C")));
        mapper.add_mapper(Box::new(Celsius("K")));
        let text = mapper.encode(&warm).unwrap().unwrap();
        assert_eq!(text, json!("0.30000000000000004 K"));
        assert_eq!(mapper.decode(&text), Some(Ok(warm)));
        let cold = observation();
        let document = mapper.encode(&cold).unwrap().unwrap();
        assert!(document.is_object(), "none of them took it");
        assert_eq!(mapper.decode(&document), Some(Ok(cold)));
        assert!(matches!(mapper.decode(&json!("x C")), Some(Err(_))));
    }
}
