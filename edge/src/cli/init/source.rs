//! Finds a source: the one asked for, else the best camera.

use std::path::Path;

use serde::Serialize;
use visualpath_media::devices::{self, Camera};

use super::InitError;
use crate::cli::devices::{nothing, stacks, uri};

/// Large enough to see a person across a room, small enough for a board.
const SIZE: (u32, u32) = (1280, 720);
/// Faster than this nobody needs.
const FPS: f64 = 30.0;
/// Slower is no video.
const LEAST_FPS: f64 = 5.0;

/// What goes into the config, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chosen {
    /// `source.cam0.uri`.
    pub uri: String,
    /// How it was found.
    pub found: String,
    /// Size to ask of a camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// Rate to ask of a camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Other cameras.
    pub others: Vec<String>,
}

/// The source asked for, or a camera of this machine.
///
/// # Errors
/// If there is none that can be used.
pub fn choose(asked: Option<&str>) -> Result<Chosen, InitError> {
    if let Some(uri) = asked {
        return given(uri);
    }
    let (mut cameras, mut problems) = (Vec::new(), Vec::new());
    for camera in devices::cameras() {
        match camera {
            Ok(camera) => cameras.push(camera),
            Err(error) => problems.push(error.to_string()),
        }
    }
    for camera in &cameras {
        if let Some(by) = &camera.busy {
            let node = camera.node.display();
            problems.push(format!("{node} ({}) is busy: {by} has it", camera.card));
        }
    }
    let stacks = stacks().into_iter().map(|s| (s.uri, s.camera)).collect();
    best(&cameras, stacks).ok_or_else(|| {
        let text = nothing(&problems);
        InitError::NoCamera(format!("{text}\n  then name it with --source URI"))
    })
}

fn given(uri: &str) -> Result<Chosen, InitError> {
    if uri.trim().is_empty() {
        return Err(InitError::Source("--source is empty".to_owned()));
    }
    let camera = uri.starts_with("/dev/");
    Ok(Chosen {
        uri: absolute(uri),
        found: "as asked".to_owned(),
        size: camera.then_some(SIZE),
        fps: camera.then_some(FPS),
        others: Vec::new(),
    })
}

/// A file's whole path, so that the config works from any directory.
fn absolute(uri: &str) -> String {
    let path = Path::new(uri);
    if path.is_relative()
        && path.exists()
        && let Ok(whole) = std::path::absolute(path)
    {
        return whole.to_string_lossy().into_owned();
    }
    uri.to_owned()
}

/// The camera that comes closest to what is wanted; those behind a stack of their own (uri, what it
/// is) only where there is no other.
fn best(cameras: &[Camera], stacks: Vec<(String, String)>) -> Option<Chosen> {
    let mut usable: Vec<(&Camera, Mode)> = cameras
        .iter()
        .filter(|c| !c.raw_bayer && c.busy.is_none())
        .filter_map(|c| Some((c, mode(c)?)))
        .collect();
    // Stable: of two alike the first node is taken.
    usable.sort_by(|(_, a), (_, b)| {
        let key = |m: &Mode| (m.off, m.fps < LEAST_FPS);
        key(a).cmp(&key(b)).then(b.fps.total_cmp(&a.fps))
    });
    let mut chosen = None;
    let mut others = Vec::new();
    for (camera, mode) in usable {
        let name = format!("{} ({})", uri(camera), camera.card);
        if chosen.is_some() {
            others.push(name);
            continue;
        }
        chosen = Some(Chosen {
            uri: uri(camera),
            found: format!("{}, {}", camera.card, camera.node.display()),
            size: mode.size,
            fps: Some(mode.fps),
            others: Vec::new(),
        });
    }
    for (uri, camera) in stacks {
        if chosen.is_some() {
            others.push(format!("{uri} ({camera})"));
            continue;
        }
        chosen = Some(Chosen {
            uri,
            found: camera,
            size: Some(SIZE),
            fps: Some(FPS),
            others: Vec::new(),
        });
    }
    chosen.map(|c| Chosen { others, ..c })
}

