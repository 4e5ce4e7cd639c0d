//! A device that streams, and who owns its buffers.
//!
//! The one hard idea: **a buffer is either ours or the driver's, and nothing but the driver's
//! answer makes it ours again.** A slot that the driver writes into lies in a [`Lent`], which can't
//! be read, filled or freed; it comes back when DQBUF names its index, or all come back when
//! STREAMOFF has succeeded or the device is closed. Nothing else, a time-out least of all, ends
//! the driver's right. A [`Lent`] that is lost on the way (a panic) leaks its slot rather than
//! giving memory to somebody else that a device still writes into.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;

use rustix::io::Errno;
use visualpath_frames::{FramePool, SlotMut};

use super::device::{CaptureDevice, Dequeued, Memory};
use super::recovery::{Phase, Sign};
use super::sys::{Mapping, Ready};

/// A call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) phase: Phase,
    pub(super) sign: Sign,
    /// Which call, for people.
    pub(super) what: &'static str,
}

impl Failed {
    pub(super) fn of(phase: Phase, what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self {
            phase,
            sign: Sign::Errno(errno),
            what,
        }
    }
}

/// A slot the driver may write into at any moment.
struct Lent {
    slot: ManuallyDrop<SlotMut>,
    pool: FramePool,
}

/// The driver has no buffer any more: STREAMOFF has succeeded, or the device is closed.
struct LetGo(());

impl Lent {
    /// The driver gave this very buffer back.
    fn dequeued(self) -> (SlotMut, FramePool) {
        (ManuallyDrop::into_inner(self.slot), self.pool)
    }

    fn let_go(self, _: &LetGo) -> SlotMut {
        ManuallyDrop::into_inner(self.slot)
    }
}

struct MappedBuffer {
    planes: Vec<Mapping>,
    with_driver: bool,
}

enum Buffers {
    /// The driver's memory, by index.
    Mapped(Vec<MappedBuffer>),
    /// Ours, by index; `None` is free to be lent.
    Lent(Vec<Option<Lent>>),
}

/// A buffer with a picture in it, ours again.
pub(super) enum Filled {
    /// The picture is in this slot of this pool.
    Slot(SlotMut, FramePool),
    /// It is in the driver's buffer, to be read by [`Stream::plane`] and given back by
    /// [`Stream::give_back`].
    Mapped,
}

/// What became of the attempt to lend slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fed {
    /// The driver has at least one buffer.
    pub(super) any: bool,
    /// The pool had no slot for some.
    pub(super) starved: bool,
}

/// A device with buffers. Dropping it stops and closes the device, then frees the buffers.
pub(super) struct Stream {
    /// `None` only while it is dropped.
    device: Option<Box<dyn CaptureDevice>>,
    buffers: Buffers,
    memory: Memory,
}

impl Stream {
    /// Asks for `count` buffers. Nothing flows yet.
    pub(super) fn new(
        mut device: Box<dyn CaptureDevice>,
        memory: Memory,
        count: u32,
    ) -> Result<Self, Failed> {
        let setting_up = |what| Failed::of(Phase::SettingUp, what);
        let count = device
            .request(memory, count)
            .map_err(setting_up("asking for buffers"))?;
        let buffers = match memory {
            Memory::UserPtr => Buffers::Lent((0..count).map(|_| None).collect()),
            Memory::Mmap => Buffers::Mapped(
                (0..count)
                    .map(|index| {
                        Ok(MappedBuffer {
                            planes: device.map(index)?,
                            with_driver: false,
                        })
                    })
                    .collect::<Result<_, Errno>>()
                    .map_err(setting_up("mapping its buffers"))?,
            ),
        };
        if count == 0 {
            return Err(setting_up("asking for buffers")(Errno::NOMEM));
        }
        Ok(Self {
            device: Some(device),
            buffers,
            memory,
        })
    }

    /// Hands the driver's own buffers to it and begins.
    pub(super) fn start(&mut self) -> Result<(), Failed> {
        for index in 0..self.count() {
            self.give_back(index)?;
        }
        self.device()?
            .start()
            .map_err(Failed::of(Phase::Starting, "starting the stream"))
    }

    /// Lends slots of `pool` for all buffers that have none. Of no effect on a driver with memory
    /// of its own.
    pub(super) fn feed(&mut self, pool: &FramePool) -> Result<Fed, Failed> {
        let mut fed = Fed {
            any: true,
            starved: false,
        };
        let (Buffers::Lent(lent), Some(device)) = (&mut self.buffers, &mut self.device) else {
            return Ok(fed);
        };
        for (index, place) in (0..).zip(lent.iter_mut()) {
            if place.is_some() {
                continue;
            }
            if pool.available() == 0 {
                fed.starved = true;
                break;
            }
            let Some(mut slot) = pool.try_acquire() else {
                fed.starved = true;
                break;
            };
            let room = slot.room_mut();
            let (start, len) = (room.as_mut_ptr(), room.len());
            // In its place before the call: whether a driver that says no has looked at it all
            // the same is not for us to guess. Then it comes back with the others.
            *place = Some(Lent {
                slot: ManuallyDrop::new(slot),
                pool: pool.clone(),
            });
            // SAFETY: `len` bytes that nobody else can reach: the slot is ours alone and now
            // inside a `Lent`, which gives it back only after the driver did, and is leaked if it
            // is dropped. Its memory stays where it is until then (`SlotMut::room_mut`).
            unsafe { device.queue_user(index, start, len) }
                .map_err(Failed::of(Phase::Queueing, "queueing a frame's memory"))?;
        }
        fed.any = lent.iter().any(Option::is_some);
        Ok(fed)
    }

