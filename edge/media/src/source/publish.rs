//! What every source does alike: a filled slot becomes a frame, lost pictures become gaps.

use visualpath_core::{FrameMeta, NS_PER_S, Name};
use visualpath_frames::{Frame, FramePool, Holder, SlotMut};

use super::{Gap, GapCause, SourceOptions};
use crate::convert::PrivacyMask;

/// A gap still open after this much source time is reported as far as it goes.
const GAP_REPORT_NS: i64 = NS_PER_S;

/// Makes frames of filled slots. What nobody may see is painted over here, before there is a frame
/// that anybody could look at.
#[derive(Debug)]
pub(super) struct Publisher {
    name: Name,
    holder: Option<(u32, Holder)>,
    privacy: Option<PrivacyMask>,
}

impl Publisher {
    /// For the source of these options.
    pub(super) fn new(opts: &SourceOptions) -> Self {
        Self {
            name: opts.name.clone(),
            holder: None,
            privacy: PrivacyMask::new(&opts.privacy),
        }
    }

    /// The frame. Its layout is the pool's.
    pub(super) fn publish(
        &mut self,
        pool: &FramePool,
        mut slot: SlotMut,
        meta: FrameMeta,
    ) -> Frame {
        if let Some(privacy) = &mut self.privacy {
            let layout = *slot.layout();
            privacy.burn(&layout, slot.pixels_mut());
        }
        let holder = match self.holder {
            Some((pool_id, holder)) if pool_id == pool.pool_id() => holder,
            _ => pool.holder(self.name.as_str()),
        };
        self.holder = Some((pool.pool_id(), holder));
        slot.publish(meta, holder)
    }
}

/// Counts lost pictures and merges neighbouring ones into one gap.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Not reported yet.
    gap: Option<Gap>,
    /// Where the next gap begins.
    last_delivered_ns: Option<i64>,
    total: u64,
}

impl Losses {
    /// Adds a lost picture to the open gap; gives a gap that has to be reported now.
    pub(super) fn lose(&mut self, t_ns: i64, cause: GapCause) -> Option<Gap> {
        self.lose_many(1, t_ns, cause)
    }

    /// The same for `lost` pictures, the last of them at `t_ns`; 0 where nobody can tell how many.
    pub(super) fn lose_many(&mut self, lost: u64, t_ns: i64, cause: GapCause) -> Option<Gap> {
        self.total += lost;
        let from_ns = self.last_delivered_ns.unwrap_or(t_ns);
        let new = |from_ns| Gap {
            lost,
            from_ns,
            to_ns: t_ns,
            cause,
        };
        match self.gap.take() {
            Some(gap) if gap.cause != cause => {
                self.gap = Some(new(gap.to_ns));
                Some(gap)
            }
            Some(gap) => {
                let gap = Gap {
                    lost: gap.lost + lost,
                    to_ns: t_ns,
                    ..gap
                };
                if t_ns.saturating_sub(gap.from_ns) < GAP_REPORT_NS {
                    self.gap = Some(gap);
                    return None;
                }
                self.last_delivered_ns = Some(t_ns);
                Some(gap)
            }
            None => {
                self.gap = Some(new(from_ns));
                None
            }
        }
    }

    /// A picture is delivered; gives the gap that ends with it, to be reported before it.
    pub(super) fn delivered(&mut self, t_ns: i64) -> Option<Gap> {
        self.last_delivered_ns = Some(t_ns);
        self.gap.take().map(|gap| Gap { to_ns: t_ns, ..gap })
    }

    /// The gap not reported yet, as far as it goes.
    pub(super) fn take(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    /// Pictures lost so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}
