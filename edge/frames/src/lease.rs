//! The lease table: who may touch which slot. Safe code, in the parent's own heap.
//!
//! ```text
//! slot state   FREE ──acquire──▶ WRITING ──publish──▶ 1 lease ◀──share/drop──▶ n leases
//!               ▲                   │ drop               │ last drop
//!               └───────────────────┴────────────────────┘
//! ```
//!
//! Three tokens come out of it, and nothing outside this file can make one:
//!
//! - [`Writing`]: the only token of its slot;
//! - [`Lease`]: there may be many of a slot, but then no [`Writing`];
//! - [`Making`]: the only right to fill one view of a leased slot, and [`Ready`], the proof that
//!   somebody did. Between two publications of a slot, each view has at most one [`Making`], and
//!   no [`Ready`] before that one is gone.
//!
//! A token is released when it is dropped, also by a panic; it is never taken away. The memory
//! module rests its `unsafe` on exactly these four sentences; loom checks them below.
//!
//! `P` is what the pool keeps beside the table. Tokens carry it, so that a token can never be
//! used with the memory of another pool.

use std::sync::atomic::{AtomicU64 as Count, Ordering};
use std::time::{Duration, Instant};

use crate::holder::{Holder, MAX_HOLDERS};
use crate::sync::{
    Arc, AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, lock, wait, wait_at_most,
};
use crate::view::ViewError;

const FREE: u64 = 0;
/// Any other value is the number of leases; a 64-bit count cannot be leaked up to here.
const WRITING: u64 = u64::MAX;

pub(crate) struct LeaseTable<P> {
    payload: P,
    slots: Box<[Slot]>,
    free: Mutex<Free>,
    came_free: Condvar,
    // Statistics order nothing, so loom need not explore them: std's atomics.
    leases: [Count; MAX_HOLDERS],
    acquired: Count,
    exhausted: Count,
    views_made: Count,
}

/// Free slots, the most recently used last: it is reused first, while its pages are warm, and a
/// pool that is larger than needed never touches the rest.
struct Free {
    slots: Vec<usize>,
    /// Of the last filling, over the whole pool.
    generation: u64,
}

struct Slot {
    state: AtomicU64,
    /// Bit i: view i is ready. Saves the lock on the common path.
    ready: AtomicU32,
    views: Mutex<Box<[ViewState]>>,
    view_settled: Condvar,
}

#[derive(Clone)]
enum ViewState {
    NotMade,
    BeingMade,
    Ready,
    Failed(ViewError),
}

/// Counts since the pool was made.
pub(crate) struct Counts {
    pub(crate) acquired: u64,
    pub(crate) exhausted: u64,
    pub(crate) views_made: u64,
}

impl<P> LeaseTable<P> {
    /// `views` is at most 32.
    pub(crate) fn new(payload: P, slots: usize, views: usize) -> Arc<Self> {
        debug_assert!(views <= 32);
        Arc::new(Self {
            payload,
            slots: (0..slots)
                .map(|_| Slot {
                    state: AtomicU64::new(FREE),
                    ready: AtomicU32::new(0),
                    views: Mutex::new(vec![ViewState::NotMade; views].into()),
                    view_settled: Condvar::new(),
                })
                .collect(),
            free: Mutex::new(Free {
                slots: (0..slots).rev().collect(),
                generation: 0,
            }),
            came_free: Condvar::new(),
            leases: [const { Count::new(0) }; MAX_HOLDERS],
            acquired: Count::new(0),
            exhausted: Count::new(0),
            views_made: Count::new(0),
        })
    }

    pub(crate) fn payload(&self) -> &P {
        &self.payload
    }

    /// A free slot, or `None` (counted).
    pub(crate) fn try_acquire(this: &Arc<Self>) -> Option<Writing<P>> {
        let writing = Self::take(this, &mut lock(&this.free));
        if writing.is_none() {
            this.exhausted.fetch_add(1, Ordering::Relaxed);
        }
        writing
    }

