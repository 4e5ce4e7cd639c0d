//! The recovery table against a scripted camera: what the consumer sees, and who owns which buffer.

use std::sync::Arc;

use proptest::prelude::*;
use rustix::io::Errno;
use v4l::FourCC;
use visualpath_core::{ManualClock, PixelFormat};

use super::bus::Bus;
use super::device::{Memory, PixFormat};
use super::identity::Identity;
use super::rig::{GUARD, Rig, SLOTS, Seen, each_memory, offline, options, pool_for};
use super::scripted::{INTERVAL_NS, SIZE, ScriptedBus, Shared, Step, picture};
use super::source::CameraSource;
use super::stream::Stream;
use crate::source::{ControlValue, GapCause, Needs, Source, SourceError, SourceEvent, SourceInfo};

#[test]
fn userptr_frames_are_not_copied_and_mmap_ones_once() {
    for (userptr, copies) in [(true, 0), (false, 50)] {
        let mut rig = Rig::new(userptr, &[]);
        let info = rig.source.info().clone();
        assert_eq!(info.driver_slots, if userptr { 4 } else { 0 });
        assert_eq!(info.native_room > 0, userptr);
        assert_eq!(info.layout.planes()[0].stride, SIZE.0 as usize + 32);
        assert!(info.description.contains("NV12 64x48 25 fps"), "{info:?}");
        assert_eq!(rig.besides(50), []);
        assert_eq!(rig.pool.stats().copies, copies);
        let (last, _) = rig.kept.back().unwrap();
        assert_eq!(last.pixels()[0], picture(50));
        rig.end();
    }
}

#[test]
fn a_damaged_or_short_buffer_is_counted_and_queued_again() {
    // More of them than there are buffers.
    let mut script = vec![Step::Damaged; 6];
    script.extend([Step::Short, Step::Short]);
    script.insert(0, Step::Picture);
    each_memory(&script, |rig| {
        assert_eq!(rig.besides(4), [Seen::Gap(GapCause::DriverError, 8)]);
        assert_eq!(rig.world.lock().starts, 1, "not opened again");
    });
}

#[test]
fn eagain_and_eintr_are_tried_again() {
    let steps = [Errno::AGAIN, Errno::INTR].map(Step::Dequeue);
    let polls = [Errno::INTR].map(Step::Poll);
    let script: Vec<_> = steps.into_iter().chain(polls).collect();
    each_memory(&script, |rig| {
        assert_eq!(rig.besides(3), []);
        assert_eq!(rig.world.lock().starts, 1);
    });
}

#[test]
fn eio_and_pollerr_reopen_at_once_with_a_gap_and_without_offline() {
    for broken in [
        Step::Dequeue(Errno::IO),
        Step::Poll(Errno::IO),
        Step::PollError,
        Step::Queue(Errno::IO),
        Step::Nonsense,
    ] {
        each_memory(&[Step::Picture, Step::Picture, broken], |rig| {
            let before = rig.clock_ns();
            let seen = rig.besides(6);
            let gaps: Vec<_> = seen
                .iter()
                .filter(|s| matches!(s, Seen::Gap(GapCause::Stalled, 0)))
                .collect();
            assert_eq!(gaps.len(), 1, "{seen:?}");
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!(rig.world.lock().opens, 2);
            assert!(rig.clock_ns() - before < 1_000_000_000);
        });
    }
}

#[test]
fn silence_of_two_seconds_reopens() {
    each_memory(&[Step::Picture, Step::Silence(1_900_000_000)], |rig| {
        assert_eq!(rig.besides(2), [], "1.9 s are no stall");
    });
    each_memory(&[Step::Picture, Step::Silence(2_500_000_000)], |rig| {
        let seen = rig.besides(4);
        assert!(seen.contains(&Seen::Gap(GapCause::Stalled, 0)), "{seen:?}");
        assert_eq!(rig.world.lock().opens, 2);
    });
}

#[test]
fn a_reopening_that_takes_long_is_told_as_offline_and_then_online() {
    let script = [Step::Picture, Step::Picture, Step::Silence(6_000_000_000)];
    each_memory(&script, |rig| {
        let seen = rig.besides(6);
        assert!(offline(&seen, "no picture for a long time"), "{seen:?}");
        let online = seen.iter().filter(|s| **s == Seen::Online).count();
        assert_eq!(online, 1, "{seen:?}");
    });
}

