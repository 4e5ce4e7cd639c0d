//! The appliance over HTTP: what `visualpath-web` asks for, from [`Live`] and [`Commands`].

pub mod metrics;
mod text;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use visualpath_media::clip::{ClipState, ClipStore};
use visualpath_media::encode::Codec;
use visualpath_mqtt::payload::Problem;
use visualpath_web::{
    Answer, Api, ApiError, Readiness, StartError as WebError, Stopped, Token, WebOptions, WebServer,
};

use crate::commands::{CommandVerb, Commands};
use crate::config::Config;
use crate::pipeline::live::Live;
use crate::pipeline::status::Stage;
use crate::pipeline::{StartError, problem};

/// What clients get to take the answers that are under way at the end.
const GRACE: Duration = Duration::from_secs(2);
/// What a command may take, beside the seconds of clip it waits for.
const COMMAND: Duration = Duration::from_secs(30);
/// How far ahead a clip may end that somebody waits for, seconds.
const LONGEST_S: f64 = 600.0;

/// HTTP, or the reason why there is none.
pub struct Web {
    server: Option<WebServer>,
    face: Arc<Face>,
    problem: Option<Problem>,
}

impl Web {
    /// Listens where the config says. A default address that is taken is no fault: it says so in
    /// the log. One that was asked for and can't be had is a problem; the appliance goes on.
    ///
    /// # Errors
    /// What is wrong with `[web]`.
    pub fn start(config: &Config, live: &Arc<Live>) -> Result<Self, StartError> {
        let face = Arc::new(Face {
            live: Arc::clone(live),
            commands: OnceLock::new(),
        });
        let mut this = Self {
            server: None,
            face,
            problem: None,
        };
        let Some(options) = options(config)? else {
            return Ok(this);
        };
        let (listen, api) = (options.listen, Arc::clone(&this.face) as Arc<dyn Api>);
        match WebServer::start(options, api) {
            Ok(server) => this.server = Some(server),
            Err(e @ WebError::NoToken(_)) => {
                return Err(StartError::config("web.listen", &e.to_string()));
            }
            Err(e) if config.web.is_asked_for() => {
                tracing::error!(error = %e, "no HTTP");
                let advice = "choose another web.listen, or end what has the address, and restart";
                let (subject, detail) = (listen.to_string(), e.to_string());
                this.problem = Some(problem("web", &subject, &detail, advice));
            }
            Err(e) => tracing::warn!(error = %e, "no HTTP; web.listen chooses another address"),
        }
        Ok(this)
    }

    /// From here on commands are carried out.
    pub fn carry_out(&self, commands: Commands) {
        if self.face.commands.set(commands).is_err() {
            tracing::error!("HTTP was given its commands twice");
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(WebServer::local_addr)
    }

    /// Why it does not, where it was asked to.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Gives the answers that are under way, and ends.
    pub fn stop(self) {
        match self.server.map(|server| server.stop(GRACE)) {
            None | Some(Stopped::Clean) => {}
            Some(Stopped::Late) => tracing::debug!("some HTTP clients were cut off"),
            Some(Stopped::Panicked) => tracing::error!("the thread `web` panicked"),
        }
    }
}

/// How `[web]` listens; `None` if not at all. Reads the token.
///
/// # Errors
/// What is wrong with it.
pub fn options(config: &Config) -> Result<Option<WebOptions>, StartError> {
    let web = &config.web;
    let wrong = |e: String| StartError::config("web.listen", &e);
    let Some(listen) = web.address().map_err(wrong)? else {
        return Ok(None);
    };
    let token = web.token_file.as_deref().map(Token::read).transpose();
    let token = token.map_err(|e| StartError::config("web.token_file", &e.to_string()))?;
    Ok(Some(WebOptions {
        token,
        ..WebOptions::new(listen)
    }))
}

/// The appliance as the server sees it.
struct Face {
    live: Arc<Live>,
    /// Once somebody carries them out.
    commands: OnceLock<Commands>,
}

impl Api for Face {
    fn is_alive(&self) -> Result<(), String> {
        self.live.is_alive(Instant::now())
    }

    fn readiness(&self) -> Readiness {
        match self.live.stage() {
            Stage::Starting => Readiness::Starting,
            Stage::Ready => Readiness::Ready,
            Stage::Degraded => Readiness::Degraded,
            Stage::Stopping => Readiness::Stopping,
        }
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.live.status()).unwrap_or_else(|e| {
            // Plain structs of strings, numbers and flags always serialise.
            tracing::error!(error = %e, "the status can't be written");
            Value::Null
        })
    }

    fn metrics(&self) -> String {
        metrics::text(&self.live.status(), &self.live.latencies())
    }

