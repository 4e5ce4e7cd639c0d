//! A `.mjpeg` file, through the real source, splitter and decoder.
//!
//! It opens or says what is wrong with the file. What opened gives frames with rising numbers and
//! times in the layout announced, says what it lost, and ends; and ends for ever.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use visualpath_core::{ManualClock, Name};
use visualpath_frames::{FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_media::source::{SourceEvent, SourceInfo, SourceOptions, StopFlag, open};

/// A damaged header may claim a picture of 400 MB; decoding that is slow, not wrong.
const LARGEST_BYTES: usize = 1 << 20;

/// 25 pictures a second: JPEGs have no time of their own.
const INTERVAL_NS: i64 = 40_000_000;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    // Anything else is ffmpeg's.
    if !bytes.starts_with(&[0xFF, 0xD8]) {
        return false;
    }
    let uri = DIR.with(|dir| {
        let path = dir.path().join("a.mjpeg");
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let options = SourceOptions::new(Name::new("cam0").unwrap(), &uri);
    let mut source = match open(&options, Arc::new(ManualClock::default())) {
        Ok(source) => source,
        Err(e) => {
            assert!(e.to_string().contains(&uri), "does not name the file: {e}");
            return false;
        }
    };
    let stop = StopFlag::new();
    let (mut frames, mut lost, mut last) = (0, 0, None);
    let mut info = source.info().clone();
    'format: loop {
        assert!(info.layout.width > 0 && info.layout.height > 0, "{info:?}");
        if info.layout.bytes() > LARGEST_BYTES {
            return false;
        }
        let pool = pool(&info);
        loop {
            match source.next(&pool, &stop) {
                Ok(SourceEvent::Frame(frame)) => {
                    let meta = *frame.meta();
                    assert_eq!(meta.layout, info.layout);
                    // A lost picture has used up its number and its time.
                    assert_eq!(
                        meta.t_ns,
                        i64::try_from(meta.frame_id).unwrap() * INTERVAL_NS
                    );
                    assert_eq!(frame.pixels().len(), info.layout.bytes());
                    assert!(
                        last < Some((meta.frame_id, meta.t_ns)),
                        "{last:?} then {meta:?}"
                    );
                    last = Some((meta.frame_id, meta.t_ns));
                    frames += 1;
                }
                Ok(SourceEvent::Gap(gap)) => {
                    assert!(gap.lost > 0 && gap.from_ns <= gap.to_ns, "{gap:?}");
                    lost += gap.lost;
                }
                Ok(SourceEvent::NewFormat(new)) => {
                    assert_ne!(new.layout, info.layout, "a new format is another one");
                    info = new;
                    continue 'format;
                }
                Ok(SourceEvent::End(end)) => {
                    assert_eq!((end.frames, end.lost), (frames, lost));
                    break 'format;
                }
                Ok(other) => panic!("{other:?}"),
                Err(e) => {
                    assert!(e.to_string().contains(&uri), "does not name the file: {e}");
                    break 'format;
                }
            }
            // Each takes its start mark at least.
            assert!(frames + lost <= bytes.len() as u64 / 2);
        }
    }
    let after = source.next(&pool(&info), &stop);
    assert!(matches!(after, Ok(SourceEvent::End(_))), "{after:?}");
    frames > 0
}

fn pool(info: &SourceInfo) -> FramePool {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, Ordering::Relaxed),
        slots: 1,
        native: info.layout,
        native_room: 0,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}
