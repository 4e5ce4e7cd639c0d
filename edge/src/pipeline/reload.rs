//! A new config for a running pipeline.
//!
//! ```text
//! new config ─▶ plan ─▶ per source: same | Reshape (models loaded) | another line (source open) ─▶ apply
//! ```
//!
//! Everything that can fail happens before anything changes: a config that is wrong, a model that
//! is not there or a file that can't be opened leaves the pipeline as it was. Then each source goes
//! on with its new lanes and paths from one frame to the next; lanes and paths that are the same
//! are not touched, and of a changed `rules` fusion the rules that are the same go on with what they
//! have open.

use std::path::Path;

use crossbeam_channel::{Sender, bounded};
use visualpath_core::Name;
use visualpath_mqtt::{ExtractorStatus, SourceStatus};

use super::build::Nursery;
use super::line::Ready;
use super::shape::Reshape;
use super::{Handle, Running, StartError, plan, problem};
use crate::config::{Config, Diagnostic, SourceConfig};

/// What became of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Sources that were started, or stopped and started again.
    pub started: Vec<Name>,
    /// Sources that were stopped for good.
    pub stopped: Vec<Name>,
    /// Sources whose camera controls changed.
    pub controls: Vec<Name>,
    /// Extractors that were made, as `source/extractor`.
    pub extractors: Vec<String>,
    /// Paths that changed between two frames, as `source/path`.
    pub paths: Vec<String>,
    /// Sections that changed and are used only after a restart.
    pub restart: Vec<String>,
}

impl Reloaded {
    /// Whether nothing was different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new config can't be used.
    #[error(transparent)]
    Config(Box<StartError>),
    /// The pipeline has ended, or is ending.
    #[error("the pipeline is not running")]
    NotRunning,
}

/// What is asked of the main thread.
pub enum Request {
    /// Another config.
    Reload {
        /// It.
        config: Box<Config>,
        /// Where to say what became of it.
        answer: Sender<Result<Reloaded, StartError>>,
    },
    /// Something the operator should know, or `None` when that is over.
    Problem {
        /// Its code.
        code: &'static str,
        /// Its subject.
        subject: String,
        /// What and what to do.
        what: Option<(String, String)>,
    },
    /// Writes what goes on to the log.
    DumpStatus,
}

/// The code of a config that can't be used.
const CONFIG_INVALID: &str = "config_invalid";

impl Handle {
    /// Asks the pipeline to stop gracefully.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Goes on with another config; waits until it is in force. Loading models takes its time, the
    /// pipeline runs meanwhile.
    ///
    /// # Errors
    /// When the config can't be used (then nothing has changed) or the pipeline does not run.
    pub fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        let (answer, reloaded) = bounded(1);
        let config = Box::new(config);
        self.requests
            .send(Request::Reload { config, answer })
            .map_err(|_| ReloadError::NotRunning)?;
        match reloaded.recv() {
            Ok(Ok(reloaded)) => Ok(reloaded),
            Ok(Err(e)) => Err(ReloadError::Config(Box::new(e))),
            Err(_) => Err(ReloadError::NotRunning),
        }
    }

    /// Says in `health` that the config file is broken and not in force.
    pub fn config_invalid(&self, file: &Path, findings: &[Diagnostic]) {
        let detail = findings
            .iter()
            .find(|d| d.is_error())
            .map_or_else(|| "can't be used".to_owned(), ToString::to_string);
        let advice = "correct it (`visualpath validate`) and reload; the one before is in force";
        let what = Some((detail, advice.to_owned()));
        self.ask(Request::Problem {
            code: CONFIG_INVALID,
            subject: file.display().to_string(),
            what,
        });
    }

    /// The config file is good again.
    pub fn config_valid(&self, file: &Path) {
        self.ask(Request::Problem {
            code: CONFIG_INVALID,
            subject: file.display().to_string(),
            what: None,
        });
    }

    /// Writes sources, extractors and their counters to the log.
    pub fn dump_status(&self) {
        // Not worth waiting for a reload: whoever calls this also hears signals.
        if self.requests.try_send(Request::DumpStatus).is_err() {
            tracing::warn!("busy with a reload, or not running: no status");
        }
    }

    fn ask(&self, request: Request) {
        if self.requests.send(request).is_err() {
            tracing::warn!("the pipeline is not running");
        }
    }
}

