//! What each route does.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod client;

use client::{Reply, serve};
use serde_json::{Value, json};
use visualpath_web::{ApiError, Readiness};

const JSON: &str = "Content-Type: application/json";

#[test]
fn health_follows_the_frame_loops() {
    let served = serve();
    assert_eq!(served.get("/healthz").status, 200);
    *served.fake.alive.lock().unwrap() = Err("path-cam0 stands still".to_owned());
    let sick = served.get("/healthz");
    assert_eq!(sick.status, 503);
    assert_eq!(
        sick.json(),
        json!({"alive": false, "reason": "path-cam0 stands still"})
    );
}

#[test]
fn work_may_be_given_to_it_when_it_is_ready_or_degraded() {
    let served = serve();
    for (state, word, status) in [
        (Readiness::Starting, "starting", 503),
        (Readiness::Ready, "ready", 200),
        (Readiness::Degraded, "degraded", 200),
        (Readiness::Stopping, "stopping", 503),
    ] {
        *served.fake.readiness.lock().unwrap() = state;
        let reply = served.get("/readyz");
        assert_eq!(
            (reply.status, reply.json()),
            (status, json!({"state": word}))
        );
    }
}

#[test]
fn metrics_and_status_are_the_appliance_s_own_words() {
    let served = serve();
    let metrics = served.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    assert_eq!(metrics.body, b"# TYPE a counter\na 1\n");
    let status = served.get("/api/v1/status");
    assert_eq!(
        (status.status, status.json()),
        (200, json!({"state": "ready"}))
    );
    assert_eq!(status.headers["cache-control"], "no-store");
    assert_eq!(status.headers["x-content-type-options"], "nosniff");
    assert_eq!(
        status.headers["cross-origin-resource-policy"],
        "same-origin"
    );
}

#[test]
fn a_list_asks_with_what_the_query_says() {
    let served = serve();
    let path =
        "/api/v1/clips?source=cam0&label=vis%69tor&limit=20&since=-5&until=2026-11-23T00:00:00Z";
    let reply = served.get(path);
    assert_eq!((reply.status, reply.json()), (200, json!({"done": true})));
    let args = json!({"source": "cam0", "label": "visitor", "limit": 20, "since": -5, "until": "2026-11-23T00:00:00Z"});
    assert_eq!(served.fake.last(), ("clip_list".to_owned(), args));
    let twice = served.get("/api/v1/clips?limit=1&limit=2");
    assert_eq!((twice.status, twice.code().as_str()), (400, "bad_args"));
}

