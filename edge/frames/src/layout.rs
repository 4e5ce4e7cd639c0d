//! Where everything lies in a pool's memory. Computed once, from numbers an operator or a plugin
//! wrote, so every step is checked and every refusal says which number was too large.
//!
//! ```text
//! 0                     headers (128 bytes each), up to a page boundary
//! headers_bytes         slot 0: native pixels │ view 0 │ view 1 │ …   each from a page boundary
//! + slot_bytes          slot 1: …
//! ```

use visualpath_core::{Filter, ImageLayout, Roi, ViewSpec};

use crate::header::SLOT_HEADER_BYTES;
use crate::pool::PoolError;

/// Slots of one pool at most.
pub const MAX_SLOTS: usize = 1024;
/// Views of one pool at most, native ones not counted.
pub const MAX_VIEWS: usize = 32;
/// Width and height of an image or view at most, pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Bytes of one pool at most: what the address space of a 32-bit process could still map.
pub const MAX_POOL_BYTES: usize = 0x7fff_ffff;

/// What a pool is to hold.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Names the pool in every message about its frames; the caller keeps it unique.
    pub pool_id: u32,
    /// How many frames may be in use at once.
    pub slots: usize,
    /// The pictures as the source delivers them.
    pub native: ImageLayout,
    /// Views that may be asked for. Those that come out equal share one; those that are the
    /// native picture cost nothing.
    pub views: Vec<ViewSpec>,
}

/// One view of a pool, valid for every frame of that pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewId {
    pub(crate) pool_id: u32,
    /// Which of the made views; `None` is the native picture.
    pub(crate) index: Option<u8>,
}

impl ViewId {
    /// Whether the view is the frame itself, so that nothing is ever made.
    pub fn is_native(self) -> bool {
        self.index.is_none()
    }
}

/// One view that has to be made, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewPlace {
    /// As asked for by the first who did.
    pub spec: ViewSpec,
    /// Its image.
    pub layout: ImageLayout,
    /// What of the frame it shows.
    pub roi: Roi,
    /// Bytes from the start of its slot's pixels.
    pub offset_in_slot: usize,
}

/// Where everything lies in a pool's memory, in bytes from its start.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolLayout {
    pool_id: u32,
    slots: usize,
    native: ImageLayout,
    native_bytes: usize,
    views: Vec<ViewPlace>,
    page_bytes: usize,
    headers_bytes: usize,
    slot_bytes: usize,
    total_bytes: usize,
}

impl PoolLayout {
    /// Plans a pool for this machine's page size, without making it.
    ///
    /// # Errors
    /// When a number is 0 or over its bound.
    pub fn plan(spec: &PoolSpec) -> Result<Self, PoolError> {
        Self::with_pages(spec, page_bytes())
    }

    fn with_pages(spec: &PoolSpec, page_bytes: usize) -> Result<Self, PoolError> {
        if spec.slots == 0 || spec.slots > MAX_SLOTS {
            return Err(PoolError::Slots { asked: spec.slots });
        }
        let native = spec.native;
        check_sides("the source's pictures", native.width, native.height)?;
        let too_large = || PoolError::TooLarge {
            slots: spec.slots,
            width: native.width,
            height: native.height,
            views: spec.views.len(),
        };
        let native_bytes = image_bytes(&native).ok_or(PoolError::Planes { layout: native })?;
        let pages = |bytes: usize| bytes.checked_next_multiple_of(page_bytes);

        let mut views: Vec<ViewPlace> = Vec::new();
        let mut slot_bytes = pages(native_bytes).ok_or_else(too_large)?;
        for spec in &spec.views {
            if let Some((width, height)) = spec.size {
                check_sides("a view", width, height)?;
            }
            if spec.is_native(&native) || find(&views, &native, spec).is_some() {
                continue;
            }
            if views.len() == MAX_VIEWS {
                return Err(PoolError::Views);
            }
            let (layout, roi) = spec.resolve(&native);
            let offset_in_slot = slot_bytes;
            slot_bytes = image_bytes(&layout)
                .and_then(pages)
                .and_then(|b| slot_bytes.checked_add(b))
                .ok_or_else(too_large)?;
            views.push(ViewPlace {
                spec: *spec,
                layout,
                roi,
                offset_in_slot,
            });
        }

        let headers_bytes = pages(spec.slots * SLOT_HEADER_BYTES).ok_or_else(too_large)?;
        let total_bytes = slot_bytes
            .checked_mul(spec.slots)
            .and_then(|b| b.checked_add(headers_bytes))
            .filter(|b| *b <= MAX_POOL_BYTES)
            .ok_or_else(too_large)?;
        Ok(Self {
            pool_id: spec.pool_id,
            slots: spec.slots,
            native,
            native_bytes,
            views,
            page_bytes,
            headers_bytes,
            slot_bytes,
            total_bytes,
        })
    }

