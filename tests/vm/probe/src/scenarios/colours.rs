//! The camera's colour bars, through our converter, against the colours they are drawn with.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use visualpath_core::{ColorMatrix, ColorRange, ImageLayout, PixelFormat};
use visualpath_frames::Frame;
use visualpath_media::source::WantedFormat;

use crate::camera::{RGB, Running, options};
use crate::machine::Camera;
use crate::runner::Numbers;

/// What vivid's pattern `75% Colorbar` is made of, left to right.
const BARS: [[u8; 3]; 8] = [
    [191, 191, 191],
    [191, 191, 0],
    [0, 191, 191],
    [0, 191, 0],
    [191, 0, 191],
    [191, 0, 0],
    [0, 0, 191],
    [0, 0, 0],
];
/// Levels: the driver rounds Y, Cb and Cr (half a level, which the matrix makes 1.7 of), our
/// matrix rounds (1), and the driver's own arithmetic does.
const TOLERANCE: u8 = 4;

const FORMATS: [PixelFormat; 8] = [
    PixelFormat::Yuyv,
    PixelFormat::Uyvy,
    PixelFormat::Nv12,
    PixelFormat::Nv21,
    PixelFormat::I420,
    PixelFormat::Grey,
    PixelFormat::Rgb,
    PixelFormat::Bgr,
];

/// Every format, through both of the kernel's interfaces.
pub fn every_format(_: &str, numbers: &mut Numbers) -> Result<()> {
    let mut wrong = vec![];
    for multiplanar in [false, true] {
        let camera = Camera {
            multiplanar,
            ..Camera::WEBCAM
        };
        camera.insert()?;
        for format in FORMATS {
            let what = format!(
                "{format:?}{}",
                if multiplanar { ", multi-planar" } else { "" }
            );
            match look(&camera, format).and_then(|(_, off)| within(off)) {
                Ok(off) => {
                    numbers.insert(what, json!(off));
                }
                Err(e) => wrong.push(format!("{what}: {e:#}")),
            }
        }
        camera.pull()?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// BT.601 and BT.709, limited and full, as the driver says.
pub fn matrix_and_range(_: &str, numbers: &mut Numbers) -> Result<()> {
    let camera = Camera::WEBCAM;
    camera.insert()?;
    let mut wrong = vec![];
    for (matrix, encoding) in [(ColorMatrix::Bt601, 1), (ColorMatrix::Bt709, 2)] {
        for (range, quantization) in [(ColorRange::Full, 1), (ColorRange::Limited, 2)] {
            camera.set("y_cbcr_encoding", encoding)?;
            camera.set("quantization", quantization)?;
            for format in [PixelFormat::Yuyv, PixelFormat::Nv12] {
                let what = format!("{format:?} {matrix:?} {range:?}");
                let checked = look(&camera, format).and_then(|(layout, off)| {
                    let said = (layout.color.matrix, layout.color.range);
                    ensure!(said == (matrix, range), "the frames say {said:?}");
                    within(off)
                });
                match checked {
                    Ok(off) => {
                        numbers.insert(what, json!(off));
                    }
                    Err(e) => wrong.push(format!("{what}: {e:#}")),
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// How far the bars are from their colours, largest channel of each bar.
type Off = [u8; 8];

fn within(off: Off) -> Result<Off> {
    ensure!(
        off.iter().all(|&o| o <= TOLERANCE),
        "bars off by {off:?} levels"
    );
    Ok(off)
}

fn look(camera: &Camera, format: PixelFormat) -> Result<(ImageLayout, Off)> {
    let mut options = options(&camera.node().display().to_string())?;
    options.format = WantedFormat::Pixels(format);
    let mut running = Running::start(&options, &[RGB])?;
    let layout = running.info.layout;
    let found = if layout.format == format {
        running.frame().and_then(|frame| bars(&frame))
    } else {
        Err(anyhow::anyhow!("it delivers {:?}", layout.format))
    };
    running.stop()?;
    let mut off = [0; 8];
    for ((bar, wanted), off) in found?.iter().zip(&BARS).zip(&mut off) {
        let wanted = match format {
            PixelFormat::Grey => [luma(*wanted); 3],
            _ => *wanted,
        };
        *off = bar
            .iter()
            .zip(wanted)
            .map(|(&b, w)| b.abs_diff(w))
            .max()
            .unwrap_or(0);
    }
    if off.iter().any(|&o| o > TOLERANCE) {
        eprintln!("{layout:?}\nfound {:?}", off);
    }
    Ok((layout, off))
}

/// What vivid makes of a colour in a grey picture, whatever matrix and range are set: BT.709's luma
/// at full range.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    let [r, g, b] = [r, g, b].map(u32::from);
    let y = (2126 * r + 7152 * g + 722 * b + 5000) / 10_000;
    u8::try_from(y).unwrap_or(u8::MAX)
}

/// The colour in the middle of each bar; every row must be the same.
fn bars(frame: &Frame) -> Result<[[u8; 3]; 8]> {
    let pool = frame.pool();
    let id = pool.view_id(&RGB).context("no RGB view")?;
    let view = frame.view(id)?;
    let (width, height) = (view.layout.width as usize, view.layout.height as usize);
    let pixels = view.pixels;
    let row = |y: usize| &pixels[y * width * 3..(y + 1) * width * 3];
    let first = row(0);
    for y in 1..height {
        ensure!(row(y) == first, "row {y} is not as row 0");
    }
    let mut bars = [[0; 3]; 8];
    for (i, bar) in bars.iter_mut().enumerate() {
        let x = (2 * i + 1) * width / 16;
        bar.copy_from_slice(&first[x * 3..x * 3 + 3]);
    }
    eprintln!("{:?}: {bars:?}", frame.layout().format);
    Ok(bars)
}
