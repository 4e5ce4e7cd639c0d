//! The launcher: one thread that starts every child of this process and watches over its life.
//!
//! It never ends while the process lives, because children are killed when the *thread* that
//! started them ends (PR_SET_PDEATHSIG). It never waits for a child: everything is a descriptor or
//! a deadline of one poll loop.
//!
//! ```text
//! Start ─▶ Starting ──ready──▶ Up ──died──▶ Pausing ──▶ Starting …
//!             └──died, too late, refused──────▲  └──5 deaths in 60 s──▶ Hold
//! ```

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{ModelUse, Name, PluginContext, ViewSpec};
use visualpath_frames::{Frame, PoolSocket, ShareError};
use visualpath_protocol::{
    Accepts, ChildHello, ErrorKind, ErrorReport, Extractors, FromChild, FromParent, JsonObject,
    ModelDirs, ParentHello, Ready, Zone,
};

use crate::bell::{Bell, BellSender, NoBell};

use super::child::{AT_ONCE, Flood, TOO_MUCH};
use super::lines::{Budget, log_line, log_swallowed};
use super::link::{Link, LinkError};
use super::monitor::{Leaving, Monitor};
use super::process::{Process, in_words};
use super::rendezvous::{Rendezvous, RendezvousError};
use super::restarts::{Restarts, Verdict};

/// What to start, and how.
pub struct ChildSpec {
    /// The extractor's or fusion's name in the config.
    pub name: Name,
    /// The source it looks at.
    pub source: Name,
    /// Makes the command, anew for every start.
    pub program: Program,
    /// Its config.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Zones of the source.
    pub zones: Vec<visualpath_core::Zone>,
    /// Where models are looked up.
    pub model_dirs: Vec<PathBuf>,
    /// Of a fusion: the extractors of its path.
    pub extractors: Option<Extractors>,
    /// Longest time from its start to ready, and between two words of progress.
    pub start_timeout: Duration,
}

/// How long a start may take unless it is said otherwise.
const START_TIMEOUT: Duration = Duration::from_secs(120);

impl ChildSpec {
    /// An extractor of no particular source.
    pub fn new(context: PluginContext, program: Program) -> Self {
        let PluginContext {
            name,
            config,
            zones,
            model_dirs,
        } = context;
        Self {
            source: name.clone(),
            name,
            program,
            config,
            zones,
            model_dirs,
            extractors: None,
            start_timeout: START_TIMEOUT,
        }
    }
}

/// Makes the command of a child, which must find these variables in its environment. Its standard
/// input is a socket that must become descriptor 3.
pub type Program = Box<dyn FnMut(&[(&str, String)]) -> std::io::Result<Command> + Send>;

/// What a child that is up said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Signals it declares; empty: none declared.
    pub signals: Vec<String>,
    /// The view it wants, if it says.
    pub input: Option<ViewSpec>,
    /// Models it runs.
    pub models: Vec<ModelUse>,
    /// Its process.
    pub pid: u32,
}

/// Why a child does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotRunning {
    /// In one line.
    pub why: String,
    /// Whose fault, if the child could say.
    pub kind: Option<ErrorKind>,
}

/// What becomes of a child, told to its owner.
pub enum Life {
    /// It is ready; from now on the link is the owner's.
    Up(Box<Link>, Facts),
    /// It died, or never came up; it is started again.
    Down(NotRunning),
    /// It died once too often, or said that starting it again is of no use.
    Hold(NotRunning),
}

/// There is no launcher.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// No descriptor for its bell.
    #[error(transparent)]
    Bell(#[from] NoBell),
    /// No thread.
    #[error("the launcher thread: {0}")]
    Thread(std::io::Error),
}

/// Who may ask it.
#[derive(Clone)]
pub struct Launcher {
    commands: BellSender<Ask>,
}

enum Ask {
    Start(u64, Box<ChildSpec>, Tell),
    /// Of the incarnation with this process number, or whichever it is; with the reason.
    Kill(u64, Option<u32>, String),
    /// It has been told to end, or must be; killed when the time is up.
    Stop(u64, Duration, End),
}

type Tell = Box<dyn FnMut(Life) + Send>;

/// What is let go once a child is reaped, and not before.
struct End {
    /// Closes: whoever waits for its end is told.
    _done: Sender<()>,
    /// The frame it may still be looking at.
    _frame: Option<Frame>,
}

/// Commands that may wait.
const WAITING: usize = 256;

