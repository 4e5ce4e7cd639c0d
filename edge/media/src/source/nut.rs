//! A demuxer for the NUT container, as far as one video stream in a pipe needs it.
//!
//! NUT is the one container that ffmpeg can write to a pipe with every picture's own time stamp and
//! without a limit on the payload, and its format fits on two pages. Source: "NUT Open Container
//! Format", the specification by the MPlayer and FFmpeg projects (`nut.txt`); section names below
//! are its.
//!
//! ```text
//! file id, main header, stream header, { syncpoint | info | frame }*
//! packet = startcode u64, forward_ptr v, [header checksum], body, checksum u32
//! frame  = frame code u8, fields the code asks for, payload
//! ```
//!
//! The one hard idea is the frame code: a byte that stands for a row of the 256-row table in the
//! main header; the row says which fields follow and what the others are.
//!
//! The payload is not touched here: [`NutReader::next_frame`] stops before it, and
//! [`NutReader::read_payload`] reads it straight into the caller's memory.
//!
//! Every length is checked against a bound before memory is taken; no input makes this panic or
//! take more than [`MAX_HEADER_BYTES`].

use std::io::{self, BufRead, BufReader, Read};

/// Largest main, stream or syncpoint packet read into memory. ffmpeg's take about 100 bytes.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Largest payload of one frame: an 8K picture in 4:4:4 is 100 MB.
pub const MAX_FRAME_BYTES: u64 = 256 << 20;

const FILE_ID: &[u8; 25] = b"nut/multimedia container\0";
const MAIN: u64 = 0x4E4D_7A56_1F5F_04AD;
const STREAM: u64 = 0x4E53_1140_5BF2_F9DB;
const SYNCPOINT: u64 = 0x4E4B_E4AD_EECA_4569;
const INDEX: u64 = 0x4E58_DD67_2F23_E64E;
const INFO: u64 = 0x4E49_AB68_B596_BA78;

/// Flags of a frame code ("Frame coding").
mod flag {
    pub const KEY: u64 = 1;
    pub const EOR: u64 = 2;
    pub const CODED_PTS: u64 = 8;
    pub const STREAM_ID: u64 = 16;
    pub const SIZE_MSB: u64 = 32;
    pub const CHECKSUM: u64 = 64;
    pub const RESERVED: u64 = 128;
    pub const SM_DATA: u64 = 256;
    pub const HEADER_IDX: u64 = 1024;
    pub const MATCH_TIME: u64 = 2048;
    pub const CODED: u64 = 4096;
    pub const INVALID: u64 = 8192;
}
/// `main_flags`: syncpoints carry a transmission time.
const BROADCAST: u64 = 1;
/// Payloads above this have no elision header ("Elision headers").
const ELISION_LIMIT: u64 = 4096;

