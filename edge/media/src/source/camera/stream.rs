//! Opening a camera, and its pictures, in a thread that may be left behind.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use nokhwa::Camera;
use nokhwa::utils::{
    CameraFormat, CameraIndex, RequestedFormat, RequestedFormatType, frame_formats,
};
use visualpath_core::{ImageLayout, Name};

use super::super::encoded::{
    Connect, ConnectError, Incoming, PacketStream, StreamError, Unit, UnitTime,
};
use super::super::jpeg::{JpegSplitter, Piece};
use super::super::{Outage, SourceOptions, StopFlag};
use super::choose::{Wanted, layout_of};
use crate::decode::JPEG_COLOR;
use crate::encode::{Codec, CodecParams};

/// Pictures waiting between the camera and the source.
const QUEUE: usize = 4;

/// How long a camera may take to open, or to give its next picture.
const SILENCE: Duration = Duration::from_secs(5);

/// How long the thread may take to end before it is left behind.
const GOODBYE: Duration = Duration::from_secs(1);

/// How often the stop flag and a thread that should end are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A driver rounds a picture's buffer up to whole pages; more than the largest page is something
/// else.
const PAGE: usize = 64 << 10;

/// Opens one camera, again and again.
pub(super) struct CameraConnect {
    name: Name,
    number: u32,
    wanted: Wanted,
    facts: Option<Facts>,
    /// The newest thread. It may hang.
    thread: Arc<parking::Slot>,
}

/// What was opened.
#[derive(Debug, Clone, PartialEq)]
struct Facts {
    camera: String,
    format: CameraFormat,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { camera, format } = self;
        write!(
            f,
            "{camera}, {} {}x{} {} fps",
            format.format(),
            format.width(),
            format.height(),
            format.frame_rate()
        )
    }
}

/// The place where a thread is left that does not end.
mod parking {
    use super::*;

    #[derive(Default)]
    pub(super) struct Slot(std::sync::Mutex<Option<JoinHandle<()>>>);

    impl Slot {
        fn held(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
            // A handle is whole even if somebody panicked while holding it.
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(super) fn put(&self, thread: JoinHandle<()>) {
            *self.held() = Some(thread);
        }

        /// Whether the thread has ended, waiting a little for it.
        pub(super) fn ended(&self, limit: Duration) -> bool {
            let until = Instant::now() + limit;
            loop {
                let mut held = self.held();
                match held.take_if(|thread| thread.is_finished()) {
                    // A panic of the library's was reported by its own hook, and shows as a
                    // camera that is gone.
                    Some(thread) => drop(thread.join()),
                    None if held.is_some() => {
                        drop(held);
                        if Instant::now() >= until {
                            return false;
                        }
                        std::thread::sleep(LOOK.min(limit));
                        continue;
                    }
                    None => {}
                }
                return true;
            }
        }
    }
}

/// What the thread says.
enum Said {
    Opened(Facts),
    /// After so many lost ones.
    Picture(u64, Picture),
    Failed(Outage),
}

/// One picture as the driver gave it.
struct Picture {
    bytes: Bytes,
    /// `None`: a JPEG.
    layout: Option<ImageLayout>,
}

impl CameraConnect {
    pub(super) fn new(opts: &SourceOptions, number: u32) -> Self {
        Self {
            name: opts.name.clone(),
            number,
            wanted: Wanted::of(opts),
            facts: None,
            thread: Arc::default(),
        }
    }

