//! Which commands there are: one table, from which help, suggestions, completions and manual pages are made.

use clap::{Arg, ArgAction, Command};

use super::context::{Context, Done};
use super::spec::{Flag, Spec, Words};
use super::{attributes, builds, distro, enrolments, hosts, images, objects, provisions, report, rollouts, show};

/// One command.
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) run: fn(&Context<'_>) -> Done,
}

const MANY: usize = usize::MAX;

/// What a strategy of rollouts is made of.
const STRATEGY: &[(&str, &str)] = &[
    (
        "waves",
        "how many hosts have the new kickstart after each wave, in numbers and then shares (default: 1,10%,50%); the last is all",
    ),
    ("soak", "how long all hosts of a wave must have been well before the next begins (default: 5m)"),
    (
        "failures",
        "how many hosts, or which share of those that have it, may fail before it stops by itself (default: 0)",
    ),
    ("timeout", "how long a host may take (default: 30m)"),
];

macro_rules! spec {
    ($path:expr, $names:expr, $about:expr, $run:expr $(, $field:ident = $value:expr)*) => {
        Entry {
            spec: Spec {
                $($field: $value,)*
                ..Spec { path: &$path, names: $names, keys: &[], flags: &[], about: $about, example: "", words: Words::None }
            },
            run: $run,
        }
    };
}

