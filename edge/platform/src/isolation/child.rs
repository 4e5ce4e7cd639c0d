//! A worker in a process of its own, as the path thread has it.
//!
//! One frame at a time, a few messages per frame at most: a pool it does not know yet, a reset, then
//! the frame. It answers, or its death does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use visualpath_core::{FrameMeta, FrameView, Name, Outcome, ViewSpec};
use visualpath_protocol::{
    Envelope, Extract, FrameAt, FrameRef, FromChild, FromParent, Level, Nothing, Observation,
    Observations, PixelsIn,
};

use crate::bell::Bell;
use crate::observe::Merger;
use crate::worker::{Job, Reply};

use super::launcher::{ChildHandle, ChildSpec, Facts, Launcher, Life, NotRunning};
use super::lines::{Budget, log_line, log_swallowed};
use super::link::{Link, LinkError};

/// Makes a JPEG of a view.
pub type JpegEncoder = Arc<dyn Fn(&FrameView<'_>) -> Result<Vec<u8>, String> + Send + Sync>;

/// How pixels reach the child.
#[derive(Clone)]
pub enum Pixels {
    /// In the pool: nothing is copied.
    Slot,
    /// Beside the message, as they are.
    Raw,
    /// Beside the message, as a JPEG.
    Jpeg(JpegEncoder),
}

/// What has happened to a child.
#[derive(Debug)]
pub enum ChildEvent {
    /// It answered the frame in flight, or that frame could not be given to it.
    Reply(Reply),
    /// It takes frames.
    Up(Facts),
    /// It is not there; it comes again. With what became of the frame in flight, if there was one.
    Down(NotRunning, Option<Reply>),
    /// It does not come again. Likewise.
    Hold(NotRunning, Option<Reply>),
    /// A record for the trace.
    Trace(serde_json::Map<String, serde_json::Value>),
}

/// A worker process.
pub struct ChildWorker {
    name: Name,
    source: Name,
    view: ViewSpec,
    merger: Merger,
    pixels: Pixels,
    /// Beyond this nobody waits for an answer; told to the child.
    deadline_ms: Option<u32>,
    /// Until it is told to end.
    handle: Option<ChildHandle>,
    lives: Receiver<Life>,
    link: Option<Link>,
    facts: Option<Facts>,
    /// Why it is not there, once it has died.
    gone: Option<Gone>,
    doing: Option<Doing>,
    /// What comes out at the next calls of [`ChildWorker::event`].
    events: heapless::Deque<ChildEvent, 4>,
    epoch: Option<u32>,
    reset_first: bool,
    /// A ping is on its way since.
    pinged: Option<(u64, Instant)>,
    heard: Instant,
    killed: bool,
    /// Of the incarnation whose link this is.
    pid: Option<u32>,
    log: Budget,
    scratch: Vec<u8>,
    /// The message of the last frame, to be used again.
    asked: Option<Box<Extract>>,
    flood: Flood,
    /// Answers to nothing in flight.
    strays: u64,
}

/// Messages of one child taken before others have their turn.
pub(super) const AT_ONCE: usize = 32;
/// Why one that says too much is ended.
pub(super) const TOO_MUCH: &str = "it sends more messages than any worker has reason to";

/// Counts the messages of a second.
#[derive(Debug, Default)]
pub(super) struct Flood {
    since: Option<Instant>,
    messages: u32,
}

impl Flood {
    /// Messages in a second that no frame rate explains.
    const MOST: u32 = 20_000;

    /// Counts one more. Whether there were too many.
    pub fn is_one(&mut self, now: Instant) -> bool {
        let new = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1));
        if new {
            self.since = Some(now);
            self.messages = 0;
        }
        self.messages += 1;
        self.messages > Self::MOST
    }
}

/// A child that is not there.
#[derive(Debug, Clone)]
pub struct Gone {
    /// Why.
    pub why: NotRunning,
    /// It does not come again.
    pub for_good: bool,
}

struct Doing {
    job: Job,
    step: Step,
    id: u64,
    started: Instant,
}

