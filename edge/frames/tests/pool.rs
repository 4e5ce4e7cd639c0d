//! What a pool promises to those who use it, on both kinds of memory.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use visualpath_core::{
    ColorSpec, Fit, FrameMeta, ImageLayout, PixelFormat, Roi, ViewFormat, ViewSpec,
};
use visualpath_frames::{Frame, FramePool, Holder, PoolSpec, SlotMut, ViewError, ViewMaker};

const FOR_EVER: Duration = Duration::from_secs(1_000_000);

const SMALL: ViewSpec = view(ViewFormat::Grey, 5, 3);
const BOXED: ViewSpec = ViewSpec {
    fit: Fit::Letterbox,
    ..view(ViewFormat::Rgb, 6, 6)
};

const fn view(format: ViewFormat, width: u32, height: u32) -> ViewSpec {
    ViewSpec {
        format,
        size: Some((width, height)),
        fit: Fit::Stretch,
        filter: visualpath_core::Filter::Bilinear,
    }
}

/// Fills a view with the first pixel's complement. The pictures below are of one value each.
#[derive(Default)]
struct Complement {
    calls: AtomicU64,
}

const FAILS: u8 = 0xee;
const PANICS: u8 = 0xdd;

impl ViewMaker for Complement {
    fn make(
        &self,
        spec: &ViewSpec,
        native: &ImageLayout,
        src: &[u8],
        view: &ImageLayout,
        dst: &mut [u8],
    ) -> Result<(), ViewError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!((src.len(), dst.len()), (native.bytes(), view.bytes()));
        assert_eq!(spec.resolve(native).0, *view);
        match src[0] {
            FAILS => Err(ViewError::Failed {
                to: view.format,
                width: view.width,
                height: view.height,
                reason: "as asked".into(),
            }),
            PANICS => panic!("as asked"),
            value => {
                dst.fill(!value);
                Ok(())
            }
        }
    }
}

fn spec(slots: usize) -> PoolSpec {
    PoolSpec {
        pool_id: 9,
        slots,
        native: ImageLayout::packed(PixelFormat::I420, 12, 8, ColorSpec::default()),
        native_room: 0,
        views: vec![SMALL, BOXED, ViewSpec::default(), SMALL],
    }
}

/// The same pool on each kind of memory there is. Miri knows the heap only.
fn pools(slots: usize) -> Vec<(FramePool, Arc<Complement>)> {
    let maker = || Arc::new(Complement::default());
    let mut pools = Vec::new();
    let m = maker();
    pools.push((
        FramePool::heap(&spec(slots), m.clone()).expect("a heap pool"),
        m,
    ));
    if !cfg!(miri) {
        let m = maker();
        pools.push((
            FramePool::memfd(&spec(slots), m.clone()).expect("a memfd pool"),
            m,
        ));
    }
    pools
}

fn meta(frame_id: u64) -> FrameMeta {
    FrameMeta {
        frame_id,
        t_ns: 1000,
        epoch: 1,
        layout: spec(1).native,
    }
}

fn publish(mut slot: SlotMut, value: u8, holder: Holder) -> Frame {
    slot.pixels_mut().fill(value);
    slot.publish(meta(u64::from(value)), holder)
}

fn assert_all(bytes: &[u8], value: u8) {
    assert!(bytes.iter().all(|b| *b == value), "{value}: {bytes:?}");
}

fn panics(work: impl FnOnce()) {
    catch_unwind(AssertUnwindSafe(work)).expect_err("it was to panic");
}

