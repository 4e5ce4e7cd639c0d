//! Who may ask, and what clients can do to others: nothing.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod client;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use client::{GUARD, Reply, connect, raw, serve, serve_with};
use visualpath_web::{Limits, StartError, Stopped, WebOptions, WebServer};

const JSON: &str = "Content-Type: application/json";
const TOKEN: &str = "correct-horse-battery";

/// Short enough to see them pass.
fn impatient() -> Limits {
    Limits {
        head_time: Duration::from_millis(300),
        body_time: Duration::from_millis(300),
        idle_time: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[test]
fn without_a_token_only_this_machine_is_listened_to() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let options = WebOptions::new(listen.parse().unwrap());
        let refused = WebServer::start(options, std::sync::Arc::new(client::Fake::default()));
        assert!(matches!(refused, Err(StartError::NoToken(_))), "{listen}");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let served = serve();
    let options = WebOptions::new(served.at);
    let refused = WebServer::start(options, std::sync::Arc::new(client::Fake::default()));
    let Err(StartError::Listen { listen, .. }) = refused else {
        panic!("two servers on one address");
    };
    assert_eq!(listen, served.at);
}

#[test]
fn with_a_token_every_route_but_the_probes_needs_it() {
    let served = serve_with(Some(TOKEN), Limits::default());
    assert_eq!(served.get("/healthz").status, 200);
    assert_eq!(served.get("/readyz").status, 200);
    let right = format!("Authorization: Bearer {TOKEN}");
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/clips"),
        ("POST", "/api/v1/clips"),
        ("DELETE", "/api/v1/clips/a"),
        ("GET", "/api/v1/clips/a.mp4"),
        ("GET", "/nothing"),
    ] {
        for wrong in [
            "X: y",
            "Authorization: Bearer",
            "Authorization: Bearer ",
            "Authorization: Bearer correct-horse-batterx",
            "Authorization: Bearer correct-horse-batter",
            "Authorization: Bearer correct-horse-batteryy",
            "Authorization: Basic correct-horse-battery",
            "Authorization: correct-horse-battery",
            "Cookie: token=correct-horse-battery",
        ] {
            let reply = served.ask(method, path, &[wrong], "");
            assert_eq!(reply.status, 401, "{method} {path} {wrong}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert_eq!(reply.code(), "unauthorized");
        }
        let reply = served.ask(method, path, &[&right, "Host: camera.lan"], "");
        assert_ne!(reply.status, 401, "{method} {path}");
    }
    assert_eq!(
        served.fake.asked.lock().unwrap().len(),
        3,
        "list, make, delete; once each"
    );
}

#[test]
fn a_page_whose_name_resolves_to_this_machine_gets_nothing() {
    let served = serve();
    let port = served.at.port();
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "[fe80::1]",
        "192.168.1.5",
    ] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            let reply = served.ask("GET", "/api/v1/status", &[&format!("Host: {host}")], "");
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (403, "bad_host"),
                "{host}"
            );
        }
    }
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let reply = served.ask(
            "GET",
            "/api/v1/status",
            &[&format!("Host: {host}:{port}")],
            "",
        );
        assert_eq!(reply.status, 200, "{host}");
    }
    let none = raw(served.at, b"GET /api/v1/status HTTP/1.0\r\n\r\n");
    assert_eq!(Reply::parse(&none).status, 400);
    let two = served.ask(
        "GET",
        "/api/v1/status",
        &["Host: localhost", "Host: evil.example"],
        "",
    );
    assert_eq!(two.status, 400);
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let served = serve();
    let port = served.at.port();
    let host = format!("Host: localhost:{port}");
    for (method, path, body) in [
        ("POST", "/api/v1/clips", "{}"),
        ("POST", "/api/v1/clips", ""),
        ("POST", "/api/v1/clips/a/pin", ""),
        ("DELETE", "/api/v1/clips/a", ""),
    ] {
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost",
            "http://localhost:1",
        ] {
            let origin = format!("Origin: {origin}");
            let reply = served.ask(method, path, &[&host, JSON, &origin], body);
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (403, "bad_origin"),
                "{origin}"
            );
        }
    }
    // What a form of any page can send without an Origin that is checked.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let kind = format!("Content-Type: {kind}");
        let reply = served.ask("POST", "/api/v1/clips", &[&host, &kind], "{}");
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (415, "bad_content_type")
        );
    }
    let reply = served.ask("POST", "/api/v1/clips", &[&host], "{}");
    assert_eq!(reply.status, 415, "no type is not JSON");
    assert!(
        served.fake.asked.lock().unwrap().is_empty(),
        "none was carried out"
    );
    let own = format!("Origin: http://localhost:{port}");
    let kind = "Content-Type: application/json; charset=utf-8";
    let reply = served.ask("POST", "/api/v1/clips", &[&host, kind, &own], "{}");
    assert_eq!(reply.status, 202, "the appliance's own page may");
}

