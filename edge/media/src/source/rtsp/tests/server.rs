//! A small RTSP server that does what it is told, right or wrong.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;

use super::clip::{Clip, Coding};

/// Ticks of the RTP clock between two pictures: 25 a second.
pub(super) const TICKS: u32 = 3600;

/// What the server does on one connection.
#[derive(Clone)]
pub(super) struct Script {
    /// User and password it wants (Basic).
    pub(super) auth: Option<(&'static str, &'static str)>,
    pub(super) describe: Describe,
    pub(super) acts: Vec<Act>,
}

#[derive(Clone)]
pub(super) enum Describe {
    Sdp(String),
    Status(u16),
    /// Bytes that may be anything; `None`: never answers.
    Raw(Option<Vec<u8>>),
}

/// What it does after PLAY.
#[derive(Clone)]
pub(super) enum Act {
    /// One RTP packet.
    Rtp(Vec<u8>),
    /// One RTCP packet.
    Rtcp(Vec<u8>),
    Close,
}

/// Makes RTP packets with one sequence number after the other.
pub(super) struct Rtp {
    seq: u16,
    pub(super) ticks: u32,
}

impl Rtp {
    pub(super) fn starting(seq: u16, ticks: u32) -> Self {
        Self { seq, ticks }
    }

    /// The packets of a picture; time goes on.
    pub(super) fn picture(&mut self, clip: &Clip, at: usize) -> Vec<Act> {
        let payloads = clip.payloads(at);
        let last = payloads.len() - 1;
        let acts = payloads
            .into_iter()
            .enumerate()
            .map(|(at, payload)| {
                let mark = u8::from(at == last) << 7;
                let mut packet = vec![0x80, mark | 96];
                packet.extend_from_slice(&self.seq.to_be_bytes());
                packet.extend_from_slice(&self.ticks.to_be_bytes());
                packet.extend_from_slice(&[0, 0, 0, 7]);
                packet.extend_from_slice(&payload);
                self.seq = self.seq.wrapping_add(1);
                Act::Rtp(packet)
            })
            .collect();
        self.ticks = self.ticks.wrapping_add(TICKS);
        acts
    }

    /// The packets of these pictures.
    pub(super) fn pictures(&mut self, clip: &Clip, range: std::ops::Range<usize>) -> Vec<Act> {
        range.flat_map(|at| self.picture(clip, at)).collect()
    }
}

impl Script {
    /// Plays these packets and stays connected.
    pub(super) fn playing(clip: &Clip, acts: Vec<Act>) -> Self {
        Self {
            auth: None,
            describe: Describe::Sdp(sdp(clip, true)),
            acts,
        }
    }

    pub(super) fn describing(describe: Describe) -> Self {
        Self {
            auth: None,
            describe,
            acts: Vec::new(),
        }
    }
}

/// A video track, and an audio track that nobody sets up.
pub(super) fn sdp(clip: &Clip, with_parameters: bool) -> String {
    let sets: Vec<String> = clip
        .parameter_sets()
        .iter()
        .map(|set| base64::engine::general_purpose::STANDARD.encode(set))
        .collect();
    let (name, parameters) = match clip.coding {
        Coding::H264 => (
            "H264",
            format!(
                "packetization-mode=1;sprop-parameter-sets={}",
                sets.join(",")
            ),
        ),
        Coding::H265 => (
            "H265",
            format!(
                "sprop-vps={};sprop-sps={};sprop-pps={}",
                sets[0], sets[1], sets[2]
            ),
        ),
    };
    let fmtp = if with_parameters {
        format!("a=fmtp:96 {parameters}\r\n")
    } else {
        String::new()
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=scripted\r\nt=0 0\r\na=control:*\r\n\
         m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=control:audio\r\n\
         m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n{fmtp}a=framerate:25\r\na=control:video\r\n"
    )
}

/// Listens on a port of its own until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    scripts: Vec<Script>,
    /// Connections that have asked for something.
    served: AtomicUsize,
    /// First lines of the requests.
    requests: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Server {
    /// Each connection gets the next script, the last one for ever.
    pub(super) fn start(scripts: Vec<Script>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), scripts)
    }

    pub(super) fn start_at(address: SocketAddr, scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            scripts,
            served: AtomicUsize::new(0),
            requests: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accept(&listener, &serving));
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(super) fn uri(&self) -> String {
        format!("rtsp://{}/live", self.address)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((socket, _)) = listener.accept() {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            // A client may go at any moment; what matters is seen on its side.
            drop(serve(&socket, &shared));
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Reads that wake up to look at the stop flag.
struct Patient<'a>(&'a TcpStream, &'a AtomicBool);

impl Read for Patient<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.1.load(Ordering::Relaxed) {
                        return Ok(0);
                    }
                }
                other => return other,
            }
        }
    }
}

