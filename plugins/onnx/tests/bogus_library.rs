//! A library that is not there, damaged, too old or something else is an error or a logged
//! fall-back: never a crash, a panic or a dead-lock.
//!
//! A process can open one library for good, so each case runs in a process of its own: this test
//! program started again with `ORT_DYLIB_PATH` set.
#![allow(clippy::unwrap_used, reason = "test code outside a #[test]")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{library, ssd};
use visualpath_onnx::{LoadOptions, OrtBackend, Runtime, load};

/// Tells, on stdout, what `ort` and `auto` do with the library in `ORT_DYLIB_PATH`.
#[test]
#[ignore = "run by the other tests in a process of its own"]
fn probe() {
    let model = ssd();
    let options = LoadOptions::new(&model.card, &["raw_outputs_box_encodings"]);
    // Twice: the second try must answer as well.
    for _ in 0..2 {
        match load(Runtime::Ort, &model, &options) {
            Ok(loaded) => println!("ORT OK {}", loaded.info()),
            Err(error) => println!("ORT ERROR {error}"),
        }
    }
    let auto = load(Runtime::Auto, &model, &options).unwrap();
    println!("AUTO {}", auto.info());
}

/// What [`probe`] tells about `library`.
fn probed(library: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "probe", "--nocapture"])
        .env("ORT_DYLIB_PATH", library)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}: {}\n{text}\n{}",
        library.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn expect(library: &Path, says: &str) {
    let text = probed(library);
    let errors: Vec<&str> = text.lines().filter(|l| l.contains("ORT ERROR")).collect();
    assert_eq!(errors.len(), 2, "{text}");
    for error in errors {
        assert!(error.contains(says), "expected `{says}`: {error}");
        assert!(
            error.contains(library.to_str().unwrap()),
            "names the file: {error}"
        );
    }
    assert!(text.contains("AUTO tract "), "{text}");
}

/// A shared library of this C source.
fn compile(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (c, so) = (
        dir.join(format!("{name}.c")),
        dir.join(format!("{name}.so")),
    );
    std::fs::write(&c, source).unwrap();
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&so)
        .arg(&c)
        .status()
        .expect("a C compiler is needed, as for the crates themselves");
    assert!(done.success());
    so
}

#[test]
fn a_library_that_is_not_there_or_no_library_is_told() {
    let dir = tempfile::tempdir().unwrap();
    expect(&dir.path().join("nothing.so"), "No such file");
    let text = dir.path().join("text.so");
    std::fs::write(&text, "not a library\n".repeat(100)).unwrap();
    expect(&text, "not a shared library");
    expect(dir.path(), "not a shared library");
}

#[test]
fn half_a_library_is_told_and_not_mapped() {
    let whole = std::fs::read(library()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("libonnxruntime.so");
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    expect(&half, "cut short");
}

#[test]
fn another_library_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let other = compile(dir.path(), "other", "int answer(void) { return 42; }");
    expect(&other, "not ONNX Runtime");
}

#[test]
fn an_old_onnx_runtime_is_told_with_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let old = compile(
        dir.path(),
        "old",
        r#"
        static const void *api(unsigned v) { (void)v; return 0; }
        static const char *version(void) { return "1.16.3"; }
        static const struct { const void *(*a)(unsigned); const char *(*v)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }
        "#,
    );
    expect(
        &old,
        "ONNX Runtime 1.16.3, too old: 1.17 or newer is needed",
    );
}

#[test]
fn a_library_that_gives_no_interface_takes_nobody_down() {
    let dir = tempfile::tempdir().unwrap();
    let hollow = compile(
        dir.path(),
        "hollow",
        r#"
        static const void *api(unsigned v) { (void)v; return 0; }
        static const char *version(void) { return "1.30.0"; }
        static const struct { const void *(*a)(unsigned); const char *(*v)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }
        "#,
    );
    expect(&hollow, "Failed to initialize ORT API");
    let empty = compile(
        dir.path(),
        "empty",
        "const void *OrtGetApiBase(void) { return 0; }",
    );
    expect(&empty, "base");
}

#[test]
fn the_real_library_opens_from_the_environment() {
    let text = probed(&library());
    assert_eq!(text.matches("ORT OK onnxruntime 1.").count(), 2, "{text}");
    assert!(text.contains("AUTO onnxruntime 1."), "{text}");
}

#[test]
fn after_failures_the_real_library_still_opens_and_then_stays() {
    let missing = Path::new("/nowhere/libonnxruntime.so");
    for _ in 0..3 {
        assert!(OrtBackend::open(Some(missing)).is_err());
    }
    OrtBackend::open(Some(&library())).unwrap();
    OrtBackend::open(None).unwrap();
    let error = OrtBackend::open(Some(missing)).unwrap_err().to_string();
    assert!(error.contains("already open"), "{error}");
}
