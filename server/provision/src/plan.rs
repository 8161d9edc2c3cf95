//! The steps of a provision, and what each waits for. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::order::{End, Join, Method, Order};

/// The steps, each once: whoever goes through all of them (the policy does) can't leave one out.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$step),*];

            /// The word for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// The frontend builds the image.
    Build = "build",
    /// A security group that opens the receiver's port to the frontend alone.
    Group = "group",
    /// The volume that the image is written onto.
    Volume = "volume",
    /// The receiver.
    Receiver = "receiver",
    /// The volume becomes the receiver's.
    Attach = "attach",
    /// The image travels, and is verified and fitted on the volume.
    Ship = "ship",
    /// The volume is nobody's again, and nothing of it waits in the receiver's memory.
    Detach = "detach",
    /// The receiver ends.
    EndReceiver = "end-receiver",
    /// A snapshot of the volume.
    Snapshot = "snapshot",
    /// The volume and the security group go.
    Clean = "clean",
    /// Blocks go into a snapshot by the EBS direct API.
    Blocks = "blocks",
    /// That snapshot becomes whole.
    Seal = "seal",
    /// The image becomes the files that go into S3.
    Bundle = "bundle",
    /// They are sent, one part after the other.
    Upload = "upload",
    /// A snapshot is made of the disk in S3.
    Import = "import",
    /// The disk in S3 goes.
    Discard = "discard",
    /// The snapshot becomes an image.
    Register = "register",
    /// A launch template of it, for instances that somebody else starts, and a rule by which they enrol.
    Template = "template",
    /// Instances are launched.
    Launch = "launch",
    /// They become what they should be.
    Converge = "converge",
}

