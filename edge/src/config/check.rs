//! Checks for sense: what types and bounds can't say.
//!
//! Works on the config that is left after [`super::conform`] cut out the faulty parts, and on the
//! whole tree for names: a reference to an extractor that is there but wrong is not a fault of its
//! own.

mod rules;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Component;

use visualpath_core::{Name, nearest};
use visualpath_platform::MAX_DEPENDS;

use super::conform::names;
use super::diagnostic::Diagnostic;
use super::model::{
    Auto, ClipEncoder, Config, DropPolicy, ExtractorConfig, Isolation, PathConfig, SinkKind,
    TraceLevel,
};
use super::schema::{property, schema};
use super::tree::{Node, Origin, Step, Value, join, parse_path};

/// Least that `timeout_ms = "auto"` gives.
const AUTO_TIMEOUT_MIN_MS: u64 = 1000;

/// The fusion that is always there.
const RULES: &str = "rules";

/// Findings about `config`, read from `tree`; `written` is that before watches were replaced.
pub fn check(config: &Config, tree: &Node, written: &Node, out: &mut Vec<Diagnostic>) {
    let mut check = Check {
        config,
        tree,
        watched: written.get("watch").is_some(),
        out,
        dangling: BTreeSet::new(),
    };
    check.schema_given();
    check.required_sections();
    check.timezone();
    check.sources();
    check.extractors();
    check.zones();
    check.masks();
    check.paths();
    check.fusions();
    check.clip();
    check.mqtt();
    check.observability();
    check.web();
    check.unused();
}

struct Check<'a> {
    config: &'a Config,
    tree: &'a Node,
    /// Whether there is any `[watch]`; if what it stands for is absent, that was told.
    watched: bool,
    out: &'a mut Vec<Diagnostic>,
    /// Sections that something refers to by a name they have not; what is unused in them may be
    /// what was meant.
    dangling: BTreeSet<&'static str>,
}

