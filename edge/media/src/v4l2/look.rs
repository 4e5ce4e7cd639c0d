//! What the kernel says of the machine's cameras: the functions behind [`crate::devices`].

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::bus::Machine;
use super::device::CaptureDevice;
use super::formats;
use super::identity::{Places, instead_of, is_raw_driver};
use super::kernel::{KernelDevice, NotOpened};
use super::setup;
use crate::devices::{Camera, CameraFormat, Copies, DeviceError, Wanted, control};
use crate::source::ControlValue;

/// See [`crate::devices::cameras`].
pub(crate) fn cameras() -> Vec<Result<Camera, DeviceError>> {
    let places = Places::default();
    let mut cameras = Vec::new();
    for node in places.nodes() {
        match camera_at(&places, &node) {
            Err(DeviceError::NotCapture { .. }) => {}
            looked => cameras.push(looked),
        }
    }
    cameras
}

/// See [`crate::devices::camera`].
pub(crate) fn camera(path: &Path) -> Result<Camera, DeviceError> {
    camera_at(&Places::default(), path)
}

/// See [`crate::devices::set_control`].
pub(crate) fn set_control(
    path: &Path,
    name: &str,
    value: &ControlValue,
) -> Result<(), DeviceError> {
    let places = Places::default();
    let (node, mut device) = open(&places, path)?;
    let failed = |what: &str, errno| failure(&places, &node, what, errno);
    let controls = device
        .controls()
        .map_err(|e| failed("listing its controls", e))?;
    let known = control(&node, &controls, name)?;
    let number = known.number(&node, value)?;
    device
        .set_control(known.id, number)
        .map_err(|e| failed(&format!("setting `{name}` to {number}"), e))
}

/// See [`crate::devices::probe_memory`].
pub(crate) fn probe_memory(path: &Path, wanted: &Wanted) -> Result<Copies, DeviceError> {
    let (node, device) = open(&Places::default(), path)?;
    let bus = Machine::new();
    let (_, plan) = setup::set_up(&bus, &node, Box::new(device), wanted, false)?;
    Ok(plan.copies())
}

/// Opens the node behind `path`.
pub(super) fn open(places: &Places, path: &Path) -> Result<(PathBuf, KernelDevice), DeviceError> {
    let node = places.node_of(path);
    match KernelDevice::open(&node) {
        Ok(device) => Ok((node, device)),
        Err(NotOpened::NotCapture(what)) => Err(DeviceError::NotCapture { node, what }),
        Err(NotOpened::Errno(errno)) => Err(failure(places, path, "opening it", errno)),
    }
}

/// What an errno of `what` means, and what to do about it.
pub(super) fn failure(places: &Places, node: &Path, what: &str, errno: Errno) -> DeviceError {
    let path = node.to_owned();
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO => DeviceError::Missing {
            node: path,
            there_are: there_are(places),
        },
        Errno::ACCESS | Errno::PERM => DeviceError::Denied { node: path },
        Errno::BUSY => DeviceError::Busy {
            by: places
                .held_by(&places.node_of(node))
                .unwrap_or_else(|| "another process (of another user: ask as root)".to_owned()),
            node: path,
        },
        Errno::NOSPC => DeviceError::Bandwidth {
            node: path,
            what: what.to_owned(),
        },
        errno => DeviceError::Failed {
            node: path,
            what: what.to_owned(),
            cause: errno.into(),
        },
    }
}

fn there_are(places: &Places) -> String {
    let mut cameras = Vec::new();
    for node in places.nodes() {
        if let Ok(device) = KernelDevice::open(&node)
            && let Ok(capability) = device.capability()
        {
            cameras.push(format!("`{}` ({})", node.display(), capability.card));
        }
    }
    if cameras.is_empty() {
        "the machine has none (is it plugged in? `dmesg` says what the kernel sees)".to_owned()
    } else {
        format!("there are {}", cameras.join(", "))
    }
}

fn camera_at(places: &Places, path: &Path) -> Result<Camera, DeviceError> {
    let (node, device) = open(places, path)?;
    let failed = |what: &str, errno| failure(places, &node, what, errno);
    let capability = device
        .capability()
        .map_err(|e| failed("asking what it is", e))?;
    let formats = device
        .formats()
        .map_err(|e| failed("listing its formats", e))?;
    let controls = device
        .controls()
        .map_err(|e| failed("listing its controls", e))?;
    let raw_bayer = gives_raw(&capability.driver, &formats);
    let links = places.links(&node);
    Ok(Camera {
        by_id: links.by_id,
        by_path: links.by_path,
        serial: links.serial,
        busy: places.held_by(&node),
        instead: raw_bayer.then(|| instead(places, &capability.driver, &capability.bus_info)),
        card: capability.card,
        driver: capability.driver,
        bus_info: capability.bus_info,
        planes: capability.planes,
        formats,
        controls,
        raw_bayer,
        node,
    })
}

/// Whether a node gives a mosaic and nothing else. A receiver whose routing is set up from outside
/// lists every format there is, so that the mosaic among them decides.
pub(super) fn gives_raw(driver: &str, formats: &[CameraFormat]) -> bool {
    let any_bayer = formats.iter().any(|f| formats::is_bayer(&f.fourcc));
    let any_usable = formats.iter().any(|f| f.usable);
    any_bayer && (!any_usable || is_raw_driver(driver))
}

/// What to write as `uri` instead of a raw node.
pub(super) fn instead(places: &Places, driver: &str, bus_info: &str) -> String {
    let all: Vec<_> = places
        .nodes()
        .iter()
        .filter_map(|node| KernelDevice::open(node).ok()?.capability().ok())
        .map(|c| (c.driver, c.bus_info))
        .collect();
    instead_of(driver, bus_info, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(fourcc: &str, usable: bool) -> CameraFormat {
        CameraFormat {
            fourcc: fourcc.into(),
            description: String::new(),
            compressed: false,
            usable,
            sizes: Vec::new(),
        }
    }

    #[test]
    fn a_raw_node_is_one_that_has_nothing_better() {
        let bayer = format("RG10", false);
        let yuyv = format("YUYV", true);
        assert!(gives_raw("rp1-cfe", &[bayer.clone(), yuyv.clone()]));
        assert!(gives_raw("some-csi", std::slice::from_ref(&bayer)));
        assert!(!gives_raw("vivid", &[bayer, yuyv.clone()]));
        assert!(
            !gives_raw("unicam", &[yuyv]),
            "an HDMI bridge gives pictures"
        );
    }

    #[test]
    fn errors_name_the_device_and_the_cure() {
        let places = Places {
            dev: "/nowhere".into(),
            ..Places::default()
        };
        let node = Path::new("/dev/video9");
        for (errno, words) in [
            (Errno::ACCESS, "group `video`"),
            (Errno::BUSY, "another process"),
            (
                Errno::NOENT,
                "there is no such camera; the machine has none",
            ),
            (
                Errno::NOSPC,
                "bandwidth left for starting MJPG; ask for a smaller",
            ),
            (Errno::IO, "starting MJPG: "),
        ] {
            let said = failure(&places, node, "starting MJPG", errno).to_string();
            assert!(
                said.contains(words) && said.contains("/dev/video9"),
                "{said}"
            );
        }
    }
}
