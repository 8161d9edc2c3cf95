//! Tokens, tags and filters.

use std::fmt::Write as _;

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};
use rocks_provision::cloud::{TAG_PROVISION, TAG_ROLE, TAG_SITE, Tags, Whose};
use rocks_provision::ids::ProvisionId;
use sha2::{Digest as _, Sha256};

/// The longest token that EC2 takes.
const LONGEST: usize = 64;

/// A token as EC2 takes it: of this frontend, at most 64 characters of ASCII, the same for the same.
///
/// Tokens are an account's. Two frontends of one account may give a provision the same name, and must not get each other's volume.
pub(crate) fn token(tags: &Tags, token: &str) -> String {
    let whole = format!("{}/{token}", tags.site);
    if whole.len() <= LONGEST && whole.bytes().all(|b| b.is_ascii_graphic()) {
        return whole;
    }
    // The beginning of what it is for can still be read in AWS's own logs.
    let mut short: String = token.chars().filter(char::is_ascii_graphic).take(23).collect();
    short.push('.');
    for byte in &Sha256::digest(whole.as_bytes())[..20] {
        let _ = write!(short, "{byte:02x}");
    }
    short
}

/// Tags for a call that makes something of a kind.
pub(crate) fn tagged(kind: ResourceType, tags: &Tags) -> TagSpecification {
    let all = tags.pairs().map(|(key, value)| Tag::builder().key(key).value(value).build());
    TagSpecification::builder().resource_type(kind).set_tags(Some(all.into())).build()
}

/// A filter of a description.
pub(crate) fn filter<S: Into<String>>(name: &str, values: impl IntoIterator<Item = S>) -> Filter {
    let values = values.into_iter().map(Into::into).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// A value in a filter that stands for itself: `*` and `?` there stand for others.
pub(crate) fn exactly(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '*' | '?' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Filters that let through what is somebody's.
pub(crate) fn filters(whose: Whose<'_>) -> Vec<Filter> {
    let tag = |key: &str, value: &str| filter(&format!("tag:{key}"), [exactly(value)]);
    match whose {
        Whose::Site(site) => vec![tag(TAG_SITE, site)],
        Whose::Provision(site, provision) => {
            vec![tag(TAG_SITE, site), tag(TAG_PROVISION, provision.as_str())]
        }
    }
}

/// The value of a tag.
pub(crate) fn value<'t>(tags: &'t [Tag], key: &str) -> Option<&'t str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}

/// The provision and the role that tags name.
pub(crate) fn purpose(tags: &[Tag]) -> (Option<ProvisionId>, String) {
    let provision = value(tags, TAG_PROVISION).and_then(|text| text.parse().ok());
    (provision, value(tags, TAG_ROLE).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(site: &str) -> Tags {
        Tags { site: site.to_owned(), provision: "compute-1".parse().expect("a name"), role: "compute-0-3".to_owned() }
    }

    #[test]
    fn tokens_are_short_stable_and_a_frontends_own() {
        assert_eq!(token(&tags("hq"), "compute-1/volume"), "hq/compute-1/volume");
        let long = format!("{}/compute-0-1.0", "p".repeat(40));
        let short = token(&tags("frontend.example.org"), &long);
        assert_eq!(short, "ppppppppppppppppppppppp.0ff09eedefb9ca6c8dc9bd8ed37079ffdba9bdf5");
        assert!(short.len() == LONGEST && short.bytes().all(|b| b.is_ascii_graphic()));
        let others = [token(&tags("frontend.example.com"), &long), token(&tags("frontend.example.org"), &(long + "1"))];
        assert!(others.iter().all(|other| *other != short && other.len() == LONGEST), "{others:?}");
        let odd = token(&tags("zürich"), "compute-1/vol ume");
        assert!(odd.is_ascii() && odd.starts_with("compute-1/volume."), "{odd}");
    }

    #[test]
    fn tags_say_whose_it_is_and_are_read_back() {
        let made = tagged(ResourceType::Volume, &tags("hq"));
        assert_eq!(made.resource_type(), Some(&ResourceType::Volume));
        assert_eq!(value(made.tags(), "Name"), Some("rocks compute-1 compute-0-3"));
        assert_eq!(value(made.tags(), TAG_SITE), Some("hq"));
        assert_eq!(purpose(made.tags()), ("compute-1".parse().ok(), "compute-0-3".to_owned()));
        assert_eq!(purpose(&[]), (None, String::new()));
    }

    #[test]
    fn a_star_in_a_name_finds_nothing_of_others() {
        let filters = filters(Whose::Site("h*?\\q"));
        assert_eq!(filters[0].name(), Some("tag:rocks:site"));
        assert_eq!(filters[0].values(), ["h\\*\\?\\\\q"]);
        let id = "compute-1".parse().expect("a name");
        assert_eq!(super::filters(Whose::Provision("hq", &id)).len(), 2);
    }
}
