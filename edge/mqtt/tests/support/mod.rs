//! Real brokers, a subscriber that shares no code with the client under test, and a gate between
//! publisher and broker.
#![allow(
    clippy::unwrap_used,
    reason = "test helpers: clippy's allow-unwrap-in-tests covers test functions only"
)]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use visualpath_core::{MonotonicClock, Name};
use visualpath_mqtt::payload::{ClockQuality, Latency, TriggerContext};
use visualpath_mqtt::{
    ClipBody, MqttOptions, Publisher, PublisherHandle, Topics, TriggerBody, parse_url,
};

/// Nothing here takes that long; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls a condition; the poll interval is no part of what is tested.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A child process that ends (SIGKILL) with its owner.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

// ---- broker

/// A mosquitto of this test's own; killed when dropped.
pub struct Mosquitto {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Killed>,
}

impl Mosquitto {
    pub fn start() -> Self {
        let mut m = Self {
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            child: None,
        };
        m.launch();
        m
    }

    /// Starts it again on the same port. It keeps nothing over a restart.
    pub fn launch(&mut self) {
        assert!(self.child.is_none());
        let config = self.dir.path().join("mosquitto.conf");
        // Without a limit of messages in flight to a subscriber, mosquitto writes a message to its
        // subscribers' sockets before it acknowledges it: what a PUBACK promises, the subscriber
        // of the test can see.
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             max_inflight_messages 0\nmax_queued_messages 0\nuser {}\n",
            self.port,
            std::env::var("USER").unwrap_or_else(|_| "root".into()),
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let binary = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .map(PathBuf::from)
            .into_iter()
            .find(|p| p.exists())
            .unwrap_or_else(|| "mosquitto".into());
        let child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto is not installed: run cross/setup.sh first");
        self.child = Some(Killed(child));
        let port = self.port;
        eventually("mosquitto listens", || {
            let ended = self.child.as_mut().unwrap().0.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto ended: {}", self.log());
            TcpStream::connect(local(port)).is_ok()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().0.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }
}

// ---- subscriber

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// MQTT 3.1.1, the few packets a subscriber needs.
pub struct Subscriber {
    stream: TcpStream,
    messages: Receiver<Message>,
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&u16::try_from(s.len()).unwrap().to_be_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap();
        left /= 128;
        out.push(if left > 0 { low | 128 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn read_packet(stream: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let (mut len, mut shift) = (0_usize, 0);
    loop {
        stream.read_exact(&mut byte)?;
        len |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}

impl Subscriber {
    /// Subscribed with QoS 1 when this returns.
    pub fn new(port: u16, filter: &str) -> Self {
        Self::with_qos(port, filter, 1)
    }

    /// Subscribed with QoS 0, for a broker that will be killed. With QoS 1, 3 of 4 runs of 1000
    /// kills missed a few messages, with QoS 0 none of 4, the publisher being the same. Probably
    /// our PUBACKs, unread in the dying broker's socket, make the kernel close it with a reset and
    /// throw away what the broker had written to us; unprovoked it sends that, then a FIN.
    pub fn silent(port: u16, filter: &str) -> Self {
        Self::with_qos(port, filter, 0)
    }

    fn with_qos(port: u16, filter: &str, qos: u8) -> Self {
        let mut stream = TcpStream::connect(local(port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connect = Vec::new();
        text(&mut connect, "MQTT");
        connect.extend([4, 2, 2, 88]); // level, clean session, keep alive 600 s
        text(&mut connect, &format!("sub-{}", uuid::Uuid::now_v7()));
        stream.write_all(&packet(0x10, &connect)).unwrap();
        let (kind, body) = read_packet(&mut stream).unwrap();
        assert_eq!((kind, body), (0x20, vec![0, 0]), "CONNACK");
        let mut subscribe = vec![0, 1];
        text(&mut subscribe, filter);
        subscribe.push(qos);
        stream.write_all(&packet(0x82, &subscribe)).unwrap();

        let (sender, messages) = channel();
        let (subscribed, ready) = channel();
        let reader = stream.try_clone().unwrap();
        std::thread::spawn(move || read_all(reader, &sender, &subscribed));
        ready.recv_timeout(PATIENCE).expect("SUBACK");
        Self { stream, messages }
    }

    /// The next message.
    pub fn next(&self) -> Message {
        self.messages.recv_timeout(PATIENCE).expect("a message")
    }

    /// The next message if there is one within `wait`.
    pub fn next_within(&self, wait: Duration) -> Option<Message> {
        self.messages.recv_timeout(wait).ok()
    }

    /// Everything up to the end of a connection that the broker has ended.
    pub fn rest(&self) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            match self.messages.recv_timeout(PATIENCE) {
                Ok(m) => all.push(m),
                Err(RecvTimeoutError::Disconnected) => return all,
                Err(RecvTimeoutError::Timeout) => panic!("the broker's end is not seen"),
            }
        }
    }

    /// The next message on a topic that ends so.
    pub fn next_on(&self, end: &str) -> Message {
        loop {
            let m = self.next();
            if m.topic.ends_with(end) {
                return m;
            }
        }
    }

    /// Waits for a value on a topic that ends so.
    pub fn wait_for(&self, end: &str, value: &str) {
        while self.next_on(end).text() != value {}
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // The broker may be gone already.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

fn read_all(stream: TcpStream, messages: &Sender<Message>, subscribed: &Sender<()>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = std::io::BufReader::new(stream);
    while let Ok((first, body)) = read_packet(&mut reader) {
        match first >> 4 {
            9 => {
                assert!(body[2] <= 1, "the broker refused the subscription");
                if subscribed.send(()).is_err() {
                    return;
                }
            }
            3 => {
                let n = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8(body[2..2 + n].to_vec()).unwrap();
                let mut rest = 2 + n;
                if (first >> 1) & 3 == 1 {
                    drop(writer.write_all(&packet(0x40, &body[rest..rest + 2])));
                    rest += 2;
                }
                let message = Message {
                    topic,
                    payload: body[rest..].to_vec(),
                    retain: first & 1 == 1,
                };
                if messages.send(message).is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

// ---- gate

/// A TCP door between publisher and broker. Closed, it takes connections and drops them.
pub struct Gate {
    pub port: u16,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<VecDeque<TcpStream>>>,
}

impl Gate {
    /// A closed gate on `port` before the broker on `to`.
    pub fn new(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind(local(port)).unwrap();
        let open = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(VecDeque::new()));
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            open: Arc::clone(&open),
            streams: Arc::clone(&streams),
        };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(broker) = TcpStream::connect(local(to)) else {
                    continue;
                };
                for s in [&client, &broker] {
                    drop(s.set_nodelay(true));
                    streams.lock().unwrap().push_back(s.try_clone().unwrap());
                }
                pass(&client, &broker);
                pass(&broker, &client);
            }
        });
        gate
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        for s in self.streams.lock().unwrap().drain(..) {
            drop(s.shutdown(Shutdown::Both));
        }
    }
}

fn pass(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    });
}

// ---- publisher

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Options with short waits.
pub fn options(port: u16) -> MqttOptions {
    let url = parse_url(&format!("mqtt://127.0.0.1:{port}")).unwrap();
    let mut o = MqttOptions::new(url, Topics::new("visualpath", "dock-3").unwrap());
    o.keep_alive_s = 1;
    o.connect_timeout = Duration::from_secs(1);
    o.backoff_min = Duration::from_millis(10);
    o.backoff_max = Duration::from_millis(100);
    o
}

pub fn publisher(options: MqttOptions) -> PublisherHandle {
    Publisher::start(options, Arc::new(MonotonicClock::new())).unwrap()
}

pub fn trigger(n: u64) -> TriggerBody {
    let trigger = visualpath_core::Trigger {
        label: name("visitor"),
        kind: visualpath_core::TriggerKind::Point,
        phase: visualpath_core::Phase::Point,
        event: n,
        frame_id: n,
        t_ns: 0,
        fired_ns: 0,
        event_start_ns: 0,
        event_end_ns: 0,
        best_ns: None,
        t_start_ns: 0,
        t_end_ns: 0,
        score: 0.5,
        reason: "test".into(),
        observations_used: 1,
        signals: [("person.count", 1.0)].into_iter().collect(),
        objects: Vec::new(),
        clip: true,
        metadata: serde_json::Map::new(),
    };
    let (path, source) = (name("entrance"), name("cam0"));
    TriggerBody::new(
        &trigger,
        TriggerContext {
            device: "dock-3",
            boot_id: "boot",
            path: &path,
            source: &source,
            time: "2026-11-22T20:00:00Z".into(),
            clock: ClockQuality::default(),
            clip_id: Some(format!("clip-{n}")),
            trigger_id: None,
            models: &[],
            latency_ms: Latency::default(),
        },
    )
}

/// Gives one trigger and checks its number.
pub fn fire(publisher: &PublisherHandle, n: u64) {
    let payload = publisher.trigger(&name("entrance"), trigger(n)).unwrap();
    assert_eq!(payload.seq, n);
}

pub fn clip(publisher: &PublisherHandle, n: u64) {
    let body = ClipBody::of(&trigger(n)).failed("test");
    publisher
        .clip(&name("entrance"), &format!("clip-{n}"), body)
        .unwrap();
}

pub fn seq(message: &Message) -> u64 {
    message.json()["seq"].as_u64().unwrap()
}

/// Small and seeded: a failing run can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
