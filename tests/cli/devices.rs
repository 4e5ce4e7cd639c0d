//! `visualpath devices` where there is no camera. (Where there is one: `tests/vm`.)

use std::path::Path;

use serde_json::Value;
use visualpath_tests::run;

/// Whether this machine has what could be a camera: then there is nothing to see here.
pub fn has_cameras() -> bool {
    let nodes = std::fs::read_dir("/dev").unwrap().flatten();
    nodes
        .map(|n| n.file_name())
        .any(|n| n.to_string_lossy().starts_with("video"))
        || Path::new("/tmp/argus_socket").exists()
}

#[test]
fn a_machine_without_cameras_is_told_what_to_check_and_exits_with_4() {
    if has_cameras() {
        println!("skipped: this machine has a camera");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), &["devices"]);
    assert_eq!(out.code, 4, "{}", out.stderr);
    for says in ["no camera", "lsusb", "dtoverlay", "group `video`", "uri"] {
        assert!(out.stderr.contains(says), "{says}: {}", out.stderr);
    }
    let out = run(dir.path(), &["devices", "--json"]);
    assert_eq!(out.code, 4, "{}", out.stderr);
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(report["cameras"], serde_json::json!([]));
    assert_eq!(report["stacks"], serde_json::json!([]));
}
