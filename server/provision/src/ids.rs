//! What EC2 calls things, as types of their own.

use std::str::FromStr;

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: it should look like {example}")]
pub struct InvalidId {
    kind: &'static str,
    example: &'static str,
    text: String,
}

/// A type for a text that `FromStr` lets in: what reads and writes it otherwise goes by that.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $invalid:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// It as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $invalid;

            fn try_from(text: String) -> Result<Self, $invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0.into()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use text_type;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        text_type! { $(#[$doc])* $name, InvalidId }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let rest = text.strip_prefix(concat!($prefix, "-")).unwrap_or_default();
                let fits = (4..=40).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric());
                if fits {
                    return Ok(Self(text.into()));
                }
                let text = text.chars().take(60).collect();
                Err(InvalidId { kind: $kind, example: concat!($prefix, "-0123456789abcdef0"), text })
            }
        }
    };
}

id_type! {
    /// An instance.
    InstanceId, "instance", "i"
}
id_type! {
    /// An EBS volume.
    VolumeId, "volume", "vol"
}
id_type! {
    /// A snapshot of one.
    SnapshotId, "snapshot", "snap"
}
id_type! {
    /// A machine image (AMI).
    AmiId, "machine image", "ami"
}
id_type! {
    /// A security group.
    GroupId, "security group", "sg"
}
id_type! {
    /// A subnet of a VPC.
    SubnetId, "subnet", "subnet"
}
id_type! {
    /// A launch template.
    TemplateId, "launch template", "lt"
}

text_type! {
    /// An AWS account: twelve digits.
    AccountId, InvalidId
}

impl FromStr for AccountId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self(text.into()));
        }
        Err(InvalidId { kind: "account", example: "123456789012", text: text.chars().take(60).collect() })
    }
}

id_type! {
    /// A task that makes a snapshot of an object.
    ImportId, "import", "import-snap"
}

text_type! {
    /// A provision's name: it stands in the tags of all that belongs to it.
    ProvisionId, InvalidId
}

impl FromStr for ProvisionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-');
        if fits {
            return Ok(Self(text.into()));
        }
        Err(InvalidId { kind: "provision", example: "compute-7k2m", text: text.chars().take(60).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_they_look_like() {
        assert_eq!("vol-0123456789abcdef0".parse::<VolumeId>().expect("one").as_str(), "vol-0123456789abcdef0");
        for bad in ["", "vol-", "snap-0123456789abcdef0", "vol-0123 456", "vol-../x"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
        let error = "i-1".parse::<InstanceId>().expect_err("too short").to_string();
        assert_eq!(error, "`i-1` is no instance: it should look like i-0123456789abcdef0");
        assert!("123456789012".parse::<AccountId>().is_ok() && "12345678901x".parse::<AccountId>().is_err());
        assert!("Compute".parse::<ProvisionId>().is_err() && "-x".parse::<ProvisionId>().is_err());
    }
}
