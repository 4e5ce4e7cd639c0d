//! What to do when something goes wrong with an open device: the whole table, as one function. A
//! device that can't be opened is simply looked for again.

use rustix::io::Errno;

/// Where the source was when it saw the sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Asking for formats, setting them, asking for buffers.
    SettingUp,
    /// STREAMON.
    Starting,
    /// QBUF.
    Queueing,
    /// `poll`.
    Waiting,
    /// DQBUF.
    Dequeueing,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sign {
    /// A call failed.
    Errno(Errno),
    /// A buffer came back with its error flag, or too short.
    Damaged,
    /// POLLERR.
    PollError,
    /// POLLHUP.
    PollGone,
    /// No frame for too long.
    Silence,
    /// The driver's event: another format comes in.
    SourceChanged,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The same again.
    Retry,
    /// Count the picture as lost, queue the buffer again.
    DropPicture,
    /// Stop, free, open again at once; later if that fails.
    Reopen,
    /// The device is gone: unmap and close at once, wait for it.
    Gone,
    /// Stop, free, negotiate anew.
    Renegotiate,
    /// The device is there but can't be had now: wait and say why.
    Wait,
}

/// The table.
pub(super) fn action(phase: Phase, sign: Sign) -> Action {
    let errno = match sign {
        Sign::Damaged => return Action::DropPicture,
        Sign::PollError | Sign::Silence => return Action::Reopen,
        Sign::PollGone => return Action::Gone,
        Sign::SourceChanged => return Action::Renegotiate,
        Sign::Errno(errno) => errno,
    };
    let before_frames = matches!(phase, Phase::SettingUp | Phase::Starting);
    match errno {
        Errno::INTR => Action::Retry,
        Errno::AGAIN if matches!(phase, Phase::Waiting | Phase::Dequeueing) => Action::Retry,
        Errno::NODEV | Errno::NXIO | Errno::NOENT => Action::Gone,
        // DQBUF after the last buffer of a format: the driver has another one now.
        Errno::PIPE if phase == Phase::Dequeueing => Action::Renegotiate,
        _ if before_frames => Action::Wait,
        _ => Action::Reopen,
    }
}

/// How long nothing may come before the device counts as stalled: max(2 s, 10 intervals).
pub(super) fn silence_ns(interval_ns: i64) -> i64 {
    interval_ns.saturating_mul(10).max(2_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_issue_row_by_row() {
        use {Action as A, Phase as P};
        let e = Sign::Errno;
        for (phase, sign, expected) in [
            (P::Dequeueing, Sign::Damaged, A::DropPicture),
            (P::Dequeueing, e(Errno::AGAIN), A::Retry),
            (P::Dequeueing, e(Errno::INTR), A::Retry),
            (P::Waiting, e(Errno::INTR), A::Retry),
            (P::Dequeueing, e(Errno::IO), A::Reopen),
            (P::Queueing, e(Errno::IO), A::Reopen),
            (P::Queueing, e(Errno::INVAL), A::Reopen),
            (P::Waiting, Sign::PollError, A::Reopen),
            (P::Waiting, Sign::Silence, A::Reopen),
            (P::Dequeueing, e(Errno::NODEV), A::Gone),
            (P::Queueing, e(Errno::NODEV), A::Gone),
            (P::Starting, e(Errno::NODEV), A::Gone),
            (P::SettingUp, e(Errno::NOENT), A::Gone),
            (P::Waiting, Sign::PollGone, A::Gone),
            (P::Waiting, Sign::SourceChanged, A::Renegotiate),
            (P::Dequeueing, e(Errno::PIPE), A::Renegotiate),
            (P::SettingUp, e(Errno::BUSY), A::Wait),
            (P::Starting, e(Errno::NOSPC), A::Wait),
            (P::Starting, e(Errno::IO), A::Wait),
            (P::SettingUp, e(Errno::ACCESS), A::Wait),
        ] {
            assert_eq!(action(phase, sign), expected, "{phase:?} {sign:?}");
        }
    }

    #[test]
    fn a_slow_camera_is_not_taken_for_a_stalled_one() {
        assert_eq!(silence_ns(33_333_333), 2_000_000_000);
        assert_eq!(silence_ns(1_000_000_000), 10_000_000_000);
        assert_eq!(silence_ns(i64::MAX), i64::MAX);
    }
}
