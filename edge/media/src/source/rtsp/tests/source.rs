//! The whole way: a server, the connection, the encoded source, decoded frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use visualpath_core::{MonotonicClock, NS_PER_MS};
use visualpath_frames::{Frame, FramePool, PoolSpec};

use super::super::super::{GapCause, Needs, Source, SourceEvent, SourceOptions, open};
use super::clip::{Clip, h264, h265};
use super::server::{Act, Rtp, Script, Server};
use super::*;
use crate::convert::Converter;
use crate::encode::Packet;

/// A source, the pool for its format, and what it has given so far.
pub(super) struct Watched {
    source: Box<dyn Source>,
    pool: FramePool,
    pub(super) frames: Vec<Frame>,
    pub(super) packets: Vec<Packet>,
    /// Everything else, as words, with the number of frames before it.
    told: Vec<(usize, String)>,
}

impl Watched {
    pub(super) fn new(uri: &str) -> Self {
        let mut opts = SourceOptions::new(Name::new("cam0").unwrap(), uri);
        opts.realtime = true;
        let mut source = open(&opts, Arc::new(MonotonicClock::new())).unwrap();
        source.adjust(&Needs {
            packets: true,
            ..Needs::default()
        });
        let pool = pool(&*source);
        Self {
            source,
            pool,
            frames: Vec::new(),
            packets: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Takes events until this holds.
    pub(super) fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        let stop = StopFlag::new();
        let begun = Instant::now();
        while !enough(self) {
            assert!(
                begun.elapsed() < LONG,
                "{} frames, {:?}",
                self.frames.len(),
                self.told
            );
            match self.source.next(&self.pool, &stop).unwrap() {
                SourceEvent::Frame(frame) => self.frames.push(frame),
                SourceEvent::Packet(packet) => self.packets.push(packet),
                SourceEvent::NewFormat(info) => {
                    self.pool = pool(&*self.source);
                    self.tell(format!("format {}", info.description));
                }
                SourceEvent::Offline(outage) => self.tell(format!("offline {}", outage.detail)),
                SourceEvent::Online => self.tell("online".to_owned()),
                SourceEvent::Gap(gap) => {
                    let frames = self.frames.len();
                    assert_ne!(gap.cause, GapCause::Stalled, "{frames} frames, {gap:?}");
                    self.tell(format!("gap {}", gap.cause.as_str()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn tell(&mut self, what: String) {
        self.told.push((self.frames.len(), what));
    }

    pub(super) fn was_told(&self, what: &str) -> bool {
        self.told.iter().any(|(_, told)| told.starts_with(what))
    }
}

fn pool(source: &dyn Source) -> FramePool {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let spec = PoolSpec {
        pool_id: NEXT.fetch_add(1, Ordering::Relaxed),
        slots: 64,
        native: source.info().layout,
        native_room: 0,
        views: Vec::new(),
    };
    FramePool::heap(&spec, Arc::new(Converter::new())).unwrap()
}

/// Every frame shows the picture it should, bit for bit.
fn decodes(clip: &Clip, count: usize) {
    let acts = Rtp::starting(1, 0).pictures(clip, 0..clip.pictures.len());
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut watched = Watched::new(&server.uri());
    watched.until(|w| w.frames.len() >= count && w.packets.len() >= count);
    for (n, frame) in watched.frames.iter().enumerate() {
        assert!(frame.pixels() == clip.decoded[n], "picture {n}");
        let packet = watched
            .packets
            .iter()
            .find(|p| p.frame_id == frame.meta().frame_id);
        let packet = packet.unwrap();
        assert_eq!(packet.data, clip.packet(n));
        assert_eq!(packet.pts_ns, frame.meta().t_ns);
        let since = frame.meta().t_ns - watched.frames[0].meta().t_ns;
        assert_eq!(since, i64::try_from(n).unwrap() * 40 * NS_PER_MS);
    }
    let said = &watched.source.info().description;
    assert!(
        said.contains("320x240") && said.contains("audio not captured"),
        "{said}"
    );
}

#[test]
fn h264_is_decoded_to_the_pictures_that_were_encoded() {
    decodes(h264(), 20);
}

#[test]
fn h265_is_decoded_to_the_pictures_that_were_encoded() {
    // The last ones stay in the decoder until more comes.
    decodes(h265(), 10);
}

#[test]
fn a_connection_that_breaks_in_a_gop_is_made_again_and_numbers_and_time_go_on() {
    let clip = h264();
    let mut broken = Rtp::starting(1, 7).pictures(clip, 0..6);
    broken.push(Act::Close);
    // The other clock has nothing to do with the first.
    let again = Rtp::starting(9, 1 << 30).pictures(clip, 10..20);
    let server = Server::start(vec![
        Script::playing(clip, broken),
        Script::playing(clip, again),
    ]);
    let mut watched = Watched::new(&server.uri());
    watched.until(|w| w.frames.len() >= 16 && w.packets.len() >= 16);
    for (n, packet) in watched.packets.iter().enumerate() {
        let at = if n < 6 { n } else { n + 4 };
        assert_eq!(packet.data, clip.packet(at), "packet {n}");
    }
    let metas: Vec<_> = watched.frames.iter().map(|f| *f.meta()).collect();
    for pair in metas.windows(2) {
        assert!(pair[1].frame_id > pair[0].frame_id);
        assert!(pair[1].t_ns > pair[0].t_ns);
    }
    assert_eq!(metas[5].epoch + 1, metas[6].epoch);
    let outage_ns = metas[6].t_ns - metas[5].t_ns;
    assert!(
        outage_ns > 100 * NS_PER_MS,
        "the back-off is in it: {outage_ns}"
    );
    let between: Vec<&str> = watched
        .told
        .iter()
        .filter(|(frames, _)| *frames == 6)
        .map(|(_, what)| what.split(' ').next().unwrap())
        .collect();
    assert!(
        between.contains(&"offline") && between.contains(&"online"),
        "{:?}",
        watched.told
    );
    assert!(watched.was_told("gap disconnected"), "{:?}", watched.told);
}

#[test]
fn a_camera_that_restarts_is_found_again() {
    let clip = h264();
    let script = Script::playing(clip, Rtp::starting(1, 0).pictures(clip, 0..5));
    let server = Server::start(vec![script.clone()]);
    let address = server.address;
    let mut watched = Watched::new(&format!("rtsp://user:s3cret@{address}/live"));
    watched.until(|w| w.frames.len() >= 5);
    drop(server);
    watched
        .until(|w| w.was_told("offline") && w.told.iter().any(|t| t.1.contains("no connection")));
    let _server = Server::start_at(address, vec![script]);
    watched.until(|w| w.frames.len() >= 10);
    assert!(watched.frames[5].meta().t_ns > watched.frames[4].meta().t_ns);
    assert!(watched.frames[5].pixels() == clip.decoded[0]);
    let shown = format!("{:?} {:?}", watched.told, watched.source.info());
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_hole_is_a_gap_up_to_the_next_key_picture() {
    let clip = h264();
    let mut rtp = Rtp::starting(1, 0);
    let mut acts = rtp.pictures(clip, 0..4);
    assert!(rtp.picture(clip, 4).len() > 1, "all of it is lost");
    acts.extend(rtp.pictures(clip, 5..20));
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut watched = Watched::new(&server.uri());
    watched.until(|w| w.frames.len() >= 14);
    let ids: Vec<u64> = watched.frames.iter().map(|f| f.meta().frame_id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    for (frame, id) in watched.frames.iter().zip(&ids) {
        let n = usize::try_from(*id).unwrap();
        assert!(frame.pixels() == clip.decoded[n], "picture {n}");
    }
    assert!(watched.was_told("gap missed"), "{:?}", watched.told);
}

#[test]
fn an_address_that_can_not_work_is_refused_at_once_without_its_password() {
    for uri in [
        "rtsps://u:s3cret@cam/x",
        "rtsp://u:s3cret/x@cam/",
        "rtsp:/u:s3cret@cam",
    ] {
        let opts = SourceOptions::new(Name::new("cam0").unwrap(), uri);
        let Err(error) = open(&opts, Arc::new(MonotonicClock::new())) else {
            panic!("{uri} was opened");
        };
        let said = format!("{error} {error:?}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(said.contains("***"), "{said}");
    }
}
