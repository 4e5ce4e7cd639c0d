//! For authors of extractors: serve one to the appliance from a process of its own.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use visualpath_core::{
//!     ExtractError, Extractor, ExtractorPlugin, FrameView, Observation, PluginContext, PluginError,
//!     ViewSpec,
//! };
//!
//! struct Brightness;
//!
//! impl Extractor for Brightness {
//!     fn extract(
//!         &mut self,
//!         frame: &FrameView<'_>,
//!         _deps: &[Observation],
//!     ) -> Result<Vec<Observation>, ExtractError> {
//!         let sum: u64 = frame.pixels.iter().map(|p| u64::from(*p)).sum();
//!         let mean = sum as f64 / frame.pixels.len().max(1) as f64;
//!         // The appliance fills in the extractor's name.
//!         let name = "brightness".parse().map_err(|e| ExtractError(format!("{e}")))?;
//!         let mut seen = Observation::new(name, frame.meta.frame_id, frame.meta.t_ns);
//!         seen.signals.set("mean", mean);
//!         Ok(vec![seen])
//!     }
//! }
//!
//! struct Plugin;
//!
//! impl ExtractorPlugin for Plugin {
//!     fn name(&self) -> &str { "brightness" }
//!     fn version(&self) -> &str { "1.0.0" }
//!     fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
//!         Ok(ViewSpec { format: visualpath_core::ViewFormat::Grey, size: Some((64, 64)), ..ViewSpec::default() })
//!     }
//!     fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
//!         Ok(vec!["mean".to_owned()])
//!     }
//!     fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
//!         Ok(Box::new(Brightness))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     visualpath_plugin::main(Plugin)
//! }
//! ```
//!
//! The same `impl ExtractorPlugin` runs inside the appliance when it is linked in: nothing in it
//! knows where it runs. What it prints on standard output or standard error is a line in the
//! appliance's log.

mod channel;
mod serve;

pub use serve::{HELD_EXIT, ServeError, serve};
pub use visualpath_core as core;

use std::process::ExitCode;
use std::sync::Arc;

use visualpath_core::ExtractorPlugin;

/// [`serve`], for a `main` that does nothing else: says on standard error what went wrong.
pub fn main(plugin: impl ExtractorPlugin + 'static) -> ExitCode {
    match serve(Arc::new(plugin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            #[expect(clippy::print_stderr, reason = "standard error is this process's log")]
            {
                eprintln!("ERROR {e}");
            }
            ExitCode::from(e.exit_code())
        }
    }
}
