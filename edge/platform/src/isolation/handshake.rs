//! The handshake with a child that was started: hello, hello, progress, ready.

use std::time::Instant;

use visualpath_core::ViewSpec;
use visualpath_protocol::{
    Accepts, ChildHello, ErrorKind, ErrorReport, FromChild, FromParent, JsonObject, Mask, Masks,
    ModelDirs, ParentHello, Ready, Zone,
};

use super::child::{AT_ONCE, TOO_MUCH};
use super::launcher::{Facts, Life, NotRunning};
use super::life::{Child, DYING, LAST_WORDS, Starting, State};
use super::lines::log_line;
use super::link::LinkError;

impl Child {
    /// What it has said since the last turn.
    pub(super) fn listen(&mut self) {
        // What else it says is heard at the next turn: the others have theirs.
        for _ in 0..AT_ONCE {
            let State::Starting(starting) = &mut self.state else {
                return;
            };
            let envelope = match starting.link.receive() {
                Ok(None) => return,
                Ok(Some(envelope)) => envelope,
                Err(e) => return self.kill(&e.to_string()),
            };
            if starting.flood.is_one(Instant::now()) {
                return self.kill(TOO_MUCH);
            }
            let done = match (envelope.message, &starting.hello) {
                (FromChild::Hello(hello), None) => self.greet(hello),
                (FromChild::Progress(progress), Some(_)) => {
                    starting.deadline = Instant::now() + self.spec.start_timeout;
                    if let Some(swallowed) = self.budget.take(Instant::now()) {
                        let line = format!("{:.0} %: {}", progress.percent, progress.text);
                        log_line(&self.spec.name, &self.spec.source, &line, swallowed);
                    }
                    Ok(())
                }
                (FromChild::Ready(ready), Some(_)) => return self.up(ready),
                (FromChild::Error(e), _) => {
                    starting.error = Some(NotRunning {
                        why: e.error,
                        kind: e.kind,
                    });
                    // It ends by itself; if not, it is not waited for.
                    starting.deadline = starting.deadline.min(Instant::now() + LAST_WORDS);
                    Ok(())
                }
                (FromChild::Log(log), _) => {
                    if let Some(swallowed) = self.budget.take(Instant::now()) {
                        log_line(&self.spec.name, &self.spec.source, &log.msg, swallowed);
                    }
                    Ok(())
                }
                (FromChild::Trace(_), _) => Ok(()),
                _ => Err(
                    "it broke the protocol: this message does not belong into a start".to_owned(),
                ),
            };
            if let Err(why) = done {
                return self.kill(&why);
            }
        }
    }

    fn greet(&mut self, hello: ChildHello) -> Result<(), String> {
        let State::Starting(starting) = &mut self.state else {
            return Ok(());
        };
        let place = starting.place.take();
        if place.is_none_or(|p| p.token != hello.token) {
            return Err("its hello has another token than it was given".to_owned());
        }
        let agreed = match Accepts::default().agree(&hello) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                let error = FromParent::Error(ErrorReport {
                    error: refusal.to_string(),
                    traceback: None,
                    kind: Some(ErrorKind::Protocol),
                });
                starting
                    .link
                    .request(&error, None)
                    .map_err(|e| e.to_string())?;
                starting.error = Some(NotRunning {
                    why: refusal.to_string(),
                    kind: Some(ErrorKind::Protocol),
                });
                starting.deadline = starting.deadline.min(Instant::now() + LAST_WORDS);
                return Ok(());
            }
        };
        let spec = &self.spec;
        let dirs = spec
            .model_dirs
            .iter()
            .map(|d| d.to_string_lossy().into_owned());
        let answer = ParentHello {
            codec: agreed.codec.as_str().to_owned(),
            config: JsonObject::from(spec.config.clone()),
            zones: spec.zones.iter().map(Zone::from).collect(),
            pools: Vec::new(),
            name: Some(spec.name.as_str().to_owned()),
            model_dirs: Some(ModelDirs(dirs.collect())),
            extractors: spec.extractors.clone(),
            masks: (!spec.masks.is_empty())
                .then(|| Masks(spec.masks.iter().map(Mask::from).collect())),
        };
        match starting.link.request(&FromParent::Hello(answer), None) {
            Ok(_) => {}
            // It is given the time to be found dead.
            Err(LinkError::Gone) => {
                self.lost.get_or_insert(Instant::now() + DYING);
                return Ok(());
            }
            Err(e) => return Err(e.to_string()),
        }
        starting.link.speak(agreed.codec);
        starting.hello = Some(hello);
        Ok(())
    }

    fn up(&mut self, ready: Ready) {
        let State::Starting(starting) = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        let Starting {
            process,
            link,
            monitor,
            hello,
            ..
        } = *starting;
        let hello = hello.unwrap_or_default();
        let input = ready.input.or(hello.input);
        let input = match input.as_ref().map(ViewSpec::try_from).transpose() {
            Ok(input) => input,
            Err(e) => {
                self.state = State::Up(process, monitor, Instant::now());
                return self.kill(&format!("it broke the protocol: input: {e}"));
            }
        };
        let models = ready.models.unwrap_or_default().0;
        let facts = Facts {
            plugin: hello.name,
            version: hello.version,
            signals: ready.signals.map_or(hello.signals, |s| s.0),
            input,
            models: models.into_iter().map(Into::into).collect(),
            pid: process.pid(),
        };
        let (extractor, source) = (&self.spec.name, &self.spec.source);
        tracing::info!(%extractor, %source, pid = facts.pid, plugin = facts.plugin, version = facts.version, "worker process ready");
        self.state = State::Up(process, monitor, Instant::now());
        (self.tell)(Life::Up(Box::new(link), facts));
    }
}
