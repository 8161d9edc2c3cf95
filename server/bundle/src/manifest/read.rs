//! Reading what nobody vouches for: bounded, without document types, and the signed text taken from where the elements stand.

use std::ops::Range;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::{BYTES, Bundler, CIPHER, DIGEST, Image, Machine, Manifest, ManifestError, PARTS, PartInfo, TEXT, VERSION};
use crate::value::from_hex;

/// Elements in elements.
const DEPTH: usize = 8;
/// Elements in all.
const ELEMENTS: usize = 4 * PARTS;

struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
    /// From `<` to `>`.
    place: Range<usize>,
}

fn malformed(at: usize, why: impl ToString) -> ManifestError {
    ManifestError::Malformed { at, why: why.to_string() }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn open(tag: &BytesStart<'_>, at: usize) -> Result<Element, ManifestError> {
    let mut attributes = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| malformed(at, error))?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| malformed(at, error))?;
        attributes.push((attribute.key.into_inner().to_owned(), value.into_owned()));
        if attributes.len() > DEPTH {
            return Err(malformed(at, "an element with so many attributes"));
        }
    }
    let name = tag.name().into_inner().to_owned();
    Ok(Element { name, attributes, text: String::new(), children: Vec::new(), place: at..at })
}

fn tree(text: &str) -> Result<Element, ManifestError> {
    let mut reader = Reader::from_str(text);
    let (mut stack, mut root, mut count) = (Vec::<Element>::new(), None, 0);
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = reader.read_event().map_err(|error| malformed(at, error))?;
        let end = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let mut closed = None;
        match event {
            Event::Start(tag) => {
                stack.push(open(&tag, at)?);
                count += 1;
            }
            Event::Empty(tag) => {
                closed = Some(open(&tag, at)?);
                count += 1;
            }
            Event::End(_) => closed = stack.pop(),
            Event::Text(piece) => add(&mut stack, &piece.xml10_content(), at)?,
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().map_err(|error| malformed(at, error))? {
                    Some(c) => c.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&reference.xml10_content())
                        .ok_or_else(|| malformed(at, "a reference to an entity that XML does not have"))?
                        .to_owned(),
                };
                add(&mut stack, &c, at)?;
            }
            Event::Decl(_) | Event::Comment(_) => {}
            Event::CData(_) | Event::PI(_) | Event::DocType(_) => {
                return Err(malformed(at, "something other than elements and text"));
            }
            Event::Eof => break,
        }
        if stack.len() > DEPTH || count > ELEMENTS {
            return Err(malformed(at, "more elements than a manifest has"));
        }
        if let Some(mut element) = closed {
            element.place.end = end;
            match stack.last_mut() {
                Some(parent) => parent.children.push(element),
                None if root.is_none() => root = Some(element),
                None => return Err(malformed(at, "a second root")),
            }
        }
    }
    match root {
        Some(root) if stack.is_empty() => Ok(root),
        _ => Err(malformed(text.len(), "it ends before its elements do")),
    }
}

fn add(stack: &mut [Element], text: &str, at: usize) -> Result<(), ManifestError> {
    match stack.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(malformed(at, "text outside of the root")),
    }
    Ok(())
}

impl Element {
    fn one(&self, name: &'static str) -> Result<&Self, ManifestError> {
        self.maybe(name)?.ok_or(ManifestError::Missing(name))
    }

