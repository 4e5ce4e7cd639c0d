//! Asks a running appliance to do something, over its broker, and waits for the answer: the other
//! end of [`crate::command`], for `visualpath clip cut`.

use std::time::Duration;

use rumqttc::{
    AsyncClient, Broker, ConnectReturnCode, ConnectionError, Event, EventLoop,
    MqttOptions as ClientOptions, Packet, Publish, PublishOptions, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use serde_json::{Map, Value};

use crate::command::{CommandError, CommandId, CommandPayload, CommandResponse};
use crate::publisher::{MAX_PACKET, MqttOptions, OFFLINE};
use crate::url::{BrokerUrl, Scheme};

/// How long connecting may take, however long the answer may.
const CONNECT_S: u64 = 20;
/// How long a DISCONNECT may take to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// `embedded://` with port 0: only the appliance knows its port.
    #[error(
        "{0} takes any free port, which only the running appliance knows: name the port that its \
         first line says (mqtt://127.0.0.1:PORT)"
    )]
    Embedded(Box<BrokerUrl>),
    /// Nobody answers there.
    #[error("{url}: the broker can't be reached: {reason}")]
    Unreachable {
        /// The broker.
        url: Box<BrokerUrl>,
        /// What the system or the client said.
        reason: String,
    },
    /// It answers, and does not let us in.
    #[error("{url}: the broker refuses the connection: {code:?}")]
    Refused {
        /// The broker.
        url: Box<BrokerUrl>,
        /// Its answer (MQTT 3.1.1, 3.2.2.3).
        code: ConnectReturnCode,
    },
    /// We may not hear the answers.
    #[error("{url}: the broker does not let this client read `{topic}` (its access rules)")]
    Subscribe {
        /// The broker.
        url: Box<BrokerUrl>,
        /// Where answers come.
        topic: String,
    },
    /// The broker says that the appliance is not there.
    #[error("the appliance `{device}` is offline: the broker {url} says so at `{topic}`")]
    Offline {
        /// The broker.
        url: Box<BrokerUrl>,
        /// Who was asked.
        device: String,
        /// Where.
        topic: String,
    },
    /// No answer came.
    #[error(
        "the appliance `{device}` did not answer within {waited_s} s at {url} (it {state}); nothing \
         is known of what it did"
    )]
    NoAnswer {
        /// The broker.
        url: Box<BrokerUrl>,
        /// Who was asked.
        device: String,
        /// How long it was waited for.
        waited_s: f64,
        /// What is known of it.
        state: &'static str,
    },
    /// It answered that it can't.
    #[error("{0}")]
    Failed(CommandError),
    /// No runtime.
    #[error("the MQTT client can't be started: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What is known of the appliance when no answer came.
#[derive(Default)]
struct Seen {
    connected: bool,
    asked: bool,
    online: bool,
}

