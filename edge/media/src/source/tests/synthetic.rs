//! The synthetic source: what it draws is what it says, and what it says is checked.

use super::*;
use crate::source::synthetic::{Asked, Params, read_frame_number, truth};
use visualpath_core::{Filter, Fit, ViewFormat, ViewSpec};

fn params(uri: &str) -> Params {
    Params::parse(uri, &Asked::default()).unwrap()
}

/// Frames of a source up to `count`: number, time, bytes.
fn frames(opts: &SourceOptions, count: usize) -> Vec<(u64, i64, Vec<u8>)> {
    let mut source = opened(opts);
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let mut out = vec![];
    while out.len() < count {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                out.push((f.meta().frame_id, f.meta().t_ns, f.pixels().to_vec()));
            }
            SourceEvent::End(_) => break,
            _ => {}
        }
    }
    out
}

#[test]
fn every_picture_carries_its_own_number_and_time_also_over_rounds_and_losses() {
    let uri = "synthetic:?width=320&height=240&fps=29.97&frames=20&jitter_ms=9&gap_every=6&gap_frames=2&noise=3&light_at=10";
    let opts = SourceOptions {
        loop_: true,
        ..SourceOptions::new(name(), uri)
    };
    let frames = frames(&opts, 50);
    assert!(frames.last().unwrap().0 > 60, "three rounds and more");
    for (id, t_ns, pixels) in &frames {
        assert_eq!(read_frame_number(pixels, 320, 320, 240), Some((*id, *t_ns)));
        assert!(id % 20 % 6 < 4, "{id} should be lost");
    }
    let exact = |i: u64| (i as i128 * 1_000_000_000_000 / 29_970) as i64;
    let off: Vec<i64> = frames
        .iter()
        .filter(|f| f.0 < 20)
        .map(|(id, t, _)| t - exact(*id))
        .collect();
    assert!(off.iter().all(|o| o.abs() <= 9 * NS_PER_MS), "{off:?}");
    assert!(off.iter().any(|o| o.abs() > 3 * NS_PER_MS), "{off:?}");
}

#[test]
fn the_block_code_survives_jpeg_and_h264_at_their_worst() {
    let dir = TempDir::new().unwrap();
    let opts = SourceOptions::new(
        name(),
        "synthetic:?width=320&height=240&frames=30&noise=4&shapes=5",
    );
    let frames = frames(&opts, 30);
    let raw = dir.path().join("raw.yuv");
    let bytes: Vec<u8> = frames.iter().flat_map(|f| f.2.clone()).collect();
    std::fs::write(&raw, bytes).unwrap();
    let input = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "yuvj420p",
        "-s",
        "320x240",
        "-r",
        "30",
        "-i",
        raw.to_str().unwrap(),
    ];
    for (out, codec) in [
        ("x.avi", &["-c:v", "mjpeg", "-q:v", "31"][..]),
        ("x.mp4", &["-c:v", "libx264", "-crf", "45"]),
    ] {
        let file = ffmpeg(&dir, out, &[&input[..], codec].concat());
        let mut source = opened(&SourceOptions::new(name(), &file));
        let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
        for (id, t_ns, _) in &frames {
            let SourceEvent::Frame(f) = source.next(&pool, &stop).unwrap() else {
                panic!("{out}: the file ended at {id}");
            };
            let read = read_frame_number(f.pixels(), 320, 320, 240);
            assert_eq!(read, Some((*id, *t_ns)), "{out}");
        }
    }
}

/// The bright pixels below the header, as a box in pixels.
fn bright(pixels: &[u8], width: usize) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for (i, _) in pixels.iter().enumerate().filter(|(_, p)| **p >= 190) {
        let (x, y) = (i % width, i / width);
        if y < 72 {
            continue;
        }
        let b = found.get_or_insert([x, y, x + 1, y + 1]);
        *b = [b[0].min(x), b[1].min(y), b[2].max(x + 1), b[3].max(y + 1)];
    }
    found
}

#[test]
fn the_truth_is_where_the_shape_is_to_the_pixel() {
    for shape in ["rect", "disc"] {
        let uri = format!(
            "synthetic:?width=320&height=240&fps=25&frames=200&shapes=1&shape={shape}&format=grey&seed=7"
        );
        let frames = frames(&SourceOptions::new(name(), &uri), 200);
        let params = params(&uri);
        let mut places = std::collections::BTreeSet::new();
        for (id, _, pixels) in &frames {
            let truth = truth(&params, *id);
            assert_eq!((truth.len(), truth[0].label), (1, shape));
            let [l, t, r, b] = truth[0].bbox;
            let pixel = |v: f64, side: f64| (v * side).round() as usize;
            let want = [
                pixel(l, 320.0),
                pixel(t, 240.0),
                pixel(r, 320.0),
                pixel(b, 240.0),
            ];
            assert_eq!(bright(pixels, 320), Some(want), "{shape} {id}");
            places.insert(want);
        }
        assert!(places.len() > 100, "it moves: {} places", places.len());
    }
}

