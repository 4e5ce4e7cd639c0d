//! Both runtimes on the real detector, and on files that are none.
//!
//! Run `cross/setup.sh` first: it fetches the model and ONNX Runtime's library.

mod support;

use std::path::{Path, PathBuf};

use visualpath_onnx::{
    InferError, LoadError, LoadOptions, ModelFile, Runtime, available_runtimes, load,
};

use support::{library, picture, ssd};

const BOTH: [Runtime; 2] = [Runtime::Tract, Runtime::Ort];
const OUTPUTS: [&str; 2] = ["raw_outputs_box_encodings", "raw_outputs_class_predictions"];

fn options(model: &ModelFile) -> LoadOptions {
    LoadOptions {
        ort_library: Some(library()),
        ..LoadOptions::new(&model.card, &OUTPUTS)
    }
}

/// The SSD's card for another file's bytes.
fn pretend(bytes: &[u8]) -> ModelFile {
    ModelFile::unchecked(ssd().card, PathBuf::from("pretend.onnx"), bytes.to_vec())
}

#[test]
fn both_runtimes_give_the_same_numbers_every_time() {
    let model = ssd();
    let input = picture(1);
    let mut answers = Vec::new();
    for runtime in BOTH {
        let mut loaded = load(runtime, &model, &options(&model)).unwrap();
        assert_eq!(loaded.model_use().sha256, model.card.file.sha256);
        assert_eq!(loaded.model_use().runtime, loaded.info().to_string());
        for _ in 0..2 {
            let outputs = loaded.run(&input).unwrap();
            let (boxes, scores) = (outputs.get(0).unwrap(), outputs.get(1).unwrap());
            assert_eq!(boxes.shape, [1, 1917, 4]);
            assert_eq!(scores.shape, [1, 1917, 24]);
            assert_eq!(
                outputs.get(2),
                Err(InferError::NoOutput { index: 2, count: 2 })
            );
            answers.push([boxes.data.to_vec(), scores.data.to_vec()]);
        }
        let short = loaded.run(&input[1..]).unwrap_err();
        assert_eq!(
            short,
            InferError::InputLength {
                got: 269_999,
                need: 270_000
            }
        );
    }
    assert_eq!(answers[0], answers[1], "tract repeats itself");
    assert_eq!(answers[2], answers[3], "ONNX Runtime repeats itself");
    for (tract, ort) in answers[0].iter().zip(&answers[2]) {
        let range = tract.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = tract
            .iter()
            .zip(ort)
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst <= 3e-4 * range, "{worst} of {range}");
    }
}

#[test]
fn outputs_come_in_the_order_asked_for() {
    let model = ssd();
    for runtime in BOTH {
        let mut options = options(&model);
        options.outputs.reverse();
        let mut loaded = load(runtime, &model, &options).unwrap();
        let outputs = loaded.run(&picture(1)).unwrap();
        assert_eq!(outputs.get(0).unwrap().shape, [1, 1917, 24], "{runtime}");
        assert_eq!(outputs.get(1).unwrap().shape, [1, 1917, 4], "{runtime}");
    }
}

#[test]
fn auto_takes_onnx_runtime_where_it_is_found() {
    let model = ssd();
    let loaded = load(Runtime::Auto, &model, &options(&model)).unwrap();
    assert_eq!(loaded.info().name, "onnxruntime");
    assert!(
        loaded.info().version.starts_with("1."),
        "{:?}",
        loaded.info()
    );
}

#[test]
fn more_threads_give_the_same_answer() {
    let model = ssd();
    for runtime in BOTH {
        let mut one = load(runtime, &model, &options(&model)).unwrap();
        let two = LoadOptions {
            threads: 2,
            ..options(&model)
        };
        let mut two = load(runtime, &model, &two).unwrap();
        let input = picture(1);
        let (one, two) = (one.run(&input).unwrap(), two.run(&input).unwrap());
        let (one, two) = (one.get(1).unwrap().data, two.get(1).unwrap().data);
        let worst = one
            .iter()
            .zip(two)
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < 1e-3, "{runtime}: {worst}");
    }
    let none = LoadOptions {
        threads: 0,
        ..options(&model)
    };
    assert!(matches!(
        load(Runtime::Tract, &model, &none),
        Err(LoadError::Options(_))
    ));
}

#[test]
fn text_and_half_a_model_are_refused_by_name() {
    let model = ssd();
    let whole = model.bytes();
    let cut = &whole[..whole.len() / 2];
    let mut flipped = whole[..4096].to_vec();
    flipped.iter_mut().for_each(|b| *b ^= 0x5a);
    let cases: [(&str, &[u8]); 4] = [
        ("text", b"this is not a model\n"),
        ("nothing", b""),
        ("half", cut),
        ("noise", &flipped),
    ];
    for (what, bytes) in cases {
        let model = pretend(bytes);
        for runtime in BOTH {
            let error = load(runtime, &model, &options(&model)).expect_err(what);
            assert!(
                matches!(error, LoadError::Refused { .. } | LoadError::Input { .. }),
                "{what} {runtime}: {error:?}"
            );
            assert!(
                error.to_string().contains("pretend.onnx"),
                "{what} {runtime}: {error}"
            );
        }
        assert!(
            load(Runtime::Auto, &model, &options(&model)).is_err(),
            "{what}"
        );
    }
}

#[test]
fn an_input_other_than_the_cards_is_named() {
    let model = ssd();
    for runtime in BOTH {
        let wide = LoadOptions {
            input_shape: vec![1, 3, 300, 320],
            ..options(&model)
        };
        let error = load(runtime, &model, &wide).unwrap_err().to_string();
        assert!(
            error.contains("input `input` is 1×3×300×320, the model has `input` 1×3×300×300"),
            "{runtime}: {error}"
        );
        let named = LoadOptions {
            input: "image".to_owned(),
            ..options(&model)
        };
        let error = load(runtime, &model, &named).unwrap_err();
        assert!(
            matches!(error, LoadError::Input { .. }),
            "{runtime}: {error}"
        );
    }
}

#[test]
fn an_output_the_model_lacks_gets_the_nearest() {
    let model = ssd();
    for runtime in BOTH {
        let mut options = options(&model);
        options.outputs[0] = "raw_outputs_box_encoding".to_owned();
        let error = load(runtime, &model, &options).unwrap_err().to_string();
        assert!(
            error.contains("did you mean `raw_outputs_box_encodings`?"),
            "{runtime}: {error}"
        );
    }
}

#[test]
fn every_runtime_tells_what_it_is() {
    // Opens the library of set-up, as `visualpath version` does.
    let _ = library();
    let all = available_runtimes();
    assert_eq!(all.iter().map(|s| s.runtime).collect::<Vec<_>>(), BOTH);
    for status in all {
        if let Ok(info) = status.state {
            assert_eq!(info.provider, "cpu");
            assert!(info.library.as_deref().is_none_or(Path::is_absolute));
        }
    }
}