/// What would be asked of a camera.
#[derive(Debug, Clone, Copy)]
struct Mode {
    size: Option<(u32, u32)>,
    fps: f64,
    /// Pixels more or less than wanted.
    off: u64,
}

/// Its size closest to the wanted one, and its rate there.
fn mode(camera: &Camera) -> Option<Mode> {
    let pixels = |(w, h): (u32, u32)| u64::from(w) * u64::from(h);
    let usable = || camera.formats.iter().filter(|f| f.usable);
    let modes = usable().flat_map(|f| &f.sizes).map(|s| {
        let size = s.size.closest(SIZE.0, SIZE.1);
        Mode {
            size: Some(size),
            fps: s.fps.closest(FPS).unwrap_or(FPS).min(FPS),
            off: pixels(size).abs_diff(pixels(SIZE)),
        }
    });
    let by_size = modes.min_by(|a, b| {
        let key = |m: &Mode| (m.fps < LEAST_FPS, m.off);
        key(a).cmp(&key(b)).then(b.fps.total_cmp(&a.fps))
    });
    // A driver that lists no sizes is asked for nothing in particular.
    by_size.or_else(|| {
        usable().next().map(|_| Mode {
            size: None,
            fps: FPS,
            off: u64::MAX,
        })
    })
}

#[cfg(test)]
mod tests {
    use visualpath_media::devices::{CameraFormat, CameraSize, Planes, Rates, SizeRange};

    use super::*;

    fn camera(n: u32, sizes: &[(u32, u32, f64)]) -> Camera {
        let sizes = sizes.iter().map(|(width, height, fps)| CameraSize {
            size: SizeRange::Discrete {
                width: *width,
                height: *height,
            },
            fps: Rates::Listed(vec![*fps]),
        });
        Camera {
            node: format!("/dev/video{n}").into(),
            by_id: None,
            by_path: None,
            serial: None,
            card: format!("Cam {n}"),
            driver: "test".into(),
            bus_info: "here".into(),
            planes: Planes::Single,
            formats: vec![CameraFormat {
                fourcc: "YUYV".into(),
                description: String::new(),
                compressed: false,
                usable: true,
                sizes: sizes.collect(),
            }],
            controls: Vec::new(),
            raw_bayer: false,
            instead: None,
            busy: None,
        }
    }

    #[test]
    fn the_camera_closest_to_what_is_wanted_is_taken_and_the_others_are_told() {
        let small = camera(0, &[(640, 480, 30.0)]);
        let good = camera(2, &[(320, 240, 60.0), (1280, 720, 30.0), (1920, 1080, 5.0)]);
        let busy = Camera {
            busy: Some("cheese".into()),
            ..camera(4, &[(1280, 720, 60.0)])
        };
        let raw = Camera {
            raw_bayer: true,
            ..camera(6, &[(1280, 720, 60.0)])
        };
        let chosen = best(&[small.clone(), busy, raw, good], Vec::new()).unwrap();
        assert_eq!(chosen.uri, "/dev/video2");
        assert_eq!((chosen.size, chosen.fps), (Some((1280, 720)), Some(30.0)));
        assert_eq!(chosen.others, ["/dev/video0 (Cam 0)"]);
        let stack = || vec![("libcamera:0".to_owned(), "imx219".to_owned())];
        let chosen = best(&[small], stack()).unwrap();
        assert_eq!(chosen.uri, "/dev/video0");
        assert_eq!(best(&[], stack()).unwrap().uri, "libcamera:0");
        assert_eq!(best(&[], Vec::new()), None);
    }

    #[test]
    fn a_size_that_comes_as_a_slide_show_is_not_taken() {
        let uncompressed = camera(0, &[(1280, 720, 2.0), (640, 480, 30.0)]);
        let mode = mode(&uncompressed).unwrap();
        assert_eq!((mode.size, mode.fps), (Some((640, 480)), 30.0));
    }
}
