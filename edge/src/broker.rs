//! The broker side of a run: the embedded broker if asked for, and the publisher.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use serde::Serialize;
use visualpath_core::Clock;
use visualpath_mqtt::{
    BrokerUrl, Command, CommandOptions, MqttOptions, Publisher, PublisherError, PublisherHandle,
    Scheme, TopicError, Topics, UrlError, parse_url,
};

use crate::commands::CommandVerb;
use crate::config::Config;

/// `mqtt.url` that turns publishing off.
pub const OFF: &str = "off";

/// Why there is no publisher.
#[derive(Debug, thiserror::Error)]
pub enum BrokerStartError {
    /// The address.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Prefix or device.
    #[error("mqtt.prefix: {0}")]
    Topics(#[from] TopicError),
    /// The embedded broker.
    #[error("mqtt.url: {0}")]
    Embedded(String),
    /// The password file.
    #[error("mqtt.password_file: {path}: {error}")]
    Password {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The publisher.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
}

/// First line of `run --json`: where to subscribe.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    event: &'static str,
    version: &'static str,
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    web: Option<WebAddress>,
}

#[derive(Debug, Clone, Serialize)]
struct WebAddress {
    host: String,
    port: u16,
}

impl Ready {
    /// With where HTTP is served, if it is.
    #[must_use]
    pub fn with_web(mut self, address: Option<std::net::SocketAddr>) -> Self {
        self.web = address.map(|a| WebAddress {
            host: a.ip().to_string(),
            port: a.port(),
        });
        self
    }
}

#[derive(Debug, Clone, Serialize)]
struct Address {
    host: String,
    port: u16,
    prefix: String,
}

/// How a publisher of this config reaches the broker at `url`.
///
/// # Errors
/// If prefix and device make no topics, or the password file can't be read.
pub fn options(config: &Config, url: BrokerUrl) -> Result<MqttOptions, BrokerStartError> {
    let topics = Topics::new(&config.mqtt.prefix, config.device_id())?;
    let mut options = MqttOptions::new(url, topics);
    options.username.clone_from(&config.mqtt.username);
    if let Some(path) = &config.mqtt.password_file {
        let text = std::fs::read_to_string(path).map_err(|error| BrokerStartError::Password {
            path: path.display().to_string(),
            error,
        })?;
        options.password = text.lines().next().map(str::to_owned);
    }
    Ok(options)
}

fn words(verbs: &[CommandVerb]) -> Vec<String> {
    verbs.iter().map(|v| v.word().to_owned()).collect()
}

/// A running publisher and, perhaps, its own broker.
pub struct Broker {
    publisher: Option<Arc<PublisherHandle>>,
    #[cfg(feature = "embedded-broker")]
    embedded: Option<visualpath_mqtt::EmbeddedBroker>,
    ready: Ready,
}

/// How long a broker that is not there is waited for at the end.
const ABSENT: Duration = Duration::from_secs(5);

/// After the last acknowledgement the embedded broker still has to hand messages to subscribers;
/// it can't be asked whether it has, so it gets this long before it goes with the process.
#[cfg(feature = "embedded-broker")]
const EMBEDDED_LINGER: Duration = Duration::from_millis(500);

impl Broker {
    /// Starts what `[mqtt]` asks for. A broker that is not there is no error: the publisher goes
    /// on trying. Commands go to `commands`, as far as the config allows them.
    ///
    /// # Errors
    /// If the address, the password file or the embedded broker's port can't be used.
    pub fn start(
        config: &Config,
        clock: Arc<dyn Clock>,
        commands: Option<Sender<Command>>,
    ) -> Result<Self, BrokerStartError> {
        let device = config.device_id().to_owned();
        let mut this = Self {
            publisher: None,
            #[cfg(feature = "embedded-broker")]
            embedded: None,
            ready: Ready {
                event: "ready",
                version: env!("CARGO_PKG_VERSION"),
                device,
                mqtt: None,
                web: None,
            },
        };
        let text = config.mqtt.url.as_str();
        if text == OFF {
            return Ok(this);
        }
        let mut url = parse_url(text)?;
        if url.scheme == Scheme::Embedded {
            url = this.embed(&url)?;
        }
        let mut options = options(config, url.clone())?;
        // Where none is allowed, nothing is subscribed to.
        options.commands = commands
            .filter(|_| !config.mqtt.commands.is_empty())
            .map(|to| CommandOptions {
                known: words(&CommandVerb::ALL),
                allowed: words(&config.mqtt.commands),
                to,
            });
        this.ready.mqtt = Some(Address {
            host: url.host.clone(),
            port: url.port,
            prefix: config.mqtt.prefix.clone(),
        });
        this.publisher = Some(Arc::new(Publisher::start(options, clock)?));
        Ok(this)
    }

    #[cfg(feature = "embedded-broker")]
    fn embed(&mut self, url: &BrokerUrl) -> Result<BrokerUrl, BrokerStartError> {
        let failed = |e: visualpath_mqtt::BrokerError| BrokerStartError::Embedded(e.to_string());
        let Some(listen) = url.loopback() else {
            return Err(BrokerStartError::Embedded(format!(
                "{url} is not on loopback"
            )));
        };
        let options = visualpath_mqtt::BrokerOptions {
            listen,
            allow_remote: false,
        };
        let broker = visualpath_mqtt::EmbeddedBroker::start(options).map_err(failed)?;
        let url = broker.url();
        self.embedded = Some(broker);
        Ok(url)
    }

    #[cfg(not(feature = "embedded-broker"))]
    #[expect(clippy::unused_self, reason = "the other build needs it")]
    fn embed(&mut self, url: &BrokerUrl) -> Result<BrokerUrl, BrokerStartError> {
        Err(BrokerStartError::Embedded(format!(
            "{url}: this build has no embedded broker (feature `embedded-broker`); use mqtt://"
        )))
    }

    /// The publisher, unless publishing is off.
    pub fn publisher(&self) -> Option<Arc<PublisherHandle>> {
        self.publisher.clone()
    }

    /// What `run --json` prints first.
    pub fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// Publishes what is left, for at most `left`. Gives the number of messages that stay
    /// unacknowledged.
    pub fn finish(self, left: Duration) -> u64 {
        let Some(publisher) = &self.publisher else {
            return 0;
        };
        // A broker that was never there is not worth the whole deadline.
        let patience = if publisher.connected() {
            left
        } else {
            left.min(ABSENT)
        };
        let report = publisher.finish(patience);
        if report.undelivered > 0 {
            tracing::warn!(
                undelivered = report.undelivered,
                "messages were not acknowledged by the broker and, kept in memory only, are lost"
            );
        }
        #[cfg(feature = "embedded-broker")]
        if self.embedded.is_some() {
            std::thread::sleep(EMBEDDED_LINGER);
        }
        report.undelivered
    }
}
