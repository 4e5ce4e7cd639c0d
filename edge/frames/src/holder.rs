//! Who holds the slots: a one-byte tag on every lease, so that an exhausted pool can say whom it
//! waits for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holders one pool can tell apart, the two built-in ones included.
pub const MAX_HOLDERS: usize = 64;

/// Tag of a lease: who took it. Made by [`FramePool::holder`](crate::FramePool::holder) and
/// meaningful at that pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(u8);

impl Holder {
    /// Everyone for whom no tag was left.
    pub const OTHER: Self = Self(0);
    /// Whoever is filling a slot that is not published yet.
    pub const WRITER: Self = Self(1);

    /// Always below [`MAX_HOLDERS`].
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..).take(MAX_HOLDERS).map(Self)
    }
}

/// The names of a pool's holders.
pub(crate) struct HolderNames(Mutex<Vec<String>>);

impl HolderNames {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(vec!["other".into(), "writer".into()]))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tag of `name`, registered if it is new; [`Holder::OTHER`] when none is left.
    pub(crate) fn tag(&self, name: &str) -> Holder {
        let mut names = self.lock();
        let known = names.iter().position(|n| n == name);
        let index = known.unwrap_or(names.len());
        match u8::try_from(index) {
            Ok(tag) if index < MAX_HOLDERS => {
                if known.is_none() {
                    names.push(name.to_owned());
                }
                Holder(tag)
            }
            _ => Holder::OTHER,
        }
    }

    pub(crate) fn name(&self, holder: Holder) -> Option<String> {
        self.lock().get(holder.index()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_tag_and_the_number_of_tags_is_bounded() {
        let names = HolderNames::new();
        let encoder = names.tag("encoder");
        assert_eq!(names.tag("encoder"), encoder);
        assert_eq!(names.tag("writer"), Holder::WRITER);
        for i in 3..MAX_HOLDERS {
            assert_ne!(names.tag(&format!("h{i}")), Holder::OTHER);
        }
        assert_eq!(names.tag("one too many"), Holder::OTHER);
        assert_eq!(names.tag("encoder"), encoder, "known names stay");
        assert_eq!(names.name(encoder).as_deref(), Some("encoder"));
    }
}