    /// A free slot, waited for at most `limit`; else `None` (counted).
    pub(crate) fn acquire_timeout(this: &Arc<Self>, limit: Duration) -> Option<Writing<P>> {
        let start = Instant::now();
        let mut free = lock(&this.free);
        loop {
            // Looked at after every wake-up, a time-out included: one that coincides with a
            // release must not swallow its notification.
            if let Some(writing) = Self::take(this, &mut free) {
                return Some(writing);
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                this.exhausted.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            free = wait_at_most(&this.came_free, free, left);
        }
    }

    fn take(this: &Arc<Self>, free: &mut MutexGuard<'_, Free>) -> Option<Writing<P>> {
        let slot = free.slots.pop()?;
        free.generation += 1;
        let was = this.slots[slot].state.swap(WRITING, Ordering::Relaxed);
        debug_assert_eq!(was, FREE, "slot {slot} was on the free list and in use");
        this.acquired.fetch_add(1, Ordering::Relaxed);
        this.hold(Holder::WRITER);
        Some(Writing {
            table: Arc::clone(this),
            slot,
            generation: free.generation,
            published: false,
        })
    }

    /// Puts back a slot whose last token is going.
    fn release(&self, slot: usize) {
        self.slots[slot].state.store(FREE, Ordering::Relaxed);
        // The capacity is there: a slot is on the list at most once.
        lock(&self.free).slots.push(slot);
        self.came_free.notify_one();
    }

    fn hold(&self, holder: Holder) {
        self.leases[holder.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn let_go(&self, holder: Holder) {
        self.leases[holder.index()].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn available(&self) -> usize {
        lock(&self.free).slots.len()
    }

    pub(crate) fn leases_of(&self, holder: Holder) -> u64 {
        self.leases[holder.index()].load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            acquired: self.acquired.load(Ordering::Relaxed),
            exhausted: self.exhausted.load(Ordering::Relaxed),
            views_made: self.views_made.load(Ordering::Relaxed),
        }
    }
}

/// The right to fill a slot.
pub(crate) struct Writing<P> {
    table: Arc<LeaseTable<P>>,
    slot: usize,
    generation: u64,
    published: bool,
}

impl<P> Writing<P> {
    pub(crate) fn table(&self) -> &Arc<LeaseTable<P>> {
        &self.table
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The first lease of the filled slot.
    pub(crate) fn publish(mut self, holder: Holder) -> Lease<P> {
        self.published = true;
        // Relaxed: whoever gets another lease gets it from this one, by a message of its own.
        self.table.slots[self.slot]
            .state
            .store(1, Ordering::Relaxed);
        self.table.hold(holder);
        Lease {
            table: Arc::clone(&self.table),
            slot: self.slot,
            generation: self.generation,
            holder,
        }
    }
}

impl<P> Drop for Writing<P> {
    fn drop(&mut self) {
        self.table.let_go(Holder::WRITER);
        if !self.published {
            self.table.release(self.slot);
        }
    }
}

/// The right to read a slot.
pub(crate) struct Lease<P> {
    table: Arc<LeaseTable<P>>,
    slot: usize,
    generation: u64,
    holder: Holder,
}

impl<P> Lease<P> {
    pub(crate) fn table(&self) -> &Arc<LeaseTable<P>> {
        &self.table
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }

    /// Another lease of the same slot.
    pub(crate) fn share(&self, holder: Holder) -> Self {
        // Relaxed, as in `Arc::clone`: this lease keeps the slot from being freed meanwhile.
        let was = self.table.slots[self.slot]
            .state
            .fetch_add(1, Ordering::Relaxed);
        debug_assert!(was != FREE && was != WRITING);
        self.table.hold(holder);
        Self {
            table: Arc::clone(&self.table),
            slot: self.slot,
            generation: self.generation,
            holder,
        }
    }

    /// The view `index`, made with `make` if nobody did yet. If another thread is making it, waits
    /// for that. What `make` answers is remembered until the slot is free.
    pub(crate) fn view(
        &self,
        index: usize,
        make: impl FnOnce(&mut Making<'_, P>) -> Result<(), ViewError>,
    ) -> Result<Ready<'_, P>, ViewError> {
        let slot = &self.table.slots[self.slot];
        let ready = Ready { lease: self, index };
        // Acquire: the bytes of the view are at least as new as its bit.
        if slot.ready.load(Ordering::Acquire) & (1 << index) != 0 {
            return Ok(ready);
        }
        let mut views = lock(&slot.views);
        loop {
            match &views[index] {
                ViewState::Ready => return Ok(ready),
                ViewState::Failed(error) => return Err(error.clone()),
                ViewState::BeingMade => views = wait(&slot.view_settled, views),
                ViewState::NotMade => break,
            }
        }
        views[index] = ViewState::BeingMade;
        drop(views);
        let mut making = Making {
            lease: self,
            index,
            settled: false,
        };
        let result = make(&mut making);
        making.settle(result).map(|()| ready)
    }
}

impl<P> Drop for Lease<P> {
    fn drop(&mut self) {
        self.table.let_go(self.holder);
        let slot = &self.table.slots[self.slot];
        // Release: my reads are over. Acquire, for the last: so are everybody's.
        if slot.state.fetch_sub(1, Ordering::AcqRel) == 1 {
            slot.ready.store(0, Ordering::Relaxed);
            for view in lock(&slot.views).iter_mut() {
                *view = ViewState::NotMade;
            }
            self.table.release(self.slot);
        }
    }
}

/// The right to fill one view of a leased slot.
pub(crate) struct Making<'a, P> {
    lease: &'a Lease<P>,
    index: usize,
    settled: bool,
}

impl<'a, P> Making<'a, P> {
    pub(crate) fn lease(&self) -> &'a Lease<P> {
        self.lease
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    fn settle(mut self, result: Result<(), ViewError>) -> Result<(), ViewError> {
        self.settled = true;
        self.announce(&result);
        result
    }

    fn announce(&self, result: &Result<(), ViewError>) {
        let slot = &self.lease.table.slots[self.lease.slot];
        let mut views = lock(&slot.views);
        match result {
            Ok(()) => {
                views[self.index] = ViewState::Ready;
                slot.ready.fetch_or(1 << self.index, Ordering::Release);
                self.lease.table.views_made.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => views[self.index] = ViewState::Failed(error.clone()),
        }
        drop(views);
        slot.view_settled.notify_all();
    }
}

impl<P> Drop for Making<'_, P> {
    fn drop(&mut self) {
        if !self.settled {
            // Unwinding: those who wait must hear of it.
            self.announce(&Err(ViewError::MakerPanicked { index: self.index }));
        }
    }
}

/// The proof that a view of a leased slot is filled, and will not be filled again.
pub(crate) struct Ready<'a, P> {
    lease: &'a Lease<P>,
    index: usize,
}

impl<'a, P> Ready<'a, P> {
    pub(crate) fn lease(&self) -> &'a Lease<P> {
        self.lease
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
