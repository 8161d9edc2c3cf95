//! Images: those that the frontend keeps, how they come to it, and how they leave it.

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::Method;
use indicatif::HumanBytes;
use rocks_common::wire::Problem;
use rocks_ship::shipment::{Sender, ShipmentError, Source};
use serde_json::{Value, json};

use super::client::{self, Refusal};
use super::context::{Context, Done, encode};
use super::progress::Progress;
use crate::output::Exit;

/// Bytes of which a file has a hole instead if all are zero.
const HOLE: u64 = 4096;

fn needed<'c>(c: &'c Context<'_>, name: &str) -> Result<&'c str, Refusal> {
    c.key(name).ok_or_else(|| Refusal::new(Exit::Usage, format!("`{name}=` is missing")).hint(c.spec.example))
}

fn full(path: &str) -> Result<PathBuf, Refusal> {
    std::path::absolute(path).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))
}

fn size(value: &Value) -> Value {
    value.as_u64().map_or(Value::Null, |bytes| json!(HumanBytes(bytes).to_string()))
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/images", &c.names)?;
    for row in &mut rows {
        row["size"] = size(&row["bytes"]);
        row["takes"] = size(&row["allocated"]);
        let from = &row["from"];
        let of = ["host", "file"].iter().find_map(|name| from[*name].as_str());
        row["origin"] = json!([from["kind"].as_str(), of].into_iter().flatten().collect::<Vec<_>>().join(" "));
    }
    c.print(
        &rows,
        &[
            ("IMAGE", "name"),
            ("APPLIANCE", "appliance"),
            ("SIZE", "size"),
            ("TAKES", "takes"),
            ("MADE", "made"),
            ("FROM", "origin"),
        ],
        &[("DIGEST", "digest"), ("DISK", "disk")],
    )
}

pub(super) fn remove(c: &Context<'_>) -> Done {
    c.confirm(&format!("remove image {}", c.names[0]))?;
    c.act(Method::DELETE, &format!("/api/v1/images/{}", encode(&c.names[0])), &Value::Null)
}

fn told(c: &Context<'_>, image: &Value, how: &str) -> Done {
    let text = || {
        format!(
            "image {} {how}: {}, takes {}; {}\n",
            image["name"].as_str().unwrap_or_default(),
            HumanBytes(image["bytes"].as_u64().unwrap_or(0)),
            HumanBytes(image["allocated"].as_u64().unwrap_or(0)),
            image["digest"].as_str().unwrap_or_default()
        )
    };
    Ok((c.one(image, text), Exit::Ok))
}

pub(super) fn add(c: &Context<'_>) -> Done {
    let body = json!({"name": c.names[0], "file": full(&c.names[1])?, "appliance": c.key("appliance")});
    told(c, &c.long("/api/v1/images", &body)?, "was added")
}

/// The word for an image that the frontend is given: the name of one that it has, else a path.
fn image_or_path(c: &Context<'_>, word: &str) -> Result<String, Refusal> {
    let is_known = !word.contains('/')
        && c.get("/api/v1/images")?.as_array().is_some_and(|all| all.iter().any(|image| image["name"] == word));
    if is_known {
        return Ok(word.to_owned());
    }
    let path = full(word)?;
    if !path.exists() && !word.contains('/') {
        let refusal = Refusal::new(Exit::NoSuchObject, format!("there is no image `{word}`, and no file of that name"));
        return Err(refusal.hint("`rocks list image` lists the images"));
    }
    Ok(path.display().to_string())
}

pub(super) fn ship(c: &Context<'_>) -> Done {
    let rate = c.key("rate").map(|_| c.number("rate", 0)).transpose()?;
    let base = c.key("base").map(|base| image_or_path(c, base)).transpose()?;
    let body = json!({"image": image_or_path(c, &c.names[0])?, "base": base,
                      "host": needed(c, "host")?, "to": needed(c, "to")?,
                      "transport": c.key("transport").unwrap_or("udt"), "rate": rate,
                      "form": c.key("form").unwrap_or("block")});
    let shipped = c.long("/api/v1/shipments", &body)?;
    let text = || {
        let (unit, of) = match shipped.get("chunks") {
            Some(chunks) => ("chunks", chunks),
            None => ("blocks", &shipped["blocks"]),
        };
        let mut text = format!(
            "shipped {} bytes in {:.1} s: {} of {of} {unit} travelled as {} bytes; verified there: {}\n",
            shipped["bytes"],
            shipped["took"].as_f64().unwrap_or(0.0),
            shipped["sent"],
            shipped["sent_bytes"],
            shipped["digest"].as_str().unwrap_or_default()
        );
        if let Some(findings) = shipped["findings"].as_u64().filter(|findings| *findings > 0) {
            text.push_str(&format!("{findings} things are not there as they are here; the receiver says which\n"));
        }
        text
    };
    Ok((c.one(&shipped, text), Exit::Ok))
}

