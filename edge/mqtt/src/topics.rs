//! Every topic, in one place. `docs/reference/mqtt.md` lists the same; a test compares them.

use std::fmt;

use visualpath_core::Name;

/// One topic of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSpec {
    /// `<p>` is the prefix, `<d>` the device.
    pub pattern: &'static str,
    /// Whether the broker keeps the last value for later subscribers.
    pub retained: bool,
    /// What a message holds: words, or the name of a schema of [`crate::schemas`].
    pub payload: &'static str,
}

/// The topics that exist so far. All are published with QoS 1, `cmd` and `cmd/<verb>` by others.
pub const TOPICS: [TopicSpec; 13] = [
    spec("<p>/<d>/status", true, "online | offline"),
    spec("<p>/<d>/info", true, "info"),
    spec("<p>/<d>/health", true, "health"),
    spec("<p>/<d>/gap", false, "gap"),
    spec("<p>/<d>/doctor", false, "text"),
    spec(
        "<p>/<d>/source/<source>/status",
        true,
        "online | offline | held",
    ),
    spec(
        "<p>/<d>/source/<source>/extractor/<extractor>/status",
        true,
        "running | restarting | held",
    ),
    spec("<p>/<d>/path/<path>/trigger", false, "trigger"),
    spec("<p>/<d>/path/<path>/clip", false, "clip"),
    spec("<p>/<d>/path/<path>/state/<label>", true, "ON | OFF"),
    spec("<p>/<d>/cmd", false, "command"),
    spec("<p>/<d>/cmd/<verb>", false, "args of a command"),
    spec("<p>/<d>/cmd/response", false, "response"),
];

const fn spec(pattern: &'static str, retained: bool, payload: &'static str) -> TopicSpec {
    TopicSpec {
        pattern,
        retained,
        payload,
    }
}

/// Longest prefix in bytes; MQTT allows 65535 for a whole topic.
const MAX_PREFIX: usize = 200;

/// A topic of this appliance; only [`Topics`] makes one, so no other topic can be published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(String);

impl Topic {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes the topics of one appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    base: String,
    device: String,
}

/// Why prefix and device can't make topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// `mqtt.prefix`.
    #[error(
        "mqtt.prefix `{0}` can't begin a topic: expected 1 to 200 bytes without +, #, control \
         characters, a leading $, or an empty level (no / at either end, no //)"
    )]
    Prefix(String),
    /// `device.id`.
    #[error(
        "device.id `{0}` is not a device name: expected a lower-case letter, then lower-case \
         letters, digits, _ or -"
    )]
    Device(String),
}

/// Whether the text is a device name: `[a-z][a-z0-9_-]*`.
pub fn is_device_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

impl Topics {
    /// Checks both parts. `device` is `[a-z][a-z0-9_-]*`.
    pub fn new(prefix: &str, device: &str) -> Result<Self, TopicError> {
        let bad_char = |c: char| c == '+' || c == '#' || c.is_control();
        if prefix.len() > MAX_PREFIX
            || prefix.starts_with('$')
            || prefix.contains(bad_char)
            || prefix.split('/').any(str::is_empty)
        {
            return Err(TopicError::Prefix(prefix.to_owned()));
        }
        if !is_device_name(device) {
            return Err(TopicError::Device(device.to_owned()));
        }
        Ok(Self {
            base: format!("{prefix}/{device}"),
            device: device.to_owned(),
        })
    }

    /// The device these topics are of.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// `online` or `offline`; also the last will.
    pub fn status(&self) -> Topic {
        Topic(format!("{}/status", self.base))
    }

    /// Versions, models, machine.
    pub fn info(&self) -> Topic {
        Topic(format!("{}/info", self.base))
    }

    /// State and problems.
    pub fn health(&self) -> Topic {
        Topic(format!("{}/health", self.base))
    }

    /// What stands for events that a full outbox had to evict.
    pub fn gap(&self) -> Topic {
        Topic(format!("{}/gap", self.base))
    }

    /// Where `visualpath doctor` tries whether the broker takes a message.
    pub fn doctor(&self) -> Topic {
        Topic(format!("{}/doctor", self.base))
    }

    /// Whether a source delivers.
    pub fn source_status(&self, source: &Name) -> Topic {
        Topic(format!("{}/source/{source}/status", self.base))
    }

