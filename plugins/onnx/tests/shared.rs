//! Those who use the same model the same way share it: one load, one copy of the weights, and
//! everybody gets the answer he would get alone.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;

use support::{library, picture, ssd};
use visualpath_onnx::{LoadOptions, LoadedModel, ModelFile, Runtime, load};

const BOTH: [Runtime; 2] = [Runtime::Tract, Runtime::Ort];
const OUTPUTS: [&str; 2] = ["raw_outputs_box_encodings", "raw_outputs_class_predictions"];
const USERS: u32 = 4;

/// What is shared is of the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options(model: &ModelFile) -> LoadOptions {
    LoadOptions {
        ort_library: Some(library()),
        ..LoadOptions::new(&model.card, &OUTPUTS)
    }
}

fn answer(model: &mut LoadedModel, input: &[f32]) -> [Vec<f32>; 2] {
    let outputs = model.run(input).expect("a good input");
    [0, 1].map(|i| outputs.get(i).expect("two were asked for").data.to_vec())
}

#[test]
fn instances_that_come_at_once_share_one_load_and_get_their_own_answers() {
    let _alone = alone();
    let model = ssd();
    for runtime in BOTH {
        let expected: Vec<_> = (0..USERS)
            .map(|seed| {
                let mut one = load(runtime, &model, &options(&model)).unwrap();
                answer(&mut one, &picture(seed))
            })
            .collect();
        assert_ne!(expected[0], expected[1]);

        let together = Barrier::new(expected.len());
        let numbers: Vec<u64> = thread::scope(|scope| {
            let users: Vec<_> = (0..USERS)
                .zip(&expected)
                .map(|(seed, expected)| {
                    let (model, together) = (&model, &together);
                    scope.spawn(move || {
                        together.wait();
                        let mut mine = load(runtime, model, &options(model)).unwrap();
                        together.wait();
                        let input = picture(seed);
                        for _ in 0..5 {
                            assert!(answer(&mut mine, &input) == *expected, "{runtime} {seed}");
                        }
                        mine.load_number()
                    })
                })
                .collect();
            users.into_iter().map(|u| u.join().unwrap()).collect()
        });
        assert!(
            numbers.iter().all(|n| *n == numbers[0]),
            "{runtime} {numbers:?}"
        );
    }
}

#[test]
fn a_model_goes_with_its_last_user_and_not_before() {
    let _alone = alone();
    let model = ssd();
    for runtime in BOTH {
        let new = || load(runtime, &model, &options(&model)).unwrap();
        let first = new();
        // A reload: the new instance is there before the old one goes.
        let second = new();
        let number = first.load_number();
        drop(first);
        let third = new();
        assert_eq!(
            [second.load_number(), third.load_number()],
            [number; 2],
            "{runtime}"
        );
        assert_eq!(second.model_use(), third.model_use());
        drop((second, third));
        assert_eq!(
            new().load_number(),
            number + 1,
            "{runtime}: loaded again, once"
        );
    }
}

#[test]
fn other_options_and_other_runtimes_share_nothing() {
    let _alone = alone();
    let model = ssd();
    let own = options(&model);
    let mut reversed = own.clone();
    reversed.outputs.reverse();
    let two = LoadOptions {
        threads: 2,
        ..own.clone()
    };
    let number = |runtime, options| {
        let loaded = load(runtime, &model, options).unwrap();
        (loaded.load_number(), loaded)
    };
    let all = [
        number(Runtime::Ort, &own),
        number(Runtime::Ort, &reversed),
        number(Runtime::Ort, &two),
        number(Runtime::Tract, &own),
        number(Runtime::Tract, &reversed),
    ];
    let mut numbers: Vec<u64> = all.iter().map(|(n, _)| *n).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 5, "{numbers:?}");
    // What makes no difference to the model is shared: who asked how, and tract's threads.
    assert_eq!(number(Runtime::Auto, &own).0, numbers[0]);
    let found = LoadOptions {
        ort_library: None,
        ..own.clone()
    };
    assert_eq!(number(Runtime::Ort, &found).0, numbers[0]);
    assert_eq!(number(Runtime::Tract, &two).0, numbers[3]);
}

#[test]
fn an_error_is_everybodys_own_and_harms_no_good_model() {
    let _alone = alone();
    let good = ssd();
    // The same card, but not its bytes: what counts is the bytes.
    let bad = ModelFile::unchecked(good.card.clone(), "bad.onnx".into(), b"no model".to_vec());
    for runtime in BOTH {
        let loaded = load(runtime, &good, &options(&good)).unwrap();
        for _ in 0..2 {
            let error = load(runtime, &bad, &options(&bad)).unwrap_err();
            assert!(error.to_string().contains("bad.onnx"), "{runtime}: {error}");
        }
        let again = load(runtime, &good, &options(&good)).unwrap();
        assert_eq!(again.load_number(), loaded.load_number(), "{runtime}");
    }
}

#[test]
fn a_user_that_fails_leaves_the_others_their_model() {
    let _alone = alone();
    let model = ssd();
    for runtime in BOTH {
        let mut good = load(runtime, &model, &options(&model)).unwrap();
        let mut failing = load(runtime, &model, &options(&model)).unwrap();
        let expected = answer(&mut good, &picture(1));
        assert!(failing.run(&[0.0; 3]).is_err());
        assert!(answer(&mut good, &picture(1)) == expected, "{runtime}");
        assert!(answer(&mut failing, &picture(1)) == expected, "{runtime}");
    }
}
