//! Instances that a provision launched together: their user data is the same, and which of them is which host follows from the ids that the
//! cloud gave for the launch.

use jiff::Timestamp;
use rocks_common::ids::{EnrolmentName, HostName};
use rocks_provision::order::Join;
use rocks_provision::record::{Record, Status};

use super::document::Document;
use super::rule::{AGE, Unwanted, is_young};

/// What an instance is to a provision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member<'r> {
    /// This host.
    Host(&'r HostName),
    /// Perhaps one that is launched this moment: the cloud's answer to that is not noted yet. It may ask again.
    NotYet,
}

/// Which host of a provision an instance is. `named`: what the instance calls the provision.
///
/// # Errors
/// It is none of the provision's, or has been there for too long.
pub fn member<'r>(
    record: &'r Record,
    named: &EnrolmentName,
    document: &Document,
    now: Timestamp,
) -> Result<Member<'r>, Unwanted> {
    let found = &record.found;
    let is_open = matches!(record.status, Status::Running | Status::Done) && record.order.join == Join::Identity;
    if !is_open || record.order.region != document.region || found.ami.as_ref() != Some(&document.image_id) {
        return Err(Unwanted::no_rule(document));
    }
    is_young(document, named, AGE, now)?;
    if let Some((host, _)) = found.instances.iter().find(|(_, launched)| launched.id == document.instance_id) {
        return Ok(Member::Host(host));
    }
    let is_launched = |host: &HostName| found.instances.contains_key(host) || found.launches.contains_key(host);
    if record.status == Status::Running && !record.order.hosts.iter().all(is_launched) {
        return Ok(Member::NotYet);
    }
    Err(Unwanted::no_rule(document))
}

#[cfg(test)]
mod tests {
    use rocks_provision::ids::InstanceId;
    use rocks_provision::order::{Method, Order};
    use rocks_provision::record::Launched;

    use super::*;

    #[test]
    fn an_instance_is_the_host_that_the_provision_launched_it_for() {
        let image = "ami-00000000000000001";
        let order = crate::provision::forecast::tests::order(Method::Udt);
        let order = Order {
            shipment: None,
            ami: Some(image.parse().unwrap()),
            join: Join::Identity,
            region: "us-east-1".to_owned(),
            ..order
        };
        let mut record = Record::new("lite-1".parse().unwrap(), "site".to_owned(), order, Timestamp::UNIX_EPOCH);
        let named: EnrolmentName = "lite-1".parse().unwrap();
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let shown = |instance: &str, image: &str, region: &str| -> Document {
            let json = serde_json::json!({"accountId": "123456789012", "region": region, "imageId": image,
                "instanceId": instance, "pendingTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json).unwrap()
        };
        let id = |n: usize| format!("i-0000000000000000{n}");
        let ask = |record: &Record, document: &Document, now| match member(record, &named, document, now) {
            Ok(Member::Host(host)) => host.to_string(),
            Ok(Member::NotYet) => "not yet".to_owned(),
            Err(_) => "no".to_owned(),
        };
        let first = shown(&id(0), image, "us-east-1");
        assert_eq!(ask(&record, &first, now), "not yet");
        for (n, host) in record.order.hosts.clone().into_iter().enumerate() {
            record.found.instances.insert(host, Launched::new(id(n).parse::<InstanceId>().unwrap()));
        }
        assert_eq!(ask(&record, &first, now), "lite-0-0");
        assert_eq!(ask(&record, &shown(&id(1), image, "us-east-1"), now), "lite-0-1");
        // Another instance, image, region; too late; and when the provision is over.
        assert_eq!(ask(&record, &shown(&id(9), image, "us-east-1"), now), "no");
        assert_eq!(ask(&record, &shown(&id(0), "ami-00000000000000002", "us-east-1"), now), "no");
        assert_eq!(ask(&record, &shown(&id(0), image, "us-east-2"), now), "no");
        assert_eq!(ask(&record, &first, "2026-01-01T00:15:01Z".parse().unwrap()), "no");
        record.status = Status::Done;
        assert_eq!(ask(&record, &first, now), "lite-0-0");
        record.status = Status::Cancelled;
        assert_eq!(ask(&record, &first, now), "no");
        // By tokens, an identity is nothing to join by.
        record.status = Status::Running;
        record.order.join = Join::Token;
        assert_eq!(ask(&record, &first, now), "no");
    }
}