struct Request {
    method: String,
    headers: HashMap<String, String>,
}

/// `None` at the end. Interleaved data of the client (RTCP) is passed over.
fn request(from: &mut impl BufRead, shared: &Shared) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let Some(first) = lines.first().cloned() else {
        return Ok(None);
    };
    shared.requests.lock().unwrap().push(first.clone());
    let headers = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let method = first.split(' ').next().unwrap_or_default().to_owned();
    Ok(Some(Request { method, headers }))
}

fn serve(mut socket: &TcpStream, shared: &Shared) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut reader = BufReader::new(Patient(socket, &shared.stop));
    let Some(mut request_now) = request(&mut reader, shared)? else {
        return Ok(());
    };
    let turn = shared.served.fetch_add(1, Ordering::Relaxed);
    let script = &shared.scripts[turn.min(shared.scripts.len() - 1)];
    let mut udp = None;
    loop {
        let cseq = request_now.headers.get("cseq").cloned().unwrap_or_default();
        let answer = |status: &str, more: &str, body: &str| {
            let length = if body.is_empty() {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            format!("RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{more}{length}\r\n{body}")
        };
        let text = if !authorised(script, &request_now) {
            answer(
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"camera\"\r\n",
                "",
            )
        } else {
            match (&*request_now.method, &script.describe) {
                ("DESCRIBE", Describe::Sdp(sdp)) => {
                    answer("200 OK", "Content-Type: application/sdp\r\n", sdp)
                }
                ("DESCRIBE", Describe::Status(status)) => answer(&format!("{status} No"), "", ""),
                ("DESCRIBE", Describe::Raw(bytes)) => {
                    socket.write_all(bytes.as_deref().unwrap_or_default())?;
                    String::new()
                }
                ("SETUP", _) => {
                    let (transport, sockets) = setup(&request_now, socket)?;
                    udp = sockets;
                    answer(
                        "200 OK",
                        &format!("Session: 7;timeout=60\r\nTransport: {transport}\r\n"),
                        "",
                    )
                }
                ("PLAY", _) => answer("200 OK", "Session: 7\r\n", ""),
                ("OPTIONS", _) => answer("200 OK", "Public: OPTIONS, GET_PARAMETER\r\n", ""),
                _ => answer("200 OK", "", ""),
            }
        };
        socket.write_all(text.as_bytes())?;
        if request_now.method == "PLAY" {
            for act in &script.acts {
                match (act, &udp) {
                    (Act::Close, _) => return Ok(()),
                    (Act::Rtp(packet), Some(rtp)) => drop(rtp.send(packet)?),
                    (Act::Rtcp(_), Some(_)) => {}
                    (Act::Rtp(packet), None) => interleaved(socket, 0, packet)?,
                    (Act::Rtcp(packet), None) => interleaved(socket, 1, packet)?,
                }
            }
        }
        match request(&mut reader, shared)? {
            Some(next) => request_now = next,
            None => return Ok(()),
        }
    }
}

fn authorised(script: &Script, request: &Request) -> bool {
    let Some((user, password)) = script.auth else {
        return true;
    };
    let wanted = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    request.headers.get("authorization") == Some(&format!("Basic {wanted}"))
}

fn setup(request: &Request, socket: &TcpStream) -> io::Result<(String, Option<UdpSocket>)> {
    let asked = &request.headers["transport"];
    let Some((_, ports)) = asked.split_once("client_port=") else {
        return Ok(("RTP/AVP/TCP;unicast;interleaved=0-1".to_owned(), None));
    };
    let ports = ports.split(';').next().unwrap_or_default();
    let port: u16 = ports.split('-').next().unwrap_or_default().parse().unwrap();
    let rtp = UdpSocket::bind("127.0.0.1:0")?;
    rtp.connect((socket.peer_addr()?.ip(), port))?;
    let ours = rtp.local_addr()?.port();
    let transport = format!(
        "RTP/AVP;unicast;client_port={ports};server_port={ours}-{}",
        ours.wrapping_add(1)
    );
    Ok((transport, Some(rtp)))
}

/// RFC 2326, 10.12.
fn interleaved(mut socket: &TcpStream, channel: u8, packet: &[u8]) -> io::Result<()> {
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    socket.write_all(&[&[b'$', channel], length.as_slice(), packet].concat())
}
