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

mod header;
mod input;

use std::io::{self, Read};

use header::{BROADCAST, Fields, MainHeader, StreamHeader, flag};
use input::Input;

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

    /// What the codec needs before the first frame (parameter sets); raw video has none.
    pub fn codec_data(&self) -> &[u8] {
        &self.stream.codec_data
    }

    /// The input, to set what it needs to know; reading from it loses the place.
    pub fn input_mut(&mut self) -> &mut R {
        self.input.inner.get_mut()
    }

    /// Whether bytes were read from the input that nobody has looked at yet.
    pub fn has_buffered(&self) -> bool {
        self.pending.is_some() || !self.input.inner.buffer().is_empty()
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

#[cfg(test)]
mod tests;
