//! What a change of the listing means to apps.

use std::fmt;

use super::listing::{ALL_FIELDS, REQUIRED};

/// One line that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Gone(String),
    /// New, and apps that were fine do not compile any more.
    Demands(String),
    New(String),
}

impl Change {
    pub fn is_breaking(&self) -> bool {
        !matches!(self, Self::New(_))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(line) => write!(f, "  - {line}"),
            Self::Demands(line) => write!(f, "  ! {line}"),
            Self::New(line) => write!(f, "  + {line}"),
        }
    }
}

/// What is gone, then what is new.
pub fn compare(then: &[String], now: &[String]) -> Vec<Change> {
    let gone = then.iter().filter(|l| !now.contains(l));
    let new = now.iter().filter(|l| !then.contains(l)).map(|line| {
        if demands(then, line) {
            Change::Demands(line.clone())
        } else {
            Change::New(line.clone())
        }
    });
    gone.map(|l| Change::Gone(l.clone())).chain(new).collect()
}

/// Whether `line`, being new, breaks apps written for `then`.
fn demands(then: &[String], line: &str) -> bool {
    let is_there = |prefix: &str, parent: &str, open: &str| {
        let start = format!("{prefix}{parent}");
        then.iter().any(|l| {
            // Before it, if anything, an attribute: one says that apps must expect more.
            let Some((attributes, rest)) = l.split_once(&start) else {
                return false;
            };
            if attributes.contains("non_exhaustive") || !is_attributes(attributes) {
                return false;
            }
            // Not the beginning of a longer name.
            let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                && !rest.starts_with("::");
            ends && rest.ends_with(open)
        })
    };
    let Some(parent) = parent(line) else {
        return false;
    };
    if line.ends_with(REQUIRED) {
        return is_there("pub trait ", parent, "") || is_there("pub unsafe trait ", parent, "");
    }
    // A field or a variant has no keyword: `pub path::Type::field: T`.
    let keywords = [
        "fn", "const", "static", "struct", "enum", "union", "trait", "type", "mod",
    ];
    let more = ["use", "macro", "unsafe", "async", "extern", "proc"];
    let rest = line.strip_prefix("pub ").unwrap_or_default();
    let word = rest.split(' ').next().unwrap_or_default();
    if rest.is_empty() || keywords.contains(&word) || more.contains(&word) {
        return false;
    }
    is_there("pub struct ", parent, ALL_FIELDS)
        || is_there("pub enum ", parent, "")
        // A field more of a variant.
        || is_there("pub ", parent, "")
}

fn is_attributes(text: &str) -> bool {
    text.is_empty() || text.starts_with("#[") && text.ends_with("] ")
}

/// The path an item's own is in.
fn parent(line: &str) -> Option<&str> {
    let start = line.find("visualpath")?;
    let path = line[start..]
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .next()?
        .trim_end_matches(':');
    Some(path.rsplit_once("::")?.0)
}

/// Whether `now` is a version that may break what `then` had: the leftmost part that is not 0 is
/// raised.
pub fn may_break(then: &str, now: &str) -> bool {
    let parts = |version: &str| -> Vec<u64> {
        version
            .split(['.', '-', '+'])
            .map_while(|p| p.parse().ok())
            .collect()
    };
    let (then, now) = (parts(then), parts(now));
    let leading = |v: &[u64]| v.iter().position(|p| *p > 0).unwrap_or(v.len());
    let first = leading(&then).min(leading(&now));
    now.get(..=first) > then.get(..=first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "pub struct visualpath::Options // all fields public\n\
        pub visualpath::Options::fps: f64\n\
        pub struct visualpath::Pipeline\n\
        pub visualpath::Pipeline::name: alloc::string::String\n\
        pub enum visualpath::Kind\n\
        pub visualpath::Kind::A\n\
        pub visualpath::Kind::B\n\
        pub visualpath::Kind::B::why: alloc::string::String\n\
        #[non_exhaustive] pub enum visualpath::Later\n\
        #[repr(u8)] pub enum visualpath::Exit\n\
        pub trait visualpath::Look: core::marker::Send\n\
        pub fn visualpath::Look::look(&mut self) // required\n\
        pub fn visualpath::run(visualpath::Options) -> visualpath::Kind";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn with(line: &str) -> Vec<Change> {
        compare(&lines(THEN), &lines(&format!("{THEN}\n{line}")))
    }

    #[test]
    fn what_is_gone_or_different_breaks() {
        assert_eq!(compare(&lines(THEN), &lines(THEN)), []);
        let changed = THEN.replace("-> visualpath::Kind", "-> bool");
        let changes = compare(&lines(THEN), &lines(&changed));
        assert!(
            matches!(&changes[..], [Change::Gone(_), Change::New(_)]),
            "{changes:?}"
        );
        let private_field = THEN.replace(ALL_FIELDS, "");
        assert!(compare(&lines(THEN), &lines(&private_field))[0].is_breaking());
    }

    #[test]
    fn what_must_be_answered_breaks_although_it_is_new() {
        for line in [
            "pub visualpath::Options::width: u32",
            "pub visualpath::Kind::C(u8)",
            "pub visualpath::Exit::Soon = 9",
            "pub visualpath::Kind::B::when: i64",
            "pub fn visualpath::Look::forget(&mut self) // required",
        ] {
            assert_eq!(with(line), [Change::Demands(line.to_owned())]);
        }
    }

    #[test]
    fn what_is_only_new_breaks_nothing() {
        for line in [
            "pub visualpath::Pipeline::more: bool",
            "pub visualpath::Later::Another",
            "pub visualpath::Kinder::C",
            "pub fn visualpath::Look::forget(&mut self)",
            "pub fn visualpath::Options::new() -> Self",
            "pub fn visualpath::Other::look(&self) // required",
            "pub const visualpath::Kind::ALL: [visualpath::Kind; 2]",
            "impl core::clone::Clone for visualpath::Options",
            "pub mod visualpath::more",
        ] {
            assert_eq!(with(line), [Change::New(line.to_owned())]);
        }
    }

    #[test]
    fn versions_may_break_as_cargo_has_it() {
        for (then, now) in [
            ("0.1.0", "0.2.0"),
            ("0.1.9", "1.0.0"),
            ("1.9.3", "2.0.0"),
            ("0.0.1", "0.0.2"),
        ] {
            assert!(may_break(then, now), "{then} {now}");
        }
        for (then, now) in [
            ("0.1.0", "0.1.0"),
            ("0.1.0", "0.1.7"),
            ("1.2.3", "1.3.0"),
            ("0.2.0", "0.1.0"),
        ] {
            assert!(!may_break(then, now), "{then} {now}");
        }
    }
}
