//! A USB camera without hardware: a UVC device that speaks USB/IP.
//!
//! The guest's vhci-hcd takes a TCP connection for a USB port, so what is behind it is a device to
//! the kernel's own uvcvideo driver: it is enumerated, negotiated with, streamed from and unplugged
//! as a real one. (The kernel's own gadget, usb_f_uvc over dummy_hcd, is no way: it streams over
//! isochronous endpoints only, and dummy_hcd has none.)
//!
//! ```text
//! guest: uvcvideo ─ vhci-hcd ─ TCP ─▶ UsbCamera: control requests on endpoint 0, JPEGs on bulk 1
//! ```
//!
//! Every connection is a camera that was just plugged in; closing it unplugs it. Each JPEG it sends
//! carries its number and a checksum in a comment segment, so that who gets it knows what is
//! missing and whether it is whole.
//!
//! Sources: USB/IP protocol (Documentation/usb/usbip_protocol.rst); USB Device Class Definition for
//! Video Devices 1.1, 2.4 (payload headers), 3 (descriptors), 4 (requests).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the camera sends.
#[derive(Clone)]
pub struct Pictures {
    /// JPEGs, sent over and over, all of one size.
    pub jpegs: Vec<Vec<u8>>,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// Pictures a second.
    pub fps: u32,
}

