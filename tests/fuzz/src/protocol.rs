//! One message of a worker, or to one, in either codec.
//!
//! It is a message or an error in a few words; a message, written again, is the same message, and a
//! second writing gives the same bytes. What is refused can be answered.

use std::fmt::Debug;

use visualpath_protocol::{Codec, FromChild, FromParent, Message, decode, encode};

/// Longest error: it may quote a name, not the message.
const MAX_MESSAGE_BYTES: usize = 1000;

/// What a parent reads.
pub fn from_child(bytes: &[u8]) -> bool {
    check::<FromChild>(bytes)
}

/// What a child reads.
pub fn from_parent(bytes: &[u8]) -> bool {
    check::<FromParent>(bytes)
}

fn check<M: Message + PartialEq + Debug>(bytes: &[u8]) -> bool {
    // Both read them: a hello is JSON whatever comes later.
    let good = [Codec::Json1, Codec::Postcard1].map(|codec| match decode::<M>(codec, bytes) {
        Ok(told) => {
            let written = encode(codec, told.id, &told.message)
                .unwrap_or_else(|e| panic!("read but not written: {e}"));
            let again = decode::<M>(codec, &written)
                .unwrap_or_else(|e| panic!("written but not read: {e}"));
            assert_eq!(again, told);
            assert_eq!(encode(codec, again.id, &again.message).unwrap(), written);
            true
        }
        Err(error) => {
            let words = error.to_string();
            assert!((1..MAX_MESSAGE_BYTES).contains(&words.len()), "{words}");
            let id = error.id().unwrap_or(0);
            encode(codec, id, &FromParent::Error(error.answer())).unwrap();
            encode(codec, id, &FromChild::Error(error.answer())).unwrap();
            false
        }
    });
    good.contains(&true)
}
