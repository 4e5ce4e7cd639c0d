//! Which isolation a plugin can have.
//!
//! | plugin | inline | thread | process | venv |
//! |---|---|---|---|---|
//! | linked in | yes | yes | yes (same binary) | – |
//! | executable with `plugin.toml` | – | – | yes | – |
//! | Python | – | – | yes (configured interpreter) | yes |
//!
//! A Python plugin that was found in one place only runs where it was found: of a venv's the
//! configured interpreter knows nothing, and the other way round. One with a folder of its own runs
//! in both, because the folder is shown to whichever Python runs it.

use crate::discovery::{External, Launch};
use crate::registry::{Found, Origin};
use crate::worker::Isolation;

/// All of them, weakest first.
pub const ISOLATIONS: [Isolation; 4] = [
    Isolation::Inline,
    Isolation::Thread,
    Isolation::Process,
    Isolation::Venv,
];

/// Whether the plugin can run so; the error says why not and what can be.
pub fn allowed<P: ?Sized>(found: &Found<P>, isolation: Isolation) -> Result<(), String> {
    match found {
        Found::Linked(_) => linked(isolation),
        Found::External(external) => allowed_of(external, isolation),
    }
}

/// The isolations it can have, weakest first.
pub fn cells<P: ?Sized>(found: &Found<P>) -> Vec<Isolation> {
    let mut cells = ISOLATIONS.to_vec();
    cells.retain(|isolation| allowed(found, *isolation).is_ok());
    cells
}

fn linked(isolation: Isolation) -> Result<(), String> {
    match isolation {
        Isolation::Inline | Isolation::Thread | Isolation::Process => Ok(()),
        Isolation::Venv => Err(
            "it is linked into this program, and a venv is for Python plugins; \
             there is: inline, thread, process"
                .to_owned(),
        ),
    }
}

/// [`allowed`] for a plugin that is not linked in.
pub fn allowed_of(external: &External, isolation: Isolation) -> Result<(), String> {
    let python = matches!(external.launch, Launch::Python { .. });
    match (isolation, python, &external.origin) {
        (Isolation::Inline | Isolation::Thread, false, _) => Err(format!(
            "it is an executable, which can't run inside this program ({}); there is: process",
            isolation.as_str()
        )),
        (Isolation::Inline | Isolation::Thread, true, _) => Err(format!(
            "it is a Python plugin, which can't run inside this program ({}); \
             there is: process, venv",
            isolation.as_str()
        )),
        (Isolation::Venv, false, _) => Err(
            "it is an executable, and a venv is for Python plugins; there is: process".to_owned(),
        ),
        (Isolation::Venv, true, Origin::Interpreter(interpreter)) => Err(format!(
            "it is installed for {}, in no venv; there is: process, and venv once \
             `visualpath plugins venv {}` made one or `venv` names one that has it",
            interpreter.display(),
            external.name
        )),
        (Isolation::Process, true, Origin::Venv(venv)) => Err(format!(
            "it is installed in the venv {} only; there is: venv, and process once it is \
             installed for the interpreter of [python]",
            venv.display()
        )),
        (Isolation::Process, _, _) | (Isolation::Venv, true, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use visualpath_core::ExtractorPlugin;

    use super::*;
    use crate::discovery::tests::{Linked, external};

    #[test]
    fn every_cell_of_the_isolation_matrix_is_as_the_contract_says() {
        use Isolation::{Inline, Process, Thread, Venv};
        let exec = external("a", Origin::Manifest("/p/a/plugin.toml".into()), None);
        let python = |origin| external("a", origin, Some("m:A"));
        let folder = python(Origin::Manifest("/p/a/plugin.toml".into()));
        let interpreter = python(Origin::Interpreter("/usr/bin/python3".into()));
        let venv = python(Origin::Venv("/v".into()));
        type Plugin = Found<dyn ExtractorPlugin>;
        let rows: [(Plugin, &[Isolation]); 5] = [
            (
                Found::Linked(Arc::new(Linked("a"))),
                &[Inline, Thread, Process],
            ),
            (Found::External(Arc::new(exec)), &[Process]),
            (Found::External(Arc::new(folder)), &[Process, Venv]),
            (Found::External(Arc::new(interpreter)), &[Process]),
            (Found::External(Arc::new(venv)), &[Venv]),
        ];
        for (found, expected) in &rows {
            assert_eq!(cells(found), *expected);
            for isolation in ISOLATIONS {
                match allowed(found, isolation) {
                    Ok(()) => assert!(expected.contains(&isolation)),
                    Err(why) => {
                        let there_is = why.split("there is: ").nth(1).unwrap();
                        for cell in *expected {
                            assert!(there_is.contains(cell.as_str()), "{why}");
                        }
                    }
                }
            }
        }
    }
}
