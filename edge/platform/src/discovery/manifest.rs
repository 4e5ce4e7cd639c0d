//! `plugin.toml`: what a plugin folder says of itself.
//!
//! It is read strictly: a key nobody knows is an error, because a misspelt `isolation` would
//! otherwise weaken what the author asked for in silence. All that is wrong comes out at once, each
//! at its line and column.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Access, access};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use visualpath_core::{Filter, Fit, Name, ViewFormat, ViewSpec, nearest};
use visualpath_protocol::PROTOCOL;
use visualpath_protocol::bounds::MAX_SIGNALS;

use crate::discovery::{
    DiscoveryError, External, Finding, Kind, Launch, entry_points, files, matrix,
};
use crate::registry::Origin;
use crate::worker::Isolation;

/// Largest manifest read; a real one has 300 bytes.
const MAX_BYTES: u64 = 64 << 10;
/// Longest text of a value.
const MAX_TEXT: usize = 256;
/// Longest name: it is part of file names.
const MAX_NAME: usize = 64;
/// Most arguments of a program.
const MAX_ARGS: usize = 64;
/// Largest side of a view.
const MAX_SIDE: i64 = 8192;
/// Address space for the TOML parser, which recurses: it bounds nesting and dotted keys to 80 each,
/// but not their product. Only what it uses becomes memory.
const PARSER_STACK_BYTES: usize = 64 << 20;

const TOP: &[&str] = &[
    "name",
    "version",
    "kind",
    "protocol",
    "isolation",
    "exec",
    "args",
    "entry_point",
    "input",
    "output",
];
const INPUT: &[&str] = &["format", "width", "height", "fit", "filter"];
const OUTPUT: &[&str] = &["signals"];

/// The plugin's name, as far as it could be read, and why it can't be used.
pub type Refused = (Option<String>, DiscoveryError);

/// Reads a manifest and checks that what it names is there.
pub fn read(file: &Path) -> Result<External, Refused> {
    let unread = |message: String| {
        let path = file.to_owned();
        (None, DiscoveryError::Read { path, message })
    };
    let text = files::text(file, MAX_BYTES).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            unread("there is none; every plugin folder needs a plugin.toml".to_owned())
        }
        _ => unread(e.to_string()),
    })?;
    let (name, read) = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("manifest-parse".to_owned())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, || parse(file, &text))
            .map_err(|e| unread(format!("no thread to read it on: {e}")))?
            .join()
            .map_err(|_| unread("the TOML parser failed on it".to_owned()))
    })?;
    read.map_err(|findings| (name, DiscoveryError::Manifest(findings)))
}

/// The name is given also when the rest is wrong, so that whoever asks for the plugin is told.
pub fn parse(file: &Path, text: &str) -> (Option<String>, Result<External, Vec<Finding>>) {
    let mut places = Places {
        file,
        text,
        findings: Vec::new(),
    };
    let external = match DeTable::parse(text) {
        Ok(table) => external(&mut places, table.get_ref()),
        Err(e) => {
            let at = e.span().map_or(0, |span| span.start);
            places.find(at, "", e.message().to_owned());
            return (None, Err(places.findings));
        }
    };
    match external {
        (name, Some(external)) if places.findings.is_empty() => (name, Ok(external)),
        (name, _) => {
            places.findings.sort_by_key(|f| (f.line, f.column));
            (name, Err(places.findings))
        }
    }
}