#[test]
fn a_frame_shows_what_was_filled_in_until_its_last_lease_is_gone() {
    for (pool, _) in pools(2) {
        let [source, encoder] = ["source", "encoder"].map(|n| pool.holder(n));
        let mut slot = pool.try_acquire().unwrap();
        assert_eq!(slot.pixels_mut().len(), slot.layout().bytes());
        assert_eq!(pool.holders(), vec![(Holder::WRITER, 1)]);
        let frame = publish(slot, 11, source);
        assert_eq!(frame.meta(), &meta(11));
        assert_eq!((frame.pool_id(), frame.holder()), (9, source));
        let lease = frame.lease(encoder);
        assert_eq!(pool.holders(), vec![(source, 1), (encoder, 1)]);
        assert_eq!(pool.held_by(), "source 1, encoder 1");
        drop(frame);
        let other = publish(pool.try_acquire().unwrap(), 22, source);
        assert!(pool.try_acquire().is_none(), "both slots are leased");
        assert_all(lease.pixels(), 11);
        assert_all(other.pixels(), 22);
        assert_ne!(lease.slot(), other.slot());
        drop(lease);
        assert_eq!(pool.available(), 1);
        let stats = pool.stats();
        assert_eq!((stats.acquired, stats.exhausted), (2, 1));
    }
}

#[test]
fn views_show_the_frame_and_are_made_once_each() {
    for (pool, maker) in pools(1) {
        let small = pool.view_id(&SMALL).unwrap();
        let boxed = pool.view_id(&BOXED).unwrap();
        let native = pool.view_id(&ViewSpec::default()).unwrap();
        for value in [1_u8, 2] {
            let frame = publish(pool.try_acquire().unwrap(), value, Holder::OTHER);
            let lease = frame.lease(Holder::OTHER);
            for frame in [&frame, &lease] {
                let v = frame.view(small).unwrap();
                assert_eq!((v.layout.width, v.layout.height, v.roi), (5, 3, Roi::FULL));
                assert_all(v.pixels, !value);
                let v = frame.view(boxed).unwrap();
                assert!(v.roi.t < 0.0, "a letterbox says where its bars are");
                assert_all(v.pixels, !value);
                let v = frame.view(native).unwrap();
                assert_eq!(v.pixels.as_ptr(), frame.pixels().as_ptr(), "not a copy");
                assert_eq!(v.meta, *frame.meta());
            }
        }
        assert_eq!(maker.calls.load(Ordering::Relaxed), 4);
        assert_eq!(pool.stats().views_made, 4);
    }
}

#[test]
fn one_view_asked_for_by_many_threads_at_once_is_made_once() {
    for (pool, maker) in pools(1) {
        let small = pool.view_id(&SMALL).unwrap();
        let rounds = if cfg!(miri) { 2 } else { 50_u8 };
        for value in 0..rounds {
            let frame = publish(pool.try_acquire().unwrap(), value, Holder::OTHER);
            let start = Arc::new(Barrier::new(4));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (lease, start) = (frame.lease(Holder::OTHER), start.clone());
                    thread::spawn(move || {
                        start.wait();
                        assert_all(lease.view(small).unwrap().pixels, !value);
                    })
                })
                .collect();
            drop(frame);
            threads.into_iter().for_each(|t| t.join().unwrap());
        }
        assert_eq!(maker.calls.load(Ordering::Relaxed), u64::from(rounds));
    }
}

#[test]
fn a_failed_view_fails_for_everyone_who_asks_and_for_that_frame_only() {
    for (pool, maker) in pools(1) {
        let small = pool.view_id(&SMALL).unwrap();
        let frame = publish(pool.try_acquire().unwrap(), FAILS, Holder::OTHER);
        let lease = frame.lease(Holder::OTHER);
        let error = frame.view(small).unwrap_err();
        assert_eq!(error.to_string(), "making a 5×3 Grey view failed: as asked");
        assert_eq!(lease.view(small).unwrap_err(), error);
        assert_eq!(maker.calls.load(Ordering::Relaxed), 1, "tried once");
        drop((frame, lease));
        let next = publish(pool.try_acquire().unwrap(), 3, Holder::OTHER);
        assert_all(next.view(small).unwrap().pixels, !3);
    }
}

