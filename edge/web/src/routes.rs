//! The routes: what is asked under which name, and how its answer is written.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::api::{Api, Readiness};
use crate::file;
use crate::guard::{Token, guard};
use crate::refusal::Refusal;
use crate::server::Limits;

/// What every request needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub api: Arc<dyn Api>,
    pub token: Option<Arc<Token>>,
    /// One permit per call under way, held by its thread: a client that goes away does not free it.
    pub calls: Arc<Semaphore>,
    /// The same for calls that wait for something to happen.
    pub waits: Arc<Semaphore>,
    /// The same for reads of files.
    pub reads: Arc<Semaphore>,
    pub limits: Limits,
}

type Asked = State<Shared>;
type Arguments = Map<String, Value>;

/// Version of the text format that [`Api::metrics`] writes.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest id of a clip.
const MAX_ID: usize = 64;

pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/clips", get(list_clips).post(make_clip))
        .route("/api/v1/clips/{name}", get(clip_file).delete(delete_clip))
        .route(
            "/api/v1/clips/{id}/{verb}",
            axum::routing::post(change_clip),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(shared.clone(), guard))
        .layer(from_fn(marked))
        .with_state(shared)
}

/// What every answer carries: browsers keep none, guess no type, and show it to no other site.
async fn marked(request: Request, next: axum::middleware::Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Calls the appliance on a thread that may block.
async fn call<T: Send + 'static>(
    shared: &Shared,
    ask: impl FnOnce(&dyn Api) -> T + Send + 'static,
) -> Result<T, Refusal> {
    call_among(&shared.calls, shared, ask).await
}

/// The same, among others of its kind.
async fn call_among<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    shared: &Shared,
    ask: impl FnOnce(&dyn Api) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        return Err(Refusal::new(
            "busy",
            "too much is under way; ask again later",
        ));
    };
    let api = Arc::clone(&shared.api);
    let answer = tokio::task::spawn_blocking(move || {
        let answer = ask(&*api);
        drop(permit);
        answer
    });
    answer.await.map_err(|error| {
        tracing::error!(%error, "a request over HTTP failed");
        Refusal::new("failed", "it failed inside; see the log")
    })
}

