//! Commands about the frontend itself: what machines are, and what they are made of.

use super::super::spec::{Flag, Spec, Words};
use super::super::{attributes, distro, hosts, objects, report, show};
use super::{Entry, MANY};

/// How a join document is printed.
const FORM: (&str, &str) =
    ("as", "join (default), or user-data: a script for an EC2 instance with the agent in its image");

/// They are these.
pub(super) static TABLE: &[Entry] = &[
    spec!(
        ["add", "appliance"],
        ("NAME", 1, 1),
        "Add an appliance: a named node to begin at",
        objects::add_appliance,
        keys =
            &[("node", "the node to begin at (default: the appliance's name)"), ("membership", "what people call it")],
        example = "rocks add appliance compute membership=\"Compute\""
    ),
    spec!(
        ["add", "host"],
        ("NAME", 1, 1),
        "Add a host, and print the join document for its agent",
        hosts::add,
        keys = &[
            ("appliance", "its appliance (needed)"),
            ("membership", "its appliance, by what people call it"),
            ("arch", "its architecture (default: x86_64)"),
            ("os", "its operating system (default: linux)"),
            ("rack", "its rack"),
            ("rank", "its place in the rack"),
            FORM
        ],
        example = "rocks add host lite-0-0 appliance=lite > join.toml"
    ),
    spec!(
        ["add", "roll"],
        ("PATH", 1, 1),
        "Add a roll: a folder with graphs, nodes and RPMS",
        objects::add_roll,
        keys = &[("name", "its name (default: the folder's)")],
        words = Words::Path,
        example = "rocks add roll /usr/share/rocks/graphs/vim"
    ),
    spec!(
        ["create", "distro"],
        ("[FOLDER ...]", 0, MANY),
        "Publish the RPMs of rolls, mirrors and folders to the instances",
        distro::create,
        keys = &[("arch", "architectures, separated by commas (default: this machine's)")],
        words = Words::Path,
        example = "rocks create distro /srv/rpms"
    ),
    spec!(
        ["create", "mirror"],
        ("URL", 1, 1),
        "Copy an upstream repository, or what changed of it since the last time",
        distro::mirror,
        keys = &[
            ("name", "its name (default: made of the URL)"),
            ("arch", "the architecture (default: this machine's)"),
            ("versions", "newest (default) or all")
        ],
        example = "rocks create mirror https://dl.example.org/rocky/9/AppStream/x86_64/os/ name=appstream"
    ),
    spec!(
        ["disable", "roll"],
        ("NAME", 1, 1),
        "Leave a roll out of what kickstarts are made of",
        objects::disable_roll,
        words = Words::Roll
    ),
    spec!(
        ["distrust", "roll"],
        ("NAME", 1, 1),
        "Let a roll's <eval> code run on the frontend no longer",
        objects::distrust_roll,
        words = Words::Roll
    ),
    spec!(["doctor"], ("", 0, 0), "Look for what is wrong: rolls, hosts, certificates, disk", report::doctor),
    spec!(
        ["dump"],
        ("", 0, 0),
        "Print commands that make an empty frontend like this one",
        super::super::dump::dump,
        flags = &[Flag::ShowSecrets],
        example = "rocks dump > frontend.sh"
    ),
    spec!(
        ["enable", "roll"],
        ("NAME", 1, 1),
        "Make kickstarts of a roll that was left out",
        objects::enable_roll,
        words = Words::Roll
    ),
    spec!(
        ["explain", "host"],
        ("HOST package|node|section|attr NAME", 3, 3),
        "Say how something came into a host's kickstart",
        show::explain,
        words = Words::Host,
        example = "rocks explain host lite-0-0 package vim-enhanced"
    ),
    spec!(
        ["list", "appliance"],
        ("[NAME ...]", 0, MANY),
        "List appliances",
        objects::list_appliances,
        words = Words::Appliance
    ),
    spec!(
        ["list", "attr"],
        ("", 0, 0),
        "List attributes as they were set",
        attributes::list,
        flags = &[Flag::ShowSecrets]
    ),
    spec!(["list", "distro"], ("", 0, 0), "List what the distribution is made of", distro::list),
    spec!(["list", "graph"], ("", 0, 0), "List the edges of the configuration graph", show::edges),
    spec!(
        ["list", "host"],
        ("[HOST ...]", 0, MANY),
        "List hosts and where each is on its way",
        hosts::list,
        notes = &hosts::STATES,
        words = Words::Host,
        example = "rocks list host 'lite-0-*'"
    ),
    spec!(
        ["list", "host", "attr"],
        ("[HOST ...]", 0, MANY),
        "List hosts' attributes, and where each value is from",
        attributes::of_host,
        flags = &[Flag::ShowSecrets],
        notes = &attributes::SOURCES,
        words = Words::Host
    ),
    spec!(
        ["list", "host", "graph"],
        ("HOST", 1, 1),
        "Draw a host's way through the graph",
        show::graph,
        keys = &[("format", "dot (default) or svg")],
        words = Words::Host,
        example = "rocks list host graph lite-0-0 format=svg > lite.svg"
    ),
    spec!(["list", "host", "profile"], ("HOST", 1, 1), "Print a host's kickstart", show::profile, words = Words::Host),
    spec!(
        ["list", "host", "report"],
        ("HOST", 1, 1),
        "List what a host's agent reported",
        report::list,
        words = Words::Host
    ),
    spec!(
        ["list", "host", "xml"],
        ("HOST", 1, 1),
        "Print what each node contributes to a host's kickstart",
        show::xml,
        words = Words::Host
    ),
    spec!(
        ["list", "mirror"],
        ("[NAME ...]", 0, MANY),
        "List upstream repositories that are copied",
        distro::mirrors,
        words = Words::Mirror
    ),
    spec!(["list", "node"], ("[NAME ...]", 0, MANY), "List the nodes of the configuration graph", show::nodes),
    spec!(["list", "roll"], ("[NAME ...]", 0, MANY), "List rolls", objects::list_rolls, words = Words::Roll),
    spec!(
        ["remove", "appliance"],
        ("NAME", 1, 1),
        "Remove an appliance that no host has",
        objects::remove_appliance,
        flags = &[Flag::Yes],
        words = Words::Appliance
    ),
    spec!(
        ["remove", "appliance", "attr"],
        ("APPLIANCE ATTR", 2, 2),
        "Remove an attribute of an appliance",
        attributes::remove_of_appliance,
        words = Words::Appliance
    ),
    spec!(["remove", "attr"], ("ATTR", 1, 1), "Remove an attribute of all hosts", attributes::remove_global),
    spec!(
        ["remove", "distro"],
        ("FOLDER", 1, 1),
        "Publish the RPMs of a folder no longer (from the next `create distro` on)",
        distro::remove_folder,
        words = Words::Path
    ),
    spec!(
        ["remove", "host"],
        ("HOST ...", 1, MANY),
        "Remove hosts, all or none; their certificates are revoked",
        hosts::remove,
        flags = &[Flag::Yes],
        words = Words::Host
    ),
    spec!(
        ["remove", "host", "attr"],
        ("HOST ATTR", 2, 2),
        "Remove an attribute of a host",
        attributes::remove_of_host,
        words = Words::Host
    ),
    spec!(
        ["remove", "mirror"],
        ("NAME", 1, 1),
        "Remove an upstream repository and its copy",
        distro::remove_mirror,
        flags = &[Flag::Yes],
        words = Words::Mirror
    ),
    spec!(
        ["remove", "os", "attr"],
        ("OS ATTR", 2, 2),
        "Remove an attribute of an operating system",
        attributes::remove_of_os
    ),
    spec!(
        ["remove", "roll"],
        ("NAME", 1, 1),
        "Remove a roll; its folder stays",
        objects::remove_roll,
        flags = &[Flag::Yes],
        words = Words::Roll
    ),
    spec!(
        ["report", "host"],
        ("HOST", 1, 1),
        "Print a host's last report: steps, how long, why, and what went wrong",
        report::host,
        words = Words::Host,
        example = "rocks report host lite-0-0"
    ),
    spec!(
        ["report", "host", "join"],
        ("HOST", 1, 1),
        "Print a new join document for a host",
        hosts::join,
        keys = &[FORM],
        words = Words::Host,
        example = "rocks report host join lite-0-0 > join.toml"
    ),
    spec!(
        ["set", "appliance", "attr"],
        ("APPLIANCE ATTR [VALUE]", 2, 3),
        "Set an attribute for all hosts of an appliance",
        attributes::set_of_appliance,
        flags = &[Flag::Secret, Flag::Stdin],
        words = Words::Appliance,
        example = "rocks set appliance attr lite vim yes"
    ),
    spec!(
        ["set", "attr"],
        ("ATTR [VALUE]", 1, 2),
        "Set an attribute for all hosts",
        attributes::set_global,
        flags = &[Flag::Secret, Flag::Stdin],
        example = "rocks set attr motd Welcome"
    ),
    spec!(
        ["set", "host", "appliance"],
        ("HOST APPLIANCE", 2, 2),
        "Make a host one of another appliance",
        hosts::set_appliance,
        words = Words::Host,
        example = "rocks set host appliance lite-0-0 compute"
    ),
    spec!(
        ["set", "host", "attr"],
        ("HOST ATTR [VALUE]", 2, 3),
        "Set an attribute of a host",
        attributes::set_of_host,
        flags = &[Flag::Secret, Flag::Stdin],
        words = Words::Host,
        example = "rocks set host attr lite-0-0 token --secret --stdin < token"
    ),
    spec!(
        ["set", "os", "attr"],
        ("OS ATTR [VALUE]", 2, 3),
        "Set an attribute for all hosts of an operating system",
        attributes::set_of_os,
        flags = &[Flag::Secret, Flag::Stdin]
    ),
    spec!(["sync", "config"], ("", 0, 0), "Read the rolls again and make all kickstarts anew", report::sync),
    spec!(
        ["trust", "roll"],
        ("NAME", 1, 1),
        "Let a roll's <eval> code run on the frontend",
        objects::trust_roll,
        words = Words::Roll
    ),
    spec!(
        ["wait", "host"],
        ("HOST ...", 1, MANY),
        "Wait until hosts are where they should be",
        hosts::wait,
        keys =
            &[("state", "what to wait for (default: converged)"), ("timeout", "for how many seconds (default: 600)")],
        notes = &hosts::STATES,
        words = Words::Host,
        example = "rocks wait host 'lite-0-*' timeout=120"
    ),
];
