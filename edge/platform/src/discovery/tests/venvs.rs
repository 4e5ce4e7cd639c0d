//! What is read of venvs.

use super::*;

#[test]
fn the_entry_points_of_a_venv_are_read_without_python() {
    let dir = TempDir::new().unwrap();
    let v = venv(dir.path(), "v");
    dist(&site(&v), "my_faces", "2.1", FACES);
    dist(
        &site(&v),
        "numpy",
        "2.0",
        "[console_scripts]\nf2py = numpy.f2py:main\n",
    );
    let text = "# ours\n[visualpath.fusions]\nvisitor-2 = v.f : Outer.Inner [extra]\n";
    dist(&site(&v), "visits", "1.0", text);
    let found = venvs(&[&v]);
    assert_eq!(found.problems, []);
    let [face, visitor] = found.externals.as_slice() else {
        panic!("{:?}", found.externals)
    };
    let of_venv = External {
        version: "2.1".into(),
        isolation: Isolation::Venv,
        ..external("face", Origin::Venv(v.clone()), Some("faces.face:Face"))
    };
    assert_eq!(*face, of_venv);
    assert_eq!(
        (visitor.kind, visitor.name.as_str()),
        (Kind::Fusion, "visitor-2")
    );
    assert_eq!(
        venv_python(&v),
        v.canonicalize().unwrap().join("bin/python")
    );
}

#[test]
fn editable_installs_are_found_by_their_pth_files() {
    let dir = TempDir::new().unwrap();
    let v = venv(dir.path(), "v");
    let source = dir.path().join("source");
    let info = source.join("old.egg-info");
    fs::create_dir_all(&info).unwrap();
    fs::write(info.join("PKG-INFO"), "Version: 0.3\n").unwrap();
    fs::write(info.join("entry_points.txt"), FACES).unwrap();
    let lines = format!(
        "import sys\n# {0}\n{0}\n/nowhere/at/all\n",
        source.display()
    );
    fs::write(site(&v).join("easy-install.pth"), lines).unwrap();
    // What the venv itself has wins over what a path file adds.
    let hidden = dir.path().join("hidden");
    dist(
        &hidden,
        "My.Hands",
        "1",
        "[visualpath.extractors]\nhand = wrong:Hand\n",
    );
    dist(
        &site(&v),
        "my_hands",
        "2",
        "[visualpath.extractors]\nhand = right:Hand\n",
    );
    fs::write(site(&v).join("a.pth"), hidden.display().to_string()).unwrap();
    let found = venvs(&[&v]);
    assert_eq!(found.problems, []);
    let mut seen: Vec<(&str, &str)> = found
        .externals
        .iter()
        .map(|e| (e.version.as_str(), e.entry_point().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("0.3", "faces.face:Face"), ("2", "right:Hand")]);
}

#[test]
fn a_broken_distribution_is_a_warning_that_names_the_file() {
    let dir = TempDir::new().unwrap();
    let v = venv(dir.path(), "v");
    dist(&site(&v), "good", "1.0", FACES);
    let broken = [
        (
            "no_group",
            "face = a:B\n",
            "line 1: an entry before any [group]",
        ),
        (
            "no_value",
            "[visualpath.extractors]\n\nface\n",
            "line 3: expected `name = module:Class`",
        ),
        (
            "no_end",
            "[visualpath.extractors\n",
            "line 1: a group without `]`",
        ),
        (
            "no_class",
            "[visualpath.extractors]\nhand = a\n",
            "`hand`: expected `package.module:Class`, got \"a\"",
        ),
        (
            "no_name",
            "[visualpath.extractors]\n../x = a:B\n",
            "\"../x\" can't be a plugin's name; it has letters, digits, `_`, `-` and `.`",
        ),
    ];
    for (name, text, _) in broken {
        dist(&site(&v), name, "1.0", text);
    }
    let latin = dist(&site(&v), "latin", "1.0", "").join("entry_points.txt");
    fs::write(&latin, b"[visualpath.extractors]\n\xe9 = a:B\n").unwrap();
    let pipe = dist(&site(&v), "pipe", "1.0", "").join("entry_points.txt");
    fs::remove_file(&pipe).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let found = venvs(&[&v]);
    assert_eq!(found.externals.len(), 1, "the good one");
    let mut expected: Vec<String> = broken
        .iter()
        .map(|(name, _, why)| {
            format!(
                "{}: {why}",
                site(&v)
                    .join(format!("{name}-1.0.dist-info/entry_points.txt"))
                    .display()
            )
        })
        .collect();
    expected.push(format!("{}: not UTF-8 in line 2", latin.display()));
    expected.push(format!("{}: not a regular file", pipe.display()));
    let canonical = |text: &str| {
        text.replace(
            &resolved(&v).display().to_string(),
            &v.display().to_string(),
        )
    };
    let mut told: Vec<String> = found
        .problems
        .iter()
        .map(|p| canonical(&p.error.to_string()))
        .collect();
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
    assert!(found.problems.iter().all(|p| p.error.is_warning()));
}

#[test]
fn a_distribution_without_metadata_is_found_with_a_warning() {
    let dir = TempDir::new().unwrap();
    let v = venv(dir.path(), "v");
    let info = dist(&site(&v), "faces", "1.0", FACES);
    fs::remove_file(info.join("METADATA")).unwrap();
    let found = venvs(&[&v]);
    assert_eq!(found.externals[0].version, "");
    assert!(
        problem(&found).contains("METADATA: "),
        "{:?}",
        found.problems
    );
    // So is one that pip left behind twice.
    dist(&site(&v), "faces", "0.9", FACES);
    let found = venvs(&[&v]);
    assert_eq!(
        found.externals[0].version, "0.9",
        "the first in order of names"
    );
    assert!(
        problem(&found).contains("is installed beside faces-0.9.dist-info"),
        "{:?}",
        found.problems
    );
}

#[test]
fn what_is_no_venv_says_so_to_whoever_names_it() {
    let dir = TempDir::new().unwrap();
    let plain = dir.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let dangling = venv(dir.path(), "dangling");
    fs::remove_file(dangling.join("bin/python")).unwrap();
    symlink("/nowhere/python3", dangling.join("bin/python")).unwrap();
    let bare = venv(dir.path(), "bare");
    fs::remove_dir_all(bare.join("lib")).unwrap();
    for (venv, why) in [
        (&plain, "no venv: there is no pyvenv.cfg in it"),
        (&dangling, "a broken venv: bin/python: "),
        (&bare, "no lib/python3.*/site-packages in it"),
    ] {
        let registry = Registry::new();
        registry.set_discovered(venvs(&[venv]));
        let told = registry
            .find_extractor("face", Some(venv))
            .err()
            .unwrap()
            .to_string();
        assert!(
            told.starts_with("the plugin `face` can't be used: ") && told.contains(why),
            "{told}"
        );
    }
}
