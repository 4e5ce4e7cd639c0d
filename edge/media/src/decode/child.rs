//! Any codec, by an `ffmpeg` child: packets in over IVF, pictures out over NUT.
//!
//! - **Identity.** A packet's time stamp goes through the child unchanged, also where pictures are
//!   reordered, and tells which packet a picture came of.
//! - **Never blocked.** A thread writes to the child from a bounded queue; with a full queue a packet
//!   is refused. Pictures wait in the pipe, and the child with them, until they are taken: the pixels
//!   go from the pipe into the slot.
//! - **Crashes alone.** A child that ends is [`DecodeError::Gone`]; the next key packet may be given
//!   to the same decoder, which starts a new one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use visualpath_core::{ColorRange, ImageLayout, PixelFormat};
use visualpath_frames::MAX_SIDE;

use super::h264::put_annexb;
use super::{DecodeError, Decoded, Decoder, ivf, nal_units};
use crate::encode::{Codec, CodecParams, Packet};
use crate::process::{Process, readable};
use crate::source::nut::{NutError, NutReader};

/// Packets that may wait for the child.
const QUEUE: usize = 64;
/// Packets whose pictures have not come out yet; a decoder holds back at most 16 of them.
const MAX_PENDING: usize = QUEUE + 64;
/// A picture that has begun must come to its end within this.
const STALL: Duration = Duration::from_secs(5);
/// The writer is waited for so long when the child is dead.
const WRITER_LIMIT: Duration = Duration::from_secs(1);

/// See the module's text.
pub(super) struct FfmpegDecoder {
    program: OsString,
    name: &'static str,
    params: CodecParams,
    threads: u32,
    running: Option<Running>,
    /// Packets whose pictures have not come out: time stamp in ticks, `frame_id`, `pts_ns`.
    pending: VecDeque<(u64, u64, i64)>,
    picture: Option<Decoded>,
}

struct Running {
    // Dropped in this order: the child is killed, so that the writer's pipe breaks.
    process: Process,
    packets: Option<Sender<Bytes>>,
    writer: Option<JoinHandle<()>>,
    stage: Stage,
}

enum Stage {
    /// Not a byte has come out yet.
    Silent(ChildStdout),
    Open(Box<NutReader<Output>>),
    Broken,
}

/// The child's output; a read waits for [`STALL`].
struct Output(ChildStdout);

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if readable(&self.0, STALL)? {
            self.0.read(buf)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl FfmpegDecoder {
    pub(super) fn new(params: &CodecParams, threads: u32) -> Result<Self, DecodeError> {
        Self::with_program("ffmpeg".into(), params, threads)
    }

    pub(super) fn with_program(
        program: OsString,
        params: &CodecParams,
        threads: u32,
    ) -> Result<Self, DecodeError> {
        let mut this = Self {
            program,
            name: match params.codec {
                Codec::H264 => "ffmpeg h264",
                Codec::H265 => "ffmpeg hevc",
                Codec::Mjpeg => "ffmpeg mjpeg",
            },
            params: params.clone(),
            threads,
            running: None,
            pending: VecDeque::new(),
            picture: None,
        };
        // At once, so that a missing program is known now.
        this.running = Some(this.start()?);
        Ok(this)
    }

    fn start(&self) -> Result<Running, DecodeError> {
        let gone = |e: io::Error| DecodeError::Gone(format!("starting {}: {e}", self.name));
        let mut command = Command::new(&self.program);
        command.args(arguments(
            &self.params,
            self.threads,
            knows_fps_mode(&self.program),
        ));
        // Nothing of a decoder is worth waiting for.
        let (process, pipes) = Process::spawn(command, self.name, true, Duration::ZERO)
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => DecodeError::Unsupported(format!(
                    "`ffmpeg` is needed to decode this {} stream and was not found: install it (Debian, Ubuntu: `apt install ffmpeg`) or put it on PATH",
                    self.params.codec.as_str()
                )),
                _ => gone(e),
            })?;
        let stdin = pipes
            .stdin
            .ok_or_else(|| gone(io::Error::other("its input is not connected")))?;
        let (packets, queue) = bounded(QUEUE);
        let mut header = BytesMut::new();
        let fourcc = match self.params.codec {
            Codec::H264 => *b"H264",
            Codec::H265 => *b"HEVC",
            Codec::Mjpeg => *b"MJPG",
        };
        ivf::put_header(&mut header, fourcc, self.params.width, self.params.height);
        let header = header.freeze();
        let writer = std::thread::Builder::new()
            .name("decoder-input".to_owned())
            .spawn(move || write_all(stdin, &header, &queue))
            .map_err(gone)?;
        Ok(Running {
            process,
            packets: Some(packets),
            writer: Some(writer),
            stage: Stage::Silent(pipes.stdout),
        })
    }

    /// The child is of no more use.
    fn gone(&mut self, why: &str) -> DecodeError {
        self.pending.clear();
        self.picture = None;
        match self.running.take() {
            Some(mut running) => {
                let words = running.process.last_words(Duration::from_millis(100));
                DecodeError::Gone(format!("{why}; {words}"))
            }
            None => DecodeError::Gone(why.to_owned()),
        }
    }

    fn broken(&mut self, error: &NutError) -> DecodeError {
        self.gone(&format!("its output: {error}"))
    }

    /// Goes to the next picture in the child's output, if it has begun.
    fn next_picture(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let frame = match running.next_frame() {
            Ok(Progress::Nothing) => return Ok(None),
            Ok(Progress::Frame(frame)) => frame,
            Ok(Progress::End) => return Err(self.gone("it gives no more pictures")),
            Err(e) => return Err(self.broken(&e)),
        };
        let layout = ImageLayout::packed(
            PixelFormat::I420,
            frame.width,
            frame.height,
            self.params.color,
        );
        if frame.bytes != layout.bytes() {
            return Err(self.gone("a picture of another size than announced"));
        }
        let Some(at) = self.pending.iter().position(|p| p.0 == frame.ticks) else {
            // One that was given up, or made up by the decoder.
            return Ok(None);
        };
        let Some((_, frame_id, pts_ns)) = self.pending.remove(at) else {
            return Ok(None);
        };
        self.picture = Some(Decoded {
            frame_id,
            pts_ns,
            layout,
        });
        Ok(self.picture)
    }
}

