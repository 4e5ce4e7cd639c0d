//! The packet ring: the newest encoded pictures of one source, in whole GOPs, within a byte budget.
//!
//! A GOP (group of pictures) is a key packet and what follows it up to the next key packet. It is
//! the smallest thing that decodes alone, hence the smallest thing worth keeping or throwing away.
//! Where every packet is a key (MJPEG), keys that follow each other make one GOP of the same length
//! as anywhere else: a unit of the ring, in which decoding may begin at every packet.

mod reach;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use visualpath_core::{NS_PER_MS, NS_PER_S};

use crate::encode::{CodecParams, Packet};

pub use self::reach::{Shortfall, shortfall};

/// A stretch of source time in which pictures exist that the evidence does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Source time of the last picture before, nanoseconds (of the first lost one if there is none).
    pub from_ns: i64,
    /// Source time of the first picture after (of the last lost one if nothing followed).
    pub to_ns: i64,
    /// Pictures known to be lost; 0 when the source can't tell.
    pub lost: u64,
    /// Who lost them.
    pub cause: GapCause,
}

/// Who lost the pictures of a [`Gap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The source itself, before it delivered them.
    Source,
    /// They came faster than the encoder, and its queue was full.
    EncoderBusy,
    /// The encoder refused or failed on them.
    EncoderError,
    /// The device encoded them, and they came faster than the disk took what is written.
    WriterBusy,
    /// The device encoded them, and nothing could decode them: evidence began between two key
    /// pictures.
    NoKey,
}

/// Bytes a packet costs beside its data: the entry itself and its allocation's header.
pub const PACKET_OVERHEAD: usize = size_of::<Packet>() + 32;

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Nothing could decode it.
    #[error("the first packet, at {pts_ns} ns, is not a key packet: nothing could decode it")]
    NoKey {
        /// Its time.
        pts_ns: i64,
    },
    /// Decoding order is also time order.
    #[error("a packet at {dts_ns} ns came after one at {last_ns} ns")]
    Order {
        /// Its decoding time.
        dts_ns: i64,
        /// That of the newest packet.
        last_ns: i64,
    },
    /// No key packet came for so long that memory would not be bounded; the GOP was thrown away.
    #[error(
        "no key packet in {bytes} bytes: let the camera make one more often, or raise [clip] ring_bytes"
    )]
    NoEnd {
        /// Cost of the GOP.
        bytes: usize,
    },
    /// Other parameter sets need a key packet.
    #[error("the packet at {pts_ns} ns needs other parameter sets than the key packet before it")]
    Params {
        /// Its time.
        pts_ns: i64,
    },
}

/// A GOP is not thrown away while it is written unless it costs more than this and than twice the
/// budget.
const MOST_GOP_BYTES: usize = 32 << 20;
/// Longest time a packet counts for in the bit rate: beyond it nothing was there.
const LONGEST_STEP_NS: i64 = NS_PER_S;
/// Media that must have been seen before a measured bit rate counts.
const LEAST_MEASURED_NS: i64 = NS_PER_S;

/// A key packet and its followers.
#[derive(Debug)]
pub struct Gop {
    packets: Vec<Packet>,
    cost: usize,
    /// Time that its packets stand for: up to the next GOP, but for what is missing before it.
    media_ns: i64,
}

impl Gop {
    /// The packets in decoding order; the first is the key. Never empty.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Presentation time of the key packet.
    fn key_ns(&self) -> i64 {
        self.packets.first().map_or(i64::MAX, |p| p.pts_ns)
    }

    /// Whether `packet` begins another GOP: a key, unless it follows a key directly and this GOP is
    /// neither `longest_ns` long yet nor costs `most`.
    fn ends_before(&self, packet: &Packet, longest_ns: i64, most: usize) -> bool {
        let Some((first, last)) = self.packets.first().zip(self.packets.last()) else {
            return true;
        };
        let joins = last.is_key
            && self.cost < most
            && packet.params == first.params
            && packet.dts_ns.saturating_sub(first.dts_ns) < longest_ns;
        packet.is_key && !joins
    }

