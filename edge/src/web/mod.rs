//! The appliance over HTTP: what `visualpath-web` asks for, from [`Live`] and [`Commands`].

pub mod metrics;
mod text;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use visualpath_mqtt::payload::Problem;
use visualpath_web::{
    Answer, Api, ApiError, Readiness, StartError as WebError, Stopped, Token, WebOptions, WebServer,
};

use crate::commands::Commands;
use crate::config::Config;
use crate::pipeline::live::Live;
use crate::pipeline::status::Stage;
use crate::pipeline::{StartError, problem};

/// What clients get to take the answers that are under way at the end.
const GRACE: Duration = Duration::from_secs(2);
/// What a command may take, beside the seconds of clip it waits for.
const COMMAND: Duration = Duration::from_secs(30);
/// Longest post-roll that somebody may wait for.
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
        let limit = limit(&args);
        commands
            .ask_and_wait(verb, args, limit)
            .map_err(|e| ApiError::new(&e.code, e.message))
    }

    fn clip_file(&self, id: &str) -> Option<PathBuf> {
        self.live.clips()?.store.file_of(id)
    }
}

/// A clip that is waited for takes its post-roll and the time to finish it.
fn limit(args: &Map<String, Value>) -> Duration {
    let waits = args.get("wait") == Some(&Value::Bool(true));
    let post_s = args.get("post_s").and_then(Value::as_f64).unwrap_or(0.0);
    match waits && post_s > 0.0 {
        true => COMMAND + Duration::from_secs_f64(post_s.min(LONGEST_S)),
        false => COMMAND,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clip_that_is_waited_for_may_take_its_post_roll_and_no_more() {
        let limit = |args: Value| {
            let args = args.as_object().cloned().unwrap_or_default();
            super::limit(&args).as_secs()
        };
        assert_eq!(limit(json!({})), 30);
        assert_eq!(limit(json!({"post_s": 60})), 30, "nobody waits");
        assert_eq!(limit(json!({"post_s": 60, "wait": true})), 90);
        // What the command will refuse must not wait for ever, nor panic.
        for odd in [json!(1e300), json!(-5), json!("x"), json!(null)] {
            assert!(limit(json!({"post_s": odd, "wait": true})) <= 630);
        }
    }
}
