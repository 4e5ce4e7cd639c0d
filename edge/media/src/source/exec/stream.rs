//! One run of a program: its output, told by its first bytes, as units.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use super::super::encoded::{PacketStream, StreamError, Unit};
use super::super::nut::NutError;
use super::super::{StopFlag, y4m};
use super::forms::{Jpegs, LiveAnnexB, Nut, Y4m};
use crate::encode::Codec;
use crate::process::{Process, readable};

/// Bytes that tell what the output is.
const HEAD: usize = 12;
const CHUNK: usize = 256 << 10;
/// A picture that has begun must go on within this.
const STALL: Duration = Duration::from_secs(2);
/// How long a program whose output is closed may take to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);
const NUT_MAGIC: &[u8] = b"nut/multimedia";

/// See the module's text.
pub(super) struct ExecStream {
    // Dropped before the process: one that is in the middle of writing then ends at once.
    form: Form,
    process: Process,
    /// `exec ffmpeg`, for messages.
    label: String,
    stop: StopFlag,
    ready: VecDeque<Unit>,
    ended: bool,
}

/// What the output is.
enum Form {
    Unknown { pipe: Pipe, head: Vec<u8> },
    AnnexB { pipe: Pipe, stream: LiveAnnexB },
    Jpegs { pipe: Pipe, jpegs: Jpegs },
    Y4m(Y4m),
    Nut(Box<Nut>),
    Broken,
}

