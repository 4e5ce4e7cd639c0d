//! One connection to the broker, from CONNECT to its end.
//!
//! A connection gets its own MQTT client, and the client dies with it. Whatever queues and session
//! the client has are so at most a copy of what is in flight; the outbox alone knows what is still
//! to be sent. Two tasks share the thread:
//!
//! - the *pump* polls the client's event loop and does nothing else, so nothing that waits on the
//!   client can keep the client from moving;
//! - [`Link::run`] gives the client at most `in_flight` messages, waits for the oldest
//!   acknowledgement (brokers acknowledge in order, MQTT 3.1.1 §4.6), and removes it from the outbox.
//!
//! What comes in are commands: the pump hands them to the inbox, which never waits.
//!
//! The client's request channel is larger than all that can be in flight, so giving never waits.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::{
    AsyncClient, Broker, ConnectionError, Event, EventLoop, LastWill, Packet, PublishNoticeError,
    PublishOptions, PublishResult, QoS, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};

use crate::hearing::{Hearing, Next};
use crate::outbox::{OutboxError, Pending, Position};
use crate::publisher::{MAX_PACKET, MAX_READ, MqttOptions, OFFLINE, ONLINE, Shared, lock};
use crate::topics::Topic;

/// Retained values in flight at most; events have their own limit.
const RETAINED_IN_FLIGHT: usize = 16;
/// Answers to commands in flight at most.
const ANSWERS_IN_FLIGHT: usize = 8;
/// How long a DISCONNECT may take to leave.
const GOODBYE: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All was delivered, `offline` and DISCONNECT were sent.
    Finished,
    /// The deadline of `finish` passed; the broker will publish the last will.
    OutOfTime,
    /// It was lost, or never came up.
    Lost(Loss),
}

/// A connection that was lost or never came up.
#[derive(Debug)]
pub(crate) struct Loss {
    pub error: LinkError,
    /// The broker had accepted the connection.
    pub was_up: bool,
    /// At least one event was acknowledged on it.
    pub delivered: bool,
    /// The oldest event that was in flight.
    pub oldest: Option<Position>,
}

/// Why a connection was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Mqtt(#[from] ConnectionError),
    #[error("the MQTT client failed: {0}")]
    Client(String),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

type Acknowledged = Pin<Box<dyn Future<Output = Result<PublishResult, PublishNoticeError>> + Send>>;

struct Flight {
    what: What,
    acknowledged: Acknowledged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Event(Position),
    Retained,
    Answer,
    Goodbye,
}

pub(crate) struct Link<'a> {
    shared: &'a Arc<Shared>,
    options: &'a MqttOptions,
    client: AsyncClient,
    pump: Pump,
    flights: VecDeque<Flight>,
    /// The answers among them, in the same order.
    answers: VecDeque<Vec<u8>>,
    /// Last event given to the client.
    cursor: Position,
    /// Version of the last retained value given to the client.
    retained: u64,
    /// About commands.
    next: Next,
    was_up: bool,
    delivered: bool,
}

/// The pump's task; it ends with the link, however that ends.
struct Pump(JoinHandle<ConnectionError>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pump(
    mut event_loop: EventLoop,
    up: oneshot::Sender<()>,
    shared: Arc<Shared>,
) -> ConnectionError {
    let mut up = Some(up);
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if let Some(up) = up.take()
                    && up.send(()).is_err()
                {
                    tracing::debug!("the connection came up after it was given up");
                }
            }
            Ok(Event::Incoming(Packet::Publish(p))) => {
                if let (Some(inbox), Ok(topic)) = (&shared.inbox, str::from_utf8(&p.topic)) {
                    lock(&shared.hearing).well();
                    let answer = lock(inbox).take(topic, &p.payload, p.retain);
                    if let Some(answer) = answer {
                        shared.answer(answer);
                    }
                }
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    tracing::error!(
                        "the MQTT broker refuses the subscription to `cmd`: commands do not work. \
                         Let this client read `<prefix>/<device>/cmd` and `cmd/+` (broker's access rules)"
                    );
                }
            }
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

