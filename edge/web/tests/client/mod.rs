//! A client that says exactly what it is told, and an appliance that notes what it was asked.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};
use visualpath_web::{Answer, Api, Limits, Readiness, Token, WebOptions, WebServer};

/// No test waits longer for an answer.
pub const GUARD: Duration = Duration::from_secs(60);

/// A scripted appliance.
pub struct Fake {
    pub alive: Mutex<Result<(), String>>,
    pub readiness: Mutex<Readiness>,
    pub asked: Mutex<Vec<(String, Map<String, Value>)>>,
    pub answer: Mutex<Answer>,
    pub files: Mutex<BTreeMap<String, PathBuf>>,
    pub h264: Mutex<Vec<String>>,
    /// The command `slow` waits until something comes.
    go: Mutex<Option<Receiver<()>>>,
    entered: Mutex<Option<Sender<()>>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            alive: Mutex::new(Ok(())),
            readiness: Mutex::new(Readiness::Ready),
            asked: Mutex::default(),
            answer: Mutex::new(Ok(json!({"done": true}))),
            files: Mutex::default(),
            h264: Mutex::default(),
            go: Mutex::default(),
            entered: Mutex::default(),
        }
    }
}

impl Fake {
    /// From now on `status` waits: the first says that a call has begun, the second lets one end.
    pub fn slow_status(&self) -> (Receiver<()>, Sender<()>) {
        let (entered, has_entered) = channel();
        let (go, may_go) = channel();
        *self.entered.lock().unwrap() = Some(entered);
        *self.go.lock().unwrap() = Some(may_go);
        (has_entered, go)
    }

    pub fn last(&self) -> (String, Value) {
        let asked = self.asked.lock().unwrap();
        let (verb, args) = asked.last().expect("a command").clone();
        (verb, Value::Object(args))
    }
}

impl Api for Fake {
    fn is_alive(&self) -> Result<(), String> {
        self.alive.lock().unwrap().clone()
    }

    fn readiness(&self) -> Readiness {
        *self.readiness.lock().unwrap()
    }

    fn status(&self) -> Value {
        let entered = self.entered.lock().unwrap().clone();
        if let Some(entered) = entered {
            // The test may have seen enough.
            entered.send(()).unwrap_or_default();
            let go = self.go.lock().unwrap();
            // It ends when something comes, or the test is over.
            go.as_ref().unwrap().recv_timeout(GUARD).unwrap_or_default();
        }
        json!({"state": "ready"})
    }

    fn metrics(&self) -> String {
        "# TYPE a counter\na 1\n".to_owned()
    }

    fn command(&self, verb: &str, args: Map<String, Value>) -> Answer {
        self.asked.lock().unwrap().push((verb.to_owned(), args));
        self.answer.lock().unwrap().clone()
    }

    fn is_h264(&self, id: &str) -> bool {
        self.h264.lock().unwrap().iter().any(|known| known == id)
    }

    fn clip_file(&self, id: &str) -> Option<PathBuf> {
        self.files.lock().unwrap().get(id).cloned()
    }
}

/// A server over a fake appliance.
pub struct Served {
    pub fake: Arc<Fake>,
    pub server: Option<WebServer>,
    pub at: SocketAddr,
}

pub fn serve() -> Served {
    serve_with(None, Limits::default())
}

pub fn serve_with(token: Option<&str>, limits: Limits) -> Served {
    let fake = Arc::new(Fake::default());
    let options = WebOptions {
        token: token.map(|t| Token::new(t).unwrap()),
        limits,
        ..WebOptions::new("127.0.0.1:0".parse().unwrap())
    };
    let server = WebServer::start(options, Arc::clone(&fake) as Arc<dyn Api>).unwrap();
    Served {
        at: server.local_addr(),
        fake,
        server: Some(server),
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self {
            status: status.parse().unwrap(),
            headers,
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of a refusal, which always has this one form.
    pub fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.set_write_timeout(Some(GUARD)).unwrap();
    stream
}

/// Sends these bytes and reads to the end.
pub fn raw(at: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(at);
    // A server that refuses early may close before all was sent.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    assert!(
        !answer.is_empty() || read.is_ok(),
        "sent: {sent:?}, read: {read:?}"
    );
    answer
}

impl Served {
    /// One request on a connection of its own, with `Host` and what is in `headers`.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|h| h.starts_with("Host:")) {
            text += &format!("Host: {}\r\n", self.at);
        }
        for header in headers {
            text += header;
            text += "\r\n";
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body;
        Reply::parse(&raw(self.at, text.as_bytes()))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }
}