async fn healthz(State(shared): Asked) -> Response {
    match shared.api.is_alive() {
        Ok(()) => Json(json!({"alive": true})).into_response(),
        Err(reason) => {
            let body = Json(json!({"alive": false, "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn readyz(State(shared): Asked) -> Response {
    let state: Readiness = shared.api.readiness();
    let status = match state.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({"state": state.as_str()}))).into_response()
}

async fn metrics(State(shared): Asked) -> Result<Response, Refusal> {
    let text = call(&shared, |api| api.metrics()).await?;
    Ok(([(header::CONTENT_TYPE, METRICS)], text).into_response())
}

async fn status(State(shared): Asked) -> Result<Json<Value>, Refusal> {
    call(&shared, |api| api.status()).await.map(Json)
}

async fn command(shared: &Shared, verb: &'static str, args: Arguments) -> Result<Value, Refusal> {
    let answer = call(shared, move |api| api.command(verb, args)).await?;
    answer.map_err(Refusal::from)
}

async fn list_clips(
    State(shared): Asked,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(pairs) = query.map_err(|e| Refusal::new("bad_args", e.body_text()))?;
    let mut args = Arguments::new();
    for (key, text) in pairs {
        // Numbers are numbers to the command, whose answer says so where a text was meant.
        let value = match (key.as_str(), text.parse::<i64>()) {
            ("limit" | "since" | "until", Ok(number)) => number.into(),
            _ => text.into(),
        };
        if args.insert(key.clone(), value).is_some() {
            let message = format!("`{key}` is there twice");
            return Err(Refusal::new("bad_args", message));
        }
    }
    command(&shared, "clip_list", args).await.map(Json)
}

async fn make_clip(State(shared): Asked, body: Body) -> Result<Response, Refusal> {
    let args = arguments(&shared, body).await?;
    let waits = args.get("wait") == Some(&Value::Bool(true));
    let permits = if waits { &shared.waits } else { &shared.calls };
    let answer = call_among(permits, &shared, move |api| api.command("clip", args)).await??;
    let status = if waits {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(answer)).into_response())
}

async fn change_clip(
    State(shared): Asked,
    Path((id, verb)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let verb = match verb.as_str() {
        "pin" => "clip_pin",
        "unpin" => "clip_unpin",
        _ => return Err(nothing_here()),
    };
    command(&shared, verb, by_id(&id)?).await.map(Json)
}

async fn delete_clip(State(shared): Asked, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    command(&shared, "clip_delete", by_id(&id)?).await.map(Json)
}

/// `<id>.mp4` (with `?playable` what a browser plays), or `<id>.jpg` beside it.
async fn clip_file(
    State(shared): Asked,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (id, kind) = name.rsplit_once('.').ok_or_else(nothing_here)?;
    let kind = match kind {
        "mp4" => file::Kind::Mp4,
        "jpg" => file::Kind::Jpeg,
        _ => return Err(nothing_here()),
    };
    let args = by_id(id)?;
    let id = args["clip"].as_str().unwrap_or_default().to_owned();
    let has = |key| query.iter().any(|(k, _)| k == key);
    let (download, playable) = (has("download"), has("playable"));
    let found = call(&shared, move |api| match kind {
        file::Kind::Mp4 if playable => open_playable(api, &id),
        file::Kind::Mp4 => open(api, &id, None),
        file::Kind::Jpeg => open(api, &id, Some("jpg")),
    })
    .await?;
    let opened = match found {
        Ok(opened) => opened,
        Err(NoFile::Unknown) => {
            return Err(Refusal::new("unknown_clip", format!("no file `{name}`")));
        }
        Err(NoFile::NotPlayable) => {
            let message = format!(
                "`{name}` is no H.264, and there is no copy that is: one of MJPEG is made soon \
                 after the clip (clip.deliver = \"auto\"); without ?playable it comes as it is"
            );
            return Err(Refusal::new("not_playable", message));
        }
        Err(NoFile::Failed(e)) => {
            let message = format!("the file can't be opened: {e}");
            return Err(Refusal::new("failed", message));
        }
    };
    let asked = file::Asked {
        name: &name,
        kind,
        download,
        head: method == Method::HEAD,
        headers: &headers,
    };
    opened.answer(&asked, &shared)
}

/// Ending of the copy of a clip that no browser plays.
const COPY: &str = "h264.mp4";

/// Why there is no file to give.
enum NoFile {
    Unknown,
    NotPlayable,
    Failed(std::io::Error),
}

/// A clip's file, or the one beside it with another ending.
fn open(api: &dyn Api, id: &str, ending: Option<&str>) -> Result<file::Opened, NoFile> {
    let mut path = api.clip_file(id).ok_or(NoFile::Unknown)?;
    let mut tag = id.to_owned();
    if let Some(ending) = ending {
        path.set_extension(ending);
        tag = format!("{id}.{ending}");
    }
    file::Opened::open(&path, &tag).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => NoFile::Unknown,
        _ => NoFile::Failed(e),
    })
}

/// What a browser plays: the copy beside the clip, or the clip itself if it is H.264.
fn open_playable(api: &dyn Api, id: &str) -> Result<file::Opened, NoFile> {
    let clip = open(api, id, None)?;
    match open(api, id, Some(COPY)) {
        Err(NoFile::Unknown) if api.is_h264(id) => Ok(clip),
        Err(NoFile::Unknown) => Err(NoFile::NotPlayable),
        copy => copy,
    }
}

/// `{"clip": …}`, if that can be the id of a clip at all.
fn by_id(id: &str) -> Result<Arguments, Refusal> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(good) {
        return Err(Refusal::new("unknown_clip", "that is no id of a clip"));
    }
    let mut args = Arguments::new();
    args.insert("clip".to_owned(), id.into());
    Ok(args)
}

/// The JSON object of a body; an empty one has no keys.
async fn arguments(shared: &Shared, body: Body) -> Result<Arguments, Refusal> {
    let Limits {
        body_bytes,
        body_time,
        ..
    } = shared.limits;
    let read = tokio::time::timeout(body_time, to_bytes(body, body_bytes));
    let bytes = match read.await {
        Err(_) => return Err(slow(body_time)),
        Ok(Err(_)) => {
            let message = format!("the body is larger than {body_bytes} bytes, or was cut off");
            return Err(Refusal::new("too_large", message));
        }
        Ok(Ok(bytes)) => bytes,
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(Arguments::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(args)) => Ok(args),
        Ok(_) => Err(Refusal::new("bad_args", "the body must be a JSON object")),
        Err(e) => Err(Refusal::new(
            "bad_args",
            format!("the body is not JSON: {e}"),
        )),
    }
}

fn slow(limit: Duration) -> Refusal {
    let message = format!("the body did not come within {} s", limit.as_secs_f32());
    Refusal::new("too_slow", message)
}

fn nothing_here() -> Refusal {
    Refusal::new(
        "not_found",
        "there is nothing of this name; see docs/reference/http.md",
    )
}

async fn not_found() -> Refusal {
    nothing_here()
}

async fn not_allowed() -> Refusal {
    Refusal::new(
        "method_not_allowed",
        "this can't be done here; the header Allow says what can",
    )
}