impl Doing {
    fn reply(self, outcome: Outcome) -> Reply {
        Reply {
            frame_id: self.job.frame.meta().frame_id,
            outcome,
            took_ns: elapsed_ns(self.started),
            held: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Pool,
    Reset,
    Extract,
}

/// Lives that may wait for the owner: a child has fewer before it is on Hold.
const LIVES: usize = 32;
/// How often [`ChildWorker::wait`] looks whether a child that is up has died.
const LOOK: Duration = Duration::from_millis(50);
/// An idle child is asked whether it is there after this long.
const PING_AFTER: Duration = Duration::from_secs(10);

impl ChildWorker {
    /// Starts the child. `bell` wakes its owner when something happens to it.
    pub fn start(
        launcher: &Launcher,
        spec: ChildSpec,
        view: ViewSpec,
        pixels: Pixels,
        merger: Merger,
        bell: &Bell,
    ) -> Self {
        let (told, lives) = bell.channel(LIVES);
        let (name, source) = (spec.name.clone(), spec.source.clone());
        let (extractor, of) = (name.clone(), source.clone());
        let handle = launcher.launch(spec, move |life| {
            // The owner is gone, or has not looked for half a minute of deaths.
            if told.try_send(life).is_err() {
                tracing::debug!(%extractor, source = %of, "nobody hears what becomes of a worker process");
            }
        });
        let now = Instant::now();
        Self {
            name,
            source,
            view,
            merger,
            pixels,
            deadline_ms: None,
            handle: Some(handle),
            lives,
            link: None,
            facts: None,
            gone: None,
            doing: None,
            events: heapless::Deque::new(),
            epoch: None,
            reset_first: false,
            pinged: None,
            heard: now,
            killed: false,
            pid: None,
            log: Budget::new(now),
            scratch: Vec::new(),
            asked: None,
            flood: Flood::default(),
            strays: 0,
        }
    }

    /// The extractor's name in the config.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The view it is given.
    pub fn view(&self) -> ViewSpec {
        self.view
    }

    /// Gives it another view; before its first frame.
    pub fn set_view(&mut self, view: ViewSpec) {
        self.view = view;
    }

    /// Tells it how long its answers are waited for.
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline_ms = limit.map(|l| u32::try_from(l.as_millis()).unwrap_or(u32::MAX));
    }

    /// What it saw so far were no real frames: it forgets them before the first.
    pub fn forget(&mut self) {
        self.epoch = None;
        self.reset_first = true;
    }

    /// What it said of itself when it last came up.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Whether it takes frames.
    pub fn is_up(&self) -> bool {
        self.link.is_some()
    }

    /// Why it is not there, once it has died; `None` before and while it is up.
    pub fn gone(&self) -> Option<&Gone> {
        self.gone.as_ref()
    }

    /// To be polled for reading; `None` while it is not up.
    pub fn poll_item(&self) -> Option<zmq::PollItem<'_>> {
        self.link.as_ref().map(Link::poll_item)
    }

    /// Answers that came twice, or to nothing.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// Gives it a frame. The answer is an event; so is that it could not be given.
    pub fn dispatch(&mut self, job: Job) {
        debug_assert!(self.doing.is_none(), "one frame at a time");
        let meta = job.frame.meta();
        let changed = self
            .epoch
            .replace(meta.epoch)
            .is_some_and(|old| old != meta.epoch);
        let job = Job {
            reset: job.reset || changed || std::mem::take(&mut self.reset_first),
            ..job
        };
        self.doing = Some(Doing {
            job,
            step: Step::Pool,
            id: 0,
            started: Instant::now(),
        });
        self.go_on();
    }

    /// Does the next step of the frame in flight.
    fn go_on(&mut self) {
        let Some(mut doing) = self.doing.take() else {
            return;
        };
        match self.step(&mut doing) {
            Ok(id) => {
                doing.id = id;
                self.doing = Some(doing);
            }
            Err(StepError::Frame(why)) => self.done(doing, Outcome::Failed(why.into())),
            Err(StepError::Link(e)) if e.is_harmless() => {
                self.done(doing, Outcome::Failed(e.to_string().into()));
            }
            // The launcher hears of that too, and gives it the time to be found dead of what it died
            // of.
            Err(StepError::Link(LinkError::Gone)) => self.doing = Some(doing),
            Err(StepError::Link(e)) => {
                // Its death answers for the frame.
                self.doing = Some(doing);
                self.kill(&e.to_string());
            }
        }
    }