impl Decoder for FfmpegDecoder {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_late(&self) -> bool {
        true
    }

    fn push(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        if self.running.is_none() {
            if !packet.is_key {
                return Err(DecodeError::Damaged(
                    "decoding begins at a key picture".to_owned(),
                ));
            }
            self.running = Some(self.start()?);
        }
        // Unique, or two packets would be one picture.
        let mut ticks = u64::try_from(packet.pts_ns / 1000).unwrap_or(0);
        while self.pending.iter().any(|p| p.0 == ticks) {
            ticks += 1;
        }
        let bytes = self.in_container(packet, ticks)?;
        let sent = match self.running.as_ref().and_then(|r| r.packets.as_ref()) {
            Some(packets) => packets.try_send(bytes),
            None => Err(TrySendError::Disconnected(bytes)),
        };
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(DecodeError::Damaged(format!(
                    "{} is {QUEUE} pictures behind; ask for a smaller picture or a lower rate",
                    self.name
                )));
            }
            Err(TrySendError::Disconnected(_)) => return Err(self.gone("it takes no more packets")),
        }
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending
            .push_back((ticks, packet.frame_id, packet.pts_ns));
        Ok(())
    }

    fn end(&mut self) {
        if let Some(running) = &mut self.running {
            running.packets = None;
        }
    }

    fn wait(&mut self, limit: Duration) -> bool {
        // What can't be waited for says so when it is asked.
        let readable = |pipe: &ChildStdout| readable(pipe, limit).unwrap_or(true);
        match self.running.as_mut().map(|r| &mut r.stage) {
            Some(Stage::Silent(pipe)) => readable(pipe),
            Some(Stage::Open(nut)) => nut.has_buffered() || readable(&nut.input_mut().0),
            Some(Stage::Broken) | None => true,
        }
    }

    fn ready(&mut self) -> Result<Option<Decoded>, DecodeError> {
        match self.picture {
            Some(picture) => Ok(Some(picture)),
            None => self.next_picture(),
        }
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), DecodeError> {
        let ready = self.picture.take().is_some();
        let read = match self.running.as_mut().map(|r| &mut r.stage) {
            Some(Stage::Open(nut)) if ready => nut.read_payload(out),
            _ => return Err(DecodeError::Damaged("there is no such picture".to_owned())),
        };
        read.map_err(|e| self.broken(&e))
    }

    fn skip(&mut self) {
        // The next announcement passes over what was not read.
        self.picture = None;
    }

    fn reset(&mut self) {
        self.running = None;
        self.pending.clear();
        self.picture = None;
    }
}