#[test]
fn a_panic_in_the_view_maker_reaches_whoever_asked_and_is_told_to_the_others() {
    for (pool, _) in pools(1) {
        let small = pool.view_id(&SMALL).unwrap();
        let frame = publish(pool.try_acquire().unwrap(), PANICS, Holder::OTHER);
        panics(|| drop(frame.view(small)));
        let told = frame.view(small).unwrap_err();
        assert_eq!(told, ViewError::MakerPanicked { index: 0 });
        drop(frame);
        assert_eq!(pool.available(), 1);
    }
}

#[test]
fn a_view_of_another_pool_is_refused() {
    let ours = FramePool::heap(&spec(1), Arc::new(Complement::default())).unwrap();
    let mut other = spec(1);
    other.pool_id = 10;
    let other = FramePool::heap(&other, Arc::new(Complement::default())).unwrap();
    let frame = publish(ours.try_acquire().unwrap(), 1, Holder::OTHER);
    let error = frame.view(other.view_id(&SMALL).unwrap()).unwrap_err();
    assert_eq!(
        error,
        ViewError::OtherPool {
            asked: 10,
            frame: 9
        }
    );
    assert_eq!(ours.view_id(&view(ViewFormat::Rgb, 7, 7)), None);
}

#[test]
fn whoever_panics_with_a_slot_or_a_frame_in_hand_gives_it_back() {
    for (pool, _) in pools(1) {
        let in_thread = |pool: FramePool, publish_first: bool| {
            thread::spawn(move || {
                let slot = pool.try_acquire().unwrap();
                let _frame = publish_first.then(|| publish(slot, 5, Holder::OTHER));
                panic!("as asked");
            })
            .join()
            .expect_err("it was to panic");
        };
        for publish_first in [false, true] {
            in_thread(pool.clone(), publish_first);
            assert_eq!(pool.available(), 1);
            assert_eq!(pool.held_by(), "");
        }
        // And the slot is good for use.
        let small = pool.view_id(&SMALL).unwrap();
        let frame = publish(pool.try_acquire().unwrap(), 6, Holder::OTHER);
        assert_all(frame.view(small).unwrap().pixels, !6);
    }
}

#[test]
fn a_waiter_gets_the_slot_that_comes_free_and_gives_up_only_when_none_does() {
    for (pool, _) in pools(1) {
        let frame = publish(pool.try_acquire().unwrap(), 1, Holder::OTHER);
        assert!(pool.acquire_timeout(Duration::from_millis(5)).is_none());
        assert_eq!(pool.stats().exhausted, 1);
        let waiter = {
            let pool = pool.clone();
            thread::spawn(move || pool.acquire_timeout(FOR_EVER).is_some())
        };
        drop(frame);
        assert!(waiter.join().unwrap());
        assert_eq!(pool.available(), 1);
    }
}

#[test]
fn frames_outlive_the_pools_last_handle() {
    for (pool, _) in pools(1) {
        let small = pool.view_id(&SMALL).unwrap();
        let frame = publish(pool.try_acquire().unwrap(), 8, Holder::OTHER);
        drop(pool);
        assert_all(frame.pixels(), 8);
        assert_all(frame.view(small).unwrap().pixels, !8);
    }
}

#[test]
fn one_writer_and_many_readers_see_whole_frames_only() {
    for (pool, _) in pools(3) {
        let small = pool.view_id(&SMALL).unwrap();
        let frames: u8 = if cfg!(miri) { 6 } else { 200 };
        let (senders, readers): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (send, receive) = std::sync::mpsc::sync_channel::<Frame>(1);
                let reader = thread::spawn(move || {
                    let mut generations = HashSet::new();
                    for frame in receive {
                        let value = frame.pixels()[0];
                        assert_all(frame.pixels(), value);
                        assert_all(frame.view(small).unwrap().pixels, !value);
                        assert_eq!(frame.meta().frame_id, u64::from(value));
                        assert!(generations.insert(frame.generation()));
                    }
                    generations.len()
                });
                (send, reader)
            })
            .unzip();
        for value in 0..frames {
            let slot = pool.acquire_timeout(FOR_EVER).unwrap();
            let frame = publish(slot, value, Holder::OTHER);
            for send in &senders {
                send.send(frame.lease(Holder::OTHER)).unwrap();
            }
        }
        drop(senders);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), usize::from(frames));
        }
        assert_eq!(pool.available(), 3);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Acquire,
    Publish(usize),
    Abandon(usize),
    Lease(usize),
    Drop(usize),
    View(usize, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => Just(Op::Acquire),
        3 => any::<usize>().prop_map(Op::Publish),
        1 => any::<usize>().prop_map(Op::Abandon),
        2 => any::<usize>().prop_map(Op::Lease),
        3 => any::<usize>().prop_map(Op::Drop),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(i, b)| Op::View(i, b)),
    ];
    prop::collection::vec(op, 1..if cfg!(miri) { 20 } else { 120 })
}

