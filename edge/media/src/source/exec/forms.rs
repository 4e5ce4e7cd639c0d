//! The forms that a program's output may have, each as units.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use visualpath_core::{ColorSpec, ImageLayout, PixelFormat};
use visualpath_frames::MAX_SIDE;

use super::super::annexb::{AnnexB, Cut, MAX_UNIT_BYTES};
use super::super::encoded::{Incoming, StreamError, Unit, UnitTime};
use super::super::nut::{NutError, NutReader, NutStream};
use super::super::y4m;
use super::cutter::{JpegCutter, Piece};
use super::stream::{Pipe, io_failed, nut_failed};
use crate::decode::{JPEG_COLOR, JpegDecoder};
use crate::encode::{Codec, CodecParams};

/// A byte stream, and when its bytes came: a picture is known to be whole only when the next one
/// begins, and was captured when its first byte came.
pub(super) struct LiveAnnexB {
    pub(super) splitter: AnnexB,
    bytes: u64,
    /// Places in the stream and when bytes from there on came.
    marks: VecDeque<(u64, Instant)>,
}

impl LiveAnnexB {
    /// Chunks that one picture may come in and still be dated.
    const MARKS: usize = 1024;

    pub(super) fn new(codec: Codec) -> Self {
        Self {
            splitter: AnnexB::new(codec),
            bytes: 0,
            marks: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.marks.len() >= Self::MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((self.bytes, Instant::now()));
        self.bytes += bytes.len() as u64;
        self.splitter.push(bytes);
    }

    pub(super) fn units(&mut self, out: &mut VecDeque<Unit>) {
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
pub(super) struct Jpegs {
    pub(super) cutter: JpegCutter,
    /// Reads headers.
    headers: JpegDecoder,
    params: Option<Arc<CodecParams>>,
}

impl Jpegs {
    pub(super) fn new() -> Result<Self, StreamError> {
        let headers = JpegDecoder::new().map_err(|e| StreamError::failed(e.to_string(), ""))?;
        Ok(Self {
            cutter: JpegCutter::default(),
            headers,
            params: None,
        })
    }

    pub(super) fn units(&mut self, out: &mut VecDeque<Unit>) -> Result<(), StreamError> {
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
pub(super) struct Y4m {
    pub(super) input: BufReader<Pipe>,
    header: y4m::Header,
    unread: usize,
}

impl Y4m {
    pub(super) fn open(pipe: Pipe) -> Result<Self, StreamError> {
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

    pub(super) fn has_buffered(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// Goes to the next picture; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Unit>, StreamError> {
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

    pub(super) fn fill(&mut self, out: &mut [u8]) -> Result<(), StreamError> {
        if out.len() != self.unread {
            return Err(StreamError::failed("a picture of another size", ""));
        }
        self.unread = 0;
        self.input.read_exact(out).map_err(|e| io_failed(&e))
    }

    pub(super) fn pass_over(&mut self) -> Result<(), StreamError> {
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
pub(super) struct Nut {
    pub(super) reader: NutReader<Pipe>,
    what: Inside,
}

enum Inside {
    Raw(ImageLayout),
    AnnexB(AnnexB),
    Jpegs(Jpegs),
}

impl Nut {
    pub(super) fn open(pipe: Pipe) -> Result<Self, StreamError> {
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

    pub(super) fn has_buffered(&self) -> bool {
        self.reader.has_buffered()
    }

    /// Takes the next frame. False at the end.
    pub(super) fn next(&mut self, out: &mut VecDeque<Unit>) -> Result<bool, StreamError> {
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
        if frame.bytes > MAX_UNIT_BYTES {
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