impl<'a> Link<'a> {
    /// Connects and publishes until the connection or the publisher ends.
    pub async fn run(shared: &'a Arc<Shared>, options: &'a MqttOptions) -> Ended {
        let (client, mut event_loop) = AsyncClient::builder(client_options(options))
            .capacity(channel_capacity(options))
            .build();
        let mut network = event_loop.network_options();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(options.connect_timeout.as_secs().max(1));
        event_loop.set_network_options(network);

        let (up_sender, up) = oneshot::channel();
        let mut link = Self {
            shared,
            options,
            client,
            pump: Pump(tokio::spawn(pump(
                event_loop,
                up_sender,
                Arc::clone(shared),
            ))),
            flights: VecDeque::new(),
            answers: VecDeque::new(),
            cursor: Position::START,
            retained: 0,
            next: Next::Nothing,
            was_up: false,
            delivered: false,
        };
        let ended = match link.connect(up).await {
            Ok(true) => link.publish().await,
            Ok(false) => Ok(Ended::OutOfTime),
            Err(error) => Err(error),
        };
        shared.connected.store(false, Ordering::SeqCst);
        while let Some(answer) = link.answers.pop_back() {
            lock(&shared.answers).push_again(answer);
        }
        let oldest = link.oldest_event();
        let settled = lock(&shared.outbox).connection_lost();
        match (ended, settled) {
            (Ok(ended), Ok(())) => ended,
            (Err(error), _) => link.loss(error, oldest),
            (Ok(_), Err(error)) => link.loss(error.into(), oldest),
        }
    }

    fn loss(&self, error: LinkError, oldest: Option<Position>) -> Ended {
        if lock(&self.shared.hearing).lost(self.next) {
            tracing::error!(
                broker = %self.options.url,
                "connection after connection is lost after subscribing to `cmd`: commands are not \
                 heard for a while. Remove a retained message there, let this client read `cmd` \
                 and `cmd/+`, or set mqtt.commands = []"
            );
        }
        Ended::Lost(Loss {
            error,
            was_up: self.was_up,
            delivered: self.delivered,
            oldest,
        })
    }

    fn oldest_event(&self) -> Option<Position> {
        self.flights.iter().find_map(|f| match f.what {
            What::Event(position) => Some(position),
            What::Retained | What::Answer | What::Goodbye => None,
        })
    }

    /// Waits for the broker's acceptance; false if the publisher is to stop before.
    async fn connect(&mut self, mut up: oneshot::Receiver<()>) -> Result<bool, LinkError> {
        loop {
            let stop = self.shared.stop_at();
            if stop.is_some() && lock(&self.shared.outbox).is_empty() {
                return Ok(false);
            }
            tokio::select! {
                up = &mut up => match up {
                    Ok(()) => break,
                    Err(_) => return Err(pump_error((&mut self.pump.0).await)),
                },
                ended = &mut self.pump.0 => return Err(pump_error(ended)),
                () = until(stop) => return Ok(false),
                () = self.shared.wake.notified() => {}
            }
        }
        self.was_up = true;
        self.shared.connected.store(true, Ordering::SeqCst);
        tracing::info!(broker = %self.options.url, "connected to the MQTT broker");
        self.give(
            What::Retained,
            &self.options.topics.status(),
            ONLINE.into(),
            true,
        )?;
        if self.shared.inbox.is_some() {
            let now = Instant::now();
            self.next = lock(&self.shared.hearing).begin(now);
            if self.next == Next::Subscribe(now) {
                self.subscribe()?;
            }
        }
        Ok(true)
    }

    /// Each connection begins with nothing, so each subscribes. What is asked while there is no
    /// connection is never heard: an old command must not be executed later.
    fn subscribe(&mut self) -> Result<(), LinkError> {
        let Some(inbox) = &self.shared.inbox else {
            return Ok(());
        };
        let filters = lock(inbox).filters();
        let filters = filters.map(|f| SubscribeFilter::new(f, QoS::AtLeastOnce));
        self.client
            .try_subscribe_many(filters)
            .map_err(|e| LinkError::Client(e.to_string()))?;
        self.next = Hearing::subscribed(Instant::now());
        Ok(())
    }

    /// What was to be done about commands by now.
    fn do_next(&mut self) -> Result<(), LinkError> {
        match self.next {
            Next::Subscribe(_) => self.subscribe()?,
            Next::Well(_) => {
                lock(&self.shared.hearing).well();
                self.next = Next::Nothing;
            }
            Next::Nothing => {}
        }
        Ok(())
    }

