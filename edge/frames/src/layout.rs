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
    /// Bytes to keep for a native picture, if a driver that writes straight into the slot asks for
    /// more than the picture takes; otherwise 0.
    pub native_room: usize,
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
    /// Which of the pool's views; `None` is the native picture.
    pub fn index(self) -> Option<u32> {
        self.index.map(u32::from)
    }

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
    native_room: usize,
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
        let native_room = pages(native_bytes.max(spec.native_room)).ok_or_else(too_large)?;
        let mut slot_bytes = native_room;
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
            native_room,
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

    /// Bytes from the start of the native picture that nothing else uses: whole pages, at least
    /// the picture's and those the spec asked for.
    pub fn native_room(&self) -> usize {
        self.native_room
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use visualpath_core::{ColorSpec, Fit, PixelFormat, ViewFormat};

    fn native(format: PixelFormat, width: u32, height: u32) -> ImageLayout {
        ImageLayout::packed(format, width, height, ColorSpec::default())
    }

    fn spec(slots: usize, native: ImageLayout, views: &[ViewSpec]) -> PoolSpec {
        PoolSpec {
            pool_id: 1,
            slots,
            native,
            native_room: 0,
            views: views.to_vec(),
        }
    }

    fn sized(format: ViewFormat, width: u32, height: u32) -> ViewSpec {
        ViewSpec {
            format,
            size: Some((width, height)),
            ..ViewSpec::default()
        }
    }

    #[test]
    fn views_that_come_out_equal_share_one_and_native_ones_cost_nothing() {
        let native = native(PixelFormat::Bgr, 640, 480);
        let small = sized(ViewFormat::Rgb, 320, 240);
        let letterboxed = ViewSpec {
            fit: Fit::Letterbox, // of the same shape: no bars
            ..small
        };
        let full_rgb = sized(ViewFormat::Rgb, 640, 480);
        let full_rgb_area = ViewSpec {
            filter: Filter::Area, // of the same size: nothing is resampled
            size: None,
            ..full_rgb
        };
        let area = ViewSpec {
            filter: Filter::Area,
            ..small
        };
        let bgr = ViewSpec {
            format: ViewFormat::Bgr,
            ..ViewSpec::default()
        };
        let views = [
            ViewSpec::default(),
            bgr,
            small,
            small,
            letterboxed,
            full_rgb,
            full_rgb_area,
            area,
        ];
        let layout = PoolLayout::plan(&spec(2, native, &views)).unwrap();
        assert_eq!(
            layout.views().len(),
            3,
            "small, full_rgb, area: {layout:#?}"
        );
        let id = |spec: &ViewSpec| layout.view_id(spec).unwrap();
        assert!(id(&ViewSpec::default()).is_native() && id(&bgr).is_native());
        assert_eq!(id(&small), id(&letterboxed));
        assert_eq!(id(&full_rgb), id(&full_rgb_area));
        assert_ne!(id(&small), id(&area), "another filter gives other bytes");
        assert_eq!(
            layout.view_id(&sized(ViewFormat::Rgb, 1, 1)),
            None,
            "never declared"
        );
        let huge = sized(ViewFormat::Rgb, u32::MAX, u32::MAX);
        assert_eq!(layout.view_id(&huge), None);
    }

    #[test]
    fn a_view_of_another_pool_has_no_place() {
        let native = native(PixelFormat::Grey, 8, 8);
        let view = sized(ViewFormat::Grey, 4, 4);
        let ours = PoolLayout::plan(&spec(1, native, &[view])).unwrap();
        let mut theirs = spec(1, native, &[view]);
        theirs.pool_id = 2;
        let theirs = PoolLayout::plan(&theirs).unwrap();
        assert_eq!(ours.view_offset(0, theirs.view_id(&view).unwrap()), None);
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_by_name() {
        let vga = native(PixelFormat::Nv12, 640, 480);
        let says = |spec: &PoolSpec, words: &str| {
            let error = PoolLayout::plan(spec).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        says(&spec(0, vga, &[]), "0 slots");
        says(&spec(MAX_SLOTS + 1, vga, &[]), "1025 slots");
        says(
            &spec(1, native(PixelFormat::Grey, 0, 8), &[]),
            "source's pictures of 0×8",
        );
        says(
            &spec(1, native(PixelFormat::Grey, 8, MAX_SIDE + 1), &[]),
            "8×16385",
        );
        says(
            &spec(1, vga, &[sized(ViewFormat::Rgb, u32::MAX, u32::MAX)]),
            "a view of 4294967295×4294967295",
        );
        says(
            &spec(1, vga, &[sized(ViewFormat::Rgb, 4, 0)]),
            "a view of 4×0",
        );
        let many: Vec<_> = (1..34).map(|i| sized(ViewFormat::Grey, i, 1)).collect();
        says(&spec(1, vga, &many), "more than 32 different views");
        let large = native(PixelFormat::Yuyv, MAX_SIDE, MAX_SIDE);
        says(&spec(MAX_SLOTS, large, &[]), "1024 slots of 16384×16384");
    }

    fn formats() -> impl Strategy<Value = PixelFormat> {
        prop::sample::select(vec![
            PixelFormat::I420,
            PixelFormat::Nv12,
            PixelFormat::Yuyv,
            PixelFormat::Rgb,
            PixelFormat::Bgr,
            PixelFormat::Grey,
        ])
    }

    fn views() -> impl Strategy<Value = ViewSpec> {
        let format = prop::sample::select(vec![
            ViewFormat::Native,
            ViewFormat::Rgb,
            ViewFormat::Bgr,
            ViewFormat::Grey,
        ]);
        let size = prop::option::of((1..2000_u32, 1..2000_u32));
        (format, size, any::<bool>(), any::<bool>()).prop_map(|(format, size, boxed, area)| {
            ViewSpec {
                format,
                size,
                fit: if boxed { Fit::Letterbox } else { Fit::Stretch },
                filter: if area { Filter::Area } else { Filter::Bilinear },
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The table in memory/mod.rs stands on this.
        #[test]
        fn headers_pictures_and_views_are_in_bounds_apart_and_page_aligned(
            format in formats(),
            width in 1..3000_u32,
            height in 1..3000_u32,
            slots in 1..9_usize,
            page in prop::sample::select(vec![4096_usize, 16_384, 65_536]),
            views in prop::collection::vec(views(), 0..6),
        ) {
            let spec = spec(slots, native(format, width, height), &views);
            let layout = PoolLayout::with_pages(&spec, page).unwrap();
            let mut taken = Vec::new();
            for slot in 0..slots {
                let header = layout.header_offset(slot);
                taken.push(header..header + SLOT_HEADER_BYTES);
                let pixels = layout.pixels_offset(slot);
                prop_assert_eq!(pixels % page, 0);
                taken.push(pixels..pixels + layout.native_room());
                prop_assert_eq!(layout.native_bytes(), layout.native().bytes());
                for (index, view) in layout.views().iter().enumerate() {
                    let index = Some(u8::try_from(index).unwrap());
                    let id = ViewId { pool_id: 1, index };
                    let start = layout.view_offset(slot, id).unwrap();
                    prop_assert_eq!(start, pixels + view.offset_in_slot);
                    prop_assert_eq!(start % page, 0);
                    taken.push(start..start + view.layout.bytes());
                }
            }
            taken.sort_by_key(|r| r.start);
            for pair in taken.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{:?}", pair);
            }
            prop_assert!(taken.last().unwrap().end <= layout.total_bytes());
            for view in &views {
                let id = layout.view_id(view).expect("every declared view is there");
                if let Some(index) = id.index {
                    let place = layout.views()[usize::from(index)];
                    prop_assert_eq!(view.resolve(layout.native()), (place.layout, place.roi));
                } else {
                    prop_assert!(view.is_native(layout.native()));
                }
            }
        }
    }
}