/// Writes an image into a new file: what fails leaves none.
pub(super) fn export(c: &Context<'_>) -> Done {
    let (name, path) = (&c.names[0], full(&c.names[1])?);
    let is_qcow2 = path.extension().is_some_and(|end| end == "qcow2");
    let format = c.key("format").unwrap_or(if is_qcow2 { "qcow2" } else { "raw" });
    let failed = |error: &io::Error| Refusal::new(Exit::Failed, format!("{}: {error}", path.display()));
    let there = || {
        Refusal::new(Exit::Conflict, format!("{} is there already", path.display())).hint("remove it, or name another")
    };
    if path.exists() {
        return Err(there());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    let mut at = 0;
    let place = format!("/api/v1/images/{}/content?format={}", encode(name), encode(format));
    let bytes = client::fetch(c.cli.socket(), &place, &mut |bytes| {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(usize::try_from(HOLE - at % HOLE).unwrap_or(1)));
            if piece.iter().any(|byte| *byte != 0) {
                file.as_file().write_all_at(piece, at)?;
            }
            at += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    })?;
    let settled = file.as_file().set_len(bytes).and_then(|()| file.as_file().sync_all());
    settled.map_err(|error| failed(&error))?;
    file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => there(),
        _ => failed(&error.error),
    })?;
    let written = json!({"image": name, "file": path, "format": format, "bytes": bytes});
    let text = || format!("image {name} was written to {} as {format}: {}\n", path.display(), HumanBytes(bytes));
    Ok((c.one(&written, text), Exit::Ok))
}

/// A file of this machine, or a host's.
pub(super) fn upload(c: &Context<'_>) -> Done {
    let (word, name) = (&c.names[0], needed(c, "name")?);
    let path = Path::new(word);
    if word.contains('/') || path.is_file() {
        if c.key("at").is_some() || c.key("transport").is_some() {
            return Err(Refusal::new(Exit::Usage, "`at=` and `transport=` are for an upload from a host"));
        }
        return send(c, path, name);
    }
    let patience = c.key("patience").map(|_| c.number("patience", 0)).transpose()?;
    let body = json!({"name": name, "host": word, "at": c.key("at"), "appliance": c.key("appliance"),
                      "transport": c.key("transport").unwrap_or("udt"), "patience": patience});
    if !c.cli.quiet {
        c.message(&format!("on {word}: rocks-agent send --image FILE\n"));
    }
    let done = c.long("/api/v1/uploads", &body)?;
    told(c, &done["image"], &format!("came from {word}"))
}

/// Sends a file through the frontend's socket, over the protocol of shipments.
fn send(c: &Context<'_>, path: &Path, name: &str) -> Done {
    let failed = |error: ShipmentError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Refusal::new(Exit::Failed, format!("{error}{cause}"))
            .hint("what came is kept; the same command goes on from it")
    };
    let progress = Mutex::new(Progress::new(c.cli.progress, c.cli.quiet));
    let tell = |at| {
        let value = serde_json::to_value(at).unwrap_or_default();
        progress.lock().unwrap_or_else(PoisonError::into_inner).tell(&value);
    };
    let source = Source::open(path).map_err(failed)?;
    let sender = Sender::new(&source, &tell).map_err(failed)?;
    let mut place = format!("/api/v1/images/{}/content", encode(name));
    if let Some(appliance) = c.key("appliance") {
        place.push_str(&format!("?appliance={}", encode(appliance)));
    }
    let mut stream = client::upgrade(c.cli.socket(), &place)?;
    sender.run(&mut stream, &tell).map_err(failed)?;
    drop(progress);
    // Then the frontend says in one line what it made of it.
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    let answer: Value = read.ok().and_then(|_| serde_json::from_str(&line).ok()).unwrap_or_default();
    if let Ok(problem) = serde_json::from_value::<Problem>(answer["problem"].clone()) {
        return Err(client::refused(problem));
    }
    match answer.get("result") {
        Some(image) => told(c, image, "was uploaded"),
        None => {
            Err(Refusal::new(Exit::Temporary, "the frontend took the image and hung up").hint("see `rocks list image`"))
        }
    }
}
