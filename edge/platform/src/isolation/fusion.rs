//! A fusion in a process of its own.
//!
//! A fusion is asked on the path thread and its answer decides what follows, so the path thread
//! waits for it: a time-out bounds that. One that dies or hangs loses its state and begins anew; the
//! frames meanwhile have an empty result that says so.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use visualpath_core::{ExtractorSignals, Fusion, FusionInput, FusionResult};
use visualpath_protocol::{Extractors, FromChild, FromParent, Nothing};

use crate::bell::{Bell, NoBell};

use super::child::sleep;
use super::launcher::{ChildHandle, ChildSpec, Launcher, Life};
use super::lines::{Budget, log_line};
use super::link::{Link, LinkError};

/// How long it is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For one answer; then it is killed.
    pub answer: Duration,
    /// For it to come again after it died: nothing on a live source, which does not wait.
    pub coming: Duration,
}

/// A worker process that is a fusion.
pub struct ChildFusion {
    spec_name: visualpath_core::Name,
    source: visualpath_core::Name,
    /// Until it is told to end.
    handle: Option<ChildHandle>,
    pid: Option<u32>,
    lives: Receiver<Life>,
    bell: Bell,
    link: Option<Link>,
    patience: Patience,
    /// Why it does not run; `None` when it does.
    down: Option<String>,
    held: bool,
    log: Budget,
}

impl ChildFusion {
    /// Starts it. [`ChildFusion::wait_until_up`] says whether it came up.
    ///
    /// # Errors
    /// When there is no descriptor for its bell.
    pub fn start(
        launcher: &Launcher,
        mut spec: ChildSpec,
        extractors: &[ExtractorSignals],
        patience: Patience,
    ) -> Result<Self, NoBell> {
        /// Lives that may wait between two frames.
        const LIVES: usize = 32;
        let known = extractors.iter().map(Into::into).collect();
        spec.extractors = Some(Extractors(known));
        let bell = Bell::new()?;
        let (told, lives) = bell.channel(LIVES);
        let (spec_name, source) = (spec.name.clone(), spec.source.clone());
        let handle = launcher.launch(spec, move |life| {
            if told.try_send(life).is_err() {
                tracing::debug!("nobody hears what becomes of a fusion's process");
            }
        });
        Ok(Self {
            spec_name,
            source,
            handle: Some(handle),
            pid: None,
            lives,
            bell,
            link: None,
            patience,
            down: Some("it has not come up yet".to_owned()),
            held: false,
            log: Budget::new(Instant::now()),
        })
    }

    /// Waits until it is up, or has died a first time.
    ///
    /// # Errors
    /// Why it died.
    pub fn wait_until_up(&mut self) -> Result<(), super::NotRunning> {
        let Ok(life) = self.lives.recv() else {
            return Ok(());
        };
        let died = match &life {
            Life::Up(..) => None,
            Life::Down(why) | Life::Hold(why) => Some(why.clone()),
        };
        self.lived(life);
        died.map_or(Ok(()), Err)
    }

    fn lived(&mut self, life: Life) {
        match life {
            Life::Up(link, facts) => {
                self.pid = Some(facts.pid);
                self.link = Some(*link);
                self.down = None;
            }
            Life::Down(why) => {
                self.link = None;
                self.down = Some(why.why);
            }
            Life::Hold(why) => {
                let fusion = &self.spec_name;
                tracing::error!(%fusion, source = %self.source, why = why.why, "fusion on Hold; its path goes on without triggers");
                self.link = None;
                self.held = true;
                self.down = Some(why.why);
            }
        }
    }

    fn hear(&mut self) {
        while let Ok(life) = self.lives.try_recv() {
            self.lived(life);
        }
    }

    /// Waits for the process to come again, as long as this source can wait.
    fn wait_for_link(&mut self) {
        let until = Instant::now() + self.patience.coming;
        self.hear();
        while self.link.is_none() && !self.held {
            let left = until.saturating_duration_since(Instant::now());
            match self.lives.recv_timeout(left) {
                Ok(life) => self.lived(life),
                Err(_) => return,
            }
        }
    }

