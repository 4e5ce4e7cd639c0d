//! The splitter of bare JPEG sequences.
//!
//! However the bytes come, the pieces are the same; no more comes out than went in; and what it
//! calls a JPEG is one: split alone, it is itself and nothing else.

use std::io::Read;

use visualpath_media::source::{JpegSplitter, Piece};

use super::Trickle;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    let (pieces, between) = split(bytes);
    assert_eq!(
        split(Trickle::new(bytes)),
        (pieces.clone(), between),
        "cut otherwise"
    );
    let total: usize = pieces.iter().map(|(_, jpeg)| jpeg.len()).sum();
    // A start mark that breaks one picture off begins the next as well.
    assert!(total <= bytes.len() + 2 * pieces.len());
    assert!(pieces.len() <= bytes.len() / 2 + 1 && between <= bytes.len() as u64);
    let good = pieces.iter().any(|(piece, _)| *piece == Piece::Jpeg);
    for (piece, jpeg) in pieces {
        assert!(
            jpeg.starts_with(&[0xFF, 0xD8]),
            "begins with its start mark"
        );
        if piece == Piece::Jpeg {
            assert!(jpeg.ends_with(&[0xFF, 0xD9]), "ends with its end mark");
            assert_eq!(split(&jpeg[..]), (vec![(Piece::Jpeg, jpeg.clone())], 0));
        }
    }
    good
}

fn split(input: impl Read) -> (Vec<(Piece, Vec<u8>)>, u64) {
    let mut splitter = JpegSplitter::new(input);
    let (mut all, mut out) = (Vec::new(), Vec::new());
    loop {
        match splitter.next_piece(&mut out).unwrap() {
            Piece::End => return (all, splitter.bytes_between()),
            piece => all.push((piece, out.clone())),
        }
    }
}