/// All commands.
pub(super) static COMMANDS: &[Entry] = &[
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
        ["add", "enrolment"],
        ("NAME", 1, 1),
        "Let instances become hosts that nobody announced, by what EC2 says of them",
        enrolments::add,
        keys = &[
            ("appliance", "what they become (needed)"),
            ("account", "the AWS account that they are of (needed)"),
            ("ami", "the images that they are made of, separated by commas (needed)"),
            ("region", "where they are (default: the configuration's)"),
            ("age", "how long after its launch an instance may enrol (default: 15m)"),
            ("count", "how many living hosts there may be (default: any number)")
        ],
        example = "rocks add enrolment web appliance=compute account=123456789012 ami=ami-0123456789abcdef0 count=20"
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
            ("rank", "its place in the rack")
        ],
        example = "rocks add host lite-0-0 appliance=lite > join.toml"
    ),
    spec!(
        ["add", "image"],
        ("NAME FILE", 2, 2),
        "Copy a disk image on the frontend's machine, raw or qcow2, to the frontend's images",
        images::add,
        keys = &[("appliance", "the appliance that it is of")],
        words = Words::Path,
        example = "rocks add image lite /srv/lite.qcow2 appliance=lite"
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
        ["advise", "provision"],
        ("APPLIANCE", 1, 1),
        "Say which method to provision by: the time, the bytes and the cost of each, as this frontend knows and has measured them",
        provisions::advise,
        keys = &[
            ("count", "how many instances (default: 1)"),
            ("prefer", "time, cost, or balance (default)"),
            ("period", "how long instances are paid for (default: 24h)"),
            ("keep", "how long volumes and snapshots are paid for (default: the period)"),
            ("type", "the instances' type (default: m7i.large)"),
            ("receiver-type", "the receiver's type (default: t3.medium)"),
            ("region", "the region (default: the configuration's)"),
            ("arch", "x86_64 (default) or arm64"),
            ("image", "the appliance's image on the frontend (default: that of its name)"),
            ("lite", "the lite image on the frontend (default: `lite`)"),
            ("image-bytes", "what of the image is in use, if there is none yet: 1.5GiB"),
            ("packages-bytes", "the packages that lite instances lack, if that is not known: 60MiB"),
            ("link", "the rate of the way to the cloud (default: `wan` of the configuration, 100Mbit/s)"),
            ("rtt", "its round trip"),
            ("loss", "the share of packets that it loses: 0.1%"),
            ("picture", "a file for time and cost against the number of instances, drawn (SVG)"),
        ],
        example = "rocks advise provision compute count=16 prefer=time picture=compute.svg",
        words = Words::Appliance
    ),
    spec!(
        ["back", "rollout"],
        ("NAME", 1, 1),
        "Give all hosts of a rollout what they had before it; they keep that until the configuration changes again",
        rollouts::back,
        words = Words::Rollout,
        example = "rocks back rollout compute-1"
    ),
    spec!(
        ["cancel", "provision"],
        ("NAME", 1, 1),
        "End a provision and all that it made, its instances included",
        provisions::cancel,
        flags = &[Flag::Yes],
        keys = &[("wait", "yes (default) or no")],
        words = Words::Provision
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
        ["create", "image"],
        ("APPLIANCE", 1, 1),
        "Build a disk image of an appliance, as an installer would make it of its kickstart",
        builds::create,
        keys = &[
            ("name", "the image's name (default: the appliance's)"),
            ("arch", "the architecture (default: this machine's)"),
            ("size", "MiB of the disk (default: what the partitions need)"),
            ("gpgkey", "files of the keys that packages must be signed with, separated by commas")
        ],
        words = Words::Appliance,
        example = "rocks create image lite gpgkey=/etc/pki/rpm-gpg/RPM-GPG-KEY-example"
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
        super::dump::dump,
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
        ["export", "image"],
        ("NAME FILE", 2, 2),
        "Write an image into a new file",
        images::export,
        keys = &[("format", "raw, or qcow2 as QEMU keeps disks (default: by the file's name)")],
        words = Words::Image,
        example = "rocks export image lite lite.qcow2"
    ),
    spec!(
        ["list", "appliance"],
        ("[NAME ...]", 0, MANY),
        "List appliances",
        objects::list_appliances,
        words = Words::Appliance
    ),
    spec!(
        ["list", "appliance", "rollout"],
        ("[APPLIANCE ...]", 0, MANY),
        "List by which strategy changes reach appliances' hosts, and where it is from",
        rollouts::strategies,
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
    spec!(
        ["list", "enrolment"],
        ("[NAME ...]", 0, MANY),
        "List which instances may become hosts that nobody announced, and how many did",
        enrolments::list,
        words = Words::Enrolment
    ),
    spec!(["list", "graph"], ("", 0, 0), "List the edges of the configuration graph", show::edges),
    spec!(
        ["list", "host"],
        ("[HOST ...]", 0, MANY),
        "List hosts and where each is on its way",
        hosts::list,
        words = Words::Host,
        example = "rocks list host 'lite-0-*'"
    ),
    spec!(
        ["list", "host", "attr"],
        ("[HOST ...]", 0, MANY),
        "List hosts' attributes, and where each value is from",
        attributes::of_host,
        flags = &[Flag::ShowSecrets],
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
        ["list", "image"],
        ("[NAME ...]", 0, MANY),
        "List the frontend's images: how large they are, and where they are from",
        images::list,
        words = Words::Image
    ),
    spec!(
        ["list", "mirror"],
        ("[NAME ...]", 0, MANY),
        "List upstream repositories that are copied",
        distro::mirrors,
        words = Words::Mirror
    ),
    spec!(
        ["list", "leak"],
        ("", 0, 0),
        "List what is in the cloud with this frontend's tag and belongs to no provision",
        provisions::leaks,
        keys = &[("region", "the region (default: the configuration's)")]
    ),
    spec!(["list", "node"], ("[NAME ...]", 0, MANY), "List the nodes of the configuration graph", show::nodes),
    spec!(
        ["list", "provision"],
        ("[NAME ...]", 0, MANY),
        "List provisions and how far they are; of those that are named also their instances, from pending to converged",
        provisions::list,
        words = Words::Provision
    ),
    spec!(
        ["list", "rollout"],
        ("[NAME ...]", 0, MANY),
        "List rollouts; of those that are named also their waves and hosts",
        rollouts::list,
        words = Words::Rollout,
        example = "rocks list rollout compute-1"
    ),
    spec!(["list", "roll"], ("[NAME ...]", 0, MANY), "List rolls", objects::list_rolls, words = Words::Roll),
    spec!(
        ["pause", "rollout"],
        ("NAME", 1, 1),
        "Begin no more waves of a rollout until it is resumed",
        rollouts::pause,
        words = Words::Rollout
    ),
    spec!(
        ["provision"],
        ("APPLIANCE", 1, 1),
        "Get an appliance running on EC2: its image, its instances, until they have converged",
        provisions::provision,
        keys = &[
            (
                "method",
                "udt (default): ship an image to a receiver; lite: instances of an image that is there converge; ebs: blocks into a snapshot; bundle: parts into S3"
            ),
            ("count", "how many instances (default: 1; 0: the image alone)"),
            (
                "as",
                "template: a launch template for an Auto Scaling group, in place of instances; `count` is then how many living hosts there may be"
            ),
            ("plan", "yes: only say what would be done"),
            ("name", "the provision's name (default: the appliance's and a number)"),
            ("region", "the region (default: the configuration's)"),
            ("type", "the instances' type (default: m7i.large)"),
            ("subnet", "where they are (default: the default VPC)"),
            ("groups", "their security groups, separated by commas"),
            ("key", "their key pair"),
            ("spot", "yes: spot instances"),
            ("ami", "the image that instances are made of, if it is registered already"),
            ("image", "the frontend's image that is sent (default: the appliance's, built if there is none)"),
            ("size", "GiB of its disk, if it is built (default: 8)"),
            ("boot", "legacy-bios, uefi or uefi-preferred (default: as the image does)"),
            ("receiver", "the image that the receiver is made of, with rocks-agent in it (for udt)"),
            ("receiver-type", "its type (default: t3.medium)"),
            ("from", "the frontend's address as instances see it (default: the configuration's)"),
            ("inside", "yes: the frontend reaches instances by their private addresses"),
            ("port", "the receiver's port (default: 8444)"),
            ("parent", "the snapshot that the image differs from (for ebs)"),
            ("base", "the frontend's image that is in it"),
            (
                "end",
                "import (default): a snapshot of what is in S3; register: the bundle itself, which old instance types boot (for bundle)"
            ),
            ("encrypted", "no: volumes and snapshots are not encrypted"),
            ("kms-key", "the key that they are encrypted with (default: the account's own)"),
            ("arch", "x86_64 (default) or arm64"),
            ("wait", "no: return as soon as it has begun")
        ],
        words = Words::Appliance,
        example = "rocks provision lite method=ebs count=2 type=t3.small"
    ),
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
    spec!(
        ["remove", "appliance", "rollout"],
        ("APPLIANCE", 1, 1),
        "Remove an appliance's own strategy: changes follow the default, or are immediate; an open rollout goes on as it began",
        rollouts::remove_of_appliance,
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
        ["remove", "enrolment"],
        ("NAME", 1, 1),
        "Let instances in no more by this rule; hosts that it let in stay",
        enrolments::remove,
        words = Words::Enrolment
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
        ["remove", "image"],
        ("NAME", 1, 1),
        "Remove an image, and what came of an upload of it",
        images::remove,
        flags = &[Flag::Yes],
        words = Words::Image
    ),
    spec!(
        ["remove", "leak"],
        ("", 0, 0),
        "End everything in the cloud that `rocks list leak` lists",
        provisions::remove_leaks,
        flags = &[Flag::Yes],
        keys = &[("region", "the region (default: the configuration's)")]
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
        ["remove", "provision"],
        ("NAME", 1, 1),
        "Forget a provision of which nothing is left",
        provisions::remove,
        words = Words::Provision
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
        ["remove", "rollout"],
        ("", 0, 0),
        "Remove the strategy of all appliances that have none of their own; an open rollout goes on as it began",
        rollouts::remove_default
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
        words = Words::Host
    ),
    spec!(
        ["resume", "rollout"],
        ("NAME", 1, 1),
        "Let a rollout go on that is paused, or that stopped: the hosts that failed so far count no more",
        rollouts::resume,
        words = Words::Rollout
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
        ["set", "appliance", "rollout"],
        ("APPLIANCE", 1, 1),
        "Let changes reach an appliance's hosts in waves, and stop when hosts fail",
        rollouts::set_of_appliance,
        keys = STRATEGY,
        words = Words::Appliance,
        example = "rocks set appliance rollout compute waves=1,10%,50% soak=5m failures=0 timeout=30m"
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
        example = "rocks set host attr lite-0-0 rootpw --secret --stdin < rootpw"
    ),
    spec!(
        ["set", "os", "attr"],
        ("OS ATTR [VALUE]", 2, 3),
        "Set an attribute for all hosts of an operating system",
        attributes::set_of_os,
        flags = &[Flag::Secret, Flag::Stdin]
    ),
    spec!(
        ["ship", "image"],
        ("NAME|PATH", 1, 1),
        "Ship an image to a host that runs `rocks-agent receive`",
        images::ship,
        keys = &[
            ("host", "the host that receives it (needed)"),
            ("to", "its address and port (needed)"),
            ("transport", "udt (default) or tcp"),
            ("rate", "the most bits a second"),
            (
                "form",
                "block (default): the disk as it is; tree: the files of its root; bootable: those and what it boots by; as `rocks-agent receive --form` says"
            ),
            ("base", "an earlier image that the receiver's target holds: what is the same is read there only once")
        ],
        words = Words::Image,
        example = "rocks ship image lite host=receiver-0-0 to=198.51.100.7:8444"
    ),
    spec!(
        ["set", "rollout"],
        ("", 0, 0),
        "The same for all appliances that have no strategy of their own",
        rollouts::set_default,
        keys = STRATEGY,
        example = "rocks set rollout waves=1,25% soak=10m"
    ),
    spec!(
        ["sync", "bucket"],
        ("", 0, 0),
        "Put the packages of the distribution into the frontend's bucket, for the instances of its region",
        distro::bucket
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
        ["upload", "image"],
        ("FILE|HOST", 1, 1),
        "Send an image to the frontend: a file of this machine, or what a host sends with `rocks-agent send`",
        images::upload,
        keys = &[
            ("name", "the image's name (needed); an image of that name is replaced"),
            ("appliance", "the appliance that it is of"),
            ("at", "where the frontend listens for the host (default: 0.0.0.0:8444)"),
            ("transport", "udt (default) or tcp, for a host"),
            ("patience", "for how many seconds the host may be silent (default: 3600)")
        ],
        words = Words::Path,
        example = "rocks upload image build-0-0 name=lite"
    ),
    spec!(
        ["wait", "host"],
        ("HOST ...", 1, MANY),
        "Wait until hosts are where they should be",
        hosts::wait,
        keys =
            &[("state", "what to wait for (default: converged)"), ("timeout", "for how many seconds (default: 600)")],
        words = Words::Host,
        example = "rocks wait host 'lite-0-*' timeout=120"
    ),
    spec!(
        ["wait", "rollout"],
        ("NAME", 1, 1),
        "Wait until a rollout is done; one that stops or is overtaken is waited for no longer",
        rollouts::wait,
        keys = &[("timeout", "for how many seconds (default: 3600)")],
        words = Words::Rollout,
        example = "rocks wait rollout compute-1 timeout=3600"
    ),
];

