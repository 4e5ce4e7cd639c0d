//! What a connection gives, and how it ends.

use std::net::TcpListener;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use visualpath_core::NS_PER_MS;

use super::super::super::encoded::UnitTime;
use super::clip::{Clip, h264, h264_small, h265};
use super::server::{Act, Describe, Rtp, Script, Server, TICKS, sdp};
use super::*;

/// Distance of two pictures.
const STEP_NS: i64 = 40 * NS_PER_MS;

fn at(packet: &Incoming) -> i64 {
    match packet.time {
        UnitTime::Device(ns) => ns,
        UnitTime::Arrival | UnitTime::Aged(_) => panic!("the camera's own time is lost"),
    }
}

/// Plays a clip whose RTP clock wraps in the middle, and compares every packet.
fn nal_for_nal(clip: &Clip, count: usize, with_parameters: bool, transport: RtspTransport) {
    let mut rtp = Rtp::starting(u16::MAX - 2, u32::MAX - 2 * TICKS);
    let mut script = Script::playing(clip, rtp.pictures(clip, 0..count));
    script.describe = Describe::Sdp(sdp(clip, with_parameters));
    let server = Server::start(vec![script]);
    let options = RtspOptions {
        transport,
        ..RtspOptions::default()
    };
    let mut connect = connect_with(&server.uri(), &options, PATIENT);
    let mut stream = connected(&mut connect);
    let mut params = None;
    for n in 0..count {
        let got = packet(&mut *stream);
        assert_eq!(got.data, clip.packet(n), "picture {n}");
        assert_eq!(got.is_key, clip.is_key(n), "picture {n}");
        assert_eq!(at(&got), i64::try_from(n).unwrap() * STEP_NS, "picture {n}");
        assert_eq!(got.shown_after_ns, 0);
        let params = params.get_or_insert_with(|| Arc::clone(&got.params));
        assert!(
            Arc::ptr_eq(params, &got.params),
            "the same parameters are the same Arc"
        );
        assert_eq!((params.width, params.height), (320, 240));
        let sets: Vec<&[u8]> = [&params.vps, &params.sps, &params.pps]
            .into_iter()
            .map(|set| &set[..])
            .filter(|set| !set.is_empty())
            .collect();
        assert_eq!(sets, clip.parameter_sets());
    }
    let said = connect.describe();
    assert!(said.contains("audio not captured"), "{said}");
    assert!(
        !server.requests().iter().any(|r| r.contains("audio")),
        "{:?}",
        server.requests()
    );
    drop(stream);
    assert!(server.requests().last().unwrap().starts_with("TEARDOWN"));
}

#[test]
fn h264_arrives_nal_for_nal_with_its_times_over_a_wrap_of_the_clock() {
    nal_for_nal(h264(), 26, true, RtspTransport::Tcp);
}

#[test]
fn h265_arrives_nal_for_nal_with_its_times_over_a_wrap_of_the_clock() {
    nal_for_nal(h265(), 26, true, RtspTransport::Tcp);
}

#[test]
fn parameters_may_come_with_the_pictures_only() {
    nal_for_nal(h264(), 26, false, RtspTransport::Tcp);
    nal_for_nal(h265(), 26, false, RtspTransport::Tcp);
}

#[test]
fn datagrams_give_the_same() {
    // As many as a socket's buffer holds: the server sends them all at once.
    nal_for_nal(h264(), 4, true, RtspTransport::Udp);
}

