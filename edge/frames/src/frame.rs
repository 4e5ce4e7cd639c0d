//! A slot being filled, and a filled one.

use std::fmt;
use std::sync::atomic::Ordering;

use visualpath_core::{FrameMeta, FrameView, ImageLayout, Roi, ViewSpec};

use crate::header::SlotPlace;
use crate::holder::Holder;
use crate::layout::ViewId;
use crate::lease::{Lease, Writing};
use crate::pool::{FramePool, PoolParts};
use crate::sync::Arc;
use crate::view::ViewError;

/// The exclusive right to fill one slot. Dropped without [`SlotMut::publish`], it frees the slot.
#[must_use = "dropping it frees the slot again"]
pub struct SlotMut(Writing<PoolParts>);

impl SlotMut {
    pub(crate) fn new(writing: Writing<PoolParts>) -> Self {
        writing.header().begin();
        Self(writing)
    }

    /// The native picture's bytes, exactly `layout().bytes()` of them. They hold whatever an
    /// earlier frame left there.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        self.0.pixels_mut()
    }

    /// The native picture's bytes and the room behind them: whole pages, page-aligned, at least
    /// [`PoolSpec::native_room`](crate::PoolSpec::native_room) bytes. For drivers that write into
    /// the slot themselves. The memory stays where it is until the slot is free again, however
    /// this value is moved.
    pub fn room_mut(&mut self) -> &mut [u8] {
        self.0.room_mut()
    }

    /// The native picture's layout.
    pub fn layout(&self) -> &ImageLayout {
        self.parts().layout.native()
    }

    /// Which slot of the pool.
    pub fn slot(&self) -> usize {
        self.0.slot()
    }

    /// Counts one copy of the whole picture. Called by whoever copies it into the slot; a source
    /// whose driver or decoder writes straight into it does not.
    pub fn count_copy(&self) {
        self.parts().copies.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes the filled slot a frame and gives its first lease, tagged `holder`. The picture has
    /// the pool's native layout, whatever `meta.layout` says.
    pub fn publish(self, meta: FrameMeta, holder: Holder) -> Frame {
        let parts = self.0.table().payload();
        let slot = self.0.slot();
        let meta = FrameMeta {
            layout: *parts.layout.native(),
            ..meta
        };
        let place = SlotPlace {
            pool_id: parts.layout.pool_id(),
            slot,
            pixels_offset: parts.layout.pixels_offset(slot),
            pixels_bytes: parts.layout.native_bytes(),
        };
        let generation = self.0.generation();
        self.0.header().publish(&place, &meta, generation);
        Frame {
            lease: self.0.publish(holder),
            meta,
        }
    }

    fn parts(&self) -> &PoolParts {
        self.0.table().payload()
    }
}

/// A lease of a frame: the right to read it until dropped. Never revoked.
///
/// It is not `Clone`: every further lease says who takes it ([`Frame::lease`]).
#[must_use = "dropping it gives the slot back"]
pub struct Frame {
    lease: Lease<PoolParts>,
    meta: FrameMeta,
}

impl Frame {
    /// Identity, instant and native layout.
    pub fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// The native picture's bytes, exactly `layout().bytes()` of them.
    pub fn pixels(&self) -> &[u8] {
        self.lease.pixels()
    }

    /// The native picture's layout.
    pub fn layout(&self) -> &ImageLayout {
        &self.meta.layout
    }

    /// The frame in another form. Made by the first who asks, at most once per frame; whoever
    /// asks meanwhile waits for it.
    ///
    /// # Errors
    /// What the view maker answered, the same for everyone who asks for this view of this frame;
    /// or that the view belongs to another pool.
    pub fn view(&self, id: ViewId) -> Result<FrameView<'_>, ViewError> {
        let parts = self.parts();
        let other_pool = || ViewError::OtherPool {
            asked: id.pool_id,
            frame: parts.layout.pool_id(),
        };
        if id.pool_id != parts.layout.pool_id() {
            return Err(other_pool());
        }
        let Some(index) = id.index.map(usize::from) else {
            return Ok(FrameView {
                meta: self.meta,
                layout: self.meta.layout,
                roi: Roi::FULL,
                pixels: self.lease.pixels(),
            });
        };
        let place = parts.layout.views().get(index).ok_or_else(other_pool)?;
        let ready = self.lease.view(index, |making| {
            let (src, dst) = making.source_and_view();
            parts
                .maker
                .make(&place.spec, parts.layout.native(), src, &place.layout, dst)
        })?;
        Ok(FrameView {
            meta: self.meta,
            layout: place.layout,
            roi: place.roi,
            pixels: ready.bytes(),
        })
    }

    /// The frame in a form the pool was not made for, in memory of the caller's. Made anew at
    /// every call: for the few frames after an extractor was added while running, and for tools.
    ///
    /// # Errors
    /// What the view maker answered.
    pub fn view_in<'a>(
        &'a self,
        spec: &ViewSpec,
        scratch: &'a mut Vec<u8>,
    ) -> Result<FrameView<'a>, ViewError> {
        let native = &self.meta.layout;
        let (layout, roi) = spec.resolve(native);
        scratch.resize(layout.bytes(), 0);
        let maker = &self.parts().maker;
        maker.make(spec, native, self.pixels(), &layout, scratch)?;
        Ok(FrameView {
            meta: self.meta,
            layout,
            roi,
            pixels: scratch,
        })
    }

    /// Another lease of the same frame, tagged `holder`.
    pub fn lease(&self, holder: Holder) -> Self {
        Self {
            lease: self.lease.share(holder),
            meta: self.meta,
        }
    }

    /// Who took this lease.
    pub fn holder(&self) -> Holder {
        self.lease.holder()
    }

    /// The pool it lies in.
    pub fn pool(&self) -> FramePool {
        FramePool {
            table: Arc::clone(self.lease.table()),
        }
    }

    /// The pool's name in messages.
    pub fn pool_id(&self) -> u32 {
        self.parts().layout.pool_id()
    }

    /// Which slot of the pool.
    pub fn slot(&self) -> usize {
        self.lease.slot()
    }

    /// Which filling of the pool's slots this is; no two are the same.
    pub fn generation(&self) -> u64 {
        self.lease.generation()
    }

    /// Counts one copy of the whole picture out of the slot.
    pub fn count_copy(&self) {
        self.parts().copies.fetch_add(1, Ordering::Relaxed);
    }

    fn parts(&self) -> &PoolParts {
        self.lease.table().payload()
    }
}

impl fmt::Debug for SlotMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotMut")
            .field("slot", &self.slot())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("frame_id", &self.meta.frame_id)
            .field("t_ns", &self.meta.t_ns)
            .field("pool_id", &self.pool_id())
            .field("slot", &self.slot())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
