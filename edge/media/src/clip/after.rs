//! What is made of a clip once it is ready and told of: a still picture, and a copy that plays in a
//! browser. On one thread for all sources, at the lowest priority: evidence comes first.
//!
//! | file | of | when |
//! |---|---|---|
//! | `….jpg` | the picture that shows the event best (`still.rs`) | always, if wanted |
//! | `….h264.mp4` | the same pictures at the same times, H.264 | MJPEG, which no browser plays |
//!
//! A copy is made in memory, so there is none of a clip whose file is larger than 128 MiB.
//!
//! Both are made from the clip's file alone, so what a stop or a crash left undone is done after the
//! next start. A file that can't be made of a clip is logged, and not tried again before that.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use visualpath_core::{FrameMeta, StopFlag};

use super::finish::Head;
use super::still::{OwnDecoders, Wanted, still};
use super::store::{ClipStore, StoreError, io_error};
use super::{ClipResult, ClipState};
use crate::decode::{self, DecodeError, Decoder};
use crate::encode::{
    Bitrate, Codec, CodecParams, EncodeError, Encoder, EncoderKind, EncoderOptions, H264Options,
    Packet,
};
use crate::mp4::{Left, Mp4Error, Mp4Writer, ReadAt};

/// Clips that wait; more are done after the next start.
const WAITING: usize = 1024;
/// The lowest there is.
const NICE: i32 = 19;
/// Between two key pictures of a copy.
const GOP_NS: i64 = 2_000_000_000;
/// How long the thread is waited for at the end.
const LEAVING: Duration = Duration::from_secs(3);
/// Largest file that is copied; its H.264 is a fraction of it, and is held twice.
const MOST_COPIED: u64 = 128 << 20;
/// Times in a file are to the microsecond.
pub(super) const TICK_NS: i64 = 1_000;
/// Longest fragment of a copy.
const FRAGMENT: usize = 60;

/// What is wanted beside a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// A still picture.
    pub still: bool,
    /// An H.264 copy of what no browser plays.
    pub copy: bool,
}