    fn step(&mut self, doing: &mut Doing) -> Result<u64, StepError> {
        let Self {
            link,
            pixels,
            view,
            scratch,
            deadline_ms,
            asked,
            ..
        } = self;
        let Some(link) = link else {
            return Err(StepError::Frame(
                "the worker process is not there".to_owned(),
            ));
        };
        let frame = &doing.job.frame;
        if doing.step == Step::Pool {
            if matches!(pixels, Pixels::Slot)
                && !link.knows(frame.pool_id())
                && frame.pool().read_only_fd().is_some()
            {
                return Ok(link.pass_pool(frame)?);
            }
            doing.step = Step::Reset;
        }
        if doing.step == Step::Reset {
            if std::mem::take(&mut doing.job.reset) {
                return Ok(link.request(&FromParent::Reset(Nothing {}), None)?);
            }
            doing.step = Step::Extract;
        }
        let shared = link.knows(frame.pool_id());
        let view_id = frame.pool().view_id(view);
        let seen = match view_id {
            Some(id) => frame.view(id),
            // The pool is older than this extractor; the next one will have its view.
            None => frame.view_in(view, scratch),
        };
        let seen = seen.map_err(|e| StepError::Frame(format!("view: {e}")))?;
        let in_slot = view_id
            .filter(|_| shared && matches!(pixels, Pixels::Slot))
            .and_then(|id| Some((id, frame.pool().layout().view_offset(frame.slot(), id)?)));
        let at = FrameAt {
            pool_id: frame.pool_id(),
            slot: u32::try_from(frame.slot()).unwrap_or(u32::MAX),
            generation: frame.generation(),
            view: in_slot.and_then(|(id, _)| id.index()),
            offset: in_slot.map_or(0, |(_, offset)| offset as u64),
        };
        let jpeg;
        let (how, beside) = match (pixels, in_slot) {
            (Pixels::Slot, Some(_)) => (PixelsIn::Slot, None),
            (Pixels::Slot | Pixels::Raw, _) => {
                frame.count_copy();
                (PixelsIn::Raw, Some(seen.pixels))
            }
            (Pixels::Jpeg(encode), _) => {
                jpeg = encode(&seen).map_err(|e| StepError::Frame(format!("JPEG: {e}")))?;
                frame.count_copy();
                (PixelsIn::Jpeg, Some(jpeg.as_slice()))
            }
        };
        let reference = FrameRef::new(at, frame.meta(), &seen.layout, &seen.roi);
        let mut reference = reference.map_err(LinkError::from)?;
        reference.pixels = Some(how);
        // The message of the frame before, so that a frame allocates none.
        let mut extract = asked.take().unwrap_or_else(|| {
            Box::new(Extract {
                frame: reference,
                deps: Vec::new(),
                deadline_ms: None,
            })
        });
        extract.frame = reference;
        extract.deadline_ms = *deadline_ms;
        extract.deps.clear();
        for held in &doing.job.deps {
            for observation in &held.observations {
                let dep = Observation::from_core(observation).map_err(LinkError::from)?;
                extract.deps.push(dep);
            }
        }
        let message = FromParent::Extract(extract);
        let sent = link.request(&message, beside);
        if let FromParent::Extract(extract) = message {
            *asked = Some(extract);
        }
        Ok(sent?)
    }

    /// What has happened, one thing at a time; `None` when nothing has.
    pub fn event(&mut self) -> Option<ChildEvent> {
        // One that says more than this in between is heard on at the next call.
        for _ in 0..AT_ONCE {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            // What it said before it died comes first.
            match self.link.as_mut().map(Link::receive) {
                Some(Ok(Some(envelope))) => {
                    if let Some(event) = self.said(envelope) {
                        return Some(event);
                    }
                    continue;
                }
                Some(Err(e)) => self.kill(&e.to_string()),
                Some(Ok(None)) | None => {}
            }
            match self.lives.try_recv() {
                Ok(life) => return Some(self.lived(life)),
                Err(_) => return self.events.pop_front(),
            }
        }
        None
    }

    fn lived(&mut self, life: Life) -> ChildEvent {
        let (why, again) = match life {
            Life::Up(link, facts) => {
                self.link = Some(*link);
                self.gone = None;
                // One that could not say so before. A pool without that view has it made beside.
                if let Some(view) = facts.input {
                    self.view = view;
                }
                self.pid = Some(facts.pid);
                self.facts = Some(facts.clone());
                self.killed = false;
                self.pinged = None;
                self.heard = Instant::now();
                self.epoch = None;
                return ChildEvent::Up(facts);
            }
            Life::Down(why) => (why, true),
            Life::Hold(why) => (why, false),
        };
        self.link = None;
        self.gone = Some(Gone {
            why: why.clone(),
            for_good: !again,
        });
        let reply = self.doing.take().map(|doing| {
            let text = format!("the worker process died: {}", why.why);
            doing.reply(Outcome::Failed(text.into()))
        });
        match again {
            true => ChildEvent::Down(why, reply),
            false => ChildEvent::Hold(why, reply),
        }
    }