/// What all commands under a verb do.
fn about(verb: &str) -> &'static str {
    match verb {
        "add" => "Add an appliance, an enrolment, a host, an image, a roll",
        "back" => "Take a rollout back",
        "pause" | "resume" => "Hold a rollout, or let it go on",
        "create" => "Make the distribution, copy an upstream repository",
        "disable" | "enable" => "Switch a roll",
        "trust" | "distrust" => "Decide whether a roll's code may run on the frontend",
        "explain" => "Say how something came to be",
        "export" => "Write an image into a file",
        "list" => "List and show",
        "remove" => "Remove",
        "report" => "Show what agents reported",
        "set" => "Set attributes, a host's appliance, or how changes reach hosts",
        "ship" => "Send an image to the cloud",
        "sync" => "Make kickstarts anew, or a bucket like the distribution",
        "upload" => "Send an image to the frontend",
        "wait" => "Wait for hosts, or for a rollout",
        "host" => "Of a host",
        "appliance" => "Of an appliance",
        "os" => "Of an operating system",
        _ => "",
    }
}

/// `command` with everything of the table below it.
pub(super) fn tree(command: Command) -> Command {
    grow(command, &[])
}

/// The words that come next behind `path`, each once, in order.
fn next_words<'s>(path: &[&str]) -> Vec<&'s str> {
    let mut words: Vec<&str> = Vec::new();
    for Entry { spec, .. } in COMMANDS {
        if spec.path.len() > path.len() && spec.path[..path.len()] == *path && !words.contains(&spec.path[path.len()]) {
            words.push(spec.path[path.len()]);
        }
    }
    words
}

