//! The plugins of the configured interpreter. Where it looks for packages only it knows, so it is
//! asked, once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::discovery::child::{Bounds, run};
use crate::discovery::entry_points::{self, EntryPoint, kind_of};
use crate::discovery::{Discovered, DiscoveryError, Problem};
use crate::registry::Origin;

/// Oldest Python the host of plugins runs on.
const OLDEST: (u32, u32) = (3, 9);
const BOUNDS: Bounds = Bounds {
    timeout: Duration::from_secs(30),
    keep_bytes: 4 << 20,
    own_group: true,
};
/// Precedes the answer: what the interpreter's start-up prints is not it.
const MARK: &str = "visualpath-entry-points/1 ";

/// Runs on any Python 3. As for `import`, the first distribution of a name wins.
const SCRIPT: &str = r#"
import json, re, sys
answer = {"version": list(sys.version_info[:3]), "entries": [], "broken": []}
if tuple(sys.version_info) >= (3, 9):
    from importlib import metadata
    seen = set()
    for dist in metadata.distributions():
        where = str(getattr(dist, "_path", "?"))
        try:
            name = re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower()
            if name in seen:
                continue
            seen.add(name)
            for e in dist.entry_points:
                if e.group in ("visualpath.extractors", "visualpath.fusions"):
                    answer["entries"].append({
                        "group": e.group, "name": e.name, "value": e.value,
                        "version": str(dist.version or ""), "where": where,
                    })
        except Exception as e:
            answer["broken"].append({"where": where, "why": "%s: %s" % (type(e).__name__, e)})
print("\nvisualpath-entry-points/1 " + json.dumps(answer))
"#;

#[derive(Deserialize)]
struct Said {
    version: (u32, u32, u32),
    entries: Vec<Entry>,
    broken: Vec<Broken>,
}

#[derive(Deserialize)]
struct Entry {
    group: String,
    name: String,
    value: String,
    version: String,
    #[serde(rename = "where")]
    place: PathBuf,
}

#[derive(Deserialize)]
struct Broken {
    #[serde(rename = "where")]
    place: PathBuf,
    why: String,
}

/// Adds the plugins that an interpreter has. It may be a path or a name to be looked up in `PATH`.
pub fn ask(interpreter: &Path, found: &mut Discovered) {
    let origin = Origin::Interpreter(interpreter.to_owned());
    if let Err(message) = ask_as(interpreter, &origin, found) {
        found.problems.push(Problem {
            plugin: None,
            venv: None,
            error: DiscoveryError::Interpreter {
                path: interpreter.to_owned(),
                message,
            },
        });
    }
}

/// The same; what is found is from `origin`.
pub fn ask_as(interpreter: &Path, origin: &Origin, found: &mut Discovered) -> Result<(), String> {
    let said = say(interpreter)?;
    for broken in said.broken {
        entry_points::broken(broken.place, broken.why, found);
    }
    for entry in said.entries {
        let Some(kind) = kind_of(&entry.group) else {
            continue;
        };
        let point = EntryPoint {
            kind,
            name: entry.name,
            value: entry.value,
        };
        entry_points::add(vec![point], &entry.version, origin, &entry.place, found);
    }
    Ok(())
}

/// The version of an interpreter, if plugins can run on it.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn ask_version(interpreter: &Path) -> Result<String, String> {
    let (major, minor, patch) = say(interpreter)?.version;
    Ok(format!("{major}.{minor}.{patch}"))
}

fn say(interpreter: &Path) -> Result<Said, String> {
    let mut command = Command::new(interpreter);
    // -I: neither the environment nor the working directory nor the user's packages count, for
    // workers are started so too.
    command.args(["-I", "-c", SCRIPT]);
    let answer = run(command, BOUNDS).map_err(|e| e.to_string())?;
    if !answer.status.success() {
        return Err(format!(
            "can't be asked for its packages ({}): {}; is it Python 3.9 or newer?",
            answer.status,
            answer.stderr.last_line()
        ));
    }
    if answer.stdout.is_cut() {
        let most = BOUNDS.keep_bytes;
        return Err(format!("said more than {most} bytes of its packages"));
    }
    let text = answer.stdout.text();
    let json = text.lines().rev().find_map(|line| line.strip_prefix(MARK));
    let json = json.ok_or("did not answer when asked for its packages; is it Python?")?;
    let said: Said = serde_json::from_str(json)
        .map_err(|e| format!("its answer about its packages can't be read: {e}"))?;
    let (major, minor, _) = said.version;
    if (major, minor) < OLDEST {
        return Err(format!(
            "is Python {major}.{minor}; plugins need 3.9 or newer"
        ));
    }
    Ok(said)
}