    /// The parameter sets its packets need.
    pub fn params(&self) -> Option<&Arc<CodecParams>> {
        self.packets.first().map(|p| &p.params)
    }
}

/// What a ring holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RingState {
    /// What everything may cost.
    pub budget_bytes: usize,
    /// Cost of everything held.
    pub bytes: usize,
    /// From the oldest packet to the newest, milliseconds.
    pub held_ms: i64,
    /// The measured bit rate: cost per second of what is held, outages not counted. `None` before
    /// a second was seen.
    pub bytes_per_s: Option<u64>,
    /// Length of the longest GOP held, nanoseconds.
    pub gop_ns: i64,
    /// Packets held.
    pub packets: usize,
    /// GOPs held.
    pub gops: usize,
    /// Time of the oldest packet.
    pub oldest_ns: Option<i64>,
    /// Time of the newest packet.
    pub newest_ns: Option<i64>,
    /// GOPs thrown away since the ring was made.
    pub evicted_gops: u64,
    /// Packets in them.
    pub evicted_packets: u64,
}

/// The ring.
///
/// **Cost.** A packet costs `data.len() + PACKET_OVERHEAD`; a GOP the sum of its packets; the ring
/// the sum of its GOPs. Gaps cost nothing: one is kept only as long as a packet after it is.
///
/// **Eviction.** After a packet was added, whole GOPs are thrown away, oldest first, while the ring
/// costs more than its budget and holds more than one GOP. The GOP being written is never thrown
/// away, so one that is larger than the budget is held in full, and the ring exceeds its budget by
/// at most that one GOP. How long it gets is up to `gop_s`, or to the camera; beyond twice the budget
/// and 32 MiB it is thrown away after all, and nothing is held until the next key packet.
///
/// **Time.** Adding is O(1) amortised (each packet is pushed once and popped once; throwing away the
/// longest GOP looks at all that are left), finding the
/// start of a cut is O(log GOPs). A cut clones `Packet`s, whose media bytes are shared.
#[derive(Debug)]
pub struct Ring {
    gops: VecDeque<Gop>,
    gaps: VecDeque<Gap>,
    budget_bytes: usize,
    bytes: usize,
    packets: usize,
    media_ns: i64,
    /// Of the GOPs that are whole.
    longest_gop_ns: i64,
    /// Keys that follow each other share a GOP of up to this length.
    group_ns: i64,
    last_dts_ns: Option<i64>,
    newest_ns: Option<i64>,
    evicted_gops: u64,
    evicted_packets: u64,
}

impl Ring {
    /// An empty ring that may cost `budget_bytes`. Key packets that follow each other directly
    /// share a GOP until it is `group_ns` long; with 0 each begins its own.
    pub fn new(budget_bytes: usize, group_ns: i64) -> Self {
        Self {
            gops: VecDeque::new(),
            gaps: VecDeque::new(),
            budget_bytes,
            bytes: 0,
            packets: 0,
            media_ns: 0,
            longest_gop_ns: 0,
            group_ns,
            last_dts_ns: None,
            newest_ns: None,
            evicted_gops: 0,
            evicted_packets: 0,
        }
    }

