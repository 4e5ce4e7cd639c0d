//! `mqtt.url`: which broker, in one line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use visualpath_core::nearest;

/// How the broker is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// A broker somewhere, plain TCP.
    Mqtt,
    /// A broker inside this process, on a loopback address; port 0 takes a free one.
    Embedded,
}

/// A checked `mqtt.url`.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// How.
    pub scheme: Scheme,
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port; 0 only for [`Scheme::Embedded`].
    pub port: u16,
    /// From `user@` or `user:password@`.
    pub username: Option<String>,
    /// From `user:password@`.
    pub password: Option<String>,
}

const SCHEMES: [&str; 3] = ["mqtt", "mqtts", "embedded"];
const DEFAULT_PORT: u16 = 1883;

/// Why a text is no `mqtt.url`. Texts that may hold a password are not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `scheme://`.
    #[error("mqtt.url has no scheme: expected mqtt://HOST:PORT or embedded://127.0.0.1:PORT")]
    NoScheme,
    /// Not one of ours.
    #[error("mqtt.url: unknown scheme `{scheme}://`, expected mqtt:// or embedded://{hint}")]
    Scheme {
        /// As written.
        scheme: String,
        /// ` (did you mean …?)` or empty.
        hint: String,
    },
    /// TLS.
    #[error(
        "mqtt.url: mqtts:// (TLS) is not built in yet. Use mqtt:// on a network you trust, or \
         mqtt://127.0.0.1 with a TLS tunnel or a bridging broker on this machine"
    )]
    Tls,
    /// The feature is off.
    #[error(
        "mqtt.url: embedded:// is not in this build (feature `embedded`): run a broker such as \
         mosquitto and use mqtt://127.0.0.1:1883"
    )]
    NotEmbedded,
    /// Nothing between `//` and the port.
    #[error("mqtt.url has no host: expected e.g. mqtt://127.0.0.1:1883")]
    NoHost,
    /// A character no host name has.
    #[error("mqtt.url: `{0}` is not a host name or address (an IPv6 address needs [ ])")]
    Host(String),
    /// Not 1–65535.
    #[error("mqtt.url: `{0}` is not a port: expected 1-65535 (0, any free one, with embedded://)")]
    Port(String),
    /// Something after host and port.
    #[error(
        "mqtt.url ends in `{0}`: expected nothing after HOST:PORT (topics begin with mqtt.prefix)"
    )]
    Tail(String),
    /// A bad `%` escape or an empty user.
    #[error(
        "mqtt.url: user or password is malformed: write @ : / ? # % in them as %40 %3A %2F %3F %23 %25"
    )]
    UserInfo,
    /// `embedded://user@…`.
    #[error("mqtt.url: embedded:// takes no user or password, it listens on loopback only")]
    EmbeddedUser,
    /// An embedded broker open to the network.
    #[error(
        "mqtt.url: embedded://{0} is refused: the embedded broker has no passwords and listens on \
         loopback only. Use embedded://127.0.0.1:PORT, or a real broker for other machines"
    )]
    EmbeddedHost(String),
}

/// Reads `mqtt://[user[:password]@]host[:port]` or `embedded://127.0.0.1[:port]`.
///
/// The port is 1883 if absent. User and password may hold `%` escapes (RFC 3986, 2.1).
pub fn parse_url(text: &str) -> Result<BrokerUrl, UrlError> {
    let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::NoScheme)?;
    let scheme = match scheme {
        "mqtt" => Scheme::Mqtt,
        "embedded" if cfg!(feature = "embedded") => Scheme::Embedded,
        "embedded" => return Err(UrlError::NotEmbedded),
        "mqtts" => return Err(UrlError::Tls),
        other => {
            let hint = nearest(other, SCHEMES)
                .first()
                .map(|n| format!(" (did you mean {n}://?)"))
                .unwrap_or_default();
            return Err(UrlError::Scheme {
                scheme: other.to_owned(),
                hint,
            });
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // The last @ ends the user part: a host has none, a careless password may.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    if let Some(at) = rest.find(['/', '?', '#']) {
        return Err(UrlError::Tail(rest[at..].to_owned()));
    }
    let (username, password) = user.map(user_info).transpose()?.unwrap_or_default();
    let (host, port) = host_port(rest)?;
    let url = BrokerUrl {
        scheme,
        host: host.to_owned(),
        port,
        username,
        password,
    };
    match scheme {
        Scheme::Mqtt if port == 0 => Err(UrlError::Port("0".to_owned())),
        Scheme::Embedded if url.username.is_some() => Err(UrlError::EmbeddedUser),
        Scheme::Embedded if url.loopback().is_none() => Err(UrlError::EmbeddedHost(url.host)),
        _ => Ok(url),
    }
}

fn host_port(text: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest
            .split_once(']')
            .ok_or_else(|| UrlError::Host(text.to_owned()))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(UrlError::Host(host.to_owned()));
        }
        (host, port)
    } else {
        let at = text.find(':').unwrap_or(text.len());
        let host = &text[..at];
        if text.matches(':').count() > 1 {
            return Err(UrlError::Host(text.to_owned()));
        }
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(UrlError::Host(host.to_owned()));
        }
        (host, &text[at..])
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        None => return Err(UrlError::Host(text.to_owned())),
        // `parse` would take a sign.
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => {
            p.parse().map_err(|_| UrlError::Port(p.to_owned()))?
        }
        Some(p) => return Err(UrlError::Port(p.to_owned())),
    };
    Ok((host, port))
}