/// Why a file beside a clip could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum AfterError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the clip's own file can't be read: {0}")]
    Clip(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Mp4(#[from] Mp4Error),
    #[error("the appliance stops")]
    Stopped,
}

/// The thread that makes them. Dropped, it ends within a picture or two; what is left is done after
/// the next start.
#[derive(Debug)]
pub struct After {
    stop: StopFlag,
    /// Disconnected when it is to end.
    jobs: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl After {
    /// Starts the thread of `store`. Between new clips it sees to old ones that lack something. Copies are made by
    /// `h264`.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn start(store: &Arc<ClipStore>, beside: Beside, h264: H264Options) -> io::Result<Self> {
        let (jobs, queue) = bounded(WAITING);
        let stop = StopFlag::new();
        let (of, stopping) = (Arc::downgrade(store), stop.clone());
        let thread = std::thread::Builder::new()
            .name("clip-after".into())
            .spawn(move || work(&of, (beside, &h264), &queue, &stopping))?;
        Ok(Self {
            stop,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// A clip has been told of. Never waits.
    pub fn add(&self, result: &ClipResult) {
        let ClipState::Ready(ready) = &result.state else {
            return;
        };
        let Some(stem) = stem_of(&ready.file) else {
            return;
        };
        match self
            .jobs
            .as_ref()
            .map(|jobs| jobs.try_send(stem.to_owned()))
        {
            Some(Err(TrySendError::Full(_))) => {
                tracing::debug!(
                    clip = result.id,
                    "its still and copy are made after the next start"
                );
            }
            Some(Err(TrySendError::Disconnected(_))) => {
                tracing::debug!(clip = result.id, "nobody makes stills and copies any more");
            }
            Some(Ok(())) | None => {}
        }
    }
}

impl Drop for After {
    fn drop(&mut self) {
        self.stop.stop();
        self.jobs = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let patience = Instant::now() + LEAVING;
        while !thread.is_finished() {
            if Instant::now() >= patience {
                tracing::warn!("the thread that makes stills and copies is left behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tracing::error!("the thread that makes stills and copies panicked");
        }
    }
}

/// `YYYY-MM-DD/name` of a clip's file as messages name it.
fn stem_of(file: &str) -> Option<&str> {
    let stem = file.strip_suffix(".mp4")?;
    let name = stem.rfind('/')?;
    let day = stem[..name].rfind('/').map_or(0, |i| i + 1);
    Some(&stem[day..])
}

fn work(
    store: &Weak<ClipStore>,
    (beside, h264): (Beside, &H264Options),
    jobs: &Receiver<String>,
    stop: &StopFlag,
) {
    // Of this thread: Linux has a priority per thread.
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(error = %e, "stills and copies are made at normal priority");
    }
    // New ones first; the oldest of the others last, because they are the next to be deleted.
    let mut backlog = store.upgrade().map(|s| s.lacking_beside(beside));
    loop {
        let next = match jobs.try_recv() {
            Ok(stem) => Some(stem),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => match backlog.as_mut().and_then(Vec::pop) {
                Some(stem) => Some(stem),
                None => jobs.recv().ok(),
            },
        };
        let Some(stem) = next else {
            return;
        };
        let Some(store) = store.upgrade().filter(|_| !stop.is_set()) else {
            return;
        };
        if let Err(error) = store.make_beside(&stem, (beside, h264), stop)
            && !matches!(error, AfterError::Stopped)
        {
            tracing::warn!(clip = %stem, %error, "a clip has no still, or no copy for browsers");
        }
    }
}

/// The pictures of a clip's file.
pub(super) struct Pictures<'a> {
    file: &'a dyn ReadAt,
    pub(super) head: Head,
    pub(super) params: Arc<CodecParams>,
    /// In the order in which they are decoded.
    pub(super) samples: Vec<crate::mp4::Written>,
}

impl<'a> Pictures<'a> {
    pub(super) fn of(file: &'a dyn ReadAt) -> Result<Self, AfterError> {
        let left = Left::read(file)?.ok_or(AfterError::Clip("it has no note"))?;
        let head: Head = serde_json::from_slice(&left.note)
            .map_err(|_| AfterError::Clip("its note is of another version"))?;
        let params = head.params();
        let (mux, _) = left
            .finish(file, Arc::clone(&params), head.first_dts_ns, head.start_ns)?
            .ok_or(AfterError::Clip("it has no pictures"))?;
        Ok(Self {
            file,
            samples: mux.written_samples(),
            head,
            params,
        })
    }

    #[cfg(test)]
    pub(super) fn from_parts(
        file: &'a dyn ReadAt,
        head: Head,
        samples: Vec<crate::mp4::Written>,
    ) -> Self {
        let params = head.params();
        Self {
            file,
            head,
            params,
            samples,
        }
    }

    pub(super) fn packet(&self, n: usize) -> Result<Packet, AfterError> {
        let sample = &self.samples[n];
        let bytes = self.file.read_at(sample.offset, sample.size)?;
        if bytes.len() < sample.size {
            return Err(AfterError::Clip("it is too short"));
        }
        Ok(Packet {
            data: Bytes::from(bytes),
            is_key: sample.is_key,
            pts_ns: sample.pts_ns,
            dts_ns: sample.dts_ns,
            frame_id: n as u64,
            params: Arc::clone(&self.params),
        })
    }
}

/// Takes a picture; whether it was the last that is wanted.
pub(super) type Take<'a> = dyn FnMut(FrameMeta, &[u8]) -> Result<bool, AfterError> + 'a;

/// Gives each picture that comes out of a decoder to `take`, until it says that it has enough.
pub(super) fn drain(
    decoder: &mut dyn Decoder,
    pixels: &mut Vec<u8>,
    take: &mut Take<'_>,
) -> Result<bool, AfterError> {
    while let Some(picture) = decoder.ready()? {
        pixels.resize(picture.layout.bytes(), 0);
        decoder.take(pixels)?;
        let meta = FrameMeta {
            frame_id: picture.frame_id,
            t_ns: picture.pts_ns,
            epoch: 0,
            layout: picture.layout,
        };
        if take(meta, pixels)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl ClipStore {
    /// Clips that lack a file that is wanted beside them, oldest first.
    fn lacking_beside(&self, beside: Beside) -> Vec<String> {
        let Ok(files) = self.files() else {
            return Vec::new();
        };
        let lacks = |endings: &std::collections::BTreeMap<&'static str, u64>, stem: &str| {
            let has = |ending| endings.contains_key(ending);
            let copy = || self.sidecar(stem).is_some_and(|(_, r)| is_copied(&r));
            has("mp4") && (beside.still && !has("jpg") || beside.copy && !has("h264.mp4") && copy())
        };
        let stems = files.iter().filter(|(stem, e)| lacks(e, stem));
        stems.map(|(stem, _)| stem.clone()).collect()
    }

    fn make_beside(
        &self,
        stem: &str,
        (beside, h264): (Beside, &H264Options),
        stop: &StopFlag,
    ) -> Result<(), AfterError> {
        let path = self.root.join(format!("{stem}.mp4"));
        // Deleted meanwhile.
        if !self.disk.exists(&path).unwrap_or(false) {
            return Ok(());
        }
        let file = self.disk.open(&path).map_err(io_error("open", &path))?;
        let pictures = Pictures::of(&*file)?;
        let has = |ending: &str| {
            self.disk
                .exists(&self.root.join(format!("{stem}.{ending}")))
        };
        // What the clip shows its sidecar says: the end of a RANGE may have moved since the note.
        let Some((asked, result)) = self.sidecar(stem) else {
            return Err(AfterError::Clip("it has no sidecar"));
        };
        let ClipState::Ready(ready) = result.state else {
            return Err(AfterError::Clip("its sidecar says that it failed"));
        };
        if beside.still && !has("jpg")? {
            let wanted = Wanted {
                start_ns: ready.start_ns,
                end_ns: ready.end_ns,
                still_ns: ready.still_ns.unwrap_or(asked.request.still_at_ns()),
            };
            let jpeg = still(&pictures, &wanted, &OwnDecoders, stop)?;
            self.write_beside(stem, "jpg", &jpeg)?;
        }
        if beside.copy && ready.codec == Codec::Mjpeg && ready.bytes > MOST_COPIED {
            let bytes = ready.bytes;
            tracing::warn!(clip = %stem, bytes, "no copy for browsers of a file larger than 128 MiB");
        } else if beside.copy && ready.codec == Codec::Mjpeg && !has("h264.mp4")? {
            let copy = copy(&pictures, ready.end_ns, h264.clone(), stop)?;
            self.write_beside(stem, "h264.mp4", &copy)?;
        }
        Ok(())
    }

    /// The still that follows a clip.
    pub fn still(&self, ready: &super::ReadyClip, beside: Beside) -> Option<String> {
        let stem = ready.file.strip_suffix(".mp4")?;
        beside.still.then(|| format!("{stem}.jpg"))
    }

    /// The file of a clip that a browser plays: itself, or the copy that follows it.
    pub fn playable(&self, ready: &super::ReadyClip, beside: Beside) -> Option<String> {
        match ready.codec {
            Codec::H264 => Some(ready.file.clone()),
            Codec::Mjpeg if beside.copy && ready.bytes <= MOST_COPIED => {
                let stem = ready.file.strip_suffix(".mp4")?;
                Some(format!("{stem}.h264.mp4"))
            }
            _ => None,
        }
    }
}

fn is_copied(result: &ClipResult) -> bool {
    let ClipState::Ready(ready) = &result.state else {
        return false;
    };
    ready.codec == Codec::Mjpeg && ready.bytes <= MOST_COPIED
}

pub(super) fn options(pictures: &Pictures<'_>, h264: H264Options) -> EncoderOptions {
    let seconds = match (pictures.samples.first(), pictures.samples.last()) {
        (Some(first), Some(last)) => (last.dts_ns - first.dts_ns) as f64 / 1e9,
        _ => 0.0,
    };
    let fps = match seconds > 0.0 {
        true => (pictures.samples.len() - 1) as f64 / seconds,
        false => 30.0,
    };
    EncoderOptions {
        gop_ns: GOP_NS,
        bitrate: Bitrate::Auto,
        fps,
        h264,
    }
}

/// The same pictures as H.264, a plain file.
fn copy(
    pictures: &Pictures<'_>,
    end_ns: i64,
    h264: H264Options,
    stop: &StopFlag,
) -> Result<Vec<u8>, AfterError> {
    let mut decoder = decode::open(&pictures.params, 1)?;
    let mut encoder: Box<dyn Encoder> = EncoderKind::H264.build(options(pictures, h264));
    let (mut pixels, mut packets) = (Vec::new(), Vec::new());
    let start_ns = pictures.head.start_ns;
    for n in 0..pictures.samples.len() {
        if stop.is_set() {
            return Err(AfterError::Stopped);
        }
        let sample = &pictures.samples[n];
        let is_over = n > 0 && pictures.samples[n - 1].pts_ns + TICK_NS > end_ns;
        if sample.pts_ns + TICK_NS <= start_ns || is_over {
            continue;
        }
        decoder.push(&pictures.packet(n)?)?;
        drain(&mut *decoder, &mut pixels, &mut |meta, pixels| {
            encoder.encode(&meta, pixels, &mut packets)?;
            Ok(false)
        })?;
    }
    encoder.flush(&mut packets)?;
    let (Some(first), Some(last)) = (packets.first(), packets.last()) else {
        return Err(AfterError::Clip("no picture came of it"));
    };
    let last_ns = last.pts_ns;
    let mut mux = Mp4Writer::new(
        Arc::clone(&first.params),
        first.dts_ns,
        first.pts_ns,
        packets.len(),
    );
    let mut file = Vec::new();
    mux.begin(&mut file, b"{}")?;
    for (i, piece) in packets.chunks(FRAGMENT).enumerate() {
        let next = packets.get((i + 1) * FRAGMENT);
        let next_ns = next.map_or(last_ns + 40_000_000, |p| p.dts_ns);
        mux.fragment(&mut file, piece, next_ns, &[])?;
    }
    let finish = mux.finish(last_ns)?;
    file.extend_from_slice(&finish.append);
    for patch in &finish.patches {
        let at = usize::try_from(patch.offset).unwrap_or(usize::MAX);
        if let Some(place) = file.get_mut(at..at.saturating_add(patch.bytes.len())) {
            place.copy_from_slice(&patch.bytes);
        }
    }
    Ok(file)
}

impl ClipStore {
    /// A file beside a clip, whole or not there.
    fn write_beside(&self, stem: &str, ending: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.reserve(bytes.len() as u64)?;
        let written = self.write_new(stem, ending, bytes);
        let counted = written.and_then(|()| self.count_beside(stem, bytes.len() as u64));
        if counted.is_err() {
            self.release(bytes.len() as u64);
        }
        counted
    }

    /// Counts a file that has just been made as part of its clip.
    fn count_beside(&self, stem: &str, bytes: u64) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let _alone = self.alone()?;
        // On the disk: another process may have deleted it meanwhile.
        if self.is_there(stem)? {
            if let Some(clip) = kept.clips.get_mut(stem) {
                clip.bytes += bytes;
            }
            return Ok(());
        }
        self.remove(stem)?;
        kept.uncount(stem);
        kept.bytes = kept.bytes.saturating_sub(bytes);
        Ok(())
    }

    fn write_new(&self, stem: &str, ending: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(format!("{stem}.{ending}"));
        let part = self.root.join(format!("{stem}.{ending}.part"));
        let make = |part: &Path| {
            let file = self.disk.create(part)?;
            file.write_all_at(bytes, 0)?;
            Ok(file)
        };
        let file = make(&part).map_err(|e| {
            drop(self.disk.remove(&part));
            io_error("write", &part)(e)
        })?;
        self.synced("sync", &part, file.sync_all())?;
        let renamed = self.disk.rename(&part, &path);
        renamed.map_err(io_error("rename to", &path))?;
        let day = path.parent().unwrap_or(&self.root);
        self.synced("sync the directory", day, self.disk.sync_dir(day))
    }
}
