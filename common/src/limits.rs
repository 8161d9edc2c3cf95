//! Bounds on everything that comes from a file or the network, in one place so that they can be read together.
//!
//! Each is generous for real use (the largest real value is named beside it) and small enough that hostile input costs
//! bounded time and memory.

/// Bytes of one XML file. The largest file of the 24 real Rocks 7 rolls has 41 kB.
pub const XML_FILE_BYTES: u64 = 4 << 20;
/// Nesting depth of elements in one XML file. Real files stay below 8.
pub const XML_DEPTH: usize = 64;
/// Elements, text runs and references in one XML file together.
pub const XML_EVENTS: usize = 500_000;
/// Attributes of one XML element.
pub const XML_ATTRIBUTES: usize = 256;
/// Bytes that one node file may expand to once attribute values are put in for entities.
pub const EXPANDED_BYTES: usize = 16 << 20;
/// Graph and node files of one roll.
pub const ROLL_FILES: usize = 20_000;
/// Nodes in one configuration graph. The largest real profile has 145.
pub const GRAPH_NODES: usize = 100_000;
/// Edges in one configuration graph.
pub const GRAPH_EDGES: usize = 1_000_000;
/// Characters of an attribute's name (the original's limit).
pub const ATTR_NAME_CHARS: usize = 128;
/// Bytes of an attribute's value.
pub const ATTR_VALUE_BYTES: usize = 1 << 20;
/// Bytes of a condition.
pub const COND_BYTES: usize = 4096;
/// Nesting depth of a condition.
pub const COND_DEPTH: usize = 64;
/// Bytes of one kickstart. A 145-node frontend's has 310 kB.
pub const KICKSTART_BYTES: u64 = 16 << 20;
/// `%include` depth that the kickstart parser follows.
pub const KICKSTART_INCLUDE_DEPTH: usize = 16;
/// Diagnostics that are kept for one run; what comes after is counted.
pub const DIAGNOSTICS: usize = 1000;
/// Bytes of the end of a script's output that a report carries.
pub const OUTPUT_TAIL_BYTES: usize = 16 << 10;
/// Bytes of a report.
pub const REPORT_BYTES: usize = 4 << 20;
/// Bytes of an enrolment or renewal request.
pub const ENROL_BYTES: usize = 64 << 10;
/// Bytes of the index of one architecture's repository. That of a distribution with 60,000 packages has 14 MB.
pub const INDEX_BYTES: u64 = 32 << 20;
/// Files in such an index.
pub const INDEX_FILES: usize = 200_000;
/// Bytes of one file's path in it.
pub const INDEX_PATH_BYTES: usize = 400;
/// Bytes of one file of the mirror.
pub const MIRROR_FILE_BYTES: u64 = 64 << 30;
/// Bytes of the answer that says where packages come from.
pub const SOURCES_BYTES: usize = 64 << 10;
/// Relays that a host is told of.
pub const RELAYS: usize = 8;
