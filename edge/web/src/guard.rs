//! Who may ask: token, `Host`, `Origin`, content type.
//!
//! Without a token the server is on loopback only, and whoever is on the machine may ask. A web page
//! in a browser there is on the machine, too, but must not: its requests are told by their `Origin`
//! (a page of another site that posts), by their content type (a form that posts), or by their
//! `Host` (a page whose own name was made to resolve to 127.0.0.1).

use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::refusal::Refusal;
use crate::routes::Shared;

/// Shortest token in bytes.
const TOKEN_MIN: usize = 16;
/// Longest; it has to fit a header.
const TOKEN_MAX: usize = 1024;
/// Routes that never need the token: they tell no more than one word.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What every request has to carry.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why a text is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("`{path}` can't be read: {error}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Too easy to guess.
    #[error(
        "the token has {0} bytes, {TOKEN_MIN} are the least: `head -c 24 /dev/urandom | base64` makes one"
    )]
    Short(usize),
    /// Too long for a header.
    #[error("the token has {0} bytes, {TOKEN_MAX} are the most")]
    Long(usize),
    /// A header can't carry it.
    #[error("the token must be visible ASCII without spaces")]
    Characters,
}

impl Token {
    /// A token of this text.
    ///
    /// # Errors
    /// It is too short, too long, or not visible ASCII.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        match text.len() {
            n if n < TOKEN_MIN => Err(TokenError::Short(n)),
            n if n > TOKEN_MAX => Err(TokenError::Long(n)),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => Err(TokenError::Characters),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The first line of a file. One that others on the machine can read is used, with a warning.
    ///
    /// # Errors
    /// As [`Token::new`], and if the file can't be read.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path).map_err(|error| TokenError::Read {
            path: path.display().to_string(),
            error,
        })?;
        let token = Self::new(text.lines().next().unwrap_or_default().trim())?;
        match std::fs::metadata(path) {
            Ok(about) if is_open(about.mode()) => {
                let mode = about.mode() & 0o777;
                tracing::warn!(
                    file = %path.display(),
                    "others on this machine can read the token (mode {mode:o}): chmod 600 it"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "can't tell who can read the token");
            }
        }
        Ok(token)
    }

    /// Compared in a time that does not tell how much of it is right.
    fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whether a file of this mode can be read by its group or by anybody.
fn is_open(mode: u32) -> bool {
    mode & 0o044 != 0
}

/// Lets a request through, or says why not.
pub(crate) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match check(&request, shared.token.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn check(request: &Request, token: Option<&Token>) -> Result<(), Refusal> {
    let headers = request.headers();
    let host = host(headers)?;
    match token {
        Some(_) if OPEN.contains(&request.uri().path()) => {}
        Some(token) => bearer(headers, token)?,
        None if is_this_machine(host) => {}
        None => {
            let message = format!(
                "this server is for this machine: ask for localhost, 127.0.0.1 or [::1], not for `{}`",
                shortened(host)
            );
            return Err(Refusal::new("bad_host", message));
        }
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    for origin in headers.get_all(header::ORIGIN) {
        if !is_same_site(origin, host) {
            let message = "a page of another site may not ask for this";
            return Err(Refusal::new("bad_origin", message));
        }
    }
    let has_body = !request.body().is_end_stream();
    if has_body && !is_json(headers) {
        let message = "the body must be JSON, with Content-Type: application/json";
        return Err(Refusal::new("bad_content_type", message));
    }
    Ok(())
}

/// The one `Host`; HTTP/1.1 demands exactly one (RFC 9112, 3.2).
fn host(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all(header::HOST).iter();
    match (all.next().map(HeaderValue::to_str), all.next()) {
        (Some(Ok(host)), None) => Ok(host),
        _ => Err(Refusal::new(
            "bad_request",
            "exactly one Host header is needed",
        )),
    }
}

fn bearer(headers: &HeaderMap, token: &Token) -> Result<(), Refusal> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, given)| given.trim_ascii());
    match given {
        Some(given) if token.is(given) => Ok(()),
        _ => {
            let message = "send `Authorization: Bearer` with the token of web.token_file";
            let scheme = HeaderValue::from_static("Bearer");
            Err(Refusal::new("unauthorized", message).with(header::WWW_AUTHENTICATE, scheme))
        }
    }
}

/// Whether a `Host` names this machine itself, whatever the port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let v6 = address.parse() == Ok(Ipv6Addr::LOCALHOST);
            return v6 && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    let address: Result<IpAddr, _> = name.parse();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// Whether a page of `origin` was served by `host` (RFC 6454, 7.1: `scheme://host[:port]` or
/// `null`).
fn is_same_site(origin: &HeaderValue, host: &str) -> bool {
    let Some((_, authority)) = origin.to_str().ok().and_then(|o| o.split_once("://")) else {
        return false;
    };
    let bare = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.strip_suffix(":80").map_or(text.clone(), str::to_owned)
    };
    bare(authority) == bare(host)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// What a stranger wrote, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_very_machine_are_its_host() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.0.0.1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "[::1]evil",
            "[::1]:x",
            "::1",
            "192.168.0.2",
            "[fe80::1]",
            "localhost:",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn an_origin_counts_as_the_same_only_with_host_and_port() {
        let is = |origin: &'static str, host| is_same_site(&HeaderValue::from_static(origin), host);
        assert!(is("http://localhost:8080", "localhost:8080"));
        assert!(is("http://LocalHost", "localhost:80"));
        for (origin, host) in [
            ("null", "localhost:8080"),
            ("", "localhost:8080"),
            ("http://localhost:8081", "localhost:8080"),
            ("http://localhost", "localhost:8080"),
            ("http://evil.example", "localhost:8080"),
            ("http://localhost:8080.evil.example", "localhost:8080"),
        ] {
            assert!(!is(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_open() {
        for mode in [0o100_644, 0o100_640, 0o100_604, 0o100_444] {
            assert!(is_open(mode), "{mode:o}");
        }
        for mode in [0o100_600, 0o100_400, 0o100_700, 0o100_622] {
            assert!(!is_open(mode), "{mode:o}");
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_or_sent_by_no_header_is_none() {
        assert!(Token::new("0123456789abcdef").is_ok());
        for bad in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdé0",
        ] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
        assert!(Token::new(&"x".repeat(TOKEN_MAX + 1)).is_err());
        let shown = format!("{:?}", Token::new("0123456789abcdef"));
        assert!(!shown.contains("0123"), "{shown}");
    }
}
