//! A camera source on a scripted camera, under watch: what must hold at any moment is checked at
//! every event.

use std::collections::VecDeque;
use std::sync::Arc;

use visualpath_core::{ManualClock, Name};
use visualpath_frames::{Frame, FramePool, PoolSpec};

use super::scripted::{SIZE, ScriptedBus, Shared, Step};
use super::source::CameraSource;
use crate::convert::Converter;
use crate::source::{GapCause, Source, SourceEvent, SourceInfo, SourceOptions, StopFlag};

pub(super) const SLOTS: usize = 10;
/// No test needs as many events.
pub(super) const GUARD: usize = 20_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    Frame { id: u64, epoch: u32 },
    Packet(u64),
    Gap(GapCause, u64),
    Offline(String),
    Online,
    NewFormat,
}

/// A camera source under watch.
pub(super) struct Rig {
    pub(super) world: Shared,
    pub(super) clock: Arc<ManualClock>,
    pub(super) source: CameraSource,
    pub(super) pool: FramePool,
    pools: u32,
    pub(super) stop: StopFlag,
    /// The newest frames, kept: their pixels must stay what they were.
    pub(super) kept: VecDeque<(Frame, u8)>,
    pub(super) keep: usize,
    raw: bool,
    last: Option<(u64, i64, u32, usize)>,
    was_offline: bool,
    was_online: bool,
    pub(super) lost_since: u64,
    gap_since: bool,
}

pub(super) fn options() -> SourceOptions {
    SourceOptions {
        width: Some(SIZE.0),
        height: Some(SIZE.1),
        fps: Some(25.0),
        ..SourceOptions::new(Name::new("cam0").unwrap(), "/dev/video0")
    }
}

pub(super) fn pool_for(info: &SourceInfo, pool_id: u32) -> FramePool {
    let spec = PoolSpec {
        pool_id,
        slots: SLOTS,
        native: info.layout,
        native_room: info.native_room,
        views: Vec::new(),
    };
    FramePool::memfd(&spec, Arc::new(Converter::new())).unwrap()
}

impl Rig {
    pub(super) fn with(
        fourccs: &[&str],
        opts: &SourceOptions,
        prepare: impl FnOnce(&Shared),
    ) -> Self {
        let clock = Arc::new(ManualClock::at(1_000_000_000));
        let world = Shared::new(clock.clone(), fourccs);
        prepare(&world);
        let bus = Box::new(ScriptedBus(world.clone()));
        let source = CameraSource::on(bus, opts, clock.clone()).unwrap();
        let pool = pool_for(source.info(), 1);
        world.lock().pool = Some(pool.clone());
        Self {
            world,
            clock,
            source,
            pool,
            pools: 1,
            stop: StopFlag::new(),
            kept: VecDeque::new(),
            keep: 2,
            raw: !fourccs.contains(&"MJPG"),
            last: None,
            was_offline: false,
            was_online: false,
            lost_since: 0,
            gap_since: false,
        }
    }

    pub(super) fn new(userptr: bool, script: &[Step]) -> Self {
        let script = script.to_vec();
        Self::with(&["NV12"], &options(), |world| {
            let mut world = world.lock();
            world.userptr = userptr;
            world.script = script.into();
        })
    }

    /// The next event, with everything checked that must hold at any moment.
    pub(super) fn next(&mut self) -> Seen {
        let event = self.source.next(&self.pool, &self.stop).unwrap();
        let seen = match event {
            SourceEvent::Frame(frame) => self.frame(frame),
            SourceEvent::Packet(packet) => Seen::Packet(packet.frame_id),
            SourceEvent::Gap(gap) => {
                assert!(gap.from_ns <= gap.to_ns, "{gap:?}");
                self.lost_since += gap.lost;
                self.gap_since = true;
                Seen::Gap(gap.cause, gap.lost)
            }
            SourceEvent::Offline(outage) => {
                assert!(!outage.advice.is_empty());
                self.was_offline = true;
                Seen::Offline(outage.detail)
            }
            // Of the very first frame.
            SourceEvent::Online if !self.was_offline => {
                assert!(self.last.is_none() && !self.was_online);
                self.was_online = true;
                return self.next();
            }
            SourceEvent::Online => Seen::Online,
            SourceEvent::NewFormat(info) => {
                assert_eq!(&info, self.source.info());
                self.pools += 1;
                self.pool = pool_for(&info, self.pools);
                self.world.lock().pool = Some(self.pool.clone());
                Seen::NewFormat
            }
            other => panic!("{other:?}"),
        };
        self.check();
        seen
    }