    /// The frame in flight has its outcome.
    fn done(&mut self, doing: Doing, outcome: Outcome) {
        let reply = doing.reply(outcome);
        if self.events.push_back(ChildEvent::Reply(reply)).is_err() {
            debug_assert!(false, "there is room for the one frame in flight");
        }
    }

    fn said(&mut self, Envelope { id, message }: Envelope<FromChild>) -> Option<ChildEvent> {
        self.heard = Instant::now();
        if self.flood.is_one(self.heard) {
            self.kill(TOO_MUCH);
        }
        match message {
            FromChild::Log(log) => {
                if let Some(swallowed) = self.log.take(self.heard) {
                    let word = match log.level {
                        Level::Trace => "TRACE",
                        Level::Debug => "DEBUG",
                        Level::Info => "INFO",
                        Level::Warn => "WARN",
                        Level::Error => "ERROR",
                    };
                    let line = format!("{word} {}", log.msg);
                    log_line(&self.name, &self.source, &line, swallowed);
                }
                return None;
            }
            FromChild::Trace(trace) => return Some(ChildEvent::Trace(trace.record.into_map())),
            _ => {}
        }
        if self.pinged.is_some_and(|(ping, _)| ping == id) {
            self.pinged = None;
            return None;
        }
        let Some(doing) = self.doing.take_if(|doing| doing.id == id) else {
            self.strays += 1;
            if self.strays.is_power_of_two() {
                let (extractor, source, strays) = (&self.name, &self.source, self.strays);
                tracing::warn!(%extractor, %source, id, strays, "the worker answered what was not asked, or twice");
            }
            return None;
        };
        let meta = *doing.job.frame.meta();
        match (doing.step, message) {
            (Step::Pool, FromChild::Ok(_)) => {
                self.doing = Some(Doing {
                    step: Step::Reset,
                    ..doing
                });
                self.go_on();
            }
            (Step::Reset, FromChild::Ok(_)) => {
                self.doing = Some(Doing {
                    step: Step::Extract,
                    ..doing
                });
                self.go_on();
            }
            (Step::Extract, FromChild::Observations(seen)) => {
                let outcome = self.observed(&meta, seen);
                self.done(doing, outcome);
            }
            // It would be offered frames of a pool that it does not have.
            (Step::Pool, FromChild::Error(e)) => {
                let why = format!("it can't map a frame pool: {}", e.error);
                self.doing = Some(doing);
                self.kill(&why);
            }
            (_, FromChild::Error(e)) => {
                if let Some(traceback) = &e.traceback
                    && self.log.take(self.heard).is_some()
                {
                    let (extractor, source) = (&self.name, &self.source);
                    tracing::warn!(%extractor, %source, frame_id = meta.frame_id, "{traceback}");
                }
                self.done(doing, Outcome::Failed(e.error.into()));
            }
            (step, _) => {
                self.doing = Some(doing);
                self.kill(&format!(
                    "it broke the protocol: a wrong kind of answer to {step:?}"
                ));
            }
        }
        self.events.pop_front()
    }

    fn observed(&mut self, meta: &FrameMeta, seen: Observations) -> Outcome {
        let extract_ns = seen.timing.extract_ns;
        let items = seen.items.into_iter();
        let core = items.map(|o| o.into_core(&self.name, meta.t_ns));
        let core = match core.collect::<Result<Vec<_>, _>>() {
            Ok(core) => core,
            Err(e) => return Outcome::Failed(e.to_string().into()),
        };
        match self.merger.merge(meta, core, extract_ns) {
            Ok(held) => Outcome::Observed(Arc::new(held)),
            Err(e) => Outcome::Failed(e.to_string().into()),
        }
    }

    /// Ends this incarnation; another follows.
    pub fn kill(&mut self, why: &str) {
        if let Some(handle) = self.handle.as_ref().filter(|_| !self.killed) {
            self.killed = true;
            handle.kill(self.pid, why);
        }
    }