impl ExecStream {
    pub(super) fn new(
        process: Process,
        stdout: ChildStdout,
        label: String,
        stop: StopFlag,
    ) -> Self {
        let pipe = Pipe {
            stdout,
            stop: stop.clone(),
            head: Vec::new(),
            buf: Vec::new(),
        };
        Self {
            process,
            label,
            stop,
            form: Form::Unknown {
                pipe,
                head: Vec::new(),
            },
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// Looks at what is there now. Something readable is taken; nothing is waited for but the rest
    /// of a line or header that has begun.
    fn step(&mut self) -> Result<(), StreamError> {
        match &mut self.form {
            Form::Unknown { pipe, head } => {
                let mut buf = [0; HEAD];
                let room = HEAD - head.len();
                let n = pipe.read(&mut buf[..room]).map_err(|e| io_failed(&e))?;
                if n == 0 {
                    self.ended = true;
                }
                head.extend_from_slice(&buf[..n]);
                if head.len() == HEAD {
                    self.recognise()?;
                }
            }
            Form::AnnexB { pipe, stream } => {
                self.ended = !pipe.chunk(|bytes| stream.push(bytes))?;
                if self.ended {
                    stream.splitter.finish();
                }
                stream.units(&mut self.ready);
            }
            Form::Jpegs { pipe, jpegs } => {
                self.ended = !pipe.chunk(|bytes| jpegs.cutter.push(bytes))?;
                jpegs.units(&mut self.ready)?;
            }
            Form::Y4m(y4m) => match y4m.next()? {
                Some(unit) => self.ready.push_back(unit),
                None => self.ended = true,
            },
            Form::Nut(nut) => self.ended = !nut.next(&mut self.ready)?,
            Form::Broken => self.ended = true,
        }
        Ok(())
    }

    fn recognise(&mut self) -> Result<(), StreamError> {
        let Form::Unknown { mut pipe, head } = std::mem::replace(&mut self.form, Form::Broken)
        else {
            return Ok(());
        };
        if let Some(codec) = annexb_codec(&head) {
            let mut stream = LiveAnnexB::new(codec);
            stream.push(&head);
            self.form = Form::AnnexB { pipe, stream };
        } else if head.starts_with(&[0xFF, 0xD8, 0xFF]) {
            let mut jpegs = Jpegs::new()?;
            jpegs.cutter.push(&head);
            self.form = Form::Jpegs { pipe, jpegs };
        } else if head.starts_with(y4m::MAGIC) {
            pipe.head = head;
            self.form = Form::Y4m(Y4m::open(pipe)?);
        } else if NUT_MAGIC.starts_with(&head) {
            pipe.head = head;
            self.form = Form::Nut(Box::new(Nut::open(pipe)?));
        } else {
            let shown: String = head.escape_ascii().to_string();
            return Err(StreamError::failed(
                format!(
                    "{}: its output begins with `{shown}`, which is no video that is known here",
                    self.label
                ),
                "it must write H.264 or H.265 (Annex B), JPEGs, Y4M or NUT (ffmpeg: `-f nut`) to its standard output, and nothing else",
            ));
        }
        Ok(())
    }

    fn waits_for_bytes(&mut self, limit: Duration) -> Result<bool, StreamError> {
        let pipe = match &mut self.form {
            Form::Unknown { pipe, .. } | Form::AnnexB { pipe, .. } | Form::Jpegs { pipe, .. } => {
                pipe
            }
            Form::Y4m(y4m) if y4m.has_buffered() => return Ok(false),
            Form::Y4m(y4m) => y4m.input.get_mut(),
            Form::Nut(nut) if nut.has_buffered() => return Ok(false),
            Form::Nut(nut) => nut.reader.input_mut(),
            Form::Broken => return Ok(false),
        };
        if !pipe.head.is_empty() {
            return Ok(false);
        }
        readable(&pipe.stdout, limit)
            .map(|is| !is)
            .map_err(|e| io_failed(&e))
    }

    /// It ended: how, and what it said.
    fn last_words(&mut self) -> Result<Unit, StreamError> {
        if self.process.end(LAST_WORDS).success() {
            return Ok(Unit::End);
        }
        Err(StreamError::failed(
            format!("{}: {}", self.label, self.process.last_words(LAST_WORDS)),
            "run the command by hand to see what it lacks; it is started again",
        ))
    }
}

impl PacketStream for ExecStream {
    fn next(&mut self, limit: Duration) -> Result<Unit, StreamError> {
        let until = Instant::now() + limit;
        loop {
            if let Some(unit) = self.ready.pop_front() {
                return Ok(unit);
            }
            if self.stop.is_set() {
                return Err(StreamError::Stopped);
            }
            if self.ended {
                return self.last_words();
            }
            let left = until.saturating_duration_since(Instant::now());
            // What an earlier picture was not taken of is in the way first.
            if let Err(e) = self.pass_over() {
                return Err(e.unless_stopped(&self.stop));
            }
            if self.waits_for_bytes(left)? {
                // What it started may hold the pipe open; everything it wrote itself is read.
                if self.process.has_ended() && self.waits_for_bytes(Duration::ZERO)? {
                    self.ended = true;
                    continue;
                }
                return Ok(Unit::Waiting);
            }
            if let Err(e) = self.step() {
                return Err(e.unless_stopped(&self.stop));
            }
            if left.is_zero() && self.ready.is_empty() && !self.ended {
                return Ok(Unit::Waiting);
            }
        }
    }

    fn fill(&mut self, out: &mut [u8], stop: &StopFlag) -> Result<(), StreamError> {
        let outcome = match &mut self.form {
            Form::Y4m(y4m) => y4m.fill(out),
            Form::Nut(nut) => nut.reader.read_payload(out).map_err(|e| nut_failed(&e)),
            _ => Err(StreamError::failed("there is no raw picture", "")),
        };
        outcome.map_err(|e| e.unless_stopped(stop))
    }
}

impl ExecStream {
    fn pass_over(&mut self) -> Result<(), StreamError> {
        match &mut self.form {
            Form::Y4m(y4m) => y4m.pass_over(),
            Form::Nut(nut) => nut.reader.skip_payload().map_err(|e| nut_failed(&e)),
            _ => Ok(()),
        }
    }
}

impl StreamError {
    /// A read that broke off because of the flag is no failure.
    fn unless_stopped(self, stop: &StopFlag) -> Self {
        if stop.is_set() { Self::Stopped } else { self }
    }
}

pub(super) fn io_failed(error: &io::Error) -> StreamError {
    StreamError::failed(
        format!("reading its output: {error}"),
        "it is started again",
    )
}

pub(super) fn nut_failed(error: &NutError) -> StreamError {
    StreamError::failed(
        format!("its NUT output: {error}"),
        "one video stream is expected (ffmpeg: `-map 0:v:0 -f nut`)",
    )
}

/// H.264 or H.265, by the first NAL unit: a delimiter or parameter set in both (7.3.1 of each).
fn annexb_codec(head: &[u8]) -> Option<Codec> {
    let zeros = head.iter().take_while(|b| **b == 0).count();
    if zeros < 2 || head.get(zeros) != Some(&1) {
        return None;
    }
    let (first, second) = (*head.get(zeros + 1)?, *head.get(zeros + 2)?);
    // H.265: two bytes; delimiter, parameter sets, SEI of layer 0, temporal id 1.
    if second == 1 && matches!(first >> 1, 32..=35 | 39) && first & 0x81 == 0 {
        return Some(Codec::H265);
    }
    (first & 0x80 == 0 && matches!(first & 0x1F, 1 | 5..=9)).then_some(Codec::H264)
}

/// The program's output. A read waits for [`STALL`], and looks at the flag.
pub(super) struct Pipe {
    stdout: ChildStdout,
    stop: StopFlag,
    /// Read before, and to be read again.
    head: Vec<u8>,
    /// Room for a chunk.
    buf: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        const SLICE: Duration = Duration::from_millis(50);
        if !self.head.is_empty() {
            let n = self.head.len().min(buf.len());
            buf[..n].copy_from_slice(&self.head[..n]);
            self.head.drain(..n);
            return Ok(n);
        }
        let until = Instant::now() + STALL;
        loop {
            if self.stop.is_set() {
                return Err(io::Error::other("stopped"));
            }
            if readable(&self.stdout, SLICE)? {
                return self.stdout.read(buf);
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Pipe {
    /// Hands on what is there now. False at the end.
    fn chunk(&mut self, mut take: impl FnMut(&[u8])) -> Result<bool, StreamError> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.resize(CHUNK, 0);
        let outcome = match self.read(&mut buf) {
            Ok(0) => Ok(false),
            Ok(n) => {
                take(&buf[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(io_failed(&e)),
        };
        self.buf = buf;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codec_is_told_by_the_first_nal_unit() {
        for (head, want) in [
            (&[0, 0, 0, 1, 0x67, 0x42][..], Some(Codec::H264)),
            (&[0, 0, 1, 0x09, 0x10], Some(Codec::H264)),
            (&[0, 0, 0, 1, 0x40, 0x01], Some(Codec::H265)),
            (&[0, 0, 0, 1, 0x46, 0x01], Some(Codec::H265)),
            (&[0, 0, 0, 1, 0x42, 0x01], Some(Codec::H265)),
            (&[0, 0, 0, 1, 0xFF, 0xFF], None),
            (b"hello world", None),
            (&[0, 0, 0, 0, 0, 0], None),
        ] {
            assert_eq!(annexb_codec(head), want, "{head:?}");
        }
    }
}
