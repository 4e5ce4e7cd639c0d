//! Valid inputs to begin from: real configs, real rules, real streams of ffmpeg.

use std::path::Path;
use std::process::Command;

use super::config::ENVIRONMENT;

/// The default config, every wrong config of the tests, and overrides.
pub fn config() -> Vec<Vec<u8>> {
    let default = visualpath::config::default_text().as_bytes();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("edge/tests/fixtures/wrong_configs"))
        .find(|dir| dir.is_dir())
        .expect("inside the repository");
    let mut all: Vec<Vec<u8>> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    // A directory's order is not the same everywhere; what a seed of proptest finds should be.
    all.sort();
    let overrides = b"HOST=b1\nEMPTY=\nVISUALPATH__MQTT__URL=mqtt://b2:1884\n\
        VISUALPATH__FUSION__VISITOR__CONFIG__RULE__0__FOR_MS=5\nVISUALPATH__SOURCE__CAM0__FPS=7.5\n";
    all.push([default, ENVIRONMENT, overrides].concat());
    let variables = b"schema = 1\n[source.cam0]\nuri = \"${HOST}$$${EMPTY:-x}\"\n";
    all.push([&variables[..], ENVIRONMENT, overrides].concat());
    all.push(default.to_vec());
    all
}

/// Rules with scripts.
pub fn rules() -> Vec<Vec<u8>> {
    const WHEN: [&str; 24] = [
        "person.count >= 1",
        "person.car_count > 0 && motion.score > 0.02",
        "person[\"count@door\"] >= 1",
        "person.count >= 1 && person[\"count@door\"] == 0",
        "\"count@door\" in person && has(person.max_confidence)",
        "(person.count > 5 ? motion.score : person.max_confidence) > 0.5",
        "int(person.count) % 2 == 0",
        "person.count + 1.0 > 2 * 1",
        "[person.count, person.car_count].exists(n, n > 3)",
        "[1.0, 2.0].all(x, x * person.count > 1.0)",
        "size([person.count].filter(x, x > 0.5)) > 0",
        "free.a > 0 || free[\"b\" + \"c\"] < -1e300",
        "double(int(free.a)) == free.a",
        "string(person.count).startsWith(\"1\")",
        "uint(person.count) / 2u > 0u",
        "bool(\"true\") && !(person.count < 1)",
        "size([1, 2, 3]) == int(person.count)",
        "person.count > 1 // two or more",
        "-person.count < -1.0 && 0x1F > 3",
        "person.count in [1, 2, 3]",
        "true",
        "person.count != 1 && 1 / (int(person.count) - 1) == 1",
        "9223372036854775806 + int(person.count) > 0",
        "\"\\u00e9\" != 'e' && r\"\\\" == \"\\\\\"",
    ];
    const MORE: [&str; 4] = [
        "{}",
        r#"{"release_ms": 0, "cooldown_ms": 0}"#,
        r#"{"kind": "range", "max_s": 1, "for_ms": 50, "release_ms": 200}"#,
        r#"{"kind": "range", "pre_s": 600, "post_s": 600, "cooldown_ms": 0}"#,
    ];
    const SEQUENCES: [&str; 3] = [
        r#"{"within_ms": 500, "cooldown_ms": 0}"#,
        r#"{"within_ms": 5000, "kind": "range", "release_ms": 100, "for_ms": 30}"#,
        r#"{"within_ms": 40, "active": "Mon-Fri 18:00-08:00; Sun 00:00-24:00"}"#,
    ];
    let script = b"\x0A\x02\x4A\x02\x42\x01\x09\x01\x12\x0B\x1A\x22\x2A\xC2\x02\x32\x3A\x02";
    let rule = |texts: [&str; 4], more: &str| {
        let mut seed = Vec::new();
        for text in texts.iter().chain([&more]) {
            seed.extend_from_slice(text.as_bytes());
            seed.push(0);
        }
        seed.extend_from_slice(script);
        seed
    };
    let plain = WHEN
        .iter()
        .zip(MORE.iter().cycle())
        .map(|(when, more)| rule([when, "", "", ""], more));
    let scored = MORE
        .iter()
        .map(|more| rule([WHEN[0], "person.max_confidence / 2.0", "", ""], more));
    let sequences = SEQUENCES.iter().flat_map(|more| {
        [
            rule([WHEN[0], "", "person.count == 0", "motion.score > 0"], more),
            rule([WHEN[0], "", "", "person.count > 3"], more),
        ]
    });
    plain.chain(scored).chain(sequences).collect()
}

/// What ffmpeg writes to a pipe, and what the format allows and ffmpeg does not write.
pub fn nut() -> Vec<Vec<u8>> {
    let raw = ["-c:v", "rawvideo", "-pix_fmt", "yuv420p", "-f", "nut"];
    vec![
        ffmpeg("16x16", &raw),
        ffmpeg("34x18", &raw),
        ffmpeg("64x48", &raw),
        elided(),
    ]
}

