//! Refusals: one form of answer for everything that was not done.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::ApiError;

/// The HTTP status of an error code.
pub fn status_of(code: &str) -> StatusCode {
    match code {
        "bad_args" | "bad_request" | "unknown_verb" => StatusCode::BAD_REQUEST,
        "unauthorized" => StatusCode::UNAUTHORIZED,
        "not_allowed" | "bad_host" | "bad_origin" => StatusCode::FORBIDDEN,
        "not_found" | "unknown_clip" | "unknown_source" | "not_playable" => StatusCode::NOT_FOUND,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "too_slow" => StatusCode::REQUEST_TIMEOUT,
        "no_ring" | "pinned" => StatusCode::CONFLICT,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "bad_content_type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "bad_range" => StatusCode::RANGE_NOT_SATISFIABLE,
        "busy" | "stopping" => StatusCode::SERVICE_UNAVAILABLE,
        "timeout" => StatusCode::GATEWAY_TIMEOUT,
        // `failed`, `clip_failed`, and what nobody has named here yet.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// `{"error":{"code","message"}}` with the status of its code.
#[derive(Debug)]
pub(crate) struct Refusal {
    error: ApiError,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        ApiError::new(code, message).into()
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            header: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { error, header } = self;
        let body = json!({"error": {"code": error.code, "message": error.message}});
        let mut answer = (status_of(&error.code), Json(body)).into_response();
        if error.code == "busy" {
            let soon = HeaderValue::from_static("1");
            answer.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        if let Some((name, value)) = header {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}