fn pick(of: usize, i: usize) -> Option<usize> {
    (of > 0).then(|| i % of)
}

/// Runs `ops` on a pool and on a plain model of one: a list of slots being filled, a list of
/// leases with the value their frame was filled with.
fn agrees_with_the_model(pool: &FramePool, slots: usize, ops: Vec<Op>) {
    let ids = [SMALL, BOXED].map(|s| pool.view_id(&s).expect("declared"));
    let holder = pool.holder("model");
    let (mut writing, mut leases) = (Vec::<SlotMut>::new(), Vec::<(u8, Frame)>::new());
    let (mut next, mut acquired, mut exhausted) = (0_u8, 0, 0);
    let mut viewed = HashSet::new();
    for op in ops {
        match op {
            Op::Acquire => match pool.try_acquire() {
                Some(slot) => {
                    acquired += 1;
                    writing.push(slot);
                }
                None => exhausted += 1,
            },
            Op::Publish(i) => {
                if let Some(i) = pick(writing.len(), i) {
                    leases.push((next, publish(writing.swap_remove(i), next, holder)));
                    next += 1;
                }
            }
            Op::Abandon(i) => {
                if let Some(i) = pick(writing.len(), i) {
                    writing.swap_remove(i).pixels_mut().fill(255);
                }
            }
            Op::Lease(i) => {
                if let Some(i) = pick(leases.len(), i) {
                    let (value, frame) = &leases[i];
                    leases.push((*value, frame.lease(holder)));
                }
            }
            Op::Drop(i) => {
                if let Some(i) = pick(leases.len(), i) {
                    drop(leases.swap_remove(i));
                }
            }
            Op::View(i, which) => {
                if let Some(i) = pick(leases.len(), i) {
                    let (value, frame) = &leases[i];
                    let view = frame.view(ids[usize::from(which)]).expect("made");
                    assert_all(view.pixels, !value);
                    viewed.insert((*value, which));
                }
            }
        }
        let frames: HashSet<u8> = leases.iter().map(|(value, _)| *value).collect();
        let places: HashSet<usize> = leases.iter().map(|(_, frame)| frame.slot()).collect();
        let mut all = places.clone();
        all.extend(writing.iter().map(SlotMut::slot));
        assert_eq!(places.len(), frames.len(), "one slot per frame");
        assert_eq!(all.len(), frames.len() + writing.len(), "nobody shares one");
        assert_eq!(pool.available(), slots - all.len());
        let stats = pool.stats();
        assert_eq!((stats.acquired, stats.exhausted), (acquired, exhausted));
        assert_eq!(stats.views_made, viewed.len() as u64);
        let held = |h| {
            let held = pool.holders();
            held.iter().find(|(x, _)| *x == h).map_or(0, |(_, n)| *n)
        };
        assert_eq!(held(Holder::WRITER), writing.len());
        assert_eq!(held(holder), leases.len());
        for (value, frame) in &leases {
            assert_all(frame.pixels(), *value);
        }
    }
    drop((writing, leases));
    assert_eq!((pool.available(), pool.held_by()), (slots, String::new()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_order_of_use_agrees_with_a_plain_model(slots in 1..5_usize, ops in ops()) {
        for (pool, _) in pools(slots) {
            agrees_with_the_model(&pool, slots, ops.clone());
        }
    }
}
