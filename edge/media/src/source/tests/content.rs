//! Pictures, times, colours and names: what comes out is what the file holds.

use super::*;

#[test]
fn vtest_gives_795_frames_at_exact_times_with_ffmpegs_pixels() {
    let file = asset("videos/vtest.avi");
    let mut source = opened(&SourceOptions::new(name(), &file));
    let info = source.info().clone();
    assert_eq!((info.layout.width, info.layout.height), (768, 576));
    assert_eq!(info.layout.format, PixelFormat::I420);
    assert_eq!(info.nominal_fps, Some(10.0));
    assert_eq!(info.duration_ns, Some(79_500 * NS_PER_MS));
    assert_eq!(info.description, "ffmpeg msmpeg4v3 768x576 10 fps");
    let got = whole(&mut *source);
    assert_eq!(got.ids, (0..795).collect::<Vec<_>>());
    let want: Vec<i64> = (0..795).map(|i| i * 100 * NS_PER_MS).collect();
    assert_eq!(got.times, want);
    let want = raw_hashes(&file, "yuv420p", info.layout.bytes());
    assert_eq!(want.len(), 795);
    assert!(got.hashes == want, "pixels differ from ffmpeg's own");
    let end = EndInfo {
        frames: 795,
        lost: 0,
        last_t_ns: Some(79_400 * NS_PER_MS),
    };
    assert_eq!(got.end.unwrap(), end);
}

#[test]
fn pictures_in_another_order_than_their_packets_come_out_in_time_order() {
    let file = asset("videos/carphone_pristine.mp4");
    let got = of_file(&file);
    let (ticks, num, den) = ffprobe_times(&file);
    assert_eq!(got.times, ns(&ticks, num, den));
    assert!(got.hashes == raw_hashes(&file, "yuv420p", 176 * 144 * 3 / 2));
    assert_eq!(got.hashes.len(), 120);
}

#[test]
fn pictures_that_are_missing_in_a_file_are_not_made_up() {
    // tree.avi announces 444 pictures and has 68, most of them repeated by their times.
    let file = asset("videos/tree.avi");
    let got = of_file(&file);
    let (ticks, num, den) = ffprobe_times(&file);
    assert_eq!(got.times.len(), 68);
    assert_eq!(got.times, ns(&ticks, num, den));
    got.end.unwrap();
}

#[test]
fn a_variable_rate_file_of_60_frames_gives_60_frames_at_their_own_times() {
    let dir = TempDir::new().unwrap();
    let pts = "settb=1/30000,setpts=(N*1000+N*N*7+if(mod(N\\,3)\\,411\\,0)+15000)/30000/TB";
    for (out, codec) in [
        (
            "v.mp4",
            &[
                "-c:v",
                "mpeg4",
                "-bf",
                "2",
                "-video_track_timescale",
                "30000",
            ][..],
        ),
        ("v.mkv", &["-c:v", "ffv1"]),
        ("v.ts", &["-c:v", "mpeg4", "-bf", "2"]),
    ] {
        let mut args = vec![
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=160x120:rate=30",
            "-vf",
            pts,
        ];
        args.extend([
            "-frames:v",
            "60",
            "-vsync",
            "passthrough",
            "-enc_time_base",
            "1:30000",
        ]);
        args.extend(["-pix_fmt", "yuv420p"]);
        args.extend(codec);
        let file = ffmpeg(&dir, out, &args);
        let (ticks, num, den) = ffprobe_times(&file);
        let want = ns(&ticks, num, den);
        let steps: std::collections::BTreeSet<_> = want.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(steps.len() > 10, "{out} is not of variable rate: {steps:?}");
        let got = of_file(&file);
        assert_eq!(got.times.len(), 60, "{out}");
        assert_eq!(got.times, want, "{out}");
        got.end.unwrap();
    }
}

#[test]
fn colours_and_shapes_are_what_the_file_says() {
    let dir = TempDir::new().unwrap();
    let source = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x48:rate=10",
        "-frames:v",
        "3",
    ];
    let made = |out: &str, args: &[&str]| ffmpeg(&dir, out, &[&source[..], args].concat());
    let color = |file: &str| {
        opened(&SourceOptions::new(name(), file))
            .info()
            .layout
            .color
    };
    let hd = [
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv420p",
        "-colorspace",
        "bt709",
        "-color_range",
        "tv",
    ];
    let hd = made("709.mkv", &hd);
    assert_eq!(color(&hd).matrix, ColorMatrix::Bt709);
    assert!(of_file(&hd).hashes == raw_hashes(&hd, "yuv420p", 64 * 48 * 3 / 2));
    // Full range stays full: no sample is changed on the way.
    let full = made(
        "full.avi",
        &["-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2"],
    );
    assert_eq!(color(&full).range, ColorRange::Full);
    assert!(of_file(&full).hashes == raw_hashes(&full, "yuvj420p", 64 * 48 * 3 / 2));
    // RGB becomes BT.601 limited, as ffmpeg's own conversion has it.
    let rgb = made("rgb.avi", &["-c:v", "rawvideo", "-pix_fmt", "bgr24"]);
    assert_eq!(color(&rgb), visualpath_core::ColorSpec::default());
    assert_eq!(of_file(&rgb).hashes.len(), 3);
    // Ten bits become eight, odd sides stay odd.
    let deep = [
        "-vf",
        "scale=33:17",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv422p10le",
    ];
    let deep = made("deep.mkv", &deep);
    let source = opened(&SourceOptions::new(name(), &deep));
    assert_eq!(
        (source.info().layout.width, source.info().layout.height),
        (33, 17)
    );
    assert_eq!(of_file(&deep).hashes.len(), 3);
    // A turned picture is upright: width and height change places.
    let flat = made("flat.mp4", &["-c:v", "mpeg4"]);
    let args = ["-i", &flat, "-c", "copy", "-metadata:s:v", "rotate=90"];
    let turned = ffmpeg(&dir, "turned.mp4", &args);
    let info = opened(&SourceOptions::new(name(), &turned)).info().clone();
    assert_eq!((info.layout.width, info.layout.height), (48, 64));
    assert_eq!(of_file(&turned).hashes.len(), 3);
}

#[test]
fn a_name_that_looks_like_an_option_or_a_protocol_is_a_file() {
    let dir = TempDir::new().unwrap();
    let file = ffmpeg(
        &dir,
        "x.avi",
        &["-f", "lavfi", "-i", "testsrc2=size=32x32", "-frames:v", "2"],
    );
    for odd in ["-i.avi", "concat:a|b.avi", "a b%03d'.avi", "ümlaut.avi"] {
        let odd = dir.path().join(odd);
        std::fs::copy(&file, &odd).unwrap();
        assert_eq!(of_file(odd.to_str().unwrap()).ids, [0, 1], "{odd:?}");
        let uri = format!("file:{}", odd.display());
        assert_eq!(of_file(&uri).ids, [0, 1], "{uri}");
    }
}