/// What happens to one source.
enum Step {
    Start(Box<Ready>),
    Replace(usize, Box<Ready>),
    /// The source goes on; its controls may differ.
    Go(usize, Box<SourceConfig>),
    Reshape(usize, Box<Reshape>, usize, f64),
}

impl Running {
    /// Carries out a request and answers it.
    pub(super) fn answer(&mut self, request: Request) {
        let (config, answer) = match request {
            Request::Reload { config, answer } => (config, answer),
            Request::Problem {
                code,
                subject,
                what: Some((detail, advice)),
            } => {
                let problem = problem(code, &subject, &detail, &advice);
                return self.maker.events.problem(problem);
            }
            Request::Problem {
                code,
                subject,
                what: None,
            } => return self.maker.events.solved(code, &subject),
            Request::DumpStatus => return self.dump_status(),
        };
        let result = self.reload(*config);
        match &result {
            Ok(reloaded) => tracing::info!(?reloaded, "config reloaded"),
            Err(e) => tracing::error!(error = %e, "the new config can't be used; nothing changed"),
        }
        if answer.send(result).is_err() {
            tracing::debug!("nobody waited for the reload");
        }
    }

    fn dump_status(&self) {
        for line in &self.lines {
            let source = &line.shared.source;
            let capture = &line.stats.capture;
            tracing::info!(%source, ?capture, "status");
            if let Some(ring) = line.shared.ring() {
                tracing::info!(%source, ?ring, "status");
            }
            for (extractor, lane) in line.stats.flow.lanes() {
                tracing::info!(%source, %extractor, ?lane, "status");
            }
        }
    }

    fn reload(&mut self, new: Config) -> Result<Reloaded, StartError> {
        let restart = restart_needed(&self.config, &new);
        // What needs a restart stays as it is, for all that follows.
        let new = Config {
            device: self.config.device.clone(),
            clip: self.config.clip.clone(),
            mqtt: self.config.mqtt.clone(),
            observability: self.config.observability.clone(),
            web: self.config.web.clone(),
            ota: self.config.ota.clone(),
            ..new
        };
        let plan = plan::plan(&new, &self.registry)?;
        let mut reloaded = Reloaded {
            restart,
            ..Reloaded::default()
        };
        let steps = self.prepare(&new, plan)?;
        let kept: Vec<Name> = new
            .source
            .keys()
            .filter(|s| new.paths_of(s).next().is_some())
            .cloned()
            .collect();
        for step in steps {
            self.apply(step, &mut reloaded)?;
        }
        let (stay, leave) = std::mem::take(&mut self.lines)
            .into_iter()
            .partition(|l: &super::line::Line| kept.contains(&l.shared.source));
        self.lines = stay;
        for line in leave {
            reloaded.stopped.push(line.shared.source.clone());
            for extractor in line.shape.extractors() {
                self.forget(&line.shared.source, extractor);
            }
            line.stop.stop();
            self.finish(line);
        }
        self.lost.retain(|l| kept.contains(&l.shared.source));
        self.config = new;
        self.say_info();
        Ok(reloaded)
    }

    /// Everything that can fail.
    fn prepare(&self, new: &Config, plan: plan::Plan) -> Result<Vec<Step>, StartError> {
        let mut steps = Vec::new();
        for line in plan.lines {
            let at = |l: &super::line::Line| l.shared.source == line.source;
            let Some(index) = self.lines.iter().position(at) else {
                steps.extend(self.prepare_start(new, line)?);
                continue;
            };
            let running = &self.lines[index];
            if !running.serves(new, &line.settings)? {
                let ready = self.maker.prepare(new, line, Some(running))?;
                steps.push(Step::Replace(index, Box::new(ready)));
                continue;
            }
            let (slots, clips) = (line.slots(), line.wants_clips());
            let longest_pre_s = line.longest_pre_s();
            let settings = line.settings.clone();
            let nursery = Nursery {
                config: new,
                bell: running.bell(),
                work_dir: None,
            };
            let reshape = Reshape::prepare(&running.shape, line, &running.pace, &nursery)?;
            if clips {
                self.maker
                    .start_evidence(new, &running.shared, &running.pace)?;
            }
            steps.push(Step::Go(index, Box::new(settings)));
            if !reshape.is_empty() {
                let reshape = Box::new(reshape);
                steps.push(Step::Reshape(index, reshape, slots, longest_pre_s));
            }
        }
        Ok(steps)
    }