#[test]
fn an_unplugged_camera_is_waited_for_and_comes_back_under_another_node() {
    for sign in [Step::Unplugged(5_000_000_000), Step::Unplugged(10_000_000)] {
        each_memory(&[Step::Picture, Step::Picture, sign.clone()], |rig| {
            let first = rig.until_frames(2);
            let Some(Seen::Frame { epoch, .. }) = first.last() else {
                panic!("{first:?}")
            };
            let seen = rig.until_frames(3);
            assert!(offline(&seen, "no such camera"), "{seen:?}");
            let online = seen.iter().position(|s| *s == Seen::Online).unwrap();
            let frame = seen
                .iter()
                .position(|s| matches!(s, Seen::Frame { .. }))
                .unwrap();
            assert!(online < frame, "{seen:?}");
            assert!(
                matches!(seen[frame - 1], Seen::Gap(GapCause::Disconnected, 0)),
                "{seen:?}"
            );
            assert!(matches!(seen[frame], Seen::Frame { epoch: e, .. } if e == epoch + 1));
        });
    }
}

#[test]
fn a_camera_that_is_back_gives_frames_within_three_seconds() {
    each_memory(&[Step::Picture, Step::Unplugged(20_000_000_000)], |rig| {
        rig.until_frames(1);
        let back_at = rig.clock_ns() + 20_000_000_000;
        rig.until_frames(1);
        let took = rig.clock_ns() - back_at;
        assert!(took < 1_000_000_000, "{took}");
    });
}

#[test]
fn another_camera_at_the_old_node_is_not_taken_for_the_lost_one() {
    let mut rig = Rig::new(true, &[Step::Picture, Step::Unplugged(1)]);
    rig.until_frames(1);
    rig.world.lock().card = "Another".into();
    // The gap goes on, a second at a time.
    let seen: Vec<_> = (0..6).map(|_| rig.next()).collect();
    assert!(offline(&seen, "no such camera"), "{seen:?}");
    let frames = seen.iter().any(|s| matches!(s, Seen::Frame { .. }));
    assert!(!frames && !seen.contains(&Seen::Online), "{seen:?}");
    rig.world.lock().card = "Scripted".into();
    rig.until_frames(2);
    rig.end();
}

#[test]
fn a_camera_that_is_absent_or_busy_at_open_is_waited_for() {
    for (errno, words) in [(Errno::NOENT, "no such camera"), (Errno::BUSY, "is busy")] {
        let mut rig = Rig::with(&["NV12"], &options(), |world| {
            world.lock().fail_open = [errno; 8].into();
        });
        assert_eq!(rig.source.info().layout.width, SIZE.0, "as asked");
        assert!(rig.source.info().description.contains("waiting"));
        let seen = rig.until_frames(2);
        assert!(
            matches!(&seen[0], Seen::Offline(d) if d.contains(words)),
            "{seen:?}"
        );
        assert_eq!(seen[1..3], [Seen::NewFormat, Seen::Online], "{seen:?}");
        assert!(matches!(seen[3], Seen::Frame { id: 0, .. }));
        assert_eq!(seen.len(), 5, "{seen:?}");
        rig.end();
    }
}

#[test]
fn what_waiting_does_not_mend_is_an_error_at_open() {
    let open = |errno: Option<Errno>, fourcc: &str| {
        let clock = Arc::new(ManualClock::default());
        let world = Shared::new(clock.clone(), &[fourcc]);
        world.lock().fail_open = errno.into_iter().collect();
        world.lock().formats[0].usable = fourcc == "NV12";
        let opened = CameraSource::on(Box::new(ScriptedBus(world.clone())), &options(), clock);
        let error = match opened {
            Err(SourceError::Device(error)) => error.to_string(),
            other => panic!("{:?}", other.map(|s| s.info().clone())),
        };
        let world = world.lock();
        assert_eq!(world.opens, world.closes);
        error
    };
    assert!(open(Some(Errno::ACCESS), "NV12").contains("group `video`"));
    assert!(open(None, "RG10").contains("uri = \"libcamera:0\""));
    assert!(open(None, "XYZ8").contains("gives XYZ8"));
}

