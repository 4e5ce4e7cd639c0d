//! `${VAR}` and `${VAR:-default}` in the strings of files; `$$` is a dollar sign.
//!
//! A variable that is unset needs a default, an empty one takes it (as in a shell). Values of
//! environment overrides and arguments are taken as they are.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::tree::{Node, Origin, Value, join};

/// Expands every string of `node` that came from a file; what fails keeps its text.
pub fn expand(
    node: &mut Node,
    env: &BTreeMap<String, String>,
    path: &str,
    out: &mut Vec<Diagnostic>,
) {
    match &mut node.value {
        Value::String { text, written } if matches!(node.origin, Origin::File { .. }) => {
            match expand_text(text, env) {
                Ok(expanded) if expanded != *text => {
                    *written = Some(std::mem::replace(text, expanded));
                }
                Ok(_) => {}
                Err(message) => out.push(Diagnostic::error(&node.origin, path, message)),
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, env, &format!("{path}[{index}]"), out);
            }
        }
        Value::Table(table) => {
            for (key, entry) in table {
                expand(&mut entry.node, env, &join(path, key), out);
            }
        }
        _ => {}
    }
}

fn expand_text(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let Some((inside, after)) = inner.split_once('}') else {
                return Err(
                    "expected `}` after `${`; write `$${` for a dollar sign and a brace".to_owned(),
                );
            };
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            let mut chars = name.bytes();
            let form = chars
                .next()
                .is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
                && chars.all(|c| c.is_ascii_alphanumeric() || c == b'_');
            if !form {
                return Err(format!(
                    "expected the name of an environment variable in `${{…}}`, got `{name}`"
                ));
            }
            if default.is_some_and(|d| d.contains("${")) {
                return Err(format!(
                    "the default of `${{{name}:-…}}` can't hold another `${{`"
                ));
            }
            match (env.get(name), default) {
                (Some(value), None) => out.push_str(value),
                (Some(value), Some(_)) if !value.is_empty() => out.push_str(value),
                (_, Some(default)) => out.push_str(default),
                (None, None) => {
                    return Err(format!(
                        "the environment variable `{name}` is not set; set it, or write `${{{name}:-default}}`"
                    ));
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The text that expands to `text`.
pub fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_in_a_shell() {
        let env = BTreeMap::from([
            ("HOST".to_owned(), "b1".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        let good = [
            ("mqtt://${HOST}:1883", "mqtt://b1:1883"),
            ("${NOPE:-x}y", "xy"),
            ("${HOST:-x}", "b1"),
            ("${EMPTY:-x}", "x"),
            ("[${EMPTY}]", "[]"),
            ("${NOPE:-}", ""),
            ("$$", "$"),
            ("$${HOST}", "${HOST}"),
            ("5$ $x", "5$ $x"),
            ("é${HOST}é", "éb1é"),
        ];
        for (text, expected) in good {
            assert_eq!(expand_text(text, &env).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "${NOPE}",
            "${",
            "${}",
            "${1A}",
            "${A B}",
            "${NOPE:-${HOST}}",
        ] {
            assert!(expand_text(bad, &env).is_err(), "{bad}");
        }
        for text in ["$", "$$", "a${b}$", "plain"] {
            assert_eq!(expand_text(&escape(text), &env).as_deref(), Ok(text));
        }
    }
}
