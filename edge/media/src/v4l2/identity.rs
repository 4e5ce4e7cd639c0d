//! Which camera is which: stable names, and finding one again under another node.
//!
//! A node's number says nothing after a replug. What stays: the links under `/dev/v4l` (by maker,
//! model and serial number; by port), and what the driver says of the device.

use std::fs;
use std::path::{Path, PathBuf};

use super::device::Capability;

/// The folders a machine's cameras are found in; others in tests.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) dev: PathBuf,
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            dev: "/dev".into(),
            sys: "/sys/class/video4linux".into(),
            proc: "/proc".into(),
        }
    }
}

/// What is known of a node without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Links {
    pub(super) by_id: Option<PathBuf>,
    pub(super) by_path: Option<PathBuf>,
    pub(super) serial: Option<String>,
}

/// By what a camera is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// As in the config.
    pub(super) asked: PathBuf,
    /// Links of the device when it was last seen.
    pub(super) links: Links,
    /// What the driver said of it then.
    pub(super) seen: Option<Seen>,
}

/// What a driver says of a device, and which of its nodes it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: PathBuf,
    pub(super) card: String,
    pub(super) bus_info: String,
}

impl Places {
    /// Every video node, in the order of their numbers.
    pub(super) fn nodes(&self) -> Vec<PathBuf> {
        let mut nodes: Vec<(u32, PathBuf)> = entries(&self.dev)
            .into_iter()
            .filter_map(|path| Some((number(&path)?, path)))
            .collect();
        nodes.sort();
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    /// The node behind a link; a node itself is its own.
    pub(super) fn node_of(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    /// Links to a node, and its serial number.
    pub(super) fn links(&self, node: &Path) -> Links {
        let link = |folder: &str| {
            let mut links: Vec<_> = entries(&self.dev.join("v4l").join(folder))
                .into_iter()
                .filter(|link| fs::canonicalize(link).is_ok_and(|to| to == node))
                .collect();
            // A USB camera may have a short and a long one (`usb-…`, `usbv2-…`).
            links.sort();
            links.into_iter().next()
        };
        Links {
            by_id: link("by-id"),
            by_path: link("by-path"),
            serial: self.serial(node),
        }
    }

    /// The serial number of the USB device a node belongs to.
    fn serial(&self, node: &Path) -> Option<String> {
        let mut folder = fs::canonicalize(self.sys.join(node.file_name()?).join("device")).ok()?;
        // The interface, the device, and no hub beyond it.
        for _ in 0..2 {
            if let Ok(serial) = fs::read_to_string(folder.join("serial")) {
                return Some(serial.trim().to_owned()).filter(|s| !s.is_empty());
            }
            folder = folder.parent()?.to_owned();
        }
        None
    }

    /// Other processes that have the node open, as `ffmpeg (pid 812)`; `None` if none can be seen.
    pub(super) fn held_by(&self, node: &Path) -> Option<String> {
        let own = std::process::id().to_string();
        let mut holders = Vec::new();
        for process in entries(&self.proc) {
            let pid = process.file_name()?.to_string_lossy().into_owned();
            if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let holds = entries(&process.join("fd"))
                .iter()
                .any(|fd| fs::read_link(fd).is_ok_and(|to| to == node));
            if holds {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                holders.push(format!("{} (pid {pid})", name.trim()));
            }
        }
        (!holders.is_empty()).then(|| holders.join(", "))
    }
}

impl Identity {
    pub(super) fn of(asked: &Path) -> Self {
        Self {
            asked: asked.to_owned(),
            links: Links::default(),
            seen: None,
        }
    }

    /// Nodes worth opening, best first. With `certain` nothing more need be compared: a link
    /// names the device itself.
    pub(super) fn candidates(&self, places: &Places) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        let mut add = |node: PathBuf, certain: bool| {
            if !found.iter().any(|c| c.node == node) {
                found.push(Candidate { node, certain });
            }
        };
        let asked_is_link = number(&self.asked).is_none();
        if asked_is_link {
            // A name the user chose is the only truth: another camera with the same serial number
            // is not the one at this port.
            if self.asked.exists() {
                add(places.node_of(&self.asked), true);
            }
            return found;
        }
        let Some(seen) = &self.seen else {
            // Never seen: the node itself is all that is known.
            if self.asked.exists() {
                add(self.asked.clone(), true);
            }
            return found;
        };
        if let Some(link) = self.links.by_id.as_ref().filter(|link| link.exists()) {
            // Without a serial number another camera of the same make has the same link.
            add(places.node_of(link), self.links.serial.is_some());
        }
        if let Some(link) = self.links.by_path.as_ref().filter(|link| link.exists()) {
            // A port says nothing of what is plugged into it now.
            add(places.node_of(link), false);
        }
        add(seen.node.clone(), false);
        for node in places.nodes() {
            add(node, false);
        }
        found.retain(|c| c.node.exists());
        found
    }

    /// Whether a device that is open now is the one that was seen. Only without stable links
    /// does it have to be decided by what the driver says.
    pub(super) fn is(&self, capability: &Capability, links: &Links) -> bool {
        let Some(seen) = &self.seen else {
            return true;
        };
        if seen.card != capability.card {
            return false;
        }
        match (&self.links.serial, &links.serial) {
            (Some(ours), Some(its)) => ours == its,
            _ => seen.bus_info == capability.bus_info,
        }
    }

    /// Remembers what it is.
    pub(super) fn learn(&mut self, node: &Path, capability: &Capability, links: Links) {
        self.links = links;
        self.seen = Some(Seen {
            node: node.to_owned(),
            card: capability.card.clone(),
            bus_info: capability.bus_info.clone(),
        });
    }
}

/// A node that may be the camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) node: PathBuf,
    pub(super) certain: bool,
}