    /// Asks an idle child now and then whether it is there. One that does not say so within `hang`
    /// is killed.
    pub fn heartbeat(&mut self, hang: Duration) {
        if let Some(swallowed) = self.log.rest(Instant::now()) {
            log_swallowed(&self.name, &self.source, swallowed);
        }
        if self.doing.is_some() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        match self.pinged {
            Some((_, since)) if since.elapsed() >= hang => {
                self.kill("it does not answer, idle as it is (hang_ms)");
            }
            Some(_) => {}
            None if self.heard.elapsed() >= PING_AFTER => {
                match link.request(&FromParent::Ping(Nothing {}), None) {
                    Ok(id) => self.pinged = Some((id, Instant::now())),
                    Err(e) => self.kill(&e.to_string()),
                }
            }
            None => {}
        }
    }

    /// Waits for the next event. Not by the bell it was started with: that wakes its later owner,
    /// who may be asleep on it at this moment.
    pub fn wait(&mut self, limit: Option<Duration>) -> Option<ChildEvent> {
        let until = limit.map(|l| Instant::now() + l);
        loop {
            if let Some(event) = self.event() {
                return Some(event);
            }
            let left = until.map_or(LOOK, |u| u.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            let left = left.min(LOOK);
            match self.poll_item() {
                // What it says wakes at once; its death is seen at the next look.
                Some(item) => {
                    let millis = i64::try_from(left.as_micros().div_ceil(1000));
                    if let Err(error) = zmq::poll(&mut [item], millis.unwrap_or(i64::MAX))
                        && error != zmq::Error::EINTR
                    {
                        tracing::error!(%error, "poll for a worker process");
                        return None;
                    }
                }
                // Somebody else takes what becomes of it at the next turn of this loop.
                None => {
                    let mut lives = crossbeam_channel::Select::new();
                    lives.recv(&self.lives);
                    if lives.ready_timeout(left).is_err() {
                        continue;
                    }
                }
            }
        }
    }

    /// Tells it to end and gives it so long. The channel closes once it is gone.
    pub fn close(mut self, grace: Duration) -> Receiver<()> {
        self.end(grace)
            .unwrap_or_else(|| crossbeam_channel::bounded(0).1)
    }

    /// `None` if it has been ended before.
    fn end(&mut self, grace: Duration) -> Option<Receiver<()>> {
        let handle = self.handle.take()?;
        // One that can't be told, or is at work on a frame nobody waits for, is killed; the frame
        // stays leased until it is dead.
        let frame = self.doing.take().map(|doing| doing.job.frame);
        let link = self.link.take().filter(|_| frame.is_none());
        let grace = if link.is_some() {
            grace
        } else {
            Duration::ZERO
        };
        let tell = || link.is_some_and(|link| link.shutdown().is_ok());
        Some(handle.stop(grace, frame, tell))
    }
}

impl Drop for ChildWorker {
    fn drop(&mut self) {
        drop(self.end(Duration::ZERO));
    }
}

/// Sleeps until the bell rings or an item is readable: true; or the time is over: false.
pub fn sleep<'a>(
    bell: &Bell,
    items: impl IntoIterator<Item = zmq::PollItem<'a>>,
    limit: Option<Duration>,
) -> bool {
    let mut all: heapless::Vec<zmq::PollItem<'_>, { crate::aligner::MAX_EXTRACTORS + 1 }> =
        heapless::Vec::new();
    let first = zmq::PollItem::from_fd(bell.descriptor(), zmq::POLLIN);
    for item in std::iter::once(first).chain(items) {
        if all.push(item).is_err() {
            debug_assert!(false, "there are at most MAX_EXTRACTORS");
        }
    }
    let millis = limit.map_or(-1, |l| {
        i64::try_from(l.as_micros().div_ceil(1000)).unwrap_or(i64::MAX)
    });
    match zmq::poll(&mut all, millis) {
        Ok(n) => n > 0,
        Err(zmq::Error::EINTR) => true,
        // Nothing here can cause it; the loop around looks again.
        Err(error) => {
            tracing::error!(%error, "poll for worker processes");
            false
        }
    }
}

enum StepError {
    /// This frame can't be given.
    Frame(String),
    /// The child.
    Link(LinkError),
}

impl From<LinkError> for StepError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

fn elapsed_ns(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX)
}