    /// Whether an extractor of a source runs.
    pub fn extractor_status(&self, source: &Name, extractor: &Name) -> Topic {
        Topic(format!(
            "{}/source/{source}/extractor/{extractor}/status",
            self.base
        ))
    }

    /// Triggers of a path.
    pub fn trigger(&self, path: &Name) -> Topic {
        Topic(format!("{}/path/{path}/trigger", self.base))
    }

    /// Clips of a path.
    pub fn clip(&self, path: &Name) -> Topic {
        Topic(format!("{}/path/{path}/clip", self.base))
    }

    /// Whether a label's rule is ON.
    pub fn state(&self, path: &Name, label: &Name) -> Topic {
        Topic(format!("{}/path/{path}/state/{label}", self.base))
    }

    /// Where the appliance takes commands.
    pub fn command(&self) -> Topic {
        Topic(format!("{}/cmd", self.base))
    }

    /// Where it takes the arguments of one verb.
    pub fn command_verb(&self, verb: &Name) -> Topic {
        Topic(format!("{}/cmd/{verb}", self.base))
    }

    /// Where it answers.
    pub fn command_response(&self) -> Topic {
        Topic(format!("{}/cmd/response", self.base))
    }
}

/// `source/<source>/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceStatus {
    /// It delivers frames.
    Online,
    /// It does not; it is tried again.
    Offline,
    /// It was given up until someone acts.
    Held,
}

impl SourceStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Held => "held",
        }
    }
}

/// `source/<source>/extractor/<extractor>/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtractorStatus {
    /// It answers.
    Running,
    /// Its worker died and is being started again.
    Restarting,
    /// It was given up until someone acts.
    Held,
}

impl ExtractorStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Held => "held",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn every_topic_is_the_one_its_pattern_says() {
        let t = Topics::new("visualpath", "dock-3").unwrap();
        let (cam, person, path, label) = (
            name("cam0"),
            name("person"),
            name("entrance"),
            name("visitor"),
        );
        let made = [
            t.status(),
            t.info(),
            t.health(),
            t.gap(),
            t.doctor(),
            t.source_status(&cam),
            t.extractor_status(&cam, &person),
            t.trigger(&path),
            t.clip(&path),
            t.state(&path, &label),
            t.command(),
            t.command_verb(&name("clip")),
            t.command_response(),
        ];
        let expected = TOPICS.map(|s| {
            s.pattern
                .replace("<p>", "visualpath")
                .replace("<d>", "dock-3")
                .replace("<source>", "cam0")
                .replace("<extractor>", "person")
                .replace("<path>", "entrance")
                .replace("<label>", "visitor")
                .replace("<verb>", "clip")
        });
        assert_eq!(made.map(|t| t.0), expected);
    }

    #[test]
    fn the_reference_lists_every_topic_and_no_other() {
        let page = include_str!("../../../docs/reference/mqtt.md");
        let listed: Vec<&str> = page
            .lines()
            .filter_map(|l| l.strip_prefix("| `<p>/<d>/"))
            .map(|l| l.split('`').next().unwrap())
            .collect();
        let defined: Vec<&str> = TOPICS
            .iter()
            .map(|s| s.pattern.trim_start_matches("<p>/<d>/"))
            .collect();
        assert_eq!(listed, defined);
        for s in TOPICS {
            let row = page
                .lines()
                .find(|l| l.starts_with(&format!("| `{}`", s.pattern)))
                .unwrap();
            assert_eq!(row.contains("| yes |"), s.retained, "{row}");
        }
    }

    #[test]
    fn prefix_and_device_are_checked() {
        for good in ["visualpath", "site/north", "a b"] {
            assert!(Topics::new(good, "dock-3").is_ok(), "{good}");
        }
        let long = "x".repeat(MAX_PREFIX + 1);
        for bad in ["", "/a", "a/", "a//b", "a/+/b", "a#", "$SYS", "a\nb", &long] {
            assert_eq!(
                Topics::new(bad, "dock-3"),
                Err(TopicError::Prefix(bad.to_owned())),
                "{bad}"
            );
        }
        for bad in ["", "3dock", "Dock", "dock/3", "dock 3", "-a"] {
            assert_eq!(
                Topics::new("p", bad),
                Err(TopicError::Device(bad.to_owned())),
                "{bad}"
            );
        }
    }
}