    async fn publish(&mut self) -> Result<Ended, LinkError> {
        let mut goodbye_given = false;
        loop {
            let stop = self.shared.stop_at();
            if !goodbye_given {
                self.give_retained()?;
                self.give_events()?;
                self.give_answers()?;
            }
            if stop.is_some() && self.flights.is_empty() {
                if goodbye_given {
                    return Ok(self.say_goodbye().await);
                }
                goodbye_given = true;
                self.give(
                    What::Goodbye,
                    &self.options.topics.status(),
                    OFFLINE.into(),
                    true,
                )?;
            }
            tokio::select! {
                result = oldest_acknowledged(&mut self.flights) => match result {
                    Ok(_) => self.acknowledged()?,
                    // The client gives up a message only when the connection is gone.
                    Err(_) => return Err(pump_error((&mut self.pump.0).await)),
                },
                ended = &mut self.pump.0 => return Err(pump_error(ended)),
                () = until(stop) => return Ok(Ended::OutOfTime),
                () = until(self.next.at()) => self.do_next()?,
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn acknowledged(&mut self) -> Result<(), LinkError> {
        let Some(flight) = self.flights.pop_front() else {
            return Ok(());
        };
        match flight.what {
            What::Event(position) => {
                lock(&self.shared.outbox).delivered(position)?;
                self.delivered = true;
                self.shared.delivered.fetch_add(1, Ordering::SeqCst);
            }
            What::Answer => drop(self.answers.pop_front()),
            What::Retained | What::Goodbye => {}
        }
        Ok(())
    }

    fn in_flight(&self, of: impl Fn(What) -> bool) -> usize {
        self.flights.iter().filter(|f| of(f.what)).count()
    }

    fn give_events(&mut self) -> Result<(), LinkError> {
        let is_event = |what| matches!(what, What::Event(_));
        while self.in_flight(is_event) < usize::from(self.options.in_flight) {
            let next = {
                let mut outbox = lock(&self.shared.outbox);
                let next = outbox.next_after(self.cursor)?;
                if let Some(p) = &next {
                    // Before it is given: from here on it may arrive.
                    outbox.sent(p.position)?;
                }
                next
            };
            let Some(Pending {
                position,
                topic,
                payload,
            }) = next
            else {
                return Ok(());
            };
            self.cursor = position;
            self.give(What::Event(position), &topic, payload, false)?;
        }
        Ok(())
    }

    fn give_retained(&mut self) -> Result<(), LinkError> {
        while self.in_flight(|what| what == What::Retained) < RETAINED_IN_FLIGHT {
            let Some((topic, value, version)) = lock(&self.shared.retained).after(self.retained)
            else {
                return Ok(());
            };
            self.retained = version;
            self.give(What::Retained, &topic, value, true)?;
        }
        Ok(())
    }

    fn give_answers(&mut self) -> Result<(), LinkError> {
        let topic = self.options.topics.command_response();
        while self.answers.len() < ANSWERS_IN_FLIGHT {
            let Some(answer) = lock(&self.shared.answers).pop() else {
                return Ok(());
            };
            self.answers.push_back(answer.clone());
            self.give(What::Answer, &topic, answer, false)?;
        }
        Ok(())
    }

    fn give(
        &mut self,
        what: What,
        topic: &Topic,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<(), LinkError> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
        let notice = self
            .client
            .try_publish_tracked(topic.as_str(), payload, options)
            .map_err(|e| LinkError::Client(e.to_string()))?;
        self.flights.push_back(Flight {
            what,
            acknowledged: Box::pin(notice.wait_async()),
        });
        Ok(())
    }

    /// Everything is acknowledged: DISCONNECT, so that the last will is not published.
    async fn say_goodbye(&mut self) -> Ended {
        if let Err(error) = self.client.try_disconnect() {
            tracing::debug!(%error, "no DISCONNECT could be sent");
            return Ended::Finished;
        }
        if tokio::time::timeout(GOODBYE, &mut self.pump.0)
            .await
            .is_err()
        {
            tracing::debug!("the DISCONNECT did not leave in time");
        }
        Ended::Finished
    }
}

async fn oldest_acknowledged(
    flights: &mut VecDeque<Flight>,
) -> Result<PublishResult, PublishNoticeError> {
    match flights.front_mut() {
        Some(flight) => flight.acknowledged.as_mut().await,
        None => pending().await,
    }
}

pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn pump_error(ended: Result<ConnectionError, JoinError>) -> LinkError {
    match ended {
        Ok(error) => error.into(),
        Err(panic) => LinkError::Client(panic.to_string()),
    }
}

fn channel_capacity(options: &MqttOptions) -> usize {
    usize::from(options.in_flight) + RETAINED_IN_FLIGHT + ANSWERS_IN_FLIGHT + 4
}

fn client_options(options: &MqttOptions) -> rumqttc::MqttOptions {
    let broker = Broker::tcp(options.url.bracketed_host(), options.url.port);
    let mut o = rumqttc::MqttOptions::new(options.client_id.clone(), broker);
    // Every connection begins with nothing: the outbox sends again what was not acknowledged.
    o.set_clean_session(true)
        .set_keep_alive(options.keep_alive_s.max(1))
        .set_max_packet_size(MAX_READ, MAX_PACKET)
        .set_inflight(u16::try_from(channel_capacity(options)).unwrap_or(u16::MAX))
        .set_last_will(LastWill::new(
            options.topics.status().as_str(),
            OFFLINE,
            QoS::AtLeastOnce,
            true,
        ));
    let (username, password) = options.credentials();
    match (username, password) {
        (Some(user), Some(password)) => {
            o.set_credentials(user, password);
        }
        (Some(user), None) => {
            o.set_username(user);
        }
        (None, _) => {}
    }
    o
}