#[test]
fn what_is_too_large_is_refused() {
    let served = serve();
    let host = served.at;
    let huge = format!(
        "GET /healthz HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n\r\n",
        "y".repeat(64 << 10)
    );
    assert_eq!(Reply::parse(&raw(host, huge.as_bytes())).status, 431);
    let mut many = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n");
    (0..200).for_each(|i| many += &format!("X{i}: y\r\n"));
    assert_eq!(
        Reply::parse(&raw(host, format!("{many}\r\n").as_bytes())).status,
        431
    );
    let path = format!(
        "GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "a".repeat(64 << 10)
    );
    assert!([414, 431].contains(&Reply::parse(&raw(host, path.as_bytes())).status));
    let body = format!("{{\"label\": \"{}\"}}", "x".repeat(17 << 10));
    let reply = served.ask("POST", "/api/v1/clips", &[JSON], &body);
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
    // Without a length in front.
    let mut chunked = format!(
        "POST /api/v1/clips HTTP/1.1\r\nHost: {host}\r\n{JSON}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for _ in 0..20 {
        chunked += &format!("400\r\n{}\r\n", "x".repeat(1024));
    }
    assert_eq!(
        Reply::parse(&raw(host, format!("{chunked}0\r\n\r\n").as_bytes())).status,
        413
    );
    assert!(served.fake.asked.lock().unwrap().is_empty());
    assert_eq!(served.get("/healthz").status, 200);
}

#[test]
fn what_is_no_http_is_refused_and_the_server_goes_on() {
    let served = serve();
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\x00\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/clips HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /api/v1/clips HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\x00: c\r\n\r\n",
    ] {
        let mut stream = connect(served.at);
        stream.write_all(junk).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = vec![];
        // Answered or closed, never carried out.
        if stream.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
            assert_eq!(Reply::parse(&answer).status, 400, "{junk:?}");
        }
    }
    assert!(served.fake.asked.lock().unwrap().is_empty());
    assert_eq!(served.get("/healthz").status, 200);
}

#[test]
fn who_sends_a_head_or_a_body_byte_by_byte_is_let_go() {
    let served = serve_with(None, impatient());
    let mut head = connect(served.at);
    head.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .unwrap();
    let mut rest = vec![];
    // It ends, however slowly this goes on.
    head.read_to_end(&mut rest).unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    let mut body = connect(served.at);
    let text = format!(
        "POST /api/v1/clips HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 10\r\n\r\n{{"
    );
    body.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![];
    body.read_to_end(&mut answer).unwrap();
    let reply = Reply::parse(&answer);
    assert_eq!((reply.status, reply.code().as_str()), (408, "too_slow"));
    let mut idle = connect(served.at);
    assert_eq!(
        idle.read_to_end(&mut vec![]).unwrap(),
        0,
        "a silent one is closed"
    );
}

#[test]
fn more_connections_than_there_may_be_wait_until_others_have_gone() {
    let limits = Limits {
        connections: 2,
        head_time: GUARD,
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    let silent = [connect(served.at), connect(served.at)];
    // Both have been let in: the answer to a part of a head is none, but to a whole one it is.
    let mut third = connect(served.at);
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    third.write_all(request).unwrap();
    third
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(third.read(&mut [0]).is_err(), "there is no place for it");
    drop(silent);
    third.set_read_timeout(Some(GUARD)).unwrap();
    let mut answer = vec![];
    third.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::parse(&answer).status, 200, "now there is");
}