    /// The pool's name in messages.
    pub fn pool_id(&self) -> u32 {
        self.pool_id
    }

    /// How many frames may be in use at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The native picture.
    pub fn native(&self) -> &ImageLayout {
        &self.native
    }

    /// Bytes of the native picture, without padding to a page.
    pub fn native_bytes(&self) -> usize {
        self.native_bytes
    }

    /// The views that have to be made.
    pub fn views(&self) -> &[ViewPlace] {
        &self.views
    }

    /// What every picture and view is aligned to.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes from one slot's pixels to the next slot's.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Bytes of the whole pool.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Start of a slot's header. `slot` is below [`PoolLayout::slots`].
    pub fn header_offset(&self, slot: usize) -> usize {
        slot * SLOT_HEADER_BYTES
    }

    /// Start of a slot's native pixels. `slot` is below [`PoolLayout::slots`].
    pub fn pixels_offset(&self, slot: usize) -> usize {
        self.headers_bytes + slot * self.slot_bytes
    }

    /// Start of a view in a slot; `None` if the view belongs to another pool. `slot` is below
    /// [`PoolLayout::slots`].
    pub fn view_offset(&self, slot: usize, id: ViewId) -> Option<usize> {
        let inside = match (id.pool_id == self.pool_id, id.index) {
            (false, _) => return None,
            (true, None) => 0,
            (true, Some(index)) => self.views.get(usize::from(index))?.offset_in_slot,
        };
        Some(self.pixels_offset(slot) + inside)
    }

    /// The view that gives what `spec` asks for; `None` if the pool was not made for it.
    pub fn view_id(&self, spec: &ViewSpec) -> Option<ViewId> {
        if let Some((width, height)) = spec.size {
            check_sides("a view", width, height).ok()?;
        }
        let index = if spec.is_native(&self.native) {
            None
        } else {
            Some(u8::try_from(find(&self.views, &self.native, spec)?).ok()?)
        };
        Some(ViewId {
            pool_id: self.pool_id,
            index,
        })
    }
}

/// The view among `views` whose bytes are what `spec` asks for. The filter does not matter where
/// nothing is resampled.
fn find(views: &[ViewPlace], native: &ImageLayout, spec: &ViewSpec) -> Option<usize> {
    let (layout, roi) = spec.resolve(native);
    let resampled = spec.content(native) != (native.width, native.height);
    let filter = |f: Filter| resampled.then_some(f);
    views.iter().position(|v| {
        v.layout == layout && v.roi == roi && filter(v.spec.filter) == filter(spec.filter)
    })
}

fn check_sides(what: &'static str, width: u32, height: u32) -> Result<(), PoolError> {
    let sides = 1..=MAX_SIDE;
    if sides.contains(&width) && sides.contains(&height) {
        Ok(())
    } else {
        Err(PoolError::Sides {
            what,
            width,
            height,
        })
    }
}

/// Bytes of an image, or `None` if its planes make no sense.
fn image_bytes(layout: &ImageLayout) -> Option<usize> {
    let mut bytes = 0_usize;
    for p in layout.planes() {
        if p.row_bytes > p.stride || p.rows == 0 || p.row_bytes == 0 {
            return None;
        }
        bytes = bytes.max(p.offset.checked_add(p.stride.checked_mul(p.rows)?)?);
    }
    (bytes > 0).then_some(bytes)
}

/// The machine's page size. Miri has no such call, and its heap no pages.
fn page_bytes() -> usize {
    if cfg!(miri) {
        4096
    } else {
        rustix::param::page_size()
    }
}