fn grow(mut command: Command, path: &[&'static str]) -> Command {
    for word in next_words(path) {
        let mut below = path.to_vec();
        below.push(word);
        let spec = COMMANDS.iter().map(|entry| &entry.spec).find(|spec| *spec.path == below);
        let child = Command::new(word).about(spec.map_or_else(|| about(word), |spec| spec.about));
        let has_more = !next_words(&below).is_empty();
        let child = match spec {
            Some(spec) => leaf(child, spec).args_conflicts_with_subcommands(has_more),
            None => child.subcommand_required(true).arg_required_else_help(true),
        };
        command = command.subcommand(grow(child, &below));
    }
    command.disable_help_subcommand(!path.is_empty())
}

fn leaf(command: Command, spec: &'static Spec) -> Command {
    let (usage, least, most) = spec.names;
    let mut command = command;
    if most > 0 || !spec.keys.is_empty() {
        let help = match (most, spec.keys) {
            (0, _) => "KEY=VALUE",
            (_, []) => "Names",
            _ => "Names, and then KEY=VALUE",
        };
        let arg = Arg::new("words").value_name("WORDS").num_args(0..).required(least > 0).help(help);
        command = command.arg(arg.add(super::completions::of(spec)));
    }
    for flag in spec.flags {
        command = command.arg(Arg::new(flag.name()).long(flag.name()).action(ArgAction::SetTrue).help(flag.help()));
    }
    let mut words = format!("rocks {}", spec.path.join(" "));
    for flag in spec.flags {
        words.push_str(&format!(" [--{}]", flag.name()));
    }
    if !usage.is_empty() {
        words.push(' ');
        words.push_str(usage);
    }
    for (key, _) in spec.keys {
        words.push_str(&format!(" [{key}=]"));
    }
    let mut after = String::new();
    if !spec.keys.is_empty() {
        after.push_str("Keys:\n");
        let width = spec.keys.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        for (key, help) in spec.keys {
            after.push_str(&format!("  {:width$}  {help}\n", format!("{key}=")));
        }
    }
    if !spec.example.is_empty() {
        after.push_str(&format!("{}Example:\n  {}", if after.is_empty() { "" } else { "\n" }, spec.example));
    }
    command.override_usage(words).after_help(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        tree(Command::new("rocks")).debug_assert();
        for Entry { spec, .. } in COMMANDS {
            assert!(!spec.about.is_empty() && !spec.about.ends_with('.'), "{:?}", spec.path);
            assert!(spec.names.1 <= spec.names.2 && (spec.names.2 == 0) == spec.names.0.is_empty(), "{:?}", spec.path);
            assert!(spec.example.is_empty() || spec.example.starts_with(&format!("rocks {}", spec.path.join(" "))));
        }
    }
}
