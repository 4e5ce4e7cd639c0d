//! A frame's whole way through the pool allocates nothing, once the pool exists.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat, ViewFormat, ViewSpec};
use visualpath_frames::{FramePool, PoolSpec, ViewError, ViewMaker};

thread_local! {
    /// Of this thread only: the test harness allocates on its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is System's; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Grey;

impl ViewMaker for Grey {
    fn make(
        &self,
        _: &ViewSpec,
        _: &ImageLayout,
        src: &[u8],
        _: &ImageLayout,
        dst: &mut [u8],
    ) -> Result<(), ViewError> {
        dst.fill(src[0]);
        Ok(())
    }
}

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn one_frame(pool: &FramePool, frame_id: u64, wanted: &ViewSpec) {
    let holder = pool.holder("person");
    let mut slot = if frame_id.is_multiple_of(2) {
        pool.try_acquire()
    } else {
        pool.acquire_timeout(Duration::from_secs(1))
    }
    .expect("free");
    slot.pixels_mut().fill(7);
    slot.count_copy();
    let meta = FrameMeta {
        frame_id,
        t_ns: 0,
        epoch: 0,
        layout: *slot.layout(),
    };
    let frame = slot.publish(meta, holder);
    let view = frame.pool().view_id(wanted).expect("declared");
    let lease = frame.lease(holder);
    assert_eq!(frame.view(view).expect("made").pixels[0], 7);
    assert_eq!(lease.view(view).expect("made").pixels[0], 7);
    drop(frame);
    assert_eq!(lease.pixels()[0], 7);
    drop(lease);
    // Abandoned, and exhausted.
    let all: [_; 3] = std::array::from_fn(|_| pool.try_acquire());
    assert!(all[1].is_some() && all[2].is_none());
}

#[test]
fn a_frames_way_through_the_pool_allocates_nothing() {
    let wanted = ViewSpec {
        format: ViewFormat::Grey,
        size: Some((16, 16)),
        ..ViewSpec::default()
    };
    let spec = PoolSpec {
        pool_id: 1,
        slots: 2,
        native: ImageLayout::packed(PixelFormat::Nv12, 64, 48, ColorSpec::default()),
        native_room: 0,
        views: vec![wanted],
    };
    let mut pools = vec![FramePool::heap(&spec, Arc::new(Grey)).expect("pool")];
    if !cfg!(miri) {
        pools.push(FramePool::memfd(&spec, Arc::new(Grey)).expect("pool"));
    }
    assert_eq!(
        allocations_of(|| drop(std::hint::black_box(Box::new(1_u8)))),
        1,
        "the counter counts"
    );
    for pool in &pools {
        one_frame(pool, 0, &wanted); // registers the holder
        let frames = if cfg!(miri) { 3 } else { 1000 };
        let allocations = allocations_of(|| {
            for frame_id in 1..=frames {
                one_frame(pool, frame_id, &wanted);
            }
        });
        assert_eq!(allocations, 0, "in {frames} frames");
    }
}