#[test]
fn a_bus_without_bandwidth_is_told_with_the_cure_and_tried_again() {
    let script = [
        Step::Picture,
        Step::Start(Errno::NOSPC),
        Step::Dequeue(Errno::IO),
    ];
    each_memory(&script, |rig| {
        let seen = rig.besides(4);
        assert!(offline(&seen, "no bandwidth left"), "{seen:?}");
        assert!(seen.contains(&Seen::Online));
    });
}

#[test]
fn a_format_changed_meanwhile_is_negotiated_anew() {
    // By another program, while the stream was stopped: ours is set again.
    each_memory(&[Step::Picture, Step::Reformatted(32, 32)], |rig| {
        let seen = rig.besides(4);
        assert!(!seen.contains(&Seen::NewFormat), "{seen:?}");
        assert_eq!(rig.source.info().layout.width, SIZE.0);
    });
    // By the device: its new one is taken.
    let script = [Step::Picture, Step::Resized(32, 32), Step::SourceChange];
    each_memory(&script, |rig| {
        let seen = rig.besides(6);
        assert!(seen.contains(&Seen::NewFormat), "{seen:?}");
        assert_eq!(rig.source.info().layout.width, 32);
        assert_eq!(rig.world.lock().opens, 1, "the same handle");
    });
}

#[test]
fn memory_that_is_refused_after_all_is_the_drivers_own_from_then_on() {
    let refused = [Step::Picture, Step::Queue(Errno::INVAL)];
    let mut rig = Rig::new(true, &refused);
    let seen = rig.besides(6);
    assert_eq!(
        seen,
        [Seen::Gap(GapCause::Stalled, 0)],
        "once is an accident"
    );
    for _ in 0..2 {
        rig.world.lock().script.extend(refused.clone());
    }
    let seen = rig.besides(12);
    assert!(seen.contains(&Seen::NewFormat), "{seen:?}");
    assert_eq!(rig.source.info().driver_slots, 0);
    assert!(rig.pool.stats().copies > 0);
    rig.end();
}

#[test]
fn a_stream_that_cannot_be_stopped_keeps_its_slots_until_the_device_is_closed() {
    let script = [
        Step::Picture,
        Step::Stop(Errno::IO),
        Step::Dequeue(Errno::IO),
    ];
    each_memory(&script, |rig| {
        rig.until_frames(5);
        assert_eq!(rig.world.lock().opens, 2);
    });
}

#[test]
fn a_buffer_the_driver_has_is_neither_read_nor_queued_again() {
    let world = Shared::new(Arc::new(ManualClock::default()), &["NV12"]);
    let mut bus = ScriptedBus(world.clone());
    let mut device = bus
        .open(&mut Identity::of("/dev/video0".as_ref()))
        .unwrap()
        .device;
    let asked = PixFormat::asked(FourCC::new(b"NV12"), SIZE.0, SIZE.1);
    device.set_format(&asked).unwrap();
    let mut stream = Stream::new(device, Memory::Mmap, 2).unwrap();
    stream.start().unwrap();
    assert!(stream.poll(10).unwrap().frame);
    let (done, _) = stream.dequeue().unwrap();
    assert_eq!(stream.plane(&done, 0).unwrap()[0], picture(1));
    for index in 0..3 {
        stream.give_back(index).unwrap();
    }
    assert!(stream.plane(&done, 0).is_none(), "it is the driver's again");
    drop(stream);
    assert_eq!(world.lock().violations, Vec::<String>::new());
    assert_eq!(world.lock().closes, 1);
}

#[test]
fn pictures_the_driver_counted_and_did_not_give_are_a_gap() {
    each_memory(&[Step::Picture, Step::Skips(3), Step::Picture], |rig| {
        assert_eq!(rig.besides(3), [Seen::Gap(GapCause::Missed, 3)]);
    });
}

