//! What set-up fetched.
#![allow(
    clippy::unwrap_used,
    reason = "a test's set-up that fails should stop the test"
)]
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::path::PathBuf;

use visualpath_onnx::{ModelFile, ModelLocator};

/// `$VISUALPATH_ASSETS`, else the cache set-up writes to.
pub fn assets() -> PathBuf {
    let set = |key| {
        std::env::var_os(key)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("VISUALPATH_ASSETS")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("visualpath")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/visualpath")))
        .expect("HOME is set")
}

/// ONNX Runtime's library.
pub fn library() -> PathBuf {
    let path = assets().join("runtime/libonnxruntime.so");
    assert!(
        path.exists(),
        "{} is missing: run cross/setup.sh first",
        path.display()
    );
    path
}

/// The detector.
pub fn ssd() -> ModelFile {
    ModelLocator::new(vec![assets().join("models")])
        .open("ssd-oidv4")
        .unwrap_or_else(|e| panic!("run cross/setup.sh first: {e}"))
}

/// A picture-like input of the detector in −1…1; another one for every `seed`.
pub fn picture(seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..3 * 300 * 300)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 32_768.0 - 1.0
        })
        .collect()
}
