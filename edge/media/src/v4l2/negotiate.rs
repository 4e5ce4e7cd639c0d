//! Which format, size and rate to ask a camera for. Pure: from what the driver lists and what is
//! wanted, the choices in order, best first.

use std::cmp::Ordering;

use v4l::FourCC;
use visualpath_core::PixelFormat;

use super::formats::{self, Kind};
use crate::devices::{CameraFormat, CameraSize, Rates, SizeRange, Wanted};
use crate::encode::Codec;
use crate::source::WantedFormat;

/// Asked for where the config does not say.
pub(super) const DEFAULT_SIZE: (u32, u32) = (1280, 720);
/// Asked for where the config does not say, pictures a second.
pub(super) const DEFAULT_FPS: f64 = 30.0;
/// A rate this close to the one asked for reaches it: 29.97 is 30.
const REACHED: f64 = 0.95;

/// What to ask the driver for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) fourcc: FourCC,
    pub(super) kind: Kind,
    pub(super) width: u32,
    pub(super) height: u32,
    /// `None` where the driver lists no rates: what was asked for is tried.
    pub(super) fps: Option<f64>,
    /// For the log.
    pub(super) why: &'static str,
}

/// Every usable combination, best first; empty if there is none.
pub(super) fn choices(formats: &[CameraFormat], wanted: &Wanted) -> Vec<Choice> {
    let (width, height) = wanted.size.unwrap_or(DEFAULT_SIZE);
    let fps = wanted.fps.unwrap_or(DEFAULT_FPS);
    let mut ranked: Vec<(Cost, Choice)> = Vec::new();
    for format in formats {
        let Some(fourcc) = fourcc(&format.fourcc) else {
            continue;
        };
        let Some(kind) = formats::kind(fourcc).filter(|kind| fits(wanted.format, *kind)) else {
            continue;
        };
        // A driver that lists no sizes is asked for the wanted one, and answers with its own.
        let any = [CameraSize {
            size: SizeRange::Discrete { width, height },
            fps: Rates::Listed(Vec::new()),
        }];
        let sizes = if format.sizes.is_empty() {
            &any
        } else {
            format.sizes.as_slice()
        };
        for size in sizes {
            let (w, h) = size.size.closest(width, height);
            let rate = size.fps.closest(fps);
            let cost = Cost {
                size: size_off((w, h), (width, height)),
                slow: rate.map_or(0.0, |rate| slow(rate, fps)),
                work: work(fourcc, kind),
                fast: rate.map_or(0.0, |rate| (rate - fps).max(0.0)),
            };
            let choice = Choice {
                fourcc,
                kind,
                width: w,
                height: h,
                fps: rate,
                why: "",
            };
            ranked.push((cost, choice));
        }
    }
    ranked.sort_by(|a, b| a.0.compare(&b.0));
    let cheapest = ranked.iter().map(|(cost, _)| cost.work).min();
    let first = ranked.first().map(|(cost, _)| *cost);
    ranked
        .into_iter()
        .map(|(cost, choice)| Choice {
            why: why(&cost, first.as_ref(), cheapest, wanted),
            ..choice
        })
        .collect()
}

/// In the order in which they count.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// How far from the size asked for, in 2 % steps.
    size: u32,
    /// How far below the rate asked for; 0 if it is reached.
    slow: f64,
    /// What it costs to use.
    work: u32,
    /// Pictures a second more than asked for.
    fast: f64,
}

impl Cost {
    fn compare(&self, other: &Self) -> Ordering {
        self.size
            .cmp(&other.size)
            .then(self.slow.total_cmp(&other.slow))
            .then(self.work.cmp(&other.work))
            .then(self.fast.total_cmp(&other.fast))
    }
}

fn size_off(have: (u32, u32), want: (u32, u32)) -> u32 {
    let off = |have: u32, want: u32| (f64::from(have.max(1)) / f64::from(want.max(1))).ln().abs();
    let steps = (off(have.0, want.0) + off(have.1, want.1)) / 0.02;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0–4000"
    )]
    let steps = steps.round() as u32;
    // Of two sizes as far off, the larger: it can be scaled down.
    steps * 2 + u32::from(have.0 < want.0 || have.1 < want.1)
}

