//! Writing: no blanks between elements, attributes in single quotes, in the original's order.

use std::fmt::Write as _;

use super::{CIPHER, DIGEST, Image, Machine, Manifest, VERSION};
use crate::value::to_hex;

/// What may stand between tags. A control character may not stand in XML at all.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn element(out: &mut String, name: &str, text: &str) {
    let _ = write!(out, "<{name}>{}</{name}>", escaped(text));
}

fn optional(out: &mut String, name: &str, text: Option<&String>) {
    if let Some(text) = text {
        element(out, name, text);
    }
}

fn list(out: &mut String, outer: &str, inner: &str, texts: &[String]) {
    if !texts.is_empty() {
        let _ = write!(out, "<{outer}>");
        for text in texts {
            element(out, inner, text);
        }
        let _ = write!(out, "</{outer}>");
    }
}

/// The two elements that are signed.
pub(super) fn signed(machine: &Machine, image: &Image) -> String {
    let mut out = String::from("<machine_configuration>");
    element(&mut out, "architecture", &machine.architecture);
    if !machine.block_devices.is_empty() {
        out.push_str("<block_device_mapping>");
        for (virtual_name, device) in &machine.block_devices {
            out.push_str("<mapping>");
            element(&mut out, "virtual", virtual_name);
            element(&mut out, "device", device);
            out.push_str("</mapping>");
        }
        out.push_str("</block_device_mapping>");
    }
    optional(&mut out, "kernel_id", machine.kernel_id.as_ref());
    optional(&mut out, "ramdisk_id", machine.ramdisk_id.as_ref());
    list(&mut out, "product_codes", "product_code", &machine.product_codes);
    out.push_str("</machine_configuration><image>");
    element(&mut out, "name", &image.name);
    element(&mut out, "user", &image.user);
    element(&mut out, "type", image.kind.as_str());
    optional(&mut out, "kernel_name", image.kernel_name.as_ref());
    list(&mut out, "ancestry", "ancestor_ami_id", &image.ancestors);
    let _ = write!(out, "<digest algorithm='{DIGEST}'>{}</digest>", image.digest);
    let _ = write!(out, "<size>{}</size><bundled_size>{}</bundled_size>", image.size, image.bundled_size);
    for (name, key) in [("ec2_encrypted_key", &image.ec2_key), ("user_encrypted_key", &image.user_key)] {
        let _ = write!(out, "<{name} algorithm='{CIPHER}'>{}</{name}>", to_hex(key));
    }
    for (name, iv) in [("ec2_encrypted_iv", &image.ec2_iv), ("user_encrypted_iv", &image.user_iv)] {
        let _ = write!(out, "<{name}>{}</{name}>", to_hex(iv));
    }
    let _ = write!(out, "<parts count='{}'>", image.parts.len());
    for (index, part) in image.parts.iter().enumerate() {
        let _ = write!(out, "<part index='{index}'>");
        element(&mut out, "filename", &part.name);
        let _ = write!(out, "<digest algorithm='{DIGEST}'>{}</digest></part>", part.digest);
    }
    out.push_str("</parts></image>");
    out
}

/// The whole.
pub(super) fn xml(manifest: &Manifest) -> String {
    let mut out = format!("<?xml version='1.0'?><manifest><version>{VERSION}</version><bundler>");
    element(&mut out, "name", &manifest.bundler.name);
    element(&mut out, "version", &manifest.bundler.version);
    element(&mut out, "release", &manifest.bundler.release);
    let _ =
        write!(out, "</bundler>{}<signature>{}</signature></manifest>", manifest.signed, to_hex(&manifest.signature));
    out
}
