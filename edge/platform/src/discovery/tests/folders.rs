//! Plugin folders and their manifests.

use super::*;

#[test]
fn a_plugin_folder_is_found_with_everything_its_manifest_says() {
    let dir = TempDir::new().unwrap();
    let face = folder(dir.path(), "face", FACE);
    let found = plugins(dir.path());
    assert_eq!(found.problems, []);
    let face = face.canonicalize().unwrap();
    assert_eq!(
        found.externals,
        [External {
            name: "face".into(),
            version: "1.2.0".into(),
            kind: Kind::Extractor,
            origin: Origin::Manifest(dir.path().join("face/plugin.toml")),
            launch: Launch::Exec {
                program: face.join("bin/face"),
                args: vec!["--fast".into()],
            },
            input: Some(ViewSpec {
                format: ViewFormat::Rgb,
                size: Some((320, 240)),
                fit: Fit::Letterbox,
                filter: Filter::Area,
            }),
            signals: vec!["count".into(), "max_confidence".into()],
            isolation: Isolation::Process,
            dir: Some(face),
        }]
    );
}

#[test]
fn every_wrong_manifest_gives_its_findings_and_no_others() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wrong_manifests");
    let mut seen = 0;
    let mut faults = String::new();
    for name in files::names(&fixtures, MAX_ENTRIES).unwrap() {
        let text = fs::read_to_string(fixtures.join(&name)).unwrap();
        let (expected, manifest): (Vec<&str>, Vec<&str>) = text
            .lines()
            .partition(|line| line.starts_with("# expect: "));
        let dir = TempDir::new().unwrap();
        folder(dir.path(), "face", &manifest.join("\n"));
        let found = plugins(dir.path());
        assert_eq!(found.externals, [], "{name:?}");
        let file = dir.path().join("face/plugin.toml");
        let told: Vec<String> = problem(&found)
            .lines()
            .map(|line| {
                let place = line.strip_prefix(&format!("{}:", file.display())).unwrap();
                format!("# expect: {}", place.replacen(" error:", "", 1))
            })
            .collect();
        if told != expected {
            faults.push_str(&format!("\n{name:?}\n{}\n", told.join("\n")));
        }
        seen += 1;
    }
    assert!(seen >= 30, "only {seen} wrong manifests");
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn a_program_that_a_link_leads_out_of_its_folder_is_refused() {
    let dir = TempDir::new().unwrap();
    let face = folder(dir.path(), "face", FACE);
    fs::remove_file(face.join("bin/face")).unwrap();
    symlink("/bin/sh", face.join("bin/face")).unwrap();
    let told = problem(&plugins(dir.path()));
    assert!(
        told.contains("exec: expected a file inside the plugin's folder, but bin/face leads to /"),
        "{told}"
    );
    // The whole of bin may be the link too.
    fs::remove_dir_all(face.join("bin")).unwrap();
    symlink("/bin", face.join("bin")).unwrap();
    fs::write(face.join(MANIFEST), FACE.replace("bin/face", "bin/sh")).unwrap();
    let told = problem(&plugins(dir.path()));
    assert!(told.contains("leads to /"), "{told}");
    // A link that stays inside is as good as the file.
    fs::remove_file(face.join("bin")).unwrap();
    fs::copy("/bin/sh", face.join("real")).unwrap();
    symlink("real", face.join("face")).unwrap();
    fs::write(face.join(MANIFEST), FACE.replace("bin/face", "./face")).unwrap();
    assert_eq!(plugins(dir.path()).problems, []);
}

#[test]
fn a_program_that_is_not_executable_is_refused_with_what_to_do() {
    let dir = TempDir::new().unwrap();
    let program = folder(dir.path(), "face", FACE).join("bin/face");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    let told = problem(&plugins(dir.path()));
    assert!(
        told.contains(":7:8: error: exec: bin/face is not executable; chmod +x "),
        "{told}"
    );
}

#[test]
fn what_only_looks_like_a_manifest_is_refused_without_blocking() {
    let dir = TempDir::new().unwrap();
    let told = |make: &dyn Fn(&Path)| {
        let file = folder(dir.path(), "face", "").join(MANIFEST);
        fs::remove_file(&file).unwrap();
        make(&file);
        let told = problem(&plugins(dir.path()));
        fs::remove_dir_all(dir.path().join("face")).unwrap();
        told
    };
    let pipe = told(&|file| {
        let made = std::process::Command::new("mkfifo").arg(file).status();
        assert!(made.unwrap().success());
    });
    assert!(pipe.ends_with("plugin.toml: not a regular file"), "{pipe}");
    let zero = told(&|file| symlink("/dev/zero", file).unwrap());
    assert!(zero.ends_with("plugin.toml: not a regular file"), "{zero}");
    let large = told(&|file| fs::write(file, " ".repeat(70_000)).unwrap());
    assert!(large.ends_with("longer than 65536 bytes"), "{large}");
    let latin = told(&|file| fs::write(file, b"name = 1\n# \xe9").unwrap());
    assert!(latin.ends_with("not UTF-8 in line 2"), "{latin}");
    let nowhere = told(&|file| symlink("/nowhere/at/all", file).unwrap());
    assert!(nowhere.contains("there is none"), "{nowhere}");
}

#[test]
fn a_broken_folder_costs_only_itself_and_is_told_to_whoever_asks_for_it() {
    let dir = TempDir::new().unwrap();
    folder(
        dir.path(),
        "hand_1.0",
        &FACE
            .replace("\"face\"", "\"hand\"")
            .replace("protocol = 1", "protocol = 9"),
    );
    folder(dir.path(), "face", FACE);
    fs::create_dir(dir.path().join("nothing")).unwrap();
    fs::write(dir.path().join("README"), "not a plugin").unwrap();
    fs::create_dir(dir.path().join(".staging")).unwrap();
    let registry = Registry::new();
    assert_eq!(registry.set_discovered(plugins(dir.path())), []);
    assert!(registry.find_extractor("face", None).is_ok());
    let broken = registry.find_extractor("hand", None).err().unwrap();
    assert!(
        matches!(&broken, RegistryError::Broken { name, why } if name == "hand" && why.contains("protocol: expected 1")),
        "{broken}"
    );
    let missing = registry.find_extractor("nothing", None).err().unwrap();
    assert!(
        missing
            .to_string()
            .contains("every plugin folder needs a plugin.toml"),
        "{missing}"
    );
    let unknown = registry.find_extractor("fase", None).err().unwrap();
    assert_eq!(
        unknown.to_string(),
        "no extractor plugin is called `fase`; did you mean `face`?; known: face"
    );
}

#[test]
fn a_directory_that_the_operator_named_must_be_there() {
    let dir = TempDir::new().unwrap();
    let places = |named: &[&str], plain: &[&str]| Places {
        named_plugins: named.iter().map(|d| dir.path().join(d)).collect(),
        plugins: plain.iter().map(|d| dir.path().join(d)).collect(),
        ..Places::default()
    };
    assert_eq!(discover(&places(&[], &["none"])).problems, []);
    let told = problem(&discover(&places(&["none"], &[])));
    assert!(told.ends_with("VISUALPATH_PLUGIN_PATH names it"), "{told}");
    // One directory by two names holds each plugin once.
    folder(&dir.path().join("a"), "face", FACE);
    symlink("a", dir.path().join("b")).unwrap();
    let found = discover(&places(&["b"], &["a", "a/../a"]));
    assert_eq!(found.externals.len(), 1);
}
