//! The lease table under loom: every interleaving of the few threads below with at most three
//! preemptions (`LOOM_MAX_PREEMPTIONS` overrides it), and every order in which memory may become
//! visible.
//!
//! The payload stands for the pool's bytes: one cell per slot's pixels and one per view. Loom
//! reports any access to a cell that is not ordered after the last conflicting one, so each
//! `write` and `read` below is an assertion.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize as Count, Ordering};
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::thread;

use super::{Lease, LeaseTable, Ready, Writing};
use crate::holder::Holder;
use crate::sync::Arc;
use crate::view::ViewError;

const FOR_EVER: Duration = Duration::from_secs(1_000_000);

struct Cell(UnsafeCell<()>);

// SAFETY: that cells are shared without races is the claim under test; loom checks it.
unsafe impl Sync for Cell {}

impl Cell {
    fn write(&self) {
        self.0.with_mut(|_| ());
    }

    fn read(&self) {
        self.0.with(|_| ());
    }
}

struct Cells {
    pixels: Vec<Cell>,
    view: Vec<Cell>,
}

type Table = Arc<LeaseTable<Cells>>;

fn table(slots: usize) -> Table {
    let cells = || (0..slots).map(|_| Cell(UnsafeCell::new(()))).collect();
    let payload = Cells {
        pixels: cells(),
        view: cells(),
    };
    LeaseTable::new(payload, slots, 1)
}

fn fill(writing: &Writing<Cells>) {
    writing.table().payload().pixels[writing.slot()].write();
}

fn look(lease: &Lease<Cells>) {
    lease.table().payload().pixels[lease.slot()].read();
}

fn look_at_view(ready: &Ready<'_, Cells>) {
    let lease = ready.lease();
    lease.table().payload().view[lease.slot()].read();
}

fn published(table: &Table) -> Lease<Cells> {
    let writing = LeaseTable::acquire_timeout(table, FOR_EVER).expect("a slot comes free");
    fill(&writing);
    writing.publish(Holder::OTHER)
}

fn view<'a>(lease: &'a Lease<Cells>, made: &Count) -> Result<Ready<'a, Cells>, ViewError> {
    lease.view(0, |making| {
        look(making.lease());
        let lease = making.lease();
        lease.table().payload().view[lease.slot()].write();
        made.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(test);
}

#[test]
fn loom_two_acquirers_never_get_the_same_slot() {
    explore(|| {
        let table = table(2);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            let writing = LeaseTable::try_acquire(&other).expect("there are two");
            fill(&writing);
            writing
        });
        let mine = LeaseTable::try_acquire(&table).expect("there are two");
        fill(&mine);
        let theirs = thread.join().expect("joined");
        assert_ne!(mine.slot(), theirs.slot());
        assert_ne!(mine.generation(), theirs.generation());
        assert!(LeaseTable::try_acquire(&table).is_none());
    });
}

#[test]
fn loom_the_last_drop_frees_exactly_once_and_after_every_reader() {
    explore(|| {
        let table = table(1);
        let lease = published(&table);
        let shared = lease.share(Holder::OTHER);
        let reader = thread::spawn(move || {
            look(&shared);
            drop(shared);
        });
        let writer = {
            let table = Arc::clone(&table);
            // Loom reports a race if this writes while a reader has not finished.
            thread::spawn(move || {
                if let Some(writing) = LeaseTable::try_acquire(&table) {
                    fill(&writing);
                }
            })
        };
        look(&lease);
        drop(lease);
        reader.join().expect("joined");
        writer.join().expect("joined");
        assert_eq!(table.available(), 1, "free once, not twice");
        let again = LeaseTable::try_acquire(&table).expect("free");
        fill(&again);
        assert!(LeaseTable::try_acquire(&table).is_none());
    });
}

#[test]
fn loom_a_view_is_made_once_while_two_ask() {
    explore(|| {
        let table = table(1);
        let made = std::sync::Arc::new(Count::new(0));
        let lease = published(&table);
        let shared = lease.share(Holder::OTHER);
        let thread = {
            let made = std::sync::Arc::clone(&made);
            thread::spawn(move || look_at_view(&view(&shared, &made).expect("made")))
        };
        look_at_view(&view(&lease, &made).expect("made"));
        thread.join().expect("joined");
        assert_eq!(made.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_view_that_failed_is_tried_once_and_fails_for_all() {
    explore(|| {
        let table = table(1);
        let tried = std::sync::Arc::new(Count::new(0));
        let lease = published(&table);
        let shared = lease.share(Holder::OTHER);
        let ask = |lease: &Lease<Cells>, tried: &Count| {
            let result = lease.view(0, |_| {
                tried.fetch_add(1, Ordering::Relaxed);
                Err(ViewError::MakerPanicked { index: 0 })
            });
            assert_eq!(result.err(), Some(ViewError::MakerPanicked { index: 0 }));
        };
        let thread = {
            let tried = std::sync::Arc::clone(&tried);
            thread::spawn(move || ask(&shared, &tried))
        };
        ask(&lease, &tried);
        thread.join().expect("joined");
        assert_eq!(tried.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_reused_slot_makes_its_view_anew_after_every_reader_of_the_old_one() {
    explore(|| {
        let table = table(1);
        let made = std::sync::Arc::new(Count::new(0));
        let lease = published(&table);
        let thread = {
            let (table, made) = (Arc::clone(&table), std::sync::Arc::clone(&made));
            thread::spawn(move || {
                let next = published(&table);
                look_at_view(&view(&next, &made).expect("made"));
            })
        };
        look_at_view(&view(&lease, &made).expect("made"));
        drop(lease);
        thread.join().expect("joined");
        assert_eq!(made.load(Ordering::Relaxed), 2, "once for each frame");
    });
}

#[test]
fn loom_who_waits_for_a_slot_gets_it() {
    explore(|| {
        let table = table(1);
        let lease = published(&table);
        let waiter = {
            let table = Arc::clone(&table);
            // A lost wake-up is a deadlock here: loom's wait has no time-out.
            thread::spawn(move || drop(published(&table)))
        };
        look(&lease);
        drop(lease);
        waiter.join().expect("joined");
    });
}

#[test]
fn loom_two_who_wait_for_one_slot_both_get_it() {
    explore(|| {
        let table = table(1);
        let writing = LeaseTable::try_acquire(&table).expect("free");
        let waiters = [0, 1].map(|_| {
            let table = Arc::clone(&table);
            thread::spawn(move || drop(published(&table)))
        });
        drop(writing);
        for waiter in waiters {
            waiter.join().expect("joined");
        }
        assert_eq!(table.available(), 1);
    });
}
