//! Any file, through an `ffmpeg` child that writes raw pictures in a NUT container to a pipe.
//!
//! The child is started for one round, killed and reaped when dropped. It sits in its own process
//! group, so that a Ctrl-C at the terminal ends us and not the decoder under us. Should we die
//! without dropping it, its next write fails (EPIPE) and it ends by itself; PDEATHSIG would not
//! serve, because it fires when the *thread* that started the child ends.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use visualpath_core::{ImageLayout, PixelFormat};
use visualpath_frames::{MAX_SIDE, SlotMut};

use super::file::{Fault, Pictures, Step};
use super::nut::{NutError, NutReader};
use super::probe::{Probe, probe};
use super::{SourceError, SourceInfo, StopFlag};

/// A child that gives no byte for so long is taken for dead. Only time spent waiting for it counts.
const STALL_S: u64 = 30;
/// Room in the pipe: one picture of 768×576 and more; the default 64 KiB cost a wake-up each.
const PIPE_BYTES: usize = 1 << 20;

/// The programs, by name or path.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) ffmpeg: OsString,
    pub(super) ffprobe: OsString,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
        }
    }
}

/// The file as an argument: with `file:` before it no name looks like an option or a protocol.
pub(super) fn file_arg(file: &Path) -> OsString {
    let mut arg = OsString::from("file:");
    arg.push(file);
    arg
}

/// Decodes a file by an ffmpeg child.
pub(super) struct FfmpegPictures {
    tools: Tools,
    file: PathBuf,
    threads: u32,
    probe: Probe,
    info: SourceInfo,
    running: Option<Running>,
}

struct Running {
    child: Child,
    nut: NutReader<PipeReader>,
}

impl FfmpegPictures {
    pub(super) fn open(file: &Path, threads: u32, head: &[u8]) -> Result<Self, SourceError> {
        Self::open_with(Tools::default(), file, threads, head)
    }

    pub(super) fn open_with(
        tools: Tools,
        file: &Path,
        threads: u32,
        head: &[u8],
    ) -> Result<Self, SourceError> {
        let probe = probe(&tools, file, head)?;
        let running = Running::start(&tools, file, threads, &probe)?;
        let stream = *running.nut.stream();
        let layout =
            ImageLayout::packed(PixelFormat::I420, stream.width, stream.height, probe.color);
        let rate = probe.nominal_fps.map_or_else(String::new, |fps| {
            format!(" {} fps", (fps * 100.0).round() / 100.0)
        });
        let (width, height) = (stream.width, stream.height);
        let description = format!("ffmpeg {} {width}x{height}{rate}", probe.codec);
        let info = SourceInfo {
            nominal_fps: probe.nominal_fps,
            duration_ns: probe.duration_ns,
            ..SourceInfo::new(layout, description)
        };
        Ok(Self {
            tools,
            file: file.to_owned(),
            threads,
            probe,
            info,
            running: Some(running),
        })
    }

    /// The stream has ended, well or not: what the child has to say about it.
    fn end(&mut self) -> Result<Step, Fault> {
        let Some(running) = self.running.take() else {
            return Ok(Step::End { damage: None });
        };
        let (status, said) = running.close();
        if said.lines > 0 && status.code().is_some() {
            let damage = Some(said.summary(&self.file));
            return Ok(Step::End { damage });
        }
        if !status.success() {
            // Killed, or ended without a word: nobody's comment on the file.
            let detail = format!("{status}; {}", said.summary(&self.file));
            return Err(Fault::Fatal(self.decoder_error(detail)));
        }
        // AVI pictures that are not there at all are no error to ffmpeg.
        Ok(Step::End {
            damage: short_riff(&self.file),
        })
    }