/// Three frames of 13 bytes (12 coded, 1 by the frame code), whose first 3 stand in the main header, and an end of relevance.
fn elided() -> Vec<u8> {
    /// Numbers, 7 bits a byte.
    fn numbers(all: &[u64]) -> Vec<u8> {
        let number = |n: u64| {
            let more = (1..9).rev().filter(move |i| n >> (7 * i) > 0);
            let byte = move |i: u64| u8::try_from(n >> (7 * i) & 0x7F).unwrap();
            more.map(move |i| byte(i) | 0x80).chain([byte(0)])
        };
        all.iter().copied().flat_map(number).collect()
    }
    let packet = |startcode: u64, body: &[u8]| {
        let len = numbers(&[body.len() as u64 + 4]);
        [&startcode.to_be_bytes()[..], &len, body, &[0; 4]].concat()
    };
    // Version 3, one stream, one time base of 1/25 s; all frame codes the same: flags follow.
    let main = [
        numbers(&[3, 1, 65536, 1, 1, 25]),
        numbers(&[4096, 6, 0, 1, 0, 0, 0, 255]),
        numbers(&[1, 3]),
        b"abc".to_vec(),
    ]
    .concat();
    let size = numbers(&[0, 7, 1, 0, 0, 0, 4, 2, 0, 0, 0]);
    let stream = [&numbers(&[0, 0, 4])[..], b"I420", &size].concat();
    let [key, end, coded_pts, size_msb, header_idx] = [1, 2, 8, 32, 1024];
    let frame = |flags: u64, pts: u64| {
        let fields = numbers(&[1, 4096 ^ flags, pts, 12, 1]);
        [&fields[..], b"defghijklm"].concat()
    };
    let usual = key | coded_pts | size_msb | header_idx;
    let mut all = [
        b"nut/multimedia container\0".to_vec(),
        packet(0x4E4D_7A56_1F5F_04AD, &main),
        packet(0x4E53_1140_5BF2_F9DB, &stream),
        packet(0x4E4B_E4AD_EECA_4569, &numbers(&[0, 0])),
        frame(4096 | usual, 0),
        frame(4096 | usual, 1),
        packet(0x4E4B_E4AD_EECA_4569, &numbers(&[2, 4])),
        frame(4096 | usual, 2),
        frame(4096 | usual | end, 3),
    ]
    .concat();
    super::nut::put_checksums_right(&mut all);
    all
}

/// Bare sequences of JPEGs: in every sampling, of changing size, with a stray byte between.
pub fn jpegs() -> Vec<Vec<u8>> {
    let jpegs = |size, pix_fmt| {
        let args = [
            "-c:v", "mjpeg", "-q:v", "12", "-pix_fmt", pix_fmt, "-f", "mjpeg",
        ];
        ffmpeg(size, &args)
    };
    let all = [
        jpegs("16x16", "yuvj420p"),
        jpegs("17x9", "yuvj422p"),
        jpegs("24x8", "yuvj444p"),
        jpegs("16x16", "gray"),
    ];
    let changing = [&all[0][..], &[7, 0, 0], &all[1], &all[3]].concat();
    all.into_iter().chain([changing]).collect()
}

/// Lines of a trace, one of each kind that says much.
pub fn trace() -> Vec<Vec<u8>> {
    const LINES: [&str; 7] = [
        r#"{"record_type":"session_end","timestamp_ns":5,"unix_ns":6,"reason":"end","frames":7,"triggers":1}"#,
        r#"{"record_type":"of a later version","timestamp_ns":5,"more":[1,{"a":null}]}"#,
        r#"{"record_type":"state_change","timestamp_ns":1,"source":"cam0","path":"p","label":"l","t_ns":3,"on":true}"#,
        r#"{"record_type":"frame_drop","timestamp_ns":2,"source":"cam0","extractor":"person","frame_id":3,"t_ns":4,"reason":"queue_full"}"#,
        r#"{"record_type":"clip","timestamp_ns":9,"source":"cam0","path":"p","label":"l","id":"a","trigger_id":"b","state":"failed","reason":"no encoder"}"#,
        r#"{"record_type":"worker","timestamp_ns":2,"source":"cam0","extractor":"person","state":"held","why":"silent"}"#,
        r#"{"record_type":"dropped_records","timestamp_ns":2,"count":12}"#,
    ];
    LINES.map(|line| line.as_bytes().to_vec()).to_vec()
}

/// The golden messages of one side (`child` or `parent`), in both codecs.
pub fn protocol(side: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("plugins/protocol/vectors/1"))
        .find(|dir| dir.is_dir())
        .expect("inside the repository");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(side)
        })
        .collect();
    files.sort();
    let bytes = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.trim_end();
        if path.extension().is_some_and(|e| e == "json") {
            return text.as_bytes().to_vec();
        }
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    };
    files.iter().map(bytes).collect()
}

fn ffmpeg(size: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size={size}:rate=30000/1001"))
        .args(["-frames:v", "3"])
        .args(args)
        .arg("pipe:1")
        .output()
        .expect("ffmpeg is needed: apt install ffmpeg");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "ffmpeg {args:?}: {said}");
    out.stdout
}
