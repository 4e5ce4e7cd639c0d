//! What is missing, no video, cut short or wrong.

use std::io::Write;

use super::*;

#[test]
fn what_is_no_video_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let written = |name: &str, bytes: &[u8]| {
        std::fs::write(path(name), bytes).unwrap();
        path(name)
    };
    let sine = ["-f", "lavfi", "-i", "sine=duration=1"];
    let fifo = path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let text = "Two roads diverged in a yellow wood.\n".repeat(50);
    for (uri, kind, says) in [
        (path("missing.mp4"), "NotFound", "no such file"),
        (path("."), "NotAFile", "a directory"),
        (fifo, "NotAFile", "a pipe"),
        (written("empty.mp4", b""), "NotAVideo", "it is empty"),
        (
            written("text.mp4", text.as_bytes()),
            "NotAVideo",
            "moov atom not found",
        ),
        (written("text.txt", text.as_bytes()), "NotAVideo", "text"),
        (
            written("noise.avi", &[0x5A; 5000]),
            "NotAVideo",
            "Invalid data",
        ),
        (
            ffmpeg(&dir, "a.wav", &sine),
            "NotAVideo",
            "without a video stream",
        ),
        (
            ffmpeg(&dir, "a.mka", &sine),
            "NotAVideo",
            "without a video stream",
        ),
        (
            written("no.mjpeg", b"\xFF\xD8\xFF\xE0no"),
            "Damaged",
            "no JPEG",
        ),
        ("http://10.0.0.1/s".into(), "Unsupported", "network streams"),
        ("exec:".into(), "Unsupported", "no command"),
        ("synthetic:?widht=1".into(), "Parameter", "`width`"),
        (String::new(), "Unsupported", "empty"),
    ] {
        let error = refused(&uri);
        let text = error.to_string();
        assert!(format!("{error:?}").starts_with(kind), "{uri}: {error:?}");
        assert!(text.contains(says), "{uri}: {text}");
        assert!(text.contains(uri.trim_end_matches("/.")), "{text}");
        assert!(text.lines().count() == 1 && text.len() < 1200, "{text}");
    }
}

