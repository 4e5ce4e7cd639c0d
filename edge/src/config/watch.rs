//! `[watch.<name>]`: a thing to watch for, in one short section instead of four.
//!
//! ```text
//! [watch.person]        ┌▶ [extractor.objects]  one for all classes, of all sources
//! [watch.car]       ────┼▶ [extractor.motion]   for motion
//! [watch.motion]        └▶ [path.cam0], [fusion.cam0]  one of each per source, a rule per watch
//! ```
//!
//! The hard idea: a watch is replaced on the tree, before any check, and every key it makes stands
//! where the watch stands. So all checks hold for it, their findings name the watch's line, and
//! nothing behind the config knows that there was a watch.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use visualpath_core::{Name, class_slug, nearest};

use super::conform::{conform_part, names};
use super::diagnostic::Diagnostic;
use super::tree::{Entry, Node, Origin, Table, Value, parse_path};
use super::values::{OneOrMany, name, name_or_names};

/// The word for what moves, whatever it is.
const MOTION: &str = "motion";
/// The model that knows the classes.
const MODEL: &str = "ssd-oidv4";
/// Its card, for their names.
const CARD: &str = include_str!("../../../models/ssd-oidv4.toml");
/// The extractor of all classes.
const OBJECTS: &str = "objects";
/// How often objects are looked for, frames a second: what a small board can do.
const OBJECTS_FPS: i64 = 5;
/// Share of the picture (or zone) that must move.
const LEAST_MOTION: f64 = 0.01;
/// At [`OBJECTS_FPS`], two misses in a row belong to one stay of a thing, five to two.
const RELEASE_MS: u64 = 1000;

/// A thing to watch for. It becomes an extractor, a path and a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// What: a class of the default model (`person`, `car`, `dog` …), or `motion`. Default: the
    /// watch's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The source to watch, or a list of them. Default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name_or_names")]
    pub source: Option<OneOrMany<Name>>,
    /// Only in this zone. Default: the whole picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub zone: Option<Name>,
    /// It must be there this long without a break.
    #[serde(default = "for_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub for_ms: u64,
    /// Least confidence in a thing that counts, for all watches of classes alike. Default: the
    /// model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.99))]
    pub min_confidence: Option<f64>,
    /// The clip starts this long before it came.
    #[serde(default = "pre_s")]
    #[schemars(range(min = 0, max = 600))]
    pub pre_s: f64,
    /// The clip ends this long after.
    #[serde(default = "post_s")]
    #[schemars(range(min = 0, max = 600))]
    pub post_s: f64,
    /// Whether a clip is made.
    #[serde(default = "clip")]
    pub clip: bool,
    /// No second trigger within this time after one.
    #[serde(default = "cooldown_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub cooldown_ms: u64,
}

fn for_ms() -> u64 {
    500
}
fn pre_s() -> f64 {
    3.0
}
fn post_s() -> f64 {
    2.0
}
fn clip() -> bool {
    true
}
fn cooldown_ms() -> u64 {
    10_000
}

/// Classes of the default model by their names in a config, with the labels of its card.
fn classes() -> &'static BTreeMap<String, String> {
    static CLASSES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        // The card is part of this program, and a test reads it.
        let card: toml::Table = toml::from_str(CARD).unwrap_or_default();
        let labels = card
            .get("labels")
            .and_then(|l| l.get("names")?.as_array())
            .cloned()
            .unwrap_or_default();
        let background = card.get("ssd").and_then(|s| s.get("background"));
        let background = background.and_then(toml::Value::as_integer);
        (0..)
            .zip(&labels)
            .filter(|(index, _)| Some(*index) != background)
            .filter_map(|(_, label)| {
                Some((class_slug(label.as_str()?), label.as_str()?.to_lowercase()))
            })
            .collect()
    });
    &CLASSES
}

/// What is watched for.
enum Thing {
    Motion,
    /// The class's name in signals.
    Class(String),
}

/// A watch that is right.
struct Watch<'a> {
    name: &'a str,
    /// As written.
    node: &'a Node,
    config: WatchConfig,
    thing: Thing,
    sources: Vec<String>,
}

