//! A worker whose config or model is wrong, or whose process can't be had.

use visualpath_tests::workers::{Done, Place, of};

fn run(place: &Place, extractor: &str, env: &[(&str, &str)]) -> Done {
    place.config(&format!(
        "[source.cam]\nuri = \"synthetic:?width=160&height=120&fps=30&frames=120\"\n{extractor}\n\
         [path.yard]\nsource = \"cam\"\nextractors = [\"x\"]\nfusion = \"f\"\n\
         [fusion.f]\nplugin = \"rules\"\n[[fusion.f.config.rule]]\nlabel = \"never\"\n\
         when = \"x.score > 2.0\"\nclip = false\n"
    ));
    let done = place.start_env(env).finish();
    place.until_empty();
    assert_eq!(place.left_behind(done.pid), [""; 0]);
    done
}

#[test]
fn what_a_worker_says_of_its_config_is_told_at_the_configs_line() {
    let place = Place::new();
    let text =
        "[extractor.x]\nplugin = \"scripted\"\n[extractor.x.config]\ninput = \"upside_down\"\n";
    let done = run(&place, text, &[]);
    assert_eq!(done.code, 3, "{}", done.log);
    let line = done
        .log
        .lines()
        .find(|l| l.contains("extractor.x.config.input"))
        .unwrap_or_else(|| panic!("{}", done.log));
    let file = std::fs::read_to_string(place.path("vp.toml")).unwrap();
    let at = 1 + file.lines().position(|l| l.starts_with("input =")).unwrap();
    assert!(line.starts_with(&format!("vp.toml:{at}:")), "{line}");
    assert!(line.contains("`upside_down` is no view"), "{line}");
}

#[test]
fn a_key_deep_inside_is_told_at_its_line_too() {
    let place = Place::new();
    let text = "[extractor.x]\nplugin = \"scripted\"\n[extractor.x.config]\nacts = [\n{ at = 3, act = \"error\" },\n{ at = 4, act = \"dance\" },\n]\n";
    let done = run(&place, text, &[]);
    assert_eq!(done.code, 3, "{}", done.log);
    let file = std::fs::read_to_string(place.path("vp.toml")).unwrap();
    let at = 1 + file.lines().position(|l| l.contains("dance")).unwrap();
    let told =
        done.log.contains(&format!("vp.toml:{at}:")) && done.log.contains("`dance` is no act");
    assert!(told, "{}", done.log);
}

#[test]
fn a_model_that_a_worker_misses_ends_the_start_as_it_would_inline() {
    let place = Place::new();
    let text = "[extractor.x]\nplugin = \"scripted\"\n[extractor.x.config]\nmodel = \"nowhere\"\n";
    let done = run(&place, text, &[]);
    assert_eq!(done.code, 6, "{}", done.log);
    let said = "extractor.x.config.model: model `nowhere`: there is no such model; run set-up";
    assert!(done.log.contains(said), "{}", done.log);
}

const OBJECT: &str =
    "[extractor.x]\nplugin = \"object\"\nISO\n[extractor.x.config]\nmodel = \"no-such-model\"\n";

#[test]
fn a_built_in_plugin_says_the_same_inline_and_in_a_process() {
    let place = Place::new();
    let told = |isolation: &str| {
        std::fs::remove_file(place.path("stderr")).ok();
        let done = run(&place, &OBJECT.replace("ISO", isolation), &[]);
        let error = done.log.lines().find(|l| l.contains("no-such-model"));
        (done.code, error.unwrap_or_default().to_owned())
    };
    let inline = told("isolation = \"inline\"");
    assert_ne!(inline.1, "");
    assert_eq!(told("isolation = \"process\""), inline);
}

/// Nothing that is started with this ever says hello.
const NO_STAGE: (&str, &str) = ("VISUALPATH_WORKER", "/bin/false");
const MOTION: &str =
    "[extractor.x]\nplugin = \"motion\"\nisolation = \"process\"\ntimeout_ms = 5000\n";

#[test]
fn without_a_fallback_a_process_that_can_not_be_had_is_tried_again_and_never_runs_inline() {
    let place = Place::new();
    let done = run(&place, MOTION, &[NO_STAGE]);
    assert_eq!(done.code, 0, "{}", done.log);
    assert_eq!(done.summary["observations"]["x"], 0, "{}", done.summary);
    assert_eq!(
        done.summary["dropped"]["worker_held"], 120,
        "{}",
        done.summary
    );
    let states = done.states("x");
    let tries = states
        .iter()
        .filter(|(s, w, _)| s == "restarting" && w == "exit code 1");
    assert!(tries.count() >= 2, "{states:?}");
}

#[test]
fn with_fallback_inline_it_runs_inline_and_says_so() {
    let place = Place::new();
    let done = run(
        &place,
        &format!("{MOTION}fallback = \"inline\"\n"),
        &[NO_STAGE],
    );
    assert_eq!(done.code, 0, "{}", done.log);
    let count = |v: &serde_json::Value| v.as_u64().unwrap_or(0);
    // Inline on a machine that is busy with other things, a live frame may be lost before it.
    let seen = count(&done.summary["observations"]["x"]);
    let busy = count(&done.summary["dropped"]["path_busy"]);
    assert_eq!(seen + busy, 120, "{}", done.summary);
    assert!(seen >= 60, "{}", done.summary);
    assert!(
        done.log.contains("it runs inline, as `fallback` says"),
        "{}",
        done.log
    );
    assert_eq!(of(&done.trace, "worker").count(), 0);
}

#[test]
fn fallback_inline_is_refused_where_there_is_nothing_to_run_inline() {
    let place = Place::new();
    let text = "[extractor.x]\nplugin = \"scripted\"\nfallback = \"inline\"\n";
    let done = run(&place, text, &[]);
    assert_eq!(done.code, 3, "{}", done.log);
    assert!(done.log.contains("extractor.x.fallback"), "{}", done.log);
}

#[test]
fn a_worker_that_is_dead_costs_no_time() {
    for (name, toml) in [
        ("on Hold", "always = { from = 3, act = \"exit\", arg = 69 }"),
        (
            "between two starts",
            "always = { from = 3, act = \"exit\", arg = 1 }",
        ),
    ] {
        let place = Place::new();
        let text = format!(
            "[extractor.x]\nplugin = \"scripted\"\ntimeout_ms = 5000\n[extractor.x.config]\n{toml}\n"
        );
        let done = run(&place, &text, &[]);
        assert!(!done.states("x").is_empty(), "{name}: {}", done.log);
        let seconds = |key: &str| done.summary[key].as_f64().unwrap();
        let (cpu, wall) = (seconds("cpu_s"), seconds("wall_s"));
        assert!(cpu < wall / 4.0, "{name}: {cpu} s of CPU in {wall} s");
    }
}