#[cfg(test)]
impl FfmpegDecoder {
    /// As the out-of-memory killer does.
    pub(super) fn kill_for_tests(&self) {
        let id = self.running.as_ref().map_or(0, |r| r.process.id());
        let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl FfmpegDecoder {
    fn in_container(&self, packet: &Packet, ticks: u64) -> Result<Bytes, DecodeError> {
        let mut data = BytesMut::with_capacity(packet.data.len() + 512);
        ivf::put_packet_header(&mut data, 0, ticks);
        let head = data.len();
        if packet.params.codec == Codec::Mjpeg {
            data.extend_from_slice(&packet.data);
        } else {
            if packet.is_key {
                let p = &packet.params;
                put_annexb(&mut data, [&p.vps[..], &p.sps, &p.pps]);
            }
            put_annexb(&mut data, nal_units(&packet.data));
        }
        let len = u32::try_from(data.len() - head)
            .map_err(|_| DecodeError::Damaged("a packet above 4 GB".to_owned()))?;
        data[..4].copy_from_slice(&len.to_le_bytes());
        Ok(data.freeze())
    }
}

/// Where the child's output stands.
enum Progress {
    Nothing,
    Frame(Announced),
    End,
}

struct Announced {
    ticks: u64,
    bytes: usize,
    width: u32,
    height: u32,
}

impl Running {
    fn next_frame(&mut self) -> Result<Progress, NutError> {
        if let Stage::Silent(stdout) = &self.stage {
            if !readable(stdout, Duration::ZERO)? {
                return Ok(Progress::Nothing);
            }
            let Stage::Silent(stdout) = std::mem::replace(&mut self.stage, Stage::Broken) else {
                return Ok(Progress::End);
            };
            match NutReader::open(Output(stdout))? {
                Some(nut) => {
                    let stream = nut.stream();
                    if &stream.fourcc != b"I420" || stream.width.max(stream.height) > MAX_SIDE {
                        return Err(NutError::Unsupported("pictures other than asked for"));
                    }
                    self.stage = Stage::Open(Box::new(nut));
                }
                None => return Ok(Progress::End),
            }
        }
        let Stage::Open(nut) = &mut self.stage else {
            return Ok(Progress::End);
        };
        // What was not taken is in the way.
        nut.skip_payload()?;
        if !nut.has_buffered() && !readable(&nut.input_mut().0, Duration::ZERO)? {
            return Ok(Progress::Nothing);
        }
        let Some(frame) = nut.next_frame()? else {
            return Ok(Progress::End);
        };
        let stream = nut.stream();
        // To the nearest tick of what was written in.
        let ns = stream.ticks_to_ns(frame.pts);
        Ok(Progress::Frame(Announced {
            ticks: u64::try_from((ns + 500) / 1000).unwrap_or(0),
            bytes: frame.bytes,
            width: stream.width,
            height: stream.height,
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.end(Duration::ZERO);
        self.packets = None;
        let Some(writer) = self.writer.take() else {
            return;
        };
        // Should the child hang in the kernel, so does the writer: it is not waited for.
        let until = Instant::now() + WRITER_LIMIT;
        while !writer.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !writer.is_finished() {
            tracing::warn!("the thread that writes to a decoder is left behind");
        } else if writer.join().is_err() {
            tracing::warn!("the thread that writes to a decoder panicked");
        }
    }
}

/// The writer thread. It ends when there is nothing more to write or nobody reads.
fn write_all(mut stdin: ChildStdin, header: &[u8], packets: &Receiver<Bytes>) {
    let mut write = |bytes: &[u8]| stdin.write_all(bytes).is_ok();
    if !write(header) {
        return;
    }
    while let Ok(packet) = packets.recv() {
        if !write(&packet) {
            return;
        }
    }
}

fn arguments(params: &CodecParams, threads: u32, fps_mode: bool) -> Vec<OsString> {
    let passthrough = if fps_mode { "-fps_mode" } else { "-vsync" };
    // No probing: the container says everything, and each byte of it is live (`-fflags nobuffer`
    // would throw away what was probed). Every picture once, at its own time (source/ffmpeg.rs).
    let decoder = match params.codec {
        Codec::H264 => "h264",
        Codec::H265 => "hevc",
        Codec::Mjpeg => "mjpeg",
    };
    // With a format of the other range the values would be converted. NUT calls both I420.
    let format = match params.color.range {
        ColorRange::Full => "yuvj420p",
        ColorRange::Limited => "yuv420p",
    };
    format!(
        "-hide_banner -nostdin -loglevel error -threads {threads} -filter_threads 1 \
         -fpsprobesize 0 -probesize 32 -analyzeduration 0 -copyts -f ivf -c:v {decoder} -i pipe:0 \
         -map 0:v:0 -enc_time_base -1 {passthrough} passthrough \
         -threads 1 -c:v rawvideo -pix_fmt {format} -flush_packets 1 -f nut -write_index 0 pipe:1"
    )
    .split_ascii_whitespace()
    .map(OsString::from)
    .collect()
}

/// Whether this ffmpeg knows `-fps_mode` (5.1) or still calls it `-vsync`. Asked once.
fn knows_fps_mode(program: &OsString) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(out) = Command::new(program).arg("-version").output() else {
            return true;
        };
        let text = String::from_utf8_lossy(&out.stdout);
        let version = text.split_ascii_whitespace().nth(2).unwrap_or_default();
        let mut parts = version.trim_start_matches('n').split(['.', '-']);
        let mut part = || parts.next().and_then(|p| p.parse::<u32>().ok());
        // A build from the repository has no number, and is new.
        match (part(), part()) {
            (Some(major), minor) => (major, minor.unwrap_or(0)) >= (5, 1),
            _ => true,
        }
    })
}
