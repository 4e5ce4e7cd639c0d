//! A real Python in the sandbox: what it needs must be granted, however tight.

use std::path::{Path, PathBuf};
use std::process::Command;

use visualpath_sandbox::Trust;

use crate::Test;
use crate::child::{BOTH, answer, plan};

pub const TESTS: &[Test] = &[
    ("python_with_its_libraries_runs", runs),
    ("python_gets_errors_it_can_print", refused),
];

/// Imports what is there and uses it.
const USE: &str = r#"
import ctypes, json, os, sys, tempfile, threading
with tempfile.NamedTemporaryFile() as f:
    f.write(b"x")
t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()
ctypes.CDLL(None).getpid()
def has(name):
    import importlib.util
    return importlib.util.find_spec(name) is not None
if has("numpy"):
    import numpy
    a = numpy.random.default_rng(1).random((300, 300))
    assert numpy.isfinite(numpy.linalg.svd(a @ a)[1]).all()
    print("numpy")
if has("onnxruntime") and has("onnx"):
    import onnxruntime
    from onnx import helper, TensorProto as T
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    io = lambda n: helper.make_tensor_value_info(n, T.FLOAT, [256, 256])
    graph = helper.make_graph([node], "g", [io("a"), io("b")], [io("c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    s = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = numpy.eye(256, dtype=numpy.float32)
    assert (s.run(None, {"a": x, "b": x})[0] == x).all()
    print("onnxruntime")
if has("zmq"):
    import zmq
    context = zmq.Context()
    a, b = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    a.bind("ipc://" + os.environ["TMPDIR"] + "/s"); b.connect("ipc://" + os.environ["TMPDIR"] + "/s")
    b.send(b"hello"); assert a.recv_multipart()[1] == b"hello"
    a.close(0); b.close(0); context.term()
    print("zmq")
print("done")
"#;

/// Tries what is refused, the way a plugin would.
const TRY: &str = r#"
import os, socket, subprocess
def say(name, f):
    try:
        f(); print(name, "ok")
    except OSError as e:
        print(name, e.__class__.__name__)
say("shadow", lambda: open("/etc/shadow"))
say("home", lambda: os.listdir("/root"))
say("socket", lambda: socket.create_connection(("127.0.0.1", 9)))
say("run", lambda: subprocess.run(["/bin/true"]))
say("fork", os.fork)
say("kill", lambda: os.kill(os.getppid(), 15))
"#;

/// The set-up's interpreter with numpy, or the system's.
fn python() -> Result<PathBuf, String> {
    let chosen = std::env::var_os("VISUALPATH_TEST_PYTHON").map(PathBuf::from);
    let cache = std::env::var_os("VISUALPATH_ASSETS")
        .map(|assets| Path::new(&assets).join("venv/bin/python"));
    let system = Some(PathBuf::from("/usr/bin/python3"));
    [chosen, cache, system]
        .into_iter()
        .flatten()
        .find(|path| path.exists())
        .ok_or_else(|| "no python3; set VISUALPATH_TEST_PYTHON".into())
}

fn run(trust: Trust, python: &Path, script: &str) -> std::process::Output {
    let mut p = plan(trust);
    let venv = python.parent().and_then(Path::parent).unwrap();
    if venv.join("pyvenv.cfg").exists() {
        p.policy.read_venv(venv).unwrap();
    }
    p.policy.memory_bytes = Some(4 << 30);
    let mut command: Command = p.command(python, &["-c", script]);
    command.output().unwrap()
}

fn runs() -> Result<(), String> {
    let python = python()?;
    for trust in BOTH {
        let mut output = run(trust, &python, USE);
        if trust == Trust::Untrusted {
            // Which hardware there is, is hidden from the untrusted; ONNX Runtime mentions it.
            let stderr = String::from_utf8_lossy(&output.stderr);
            let mut lines = stderr.lines().filter(|line| !line.is_empty());
            let only = lines.all(|line| line.contains("device discovery failed"));
            assert!(only, "{stderr}");
            output.stderr.clear();
        }
        let said = answer(output);
        assert!(
            said.starts_with("thread") && said.ends_with("done"),
            "{said}"
        );
        println!("  {}: {}", trust.word(), said.replace('\n', " "));
    }
    Ok(())
}

fn refused() -> Result<(), String> {
    let python = python()?;
    for trust in BOTH {
        assert_eq!(
            answer(run(trust, &python, TRY)),
            "shadow PermissionError\nhome PermissionError\nsocket PermissionError\n\
             run PermissionError\nfork PermissionError\nkill PermissionError"
        );
    }
    Ok(())
}