    fn ask(&mut self, message: &FromParent) -> Result<FromChild, String> {
        self.wait_for_link();
        let Some(link) = &mut self.link else {
            let why = self.down.as_deref().unwrap_or("it is not there");
            return Err(format!("the fusion's process is not there: {why}"));
        };
        let id = match link.request(message, None) {
            Ok(id) => id,
            Err(e) if e.is_harmless() => return Err(e.to_string()),
            Err(e) => return Err(self.broken(&e)),
        };
        let until = Instant::now() + self.patience.answer;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit = self.patience.answer.as_millis();
                return Err(self.end_it(&format!("no answer within {limit} ms")));
            }
            let Some(link) = &mut self.link else {
                let why = self.down.as_deref().unwrap_or_default();
                return Err(format!("the fusion's process died: {why}"));
            };
            match link.receive() {
                Ok(Some(envelope)) => match envelope.message {
                    FromChild::Log(log) => {
                        if let Some(swallowed) = self.log.take(Instant::now()) {
                            log_line(&self.spec_name, &self.source, &log.msg, swallowed);
                        }
                    }
                    FromChild::Trace(_) => {}
                    FromChild::Error(e) if envelope.id == id => return Err(e.error),
                    message if envelope.id == id => return Ok(message),
                    // Late: of a request that was given up.
                    _ => {}
                },
                Ok(None) => {
                    self.bell.arm();
                    if self.lives.is_empty() {
                        let items = self.link.as_ref().map(Link::poll_item);
                        sleep(&self.bell, items, Some(left));
                    }
                    self.bell.disarm();
                    // What it said before it died comes first: the next turn reads it.
                    if self.lives.is_empty() {
                        continue;
                    }
                    match self.link.as_mut().map(Link::receive) {
                        Some(Ok(Some(envelope))) if envelope.id == id => {
                            return match envelope.message {
                                FromChild::Error(e) => Err(e.error),
                                message => Ok(message),
                            };
                        }
                        _ => self.hear(),
                    }
                }
                Err(e) => return Err(self.broken(&e)),
            }
        }
    }

    fn broken(&mut self, error: &LinkError) -> String {
        self.end_it(&error.to_string())
    }

    /// This incarnation can't be spoken with any more.
    fn end_it(&mut self, why: &str) -> String {
        if let Some(handle) = &self.handle {
            handle.kill(self.pid, why);
        }
        self.link = None;
        self.down = Some(why.to_owned());
        why.to_owned()
    }
}

impl Fusion for ChildFusion {
    fn update(&mut self, input: FusionInput<'_>) -> FusionResult {
        let answer = match FromParent::from_input(input) {
            Ok(message) => self.ask(&message),
            Err(e) => Err(e.to_string()),
        };
        let result = answer.and_then(|message| match message {
            FromChild::Result(answer) => FusionResult::try_from(answer).map_err(|e| e.to_string()),
            _ => Err(self.end_it("it broke the protocol: a wrong kind of answer")),
        });
        result.unwrap_or_else(|why| {
            if self.log.take(Instant::now()).is_some() {
                let fusion = &self.spec_name;
                tracing::warn!(%fusion, source = %self.source, why, "fusion gave no answer");
            }
            FusionResult {
                reason: why,
                ..FusionResult::default()
            }
        })
    }

    fn reset(&mut self) {
        if let Err(why) = self.ask(&FromParent::Reset(Nothing {})) {
            let fusion = &self.spec_name;
            tracing::warn!(%fusion, source = %self.source, why, "fusion could not be reset");
        }
    }
}

/// How long it has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

impl Drop for ChildFusion {
    fn drop(&mut self) {
        let link = self.link.take();
        let grace = if link.is_some() {
            GRACE
        } else {
            Duration::ZERO
        };
        if let Some(handle) = self.handle.take() {
            // Its end is the launcher's to see.
            drop(handle.stop(grace, None, || {
                link.is_some_and(|link| link.shutdown().is_ok())
            }));
        }
    }
}
