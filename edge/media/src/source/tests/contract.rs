//! What every kind of source promises, file or not: one suite, run over each.

use super::*;

/// One source of each kind, none longer than 100 pictures, each with its layout's bytes known.
fn every_kind(dir: &TempDir) -> Vec<String> {
    let jpegs = ffmpeg(
        dir,
        "x.mjpeg",
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=64x48:rate=25",
            "-frames:v",
            "9",
            "-c:v",
            "mjpeg",
        ],
    );
    vec![
        asset("videos/tree.avi"),
        jpegs,
        "synthetic:?width=64&height=48&frames=9".to_owned(),
        "synthetic:?width=64&height=48&frames=40&gap_every=10&gap_frames=3&jitter_ms=7".to_owned(),
    ]
}

fn options(uri: &str) -> SourceOptions {
    SourceOptions::new(name(), uri)
}

#[test]
fn numbers_are_dense_over_frames_and_losses_and_times_increase() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let got = of_file(&uri);
        let end = got.end.unwrap();
        assert_eq!(end.frames, got.ids.len() as u64, "{uri}");
        let lost: u64 = got.gaps.iter().map(|g| g.lost).sum();
        assert_eq!(end.lost, lost, "{uri}");
        let last = got.ids.last().unwrap();
        assert!(
            *last < end.frames + lost,
            "{uri}: {last} of {end:?} and {lost} lost"
        );
        assert!(got.ids.windows(2).all(|w| w[0] < w[1]), "{uri}");
        let missing: u64 = got.ids.windows(2).map(|w| w[1] - w[0] - 1).sum();
        let at_the_end = end.frames + lost - 1 - last;
        assert_eq!(missing + at_the_end, lost, "{uri}");
        assert_eq!(got.times[0], 0, "{uri}");
        assert!(got.times.windows(2).all(|w| w[0] < w[1]), "{uri}");
    }
}

#[test]
fn the_same_source_gives_the_same_pictures_again() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let (a, b) = (of_file(&uri), of_file(&uri));
        assert_eq!(a.times, b.times, "{uri}");
        assert!(a.hashes == b.hashes, "{uri}");
    }
}

#[test]
fn a_pool_of_another_format_is_refused_and_nothing_follows() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let mut source = opened(&options(&uri));
        let other = SourceInfo {
            layout: ImageLayout::packed(PixelFormat::I420, 62, 64, Default::default()),
            ..source.info().clone()
        };
        let (pool, stop) = (pool_for(&other, 1), StopFlag::new());
        let error = source.next(&pool, &stop).unwrap_err();
        assert!(matches!(error, SourceError::Slot { .. }), "{uri}: {error}");
        assert!(error.to_string().contains(&uri), "{error}");
        let after = source.next(&pool, &stop);
        assert!(matches!(after, Ok(SourceEvent::End(_))), "{uri}: {after:?}");
    }
}

#[test]
fn without_pace_it_waits_for_a_slot_and_stops_when_asked() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let mut source = opened(&options(&uri));
        let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
        let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
            panic!("{uri}: no frame");
        };
        let waiting = std::thread::spawn({
            let (pool, stop) = (pool.clone(), stop.clone());
            move || {
                let event = source.next(&pool, &stop);
                (source, event)
            }
        });
        stop.stop();
        let (mut source, event) = waiting.join().unwrap();
        assert!(
            matches!(event, Ok(SourceEvent::Stopped)),
            "{uri}: {event:?}"
        );
        drop(held);
        let after = source.next(&pool, &StopFlag::new());
        assert!(matches!(after, Ok(SourceEvent::End(_))), "{uri}: {after:?}");
    }
}

#[test]
fn a_loop_goes_on_in_number_and_time_with_the_same_distances() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let once = of_file(&uri);
        let mut source = opened(&SourceOptions {
            loop_: true,
            ..options(&uri)
        });
        let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
        let (mut ids, mut times, mut epochs, mut wraps) = (vec![], vec![], vec![], 0);
        while ids.len() < once.ids.len() * 2 {
            match source.next(&pool, &stop).unwrap() {
                SourceEvent::Frame(f) => {
                    ids.push(f.meta().frame_id);
                    times.push(f.meta().t_ns);
                    epochs.push(f.meta().epoch);
                }
                SourceEvent::Wrapped => wraps += 1,
                SourceEvent::Gap(_) => {}
                other => panic!("{uri}: {other:?}"),
            }
        }
        let n = once.ids.len();
        assert_eq!(wraps, 1, "{uri}");
        assert_eq!(ids[..n], once.ids, "{uri}");
        let end = once.end.unwrap();
        let shift = end.frames + end.lost;
        let again: Vec<u64> = once.ids.iter().map(|id| id + shift).collect();
        assert_eq!(ids[n..], again, "{uri}");
        let base = times[n];
        assert!(base > times[n - 1], "{uri}");
        let again: Vec<i64> = once.times.iter().map(|t| t + base).collect();
        assert_eq!(times[n..], again, "{uri}");
        assert!(epochs[n] > epochs[n - 1], "{uri}: a new epoch");
    }
}

#[test]
fn with_pace_a_picture_is_never_early_and_one_without_a_slot_is_counted_as_lost() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let clock = Arc::new(ManualClock::default());
        let opts = SourceOptions {
            realtime: true,
            ..options(&uri)
        };
        let mut source = open(&opts, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
        let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
            panic!("{uri}: no frame");
        };
        // Everything is due at once now, and there is no slot for any of it.
        clock.advance(3600 * NS_PER_S);
        let mut lost = 0;
        loop {
            match source.next(&pool, &stop).unwrap() {
                SourceEvent::Gap(gap) => lost += gap.lost,
                SourceEvent::End(end) => {
                    assert_eq!((end.frames, end.lost), (1, lost), "{uri}");
                    break;
                }
                other => panic!("{uri}: {other:?}"),
            }
        }
        let whole = of_file(&uri).end.unwrap();
        assert_eq!(lost + 1, whole.frames + whole.lost, "{uri}");
        drop(held);
    }
}

/// Worker processes can read every slot there is: unmasked pixels must never be in one, not even in
/// a slot that was filled and not published.
#[test]
fn what_is_private_is_in_no_slot_at_any_moment() {
    let dir = TempDir::new().unwrap();
    for uri in every_kind(&dir) {
        let opts = SourceOptions {
            privacy: vec![vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]],
            ..options(&uri)
        };
        let mut source = opened(&opts);
        let layout = source.info().layout;
        let pool = pool_for(source.info(), 1);
        // What the driver or decoder leaves behind would be here.
        let look = |pool: &FramePool| {
            let mut slot = pool.try_acquire().unwrap();
            let range = layout.planes()[0];
            let luma = slot.room_mut()[range.offset..range.offset + range.row_bytes].to_vec();
            drop(slot);
            luma.iter().all(|p| *p == luma[0])
        };
        let stop = StopFlag::new();
        let mut frames = 0;
        while frames < 3 {
            match source.next(&pool, &stop).unwrap() {
                SourceEvent::Frame(frame) => {
                    let first = frame.pixels()[0];
                    let luma = layout.planes()[0];
                    let row = &frame.pixels()[luma.offset..luma.offset + luma.row_bytes];
                    assert!(row.iter().all(|p| *p == first), "{uri}");
                    frames += 1;
                }
                SourceEvent::End(_) => break,
                _ => {}
            }
            assert!(look(&pool), "{uri}: unmasked pixels in a free slot");
        }
        assert!(frames > 0, "{uri}");
        assert_eq!(
            pool.stats().copies,
            frames,
            "{uri}: the masked picture is copied once"
        );
    }
}
