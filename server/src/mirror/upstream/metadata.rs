//! Reads `repomd.xml` and `primary.xml` of a repository that nobody vouches for: bounded, and no name in it becomes a path.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use rocks_common::evr::Evr;

/// Bytes of the list of packages, unpacked. That of a whole distribution is some 200 MB.
const LIST_BYTES: u64 = 4 << 30;
/// Packages in one repository.
const PACKAGES: usize = 1 << 20;
/// Bytes of one package.
const PACKAGE_BYTES: u64 = 8 << 30;
/// Bytes of a location.
const HREF_BYTES: usize = 1024;

/// Why metadata cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It is not what it should be.
    #[error("it cannot be read: {0}")]
    Broken(String),
    /// A list in a form that we do not unpack.
    #[error("its list of packages is packed in a way that is not known here")]
    Packing,
    /// It has no list of packages.
    #[error("it has no list of packages (type `primary`)")]
    NoPrimary,
    /// A digest that proves too little.
    #[error("{0} digests are not accepted: the repository must give SHA-256 or better")]
    Weak(String),
    /// A place that would lead out of the repository.
    #[error("{0:?} is not a place below the repository")]
    Href(String),
    /// More than any real one has.
    #[error("it has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many are taken.
        limit: u64,
    },
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A digest as the metadata gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) algorithm: &'static aws_lc_rs::digest::Algorithm,
    hex: String,
}

impl Checksum {
    fn new(kind: &str, text: &str) -> Result<Self, MetadataError> {
        let algorithm = match kind {
            "sha256" => &aws_lc_rs::digest::SHA256,
            "sha384" => &aws_lc_rs::digest::SHA384,
            "sha512" => &aws_lc_rs::digest::SHA512,
            other => return Err(MetadataError::Weak(other.to_owned())),
        };
        let hex = text.trim().to_ascii_lowercase();
        if hex.len() != algorithm.output_len() * 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(MetadataError::Broken(format!("{text:?} is no {kind} digest")));
        }
        Ok(Self { algorithm, hex })
    }

    /// In lower case.
    pub(super) fn hex(&self) -> &str {
        &self.hex
    }
}

/// A file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) href: String,
    pub(super) checksum: Checksum,
    pub(super) size: Option<u64>,
}

/// A package of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) name: String,
    pub(super) arch: String,
    pub(super) evr: Evr,
    pub(super) href: String,
    /// Another place than the repository's, if it names one.
    base: Option<String>,
    pub(super) checksum: Checksum,
    pub(super) size: u64,
}

impl Remote {
    pub(super) fn url(&self, repository: &str) -> String {
        let base = self.base.as_deref().unwrap_or(repository).trim_end_matches('/');
        // A character that means something in a URL is escaped; most already are plain.
        let escaped: String = self
            .href
            .bytes()
            .map(|b| {
                let plain = b.is_ascii_alphanumeric() || b"-._~/+:@!$&'()*,;=%".contains(&b);
                if plain && b != b'+' { char::from(b).to_string() } else { format!("%{b:02X}") }
            })
            .collect();
        format!("{base}/{escaped}")
    }

    /// The name of its file, with nothing in it that means something to a file system.
    pub(super) fn file_name(&self) -> String {
        let base = self.href.rsplit('/').next().unwrap_or_default();
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._+~^-".contains(c) { c } else { '_' };
        let name: String = base.chars().map(safe).take(200).collect();
        let name = name.trim_start_matches('.').trim_end_matches(".rpm");
        format!("{name}.rpm")
    }
}

/// A place below the repository, as it is.
fn checked_href(href: &str) -> Result<String, MetadataError> {
    let good = !href.is_empty()
        && href.len() <= HREF_BYTES
        && !href.starts_with('/')
        && !href.contains(['\\', '\0', '?', '#'])
        && !href.chars().any(char::is_control)
        && !href.split('/').any(|part| part == ".." || part.is_empty() && href.ends_with('/'))
        && !href.contains("://");
    if good { Ok(href.to_owned()) } else { Err(MetadataError::Href(href.to_owned())) }
}

fn broken(error: &dyn std::fmt::Display) -> MetadataError {
    MetadataError::Broken(error.to_string())
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, MetadataError> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| broken(&error))?;
        if attribute.key.as_ref() == name {
            let value =
                attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|error| broken(&error))?;
            return Ok(Some(value.into_owned()));
        }
    }
    Ok(None)
}