    fn fault(&mut self, error: NutError, stop: &StopFlag) -> Fault {
        if stop.is_set() {
            return Fault::Stopped;
        }
        match error {
            NutError::Io(e) if e.kind() == io::ErrorKind::TimedOut => {
                Fault::Fatal(stalled("ffmpeg", &self.file))
            }
            error => {
                let said = self.running.take().map(Running::close);
                let said = said.map_or_else(String::new, |(status, said)| {
                    format!("; {status}; {}", said.summary(&self.file))
                });
                Fault::Fatal(self.decoder_error(format!("its output: {error}{said}")))
            }
        }
    }

    fn decoder_error(&self, detail: String) -> SourceError {
        SourceError::Decoder {
            program: "ffmpeg",
            file: self.file.clone(),
            frames_delivered: 0,
            detail,
        }
    }
}

impl Pictures for FfmpegPictures {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn step(&mut self, stop: &StopFlag) -> Result<Step, Fault> {
        let Some(running) = self.running.as_mut() else {
            return Ok(Step::End { damage: None });
        };
        running.nut.input_mut().stop = stop.clone();
        match running.nut.next_frame() {
            Ok(Some(frame)) if frame.bytes == self.info.layout.bytes() => Ok(Step::Picture {
                pts_ns: Some(running.nut.stream().ticks_to_ns(frame.pts)),
            }),
            Ok(Some(frame)) => Err(Fault::Fatal(self.decoder_error(format!(
                "a picture of {} bytes where {} were expected",
                frame.bytes,
                self.info.layout.bytes()
            )))),
            Ok(None) => self.end(),
            Err(error) => Err(self.fault(error, stop)),
        }
    }

    fn fill(&mut self, slot: &mut SlotMut, stop: &StopFlag) -> Result<(), Fault> {
        let Some(running) = self.running.as_mut() else {
            return Err(Fault::Undecodable);
        };
        // From the pipe straight into the slot: no copy of ours.
        match running.nut.read_payload(slot.pixels_mut()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fault(error, stop)),
        }
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.running = None;
        let running = Running::start(&self.tools, &self.file, self.threads, &self.probe)?;
        let stream = running.nut.stream();
        let layout = &self.info.layout;
        if (stream.width, stream.height) != (layout.width, layout.height) {
            return Err(self.decoder_error("the file has changed while looping over it".to_owned()));
        }
        self.running = Some(running);
        Ok(())
    }
}

impl Running {
    fn start(tools: &Tools, file: &Path, threads: u32, probe: &Probe) -> Result<Self, SourceError> {
        let mut args: Vec<OsString> = Vec::new();
        let mut push = |words: &str| args.extend(words.split(' ').map(OsString::from));
        push("-hide_banner -nostdin -loglevel level+error");
        push(&format!("-threads {threads} -filter_threads 1"));
        // Every picture once, at its own time: no picture repeated or dropped to make a constant
        // rate, and no time stamp rounded to the frame rate's grid (enc_time_base).
        push("-copyts -i");
        args.push(file_arg(file));
        let mut push = |words: &str| args.extend(words.split(' ').map(OsString::from));
        push("-map 0:V:0 -an -sn -dn -enc_time_base -1");
        push(if probe.has_fps_mode {
            "-fps_mode passthrough"
        } else {
            "-vsync passthrough"
        });
        if let Some(filter) = &probe.filter {
            push(&format!("-vf {filter}"));
        }
        push("-c:v rawvideo -pix_fmt yuv420p -f nut -write_index 0 pipe:1");
        let mut child = Child::spawn("ffmpeg", &tools.ffmpeg, file, args)?;
        let pipe = child.pipe()?;
        let detail = |error: NutError, child: Child| {
            if matches!(&error, NutError::Io(e) if e.kind() == io::ErrorKind::TimedOut) {
                return stalled("ffmpeg", file);
            }
            let (status, said) = child.finish();
            SourceError::Decoder {
                program: "ffmpeg",
                file: file.to_owned(),
                frames_delivered: 0,
                detail: format!("its output: {error}; {status}; {}", said.summary(file)),
            }
        };
        let nut = match NutReader::open(pipe) {
            Ok(Some(nut)) => nut,
            // Nothing at all: not one picture could be decoded.
            Ok(None) => {
                let (_, said) = child.finish();
                return Err(SourceError::Damaged {
                    file: file.to_owned(),
                    frames_delivered: 0,
                    detail: said.summary(file),
                });
            }
            Err(error) => return Err(detail(error, child)),
        };
        let stream = nut.stream();
        if &stream.fourcc != b"I420" || stream.width.max(stream.height) > MAX_SIDE {
            return Err(SourceError::Decoder {
                program: "ffmpeg",
                file: file.to_owned(),
                frames_delivered: 0,
                detail: format!(
                    "it gives pictures of {}x{}, format `{}`; expected are I420 and at most {MAX_SIDE} pixels a side",
                    stream.width,
                    stream.height,
                    stream.fourcc.escape_ascii()
                ),
            });
        }
        Ok(Self { child, nut })
    }

