//! Placeholder until the rules branch is merged.
use std::sync::Arc;
use visualpath_core::{ExtractorSignals, Held};
/// A gate.
pub struct Gate {
    reads: Vec<usize>,
}
impl Gate {
    /// Compiles.
    pub fn compile(_: &str, _: i64, e: &[ExtractorSignals]) -> Result<Self, String> {
        Ok(Self {
            reads: (0..e.len()).collect(),
        })
    }
    /// Reads.
    pub fn reads(&self) -> &[usize] {
        &self.reads
    }
    /// Open.
    pub fn open(&mut self, _: i64, held: &mut dyn FnMut(usize) -> Option<Arc<Held>>) -> bool {
        self.reads.iter().all(|i| held(*i).is_some())
    }
}
