//! A crate's public API as lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use public_api::{Builder, PublicApi, PublicItem};
use serde_json::Value;

/// Follows a struct all of whose fields can be given by an app.
pub const ALL_FIELDS: &str = " // all fields public";
/// Follows a trait's method without a body.
pub const REQUIRED: &str = " // required";

/// A package's API at a version.
pub struct Listing {
    pub package: String,
    pub version: String,
    pub lines: Vec<String>,
}

impl Listing {
    /// Of the crate `name`, with what it hands on of the other crates of this repository.
    pub fn of_crate(dir: &Path, package: &str, name: &str) -> Self {
        let own = Documented::read(dir, name);
        let mut lines = own.lines(|_| true);
        for (other, paths) in own.handed_on() {
            // Promised by itself.
            if other == "visualpath_core" {
                continue;
            }
            let other = Documented::read(dir, &other);
            let roots: Vec<u64> = paths.iter().filter_map(|p| other.id_of(p)).collect();
            lines.extend(other.lines(|id| roots.contains(&id)));
        }
        Self {
            package: package.to_owned(),
            version: own.json["crate_version"].as_str().unwrap().to_owned(),
            lines,
        }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, rest) = text.split_once('\n').ok_or("it is empty")?;
        let mut words = head
            .strip_prefix("# ")
            .ok_or("expected `# package version`")?
            .split(' ');
        let mut word = || {
            words
                .next()
                .map(str::to_owned)
                .ok_or("expected `# package version`")
        };
        Ok(Self {
            package: word()?,
            version: word()?,
            lines: rest.lines().map(str::to_owned).collect(),
        })
    }

    pub fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let head = format!("# {} {} (by cross/api.sh)", self.package, self.version);
        std::fs::write(path, format!("{head}\n{}\n", self.lines.join("\n"))).unwrap();
        println!("{}: {} lines", path.display(), self.lines.len());
    }
}

/// One crate's rustdoc JSON, and the items in it that an app can name.
struct Documented {
    json: Value,
    api: PublicApi,
    parents: BTreeMap<u64, u64>,
}

impl Documented {
    fn read(dir: &Path, name: &str) -> Self {
        let path = dir.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}: run cross/api.sh", path.display()));
        let api = Builder::from_rustdoc_json(&path)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .build()
            .unwrap();
        let parents = api
            .items()
            .filter_map(|i| Some((id(i), u64::from(i.parent_id()?.0))))
            .collect();
        Self {
            json: serde_json::from_str(&text).unwrap(),
            api,
            parents,
        }
    }

    /// The lines of every item that is, or belongs to, a wanted one; each once, type by type.
    fn lines(&self, wanted: impl Fn(u64) -> bool) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.api
            .items()
            .filter(|item| {
                let up = std::iter::successors(Some(id(item)), |id| self.parents.get(id).copied());
                up.take(10).any(&wanted)
            })
            .filter_map(|item| self.line(item))
            .filter(|line| seen.insert(line.clone()))
            .collect()
    }

    fn line(&self, item: &PublicItem) -> Option<String> {
        let inner = self.inner(id(item));
        let parent = item.parent_id().map(|p| self.inner(p.0.into()));
        // `impl Clone for X` says all there is to say of `X::clone`.
        if parent.is_some_and(|p| !p["impl"]["trait"].is_null()) {
            return None;
        }
        let mut line = item.to_string();
        // The compiler's own mark.
        if line.contains("core::marker::StructuralPartialEq for ") {
            return None;
        }
        let fields = &inner["struct"]["kind"];
        let all = fields["plain"]["has_stripped_fields"] == Value::Bool(false)
            || fields["tuple"]
                .as_array()
                .is_some_and(|f| !f.iter().any(Value::is_null));
        if all {
            line.push_str(ALL_FIELDS);
        }
        let in_trait = parent.is_some_and(|p| !p["trait"].is_null());
        if in_trait && inner["function"]["has_body"] == Value::Bool(false) {
            line.push_str(REQUIRED);
        }
        Some(line)
    }

    fn inner(&self, id: u64) -> &Value {
        &self.json["index"][id.to_string()]["inner"]
    }

    /// Canonical paths of what is re-exported from other crates of ours, by crate.
    fn handed_on(&self) -> BTreeMap<String, BTreeSet<Vec<String>>> {
        let mut all: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
        let own = self.json["index"][self.json["root"].to_string()]["name"]
            .as_str()
            .unwrap();
        for item in self.json["index"].as_object().unwrap().values() {
            let place = &self.json["paths"][item["inner"]["use"]["id"].to_string()]["path"];
            let path: Vec<String> = serde_json::from_value(place.clone()).unwrap_or_default();
            if let Some(name) = path.first()
                && name.starts_with("visualpath")
                && name != own
            {
                all.entry(name.clone()).or_default().insert(path);
            }
        }
        all
    }

    /// The item at a canonical path of this crate.
    fn id_of(&self, path: &[String]) -> Option<u64> {
        let paths = self.json["paths"].as_object().unwrap();
        let found = paths.iter().find(|(_, p)| {
            p["crate_id"] == 0
                && p["path"].as_array().is_some_and(|p| {
                    p.iter()
                        .map(Value::as_str)
                        .eq(path.iter().map(|s| Some(s.as_str())))
                })
        });
        found.and_then(|(id, _)| id.parse().ok())
    }
}

fn id(item: &PublicItem) -> u64 {
    item.id().0.into()
}
