//! An MQTT broker inside the process, for a demo or a device without one: `embedded://127.0.0.1:0`.
//!
//! It is rumqttd with everything bounded, on a loopback address. Its limits, found by reading and
//! testing 0.20 (`docs/design/events.md` has the list): nothing survives a restart; a subscriber
//! that falls more than [`LOG_BYTES`] behind on a filter silently loses messages; a client that
//! takes over its own client id may get `offline` after `online`. For an installation that matters,
//! run a real broker.

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::task::Poll;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use rumqttd::protocol::v4::V4;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::sync::oneshot;

use crate::publisher::MAX_PACKET;
use crate::url::BrokerUrl;

/// Bytes kept per subscribed filter for slow subscribers, at most.
pub const LOG_BYTES: usize = SEGMENT_BYTES * SEGMENTS;
const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 4;
/// Clients at most.
const MAX_CLIENTS: usize = 32;
/// Packets read from one client before the router must have taken them.
const MAX_BUFFERED: usize = 100;
/// Free ports tried for port 0 before giving up.
const PORT_ATTEMPTS: usize = 8;

/// Where the broker listens.
#[derive(Debug, Clone, Copy)]
pub struct BrokerOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Listen elsewhere than on loopback. The broker has no passwords.
    pub allow_remote: bool,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not loopback, and nobody asked for that.
    #[error(
        "the embedded broker has no passwords and listens on loopback only, not on {0}: use \
         embedded://127.0.0.1:PORT, or a real broker for other machines"
    )]
    NotLoopback(SocketAddr),
    /// Mostly: the port is in use.
    #[error(
        "the embedded broker can't listen on {listen}: {reason}. Use embedded://127.0.0.1:0 for a \
         free port, or mqtt:// if a broker runs there already"
    )]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// No thread.
    #[error("the thread `mqtt-broker` can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running broker. It listens until dropped.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts it; it listens when this returns.
    pub fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
        let listen = options.listen;
        if !listen.ip().is_loopback() && !options.allow_remote {
            return Err(BrokerError::NotLoopback(listen));
        }
        if listen.port() != 0 {
            return Self::listen_on(listen);
        }
        // rumqttd can't report the port it got, so a free one is found first; another program may
        // be quicker to take it, then the next one is tried.
        let mut attempt = 1;
        loop {
            let free = TcpListener::bind(listen)
                .and_then(|l| l.local_addr())
                .map_err(|e| BrokerError::Listen {
                    listen,
                    reason: e.to_string(),
                })?;
            match Self::listen_on(free) {
                Err(BrokerError::Listen { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn listen_on(listen: SocketAddr) -> Result<Self, BrokerError> {
        let (stop, stopped) = oneshot::channel();
        let (listening_sender, listening) = bounded(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("mqtt-broker".to_owned())
            .spawn(move || {
                runtime.block_on(serve(listen, stopped, &listening_sender));
                runtime.shutdown_background();
            })?;
        let broker = Self {
            address: listen,
            stop: Some(stop),
            thread: Some(thread),
        };
        let failed = |reason: String| BrokerError::Listen { listen, reason };
        match listening.recv() {
            Ok(Ok(())) => {
                tracing::info!(%listen, "embedded MQTT broker listens");
                Ok(broker)
            }
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("its thread ended".to_owned())),
        }
    }

    /// Where it listens; the port is the one really bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a publisher or subscriber on this machine connects to.
    pub fn url(&self) -> BrokerUrl {
        BrokerUrl::mqtt(self.address)
    }
}

impl Drop for EmbeddedBroker {
    /// Closes the port and all connections. rumqttd's router thread stays, idle, until the process
    /// ends: it holds a sender to itself and has no stop message.
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take()
            && stop.send(()).is_err()
        {
            tracing::debug!("the embedded broker had ended already");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread `mqtt-broker` panicked");
        }
    }
}

async fn serve(
    listen: SocketAddr,
    stopped: oneshot::Receiver<()>,
    listening: &Sender<Result<(), String>>,
) {
    let report = |result| {
        if listening.send(result).is_err() {
            tracing::debug!("nobody waits for the embedded broker");
        }
    };
    let mut server = Server::new(settings(listen), Router::new(0, router()).spawn(), V4);
    let mut serving = pin!(server.start(LinkType::Remote));
    // The first poll binds and listens; then it waits for clients.
    let first = std::future::poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(Err(error)) => return report(Err(error.to_string())),
        Poll::Ready(Ok(())) => return report(Err("it ended at once".to_owned())),
        Poll::Pending => report(Ok(())),
    }
    tokio::select! {
        ended = serving => tracing::error!(?ended, "the embedded MQTT broker ended"),
        _ = stopped => {}
    }
}

fn router() -> RouterConfig {
    RouterConfig {
        max_connections: MAX_CLIENTS,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    }
}

fn settings(listen: SocketAddr) -> ServerSettings {
    ServerSettings {
        name: "mqtt-broker".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: MAX_PACKET,
            max_inflight_count: MAX_BUFFERED,
            auth: None::<HashMap<String, String>>,
            external_auth: None,
            // A topic nobody has subscribed to yet is no error.
            dynamic_filters: true,
        },
    }
}