    fn maybe(&self, name: &'static str) -> Result<Option<&Self>, ManifestError> {
        let mut all = self.children.iter().filter(|child| child.name == name);
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(ManifestError::Twice(name)),
        }
    }

    fn value(&self, name: &'static str, wanted: &'static str) -> ManifestError {
        ManifestError::Value { element: name, text: short(self.text.trim()), wanted }
    }

    fn text(&self, name: &'static str) -> Result<String, ManifestError> {
        let element = self.one(name)?;
        if element.text.len() > TEXT || !element.children.is_empty() {
            return Err(element.value(name, "text of its kind"));
        }
        Ok(element.text.trim().to_owned())
    }

    fn maybe_text(&self, name: &'static str) -> Result<Option<String>, ManifestError> {
        Ok(if self.maybe(name)?.is_some() { Some(self.text(name)?) } else { None })
    }

    fn number(&self, name: &'static str) -> Result<u64, ManifestError> {
        self.text(name)?.parse().map_err(|_| self.children_value(name, "number of bytes"))
    }

    fn children_value(&self, name: &'static str, wanted: &'static str) -> ManifestError {
        let element = self.children.iter().find(|child| child.name == name);
        element.unwrap_or(self).value(name, wanted)
    }

    fn hex(&self, name: &'static str) -> Result<Vec<u8>, ManifestError> {
        from_hex(&self.text(name)?).ok_or_else(|| self.children_value(name, "hexadecimal number"))
    }

    fn parsed<T: std::str::FromStr<Err = crate::ValueError>>(&self, name: &'static str) -> Result<T, ManifestError> {
        self.text(name)?.parse().map_err(|error| ManifestError::Invalid { element: name, error })
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What is not made as we know it is not read as if it were.
    fn algorithm(&self, name: &'static str, wanted: &'static str) -> Result<(), ManifestError> {
        match self.one(name)?.attribute("algorithm") {
            Some(text) if text.eq_ignore_ascii_case(wanted) => Ok(()),
            Some(text) => Err(ManifestError::Value { element: name, text: short(text), wanted }),
            None => Err(ManifestError::Missing("algorithm")),
        }
    }

    fn all(&self, outer: &'static str, inner: &'static str) -> Result<Vec<String>, ManifestError> {
        let Some(list) = self.maybe(outer)? else { return Ok(Vec::new()) };
        let texts = list.children.iter().filter(|child| child.name == inner);
        Ok(texts.map(|child| child.text.trim().to_owned()).collect())
    }
}

pub(super) fn read(text: &str) -> Result<Manifest, ManifestError> {
    if text.len() > BYTES {
        return Err(ManifestError::TooLarge(text.len()));
    }
    let root = tree(text)?;
    if root.name != "manifest" {
        return Err(ManifestError::Missing("manifest"));
    }
    let version = root.text("version")?;
    if version != VERSION {
        return Err(ManifestError::Version(short(&version)));
    }
    let bundler = match root.maybe("bundler")? {
        Some(bundler) => Bundler {
            name: bundler.maybe_text("name")?.unwrap_or_default(),
            version: bundler.maybe_text("version")?.unwrap_or_default(),
            release: bundler.maybe_text("release")?.unwrap_or_default(),
        },
        None => Bundler { name: String::new(), version: String::new(), release: String::new() },
    };
    let (machine, image) = (root.one("machine_configuration")?, root.one("image")?);
    // Not the first such text in the file, which a comment could hold: the elements that are read.
    let signed = [machine, image].map(|element| &text[element.place.clone()]).concat();
    let signature = root.hex("signature")?;
    Ok(Manifest { bundler, machine: read_machine(machine)?, image: read_image(image)?, signed, signature })
}

fn read_machine(element: &Element) -> Result<Machine, ManifestError> {
    let mut block_devices = Vec::new();
    if let Some(list) = element.maybe("block_device_mapping")? {
        for mapping in list.children.iter().filter(|child| child.name == "mapping") {
            block_devices.push((mapping.text("virtual")?, mapping.text("device")?));
        }
    }
    Ok(Machine {
        architecture: element.text("architecture")?,
        block_devices,
        kernel_id: element.maybe_text("kernel_id")?,
        ramdisk_id: element.maybe_text("ramdisk_id")?,
        product_codes: element.all("product_codes", "product_code")?,
    })
}

fn read_image(element: &Element) -> Result<Image, ManifestError> {
    element.algorithm("digest", DIGEST)?;
    for name in ["ec2_encrypted_key", "user_encrypted_key"] {
        element.algorithm(name, CIPHER)?;
    }
    Ok(Image {
        name: element.text("name")?,
        user: element.text("user")?,
        kind: element.parsed("type")?,
        kernel_name: element.maybe_text("kernel_name")?,
        ancestors: element.all("ancestry", "ancestor_ami_id")?,
        digest: element.parsed("digest")?,
        size: element.number("size")?,
        bundled_size: element.number("bundled_size")?,
        ec2_key: element.hex("ec2_encrypted_key")?,
        user_key: element.hex("user_encrypted_key")?,
        ec2_iv: element.hex("ec2_encrypted_iv")?,
        user_iv: element.hex("user_encrypted_iv")?,
        parts: read_parts(element.one("parts")?)?,
    })
}