/// Sends a command to the appliance of `options.topics` and gives the result it answers with.
/// Blocks for at most `limit`, plus half a second.
///
/// # Errors
/// Why there is no result; see [`AskError`].
pub fn ask(
    options: &MqttOptions,
    verb: &str,
    args: Map<String, Value>,
    limit: Duration,
) -> Result<Value, AskError> {
    if options.url.scheme == Scheme::Embedded && options.url.port == 0 {
        return Err(AskError::Embedded(Box::new(options.url.clone())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut seen = Seen::default();
    let asked = runtime.block_on(async {
        tokio::time::timeout(limit, answer(options, verb, args, limit, &mut seen)).await
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    asked.unwrap_or_else(|_| Err(no_answer(options, limit, &seen)))
}

fn no_answer(options: &MqttOptions, limit: Duration, seen: &Seen) -> AskError {
    let url = Box::new(options.url.clone());
    if !seen.connected {
        let reason = format!("no answer within {} s", limit.as_secs_f32());
        return AskError::Unreachable { url, reason };
    }
    AskError::NoAnswer {
        url,
        device: options.topics.device().to_owned(),
        waited_s: limit.as_secs_f64(),
        state: match (seen.asked, seen.online) {
            (true, true) => "says it is online",
            (true, false) => "has never been seen there: check device.id and mqtt.prefix",
            (false, _) => "was not asked: the broker did not confirm the subscription",
        },
    }
}

async fn answer(
    options: &MqttOptions,
    verb: &str,
    args: Map<String, Value>,
    limit: Duration,
    seen: &mut Seen,
) -> Result<Value, AskError> {
    let url = || Box::new(options.url.clone());
    let topics = &options.topics;
    let (to, from, status) = (topics.command(), topics.command_response(), topics.status());
    let id = CommandId::new();
    let payload = CommandPayload {
        id: Some(id.clone()),
        verb: verb.to_owned(),
        args,
    };
    // Plain structs of strings, numbers and flags always serialise.
    let payload = serde_json::to_vec(&payload).unwrap_or_default();
    let (client, mut event_loop) = AsyncClient::builder(client_options(options, &id))
        .capacity(4)
        .build();
    let mut network = event_loop.network_options();
    network.set_connection_timeout(limit.as_secs().clamp(1, CONNECT_S));
    event_loop.set_network_options(network);
    let failed = |e: rumqttc::ClientError| AskError::Unreachable {
        url: Box::new(options.url.clone()),
        reason: e.to_string(),
    };
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                seen.connected = true;
                let filters = [&from, &status]
                    .map(|t| SubscribeFilter::new(t.as_str().to_owned(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters).map_err(failed)?;
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                if ack.return_codes.first() == Some(&SubscribeReasonCode::Failure) {
                    let topic = from.to_string();
                    return Err(AskError::Subscribe { url: url(), topic });
                }
                let publish = PublishOptions::new(QoS::AtLeastOnce);
                client
                    .try_publish(to.as_str(), payload.clone(), publish)
                    .map_err(failed)?;
                seen.asked = true;
            }
            Ok(Event::Incoming(Packet::Publish(p))) if p.topic == status.as_str() => {
                seen.online = p.payload != OFFLINE;
                if !seen.online {
                    return Err(AskError::Offline {
                        url: url(),
                        device: topics.device().to_owned(),
                        topic: status.to_string(),
                    });
                }
            }
            Ok(Event::Incoming(Packet::Publish(p))) => {
                if let Some(response) = response_to(&id, &p) {
                    leave(&client, &mut event_loop).await;
                    return response.outcome().map_err(AskError::Failed);
                }
            }
            Ok(_) => {}
            Err(ConnectionError::ConnectionRefused(code)) => {
                return Err(AskError::Refused { url: url(), code });
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(AskError::Unreachable { url: url(), reason });
            }
        }
    }
}

fn client_options(options: &MqttOptions, id: &CommandId) -> ClientOptions {
    let broker = Broker::tcp(options.url.bracketed_host(), options.url.port);
    let client_id = format!("{}-ask-{id}", options.client_id);
    let mut client_options = ClientOptions::new(client_id, broker);
    client_options
        .set_clean_session(true)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET);
    match options.credentials() {
        (Some(user), Some(password)) => {
            client_options.set_credentials(user, password);
        }
        (Some(user), None) => {
            client_options.set_username(user);
        }
        (None, _) => {}
    }
    client_options
}

/// Others ask too, and a broker holds what anybody says.
fn response_to(id: &CommandId, message: &Publish) -> Option<CommandResponse> {
    let response: CommandResponse = serde_json::from_slice(&message.payload).ok()?;
    (response.id.as_ref() == Some(id)).then_some(response)
}

async fn leave(client: &AsyncClient, event_loop: &mut EventLoop) {
    if let Err(error) = client.try_disconnect() {
        tracing::debug!(%error, "no DISCONNECT could be sent");
        return;
    }
    // Until the DISCONNECT has left, which ends the event loop with an error.
    let leaving = async { while event_loop.poll().await.is_ok() {} };
    if tokio::time::timeout(GOODBYE, leaving).await.is_err() {
        tracing::debug!("the DISCONNECT did not leave in time");
    }
}
