//! Asking an interpreter, and running programs in bounds.

use super::*;

/// The interpreter of the machine, with a package of ours put in its way.
fn interpreter(dir: &Path, code: &str) -> PathBuf {
    let file = dir.join("python");
    fs::write(&file, format!("#!/bin/sh\n{code}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

fn asked(interpreter: &Path) -> Discovered {
    discover(&Places {
        interpreter: Some(interpreter.to_owned()),
        ..Places::default()
    })
}

#[test]
fn a_real_interpreter_says_what_it_has() {
    let dir = TempDir::new().unwrap();
    let venv = dir.path().join("venv");
    let made = std::process::Command::new("python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let lib = files::names(&venv.join("lib"), 10).unwrap();
    let site = venv.join("lib").join(&lib[0]).join("site-packages");
    dist(&site, "faces", "2.1", FACES);
    let python = venv.join("bin/python");
    let found = asked(&python);
    assert_eq!(found.problems, []);
    let expected = External {
        version: "2.1".into(),
        ..external(
            "face",
            Origin::Interpreter(python.clone()),
            Some("faces.face:Face"),
        )
    };
    assert_eq!(found.externals, [expected]);
    assert!(ask_version(&python).unwrap().starts_with("3."));
    // Reading the venv instead gives the same plugin.
    let read = venvs(&[&venv]);
    assert_eq!(read.externals[0].version, "2.1");
    // One that sees the system's packages is asked, and is still a venv.
    let config = fs::read_to_string(venv.join("pyvenv.cfg")).unwrap();
    let config = config.replace("packages = false", "packages = true");
    fs::write(venv.join("pyvenv.cfg"), config).unwrap();
    let read = venvs(&[&venv]);
    let of_venv = |e: &&External| e.origin == Origin::Venv(venv.clone()) && e.name == "face";
    assert_eq!(read.externals.iter().filter(of_venv).count(), 1, "{read:?}");
}

#[test]
fn an_interpreter_that_is_none_is_told_in_bounded_time_and_bytes() {
    let dir = TempDir::new().unwrap();
    let told = |code: &str| problem(&asked(&interpreter(dir.path(), code)));
    let none = problem(&asked(&dir.path().join("none")));
    assert!(none.contains("can't be started: No such file"), "{none}");
    let fails = told("echo the last word >&2; exit 3");
    assert!(
        fails.contains("exit status: 3): the last word; is it Python"),
        "{fails}"
    );
    let silent = told("exit 0");
    assert!(silent.contains("did not answer"), "{silent}");
    let endless = told("exec head -c 6000000 /dev/zero");
    assert!(
        endless.contains("said more than 4194304 bytes"),
        "{endless}"
    );
    let lies = told("echo 'visualpath-entry-points/1 {}'");
    assert!(lies.contains("can't be read: missing field"), "{lies}");
    let old =
        told("echo 'visualpath-entry-points/1 {\"version\":[3,7,1],\"entries\":[],\"broken\":[]}'");
    assert!(old.contains("is Python 3.7; plugins need 3.9"), "{old}");
}

#[test]
fn a_program_that_does_not_end_is_killed_with_its_children() {
    let dir = TempDir::new().unwrap();
    let pid_file = dir.path().join("pid");
    let code = format!(
        "sleep 600 & echo $! > {}; echo begun; wait",
        pid_file.display()
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &code]);
    let bounds = Bounds {
        timeout: std::time::Duration::from_millis(400),
        keep_bytes: 100,
        own_group: true,
    };
    match run(command, bounds) {
        Err(RunError::TimedOut { said, .. }) => assert_eq!(said, ["begun"]),
        other => panic!("{other:?}"),
    }
    let pid = fs::read_to_string(pid_file).unwrap();
    let begun = std::time::Instant::now();
    // Reaped already, or waiting for init to do so.
    while fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|s| !s.contains(") Z "))
    {
        assert!(begun.elapsed().as_secs() < 60, "{} lives on", pid.trim());
        std::thread::yield_now();
    }
}

#[test]
fn a_grandchild_that_keeps_a_pipe_open_holds_nobody_up() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "sleep 600 & echo $$"]);
    let bounds = Bounds {
        timeout: std::time::Duration::from_secs(300),
        keep_bytes: 100,
        own_group: true,
    };
    let answer = run(command, bounds).unwrap();
    let group = rustix::process::Pid::from_raw(answer.stdout.text().trim().parse().unwrap());
    rustix::process::kill_process_group(group.unwrap(), rustix::process::Signal::KILL).unwrap();
}
