//! One child from its first start to its Hold or its end.
//!
//! ```text
//! Starting ──ready──▶ Up ──died──▶ Pausing ──▶ Starting …
//!    └──died, too late, refused──────▲  └──5 deaths in 60 s──▶ Hold
//! ```

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use visualpath_frames::{PoolSocket, ShareError};
use visualpath_protocol::{ChildHello, ErrorKind};

use super::child::Flood;
use super::launcher::{ChildSpec, End, Life, NotRunning, Tell};
use super::lines::{Budget, log_line, log_swallowed};
use super::link::{Link, LinkError};
use super::monitor::{Leaving, Monitor};
use super::process::{Process, in_words};
use super::rendezvous::{Rendezvous, RendezvousError};
use super::restarts::{Restarts, Verdict};

/// A child, running or not.
pub(super) struct Child {
    pub(super) id: u64,
    pub(super) spec: Box<ChildSpec>,
    pub(super) tell: Tell,
    pub(super) state: State,
    pub(super) restarts: Restarts,
    pub(super) budget: Budget,
    /// Its last lines on standard error: what it died with is usually there.
    pub(super) last_words: String,
    pub(super) stopping: Option<(Instant, End)>,
    /// How it ended, if it has.
    pub(super) exit: Option<ExitStatus>,
    /// When that was seen.
    pub(super) ended: Option<Instant>,
    /// Why it was killed by us.
    pub(super) killed: Option<String>,
    /// It closed its connection; if it lives at this time, it is ended.
    pub(super) lost: Option<Instant>,
}

/// Where it is in its life.
pub(super) enum State {
    Starting(Box<Starting>),
    Up(Process, Monitor, Instant),
    Pausing(Instant),
    Hold,
    /// Dead and not to be started again.
    Over,
}

/// A child that is not ready yet.
pub(super) struct Starting {
    pub(super) process: Process,
    pub(super) link: Link,
    pub(super) monitor: Monitor,
    /// Until it has said hello.
    pub(super) place: Option<Rendezvous>,
    pub(super) hello: Option<ChildHello>,
    pub(super) flood: Flood,
    pub(super) deadline: Instant,
    /// What it said went wrong.
    pub(super) error: Option<NotRunning>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Place(#[from] RendezvousError),
    #[error(transparent)]
    Pools(#[from] ShareError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("its socket directory: {0}")]
    Directory(std::io::Error),
    #[error("its program can't be started: {0}")]
    Program(std::io::Error),
}

impl Child {
    pub(super) fn start(&mut self, born: Instant, leaving: &Leaving) {
        self.killed = None;
        self.last_words.clear();
        match self.begin(leaving) {
            Ok(starting) => self.state = State::Starting(Box::new(starting)),
            Err(e) => self.died(
                born,
                None,
                NotRunning {
                    why: e.to_string(),
                    kind: None,
                },
                false,
            ),
        }
    }

    pub(super) fn begin(&mut self, leaving: &Leaving) -> Result<Starting, StartError> {
        let place = Rendezvous::new(None)?;
        let (pools, theirs) = PoolSocket::pair()?;
        let link = Link::bind(&place, pools)?;
        let monitor =
            Monitor::new(link.socket(), &place.token, leaving).map_err(LinkError::from)?;
        place.open_socket(None).map_err(StartError::Directory)?;
        let variables = [
            ("VISUALPATH_ENDPOINT", place.endpoint.clone()),
            ("VISUALPATH_TOKEN", place.token.clone()),
        ];
        let command = (self.spec.program)(&variables).map_err(StartError::Program)?;
        let process = Process::spawn(command, theirs).map_err(StartError::Program)?;
        tracing::debug!(extractor = %self.spec.name, source = %self.spec.source, pid = process.pid(), "worker process started");
        Ok(Starting {
            process,
            link,
            monitor,
            place: Some(place),
            hello: None,
            flood: Flood::default(),
            deadline: Instant::now() + self.spec.start_timeout,
            error: None,
        })
    }

    pub(super) fn watch<'a>(&'a self, items: &mut Vec<zmq::PollItem<'a>>) {
        let (process, monitor) = match &self.state {
            State::Starting(s) => {
                items.push(s.link.poll_item());
                (&s.process, &s.monitor)
            }
            State::Up(process, monitor, _) => (process, monitor),
            State::Pausing(_) | State::Hold | State::Over => return,
        };
        items.extend(monitor.poll_item());
        let pipes = [process.out.descriptor(), process.err.descriptor()];
        // Its end is news once.
        let end = Some(process.pidfd()).filter(|_| self.ended.is_none());
        let descriptors = pipes.into_iter().flatten().chain(end);
        items.extend(descriptors.map(|fd| zmq::PollItem::from_fd(fd, zmq::POLLIN)));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Starting(s) => Some(s.deadline).filter(|_| self.killed.is_none()),
            State::Pausing(until) => Some(*until),
            State::Up(..) | State::Hold | State::Over => None,
        };
        // Nothing is left to do about one that is killed but to wait for its end.
        let stop = self.stopping.as_ref().map(|(at, _)| *at);
        let stop = stop.filter(|_| self.killed.is_none());
        let watched = self.killed.is_none() && self.stopping.is_none();
        let lost = self.lost.filter(|_| watched);
        let rest = self.budget.rest_at();
        let buried = self.ended.map(|at| at + DYING);
        let all = own.into_iter().chain(stop).chain(lost);
        all.chain(rest).chain(buried).min()
    }