impl Check<'_> {
    fn clip(&mut self) {
        let clip = &self.config.clip;
        if clip.encoder == ClipEncoder::OpenH264Lib && clip.openh264_library.is_none() {
            let origin = self.origin("clip.encoder");
            let found = Diagnostic::error(
                &origin,
                "clip.encoder",
                "`openh264-lib` needs clip.openh264_library, which is not set",
            );
            self.push(
                found.hint("it names Cisco's own binary of OpenH264, which openh264.org has"),
            );
        }
    }

    fn web(&mut self) {
        const ADVICE: &str = "set web.token_file (`head -c 24 /dev/urandom | base64` makes a token), or a loopback address";
        let web = &self.config.web;
        match web.address() {
            Err(wrong) => {
                self.error("web.listen", wrong);
            }
            Ok(Some(address)) if !address.ip().is_loopback() && web.token_file.is_none() => {
                self.error(
                    "web.listen",
                    format!("`{address}` can be reached from other machines, which needs a token"),
                )
                .hint = Some(ADVICE.to_owned());
            }
            Ok(_) => {}
        }
    }

    fn origin(&self, key: &str) -> Origin {
        self.tree.origin_of(&parse_path(key)).clone()
    }

    /// Where the key itself stands, for findings about a whole entry.
    fn key_origin(&self, section: &str, name: &str) -> Origin {
        self.tree
            .get(section)
            .and_then(Node::as_table)
            .and_then(|t| t.get(name))
            .map_or_else(|| self.tree.origin.clone(), |entry| entry.key.clone())
    }

    fn is_set(&self, key: &str) -> bool {
        self.tree.at(&parse_path(key)).is_some()
    }

    fn error(&mut self, key: impl Into<String>, message: impl Into<String>) -> &mut Diagnostic {
        let key = key.into();
        let origin = self.origin(&key);
        self.push(Diagnostic::error(&origin, key, message))
    }

    fn warning(&mut self, key: impl Into<String>, message: impl Into<String>) -> &mut Diagnostic {
        let key = key.into();
        let origin = self.origin(&key);
        self.push(Diagnostic::warning(&origin, key, message))
    }

    fn push(&mut self, found: Diagnostic) -> &mut Diagnostic {
        self.out.push(found);
        let last = self.out.len() - 1;
        &mut self.out[last]
    }

    /// Checks a reference at `key` to `name` in `section`.
    fn refers(&mut self, key: &str, section: &'static str, name: &Name) {
        let known = names(self.tree, section);
        // That there is nothing at all to refer to is told once, for the section.
        if known.is_empty() || known.contains(&name.as_str()) {
            return;
        }
        self.dangling.insert(section);
        let near = nearest(name.as_str(), known.iter().copied());
        let origin = self.origin(key);
        let mut found = Diagnostic::error(&origin, key, format!("there is no {section} `{name}`"));
        found = if near.is_empty() {
            found.hint(format!("there is: {}", known.join(", ")))
        } else {
            found.did_you_mean(&near)
        };
        self.push(found);
    }

    /// Warns of what no path uses.
    fn unused(&mut self) {
        let config = self.config;
        // Paths that were cut out may use anything.
        if config.path.is_empty() || config.path.len() != names(self.tree, "path").len() {
            return;
        }
        let paths = || config.path.values();
        let used: [(&'static str, BTreeSet<&str>, &str); 3] = [
            (
                "source",
                paths()
                    .flat_map(|p| p.source.as_slice())
                    .map(Name::as_str)
                    .collect(),
                "name it as the `source` of a path, or remove it",
            ),
            (
                "extractor",
                paths().flat_map(|p| config.extractors_of(p)).collect(),
                "add it to the `extractors` of a path, or remove it",
            ),
            (
                "fusion",
                paths().map(|p| p.fusion.as_str()).collect(),
                "name it as the `fusion` of a path, or remove it",
            ),
        ];
        for (section, used, hint) in used {
            if self.dangling.contains(section) {
                continue;
            }
            for name in names(self.tree, section) {
                if Name::new(name).is_ok() && !used.contains(name) {
                    let origin = self.key_origin(section, name);
                    let key = join(section, name);
                    let found = Diagnostic::warning(&origin, key, "is in no path and never runs");
                    self.push(found.hint(hint));
                }
            }
        }
    }

    fn schema_given(&mut self) {
        if !self.is_set("schema") {
            self.warning("schema", "missing: taken as 1").hint =
                Some("add `schema = 1` at the top".to_owned());
        }
    }

    fn required_sections(&mut self) {
        let example = [
            ("source", "[source.cam0]\nuri = \"video.mp4\""),
            (
                "extractor",
                "[extractor.person]\nplugin = \"object\"\n[extractor.person.config]\nmodel = \"ssd-oidv4\"\nclasses = [\"person\"]",
            ),
            (
                "path",
                "[path.entrance]\nsource = \"cam0\"\nextractors = [\"person\"]\nfusion = \"visitor\"",
            ),
            (
                "fusion",
                "[fusion.visitor]\nplugin = \"rules\"\n[[fusion.visitor.config.rule]]\nlabel = \"visitor\"\nwhen = \"person.count >= 1\"",
            ),
        ];
        for (section, example) in example {
            // A section that is not a table was reported before.
            let present = match self.tree.get(section) {
                Some(node) => node.as_table().is_none_or(|t| !t.is_empty()),
                None => false,
            };
            // Nor is one whose name is misspelt; that is told as an unknown key.
            let unknown = names(self.tree, "")
                .into_iter()
                .filter(|key| property(schema(), key, None).is_none());
            let made = self.watched && section != "source";
            if !present && !made && nearest(section, unknown).is_empty() {
                let what = match section {
                    "fusion" => "fusion with a rule",
                    section => section,
                };
                self.error(section, format!("expected at least one {what}, got none"))
                    .hint = Some(format!("for example:\n{example}"));
            }
        }
    }

    fn extractors(&mut self) {
        let config = self.config;
        for (name, extractor) in &config.extractor {
            let key = |k: &str| format!("extractor.{name}.{k}");
            for (index, dep) in extractor.depends.iter().enumerate() {
                let at = format!("extractor.{name}.depends[{index}]");
                self.refers(&at, "extractor", dep);
            }
            if let Some(circle) = circle_from(config, name) {
                let at = if extractor.depends.is_empty() {
                    "gate"
                } else {
                    "depends"
                };
                self.error(key(at), format!("depends on itself: {circle}"));
            }
            if extractor.depends.len() > MAX_DEPENDS {
                let message = format!(
                    "{} extractors, at most {MAX_DEPENDS}",
                    extractor.depends.len()
                );
                self.error(key("depends"), message);
            }
            if extractor.gate.as_ref().is_some_and(|g| g.trim().is_empty()) {
                self.error(key("gate"), "expected a condition, got \"\"")
                    .hint = Some("for example \"motion.score > 0.02\"".to_owned());
            }
            if extractor.gate.is_none() && extractor.gate_hold_ms > 0 {
                self.warning(key("gate_hold_ms"), "has no effect without `gate`");
            }
            self.drop_policy(name, extractor);
            self.timeout(name, extractor);
        }
    }

    fn drop_policy(&mut self, name: &Name, extractor: &ExtractorConfig) {
        let key = |k: &str| format!("extractor.{name}.{k}");
        if extractor.drop == Some(DropPolicy::Intermediate) && extractor.queue < 2 {
            let message = "`intermediate` keeps the first and the newest waiting frame: it needs queue = 2 or more";
            self.error(key("drop"), message);
        }
        for (source_name, source) in self.config.sources_of(name.as_str()) {
            match (extractor.drop, source.realtime) {
                (Some(DropPolicy::None), true) => {
                    self.error(
                        key("drop"),
                        format!("`none` would make the camera wait: source `{source_name}` has realtime = true"),
                    )
                    .hint = Some(format!(
                        "use `oldest`, or set realtime = false in [source.{source_name}] if it is a file"
                    ));
                }
                (Some(DropPolicy::None) | None, _) | (_, true) => {}
                (Some(_), false) => {
                    self.warning(
                        key("drop"),
                        format!("results will depend on this machine's speed: source `{source_name}` has realtime = false"),
                    )
                    .hint = Some("`none`, the default here, looks at every frame".to_owned());
                }
            }
        }
    }

    fn timeout(&mut self, name: &Name, extractor: &ExtractorConfig) {
        let inline =
            extractor.isolation.unwrap_or(self.config.isolation.default) == Isolation::Inline;
        if inline && matches!(extractor.timeout_ms, Auto::Value(_)) {
            self.warning(
                format!("extractor.{name}.timeout_ms"),
                "an inline extractor can't be timed out",
            )
            .hint = Some("use isolation = \"thread\", or remove it".to_owned());
        }
        if let Auto::Value(timeout) = extractor.timeout_ms
            && timeout > extractor.hang_ms
        {
            self.warning(
                format!("extractor.{name}.timeout_ms"),
                format!(
                    "{timeout} is longer than hang_ms ({}): it would be taken for hung first",
                    extractor.hang_ms
                ),
            );
        }
    }

    fn paths(&mut self) {
        let config = self.config;
        for (name, path) in &config.path {
            let key = |k: &str| format!("path.{name}.{k}");
            let sources = path.source.as_slice();
            for (index, source) in sources.iter().enumerate() {
                let at = format!("path.{name}.source[{index}]");
                let at = if self.is_set(&at) { at } else { key("source") };
                self.refers(&at, "source", source);
            }
            for (index, source) in sources.iter().enumerate() {
                if sources[..index].contains(source) {
                    let at = format!("path.{name}.source[{index}]");
                    self.error(at, format!("`{source}` is listed twice"));
                }
            }
            let mut seen = BTreeSet::new();
            for (index, extractor) in path.extractors.iter().enumerate() {
                let at = format!("path.{name}.extractors[{index}]");
                self.refers(&at, "extractor", extractor);
                if !seen.insert(extractor) {
                    self.error(at, format!("`{extractor}` is listed twice"));
                }
            }
            self.refers(&key("fusion"), "fusion", &path.fusion);
            self.window(name, path);
        }
    }

    fn window(&mut self, name: &Name, path: &PathConfig) {
        let Auto::Value(window) = path.window_ms else {
            return;
        };
        let longest = path
            .extractors
            .iter()
            .map(|e| {
                let chain = chain_ms(self.config, e.as_str(), &mut BTreeMap::new());
                (chain, e)
            })
            .max();
        if let Some((chain, extractor)) = longest
            && window < chain
        {
            self.warning(
                format!("path.{name}.window_ms"),
                format!("{window} is smaller than the time-outs of `{extractor}` and what it depends on ({chain} or more): late observations will miss their frame"),
            )
            .hint = Some("\"auto\" waits as long as the time-outs allow".to_owned());
        }
    }

    fn observability(&mut self) {
        let config = &self.config.observability;
        match (config.level, config.sink.is_empty()) {
            (TraceLevel::Off, false) => {
                self.warning(
                    "observability.sink",
                    "no sink gets a record: level is \"off\"",
                )
                .hint = Some("set level to minimal, normal or verbose".to_owned());
            }
            // Sinks that were cut out as faulty are told already.
            (level, true) if level != TraceLevel::Off && !self.is_set("observability.sink") => {
                self.warning("observability.level", "has no effect: there is no sink")
                    .hint = Some(
                    "for example:\n[[observability.sink]]\nkind = \"file\"\npath = \"trace.jsonl\""
                        .to_owned(),
                );
            }
            _ => {}
        }
        let mut files = BTreeSet::new();
        for (index, sink) in config.sink.iter().enumerate() {
            let key = |k: &str| format!("observability.sink[{index}].{k}");
            if sink.kind != SinkKind::File {
                for k in ["path", "max_bytes"] {
                    if self.is_set(&key(k)) {
                        self.warning(key(k), "has no effect: only a file has it");
                    }
                }
                continue;
            }
            let Some(path) = &sink.path else {
                // One that was cut out as faulty is told already.
                if !self.is_set(&key("path")) {
                    self.error(
                        format!("observability.sink[{index}]"),
                        "a file needs a path",
                    )
                    .hint = Some("for example: path = \"trace.jsonl\"".to_owned());
                }
                continue;
            };
            let leaves = path.components().any(|c| c == Component::ParentDir);
            if path.file_name().is_none() || (path.is_relative() && leaves) {
                self.error(
                    key("path"),
                    format!("expected a file below the trace directory, got {path:?}"),
                )
                .hint = Some("an absolute path may be anywhere".to_owned());
            } else if !files.insert(path) {
                self.error(key("path"), "an earlier sink writes this file");
            }
        }
    }

    fn fusions(&mut self) {
        let config = self.config;
        for (name, fusion) in &config.fusion {
            let Some(rules) = fusion.rules() else {
                // Whether a plugin of this name is registered is not known here.
                let near = nearest(&fusion.plugin, [RULES]);
                if !near.is_empty() {
                    let key = format!("fusion.{name}.plugin");
                    let origin = self.origin(&key);
                    let message = format!("there is no fusion plugin `{}`", fusion.plugin);
                    let found = Diagnostic::error(&origin, key, message).did_you_mean(&near);
                    self.push(found);
                }
                continue;
            };
            let list = [
                Step::Key("fusion".into()),
                Step::Key(name.to_string()),
                Step::Key("config".into()),
                Step::Key("rule".into()),
            ];
            let empty = match self.tree.at(&list).map(|n| &n.value) {
                None => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if empty {
                self.error(
                    format!("fusion.{name}.config.rule"),
                    "expected at least one rule, got none",
                )
                .hint = Some(format!(
                    "for example:\n[[fusion.{name}.config.rule]]\nlabel = \"visitor\"\nwhen = \"person.count >= 1\"\nfor_ms = 700\npre_s = 3.0"
                ));
            }
            self.rules(name, rules);
            self.tests(name, rules);
        }
    }

    fn mqtt(&mut self) {
        let mqtt = &self.config.mqtt;
        if let Err(message) = check_mqtt_url(&mqtt.url) {
            self.error("mqtt.url", message);
        }
        let prefix = &mqtt.prefix;
        let bad = prefix.is_empty()
            || prefix.starts_with(['/', '$'])
            || prefix.ends_with('/')
            || prefix.len() > 200
            || prefix.contains(['+', '#'])
            || prefix.chars().any(|c| c.is_control() || c.is_whitespace());
        if bad {
            self.error(
                "mqtt.prefix",
                format!("{prefix:?} can't begin a topic: expected text without +, #, spaces, a leading / or $, or a trailing /"),
            );
        }
        if mqtt.password_file.is_some() && mqtt.username.is_none() {
            self.error("mqtt.password_file", "a password needs a user name")
                .hint = Some("add `username`".to_owned());
        }
    }
}

/// The circle of `depends` that leads from `start` back to it, told once: from its first name.
fn circle_from(config: &Config, start: &Name) -> Option<String> {
    fn search<'a>(
        config: &'a Config,
        at: &Name,
        start: &Name,
        seen: &mut BTreeSet<&'a Name>,
        way: &mut Vec<&'a Name>,
    ) -> bool {
        let Some(extractor) = config.extractor.get(at) else {
            return false;
        };
        config.needs_of(extractor).into_iter().any(|dep| {
            if dep == start {
                return true;
            }
            // Circles that hold an earlier name are told from there.
            if dep < start || !seen.insert(dep) {
                return false;
            }
            way.push(dep);
            let found = search(config, dep, start, seen, way);
            if !found {
                way.pop();
            }
            found
        })
    }
    let mut way = Vec::new();
    search(config, start, start, &mut BTreeSet::new(), &mut way).then(|| {
        let names: Vec<&str> = std::iter::once(start)
            .chain(way)
            .chain(std::iter::once(start))
            .map(Name::as_str)
            .collect();
        names.join(" → ")
    })
}