#[test]
fn an_empty_pool_costs_pictures_and_says_so() {
    for userptr in [true, false] {
        let mut rig = Rig::new(userptr, &[]);
        rig.keep = SLOTS;
        rig.until_frames(SLOTS);
        assert_eq!(rig.pool.available(), 0);
        assert!(!userptr || rig.world.lock().has.is_empty());
        let hoard = std::mem::take(&mut rig.kept);
        rig.keep = 2;
        let seen = std::thread::scope(|scope| {
            if !userptr {
                let seen = vec![rig.next()];
                drop(hoard);
                return seen;
            }
            // The device goes on counting; the source waits for the pool, not for the camera.
            rig.world.lock().sequence += 2;
            let pool = rig.pool.clone();
            scope.spawn(move || {
                while pool.stats().exhausted == 0 {
                    std::thread::yield_now();
                }
                drop(hoard);
            });
            rig.besides(3)
        });
        let Seen::Gap(GapCause::PoolExhausted, lost) = seen[0] else {
            panic!("{seen:?}")
        };
        assert!(lost == 2 || !userptr, "{seen:?}");
        assert_eq!(seen.len(), 1);
        rig.until_frames(10);
        rig.end();
    }
}

#[test]
fn another_pool_of_the_same_pictures_may_be_given_at_any_time() {
    each_memory(&[], |rig| {
        rig.until_frames(3);
        let old = rig.pool.clone();
        rig.pool = pool_for(rig.source.info(), 9);
        rig.world.lock().pool = None;
        let seen = rig.until_frames(12);
        assert_eq!(seen.len(), 12, "{seen:?}");
        let (last, _) = rig.kept.back().unwrap();
        assert_eq!(last.pool_id(), 9);
        rig.kept.clear();
        assert_eq!(old.available(), SLOTS, "the old pool is free");
    });
}

#[test]
fn a_pool_of_too_small_slots_means_a_copy_and_one_of_other_pictures_an_error() {
    let mut rig = Rig::new(true, &[]);
    let info = SourceInfo {
        native_room: 0,
        ..rig.source.info().clone()
    };
    rig.pool = pool_for(&info, 3);
    rig.world.lock().pool = None;
    // Whole pages may be enough by chance: then nothing needs to be copied.
    let enough = rig.pool.layout().native_room() >= rig.source.info().native_room;
    rig.until_frames(3);
    assert_eq!(rig.pool.stats().copies == 0, enough);
    let other = SourceInfo::new(
        visualpath_core::ImageLayout::packed(PixelFormat::Nv12, 8, 8, info.layout.color),
        String::new(),
    );
    let wrong = pool_for(&other, 4);
    let error = (0..5).find_map(|_| rig.source.next(&wrong, &rig.stop).err());
    assert!(matches!(error, Some(SourceError::Slot { .. })), "{error:?}");
    assert!(matches!(
        rig.source.next(&wrong, &rig.stop),
        Ok(SourceEvent::End(_))
    ));
    rig.end();
}

#[test]
fn controls_are_set_at_every_open_and_at_run_time() {
    let mut opts = options();
    let number = |n| ControlValue::Number(n);
    opts.controls.insert("gain".into(), number(40));
    opts.controls.insert("gian".into(), number(1));
    opts.controls.insert("gain_too_high".into(), number(1));
    let mut rig = Rig::with(&["NV12"], &opts, |_| {});
    assert_eq!(rig.world.lock().set.get(&7), Some(&40));
    rig.until_frames(2);
    let mut needs = Needs::default();
    needs.controls.insert("gain".into(), number(60));
    rig.source.adjust(&needs);
    assert_eq!(rig.world.lock().set.get(&7), Some(&60));
    needs.controls.insert("gain".into(), number(101));
    rig.source.adjust(&needs);
    assert_eq!(rig.world.lock().set.get(&7), Some(&60), "out of range");
    needs.controls.insert("gain".into(), number(61));
    rig.source.adjust(&needs);
    rig.world.lock().set.clear();
    rig.world.lock().script = [Step::Unplugged(300_000_000)].into();
    rig.until_frames(2);
    assert_eq!(rig.world.lock().set.get(&7), Some(&61), "set again");
    rig.end();
}

