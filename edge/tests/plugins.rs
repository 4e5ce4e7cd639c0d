//! `visualpath plugins` as a user meets it: the real program on real folders and real venvs, all
//! of it offline.
#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A state directory with plugins, wheels and a config.
struct Machine {
    dir: TempDir,
}

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            dir: TempDir::new().unwrap(),
        };
        for dir in ["state/plugins", "state/venvs", "wheels"] {
            fs::create_dir_all(machine.at(dir)).unwrap();
        }
        let state = machine.at("state");
        let config = format!(
            r#"
            schema = 1
            device.state_dir = {state:?}
            [source.cam0]
            uri = "synthetic:"
            [extractor.m]
            plugin = "motion"
            [path.p]
            source = "cam0"
            extractors = ["m"]
            fusion = "f"
            [fusion.f]
            plugin = "rules"
            [[fusion.f.config.rule]]
            label = "l"
            when = "m.score > 0.5"
            "#
        );
        fs::write(machine.at("visualpath.toml"), config).unwrap();
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn run(&self, args: &[&str]) -> Said {
        let out = Command::new(env!("CARGO_BIN_EXE_visualpath"))
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("VISUALPATH_PLUGIN_PATH")
            .output()
            .unwrap();
        Said {
            code: out.status.code().unwrap(),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }

    /// The row of a plugin in `plugins list --json`.
    fn listed(&self, name: &str, origin: &str) -> Option<Value> {
        let said = self.run(&["plugins", "list", "--json"]);
        let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
        let is =
            |row: &&Value| row["name"] == name && row["origin"].as_str().unwrap().contains(origin);
        rows.iter().find(is).cloned()
    }

    /// A plugin folder with an executable.
    fn executable(&self, name: &str, extra: &str) {
        let bin = self.at("state/plugins").join(name).join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        let manifest = format!(
            "name = \"{name}\"\nversion = \"2.0\"\nkind = \"extractor\"\nprotocol = 1\nexec = \"bin/{name}\"\n{extra}"
        );
        fs::write(bin.parent().unwrap().join("plugin.toml"), manifest).unwrap();
    }

    /// Writes a wheel by hand.
    fn wheel(&self, name: &str, version: &str, files: &Value, entry_points: &str, needs: &str) {
        let spec = json!({
            "dir": self.at("wheels"), "name": name, "version": version,
            "files": files, "entry_points": entry_points, "needs": needs,
        });
        let out = Command::new("python3")
            .args(["-c", WHEEL, &spec.to_string()])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    /// The SDK as far as the scaffold's plugin needs it.
    fn sdk_wheel(&self) {
        let core = "class BaseExtractor:\n    def __init__(self, config=None): pass\nclass Observation:\n    def __init__(self, **kw): self.__dict__.update(kw)\n";
        let files = json!({
            "visualpath_edge/__init__.py": "",
            "visualpath_edge/worker.py": "",
            "visualpath_edge/shims.py": "def install(): pass\n",
            "visualpath/__init__.py": "",
            "visualpath/core.py": core,
        });
        self.wheel("visualpath_edge", "0.1.0", &files, "", "");
    }

    /// A new Python plugin in its place, and its package as a wheel.
    fn python_plugin(&self, name: &str) -> PathBuf {
        let said = self.run(&["plugins", "new", name, "--lang", "python"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let folder = self.at("state/plugins").join(name);
        fs::rename(self.at(name), &folder).unwrap();
        let module = format!("visualpath_plugin_{name}");
        let code = fs::read_to_string(folder.join(format!("src/{module}/__init__.py"))).unwrap();
        let files = json!({ format!("{module}/__init__.py"): code });
        let pyproject = fs::read_to_string(folder.join("pyproject.toml")).unwrap();
        let point = pyproject
            .lines()
            .find(|l| l.starts_with(&format!("{name} = ")))
            .unwrap();
        let points = format!("[visualpath.extractors]\n{}\n", point.replace('"', ""));
        self.wheel(&module, "0.1.0", &files, &points, "");
        folder
    }

    fn venv(&self, name: &str) -> Said {
        self.run(&["plugins", "venv", name, "--wheels", "wheels"])
    }

    /// What is in `venvs`, hidden or not.
    fn venvs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("state/venvs")).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const WHEEL: &str = r#"
import base64, hashlib, json, os, sys, zipfile
spec = json.loads(sys.argv[1])
info = "%s-%s.dist-info" % (spec["name"], spec["version"])
files = dict(spec["files"])
files[info + "/METADATA"] = "Metadata-Version: 2.1\nName: %s\nVersion: %s\n%s" % (
    spec["name"], spec["version"], spec["needs"] and "Requires-Dist: %s\n" % spec["needs"])
files[info + "/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
if spec["entry_points"]:
    files[info + "/entry_points.txt"] = spec["entry_points"]
record = ""
with zipfile.ZipFile(os.path.join(spec["dir"], "%s-%s-py3-none-any.whl" % (spec["name"], spec["version"])), "w") as z:
    for name, text in files.items():
        data = text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += "%s,sha256=%s,%d\n" % (name, digest, len(data))
        z.writestr(name, data)
    z.writestr(info + "/RECORD", record + info + "/RECORD,,\n")
"#;

#[test]
fn the_list_shows_what_is_linked_and_what_is_found_with_what_each_can_be() {
    let machine = Machine::new();
    machine.executable("face", "");
    let said = machine.run(&["plugins", "list", "-c", "visualpath.toml"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let line = |name: &str| {
        let line = said.stdout.lines().find(|l| l.starts_with(name)).unwrap();
        line.split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let manifest = machine.at("state/plugins/face/plugin.toml");
    assert_eq!(
        line("face"),
        [
            "face",
            "2.0",
            "extractor",
            "process",
            "process",
            &format!("from {}", manifest.display())
        ]
    );
    assert_eq!(
        line("object")[2..],
        ["extractor", "inline", "inline thread process", "built in"]
    );
    assert_eq!(
        line("rules")[2..],
        ["fusion", "inline", "inline", "built in"]
    );
    let row = machine.listed("face", "plugin.toml").unwrap();
    assert_eq!(row["allowed"], json!(["process"]));
    assert_eq!(row["kind"], "extractor");
}

#[test]
fn the_list_names_what_is_broken_and_what_is_there_twice() {
    let machine = Machine::new();
    machine.executable("face", "");
    machine.executable("broken", "isolatoin = \"process\"\n");
    machine.executable("object", "");
    let said = machine.run(&["plugins", "list"]);
    assert_eq!(said.code, 6, "{}", said.stdout);
    let broken = "state/plugins/broken/plugin.toml:6:1: error: isolatoin: unknown key; did you mean `isolation`?";
    assert!(said.stdout.contains(broken), "{}", said.stdout);
    let twice = "two extractor plugins are called `object`: one built in, one from ";
    assert_eq!(said.stdout.matches(twice).count(), 2, "{}", said.stdout);
    assert!(machine.listed("face", "").unwrap().get("problem").is_none());
}

#[test]
fn a_broken_distribution_of_a_venv_is_a_warning() {
    let machine = Machine::new();
    let venv = machine.at("state/venvs/v");
    let made = Command::new("python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status()
        .unwrap();
    assert!(made.success());
    let lib = fs::read_dir(venv.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let info = lib.join("site-packages/faces-1.0.dist-info");
    fs::create_dir(&info).unwrap();
    fs::write(info.join("entry_points.txt"), "face\n").unwrap();
    let said = machine.run(&["plugins", "list"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.starts_with("warning: ")
            && said
                .stderr
                .contains("faces-1.0.dist-info/entry_points.txt: line 1: "),
        "{}",
        said.stderr
    );
}

#[test]
fn a_new_rust_plugin_is_complete_and_nothing_is_overwritten() {
    let machine = Machine::new();
    // Words of Rust and names of its crates are fine too.
    for name in ["face", "match", "core", "front_door"] {
        let said = machine.run(&["plugins", "new", name, "--lang", "rust", "--json"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let made: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(
            made["files"],
            json!(["Cargo.toml", "README.md", "plugin.toml", "src/main.rs"])
        );
        let again = machine.run(&["plugins", "new", name]);
        assert_eq!(again.code, 1);
        assert!(
            again
                .stderr
                .contains(&format!("./{name} exists; choose another name")),
            "{}",
            again.stderr
        );
        let folder = machine.at(name);
        for file in ["Cargo.toml", "src/main.rs", "plugin.toml", "README.md"] {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            assert!(!text.contains('@'), "{file}: {text}");
        }
        let cargo: toml::Table =
            toml::from_str(&fs::read_to_string(folder.join("Cargo.toml")).unwrap()).unwrap();
        let package = cargo["package"]["name"].as_str().unwrap().to_owned();
        assert!(
            fs::read_to_string(folder.join("README.md"))
                .unwrap()
                .contains(&format!("target/release/{package} bin/{name}"))
        );
        // Once its program is there it is found as it is.
        fs::create_dir(folder.join("bin")).unwrap();
        fs::copy("/bin/true", folder.join("bin").join(name)).unwrap();
        fs::rename(&folder, machine.at("state/plugins").join(name)).unwrap();
        let row = machine.listed(name, "plugin.toml").unwrap();
        assert!(row.get("problem").is_none(), "{row}");
    }
    for bad in ["Face", "front-door", "../x", "in"] {
        let said = machine.run(&["plugins", "new", bad]);
        assert_eq!(said.code, 2, "{bad}");
    }
}

#[test]
fn a_python_plugin_gets_a_venv_offline_and_a_second_run_does_nothing() {
    let machine = Machine::new();
    machine.sdk_wheel();
    let folder = machine.python_plugin("face");
    let said = machine.venv("face");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(machine.venvs(), [".face.1", ".face.lock", "face"]);
    let row = machine.listed("face", "venvs/face").unwrap();
    assert_eq!(
        (&row["version"], &row["allowed"]),
        (&json!("0.1.0"), &json!(["venv"]))
    );
    let row = machine.listed("face", "plugin.toml").unwrap();
    assert_eq!(
        (&row["isolation"], &row["allowed"]),
        (&json!("venv"), &json!(["process", "venv"]))
    );
    assert!(row.get("problem").is_none(), "{row}");

    let said = machine.run(&["plugins", "venv", "face", "--wheels", "wheels", "--json"]);
    let ready: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(ready["built"], false, "{}", said.stderr);
    assert_eq!(machine.venvs(), [".face.1", ".face.lock", "face"]);

    // Damage is mended, in a new place: a worker may still run from the old one.
    let lib = fs::read_dir(machine.at("state/venvs/face/lib"))
        .unwrap()
        .next()
        .unwrap();
    fs::remove_dir_all(lib.unwrap().path().join("site-packages/visualpath")).unwrap();
    let said = machine.venv("face");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(
        said.stderr.contains("it is damaged: ") && said.stderr.contains("ModuleNotFoundError"),
        "{}",
        said.stderr
    );
    assert_eq!(
        machine.venvs(),
        [".face.1", ".face.2", ".face.lock", "face"]
    );

    // What fails leaves the one there is, and says what pip said.
    fs::write(folder.join("requirements.txt"), "no-such-package==1.2\n").unwrap();
    let said = machine.venv("face");
    assert_eq!(said.code, 6, "{}", said.stderr);
    assert!(
        said.stderr
            .contains("requirements.txt failed: a wheel is missing in ")
            && said
                .stderr
                .contains("No matching distribution found for no-such-package==1.2"),
        "{}",
        said.stderr
    );
    assert_eq!(machine.venvs(), [".face.2", ".face.lock", "face"]);
    assert!(machine.listed("face", "venvs/face").is_some());
}

#[test]
fn packages_that_do_not_fit_each_other_are_told() {
    let machine = Machine::new();
    machine.sdk_wheel();
    machine.wheel("old", "1.0", &json!({"old.py": ""}), "", "");
    // A package without a manifest, by its wheel.
    let points = "[visualpath.extractors]\nhand = hands:Hand\n";
    machine.wheel(
        "hands",
        "1.0",
        &json!({"hands.py": "class Hand: pass\n"}),
        points,
        "old>=2",
    );
    let folder = machine.at("state/plugins/hands");
    fs::create_dir(&folder).unwrap();
    fs::rename(
        machine.at("wheels/hands-1.0-py3-none-any.whl"),
        folder.join("hands-1.0-py3-none-any.whl"),
    )
    .unwrap();
    fs::write(folder.join("requirements.lock"), "old==1.0\n").unwrap();
    let said = machine.venv("hands");
    assert_eq!(said.code, 6, "{}", said.stderr);
    assert!(
        said.stderr
            .contains("pip check failed: packages do not fit each other"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .contains("hands 1.0 has requirement old>=2, but you have old 1.0."),
        "{}",
        said.stderr
    );
    assert_eq!(machine.venvs(), [".hands.lock"]);
    // With the lock mended it works, without a manifest too.
    machine.wheel("old", "2.0", &json!({"old.py": ""}), "", "");
    fs::write(folder.join("requirements.lock"), "old==2.0\n").unwrap();
    let said = machine.venv("hands");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(
        machine.listed("hand", "venvs/hands").unwrap()["version"],
        "1.0"
    );
}

#[test]
fn what_can_not_have_a_venv_is_told_before_anything_is_built() {
    let machine = Machine::new();
    machine.executable("exe", "");
    let told = |code: i32, text: &str, name: &str, args: &[&str]| {
        let said = machine.run(&[&["plugins", "venv", name], args].concat());
        assert_eq!(said.code, code, "{}", said.stderr);
        assert!(said.stderr.contains(text), "{}", said.stderr);
        assert!(
            machine.venvs().iter().all(|n| !n.starts_with(".face.1")),
            "{text}"
        );
    };
    told(2, "`exe` is an executable and needs no venv", "exe", &[]);
    told(2, "`motion` is linked into this program", "motion", &[]);
    told(2, "is not a name", "../x", &[]);
    told(2, "--wheels nowhere: ", "face", &["--wheels", "nowhere"]);
    told(6, "no extractor plugin is called `face`", "face", &[]);
    machine.python_plugin("face");
    let wheels: &[&str] = &["--wheels", "wheels"];
    told(
        6,
        "there is no wheel of visualpath-edge in ",
        "face",
        wheels,
    );
    machine.sdk_wheel();
    told(
        6,
        "can't be started: No such file",
        "face",
        &["--wheels", "wheels", "--python", "nowhere/python"],
    );
    told(
        6,
        "is it Python",
        "face",
        &["--wheels", "wheels", "--python", "/bin/false"],
    );
    let lock = File::create(machine.at("state/venvs/.face.lock")).unwrap();
    lock.lock().unwrap();
    told(
        6,
        "another `visualpath plugins venv face` is at work",
        "face",
        wheels,
    );
    drop(lock);
    fs::create_dir(machine.at("state/venvs/face")).unwrap();
    fs::write(machine.at("state/venvs/face/mine"), "").unwrap();
    told(
        6,
        "was not made by `visualpath plugins venv`; move it away",
        "face",
        wheels,
    );
    assert!(machine.at("state/venvs/face/mine").exists());
}

#[test]
fn a_program_that_is_no_worker_is_told_when_it_is_tried_alone() {
    let machine = Machine::new();
    machine.executable("face", "");
    let said = machine.run(&["plugins", "test", "face", "--source", "synthetic:"]);
    assert_eq!(said.code, 6);
    assert!(said.stderr.contains("exit code 0"), "{}", said.stderr);
}

#[test]
fn the_manifests_of_the_reference_are_right() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/plugins.md");
    let page = fs::read_to_string(page).unwrap();
    let manifests: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .filter(|block| block.contains("protocol = 1"))
        .collect();
    assert!(manifests.len() >= 2, "{manifests:?}");
    for (n, manifest) in manifests.iter().enumerate() {
        let machine = Machine::new();
        machine.executable("face", "");
        let file = machine.at("state/plugins/face/plugin.toml");
        fs::write(file, manifest).unwrap();
        let said = machine.run(&["plugins", "list"]);
        assert_eq!(said.code, 0, "{n}: {}", said.stdout);
        assert!(said.stdout.contains("plugin.toml"), "{n}: {}", said.stdout);
    }
}
