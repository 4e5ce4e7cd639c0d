//! The hardware encoder's path on the stateful encoder that a kernel has for tests: `vicodec`, whose
//! coded format is FWHT. All but the H.264 is what a board's encoder is driven with.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use visualpath_core::{ColorSpec, ImageLayout, NS_PER_S, PixelFormat};
use visualpath_media::encode::{EncoderOptions, Trial, TrialPacket};

use crate::machine::{Encoder, open_files};
use crate::runner::Numbers;

/// vicodec takes none smaller.
const SIZE: (u32, u32) = (640, 360);
const PICTURES: u32 = 12;
/// Bytes of an FWHT picture's header, and what it begins with (kernel, codec-fwht.h).
const HEADER: usize = 44;
const MAGIC: [u8; 8] = [0x4f, 0x4f, 0x4f, 0x4f, 0xff, 0xff, 0xff, 0xff];

/// Every picture comes back whole, at once, with its own time; single- and multi-planar.
pub fn whole(_: &str, numbers: &mut Numbers) -> Result<()> {
    for multiplanar in [false, true] {
        let encoder = Encoder { multiplanar };
        encoder.insert()?;
        let files = open_files()?;
        let formats: &[PixelFormat] = match multiplanar {
            false => &[PixelFormat::I420, PixelFormat::Yuyv],
            true => &[PixelFormat::Nv12],
        };
        for format in formats.iter().copied() {
            let what = format!("{format:?}, multi-planar: {multiplanar}");
            eprintln!("{what}");
            let bytes = one_stream(format).with_context(|| what.clone())?;
            numbers.insert(what, json!({"pictures": PICTURES, "bytes": bytes}));
        }
        let left = open_files()?;
        ensure!(left == files, "{left} files open, {files} before");
        encoder.remove()?;
    }
    Ok(())
}

fn one_stream(format: PixelFormat) -> Result<usize> {
    let layout = ImageLayout::packed(format, SIZE.0, SIZE.1, ColorSpec::default());
    let options = EncoderOptions {
        gop_ns: NS_PER_S / 4,
        fps: 40.0,
        ..EncoderOptions::default()
    };
    let words = |e: String| anyhow!(e);
    let mut trial = Trial::begin(*b"FWHT", &layout, &options).map_err(words)?;
    ensure!(trial.device().contains("vicodec"), "{}", trial.device());
    // It has a GOP, and nothing else of what was asked.
    let refused = trial.refused();
    ensure!(
        refused == ["a bit rate", "key pictures by time"],
        "{refused:?}"
    );
    let mut packets = Vec::new();
    let mut stamps = Vec::new();
    for number in 0..PICTURES {
        // Uneven, and two in neighbouring microseconds.
        let jitter = i64::from(number % 7) * 1_234 - i64::from(number % 2) * 24_999;
        let stamp_us = 1_000_000 + i64::from(number) * 25_000 + jitter.max(-24_999);
        let stamp_us = stamp_us.max(stamps.last().map_or(0, |s| s + 1));
        stamps.push(stamp_us);
        let pixels = picture(&layout, number);
        trial
            .encode(&pixels, stamp_us, &mut packets)
            .map_err(words)?;
        let (inside, lost) = trial.inside_and_lost();
        ensure!(lost == 0, "{lost} lost at {number}");
        ensure!(
            inside == 0 && packets.len() == stamps.len(),
            "picture {number} did not come out: {inside} inside"
        );
    }
    trial.drain(&mut packets).map_err(words)?;
    ensure!(trial.inside_and_lost() == (0, 0));
    drop(trial);
    let out: Vec<i64> = packets.iter().map(|p| p.stamp_us).collect();
    ensure!(out == stamps, "times: {out:?} instead of {stamps:?}");
    whole_pictures(&packets)?;
    Ok(packets.iter().map(|p| p.data.len()).sum())
}

/// Each is one whole FWHT picture of the size that went in. (Which are key pictures is not looked
/// at: the driver does not mark their buffers.)
fn whole_pictures(packets: &[TrialPacket]) -> Result<()> {
    for packet in packets {
        ensure!(packet.data.len() > HEADER && packet.data[..8] == MAGIC);
        let side = |at: usize| packet.data[at..at + 4].try_into().map(u32::from_be_bytes);
        ensure!((side(12)?, side(16)?) == SIZE, "another size");
        let size = packet.data[40..44].try_into().map(u32::from_be_bytes)?;
        ensure!(packet.data.len() == HEADER + size as usize);
    }
    Ok(())
}

/// Each picture has its own level.
fn picture(layout: &ImageLayout, number: u32) -> Vec<u8> {
    let level = level(number);
    match layout.format {
        PixelFormat::Yuyv => [level, 128].repeat(layout.bytes() / 2),
        _ => {
            let mut pixels = vec![128; layout.bytes()];
            pixels[..(SIZE.0 * SIZE.1) as usize].fill(level);
            pixels
        }
    }
}

fn level(number: u32) -> u8 {
    u8::try_from(40 + number % 10 * 18).unwrap_or(255)
}
