//! One session with one camera, from DESCRIBE to TEARDOWN, in a thread of its own.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;
use futures_util::StreamExt;
use retina::client::{
    Demuxed, Described, InitialSequenceNumberPolicy, PlayOptions, Session, SessionGroup,
    SessionOptions, SetupOptions, Stream, Transport,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoFrame};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::RtspTransport;
use super::address::Address;
use super::error::{RtspError, Step, first_line};
use super::stream::Outlet;
use super::units::{AccessUnit, Units, elapsed_ns};

/// The encodings we take, the best first.
const ENCODINGS: [&str; 3] = ["h265", "h264", "jpeg"];

/// A camera whose time stamps move this much further than time itself, or back, has had its clock
/// set. Reordering takes them back too, but by less.
const JUMP: Duration = Duration::from_secs(2);

/// Packets that can't be understood before the connection is given up, with no picture in between.
const MAX_ERRORS: u32 = 16;

/// How long a picture may take to come after a packet that can't be understood. The library does
/// not say whether an error is the end.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long to wait for the answer to TEARDOWN. A camera that misses it frees the session later.
const GOODBYE: Duration = Duration::from_millis(500);

/// How long to try whether anybody is there at all, after a failed DESCRIBE.
const PROBE: Duration = Duration::from_secs(3);

/// RTCP's goodbye (RFC 3550, 12.1).
const RTCP_BYE: u8 = 203;

/// How patient a session is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// With each request.
    pub(super) answer: Duration,
    /// With a camera that is playing and gives no picture.
    pub(super) silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            // Less than the source waits for the first picture, so that what is said is this.
            silence: Duration::from_secs(8),
        }
    }
}

/// What to connect to.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) address: Address,
    pub(super) transport: RtspTransport,
    pub(super) patience: Patience,
}

/// What a camera says about itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    pub(super) encoding: String,
    /// Pixels across and down, if it says so before the first picture.
    pub(super) size: Option<(u32, u32)>,
    pub(super) fps: Option<f32>,
    pub(super) has_audio: bool,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encoding)?;
        if let Some((width, height)) = self.size {
            write!(f, " {width}x{height}")?;
        }
        if let Some(fps) = self.fps {
            write!(f, " {fps} fps")?;
        }
        if self.has_audio {
            f.write_str(", audio not captured")?;
        }
        Ok(())
    }
}

/// Runs a session until it breaks or `cancelled` resolves (its sender dropped will do).
///
/// # Errors
/// Why it broke.
pub(super) fn run(
    plan: &Plan,
    ready: &Sender<Facts>,
    mut outlet: Outlet,
    cancelled: oneshot::Receiver<()>,
) -> Result<(), RtspError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(RtspError::Here)?;
    let group = Arc::new(SessionGroup::default());
    let result = runtime.block_on(async {
        let result = tokio::select! {
            biased;
            _ = cancelled => Ok(()),
            error = session(plan, &group, ready, &mut outlet) => Err(error),
        };
        // The session was dropped just now, which has begun a TEARDOWN.
        match timeout(GOODBYE, group.await_teardown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!("TEARDOWN of {}: {}", plan.address, first_line(&error));
            }
            Err(_) => tracing::debug!("TEARDOWN of {}: no answer", plan.address),
        }
        result
    });
    // A name look-up may still hang in a thread of the runtime's; it is not waited for.
    runtime.shutdown_background();
    result
}

async fn session(
    plan: &Plan,
    group: &Arc<SessionGroup>,
    ready: &Sender<Facts>,
    outlet: &mut Outlet,
) -> RtspError {
    match play(plan, group).await {
        Ok((pictures, track, facts)) => {
            if ready.send(facts).is_err() {
                return RtspError::Closed;
            }
            receive(plan, pictures, track, outlet).await
        }
        Err(error) => error,
    }
}

