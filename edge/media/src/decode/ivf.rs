//! IVF, the smallest container there is: what goes into an ffmpeg child.
//!
//! 32 bytes of header, then each packet behind its length and time stamp, all little-endian. ffmpeg
//! takes any codec in it, keeps every time stamp, and remembers nothing: with NUT, its demuxer
//! would keep a note on every packet for ever. Source: ffmpeg's `ivfdec.c`.

use bytes::{BufMut, BytesMut};

/// Ticks per second of the time stamps.
pub(super) const TICKS_PER_S: u32 = 1_000_000;

/// The stream's header.
pub(super) fn put_header(out: &mut BytesMut, fourcc: [u8; 4], width: u32, height: u32) {
    let side = |v: u32| u16::try_from(v).unwrap_or(u16::MAX);
    out.put_slice(b"DKIF");
    out.put_u16_le(0); // version
    out.put_u16_le(32); // length of this header
    out.put_slice(&fourcc);
    out.put_u16_le(side(width));
    out.put_u16_le(side(height));
    out.put_u32_le(TICKS_PER_S);
    out.put_u32_le(1);
    out.put_u32_le(0); // packets: not known
    out.put_u32_le(0);
}

/// What precedes a packet.
pub(super) fn put_packet_header(out: &mut BytesMut, bytes: u32, ticks: u64) {
    out.put_u32_le(bytes);
    out.put_u64_le(ticks);
}