    fn start(&self) -> std::io::Result<CameraStream> {
        let (tx, rx) = bounded(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let (number, wanted, stopped) = (self.number, self.wanted, Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("camera:{}", self.name))
            .spawn(move || {
                if let Err(outage) = capture(number, wanted, &tx, &stopped) {
                    // If nobody listens any more, nobody has to know.
                    drop(tx.send_timeout(Said::Failed(outage), GOODBYE));
                }
            })?;
        self.thread.put(thread);
        Ok(CameraStream {
            name: self.name.clone(),
            number: self.number,
            rx,
            stop,
            thread: Arc::clone(&self.thread),
            size: (0, 0),
            params: None,
            picture: None,
            after_loss: None,
            last: Instant::now(),
        })
    }
}

impl Connect for CameraConnect {
    fn connect(&mut self, stop: &StopFlag) -> Result<Box<dyn PacketStream>, ConnectError> {
        if !self.thread.ended(Duration::ZERO) {
            return Err(ConnectError::Failed(hung(self.number)));
        }
        let mut stream = self.start().map_err(|cause| {
            let detail = format!("camera:{}: no thread: {cause}", self.number);
            ConnectError::failed(detail, "check this machine's limits on threads")
        })?;
        let until = Instant::now() + SILENCE;
        loop {
            match stream.rx.recv_timeout(LOOK) {
                Ok(Said::Opened(facts)) => {
                    if self.facts.as_ref() != Some(&facts) {
                        tracing::info!(source = %self.name, "camera:{}: {facts}", self.number);
                    }
                    stream.size = (facts.format.width(), facts.format.height());
                    self.facts = Some(facts);
                    return Ok(Box::new(stream));
                }
                Ok(Said::Failed(outage)) => return Err(ConnectError::Failed(outage)),
                // It opens before it gives pictures.
                Ok(Said::Picture(..)) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ConnectError::Failed(gave_up(self.number)));
                }
                Err(RecvTimeoutError::Timeout) if stop.is_set() => {
                    return Err(ConnectError::Stopped);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(ConnectError::Failed(hung(self.number)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn describe(&self) -> String {
        match &self.facts {
            Some(facts) => format!("nokhwa camera:{} ({})", self.number, facts.camera),
            None => format!("nokhwa camera:{}", self.number),
        }
    }
}

fn hung(number: u32) -> Outage {
    Outage {
        detail: format!(
            "camera:{number}: the driver has not answered for {} s",
            SILENCE.as_secs()
        ),
        advice: format!(
            "pull the camera out and plug it in again; if it stays, restart visualpath, or use `/dev/video{number}`, which does not wait for the driver"
        ),
    }
}

fn gave_up(number: u32) -> Outage {
    Outage {
        detail: format!("camera:{number}: the camera library gave up on it"),
        advice: format!("use `/dev/video{number}`"),
    }
}

/// In the thread: opens the camera and hands on its pictures until it is told to stop.
fn capture(
    number: u32,
    wanted: Wanted,
    tx: &Sender<Said>,
    stop: &AtomicBool,
) -> Result<(), Outage> {
    let failed = |error: nokhwa::NokhwaError| Outage {
        detail: format!("camera:{number}: {error}"),
        advice: format!(
            "check that `/dev/video{number}` is there, that no other program uses it, and that this user is in the group `video`"
        ),
    };
    let any = RequestedFormat::with_formats(RequestedFormatType::None, frame_formats());
    let mut camera = Camera::new(CameraIndex::Index(number), any).map_err(failed)?;
    let offered = camera.compatible_camera_formats().map_err(failed)?;
    let format = wanted.closest(&offered).ok_or_else(|| Outage {
        detail: format!(
            "camera:{number}: has no {:?} among its {} formats",
            wanted.format,
            offered.len()
        ),
        advice: "use `format = \"auto\"`".to_owned(),
    })?;
    if camera.camera_format() != format {
        let exactly = RequestedFormatType::Exact(format);
        let request = RequestedFormat::with_formats(exactly, frame_formats());
        camera.set_camera_requset(request).map_err(failed)?;
    }
    camera.open_stream().map_err(failed)?;
    let facts = Facts {
        camera: camera.info().human_name(),
        format,
    };
    let layout = layout_of(&format);
    if tx.send(Said::Opened(facts)).is_err() {
        return Ok(());
    }
    let mut lost = 0;
    while !stop.load(Ordering::Relaxed) {
        let raw = camera.frame_raw().map_err(failed)?;
        let Some(bytes) = picture(&raw, layout.as_ref()) else {
            lost += 1;
            continue;
        };
        let said = Said::Picture(lost, Picture { bytes, layout });
        match tx.try_send(said) {
            Ok(()) => lost = 0,
            Err(TrySendError::Full(_)) => lost += 1,
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
    camera.stop_stream().map_err(failed)
}

/// The picture in a driver's buffer, which may be longer and hold an older picture's end; `None`
/// if it is not whole.
fn picture(raw: &[u8], layout: Option<&ImageLayout>) -> Option<Bytes> {
    match layout {
        Some(layout) => {
            let whole = raw.get(..layout.bytes())?;
            // Rows with padding, which the library does not tell of.
            (raw.len() - whole.len() < PAGE).then(|| Bytes::copy_from_slice(whole))
        }
        None => {
            let mut jpeg = Vec::new();
            let found = JpegSplitter::new(raw).next_piece(&mut jpeg);
            matches!(found, Ok(Piece::Jpeg)).then(|| Bytes::from(jpeg))
        }
    }
}

/// One opened camera. Dropping it closes it, or leaves a thread that hangs behind.
struct CameraStream {
    name: Name,
    number: u32,
    rx: Receiver<Said>,
    stop: Arc<AtomicBool>,
    thread: Arc<parking::Slot>,
    /// Pixels across and down.
    size: (u32, u32),
    /// Of the JPEGs.
    params: Option<Arc<CodecParams>>,
    /// Announced, to be had by `fill`.
    picture: Option<Bytes>,
    /// Comes after the loss that was told.
    after_loss: Option<Picture>,
    last: Instant,
}

impl CameraStream {
    fn unit(&mut self, picture: Picture) -> Unit {
        let Some(layout) = picture.layout else {
            let params = self.params.get_or_insert_with(|| {
                Arc::new(CodecParams {
                    codec: Codec::Mjpeg,
                    width: self.size.0,
                    height: self.size.1,
                    color: JPEG_COLOR,
                    vps: Bytes::new(),
                    sps: Bytes::new(),
                    pps: Bytes::new(),
                })
            });
            return Unit::Packet(Incoming {
                params: Arc::clone(params),
                data: picture.bytes,
                is_key: true,
                time: UnitTime::Arrival,
                shown_after_ns: 0,
            });
        };
        self.picture = Some(picture.bytes);
        Unit::Picture {
            layout,
            time: UnitTime::Arrival,
            fps: None,
        }
    }
}

impl PacketStream for CameraStream {
    fn next(&mut self, limit: Duration) -> Result<Unit, StreamError> {
        self.picture = None;
        if let Some(picture) = self.after_loss.take() {
            return Ok(self.unit(picture));
        }
        match self.rx.recv_timeout(limit) {
            Ok(Said::Picture(lost, picture)) => {
                self.last = Instant::now();
                if lost > 0 {
                    self.after_loss = Some(picture);
                    return Ok(Unit::Lost(lost));
                }
                Ok(self.unit(picture))
            }
            Ok(Said::Failed(outage)) => Err(StreamError::Failed(outage)),
            Ok(Said::Opened(_)) => Ok(Unit::Waiting),
            Err(RecvTimeoutError::Timeout) if self.last.elapsed() > SILENCE => {
                Err(StreamError::Failed(hung(self.number)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Unit::Waiting),
            Err(RecvTimeoutError::Disconnected) => Err(StreamError::Failed(gave_up(self.number))),
        }
    }

    fn fill(&mut self, out: &mut [u8], _stop: &StopFlag) -> Result<(), StreamError> {
        let Some(picture) = self.picture.take().filter(|p| p.len() == out.len()) else {
            return Err(StreamError::failed(
                format!(
                    "camera:{}: no picture of {} bytes is announced",
                    self.number,
                    out.len()
                ),
                "report this as a bug",
            ));
        };
        out.copy_from_slice(&picture);
        Ok(())
    }
}

impl Drop for CameraStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if !self.thread.ended(GOODBYE) {
            tracing::warn!(
                source = %self.name,
                "camera:{}: its thread hangs in the driver and is left behind; it is not opened again until that ends",
                self.number
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use visualpath_core::{ColorSpec, PixelFormat};

    use super::*;

    #[test]
    fn a_buffer_longer_than_the_picture_is_cut_and_padded_rows_are_refused() {
        let layout = ImageLayout::packed(PixelFormat::Yuyv, 64, 2, ColorSpec::default());
        let raw = vec![7; 256 + 3840];
        assert_eq!(picture(&raw, Some(&layout)).unwrap().len(), 256);
        assert!(picture(&raw[..255], Some(&layout)).is_none());
        assert!(picture(&vec![7; 256 + PAGE], Some(&layout)).is_none());
        let jpeg = [0xFF, 0xD8, 0xFF, 0xFE, 0, 2, 0xFF, 0xD9, 9, 9, 9];
        assert_eq!(picture(&jpeg, None).unwrap(), jpeg[..8]);
        assert!(picture(&jpeg[..6], None).is_none());
    }

    #[test]
    fn a_thread_that_hangs_keeps_its_place_and_one_that_ends_frees_it() {
        let slot = parking::Slot::default();
        assert!(slot.ended(Duration::ZERO));
        let (hold, held) = bounded::<()>(0);
        slot.put(std::thread::spawn(move || assert!(held.recv().is_err())));
        assert!(!slot.ended(Duration::ZERO));
        drop(hold);
        assert!(slot.ended(Duration::from_secs(60)));
    }

    #[test]
    fn a_camera_that_is_not_there_says_where_to_look() {
        let mut opts = SourceOptions::new(Name::new("cam0").unwrap(), "camera:987");
        opts.width = Some(640);
        let mut connect = CameraConnect::new(&opts, 987);
        let Err(ConnectError::Failed(outage)) = connect.connect(&StopFlag::new()) else {
            panic!("it opened");
        };
        assert!(outage.detail.contains("camera:987"), "{outage:?}");
        assert!(outage.advice.contains("/dev/video987"), "{outage:?}");
        assert!(
            connect.thread.ended(Duration::from_secs(60)),
            "nothing is left behind"
        );
    }
}
