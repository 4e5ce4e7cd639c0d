//! The panic boundary around an extractor, the same wherever it runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::extractor::{Extractor, ModelUse, PluginError};
use crate::observation::Observation;
use crate::view::FrameView;

/// Makes the extractor: at start, and again after a panic.
pub type ExtractorFactory = Box<dyn FnMut() -> Result<Box<dyn Extractor>, PluginError> + Send>;

/// Panics within [`PANIC_WINDOW_NS`] after which an extractor is put on Hold.
const PANICS_TO_HOLD: usize = 5;
/// Source time, so that a run on a file holds (or not) on every machine alike.
const PANIC_WINDOW_NS: i64 = 60_000_000_000;

/// Why an extractor gave no observations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It gave an error, or it is on Hold; nothing else happened.
    #[error("{0}")]
    Failed(String),
    /// It panicked, and was made again or put on Hold.
    #[error("panicked: {0}")]
    Panicked(String),
}

/// An extractor that may panic. Its state can't be trusted after that: it is made again.
pub struct Guarded {
    factory: ExtractorFactory,
    extractor: Option<Box<dyn Extractor>>,
    panics: Vec<i64>,
    held: Option<String>,
}

impl Guarded {
    /// Makes the extractor (loads its model).
    ///
    /// # Errors
    /// What the plugin says.
    pub fn new(mut factory: ExtractorFactory) -> Result<Self, PluginError> {
        let extractor = Some(factory()?);
        Ok(Self {
            factory,
            extractor,
            panics: Vec::new(),
            held: None,
        })
    }

    /// Why it is on Hold, if it is: it is not asked any more.
    pub fn held(&self) -> Option<&str> {
        self.held.as_deref()
    }

    /// The models it uses.
    pub fn models(&self) -> Vec<ModelUse> {
        let Some(extractor) = &self.extractor else {
            return Vec::new();
        };
        // One that panics here names none; it will have its say at the first frame.
        catch_unwind(AssertUnwindSafe(|| extractor.models())).unwrap_or_default()
    }

    /// Lets it look at a frame, after it has forgotten earlier ones if `reset`.
    ///
    /// # Errors
    /// The extractor's own error, or that it panicked.
    pub fn extract(
        &mut self,
        view: &FrameView<'_>,
        deps: &[Observation],
        reset: bool,
    ) -> Result<Vec<Observation>, Trouble> {
        if let Some(why) = &self.held {
            return Err(Trouble::Failed(why.clone()));
        }
        let Some(extractor) = &mut self.extractor else {
            return Err(Trouble::Failed("there is no extractor".to_owned()));
        };
        let look = AssertUnwindSafe(|| {
            if reset {
                extractor.reset();
            }
            extractor.extract(view, deps)
        });
        match catch_unwind(look) {
            Ok(answer) => answer.map_err(|e| Trouble::Failed(e.0)),
            Err(payload) => Err(self.panicked(payload.as_ref(), view.meta.t_ns)),
        }
    }

    /// Lets it forget earlier frames.
    ///
    /// # Errors
    /// If it panicked.
    pub fn reset(&mut self, t_ns: i64) -> Result<(), Trouble> {
        let Some(extractor) = &mut self.extractor else {
            return Ok(());
        };
        match catch_unwind(AssertUnwindSafe(|| extractor.reset())) {
            Ok(()) => Ok(()),
            Err(payload) => Err(self.panicked(payload.as_ref(), t_ns)),
        }
    }

    fn panicked(&mut self, payload: &(dyn Any + Send), t_ns: i64) -> Trouble {
        let text = panic_text(payload);
        // Dropping it may panic as well; the first panic is the one that is told.
        let old = self.extractor.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(old)));
        let again = if dropped.is_err() {
            ", and again while being dropped"
        } else {
            ""
        };
        self.panics
            .retain(|t| t_ns.saturating_sub(*t) < PANIC_WINDOW_NS);
        self.panics.push(t_ns);
        if self.panics.len() >= PANICS_TO_HOLD {
            self.held = Some(format!("{PANICS_TO_HOLD} panics in 60 s, the last: {text}"));
        } else {
            match catch_unwind(AssertUnwindSafe(|| (self.factory)())) {
                Ok(Ok(extractor)) => self.extractor = Some(extractor),
                Ok(Err(e)) => {
                    self.held = Some(format!("could not be made again after a panic: {e}"));
                }
                Err(p) => {
                    let second = panic_text(p.as_ref());
                    self.held = Some(format!("panicked while being made again: {second}"));
                }
            }
        }
        Trouble::Panicked(format!("{text}{again}"))
    }
}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
