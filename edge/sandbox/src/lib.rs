//! What a worker process is put into before it runs.
//!
//! The parent describes it in a [`Stage`], hands it over as JSON in the environment variable
//! [`STAGE_ENV`], and spawns its own binary. That fresh process has one thread; the first thing
//! its `main` does is [`enter_or_exit`]:
//!
//! ```text
//! parent ──spawn──▶ stage: parent check, session, descriptors, limits, cgroup, user,
//!                          capabilities, Landlock, seccomp ──exec──▶ the plugin's program
//!                                                          └─return─▶ a built-in plugin goes on
//! ```
//!
//! The one hard idea: **a process can only lock itself in, and each lock takes away what the
//! next one might need.** So the steps are done by the process itself, in one fixed order
//! ([`Stage::enter`]), from the outermost (who kills it) to the innermost (which system calls
//! are left), and the plugin's code is not in the process until the last one has closed.
//!
//! What a machine can do of it is said by [`probe`]; an untrusted plugin must not be started
//! where [`Policy::mandatory_missing`] names something.
//!
//! Why it is like this: `docs/design/sandbox.md`. Every limit and list: `docs/reference/sandbox.md`.

mod cgroup;
mod descriptors;
mod files;
mod filter;
mod limits;
mod parent;
mod policy;
mod privileges;
mod probe;
mod stage;
mod sys;

pub use cgroup::{CgroupError, Delegation, NotDelegated, WorkerCgroup};
pub use files::LANDLOCK_ABI_TESTED;
pub use policy::{Policy, Trust, User, VenvError};
pub use probe::{Layer, LayerName, LayerState, probe};
pub use stage::{
    Entered, Exec, SANDBOX_ENV, STAGE_ENV, STAGE_EXIT, Stage, StageError, Step, enter_or_exit,
};