#[test]
fn an_mjpeg_camera_gives_packets_and_the_frames_decoded_from_them() {
    let mut rig = Rig::with(&["MJPG"], &options(), |_| {});
    rig.source.adjust(&Needs {
        packets: true,
        ..Needs::default()
    });
    assert_eq!(rig.source.info().encoded, Some(crate::encode::Codec::Mjpeg));
    assert_eq!(rig.source.info().driver_slots, 0);
    rig.world.lock().script = [Step::Picture, Step::Damaged, Step::Short].into();
    let seen = rig.until_frames(4);
    let mut packet = None;
    for event in &seen {
        match event {
            Seen::Packet(id) => packet = Some(*id),
            Seen::Frame { id, .. } => assert_eq!(packet, Some(*id), "{seen:?}"),
            Seen::Gap(GapCause::DriverError | GapCause::Undecodable, 1) => {}
            other => panic!("{other:?} in {seen:?}"),
        }
    }
    rig.source.adjust(&Needs::default());
    let seen = rig.until_frames(6);
    let packets = seen.iter().filter(|s| matches!(s, Seen::Packet(_)));
    assert!(packets.count() <= 1, "{seen:?}");
    let (last, _) = rig.kept.back().unwrap();
    assert_eq!(last.layout().format, PixelFormat::I420);
    rig.end();
}

#[test]
fn what_may_not_be_seen_leaves_no_packet() {
    let mut opts = options();
    opts.privacy = vec![vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]];
    let mut rig = Rig::with(&["MJPG"], &opts, |_| {});
    rig.source.adjust(&Needs {
        packets: true,
        ..Needs::default()
    });
    assert_eq!(rig.source.info().encoded, None);
    assert_eq!(rig.besides(3), []);
    rig.end();
}

#[test]
fn stopping_gives_everything_back() {
    each_memory(&[], |rig| {
        rig.until_frames(3);
        rig.stop.stop();
        let stopped = rig.source.next(&rig.pool, &rig.stop);
        assert!(matches!(stopped, Ok(SourceEvent::Stopped)));
        assert_eq!(rig.world.lock().closes, 1);
        let end = rig.source.next(&rig.pool, &rig.stop);
        assert!(
            matches!(end, Ok(SourceEvent::End(info)) if info.frames == 3),
            "{end:?}"
        );
    });
}

fn errno() -> impl Strategy<Value = Errno> {
    prop::sample::select(vec![
        Errno::AGAIN,
        Errno::INTR,
        Errno::IO,
        Errno::INVAL,
        Errno::PIPE,
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::BUSY,
        Errno::ACCESS,
        Errno::PROTO,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Picture),
        2 => Just(Step::Damaged),
        1 => Just(Step::Short),
        1 => (1..5_u32).prop_map(Step::Skips),
        1 => Just(Step::PollError),
        1 => Just(Step::PollGone),
        1 => (1..8_000_000_000_i64).prop_map(Step::Silence),
        3 => errno().prop_map(Step::Dequeue),
        1 => errno().prop_map(Step::Poll),
        1 => errno().prop_map(Step::Queue),
        1 => errno().prop_map(Step::Start),
        1 => errno().prop_map(Step::SetFormat),
        1 => errno().prop_map(Step::Request),
        1 => errno().prop_map(Step::Open),
        1 => errno().prop_map(Step::Stop),
        1 => Just(Step::Nonsense),
        1 => (1..3_000_000_000_i64).prop_map(Step::Unplugged),
        1 => Just(Step::SourceChange),
        1 => prop::sample::select(vec![(64, 48), (32, 32)]).prop_map(|(w, h)| Step::Resized(w, h)),
        1 => Just(Step::Reformatted(48, 48)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// `Rig` checks numbers, times, epochs, gaps and buffers at every event.
    #[test]
    fn any_sequence_of_failures_ends_in_frames_again(
        script in prop::collection::vec(step(), 0..40),
        userptr in any::<bool>(),
        mjpeg in any::<bool>(),
    ) {
        let fourcc = if mjpeg { "MJPG" } else { "NV12" };
        let mut rig = Rig::with(&[fourcc], &options(), |world| {
            let mut world = world.lock();
            world.userptr = userptr;
            world.script = script.into();
        });
        for _ in 0..GUARD {
            if rig.world.lock().script.is_empty() {
                break;
            }
            rig.next();
        }
        prop_assert!(rig.world.lock().script.is_empty());
        rig.until_frames(5);
        prop_assert!(rig.clock_ns() > INTERVAL_NS);
        rig.end();
    }
}
