//! What every reader of outside bytes promises, whatever the bytes: one `check(&[u8])` per reader.
//!
//! A promise broken is a panic. The answer is whether the bytes were taken for good: nobody may
//! depend on it but the test that the seeds are. The same functions are run by libFuzzer (`fuzz_targets/`,
//! `cross/fuzz.sh`) and, on mutated seeds, by proptest in every test run (`proptests.rs`).
#![allow(
    clippy::unwrap_used,
    reason = "a promise that is broken is a panic, which the fuzzer reports"
)]

pub mod config;
pub mod jpegs;
pub mod mjpeg;
pub mod nut;
pub mod protocol;
pub mod rules;
pub mod seeds;
pub mod trace;

use std::io::{self, Read};

/// libFuzzer's binding ends the process at every panic; one that the code under test catches (a
/// parser's, a plugin's) is no finding. An uncaught one still ends it.
pub fn only_uncaught_panics_count() {
    std::panic::set_hook(Box::new(|info| {
        use std::io::Write;
        // Standard error is not there to be told that writing to it failed.
        drop(writeln!(io::stderr(), "{info}"));
    }));
}

/// Gives its bytes in small, odd pieces and is interrupted now and then, as a pipe is.
struct Trickle<'a> {
    bytes: &'a [u8],
    turn: usize,
}

impl<'a> Trickle<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, turn: 0 }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = [1, 7, 2, 61][self.turn % 4]
            .min(out.len())
            .min(self.bytes.len());
        let (head, rest) = self.bytes.split_at(n);
        out[..n].copy_from_slice(head);
        self.bytes = rest;
        Ok(n)
    }
}
