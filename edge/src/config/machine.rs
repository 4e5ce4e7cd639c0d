//! Who this machine is, for the default device id.

use std::fs;

use sha2::{Digest, Sha256};

use super::model::DeviceId;

/// Longest part of the host name taken into an id.
const MAX_HOST: usize = 40;

/// What the default device id is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The host name.
    pub host_name: String,
    /// `/etc/machine-id` (machine-id(5)); empty where there is none.
    pub machine_id: String,
}

impl Machine {
    /// Of the machine this runs on. What can't be read is left empty.
    pub fn this() -> Self {
        let first = |files: [&str; 2]| {
            files
                .iter()
                .filter_map(|file| fs::read_to_string(file).ok())
                .map(|text| text.trim().to_owned())
                .find(|text| !text.is_empty())
                .unwrap_or_default()
        };
        Self {
            host_name: first(["/proc/sys/kernel/hostname", "/etc/hostname"]),
            machine_id: first(["/etc/machine-id", "/var/lib/dbus/machine-id"]),
        }
    }

    /// Host name + 6 hex of a hash of machine-id, brought to the form of a device id. The raw
    /// machine-id must not leave the machine (machine-id(5)), hence the hash.
    pub fn device_id(&self) -> DeviceId {
        let mut host: String = self
            .host_name
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| {
                let good = c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if good { c } else { '-' }
            })
            .take(MAX_HOST)
            .collect();
        host = host.trim_matches(['-', '_']).to_owned();
        if !host.starts_with(|c: char| c.is_ascii_lowercase()) {
            host = format!("device-{host}").trim_end_matches('-').to_owned();
        }
        let mut hash = Sha256::new();
        hash.update(b"visualpath device id\0");
        if self.machine_id.is_empty() {
            hash.update(self.host_name.as_bytes());
        } else {
            hash.update(self.machine_id.as_bytes());
        }
        let hex: String = hash
            .finalize()
            .iter()
            .take(3)
            .map(|b| format!("{b:02x}"))
            .collect();
        DeviceId::unchecked(format!("{host}-{hex}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_gives_a_device_id_of_the_right_form() {
        for host in [
            "dock",
            "Dock-3.local",
            "",
            "3com",
            "---",
            "ÄÖ",
            "_x",
            &"h".repeat(300),
        ] {
            let machine = Machine {
                host_name: host.to_owned(),
                machine_id: "0123".to_owned(),
            };
            let id = machine.device_id();
            DeviceId::new(id.as_str()).unwrap();
        }
        let id = |machine_id: &str| {
            Machine {
                host_name: "Dock-3.local".into(),
                machine_id: machine_id.into(),
            }
            .device_id()
            .as_str()
            .to_owned()
        };
        assert!(id("a").starts_with("dock-3-local-"), "{}", id("a"));
        assert_ne!(id("a"), id("b"));
    }
}