/// The number of `…/video7`.
fn number(path: &Path) -> Option<u32> {
    path.file_name()?
        .to_str()?
        .strip_prefix("video")?
        .parse()
        .ok()
}

/// A folder's entries; none if it can't be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.path()).collect())
        .unwrap_or_default()
}

/// What to write instead of a sensor's raw node: the number of its camera among those of its kind,
/// by the buses they are on.
pub(super) fn instead_of(driver: &str, bus_info: &str, all: &[(String, String)]) -> String {
    let tegra = |driver: &str| driver.starts_with("tegra");
    let mut buses: Vec<&str> = all
        .iter()
        .filter(|(d, _)| tegra(d) == tegra(driver) && is_raw_driver(d))
        .map(|(_, bus)| bus.as_str())
        .collect();
    buses.sort_unstable();
    buses.dedup();
    let index = buses.iter().position(|bus| *bus == bus_info).unwrap_or(0);
    if tegra(driver) {
        format!("argus:{index}")
    } else {
        format!("libcamera:{index}")
    }
}

/// Drivers whose nodes are the receivers of raw sensors.
pub(super) fn is_raw_driver(driver: &str) -> bool {
    ["unicam", "rp1-cfe", "bcm2835-unicam", "tegra-video"].contains(&driver)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::devices::Planes;

    struct Machine {
        dir: tempfile::TempDir,
        places: Places,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            let places = Places {
                dev: root.join("dev"),
                sys: root.join("sys"),
                proc: root.join("proc"),
            };
            for folder in ["dev/v4l/by-id", "dev/v4l/by-path", "sys", "proc"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            Self { dir, places }
        }

        fn node(&self, number: u32) -> PathBuf {
            let node = self.places.dev.join(format!("video{number}"));
            fs::write(&node, "").unwrap();
            node
        }

        fn link(&self, name: &str, number: u32) -> PathBuf {
            let link = self.places.dev.join("v4l").join(name);
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link).unwrap();
            }
            symlink(format!("../../video{number}"), &link).unwrap();
            link
        }
    }

    fn capability(card: &str, bus: &str) -> Capability {
        Capability {
            card: card.into(),
            driver: "uvcvideo".into(),
            bus_info: bus.into(),
            planes: Planes::Single,
        }
    }

    #[test]
    fn a_replugged_camera_is_found_by_its_link_under_another_number() {
        let m = Machine::new();
        let node = m.node(0);
        let by_id = m.link("by-id/usb-Maker_Cam_123-video-index0", 0);
        let mut identity = Identity::of(&node);
        let links = m.places.links(&node);
        assert_eq!(links.by_id.as_ref(), Some(&by_id));
        identity.learn(&node, &capability("Cam", "usb-1"), links);

        fs::remove_file(&node).unwrap();
        assert_eq!(
            identity.candidates(&m.places),
            [],
            "a dangling link is none"
        );
        let other = m.node(2);
        m.link("by-id/usb-Maker_Cam_123-video-index0", 2);
        let found = identity.candidates(&m.places);
        assert_eq!(found.first().map(|c| &c.node), Some(&other));
        assert!(identity.is(&capability("Cam", "usb-1"), &Links::default()));
        assert!(!identity.is(&capability("Other", "usb-1"), &Links::default()));
    }

    #[test]
    fn a_serial_number_wins_over_the_port_and_a_link_in_the_config_over_all() {
        let m = Machine::new();
        let node = m.node(0);
        let mut identity = Identity::of(&node);
        let serial = |s: &str| Links {
            serial: Some(s.into()),
            ..Links::default()
        };
        identity.learn(&node, &capability("Cam", "usb-1"), serial("123"));
        assert!(
            identity.is(&capability("Cam", "usb-2"), &serial("123")),
            "another port"
        );
        assert!(
            !identity.is(&capability("Cam", "usb-1"), &serial("124")),
            "its twin"
        );

        let by_path = m.link("by-path/pci-1-usb-1-video-index0", 0);
        let mut linked = Identity::of(&by_path);
        linked.learn(&node, &capability("Cam", "usb-1"), serial("123"));
        m.node(1);
        let found = linked.candidates(&m.places);
        assert_eq!(
            found,
            [Candidate {
                node,
                certain: true
            }]
        );
    }

    #[test]
    fn another_camera_in_the_same_port_is_not_taken_for_the_old_one() {
        let m = Machine::new();
        let node = m.node(0);
        m.link("by-id/usb-Maker_Cam_123-video-index0", 0);
        m.link("by-path/pci-1-usb-1-video-index0", 0);
        let serial = |s: &str| Links {
            serial: Some(s.into()),
            ..m.places.links(&node)
        };
        let mut identity = Identity::of(&node);
        identity.learn(&node, &capability("Cam", "usb-1"), serial("123"));
        let certain = |identity: &Identity| -> Vec<bool> {
            let found = identity.candidates(&m.places);
            found.iter().map(|c| c.certain).collect()
        };
        assert_eq!(certain(&identity), [true], "its own serial number");
        fs::remove_file(identity.links.by_id.as_ref().unwrap()).unwrap();
        assert_eq!(certain(&identity), [false], "only the port is the same");
        assert!(!identity.is(&capability("Cam", "usb-1"), &serial("124")));
    }

    #[test]
    fn without_links_the_same_node_is_tried_first_and_then_the_others() {
        let m = Machine::new();
        let (first, third) = (m.node(1), m.node(10));
        let node = m.node(2);
        let mut identity = Identity::of(&node);
        assert_eq!(
            identity.candidates(&m.places),
            [Candidate {
                node: node.clone(),
                certain: true
            }],
            "never seen: no other camera is taken for it"
        );
        identity.learn(
            &node,
            &capability("vivid", "platform:vivid-000"),
            Links::default(),
        );
        let order: Vec<_> = identity
            .candidates(&m.places)
            .into_iter()
            .map(|c| c.node)
            .collect();
        assert_eq!(order, [node, first, third]);
    }

    #[test]
    fn a_busy_camera_names_who_has_it() {
        let m = Machine::new();
        let node = m.node(0);
        let fds = m.places.proc.join("812/fd");
        fs::create_dir_all(&fds).unwrap();
        fs::write(m.places.proc.join("812/comm"), "ffmpeg\n").unwrap();
        symlink(&node, fds.join("3")).unwrap();
        assert_eq!(m.places.held_by(&node).as_deref(), Some("ffmpeg (pid 812)"));
        assert_eq!(m.places.held_by(&m.node(1)), None);
        drop(m.dir);
    }

    #[test]
    fn a_raw_sensor_is_named_by_its_place_among_the_cameras() {
        let all: Vec<(String, String)> = [
            ("unicam", "platform:fe801000.csi"),
            ("unicam", "platform:fe801000.csi"),
            ("unicam", "platform:fe800000.csi"),
            ("uvcvideo", "usb-1"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .to_vec();
        assert_eq!(
            instead_of("unicam", "platform:fe801000.csi", &all),
            "libcamera:1"
        );
        assert_eq!(
            instead_of("unicam", "platform:fe800000.csi", &all),
            "libcamera:0"
        );
        let jetson = vec![("tegra-video".to_owned(), "platform:vi:0".to_owned())];
        assert_eq!(
            instead_of("tegra-video", "platform:vi:0", &jetson),
            "argus:0"
        );
    }
}