/// Replaces every `[watch]` of `root` by the sections it stands for. What is wrong with one is told,
/// and it is left out.
pub fn expand(root: &mut Node, out: &mut Vec<Diagnostic>) {
    let Value::Table(table) = &mut root.value else {
        return;
    };
    let Some(mut entry) = table.remove("watch") else {
        return;
    };
    if !conform_part(&mut entry.node, "watch", out) {
        return;
    }
    let written = entry.node.as_table().into_iter().flatten();
    let watches: Vec<Watch<'_>> = written
        .filter_map(|(name, entry)| Watch::read(name, &entry.node, root, out))
        .collect();
    let confidence = one_confidence(&watches, out);
    let sections = sections(&watches, confidence, root);
    let before = out.len();
    out.extend(sections.iter().filter_map(|section| section.taken(root)));
    // Half of what a watch makes would only bring more findings.
    if out.len() == before {
        for section in sections {
            section.put(root);
        }
    }
}

impl<'a> Watch<'a> {
    fn read(name: &'a str, node: &'a Node, root: &Node, out: &mut Vec<Diagnostic>) -> Option<Self> {
        let key = |k: &str| format!("watch.{name}.{k}");
        let config: WatchConfig = match serde_json::from_value(node.to_json()) {
            Ok(config) => config,
            Err(e) => {
                // Only if schema and type disagree; never silent.
                out.push(Diagnostic::error(
                    &node.origin,
                    format!("watch.{name}"),
                    e.to_string(),
                ));
                return None;
            }
        };
        let before = out.len();
        let thing = thing(name, node, out);
        let sources = sources(name, node, &config, root, out);
        if let Some(zone) = &config.zone {
            zone_lies_in(
                zone.as_str(),
                &sources,
                (&key("zone"), origin(node, "zone")),
                root,
                out,
            );
        }
        if matches!(thing, Some(Thing::Motion)) && config.min_confidence.is_some() {
            let at = origin(node, "min_confidence");
            let message = "nothing is recognised in motion, so there is no confidence in it";
            out.push(Diagnostic::error(at, key("min_confidence"), message).hint("remove it"));
        }
        let right = out.len() == before && !sources.is_empty();
        Some(Self {
            name,
            node,
            config,
            thing: thing?,
            sources,
        })
        .filter(|_| right)
    }

    /// Its rule, every key where it was written.
    fn rule(&self) -> Node {
        let (extractor, signal, least) = match &self.thing {
            Thing::Motion => (MOTION, "score".to_owned(), format!("> {LEAST_MOTION}")),
            Thing::Class(class) => (OBJECTS, format!("{class}_count"), ">= 1".to_owned()),
        };
        let when = match &self.config.zone {
            Some(zone) => format!("{extractor}[\"{signal}@{zone}\"] {least}"),
            None => format!("{extractor}.{signal} {least}"),
        };
        let rule = json!({
            "label": self.name,
            "when": when,
            "for_ms": self.config.for_ms,
            "release_ms": RELEASE_MS,
            "cooldown_ms": self.config.cooldown_ms,
            "pre_s": self.config.pre_s,
            "post_s": self.config.post_s,
            "clip": self.config.clip,
        });
        let mut rule = made(&rule, &self.node.origin);
        if let Value::Table(table) = &mut rule.value {
            for (key, entry) in table {
                let said = if key == "when" { "zone" } else { key };
                entry.node.origin = origin(self.node, said).clone();
            }
        }
        rule
    }
}

/// Where `key` of a watch stands, else the watch.
fn origin<'n>(node: &'n Node, key: &str) -> &'n Origin {
    node.get(key).map_or(&node.origin, |value| &value.origin)
}

/// A part of the tree, all of it at one place.
fn made(json: &serde_json::Value, origin: &Origin) -> Node {
    Node::from_json(json, origin).unwrap_or_else(|| Node::table(origin.clone()))
}

fn thing(name: &str, node: &Node, out: &mut Vec<Diagnostic>) -> Option<Thing> {
    let (key, asked) = match node.get("class").and_then(Node::as_str) {
        Some(class) => (format!("watch.{name}.class"), class),
        None => (format!("watch.{name}"), name),
    };
    let class = class_slug(asked);
    if class == MOTION {
        return Some(Thing::Motion);
    }
    if classes().contains_key(&class) {
        return Some(Thing::Class(class));
    }
    let known = || std::iter::once(MOTION).chain(classes().keys().map(String::as_str));
    let near = nearest(&class, known());
    let message = format!("`{asked}` is nothing that can be watched for");
    let mut found = Diagnostic::error(origin(node, "class"), key, message).did_you_mean(&near);
    if near.is_empty() {
        let all: Vec<&str> = known().collect();
        found = found.hint(format!("there is: {}", all.join(", ")));
    }
    out.push(found);
    None
}

