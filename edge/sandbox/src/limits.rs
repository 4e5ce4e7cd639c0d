//! Limits on what one process may use (getrlimit(2)), and who the kernel kills first when
//! memory runs out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::policy::Policy;
use crate::stage::{StageError, Step};

/// A worker dies before its parent when memory runs out (-1000 to 1000).
const OOM_SCORE_ADJ: &str = "500";

/// Sets soft and hard limits alike; a limit that was lower already stays.
pub(crate) fn apply(policy: &Policy) -> Result<(), StageError> {
    limit(Resource::Core, "RLIMIT_CORE", 0)?;
    limit(Resource::Nofile, "RLIMIT_NOFILE", policy.files)?;
    limit(Resource::Fsize, "RLIMIT_FSIZE", policy.file_bytes)?;
    if let Some(bytes) = policy.memory_bytes
        && policy.devices.is_empty()
    {
        limit(Resource::Data, "RLIMIT_DATA", bytes)?;
    }
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).or_else(|error| {
        // A container may hide it, and a worker with a higher one already must not lower it.
        match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            _ => Err(Step::Limits.failed(
                "/proc/self/oom_score_adj",
                error,
                "report this: it is only ever raised",
            )),
        }
    })
}

fn limit(resource: Resource, name: &str, wanted: u64) -> Result<(), StageError> {
    let hard = getrlimit(resource)
        .maximum
        .map_or(wanted, |hard| hard.min(wanted));
    let new = Rlimit {
        current: Some(hard),
        maximum: Some(hard),
    };
    setrlimit(resource, new).map_err(|e| {
        Step::Limits.failed(
            format!("{name} = {hard}"),
            e,
            "give a smaller limit in the plugin's config",
        )
    })
}
