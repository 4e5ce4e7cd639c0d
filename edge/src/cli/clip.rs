//! `visualpath clip`: the clips there are, a new one, are they whole, keep them, delete them.
//!
//! A new clip is cut by the running appliance, which is asked over its broker. Everything else reads
//! and writes the files themselves, so it works beside a running appliance and without one.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use visualpath_core::Name;
use visualpath_media::clip::{ClipEntry, ClipState, ClipStore, EntryState};
use visualpath_mqtt::{AskError, ClipPayload, ask, parse_url};

use super::{ConfigArgs, complain, complain_line, fail, load_options, say, say_json};
use crate::broker;
use crate::clip_check;
use crate::clips::{ClipFilter, ClipItem, ClipList, ListState, find};
use crate::commands::{ClipAccepted, ClipArgs, MAX_CLIP_S};
use crate::config::{self, Config};
use crate::exit::Exit;

/// How long the appliance may take to answer, beside the time that the clip still has to go on.
const ANSWER: Duration = Duration::from_secs(20);

#[derive(Debug, Subcommand)]
pub enum ClipVerb {
    /// The clips there are, oldest first.
    List {
        #[command(flatten)]
        config: ClipConfig,
        /// Of this source only.
        #[arg(long)]
        source: Option<Name>,
        /// Of this path only.
        #[arg(long)]
        path: Option<Name>,
        /// With this label only.
        #[arg(long)]
        label: Option<Name>,
        /// Only those that are open, ready or failed.
        #[arg(long)]
        state: Option<ListState>,
        /// Whose event began at this time or later (2026-11-23T14:00:00Z).
        #[arg(long, value_name = "TIME")]
        since: Option<Timestamp>,
        /// Whose event began before this time.
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
        /// At most so many, the newest.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cut a clip out of what the running appliance has in memory: the last 30 seconds, or what is
    /// asked for.
    Cut {
        #[command(flatten)]
        config: ClipConfig,
        /// Of this source; needed if there are several.
        #[arg(long)]
        source: Option<Name>,
        /// The last so many seconds.
        #[arg(long, value_name = "SECONDS", value_parser = clip_seconds, conflicts_with_all = ["from", "to"])]
        last: Option<f64>,
        /// And so many seconds from now on.
        #[arg(long, value_name = "SECONDS", value_parser = clip_seconds, conflicts_with_all = ["from", "to"])]
        post: Option<f64>,
        /// From this moment: a time (2026-11-23T14:00:00Z), `now`, or relative to it (-30s, -2m).
        #[arg(long, value_name = "T", allow_hyphen_values = true)]
        from: Option<String>,
        /// Up to this moment; `now` if absent.
        #[arg(long, value_name = "T", allow_hyphen_values = true, requires = "from")]
        to: Option<String>,
        /// What it is called.
        #[arg(long)]
        label: Option<Name>,
        /// Do not wait until it is ready.
        #[arg(long)]
        no_wait: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Are the clips what their `.json` says, and whole? Exit code 1 if one is not.
    Verify {
        #[command(flatten)]
        config: ClipConfig,
        /// These only: ids, or their last 6 or more characters.
        #[arg(value_name = "CLIP")]
        clips: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Keep clips from being deleted for room.
    Pin {
        #[command(flatten)]
        which: Which,
    },
    /// Let them be deleted for room again.
    Unpin {
        #[command(flatten)]
        which: Which,
    },
    /// Delete clips and what lies beside them.
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// Whose clips.
#[derive(Debug, clap::Args)]
pub struct ClipConfig {
    /// The appliance's config. Default: ./visualpath.toml, else /etc/visualpath/visualpath.toml.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ClipConfig {
    fn load(&self) -> Result<Config, Exit> {
        let options = load_options(&ConfigArgs {
            config: self.config.clone(),
            source: None,
        })?;
        let loaded = config::load(&options).map_err(|findings| {
            complain(&findings);
            Exit::Config
        })?;
        Ok(loaded.config)
    }
}

/// Some clips.
#[derive(Debug, clap::Args)]
pub struct Which {
    #[command(flatten)]
    config: ClipConfig,
    /// Ids, or their last 6 or more characters (the end of the file's name).
    #[arg(required = true, value_name = "CLIP")]
    clips: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn clip_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=MAX_CLIP_S).contains(&s) => Ok(s),
        _ => Err(format!("expected 0 to {MAX_CLIP_S} seconds")),
    }
}

pub fn run(verb: ClipVerb) -> Exit {
    match verb {
        ClipVerb::List {
            config,
            source,
            path,
            label,
            state,
            since,
            until,
            limit,
            json,
        } => {
            let filter = ClipFilter {
                source,
                path,
                label,
                state,
                since,
                until,
                limit,
            };
            finish(list(&config, &filter, json))
        }
        ClipVerb::Cut {
            config,
            source,
            last,
            post,
            from,
            to,
            label,
            no_wait,
            json,
        } => {
            let args = ClipArgs {
                source,
                last_s: last,
                post_s: post,
                from,
                to,
                label,
                wait: !no_wait,
            };
            finish(cut(&config, &args, json))
        }
        ClipVerb::Verify {
            config,
            clips,
            json,
        } => finish(verify(&config, &clips, json)),
        ClipVerb::Pin { which } => finish(each(&which, "pinned", |s, e| s.pin(&e.id, true))),
        ClipVerb::Unpin { which } => finish(each(&which, "unpinned", |s, e| s.pin(&e.id, false))),
        ClipVerb::Delete { which } => finish(each(&which, "deleted", |s, e| s.delete(&e.id))),
    }
}

/// Both ways out are an exit code.
fn finish(done: Result<Exit, Exit>) -> Exit {
    done.unwrap_or_else(|exit| exit)
}

/// The config, its clips and what is known of them.
struct Clips {
    config: Config,
    store: Arc<ClipStore>,
    entries: Vec<ClipEntry>,
}

fn open(args: &ClipConfig) -> Result<Clips, Exit> {
    let config = args.load()?;
    let dir = config.clip.dir.to_string_lossy();
    let state_dir = &config.device.state_dir;
    let read = ClipStore::open(state_dir, &dir, config.clip.quota_bytes).and_then(|store| {
        let entries = store.entries()?;
        Ok((store, entries))
    });
    match read {
        Ok((store, entries)) => Ok(Clips {
            config,
            store,
            entries,
        }),
        Err(e) => Err(fail(Exit::Failed, &e.to_string())),
    }
}

fn list(args: &ClipConfig, filter: &ClipFilter, json: bool) -> Result<Exit, Exit> {
    let clips = open(args)?;
    let list = ClipList::new(&clips.entries, filter);
    if json {
        return Ok(say_json(&list));
    }
    if list.total == 0 {
        let dir = clips.config.device.state_dir.join(&clips.config.clip.dir);
        return Ok(say(&format!("no clips in {}", dir.display())));
    }
    let mut text: Vec<String> = list.clips.iter().map(line).collect();
    let pinned = list.clips.iter().filter(|c| c.pinned).count();
    text.push(format!(
        "{} of {} clips, {:.1} MB, {pinned} pinned",
        list.clips.len(),
        list.total,
        megabytes(list.bytes)
    ));
    Ok(say(&text.join("\n")))
}

/// One clip for people.
fn line(clip: &ClipItem) -> String {
    let tail: String = {
        let from = clip.id.char_indices().rev().nth(7).map_or(0, |(i, _)| i);
        clip.id[from..].to_owned()
    };
    let head = format!(
        "{}  {tail}  {}/{}/{}",
        clip.time, clip.source, clip.path, clip.label
    );
    let marks = [(clip.pinned, "  pinned"), (clip.partial, "  partial")];
    let marks: String = marks
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, m)| *m)
        .collect();
    match (clip.state, clip.start_ns, clip.end_ns) {
        (ListState::Open, ..) => format!("{head}  being written"),
        (ListState::Ready, Some(start), Some(end)) => format!(
            "{head}  {:.1} s  {:.1} MB  {}{marks}",
            seconds(end - start),
            megabytes(clip.bytes),
            clip.file.as_deref().unwrap_or("?"),
        ),
        _ => format!("{head}  failed: {}", clip.reason.as_deref().unwrap_or("?")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

fn cut(args: &ClipConfig, wanted: &ClipArgs, json: bool) -> Result<Exit, Exit> {
    let config = args.load()?;
    if config.mqtt.url == broker::OFF {
        let why = "mqtt.url is \"off\": a clip is asked for over the broker, so there must be one";
        return Err(fail(Exit::Broker, why));
    }
    let options = parse_url(&config.mqtt.url)
        .map_err(broker::BrokerStartError::from)
        .and_then(|url| broker::options(&config, url))
        .map_err(|e| fail(Exit::Broker, &e.to_string()))?;
    let asked = match serde_json::to_value(wanted) {
        Ok(Value::Object(args)) => args,
        _ => Map::new(),
    };
    let limit = ANSWER + ahead(wanted);
    let answer = ask(&options, "clip", asked, limit).map_err(|e| refused(&e))?;
    if json {
        return Ok(say_json(&answer));
    }
    let unknown = |e: serde_json::Error| {
        fail(
            Exit::Failed,
            &format!("the appliance's answer can't be read ({e}): is it of another version?"),
        )
    };
    if !wanted.wait {
        let accepted: ClipAccepted = serde_json::from_value(answer).map_err(unknown)?;
        return Ok(say(&format!(
            "{} is being cut: {} {} to {}",
            accepted.id, accepted.source, accepted.from, accepted.to
        )));
    }
    let clip: ClipPayload = serde_json::from_value(answer).map_err(unknown)?;
    let body = &clip.clip;
    for (short_ms, which) in [(body.short_pre_ms, "begins"), (body.short_post_ms, "ends")] {
        if short_ms > 0.0 {
            let side = if which == "begins" {
                "later"
            } else {
                "earlier"
            };
            complain_line(&format!(
                "visualpath: it {which} {:.1} s {side} than asked",
                short_ms / 1e3
            ));
        }
    }
    let file = body.file.as_deref().unwrap_or_default();
    let path: PathBuf = config.device.state_dir.join(file);
    Ok(say(&path.display().to_string()))
}

/// How much of it is still to come, as far as it is waited for.
fn ahead(wanted: &ClipArgs) -> Duration {
    let ahead = match (&wanted.to, wanted.post_s) {
        (Some(to), _) => until(to, Timestamp::now()),
        (None, post_s) => post_s.unwrap_or(0.0),
    };
    match wanted.wait {
        true => Duration::from_secs_f64(ahead.clamp(0.0, MAX_CLIP_S)),
        false => Duration::ZERO,
    }
}

/// Seconds from now to a moment; of one that can't be read 0, because the appliance refuses it.
fn until(moment: &str, now: Timestamp) -> f64 {
    let relative = moment.trim_start_matches('+').parse::<SignedDuration>();
    let ahead = match moment.starts_with('+') {
        true => relative.ok(),
        false => moment
            .parse()
            .ok()
            .map(|at: Timestamp| at.duration_since(now)),
    };
    ahead.map_or(0.0, |d| d.as_secs_f64())
}

fn refused(e: &AskError) -> Exit {
    let exit = match e {
        AskError::Failed(error) => match error.code.as_str() {
            "bad_args" | "unknown_source" => Exit::Usage,
            _ => Exit::Failed,
        },
        _ => Exit::Broker,
    };
    fail(exit, &e.to_string())
}

/// What `verify` found out about one clip.
#[derive(Debug, Serialize)]
struct Finding {
    id: String,
    file: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What `verify` prints.
#[derive(Debug, Serialize)]
struct Verified {
    clips: Vec<Finding>,
    /// Files in the directory that belong to no clip.
    strays: Vec<Stray>,
    failed: usize,
}

#[derive(Debug, Serialize)]
struct Stray {
    file: PathBuf,
    problem: String,
}

fn verify(args: &ClipConfig, ids: &[String], json: bool) -> Result<Exit, Exit> {
    let clips = open(args)?;
    let chosen: Vec<&ClipEntry> = if ids.is_empty() {
        clips.entries.iter().collect()
    } else {
        ids.iter()
            .map(|id| find(&clips.entries, id).map_err(|e| fail(Exit::Usage, &e.to_string())))
            .collect::<Result<_, _>>()?
    };
    let state_dir = &clips.config.device.state_dir;
    let mut verified = Verified {
        clips: Vec::new(),
        strays: Vec::new(),
        failed: 0,
    };
    let mut looked_at = HashSet::new();
    for entry in chosen {
        let (Some(file), Some(ClipState::Ready(said))) =
            (&entry.file, entry.result.as_ref().map(|r| &r.state))
        else {
            continue;
        };
        // Clips that were merged share one.
        if !looked_at.insert(file) {
            continue;
        }
        let path = state_dir.join(file);
        let checked = clip_check::check(&path, said);
        // The appliance may have deleted it for room meanwhile, and what says that it was there.
        let is_gone = checked.is_err() && !path.exists() && !path.with_extension("json").exists();
        if is_gone {
            continue;
        }
        let problem = checked.err().map(|e| e.to_string());
        verified.clips.push(Finding {
            id: entry.id.clone(),
            file: file.clone(),
            ok: problem.is_none(),
            problem,
        });
    }
    if ids.is_empty() {
        let strays = clips.store.strays();
        let strays = strays.map_err(|e| fail(Exit::Failed, &e.to_string()))?;
        verified.strays = strays
            .into_iter()
            .map(|stray| Stray {
                file: stray.file,
                problem: stray.problem.to_owned(),
            })
            .collect();
    }
    verified.failed = verified.clips.iter().filter(|c| !c.ok).count() + verified.strays.len();
    let exit = if verified.failed == 0 {
        Exit::Ok
    } else {
        Exit::Failed
    };
    let said = if json {
        say_json(&verified)
    } else {
        say(&told(&verified))
    };
    Ok(if said == Exit::Ok { exit } else { said })
}

fn told(verified: &Verified) -> String {
    let mut lines: Vec<String> = Vec::new();
    for clip in &verified.clips {
        if let Some(problem) = &clip.problem {
            lines.push(format!("{}: {problem}", clip.file));
        }
    }
    for stray in &verified.strays {
        lines.push(format!("{}: {}", stray.file.display(), stray.problem));
    }
    let whole = verified.clips.iter().filter(|c| c.ok).count();
    lines.push(format!(
        "{whole} clips are whole, {} files are not",
        verified.failed
    ));
    lines.join("\n")
}

/// What became of one clip.
#[derive(Debug, Serialize)]
struct Done {
    id: String,
    done: &'static str,
}

/// The same with every one of some clips; all are looked for before anything is done.
fn each(
    which: &Which,
    done: &'static str,
    act: impl Fn(&ClipStore, &ClipEntry) -> Result<(), visualpath_media::clip::StoreError>,
) -> Result<Exit, Exit> {
    let clips = open(&which.config)?;
    let mut chosen = Vec::new();
    for id in &which.clips {
        let entry = find(&clips.entries, id).map_err(|e| fail(Exit::Usage, &e.to_string()))?;
        if entry.state != EntryState::Ready {
            let why = format!("clip {id} has no file: it is being written, or it failed");
            return Err(fail(Exit::Usage, &why));
        }
        if done == "deleted" && entry.is_pinned {
            let why = format!("clip {id} is pinned: `visualpath clip unpin {id}` first");
            return Err(fail(Exit::Usage, &why));
        }
        chosen.push(entry);
    }
    let mut all = Vec::new();
    let mut done_with = HashSet::new();
    for entry in chosen {
        // Clips that were merged share a file: what is done to one is done to all.
        if !done_with.insert(entry.file.as_ref()) {
            continue;
        }
        act(&clips.store, entry).map_err(|e| fail(Exit::Failed, &e.to_string()))?;
        all.push(Done {
            id: entry.id.clone(),
            done,
        });
    }
    if which.json {
        return Ok(say_json(&all));
    }
    let lines: Vec<String> = all.iter().map(|d| format!("{} {done}", d.id)).collect();
    Ok(say(&lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_to_come_is_waited_for_and_nothing_else() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (moment, expected) in [
            ("now", 0.0),
            ("-30s", 0.0),
            ("+90s", 90.0),
            ("2026-11-23T12:00:20Z", 20.0),
            ("2026-11-23T11:00:00Z", -3600.0),
            ("noon", 0.0),
        ] {
            assert!((until(moment, now) - expected).abs() < 1e-9, "{moment}");
        }
        let args = |to: Option<&str>, post_s, wait| ClipArgs {
            to: to.map(str::to_owned),
            post_s,
            wait,
            ..ClipArgs::default()
        };
        assert_eq!(ahead(&args(None, Some(5.0), true)).as_secs(), 5);
        assert_eq!(ahead(&args(None, Some(5.0), false)).as_secs(), 0);
        assert_eq!(ahead(&args(Some("+2h"), None, true)).as_secs(), 3600);
        assert_eq!(
            ahead(&args(Some("2020-01-01T00:00:00Z"), None, true)).as_secs(),
            0
        );
    }
}
