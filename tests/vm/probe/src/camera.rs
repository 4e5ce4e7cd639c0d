//! A running source, read by a thread of its own, and the book that is kept of what it says.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use visualpath_core::{Filter, Fit, MonotonicClock, Name, ViewFormat, ViewSpec};
use visualpath_frames::{Frame, FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::encode::Packet;
use visualpath_media::source::{
    Gap, GapCause, Needs, Outage, Source, SourceEvent, SourceInfo, SourceOptions, StopFlag, open,
};

/// Patience for the next event, on the machine's clock.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slots beside those that the driver holds.
const SLOTS: usize = 6;

/// The full picture as packed RGB.
pub const RGB: ViewSpec = ViewSpec {
    format: ViewFormat::Rgb,
    size: None,
    fit: Fit::Stretch,
    filter: Filter::Bilinear,
};

/// What the source said, and when that was.
#[derive(Debug)]
pub enum Seen {
    /// A picture.
    Frame(Frame),
    /// A picture as the camera encoded it.
    Packet(Packet),
    /// Lost ones.
    Gap(Gap),
    /// Nothing for now.
    Offline(Outage),
    /// Again.
    Online,
    /// Frames of another layout follow, in this pool.
    NewFormat(SourceInfo, FramePool),
}

/// What must be true of any sequence of events.
#[derive(Debug, Default)]
pub struct Book {
    /// Frames so far.
    pub frames: u64,
    /// Pictures lost so far, by cause.
    pub lost: std::collections::BTreeMap<&'static str, u64>,
    /// The newest frame's number, time, epoch.
    last: Option<(u64, i64, u32)>,
    /// Lost since that frame, and whether anything said that there is a break.
    since: u64,
    told: bool,
}

impl Book {
    fn enter(&mut self, seen: &Seen) -> Result<()> {
        match seen {
            Seen::Gap(gap) => {
                *self.lost.entry(gap.cause.as_str()).or_default() += gap.lost;
                self.since += gap.lost;
                self.told = true;
                ensure!(
                    gap.from_ns <= gap.to_ns,
                    "a gap that ends before it begins: {gap:?}"
                );
            }
            Seen::Frame(frame) => {
                let meta = frame.meta();
                let (id, t_ns, epoch) = (meta.frame_id, meta.t_ns, meta.epoch);
                if let Some((last_id, last_t, last_epoch)) = self.last {
                    ensure!(
                        id == last_id + 1 + self.since,
                        "frame {id} follows {last_id}, and {} were said to be lost",
                        self.since
                    );
                    ensure!(t_ns > last_t, "source time goes from {last_t} to {t_ns}");
                    ensure!(epoch >= last_epoch, "epoch {epoch} follows {last_epoch}");
                    ensure!(
                        epoch == last_epoch || self.told,
                        "epoch {epoch} begins without a gap before it"
                    );
                }
                self.frames += 1;
                self.last = Some((id, t_ns, epoch));
                self.since = 0;
                self.told = false;
            }
            Seen::Packet(_) | Seen::Offline(_) | Seen::Online | Seen::NewFormat(..) => {}
        }
        Ok(())
    }

    /// Pictures lost of this cause.
    pub fn lost(&self, cause: GapCause) -> u64 {
        self.lost.get(cause.as_str()).copied().unwrap_or(0)
    }
}

/// A source that runs.
pub struct Running {
    events: Receiver<Result<Seen>>,
    reader: JoinHandle<()>,
    stop: StopFlag,
    /// What it delivers first.
    pub info: SourceInfo,
    /// The pool of its newest format.
    pub pool: FramePool,
    /// What it said so far.
    pub book: Book,
}

/// Options for `/dev/videoN`: 320×180 at 60 pictures a second unless changed.
pub fn options(uri: &str) -> Result<SourceOptions> {
    let mut options = SourceOptions::new(Name::new("cam0")?, uri);
    options.realtime = true;
    options.width = Some(320);
    options.height = Some(180);
    options.fps = Some(60.0);
    Ok(options)
}

impl Running {
    /// Opens it and reads on.
    pub fn start(options: &SourceOptions, views: &[ViewSpec]) -> Result<Self> {
        Self::start_for(options, views, &Needs::default())
    }

    /// The same, for who needs this.
    pub fn start_for(options: &SourceOptions, views: &[ViewSpec], needs: &Needs) -> Result<Self> {
        let mut source = open(options, Arc::new(MonotonicClock::new()))?;
        source.adjust(needs);
        let info = source.info().clone();
        eprintln!("source: {}", info.description);
        let pool = pool(&info, 1, views)?;
        let stop = StopFlag::new();
        // Frames that nobody takes keep their slots: the queue is shorter than the pool.
        let (tell, events) = sync_channel(2);
        let reader = {
            let (pool, stop, views) = (pool.clone(), stop.clone(), views.to_vec());
            std::thread::Builder::new()
                .name("reader".into())
                .spawn(move || read(source, pool, &views, &stop, |seen| tell.send(seen).is_ok()))?
        };
        Ok(Self {
            events,
            reader,
            stop,
            info,
            pool,
            book: Book::default(),
        })
    }

    /// The next event, entered in the book.
    pub fn next(&mut self) -> Result<Seen> {
        self.next_within(PATIENCE)?
            .with_context(|| format!("nothing from the source for {PATIENCE:?}"))
    }

    /// The next event, or nothing.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Seen>> {
        match self.events.recv_timeout(patience) {
            Ok(seen) => {
                let seen = seen?;
                match &seen {
                    Seen::Frame(_) | Seen::Packet(_) => {}
                    Seen::NewFormat(info, pool) => {
                        eprintln!("source: {}", info.description);
                        self.pool = pool.clone();
                    }
                    other => eprintln!("source: {other:?}"),
                }
                self.book.enter(&seen)?;
                Ok(Some(seen))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the source has ended"),
        }
    }

    /// The next frame, whatever comes before it.
    pub fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Seen::Frame(frame) = self.next()? {
                return Ok(frame);
            }
        }
    }

    /// So many frames; nothing else may come, but the word that it is there before the first.
    pub fn frames(&mut self, n: usize) -> Result<()> {
        let end = self.book.frames + n as u64;
        while self.book.frames < end {
            let first = self.book.frames == 0;
            match self.next()? {
                Seen::Frame(_) => {}
                Seen::Online if first => {}
                other => bail!("{other:?} in the middle of good frames"),
            }
        }
        Ok(())
    }

    /// The event that satisfies `is_it`, whatever comes before it.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let seen = self.next().with_context(|| format!("waiting for {what}"))?;
            if let Some(found) = is_it(&seen) {
                return Ok(found);
            }
            ensure!(Instant::now() < patience, "no {what} within {PATIENCE:?}");
        }
    }

    /// Stops it; every slot must be free then.
    pub fn stop(self) -> Result<Book> {
        let Self {
            events,
            reader,
            stop,
            pool,
            book,
            ..
        } = self;
        stop.stop();
        // It may be waiting to hand over.
        while events.recv().is_ok() {}
        reader.join().map_err(|_| anyhow!("the source panicked"))?;
        let (free, all) = (pool.available(), pool.layout().slots());
        ensure!(
            free == all,
            "{free} of {all} slots are free: {}",
            pool.held_by()
        );
        Ok(book)
    }
}