/// Asks for the pictures of the best video track; gives its index too.
async fn play(
    plan: &Plan,
    group: &Arc<SessionGroup>,
) -> Result<(Demuxed, usize, Facts), RtspError> {
    let options = SessionOptions::default()
        .creds(plan.address.credentials.clone())
        .user_agent(concat!("visualpath/", env!("CARGO_PKG_VERSION")).to_owned())
        .session_group(Arc::clone(group));
    let describe = Session::describe(plan.address.url.clone(), options);
    let mut session = match answered(plan, Step::Describe, describe).await {
        Ok(session) => session,
        Err(error) => return Err(unreachable(plan).await.unwrap_or(error)),
    };
    let (track, facts) = choose(&session)?;
    let transport = match plan.transport {
        RtspTransport::Tcp => Transport::Tcp(Default::default()),
        RtspTransport::Udp => Transport::Udp(Default::default()),
    };
    let setup = SetupOptions::default()
        .transport(transport)
        .frame_format(FrameFormat::MP4);
    answered(plan, Step::Setup, session.setup(track, setup)).await?;
    // Some cameras announce a sequence number that is not the one they begin with.
    let options = PlayOptions::default().initial_seq(InitialSequenceNumberPolicy::Ignore);
    let playing = answered(plan, Step::Play, session.play(options)).await?;
    let pictures = playing.demuxed().map_err(|error| RtspError::Protocol {
        step: Step::Describe,
        detail: first_line(&error),
    })?;
    Ok((pictures, track, facts))
}

/// Waits for the answer to a request.
async fn answered<T>(
    plan: &Plan,
    step: Step,
    request: impl Future<Output = Result<T, retina::Error>>,
) -> Result<T, RtspError> {
    let Ok(answer) = timeout(plan.patience.answer, request).await else {
        return Err(RtspError::NoAnswer {
            step,
            waited_s: plan.patience.answer.as_secs(),
        });
    };
    answer.map_err(|error| match error.status_code() {
        Some(status) if status >= 300 => RtspError::Refused {
            step,
            status,
            known: plan.address.credentials.is_some(),
            transport: plan.transport,
        },
        _ => RtspError::Protocol {
            step,
            detail: first_line(&error),
        },
    })
}

/// Whether nobody is there at all: the library's errors do not tell.
async fn unreachable(plan: &Plan) -> Option<RtspError> {
    let url = &plan.address.url;
    let port = url.port().unwrap_or(554);
    let connect = async {
        match url.host()? {
            url::Host::Domain(name) => Some(tokio::net::TcpStream::connect((name, port)).await),
            url::Host::Ipv4(ip) => Some(tokio::net::TcpStream::connect((ip, port)).await),
            url::Host::Ipv6(ip) => Some(tokio::net::TcpStream::connect((ip, port)).await),
        }
    };
    match timeout(PROBE, connect).await {
        Ok(Some(Err(cause))) => Some(RtspError::Unreachable(cause)),
        Ok(_) => None,
        Err(_) => Some(RtspError::Unreachable(io::ErrorKind::TimedOut.into())),
    }
}

/// The track to take, and what to say of it.
fn choose(session: &Session<Described>) -> Result<(usize, Facts), RtspError> {
    let streams = session.streams();
    let video = |encoding: &&str| {
        streams
            .iter()
            .position(|s| ["video", "image"].contains(&s.media()) && s.encoding_name() == *encoding)
    };
    let Some(track) = ENCODINGS.iter().find_map(video) else {
        let offers: Vec<String> = streams
            .iter()
            .map(|s| format!("{} {}", s.media(), s.encoding_name()))
            .collect();
        let offers = if offers.is_empty() {
            "nothing".to_owned()
        } else {
            offers.join(", ")
        };
        return Err(RtspError::NoVideo(offers));
    };
    let stream = &streams[track];
    let size = match stream.parameters() {
        Some(ParametersRef::Video(video)) => Some(video.pixel_dimensions()),
        _ => None,
    };
    let facts = Facts {
        encoding: stream.encoding_name().to_owned(),
        size,
        fps: stream.framerate().filter(|fps| fps.is_finite()),
        has_audio: streams.iter().any(|s| s.media() == "audio"),
    };
    Ok((track, facts))
}

