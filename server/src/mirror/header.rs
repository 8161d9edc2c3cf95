//! Reads the header of an RPM file: bounded, and without a panic whatever the bytes are.
//!
//! Not through the `rpm` crate: its parser slices by offsets that the file gives, so a hostile file can make it panic,
//! and a rebuild must survive every file that somebody drops into a folder.

use std::collections::HashMap;
use std::io::Read;

/// Bytes of one header's data. The largest of a full distribution stays below 20 MB.
const DATA_BYTES: u32 = 64 << 20;
/// Index entries of one header; rpm itself takes no more.
const ENTRIES: u32 = 0xffff;
/// Bytes of one file's path, as the kernel takes them.
const PATH_BYTES: usize = 4096;
/// Bytes of all paths of one package together.
const PATHS_BYTES: usize = 128 << 20;
/// Changelog entries that are kept, as `createrepo_c` does.
const CHANGELOGS: usize = 10;

/// Why a file is not an RPM that we can read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It could not be read, or ends early.
    #[error("cannot read the header")]
    Io(#[from] std::io::Error),
    /// It does not begin as an RPM does.
    #[error("not an RPM file")]
    NotRpm,
    /// It says that it is larger than any real one.
    #[error("the header has {what} {value}, more than the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: u64,
        /// How much is taken.
        limit: u64,
    },
    /// A tag that every package has is missing or not of its type.
    #[error("the header's tag {0} is missing or damaged")]
    Tag(u32),
}

/// One entry of provides, requires and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The capability.
    pub name: String,
    /// rpm's flags: comparison and scriptlet bits.
    pub flags: u32,
    /// `epoch:version-release`, or empty.
    pub version: String,
}

/// One file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its full path.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
}

/// What repodata tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file or a link.
    File,
    /// A directory.
    Dir,
    /// A file that the package owns but does not carry.
    Ghost,
}

/// One changelog entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changelog {
    /// Who.
    pub author: String,
    /// When, in seconds since 1970.
    pub time: u32,
    /// What.
    pub text: String,
}

/// What repodata needs of one package, but for the digest and the place of its file.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Epoch, 0 when there is none.
    pub epoch: u32,
    /// Version.
    pub version: String,
    /// Release.
    pub release: String,
    /// Architecture; `src` for a source package.
    pub arch: String,
    /// One line of what it is.
    pub summary: String,
    /// Several.
    pub description: String,
    /// Who packaged it.
    pub packager: String,
    /// Its home page.
    pub url: String,
    /// Its licence.
    pub license: String,
    /// Its vendor.
    pub vendor: String,
    /// Its group.
    pub group: String,
    /// Where it was built.
    pub build_host: String,
    /// From which source package.
    pub source_rpm: String,
    /// When it was built, in seconds since 1970.
    pub build_time: u64,
    /// Bytes when installed.
    pub installed_size: u64,
    /// Bytes of the payload, uncompressed.
    pub archive_size: u64,
    /// First byte of the main header in the file, and the first past it.
    pub header_range: (u64, u64),
    /// Dependencies, in the order of [`DEPENDENCIES`].
    pub dependencies: [Vec<Dependency>; 8],
    /// Files.
    pub files: Vec<FileEntry>,
    /// The newest changelog entries, oldest first.
    pub changelogs: Vec<Changelog>,
}

/// The kinds of dependency in repodata's order: element, tags of names, flags and versions.
pub const DEPENDENCIES: [(&str, u32, u32, u32); 8] = [
    ("provides", 1047, 1112, 1113),
    ("requires", 1049, 1048, 1050),
    ("conflicts", 1054, 1053, 1055),
    ("obsoletes", 1090, 1114, 1115),
    ("suggests", 5049, 5051, 5050),
    ("enhances", 5055, 5057, 5056),
    ("recommends", 5046, 5048, 5047),
    ("supplements", 5052, 5054, 5053),
];

