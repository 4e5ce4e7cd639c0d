//! Bare sequences of JPEGs.

use super::*;

/// JPEGs of a test pattern, one after the other.
fn jpegs(dir: &TempDir, out: &str, pix_fmt: &str, size: &str) -> String {
    let input = format!("testsrc2=size={size}:rate=25");
    let args = [
        "-f",
        "lavfi",
        "-i",
        &input,
        "-frames:v",
        "6",
        "-pix_fmt",
        pix_fmt,
    ];
    ffmpeg(
        dir,
        out,
        &[&args[..], &["-c:v", "mjpeg", "-q:v", "3", "-f", "mjpeg"]].concat(),
    )
}

#[test]
fn bare_jpegs_are_decoded_here_as_ffmpeg_decodes_them() {
    let dir = TempDir::new().unwrap();
    let file = jpegs(&dir, "a.mjpeg", "yuvj420p", "96x64");
    let mut source = opened(&SourceOptions {
        fps: Some(30.0),
        ..SourceOptions::new(name(), &file)
    });
    let info = source.info().clone();
    assert_eq!(info.description, "libjpeg-turbo mjpeg 96x64 30 fps");
    assert_eq!(
        (info.layout.format, info.layout.color.range),
        (PixelFormat::I420, ColorRange::Full)
    );
    let raw = Command::new("ffmpeg")
        .args([
            "-v", "error", "-nostdin", "-i", &file, "-f", "rawvideo", "-pix_fmt", "yuvj420p",
            "pipe:1",
        ])
        .output()
        .unwrap()
        .stdout;
    let (pool, stop) = (pool_for(&info, 1), StopFlag::new());
    for (i, want) in raw.chunks_exact(info.layout.bytes()).enumerate() {
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame {i}");
        };
        assert_eq!(frame.meta().t_ns, (i as f64 * 1e9 / 30.0).round() as i64);
        // Two inverse DCTs may round a sample differently (T.83 allows it), never by more.
        let worst = frame
            .pixels()
            .iter()
            .zip(want)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(worst <= Some(2), "frame {i}: {worst:?}");
    }
    assert_eq!(pool.stats().copies, 0, "decoded straight into the slot");
    assert!(matches!(source.next(&pool, &stop), Ok(SourceEvent::End(_))));
    let default = opened(&SourceOptions::new(name(), &file));
    assert_eq!(default.info().nominal_fps, Some(25.0));
}

#[test]
fn other_samplings_and_odd_sides_become_the_same_picture_in_420() {
    use turbojpeg::Subsamp;
    let dir = TempDir::new().unwrap();
    for (subsamp, (width, height)) in [
        (Subsamp::Sub2x1, (96, 64)),
        (Subsamp::None, (96, 64)),
        (Subsamp::Sub1x2, (96, 64)),
        (Subsamp::Sub4x1, (96, 64)),
        (Subsamp::Sub2x2, (95, 63)),
        (Subsamp::None, (33, 1)),
        (Subsamp::Gray, (95, 63)),
    ] {
        let pixels: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [20 + 2 * x, 200 - 2 * y, 60 + x + y].map(|v| v as u8)
            })
            .collect();
        let image = turbojpeg::Image {
            pixels: &pixels[..],
            width,
            pitch: width * 3,
            height,
            format: turbojpeg::PixelFormat::RGB,
        };
        let jpeg = turbojpeg::compress(image, 95, subsamp).unwrap();
        let file = dir.path().join("one.mjpg");
        std::fs::write(&file, &jpeg[..]).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let mut source = opened(&SourceOptions::new(name(), &file));
        let info = source.info().clone();
        let grey = subsamp == Subsamp::Gray;
        assert_eq!(info.layout.format == PixelFormat::Grey, grey);
        let to = if grey { "gray" } else { "yuvj420p" };
        let raw = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-nostdin",
                "-i",
                &file,
                "-vf",
                "scale=flags=area",
            ])
            .args(["-f", "rawvideo", "-pix_fmt", to, "pipe:1"])
            .output()
            .unwrap()
            .stdout;
        let (pool, stop) = (pool_for(&info, 1), StopFlag::new());
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame");
        };
        let want = &raw[..info.layout.bytes()];
        let sum: u64 = frame
            .pixels()
            .iter()
            .zip(want)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        let mean = sum as f64 / want.len() as f64;
        assert!(
            mean < 1.0,
            "{subsamp:?} {width}x{height}: mean difference {mean}"
        );
    }
}

#[test]
fn a_broken_jpeg_costs_one_frame_and_is_said_at_the_end() {
    let dir = TempDir::new().unwrap();
    let file = jpegs(&dir, "a.mjpeg", "yuvj420p", "96x64");
    let good = of_file(&file);
    let bytes = std::fs::read(&file).unwrap();
    let starts: Vec<usize> = bytes
        .windows(3)
        .enumerate()
        .filter(|(_, w)| *w == [0xFF, 0xD8, 0xFF])
        .map(|(i, _)| i)
        .collect();
    assert_eq!(starts.len(), 6);
    // The third without its second half, and the last cut short.
    let half = starts[2] + (starts[3] - starts[2]) / 2;
    let broken = [&bytes[..half], &bytes[starts[3]..bytes.len() - 100]].concat();
    std::fs::write(&file, broken).unwrap();
    let got = of_file(&file);
    assert_eq!(got.ids, [0, 1, 3, 4]);
    assert_eq!(got.times, [0, 1, 3, 4].map(|i| i * 40 * NS_PER_MS));
    assert!(got.hashes == [0, 1, 3, 4].map(|i| good.hashes[i]));
    let lost: Vec<_> = got.gaps.iter().map(|g| (g.lost, g.cause)).collect();
    assert_eq!(lost, [(1, GapCause::Undecodable); 2]);
    let error = got.end.unwrap_err().to_string();
    assert!(error.contains("2 of its 6 JPEGs"), "{error}");
}

#[test]
fn a_picture_of_another_size_is_announced_before_it_comes() {
    let dir = TempDir::new().unwrap();
    let small = std::fs::read(jpegs(&dir, "a.mjpeg", "yuvj420p", "64x48")).unwrap();
    let large = std::fs::read(jpegs(&dir, "b.mjpeg", "yuvj420p", "96x64")).unwrap();
    let file = dir.path().join("c.mjpeg");
    std::fs::write(&file, [small, large].concat()).unwrap();
    let mut source = opened(&SourceOptions::new(name(), file.to_str().unwrap()));
    let (mut pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let mut seen = Vec::new();
    loop {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                seen.push((f.meta().frame_id, f.meta().epoch, f.layout().width))
            }
            SourceEvent::NewFormat(info) => pool = pool_for(&info, 1),
            SourceEvent::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let want: Vec<_> = (0..12)
        .map(|i| if i < 6 { (i, 0, 64) } else { (i, 1, 96) })
        .collect();
    assert_eq!(seen, want);
}