    pub(super) fn frame(&mut self, frame: Frame) -> Seen {
        let meta = *frame.meta();
        let opens = self.world.lock().starts;
        if let Some((id, t_ns, epoch, before)) = self.last {
            assert_eq!(
                meta.frame_id,
                id + 1 + self.lost_since,
                "numbers are dense: {} lost since",
                self.lost_since
            );
            assert!(meta.t_ns > t_ns, "time increases");
            if opens != before {
                assert!(self.gap_since, "a discontinuity is flagged");
                assert!(meta.epoch > epoch, "and begins an epoch");
            }
        } else {
            assert_eq!(meta.frame_id, self.lost_since);
        }
        self.last = Some((meta.frame_id, meta.t_ns, meta.epoch, opens));
        (self.lost_since, self.gap_since) = (0, false);
        let first = frame.pixels()[0];
        if self.raw {
            let rows = frame.layout().planes()[0];
            for row in 0..rows.rows {
                let row = &frame.pixels()[row * rows.stride..][..rows.row_bytes];
                assert!(row.iter().all(|b| *b == first), "a torn picture");
            }
        }
        self.kept.push_back((frame, first));
        if self.kept.len() > self.keep {
            self.kept.pop_front();
        }
        Seen::Frame {
            id: meta.frame_id,
            epoch: meta.epoch,
        }
    }

    /// Nobody but the driver can reach what the driver has.
    fn check(&mut self) {
        let world = self.world.lock();
        assert_eq!(world.violations, Vec::<String>::new());
        let has: Vec<(usize, usize)> = world.has.iter().filter_map(|(_, user)| *user).collect();
        drop(world);
        let overlaps =
            |start: usize, len: usize| has.iter().any(|(s, l)| *s < start + len && start < s + l);
        for (frame, first) in &self.kept {
            assert_eq!(
                frame.pixels()[0],
                *first,
                "a frame changed under its reader"
            );
            let pixels = frame.pixels();
            assert!(
                !overlaps(pixels.as_ptr().addr(), pixels.len()),
                "a frame the driver has"
            );
        }
        let mut free = Vec::new();
        while self.pool.available() > 0 {
            free.extend(self.pool.try_acquire());
        }
        for slot in &mut free {
            let room = slot.room_mut();
            assert!(
                !overlaps(room.as_ptr().addr(), room.len()),
                "a free slot the driver has"
            );
        }
    }

    /// Events up to and with the `count`th frame.
    pub(super) fn until_frames(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut frames = 0;
        for _ in 0..GUARD {
            let event = self.next();
            frames += usize::from(matches!(event, Seen::Frame { .. }));
            seen.push(event);
            if frames == count {
                return seen;
            }
        }
        panic!("no frames: {:?}", &seen[seen.len() - 20..]);
    }

    /// What is seen besides frames, up to `count` frames.
    pub(super) fn besides(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = self.until_frames(count);
        seen.retain(|s| !matches!(s, Seen::Frame { .. }));
        seen
    }

    /// Drops everything and sees that nothing is left.
    pub(super) fn end(self) {
        let Self {
            world,
            source,
            pool,
            kept,
            ..
        } = self;
        drop((source, kept));
        let world = world.lock();
        assert_eq!(world.violations, Vec::<String>::new());
        assert_eq!(world.opens, world.closes, "every open is closed");
        assert_eq!(pool.available(), SLOTS, "every slot is back");
    }
}

pub(super) fn each_memory(script: &[Step], test: impl Fn(&mut Rig)) {
    for userptr in [true, false] {
        let mut rig = Rig::new(userptr, script);
        test(&mut rig);
        rig.end();
    }
}

pub(super) fn offline(seen: &[Seen], words: &str) -> bool {
    seen.iter()
        .any(|s| matches!(s, Seen::Offline(detail) if detail.contains(words)))
}

impl Rig {
    pub(super) fn clock_ns(&self) -> i64 {
        visualpath_core::Clock::now_ns(&*self.clock)
    }
}
