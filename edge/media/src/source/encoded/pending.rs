//! Packets that are being decoded, and which frame a picture becomes.
//!
//! Numbers are given in decoding order, when packets arrive; frames must come out with growing
//! numbers, in the order they are shown. Without reordering these are the same. With it, the next
//! picture shown takes the lowest number not yet used: frames stay dense and in order, times are
//! exact, and only the numbers of packets between two reordered pictures are exchanged.

use std::collections::VecDeque;

/// More than any decoder holds back.
const MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Growing.
    ids: VecDeque<u64>,
    /// When they are shown; growing.
    shown_ns: VecDeque<i64>,
}

impl Pending {
    pub(super) fn push(&mut self, frame_id: u64, shown_ns: i64) {
        if self.ids.len() >= MAX {
            self.ids.pop_front();
            self.shown_ns.pop_front();
        }
        self.ids.push_back(frame_id);
        let at = self.shown_ns.partition_point(|t| *t < shown_ns);
        self.shown_ns.insert(at, shown_ns);
    }

    /// The newest packet gives no picture.
    pub(super) fn remove(&mut self, shown_ns: i64) {
        if let Some(at) = self.shown_ns.iter().position(|t| *t == shown_ns) {
            self.shown_ns.remove(at);
            self.ids.remove(at);
        }
    }

    /// The number of the picture shown at `shown_ns`, and how many before it never came. `None` if
    /// nothing is known of it.
    pub(super) fn come(&mut self, shown_ns: i64) -> Option<(u64, u64)> {
        let at = self.shown_ns.iter().position(|t| *t == shown_ns)?;
        self.shown_ns.drain(..=at);
        let id = self.ids.drain(..=at).next_back()?;
        Some((id, at as u64))
    }

    /// Nothing of them comes any more; how many they were.
    pub(super) fn give_up(&mut self) -> u64 {
        self.shown_ns.clear();
        let lost = self.ids.len() as u64;
        self.ids.clear();
        lost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_in_the_order_pictures_are_shown() {
        let mut p = Pending::default();
        for (id, shown) in [(5, 0), (6, 30), (7, 10), (8, 20), (9, 60)] {
            p.push(id, shown);
        }
        let got: Vec<_> = [0, 10, 20, 30, 60].map(|t| p.come(t)).into();
        let want: Vec<_> = (5..10).map(|id| Some((id, 0))).collect();
        assert_eq!(got, want);
        assert!(p.is_empty());
    }

    #[test]
    fn pictures_passed_over_are_counted() {
        let mut p = Pending::default();
        for id in 0..6 {
            p.push(id, id as i64 * 10);
        }
        p.remove(50);
        assert_eq!(p.come(20), Some((2, 2)));
        assert_eq!(p.come(77), None);
        assert_eq!(p.give_up(), 2);
    }
}
