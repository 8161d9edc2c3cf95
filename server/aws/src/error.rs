//! What AWS's error codes mean to a provision.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use rocks_provision::cloud::CloudError;
use rocks_provision::iam;

/// The longest message that is passed on.
const LONGEST: usize = 300;

/// Codes that end neither in `.NotFound` nor in `.Duplicate` and are something else than a refusal.
const THROTTLED: [&str; 14] = [
    "BandwidthLimitExceeded",
    "ConcurrentLimitExceededException",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "SnapshotCreationPerVolumeRateExceeded",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
];
const CAPACITY: [&str; 8] = [
    "InsufficientAddressCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientVolumeCapacity",
    "UnfulfillableCapacity",
];
const LIMIT: [&str; 4] =
    ["MaxSpotInstanceCountExceeded", "ResourceCountExceeded", "ServiceQuotaExceededException", "VolumeIOPSLimit"];
const IN_USE: [&str; 5] = [
    "DependencyViolation",
    "InvalidIPAddress.InUse",
    "ResourceInUse",
    "VolumeInUse",
    "InvalidVolumeID.AlreadyAttached",
];
const STATE: [&str; 6] = [
    "IncorrectInstanceState",
    "IncorrectState",
    "IncorrectStateException",
    "IncorrectSpotRequestState",
    "InvalidState",
    "InvalidVolume.State",
];
const UNCLEAR: [&str; 11] = [
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    // Somebody makes or removes a bucket of that name.
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerInternal",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "Unavailable",
];
const DENIED: [&str; 4] =
    ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AccessDeniedForDependencyException"];
/// S3's, which have no family name.
const MISSING: [&str; 5] = ["NoSuchBucket", "NoSuchKey", "NoSuchTagSet", "NoSuchUpload", "NotFound"];
/// AWS does not know the keys, or does not believe the signature.
const KEYS: [&str; 10] = [
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];
/// Keys that were good once, or a clock that is wrong.
const TIME: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"];

/// What came of a call that `code` and `message` refuse. `action` is the call, as IAM names it.
#[must_use]
pub fn classify(action: &'static str, code: &str, message: &str) -> CloudError {
    // Some services say whose fault it was, too.
    let code = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code);
    let said = clean(message);
    let with_code = || if said.is_empty() { code.to_owned() } else { format!("{code}: {said}") };
    let refused = |message: String| CloudError::Refused { code: code.to_owned(), message };
    if DENIED.contains(&code) {
        return CloudError::Denied { action: lacking(message).unwrap_or(action), message: said };
    }
    if THROTTLED.contains(&code) {
        return CloudError::Throttled(with_code());
    }
    if code == "IdempotentInstanceTerminated" {
        return CloudError::Spent(with_code());
    }
    if CAPACITY.contains(&code) {
        return CloudError::Capacity(with_code());
    }
    if LIMIT.contains(&code) || code.ends_with("LimitExceeded") {
        return CloudError::Limit(with_code());
    }
    if UNCLEAR.contains(&code) {
        return CloudError::Unclear(with_code());
    }
    if STATE.contains(&code) {
        return CloudError::State(with_code());
    }
    if IN_USE.contains(&code) || code.ends_with(".InUse") {
        return CloudError::InUse(with_code());
    }
    if code == "OptInRequired" {
        return refused(format!("{said} (the account is not signed up for this, or not wholly yet)"));
    }
    if TIME.contains(&code) {
        return refused("AWS says that the keys have expired, or that this clock is wrong".to_owned());
    }
    // EC2 says the same of an image that is another account's.
    if KEYS.contains(&code) && (code != "AuthFailure" || said.contains("credentials")) {
        return refused("AWS does not take these keys: are they this account's, and still valid?".to_owned());
    }
    // A key pair is the administrator's: it will not turn up by waiting.
    if code == "InvalidKeyPair.NotFound" {
        return refused(said);
    }
    if MISSING.contains(&code)
        || code.ends_with(".NotFound")
        || code.ends_with("NotFoundException")
        || code == "InvalidAMIID.Unavailable"
    {
        return CloudError::Missing(with_code());
    }
    if code.ends_with(".Duplicate") || code.ends_with(".AlreadyExistsException") {
        return CloudError::Exists(with_code());
    }
    refused(said)
}

/// The action that a policy lacks, if the message names one that we know: a call can need more than its own.
fn lacking(message: &str) -> Option<&'static str> {
    let (_, rest) = message.split_once("perform: ")?;
    let named = rest.split(|c: char| c.is_whitespace() || c == ',').next()?.trim_end_matches('.');
    iam::actions().into_iter().find(|known| known.eq_ignore_ascii_case(named))
}

/// A message without the blob that only those can read who may do everything, and of a bearable length.
fn clean(message: &str) -> String {
    let end = message.find("Encoded authorization failure").unwrap_or(message.len());
    let words: Vec<&str> = message[..end].split_whitespace().collect();
    let said = words.join(" ");
    match said.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &said[..cut]),
        None => said,
    }
}