#[test]
fn shapes_come_when_they_are_asked_to() {
    let uri = "synthetic:?width=320&height=240&frames=6&shapes_at=4&format=grey&code=0&text=0";
    let frames = frames(&SourceOptions::new(name(), uri), 6);
    for (id, _, pixels) in &frames {
        let there = pixels.iter().any(|p| *p >= 190);
        assert_eq!(there, *id >= 4, "{id}");
        assert_eq!(!truth(&params(uri), *id).is_empty(), there, "{id}");
    }
    assert!(truth(&params(uri), 6).is_empty(), "the next round's first");
}

#[test]
fn every_format_shows_the_same_picture() {
    let grey = |format: &str| -> Vec<u8> {
        let uri = format!("synthetic:?width=66&height=50&frames=4&noise=5&seed=3&format={format}");
        let mut source = opened(&SourceOptions::new(name(), &uri));
        let spec = ViewSpec {
            format: ViewFormat::Grey,
            size: Some((66, 50)),
            fit: Fit::Stretch,
            filter: Filter::Bilinear,
        };
        let pool = FramePool::heap(
            &PoolSpec {
                pool_id: 1,
                slots: 1,
                native: source.info().layout,
                native_room: 0,
                views: vec![spec],
            },
            Arc::new(Converter::new()),
        )
        .unwrap();
        let SourceEvent::Frame(f) = source.next(&pool, &StopFlag::new()).unwrap() else {
            panic!("no frame");
        };
        let view = f.view(pool.view_id(&spec).unwrap()).unwrap();
        view.pixels[..66 * 50].to_vec()
    };
    let want = grey("grey");
    assert!(want.iter().any(|p| *p > 190) && want.iter().any(|p| *p < 100));
    for format in ["i420", "nv12", "yuyv", "rgb", "bgr"] {
        assert!(grey(format) == want, "{format}");
    }
}

#[test]
fn the_pictures_are_these_on_every_machine() {
    // Found once; a change of them is a change of everybody's ground truth.
    let uri = "synthetic:?width=320&height=240&frames=12&fps=10&seed=42&noise=2&jitter_ms=20&light_at=6&shapes=4";
    let got = of_file(uri);
    let all: Vec<u8> = got.hashes.iter().flatten().copied().collect();
    let short: String = hash(&all)[..8].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(short, "b8bae5909126b3b2");
    assert_eq!(got.times[..4], [0, 86_506_351, 198_761_150, 288_837_420]);
    let other = of_file(&uri.replace("seed=42", "seed=43"));
    assert!(got.hashes != other.hashes);
}

#[test]
fn noise_has_the_spread_asked_for_and_the_light_its_factor() {
    let of = |more: &str| -> Vec<Vec<u8>> {
        let uri = format!(
            "synthetic:?width=320&height=240&frames=8&scene=empty&code=0&text=0&format=grey{more}"
        );
        let frames = frames(&SourceOptions::new(name(), uri), 8);
        frames.into_iter().map(|f| f.2).collect()
    };
    let (clean, noisy) = (of(""), of("&noise=3"));
    assert!(clean.iter().all(|f| *f == clean[0]), "nothing else moves");
    let differences: Vec<f64> = clean
        .iter()
        .flatten()
        .zip(noisy.iter().flatten())
        .map(|(a, b)| f64::from(*b) - f64::from(*a))
        .collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let spread = (differences.iter().map(|d| d * d).sum::<f64>() / n).sqrt();
    assert!(
        mean.abs() < 0.05 && (spread - 3.0).abs() < 0.1,
        "{mean} ± {spread}"
    );
    assert!(noisy[1] != noisy[2], "new noise in every picture");
    let light = of("&light_at=5&light_pct=150");
    assert!(light[4] == clean[0]);
    let lit: Vec<u8> = clean[0]
        .iter()
        .map(|p| (u32::from(*p) * 3 / 2).min(255) as u8)
        .collect();
    assert!(light[5] == lit);
    let shadow = {
        let uri = "synthetic:?width=320&height=240&frames=8&scene=shadow&code=0&text=0&format=grey";
        frames(&SourceOptions::new(name(), uri), 8)
    };
    let darker = |f: &[u8]| f.iter().zip(&clean[0]).filter(|(s, c)| s < c).count();
    assert!(
        shadow.iter().all(|f| darker(&f.2) > 5000),
        "the shadow darkens"
    );
    assert!(shadow[0].2 != shadow[7].2, "and moves");
}

