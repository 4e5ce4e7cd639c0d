//! The reference page says what the server does.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod client;

use client::serve;
use visualpath_web::status_of;

const PAGE: &str = include_str!("../../../docs/reference/http.md");

fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    PAGE.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            line.split(" | ")
                .map(|cell| cell.trim_matches('`'))
                .collect()
        })
}

#[test]
fn every_code_of_the_page_has_the_status_it_says() {
    let mut codes = 0;
    for row in rows() {
        let [code, status, ..] = row[..] else {
            continue;
        };
        let Ok(status) = status.parse::<u16>() else {
            continue;
        };
        assert_eq!(status_of(code).as_u16(), status, "{code}");
        codes += 1;
    }
    assert_eq!(codes, 22, "update this test with the page");
}

#[test]
fn every_code_a_command_can_end_with_is_on_the_page() {
    // As in docs/reference/mqtt.md; `malformed` and `not_allowed` are of the broker's way alone, and
    // no route asks for an unknown verb.
    for code in [
        "bad_args",
        "unknown_source",
        "no_ring",
        "clip_failed",
        "unknown_clip",
        "pinned",
        "failed",
        "busy",
        "stopping",
        "timeout",
    ] {
        assert!(rows().any(|row| row[0] == code), "{code}");
    }
}

#[test]
fn every_route_of_the_page_is_there() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    let mp4 = dir.path().join("a.mp4");
    std::fs::write(&mp4, b"x").unwrap();
    std::fs::write(dir.path().join("a.jpg"), b"x").unwrap();
    served
        .fake
        .files
        .lock()
        .unwrap()
        .insert("a1".to_owned(), mp4);
    let mut routes = 0;
    for row in rows() {
        let Some((method, path)) = row[0].split_once(" /") else {
            continue;
        };
        let reply = served.ask(method, &format!("/{}", path.replace("<id>", "a1")), &[], "");
        assert!(
            [200, 202].contains(&reply.status),
            "{method} /{path}: {reply:?}"
        );
        routes += 1;
    }
    assert_eq!(routes, 11, "update this test with the page");
}
