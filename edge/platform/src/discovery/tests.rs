//! Discovery on real directories, and what the registry makes of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use visualpath_core::{
    Extractor, ExtractorPlugin, Filter, Fit, PluginContext, PluginError, ViewFormat, ViewSpec,
};

use super::*;
use crate::registry::{Found, Registry, RegistryError};

/// A linked plugin that is only there to have a name.
pub struct Linked(pub &'static str);

impl ExtractorPlugin for Linked {
    fn name(&self) -> &str {
        self.0
    }
    fn version(&self) -> &str {
        "1.0.0"
    }
    fn input(&self, _: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(ViewSpec::default())
    }
    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(Vec::new())
    }
    fn create(&self, _: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        Err(PluginError::Config {
            key: "x".into(),
            message: "only a name".into(),
        })
    }
}

/// A plugin as discovery would give it.
pub fn external(name: &str, origin: Origin, entry_point: Option<&str>) -> External {
    External {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        kind: Kind::Extractor,
        origin,
        launch: match entry_point {
            Some(entry_point) => Launch::Python {
                entry_point: entry_point.to_owned(),
            },
            None => Launch::Exec {
                program: "/p/bin/a".into(),
                args: Vec::new(),
            },
        },
        input: None,
        signals: Vec::new(),
        isolation: Isolation::Process,
        dir: None,
    }
}

const FACE: &str = r#"
name = "face"
version = "1.2.0"
kind = "extractor"
protocol = 1
isolation = "process"
exec = "bin/face"
args = ["--fast"]
[input]
format = "rgb"
width = 320
height = 240
fit = "letterbox"
filter = "area"
[output]
signals = ["count", "max_confidence"]
"#;

/// A plugin folder with an executable `bin/face`.
fn folder(dir: &Path, name: &str, manifest: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir_all(folder.join("bin")).unwrap();
    let program = folder.join("bin/face");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join(MANIFEST), manifest).unwrap();
    folder
}

fn plugins(dir: &Path) -> Discovered {
    discover(&Places {
        plugins: vec![dir.to_owned()],
        ..Places::default()
    })
}

/// The only problem there is, as text.
fn problem(found: &Discovered) -> String {
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    found.problems[0].error.to_string()
}

/// A venv as far as discovery reads it: made by hand, so without Python.
fn venv(dir: &Path, name: &str) -> PathBuf {
    let venv = dir.join(name);
    fs::create_dir_all(venv.join("bin")).unwrap();
    fs::create_dir_all(site(&venv)).unwrap();
    fs::write(
        venv.join("pyvenv.cfg"),
        "home = /usr/bin\nversion = 3.11.2\n",
    )
    .unwrap();
    symlink("/bin/sh", venv.join("bin/python")).unwrap();
    venv
}

fn site(venv: &Path) -> PathBuf {
    venv.join("lib/python3.11/site-packages")
}

/// Installs a distribution by hand.
fn dist(site: &Path, name: &str, version: &str, entry_points: &str) -> PathBuf {
    let info = site.join(format!("{name}-{version}.dist-info"));
    fs::create_dir_all(&info).unwrap();
    let metadata =
        format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 9\n");
    fs::write(info.join("METADATA"), metadata).unwrap();
    fs::write(info.join("entry_points.txt"), entry_points).unwrap();
    info
}

fn venvs(venvs: &[&PathBuf]) -> Discovered {
    discover(&Places {
        venvs: venvs.iter().map(|v| v.to_path_buf()).collect(),
        ..Places::default()
    })
}

const FACES: &str = "[console_scripts]\nx = y\n\n[visualpath.extractors]\nface = faces.face:Face\n";

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
        &FACE
            .replace("\"face\"", "\"rules\"")
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
