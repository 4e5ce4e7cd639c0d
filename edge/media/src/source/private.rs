//! A source some of whose pixels nobody may see.
//!
//! Drivers and decoders write straight into a slot, and every slot is memory that worker processes
//! can read: painting a picture over there would be a moment too late. So the source inside captures
//! into a pool of its own, on this process's heap; [`Publisher`](super::publish::Publisher) paints
//! over what is private there; only then is the picture copied into a slot of the shared pool.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use visualpath_core::ImageLayout;
use visualpath_frames::{Frame, FramePool, Holder, PoolSpec, SlotMut};

use super::publish::Losses;
use super::{
    GapCause, Needs, Source, SourceError, SourceEvent, SourceInfo, SourceOptions, Start, StopFlag,
};
use crate::convert::Converter;

/// Slots of the pool inside, beside those that the driver holds: the one being copied, and one.
const SLOTS: usize = 2;

/// How long a wait for a slot lasts before the stop flag is looked at.
const PATIENCE: Duration = Duration::from_millis(100);

/// Lets out only what was painted over.
pub(super) struct PrivateSource {
    inner: Box<dyn Source>,
    realtime: bool,
    uri: String,
    info: SourceInfo,
    /// Of the format it was made for.
    pool: Option<(FramePool, SourceInfo)>,
    pools: u32,
    holder: Option<(u32, Holder)>,
    name: String,
    losses: Losses,
    /// Decided, but something else had to be reported first.
    held_back: VecDeque<SourceEvent>,
}

impl PrivateSource {
    /// Around a source that paints over what `opts` says.
    pub(super) fn new(opts: &SourceOptions, inner: Box<dyn Source>) -> Self {
        let info = outside(inner.info());
        Self {
            inner,
            realtime: opts.realtime,
            uri: super::redacted(&opts.uri),
            info,
            pool: None,
            pools: 0,
            holder: None,
            name: opts.name.as_str().to_owned(),
            losses: Losses::default(),
            held_back: VecDeque::new(),
        }
    }

    /// The pool inside, for what the source inside delivers now.
    fn inside(&mut self) -> Result<FramePool, SourceError> {
        let info = self.inner.info();
        if let Some((pool, of)) = &self.pool
            && of.layout == info.layout
            && of.native_room == info.native_room
            && of.driver_slots == info.driver_slots
        {
            return Ok(pool.clone());
        }
        self.pools += 1;
        let spec = PoolSpec {
            pool_id: self.pools,
            slots: SLOTS + info.driver_slots,
            native: info.layout,
            native_room: info.native_room,
            views: Vec::new(),
        };
        let pool =
            FramePool::heap(&spec, Arc::new(Converter::new())).map_err(|e| SourceError::Pool {
                file: self.uri.clone().into(),
                detail: e.to_string(),
            })?;
        self.pool = Some((pool.clone(), info.clone()));
        Ok(pool)
    }

    /// A slot outside; `None` if there is none and the picture has to be dropped, or at a stop.
    fn slot(&self, pool: &FramePool, stop: &StopFlag) -> Option<SlotMut> {
        if self.realtime {
            return pool.try_acquire();
        }
        loop {
            if let Some(slot) = pool.acquire_timeout(PATIENCE) {
                return Some(slot);
            }
            if stop.is_set() {
                return None;
            }
        }
    }

    /// The picture in a slot that everybody may read; `None` if it is lost without a gap to tell yet.
    fn let_out(
        &mut self,
        frame: &Frame,
        pool: &FramePool,
        stop: &StopFlag,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let (meta, layout) = (*frame.meta(), *frame.layout());
        let have = pool.layout().native();
        if *have != layout {
            return Err(SourceError::Slot {
                file: self.uri.clone().into(),
                need: layout.bytes(),
                have: have.bytes(),
            });
        }
        let Some(mut slot) = self.slot(pool, stop) else {
            let gap = self.losses.lose(meta.t_ns, GapCause::PoolExhausted);
            return Ok(gap.map(SourceEvent::Gap));
        };
        copy(&layout, frame.pixels(), slot.pixels_mut());
        slot.count_copy();
        let holder = match self.holder {
            Some((id, holder)) if id == pool.pool_id() => holder,
            _ => pool.holder(&self.name),
        };
        self.holder = Some((pool.pool_id(), holder));
        let frame = SourceEvent::Frame(slot.publish(meta, holder));
        Ok(Some(match self.losses.delivered(meta.t_ns) {
            Some(gap) => {
                self.held_back.push_back(frame);
                SourceEvent::Gap(gap)
            }
            None => frame,
        }))
    }
}

/// What is delivered: no driver writes into the pool outside, and nothing encoded is handed on.
fn outside(inner: &SourceInfo) -> SourceInfo {
    SourceInfo {
        native_room: 0,
        driver_slots: 0,
        encoded: None,
        ..inner.clone()
    }
}

/// The samples of every plane; what a driver left between rows is not copied.
fn copy(layout: &ImageLayout, from: &[u8], to: &mut [u8]) {
    for plane in layout.planes() {
        let rows = plane.offset..plane.offset + plane.stride * plane.rows;
        let (Some(from), Some(to)) = (from.get(rows.clone()), to.get_mut(rows)) else {
            return;
        };
        let stride = plane.stride.max(1);
        for (from, to) in from.chunks(stride).zip(to.chunks_mut(stride)) {
            let n = plane.row_bytes.min(from.len());
            to[..n].copy_from_slice(&from[..n]);
        }
    }
}

impl Source for PrivateSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn begin(&mut self, start: Start) {
        self.inner.begin(start);
    }

    fn adjust(&mut self, needs: &Needs) {
        self.inner.adjust(&Needs {
            packets: false,
            ..needs.clone()
        });
        self.info = outside(self.inner.info());
    }

    fn next(&mut self, pool: &FramePool, stop: &StopFlag) -> Result<SourceEvent, SourceError> {
        if let Some(event) = self.held_back.pop_front() {
            return Ok(event);
        }
        loop {
            let inside = self.inside()?;
            match self.inner.next(&inside, stop)? {
                SourceEvent::Frame(frame) => {
                    if let Some(event) = self.let_out(&frame, pool, stop)? {
                        return Ok(event);
                    }
                    if stop.is_set() {
                        return Ok(SourceEvent::Stopped);
                    }
                }
                // What was encoded can't be painted over.
                SourceEvent::Packet(_) => {}
                SourceEvent::NewFormat(info) => {
                    self.info = outside(&info);
                    return Ok(SourceEvent::NewFormat(self.info.clone()));
                }
                SourceEvent::End(info) => {
                    let info = super::EndInfo {
                        frames: info.frames.saturating_sub(self.losses.total()),
                        lost: info.lost + self.losses.total(),
                        ..info
                    };
                    let end = SourceEvent::End(info);
                    return Ok(match self.losses.take() {
                        Some(gap) => {
                            self.held_back.push_back(end);
                            SourceEvent::Gap(gap)
                        }
                        None => end,
                    });
                }
                event => return Ok(event),
            }
        }
    }
}