/// Hands on pictures until something ends it.
async fn receive(
    plan: &Plan,
    mut pictures: Demuxed,
    track: usize,
    outlet: &mut Outlet,
) -> RtspError {
    let mut units = Units::default();
    note_parameters(&mut units, pictures.streams().get(track));
    let mut clock = CameraClock::default();
    let mut trouble = Trouble::default();
    let mut last_picture = Instant::now();
    loop {
        let deadline = trouble.deadline(last_picture + plan.patience.silence);
        match timeout_at(deadline, pictures.next()).await {
            Ok(Some(Ok(CodecItem::VideoFrame(frame)))) => {
                last_picture = Instant::now();
                trouble = Trouble::default();
                if frame.has_new_parameters() || units.params().is_none() {
                    note_parameters(&mut units, pictures.streams().get(track));
                }
                let unit = access_unit(frame);
                if let Err(jumped) = clock.check(unit.shown_ns, last_picture) {
                    return jumped;
                }
                outlet.give(units.judge(unit));
            }
            Ok(Some(Ok(CodecItem::Rtcp(packet)))) => {
                if packet.pkts().any(|p| p.payload_type() == RTCP_BYE) {
                    return RtspError::Closed;
                }
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => {
                outlet.lost(0);
                if let Some(over) = trouble.add(&error) {
                    return over;
                }
            }
            Ok(None) => return trouble.take().unwrap_or(RtspError::Closed),
            Err(_) => {
                return trouble.take().unwrap_or(RtspError::Silent {
                    waited_s: plan.patience.silence.as_secs(),
                    transport: plan.transport,
                });
            }
        }
    }
}

fn note_parameters(units: &mut Units, stream: Option<&Stream>) {
    if let Some(ParametersRef::Video(video)) = stream.and_then(Stream::parameters) {
        units.parameters(video);
    }
}

fn access_unit(frame: VideoFrame) -> AccessUnit {
    AccessUnit {
        missing: frame.loss(),
        shown_ns: elapsed_ns(frame.timestamp()),
        data: Bytes::from(frame.into_data()),
    }
}

/// Packets that could not be understood since the last picture.
#[derive(Default)]
struct Trouble {
    count: u32,
    last: Option<(Instant, RtspError)>,
}

impl Trouble {
    /// One more; gives the error to end with if it was one too many.
    fn add(&mut self, error: &retina::Error) -> Option<RtspError> {
        self.count += 1;
        let error = RtspError::Broken(first_line(error));
        if self.count >= MAX_ERRORS {
            return Some(error);
        }
        let since = self
            .last
            .take()
            .map_or_else(Instant::now, |(since, _)| since);
        self.last = Some((since, error));
        None
    }

    /// When to give up waiting for a picture.
    fn deadline(&self, otherwise: Instant) -> Instant {
        self.last
            .as_ref()
            .map_or(otherwise, |(since, _)| otherwise.min(*since + RECOVERY))
    }

    fn take(&mut self) -> Option<RtspError> {
        self.last.take().map(|(_, error)| error)
    }
}

/// Compares the camera's clock with ours, from picture to picture.
#[derive(Default)]
struct CameraClock {
    last: Option<(i64, Instant)>,
}

impl CameraClock {
    fn check(&mut self, shown_ns: i64, now: Instant) -> Result<(), RtspError> {
        let Some((before_ns, before)) = self.last.replace((shown_ns, now)) else {
            return Ok(());
        };
        let moved_ns = i128::from(shown_ns) - i128::from(before_ns);
        let passed_ns = duration_ns(now.saturating_duration_since(before));
        let jump_ns = duration_ns(JUMP);
        if moved_ns > passed_ns + jump_ns || moved_ns < -jump_ns {
            let by_s = i64::try_from((moved_ns - passed_ns) / 1_000_000_000).unwrap_or(i64::MAX);
            return Err(RtspError::Jumped { by_s });
        }
        Ok(())
    }
}

fn duration_ns(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