    /// Waits for a buffer or an event.
    pub(super) fn poll(&mut self, limit_ms: i32) -> Result<Ready, Failed> {
        self.device()?
            .poll(limit_ms)
            .map_err(Failed::of(Phase::Waiting, "waiting for a picture"))
    }

    /// The next filled buffer.
    pub(super) fn dequeue(&mut self) -> Result<(Dequeued, Filled), Failed> {
        let failed = Failed::of(Phase::Dequeueing, "taking a picture");
        let memory = self.memory;
        let done = self.device()?.dequeue(memory).map_err(&failed)?;
        let index = done.index as usize;
        let filled = match &mut self.buffers {
            Buffers::Mapped(mapped) => {
                mapped
                    .get_mut(index)
                    .filter(|b| b.with_driver)
                    .map(|buffer| {
                        buffer.with_driver = false;
                        Filled::Mapped
                    })
            }
            Buffers::Lent(lent) => lent.get_mut(index).and_then(Option::take).map(|lent| {
                let (slot, pool) = lent.dequeued();
                Filled::Slot(slot, pool)
            }),
        };
        // A buffer it never had: nothing it says can be relied on.
        let filled = filled.ok_or_else(|| failed(Errno::PROTO))?;
        Ok((done, filled))
    }

    /// The used bytes of one plane of memory of a dequeued buffer of the driver's; `None` if the
    /// driver has it, or says it used more than there is.
    pub(super) fn plane(&self, done: &Dequeued, index: usize) -> Option<&[u8]> {
        let Buffers::Mapped(mapped) = &self.buffers else {
            return None;
        };
        let buffer = mapped
            .get(done.index as usize)
            .filter(|buffer| !buffer.with_driver)?;
        let (from, to) = *done.used.parts().get(index)?;
        // SAFETY: the driver has given this buffer back, and gets it again only through
        // `give_back`, which needs `&mut self`.
        let bytes = unsafe { buffer.planes.get(index)?.bytes() };
        bytes.get(from..to)
    }

    /// Hands a buffer of the driver's own memory to it again. Of no effect on one it has, and on
    /// lent ones, which [`Stream::feed`] takes care of.
    pub(super) fn give_back(&mut self, index: u32) -> Result<(), Failed> {
        let (Buffers::Mapped(mapped), Some(device)) = (&mut self.buffers, &mut self.device) else {
            return Ok(());
        };
        let Some(buffer) = mapped.get_mut(index as usize).filter(|b| !b.with_driver) else {
            return Ok(());
        };
        // As with lent ones: not ours from here on, whatever the answer.
        buffer.with_driver = true;
        device
            .queue_mapped(index)
            .map_err(Failed::of(Phase::Queueing, "queueing a buffer"))
    }

    /// The device, to ask it something or set a control.
    pub(super) fn device(&mut self) -> Result<&mut Box<dyn CaptureDevice>, Failed> {
        let gone = Failed::of(Phase::Waiting, "using a closed device");
        self.device.as_mut().ok_or_else(|| gone(Errno::NODEV))
    }

    /// Stops and gives the device back, without buffers; closes it if it can't be stopped.
    pub(super) fn stop(mut self) -> Option<Box<dyn CaptureDevice>> {
        self.shut(true)
    }

    fn count(&self) -> u32 {
        let count = match &self.buffers {
            Buffers::Mapped(mapped) => mapped.len(),
            Buffers::Lent(lent) => lent.len(),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Ends the driver's right to every buffer, then frees them.
    fn shut(&mut self, keep: bool) -> Option<Box<dyn CaptureDevice>> {
        let mut device = self.device.take()?;
        let stopped = device.stop();
        // The driver's own memory outlives our view of it, and its file is not closed before that
        // view is gone.
        if let Buffers::Mapped(mapped) = &mut self.buffers {
            mapped.clear();
        }
        let mut kept = None;
        let let_go = match stopped {
            Ok(()) => {
                kept = Some(device);
                LetGo(())
            }
            // A device that is gone can't be stopped, but closing it ends its right as well.
            Err(errno) => {
                tracing::debug!(%errno, "the stream was not stopped; the device is closed");
                drop(device);
                LetGo(())
            }
        };
        if let Buffers::Lent(lent) = &mut self.buffers {
            for lent in lent.iter_mut().filter_map(Option::take) {
                drop(lent.let_go(&let_go));
            }
        }
        let mut device = kept?;
        match device.request(self.memory, 0) {
            Ok(_) => keep.then_some(device),
            Err(errno) => {
                tracing::debug!(%errno, "the buffers were not freed; closing the device does");
                None
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.shut(false));
    }
}
