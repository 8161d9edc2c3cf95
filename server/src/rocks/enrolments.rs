//! Enrolments: rules by which instances become hosts that nobody announced.

use http::Method;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;

/// Seconds of a time such as `15m`.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

pub(super) fn add(c: &Context<'_>) -> Done {
    let need = |name: &str| {
        let refusal = || {
            Refusal::new(Exit::Usage, format!("`{name}=` is needed")).hint(format!("for example: {}", c.spec.example))
        };
        c.key(name).ok_or_else(refusal)
    };
    let images: Vec<&str> = need("ami")?.split(',').map(str::trim).collect();
    let mut body =
        json!({"name": c.names[0], "appliance": need("appliance")?, "account": need("account")?, "images": images});
    if let Some(region) = c.key("region") {
        body["region"] = json!(region);
    }
    if let Some(age) = c.key("age") {
        let wrong = || Refusal::new(Exit::Usage, format!("age={age}: a time is written as 90s, 15m or 1h"));
        body["age_seconds"] = json!(seconds(age).ok_or_else(wrong)?);
    }
    if c.key("count").is_some() {
        body["count"] = json!(c.number("count", 0)?);
    }
    c.act(Method::POST, "/api/v1/enrolments", &body)
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/enrolments", &c.names)?;
    for row in &mut rows {
        let images: Vec<&str> = row["images"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        row["ami"] = json!(images.join(","));
        row["age"] = json!(format!("{}s", row["age_seconds"]));
    }
    c.print(
        &rows,
        &[
            ("ENROLMENT", "name"),
            ("APPLIANCE", "appliance"),
            ("ACCOUNT", "account"),
            ("REGION", "region"),
            ("IMAGE", "ami"),
            ("HOSTS", "hosts"),
            ("MOST", "count"),
        ],
        &[("AGE", "age"), ("PROVISION", "provision")],
    )
}

pub(super) fn remove(c: &Context<'_>) -> Done {
    c.act(Method::DELETE, &format!("/api/v1/enrolments/{}", encode(&c.names[0])), &Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(["90", "90s", "15m", "2h"].map(seconds), [Some(90), Some(90), Some(900), Some(7200)]);
        assert!(["", "m", "1d", "-1m", "1 m", "99999999999999999999h"].iter().all(|bad| seconds(bad).is_none()));
    }
}