    /// A source that does not run: new, or lost, or read to its end.
    fn prepare_start(
        &self,
        new: &Config,
        line: plan::LinePlan,
    ) -> Result<Option<Step>, StartError> {
        // A file that was read to its end is not read again for nothing.
        if self.read.get(&line.source) == Some(&line.settings) {
            return Ok(None);
        }
        let (source, settings) = (line.source.clone(), line.settings.clone());
        let before = self.lost.iter().find(|l| l.shared.source == source);
        match self.maker.prepare(new, line, before) {
            Ok(ready) => Ok(Some(Step::Start(Box::new(ready)))),
            // It was lost, and still is; that is no fault of this config.
            Err(e @ StartError::Source { .. })
                if before.is_some_and(|l| l.settings == settings) =>
            {
                tracing::warn!(%source, error = %e, "still lost");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn apply(&mut self, step: Step, reloaded: &mut Reloaded) -> Result<(), StartError> {
        match step {
            Step::Go(index, settings) => {
                let line = &mut self.lines[index];
                if line.set_controls(&settings) {
                    reloaded.controls.push(line.shared.source.clone());
                }
            }
            Step::Start(ready) => {
                self.announce(&ready);
                reloaded.started.push(ready.source().clone());
                let before = |l: &super::line::Line| l.shared.source == *ready.source();
                let ready = match self.lost.iter().position(before) {
                    Some(at) => ready.after(&self.lost.remove(at)),
                    None => *ready,
                };
                self.lines.push(ready.go(&self.maker)?);
            }
            Step::Replace(index, ready) => {
                reloaded.started.push(ready.source().clone());
                // The old one first: its ranges end before the new one's begin, and the new one
                // knows where to go on. Indices of later steps hold.
                let old = &mut self.lines[index];
                old.stop.stop();
                Self::join_line(&mut self.stopping, &self.maker, old);
                let ready = ready.after(old);
                // The last word on the old one, before the new one can say that it is offline.
                self.say_gone(ready.source());
                self.announce(&ready);
                let line = ready.go(&self.maker)?;
                let old = std::mem::replace(&mut self.lines[index], line);
                self.account_for(old);
            }
            Step::Reshape(index, reshape, slots, longest_pre_s) => {
                let line = &mut self.lines[index];
                let source = line.shared.source.clone();
                let old: Vec<Name> = line.shape.extractors().cloned().collect();
                let paths = reshape.changed_paths.iter().chain(&reshape.gone_paths);
                reloaded
                    .paths
                    .extend(paths.map(|p| format!("{source}/{p}")));
                let made = reshape.made.clone();
                let named = made.iter().map(|e| format!("{source}/{e}"));
                reloaded.extractors.extend(named);
                // Before the path thread can say otherwise.
                for extractor in &made {
                    self.forget(&source, extractor);
                    self.out
                        .extractor_status(&source, extractor, ExtractorStatus::Running);
                }
                let line = &mut self.lines[index];
                line.reshape(*reshape, slots, longest_pre_s);
                let new: Vec<Name> = line.shape.extractors().cloned().collect();
                for gone in old.iter().filter(|e| !new.contains(e)) {
                    self.forget(&source, gone);
                }
            }
        }
        Ok(())
    }

    /// What was wrong with an extractor that is no more.
    fn forget(&self, source: &Name, extractor: &Name) {
        let subject = format!("{source}/{extractor}");
        for code in [
            "extractor_held",
            "extractor_restarting",
            "late_observations",
        ] {
            self.maker.events.solved(code, &subject);
        }
    }

    fn announce(&self, ready: &Ready) {
        self.say_running(ready.source(), &names(ready));
    }

    fn say_running(&self, source: &Name, extractors: &[Name]) {
        self.maker.events.solved("source_lost", source.as_str());
        self.out.source_status(source, SourceStatus::Online);
        for name in extractors {
            self.forget(source, name);
            self.out
                .extractor_status(source, name, ExtractorStatus::Running);
        }
    }
}

fn names(ready: &Ready) -> Vec<Name> {
    ready.extractors().cloned().collect()
}

/// Sections that are read at start only.
fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    [
        ("device", old.device != new.device),
        ("clip", old.clip != new.clip),
        ("mqtt", old.mqtt != new.mqtt),
        ("observability", old.observability != new.observability),
        ("web", old.web != new.web),
        ("ota", old.ota != new.ota),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(section, _)| section.to_owned())
    .collect()
}