fn slow(rate: f64, fps: f64) -> f64 {
    let share = rate / fps;
    if share >= REACHED { 0.0 } else { 1.0 - share }
}

/// Lower is cheaper. What can be looked at where it lies comes first; what has to be decoded
/// later; grey loses the colours and H.264 is the dearest to decode and shows every picture only
/// after those before it.
fn work(fourcc: FourCC, kind: Kind) -> u32 {
    let rank = match kind {
        Kind::Pixels(PixelFormat::Nv12 | PixelFormat::I420) => 0,
        Kind::Pixels(PixelFormat::Nv21) => 1,
        Kind::Pixels(PixelFormat::Yuyv | PixelFormat::Uyvy) => 2,
        Kind::Packets(Codec::Mjpeg) => 3,
        Kind::Pixels(PixelFormat::Rgb | PixelFormat::Bgr) => 4,
        Kind::Pixels(PixelFormat::Grey) => 5,
        Kind::Packets(_) => 6,
    };
    // Planes in buffers of their own can't be written into a slot.
    let apart = [b"NM12", b"NM21", b"YM12"].contains(&&fourcc.repr);
    rank * 2 + u32::from(apart)
}

fn fits(wanted: WantedFormat, kind: Kind) -> bool {
    match wanted {
        WantedFormat::Auto => true,
        WantedFormat::Mjpeg => kind == Kind::Packets(Codec::Mjpeg),
        WantedFormat::H264 => kind == Kind::Packets(Codec::H264),
        WantedFormat::Pixels(format) => kind == Kind::Pixels(format),
    }
}

fn why(cost: &Cost, best: Option<&Cost>, cheapest: Option<u32>, wanted: &Wanted) -> &'static str {
    if best.is_some_and(|best| best.compare(cost).is_lt()) {
        "the driver refused the better ones"
    } else if wanted.format != WantedFormat::Auto {
        "the format asked for, at the closest size and rate"
    } else if cost.size > 1 {
        "no format has the size asked for; this is the closest"
    } else if cost.slow > 0.0 {
        "no format reaches the rate asked for; this comes closest"
    } else if cheapest.is_some_and(|cheapest| cheapest < cost.work) {
        "the cheaper formats do not reach the size and rate asked for"
    } else {
        "the cheapest that reaches the size and rate asked for"
    }
}