fn external(places: &mut Places<'_>, table: &DeTable<'_>) -> (Option<String>, Option<External>) {
    let mut top = Section::new(places, table, "", 0, TOP);
    let name = top.name();
    let version = top.needed("version", Section::text);
    let kind = top.needed("kind", |s, key| {
        s.word(
            key,
            &[("extractor", Kind::Extractor), ("fusion", Kind::Fusion)],
        )
    });
    top.protocol();
    let args = top.strings("args", MAX_ARGS).unwrap_or_default();
    let launch = top.launch(args);
    let isolation = top.word("isolation", &ISOLATIONS);
    let input_at = top.at("input");
    let input = top.table("input", INPUT).map(|mut input| input.view());
    let output = top.table("output", OUTPUT);
    let signals = output.and_then(|mut s| s.strings("signals", MAX_SIGNALS));
    if let (Some(Kind::Fusion), Some(at)) = (kind, input_at) {
        let message = "a fusion is given observations, not frames".to_owned();
        places.find(at, "input", message);
    }
    let known = name.as_ref().map(|name| name.as_str().to_owned());
    let (Some(name), Some(version), Some(kind), Some(launch)) = (name, version, kind, launch)
    else {
        return (known, None);
    };
    let mut external = External {
        name: name.as_str().to_owned(),
        version,
        kind,
        origin: Origin::Manifest(places.file.to_owned()),
        isolation: match launch {
            Launch::Exec { .. } => Isolation::Process,
            Launch::Python { .. } => Isolation::Venv,
        },
        launch,
        input,
        signals: signals.unwrap_or_default(),
        dir: places.folder(),
    };
    if let Some(isolation) = isolation {
        external.isolation = isolation;
        if let Err(why) = matrix::allowed_of(&external, isolation) {
            let at = offset(table, "isolation");
            places.find(at, "isolation", why);
        }
    }
    (known, Some(external))
}

const ISOLATIONS: [(&str, Isolation); 4] = [
    ("inline", Isolation::Inline),
    ("thread", Isolation::Thread),
    ("process", Isolation::Process),
    ("venv", Isolation::Venv),
];

/// Byte offset of a key's value; the top if it is not there.
fn offset(table: &DeTable<'_>, key: &str) -> usize {
    table.get(key).map_or(0, |value| value.span().start)
}

/// Collects findings with their places.
struct Places<'t> {
    file: &'t Path,
    text: &'t str,
    findings: Vec<Finding>,
}