/// What came of a call that the SDK says failed.
pub(crate) fn failed<E>(action: &'static str, error: SdkError<E>) -> CloudError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let SdkError::ServiceError(context) = &error {
        let status = context.raw().status().as_u16();
        let (code, message) = (context.err().code(), context.err().message().unwrap_or_default());
        let known = classify(action, code.unwrap_or_default(), message);
        return match known {
            CloudError::Refused { .. } if status >= 500 => CloudError::Unclear(answered(status, code, message)),
            CloudError::Refused { .. } if status == 429 => CloudError::Throttled(answered(status, code, message)),
            // It was no AWS that answered, or one that did not know what to say.
            CloudError::Refused { .. } if code.is_none() => {
                CloudError::Refused { code: format!("HTTP {status}"), message: clean(message) }
            }
            known => known,
        };
    }
    if let Some(keys) = keys(&error) {
        return without_keys(keys);
    }
    // Some of what the SDK tells is the request as it would have been sent.
    let why = deepest(&error);
    match &error {
        SdkError::ConstructionFailure(_) => {
            CloudError::Refused { code: "InvalidRequest".to_owned(), message: clean(&why) }
        }
        SdkError::TimeoutError(_) => CloudError::Unclear(format!("{action}: no answer in time")),
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            CloudError::Refused { code: "InvalidRequest".to_owned(), message: clean(&why) }
        }
        SdkError::DispatchFailure(_) => CloudError::Unclear(format!("{action}: AWS is out of reach: {}", clean(&why))),
        _ => CloudError::Unclear(format!("{action}: the answer cannot be read: {}", clean(&why))),
    }
}

/// What kept the SDK from finding keys, if that was it.
fn keys<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e CredentialsError> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        at = error.source();
    }
    None
}

fn without_keys(error: &CredentialsError) -> CloudError {
    let refused = |message: String| CloudError::Refused { code: "NoCredentials".to_owned(), message };
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            refused("there are no keys: neither in the environment nor in ~/.aws nor in an instance's role".to_owned())
        }
        CredentialsError::InvalidConfiguration(_) => {
            refused(format!("no keys can be read: {}", clean(&deepest(error))))
        }
        // The metadata service or STS may do better next time.
        other => CloudError::Unclear(format!("keys cannot be had: {}", clean(&deepest(other)))),
    }
}

fn answered(status: u16, code: Option<&str>, message: &str) -> String {
    format!("HTTP {status} {}: {}", code.unwrap_or("without a code"), clean(message))
}