/// A camera that waits to be plugged in.
pub struct UsbCamera {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    /// Pictures begun since it was made, over all connections.
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl UsbCamera {
    /// Listens on a free port of every address.
    pub fn start(pictures: Pictures) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let address = listener.local_addr()?;
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::Builder::new()
            .name("usb-camera".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    let Ok((socket, _)) = listener.accept() else {
                        return;
                    };
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    // A connection that ends is a camera that was unplugged.
                    if let Ok(mut plugged) = Plugged::new(socket, &pictures, &count) {
                        drop(plugged.serve(&stopped));
                    }
                }
            })?;
        Ok(Self {
            address,
            stop,
            sent,
            thread: Some(thread),
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Pictures begun so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for UsbCamera {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes `accept`.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// USB/IP commands and their answers.
const CMD_SUBMIT: u32 = 1;
const CMD_UNLINK: u32 = 2;
const RET_SUBMIT: u32 = 3;
const RET_UNLINK: u32 = 4;
const HEADER: usize = 48;
/// Linux error numbers, negated, are what a URB ends with.
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;

/// Bytes of one payload, header included: what one of uvcvideo's bulk URBs holds (32 packets).
const PAYLOAD: usize = 32 * 512;
const PAYLOAD_HEADER: usize = 2;
/// Largest control or bulk transfer that is believed.
const MAX_TRANSFER: usize = 1 << 20;

/// A URB that waits for a piece of a picture.
struct Waiting {
    seqnum: u32,
    room: usize,
}

/// One connection.
struct Plugged<'a> {
    socket: TcpStream,
    pictures: &'a Pictures,
    sent: &'a AtomicU64,
    /// Of this connection: what a receiver can compare with its `sequence`.
    number: u32,
    frame_id_bit: u8,
    waiting: VecDeque<Waiting>,
    /// Payloads of the picture being sent.
    payloads: VecDeque<Vec<u8>>,
    due: Instant,
    control: Control,
    inbox: Vec<u8>,
}

impl<'a> Plugged<'a> {
    fn new(socket: TcpStream, pictures: &'a Pictures, sent: &'a AtomicU64) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            pictures,
            sent,
            number: 0,
            frame_id_bit: 0,
            waiting: VecDeque::new(),
            payloads: VecDeque::new(),
            due: Instant::now(),
            control: Control::new(pictures),
            inbox: Vec::new(),
        })
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.pictures.fps.max(1)
    }

    fn serve(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Acquire) {
            while let Some((header, data)) = self.request()? {
                self.answer(&header, &data)?;
            }
            self.picture()?;
            let wait = self.due.saturating_duration_since(Instant::now());
            let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(50));
            self.socket.set_read_timeout(Some(wait))?;
            let mut some = [0; 4096];
            match self.socket.read(&mut some) {
                Ok(0) => return Ok(()),
                Ok(n) => self.inbox.extend_from_slice(&some[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A whole request, if there is one: its header, and the data of an OUT transfer.
    fn request(&mut self) -> io::Result<Option<([u8; HEADER], Vec<u8>)>> {
        let Some(header) = self.inbox.first_chunk::<HEADER>().copied() else {
            return Ok(None);
        };
        let out = word(&header, 0) == CMD_SUBMIT && word(&header, 12) == 0;
        let data = if out { word(&header, 24) as usize } else { 0 };
        if data > MAX_TRANSFER {
            return Err(io::Error::other("a transfer larger than any of ours"));
        }
        if self.inbox.len() < HEADER + data {
            return Ok(None);
        }
        let data = self.inbox[HEADER..HEADER + data].to_vec();
        self.inbox.drain(..HEADER + data.len());
        Ok(Some((header, data)))
    }

    fn answer(&mut self, header: &[u8; HEADER], data: &[u8]) -> io::Result<()> {
        let seqnum = word(header, 4);
        match word(header, 0) {
            CMD_UNLINK => {
                let gone = word(header, 20);
                let before = self.waiting.len();
                self.waiting.retain(|w| w.seqnum != gone);
                // 0: it was answered already.
                let status = if self.waiting.len() < before {
                    -ECONNRESET
                } else {
                    0
                };
                self.reply(RET_UNLINK, seqnum, status, &[])
            }
            CMD_SUBMIT => {
                let (endpoint, room) = (word(header, 16), word(header, 24) as usize);
                if endpoint == 1 {
                    self.waiting.push_back(Waiting { seqnum, room });
                    return self.feed();
                }
                let setup = Setup::new(header);
                let is_in = word(header, 12) == 1;
                match self.control.answer(&setup, data) {
                    Some(mut answer) if is_in => {
                        answer.truncate(room.min(usize::from(setup.length)));
                        self.reply(RET_SUBMIT, seqnum, 0, &answer)
                    }
                    Some(_) => self.reply_out(seqnum, data.len()),
                    None => self.reply(RET_SUBMIT, seqnum, -EPIPE, &[]),
                }
            }
            other => Err(io::Error::other(format!("USB/IP command {other}"))),
        }
    }

    /// Begins the next picture when it is due. One that finds the last one still on its way is not
    /// sent, as by a camera whose host is too slow, but counted.
    fn picture(&mut self) -> io::Result<()> {
        if Instant::now() < self.due {
            return Ok(());
        }
        self.due += self.interval();
        if self.due + Duration::from_secs(1) < Instant::now() {
            self.due = Instant::now();
        }
        if !self.control.committed || self.waiting.is_empty() || !self.payloads.is_empty() {
            return Ok(());
        }
        let jpegs = &self.pictures.jpegs;
        let jpeg = numbered(&jpegs[self.number as usize % jpegs.len()], self.number);
        self.number += 1;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.frame_id_bit ^= 1;
        let mut pieces = jpeg.chunks(PAYLOAD - PAYLOAD_HEADER).peekable();
        while let Some(piece) = pieces.next() {
            // 2.4.3.3: end of header, end of frame, frame id.
            let last = u8::from(pieces.peek().is_none());
            let mut payload = vec![2, 0x80 | last << 1 | self.frame_id_bit];
            payload.extend_from_slice(piece);
            self.payloads.push_back(payload);
        }
        self.feed()
    }

    fn feed(&mut self) -> io::Result<()> {
        while !self.payloads.is_empty() {
            let Some(urb) = self.waiting.pop_front() else {
                return Ok(());
            };
            let mut payload = self.payloads.pop_front().unwrap_or_default();
            payload.truncate(urb.room);
            self.reply(RET_SUBMIT, urb.seqnum, 0, &payload)?;
        }
        Ok(())
    }

    fn reply(&mut self, command: u32, seqnum: u32, status: i32, data: &[u8]) -> io::Result<()> {
        let mut all = reply_header(command, seqnum, status, data.len());
        all.extend_from_slice(data);
        self.socket.write_all(&all)
    }

    fn reply_out(&mut self, seqnum: u32, taken: usize) -> io::Result<()> {
        let header = reply_header(RET_SUBMIT, seqnum, 0, taken);
        self.socket.write_all(&header)
    }
}

fn reply_header(command: u32, seqnum: u32, status: i32, length: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER + length);
    for part in [command, seqnum, 0, 0, 0] {
        header.extend(part.to_be_bytes());
    }
    header.extend(status.to_be_bytes());
    header.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
    header.resize(HEADER, 0);
    header
}

fn word(header: &[u8; HEADER], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_be_bytes(bytes)
}

/// The JPEG with a comment behind its start mark: `vp NUMBER SUM`, SUM of everything after it.
pub fn numbered(jpeg: &[u8], number: u32) -> Vec<u8> {
    let rest = &jpeg[2..];
    let text = format!("vp {number:010} {:08x}", checksum(rest));
    let mut all = vec![0xFF, 0xD8, 0xFF, 0xFE];
    all.extend(u16::try_from(text.len() + 2).unwrap_or(2).to_be_bytes());
    all.extend(text.as_bytes());
    all.extend(rest);
    all
}

/// FNV-1a, 32 bits.
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, b| {
        (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

/// A control request's 8 bytes (USB 2.0, 9.3).
struct Setup {
    kind: u8,
    request: u8,
    value: u16,
    index: u16,
    length: u16,
}

impl Setup {
    fn new(header: &[u8; HEADER]) -> Self {
        let s = &header[40..48];
        let half = |i: usize| u16::from_le_bytes([s[i], s[i + 1]]);
        Self {
            kind: s[0],
            request: s[1],
            value: half(2),
            index: half(4),
            length: half(6),
        }
    }
}

/// Endpoint 0: what the camera is, and what it is set to.
struct Control {
    device: Vec<u8>,
    configuration: Vec<u8>,
    streaming: Vec<u8>,
    /// The stream was negotiated; bulk transfers may be asked for.
    committed: bool,
    brightness: i16,
    power_line: u8,
}

const STRINGS: [&str; 3] = ["visualpath", "Test camera", "VP0001"];
const PROCESSING_UNIT: u8 = 2;

impl Control {
    fn new(pictures: &Pictures) -> Self {
        let interval_100ns = 10_000_000 / pictures.fps.max(1);
        let frame_bytes = u32::from(pictures.width) * u32::from(pictures.height) * 2;
        Self {
            device: device(),
            configuration: configuration(pictures, interval_100ns, frame_bytes),
            streaming: streaming_control(interval_100ns, frame_bytes),
            committed: false,
            brightness: 0,
            power_line: 1,
        }
    }

    /// What to send back; `None` is a stall.
    fn answer(&mut self, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            (0x80, 6) => match setup.value.to_be_bytes() {
                [1, _] => Some(self.device.clone()),
                [2, _] => Some(self.configuration.clone()),
                [3, index] => Some(string(index)),
                _ => None,
            },
            (0x80..=0x82, 0) => Some(vec![0, 0]), // GET_STATUS
            (0x80, 8) => Some(vec![1]),           // GET_CONFIGURATION
            (0x81, 10) => Some(vec![0]),          // GET_INTERFACE
            // CLEAR_FEATURE of the endpoint is how a bulk stream is stopped.
            (0x02, 1) => {
                self.committed = false;
                Some(Vec::new())
            }
            (0x00..=0x02, 1 | 3 | 5 | 9 | 11) => Some(Vec::new()),
            (0xA1 | 0x21, request) => self.class(request, setup, data),
            _ => None,
        }
    }

    /// 4.2 and 4.3.
    fn class(&mut self, request: u8, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        const SET_CUR: u8 = 0x01;
        const GET_CUR: u8 = 0x81;
        const GET_MIN: u8 = 0x82;
        const GET_MAX: u8 = 0x83;
        const GET_RES: u8 = 0x84;
        const GET_LEN: u8 = 0x85;
        const GET_INFO: u8 = 0x86;
        const GET_DEF: u8 = 0x87;
        let [selector, _] = setup.value.to_be_bytes();
        let [unit, interface] = setup.index.to_be_bytes();
        if interface == 1 {
            // Probe (1) and commit (2): one format, one size, one rate.
            return match (request, selector) {
                (SET_CUR, 1) => Some(Vec::new()),
                (SET_CUR, 2) => {
                    self.committed = true;
                    Some(Vec::new())
                }
                (GET_CUR | GET_MIN | GET_MAX | GET_DEF, 1 | 2) => Some(self.streaming.clone()),
                (GET_LEN, 1 | 2) => Some(vec![34, 0]),
                (GET_INFO, 1 | 2) => Some(vec![3]),
                _ => None,
            };
        }
        if unit != PROCESSING_UNIT {
            return None;
        }
        match (selector, request) {
            (2, SET_CUR) => {
                self.brightness = i16::from_le_bytes([*data.first()?, *data.get(1)?]);
                Some(Vec::new())
            }
            (2, GET_CUR) => Some(self.brightness.to_le_bytes().to_vec()),
            (2, GET_MIN) => Some((-64_i16).to_le_bytes().to_vec()),
            (2, GET_MAX) => Some(64_i16.to_le_bytes().to_vec()),
            (2, GET_RES) => Some(1_i16.to_le_bytes().to_vec()),
            (2, GET_DEF) => Some(0_i16.to_le_bytes().to_vec()),
            (2, GET_LEN) => Some(vec![2, 0]),
            (5, SET_CUR) => {
                self.power_line = *data.first()?;
                Some(Vec::new())
            }
            (5, GET_CUR) => Some(vec![self.power_line]),
            (5, GET_MIN) => Some(vec![0]),
            (5, GET_MAX) => Some(vec![2]),
            (5, GET_RES | GET_DEF) => Some(vec![1]),
            (5, GET_LEN) => Some(vec![1, 0]),
            (2 | 5, GET_INFO) => Some(vec![3]),
            _ => None,
        }
    }
}

fn string(index: u8) -> Vec<u8> {
    let text: Vec<u8> = match usize::from(index).checked_sub(1) {
        None => vec![0x09, 0x04],
        Some(i) => STRINGS
            .get(i)
            .unwrap_or(&"")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect(),
    };
    let mut all = vec![u8::try_from(text.len() + 2).unwrap_or(2), 3];
    all.extend(text);
    all
}

/// USB 2.0, 9.6.1; its class is told by its interfaces.
fn device() -> Vec<u8> {
    vec![
        18, 1, 0x00, 0x02, 0xEF, 2, 1, 64, 0x6B, 0x1D, 0x02, 0x01, 0x00, 0x01, 1, 2, 3, 1,
    ]
}

/// 4.3.1.1, 34 bytes in UVC 1.1.
fn streaming_control(interval_100ns: u32, frame_bytes: u32) -> Vec<u8> {
    let mut c = vec![1, 0, 1, 1];
    c.extend(interval_100ns.to_le_bytes());
    c.extend([0; 10]); // key frame rate … delay
    c.extend(frame_bytes.to_le_bytes());
    c.extend(u32::try_from(PAYLOAD).unwrap_or(0).to_le_bytes());
    c.extend(48_000_000_u32.to_le_bytes());
    c.extend([3, 1, 1, 1]);
    c
}

/// 3: one camera behind one processing unit, one MJPEG stream over a bulk endpoint.
fn configuration(pictures: &Pictures, interval_100ns: u32, frame_bytes: u32) -> Vec<u8> {
    let mut control: Vec<u8> = Vec::new();
    // Camera terminal 1, processing unit 2 (brightness, power line frequency), output terminal 3.
    control.extend([
        18, 0x24, 2, 1, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
    ]);
    control.extend([12, 0x24, 5, PROCESSING_UNIT, 1, 0, 0, 2, 0x01, 0x04, 0, 0]);
    control.extend([9, 0x24, 3, 3, 0x01, 0x01, 0, PROCESSING_UNIT, 0]);
    let total = u16::try_from(control.len() + 13).unwrap_or(0).to_le_bytes();
    let mut control_header = vec![13, 0x24, 1, 0x10, 0x01, total[0], total[1]];
    control_header.extend(48_000_000_u32.to_le_bytes());
    control_header.extend([1, 1]);

    let mut format: Vec<u8> = vec![11, 0x24, 6, 1, 1, 0, 1, 0, 0, 0, 0];
    format.extend([30, 0x24, 7, 1, 0]);
    format.extend(pictures.width.to_le_bytes());
    format.extend(pictures.height.to_le_bytes());
    let bits_per_s = frame_bytes.saturating_mul(8).saturating_mul(pictures.fps);
    format.extend(bits_per_s.to_le_bytes());
    format.extend(bits_per_s.to_le_bytes());
    format.extend(frame_bytes.to_le_bytes());
    format.extend(interval_100ns.to_le_bytes());
    format.push(1);
    format.extend(interval_100ns.to_le_bytes());
    format.extend([6, 0x24, 13, 1, 1, 4]); // BT.709 primaries and transfer, BT.601 matrix
    let total = u16::try_from(format.len() + 14).unwrap_or(0).to_le_bytes();
    let stream_header = [
        14, 0x24, 1, 1, total[0], total[1], 0x81, 0, 3, 0, 0, 0, 1, 0,
    ];

    let mut all: Vec<u8> = vec![9, 2, 0, 0, 2, 1, 0, 0x80, 50];
    all.extend([8, 11, 0, 2, 0x0E, 3, 0, 0]);
    all.extend([9, 4, 0, 0, 0, 0x0E, 1, 0, 0]);
    all.extend(control_header);
    all.extend(control);
    all.extend([9, 4, 1, 0, 1, 0x0E, 2, 0, 0]);
    all.extend(stream_header);
    all.extend(format);
    all.extend([7, 5, 0x81, 2, 0x00, 0x02, 0]);
    let total = u16::try_from(all.len()).unwrap_or(0).to_le_bytes();
    all[2..4].copy_from_slice(&total);
    all
}