#[test]
fn a_truncated_file_gives_every_frame_before_the_cut_and_then_says_so() {
    let dir = TempDir::new().unwrap();
    let cut = |file: &str, out: &str, bytes: usize| {
        let path = dir.path().join(out);
        std::fs::write(&path, &std::fs::read(file).unwrap()[..bytes]).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (avi, mp4) = (
        asset("videos/vtest.avi"),
        asset("videos/carphone_pristine.mp4"),
    );
    // The index first, so that the cut takes pictures and not the index.
    let args = ["-i", &mp4, "-c", "copy", "-movflags", "+faststart"];
    let mp4_first = ffmpeg(&dir, "first.mp4", &args);
    let mkv = ffmpeg(&dir, "whole.mkv", &["-i", &mp4, "-c", "copy"]);
    for (whole_file, name, bytes, at_least) in [
        (&avi, "t.avi", 4_000_000, 380),
        (&mp4_first, "t.mp4", 300_000, 50),
        (&mkv, "t.mkv", 300_000, 50),
    ] {
        let got = of_file(&cut(whole_file, name, bytes));
        let good = of_file(whole_file);
        let error = got.end.unwrap_err();
        let SourceError::Damaged {
            frames_delivered, ..
        } = &error
        else {
            panic!("{name}: {error:?}");
        };
        assert_eq!(*frames_delivered, got.ids.len() as u64, "{name}");
        assert!(
            got.ids.len() >= at_least && got.ids.len() < good.ids.len(),
            "{name}"
        );
        // Some of the last pictures hang on what is cut off; all before are the whole file's.
        let same = got.hashes.len() - 4;
        assert!(got.hashes[..same] == good.hashes[..same], "{name}");
        assert_eq!(got.times[..same], good.times[..same], "{name}");
    }
    let no_index = refused(&cut(&mp4, "noindex.mp4", 60_000));
    assert!(
        matches!(
            no_index,
            SourceError::Damaged {
                frames_delivered: 0,
                ..
            }
        ),
        "{no_index:?}"
    );
}

#[test]
fn an_avi_cut_between_two_pictures_is_damaged_too() {
    // ffmpeg finds nothing wrong with it: the RIFF length does.
    let dir = TempDir::new().unwrap();
    let whole_file = std::fs::read(asset("videos/vtest.avi")).unwrap();
    let starts: Vec<usize> = whole_file
        .windows(4)
        .enumerate()
        .filter(|(_, w)| *w == b"00dc")
        .map(|(i, _)| i)
        .collect();
    let file = dir.path().join("t.avi");
    std::fs::write(&file, &whole_file[..starts[20]]).unwrap();
    let got = of_file(file.to_str().unwrap());
    assert_eq!(got.ids.len(), 20);
    let error = got.end.unwrap_err().to_string();
    assert!(
        error.contains("cut off") && error.contains("20 frames were delivered"),
        "{error}"
    );
}

#[test]
fn a_file_with_wrong_bits_ends_in_an_error_and_not_in_end() {
    let dir = TempDir::new().unwrap();
    for (file, out) in [
        ("videos/vtest.avi", "f.avi"),
        ("videos/carphone_pristine.mp4", "f.mp4"),
    ] {
        let mut bytes = std::fs::read(asset(file)).unwrap();
        let third = bytes.len() / 3;
        for k in 0..40_usize {
            bytes[third + k * (third / 41)] ^= 1 << (k % 8);
        }
        let path = dir.path().join(out);
        std::fs::write(&path, &bytes).unwrap();
        let got = of_file(path.to_str().unwrap());
        let error = got.end.unwrap_err();
        assert!(matches!(error, SourceError::Damaged { .. }), "{error:?}");
        assert!(got.ids.len() >= 30, "{out}: only {} frames", got.ids.len());
    }
}

#[test]
fn no_mutilated_file_hangs_or_panics() {
    let dir = TempDir::new().unwrap();
    let args = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x64:rate=10",
        "-frames:v",
        "12",
    ];
    for out in ["m.mp4", "m.avi", "m.mkv", "m.mjpeg"] {
        let good = std::fs::read(ffmpeg(&dir, out, &args)).unwrap();
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for round in 0..6 {
            let mut bytes = good.clone();
            for _ in 0..=round * 4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 11) as u8;
            }
            let path = dir.path().join(format!("bad-{out}"));
            std::fs::write(&path, &bytes).unwrap();
            let opts = SourceOptions::new(name(), path.to_str().unwrap());
            let Ok(mut source) = open(&opts, Arc::new(ManualClock::default())) else {
                continue;
            };
            let (mut pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
            let mut events = 0;
            loop {
                match source.next(&pool, &stop) {
                    Ok(SourceEvent::End(_)) | Err(_) => break,
                    Ok(SourceEvent::NewFormat(info)) => pool = pool_for(&info, 2),
                    Ok(_) => {}
                }
                events += 1;
                assert!(events < 1000, "{out} round {round} does not end");
            }
        }
    }
}

#[test]
fn a_missing_ffmpeg_is_named_with_its_package() {
    let file = asset("videos/tree.avi");
    let tools = [("no-such-ffmpeg", "ffprobe"), ("ffmpeg", "no-such-ffprobe")];
    for ((ffmpeg, ffprobe), program) in tools.into_iter().zip(["ffmpeg", "ffprobe"]) {
        let tools = Tools {
            ffmpeg: ffmpeg.into(),
            ffprobe: ffprobe.into(),
        };
        let Err(error) = FfmpegPictures::open_with(tools, Path::new(&file), 1, b"RIFF") else {
            panic!("it was found");
        };
        assert!(
            matches!(error, SourceError::FfmpegMissing { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&format!("`{program}`")) && text.contains("apt install ffmpeg"),
            "{text}"
        );
    }
}

#[test]
fn a_decoder_that_dies_is_not_taken_for_a_damaged_file() {
    let dir = TempDir::new().unwrap();
    let file = asset("videos/vtest.avi");
    // Writes the beginning of the stream and is killed.
    let script = dir.path().join("dying-ffmpeg");
    let text = "#!/bin/sh\nffmpeg \"$@\" | head -c 3000000\nkill -KILL $$\n";
    std::fs::File::create(&script)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let chmod = Command::new("chmod")
        .arg("+x")
        .arg(&script)
        .status()
        .unwrap();
    assert!(chmod.success());
    let tools = Tools {
        ffmpeg: script.into(),
        ffprobe: "ffprobe".into(),
    };
    let pictures = FfmpegPictures::open_with(tools, Path::new(&file), 1, b"RIFF").unwrap();
    let opts = SourceOptions::new(name(), &file);
    let clock = Arc::new(ManualClock::default());
    let mut source = file::FileSource::new(&opts, file.into(), clock, pictures);
    let got = whole(&mut source);
    assert_eq!(got.ids, [0, 1, 2, 3]);
    let error = got.end.unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Decoder {
                frames_delivered: 4,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("signal: 9"), "{error}");
}