    /// Adds a packet, then evicts.
    ///
    /// # Errors
    /// A packet that nothing could decode, that is not newer than the newest, or with which a GOP
    /// gets too large, is not taken.
    pub fn add(&mut self, packet: Packet) -> Result<(), RingError> {
        if let Some(last_ns) = self.last_dts_ns.filter(|last| packet.dts_ns <= *last) {
            let dts_ns = packet.dts_ns;
            return Err(RingError::Order { dts_ns, last_ns });
        }
        let (cost, pts_ns, dts_ns) = (packet.cost(), packet.pts_ns, packet.dts_ns);
        let step_ns = self.last_dts_ns.map_or(0, |last| dts_ns - last);
        let media_ns = step_ns.min(LONGEST_STEP_NS);
        match self.gops.back_mut() {
            None if !packet.is_key => return Err(RingError::NoKey { pts_ns }),
            Some(gop) if !gop.ends_before(&packet, self.group_ns, self.budget_bytes / 8) => {
                if gop.params() != Some(&packet.params) {
                    return Err(RingError::Params { pts_ns });
                }
                gop.packets.push(packet);
                gop.cost += cost;
                gop.media_ns += media_ns;
            }
            ended => {
                if let Some(gop) = ended {
                    gop.media_ns += media_ns;
                    self.longest_gop_ns = self.longest_gop_ns.max(gop.media_ns);
                }
                self.gops.push_back(Gop {
                    packets: vec![packet],
                    cost,
                    media_ns: 0,
                });
            }
        }
        self.media_ns += media_ns;
        self.last_dts_ns = Some(dts_ns);
        self.newest_ns = Some(self.newest_ns.map_or(pts_ns, |n| n.max(pts_ns)));
        self.bytes += cost;
        self.packets += 1;
        self.evict();
        let most = self.budget_bytes.saturating_mul(2).max(MOST_GOP_BYTES);
        if self.gops.len() == 1 && self.bytes > most {
            let bytes = self.bytes;
            self.evict_oldest();
            return Err(RingError::NoEnd { bytes });
        }
        Ok(())
    }

    fn evict_oldest(&mut self) {
        let Some(gop) = self.gops.pop_front() else {
            return;
        };
        self.bytes -= gop.cost;
        self.media_ns -= gop.media_ns;
        if gop.media_ns >= self.longest_gop_ns {
            let newest = self.gops.len().saturating_sub(1);
            let whole = self.gops.iter().take(newest).map(|g| g.media_ns);
            self.longest_gop_ns = whole.max().unwrap_or(0);
        }
        self.packets -= gop.packets.len();
        self.evicted_gops += 1;
        self.evicted_packets += gop.packets.len() as u64;
    }

    fn evict(&mut self) {
        while self.bytes > self.budget_bytes && self.gops.len() > 1 {
            self.evict_oldest();
        }
        if let Some(oldest) = self.oldest_ns() {
            while self.gaps.front().is_some_and(|g| g.to_ns <= oldest) {
                self.gaps.pop_front();
            }
        }
    }

    /// Records a gap. Call it before the packet that ends the gap is added.
    pub fn add_gap(&mut self, gap: Gap) {
        self.gaps.push_back(gap);
    }

    /// The gaps between the packets held, oldest first.
    pub fn gaps(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter()
    }

    /// The GOPs held, oldest first.
    pub fn gops(&self) -> impl DoubleEndedIterator<Item = &Gop> {
        self.gops.iter()
    }

    /// The GOPs from the one a cut at `start_ns` begins with: the last whose key packet is at or
    /// before `start_ns`, or the oldest if there is none.
    pub fn gops_from(&self, start_ns: i64) -> impl Iterator<Item = &Gop> {
        let after = self.gops.partition_point(|g| g.key_ns() <= start_ns);
        self.gops.iter().skip(after.saturating_sub(1))
    }

    /// Time of the oldest packet.
    pub fn oldest_ns(&self) -> Option<i64> {
        self.gops.front().map(Gop::key_ns)
    }

    /// Time of the newest packet.
    pub fn newest_ns(&self) -> Option<i64> {
        self.newest_ns
    }

    /// Decoding time of the newest packet: every picture shown up to then is here.
    pub fn decoded_ns(&self) -> Option<i64> {
        self.last_dts_ns
    }

    /// Whether anything was ever thrown away.
    pub fn has_evicted(&self) -> bool {
        self.evicted_gops > 0
    }

    fn bytes_per_s(&self) -> Option<u64> {
        if self.media_ns < LEAST_MEASURED_NS {
            return None;
        }
        // How long the newest packet will stand for is not known yet.
        let newest = self.gops.back().and_then(|g| g.packets.last());
        let bytes = self.bytes - newest.map_or(0, Packet::cost);
        let second = u128::from(NS_PER_S.unsigned_abs());
        let per_s = bytes as u128 * second / u128::from(self.media_ns.unsigned_abs());
        u64::try_from(per_s).ok()
    }