/// A header's raw store and where each tag lies in it.
struct Raw {
    index: HashMap<u32, (u32, usize, usize)>,
    data: Vec<u8>,
    size: u64,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Raw {
    fn read(input: &mut impl Read) -> Result<Self, HeaderError> {
        let mut intro = [0; 16];
        input.read_exact(&mut intro)?;
        if intro[..4] != [0x8e, 0xad, 0xe8, 1] {
            return Err(HeaderError::NotRpm);
        }
        let entries = word(&intro, 8).unwrap_or(u32::MAX);
        let bytes = word(&intro, 12).unwrap_or(u32::MAX);
        for (what, value, limit) in [("index entries", entries, ENTRIES), ("data bytes", bytes, DATA_BYTES)] {
            if value > limit {
                return Err(HeaderError::TooLarge { what, value: value.into(), limit: limit.into() });
            }
        }
        let read = |input: &mut dyn Read, n: u64| -> Result<Vec<u8>, HeaderError> {
            // Grows with what really comes, so that a short file that claims much costs little.
            let mut out = Vec::new();
            input.take(n).read_to_end(&mut out)?;
            if (out.len() as u64) < n {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            Ok(out)
        };
        let raw = read(input, u64::from(entries) * 16)?;
        let data = read(input, bytes.into())?;
        let mut index = HashMap::new();
        for entry in raw.chunks_exact(16) {
            if let (Some(tag), Some(kind), Some(at), Some(count)) =
                (word(entry, 0), word(entry, 4), word(entry, 8), word(entry, 12))
            {
                index.entry(tag).or_insert((kind, at as usize, count as usize));
            }
        }
        Ok(Self { index, data, size: 16 + u64::from(entries) * 16 + u64::from(bytes) })
    }

    /// The numbers of `tag`, of 2, 4 or 8 bytes; empty when it is missing or damaged.
    fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some((kind, at, count)) = self.index.get(&tag).copied() else { return Vec::new() };
        let width = match kind {
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        let Some(bytes) = count.checked_mul(width).and_then(|n| self.data.get(at..at.checked_add(n)?)) else {
            return Vec::new();
        };
        bytes.chunks_exact(width).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b))).collect()
    }

    fn number(&self, tag: u32) -> Option<u64> {
        self.numbers(tag).first().copied()
    }

    /// The strings of `tag`; of a translated one the first, which is that of the C locale.
    fn strings(&self, tag: u32) -> Vec<String> {
        let Some((kind, at, count)) = self.index.get(&tag).copied() else { return Vec::new() };
        let count = match kind {
            6 | 9 => 1,
            8 => count,
            _ => return Vec::new(),
        };
        let mut rest = self.data.get(at..).unwrap_or_default();
        let mut out = Vec::new();
        while out.len() < count {
            let Some(end) = rest.iter().position(|b| *b == 0) else { break };
            out.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 1..];
        }
        out
    }

    fn string(&self, tag: u32) -> String {
        self.strings(tag).into_iter().next().unwrap_or_default()
    }

    fn needed(&self, tag: u32) -> Result<String, HeaderError> {
        Some(self.string(tag)).filter(|s| !s.is_empty()).ok_or(HeaderError::Tag(tag))
    }

    fn dependencies(&self, (_, names, flags, versions): (&str, u32, u32, u32)) -> Result<Vec<Dependency>, HeaderError> {
        let (all, flags, versions) = (self.strings(names), self.numbers(flags), self.strings(versions));
        if all.len() != flags.len() || all.len() != versions.len() {
            return Err(HeaderError::Tag(names));
        }
        let both = flags.into_iter().zip(versions);
        Ok(all
            .into_iter()
            .zip(both)
            .map(|(name, (f, version))| Dependency { name, flags: f as u32, version })
            .collect())
    }

    fn files(&self) -> Result<Vec<FileEntry>, HeaderError> {
        const BASENAMES: u32 = 1117;
        const GHOST: u64 = 1 << 6;
        let (names, dirs, at) = (self.strings(BASENAMES), self.strings(1118), self.numbers(1116));
        let (modes, flags) = (self.numbers(1030), self.numbers(1037));
        if names.len() != at.len() || names.len() != modes.len() || names.len() != flags.len() {
            return Err(HeaderError::Tag(BASENAMES));
        }
        let mut total = 0;
        let mut out = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            let dir = usize::try_from(at[i]).ok().and_then(|d| dirs.get(d)).ok_or(HeaderError::Tag(1116))?;
            let length = dir.len() + name.len();
            total += length;
            for (what, value, limit) in [("path bytes", length, PATH_BYTES), ("bytes of paths", total, PATHS_BYTES)] {
                if value > limit {
                    return Err(HeaderError::TooLarge { what, value: value as u64, limit: limit as u64 });
                }
            }
            let kind = match (modes[i] & 0o170_000, flags[i] & GHOST) {
                (0o040_000, _) => FileKind::Dir,
                (_, 0) => FileKind::File,
                _ => FileKind::Ghost,
            };
            out.push(FileEntry { path: format!("{dir}{name}"), kind });
        }
        Ok(out)
    }
}

/// Reads lead, signature header and header of the RPM that `input` begins with, and nothing of its payload.
///
/// # Errors
/// [`HeaderError`], when it is no RPM, is damaged or claims more than any real one has.
pub fn read(input: &mut impl Read) -> Result<Package, HeaderError> {
    let mut lead = [0; 96];
    input.read_exact(&mut lead)?;
    if lead[..4] != [0xed, 0xab, 0xee, 0xdb] {
        return Err(HeaderError::NotRpm);
    }
    let signature = Raw::read(input)?;
    let padding = (8 - signature.size % 8) % 8;
    std::io::copy(&mut input.take(padding), &mut std::io::sink())?;
    let start = 96 + signature.size + padding;
    let header = Raw::read(input)?;
    let source_rpm = header.string(1044);
    let is_source = header.index.contains_key(&1106) || source_rpm.is_empty();
    let mut dependencies: [Vec<Dependency>; 8] = Default::default();
    for (list, tags) in dependencies.iter_mut().zip(DEPENDENCIES) {
        *list = header.dependencies(tags)?;
    }
    let (authors, texts) = (header.strings(1081), header.strings(1082));
    let changes = header.numbers(1080).into_iter().zip(authors.into_iter().zip(texts)).take(CHANGELOGS);
    let mut changelogs: Vec<_> =
        changes.map(|(time, (author, text))| Changelog { author, time: time as u32, text }).collect();
    changelogs.reverse();
    Ok(Package {
        name: header.needed(1000)?,
        epoch: header.number(1003).unwrap_or(0) as u32,
        version: header.needed(1001)?,
        release: header.needed(1002)?,
        arch: if is_source { "src".to_owned() } else { header.needed(1022)? },
        summary: header.string(1004),
        description: header.string(1005),
        packager: header.string(1015),
        url: header.string(1020),
        license: header.string(1014),
        vendor: header.string(1011),
        group: header.string(1016),
        build_host: header.string(1007),
        source_rpm,
        build_time: header.number(1006).unwrap_or(0),
        installed_size: header.number(5009).or_else(|| header.number(1009)).unwrap_or(0),
        archive_size: [signature.number(271), signature.number(1007), header.number(271), header.number(1046)]
            .into_iter()
            .flatten()
            .next()
            .unwrap_or(0),
        header_range: (start, start + header.size),
        dependencies,
        files: header.files()?,
        changelogs,
    })
}
