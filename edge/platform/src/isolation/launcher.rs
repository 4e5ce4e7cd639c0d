//! The launcher: one thread that starts every child of this process and watches over its life.
//!
//! It never ends while the process lives, because children are killed when the *thread* that
//! started them ends (PR_SET_PDEATHSIG). It never waits for a child: everything is a descriptor or
//! a deadline of one poll loop.
//!
//! ```text
//! Start, Kill, Stop ─▶ poll ─▶ every Child has its turn (life.rs, handshake.rs) ─▶ Life
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use visualpath_core::{ModelUse, Name, PluginContext, ViewSpec};
use visualpath_frames::Frame;
use visualpath_protocol::{ErrorKind, Extractors};

use crate::bell::{Bell, BellSender, NoBell};

use super::life::{Child, State};
use super::lines::Budget;
use super::link::Link;
use super::monitor::Leaving;
use super::process::Process;
use super::restarts::Restarts;

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
    /// What of its picture does not count.
    pub masks: Vec<visualpath_core::Mask>,
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
            masks,
            model_dirs,
        } = context;
        Self {
            source: name.clone(),
            name,
            program,
            config,
            zones,
            masks,
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

pub(super) type Tell = Box<dyn FnMut(Life) + Send>;

/// What is let go once a child is reaped, and not before.
pub(super) struct End {
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
