//! What the registry makes of names that were found several times.

use super::*;

#[test]
fn two_plugins_of_one_name_are_refused_naming_both_origins() {
    let dir = TempDir::new().unwrap();
    folder(&dir.path().join("one"), "face", FACE);
    folder(&dir.path().join("two"), "other", FACE);
    folder(
        &dir.path().join("two"),
        "object",
        &FACE.replace("\"face\"", "\"object\""),
    );
    folder(
        &dir.path().join("two"),
        "rules",
        FACE.replace("\"face\"", "\"rules\"")
            .replace("extractor", "fusion")
            .split("[input]")
            .next()
            .unwrap(),
    );
    let found = discover(&Places {
        plugins: vec![dir.path().join("one"), dir.path().join("two")],
        ..Places::default()
    });
    assert_eq!(found.problems, []);
    let registry = Registry::new();
    let linked = || Arc::new(Linked("object"));
    registry
        .register_extractor(Origin::BuiltIn, linked())
        .unwrap();
    let clashes = registry.set_discovered(found);
    let at = |path: &str| format!("from {}", dir.path().join(path).join(MANIFEST).display());
    let texts: Vec<String> = clashes.iter().map(RegistryError::to_string).collect();
    assert_eq!(
        texts,
        [
            format!(
                "two extractor plugins are called `face`: one {}, one {}",
                at("one/face"),
                at("two/other")
            ),
            format!(
                "two extractor plugins are called `object`: one built in, one {}",
                at("two/object")
            ),
            format!(
                "two fusion plugins are called `rules`: one built in, one {}",
                at("two/rules")
            ),
        ]
    );
    for (name, clash) in [("face", &clashes[0]), ("object", &clashes[1])] {
        assert_eq!(
            registry.find_extractor(name, None).err().as_ref(),
            Some(clash)
        );
    }
    // An app that comes later is told as well.
    let late = registry.register_extractor(Origin::App, Arc::new(Linked("face")));
    assert!(matches!(
        late,
        Err(RegistryError::Duplicate {
            second: Origin::App,
            ..
        })
    ));
    // Discovery again, with the doubles gone, is all it takes.
    assert_eq!(
        registry.set_discovered(plugins(&dir.path().join("one"))),
        []
    );
    assert!(registry.find_extractor("face", None).is_ok());
    assert!(matches!(
        registry.find_extractor("object", None),
        Ok(Found::Linked(_))
    ));
}

#[test]
fn a_plugin_in_two_venvs_is_that_of_the_venv_asked_for() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (venv(dir.path(), "a"), venv(dir.path(), "b"));
    dist(&site(&a), "faces", "1.0", FACES);
    dist(&site(&b), "faces", "2.0", FACES);
    dist(
        &site(&b),
        "hands",
        "1.0",
        "[visualpath.extractors]\nhand = h:H\n",
    );
    let link = dir.path().join("link");
    symlink("b", &link).unwrap();
    let registry = Registry::new();
    assert_eq!(registry.set_discovered(venvs(&[&a, &b, &link])), []);
    let version = |venv: &Path| match registry.find_extractor("face", Some(venv)) {
        Ok(Found::External(e)) => e.version.clone(),
        _ => panic!("not found in {}", venv.display()),
    };
    assert_eq!(
        [version(&a), version(&b), version(&link)],
        ["1.0", "2.0", "2.0"]
    );
    let several = registry.find_extractor("face", None).err().unwrap();
    assert!(
        matches!(&several, RegistryError::SeveralVenvs { venvs, .. } if *venvs == [a.clone(), b]),
        "{several}"
    );
    assert!(
        registry.find_extractor("hand", None).is_ok(),
        "it is in one only"
    );
    let none = registry.find_extractor("hand", Some(&a)).err().unwrap();
    assert!(none.to_string().ends_with("/a; there: face"), "{none}");
}

#[test]
fn two_packages_of_one_venv_can_not_share_a_name() {
    let dir = TempDir::new().unwrap();
    let v = venv(dir.path(), "v");
    dist(&site(&v), "faces", "1.0", FACES);
    dist(&site(&v), "other", "1.0", FACES);
    let registry = Registry::new();
    let clashes = registry.set_discovered(venvs(&[&v]));
    assert!(
        matches!(
            clashes.as_slice(),
            [RegistryError::Duplicate {
                first: Origin::Venv(_),
                ..
            }]
        ),
        "{clashes:?}"
    );
}

#[test]
fn a_python_folder_and_its_installed_package_are_one_plugin() {
    let dir = TempDir::new().unwrap();
    let python = FACE
        .replace("exec = \"bin/face\"", "entry_point = \"faces.face:Face\"")
        .replace("args = [\"--fast\"]\n", "");
    folder(&dir.path().join("plugins"), "face", &python);
    let (with, without) = (venv(dir.path(), "with"), venv(dir.path(), "without"));
    dist(&site(&with), "faces", "2.0", FACES);
    let places = Places {
        plugins: vec![dir.path().join("plugins")],
        venvs: vec![with.clone(), without.clone()],
        ..Places::default()
    };
    let registry = Registry::new();
    let found = discover(&places);
    assert_eq!(found.problems, []);
    assert_eq!(registry.set_discovered(found), []);
    let find = |venv: Option<&PathBuf>| match registry
        .find_extractor("face", venv.map(PathBuf::as_path))
    {
        Ok(Found::External(e)) => e,
        _ => panic!("not found in {venv:?}"),
    };
    let installed = find(Some(&with));
    assert_eq!(installed.version, "2.0");
    assert_eq!(installed.origin, Origin::Venv(with.clone()));
    assert_eq!(
        installed.signals,
        ["count", "max_confidence"],
        "as the folder's manifest says"
    );
    assert_eq!(
        find(Some(&without)).version,
        "1.2.0",
        "the folder, to be run there"
    );
    assert_eq!(find(None).version, "1.2.0");
    // An object of another name is another plugin.
    dist(
        &site(&with),
        "faces",
        "2.0",
        &FACES.replace("Face", "Other"),
    );
    let clashes = registry.set_discovered(discover(&places));
    assert_eq!(clashes.len(), 1, "{clashes:?}");
    // So is a program.
    folder(&dir.path().join("plugins"), "face", FACE);
    assert_eq!(registry.set_discovered(discover(&places)).len(), 1);
}
