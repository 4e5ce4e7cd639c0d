//! Keys the config already has but this build can't serve yet.
//!
//! Their names are fixed (docs/reference/config.md), so a config that uses one is told so instead
//! of being ignored in silence. When a feature arrives, its lines here go.

use super::diagnostic::{Diagnostic, Severity};
use super::tree::{Node, Value, join};

/// When a key counts as used.
#[derive(Debug, Clone, Copy)]
pub enum Use {
    /// Whatever its value.
    Set,
    /// With one of these values (`true` stands for the boolean).
    Is(&'static [&'static str]),
    /// With a value that begins so.
    StartsWith(&'static [&'static str]),
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct NotBuilt {
    /// The key; `*` is any name, `[]` any item.
    pub key: &'static str,
    /// When.
    pub used: Use,
    /// An error where the appliance would do something else than asked, a warning where a thing
    /// is merely absent.
    pub severity: Severity,
    /// What there is instead.
    pub instead: &'static str,
}

const fn row(key: &'static str, used: Use, severity: Severity, instead: &'static str) -> NotBuilt {
    NotBuilt {
        key,
        used,
        severity,
        instead,
    }
}

use Severity::{Error, Note, Warning};
use Use::{Is, Set, StartsWith};

const NO_EFFECT: &str = "it has no effect";

/// What is missing in this build.
pub const NOT_BUILT: &[NotBuilt] = &[
    row(
        "mqtt.url",
        StartsWith(&["mqtts://"]),
        Error,
        "there is: mqtt://, embedded://",
    ),
    row("mqtt.homeassistant", Is(&["true"]), Warning, NO_EFFECT),
    #[cfg(not(feature = "web"))]
    row("web.listen", Set, Warning, NO_EFFECT),
    #[cfg(not(feature = "web"))]
    row("web.token_file", Set, Warning, NO_EFFECT),
    row("ota.repository", Set, Warning, NO_EFFECT),
    row("ota.auto", Is(&["true"]), Warning, NO_EFFECT),
];

/// Reports every use of what is not built.
pub fn report(root: &Node, out: &mut Vec<Diagnostic>) {
    for row in NOT_BUILT {
        let steps: Vec<&str> = row.key.split('.').collect();
        visit(root, &steps, "", row, out);
    }
}

fn visit(node: &Node, steps: &[&str], path: &str, row: &NotBuilt, out: &mut Vec<Diagnostic>) {
    let Some((step, rest)) = steps.split_first() else {
        judge(node, path, row, out);
        return;
    };
    let Value::Table(table) = &node.value else {
        return;
    };
    let (step, each) = match step.strip_suffix("[]") {
        Some(step) => (step, true),
        None => (*step, false),
    };
    for (key, entry) in table {
        if step != "*" && step != key {
            continue;
        }
        let path = join(path, key);
        match &entry.node.value {
            Value::Array(items) if each => {
                for (index, item) in items.iter().enumerate() {
                    visit(item, rest, &format!("{path}[{index}]"), row, out);
                }
            }
            _ if each => {}
            _ => visit(&entry.node, rest, &path, row, out),
        }
    }
}

fn judge(node: &Node, path: &str, row: &NotBuilt, out: &mut Vec<Diagnostic>) {
    let text = match &node.value {
        Value::String { text, .. } => text.clone(),
        Value::Bool(b) => b.to_string(),
        _ => String::new(),
    };
    let what = match row.used {
        Set => "is".to_owned(),
        Is(words) => match words.iter().find(|w| **w == text) {
            Some(word) => format!("`{word}` is"),
            None => return,
        },
        StartsWith(starts) => match starts.iter().find(|s| text.starts_with(**s)) {
            Some(start) => format!("`{start}…` is"),
            None => return,
        },
    };
    let message = format!("{what} not in this build yet");
    out.push(
        match row.severity {
            Error => Diagnostic::error(&node.origin, path, message),
            Warning => Diagnostic::warning(&node.origin, path, message),
            Note => Diagnostic::note(&node.origin, path, message),
        }
        .hint(row.instead),
    );
}