fn fourcc(text: &str) -> Option<FourCC> {
    let mut repr = [b' '; 4];
    let bytes = text.as_bytes();
    repr.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(FourCC { repr })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(width: u32, height: u32, fps: &[f64]) -> CameraSize {
        CameraSize {
            size: SizeRange::Discrete { width, height },
            fps: Rates::Listed(fps.to_vec()),
        }
    }

    fn format(fourcc: &str, sizes: &[CameraSize]) -> CameraFormat {
        CameraFormat {
            fourcc: fourcc.into(),
            description: String::new(),
            compressed: false,
            usable: true,
            sizes: sizes.to_vec(),
        }
    }

    fn wanted(format: WantedFormat, size: Option<(u32, u32)>, fps: Option<f64>) -> Wanted {
        Wanted { format, size, fps }
    }

    fn webcam() -> Vec<CameraFormat> {
        vec![
            format(
                "YUYV",
                &[
                    sized(640, 480, &[30.0, 15.0]),
                    sized(1280, 720, &[10.0, 5.0]),
                    sized(1920, 1080, &[5.0]),
                ],
            ),
            format(
                "MJPG",
                &[
                    sized(640, 480, &[30.0]),
                    sized(1280, 720, &[60.0, 30.0]),
                    sized(1920, 1080, &[30.0]),
                ],
            ),
            format("H264", &[sized(1280, 720, &[30.0])]),
            format("pBAA", &[sized(1280, 720, &[30.0])]),
        ]
    }

    #[test]
    fn the_closest_and_cheapest_is_chosen_as_in_this_table() {
        let vivid: Vec<_> = ["RGB3", "GREY", "YUYV", "NM12", "YU12", "NV12"]
            .map(|f| {
                format(
                    f,
                    &[sized(640, 360, &[60.0, 30.0]), sized(1280, 720, &[30.0])],
                )
            })
            .to_vec();
        let mono = vec![format("GREY", &[sized(640, 400, &[120.0])])];
        let unlisted = vec![format("UYVY", &[])];
        let hdmi = vec![format(
            "UYVY",
            &[CameraSize {
                size: SizeRange::Stepwise {
                    min: (16, 16),
                    max: (1920, 1080),
                    step: (2, 2),
                },
                fps: Rates::Range {
                    min: 1.0,
                    max: 60.0,
                },
            }],
        )];
        let auto = WantedFormat::Auto;
        let rows: &[(&[CameraFormat], WantedFormat, _, _, &str)] = &[
            (&webcam(), auto, None, None, "MJPG 1280x720 30"),
            (
                &webcam(),
                auto,
                Some((640, 480)),
                Some(30.0),
                "YUYV 640x480 30",
            ),
            (
                &webcam(),
                auto,
                Some((640, 480)),
                Some(15.0),
                "YUYV 640x480 15",
            ),
            (
                &webcam(),
                auto,
                Some((1280, 720)),
                Some(10.0),
                "YUYV 1280x720 10",
            ),
            (
                &webcam(),
                auto,
                Some((1920, 1080)),
                Some(30.0),
                "MJPG 1920x1080 30",
            ),
            (
                &webcam(),
                auto,
                Some((1280, 720)),
                Some(50.0),
                "MJPG 1280x720 60",
            ),
            (
                &webcam(),
                auto,
                Some((1300, 700)),
                Some(30.0),
                "MJPG 1280x720 30",
            ),
            (
                &webcam(),
                WantedFormat::H264,
                None,
                None,
                "H264 1280x720 30",
            ),
            (
                &webcam(),
                WantedFormat::Pixels(PixelFormat::Yuyv),
                Some((1920, 1080)),
                None,
                "YUYV 1920x1080 5",
            ),
            (&vivid, auto, None, None, "YU12 1280x720 30"),
            (
                &vivid,
                WantedFormat::Pixels(PixelFormat::Nv12),
                Some((640, 360)),
                Some(60.0),
                "NV12 640x360 60",
            ),
            (
                &vivid,
                WantedFormat::Pixels(PixelFormat::Grey),
                None,
                None,
                "GREY 1280x720 30",
            ),
            (&mono, auto, None, None, "GREY 640x400 120"),
            (
                &unlisted,
                auto,
                Some((720, 576)),
                Some(25.0),
                "UYVY 720x576 ?",
            ),
            (
                &hdmi,
                auto,
                Some((1281, 720)),
                Some(25.0),
                "UYVY 1282x720 25",
            ),
            (
                &webcam(),
                WantedFormat::Pixels(PixelFormat::Nv12),
                None,
                None,
                "none",
            ),
            (&[], auto, None, None, "none"),
        ];
        for (formats, form, size, fps, expected) in rows {
            let found = choices(formats, &wanted(*form, *size, *fps));
            let said = found.first().map_or("none".to_owned(), |c| {
                let fps = c.fps.map_or("?".to_owned(), |f| f.to_string());
                format!("{} {}x{} {fps}", formats::text(c.fourcc), c.width, c.height)
            });
            assert_eq!(&said, expected, "{form:?} {size:?} {fps:?}");
        }
    }

    #[test]
    fn the_reason_is_the_true_one() {
        let auto = |size, fps| choices(&webcam(), &wanted(WantedFormat::Auto, size, fps));
        let why = |choices: Vec<Choice>| choices[0].why;
        assert!(why(auto(Some((640, 480)), Some(30.0))).starts_with("the cheapest"));
        assert!(why(auto(None, None)).starts_with("the cheaper formats do not"));
        assert!(why(auto(Some((320, 240)), None)).starts_with("no format has the size"));
        assert!(why(auto(None, Some(90.0))).starts_with("no format reaches the rate"));
        assert!(auto(None, None)[1].why.starts_with("the driver refused"));
    }
}
