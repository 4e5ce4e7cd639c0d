//! What set-up fetched.
#![allow(
    clippy::unwrap_used,
    reason = "a test's set-up that fails should stop the test"
)]

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
