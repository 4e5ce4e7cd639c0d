//! Which version and which codec a parent and a child use.

use crate::codec::Codec;
use crate::message::ChildHello;

/// The newest protocol that this crate speaks.
pub const PROTOCOL: u32 = 1;

/// What a parent accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepts {
    /// The newest protocol it speaks, from 1; it speaks the one before too.
    pub newest: u32,
    /// The codecs it speaks, preferred first.
    pub codecs: Vec<Codec>,
}

/// What the two agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Protocol of all later messages.
    pub protocol: u32,
    /// Codec of all messages after the two hellos.
    pub codec: Codec,
}

/// Why they can't talk. The text is for both: the parent logs it and answers with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No protocol in common.
    #[error(
        "the worker speaks protocols {offered:?}, this appliance {oldest} to {newest}: update the older of the two"
    )]
    Protocol {
        /// What the child offers.
        offered: Vec<u32>,
        /// Oldest accepted.
        oldest: u32,
        /// Newest accepted.
        newest: u32,
    },
    /// No codec in common.
    #[error(
        "the worker speaks codecs {offered:?}, this appliance {accepted:?}: every worker must speak json/1"
    )]
    Codec {
        /// What the child offers.
        offered: Vec<String>,
        /// What is accepted.
        accepted: Vec<&'static str>,
    },
}

impl Default for Accepts {
    /// Everything that this crate speaks, postcard preferred.
    fn default() -> Self {
        Self {
            newest: PROTOCOL,
            codecs: vec![Codec::Postcard1, Codec::Json1],
        }
    }
}

impl Accepts {
    /// The oldest protocol accepted: one before the newest, and never 0.
    pub fn oldest(&self) -> u32 {
        self.newest.saturating_sub(1).max(1)
    }

    /// The newest protocol and the most preferred codec that both speak. Offers that are not known
    /// here are passed over: they are a newer child's.
    ///
    /// # Errors
    /// When there is none in common.
    pub fn agree(&self, hello: &ChildHello) -> Result<Agreed, Refusal> {
        let accepted = self.oldest()..=self.newest;
        let protocol = hello
            .protocols
            .iter()
            .copied()
            .filter(|p| accepted.contains(p))
            .max();
        let Some(protocol) = protocol else {
            return Err(Refusal::Protocol {
                offered: hello.protocols.clone(),
                oldest: self.oldest(),
                newest: self.newest,
            });
        };
        let offers = |codec: &Codec| hello.codecs.iter().any(|name| name == codec.as_str());
        let Some(codec) = self.codecs.iter().copied().find(offers) else {
            return Err(Refusal::Codec {
                offered: hello.codecs.clone(),
                accepted: self.codecs.iter().map(|c| c.as_str()).collect(),
            });
        };
        Ok(Agreed { protocol, codec })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(protocols: &[u32], codecs: &[&str]) -> ChildHello {
        ChildHello {
            protocols: protocols.to_vec(),
            codecs: codecs.iter().map(|&c| c.to_owned()).collect(),
            ..ChildHello::default()
        }
    }

    fn accepts(newest: u32) -> Accepts {
        Accepts {
            newest,
            ..Accepts::default()
        }
    }

    #[test]
    fn the_newest_protocol_of_this_one_and_the_one_before_is_chosen() {
        let chosen = |newest, offered: &[u32]| {
            accepts(newest)
                .agree(&hello(offered, &["json/1"]))
                .map(|a| a.protocol)
                .ok()
        };
        assert_eq!(chosen(3, &[1, 2, 3, 4]), Some(3));
        assert_eq!(chosen(3, &[2, 1]), Some(2), "N-1");
        assert_eq!(chosen(3, &[1, 4]), None, "N-2 and N+1");
        assert_eq!(chosen(1, &[0]), None, "there is no protocol 0");
        assert_eq!(chosen(1, &[u32::MAX, 1]), Some(1));
        assert_eq!(chosen(1, &[]), None);
    }

    #[test]
    fn the_parents_preference_among_the_childs_codecs_is_chosen() {
        let chosen = |offered: &[&str]| {
            accepts(1)
                .agree(&hello(&[1], offered))
                .map(|a| a.codec)
                .ok()
        };
        assert_eq!(chosen(&["json/1", "postcard/1"]), Some(Codec::Postcard1));
        assert_eq!(chosen(&["cbor/1", "json/1"]), Some(Codec::Json1));
        assert_eq!(chosen(&["postcard/2"]), None);
        assert_eq!(chosen(&[]), None);
        let json_only = Accepts {
            newest: 1,
            codecs: vec![Codec::Json1],
        };
        let both = hello(&[1], &["postcard/1", "json/1"]);
        assert_eq!(json_only.agree(&both).unwrap().codec, Codec::Json1);
    }

    #[test]
    fn a_refusal_says_what_both_speak() {
        let why = accepts(3)
            .agree(&hello(&[1], &["json/1"]))
            .unwrap_err()
            .to_string();
        assert!(why.contains("[1]") && why.contains("2 to 3"), "{why}");
        let why = accepts(1)
            .agree(&hello(&[1], &["cbor/1"]))
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("cbor/1") && why.contains("postcard/1"),
            "{why}"
        );
    }
}
