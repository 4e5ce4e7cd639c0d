//! Whether a ring can hold a pre-roll: said before a clip is short, not with it.

use serde::Serialize;
use visualpath_core::{NS_PER_MS, NS_PER_S};

use super::RingState;

/// By how much a ring is too small for a pre-roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// The pre-roll asked for, milliseconds.
    pub asked_ms: i64,
    /// What the ring always holds at this bit rate, milliseconds.
    pub holds_ms: i64,
    /// The bit rate, as bytes per second, with what a packet costs beside its data.
    pub bytes_per_s: u64,
    /// The budget that would do.
    pub needs_bytes: u64,
}

/// Whether a ring of `budget_bytes` is too small for `pre_roll_ns` of packets that cost
/// `bytes_per_s` and come in GOPs of `gop_ns`; `None` if it is not.
///
/// Just after an eviction the oldest GOP is gone and the newest has hardly begun, so what is always
/// there is the budget's worth of time minus one GOP. For a check before any packet was seen, take
/// the encoder's bit rate / 8 and its GOP length.
pub fn shortfall(
    budget_bytes: usize,
    bytes_per_s: u64,
    gop_ns: i64,
    pre_roll_ns: i64,
) -> Option<Shortfall> {
    if bytes_per_s == 0 || pre_roll_ns <= 0 {
        return None;
    }
    let (rate, second) = (i128::from(bytes_per_s), i128::from(NS_PER_S));
    let budget = i128::try_from(budget_bytes).unwrap_or(i128::MAX);
    let gop_ns = i128::from(gop_ns.max(0));
    let holds_ns = (budget.saturating_mul(second) / rate - gop_ns).max(0);
    if holds_ns >= i128::from(pre_roll_ns) {
        return None;
    }
    let needs = (i128::from(pre_roll_ns) + gop_ns).saturating_mul(rate);
    let needs = needs / second + i128::from(needs % second > 0);
    Some(Shortfall {
        asked_ms: pre_roll_ns / NS_PER_MS,
        holds_ms: i64::try_from(holds_ns).unwrap_or(i64::MAX) / NS_PER_MS,
        bytes_per_s,
        needs_bytes: u64::try_from(needs).unwrap_or(u64::MAX),
    })
}

impl RingState {
    /// Whether the budget can't hold the longest pre-roll at the measured bit rate; `None` if it
    /// can, or the rate is not known yet.
    pub fn shortfall(&self, pre_roll_ns: i64) -> Option<Shortfall> {
        let bytes_per_s = self.bytes_per_s?;
        shortfall(self.budget_bytes, bytes_per_s, self.gop_ns, pre_roll_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PACKET_OVERHEAD, Ring};
    use super::*;
    use crate::encode::{CodecParams, Packet};
    use bytes::Bytes;

    fn fill(budget: usize, len: usize, seconds: i64) -> Ring {
        let mut ring = Ring::new(budget, 0);
        // 10 per second, a key each second.
        for i in 0..seconds * 10 {
            let t_ns = i * NS_PER_S / 10;
            let packet = Packet {
                data: Bytes::from(vec![0; len - PACKET_OVERHEAD]),
                is_key: i % 10 == 0,
                pts_ns: t_ns,
                dts_ns: t_ns,
                frame_id: 0,
                params: CodecParams::for_tests(16, 16),
            };
            ring.add(packet).unwrap();
        }
        ring
    }

    #[test]
    fn a_budget_that_holds_the_pre_roll_and_a_gop_is_enough_and_a_byte_less_is_not() {
        let pre_roll_ns = 5 * NS_PER_S;
        assert_eq!(shortfall(7000, 1000, 2 * NS_PER_S, pre_roll_ns), None);
        let short = shortfall(6999, 1000, 2 * NS_PER_S, pre_roll_ns).unwrap();
        assert_eq!((short.asked_ms, short.holds_ms), (5000, 4999));
        assert_eq!(short.needs_bytes, 7000);
        let short = shortfall(100, 1000, 2 * NS_PER_S, pre_roll_ns).unwrap();
        assert_eq!(short.holds_ms, 0);
        assert_eq!(shortfall(0, 1000, 0, 0), None, "no pre-roll needs nothing");
        assert!(shortfall(usize::MAX, u64::MAX, i64::MAX, i64::MAX).is_some());
    }

    #[test]
    fn what_a_ring_says_it_needs_is_what_keeps_every_pre_roll_whole() {
        let (seconds, len) = (30, 1000);
        let measured = fill(usize::MAX, len, seconds).state();
        assert_eq!(measured.bytes_per_s, Some(10_000));
        assert_eq!(measured.shortfall(60 * NS_PER_S), None);

        // With the bytes that a small ring asks for, an asked pre-roll is there at every instant.
        for pre_roll_ns in [NS_PER_S * 2 / 3, 3 * NS_PER_S, 7 * NS_PER_S + 1] {
            let small = RingState {
                budget_bytes: len,
                ..measured
            };
            let short = small.shortfall(pre_roll_ns).unwrap();
            let budget = usize::try_from(short.needs_bytes).unwrap();
            for now in seconds..seconds + 3 {
                let state = fill(budget, len, now).state();
                assert_eq!(state.shortfall(pre_roll_ns), None, "{state:?}");
                let held = state.newest_ns.unwrap() - state.oldest_ns.unwrap();
                assert!(held >= pre_roll_ns, "{held} {short:?}");
            }
        }
    }

    #[test]
    fn an_outage_does_not_lower_the_bit_rate() {
        let mut ring = fill(usize::MAX, 1000, 10);
        let before = ring.state().bytes_per_s.unwrap();
        let t_ns = 3600 * NS_PER_S;
        let params = CodecParams::for_tests(16, 16);
        let data = Bytes::from(vec![0; 1000 - PACKET_OVERHEAD]);
        let (is_key, frame_id) = (true, 0);
        let packet = Packet {
            data,
            is_key,
            pts_ns: t_ns,
            dts_ns: t_ns,
            frame_id,
            params,
        };
        ring.add(packet).unwrap();
        let state = ring.state();
        assert!(state.bytes_per_s.unwrap() > before * 9 / 10);
        assert_eq!(state.held_ms, 3_600_000);
        assert_eq!(fill(usize::MAX, 1000, 1).state().bytes_per_s, None);
    }
}