#[test]
fn a_clip_is_accepted_and_one_that_is_waited_for_is_there() {
    let served = serve();
    for (body, status, args) in [
        ("", 202, json!({})),
        (
            r#"{"last_s": 30, "source": "cam0"}"#,
            202,
            json!({"last_s": 30, "source": "cam0"}),
        ),
        (r#"{"wait": true}"#, 200, json!({"wait": true})),
        (r#"{"wait": false}"#, 202, json!({"wait": false})),
    ] {
        let reply = served.ask("POST", "/api/v1/clips", &[JSON], body);
        assert_eq!(reply.status, status, "{body}");
        assert_eq!(served.fake.last(), ("clip".to_owned(), args));
    }
    for body in ["[]", "{", "7", "\"x\""] {
        let reply = served.ask("POST", "/api/v1/clips", &[JSON], body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "bad_args"),
            "{body}"
        );
    }
    assert_eq!(
        served.fake.asked.lock().unwrap().len(),
        4,
        "none of these was carried out"
    );
}

#[test]
fn a_clip_is_pinned_unpinned_and_deleted_by_its_id() {
    let served = serve();
    let id = "0192-abc";
    for (method, path, verb) in [
        ("POST", format!("/api/v1/clips/{id}/pin"), "clip_pin"),
        ("POST", format!("/api/v1/clips/{id}/unpin"), "clip_unpin"),
        ("DELETE", format!("/api/v1/clips/{id}"), "clip_delete"),
    ] {
        assert_eq!(served.ask(method, &path, &[], "").status, 200, "{path}");
        assert_eq!(served.fake.last(), (verb.to_owned(), json!({"clip": id})));
    }
    let other = served.ask("POST", &format!("/api/v1/clips/{id}/shred"), &[], "");
    assert_eq!((other.status, other.code().as_str()), (404, "not_found"));
}

#[test]
fn the_code_of_an_error_decides_the_status() {
    let served = serve();
    for (code, status) in [
        ("bad_args", 400),
        ("not_allowed", 403),
        ("unknown_clip", 404),
        ("unknown_source", 404),
        ("no_ring", 409),
        ("pinned", 409),
        ("unknown_verb", 400),
        ("clip_failed", 500),
        ("failed", 500),
        ("whatever_comes", 500),
        ("busy", 503),
        ("stopping", 503),
        ("timeout", 504),
    ] {
        *served.fake.answer.lock().unwrap() = Err(ApiError::new(code, "why"));
        let reply = served.ask("POST", "/api/v1/clips", &[JSON], "{}");
        assert_eq!(
            reply.json(),
            json!({"error": {"code": code, "message": "why"}})
        );
        assert_eq!(reply.status, status, "{code}");
        assert_eq!(reply.headers.contains_key("retry-after"), code == "busy");
    }
}

#[test]
fn what_is_not_there_is_said_in_the_same_form() {
    let served = serve();
    for path in [
        "/",
        "/api",
        "/api/v1/",
        "/api/v1/status/",
        "/api/v2/status",
        "/api/v1/clips/x.avi",
    ] {
        let reply = served.get(path);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
    for (method, path) in [
        ("POST", "/api/v1/status"),
        ("PUT", "/api/v1/clips"),
        ("GET", "/api/v1/clips/x/pin"),
        ("DELETE", "/metrics"),
    ] {
        let reply = served.ask(method, path, &[], "");
        assert_eq!(reply.status, 405, "{method} {path}");
        assert_eq!(reply.code(), "method_not_allowed");
        assert!(
            reply.headers.contains_key("allow"),
            "{method} {path}: {reply:?}"
        );
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let served = serve();
    let one = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", served.at);
    let last = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        served.at
    );
    let answer = client::raw(served.at, format!("{one}{one}{last}").as_bytes());
    let text = String::from_utf8(answer).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
}

/// A file of `bytes` as clip `id`, with a still beside it.
fn with_clip(served: &client::Served, dir: &std::path::Path, id: &str, bytes: &[u8]) {
    let mp4 = dir.join("120000Z_yard_visitor.mp4");
    std::fs::write(&mp4, bytes).unwrap();
    std::fs::write(mp4.with_extension("jpg"), b"\xff\xd8still").unwrap();
    served.fake.files.lock().unwrap().insert(id.to_owned(), mp4);
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * i / 7) % 251).unwrap())
        .collect()
}

#[test]
fn a_clip_comes_byte_for_byte_in_whole_and_by_range() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    // Several pieces, the last one short.
    let bytes = pattern(300_001);
    with_clip(&served, dir.path(), "a1", &bytes);
    let get = |headers: &[&str]| served.ask("GET", "/api/v1/clips/a1.mp4", headers, "");
    let whole = get(&[]);
    assert_eq!(whole.status, 200);
    assert_eq!(whole.headers["content-type"], "video/mp4");
    assert_eq!(whole.headers["accept-ranges"], "bytes");
    assert_eq!(whole.headers["content-length"], "300001");
    assert!(whole.body == bytes, "the bytes of the file");
    for (range, from, to) in [
        ("0-0", 0, 1),
        ("0-65535", 0, 65_536),
        ("65530-131080", 65_530, 131_081),
        ("300000-", 300_000, 300_001),
        ("-100000", 200_001, 300_001),
        ("299999-999999999", 299_999, 300_001),
    ] {
        let part = get(&[&format!("Range: bytes={range}")]);
        assert_eq!(part.status, 206, "{range}");
        let expected = format!("bytes {from}-{}/300001", to - 1);
        assert_eq!(part.headers["content-range"], expected);
        assert!(part.body == bytes[from..to], "{range}");
    }
    let beyond = get(&["Range: bytes=300001-"]);
    assert_eq!((beyond.status, beyond.code().as_str()), (416, "bad_range"));
    assert_eq!(beyond.headers["content-range"], "bytes */300001");
}