    fn command(&self, verb: &str, args: Map<String, Value>) -> Answer {
        let Some(commands) = self.commands.get() else {
            let message = "the appliance is starting; ask again soon";
            return Err(ApiError::new("busy", message));
        };
        let limit = limit(verb, &args, Timestamp::now())?;
        commands
            .ask_and_wait(verb, args, limit)
            .map_err(|e| ApiError::new(&e.code, e.message))
    }

    fn clip_file(&self, id: &str) -> Option<PathBuf> {
        self.clips()?.file_of(id)
    }

    fn is_h264(&self, id: &str) -> bool {
        let entries = self.clips().map(ClipStore::entries);
        let entries = entries.unwrap_or(Ok(Vec::new())).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "HTTP can't tell how a clip is coded");
            Vec::new()
        });
        let entry = entries.into_iter().find(|entry| entry.id == id);
        match entry.and_then(|entry| entry.result).map(|r| r.state) {
            Some(ClipState::Ready(ready)) => ready.codec == Codec::H264,
            _ => false,
        }
    }
}

impl Face {
    fn clips(&self) -> Option<&ClipStore> {
        let clips = self.live.clips();
        clips
            .inspect_err(|e| tracing::warn!(error = %e, "HTTP gives no clips"))
            .ok()
    }
}

/// How long to wait for the answer. A clip that is waited for takes until it has ended, and the time
/// to finish it.
fn limit(verb: &str, args: &Map<String, Value>, now: Timestamp) -> Result<Duration, ApiError> {
    if verb != CommandVerb::Clip.word() || args.get("wait") != Some(&Value::Bool(true)) {
        return Ok(COMMAND);
    }
    let ahead_s = ahead_s(args, now).max(0.0);
    if ahead_s > LONGEST_S {
        let message = format!(
            "wait: the clip would end in {ahead_s:.0} s, and {LONGEST_S} s are the most to wait \
             for; ask without `wait`, its message comes at path/command/clip"
        );
        return Err(ApiError::new("bad_args", message));
    }
    Ok(COMMAND + Duration::from_secs_f64(ahead_s))
}

/// How far ahead a clip of these arguments ends, seconds. What can't be read is now: the command
/// refuses it at once.
fn ahead_s(args: &Map<String, Value>, now: Timestamp) -> f64 {
    let post_s = args.get("post_s").and_then(Value::as_f64).unwrap_or(0.0);
    let to_s = args.get("to").and_then(Value::as_str).and_then(|to| {
        let ahead = match to.strip_prefix('+') {
            Some(relative) => relative.parse::<SignedDuration>().ok()?,
            None => to.parse::<Timestamp>().ok()?.duration_since(now),
        };
        Some(ahead.as_secs_f64())
    });
    post_s.max(to_s.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limit_s(args: Value) -> Result<u64, ApiError> {
        let args = args.as_object().cloned().unwrap_or_default();
        let now = "2026-11-23T14:00:00Z".parse().expect("a time");
        super::limit("clip", &args, now).map(|limit| limit.as_secs())
    }

    #[test]
    fn a_clip_that_is_waited_for_may_take_until_it_ends_and_no_more() {
        assert_eq!(limit_s(json!({})), Ok(30));
        assert_eq!(limit_s(json!({"post_s": 60})), Ok(30), "nobody waits");
        assert_eq!(limit_s(json!({"post_s": 60, "wait": true})), Ok(90));
        for (to, limit) in [
            ("now", 30),
            ("-5s", 30),
            ("+90s", 120),
            ("+2m", 150),
            ("2026-11-23T14:10:00Z", 630),
            ("2026-11-23T15:01:00+01:00", 90),
            ("2026-11-23T13:00:00Z", 30),
        ] {
            let args = json!({"from": "-5s", "to": to, "wait": true});
            assert_eq!(limit_s(args), Ok(limit), "{to}");
        }
    }

    #[test]
    fn a_clip_too_far_ahead_to_be_waited_for_is_refused_at_once() {
        for args in [
            json!({"post_s": 601}),
            json!({"post_s": 1e300}),
            json!({"from": "now", "to": "+601s"}),
            json!({"from": "now", "to": "+99999999h"}),
            json!({"from": "now", "to": "2026-11-23T14:10:01Z"}),
            json!({"from": "now", "to": "9999-12-30T00:00:00Z"}),
        ] {
            let mut args = args;
            assert_eq!(limit_s(args.clone()), Ok(30), "nobody waits: {args}");
            args["wait"] = true.into();
            let refused = limit_s(args.clone()).expect_err("too far");
            assert_eq!(refused.code, "bad_args", "{args}");
            assert!(refused.message.contains("600 s"), "{}", refused.message);
        }
    }

    #[test]
    fn what_the_command_will_refuse_is_not_waited_for_and_panics_nowhere() {
        for odd in [json!(-5), json!("x"), json!(null), json!([])] {
            let args = json!({"post_s": odd, "to": odd, "wait": true});
            assert_eq!(limit_s(args), Ok(30));
        }
    }
}
