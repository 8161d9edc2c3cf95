//! Errors as RFC 9457 wants them, whoever found them: our handlers, or the framework on the way to them.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use rocks_common::wire::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::images::ImageError;
use crate::kickstart::RenderError;
use crate::store::StoreError;

/// An error.
pub(super) struct Failure(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [("content-type", "application/problem+json")], Json(self.0)).into_response()
    }
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str, title: impl Into<String>) -> Self {
        Self(Problem { code: code.to_owned(), title: title.into(), status: status.as_u16(), detail: None, hint: None })
    }

    pub(super) fn bad(code: &str, title: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, title)
    }

    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!("a request of the administrator's failed: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// As a value, for answers that come in lines.
    pub(super) fn into_value(self) -> Value {
        serde_json::to_value(self.0).unwrap_or_default()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let mut failure = match &error {
            StoreError::Missing { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", error.to_string()),
            StoreError::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            _ => Self::internal(&error),
        };
        failure.0.hint = error.hint();
        failure
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Store(error) => error.into(),
            other => Self::new(StatusCode::CONFLICT, "no-kickstart", other.to_string()),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let text = match std::error::Error::source(&error) {
            Some(cause) if !matches!(error, ImageError::Io { .. }) => format!("{error}: {cause}"),
            _ => error.to_string(),
        };
        let mut failure = match &error {
            ImageError::Missing(_) => Self::new(StatusCode::NOT_FOUND, "not-found", text),
            ImageError::Exists(_) | ImageError::Busy(_) => Self::new(StatusCode::CONFLICT, "conflict", text),
            ImageError::Format { .. } => Self::bad("not-an-image", text),
            ImageError::Shipment(_) => Self::new(StatusCode::BAD_GATEWAY, "not-uploaded", text),
            ImageError::Io { .. } => Self::internal(&text),
        };
        failure.0.hint = error.hint().map(ToOwned::to_owned);
        failure
    }
}

/// What most handlers give.
pub(super) type Answer = Result<Json<Value>, Failure>;

pub(super) fn answer<T: Serialize>(value: &T) -> Answer {
    serde_json::to_value(value).map(Json).map_err(|error| Failure::internal(&error))
}

pub(super) fn done() -> Answer {
    Ok(Json(json!({})))
}

/// The body of a request.
pub(super) struct Input<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::new(error.status(), "bad-request", error.body_text())),
        }
    }
}

/// The name in a request's path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::bad("bad-name", error.body_text())),
        }
    }
}

/// What stands behind the question mark.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::bad("bad-request", error.body_text())),
        }
    }
}

pub(super) async fn nothing() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here").hint("see /api/v1/openapi.json")
}

pub(super) async fn not_so() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this is not done here").hint("see /api/v1/openapi.json")
}
