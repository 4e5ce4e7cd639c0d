//! One run of a program: its output, told by its first bytes, as units.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::process::ChildStdout;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use visualpath_core::{ColorSpec, ImageLayout, PixelFormat};
use visualpath_frames::MAX_SIDE;

use super::super::annexb::{AnnexB, Cut};
use super::super::encoded::{Incoming, PacketStream, StreamError, Unit, UnitTime};
use super::super::nut::{NutError, NutReader, NutStream};
use super::super::{StopFlag, y4m};
use super::cutter::{JpegCutter, Piece};
use crate::decode::{JPEG_COLOR, JpegDecoder};
use crate::encode::{Codec, CodecParams};
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
    process: Process,
    /// `exec ffmpeg`, for messages.
    label: String,
    stop: StopFlag,
    form: Form,
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

fn io_failed(error: &io::Error) -> StreamError {
    StreamError::failed(
        format!("reading its output: {error}"),
        "it is started again",
    )
}

fn nut_failed(error: &NutError) -> StreamError {
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
struct Pipe {
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

/// A byte stream, and when its bytes came: a picture is known to be whole only when the next one
/// begins, and was captured when its first byte came.
struct LiveAnnexB {
    splitter: AnnexB,
    bytes: u64,
    /// Places in the stream and when bytes from there on came.
    marks: VecDeque<(u64, Instant)>,
}

impl LiveAnnexB {
    /// Chunks that one picture may come in and still be dated.
    const MARKS: usize = 1024;

    fn new(codec: Codec) -> Self {
        Self {
            splitter: AnnexB::new(codec),
            bytes: 0,
            marks: VecDeque::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.marks.len() >= Self::MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((self.bytes, Instant::now()));
        self.bytes += bytes.len() as u64;
        self.splitter.push(bytes);
    }

    fn units(&mut self, out: &mut VecDeque<Unit>) {
        while let Some(cut) = self.splitter.pop() {
            let Cut::Unit(unit) = cut else {
                out.push_back(Unit::Lost(1));
                continue;
            };
            while self.marks.get(1).is_some_and(|m| m.0 <= unit.first_byte) {
                self.marks.pop_front();
            }
            let age = self.marks.front().map_or(Duration::ZERO, |m| m.1.elapsed());
            out.push_back(Unit::Packet(Incoming {
                params: unit.params,
                data: unit.data,
                is_key: unit.is_key,
                time: UnitTime::Aged(i64::try_from(age.as_nanos()).unwrap_or(0)),
                shown_after_ns: 0,
            }));
        }
    }
}

/// JPEGs one after the other.
struct Jpegs {
    cutter: JpegCutter,
    /// Reads headers.
    headers: JpegDecoder,
    params: Option<Arc<CodecParams>>,
}

impl Jpegs {
    fn new() -> Result<Self, StreamError> {
        let headers = JpegDecoder::new().map_err(|e| StreamError::failed(e.to_string(), ""))?;
        Ok(Self {
            cutter: JpegCutter::default(),
            headers,
            params: None,
        })
    }

    fn units(&mut self, out: &mut VecDeque<Unit>) -> Result<(), StreamError> {
        while let Some(piece) = self.cutter.pop() {
            out.push_back(match piece {
                Piece::Jpeg(data) => self.unit(data, UnitTime::Arrival),
                Piece::Broken => Unit::Lost(1),
            });
        }
        Ok(())
    }

    fn unit(&mut self, data: Bytes, time: UnitTime) -> Unit {
        let Ok(layout) = self.headers.look(&data) else {
            return Unit::Lost(1);
        };
        let size = (layout.width, layout.height);
        let params = match &self.params {
            Some(params) if (params.width, params.height) == size => Arc::clone(params),
            _ => Arc::new(CodecParams {
                codec: Codec::Mjpeg,
                width: size.0,
                height: size.1,
                color: JPEG_COLOR,
                vps: Bytes::new(),
                sps: Bytes::new(),
                pps: Bytes::new(),
            }),
        };
        self.params = Some(Arc::clone(&params));
        Unit::Packet(Incoming {
            params,
            data,
            is_key: true,
            time,
            shown_after_ns: 0,
        })
    }
}

/// Y4M. Payloads are read past the small buffer, straight into the slot.
struct Y4m {
    input: BufReader<Pipe>,
    header: y4m::Header,
    unread: usize,
}

impl Y4m {
    fn open(pipe: Pipe) -> Result<Self, StreamError> {
        let mut input = BufReader::with_capacity(4096, pipe);
        let line = line(&mut input)?.unwrap_or_default();
        let header = y4m::Header::parse(&line).map_err(|why| {
            StreamError::failed(
                format!("its Y4M output: {why}"),
                "see the program's options",
            )
        })?;
        Ok(Self {
            input,
            header,
            unread: 0,
        })
    }

    fn has_buffered(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// Goes to the next picture; `None` at the end.
    fn next(&mut self) -> Result<Option<Unit>, StreamError> {
        let Some(line) = line(&mut self.input)? else {
            return Ok(None);
        };
        if !y4m::is_frame(&line) {
            return Err(StreamError::failed(
                "its Y4M output: a line that is not FRAME between pictures",
                "something else writes to its standard output, too",
            ));
        }
        self.unread = self.header.layout.bytes();
        Ok(Some(Unit::Picture {
            layout: self.header.layout,
            time: UnitTime::Arrival,
            fps: self.header.fps,
        }))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), StreamError> {
        if out.len() != self.unread {
            return Err(StreamError::failed("a picture of another size", ""));
        }
        self.unread = 0;
        self.input.read_exact(out).map_err(|e| io_failed(&e))
    }

    fn pass_over(&mut self) -> Result<(), StreamError> {
        let unread = std::mem::take(&mut self.unread) as u64;
        let mut rest = (&mut self.input).take(unread);
        let passed = io::copy(&mut rest, &mut io::sink()).map_err(|e| io_failed(&e))?;
        if passed < unread {
            return Err(StreamError::failed(
                "its output ends inside a picture",
                "it is started again",
            ));
        }
        Ok(())
    }
}

/// A line without its end; `None` at the end of the stream.
fn line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, StreamError> {
    let mut line = Vec::new();
    let mut limited = input.take(y4m::MAX_LINE as u64);
    limited
        .read_until(b'\n', &mut line)
        .map_err(|e| io_failed(&e))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(StreamError::failed(
            "its Y4M output: a line without an end",
            "something else writes to its standard output, too",
        ));
    }
    Ok(Some(line))
}

/// NUT with one video stream.
struct Nut {
    reader: NutReader<Pipe>,
    what: Inside,
}

enum Inside {
    Raw(ImageLayout),
    AnnexB(AnnexB),
    Jpegs(Jpegs),
}

impl Nut {
    fn open(pipe: Pipe) -> Result<Self, StreamError> {
        let reader = NutReader::open(pipe)
            .map_err(|e| nut_failed(&e))?
            .ok_or_else(|| StreamError::failed("it wrote nothing", "it is started again"))?;
        let stream = reader.stream();
        let what = match &stream.fourcc {
            b"H264" | b"h264" | b"avc1" => Inside::AnnexB(AnnexB::new(Codec::H264)),
            b"HEVC" | b"hevc" | b"hvc1" | b"H265" => Inside::AnnexB(AnnexB::new(Codec::H265)),
            b"MJPG" | b"mjpg" => Inside::Jpegs(Jpegs::new()?),
            _ => Inside::Raw(raw_layout(stream)?),
        };
        let mut this = Self { reader, what };
        let sets = this.reader.codec_data();
        if let Inside::AnnexB(splitter) = &mut this.what
            && !sets.is_empty()
        {
            if sets.first() == Some(&1) {
                return Err(StreamError::failed(
                    "its NUT output has NAL units behind lengths, as in MP4",
                    "ask for start codes (ffmpeg: `-bsf:v h264_mp4toannexb`, `hevc_mp4toannexb`)",
                ));
            }
            splitter.push(sets);
            splitter.finish();
        }
        Ok(this)
    }

    fn has_buffered(&self) -> bool {
        self.reader.has_buffered()
    }

    /// Takes the next frame. False at the end.
    fn next(&mut self, out: &mut VecDeque<Unit>) -> Result<bool, StreamError> {
        let failed = |e: NutError| nut_failed(&e);
        let Some(frame) = self.reader.next_frame().map_err(failed)? else {
            return Ok(false);
        };
        let time = UnitTime::Device(self.reader.stream().ticks_to_ns(frame.pts));
        if let Inside::Raw(layout) = &self.what {
            if frame.bytes != layout.bytes() {
                return Err(nut_failed(&NutError::Invalid("a picture of another size")));
            }
            out.push_back(Unit::Picture {
                layout: *layout,
                time,
                fps: None,
            });
            return Ok(true);
        }
        if frame.bytes > super::super::annexb::MAX_UNIT_BYTES {
            out.push_back(Unit::Lost(1));
            return Ok(true);
        }
        let mut data = BytesMut::zeroed(frame.bytes);
        self.reader.read_payload(&mut data).map_err(failed)?;
        match &mut self.what {
            Inside::Jpegs(jpegs) => out.push_back(jpegs.unit(data.freeze(), time)),
            Inside::AnnexB(splitter) => {
                // A frame is a whole picture.
                splitter.push(&data);
                splitter.finish();
                while let Some(cut) = splitter.pop() {
                    out.push_back(match cut {
                        Cut::Unit(unit) => Unit::Packet(Incoming {
                            params: unit.params,
                            data: unit.data,
                            is_key: unit.is_key,
                            time,
                            shown_after_ns: 0,
                        }),
                        Cut::Lost => Unit::Lost(1),
                    });
                }
            }
            Inside::Raw(_) => {}
        }
        Ok(true)
    }
}

/// Tags of raw pictures, as ffmpeg writes them (`libavcodec/raw.c`).
fn raw_layout(stream: &NutStream) -> Result<ImageLayout, StreamError> {
    let format = match &stream.fourcc {
        b"I420" => PixelFormat::I420,
        b"NV12" => PixelFormat::Nv12,
        b"NV21" => PixelFormat::Nv21,
        b"YUY2" => PixelFormat::Yuyv,
        b"UYVY" => PixelFormat::Uyvy,
        b"Y800" => PixelFormat::Grey,
        other => {
            return Err(StreamError::failed(
                format!(
                    "its NUT output has pictures of kind `{}`",
                    other.escape_ascii()
                ),
                "ask for 4:2:0 or an encoded form (ffmpeg: `-pix_fmt yuv420p`)",
            ));
        }
    };
    if stream.width.max(stream.height) > MAX_SIDE {
        return Err(StreamError::failed(
            format!("its pictures are larger than {MAX_SIDE} pixels a side"),
            "ask for smaller ones",
        ));
    }
    let color = if format == PixelFormat::Grey {
        JPEG_COLOR
    } else {
        ColorSpec::default()
    };
    Ok(ImageLayout::packed(
        format,
        stream.width,
        stream.height,
        color,
    ))
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
