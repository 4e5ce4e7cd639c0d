//! The server: one thread, a bounded number of connections, and an end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::api::Api;
use crate::guard::Token;
use crate::pace::Paced;
use crate::places::{Elsewhere, Place};
use crate::routes::{Shared, router};

/// How a server listens.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// Where. Port 0: any that is free.
    pub listen: SocketAddr,
    /// What every request must carry; without one `listen` must be on loopback.
    pub token: Option<Token>,
    /// What clients may take.
    pub limits: Limits,
}

impl WebOptions {
    /// At this address, without a token.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            token: None,
            limits: Limits::default(),
        }
    }
}

/// What clients may take. Everything beyond waits, or is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; the next wait in the kernel until one of these ends.
    pub connections: usize,
    /// Of these, how many are for this machine alone; others are closed at once when the rest is
    /// taken.
    pub local: usize,
    /// Connections at once of one other machine; more are closed at once.
    pub per_peer: usize,
    /// Calls of [`Api`] at once; more are answered with `busy`.
    pub calls: usize,
    /// Calls beside those that wait for a clip to end; more are answered with `busy`.
    pub waits: usize,
    /// Reads of files at once; more wait.
    pub reads: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Until it has come in full, and how long a connection may lie idle.
    pub head_time: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Until it has come in full.
    pub body_time: Duration,
    /// A client that is waited for, and takes less than `idle_bytes` of its answer in this time, is
    /// gone.
    pub idle_time: Duration,
    /// See `idle_time`.
    pub idle_bytes: usize,
    /// A connection takes no further request after this.
    pub keep_time: Duration,
    /// What the answer under way then may still take; with it the connection ends.
    pub last_time: Duration,
}

impl Limits {
    /// What the appliance allows.
    pub const DEFAULT: Self = Self {
        connections: 32,
        local: 8,
        per_peer: 8,
        calls: 8,
        waits: 4,
        reads: 8,
        head_bytes: 16 << 10,
        head_time: Duration::from_secs(10),
        body_bytes: 16 << 10,
        body_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(30),
        idle_bytes: 16 << 10,
        keep_time: Duration::from_secs(60),
        last_time: Duration::from_secs(3600),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Headers of one request.
const HEADERS: usize = 64;
/// After an `accept` that failed for want of something that others may give back.
const RETRY: Duration = Duration::from_millis(100);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Reachable from elsewhere, by anybody.
    #[error("{0} can be reached from other machines: that needs a token (web.token_file)")]
    NoToken(SocketAddr),
    /// The address.
    #[error("can't listen on {listen}: {error}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// No thread, or no runtime in it.
    #[error("the thread `web` can't be started: {0}")]
    Thread(std::io::Error),
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every answer was given.
    Clean,
    /// Some clients, or a call, took longer than the deadline.
    Late,
    /// Its thread panicked; the log says where.
    Panicked,
}

/// A server that listens.
pub struct WebServer {
    local: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    thread: Option<JoinHandle<bool>>,
}

impl WebServer {
    /// Listens and serves.
    ///
    /// # Errors
    /// The address can't be had, or asks for a token; no thread.
    pub fn start(options: WebOptions, api: Arc<dyn Api>) -> Result<Self, StartError> {
        let WebOptions {
            listen,
            token,
            limits,
        } = options;
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(StartError::NoToken(listen));
        }
        let failed = |error| StartError::Listen { listen, error };
        let socket = std::net::TcpListener::bind(listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        // A thread for each call and each read there may be: none waits for another's.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(limits.calls + limits.waits + limits.reads)
            .thread_name("web-call")
            .build()
            .map_err(StartError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(socket).map_err(failed)?
        };
        let shared = Shared {
            api,
            token: token.map(Arc::new),
            calls: Arc::new(Semaphore::new(limits.calls)),
            waits: Arc::new(Semaphore::new(limits.waits)),
            reads: Arc::new(Semaphore::new(limits.reads)),
            limits,
        };
        let (stop, stopped) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("web".to_owned())
            .spawn(move || {
                let clean = runtime.block_on(serve(listener, shared, stopped));
                // What still runs on a blocking thread runs on; its answer goes nowhere.
                runtime.shutdown_background();
                clean
            })
            .map_err(StartError::Thread)?;
        tracing::info!(listen = %local, "HTTP");
        Ok(Self {
            local,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens; the port is the one really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Takes no more connections, gives the answers that are under way within `limit`, and ends.
    pub fn stop(mut self, limit: Duration) -> Stopped {
        self.end(limit)
    }

    fn end(&mut self, limit: Duration) -> Stopped {
        self.stop.send_replace(Some(Instant::now() + limit));
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(true)) => Stopped::Clean,
            Some(Ok(false)) => Stopped::Late,
            Some(Err(_)) => Stopped::Panicked,
        }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if self.thread.is_some() && self.end(Duration::ZERO) == Stopped::Panicked {
            tracing::error!("the thread `web` panicked");
        }
    }
}

type Stop = watch::Receiver<Option<Instant>>;

/// Until it is stopped; then whether all connections ended in time.
async fn serve(listener: TcpListener, shared: Shared, mut stop: Stop) -> bool {
    let limits = shared.limits;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let elsewhere = Arc::new(Mutex::new(Elsewhere::default()));
    let service = TowerToHyperService::new(router(shared));
    loop {
        let accepted = async {
            // The slot first: without one nobody is let in.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            // An error: the handle is gone, which is a stop, too.
            _ = stop.wait_for(Option::is_some) => break,
        };
        match (slot, accepted) {
            (Ok(slot), Ok((stream, peer))) => {
                let Some(place) = Place::take(peer.ip(), slot, &elsewhere, &limits) else {
                    tracing::debug!(%peer, "too many connections of other machines");
                    continue;
                };
                tokio::spawn(connection(
                    stream,
                    service.clone(),
                    limits,
                    stop.clone(),
                    place,
                ));
            }
            (_, Err(error)) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(RETRY).await;
            }
            // Nobody closes that semaphore.
            (Err(_), _) => break,
        }
    }
    drop(listener);
    let until = stop.borrow().unwrap_or_else(Instant::now);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    tokio::time::timeout_at(until.into(), slots.acquire_many(all))
        .await
        .is_ok()
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    limits: Limits,
    mut stop: Stop,
    place: Place,
) {
    // Answers are written whole; waiting for more to send helps nobody.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let stream = Paced::new(stream, limits.idle_time, limits.idle_bytes);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes)
        .max_headers(HEADERS)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = enough(&mut stop, limits.keep_time) => {
            serving.as_mut().graceful_shutdown();
            let Ok(ended) = tokio::time::timeout(limits.last_time, serving).await else {
                tracing::debug!("an answer took too long: its client is let go");
                return;
            };
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client went, or was let go");
    }
    drop(place);
}

/// Until no further request is to be taken.
async fn enough(stop: &mut Stop, keep: Duration) {
    tokio::select! {
        () = tokio::time::sleep(keep) => {}
        // An error: the handle is gone.
        _ = stop.wait_for(Option::is_some) => {}
    }
}
