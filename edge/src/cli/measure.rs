//! How fast a source really gives pictures on this machine, and what a look at one costs: for
//! `doctor` and `init`.
//!
//! As in the appliance one thread captures and never waits, while another one looks; what comes
//! while it looks is left out. So the rate measured is the source's own, under the load that the
//! looks make.

use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use visualpath_core::{Name, Object, Outcome, ViewFormat, ViewSpec};
use visualpath_frames::{Frame, FramePool};
use visualpath_media::encode::{Encoder, EncoderKind, EncoderOptions};
use visualpath_media::source::{
    self, GapCause, Outage, SourceError, SourceEvent, SourceInfo, SourceOptions, StopFlag,
};
use visualpath_platform::LaneWorker;

use super::extras::one_look;
use crate::pipeline::build::{self, Loaded};

/// What to measure.
pub struct Asked {
    /// The source, and how to open it.
    pub source: SourceOptions,
    /// For how long.
    pub length: Duration,
    /// Slots of its pool.
    pub slots: usize,
    /// Encode as well, unless the source is encoded itself.
    pub encode: Option<(EncoderKind, EncoderOptions)>,
    /// Keep the picture with the best object in it.
    pub picture: bool,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It gave no picture.
    #[error("no picture within {waited_s:.0} s{}", outage.as_ref().map(|o| format!(": {}", o.detail)).unwrap_or_default())]
    NoPicture {
        /// Waited so long.
        waited_s: f64,
        /// What it said.
        outage: Option<Outage>,
    },
    /// No memory for the frames.
    #[error("no frame pool: {0}")]
    Pool(#[from] visualpath_frames::PoolError),
    /// An extractor.
    #[error("extractor `{extractor}`: {message}")]
    Extractor {
        /// Which.
        extractor: Name,
        /// What it said.
        message: String,
    },
    /// No thread.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
    /// A thread ended badly.
    #[error("the capture thread panicked")]
    Panicked,
}

/// Times of one kind of work, milliseconds, sorted.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// Sorts them.
    pub fn new(mut ms: Vec<f64>) -> Self {
        ms.sort_by(f64::total_cmp);
        Self(ms)
    }

    /// How many.
    pub fn n(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them stays below; `None` if there are none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        let at = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        self.0.get(at).copied()
    }
}

/// What one extractor took.
#[derive(Debug, Clone)]
pub struct Looks {
    /// The extractor.
    pub extractor: Name,
    /// Of each look, making its view included; the first is not counted.
    pub times: Times,
}

/// A picture as packed RGB, and what was seen in it.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `3 × width × height` bytes.
    pub rgb: Vec<u8>,
    /// What was seen.
    pub objects: Vec<Object>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What the source delivers.
    pub info: SourceInfo,
    /// Pictures captured.
    pub frames: u64,
    /// Pictures that the source says it lost, not counting those for which this program had no room.
    pub lost: u64,
    /// Pictures a second.
    pub fps: f64,
    /// The source was at its end before the time was over.
    pub ended: bool,
    /// Of one extractor each.
    pub looks: Vec<Looks>,
    /// Of encoding a picture.
    pub encode: Times,
    /// Why encoding stopped.
    pub encode_error: Option<String>,
    /// With the best object seen, if asked for.
    pub picture: Option<Picture>,
}

/// How long a source may take for its first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(10);

/// How long a process may take for one picture.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// The whole picture, for people.
const WHOLE: ViewSpec = ViewSpec {
    format: ViewFormat::Rgb,
    size: None,
    fit: visualpath_core::Fit::Stretch,
    filter: visualpath_core::Filter::Bilinear,
};

