//! One loaded model for all that use the same one.
//!
//! Every (extractor, source) has an instance of its own, and loads "its" model; what they get is
//! one model in memory for the same bytes, runtime and options. The registry holds it weakly, so
//! it goes when its last user goes, and a reload that makes the new instances before it drops
//! the old ones loads nothing.
//!
//! Whoever comes while the model is being loaded waits for it. A load that failed is not
//! remembered: the next one tries again and gets an error of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::backend::{LoadError, LoadOptions, Model, RuntimeInfo};
use crate::locate::ModelFile;

/// A model in memory.
pub(crate) struct Shared {
    /// Which load of this process it was, counted from 1.
    pub(crate) number: u64,
    pub(crate) info: RuntimeInfo,
    pub(crate) model: Arc<dyn Model>,
}

/// What makes two loads the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Of the bytes themselves, not what a card says of them.
    sha256: [u8; 32],
    runtime: &'static str,
    options: LoadOptions,
}

impl Key {
    fn new(file: &ModelFile, runtime: &'static str, options: &LoadOptions) -> Self {
        Self {
            sha256: file.sha256,
            runtime,
            options: LoadOptions {
                // One library per process: by now it is the one that is open.
                ort_library: None,
                ..options.clone()
            },
        }
    }
}

/// Empty, or the model loaded last. Locked while it is being loaded.
type Slot = Mutex<Weak<Shared>>;

struct Registry {
    slots: Mutex<BTreeMap<Key, Arc<Slot>>>,
}

static REGISTRY: Registry = Registry::new();
static LOADS: AtomicU64 = AtomicU64::new(0);

/// The model of `file` as `runtime` runs it: the one in memory, else what `load` gives.
pub(crate) fn get_or_load(
    file: &ModelFile,
    runtime: &RuntimeInfo,
    options: &LoadOptions,
    load: impl FnOnce() -> Result<Arc<dyn Model>, LoadError>,
) -> Result<Arc<Shared>, LoadError> {
    let key = Key::new(file, runtime.name, options);
    REGISTRY.get_or_load(key, || {
        Ok(Shared {
            model: load()?,
            info: runtime.clone(),
            number: LOADS.fetch_add(1, Ordering::Relaxed) + 1,
        })
    })
}

impl Registry {
    const fn new() -> Self {
        Self {
            slots: Mutex::new(BTreeMap::new()),
        }
    }

    fn get_or_load(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<Shared, LoadError>,
    ) -> Result<Arc<Shared>, LoadError> {
        let slot = self.slot(key);
        // Only this model's slot is locked while it is loaded: other models load meanwhile.
        let mut slot = locked(&slot);
        if let Some(shared) = slot.upgrade() {
            return Ok(shared);
        }
        let shared = Arc::new(load()?);
        *slot = Arc::downgrade(&shared);
        Ok(shared)
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut slots = locked(&self.slots);
        // Slots of models that are gone; one that somebody holds is about to be filled.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || locked(slot).strong_count() > 0);
        Arc::clone(slots.entry(key).or_default())
    }
}

/// A load that panicked left its slot empty: nothing is half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::backend::Session;

    struct Nothing;

    impl Model for Nothing {
        fn session(self: Arc<Self>) -> Result<Box<dyn Session>, LoadError> {
            Err(LoadError::Options("nothing can be run".to_owned()))
        }
    }

    fn nothing() -> Result<Shared, LoadError> {
        Ok(Shared {
            number: 1,
            info: RuntimeInfo {
                name: "none",
                version: String::new(),
                provider: String::new(),
                library: None,
            },
            model: Arc::new(Nothing),
        })
    }

    fn key(byte: u8) -> Key {
        Key {
            sha256: [byte; 32],
            runtime: "none",
            options: LoadOptions {
                threads: 1,
                input: "input".to_owned(),
                input_shape: vec![1],
                outputs: Vec::new(),
                ort_library: None,
            },
        }
    }

    #[test]
    fn many_at_once_load_it_once() {
        let registry = Registry::new();
        let loads = AtomicU64::new(0);
        let together = Barrier::new(8);
        let all: Vec<Arc<Shared>> = thread::scope(|scope| {
            let users: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        together.wait();
                        registry
                            .get_or_load(key(1), || {
                                loads.fetch_add(1, Ordering::Relaxed);
                                // The others get their chance to come in the middle of it.
                                (0..1000).for_each(|_| thread::yield_now());
                                nothing()
                            })
                            .unwrap()
                    })
                })
                .collect();
            users.into_iter().map(|u| u.join().unwrap()).collect()
        });
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert!(all.iter().all(|s| Arc::ptr_eq(s, &all[0])));
    }

    #[test]
    fn a_load_waits_for_no_other_model() {
        let registry = Registry::new();
        let outer = registry.get_or_load(key(1), || {
            registry.get_or_load(key(2), nothing)?;
            nothing()
        });
        assert!(outer.is_ok());
    }

    #[test]
    fn a_failed_load_is_tried_again_by_the_next_one() {
        let registry = Registry::new();
        for attempt in 0..3 {
            let wrong = LoadError::Options(format!("attempt {attempt}"));
            let error = registry.get_or_load(key(1), || Err(wrong.clone())).err();
            assert_eq!(error, Some(wrong));
        }
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            registry.get_or_load(key(1), || panic!("in the middle of a load"))
        }));
        assert!(thrown.is_err());
        assert!(registry.get_or_load(key(1), nothing).is_ok());
    }

    #[test]
    fn the_registry_keeps_nothing_of_what_nobody_uses() {
        let registry = Registry::new();
        for byte in 0..100 {
            let shared = registry.get_or_load(key(byte), nothing).unwrap();
            let model = Arc::downgrade(&shared.model);
            drop(shared);
            assert!(model.upgrade().is_none());
        }
        let kept = registry.get_or_load(key(200), nothing).unwrap();
        registry.get_or_load(key(201), nothing).unwrap();
        assert_eq!(locked(&registry.slots).len(), 2);
        let again = registry
            .get_or_load(key(200), || panic!("it is there"))
            .unwrap();
        assert!(Arc::ptr_eq(&kept, &again));
    }

    #[test]
    fn other_bytes_another_runtime_or_other_options_are_another_model() {
        let registry = Registry::new();
        let first = registry.get_or_load(key(1), nothing).unwrap();
        let mut others = [key(2), key(1), key(1), key(1), key(1)];
        others[1].runtime = "other";
        others[2].options.threads = 2;
        others[3].options.input_shape = vec![2];
        others[4].options.outputs = vec!["boxes".to_owned()];
        for other in others {
            let other = registry.get_or_load(other, nothing).unwrap();
            assert!(!Arc::ptr_eq(&first, &other));
        }
    }
}
