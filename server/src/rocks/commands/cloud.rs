//! Commands that make images, send them, and bring instances to the cloud.

use super::super::spec::{Flag, Spec, Words};
use super::super::{builds, distro, enrolments, images, provisions};
use super::{Entry, MANY};

/// They are these.
pub(super) static TABLE: &[Entry] = &[
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
        ["add", "image"],
        ("NAME FILE", 2, 2),
        "Copy a disk image on the frontend's machine, raw or qcow2, to the frontend's images",
        images::add,
        keys = &[("appliance", "the appliance that it is of")],
        words = Words::Path,
        example = "rocks add image lite /srv/lite.qcow2 appliance=lite"
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
        ["cancel", "provision"],
        ("NAME", 1, 1),
        "End a provision and all that it made, its instances included",
        provisions::cancel,
        flags = &[Flag::Yes],
        keys = &[("wait", "yes (default) or no")],
        words = Words::Provision
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
        ["export", "image"],
        ("NAME FILE", 2, 2),
        "Write an image into a new file",
        images::export,
        keys = &[("format", "raw, or qcow2 as QEMU keeps disks (default: by the file's name)")],
        words = Words::Image,
        example = "rocks export image lite lite.qcow2"
    ),
    spec!(
        ["list", "enrolment"],
        ("[NAME ...]", 0, MANY),
        "List which instances may become hosts that nobody announced, and how many did",
        enrolments::list,
        words = Words::Enrolment
    ),
    spec!(
        ["list", "image"],
        ("[NAME ...]", 0, MANY),
        "List the frontend's images: how large they are, and where they are from",
        images::list,
        words = Words::Image
    ),
    spec!(
        ["list", "leak"],
        ("", 0, 0),
        "List what is in the cloud with this frontend's tag and belongs to no provision",
        provisions::leaks,
        keys = &[("region", "the region (default: the configuration's)")]
    ),
    spec!(
        ["list", "provision"],
        ("[NAME ...]", 0, MANY),
        "List provisions and how far they are; of those that are named also their instances, from pending to converged",
        provisions::list,
        words = Words::Provision
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
            (
                "join",
                "token: a token in the user data of each; identity: their signed identity documents, launched by one call (default: identity for several, if the region's certificate is there)"
            ),
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
        ["remove", "enrolment"],
        ("NAME", 1, 1),
        "Let instances in no more by this rule; hosts that it let in stay",
        enrolments::remove,
        words = Words::Enrolment
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
        ["remove", "provision"],
        ("NAME", 1, 1),
        "Forget a provision of which nothing is left",
        provisions::remove,
        words = Words::Provision
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
        ["sync", "bucket"],
        ("", 0, 0),
        "Put the packages of the distribution into the frontend's bucket, for the instances of its region",
        distro::bucket
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
];