/// The sources it watches; none if something is wrong with them.
fn sources(
    name: &str,
    node: &Node,
    config: &WatchConfig,
    root: &Node,
    out: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let known = names(root, "source");
    let key = format!("watch.{name}.source");
    let Some(asked) = &config.source else {
        if known.len() > 1 {
            let message = "missing: there are several sources";
            let found = Diagnostic::error(&node.origin, key, message);
            out.push(found.hint(format!(
                "write one of them, or a list: {}",
                known.join(", ")
            )));
        }
        // That there is none at all is told once, for the section.
        return match known.as_slice() {
            [only] => vec![(*only).to_owned()],
            _ => Vec::new(),
        };
    };
    if known.is_empty() {
        return Vec::new();
    }
    let mut sources: Vec<String> = Vec::new();
    for (index, source) in asked.as_slice().iter().enumerate() {
        let place = node.origin_of(&parse_path(&format!("source[{index}]")));
        if sources.iter().any(|s| source == s.as_str()) {
            out.push(Diagnostic::error(
                place,
                &key,
                format!("`{source}` is listed twice"),
            ));
        } else if known.contains(&source.as_str()) {
            sources.push(source.to_string());
        } else {
            let near = nearest(source.as_str(), known.iter().copied());
            let message = format!("there is no source `{source}`");
            let mut found = Diagnostic::error(place, &key, message).did_you_mean(&near);
            if near.is_empty() {
                found = found.hint(format!("there is: {}", known.join(", ")));
            }
            out.push(found);
        }
    }
    sources
}

fn zone_lies_in(
    zone: &str,
    sources: &[String],
    (key, place): (&str, &Origin),
    root: &Node,
    out: &mut Vec<Diagnostic>,
) {
    let known = names(root, "zone");
    let Some(node) = root.get("zone").and_then(|zones| zones.get(zone)) else {
        let near = nearest(zone, known.iter().copied());
        let message = format!("there is no zone `{zone}`");
        let mut found = Diagnostic::error(place, key, message).did_you_mean(&near);
        if near.is_empty() {
            found = found.hint(match known.as_slice() {
                [] => format!("write [zone.{zone}] with its source and polygon"),
                known => format!("there is: {}", known.join(", ")),
            });
        }
        out.push(found);
        return;
    };
    // One that is wrong itself is told where it stands.
    let Some(of) = node.get("source").and_then(Node::as_str) else {
        return;
    };
    if let Some(other) = sources.iter().find(|source| *source != of) {
        let message = format!("zone `{zone}` lies in source `{of}`, not in `{other}`");
        out.push(Diagnostic::error(place, key, message));
    }
}