    /// Closes the pipe first, so that a child which still writes ends.
    fn close(self) -> (ExitStatus, Said) {
        drop(self.nut);
        self.child.finish()
    }
}

fn stalled(program: &'static str, file: &Path) -> SourceError {
    SourceError::Stalled {
        program,
        file: file.to_owned(),
        waited_s: STALL_S,
    }
}

/// How many bytes an AVI (a RIFF file) lacks, by its own account. Source: "Multimedia Programming
/// Interface and Data Specifications 1.0", RIFF: a chunk is its name, its length and as many bytes.
fn short_riff(path: &Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    let have = file.metadata().ok()?.len();
    let mut at = 0_u64;
    // AVI files above 1 GB are several RIFF chunks in a row.
    for _ in 0..1024 {
        let mut head = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, at).ok()?;
        let [a, b, c, d, s0, s1, s2, s3] = head;
        if &[a, b, c, d] != b"RIFF" {
            return None;
        }
        let len = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        let end = at + 8 + len;
        // A recorder that was cut off before it wrote the length leaves 0 there.
        if len == 0 || end > have {
            return Some(format!(
                "it is cut off: {have} bytes are there, its header says {end}"
            ));
        }
        at = end + len % 2;
    }
    None
}

/// A child process with its pipes. Dropping it kills and reaps it.
pub(super) struct Child {
    program: &'static str,
    file: PathBuf,
    child: std::process::Child,
    stderr: Option<JoinHandle<Said>>,
}

impl Child {
    pub(super) fn spawn(
        program: &'static str,
        path: &OsString,
        file: &Path,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, SourceError> {
        let failed = |cause| SourceError::FfmpegMissing {
            program,
            file: file.to_owned(),
            cause,
        };
        let mut child = Command::new(path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let stderr = child.stderr.take();
        // From here on the child is killed and reaped whatever fails.
        let mut this = Self {
            program,
            file: file.to_owned(),
            child,
            stderr: None,
        };
        if let Some(stderr) = stderr {
            let reader = std::thread::Builder::new()
                .name(format!("{program}-stderr"))
                .spawn(move || Said::read(stderr))
                .map_err(failed)?;
            this.stderr = Some(reader);
        }
        Ok(this)
    }

    fn pipe(&mut self) -> Result<PipeReader, SourceError> {
        let stdout = self
            .child
            .stdout
            .take()
            .ok_or_else(|| SourceError::Decoder {
                program: self.program,
                file: self.file.clone(),
                frames_delivered: 0,
                detail: "its output is not connected".to_owned(),
            })?;
        if let Err(e) = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES) {
            // Above the user's limit (pipe-user-pages-soft): slower, not wrong.
            tracing::debug!("the pipe from {} keeps its default size: {e}", self.program);
        }
        Ok(PipeReader {
            stdout,
            stop: StopFlag::new(),
        })
    }

    /// Everything the child writes, at most `limit` bytes.
    pub(super) fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, SourceError> {
        let mut out = Vec::new();
        match self.pipe()?.take(limit).read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(stalled(self.program, &self.file)),
            Err(e) => Err(SourceError::Decoder {
                program: self.program,
                file: self.file.clone(),
                frames_delivered: 0,
                detail: format!("reading its output: {e}"),
            }),
        }
    }