/// Why the bytes are not the NUT stream they should be.
#[derive(Debug, thiserror::Error)]
pub enum NutError {
    /// The stream ended inside a packet or a frame.
    #[error("the stream ends inside {0}")]
    Truncated(&'static str),
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// A checksum does not match.
    #[error("wrong checksum of {0}")]
    Checksum(&'static str),
    /// A field has a value it can't have.
    #[error("{0}")]
    Invalid(&'static str),
    /// Valid, but nothing that ffmpeg was asked to write.
    #[error("unexpected: {0}")]
    Unsupported(&'static str),
}

/// The video stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NutStream {
    /// Codec tag, e.g. `I420` for planar 4:2:0.
    pub fourcc: [u8; 4],
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Seconds per tick, numerator.
    pub tick_num: u32,
    /// Seconds per tick, denominator.
    pub tick_den: u32,
}

impl NutStream {
    /// Ticks in nanoseconds, to the nearest.
    pub fn ticks_to_ns(&self, ticks: i64) -> i64 {
        let den = i128::from(self.tick_den.max(1));
        let scaled = i128::from(ticks) * i128::from(self.tick_num) * 1_000_000_000;
        let ns = (2 * scaled + den).div_euclid(2 * den);
        i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
    }
}

/// What precedes a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NutFrame {
    /// Presentation time in ticks of the stream.
    pub pts: i64,
    /// Bytes of payload; at most [`MAX_FRAME_BYTES`].
    pub bytes: usize,
    /// Whether it is a key frame.
    pub key: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct FrameCode {
    flags: u64,
    stream: u64,
    size_mul: u64,
    size_lsb: u64,
    pts_delta: i64,
    reserved: u64,
    header_idx: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct MainHeader {
    time_bases: Vec<(u32, u32)>,
    codes: Vec<FrameCode>,
    elision: Vec<Vec<u8>>,
    flags: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct StreamHeader {
    info: NutStream,
    msb_pts_shift: u32,
}

/// Reads one NUT stream with one video stream in it.
#[derive(Debug)]
pub struct NutReader<R> {
    input: Input<R>,
    main: MainHeader,
    stream: StreamHeader,
    last_pts: i64,
    /// Startcode read while looking for the end of the headers.
    pending: Option<u64>,
    /// Payload of the current frame not read yet: elision header, then bytes of the input.
    elided: (usize, usize),
    unread: u64,
}

impl<R: Read> NutReader<R> {
    /// Reads the headers, up to the first syncpoint. `None` if the input is empty.
    pub fn open(input: R) -> Result<Option<Self>, NutError> {
        let mut input = Input::new(input);
        if input.at_end()? {
            return Ok(None);
        }
        let mut id = [0; FILE_ID.len()];
        input.exact(&mut id, "the file id")?;
        if &id != FILE_ID {
            return Err(NutError::Invalid("not a NUT stream"));
        }
        let mut main: Option<MainHeader> = None;
        let mut stream: Option<StreamHeader> = None;
        loop {
            input.crc = 0;
            let code = input.startcode()?;
            match code {
                MAIN => main = Some(MainHeader::parse(&input.packet("the main header")?)?),
                STREAM => {
                    let main = main
                        .as_ref()
                        .ok_or(NutError::Invalid("a stream header before the main header"))?;
                    let body = input.packet("the stream header")?;
                    stream = Some(StreamHeader::parse(&body, main)?);
                }
                SYNCPOINT => {
                    let (Some(main), Some(stream)) = (main, stream) else {
                        return Err(NutError::Invalid("a syncpoint before the headers"));
                    };
                    return Ok(Some(Self {
                        input,
                        main,
                        stream,
                        last_pts: 0,
                        pending: Some(code),
                        elided: (0, 0),
                        unread: 0,
                    }));
                }
                _ => input.skip_packet()?,
            }
        }
    }

    /// The video stream.
    pub fn stream(&self) -> &NutStream {
        &self.stream.info
    }

    /// The input, to set what it needs to know; reading from it loses the place.
    pub fn input_mut(&mut self) -> &mut R {
        self.input.inner.get_mut()
    }

    /// Goes to the next frame; what was not read of the one before is skipped. `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<NutFrame>, NutError> {
        self.skip_payload()?;
        loop {
            let startcode = match self.pending.take() {
                Some(code) => code,
                None => {
                    if self.input.at_end()? {
                        return Ok(None);
                    }
                    self.input.crc = 0;
                    let code = self.input.u8("a frame")?;
                    if code != b'N' {
                        if let Some(frame) = self.frame(code)? {
                            return Ok(Some(frame));
                        }
                        continue;
                    }
                    self.input.startcode_after_n()?
                }
            };
            match startcode {
                SYNCPOINT => self.syncpoint()?,
                // Long files repeat their headers; a changed one would be another stream.
                MAIN => {
                    if MainHeader::parse(&self.input.packet("the main header")?)? != self.main {
                        return Err(NutError::Unsupported("the main header changes"));
                    }
                }
                STREAM => {
                    let body = self.input.packet("the stream header")?;
                    if StreamHeader::parse(&body, &self.main)? != self.stream {
                        return Err(NutError::Unsupported("the stream header changes"));
                    }
                }
                INFO | INDEX => self.input.skip_packet()?,
                _ => return Err(NutError::Invalid("an unknown startcode")),
            }
        }
    }

    /// Reads the payload of the frame last announced; `dst` must have its length.
    pub fn read_payload(&mut self, dst: &mut [u8]) -> Result<(), NutError> {
        let (index, prefix_len) = self.elided;
        if dst.len() as u64 != self.unread + prefix_len as u64 {
            return Err(NutError::Invalid("the payload has another size"));
        }
        let (head, rest) = dst.split_at_mut(prefix_len);
        if let Some(prefix) = self.main.elision.get(index) {
            head.copy_from_slice(prefix.get(..prefix_len).unwrap_or(&[]));
        }
        self.elided = (0, 0);
        self.unread = 0;
        self.input.exact(rest, "a frame's payload")
    }

    /// Passes over the payload of the frame last announced.
    pub fn skip_payload(&mut self) -> Result<(), NutError> {
        self.elided = (0, 0);
        let unread = std::mem::take(&mut self.unread);
        self.input.skip(unread, "a frame's payload")
    }

    fn syncpoint(&mut self) -> Result<(), NutError> {
        let body = self.input.packet("a syncpoint")?;
        let mut fields = Fields(&body);
        let coded = fields.v()?;
        fields.v()?; // back_ptr_div16: for seeking
        if self.main.flags & BROADCAST != 0 {
            fields.v()?;
        }
        let count = self.main.time_bases.len() as u64;
        let index = usize::try_from(coded % count).unwrap_or(0);
        let (num, den) = self.main.time_bases.get(index).copied().unwrap_or((1, 1));
        let of = &self.stream.info;
        // Rounded down to the stream's ticks ("Syncpoints": last_pts).
        let scaled = i128::from(coded / count) * i128::from(num) * i128::from(of.tick_den);
        self.last_pts = i64::try_from(scaled / (i128::from(den) * i128::from(of.tick_num)))
            .map_err(|_| NutError::Invalid("a syncpoint beyond the end of time"))?;
        Ok(())
    }

    /// The fields of one frame; `None` for an end-of-relevance mark, which carries no picture.
    fn frame(&mut self, code: u8) -> Result<Option<NutFrame>, NutError> {
        const WHAT: &str = "a frame header";
        let row = self.main.codes[usize::from(code)];
        let input = &mut self.input;
        let mut flags = row.flags;
        if flags & flag::INVALID != 0 {
            return Err(NutError::Invalid("an invalid frame code"));
        }
        if flags & flag::CODED != 0 {
            flags ^= input.v(WHAT)?;
        }
        let mut stream = row.stream;
        if flags & flag::STREAM_ID != 0 {
            stream = input.v(WHAT)?;
        }
        if stream != 0 {
            return Err(NutError::Invalid("a frame of a stream that is not there"));
        }
        let pts = if flags & flag::CODED_PTS != 0 {
            self.stream.full_pts(self.last_pts, input.v(WHAT)?)
        } else {
            self.last_pts.checked_add(row.pts_delta)
        }
        .ok_or(NutError::Invalid("a time stamp beyond the end of time"))?;
        let mut size = row.size_lsb;
        if flags & flag::SIZE_MSB != 0 {
            size = input
                .v(WHAT)?
                .checked_mul(row.size_mul)
                .and_then(|msb| msb.checked_add(size))
                .ok_or(NutError::Invalid("a frame too large"))?;
        }
        if flags & flag::MATCH_TIME != 0 {
            input.v(WHAT)?;
        }
        let mut header_idx = row.header_idx;
        if flags & flag::HEADER_IDX != 0 {
            header_idx = input.v(WHAT)?;
        }
        let mut reserved = row.reserved;
        if flags & flag::RESERVED != 0 {
            reserved = input.v(WHAT)?;
        }
        if reserved > 256 {
            return Err(NutError::Invalid("a frame header too long"));
        }
        for _ in 0..reserved {
            input.v(WHAT)?;
        }
        if flags & flag::CHECKSUM != 0 {
            input.u32(WHAT)?;
            if input.crc != 0 {
                return Err(NutError::Checksum(WHAT));
            }
        }
        if flags & flag::SM_DATA != 0 {
            return Err(NutError::Unsupported("side data in a frame"));
        }
        if size > MAX_FRAME_BYTES {
            return Err(NutError::Invalid("a frame too large"));
        }
        if size > ELISION_LIMIT {
            header_idx = 0;
        }
        let header_idx = usize::try_from(header_idx).unwrap_or(usize::MAX);
        let prefix = self
            .main
            .elision
            .get(header_idx)
            .ok_or(NutError::Invalid("an elision header that is not there"))?;
        let unread = size
            .checked_sub(prefix.len() as u64)
            .ok_or(NutError::Invalid("a frame shorter than its elision header"))?;
        self.last_pts = pts;
        if flags & flag::EOR != 0 {
            return self.input.skip(unread, "a frame's payload").map(|()| None);
        }
        self.elided = (header_idx, prefix.len());
        self.unread = unread;
        Ok(Some(NutFrame {
            pts,
            bytes: usize::try_from(size).map_err(|_| NutError::Invalid("a frame too large"))?,
            key: flags & flag::KEY != 0,
        }))
    }
}

impl MainHeader {
    fn parse(body: &[u8]) -> Result<Self, NutError> {
        let mut f = Fields(body);
        let version = f.v()?;
        if !(2..=4).contains(&version) {
            return Err(NutError::Unsupported("a NUT version other than 2 to 4"));
        }
        if version > 3 {
            f.v()?; // minor_version
        }
        if f.v()? != 1 {
            return Err(NutError::Unsupported("more or fewer streams than one"));
        }
        f.v()?; // max_distance: for resynchronising, which a pipe never needs
        let count = f.v()?;
        if !(1..=256).contains(&count) {
            return Err(NutError::Invalid("the number of time bases"));
        }
        let mut time_bases = Vec::new();
        for _ in 0..count {
            let (num, den) = (f.v()?, f.v()?);
            match (u32::try_from(num), u32::try_from(den)) {
                (Ok(num), Ok(den)) if num > 0 && den > 0 => time_bases.push((num, den)),
                _ => return Err(NutError::Invalid("a time base")),
            }
        }
        let codes = Self::frame_codes(&mut f)?;
        // Index 0 is the empty elision header.
        let mut elision = vec![Vec::new()];
        let count = f.v()?;
        if count >= 128 {
            return Err(NutError::Invalid("the number of elision headers"));
        }
        let mut total = 0;
        for _ in 0..count {
            let header = f.bytes()?;
            total += header.len();
            if header.is_empty() || header.len() >= 256 || total > 1024 {
                return Err(NutError::Invalid("an elision header's length"));
            }
            elision.push(header.to_vec());
        }
        let flags = if version > 3 && !f.0.is_empty() {
            f.v()?
        } else {
            0
        };
        Ok(Self {
            time_bases,
            codes,
            elision,
            flags,
        })
    }

    /// The table of 256 frame codes, run-length coded ("Main header").
    fn frame_codes(f: &mut Fields<'_>) -> Result<Vec<FrameCode>, NutError> {
        let mut codes = Vec::with_capacity(256);
        let mut row = FrameCode {
            size_mul: 1,
            ..FrameCode::default()
        };
        while codes.len() < 256 {
            row.flags = f.v()?;
            let fields = f.v()?;
            if fields > 0 {
                row.pts_delta = f.s()?;
            }
            if fields > 1 {
                row.size_mul = f.v()?;
            }
            if fields > 2 {
                row.stream = f.v()?;
            }
            row.size_lsb = if fields > 3 { f.v()? } else { 0 };
            row.reserved = if fields > 4 { f.v()? } else { 0 };
            let count = if fields > 5 {
                f.v()?
            } else {
                row.size_mul.saturating_sub(row.size_lsb)
            };
            if fields > 6 {
                f.s()?; // match_time_delta
            }
            if fields > 7 {
                row.header_idx = f.v()?;
            }
            for _ in 8..fields {
                f.v()?;
            }
            let room = 256 - codes.len() - usize::from(codes.len() <= usize::from(b'N'));
            if count == 0 || count > room as u64 {
                return Err(NutError::Invalid("the frame code table"));
            }
            let first_lsb = row.size_lsb;
            for j in 0..count {
                if codes.len() == usize::from(b'N') {
                    codes.push(FrameCode {
                        flags: flag::INVALID,
                        ..FrameCode::default()
                    });
                }
                row.size_lsb = first_lsb
                    .checked_add(j)
                    .ok_or(NutError::Invalid("the frame code table"))?;
                codes.push(row);
            }
            // A run that ends right before 'N' leaves that row to be put in now.
            if codes.len() == usize::from(b'N') {
                codes.push(FrameCode {
                    flags: flag::INVALID,
                    ..FrameCode::default()
                });
            }
        }
        Ok(codes)
    }
}

impl StreamHeader {
    fn parse(body: &[u8], main: &MainHeader) -> Result<Self, NutError> {
        let mut f = Fields(body);
        if f.v()? != 0 {
            return Err(NutError::Unsupported("a second stream"));
        }
        if f.v()? != 0 {
            return Err(NutError::Unsupported("a stream that is not video"));
        }
        let fourcc = <[u8; 4]>::try_from(f.bytes()?)
            .map_err(|_| NutError::Unsupported("a codec tag that is not 4 bytes"))?;
        let base = usize::try_from(f.v()?).unwrap_or(usize::MAX);
        let (tick_num, tick_den) = *main
            .time_bases
            .get(base)
            .ok_or(NutError::Invalid("a time base that is not there"))?;
        let msb_pts_shift = f.v()?;
        if msb_pts_shift >= 16 {
            return Err(NutError::Invalid("msb_pts_shift"));
        }
        f.v()?; // max_pts_distance
        f.v()?; // decode_delay
        f.v()?; // stream_flags
        f.bytes()?; // codec_specific_data: raw video has none to tell
        let side = |v: u64| {
            u32::try_from(v)
                .ok()
                .filter(|v| (1..=1 << 16).contains(v))
                .ok_or(NutError::Invalid("the picture's size"))
        };
        let (width, height) = (side(f.v()?)?, side(f.v()?)?);
        Ok(Self {
            info: NutStream {
                fourcc,
                width,
                height,
                tick_num,
                tick_den,
            },
            msb_pts_shift: u32::try_from(msb_pts_shift).unwrap_or(0),
        })
    }

    /// `coded_pts` to a time stamp: small values are the low bits of one near the last, large ones
    /// the time stamp itself plus an offset ("coded_pts").
    fn full_pts(&self, last: i64, coded: u64) -> Option<i64> {
        let window = 1_i64 << self.msb_pts_shift;
        let coded = i64::try_from(coded).ok()?;
        if coded >= window {
            return coded.checked_sub(window);
        }
        let mask = window - 1;
        let delta = last.checked_sub(mask / 2)?;
        (coded.wrapping_sub(delta) & mask).checked_add(delta)
    }
}

/// Fields of a packet already in memory.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn v(&mut self) -> Result<u64, NutError> {
        let mut value = 0_u64;
        loop {
            let (&byte, rest) = self
                .0
                .split_first()
                .ok_or(NutError::Truncated("a packet's fields"))?;
            self.0 = rest;
            value = push_7_bits(value, byte)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    fn s(&mut self) -> Result<i64, NutError> {
        let v = self
            .v()?
            .checked_add(1)
            .ok_or(NutError::Invalid("a number too large"))?;
        let half = i64::try_from(v >> 1).map_err(|_| NutError::Invalid("a number too large"))?;
        Ok(if v & 1 == 1 { -half } else { half })
    }

    fn bytes(&mut self) -> Result<&'a [u8], NutError> {
        let len = usize::try_from(self.v()?).unwrap_or(usize::MAX);
        if len > self.0.len() {
            return Err(NutError::Truncated("a packet's fields"));
        }
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(head)
    }
}

fn push_7_bits(value: u64, byte: u8) -> Result<u64, NutError> {
    if value >> 57 != 0 {
        return Err(NutError::Invalid("a number too large"));
    }
    Ok(value << 7 | u64::from(byte & 0x7F))
}

/// The byte stream, with a running checksum over what is read byte by byte.
#[derive(Debug)]
struct Input<R> {
    inner: BufReader<R>,
    crc: u32,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        // Small: a payload larger than this goes past it, straight into the caller's memory.
        let inner = BufReader::with_capacity(4096, inner);
        Self { inner, crc: 0 }
    }

    fn at_end(&mut self) -> Result<bool, NutError> {
        loop {
            match self.inner.fill_buf() {
                Ok(buf) => return Ok(buf.is_empty()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn exact(&mut self, dst: &mut [u8], what: &'static str) -> Result<(), NutError> {
        self.inner.read_exact(dst).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => NutError::Truncated(what),
            _ => NutError::Io(e),
        })
    }

    fn skip(&mut self, mut bytes: u64, what: &'static str) -> Result<(), NutError> {
        let mut scratch = [0; 16 << 10];
        while bytes > 0 {
            let n = usize::try_from(bytes)
                .unwrap_or(usize::MAX)
                .min(scratch.len());
            self.exact(&mut scratch[..n], what)?;
            bytes -= n as u64;
        }
        Ok(())
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, NutError> {
        let mut byte = [0];
        self.exact(&mut byte, what)?;
        self.crc = crc32(self.crc, &byte);
        Ok(byte[0])
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, NutError> {
        (0..4).try_fold(0, |v, _| Ok(v << 8 | u32::from(self.u8(what)?)))
    }

    fn v(&mut self, what: &'static str) -> Result<u64, NutError> {
        let mut value = 0;
        loop {
            let byte = self.u8(what)?;
            value = push_7_bits(value, byte)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    fn startcode(&mut self) -> Result<u64, NutError> {
        if self.u8("a startcode")? != b'N' {
            return Err(NutError::Invalid("a header was expected"));
        }
        self.startcode_after_n()
    }

    fn startcode_after_n(&mut self) -> Result<u64, NutError> {
        (0..7).try_fold(u64::from(b'N'), |v, _| {
            Ok(v << 8 | u64::from(self.u8("a startcode")?))
        })
    }

    /// Length of the packet whose startcode was just read, its checksum included.
    fn packet_len(&mut self, what: &'static str) -> Result<u64, NutError> {
        let len = self.v(what)?;
        if len > 4096 {
            self.u32(what)?;
            if self.crc != 0 {
                return Err(NutError::Checksum(what));
            }
        }
        Ok(len)
    }

    /// The checked body of the packet whose startcode was just read, without its checksum.
    fn packet(&mut self, what: &'static str) -> Result<Vec<u8>, NutError> {
        let len = usize::try_from(self.packet_len(what)?).unwrap_or(usize::MAX);
        if !(4..=MAX_HEADER_BYTES).contains(&len) {
            return Err(NutError::Invalid("a packet's length"));
        }
        let mut body = vec![0; len];
        self.exact(&mut body, what)?;
        // The checksum is the remainder: over body and checksum together it is 0.
        if crc32(0, &body) != 0 {
            return Err(NutError::Checksum(what));
        }
        body.truncate(len - 4);
        Ok(body)
    }

    /// Passes over a packet nobody needs here (info, index), unchecked.
    fn skip_packet(&mut self) -> Result<(), NutError> {
        let len = self.packet_len("a packet")?;
        self.skip(len, "a packet")
    }
}

/// CRC-32 with polynomial 0x04C11DB7, starting value 0, most significant bit first, not inverted
/// ("checksum").
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = (i as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 0x8000_0000 == 0 {
                    c << 1
                } else {
                    c << 1 ^ 0x04C1_1DB7
                };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    bytes.iter().fold(crc, |crc, &b| {
        crc << 8 ^ TABLE[usize::from((crc >> 24) as u8 ^ b)]
    })
}

#[cfg(test)]
#[path = "nut_tests.rs"]
mod tests;