/// Opens the source, lets every extractor look at what comes, and closes it again.
///
/// # Errors
/// If there is no picture, or an extractor can't look at one.
pub fn measure(asked: &Asked, extractors: &mut [Loaded]) -> Result<Measured, MeasureError> {
    let source = source::open(&asked.source, build::clock())?;
    let mut views: Vec<ViewSpec> = Vec::new();
    let whole = asked.picture.then_some(WHOLE);
    for view in extractors.iter().map(|e| e.view).chain(whole) {
        if !views.contains(&view) {
            views.push(view);
        }
    }
    let info = source.info().clone();
    let pool = build::pool(&info, 1, asked.slots + info.driver_slots, &views)?;
    let stop = StopFlag::new();
    let (to_looker, pictures) = bounded(1);
    let capture = Capture {
        source,
        pool,
        views,
        slots: asked.slots,
        stop: stop.clone(),
        to_looker,
        done: Captured {
            info,
            frames: 0,
            lost: 0,
            first: None,
            last: None,
            outage: None,
            ended: false,
        },
    };
    let thread = std::thread::Builder::new()
        .name("measure".to_owned())
        .spawn(move || capture.run())
        .map_err(MeasureError::Thread)?;
    let mut looker = Looker::new(asked, extractors);
    let began = Instant::now();
    let mut end = began + FIRST_PICTURE;
    let mut waiting = true;
    let looked = loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Ok(());
        }
        match pictures.recv_timeout(left) {
            Ok((frame, is_encoded)) => {
                if std::mem::take(&mut waiting) {
                    end = Instant::now() + asked.length;
                    // A live source knows this no sooner.
                    looker.encoder = asked
                        .encode
                        .as_ref()
                        .filter(|_| !is_encoded)
                        .map(|(kind, options)| kind.build(options.clone()));
                }
                if let Err(e) = looker.look(&frame) {
                    break Err(e);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    stop.stop();
    drop(pictures);
    let captured = thread.join().map_err(|_| MeasureError::Panicked)?;
    looked?;
    let captured = captured?;
    let Some(fps) = captured.fps() else {
        return Err(MeasureError::NoPicture {
            waited_s: began.elapsed().as_secs_f64(),
            outage: captured.outage,
        });
    };
    Ok(looker.measured(captured, fps))
}

/// What the capture thread found out.
struct Captured {
    info: SourceInfo,
    frames: u64,
    lost: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    outage: Option<Outage>,
    ended: bool,
}

impl Captured {
    #[expect(clippy::cast_precision_loss, reason = "frames of some seconds")]
    fn fps(&self) -> Option<f64> {
        let took = self.last?.duration_since(self.first?).as_secs_f64();
        Some(match self.frames {
            0 | 1 => self.info.nominal_fps.unwrap_or(0.0),
            n => (n - 1) as f64 / took.max(1e-6),
        })
    }
}

struct Capture {
    source: Box<dyn source::Source>,
    pool: FramePool,
    views: Vec<ViewSpec>,
    slots: usize,
    stop: StopFlag,
    /// A picture, and whether the source sends it encoded.
    to_looker: Sender<(Frame, bool)>,
    done: Captured,
}

impl Capture {
    fn run(mut self) -> Result<Captured, MeasureError> {
        loop {
            match self.source.next(&self.pool, &self.stop)? {
                SourceEvent::Frame(frame) => {
                    let now = Instant::now();
                    self.done.frames += 1;
                    self.done.first.get_or_insert(now);
                    self.done.last = Some(now);
                    // Full: the looker is busy, and this one is left out.
                    let is_encoded = self.done.info.encoded.is_some();
                    if let Err(e) = self.to_looker.try_send((frame, is_encoded))
                        && e.is_disconnected()
                    {
                        break;
                    }
                }
                SourceEvent::Gap(gap) => {
                    if gap.cause != GapCause::PoolExhausted {
                        self.done.lost += gap.lost;
                    }
                }
                SourceEvent::NewFormat(info) => {
                    let (id, slots) = (self.pool.pool_id() + 1, self.slots + info.driver_slots);
                    self.pool = build::pool(&info, id, slots, &self.views)?;
                    self.done.info = info;
                }
                SourceEvent::Offline(outage) => self.done.outage = Some(outage),
                SourceEvent::Online | SourceEvent::Wrapped | SourceEvent::Packet(_) => {}
                SourceEvent::End(_) => {
                    self.done.ended = true;
                    break;
                }
                SourceEvent::Stopped => break,
            }
        }
        Ok(self.done)
    }
}

struct Looker<'a> {
    extractors: &'a mut [Loaded],
    took_ms: Vec<Vec<f64>>,
    looked: u64,
    encoder: Option<Box<dyn Encoder>>,
    encode_ms: Vec<f64>,
    encode_error: Option<String>,
    wants_picture: bool,
    picture: Option<Picture>,
}

impl<'a> Looker<'a> {
    fn new(asked: &Asked, extractors: &'a mut [Loaded]) -> Self {
        Self {
            took_ms: vec![Vec::new(); extractors.len()],
            extractors,
            looked: 0,
            encoder: None,
            encode_ms: Vec::new(),
            encode_error: None,
            wants_picture: asked.picture,
            picture: None,
        }
    }

    fn look(&mut self, frame: &Frame) -> Result<(), MeasureError> {
        let mut objects: Vec<Object> = Vec::new();
        for (loaded, took_ms) in self.extractors.iter_mut().zip(&mut self.took_ms) {
            let failed = |message: String| MeasureError::Extractor {
                extractor: loaded.name.clone(),
                message,
            };
            if let LaneWorker::Child(child) = &loaded.worker
                && let Some(gone) = child.gone()
            {
                return Err(failed(gone.why.to_string()));
            }
            let lease = frame.lease(frame.pool().holder(loaded.name.as_str()));
            let reply = one_look(&mut loaded.worker, lease, Some(LONGEST_LOOK))
                .map_err(|(_, m)| failed(m))?;
            match reply.outcome {
                Outcome::Observed(held) => {
                    let seen = held.observations.iter().map(|o| &o.data.objects);
                    objects.extend(seen.flatten().cloned());
                }
                Outcome::Failed(why) => return Err(failed(why.to_string())),
                Outcome::TimedOut | Outcome::Dropped(_) => {}
            }
            // The first look sets things up.
            if self.looked > 0 {
                took_ms.push(ms(reply.took_ns));
            }
        }
        self.encode(frame);
        if self.wants_picture {
            self.keep(frame, objects);
        }
        self.looked += 1;
        Ok(())
    }

    fn encode(&mut self, frame: &Frame) {
        let Some(encoder) = &mut self.encoder else {
            return;
        };
        let (began, mut packets) = (Instant::now(), Vec::new());
        match encoder.encode(frame.meta(), frame.pixels(), &mut packets) {
            Ok(()) if self.looked > 0 => {
                self.encode_ms.push(began.elapsed().as_secs_f64() * 1e3);
            }
            Ok(()) => {}
            Err(e) => {
                self.encode_error = Some(e.to_string());
                self.encoder = None;
            }
        }
    }

    /// Keeps the picture if it shows more than the one before.
    fn keep(&mut self, frame: &Frame, objects: Vec<Object>) {
        let best = |objects: &[Object]| objects.iter().map(|o| o.score).fold(0.0, f64::max);
        let better = match &self.picture {
            None => true,
            Some(before) => best(&objects) > best(&before.objects),
        };
        if !better {
            return;
        }
        let Some(Ok(view)) = frame.pool().view_id(&WHOLE).map(|id| frame.view(id)) else {
            return;
        };
        let (width, height) = (view.layout.width, view.layout.height);
        let across = width as usize * 3;
        let stride = view.layout.planes().first().map_or(across, |p| p.stride);
        let rows = view.pixels.chunks(stride).take(height as usize);
        let rgb: Vec<u8> = rows
            .flat_map(|row| row.iter().take(across))
            .copied()
            .collect();
        self.picture = Some(Picture {
            width,
            height,
            rgb,
            objects,
        });
    }

    fn measured(self, captured: Captured, fps: f64) -> Measured {
        let names = self.extractors.iter().map(|e| e.name.clone());
        let looks = names.zip(self.took_ms).map(|(extractor, ms)| Looks {
            extractor,
            times: Times::new(ms),
        });
        Measured {
            frames: captured.frames,
            lost: captured.lost,
            fps,
            ended: captured.ended,
            looks: looks.collect(),
            encode: Times::new(self.encode_ms),
            encode_error: self.encode_error,
            picture: self.picture,
            info: captured.info,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

/// The largest rate of those that people write which is not above `limit`.
pub fn round_fps(limit: f64) -> f64 {
    const RATES: [f64; 15] = [
        60.0, 50.0, 30.0, 25.0, 20.0, 15.0, 12.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0,
    ];
    RATES
        .into_iter()
        .find(|rate| *rate <= limit)
        .unwrap_or_else(|| ((limit * 10.0).floor() / 10.0).max(0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_down_to_what_people_write() {
        for (limit, rate) in [
            (100.0, 60.0),
            (29.9, 25.0),
            (12.5, 12.0),
            (10.0, 10.0),
            (1.2, 1.0),
            (0.77, 0.7),
            (0.0, 0.1),
        ] {
            assert_eq!(round_fps(limit), rate, "{limit}");
        }
    }

    #[test]
    fn quantiles_of_few_times_are_among_them() {
        let times = Times::new(vec![3.0, 1.0, 2.0]);
        assert_eq!(times.quantile(0.5), Some(2.0));
        assert_eq!(times.quantile(0.95), Some(3.0));
        assert_eq!(Times::default().quantile(0.5), None);
    }

    #[test]
    fn a_source_without_extractors_is_measured_at_its_own_rate() {
        let name = Name::new("cam0").unwrap();
        let asked = Asked {
            source: SourceOptions {
                realtime: false,
                ..SourceOptions::new(name, "synthetic:?width=64&height=48&fps=20&frames=30")
            },
            length: Duration::from_secs(60),
            slots: 4,
            encode: Some((EncoderKind::Mjpeg, EncoderOptions::default())),
            picture: true,
        };
        let measured = measure(&asked, &mut []).unwrap();
        assert!(measured.ended && measured.fps > 0.0);
        assert_eq!(measured.frames, 30);
        assert!(
            measured.encode_error.is_none(),
            "{:?}",
            measured.encode_error
        );
        let picture = measured.picture.unwrap();
        assert_eq!(picture.rgb.len(), 64 * 48 * 3);
    }
}