    /// Size and reach.
    pub fn state(&self) -> RingState {
        let reach_ns = self.oldest_ns().zip(self.newest_ns);
        let reach_ns = reach_ns.map_or(0, |(old, new)| new.saturating_sub(old));
        let newest_gop_ns = self.gops.back().map_or(0, |g| g.media_ns);
        RingState {
            budget_bytes: self.budget_bytes,
            bytes: self.bytes,
            held_ms: reach_ns / NS_PER_MS,
            bytes_per_s: self.bytes_per_s(),
            gop_ns: self.longest_gop_ns.max(newest_gop_ns),
            packets: self.packets,
            gops: self.gops.len(),
            oldest_ns: self.oldest_ns(),
            newest_ns: self.newest_ns(),
            evicted_gops: self.evicted_gops,
            evicted_packets: self.evicted_packets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn packet(t_ns: i64, is_key: bool, len: usize) -> Packet {
        Packet {
            data: Bytes::from(vec![0; len]),
            is_key,
            pts_ns: t_ns,
            dts_ns: t_ns,
            frame_id: 0,
            params: CodecParams::for_tests(16, 16),
        }
    }

    #[test]
    fn a_packet_nothing_could_decode_is_refused() {
        let mut ring = Ring::new(1000, 0);
        assert_eq!(
            ring.add(packet(5, false, 1)),
            Err(RingError::NoKey { pts_ns: 5 })
        );
        ring.add(packet(5, true, 1)).unwrap();
        let (dts_ns, last_ns) = (5, 5);
        assert_eq!(
            ring.add(packet(5, true, 1)),
            Err(RingError::Order { dts_ns, last_ns })
        );
    }

    #[test]
    fn the_gop_being_written_is_kept_whatever_it_costs() {
        let mut ring = Ring::new(10, 0);
        ring.add(packet(0, true, 100)).unwrap();
        ring.add(packet(1, false, 100)).unwrap();
        assert_eq!(ring.state().packets, 2);
        ring.add(packet(2, true, 100)).unwrap();
        let s = ring.state();
        assert_eq!((s.packets, s.evicted_gops, s.evicted_packets), (1, 1, 2));
        assert_eq!(s.oldest_ns, Some(2));
    }

    #[test]
    fn a_gap_lives_as_long_as_a_packet_before_it() {
        let cause = GapCause::Source;
        let gap = |from_ns, to_ns| Gap {
            from_ns,
            to_ns,
            lost: 1,
            cause,
        };
        let mut ring = Ring::new(2 * PACKET_OVERHEAD + 2, 0);
        ring.add(packet(0, true, 1)).unwrap();
        ring.add_gap(gap(0, 10));
        ring.add(packet(10, true, 1)).unwrap();
        assert_eq!(ring.gaps().count(), 1);
        ring.add_gap(gap(10, 20));
        ring.add(packet(20, true, 1)).unwrap();
        assert_eq!(ring.gaps().copied().collect::<Vec<_>>(), [gap(10, 20)]);
    }

    #[test]
    fn pictures_that_are_all_keys_share_gops_of_the_usual_length() {
        let mut ring = Ring::new(usize::MAX, 100);
        (0..25).for_each(|i| ring.add(packet(i * 10, true, 1)).unwrap());
        let gops: Vec<usize> = ring.gops().map(|g| g.packets().len()).collect();
        assert_eq!(gops, [10, 10, 5]);
        let from: Vec<i64> = ring.gops_from(125).map(Gop::key_ns).collect();
        assert_eq!(from, [100, 200]);
        assert_eq!(ring.state().gop_ns, 100);
        // A key after a picture that is none begins a GOP, however short the one before was.
        ring.add(packet(250, false, 1)).unwrap();
        ring.add(packet(260, true, 1)).unwrap();
        assert_eq!(ring.state().gops, 4);
    }

    #[test]
    fn a_camera_that_makes_no_key_packet_does_not_fill_the_memory() {
        let mut ring = Ring::new(10, 0);
        ring.add(packet(0, true, 1)).unwrap();
        let len = 1 << 20;
        let mut error = None;
        for i in 1..40 {
            error = error.or(ring.add(packet(i, false, len)).err());
        }
        assert!(matches!(error, Some(RingError::NoEnd { .. })), "{error:?}");
        let s = ring.state();
        assert_eq!((s.packets, s.bytes, s.oldest_ns), (0, 0, None));
        assert!(ring.has_evicted());
        ring.add(packet(50, true, 1)).unwrap();
        ring.add(packet(51, false, 1)).unwrap();
        assert_eq!(ring.state().packets, 2);
    }

    #[test]
    fn other_parameter_sets_begin_a_gop_with_a_key_or_are_refused() {
        let other = |t, is_key| Packet {
            params: CodecParams::for_tests(32, 16),
            ..packet(t, is_key, 1)
        };
        let mut ring = Ring::new(usize::MAX, 100);
        ring.add(packet(0, true, 1)).unwrap();
        assert_eq!(
            ring.add(other(1, false)),
            Err(RingError::Params { pts_ns: 1 })
        );
        ring.add(other(2, true)).unwrap();
        assert_eq!(ring.state().gops, 2);
    }

    proptest! {
        /// The model: a flat list of (time, GOP begins, cost) from which whole GOPs are cut at the
        /// front.
        #[test]
        fn the_ring_holds_what_a_plain_list_would(
            steps in prop::collection::vec((1i64..50, prop::bool::weighted(0.4), 0usize..400), 1..300),
            budget in 0usize..8000,
            group in 0i64..200,
            asked in -10i64..8000,
        ) {
            let mut ring = Ring::new(budget, group);
            let mut model: Vec<(i64, bool, usize)> = Vec::new();
            let (mut t, mut last_key, mut begun) = (0, false, 0);
            for (dt, key, len) in steps {
                t += dt;
                let taken = ring.add(packet(t, key, len)).is_ok();
                prop_assert_eq!(taken, key || !model.is_empty());
                if taken {
                    let gop_cost: usize = model.iter().rev().scan(false, |over, p| {
                        let take = !std::mem::replace(over, *over || p.1);
                        take.then_some(p.2)
                    }).sum();
                    let joins = last_key && t - begun < group && gop_cost < budget / 8;
                    let begins = key && !joins;
                    begun = if begins { t } else { begun };
                    model.push((t, begins, len + PACKET_OVERHEAD));
                    last_key = key;
                }
                loop {
                    let cost: usize = model.iter().map(|p| p.2).sum();
                    let second = model.iter().skip(1).position(|p| p.1);
                    match second {
                        Some(n) if cost > budget => drop(model.drain(..=n)),
                        _ => break,
                    }
                }
                let held: Vec<i64> = ring.gops().flat_map(|g| g.packets()).map(|p| p.pts_ns).collect();
                let wanted: Vec<i64> = model.iter().map(|p| p.0).collect();
                prop_assert_eq!(&held, &wanted);
                let s = ring.state();
                prop_assert_eq!(s.bytes, model.iter().map(|p| p.2).sum::<usize>());
                prop_assert_eq!(s.packets, model.len());
                prop_assert_eq!(s.oldest_ns, wanted.first().copied());
                prop_assert_eq!(s.newest_ns, wanted.last().copied());
                if model.is_empty() {
                    continue;
                }
                let begins = model.iter().enumerate().filter(|(_, p)| p.1).map(|(i, _)| i);
                let ends: Vec<usize> = begins.clone().skip(1).chain([model.len() - 1]).collect();
                let spans = begins.zip(ends).map(|(a, b)| model[b].0 - model[a].0);
                prop_assert_eq!(s.gop_ns, spans.max().unwrap_or(0));
            }
            // A cut starts at the last GOP that begins at or before the asked time, else at the oldest.
            let start = model.iter().rposition(|p| p.1 && p.0 <= asked).unwrap_or(0);
            let cut: Vec<i64> = ring.gops_from(asked).flat_map(|g| g.packets()).map(|p| p.pts_ns).collect();
            prop_assert_eq!(cut, model.iter().skip(start).map(|p| p.0).collect::<Vec<_>>());
        }
    }
}