fn user_info(text: &str) -> Result<(Option<String>, Option<String>), UrlError> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    if user.is_empty() {
        return Err(UrlError::UserInfo);
    }
    Ok((
        Some(percent_decoded(user)?),
        password.map(percent_decoded).transpose()?,
    ))
}

fn percent_decoded(text: &str) -> Result<String, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || {
            let d = bytes.next().map(char::from)?.to_digit(16)?;
            u8::try_from(d).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push(high * 16 + low),
            _ => return Err(UrlError::UserInfo),
        }
    }
    String::from_utf8(out).map_err(|_| UrlError::UserInfo)
}

impl BrokerUrl {
    /// `mqtt://` to this address, without credentials.
    pub fn mqtt(address: SocketAddr) -> Self {
        Self {
            scheme: Scheme::Mqtt,
            host: address.ip().to_string(),
            port: address.port(),
            username: None,
            password: None,
        }
    }

    /// The address if the host is a loopback address (`localhost` counts as 127.0.0.1).
    pub fn loopback(&self) -> Option<SocketAddr> {
        let host = if self.host == "localhost" {
            "127.0.0.1"
        } else {
            &self.host
        };
        let ip: IpAddr = host.parse().ok()?;
        ip.is_loopback().then(|| SocketAddr::new(ip, self.port))
    }

    /// The host as a socket address wants it: an IPv6 address in brackets.
    pub(crate) fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// Without user and password, so that it can be logged.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Embedded => "embedded",
        };
        write!(f, "{scheme}://{}:{}", self.bracketed_host(), self.port)
    }
}

/// Like `Display`: a password must not reach a log by way of `{:?}` either.
impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.username.is_some() {
            " (with a user)"
        } else {
            ""
        };
        write!(f, "{self}{user}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_urls_are_taken_apart() {
        let u = parse_url("mqtt://127.0.0.1:1884").unwrap();
        assert_eq!((u.host.as_str(), u.port), ("127.0.0.1", 1884));
        assert_eq!(parse_url("mqtt://broker.local/").unwrap().port, 1883);
        let u = parse_url("mqtt://cam:p%40ss%3a@broker").unwrap();
        assert_eq!(
            (u.username.as_deref(), u.password.as_deref()),
            (Some("cam"), Some("p@ss:"))
        );
        let u = parse_url("mqtt://[::1]:7").unwrap();
        assert_eq!((u.host.as_str(), u.port), ("::1", 7));
        assert_eq!(u.to_string(), "mqtt://[::1]:7");
    }

    #[cfg(feature = "embedded")]
    #[test]
    fn the_embedded_broker_is_asked_for_on_loopback_only() {
        let u = parse_url("embedded://127.0.0.1:0").unwrap();
        assert_eq!((u.scheme, u.port), (Scheme::Embedded, 0));
        assert!(
            parse_url("embedded://localhost")
                .unwrap()
                .loopback()
                .is_some()
        );
        for bad in ["embedded://0.0.0.0:1883", "embedded://broker.local"] {
            assert!(
                matches!(parse_url(bad), Err(UrlError::EmbeddedHost(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn every_wrong_url_gets_its_own_message() {
        for (text, message) in [
            ("", "no scheme"),
            ("127.0.0.1:1883", "no scheme"),
            ("mqqt://a", "did you mean mqtt://?"),
            ("http://a", "unknown scheme `http://`"),
            ("mqtts://a", "not built in yet"),
            ("mqtt://", "no host"),
            ("mqtt://:1883", "no host"),
            ("mqtt://a:", "`` is not a port"),
            ("mqtt://a:0", "`0` is not a port"),
            ("mqtt://a:65536", "`65536` is not a port"),
            ("mqtt://a:+1", "`+1` is not a port"),
            ("mqtt://a:18x", "`18x` is not a port"),
            ("mqtt://a b", "`a b` is not a host"),
            ("mqtt://::1", "needs [ ]"),
            ("mqtt://[::1", "is not a host"),
            ("mqtt://[zz]:1", "`zz` is not a host"),
            ("mqtt://a/topic", "ends in `/topic`"),
            ("mqtt://a:1?x=y", "ends in `?x=y`"),
            ("mqtt://u:%zz@a", "malformed"),
            ("mqtt://:p@a", "malformed"),
        ] {
            let error = parse_url(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let u = parse_url("mqtt://cam:secret@broker:1").unwrap();
        assert!(!format!("{u} {u:?}").contains("secret"));
        let e = parse_url("mqtt://cam:secret@bro ker").unwrap_err();
        assert!(!format!("{e} {e:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_and_what_is_taken_prints_as_itself(text in "\\PC{0,40}") {
            let text = format!("mqtt://{text}");
            if let Ok(u) = parse_url(&text) {
                let again = parse_url(&u.to_string()).unwrap();
                prop_assert_eq!((again.host, again.port), (u.host, u.port));
            }
        }
    }
}
