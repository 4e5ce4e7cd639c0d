//! Finds a broker: on this machine, at the router, else the one inside the appliance.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use visualpath_mqtt::{BrokerUrl, MqttOptions, Topics, TrialError, parse_url, trial};

use super::InitError;

/// MQTT's port.
const PORT: u16 = 1883;
/// A broker on this machine or beside it answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// What goes into the config, and why.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Chosen {
    /// `mqtt.url`, without user and password unless the command line has them.
    pub url: String,
    /// How it was found.
    pub found: String,
}

/// The broker asked for, or the first that takes a message.
///
/// # Errors
/// If the one asked for does not.
pub fn choose(asked: Option<&str>) -> Result<Chosen, InitError> {
    if let Some(text) = asked {
        return given(text);
    }
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let router = gateway(&routes).map(IpAddr::V4);
    let places = [(Some(here), "on this machine"), (router, "at the router")];
    for (ip, place) in places {
        let Some(ip) = ip else { continue };
        let url = BrokerUrl::mqtt(SocketAddr::new(ip, PORT));
        match try_out(&url) {
            Ok(()) => {
                return Ok(Chosen {
                    url: url.to_string(),
                    found: format!("{place}; a test message was acknowledged"),
                });
            }
            Err(error) => tracing::debug!(%error, "no broker {place}"),
        }
    }
    Ok(own())
}

fn given(text: &str) -> Result<Chosen, InitError> {
    let chosen = |found: &str| Chosen {
        url: text.to_owned(),
        found: found.to_owned(),
    };
    if text == crate::broker::OFF {
        return Ok(chosen("as asked: nothing is published"));
    }
    let url = parse_url(text).map_err(|e| InitError::BrokerUrl(e.to_string()))?;
    match try_out(&url) {
        Ok(()) => Ok(chosen("as asked; a test message was acknowledged")),
        Err(TrialError::Embedded(_)) => Ok(chosen("as asked: inside the appliance")),
        Err(e) => Err(InitError::Broker(e.to_string())),
    }
}

/// The embedded one, at its usual port if that is free.
fn own() -> Chosen {
    if !cfg!(feature = "embedded-broker") {
        return Chosen {
            url: format!("mqtt://127.0.0.1:{PORT}"),
            found: "none answers, and this build has none of its own: install one, e.g. mosquitto"
                .to_owned(),
        };
    }
    let port = match TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)) {
        Ok(_) => PORT,
        Err(_) => 0,
    };
    Chosen {
        url: format!("embedded://127.0.0.1:{port}"),
        found: "none answers on this machine or at the router: the appliance brings its own, for this machine only"
            .to_owned(),
    }
}

fn try_out(url: &BrokerUrl) -> Result<(), TrialError> {
    let machine = crate::config::Machine::this().device_id();
    match Topics::new("visualpath", machine.as_str()) {
        Ok(topics) => trial(&MqttOptions::new(url.clone(), topics), PATIENCE).map(|_| ()),
        // A device id is one by construction.
        Err(e) => Err(TrialError::Unreachable {
            url: url.clone(),
            reason: e.to_string(),
        }),
    }
}

/// The default gateway in `/proc/net/route`: addresses in hexadecimal, as they lie in memory.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (to, via) = (fields.next()?, fields.next()?);
        if to != "00000000" {
            return None;
        }
        let via = u32::from_str_radix(via, 16).ok()?;
        let via = Ipv4Addr::from(via.to_ne_bytes());
        (!via.is_unspecified()).then_some(via)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_router_is_the_default_gateway() {
        let routes = "Iface\tDestination\tGateway \tFlags\n\
                      eth0\t0000A8C0\t00000000\t0001\n\
                      eth0\t00000000\t0101A8C0\t0003\n";
        assert_eq!(gateway(routes), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway("Iface\n"), None);
        assert_eq!(gateway(""), None);
    }
}