/// What an error says in the end.
fn deepest(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// An answer that lacks what AWS promises.
pub(crate) fn lacks(action: &str, what: &str) -> CloudError {
    CloudError::Unclear(format!("{action}: the answer has no {what}"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::error::ConnectorError;

    use super::*;

    fn kind(error: &CloudError) -> &'static str {
        match error {
            CloudError::Denied { .. } => "denied",
            CloudError::Missing(_) => "missing",
            CloudError::Exists(_) => "exists",
            CloudError::State(_) => "state",
            CloudError::InUse(_) => "in use",
            CloudError::Throttled(_) => "throttled",
            CloudError::Capacity(_) => "capacity",
            CloudError::Limit(_) => "limit",
            CloudError::Unclear(_) => "unclear",
            CloudError::Spent(_) => "spent",
            CloudError::Refused { .. } => "refused",
        }
    }

    #[test]
    fn codes_mean_what_ec2_means_by_them() {
        for (code, expected) in [
            ("UnauthorizedOperation", "denied"),
            ("Client.UnauthorizedOperation", "denied"),
            ("AccessDenied", "denied"),
            ("AccessDeniedException", "denied"),
            ("InvalidInstanceID.NotFound", "missing"),
            ("InvalidVolume.NotFound", "missing"),
            ("InvalidSnapshot.NotFound", "missing"),
            ("InvalidAMIID.NotFound", "missing"),
            ("InvalidAMIID.Unavailable", "missing"),
            ("InvalidGroup.NotFound", "missing"),
            ("InvalidPermission.NotFound", "missing"),
            ("InvalidSubnetID.NotFound", "missing"),
            ("ResourceNotFoundException", "missing"),
            ("NoSuchBucket", "missing"),
            ("NoSuchKey", "missing"),
            ("NoSuchUpload", "missing"),
            ("NotFound", "missing"),
            ("InvalidKeyPair.NotFound", "refused"),
            ("InvalidGroup.Duplicate", "exists"),
            ("InvalidPermission.Duplicate", "exists"),
            ("InvalidAMIName.Duplicate", "exists"),
            ("IncorrectState", "state"),
            ("IncorrectInstanceState", "state"),
            ("VolumeInUse", "in use"),
            ("InvalidSnapshot.InUse", "in use"),
            ("DependencyViolation", "in use"),
            ("InvalidGroup.InUse", "in use"),
            ("RequestLimitExceeded", "throttled"),
            ("Throttling", "throttled"),
            ("ThrottlingException", "throttled"),
            ("SlowDown", "throttled"),
            ("RequestThrottledException", "throttled"),
            ("ConcurrentLimitExceededException", "throttled"),
            ("SnapshotCreationPerVolumeRateExceeded", "throttled"),
            ("InsufficientInstanceCapacity", "capacity"),
            ("Server.InsufficientInstanceCapacity", "capacity"),
            ("InsufficientFreeAddressesInSubnet", "capacity"),
            ("InstanceLimitExceeded", "limit"),
            ("VcpuLimitExceeded", "limit"),
            ("VolumeLimitExceeded", "limit"),
            ("SnapshotLimitExceeded", "limit"),
            ("ConcurrentSnapshotLimitExceeded", "limit"),
            ("SecurityGroupLimitExceeded", "limit"),
            ("MaxSpotInstanceCountExceeded", "limit"),
            ("ServiceQuotaExceededException", "limit"),
            ("InternalError", "unclear"),
            ("InternalServerException", "unclear"),
            ("ServiceUnavailable", "unclear"),
            ("Unavailable", "unclear"),
            ("OperationAborted", "unclear"),
            ("InvalidPart", "refused"),
            ("EntityTooSmall", "refused"),
            ("OptInRequired", "refused"),
            ("AuthFailure", "refused"),
            ("IdempotentInstanceTerminated", "spent"),
            ("InvalidClientTokenId", "refused"),
            ("RequestExpired", "refused"),
            ("IdempotentParameterMismatch", "refused"),
            ("InvalidParameterValue", "refused"),
            ("Unsupported", "refused"),
            ("ValidationException", "refused"),
            ("ConflictException", "refused"),
            ("", "refused"),
        ] {
            assert_eq!(kind(&classify("ec2:RunInstances", code, "so it is")), expected, "{code}");
        }
    }

    #[test]
    fn who_is_denied_is_told_the_action_that_lacks_and_no_blob() {
        let message = "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/rocks is not \
             authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:us-east-1:123456789012:volume/* because no \
             identity-based policy allows the ec2:CreateTags action. Encoded authorization failure message: 4xKk0aBcd";
        let error = classify("ec2:CreateVolume", "UnauthorizedOperation", message);
        let CloudError::Denied { action, message } = &error else { panic!("{error:?}") };
        assert_eq!(*action, "ec2:CreateTags");
        assert!(message.ends_with("ec2:CreateTags action.") && !message.contains("4xKk0aBcd"), "{message}");
        let error = classify("ebs:PutSnapshotBlock", "AccessDeniedException", "");
        assert!(error.to_string().contains("ebs:PutSnapshotBlock"), "{error}");
        // An action that we never call is not taken for one of ours.
        let error =
            classify("ec2:RunInstances", "UnauthorizedOperation", "not authorized to perform: iam:PassRole on x");
        assert!(matches!(error, CloudError::Denied { action: "ec2:RunInstances", .. }), "{error:?}");
    }

    #[test]
    fn keys_that_lack_are_told_apart_from_those_that_cannot_be_had_now() {
        let none = without_keys(&CredentialsError::not_loaded_no_source());
        assert!(kind(&none) == "refused" && none.to_string().contains("~/.aws"), "{none}");
        let wrong = without_keys(&CredentialsError::invalid_configuration("no such profile"));
        assert!(kind(&wrong) == "refused" && wrong.to_string().ends_with("no such profile"), "{wrong}");
        let later = without_keys(&CredentialsError::provider_error("IMDS is busy"));
        assert!(kind(&later) == "unclear" && later.to_string().contains("IMDS is busy"), "{later}");
        let wrapped = ConnectorError::other(CredentialsError::not_loaded_no_source().into(), None);
        assert!(keys(&wrapped).is_some() && keys(&std::fmt::Error).is_none());
    }

    #[test]
    fn what_is_passed_on_is_short_and_has_nothing_secret() {
        let error = classify("ec2:RunInstances", "InvalidParameterValue", &"ß ".repeat(5000));
        assert!(error.to_string().chars().count() < 340, "{error}");
        // The canonical request that AWS repeats has the session's token in it.
        let canonical = "The request signature we calculated does not match: x-amz-security-token:IQoJb3Jp";
        let error = classify("ec2:RunInstances", "SignatureDoesNotMatch", canonical).to_string();
        assert!(!error.contains("IQoJb3Jp") && error.contains("keys"), "{error}");
        let image = classify("ec2:RunInstances", "AuthFailure", "Not authorized for images: [ami-0123456789abcdef0]");
        assert!(image.to_string().contains("images: [ami-"), "{image}");
    }
}
