//! What a config has wrong, in a form for people and for programs.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::tree::Origin;

/// Whether the appliance can run all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It can't run with this.
    Error,
    /// It runs, but perhaps not as meant.
    Warning,
    /// It runs as asked, which has a consequence to know of.
    Note,
}

/// One finding. Its text is `file:line:column: error: key: message; hint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Diagnostic {
    /// Error, warning or note.
    pub severity: Severity,
    /// The file, or `env:NAME` or the command-line argument that set the key.
    pub file: String,
    /// Line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Full path of the key, e.g. `fusion.visitor.config.rule[0].when`; empty for the whole file.
    pub key: String,
    /// What was expected and what is there.
    pub message: String,
    /// What to do: the nearest known name, or an example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at `origin`.
    pub fn error(origin: &Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, line, column) = origin.place();
        Self {
            severity: Severity::Error,
            file,
            line,
            column,
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// A warning at `origin`.
    pub fn warning(origin: &Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(origin, key, message)
        }
    }

    /// A note at `origin`.
    pub fn note(origin: &Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(origin, key, message)
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with "did you mean" when there is something near.
    #[must_use]
    pub fn did_you_mean(mut self, near: &[&str]) -> Self {
        if !near.is_empty() {
            let words: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
            self.hint = Some(format!("did you mean {}?", words.join(" or ")));
        }
        self
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(match self.severity {
            Severity::Error => ": error: ",
            Severity::Warning => ": warning: ",
            Severity::Note => ": note: ",
        })?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) if hint.contains('\n') => {
                for line in hint.lines() {
                    write!(f, "\n    {line}")?;
                }
                Ok(())
            }
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}
