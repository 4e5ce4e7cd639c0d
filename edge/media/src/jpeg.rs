//! One picture as a JPEG: for workers that share no memory, snapshots and stills.

use turbojpeg::{Compressor, Image, Subsamp};
use visualpath_core::{FrameView, PixelFormat};

/// Why a picture can't become a JPEG.
#[derive(Debug, thiserror::Error)]
pub enum JpegError {
    /// Only packed pictures are taken.
    #[error("a {0:?} picture: ask for a view in rgb, bgr or grey")]
    Format(PixelFormat),
    /// The encoder.
    #[error("libjpeg-turbo: {0}")]
    Encoder(#[from] turbojpeg::Error),
}

/// The view's pixels as a baseline JPEG with 4:2:0 chroma; `quality` 1–100.
///
/// # Errors
/// If the view is not packed RGB, BGR or grey.
pub fn encode(view: &FrameView<'_>, quality: i32) -> Result<Vec<u8>, JpegError> {
    let (format, subsamp) = match view.layout.format {
        PixelFormat::Rgb => (turbojpeg::PixelFormat::RGB, Subsamp::Sub2x2),
        PixelFormat::Bgr => (turbojpeg::PixelFormat::BGR, Subsamp::Sub2x2),
        PixelFormat::Grey => (turbojpeg::PixelFormat::GRAY, Subsamp::Gray),
        other => return Err(JpegError::Format(other)),
    };
    let (width, height) = (view.layout.width as usize, view.layout.height as usize);
    let mut compressor = Compressor::new()?;
    compressor.set_quality(quality)?;
    compressor.set_subsamp(subsamp)?;
    let image = Image {
        pixels: view.pixels,
        width,
        pitch: view.layout.planes().first().map_or(0, |p| p.stride),
        height,
        format,
    };
    Ok(compressor.compress_to_vec(image)?)
}

/// A JPEG as packed BGR; width, height and the pixels.
///
/// # Errors
/// If it is none.
pub fn decode_bgr(jpeg: &[u8]) -> Result<(usize, usize, Vec<u8>), JpegError> {
    let image = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::BGR)?;
    Ok((image.width, image.height, image.pixels))
}
