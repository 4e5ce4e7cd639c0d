//! Sessions with GStreamer's RTSP server: what is in many cameras, written by others.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::clip::{Clip, h264, h265};
use super::source::Watched;
use super::*;

/// The server in a process of its own.
struct Gst {
    child: Child,
    port: u16,
    dir: TempDir,
}

/// The system's Python: the bindings come with it.
const PYTHON: &str = "/usr/bin/python3";

impl Gst {
    /// Serves a clip as it is, and a tone beside it.
    fn serving(clip: &Clip, credentials: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clip.mp4");
        std::fs::write(&file, &clip.mp4).unwrap();
        let name = match clip.coding {
            clip::Coding::H264 => "h264",
            clip::Coding::H265 => "h265",
        };
        let pipeline = format!(
            "( filesrc location={} ! qtdemux ! {name}parse ! rtp{name}pay name=pay0 pt=96 \
             audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 )",
            file.display()
        );
        Self::start(dir, "0", &pipeline, credentials)
    }

    fn start(dir: TempDir, port: &str, pipeline: &str, credentials: &[&str]) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/rtsp/tests/gst_server.py");
        let mut child = Command::new(PYTHON)
            .arg(script)
            .args([port, pipeline])
            .args(credentials)
            // What it learns of its plugins stays with it.
            .env("GST_REGISTRY", registry(dir.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| {
            drop(child.kill());
            drop(child.wait());
            panic!(
                "GStreamer's RTSP server did not start (is {PYTHON} without \
                 gir1.2-gst-rtsp-server-1.0?): run `cross/setup.sh tests`"
            )
        });
        Self { child, port, dir }
    }

    fn uri(&self, credentials: &str) -> String {
        format!("rtsp://{credentials}127.0.0.1:{}/live", self.port)
    }

    fn stop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Gst {
    fn drop(&mut self) {
        self.stop();
    }
}

fn registry(dir: &Path) -> PathBuf {
    dir.join("registry")
}

/// The slices of a packet: a server may add or leave out delimiters and the like, and zeros after
/// a NAL unit's end.
fn slices(clip: &Clip, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut nals = Clip::nals(packet);
    nals.retain(|nal| clip.coding.is_slice(nal));
    for nal in &mut nals {
        while nal.last() == Some(&0) {
            nal.pop();
        }
    }
    nals
}

fn same_packets(clip: &Clip, gst: &Gst, credentials: &str, transport: RtspTransport) {
    let options = RtspOptions {
        transport,
        ..RtspOptions::default()
    };
    let mut connect = connect_with(&gst.uri(credentials), &options, PATIENT);
    let mut stream = connected(&mut connect);
    for n in 0..20 {
        let got = match stream.next(LONG) {
            Ok(Unit::Packet(got)) => got,
            other => panic!("picture {n}: {other:?}"),
        };
        let (got_slices, given) = (slices(clip, &got.data), slices(clip, &clip.packet(n)));
        let lengths = |slices: &[Vec<u8>]| slices.iter().map(Vec::len).collect::<Vec<_>>();
        let same = got_slices
            .iter()
            .zip(&given)
            .map(|(a, b)| a.iter().zip(b).take_while(|(a, b)| a == b).count());
        assert!(
            got_slices == given,
            "picture {n} over {transport:?}: {:?} for {:?}, the same up to {:?}",
            lengths(&got_slices),
            lengths(&given),
            same.collect::<Vec<_>>()
        );
        assert_eq!(got.is_key, clip.is_key(n), "picture {n}");
        assert_eq!((got.params.width, got.params.height), (320, 240));
    }
    assert!(connect.describe().contains("audio not captured"));
}

#[test]
fn a_real_server_gives_the_pictures_it_was_given() {
    for clip in [h264(), h265()] {
        let gst = Gst::serving(clip, &[]);
        same_packets(clip, &gst, "", RtspTransport::Tcp);
        same_packets(clip, &gst, "", RtspTransport::Udp);
    }
}

#[test]
fn a_real_server_that_wants_a_digest_gets_it() {
    let gst = Gst::serving(h264(), &["admin", "p@ss:w/rd"]);
    same_packets(h264(), &gst, "admin:p%40ss%3Aw%2Frd@", RtspTransport::Tcp);
    let none = failed(&mut connect(&gst.uri("")));
    assert!(none.advice.contains("wants a user"), "{none:?}");
    let wrong = failed(&mut connect(&gst.uri("admin:guessed@")));
    assert!(wrong.advice.contains("refuses this user"), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("guessed"));
    let lost = failed(&mut connect(
        &gst.uri("admin:p%40ss%3Aw%2Frd@").replace("live", "other"),
    ));
    assert!(lost.advice.contains("path"), "{lost:?}");
}

#[test]
fn a_real_server_that_is_killed_and_started_again_is_found_again() {
    let mut gst = Gst::serving(h264(), &[]);
    let mut watched = Watched::new(&gst.uri(""));
    watched.until(|w| w.frames.len() >= 3);
    gst.stop();
    watched.until(|w| w.was_told("offline"));
    let before = watched.frames.len();
    let dir = std::mem::replace(&mut gst.dir, tempfile::tempdir().unwrap());
    let pipeline = format!(
        "( filesrc location={} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )",
        dir.path().join("clip.mp4").display()
    );
    let _again = Gst::start(dir, &gst.port.to_string(), &pipeline, &[]);
    watched.until(|w| w.frames.len() >= before + 3);
    let metas: Vec<_> = watched.frames.iter().map(|f| *f.meta()).collect();
    assert!(metas.windows(2).all(|m| m[1].t_ns > m[0].t_ns));
    assert!(metas[before].epoch > metas[before - 1].epoch);
}

#[test]
fn motion_jpeg_of_a_real_server_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = "( videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
                    ! jpegenc ! rtpjpegpay name=pay0 pt=26 )";
    let gst = Gst::start(dir, "0", pipeline, &[]);
    let mut watched = Watched::new(&gst.uri(""));
    watched.until(|w| w.frames.len() >= 5 && w.packets.len() >= 5);
    let frame = &watched.frames[2];
    let layout = frame.meta().layout;
    assert_eq!((layout.width, layout.height), (320, 240));
    // Red in full-range BT.601.
    let luma = frame.pixels()[layout.width as usize * 100 + 100];
    assert!((70..=83).contains(&luma), "{luma}");
}