fn read_parts(element: &Element) -> Result<Vec<PartInfo>, ManifestError> {
    let count = element.children.iter().filter(|child| child.name == "part").count();
    let wrong = || ManifestError::Parts(count.saturating_sub(1));
    let said = element.attribute("count").and_then(|text| text.parse::<usize>().ok());
    if count == 0 || count > PARTS || said != Some(count) {
        return Err(wrong());
    }
    let mut parts = vec![None; count];
    for part in element.children.iter().filter(|child| child.name == "part") {
        let index = part.attribute("index").and_then(|text| text.parse::<usize>().ok());
        let slot = index.and_then(|index| parts.get_mut(index)).filter(|slot| slot.is_none()).ok_or_else(wrong)?;
        part.algorithm("digest", DIGEST)?;
        let name = part.text("filename")?;
        if name.is_empty() || name.len() > 255 || [".", ".."].contains(&name.as_str()) {
            return Err(ManifestError::PartName(short(&name)));
        }
        if name.chars().any(|c| c == '/' || c == '\\' || c.is_control()) {
            return Err(ManifestError::PartName(short(&name)));
        }
        *slot = Some(PartInfo { name, digest: part.parsed("digest")? });
    }
    parts.into_iter().collect::<Option<Vec<_>>>().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::key::PrivateKey;
    use crate::key::tests::{NEW, OLD};

    fn sample(parts: usize) -> Manifest {
        let machine = Machine {
            architecture: "x86_64".to_owned(),
            block_devices: vec![("ami".to_owned(), "sda1".to_owned()), ("root".to_owned(), "/dev/sda1".to_owned())],
            kernel_id: Some("aki-1".to_owned()),
            ramdisk_id: Some("ari-1".to_owned()),
            product_codes: vec!["A<&>'\"B".to_owned()],
        };
        let part = |index| PartInfo { name: format!("lite.part.{index:02}"), digest: Sha1::of(&[index as u8]) };
        let image = Image {
            name: "lite".to_owned(),
            user: "123456789012".to_owned(),
            kind: ImageKind::Machine,
            kernel_name: None,
            ancestors: vec!["ami-1".to_owned()],
            digest: Sha1::of(b"tar"),
            size: 4096,
            bundled_size: 1040,
            ec2_key: vec![1, 2],
            user_key: vec![3, 4],
            ec2_iv: vec![5, 6],
            user_iv: vec![7, 8],
            parts: (0..parts).map(part).collect(),
        };
        let bundler = Bundler { name: "b".to_owned(), version: "1".to_owned(), release: "2".to_owned() };
        Manifest::sign(bundler, machine, image, &PrivateKey::read(NEW.1).unwrap()).unwrap()
    }

    #[test]
    fn its_text_is_known() {
        let text = sample(1).xml();
        let (before, signature) = text.split_once("<signature>").unwrap();
        assert_eq!(
            before,
            "<?xml version='1.0'?><manifest><version>2007-10-10</version><bundler><name>b</name><version>1</version>\
             <release>2</release></bundler><machine_configuration><architecture>x86_64</architecture>\
             <block_device_mapping><mapping><virtual>ami</virtual><device>sda1</device></mapping>\
             <mapping><virtual>root</virtual><device>/dev/sda1</device></mapping></block_device_mapping>\
             <kernel_id>aki-1</kernel_id><ramdisk_id>ari-1</ramdisk_id>\
             <product_codes><product_code>A&lt;&amp;&gt;'\"B</product_code></product_codes></machine_configuration>\
             <image><name>lite</name><user>123456789012</user><type>machine</type>\
             <ancestry><ancestor_ami_id>ami-1</ancestor_ami_id></ancestry>\
             <digest algorithm='SHA1'>680254bad1d7ca0d65ec46aaa315d363abf6a50a</digest>\
             <size>4096</size><bundled_size>1040</bundled_size>\
             <ec2_encrypted_key algorithm='AES-128-CBC'>0102</ec2_encrypted_key>\
             <user_encrypted_key algorithm='AES-128-CBC'>0304</user_encrypted_key>\
             <ec2_encrypted_iv>0506</ec2_encrypted_iv><user_encrypted_iv>0708</user_encrypted_iv>\
             <parts count='1'><part index='0'><filename>lite.part.00</filename>\
             <digest algorithm='SHA1'>5ba93c9db0cff93f52b521d7420e43f6eda2784f</digest></part></parts></image>"
        );
        assert_eq!(signature.len(), 512 + "</signature></manifest>".len());
    }

    #[test]
    fn it_goes_both_ways() {
        for parts in [1, 2, 130] {
            let manifest = sample(parts);
            let read = Manifest::read(&manifest.xml()).unwrap();
            assert_eq!(read, manifest);
            assert!(read.is_signed_by(PrivateKey::read(NEW.1).unwrap().public()));
            assert!(!read.is_signed_by(PrivateKey::read(OLD.1).unwrap().public()));
        }
    }

    #[test]
    fn what_is_signed_is_what_is_read() {
        let (text, key) = (sample(2).xml(), PrivateKey::read(NEW.1).unwrap());
        let start = text.find("<machine_configuration>").unwrap();
        let end = text.find("<signature>").unwrap();
        // The signed text in a comment before other elements: the first that a search would find.
        let wrapped = text.replace("<version>", &format!("<!--{}--><version>", &text[start..end]));
        let wrapped = wrapped.replacen("<image><name>lite<", "<image><name>KEEP<", 1);
        let at = wrapped.rfind("<name>lite<").unwrap();
        let evil = format!("{}<name>evil<{}", &wrapped[..at], &wrapped[at + 11..]);
        let evil = evil.replacen("<name>KEEP<", "<name>lite<", 1);
        let read = Manifest::read(&evil).unwrap();
        assert_eq!(read.image().name, "evil");
        assert!(!read.is_signed_by(key.public()));
        // Blanks between the signed elements are no part of them, as with the original.
        let read = Manifest::read(&text.replace("<image>", "\n  <image>")).unwrap();
        assert!(read.is_signed_by(key.public()));
        let changed = Manifest::read(&text.replace("x86_64", "i386")).unwrap();
        assert!(!changed.is_signed_by(key.public()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = sample(3).xml();
        let fails = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            Manifest::read(&text.replacen(from, to, 1)).unwrap_err()
        };
        assert_eq!(fails("2007-10-10", "3"), ManifestError::Version("3".to_owned()));
        assert_eq!(fails("<size>4096</size>", ""), ManifestError::Missing("size"));
        assert_eq!(fails("<size>", "<size>1</size><size>"), ManifestError::Twice("size"));
        assert_eq!(fails("<image>", "<image></image><image>"), ManifestError::Twice("image"));
        assert!(matches!(fails("<size>4096", "<size>-1"), ManifestError::Value { element: "size", .. }));
        assert!(matches!(fails(">machine<", ">disk<"), ManifestError::Invalid { element: "type", .. }));
        assert!(matches!(fails("'SHA1'>6802", "'SHA1'>68"), ManifestError::Invalid { element: "digest", .. }));
        assert!(matches!(fails("'SHA1'>6802", "'MD5'>6802"), ManifestError::Value { element: "digest", .. }));
        assert!(matches!(fails("AES-128-CBC", "AES-256-CBC"), ManifestError::Value { .. }));
        assert_eq!(fails("index='1'", "index='2'"), ManifestError::Parts(2));
        assert_eq!(fails("index='1'", "index='3'"), ManifestError::Parts(2));
        assert_eq!(fails("count='3'", "count='2'"), ManifestError::Parts(2));
        for name in ["../../etc/passwd", "", ".", "..", "a&#10;b", "a\\b"] {
            assert!(matches!(fails("lite.part.01", name), ManifestError::PartName(_)), "{name}");
        }
        for bad in ["<!DOCTYPE x>", "<![CDATA[x]]>", "<?x y?>", "&who;", "&#0;", "<open>", "</close>"] {
            assert!(matches!(fails("<version>", &format!("{bad}<version>")), ManifestError::Malformed { .. }), "{bad}");
        }
        assert!(matches!(fails("</manifest>", ""), ManifestError::Malformed { .. }));
        assert!(matches!(fails("</manifest>", "</manifest><x/>"), ManifestError::Malformed { .. }));
        assert!(matches!(fails("</manifest>", "</manifest>x"), ManifestError::Malformed { .. }));
        for bad in ["", "x", "<a/>", "<manifest/>", &"<a>".repeat(100), &"<manifest>".repeat(3)] {
            assert!(Manifest::read(bad).is_err(), "{bad}");
        }
        assert_eq!(Manifest::read(&" ".repeat(BYTES + 1)), Err(ManifestError::TooLarge(BYTES + 1)));
        for at in 0..text.len() {
            let _ = Manifest::read(&text[..at]).unwrap_err();
        }
    }
}