impl Places<'_> {
    fn find(&mut self, offset: usize, key: &str, message: String) -> &mut Finding {
        let before = self.text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let count = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        self.findings.push(Finding {
            file: self.file.to_owned(),
            line: count(before.matches('\n').count()),
            column: count(before[line_start..].chars().count()),
            key: key.to_owned(),
            message,
            hint: None,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// The plugin's folder without links.
    fn folder(&self) -> Option<PathBuf> {
        self.file.parent()?.canonicalize().ok()
    }
}

/// One table of the manifest. Reading a key that is wrong leaves a finding and gives `None`.
struct Section<'s, 't, 'd> {
    places: &'s mut Places<'t>,
    table: &'d DeTable<'d>,
    name: &'static str,
    at: usize,
}

impl<'s, 't, 'd> Section<'s, 't, 'd> {
    fn new(
        places: &'s mut Places<'t>,
        table: &'d DeTable<'d>,
        name: &'static str,
        at: usize,
        known: &[&str],
    ) -> Self {
        let section = Self {
            places,
            table,
            name,
            at,
        };
        for key in table.keys() {
            let word: &str = key.get_ref();
            if known.contains(&word) {
                continue;
            }
            let near = nearest(&word.to_lowercase(), known.iter().copied());
            let hint = if near.is_empty() {
                format!("known keys: {}", known.join(", "))
            } else {
                format!("did you mean `{}`?", near.join("` or `"))
            };
            let path = section.path(&short(word));
            let message = "unknown key".to_owned();
            let finding = section.places.find(key.span().start, &path, message);
            finding.hint = Some(hint);
        }
        section
    }

    fn path(&self, key: &str) -> String {
        match self.name {
            "" => key.to_owned(),
            section => format!("{section}.{key}"),
        }
    }

    fn at(&self, key: &str) -> Option<usize> {
        self.table.get(key).map(|value| value.span().start)
    }

    fn get(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.get(key)
    }

    fn wrong(&mut self, key: &str, message: String) -> &mut Finding {
        let at = self.at(key).unwrap_or(self.at);
        let path = self.path(key);
        self.places.find(at, &path, message)
    }

    /// Reads a key that has to be there.
    fn needed<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            self.wrong(key, "missing".to_owned());
            return None;
        }
        read(self, key)
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let fault = match value.get_ref() {
            DeValue::String(text) if text.is_empty() => "expected some text, got none".to_owned(),
            DeValue::String(text) => match unfit(text) {
                None => return Some(text.clone().into_owned()),
                Some(why) => why,
            },
            other => format!("expected a string, got {}", describe(other)),
        };
        self.wrong(key, fault);
        None
    }

    fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(&text.to_lowercase(), known.iter().copied());
        let hint = (!near.is_empty()).then(|| format!("did you mean `{}`?", near.join("` or `")));
        let message = format!("expected one of `{}`, got {text:?}", known.join("`, `"));
        self.wrong(key, message).hint = hint;
        None
    }

    fn integer(&mut self, key: &'static str, from: i64, to: i64) -> Option<i64> {
        let value = self.get(key)?;
        let fault = match value.get_ref() {
            DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
                Ok(i) if (from..=to).contains(&i) => return Some(i),
                _ => i.to_string(),
            },
            other => describe(other),
        };
        let message = format!("expected an integer from {from} to {to}, got {fault}");
        self.wrong(key, message);
        None
    }

    fn strings(&mut self, key: &'static str, most: usize) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let message = format!(
                "expected a list of strings, got {}",
                describe(value.get_ref())
            );
            self.wrong(key, message);
            return None;
        };
        if items.len() > most {
            let message = format!("expected at most {most} strings, got {}", items.len());
            self.wrong(key, message);
            return None;
        }
        let mut strings: Vec<String> = Vec::new();
        for item in items {
            let fault = match item.get_ref() {
                DeValue::String(text) if strings.iter().any(|s| s == text) && key == "signals" => {
                    format!("{text:?} is there twice")
                }
                DeValue::String(text) => match unfit(text) {
                    None => {
                        strings.push(text.clone().into_owned());
                        continue;
                    }
                    Some(why) => why,
                },
                other => format!("expected a string, got {}", describe(other)),
            };
            let path = self.path(key);
            self.places.find(item.span().start, &path, fault);
            return None;
        }
        Some(strings)
    }

    fn table(&mut self, key: &'static str, known: &[&str]) -> Option<Section<'_, 't, 'd>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                let at = value.span().start;
                Some(Section::new(self.places, table, key, at, known))
            }
            other => {
                let message = format!("expected a table, got {}", describe(other));
                self.wrong(key, message);
                None
            }
        }
    }

    fn name(&mut self) -> Option<Name> {
        let text = self.needed("name", Self::text)?;
        let fault = match Name::from_str(&text) {
            Ok(name) if text.len() <= MAX_NAME => return Some(name),
            Ok(_) => format!("expected at most {MAX_NAME} bytes, got {}", text.len()),
            Err(e) => e.to_string(),
        };
        self.wrong("name", fault);
        None
    }

    fn protocol(&mut self) {
        let most = i64::from(PROTOCOL);
        let Some(spoken) = self.needed("protocol", |s, key| s.integer(key, 0, i64::from(u32::MAX)))
        else {
            return;
        };
        if spoken != most {
            let message =
                format!("expected {most}, the protocol this program speaks, got {spoken}");
            let finding = self.wrong("protocol", message);
            finding.hint = Some(
                match spoken > most {
                    true => "update visualpath, or take an older version of the plugin",
                    false => "take a newer version of the plugin",
                }
                .to_owned(),
            );
        }
    }

    fn launch(&mut self, args: Vec<String>) -> Option<Launch> {
        match (
            self.get("exec").is_some(),
            self.get("entry_point").is_some(),
        ) {
            (true, false) => {
                let exec = self.text("exec")?;
                match program(self.places.file, &exec) {
                    Ok(program) => Some(Launch::Exec { program, args }),
                    Err(why) => {
                        self.wrong("exec", why);
                        None
                    }
                }
            }
            (false, true) => {
                let entry_point = self.text("entry_point")?;
                if self.get("args").is_some() {
                    let message = "only a program (`exec`) is given arguments".to_owned();
                    self.wrong("args", message);
                }
                match entry_points::object(&entry_point) {
                    Ok(()) => Some(Launch::Python { entry_point }),
                    Err(why) => {
                        self.wrong("entry_point", why);
                        None
                    }
                }
            }
            (true, true) => {
                let message = "there is `exec` too, and a plugin is one or the other".to_owned();
                self.wrong("entry_point", message);
                None
            }
            (false, false) => {
                let message = "missing: expected the plugin's program".to_owned();
                self.wrong("exec", message).hint = Some(
                    "add `exec = \"bin/…\"`, or `entry_point = \"package.module:Class\"` for Python"
                        .to_owned(),
                );
                None
            }
        }
    }

    fn view(&mut self) -> ViewSpec {
        let formats = [
            ("native", Some(ViewFormat::Native)),
            ("rgb", Some(ViewFormat::Rgb)),
            ("bgr", Some(ViewFormat::Bgr)),
            ("grey", Some(ViewFormat::Grey)),
            ("nv12", None),
        ];
        let format = self.word("format", &formats);
        if format == Some(None) {
            let message = "`nv12` is not in this build yet".to_owned();
            let finding = self.wrong("format", message);
            finding.hint = Some("there is: native, rgb, bgr, grey".to_owned());
        }
        let width = self.integer("width", 1, MAX_SIDE);
        let height = self.integer("height", 1, MAX_SIDE);
        for (one, other) in [("width", "height"), ("height", "width")] {
            if self.get(one).is_some() && self.get(other).is_none() {
                let message = format!("there is no `{other}`");
                self.wrong(one, message).hint =
                    Some("give both, or neither for full size".to_owned());
            }
        }
        let fits = [("stretch", Fit::Stretch), ("letterbox", Fit::Letterbox)];
        let filters = [("bilinear", Filter::Bilinear), ("area", Filter::Area)];
        let side = |side: Option<i64>| u32::try_from(side?).ok();
        ViewSpec {
            format: format.flatten().unwrap_or_default(),
            size: side(width).zip(side(height)),
            fit: self.word("fit", &fits).unwrap_or_default(),
            filter: self.word("filter", &filters).unwrap_or_default(),
        }
    }
}