/// Where the list of packages is.
pub(super) fn primary_of(repomd: &[u8]) -> Result<Primary, MetadataError> {
    let mut reader = Reader::from_reader(repomd);
    let mut buffer = Vec::new();
    let (mut within, mut checksum, mut href, mut size) = (false, None, None, None);
    let mut text = String::new();
    let mut kind = String::new();
    loop {
        match reader.read_event_into(&mut buffer).map_err(|error| broken(&error))? {
            Event::Start(element) | Event::Empty(element) => {
                text.clear();
                match element.local_name().as_ref() {
                    "data" => within = attribute(&element, "type")?.as_deref() == Some("primary"),
                    "checksum" if within => kind = attribute(&element, "type")?.unwrap_or_default(),
                    "location" if within => href = attribute(&element, "href")?,
                    _ => {}
                }
            }
            Event::Text(more) => text.push_str(&more.into_inner()),
            Event::End(element) if within => match element.local_name().as_ref() {
                "checksum" => checksum = Some(Checksum::new(&kind, &text)?),
                "size" => size = text.trim().parse().ok(),
                "data" => break,
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
        buffer.clear();
    }
    match (checksum, href) {
        (Some(checksum), Some(href)) => Ok(Primary { href: checked_href(&href)?, checksum, size }),
        _ => Err(MetadataError::NoPrimary),
    }
}

/// The packages in the list at `path`, however it is packed.
pub(super) fn packages(path: &Path) -> Result<Vec<Remote>, MetadataError> {
    let mut file = BufReader::new(File::open(path)?);
    let start = file.fill_buf()?;
    let unpacked: Box<dyn Read> = match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        [0xfd, b'7', b'z', ..] => Box::new(liblzma::bufread::XzDecoder::new(file)),
        [b'<', ..] => Box::new(file),
        _ => return Err(MetadataError::Packing),
    };
    parse(BufReader::new(unpacked.take(LIST_BYTES)))
}

#[derive(Default)]
struct Building {
    name: String,
    arch: String,
    evr: Option<Evr>,
    href: Option<String>,
    base: Option<String>,
    checksum: Option<Checksum>,
    size: Option<u64>,
}

fn parse(input: impl BufRead) -> Result<Vec<Remote>, MetadataError> {
    let mut reader = Reader::from_reader(input);
    let mut buffer = Vec::new();
    let mut all = Vec::new();
    let mut building: Option<Building> = None;
    let (mut text, mut kind) = (String::new(), String::new());
    loop {
        match reader.read_event_into(&mut buffer).map_err(|error| broken(&error))? {
            Event::Start(element) | Event::Empty(element) => {
                text.clear();
                let name = element.local_name();
                if name.as_ref() == "package" {
                    building = Some(Building::default());
                } else if let Some(package) = &mut building {
                    match name.as_ref() {
                        "version" => {
                            let get = |name| attribute(&element, name).map(Option::unwrap_or_default);
                            package.evr = Some(Evr {
                                epoch: get("epoch")?.parse().unwrap_or(0),
                                version: get("ver")?,
                                release: Some(get("rel")?),
                            });
                        }
                        "checksum" => kind = attribute(&element, "type")?.unwrap_or_default(),
                        "size" => package.size = attribute(&element, "package")?.and_then(|text| text.parse().ok()),
                        "location" => {
                            package.href = attribute(&element, "href")?;
                            package.base = attribute(&element, "xml:base")?;
                        }
                        _ => {}
                    }
                }
            }
            Event::Text(more) if text.len() < HREF_BYTES => {
                text.push_str(&more.into_inner());
            }
            Event::End(element) => match (element.local_name().as_ref(), &mut building) {
                // Names stand directly below the package; inside `format` there are others with a prefix.
                ("name", Some(package)) if package.name.is_empty() => package.name = text.trim().to_owned(),
                ("arch", Some(package)) if package.arch.is_empty() => package.arch = text.trim().to_owned(),
                ("checksum", Some(package)) => package.checksum = Some(Checksum::new(&kind, &text)?),
                ("package", Some(_)) => {
                    if all.len() == PACKAGES {
                        return Err(MetadataError::TooLarge { what: "packages", limit: PACKAGES as u64 });
                    }
                    all.extend(building.take().map(finish).transpose()?);
                }
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
        buffer.clear();
    }
    if building.is_some() {
        return Err(MetadataError::Broken("the list ends in the middle of a package".to_owned()));
    }
    Ok(all)
}

fn finish(b: Building) -> Result<Remote, MetadataError> {
    let missing = |what: &str| MetadataError::Broken(format!("package {:?} has no {what}", b.name));
    let size = b.size.ok_or_else(|| missing("size"))?;
    if size > PACKAGE_BYTES {
        return Err(MetadataError::TooLarge { what: "bytes in one package", limit: PACKAGE_BYTES });
    }
    let base = b.base.filter(|base| !base.is_empty());
    if let Some(base) = &base
        && !(base.starts_with("http://") || base.starts_with("https://"))
    {
        return Err(MetadataError::Href(base.clone()));
    }
    Ok(Remote {
        evr: b.evr.clone().ok_or_else(|| missing("version"))?,
        href: checked_href(b.href.as_deref().ok_or_else(|| missing("location"))?)?,
        checksum: b.checksum.clone().ok_or_else(|| missing("checksum"))?,
        name: b.name,
        arch: b.arch,
        base,
        size,
    })
}
