//! Where HTTP is served.

use std::net::SocketAddr;

use super::model::WebConfig;

/// `web.listen` that turns the server off.
const OFF: &str = "off";
/// Where it listens if nobody says.
const DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

impl WebConfig {
    /// No server.
    pub fn off() -> Self {
        Self {
            listen: Some(OFF.to_owned()),
            token_file: None,
        }
    }

    /// Where to listen; `None` if not at all.
    ///
    /// # Errors
    /// What is wrong with `web.listen`.
    pub fn address(&self) -> Result<Option<SocketAddr>, String> {
        let Some(text) = self.listen.as_deref() else {
            return Ok(Some(DEFAULT));
        };
        if text == OFF {
            return Ok(None);
        }
        let numbers = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        numbers.parse().map(Some).map_err(|_| {
            format!("`{text}` is no address: expected e.g. `{DEFAULT}`, `0.0.0.0:8080`, `[::]:8080` or `{OFF}`")
        })
    }

    /// Whether somebody said where.
    pub fn is_asked_for(&self) -> bool {
        self.listen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_numbers_or_this_machine_or_off() {
        let at = |text: &str| {
            WebConfig {
                listen: Some(text.to_owned()),
                ..WebConfig::default()
            }
            .address()
        };
        for (text, there) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:81", "127.0.0.1:81"),
            ("[::1]:8080", "[::1]:8080"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(at(text), Ok(there.parse().ok()), "{text}");
        }
        assert_eq!(at("off"), Ok(None));
        assert_eq!(WebConfig::off().address(), Ok(None));
        assert_eq!(WebConfig::default().address(), Ok(Some(DEFAULT)));
        for wrong in [
            "",
            "8080",
            ":8080",
            "127.0.0.1",
            "camera.lan:80",
            "127.0.0.1:99999",
            "OFF",
            "http://127.0.0.1:80",
        ] {
            let said = at(wrong).expect_err(wrong);
            assert!(said.contains("127.0.0.1:8080"), "{said}");
        }
    }
}