    /// Waits for the end, kills what does not end within 5 s, and gives what it said.
    pub(super) fn finish(mut self) -> (ExitStatus, Said) {
        let until = Instant::now() + Duration::from_secs(5);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => break self.kill(),
            }
        };
        (status, self.said())
    }

    fn said(&mut self) -> Said {
        self.stderr
            .take()
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    }

    fn kill(&mut self) -> ExitStatus {
        if let Err(e) = self.child.kill() {
            tracing::warn!("killing {}: {e}", self.program);
        }
        self.child.wait().unwrap_or_else(|e| {
            tracing::warn!("waiting for {}: {e}", self.program);
            ExitStatus::default()
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
        // Its end of the pipe is closed now, so the reader ends.
        self.said();
    }
}

/// The first and the last lines of a child's stderr.
#[derive(Debug, Default, Clone)]
pub(super) struct Said {
    /// Lines in all.
    pub(super) lines: u64,
    first: Vec<String>,
}

impl Said {
    const KEPT: usize = 3;
    const LINE_BYTES: usize = 300;

    /// Reads to the end, so that the child never blocks on a full pipe.
    fn read(stderr: ChildStderr) -> Self {
        let mut said = Self::default();
        let mut reader = BufReader::with_capacity(4096, stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line is taken in pieces of bounded length.
            match (&mut reader).take(4096).read_until(b'\n', &mut line) {
                Ok(0) => return said,
                Ok(_) => said.push(&line),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return said,
            }
        }
    }

    fn push(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if text.is_empty() || text == "[error]" {
            return;
        }
        self.lines += 1;
        if self.first.len() < Self::KEPT {
            self.first
                .push(text.chars().take(Self::LINE_BYTES).collect());
        }
    }

    /// In one line, for an error message: the first words are the cause, the rest follows from it.
    pub(super) fn summary(&self, file: &Path) -> String {
        if self.first.is_empty() {
            return "it gives no reason".to_owned();
        }
        let prefix = format!("file:{}: ", file.display());
        let mut lines: Vec<String> = self
            .first
            .iter()
            .map(|l| without_address(l).replace(&prefix, ""))
            .collect();
        lines.dedup();
        let shown = lines.join("; ");
        match self.lines - self.first.len() as u64 {
            0 => shown,
            more => format!("{shown}; and {more} lines more"),
        }
    }
}

/// `[h264 @ 0x5574c14a1c00] [error] text` as `h264: text`.
fn without_address(line: &str) -> String {
    let bare = line.replace("[error] ", "").replace("[fatal] ", "");
    if let Some((context, text)) = bare.strip_prefix('[').and_then(|l| l.split_once("] "))
        && let Some((name, _)) = context.split_once(" @ 0x")
    {
        return format!("{name}: {text}");
    }
    bare
}

/// A child's output. A read blocks until there is a byte, the stop flag is set (`Other`), or
/// nothing has come for [`STALL_S`] (`TimedOut`).
#[derive(Debug)]
struct PipeReader {
    stdout: ChildStdout,
    stop: StopFlag,
}

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        const SLICE: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let since = Instant::now();
        loop {
            if self.stop.is_set() {
                return Err(io::Error::other("stopped"));
            }
            let mut fds = [PollFd::new(&self.stdout, PollFlags::IN)];
            match poll(&mut fds, Some(&SLICE)) {
                Ok(0) if since.elapsed() >= Duration::from_secs(STALL_S) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(0) => {}
                Ok(_) => return self.stdout.read(buf),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