/// The one `min_confidence`, with its place: all classes are found by one extractor.
fn one_confidence(watches: &[Watch<'_>], out: &mut Vec<Diagnostic>) -> Option<(f64, Origin)> {
    let mut one: Option<(f64, Origin)> = None;
    for watch in watches {
        let Some(least) = watch.config.min_confidence else {
            continue;
        };
        let place = origin(watch.node, "min_confidence");
        match &one {
            None => one = Some((least, place.clone())),
            #[expect(clippy::float_cmp, reason = "as written")]
            Some((first, at)) if *first != least => {
                let key = format!("watch.{}.min_confidence", watch.name);
                let message = format!(
                    "{least} here and {first} at {at}: all classes are found by one extractor"
                );
                let hint = "write the same, or write out an [extractor] for one of them";
                out.push(Diagnostic::error(place, key, message).hint(hint));
            }
            Some(_) => {}
        }
    }
    one
}

/// A section that watches stand for.
struct Section {
    section: &'static str,
    name: String,
    node: Node,
    /// The first watch that makes it.
    by: String,
}

impl Section {
    /// The section of this name that somebody wrote out.
    fn taken(&self, root: &Node) -> Option<Diagnostic> {
        let Self { section, name, .. } = self;
        let there = root.get(section)?.get(name)?;
        let message = format!(
            "makes [{section}.{name}], which is written at {} already",
            there.origin
        );
        let hint = format!("rename that [{section}.{name}], or write this watch out beside it");
        let key = format!("watch.{}", self.by);
        Some(Diagnostic::error(&self.node.origin, key, message).hint(hint))
    }

    fn put(self, root: &mut Node) {
        let place = self.node.origin.clone();
        let Value::Table(top) = &mut root.value else {
            return;
        };
        let entry = top.entry(self.section.to_owned()).or_insert_with(|| Entry {
            key: place.clone(),
            node: Node::table(place),
        });
        // One that is no table is told elsewhere.
        set(&mut entry.node, &self.name, self.node);
    }
}

fn sections(watches: &[Watch<'_>], confidence: Option<(f64, Origin)>, root: &Node) -> Vec<Section> {
    let mut sections = Vec::new();
    sections.extend(objects(watches, confidence, root));
    let moving = |w: &&Watch<'_>| matches!(w.thing, Thing::Motion);
    if let Some(first) = watches.iter().find(moving) {
        sections.push(Section {
            section: "extractor",
            name: MOTION.to_owned(),
            node: made(&json!({"plugin": MOTION}), &first.node.origin),
            by: first.name.to_owned(),
        });
    }
    let mut of_source: BTreeMap<&str, Vec<&Watch<'_>>> = BTreeMap::new();
    for watch in watches {
        for source in &watch.sources {
            of_source.entry(source).or_default().push(watch);
        }
    }
    for (source, watches) in of_source {
        sections.extend(path_and_fusion(source, &watches));
    }
    sections
}

/// The extractor of all classes that are watched for.
fn objects(
    watches: &[Watch<'_>],
    confidence: Option<(f64, Origin)>,
    root: &Node,
) -> Option<Section> {
    let mut wanted: Vec<Node> = Vec::new();
    let mut first = None;
    for watch in watches {
        let Thing::Class(class) = &watch.thing else {
            continue;
        };
        first.get_or_insert(watch);
        let label = classes().get(class)?;
        if !wanted.iter().any(|w| w.as_str() == Some(label)) {
            wanted.push(Node::string(
                label.as_str(),
                origin(watch.node, "class").clone(),
            ));
        }
    }
    let first = first?;
    let place = &first.node.origin;
    let mut node = made(
        &json!({"plugin": "object", "fps": OBJECTS_FPS, "config": {"model": MODEL}}),
        place,
    );
    let default = root
        .get("isolation")
        .and_then(|i| i.get("default")?.as_str());
    // It takes long, so it must not hold up the path; where all are kept farther away, so is it.
    if default != Some("process") {
        set(
            &mut node,
            "isolation",
            Node::string("thread", place.clone()),
        );
    }
    if let Value::Table(table) = &mut node.value
        && let Some(config) = table.get_mut("config")
    {
        let list = Node {
            value: Value::Array(wanted),
            origin: place.clone(),
        };
        set(&mut config.node, "classes", list);
        if let Some((least, at)) = confidence {
            let least = Node {
                value: Value::Float(least),
                origin: at,
            };
            set(&mut config.node, "threshold", least);
        }
    }
    Some(Section {
        section: "extractor",
        name: OBJECTS.to_owned(),
        node,
        by: first.name.to_owned(),
    })
}

fn set(node: &mut Node, key: &str, value: Node) {
    if let Value::Table(table) = &mut node.value {
        let key_origin = value.origin.clone();
        let entry = Entry {
            key: key_origin,
            node: value,
        };
        table.insert(key.to_owned(), entry);
    }
}

/// The path of a source, and its fusion with a rule per watch; both are called as the source is.
fn path_and_fusion(source: &str, watches: &[&Watch<'_>]) -> Vec<Section> {
    let Some(first) = watches.first() else {
        return Vec::new();
    };
    let place = &first.node.origin;
    let uses = |motion: bool| {
        watches
            .iter()
            .any(|w| matches!(w.thing, Thing::Motion) == motion)
    };
    let extractors: Vec<&str> = [(uses(false), OBJECTS), (uses(true), MOTION)]
        .into_iter()
        .filter_map(|(used, name)| used.then_some(name))
        .collect();
    let path = json!({"source": source, "extractors": extractors, "fusion": source});
    let rules = Node {
        value: Value::Array(watches.iter().map(|w| w.rule()).collect()),
        origin: place.clone(),
    };
    let mut config = Node {
        value: Value::Table(Table::new()),
        origin: place.clone(),
    };
    set(&mut config, "rule", rules);
    let mut fusion = made(&json!({"plugin": "rules"}), place);
    set(&mut fusion, "config", config);
    [("path", made(&path, place)), ("fusion", fusion)]
        .into_iter()
        .map(|(section, node)| Section {
            section,
            name: source.to_owned(),
            node,
            by: first.name.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_are_those_of_the_models_card() {
        let classes = classes();
        assert_eq!(classes["person"], "person");
        assert_eq!(classes["coffee_cup"], "coffee cup");
        assert_eq!(classes.len(), 23, "without the background: {classes:?}");
        assert!(CARD.contains(&format!("name = \"{MODEL}\"")));
    }

    #[test]
    fn defaults_are_those_of_the_type() {
        let empty: WatchConfig = serde_json::from_value(json!({})).unwrap();
        assert_eq!(
            (empty.for_ms, empty.cooldown_ms, empty.clip),
            (500, 10_000, true)
        );
    }
}
