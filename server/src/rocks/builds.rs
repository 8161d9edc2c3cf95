//! Building images.

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done};
use crate::output::Exit;

fn absolute(path: &str) -> Result<std::path::PathBuf, Refusal> {
    std::path::absolute(path).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))
}

pub(super) fn create(c: &Context<'_>) -> Done {
    let keys = c.key("gpgkey").unwrap_or_default().split(',').filter(|key| !key.is_empty());
    let keys = keys.map(absolute).collect::<Result<Vec<_>, _>>()?;
    let size = c.key("size").map(|_| c.number("size", 0)).transpose()?;
    let body =
        json!({"appliance": c.names[0], "name": c.key("name"), "arch": c.key("arch"), "size": size, "gpgkeys": keys});
    let image = c.long("/api/v1/builds", &body)?;
    let built = &image["from"];
    let text = || {
        let boots: Vec<&str> = built["boots"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut text = format!(
            "image {}: {} of {} in use, {} packages, boots by {}\n",
            image["name"].as_str().unwrap_or_default(),
            HumanBytes(built["allocated"].as_u64().unwrap_or(0)),
            HumanBytes(built["bytes"].as_u64().unwrap_or(0)),
            built["packages"].as_array().map_or(0, Vec::len),
            boots.join(" and ")
        );
        for note in built["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("note: {note}\n"));
        }
        text
    };
    Ok((c.one(&image, text), Exit::Ok))
}
