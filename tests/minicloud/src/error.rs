//! What a call is refused with: an AWS error code, its message and its HTTP status.

use std::borrow::Cow;

/// A refusal. Each service writes it in its own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) status: u16,
}

/// What calls come to.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    /// The status is the one that AWS sends with that code.
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = status_of(&code);
        Self { code, message: message.into(), status }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
    }

    pub(crate) fn invalid(value: &str, parameter: &str, why: &str) -> Self {
        Self::new("InvalidParameterValue", format!("Value ({value}) for parameter {parameter} is invalid. {why}"))
    }

    /// Something that AWS has and this cloud has not: refused rather than passed over.
    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new("UnsupportedOperation", format!("minicloud does not have {what}"))
    }

    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        Self::new("InternalError", format!("An internal error has occurred: {why}"))
    }
}

/// Statuses other than 400.
fn status_of(code: &str) -> u16 {
    match code {
        "AuthFailure" => 401,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "MissingAuthenticationToken"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "UnrecognizedClientException"
        | "RequestTimeTooSkewed"
        | "OptInRequired" => 403,
        "NoSuchBucket" | "NoSuchKey" | "NoSuchUpload" | "ResourceNotFoundException" => 404,
        "MethodNotAllowed" => 405,
        "BucketAlreadyExists"
        | "BucketAlreadyOwnedByYou"
        | "BucketNotEmpty"
        | "OperationAborted"
        | "ConflictException" => 409,
        "MissingContentLength" => 411,
        "PreconditionFailed" | "DryRunOperation" => 412,
        "InvalidRange" => 416,
        "InternalError" | "InternalServerException" | "InsufficientInstanceCapacity" | "InternalFailure" => 500,
        "NotImplemented" => 501,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" | "SlowDown" => 503,
        _ => 400,
    }
}
