//! Which region, whose keys, and how long to wait for an answer.

use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::Credentials;

/// How long AWS may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a block of 512 KiB may travel: many share the way.
const BLOCK: Duration = Duration::from_secs(300);
/// How long an object, or a part of one, may travel.
const OBJECT: Duration = Duration::from_secs(900);

/// An access key. Its secret is not shown.
#[derive(Clone)]
pub struct Keys {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where AWS is, and who asks it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The region: `us-east-1`.
    pub region: String,
    /// Another address than the region's own: a local EC2, a VPC endpoint.
    pub endpoint: Option<String>,
    /// The access key; none: as the SDK finds it, in the environment, in `~/.aws`, or from the instance's role.
    pub keys: Option<Keys>,
}

/// AWS, in one region.
#[derive(Debug, Clone)]
pub struct Aws {
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) ebs: aws_sdk_ebs::Client,
    /// For blocks alone, which may take longer.
    pub(crate) blocks: aws_sdk_ebs::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    /// For what objects hold, which may take longer.
    pub(crate) s3_patient: aws_sdk_s3::Client,
}

impl Aws {
    /// Gets ready to ask. Nothing is asked yet: keys that are wrong show up at the first call.
    pub async fn new(settings: Settings) -> Self {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ANSWER).build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new(settings.region))
            // Whoever calls decides what is worth another try: see rocks_provision::retry.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        // Buckets are names in front of S3's own address, which another address than the region's has not.
        let in_path = settings.endpoint.is_some();
        if let Some(endpoint) = settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(keys) = settings.keys {
            loader = loader.credentials_provider(Credentials::new(keys.id, keys.secret, None, None, "settings"));
        }
        let config = loader.load().await;
        let blocks = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(BLOCK).build();
        let patient = aws_sdk_ebs::config::Builder::from(&config).timeout_config(blocks).build();
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(in_path);
        let objects = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(OBJECT).build();
        let s3_patient = s3.clone().timeout_config(objects).build();
        Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            ebs: aws_sdk_ebs::Client::new(&config),
            blocks: aws_sdk_ebs::Client::from_conf(patient),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            s3_patient: aws_sdk_s3::Client::from_conf(s3_patient),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_not_shown() {
        let keys = Keys { id: "AKIAEXAMPLE".to_owned(), secret: "wJalrXUtnFEMI".to_owned() };
        let settings = Settings { region: "us-east-1".to_owned(), endpoint: None, keys: Some(keys) };
        let shown = format!("{settings:?}");
        assert!(shown.contains("AKIAEXAMPLE") && !shown.contains("wJalr"), "{shown}");
    }
}