#[test]
fn a_thousand_connections_leave_it_working() {
    let limits = Limits {
        head_time: Duration::from_millis(500),
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    for _ in 0..5 {
        let crowd: Vec<_> = (0..200).map(|_| connect(served.at)).collect();
        // Some leave, some stay until they are let go.
        drop(crowd.into_iter().skip(50).collect::<Vec<_>>());
    }
    assert_eq!(served.get("/api/v1/status").status, 200);
}

#[test]
fn who_reads_slowly_is_let_go_and_keeps_nobody_waiting() {
    let served = serve_with(None, impatient());
    let dir = tempfile::tempdir().unwrap();
    let mp4 = dir.path().join("a.mp4");
    // More than both sockets' buffers take.
    std::fs::write(&mp4, vec![7; 32 << 20]).unwrap();
    served
        .fake
        .files
        .lock()
        .unwrap()
        .insert("a1".to_owned(), mp4);
    let mut slow = connect(served.at);
    let ask = b"GET /api/v1/clips/a1.mp4 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    slow.write_all(ask).unwrap();
    slow.read_exact(&mut [0; 1024]).unwrap();
    let whole = served.get("/api/v1/clips/a1.mp4");
    assert_eq!(whole.body.len(), 32 << 20, "another reads it meanwhile");
    // It was given up: what comes now ends before all is there.
    std::thread::sleep(Duration::from_secs(1));
    let mut rest = vec![];
    let cut_off = slow.read_to_end(&mut rest).is_err() || rest.len() < 32 << 20;
    assert!(cut_off, "{} bytes", rest.len());
}

#[test]
fn a_last_answer_that_never_ends_keeps_its_connection_no_longer_than_it_may() {
    let limits = Limits {
        keep_time: Duration::from_millis(100),
        last_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    let (entered, _go) = served.fake.slow_status();
    let mut stream = connect(served.at);
    stream
        .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    entered.recv_timeout(GUARD).unwrap();
    // It ends, although the call goes on.
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap_or_default();
    assert_eq!(answer, b"");
    assert_eq!(served.get("/healthz").status, 200);
}

#[test]
fn a_last_answer_may_take_longer_than_its_connection_is_kept() {
    let limits = Limits {
        keep_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    let (entered, go) = served.fake.slow_status();
    let at = served.at;
    let client = std::thread::spawn(move || {
        let request = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
        Reply::parse(&raw(at, request)).status
    });
    entered.recv_timeout(GUARD).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    go.send(()).unwrap();
    assert_eq!(client.join().unwrap(), 200);
}

#[test]
fn an_appliance_that_hangs_is_busy_and_its_probes_answer_still() {
    let limits = Limits {
        calls: 2,
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    let (entered, go) = served.fake.slow_status();
    let at = served.at;
    let ask = move || {
        let request =
            b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        Reply::parse(&raw(at, request)).status
    };
    let first = std::thread::spawn(ask);
    entered.recv_timeout(GUARD).unwrap();
    // The second waits inside for the first: both places are taken, whether it has entered or not.
    let mut second = connect(at);
    second
        .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    entered.recv_timeout(GUARD).unwrap();
    let third = served.get("/metrics");
    assert_eq!((third.status, third.code().as_str()), (503, "busy"));
    assert_eq!(served.get("/healthz").status, 200);
    assert_eq!(served.get("/readyz").status, 200);
    // A client that goes away does not make room for another call: its thread is still at it.
    drop(second);
    assert_eq!(served.get("/metrics").status, 503);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(first.join().unwrap(), 200);
}

#[test]
fn who_waits_for_a_clip_takes_no_place_of_those_who_do_not() {
    let limits = Limits {
        waits: 0,
        ..Limits::default()
    };
    let served = serve_with(None, limits);
    let post = |body| served.ask("POST", "/api/v1/clips", &[JSON], body).status;
    assert_eq!(post(r#"{"wait": true}"#), 503);
    assert_eq!(post(r#"{"wait": false}"#), 202);
    assert_eq!(served.get("/metrics").status, 200);
}

#[test]
fn a_stop_lets_answers_end_and_waits_no_longer_than_it_may() {
    let mut served = serve();
    let (entered, go) = served.fake.slow_status();
    let at = served.at;
    let client = std::thread::spawn(move || {
        let request = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
        Reply::parse(&raw(at, request)).status
    });
    entered.recv_timeout(GUARD).unwrap();
    let server = served.server.take().unwrap();
    let stop = std::thread::spawn(move || server.stop(GUARD));
    // Nobody new is let in.
    let patience = Instant::now() + GUARD;
    while std::net::TcpStream::connect(at).is_ok() {
        assert!(Instant::now() < patience, "it still listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    go.send(()).unwrap();
    assert_eq!(
        client.join().unwrap(),
        200,
        "what was under way was answered"
    );
    assert_eq!(stop.join().unwrap(), Stopped::Clean);

    let mut served = serve();
    let (entered, _go) = served.fake.slow_status();
    let mut stream = connect(served.at);
    stream
        .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    entered.recv_timeout(GUARD).unwrap();
    let stopped = served
        .server
        .take()
        .unwrap()
        .stop(Duration::from_millis(50));
    assert_eq!(stopped, Stopped::Late);
}