#[test]
fn wrong_parameters_are_told_by_name_with_what_was_expected() {
    for (uri, says) in [
        ("synthetic:640x480", "`640x480`: parameters follow a `?`"),
        (
            "synthetic:?widht=640",
            "`widht`: unknown parameter; did you mean `width`? known: width",
        ),
        (
            "synthetic:?colour=red",
            "`colour`: unknown parameter; known: width, height",
        ),
        ("synthetic:?width", "`width`: expected `key=value`"),
        ("synthetic:?width=640&width=640", "`width`: given twice"),
        (
            "synthetic:?width=8",
            "`width`: expected a whole number in 16-16384, got `8`",
        ),
        ("synthetic:?width=", "`width`: expected a whole number"),
        ("synthetic:?height=6e2", "`height`: expected a whole number"),
        (
            "synthetic:?fps=0",
            "`fps`: expected a number in 0.01-1000, got `0`",
        ),
        ("synthetic:?fps=NaN", "`fps`: expected a number"),
        ("synthetic:?frames=-1", "`frames`: expected a whole number"),
        (
            "synthetic:?format=gray",
            "`format`: expected i420 | nv12 | nv21 | yuyv | uyvy | rgb | bgr | grey, got `gray` (did you mean `grey`?)",
        ),
        (
            "synthetic:?scene=shape",
            "`scene`: expected shapes | empty | shadow, got `shape` (did you mean `shapes`?)",
        ),
        (
            "synthetic:?jitter_ms=17",
            "`jitter_ms`: must be less than half",
        ),
        (
            "synthetic:?gap_frames=3",
            "`gap_frames`: has no effect without `gap_every`",
        ),
        (
            "synthetic:?gap_every=3&gap_frames=3",
            "`gap_frames`: must be less than gap_every (3)",
        ),
        (
            "synthetic:?light_pct=120",
            "`light_pct`: has no effect without `light_at`",
        ),
        (
            "synthetic:?width=64&height=64&code=1",
            "`code`: needs a picture of at least 128x112, this one is 64x64",
        ),
        (
            "synthetic:?width=64&text=1",
            "`text`: does not fit into a picture of 64x360",
        ),
        ("synthetic:?code=yes", "`code`: expected 0 | 1, got `yes`"),
    ] {
        let error = Params::parse(uri, &Asked::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{uri}: {error}");
        let text = refused(uri).to_string();
        assert!(text.contains(uri) && text.contains(says), "{text}");
    }
}

#[test]
fn keys_of_the_source_hold_where_the_uri_says_nothing_and_may_not_contradict_it() {
    let asked = Asked {
        width: Some(320),
        height: Some(200),
        fps: Some(12.5),
    };
    let p = Params::parse("synthetic:?height=200", &asked).unwrap();
    assert_eq!((p.width, p.height, p.fps_milli), (320, 200, 12_500));
    for (uri, says) in [
        (
            "synthetic:?width=640",
            "`width`: the URI says 640 and the source's own key says 320; leave one out",
        ),
        (
            "synthetic:?fps=25",
            "`fps`: the URI says 25 and the source's own key says 12.5",
        ),
    ] {
        assert_eq!(
            &Params::parse(uri, &asked).unwrap_err().to_string()[..says.len()],
            says
        );
    }
    let mut opts = SourceOptions::new(name(), "synthetic:?frames=5");
    (opts.width, opts.height, opts.fps) = (Some(64), Some(48), Some(5.0));
    let info = opened(&opts).info().clone();
    assert_eq!((info.layout.width, info.layout.height), (64, 48));
    assert_eq!(
        (info.nominal_fps, info.duration_ns),
        (Some(5.0), Some(NS_PER_S))
    );
    let plain = opened(&SourceOptions::new(name(), "synthetic:"))
        .info()
        .clone();
    assert_eq!((plain.layout.width, plain.layout.height), (640, 360));
    assert_eq!((plain.nominal_fps, plain.duration_ns), (Some(30.0), None));
}

/// What drawing costs: `cargo test --workspace --lib time_of_drawing -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_of_drawing() {
    for more in ["", "&noise=2", "&format=rgb", "&scene=shadow"] {
        let mut source = opened(&SourceOptions::new(name(), format!("synthetic:?{more}")));
        let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
        let mut times: Vec<_> = (0..300)
            .map(|_| {
                let since = std::time::Instant::now();
                drop(source.next(&pool, &stop).unwrap());
                since.elapsed()
            })
            .collect();
        times.sort();
        println!("640x360 {more}: median {:?}", times[150]);
    }
}