impl Launcher {
    /// The launcher of this process, started on first use.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn global() -> Result<&'static Self, Arc<LauncherError>> {
        static GLOBAL: OnceLock<Result<Launcher, Arc<LauncherError>>> = OnceLock::new();
        let started = GLOBAL.get_or_init(|| Self::start().map_err(Arc::new));
        started.as_ref().map_err(Arc::clone)
    }

    fn start() -> Result<Self, LauncherError> {
        let bell = Bell::new()?;
        let (commands, asked) = bell.channel(WAITING);
        std::thread::Builder::new()
            .name("launcher".into())
            .spawn(move || Nursery::new(bell, asked).run())
            .map_err(LauncherError::Thread)?;
        Ok(Self { commands })
    }

    /// Starts a child, and again whenever it dies. `tell` is called on the launcher's thread: hand
    /// on, don't work.
    pub fn launch(&self, spec: ChildSpec, tell: impl FnMut(Life) + Send + 'static) -> ChildHandle {
        static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let start = Ask::Start(id, Box::new(spec), Box::new(tell));
        // Its thread never ends, so it always receives.
        let asked = self.commands.send(start);
        debug_assert!(asked.is_ok(), "the launcher is gone");
        ChildHandle {
            id,
            commands: self.commands.clone(),
            stopped: false,
        }
    }
}

/// The right to end a child. Dropped, it is killed.
pub struct ChildHandle {
    id: u64,
    commands: BellSender<Ask>,
    stopped: bool,
}

impl ChildHandle {
    /// Kills it; it is started again after its pause. With `pid`, only if it still is that process:
    /// whoever asks may not know yet that it died and came again.
    pub fn kill(&self, pid: Option<u32>, why: impl Into<String>) {
        self.ask(Ask::Kill(self.id, pid, why.into()));
    }

    /// Ends it for good: `tell` tells it to shut down (false: it can't be told), and it has so long
    /// until it is killed. The channel closes once it is reaped; until then `frame`, which it may
    /// still be looking at, stays leased.
    pub fn stop(
        mut self,
        grace: Duration,
        frame: Option<Frame>,
        tell: impl FnOnce() -> bool,
    ) -> Receiver<()> {
        self.stopped = true;
        let (done, gone) = bounded(0);
        let end = End {
            _done: done,
            _frame: frame,
        };
        // First, so that its end is not taken for a death.
        self.ask(Ask::Stop(self.id, grace, end));
        if !tell() {
            self.kill(None, "it can't be told to end");
        }
        gone
    }

    fn ask(&self, ask: Ask) {
        let asked = self.commands.send(ask);
        debug_assert!(asked.is_ok(), "the launcher is gone");
    }
}

impl Drop for ChildHandle {
    fn drop(&mut self) {
        if !self.stopped {
            let (done, _) = bounded(0);
            let end = End {
                _done: done,
                _frame: None,
            };
            self.ask(Ask::Stop(self.id, Duration::ZERO, end));
        }
    }
}

/// All children, on the launcher's thread.
struct Nursery {
    bell: Bell,
    asked: Receiver<Ask>,
    children: Vec<Child>,
    leaving: Leaving,
    born: Instant,
}

struct Child {
    id: u64,
    spec: Box<ChildSpec>,
    tell: Tell,
    state: State,
    restarts: Restarts,
    budget: Budget,
    /// Its last lines on standard error: what it died with is usually there.
    last_words: String,
    stopping: Option<(Instant, End)>,
    /// How it ended, if it has.
    exit: Option<ExitStatus>,
    /// When that was seen.
    ended: Option<Instant>,
    /// Why it was killed by us.
    killed: Option<String>,
    /// It closed its connection; if it lives at this time, it is ended.
    lost: Option<Instant>,
}

enum State {
    Starting(Box<Starting>),
    Up(Process, Monitor, Instant),
    Pausing(Instant),
    Hold,
    /// Dead and not to be started again.
    Over,
}

struct Starting {
    process: Process,
    link: Link,
    monitor: Monitor,
    /// Until it has said hello.
    place: Option<Rendezvous>,
    hello: Option<ChildHello>,
    flood: Flood,
    deadline: Instant,
    /// What it said went wrong.
    error: Option<NotRunning>,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
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

impl Nursery {
    fn new(bell: Bell, asked: Receiver<Ask>) -> Self {
        Self {
            bell,
            asked,
            children: Vec::new(),
            leaving: Leaving::new(),
            born: Instant::now(),
        }
    }

