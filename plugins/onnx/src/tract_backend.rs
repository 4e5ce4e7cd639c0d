//! The built-in runtime: tract, pure Rust, always there.
//!
//! The graph is optimised once for the card's fixed shape (0.1–0.3 s for the SSD). Shapes that an
//! exporter wrote into the file are ignored, because converters leave stale ones behind and tract
//! takes them at their word.
//!
//! The optimised plan is immutable and holds the weights; every session has a state of its own
//! over it, so sessions of one model run at the same time.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::*;

use crate::backend::{
    Backend, DeclaredInput, InferError, LoadError, LoadOptions, Model, Outputs, RuntimeInfo,
    Session, TensorView, check_input, panic_text, select_outputs,
};
use crate::locate::ModelFile;

const NAME: &str = "tract";
/// As in Cargo.lock (a test compares them).
const VERSION: &str = "0.23.9";

/// tract.
#[derive(Debug, Clone, Copy, Default)]
pub struct TractBackend;

impl Backend for TractBackend {
    fn load(&self, model: &ModelFile, options: &LoadOptions) -> Result<Arc<dyn Model>, LoadError> {
        if options.threads > 1 {
            tracing::info!(
                asked = options.threads,
                "tract runs a model on one thread; runtime = \"ort\" can use more"
            );
        }
        guarded(&model.path, || build(model, options)).map(|model| Arc::new(model) as _)
    }

    fn info(&self) -> RuntimeInfo {
        RuntimeInfo {
            name: NAME,
            version: VERSION.to_owned(),
            provider: "cpu".to_owned(),
            library: None,
        }
    }
}

/// tract indexes into what a graph claims; a malformed one must not take the process down.
fn guarded<T>(file: &Path, work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(refused(file, panic_text(panic.as_ref()))))
}

fn refused(file: &Path, message: String) -> LoadError {
    LoadError::Refused {
        file: file.to_owned(),
        runtime: NAME,
        message,
    }
}

fn build(model: &ModelFile, options: &LoadOptions) -> Result<TractModel, LoadError> {
    let fail = |e: TractError| refused(&model.path, format!("{e:#}"));
    let onnx = tract_onnx::onnx()
        .with_ignore_value_info(true)
        .with_ignore_output_shapes(true);
    let proto = onnx
        .proto_model_for_read(&mut Cursor::new(&model.bytes))
        .map_err(fail)?;
    let graph = proto
        .graph
        .as_ref()
        .ok_or_else(|| refused(&model.path, "it holds no graph".to_owned()))?;
    check_input(&model.path, &declared_inputs(graph), options)?;
    let names: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let selected = select_outputs(&model.path, &names, options)?;

    let mut parsed = onnx.model_for_proto_model(&proto).map_err(fail)?;
    let outlets: TVec<_> = selected
        .iter()
        .filter_map(|i| parsed.output_outlets().ok()?.get(*i).copied())
        .collect();
    parsed.select_output_outlets(&outlets).map_err(fail)?;
    parsed
        .set_input_fact(0, f32::fact(&options.input_shape).into())
        .map_err(fail)?;
    let plan = parsed
        .into_optimized()
        .and_then(IntoRunnable::into_runnable)
        .map_err(fail)?;
    Ok(TractModel {
        plan,
        file: model.path.clone(),
        input_shape: options.input_shape.clone(),
    })
}

/// The graph's inputs that are not weights.
fn declared_inputs(graph: &pb::GraphProto) -> Vec<DeclaredInput> {
    graph
        .input
        .iter()
        .filter(|i| graph.initializer.iter().all(|w| w.name != i.name))
        .map(|i| DeclaredInput {
            name: i.name.clone(),
            shape: shape_of(i),
        })
        .collect()
}

fn shape_of(input: &pb::ValueInfoProto) -> Option<Vec<Option<usize>>> {
    use pb::tensor_shape_proto::dimension::Value::DimValue;
    let pb::type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    let shape = tensor.shape.as_ref()?;
    Some(
        shape
            .dim
            .iter()
            .map(|d| match d.value {
                Some(DimValue(v)) => usize::try_from(v).ok().filter(|v| *v > 0),
                _ => None,
            })
            .collect(),
    )
}

/// The optimised graph with its weights.
struct TractModel {
    plan: Arc<TypedRunnableModel>,
    /// For messages.
    file: PathBuf,
    input_shape: Vec<usize>,
}

impl Model for TractModel {
    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, LoadError> {
        let fail = |e: TractError| refused(&self.file, format!("{e:#}"));
        guarded(&self.file, || {
            Ok(Box::new(TractSession {
                state: self.plan.spawn().map_err(fail)?,
                input: Arc::new(Tensor::zero::<f32>(&self.input_shape).map_err(fail)?),
                outputs: TVec::new(),
            }) as _)
        })
    }
}

/// One user's state over the plan, which it keeps alive.
struct TractSession {
    state: TypedSimpleState,
    /// Filled in place every run: nobody else holds it between runs.
    input: Arc<Tensor>,
    outputs: TVec<TValue>,
}

impl Session for TractSession {
    fn run(&mut self, input: &[f32]) -> Result<Outputs<'_>, InferError> {
        let need = self.input.len();
        if input.len() != need {
            return Err(InferError::InputLength {
                got: input.len(),
                need,
            });
        }
        self.outputs.clear();
        self.outputs = self.run_tract(input).map_err(infer)?;
        self.outputs
            .iter()
            .map(|value| {
                Ok(TensorView {
                    shape: value.shape(),
                    data: value.try_as_plain_ram()?.as_slice::<f32>()?,
                })
            })
            .collect::<TractResult<Vec<_>>>()
            .map(Outputs::new)
            .map_err(infer)
    }
}

impl TractSession {
    fn run_tract(&mut self, input: &[f32]) -> TractResult<TVec<TValue>> {
        match Arc::get_mut(&mut self.input) {
            Some(tensor) => tensor
                .try_as_plain_ram_mut()?
                .as_slice_mut::<f32>()?
                .copy_from_slice(input),
            // An earlier run failed half way and its state still holds the tensor.
            None => self.input = Arc::new(Tensor::from_shape(self.input.shape(), input)?),
        }
        let outputs = self
            .state
            .run(tvec!(TValue::from_const(Arc::clone(&self.input))));
        if outputs.is_err() {
            self.state.reset_turn()?;
        }
        outputs
    }
}

fn infer(e: TractError) -> InferError {
    InferError::Runtime {
        runtime: NAME,
        message: format!("{e:#}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_told_is_the_version_built() {
        let lock: toml::Table = include_str!("../../../Cargo.lock").parse().unwrap();
        let built = lock["package"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["name"].as_str() == Some("tract-onnx"))
            .unwrap();
        assert_eq!(built["version"].as_str(), Some(super::VERSION));
    }
}