#[test]
fn a_lost_rtp_packet_costs_its_picture_and_is_told() {
    let clip = h264();
    let mut rtp = Rtp::starting(1, 0);
    let mut acts = rtp.pictures(clip, 0..5);
    // Of picture 5 the last packet, of 8 the first, all of 6.
    let mut five = rtp.picture(clip, 5);
    assert!(five.pop().is_some());
    acts.extend(five);
    rtp.picture(clip, 6);
    acts.extend(rtp.picture(clip, 7));
    acts.extend(rtp.picture(clip, 8).split_off(1));
    acts.extend(rtp.pictures(clip, 9..12));
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut stream = connected(&mut connect(&server.uri()));
    let mut seen = Vec::new();
    let mut lost = 0;
    while seen.last() != Some(&11) {
        match stream.next(LONG).unwrap() {
            Unit::Lost(n) => lost += n,
            Unit::Packet(got) => {
                let n = usize::try_from(at(&got) / STEP_NS).unwrap();
                // The delimiter of picture 8 was the packet that got lost, its slices are there.
                if n != 8 {
                    assert_eq!(got.data, clip.packet(n), "picture {n}");
                }
                seen.push(n);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]);
    assert_eq!(lost, 2);
}

#[test]
fn parameters_that_change_in_the_stream_come_with_the_key_that_needs_them() {
    let (large, small) = (h264(), h264_small());
    let mut rtp = Rtp::starting(1, 0);
    let mut acts = rtp.pictures(large, 0..3);
    acts.extend(rtp.pictures(small, 0..3));
    let server = Server::start(vec![Script::playing(large, acts)]);
    let mut stream = connected(&mut connect(&server.uri()));
    let sizes: Vec<_> = (0..6)
        .map(|_| packet(&mut *stream))
        .map(|p| (p.params.width, p.is_key, p.params.sps.clone()))
        .collect();
    let widths: Vec<u32> = sizes.iter().map(|s| s.0).collect();
    assert_eq!(widths, [320, 320, 320, 192, 192, 192]);
    assert!(sizes[3].1, "it begins with a key");
    assert_eq!(sizes[3].2, small.parameter_sets()[0]);
}

#[test]
fn a_camera_that_asks_for_a_password_gets_it_and_nobody_else_sees_it() {
    let clip = h264();
    let acts = Rtp::starting(1, 0).pictures(clip, 0..2);
    let mut script = Script::playing(clip, acts);
    script.auth = Some(("admin", "S3cr@t"));
    let server = Server::start(vec![script]);
    let in_address = format!("rtsp://admin:S3cr%40t@{}/live", server.address);
    let mut good = connect(&in_address);
    let mut stream = connected(&mut good);
    assert!(packet(&mut *stream).is_key);
    assert!(
        good.describe().contains("rtsp://***@127.0.0.1"),
        "{}",
        good.describe()
    );
    let options = RtspOptions {
        username: Some("admin".into()),
        password: Some("S3cr@t".into()),
        ..RtspOptions::default()
    };
    drop(connected(&mut connect_with(
        &server.uri(),
        &options,
        PATIENT,
    )));

    let none = failed(&mut connect(&server.uri()));
    assert!(
        none.detail.contains("401") && none.advice.contains("wants a user"),
        "{none:?}"
    );
    let wrong = format!("rtsp://admin:Wr0ng@{}/live", server.address);
    let wrong = failed(&mut connect(&wrong));
    assert!(wrong.advice.contains("refuses this user"), "{wrong:?}");
    assert!(wrong.detail.contains("rtsp://***@127"), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("Wr0ng"));
    assert!(server.requests().iter().all(|r| !r.contains("S3cr")));
}

#[test]
fn what_a_server_says_instead_of_pictures_is_told_with_its_cure() {
    let no_video = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n\
        m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=control:v\r\n\
        m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=control:a\r\n";
    for (describe, detail, advice) in [
        (Describe::Status(404), "404 to DESCRIBE", "path"),
        (Describe::Status(453), "453", "viewers"),
        (Describe::Status(500), "500", "ffplay"),
        (
            Describe::Sdp(no_video.into()),
            "video mp4v-es, audio pcma",
            "H.264",
        ),
        (
            Describe::Sdp("v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=x\r\nt=0 0\r\n".into()),
            "No parseable streams",
            "ffplay",
        ),
        (Describe::Sdp("hello".into()), "DESCRIBE failed", "ffplay"),
        (
            Describe::Raw(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
            "DESCRIBE failed",
            "ffplay",
        ),
        (
            Describe::Raw(Some(vec![0xFF; 4000])),
            "DESCRIBE failed",
            "ffplay",
        ),
    ] {
        let server = Server::start(vec![Script::describing(describe)]);
        let outage = failed(&mut connect(&server.uri()));
        assert!(outage.detail.contains(&server.uri()), "{outage:?}");
        assert!(outage.detail.contains(detail), "{detail}: {outage:?}");
        assert!(outage.advice.contains(advice), "{advice}: {outage:?}");
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("rtsp://{}/live", free.local_addr().unwrap());
    drop(free);
    let refused = failed(&mut connect(&uri));
    assert!(refused.detail.contains("no connection"), "{refused:?}");
    assert!(refused.advice.contains("port"), "{refused:?}");

    let server = Server::start(vec![Script::describing(Describe::Raw(None))]);
    let hurried = Patience {
        answer: Duration::from_millis(200),
        ..PATIENT
    };
    let mut connect = connect_with(&server.uri(), &RtspOptions::default(), hurried);
    let silent = failed(&mut connect);
    assert!(
        silent.detail.contains("no answer to DESCRIBE"),
        "{silent:?}"
    );
}

#[test]
fn a_camera_that_goes_silent_is_given_up_and_torn_down() {
    let clip = h264();
    let acts = Rtp::starting(1, 0).pictures(clip, 0..3);
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let hurried = Patience {
        silence: Duration::from_millis(300),
        ..PATIENT
    };
    let mut connect = connect_with(&server.uri(), &RtspOptions::default(), hurried);
    let mut stream = connected(&mut connect);
    for n in 0..3 {
        assert_eq!(packet(&mut *stream).data, clip.packet(n));
    }
    let outage = broken(&mut *stream);
    assert!(outage.detail.contains("no picture for"), "{outage:?}");
    assert!(server.requests().last().unwrap().starts_with("TEARDOWN"));
}

#[test]
fn every_whole_picture_before_a_connection_breaks_is_given() {
    let clip = h264();
    let mut rtp = Rtp::starting(1, 0);
    let mut acts = rtp.pictures(clip, 0..4);
    let mut cut = rtp.picture(clip, 10);
    assert!(cut.len() > 2, "the key picture is in fragments");
    cut.pop();
    acts.extend(cut);
    acts.push(Act::Close);
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut stream = connected(&mut connect(&server.uri()));
    for n in 0..4 {
        assert_eq!(packet(&mut *stream).data, clip.packet(n));
    }
    let outage = broken(&mut *stream);
    assert!(outage.detail.contains(&server.uri()), "{outage:?}");
    assert!(
        broken(&mut *stream).detail.contains("closed"),
        "it stays broken"
    );
}

#[test]
fn a_camera_that_says_goodbye_is_believed() {
    let clip = h264();
    let mut acts = Rtp::starting(1, 0).pictures(clip, 0..2);
    let report = [
        0x80, 200, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9,
    ];
    let goodbye = [0x81, 203, 0, 1, 0, 0, 0, 7];
    acts.push(Act::Rtcp([report.as_slice(), &goodbye].concat()));
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut stream = connected(&mut connect(&server.uri()));
    packet(&mut *stream);
    packet(&mut *stream);
    assert!(broken(&mut *stream).detail.contains("closed"));
}

#[test]
fn a_clock_that_jumps_ends_the_connection_and_slow_pictures_do_not() {
    let clip = h264();
    for (jump, by) in [
        (90_000 * 3600, "3599 s"),
        (0_u32.wrapping_sub(90_000 * 60), "-60 s"),
    ] {
        let mut rtp = Rtp::starting(1, 1 << 31);
        let mut acts = rtp.pictures(clip, 0..2);
        rtp.ticks = rtp.ticks.wrapping_add(jump);
        acts.extend(rtp.pictures(clip, 2..4));
        let server = Server::start(vec![Script::playing(clip, acts)]);
        let mut stream = connected(&mut connect(&server.uri()));
        packet(&mut *stream);
        packet(&mut *stream);
        let outage = broken(&mut *stream);
        assert!(outage.detail.contains("jumped by"), "{by}: {outage:?}");
    }
}

#[test]
fn packets_that_are_not_video_are_counted_and_the_stream_goes_on() {
    let clip = h264();
    let mut rtp = Rtp::starting(1, 0);
    let mut acts = rtp.pictures(clip, 0..2);
    // A fragment's end without its beginning, with the right sequence number.
    let mut orphan = rtp.picture(clip, 10);
    let kept = orphan.pop().unwrap();
    let Act::Rtp(mut kept) = kept else { panic!() };
    let Act::Rtp(first) = &orphan[0] else {
        panic!()
    };
    kept[2..4].copy_from_slice(&first[2..4]);
    acts.push(Act::Rtp(kept));
    let mut after = Rtp::starting(u16::from_be_bytes([first[2], first[3]]) + 1, 3 * TICKS);
    acts.extend(after.pictures(clip, 20..23));
    let server = Server::start(vec![Script::playing(clip, acts)]);
    let mut stream = connected(&mut connect(&server.uri()));
    packet(&mut *stream);
    packet(&mut *stream);
    assert!(matches!(stream.next(LONG), Ok(Unit::Lost(_))));
    for n in 20..23 {
        assert_eq!(packet(&mut *stream).data, clip.packet(n));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_answer_to_describe_does_more_than_fail(
        body in any::<bool>(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..3_usize), 1..8),
    ) {
        let sdp = sdp(h264(), true);
        let head = format!(
            "RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
            sdp.len()
        );
        let from = if body { head.len() } else { 0 };
        let mut answer = (head + &sdp).into_bytes();
        for (at, byte, how) in changes {
            let at = from + at.index(answer.len() - from);
            match how {
                0 => answer[at] = byte,
                // What is cut off is made up for at the end: the length stays.
                1 => {
                    answer.remove(at);
                    answer.push(b'\n');
                }
                _ => answer[at] = b"=:;, /0\r\n*"[usize::from(byte) % 10],
            }
        }
        let mut script = Script::describing(Describe::Raw(Some(answer)));
        script.acts = vec![Act::Close];
        let server = Server::start(vec![script]);
        let hurried = Patience {
            answer: Duration::from_millis(300),
            silence: Duration::from_millis(300),
        };
        let mut connect = connect_with(&server.uri(), &RtspOptions::default(), hurried);
        let outage = match connect.connect(&StopFlag::new()) {
            Ok(mut stream) => broken(&mut *stream),
            Err(ConnectError::Failed(outage)) => outage,
            Err(ConnectError::Stopped) => panic!("nobody stopped it"),
        };
        prop_assert!(outage.detail.starts_with(&server.uri()), "{outage:?}");
        prop_assert!(outage.detail.chars().count() < 500, "{outage:?}");
        prop_assert!(!outage.advice.is_empty());
        // The SDP parser panics on some; that costs the connection, and no more.
    }
}

#[test]
fn a_stop_ends_a_connection_that_hangs() {
    let server = Server::start(vec![Script::describing(Describe::Raw(None))]);
    let stop = StopFlag::new();
    let asked = || server.requests().iter().any(|r| r.starts_with("DESCRIBE"));
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| connect(&server.uri()).connect(&stop).map(|_| ()));
        while !asked() {
            std::thread::yield_now();
        }
        stop.stop();
        assert!(matches!(hung.join().unwrap(), Err(ConnectError::Stopped)));
    });
}
