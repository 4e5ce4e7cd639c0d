//! Death with the parent.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::stage::{StageError, Step};

/// Asks the kernel for SIGKILL when the parent's spawning thread ends, then looks whether the
/// parent was gone before it was asked.
///
/// Called again after every change of user: the kernel forgets the wish then (prctl(2)).
pub(crate) fn die_with(parent_pid: u32) -> Result<(), StageError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| {
        Step::Parent.failed(
            "PR_SET_PDEATHSIG",
            e,
            "report this: the kernel refuses a call it has had since 2.1",
        )
    })?;
    let now = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if i64::from(now) == i64::from(parent_pid) {
        Ok(())
    } else {
        Err(StageError::ParentGone { parent_pid })
    }
}
