//! Slots, gaps, pace, loops, stopping and dropping.

use super::*;

fn children_of_this_process() -> Vec<String> {
    let me = std::process::id().to_string();
    let out = Command::new("ps")
        .args(["--ppid", &me, "-o", "stat=,args="])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_looping_file_goes_on_in_number_and_time() {
    let dir = TempDir::new().unwrap();
    let file = ffmpeg(
        &dir,
        "x.avi",
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=32x32:rate=20",
            "-frames:v",
            "5",
        ],
    );
    let opts = SourceOptions {
        loop_: true,
        ..SourceOptions::new(name(), &file)
    };
    let mut source = opened(&opts);
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let (mut wraps, mut seen) = (Vec::new(), Vec::new());
    while seen.len() < 13 {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Frame(f) => {
                seen.push((f.meta().frame_id, f.meta().t_ns, hash(f.pixels())))
            }
            SourceEvent::Wrapped => wraps.push(seen.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(wraps, [5, 10]);
    for (i, (id, t_ns, pixels)) in seen.iter().enumerate() {
        assert_eq!((*id, *t_ns), (i as u64, i as i64 * 50 * NS_PER_MS));
        assert_eq!(*pixels, seen[i % 5].2);
    }
    stop.stop();
    assert!(matches!(
        source.next(&pool, &stop),
        Ok(SourceEvent::Stopped)
    ));
    assert!(matches!(source.next(&pool, &stop), Ok(SourceEvent::End(_))));
}

#[test]
fn a_source_dropped_half_way_leaves_no_child() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("dropped-half-way.avi");
    std::fs::copy(asset("videos/vtest.avi"), &file).unwrap();
    let mut source = opened(&SourceOptions::new(name(), file.to_str().unwrap()));
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    assert!(matches!(
        source.next(&pool, &stop),
        Ok(SourceEvent::Frame(_))
    ));
    let ours = |lines: Vec<String>| {
        lines
            .iter()
            .filter(|l| l.contains("dropped-half-way"))
            .count()
    };
    assert_eq!(ours(children_of_this_process()), 1);
    drop(source);
    assert_eq!(
        ours(children_of_this_process()),
        0,
        "neither running nor a zombie"
    );
}

#[test]
fn a_source_as_fast_as_possible_waits_for_a_slot_and_stops_when_asked() {
    let mut source = opened(&SourceOptions::new(name(), asset("videos/tree.avi")));
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    let waiting = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            let event = source.next(&pool, &stop);
            (source, event)
        }
    });
    drop(held);
    let (mut source, event) = waiting.join().unwrap();
    let Ok(SourceEvent::Frame(held)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(held.meta().frame_id, 1, "nothing was dropped");
    let waiting = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || source.next(&pool, &stop).map(|e| format!("{e:?}"))
    });
    stop.stop();
    assert_eq!(waiting.join().unwrap().unwrap(), "Stopped");
    drop(held);
}

#[test]
fn a_realtime_source_without_a_free_slot_drops_counts_and_goes_on() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    // Always late: nothing waits, every picture is due at once.
    struct Late(std::sync::atomic::AtomicI64);
    impl Clock for Late {
        fn now_ns(&self) -> i64 {
            self.0
                .fetch_add(3_600 * NS_PER_S, std::sync::atomic::Ordering::SeqCst)
        }
    }
    let clock = Arc::new(Late(std::sync::atomic::AtomicI64::new(0)));
    let mut source = open(&opts, clock).unwrap();
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    let mut lost = 0;
    // The pool is exhausted: an open gap is reported each second of source time.
    for _ in 0..3 {
        match source.next(&pool, &stop).unwrap() {
            SourceEvent::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::PoolExhausted);
                assert_eq!(gap.lost, 10, "{gap:?}");
                assert_eq!(
                    (gap.from_ns, gap.to_ns),
                    (lost * NS_PER_S / 10, (lost + 10) * NS_PER_S / 10)
                );
                lost += 10;
            }
            other => panic!("{other:?}"),
        }
    }
    drop(held);
    let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
        panic!("no frame after the gap");
    };
    assert_eq!(
        frame.meta().frame_id,
        31,
        "every lost picture has used up its number"
    );
    assert_eq!(frame.meta().t_ns, 31 * NS_PER_S / 10);
}

#[test]
fn a_gap_comes_before_the_frame_that_follows_it() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    let clock = Arc::new(ManualClock::default());
    let mut source = open(&opts, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let (pool, stop) = (pool_for(source.info(), 1), StopFlag::new());
    let Ok(SourceEvent::Frame(held)) = source.next(&pool, &stop) else {
        panic!("no frame");
    };
    // Frames 1 to 3 are due, 4 is not; without a slot they are lost.
    clock.advance(300 * NS_PER_MS);
    let next = std::thread::spawn({
        let (pool, stop) = (pool.clone(), stop.clone());
        move || {
            let event = source.next(&pool, &stop);
            (source, event)
        }
    });
    while pool.stats().exhausted < 3 {
        std::thread::yield_now();
    }
    drop(held);
    clock.advance(100 * NS_PER_MS);
    let (mut source, event) = next.join().unwrap();
    let Ok(SourceEvent::Gap(gap)) = event else {
        panic!("{event:?}");
    };
    let want = Gap {
        lost: 3,
        from_ns: 0,
        to_ns: 400 * NS_PER_MS,
        cause: GapCause::PoolExhausted,
    };
    assert_eq!(gap, want);
    let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
        panic!("no frame after the gap");
    };
    assert_eq!(
        (frame.meta().frame_id, frame.meta().t_ns),
        (4, 400 * NS_PER_MS)
    );
}

#[test]
fn a_realtime_source_is_paced_by_its_times_on_the_clock_it_is_given() {
    let opts = SourceOptions {
        realtime: true,
        ..SourceOptions::new(name(), asset("videos/vtest.avi"))
    };
    let clock = Arc::new(MonotonicClock::new());
    let mut source = open(&opts, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let (pool, stop) = (pool_for(source.info(), 2), StopFlag::new());
    let mut first = None;
    for _ in 0..8 {
        let Ok(SourceEvent::Frame(frame)) = source.next(&pool, &stop) else {
            panic!("no frame");
        };
        let now = clock.now_ns();
        let first = *first.get_or_insert(now);
        // Never early; how late depends on the machine. The anchor is taken before the first
        // frame is read, so the first itself is late by as much.
        assert!(
            now - first + 20 * NS_PER_MS >= frame.meta().t_ns,
            "{}",
            frame.meta().frame_id
        );
    }
}

#[test]
fn a_pool_of_another_format_is_refused() {
    let mut source = opened(&SourceOptions::new(name(), asset("videos/tree.avi")));
    let other = SourceInfo {
        layout: ImageLayout::packed(PixelFormat::I420, 64, 64, Default::default()),
        ..source.info().clone()
    };
    let error = source
        .next(&pool_for(&other, 1), &StopFlag::new())
        .unwrap_err();
    assert!(
        matches!(
            error,
            SourceError::Slot {
                need: 115_200,
                have: 6_144,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn sources_can_be_opened_in_any_thread_at_the_same_time() {
    let file = asset("videos/tree.avi");
    let all: Vec<_> = (0..3)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || of_file(&file).hashes)
        })
        .collect();
    let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(all[0] == all[1] && all[1] == all[2]);
    assert_eq!(all[0].len(), 68);
}
