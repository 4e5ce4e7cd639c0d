//! Settled frames to the fusions, in frame order, and what those say to the sink.

use std::sync::atomic::Ordering;

use visualpath_core::{Fusion, FusionInput, Name};

use super::change::guarded;
use super::{Flow, PathSink, Times};
use crate::aligner::Settled;

impl<S: PathSink> Flow<S> {
    /// Everything that can be settled by now.
    pub(super) fn settle(&mut self, now_ns: i64) {
        let Self {
            aligner,
            fusions,
            sink,
            stats,
            clock,
            realtime,
            trace,
            ..
        } = self;
        let read = || if *realtime { clock.now_ns() } else { 0 };
        aligner.settle(now_ns, |path, settled| {
            let Some(fused) = fusions.get_mut(path) else {
                return;
            };
            let settled_ns = read();
            let mut times = Times {
                dequeued_ns: 0,
                settled_ns,
                fused_ns: 0,
            };
            let (name, input, result) = match settled {
                Settled::Input(input, dequeued_ns) => {
                    let Some((name, fusion)) = &mut fused.now else {
                        return;
                    };
                    let result = guarded(stats, name, fusion, |f| f.update(input));
                    times.dequeued_ns = dequeued_ns;
                    times.fused_ns = read();
                    match &result {
                        Some(result) => trace.fused(name, &input, result, &times),
                        None => trace.fusion_panicked(name, &input),
                    }
                    (&*name, input, result)
                }
                Settled::Replaced { t_ns } => {
                    let name_of =
                        |f: &Option<(Name, Box<dyn Fusion>)>| f.as_ref().map(|f| f.0.clone());
                    let (old, new) = (name_of(&fused.now), name_of(&fused.next));
                    let taken_over = old.is_some() && old == new;
                    let result = fused.replace(stats, t_ns);
                    let input = FusionInput::End { t_ns };
                    // Whose last word it is.
                    fused.said_by = old.or(new);
                    let Some(name) = &fused.said_by else { return };
                    match &result {
                        Some(result) if taken_over => trace.taken_over(name, t_ns, result),
                        Some(result) => trace.fused(name, &input, result, &times),
                        None => {}
                    }
                    (name, input, result)
                }
            };
            if let Some(result) = result {
                sink.fused(name, input, result, times);
            }
        });
        stats
            .overflow
            .store(aligner.stats().overflow, Ordering::Relaxed);
    }
}
