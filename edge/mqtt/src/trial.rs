//! One try at a broker, for `doctor` and `init`: connect as the appliance would, publish one message,
//! wait until the broker has it, leave.
//!
//! It has a client id of its own and no last will: an appliance that is running stays connected, and
//! its `status` is left alone.

use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, MqttOptions as ClientOptions,
    Packet, PublishOptions, QoS,
};

use crate::publisher::MqttOptions;
use crate::url::{BrokerUrl, Scheme};

/// How long a DISCONNECT may take to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// What a try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// From the first packet to the broker's acceptance.
    pub connect: Duration,
    /// From the message to its acknowledgement.
    pub publish: Duration,
}

/// Why a broker can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// `embedded://` is a broker that is not there until the appliance runs.
    #[error("{0} is the appliance's own broker: there is none to try before it runs")]
    Embedded(BrokerUrl),
    /// Nobody answers there.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The broker.
        url: BrokerUrl,
        /// What the system or the client said.
        reason: String,
    },
    /// It answers, and does not let us in.
    #[error("{url}: the broker refuses the connection: {code:?}")]
    Refused {
        /// The broker.
        url: BrokerUrl,
        /// Its answer (MQTT 3.1.1, 3.2.2.3).
        code: ConnectReturnCode,
    },
    /// It took the connection, and not the message.
    #[error("{url}: connected, but the message was not acknowledged: {reason}")]
    NotAcknowledged {
        /// The broker.
        url: BrokerUrl,
        /// What happened instead.
        reason: String,
    },
    /// No runtime.
    #[error("the MQTT client can't be started: {0}")]
    Runtime(#[from] std::io::Error),
}

impl TrialError {
    /// Whether the broker answered and wants another user or password.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Connects with these options, publishes one message with QoS 1, not retained, to
/// `<prefix>/<device>/doctor`, and disconnects. Blocks for at most `limit`.
///
/// # Errors
/// Says what the broker, or the system, answered.
pub fn trial(options: &MqttOptions, limit: Duration) -> Result<Trial, TrialError> {
    if options.url.scheme == Scheme::Embedded {
        return Err(TrialError::Embedded(options.url.clone()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut connect = None;
    let tried = runtime.block_on(async {
        tokio::time::timeout(limit, one_message(options, limit, &mut connect)).await
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    tried.unwrap_or_else(|_| {
        let (url, reason) = (
            options.url.clone(),
            format!("no answer within {} s", limit.as_secs_f32()),
        );
        Err(match connect {
            None => TrialError::Unreachable { url, reason },
            Some(_) => TrialError::NotAcknowledged { url, reason },
        })
    })
}

async fn one_message(
    options: &MqttOptions,
    limit: Duration,
    connect: &mut Option<Duration>,
) -> Result<Trial, TrialError> {
    let url = || options.url.clone();
    let broker = Broker::tcp(options.url.bracketed_host(), options.url.port);
    let id = format!("{}-doctor-{}", options.client_id, std::process::id());
    let mut client_options = ClientOptions::new(id, broker);
    client_options.set_clean_session(true);
    match options.credentials() {
        (Some(user), Some(password)) => {
            client_options.set_credentials(user, password);
        }
        (Some(user), None) => {
            client_options.set_username(user);
        }
        (None, _) => {}
    }
    let (client, mut event_loop) = AsyncClient::builder(client_options).capacity(4).build();
    let mut network = event_loop.network_options();
    network.set_connection_timeout(limit.as_secs().max(1));
    event_loop.set_network_options(network);
    let began = Instant::now();
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                *connect = Some(began.elapsed());
                client
                    .try_publish(
                        options.topics.doctor().as_str(),
                        "a test by visualpath doctor",
                        PublishOptions::new(QoS::AtLeastOnce),
                    )
                    .map_err(|e| TrialError::NotAcknowledged {
                        url: url(),
                        reason: e.to_string(),
                    })?;
            }
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                let connect = connect.unwrap_or_default();
                let publish = began.elapsed().saturating_sub(connect);
                if let Err(error) = client.try_disconnect() {
                    tracing::debug!(%error, "no DISCONNECT could be sent");
                }
                // Until the DISCONNECT has left, which ends the event loop with an error.
                let leaving = async { while event_loop.poll().await.is_ok() {} };
                if tokio::time::timeout(GOODBYE, leaving).await.is_err() {
                    tracing::debug!("the DISCONNECT did not leave in time");
                }
                return Ok(Trial { connect, publish });
            }
            Ok(_) => {}
            Err(ConnectionError::ConnectionRefused(code)) => {
                return Err(TrialError::Refused { url: url(), code });
            }
            Err(error) => {
                let (url, reason) = (url(), error.to_string());
                return Err(match connect {
                    None => TrialError::Unreachable { url, reason },
                    Some(_) => TrialError::NotAcknowledged { url, reason },
                });
            }
        }
    }
}