fn pool(info: &SourceInfo, pool_id: u32, views: &[ViewSpec]) -> Result<FramePool> {
    let spec = PoolSpec {
        pool_id,
        slots: SLOTS + info.driver_slots,
        native: info.layout,
        native_room: info.native_room,
        views: views.to_vec(),
    };
    Ok(FramePool::memfd(&spec, Arc::new(Converter::new()))?)
}

/// The reader's thread: everything the source says, until it ends or nobody listens.
fn read(
    mut source: Box<dyn Source>,
    mut pool: FramePool,
    views: &[ViewSpec],
    stop: &StopFlag,
    mut tell: impl FnMut(Result<Seen>) -> bool,
) {
    let mut pools = 1;
    loop {
        let seen = match source.next(&pool, stop) {
            Ok(SourceEvent::Frame(frame)) => Seen::Frame(frame),
            Ok(SourceEvent::Gap(gap)) => Seen::Gap(gap),
            Ok(SourceEvent::Offline(outage)) => Seen::Offline(outage),
            Ok(SourceEvent::Online) => Seen::Online,
            Ok(SourceEvent::NewFormat(info)) => {
                pools += 1;
                pool = match self::pool(&info, pools, views) {
                    Ok(pool) => pool,
                    Err(e) => {
                        tell(Err(e));
                        return;
                    }
                };
                Seen::NewFormat(info, pool.clone())
            }
            Ok(SourceEvent::Packet(packet)) => Seen::Packet(packet),
            Ok(SourceEvent::Wrapped) => continue,
            Ok(SourceEvent::End(_) | SourceEvent::Stopped) => return,
            Err(e) => {
                tell(Err(e.into()));
                return;
            }
        };
        if !tell(Ok(seen)) {
            return;
        }
    }
}