    pub(super) fn process(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Starting(s) => Some(&mut s.process),
            State::Up(process, ..) => Some(process),
            State::Pausing(_) | State::Hold | State::Over => None,
        }
    }

    pub(super) fn kill(&mut self, why: &str) {
        if self.killed.is_some() {
            return;
        }
        if let Some(process) = self.process() {
            process.kill();
            self.killed = Some(why.to_owned());
        }
    }

    pub(super) fn stop(&mut self, grace: Duration, end: End) {
        let at = Instant::now() + grace;
        if grace.is_zero() || matches!(self.state, State::Starting(_)) {
            // One that is starting can't be told.
            self.kill("the appliance stops it");
        }
        if self.process().is_none() {
            self.state = State::Over;
        }
        self.stopping = Some((at, end));
    }

    /// Everything that may have happened.
    pub(super) fn turn(&mut self, born: Instant, leaving: &Leaving) {
        let now = Instant::now();
        self.drain(now);
        if let Some(swallowed) = self.budget.rest(now) {
            log_swallowed(&self.spec.name, &self.spec.source, swallowed);
        }
        if let State::Starting(_) = self.state {
            self.listen();
        }
        self.look_at_monitor();
        if self.stopping.as_ref().is_some_and(|(at, _)| now >= *at) {
            self.kill("it did not end when told to");
        }
        match &mut self.state {
            State::Starting(s) if now >= s.deadline => {
                let what = if s.hello.is_none() {
                    "said no hello"
                } else {
                    "was not ready"
                };
                let limit = self.spec.start_timeout.as_secs_f64();
                self.kill(&format!("it {what} within start_timeout_s = {limit}"));
            }
            State::Pausing(until) if now >= *until => self.start(born, leaving),
            _ => {}
        }
        if let Some(exit) = self.exit.take()
            && self.has_said_all(now)
        {
            self.bury(born, exit);
        }
    }

    pub(super) fn drain(&mut self, now: Instant) {
        let Self {
            state,
            budget,
            last_words,
            spec,
            ..
        } = self;
        let process = match state {
            State::Starting(s) => &mut s.process,
            State::Up(process, ..) => process,
            State::Pausing(_) | State::Hold | State::Over => return,
        };
        let mut told = |line: &str| {
            if let Some(swallowed) = budget.take(now) {
                log_line(&spec.name, &spec.source, line, swallowed);
            }
        };
        process.out.read(&mut told);
        process.err.read(|line| {
            // What Rust adds to every panic and abort says nothing.
            if !line.starts_with("note: ") {
                line.clone_into(last_words);
            }
            told(line);
        });
    }
    /// A child that lives without its connection can't be spoken with.
    pub(super) fn look_at_monitor(&mut self) {
        let monitor = match &self.state {
            State::Starting(s) => &s.monitor,
            State::Up(_, monitor, _) => monitor,
            State::Pausing(_) | State::Hold | State::Over => return,
        };
        // A child that dies loses its connection first: it is given the time to be found dead.
        if monitor.has_lost() {
            self.lost.get_or_insert(Instant::now() + DYING);
        }
        if self.stopping.is_some() {
            return;
        }
        if self.lost.is_some_and(|at| Instant::now() >= at) {
            self.kill("it closed its connection, or sent a message too long");
        }
    }

    /// Whether everything it said before it ended is there. Its last message (why its config can't
    /// be used, the answer about a frame) may be on its way through libzmq's I/O thread when its end
    /// is seen; that thread tells of the lost connection after it.
    pub(super) fn has_said_all(&mut self, now: Instant) -> bool {
        let connected = match &self.state {
            State::Starting(s) => s.hello.is_some(),
            State::Up(..) => true,
            State::Pausing(_) | State::Hold | State::Over => false,
        };
        let since = *self.ended.get_or_insert(now);
        // A process that it started may keep the connection open.
        if connected && self.lost.is_none() && now < since + DYING {
            return false;
        }
        self.listen();
        true
    }

    /// It has ended: the rest of what it wrote, and what next.
    pub(super) fn bury(&mut self, born: Instant, exit: ExitStatus) {
        // A grandchild may keep the pipes open, so their end is not waited for.
        for _ in 0..LAST_TURNS {
            self.drain(Instant::now());
        }
        let up = match &self.state {
            State::Up(.., since) => Some(since.saturating_duration_since(born)),
            _ => None,
        };
        let said = match &mut self.state {
            State::Starting(s) => s.error.take(),
            _ => None,
        };
        let final_ = exit.code() == Some(HELD_EXIT);
        let hopeless = said
            .as_ref()
            .is_some_and(|said| said.kind.is_some_and(|k| k != ErrorKind::Plugin));
        let reason = said.unwrap_or_else(|| {
            let words = match self.last_words.as_str() {
                "" => in_words(exit),
                last => format!("{}: {last}", in_words(exit)),
            };
            let why = match &self.killed {
                Some(why) if exit.signal() == Some(SIGKILL) => why.clone(),
                // It ended before it could be killed for that.
                Some(why) => format!("{words} ({why})"),
                None => words,
            };
            NotRunning { why, kind: None }
        });
        self.died(born, up, reason, final_ || hopeless);
    }

    pub(super) fn died(
        &mut self,
        born: Instant,
        up: Option<Duration>,
        reason: NotRunning,
        is_final: bool,
    ) {
        let (extractor, source) = (self.spec.name.clone(), self.spec.source.clone());
        self.state = State::Over;
        // Nothing of it is waited for any more.
        (self.lost, self.ended) = (None, None);
        if self.stopping.is_some() {
            tracing::debug!(%extractor, %source, "worker process ended");
            return;
        }
        let verdict = match is_final {
            true => Verdict::Hold,
            false => self.restarts.died(born.elapsed(), up),
        };
        let why = &reason.why;
        match verdict {
            Verdict::After(pause) => {
                tracing::error!(%extractor, %source, why, restart_ms = pause.as_millis(), "worker process died");
                self.state = State::Pausing(Instant::now() + pause);
                (self.tell)(Life::Down(reason));
            }
            Verdict::Hold => {
                self.state = State::Hold;
                (self.tell)(Life::Hold(reason));
            }
        }
    }
}

/// A worker's own word that it is not to be started again: `HELD_EXIT` of the SDK, which this crate
/// does not see.
const HELD_EXIT: i32 = 69;
/// What children are killed with.
const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
/// How long a child that said what is wrong has to end by itself.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the dead take to be found dead after their sockets closed.
pub(super) const DYING: Duration = Duration::from_millis(500);
/// Turns of [`super::lines::Lines::read`] for what a dead child left in its pipes: a pipe holds one.
const LAST_TURNS: usize = 3;