#[test]
fn a_client_that_has_the_clip_is_told_so() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    with_clip(&served, dir.path(), "a1", b"old");
    let get = |header: &str| served.ask("GET", "/api/v1/clips/a1.mp4", &[header], "");
    let first = get("X: y");
    let tag = first.headers["etag"].clone();
    let date = first.headers["last-modified"].clone();
    let known = get(&format!("If-None-Match: {tag}"));
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(get(&format!("If-Modified-Since: {date}")).status, 304);
    with_clip(&served, dir.path(), "a1", b"something else");
    let changed = get(&format!("If-None-Match: {tag}"));
    assert_eq!(
        (changed.status, changed.body.as_slice()),
        (200, &b"something else"[..])
    );
}

#[test]
fn head_says_what_get_would_send() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    with_clip(&served, dir.path(), "a1", &pattern(1000));
    let head = served.ask("HEAD", "/api/v1/clips/a1.mp4", &[], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], "1000");
    let saved = served.ask("HEAD", "/api/v1/clips/a1.mp4?download", &[], "");
    assert_eq!(
        saved.headers["content-disposition"],
        "attachment; filename=\"a1.mp4\""
    );
}

#[test]
fn the_still_lies_beside_the_clip() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    with_clip(&served, dir.path(), "a1", b"x");
    let still = served.get("/api/v1/clips/a1.jpg");
    assert_eq!(still.headers["content-type"], "image/jpeg");
    assert_eq!(
        (still.status, still.body.as_slice()),
        (200, &b"\xff\xd8still"[..])
    );
    std::fs::remove_file(dir.path().join("120000Z_yard_visitor.jpg")).unwrap();
    assert_eq!(gone(&served.get("/api/v1/clips/a1.jpg")), "unknown_clip");
    assert_eq!(gone(&served.get("/api/v1/clips/b2.mp4")), "unknown_clip");
}

#[test]
fn what_a_browser_plays_is_the_copy_or_the_clip_itself_if_it_is_h264() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    with_clip(&served, dir.path(), "a1", b"mjpeg");
    let path = "/api/v1/clips/a1.mp4?playable";
    let none_yet = served.get(path);
    assert_eq!(gone(&none_yet), "not_playable");
    let message = none_yet.json()["error"]["message"].to_string();
    assert!(message.contains("clip.deliver"), "{message}");
    served.fake.h264.lock().unwrap().push("a1".to_owned());
    assert_eq!(served.get(path).body, b"mjpeg", "it says that it is H.264");
    served.fake.h264.lock().unwrap().clear();
    let copy = dir.path().join("120000Z_yard_visitor.h264.mp4");
    std::fs::write(copy, b"the copy").unwrap();
    let played = served.get(path);
    assert_eq!(
        (played.status, played.body.as_slice()),
        (200, &b"the copy"[..])
    );
    assert_eq!(played.headers["content-type"], "video/mp4");
    let clip = served.get("/api/v1/clips/a1.mp4");
    assert_eq!(clip.body, b"mjpeg", "the clip itself is still there");
    assert_ne!(clip.headers["etag"], played.headers["etag"]);
    assert_eq!(
        gone(&served.get("/api/v1/clips/b2.mp4?playable")),
        "unknown_clip"
    );
}

fn gone(reply: &Reply) -> String {
    assert_eq!(reply.status, 404);
    reply.code()
}

#[test]
fn a_name_that_leads_elsewhere_leads_nowhere() {
    let (served, dir) = (serve(), tempfile::tempdir().unwrap());
    with_clip(&served, dir.path(), "a1", b"x");
    for name in [
        "..%2F..%2Fetc%2Fpasswd.mp4",
        "%2Fetc%2Fpasswd.jpg",
        "a1%00.mp4",
        "a1%0d%0aX:%20y.mp4",
        ".mp4",
        "..mp4",
        "%2e%2e.jpg",
        "a1.mp4.mp4",
        "%ff%fe.mp4",
        &format!("{}.mp4", "a".repeat(65)),
    ] {
        let reply = served.get(&format!("/api/v1/clips/{name}"));
        assert!(
            [400, 404].contains(&reply.status),
            "{name}: {}",
            reply.status
        );
    }
    for path in [
        "/api/v1/clips/../../etc/passwd",
        "/../etc/passwd",
        "//etc/passwd",
    ] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
    let asked = served.fake.asked.lock().unwrap();
    assert_eq!(asked.iter().map(|(verb, _)| verb).next(), None::<&String>);
    let deleted: Value = served.ask("DELETE", "/api/v1/clips/a1.mp4", &[], "").json();
    assert_eq!(deleted["error"]["code"], "unknown_clip", "an id has no dot");
}
