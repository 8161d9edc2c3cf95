//! Images: building, listing, shipping, removing.

use http::Method;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
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
    let image = c.long("/api/v1/images", &body)?;
    let built = &image["built"];
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

pub(super) fn list(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/images", &c.names)?;
    for row in &mut rows {
        let made = row["made"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
        row["made"] = json!(made);
        row["size"] = json!(HumanBytes(row["built"]["bytes"].as_u64().unwrap_or(0)).to_string());
        row["used"] = json!(HumanBytes(row["built"]["allocated"].as_u64().unwrap_or(0)).to_string());
        row["packages"] = json!(row["built"]["packages"].as_array().map_or(0, Vec::len));
    }
    c.print(
        &rows,
        &[
            ("IMAGE", "name"),
            ("APPLIANCE", "appliance"),
            ("ARCH", "arch"),
            ("SIZE", "size"),
            ("USED", "used"),
            ("MADE", "made"),
        ],
        &[("PACKAGES", "packages"), ("KICKSTART", "kickstart")],
    )
}

pub(super) fn remove(c: &Context<'_>) -> Done {
    c.confirm(&format!("remove image {}", c.names[0]))?;
    c.act(Method::DELETE, &format!("/api/v1/images/{}", encode(&c.names[0])), &Value::Null)
}

pub(super) fn ship(c: &Context<'_>) -> Done {
    let needed = |name: &str| {
        c.key(name).ok_or_else(|| Refusal::new(Exit::Usage, format!("`{name}=` is missing")).hint(c.spec.example))
    };
    let word = &c.names[0];
    // A word without a slash that is no file here is the name of an image that the frontend keeps.
    let image =
        if word.contains('/') || std::path::Path::new(word).exists() { json!(absolute(word)?) } else { json!(word) };
    let rate = c.key("rate").map(|_| c.number("rate", 0)).transpose()?;
    let body = json!({"image": image, "host": needed("host")?, "to": needed("to")?,
                      "transport": c.key("transport").unwrap_or("udt"), "rate": rate});
    let shipped = c.long("/api/v1/shipments", &body)?;
    let text = || {
        format!(
            "shipped {} bytes in {:.1} s: {} of {} blocks travelled as {} bytes; verified there: {}\n",
            shipped["bytes"],
            shipped["took"].as_f64().unwrap_or(0.0),
            shipped["sent"],
            shipped["blocks"],
            shipped["sent_bytes"],
            shipped["digest"].as_str().unwrap_or_default()
        )
    };
    Ok((c.one(&shipped, text), Exit::Ok))
}