    fn run(mut self) {
        loop {
            self.wait();
            // Who has ended is noted before what is asked is heard: a stop that was asked for
            // before an end is known when that is judged.
            for child in &mut self.children {
                child.exit = child.process().and_then(Process::ended);
            }
            while let Ok(ask) = self.asked.try_recv() {
                self.ask(ask);
            }
            let born = self.born;
            for child in &mut self.children {
                child.turn(born, &self.leaving);
            }
            self.leaving.look();
            // Its owner gave it up: whoever waits for that is told by the drop.
            self.children
                .retain(|c| !(matches!(c.state, State::Over) && c.stopping.is_some()));
        }
    }

    fn ask(&mut self, ask: Ask) {
        let (Ask::Start(id, ..) | Ask::Kill(id, ..) | Ask::Stop(id, ..)) = &ask;
        let at = self.children.iter().position(|c| c.id == *id);
        match (ask, at) {
            (Ask::Start(id, spec, tell), _) => {
                let mut child = Child {
                    id,
                    spec,
                    tell,
                    state: State::Over,
                    restarts: Restarts::default(),
                    budget: Budget::new(Instant::now()),
                    last_words: String::new(),
                    stopping: None,
                    exit: None,
                    ended: None,
                    killed: None,
                    lost: None,
                };
                child.start(self.born, &self.leaving);
                self.children.push(child);
            }
            (Ask::Kill(_, pid, why), Some(at)) => {
                let child = &mut self.children[at];
                let is = child.process().map(|p| p.pid());
                if pid.is_none() || pid == is {
                    child.kill(&why);
                }
            }
            (Ask::Stop(_, grace, end), Some(at)) => self.children[at].stop(grace, end),
            // It is over already.
            (Ask::Kill(..) | Ask::Stop(..), None) => {}
        }
    }

    /// Sleeps until something happens or a deadline comes.
    fn wait(&self) {
        self.bell.arm();
        if self.asked.is_empty() {
            let mut items = vec![zmq::PollItem::from_fd(self.bell.descriptor(), zmq::POLLIN)];
            for child in &self.children {
                child.watch(&mut items);
            }
            items.extend(self.leaving.poll_items());
            let now = Instant::now();
            let next = self.children.iter().filter_map(Child::deadline).min();
            let millis = next.map_or(-1, |at| {
                let left = at.saturating_duration_since(now).as_micros().div_ceil(1000);
                i64::try_from(left).unwrap_or(i64::MAX)
            });
            match zmq::poll(&mut items, millis) {
                Ok(_) | Err(zmq::Error::EINTR) => {}
                Err(error) => {
                    // Nothing here can cause it; if it happens, it must not become a busy loop.
                    tracing::error!(%error, "poll for worker processes");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        self.bell.disarm();
    }
}

impl Child {
    fn start(&mut self, born: Instant, leaving: &Leaving) {
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

    fn begin(&mut self, leaving: &Leaving) -> Result<Starting, StartError> {
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

    fn watch<'a>(&'a self, items: &mut Vec<zmq::PollItem<'a>>) {
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

    fn deadline(&self) -> Option<Instant> {
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

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Starting(s) => Some(&mut s.process),
            State::Up(process, ..) => Some(process),
            State::Pausing(_) | State::Hold | State::Over => None,
        }
    }

    fn kill(&mut self, why: &str) {
        if self.killed.is_some() {
            return;
        }
        if let Some(process) = self.process() {
            process.kill();
            self.killed = Some(why.to_owned());
        }
    }

    fn stop(&mut self, grace: Duration, end: End) {
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
    fn turn(&mut self, born: Instant, leaving: &Leaving) {
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

    fn drain(&mut self, now: Instant) {
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

    /// The handshake.
    fn listen(&mut self) {
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

    /// A child that lives without its connection can't be spoken with.
    fn look_at_monitor(&mut self) {
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
    fn has_said_all(&mut self, now: Instant) -> bool {
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
    fn bury(&mut self, born: Instant, exit: ExitStatus) {
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

    fn died(&mut self, born: Instant, up: Option<Duration>, reason: NotRunning, is_final: bool) {
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
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the dead take to be found dead after their sockets closed.
const DYING: Duration = Duration::from_millis(500);
/// Turns of [`super::lines::Lines::read`] for what a dead child left in its pipes: a pipe holds one.
const LAST_TURNS: usize = 3;
