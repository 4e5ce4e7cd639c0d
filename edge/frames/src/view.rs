//! How a view is made: by someone else, who knows pixels.

use visualpath_core::{ImageLayout, PixelFormat, ViewSpec};

/// Makes views. Implemented by visualpath-media (pixel conversion) and injected, so that this
/// crate knows no pixels.
pub trait ViewMaker: Send + Sync {
    /// Fills `dst`, an image of layout `view` (exactly `view.bytes()` bytes), with what `spec`
    /// asks of the image `src` of layout `native` (exactly `native.bytes()` bytes).
    ///
    /// Every byte of `dst` must be written: it holds the same view of an earlier frame.
    ///
    /// # Errors
    /// What could not be made and why. It is remembered for that frame and given to everyone
    /// who asks for the view.
    fn make(
        &self,
        spec: &ViewSpec,
        native: &ImageLayout,
        src: &[u8],
        view: &ImageLayout,
        dst: &mut [u8],
    ) -> Result<(), ViewError>;
}

/// Why there is no view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no conversion between these formats.
    #[error("no conversion from {from:?} to {to:?}: ask the extractor for another input format")]
    Unsupported {
        /// The source's format.
        from: PixelFormat,
        /// The format asked for.
        to: PixelFormat,
    },
    /// The conversion failed.
    #[error("making a {width}×{height} {to:?} view failed: {reason}")]
    Failed {
        /// The format asked for.
        to: PixelFormat,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What went wrong.
        reason: String,
    },
    /// The view maker panicked, in whichever thread asked first.
    #[error("the view maker panicked while making view {index} of this frame")]
    MakerPanicked {
        /// Which of the pool's views.
        index: usize,
    },
    /// The view belongs to another pool; it has to be looked up again with `view_id`.
    #[error("the view belongs to pool {asked}, the frame to pool {frame}")]
    OtherPool {
        /// The view's pool.
        asked: u32,
        /// The frame's pool.
        frame: u32,
    },
}