impl Step {
    /// The calls that it makes, as IAM calls them.
    #[must_use]
    pub const fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Build | Self::Bundle => &[],
            Self::Group => &[
                "ec2:DescribeInstanceTypeOfferings",
                "ec2:DescribeSubnets",
                "ec2:DescribeSecurityGroups",
                "ec2:CreateSecurityGroup",
                "ec2:AuthorizeSecurityGroupIngress",
            ],
            Self::Volume => &["ec2:DescribeInstanceTypeOfferings", "ec2:DescribeSubnets", "ec2:CreateVolume"],
            Self::Receiver | Self::Launch => &[
                "ec2:DescribeInstanceTypeOfferings",
                "ec2:DescribeSubnets",
                "ec2:DescribeImages",
                "ec2:RunInstances",
                "ec2:DescribeInstances",
            ],
            Self::Attach => &["ec2:DescribeVolumes", "ec2:AttachVolume"],
            Self::Ship | Self::Converge => &["ec2:DescribeInstances"],
            Self::Detach => &["ec2:DescribeVolumes", "ec2:DetachVolume"],
            Self::EndReceiver => &["ec2:TerminateInstances", "ec2:DescribeInstances"],
            Self::Snapshot => &["ec2:DescribeSnapshots", "ec2:CreateSnapshot"],
            Self::Clean => &["ec2:DeleteVolume", "ec2:DescribeVolumes", "ec2:DeleteSecurityGroup"],
            // The tags that a snapshot is begun with are a call of their own to IAM.
            Self::Blocks => &["ebs:StartSnapshot", "ebs:PutSnapshotBlock", "ec2:CreateTags", "ec2:DescribeSnapshots"],
            Self::Seal => &["ebs:CompleteSnapshot", "ec2:DescribeSnapshots"],
            Self::Upload => &[
                "s3:CreateBucket",
                "s3:GetBucketLocation",
                "s3:GetBucketTagging",
                "s3:GetObject",
                "s3:ListBucket",
                "s3:ListBucketMultipartUploads",
                "s3:ListMultipartUploadParts",
                "s3:PutBucketPublicAccessBlock",
                "s3:PutBucketTagging",
                "s3:PutObject",
            ],
            Self::Import => {
                &["ec2:CreateTags", "ec2:DescribeImportSnapshotTasks", "ec2:DescribeSnapshots", "ec2:ImportSnapshot"]
            }
            Self::Discard => &["s3:DeleteObject"],
            Self::Register => &["ec2:DescribeImages", "ec2:RegisterImage"],
            Self::Template => &["ec2:DescribeImages", "ec2:CreateLaunchTemplate", "ec2:DescribeLaunchTemplates"],
        }
    }

    /// What it does, for people.
    #[must_use]
    pub fn tell(self, order: &Order) -> String {
        let gib = order.shipment.as_ref().map_or(0, |shipment| shipment.gib);
        let image = order.shipment.as_ref().map_or("", |shipment| shipment.image.as_str());
        let store = order.store();
        let bucket = store.map_or("", |store| store.bucket.as_str());
        let registers = store.is_some_and(|store| store.end == End::Register);
        match self {
            Self::Bundle if registers => format!("bundle image {image} as ec2-bundle-image does"),
            Self::Bundle => format!("make a compressed disk (VMDK) of image {image}"),
            Self::Upload => format!("upload it to s3://{bucket}, one part after the other"),
            Self::Import => "import a snapshot of it".to_owned(),
            Self::Discard => format!("remove it from s3://{bucket}"),
            Self::Register if registers => {
                "register the bundle (only instance types with instance store, of before 2015, boot it)".to_owned()
            }
            Self::Build => format!("build image {image}"),
            Self::Group => format!("open udp port {} to {} alone", order.port, order.frontend),
            Self::Volume => format!("make a volume of {gib} GiB"),
            Self::Receiver => format!("start a receiver ({})", order.receiver_kind),
            Self::Attach => "attach the volume to it".to_owned(),
            Self::Ship => format!("ship image {image} onto the volume"),
            Self::Detach => "detach the volume".to_owned(),
            Self::EndReceiver => "end the receiver".to_owned(),
            Self::Snapshot => "take a snapshot of the volume".to_owned(),
            Self::Clean => "remove the volume and the security group".to_owned(),
            Self::Blocks => format!("write the blocks of image {image} into a snapshot"),
            Self::Seal => "complete the snapshot".to_owned(),
            Self::Register => "register an image of the snapshot".to_owned(),
            Self::Template => {
                format!("make a launch template ({}), and let its instances enrol as {}", order.kind, order.appliance)
            }
            Self::Launch => {
                let how = match order.join {
                    Join::Token => "",
                    Join::Identity => ", by one call; they join by their identity documents",
                };
                format!("launch {} instances ({}){how}", order.hosts.len(), order.kind)
            }
            Self::Converge => format!("wait until they are {} appliances", order.appliance),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A step and those that must be done before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The step.
    pub step: Step,
    /// What it waits for.
    pub after: Vec<Step>,
}

/// The steps of an order, each after those that it waits for. What does not wait for each other runs at the same time: the receiver
/// boots while the image is built.
#[must_use]
pub fn plan(order: &Order) -> Vec<Planned> {
    let mut steps = Vec::new();
    let mut put = |step, after: &[Step]| steps.push(Planned { step, after: after.to_vec() });
    let builds = order.shipment.as_ref().is_some_and(|shipment| shipment.build.is_some());
    if builds {
        put(Step::Build, &[]);
    }
    let built: &[Step] = if builds { &[Step::Build] } else { &[] };
    if order.shipment.is_some() {
        match order.way() {
            Method::Ebs => {
                put(Step::Blocks, built);
                put(Step::Seal, &[Step::Blocks]);
                put(Step::Register, &[Step::Seal]);
            }
            Method::Bundle => {
                put(Step::Bundle, built);
                put(Step::Upload, &[Step::Bundle]);
                if order.store().is_some_and(|store| store.end == End::Register) {
                    put(Step::Register, &[Step::Upload]);
                } else {
                    put(Step::Import, &[Step::Upload]);
                    put(Step::Discard, &[Step::Import]);
                    put(Step::Register, &[Step::Import]);
                }
            }
            Method::Udt | Method::Lite => {
                put(Step::Group, &[]);
                put(Step::Volume, &[]);
                // It is told which volume is its own.
                put(Step::Receiver, &[Step::Group, Step::Volume]);
                put(Step::Attach, &[Step::Receiver]);
                put(Step::Ship, &[&[Step::Attach], built].concat());
                put(Step::Detach, &[Step::Ship]);
                put(Step::EndReceiver, &[Step::Detach]);
                put(Step::Snapshot, &[Step::Detach]);
                put(Step::Clean, &[Step::EndReceiver, Step::Snapshot]);
                put(Step::Register, &[Step::Snapshot]);
            }
        }
    }
    if order.template {
        put(Step::Template, if order.shipment.is_some() { &[Step::Register] } else { &[] });
    }
    if !order.hosts.is_empty() {
        put(Step::Launch, if order.shipment.is_some() { &[Step::Register] } else { &[] });
        put(Step::Converge, &[Step::Launch]);
    }
    steps
}