/// The least the time-outs of an extractor and all before it add up to, milliseconds. `known`
/// holds what was found before, and 0 for those on the way (a circle is reported elsewhere).
fn chain_ms<'a>(config: &'a Config, name: &'a str, known: &mut BTreeMap<&'a str, u64>) -> u64 {
    if let Some(ms) = known.get(name) {
        return *ms;
    }
    let Some(extractor) = config.extractor.get(name) else {
        return 0;
    };
    known.insert(name, 0);
    let inline = extractor.isolation.unwrap_or(config.isolation.default) == Isolation::Inline;
    let own = match extractor.timeout_ms {
        _ if inline => 0,
        Auto::Value(ms) => ms,
        Auto::Auto => AUTO_TIMEOUT_MIN_MS,
    };
    let before = config
        .needs_of(extractor)
        .into_iter()
        .map(|dep| chain_ms(config, dep.as_str(), known))
        .max()
        .unwrap_or(0);
    let sum = own.saturating_add(before);
    known.insert(name, sum);
    sum
}

/// Checks the broker's address: the publisher's own reading of it, and no secrets.
fn check_mqtt_url(url: &str) -> Result<(), String> {
    // That TLS is not built yet is told by `not_built`.
    if url == crate::broker::OFF || url.starts_with("mqtts://") {
        return Ok(());
    }
    if url.contains('@') {
        // Not quoted: what stands there is a secret.
        return Err(
            "a user name or password in the URL: write them as mqtt.username and mqtt.password_file"
                .to_owned(),
        );
    }
    // Its text names the key, and so does the finding.
    visualpath_mqtt::parse_url(url).map(drop).map_err(|e| {
        let text = e.to_string();
        text.strip_prefix("mqtt.url: ")
            .map_or_else(|| text.clone(), str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_urls_are_told_apart() {
        for good in [
            "mqtt://127.0.0.1:1883",
            "mqtt://broker",
            "embedded://127.0.0.1:0",
            "mqtt://[::1]:1883",
            "mqtt://[::1]",
        ] {
            if good.starts_with("mqtt:") || cfg!(feature = "embedded-broker") {
                assert_eq!(check_mqtt_url(good), Ok(()), "{good}");
            }
        }
        for bad in [
            "",
            "mqtt",
            "mqtt://",
            "mqtt://:1883",
            "http://b",
            "mqtt://b:0",
            "mqtt://b:70000",
            "mqtt://b:x",
            "mqtt://b/x",
            "mqtt://[::1",
            "mqtt://a b",
        ] {
            assert!(check_mqtt_url(bad).is_err(), "{bad}");
        }
        let secret = check_mqtt_url("mqtt://u:hunter2@b").unwrap_err();
        assert!(!secret.contains("hunter2"));
    }
}
