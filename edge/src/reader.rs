//! Frames of a source, one after the other, for apps that go step by step.

use visualpath_core::{Name, StopFlag, ViewSpec};
use visualpath_frames::{Frame, FramePool, PoolError};
use visualpath_media::source::{self, Source, SourceError, SourceEvent, SourceOptions};

use crate::pipeline::build;

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Memory for its frames.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Reads a source as fast as its frames are taken.
///
/// ```
/// use visualpath::FrameReader;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut reader = FrameReader::open("synthetic:?frames=3&width=64&height=48", &[])?;
/// let mut ids = Vec::new();
/// while let Some(frame) = reader.next_frame()? {
///     ids.push(frame.meta().frame_id);
/// }
/// assert_eq!(ids, [0, 1, 2]);
/// # Ok(())
/// # }
/// ```
pub struct FrameReader {
    source: Box<dyn Source>,
    pool: FramePool,
    views: Vec<ViewSpec>,
    stop: StopFlag,
}

/// Frames an app may keep while it reads on.
const SLOTS: usize = 8;

impl FrameReader {
    /// Opens what `uri` names. `views` are those of the workers that will look at the frames; one
    /// that is not named is made privately, at the cost of a copy per frame and worker.
    ///
    /// # Errors
    /// If it can't be opened, or there is no memory for its frames.
    pub fn open(uri: &str, views: &[ViewSpec]) -> Result<Self, ReadError> {
        let name = Name::new("app").unwrap_or_else(|_| unreachable!("a name by its form"));
        let source = source::open(&SourceOptions::new(name, uri), build::clock())?;
        let pool = build::pool(source.info(), 1, SLOTS, views)?;
        Ok(Self {
            source,
            pool,
            views: views.to_vec(),
            stop: StopFlag::new(),
        })
    }

    /// The next frame; `None` at the end. At most eight can be kept: reading waits for one to be
    /// dropped.
    ///
    /// # Errors
    /// What ended the source.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            match self.source.next(&self.pool, &self.stop)? {
                SourceEvent::Frame(frame) => return Ok(Some(frame)),
                SourceEvent::NewFormat(info) => {
                    let id = self.pool.pool_id() + 1;
                    self.pool = build::pool(&info, id, SLOTS, &self.views)?;
                }
                SourceEvent::Offline(outage) => {
                    tracing::warn!(detail = outage.detail, advice = outage.advice, "offline");
                }
                SourceEvent::Gap(_)
                | SourceEvent::Wrapped
                | SourceEvent::Packet(_)
                | SourceEvent::Online => {}
                SourceEvent::End(_) | SourceEvent::Stopped => return Ok(None),
            }
        }
    }
}
