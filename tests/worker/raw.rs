//! The protocol by hand, with one thing wrong.
#![allow(
    clippy::unwrap_used,
    reason = "whatever goes wrong here ends the worker, which is a fault among others"
)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use visualpath_core::Signals;
use visualpath_frames::PoolSocket;
use visualpath_protocol::{
    ChildHello, Codec, Envelope, FromChild, FromParent, JsonObject, Level, Log, Nothing,
    Observation, Observations, Pong, Ready, decode, encode,
};
use visualpath_tests::scripted::deeds::steal;

/// Frames after the one named at which it may still misbehave.
const CHANCE: u64 = 10;

struct Wire {
    socket: zmq::Socket,
    codec: Codec,
}

impl Wire {
    fn say(&self, id: u64, message: &FromChild) {
        let bytes = encode(self.codec, id, message).unwrap();
        self.socket.send(bytes, 0).unwrap();
    }

    fn hear(&self) -> Envelope<FromParent> {
        let mut parts = self.socket.recv_multipart(0).unwrap();
        decode(self.codec, &parts.swap_remove(0)).unwrap()
    }
}

/// Speaks well but for `mode`, which is done at the hello, or at the first frame from `at` on.
pub fn run(mode: &str, at: u64) -> ExitCode {
    let endpoint = std::env::var("VISUALPATH_ENDPOINT").unwrap();
    let token = std::env::var("VISUALPATH_TOKEN").unwrap();
    let pools = PoolSocket::inherited().unwrap();
    let context = zmq::Context::new();
    let mut wire = Wire {
        socket: context.socket(zmq::DEALER).unwrap(),
        codec: Codec::Json1,
    };
    let identity = if mode == "stranger" {
        "somebody"
    } else {
        &token
    };
    wire.socket.set_identity(identity.as_bytes()).unwrap();
    wire.socket.set_linger(1000).unwrap();
    match mode {
        "exit_before_hello" => return ExitCode::from(4),
        "no_hello" => forever(),
        _ => {}
    }
    wire.socket.connect(&endpoint).unwrap();
    let hello = ChildHello {
        token: if mode == "wrong_token" {
            "00".to_owned()
        } else {
            token
        },
        name: "raw".to_owned(),
        version: "1".to_owned(),
        protocols: vec![if mode == "unknown_protocol" { 99 } else { 1 }],
        codecs: vec!["json/1".to_owned()],
        ..ChildHello::default()
    };
    if mode == "garbage_hello" {
        wire.socket.send(vec![0xff; 300], 0).unwrap();
        forever();
    }
    wire.say(0, &FromChild::Hello(hello));
    if mode == "exit_in_hello" {
        return ExitCode::from(5);
    }
    let greeted = wire.hear();
    let FromParent::Hello(answer) = greeted.message else {
        // Refused: it does not care, and lives on.
        forever();
    };
    wire.codec = answer.codec.parse().unwrap();
    if mode == "never_ready" {
        forever();
    }
    wire.say(greeted.id, &FromChild::Ready(Ready::default()));
    serve(&mut wire, &pools, mode, at)
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn serve(wire: &mut Wire, pools: &PoolSocket, mode: &str, at: u64) -> ExitCode {
    let mut memory = None;
    let mut done = false;
    loop {
        let Envelope { id, message } = wire.hear();
        match message {
            FromParent::Pool(_) => {
                memory = Some(descriptor(pools));
                wire.say(id, &FromChild::Ok(Nothing {}));
            }
            FromParent::Reset(_) => wire.say(id, &FromChild::Ok(Nothing {})),
            FromParent::Ping(_) => {
                let extractor = "raw".to_owned();
                wire.say(id, &FromChild::Pong(Pong { extractor }));
            }
            FromParent::Extract(extract) => {
                let frame = extract.frame.frame_id;
                let due = !done && (at..at.saturating_add(CHANCE)).contains(&frame);
                done |= due;
                let mode = if due { mode } else { "" };
                if !misbehave(wire, mode, id, frame, memory.as_ref()) {
                    forever();
                }
            }
            FromParent::Shutdown(_) => return ExitCode::SUCCESS,
            _ => {}
        }
    }
}

/// False: nothing more is said.
fn misbehave(wire: &mut Wire, mode: &str, id: u64, frame: u64, memory: Option<&OwnedFd>) -> bool {
    let plain = answer(frame, Signals::new());
    match mode {
        "twice" => wire.say(id, &plain),
        "unknown_id" => wire.say(id + 1000, &plain),
        "wrong_type" => {
            let extractor = "raw".to_owned();
            wire.say(id, &FromChild::Pong(Pong { extractor }));
            return true;
        }
        "garbage" => {
            wire.socket.send(vec![0xfe; 64], 0).unwrap();
            return true;
        }
        "huge" => {
            // Zeroed by the kernel, page by page, as far as it is sent.
            let huge = zmq::Message::with_size(1 << 30);
            wire.socket.send(huge, 0).unwrap();
            return true;
        }
        "too_many_parts" => {
            wire.socket.send("", zmq::SNDMORE).unwrap();
            wire.socket.send("", 0).unwrap();
            return true;
        }
        "close" => {
            let empty = zmq::Context::new().socket(zmq::DEALER).unwrap();
            drop(std::mem::replace(&mut wire.socket, empty));
            return false;
        }
        "log_flood" => {
            for n in 0..100_000 {
                let msg = format!("flood {n}");
                let level = Level::Info;
                wire.say(0, &FromChild::Log(Log { level, msg }));
            }
        }
        "thief" => {
            let stolen = memory.map(|m| steal(m.as_fd())).unwrap_or_default();
            let errnos = stolen.into_iter().map(|(n, e)| (n, f64::from(e)));
            wire.say(id, &answer(frame, errnos.collect()));
            return true;
        }
        _ => {}
    }
    wire.say(id, &plain);
    true
}

fn answer(frame_id: u64, signals: Signals) -> FromChild {
    let seen = Observation {
        extractor: "raw".to_owned(),
        frame_id,
        t_ns: None,
        signals,
        data: JsonObject::default(),
        metadata: JsonObject::default(),
        confidence: None,
        timing_ns: None,
    };
    FromChild::Observations(Observations {
        items: vec![seen],
        ..Observations::default()
    })
}

/// Kept, instead of only mapped.
fn descriptor(pools: &PoolSocket) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut id = [0_u8; 4];
    let mut into = [IoSliceMut::new(&mut id)];
    recvmsg(pools, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut messages = control.drain();
    let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = messages.next() else {
        panic!("no descriptor");
    };
    descriptors.next().unwrap()
}
