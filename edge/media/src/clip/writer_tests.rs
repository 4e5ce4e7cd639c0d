//! The clip thread itself, through the real lane, on the model of a disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::unbounded;
use visualpath_core::{ColorSpec, NS_PER_MS, NS_PER_S, Name};

use super::model::{ModelDisk, is_ready};
use super::{
    ClipRequest, ClipResult, ClipState, ClipStore, EvidenceLane, Finish, LaneOptions, Offered,
};
use crate::encode::{Codec, CodecParams, Packet};

const LONG: Duration = Duration::from_secs(120);
/// 25 pictures per second.
const STEP_NS: i64 = 40 * NS_PER_MS;

/// In pictures.
fn request(n: u32, (start, event, end): (i64, i64, i64)) -> ClipRequest {
    let name = |text: &str| Name::new(text).unwrap();
    ClipRequest {
        id: format!("00000000-0000-7000-8000-{n:012x}"),
        trigger_id: format!("trigger-{n}"),
        path: name("yard"),
        label: name("seen"),
        event_ns: event * STEP_NS,
        wall_ns: 1_795_377_600 * NS_PER_S + event * STEP_NS,
        start_ns: start * STEP_NS,
        end_ns: end * STEP_NS,
        best_ns: None,
    }
}

#[test]
fn a_clip_that_fails_and_the_one_that_takes_its_request_fail_alone() {
    let disk = ModelDisk::default();
    let on: Arc<dyn super::disk::Disk> = Arc::new(disk.clone());
    let store = ClipStore::on(on, Path::new("/state"), "clips", 1 << 30).unwrap();
    assert_eq!(store.take_over_with(disk.index()), []);
    let mut options = LaneOptions::new(Name::new("cam0").unwrap(), store);
    (options.realtime, options.gop_s) = (false, 0.4);
    options.merge_max_ns = Some(200 * STEP_NS);
    let (tell, results) = unbounded::<ClipResult>();
    let lane = EvidenceLane::start(options, move |r| tell.send(r).unwrap()).unwrap();
    let params = Arc::new(CodecParams {
        codec: Codec::Mjpeg,
        width: 64,
        height: 48,
        color: ColorSpec::default(),
        vps: Bytes::new(),
        sps: Bytes::new(),
        pps: Bytes::new(),
    });
    let mut next = 0;
    let mut until = |last: i64| {
        while next <= last {
            let packet = Packet {
                data: Bytes::from(vec![1; 80]),
                is_key: next % 10 == 0,
                pts_ns: next * STEP_NS,
                dts_ns: next * STEP_NS,
                frame_id: u64::try_from(next).unwrap(),
                params: Arc::clone(&params),
            };
            assert_eq!(lane.offer_packet(packet), Offered::Taken);
            next += 1;
        }
        let newest = Some((next - 1) * STEP_NS);
        let guard = std::time::Instant::now() + LONG;
        while lane.stats().ring.newest_ns < newest && std::time::Instant::now() < guard {
            std::thread::yield_now();
        }
        assert_eq!(lane.stats().ring.newest_ns, newest);
    };

    until(30);
    lane.request(request(1, (0, 30, 120)));
    until(55);
    // With the first it would be too long; what follows fits both, and is joined to this one.
    lane.request(request(2, (50, 55, 220)));
    until(60);
    lane.request(request(3, (60, 110, 190)));
    // The first has written a fragment at 80, and would write the next only at its end.
    until(85);
    disk.fill();
    // The second can't write at 110: the third is joined to the first, which can't write then.
    until(115);
    let lost: Vec<ClipResult> = results.try_iter().collect();
    assert_eq!(lost.len(), 3, "{lost:?}");
    for r in &lost {
        let ClipState::Failed { reason } = &r.state else {
            panic!("{r:?}");
        };
        assert!(reason.contains("can't write"), "{reason}");
    }

    disk.mended();
    lane.request(request(4, (100, 116, 130)));
    until(140);
    lane.finish(Finish::SourceEnd, LONG).unwrap();
    let last: Vec<ClipResult> = results.try_iter().collect();
    assert_eq!(last.len(), 1);
    assert!(is_ready(&last[0]), "the clip thread lives: {:?}", last[0]);
}
