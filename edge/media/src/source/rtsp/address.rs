//! An RTSP address: what is connected to, with what credentials.

use std::fmt;

use retina::client::Credentials;
use url::Url;

use super::{RtspOptions, redacted};

/// Where a camera is. Shown without its secrets.
#[derive(Clone)]
pub(super) struct Address {
    /// Without credentials: what is sent.
    pub(super) url: Url,
    /// Given in the options, else in the address.
    pub(super) credentials: Option<Credentials>,
    shown: String,
}

/// Why an address can't be used. It never will be, so this ends the source.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// `rtsps://`.
    #[error(
        "RTSP over TLS is not supported; use `rtsp://` inside your own network or through a tunnel"
    )]
    Tls,
    /// It can't be understood.
    #[error(
        "is not an address ({0}); write `rtsp://user:password@host:554/path`, with `%40` for an @ in the password, `%2F` for a /, `%3A` for a :"
    )]
    Malformed(url::ParseError),
    /// There is no host in it.
    #[error("names no host; write `rtsp://user:password@host:554/path`")]
    NoHost,
    /// Escaped bytes of the user or the password are no text.
    #[error("user or password is not UTF-8 after resolving its %-escapes; check them")]
    Credentials,
}

impl Address {
    pub(super) fn parse(uri: &str, options: &RtspOptions) -> Result<Self, AddressError> {
        let mut url = Url::parse(uri).map_err(AddressError::Malformed)?;
        if url.scheme() != "rtsp" {
            return Err(AddressError::Tls);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(AddressError::NoHost);
        }
        let in_url = |text: &str| unescaped(text).ok_or(AddressError::Credentials);
        let username = match &options.username {
            Some(name) => name.clone(),
            None => in_url(url.username())?,
        };
        let password = match (&options.password, url.password()) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(password)) => Some(in_url(password)?),
            (None, None) => None,
        };
        let credentials = (!username.is_empty() || password.is_some()).then(|| Credentials {
            username,
            password: password.unwrap_or_default(),
        });
        // Only a URL without a host can refuse this.
        url.set_username("").map_err(|()| AddressError::NoHost)?;
        url.set_password(None).map_err(|()| AddressError::NoHost)?;
        Ok(Self {
            url,
            credentials,
            shown: redacted(uri),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

/// `%41` is `A`; a `%` that begins no escape is a `%`.
fn unescaped(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escape.unwrap_or(byte));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<Address, AddressError> {
        Address::parse(uri, &RtspOptions::default())
    }

    #[test]
    fn credentials_are_taken_out_of_the_address_and_unescaped() {
        let a = parse("rtsp://admin:p%40s%3A%25@cam.local:8554/live?ch=1").unwrap();
        assert_eq!(a.url.as_str(), "rtsp://cam.local:8554/live?ch=1");
        let credentials = a.credentials.clone().unwrap();
        assert_eq!(credentials.username, "admin");
        assert_eq!(credentials.password, "p@s:%");
        assert_eq!(a.to_string(), "rtsp://***@cam.local:8554/live?ch=1");
        assert_eq!(
            format!("{a:?}"),
            r#"Address("rtsp://***@cam.local:8554/live?ch=1")"#
        );
    }

    #[test]
    fn options_go_before_the_address_and_are_never_shown() {
        let options = RtspOptions {
            username: Some("other".into()),
            password: Some("hidden".into()),
            ..RtspOptions::default()
        };
        let a = Address::parse("rtsp://admin:old@[::1]/x", &options).unwrap();
        let credentials = a.credentials.unwrap();
        assert_eq!(
            (&*credentials.username, &*credentials.password),
            ("other", "hidden")
        );
        assert_eq!(a.url.as_str(), "rtsp://[::1]/x");
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("hidden") && !shown.contains("other"),
            "{shown}"
        );
    }

    #[test]
    fn an_address_that_can_not_work_says_how_to_write_it() {
        assert!(parse("rtsp://cam/x").unwrap().credentials.is_none());
        for (uri, word) in [
            ("rtsps://cam/x", "TLS"),
            ("rtsp://", "names no host"),
            ("rtsp:///x", "names no host"),
            ("rtsp://admin:s3cret/x@cam/", "%2F"),
            ("rtsp://u:%ff@cam/", "UTF-8"),
        ] {
            let said = parse(uri).unwrap_err().to_string();
            assert!(
                said.contains(word) && !said.contains("s3cret"),
                "{uri}: {said}"
            );
        }
    }
}