/// The program a manifest names, without links: inside the plugin's folder and executable. So a
/// manifest can't make the appliance run what its folder did not bring.
fn program(manifest: &Path, exec: &str) -> Result<PathBuf, String> {
    let inside = "expected a file inside the plugin's folder";
    if !Path::new(exec)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!("{inside}, got {exec:?}"));
    }
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {exec} in the plugin's folder"),
        _ => format!("{exec}: {e}"),
    };
    let folder = folder.canonicalize().map_err(unreadable)?;
    let program = folder.join(exec).canonicalize().map_err(unreadable)?;
    if !program.starts_with(&folder) {
        return Err(format!(
            "{inside}, but {exec} leads to {}",
            program.display()
        ));
    }
    let what = program.metadata().map_err(unreadable)?;
    if !what.is_file() {
        return Err(format!("{inside}, but {exec} is none"));
    }
    access(&program, Access::EXEC_OK)
        .map_err(|_| format!("{exec} is not executable; chmod +x {}", program.display()))?;
    Ok(program)
}

/// Why a text can't be a value.
fn unfit(text: &str) -> Option<String> {
    if text.len() > MAX_TEXT {
        return Some(format!(
            "expected at most {MAX_TEXT} bytes, got {}",
            text.len()
        ));
    }
    let control = text.chars().find(|c| c.is_control());
    control.map(|c| format!("expected text without control characters, got {c:?} in it"))
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", short(text)),
        DeValue::Integer(i) => short(i.as_str()),
        DeValue::Float(f) => short(f.as_str()),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => format!("the date {d}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
