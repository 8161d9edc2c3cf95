//! The rules, without anything being carried out: effects are looked at, and events are made up.

use super::*;

/// A cloud whose clock the test turns, and where every effect comes out well as soon as it is let.
struct World {
    cloud: Cloud,
    now: Millis,
    seen: Vec<Effect>,
    /// Volumes that are in use inside.
    mounted: Vec<String>,
}

impl World {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { delays: crate::config::Delays::none(), ..Config::default() };
        change(&mut config);
        config.check().expect("a cloud");
        Self { cloud: Cloud::new(Arc::new(config)), now: 1_000_000, seen: Vec::new(), mounted: Vec::new() }
    }

    /// One call, without anything being carried out.
    fn try_only(&mut self, call: &str) -> Answer<Value> {
        let params = Params::parse(call.as_bytes());
        let action = params.text("Action").unwrap_or_else(|| call.split('&').next().unwrap_or_default()).to_owned();
        let params = params.without(&action);
        let context = Context { now: self.now, caller: "arn:aws:iam::123456789012:user/admin", console: None };
        self.cloud.call(&action, &params, &context)
    }

    /// One call, with what it sets off.
    fn call(&mut self, call: &str) -> Value {
        let answer = self.try_only(call).unwrap_or_else(|e| panic!("{call}: {e:?}"));
        self.settle();
        answer
    }

    fn code(&mut self, call: &str) -> String {
        match self.try_only(call) {
            Ok(answer) => format!("went well: {answer:?}"),
            Err(e) => e.code.into_owned(),
        }
    }

    fn settle(&mut self) {
        loop {
            self.cloud.advance(self.now);
            let effects = self.cloud.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                if let Some(event) = self.outcome(&effect) {
                    self.cloud.report(event, self.now);
                }
                self.seen.push(effect);
            }
        }
    }

    fn outcome(&self, effect: &Effect) -> Option<Event> {
        Some(match effect.clone() {
            Effect::MakeVolume { volume, .. } => Event::VolumeMade { volume },
            Effect::Copy { snapshot, .. } => Event::Copied { snapshot, blocks: [0, 7].into(), bytes: 1 << 30 },
            Effect::Boot(boot) => Event::Booted { instance: boot.instance },
            Effect::Halt { instance, .. } => Event::Halted { instance },
            Effect::Remove { instance } => Event::Removed { instance },
            Effect::Attach { volume, .. } => Event::Attached { volume },
            Effect::Detach { volume, force, .. } if self.mounted.contains(&volume) && !force => Event::Busy { volume },
            Effect::Detach { volume, .. } => Event::Detached { volume },
            Effect::Import { task, key, .. } if key == "missing" => {
                Event::ImportFailed { task, why: "ClientError: no such object".to_owned() }
            }
            Effect::Import { task, .. } => Event::Imported { task, blocks: [0].into(), bytes: 3 << 30 },
            Effect::Unbundle { image, key, .. } if key.contains("broken") => {
                Event::Unbundled { image, result: Err("damaged".to_owned()) }
            }
            Effect::Unbundle { image, .. } => Event::Unbundled { image, result: Ok(([0, 9].into(), 2)) },
            Effect::RemoveVolume { .. }
            | Effect::RemoveSnapshot { .. }
            | Effect::Reboot { .. }
            | Effect::Firewall { .. } => return None,
        })
    }

    fn wait(&mut self, ms: Millis) {
        self.now += ms;
        self.settle();
    }

    /// An image to start from.
    fn image(&mut self) -> String {
        let volume = self.call("CreateVolume&AvailabilityZone=us-east-1a&Size=2").text_at("volumeId").to_owned();
        let snapshot = self.call(&format!("CreateSnapshot&VolumeId={volume}")).text_at("snapshotId").to_owned();
        self.call(&format!("DeleteVolume&VolumeId={volume}"));
        let register = format!(
            "RegisterImage&Name=base&Architecture=x86_64&VirtualizationType=hvm&EnaSupport=true&RootDeviceName=/dev/sda1\
             &BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.SnapshotId={snapshot}"
        );
        self.call(&register).text_at("imageId").to_owned()
    }

    fn run(&mut self, image: &str, more: &str) -> String {
        let call = format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1{more}");
        self.call(&call).text_at("instancesSet.0.instanceId").to_owned()
    }

    fn state(&mut self, instance: &str) -> String {
        let shown = self.call(&format!("DescribeInstances&InstanceId.1={instance}"));
        shown.text_at("reservationSet.0.instancesSet.0.instanceState.name").to_owned()
    }

    fn volume(&mut self, id: &str, path: &str) -> String {
        let shown = self.call(&format!("DescribeVolumes&VolumeId.1={id}"));
        shown.text_at(&format!("volumeSet.0.{path}")).to_owned()
    }
}

fn world() -> World {
    World::new(|_| {})
}

#[test]
fn an_instance_goes_through_its_states_in_their_order_and_time() {
    let mut w = World::new(|c| {
        (c.delays.pending, c.delays.stopping, c.delays.shutting_down, c.delays.terminated) = (100, 50, 30, 1000);
    });
    let image = w.image();
    let i = w.run(&image, "");
    assert_eq!(w.state(&i), "pending");
    w.wait(99);
    assert_eq!(w.state(&i), "pending");
    w.wait(1);
    assert_eq!(w.state(&i), "running");
    assert_eq!(
        w.call(&format!("StopInstances&InstanceId.1={i}")).text_at("instancesSet.0.previousState.name"),
        "running"
    );
    assert_eq!(w.state(&i), "stopping");
    assert_eq!(w.code(&format!("StartInstances&InstanceId.1={i}")), "IncorrectInstanceState");
    w.wait(50);
    assert_eq!(w.state(&i), "stopped");
    assert_eq!(w.code(&format!("RebootInstances&InstanceId.1={i}")), "IncorrectInstanceState");
    w.call(&format!("StartInstances&InstanceId.1={i}"));
    w.wait(100);
    assert_eq!(w.state(&i), "running");
    assert_eq!(w.seen.iter().filter(|e| matches!(e, Effect::Boot(_))).count(), 2);
    w.call(&format!("TerminateInstances&InstanceId.1={i}"));
    assert_eq!(w.state(&i), "shutting-down");
    w.wait(30);
    assert_eq!(w.state(&i), "terminated");
    assert!(w.cloud.volumes.is_empty(), "its root volume went with it");
    assert_eq!(w.code(&format!("StopInstances&InstanceId.1={i}")), "IncorrectInstanceState");
    // Ending what has ended is no error.
    w.call(&format!("TerminateInstances&InstanceId.1={i}"));
    w.wait(1000);
    assert_eq!(w.code(&format!("DescribeInstances&InstanceId.1={i}")), "InvalidInstanceID.NotFound");
}

#[test]
fn a_guest_that_powers_off_stops_or_ends_as_it_was_told() {
    for (more, state) in [("", "stopped"), ("&InstanceInitiatedShutdownBehavior=terminate", "terminated")] {
        let mut w = world();
        let image = w.image();
        let i = w.run(&image, more);
        w.cloud.report(Event::Halted { instance: i.clone() }, w.now);
        w.settle();
        assert_eq!(w.state(&i), state);
        let shown = w.call(&format!("DescribeInstances&InstanceId.1={i}"));
        let code = shown.text_at("reservationSet.0.instancesSet.0.stateReason.code");
        assert_eq!(code, "Client.InstanceInitiatedShutdown");
    }
}

#[test]
fn launching_is_refused_for_the_right_reason() {
    let mut w = World::new(|c| {
        c.quotas.vcpus = 8;
        c.capacity = [("us-east-1b/m5.large".to_owned(), 1)].into();
        c.key_pairs = vec!["mine".to_owned()];
    });
    let image = w.image();
    let fits = format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1");
    for (more, code) in [
        ("&ImageId=ami-0dead", "InvalidAMIID.NotFound"),
        ("&ImageId=snap-0dead", "InvalidAMIID.Malformed"),
        ("&InstanceType=z1.tiny", "InvalidParameterValue"),
        ("&InstanceType=m6g.large", "InvalidParameterValue"),
        ("&MinCount=2", "InvalidParameterCombination"),
        ("&MaxCount=x", "InvalidParameterValue"),
        ("&MinCount=5&MaxCount=5", "VcpuLimitExceeded"),
        ("&Placement.AvailabilityZone=us-east-1b&MinCount=2&MaxCount=2", "InsufficientInstanceCapacity"),
        ("&Placement.AvailabilityZone=us-east-1z", "InvalidZone.NotFound"),
        ("&SubnetId=subnet-0dead", "InvalidSubnetID.NotFound"),
        ("&SecurityGroupId.1=sg-0dead", "InvalidGroup.NotFound"),
        ("&SecurityGroup.1=nobody", "InvalidGroup.NotFound"),
        ("&KeyName=yours", "InvalidKeyPair.NotFound"),
        ("&UserData=%21%21", "InvalidUserData.Malformed"),
        ("&MetadataOptions.HttpTokens=maybe", "InvalidParameterValue"),
        ("&MetadataOptions.HttpPutResponseHopLimit=65", "InvalidParameterValue"),
        ("&InstanceMarketOptions.MarketType=lottery", "InvalidParameterValue"),
        ("&NoSuchThing=1", "UnknownParameter"),
        (
            "&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.VolumeSize=1",
            "InvalidBlockDeviceMapping",
        ),
        ("&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.Surprise=1", "UnknownParameter"),
        ("&BlockDeviceMapping.1.DeviceName=/dev/sdf&BlockDeviceMapping.1.Ebs.VolumeType=gp3", "MissingParameter"),
        ("&LaunchTemplate.LaunchTemplateName=none", "InvalidLaunchTemplateName.NotFoundException"),
        ("&TagSpecification.1.ResourceType=sparrow", "InvalidParameterValue"),
        ("&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=aws:x", "InvalidParameterValue"),
        ("&DryRun=true", "DryRunOperation"),
    ] {
        // What comes later in a form counts.
        assert_eq!(w.code(&format!("{fits}{more}")), code, "{more}");
    }
    assert_eq!(w.code("RunInstances&MinCount=1&MaxCount=1"), "MissingParameter");
    assert_eq!(w.code("RunInstancez"), "InvalidAction");
    // As many as there is room for, if that is enough.
    let answer = w.call(&format!("{fits}&MaxCount=40"));
    assert_eq!(answer.text_at("instancesSet.3.amiLaunchIndex"), "3");
    assert_eq!(answer.text_at("instancesSet.4.amiLaunchIndex"), "");
    // An image by EC2's defaults is for machines that are no more.
    let snapshot = w.cloud.snapshots.keys().next().expect("one").clone();
    let old = w.call(&format!(
        "RegisterImage&Name=old&RootDeviceName=/dev/sda1&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.SnapshotId={snapshot}"
    ));
    let old = old.text_at("imageId");
    let run = format!("RunInstances&ImageId={old}&MinCount=1&MaxCount=1&DryRun=true");
    assert_eq!(w.code(&format!("{run}&InstanceType=m5.large")), "InvalidParameterCombination");
    assert_eq!(w.code(&format!("{run}&InstanceType=m1.small")), "DryRunOperation");
}

#[test]
fn a_client_token_makes_one_thing_however_often_it_comes() {
    let mut w = world();
    let image = w.image();
    let run = format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=2&ClientToken=once");
    let first = w.call(&run);
    assert_eq!(w.call(&run).text_at("instancesSet.1.instanceId"), first.text_at("instancesSet.1.instanceId"));
    assert_eq!(w.cloud.instances.len(), 2);
    assert_eq!(w.code(&run.replace("MaxCount=2", "MaxCount=3")), "IdempotentParameterMismatch");
    // Even when what it needs is gone.
    w.call(&format!("DeregisterImage&ImageId={image}"));
    assert_eq!(w.call(&run).text_at("reservationId"), first.text_at("reservationId"));
    let create = "CreateVolume&AvailabilityZone=us-east-1a&Size=1&ClientToken=v";
    let id = w.call(create).text_at("volumeId").to_owned();
    assert_eq!(w.call(create).text_at("volumeId"), id);
    assert_eq!(w.code(&create.replace("Size=1", "Size=2")), "IdempotentParameterMismatch");
    // A day later nobody remembers.
    w.wait(TOKEN_LIFE + 1);
    assert_ne!(w.call(create).text_at("volumeId"), id);
}

#[test]
fn volumes_come_and_go_by_the_rules() {
    let mut w = world();
    let image = w.image();
    let (i, j) = (w.run(&image, ""), w.run(&image, ""));
    let create = |zone: &str| format!("CreateVolume&AvailabilityZone=us-east-1{zone}&Size=4&VolumeType=gp3");
    let v = w.call(&create("a")).text_at("volumeId").to_owned();
    let other = w.call(&create("b")).text_at("volumeId").to_owned();
    let attach = |v: &str, i: &str, device: &str| format!("AttachVolume&VolumeId={v}&InstanceId={i}&Device={device}");
    for (call, code) in [
        (attach(&other, &i, "/dev/sdf"), "InvalidVolume.ZoneMismatch"),
        (attach(&v, &i, "/dev/sda1"), "InvalidParameterValue"),
        (attach(&v, &i, "/dev/mapper/x"), "InvalidParameterValue"),
        (attach(&v, "i-0dead", "/dev/sdf"), "InvalidInstanceID.NotFound"),
        (attach("vol-0dead", &i, "/dev/sdf"), "InvalidVolume.NotFound"),
        (format!("DetachVolume&VolumeId={v}"), "IncorrectState"),
        (create("q"), "InvalidZone.NotFound"),
        (format!("{}&Iops=100", create("a")), "InvalidParameterValue"),
        (format!("{}&KmsKeyId=alias/none&Encrypted=true", create("a")), "InvalidParameterValue"),
        (format!("{}&KmsKeyId=alias/aws/ebs", create("a")), "InvalidParameterDependency"),
        (create("a").replace("Size=4", "Size=99999"), "InvalidParameterValue"),
        (create("a").replace("Size=4", ""), "MissingParameter"),
        (create("a").replace("gp3", "io2"), "MissingParameter"),
        (create("a").replace("gp3", "gp9"), "InvalidParameterValue"),
    ] {
        assert_eq!(w.code(&call), code, "{call}");
    }
    assert_eq!(w.call(&attach(&v, &i, "/dev/sdf")).text_at("status"), "attaching");
    let names = vec![
        "/dev/nvme1n1".to_owned(),
        format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{}", v.replace('-', "")),
    ];
    assert_eq!(w.seen.last(), Some(&Effect::Attach { instance: i.clone(), volume: v.clone(), names }));
    assert_eq!((w.volume(&v, "status"), w.volume(&v, "attachmentSet.0.status")), ("in-use".into(), "attached".into()));
    for (call, code) in [
        (attach(&v, &j, "/dev/sdf"), "VolumeInUse"),
        (format!("DeleteVolume&VolumeId={v}"), "VolumeInUse"),
        (format!("DetachVolume&VolumeId={v}&InstanceId={j}"), "InvalidAttachment.NotFound"),
        (format!("DetachVolume&VolumeId={v}&Device=/dev/sdz"), "InvalidAttachment.NotFound"),
    ] {
        assert_eq!(w.code(&call), code, "{call}");
    }
    let second = w.call(&create("a")).text_at("volumeId").to_owned();
    assert_eq!(w.code(&attach(&second, &i, "/dev/sdf")), "InvalidParameterValue");
    w.call(&attach(&second, &i, "/dev/sdg"));
    assert!(matches!(w.seen.last(), Some(Effect::Attach { names, .. }) if names[0] == "/dev/nvme2n1"));

    // In use inside: busy until it is not.
    w.mounted.push(v.clone());
    assert_eq!(w.call(&format!("DetachVolume&VolumeId={v}")).text_at("status"), "detaching");
    assert_eq!(w.volume(&v, "attachmentSet.0.status"), "busy");
    w.cloud.report(Event::Detached { volume: v.clone() }, w.now);
    assert_eq!(w.volume(&v, "status"), "available");
    w.call(&format!("DeleteVolume&VolumeId={v}"));
    assert_eq!(w.code(&format!("DescribeVolumes&VolumeId.1={v}")), "InvalidVolume.NotFound");

    // A root volume cannot be taken from a running instance, and a data volume stays when its instance goes.
    let root = w.call(&format!("DescribeInstances&InstanceId.1={i}"));
    let root = root.text_at("reservationSet.0.instancesSet.0.blockDeviceMapping.0.ebs.volumeId").to_owned();
    let root =
        if root == second { w.cloud.volumes_of(&i).find(|v| v.id != second).expect("root").id.clone() } else { root };
    assert_eq!(w.code(&format!("DetachVolume&VolumeId={root}")), "OperationNotPermitted");
    w.call(&format!("TerminateInstances&InstanceId.1={i}"));
    assert_eq!(w.volume(&second, "status"), "available");
    assert_eq!(w.code(&format!("DescribeVolumes&VolumeId.1={root}")), "InvalidVolume.NotFound");
}

#[test]
fn a_stopped_instance_takes_volumes_and_boots_with_them() {
    let mut w = world();
    let image = w.image();
    let i = w.run(&image, "&InstanceType=m1.small");
    w.call(&format!("StopInstances&InstanceId.1={i}"));
    let v = w.call("CreateVolume&AvailabilityZone=us-east-1a&Size=1").text_at("volumeId").to_owned();
    w.call(&format!("AttachVolume&VolumeId={v}&InstanceId={i}&Device=/dev/sdf"));
    assert_eq!(w.volume(&v, "attachmentSet.0.status"), "attached");
    assert!(!w.seen.iter().any(|e| matches!(e, Effect::Attach { .. })));
    w.call(&format!("StartInstances&InstanceId.1={i}"));
    let Some(Effect::Boot(boot)) = w.seen.last() else { panic!("{:?}", w.seen.last()) };
    assert_eq!(boot.volumes, [(v, vec!["/dev/xvdf".to_owned()])]);
}

#[test]
fn snapshots_take_their_time_and_are_held_by_images() {
    let mut w = World::new(|c| {
        (c.delays.snapshot, c.delays.snapshot_gib) = (100, 1000);
        c.quotas.pending_snapshots = 2;
    });
    let v = w.call("CreateVolume&AvailabilityZone=us-east-1a&Size=2").text_at("volumeId").to_owned();
    let s = w.call(&format!("CreateSnapshot&VolumeId={v}")).text_at("snapshotId").to_owned();
    let register = |name: &str| {
        format!(
            "RegisterImage&Name={name}&RootDeviceName=/dev/sda1&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.SnapshotId={s}"
        )
    };
    assert_eq!(w.code(&register("img")), "IncorrectState");
    assert_eq!(w.code(&format!("CreateVolume&AvailabilityZone=us-east-1a&SnapshotId={s}")), "IncorrectState");
    w.wait(550);
    let shown = w.call("DescribeSnapshots&Owner.1=self&Filter.1.Name=status&Filter.1.Value.1=pend*");
    assert_eq!((shown.text_at("snapshotSet.0.progress"), shown.text_at("snapshotSet.0.status")), ("50%", "pending"));
    // The volume may go meanwhile, and only so many may be pending.
    w.call(&format!("CreateSnapshot&VolumeId={v}"));
    assert_eq!(w.code(&format!("CreateSnapshot&VolumeId={v}")), "ConcurrentSnapshotLimitExceeded");
    w.call(&format!("DeleteVolume&VolumeId={v}"));
    w.wait(550);
    let image = w.call(&register("img")).text_at("imageId").to_owned();
    for (call, code) in [
        (register("img"), "InvalidAMIName.Duplicate"),
        (register("x"), "InvalidAMIName.Malformed"),
        (register("bad%21name"), "InvalidAMIName.Malformed"),
        (register("other").replace("&RootDeviceName=/dev/sda1", ""), "MissingParameter"),
        (register("other").replace("RootDeviceName=/dev/sda1", "RootDeviceName=/dev/sdb"), "InvalidBlockDeviceMapping"),
        (register("other").replace(&s, "snap-0dead"), "InvalidSnapshot.NotFound"),
        (register("other") + "&BlockDeviceMapping.1.Ebs.VolumeSize=1", "InvalidParameterValue"),
        (format!("DeleteSnapshot&SnapshotId={s}"), "InvalidSnapshot.InUse"),
        (format!("CreateVolume&AvailabilityZone=us-east-1a&SnapshotId={s}&Size=1"), "InvalidParameterValue"),
        (format!("CreateSnapshot&VolumeId={v}"), "InvalidVolume.NotFound"),
    ] {
        assert_eq!(w.code(&call), code, "{call}");
    }
    w.call(&format!("DeregisterImage&ImageId={image}"));
    assert_eq!(w.code(&format!("DeregisterImage&ImageId={image}")), "InvalidAMIID.NotFound");
    w.call(&format!("DeleteSnapshot&SnapshotId={s}"));
    assert!(w.seen.contains(&Effect::RemoveSnapshot { snapshot: s.clone() }));
}

#[test]
fn security_groups_keep_count_of_their_rules_and_users() {
    let mut w = World::new(|c| c.quotas.rules = 3);
    let image = w.image();
    let g = w.call("CreateSecurityGroup&GroupName=udt&GroupDescription=receiver").text_at("groupId").to_owned();
    let i = w.run(&image, &format!("&SecurityGroupId.1={g}"));
    let open = |cidr: &str| {
        format!(
            "IngressX&GroupId={g}&IpPermissions.1.IpProtocol=udp&IpPermissions.1.FromPort=9000&IpPermissions.1.ToPort=9000&IpPermissions.1.IpRanges.1.CidrIp={cidr}"
        )
    };
    let authorize = |cidr: &str| open(cidr).replace("IngressX", "AuthorizeSecurityGroupIngress");
    let revoke = |cidr: &str| open(cidr).replace("IngressX", "RevokeSecurityGroupIngress");
    for (call, code) in [
        ("CreateSecurityGroup&GroupName=udt&GroupDescription=again".to_owned(), "InvalidGroup.Duplicate"),
        ("CreateSecurityGroup&GroupName=x".to_owned(), "MissingParameter"),
        (authorize("10.0.0.1/24"), "InvalidParameterValue"),
        (authorize("10.0.0.300/24"), "InvalidParameterValue"),
        (authorize("10.0.0.0/33"), "InvalidParameterValue"),
        (authorize("10.0.0.0/8").replace("ToPort=9000", "ToPort=1"), "InvalidParameterValue"),
        (authorize("10.0.0.0/8").replace("udp", "carrier-pigeon"), "InvalidParameterValue"),
        (revoke("10.0.0.0/8"), "InvalidPermission.NotFound"),
        (format!("DeleteSecurityGroup&GroupId={g}"), "DependencyViolation"),
        ("DeleteSecurityGroup&GroupName=default".to_owned(), "CannotDelete"),
        ("DeleteSecurityGroup&GroupId=sg-0dead".to_owned(), "InvalidGroup.NotFound"),
    ] {
        assert_eq!(w.code(&call), code, "{call}");
    }
    let answer = w.call(&authorize("198.51.100.7/32"));
    let rule = answer.text_at("securityGroupRuleSet.0.securityGroupRuleId").to_owned();
    let rules = vec![Rule { protocol: "udp".into(), from: 9000, to: 9000, source: "198.51.100.7/32".into() }];
    assert_eq!(w.seen.last(), Some(&Effect::Firewall { instance: i.clone(), rules }));
    assert_eq!(w.code(&authorize("198.51.100.7/32")), "InvalidPermission.Duplicate");
    w.call(&format!("RevokeSecurityGroupIngress&GroupId={g}&SecurityGroupRuleId.1={rule}"));
    assert_eq!(w.seen.last(), Some(&Effect::Firewall { instance: i.clone(), rules: Vec::new() }));
    // A group as a source means its members' addresses, as they come and go.
    let from = format!(
        "AuthorizeSecurityGroupIngress&GroupId={g}&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupId={g}"
    );
    w.call(&from);
    let j = w.run(&image, &format!("&SecurityGroupId.1={g}"));
    let both = [&i, &j].map(|id| format!("{}/32", w.cloud.instances[id].address));
    assert_eq!(w.cloud.rules_for(std::slice::from_ref(&g)).iter().map(|r| r.source.clone()).collect::<Vec<_>>(), both);
    for n in 1..3 {
        w.call(&authorize(&format!("192.0.2.{n}/32")));
    }
    assert_eq!(w.code(&authorize("192.0.2.9/32")), "RulesPerSecurityGroupLimitExceeded");
    w.call(&format!("TerminateInstances&InstanceId.1={i}&InstanceId.2={j}"));
    w.call(&format!("DeleteSecurityGroup&GroupId={g}"));
}

#[test]
fn what_is_new_is_not_found_at_once() {
    let mut w = World::new(|c| c.delays.visibility = 500);
    let v = w.call("CreateVolume&AvailabilityZone=us-east-1a&Size=1").text_at("volumeId").to_owned();
    assert_eq!(w.code(&format!("DescribeVolumes&VolumeId.1={v}")), "InvalidVolume.NotFound");
    assert_eq!(w.call("DescribeVolumes").at("volumeSet"), &Value::List(Vec::new()));
    w.wait(500);
    let image = {
        let s = w.call(&format!("CreateSnapshot&VolumeId={v}")).text_at("snapshotId").to_owned();
        w.wait(500);
        let call = format!(
            "RegisterImage&Name=base&VirtualizationType=hvm&Architecture=x86_64&EnaSupport=true&RootDeviceName=/dev/sda1&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.SnapshotId={s}"
        );
        w.call(&call).text_at("imageId").to_owned()
    };
    w.wait(500);
    let i = w.run(&image, "");
    assert_eq!(w.code(&format!("DescribeInstances&InstanceId.1={i}")), "InvalidInstanceID.NotFound");
    assert_eq!(w.code(&format!("CreateTags&ResourceId.1={i}&Tag.1.Key=a")), "InvalidInstanceID.NotFound");
    w.wait(500);
    assert_eq!(w.state(&i), "running");
}

#[test]
fn tags_are_set_found_and_taken_away() {
    let mut w = world();
    let image = w.image();
    let i = w.run(
        &image,
        "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=a1",
    );
    let j = w.run(&image, "");
    w.call(&format!("CreateTags&ResourceId.1={i}&ResourceId.2={j}&Tag.1.Key=owner&Tag.1.Value=me"));
    assert_eq!(w.code("CreateTags&ResourceId.1=vol-0dead&Tag.1.Key=a"), "InvalidVolume.NotFound");
    let found = |w: &mut World, filters: &str| -> usize {
        match w.call(&format!("DescribeInstances{filters}")).at("reservationSet") {
            Value::List(all) => all.len(),
            _ => 0,
        }
    };
    assert_eq!(found(&mut w, "&Filter.1.Name=tag:owner&Filter.1.Value.1=m*"), 2);
    assert_eq!(
        found(&mut w, "&Filter.1.Name=tag:owner&Filter.1.Value.1=me&Filter.2.Name=tag-key&Filter.2.Value.1=Name"),
        1
    );
    assert_eq!(
        found(&mut w, "&Filter.1.Name=instance-state-name&Filter.1.Value.1=stopped&Filter.1.Value.2=running"),
        2
    );
    assert_eq!(w.code("DescribeInstances&Filter.1.Name=colour&Filter.1.Value.1=red"), "InvalidParameterValue");
    let all = w.call("DescribeTags&Filter.1.Name=resource-type&Filter.1.Value.1=instance");
    assert_eq!(all.text_at("tagSet.2.key"), "owner");
    w.call(&format!("DeleteTags&ResourceId.1={i}&Tag.1.Key=owner&Tag.1.Value=other"));
    assert_eq!(found(&mut w, "&Filter.1.Name=tag:owner&Filter.1.Value.1=me"), 2);
    w.call(&format!("DeleteTags&ResourceId.1={i}"));
    assert_eq!(found(&mut w, "&Filter.1.Name=tag-key&Filter.1.Value.1=*"), 1);
}

#[test]
fn a_launch_template_is_a_launch_with_less_to_say() {
    let mut w = world();
    let image = w.image();
    let create = format!(
        "CreateLaunchTemplate&LaunchTemplateName=lite&LaunchTemplateData.ImageId={image}&LaunchTemplateData.InstanceType=m5.large\
         &LaunchTemplateData.MetadataOptions.HttpTokens=required&LaunchTemplateData.UserData=aGk="
    );
    assert_eq!(w.code(&format!("{create}&LaunchTemplateData.Odd=1")), "UnknownParameter");
    let t = w.call(&create).text_at("launchTemplate.launchTemplateId").to_owned();
    assert_eq!(w.code(&create), "InvalidLaunchTemplateName.AlreadyExistsException");
    let run = "RunInstances&MinCount=1&MaxCount=1&LaunchTemplate.LaunchTemplateName=lite&InstanceType=c5.large";
    let shown = w.call(run);
    assert_eq!(shown.text_at("instancesSet.0.instanceType"), "c5.large");
    assert_eq!(shown.text_at("instancesSet.0.metadataOptions.httpTokens"), "required");
    let versions = w.call("DescribeLaunchTemplateVersions&LaunchTemplateName=lite");
    assert_eq!(versions.text_at("launchTemplateVersionSet.0.launchTemplateData.userData"), "aGk=");
    w.call(&format!("DeleteLaunchTemplate&LaunchTemplateId={t}"));
    assert_eq!(w.code(run), "InvalidLaunchTemplateName.NotFoundException");
}

#[test]
fn an_import_becomes_a_snapshot_or_says_why_not() {
    let mut w = world();
    let import = |format: &str, key: &str| {
        format!(
            "ImportSnapshot&DiskContainer.Format={format}&DiskContainer.UserBucket.S3Bucket=b&DiskContainer.UserBucket.S3Key={key}"
        )
    };
    let mut outcome = |call: &str| {
        let task = w.call(call).text_at("importTaskId").to_owned();
        let shown = w.call(&format!("DescribeImportSnapshotTasks&ImportTaskId.1={task}"));
        let detail = "importSnapshotTaskSet.0.snapshotTaskDetail";
        let snapshot = shown.text_at(&format!("{detail}.snapshotId")).to_owned();
        let gib = w.cloud.snapshots.get(&snapshot).map(|s| s.gib);
        (shown.text_at(&format!("{detail}.status")).to_owned(), gib)
    };
    assert_eq!(outcome(&import("raw", "disk")), ("completed".to_owned(), Some(3)));
    assert_eq!(outcome(&import("RAW", "missing")), ("deleted".to_owned(), None));
    assert_eq!(outcome(&import("VMDK", "disk")), ("completed".to_owned(), Some(3)));
    assert_eq!(outcome(&import("OVA", "disk")), ("deleted".to_owned(), None));
    assert_eq!(w.code("CancelImportTask&ImportTaskId=import-snap-1"), "InvalidConversionTaskId");
    assert_eq!(w.code(&import("flac", "disk")), "InvalidParameterValue");
}

#[test]
fn a_bundle_is_an_image_for_old_types_where_it_is_taken_at_all() {
    let register = |key: &str| {
        format!("RegisterImage&Name=old-{}&Architecture=x86_64&VirtualizationType=hvm&ImageLocation=b/{key}", key.len())
    };
    assert_eq!(world().code(&register("lite.manifest.xml")), "UnsupportedOperation");
    let mut w = World::new(|c| c.bundle_key = Some("ec2.pem".into()));
    assert_eq!(w.code(&register("lite.part.00")), "InvalidManifest");
    assert_eq!(
        w.code(&format!("{}&RootDeviceName=/dev/sda1", register("m.manifest.xml"))),
        "InvalidParameterCombination"
    );
    let broken = w.call(&register("broken.manifest.xml")).text_at("imageId").to_owned();
    assert_eq!(w.code(&format!("DescribeImages&ImageId.1={broken}")), "InvalidAMIID.NotFound");
    let image = w.call(&register("lite.manifest.xml")).text_at("imageId").to_owned();
    let shown = w.call(&format!("DescribeImages&ImageId.1={image}"));
    assert_eq!(shown.text_at("imagesSet.0.rootDeviceType"), "instance-store");
    assert_eq!(shown.text_at("imagesSet.0.imageLocation"), "b/lite.manifest.xml");
    assert_eq!(shown.text_at("imagesSet.0.imageState"), "available");
    // What is in it is no snapshot of anybody's.
    assert!(!format!("{:?}", w.call("DescribeSnapshots")).contains("snap-"));
    assert_eq!(
        w.code(&format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1")),
        "InvalidParameterCombination"
    );
    w.call(&format!("RunInstances&ImageId={image}&InstanceType=m1.large&MinCount=1&MaxCount=1"));
    w.call(&format!("DeregisterImage&ImageId={image}"));
    assert!(w.cloud.snapshots.is_empty());
}

#[test]
fn a_spot_instance_is_taken_away_after_its_notice() {
    let mut w = world();
    let image = w.image();
    let i = w.run(&image, "&InstanceMarketOptions.MarketType=spot");
    let j = w.run(&image, "");
    assert_eq!(w.code(&format!("StopInstances&InstanceId.1={i}")), "UnsupportedOperation");
    assert!(w.cloud.interrupt(&j, w.now + 100, w.now).is_err());
    w.cloud.interrupt(&i, w.now + 100, w.now).expect("a spot instance");
    w.wait(99);
    assert_eq!(w.state(&i), "running");
    w.wait(1);
    assert_eq!(w.state(&i), "terminated");
    let shown = w.call(&format!("DescribeInstances&InstanceId.1={i}"));
    assert_eq!(shown.text_at("reservationSet.0.instancesSet.0.stateReason.code"), "Server.SpotInstanceTermination");
}

#[test]
fn the_bill_knows_everything_that_was_held_and_for_how_long() {
    let mut w = world();
    let image = w.image();
    let i = w.run(&image, "");
    w.wait(10_000);
    w.call(&format!("StopInstances&InstanceId.1={i}"));
    w.wait(5_000);
    w.call(&format!("TerminateInstances&InstanceId.1={i}"));
    let bill = w.cloud.bill.show(w.now, &BTreeMap::new());
    let seconds = |kind: &str| -> f64 {
        bill["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter(|x| x["kind"] == kind)
            .filter_map(|x| x["seconds"].as_f64())
            .sum()
    };
    assert_eq!((seconds("instance"), seconds("address")), (10.0, 10.0));
    assert_eq!(seconds("volume"), 15.0);
    let snapshot = w.cloud.snapshots.keys().next().expect("one").clone();
    w.call(&format!("DeregisterImage&ImageId={image}"));
    w.call(&format!("DeleteSnapshot&SnapshotId={snapshot}"));
    assert!(w.cloud.bill.held().is_empty(), "{:?}", w.cloud.bill.held());
}

#[test]
fn a_failed_boot_ends_the_instance_and_says_why() {
    let mut w = world();
    let image = w.image();
    let call = format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1");
    let i = w.try_only(&call).expect("launched").text_at("instancesSet.0.instanceId").to_owned();
    w.cloud.report(Event::BootFailed { instance: i.clone(), why: "no root".to_owned() }, w.now);
    w.settle();
    assert_eq!(w.state(&i), "terminated");
    let shown = w.call(&format!("DescribeInstances&InstanceId.1={i}"));
    assert_eq!(shown.text_at("reservationSet.0.instancesSet.0.stateReason.code"), "Server.InternalError");
}

#[test]
fn an_instance_that_is_ended_while_it_boots_ends() {
    let mut w = world();
    let image = w.image();
    let call = format!("RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1");
    let i = w.try_only(&call).expect("launched").text_at("instancesSet.0.instanceId").to_owned();
    w.try_only(&format!("TerminateInstances&InstanceId.1={i}")).expect("ended");
    w.settle();
    assert_eq!(w.state(&i), "terminated");
    assert!(w.cloud.volumes.is_empty());
    assert!(!w.seen.iter().any(|e| matches!(e, Effect::Boot(_))));
}

#[test]
fn places_are_described() {
    let mut w = world();
    let zones = w.call("DescribeAvailabilityZones&Filter.1.Name=zone-name&Filter.1.Value.1=*b");
    assert_eq!(zones.text_at("availabilityZoneInfo.0.zoneId"), "use1-az2");
    let subnets = w.call("DescribeSubnets&Filter.1.Name=availability-zone&Filter.1.Value.1=us-east-1c");
    assert_eq!(subnets.text_at("subnetSet.0.cidrBlock"), "10.88.32.0/20");
    let vpcs = w.call("DescribeVpcs&Filter.1.Name=is-default&Filter.1.Value.1=true");
    assert!(vpcs.text_at("vpcSet.0.vpcId").starts_with("vpc-"));
    assert_eq!(w.call("DescribeRegions").text_at("regionInfo.0.regionName"), "us-east-1");
    let types = w.call("DescribeInstanceTypes&InstanceType.1=m5.large");
    assert_eq!(types.text_at("instanceTypeSet.0.vCpuInfo.defaultVCpus"), "2");
    assert_eq!(w.code("DescribeInstanceTypes&InstanceType.1=z"), "InvalidInstanceType");
    let offers = w.call("DescribeInstanceTypeOfferings&LocationType=availability-zone&Filter.1.Name=location&Filter.1.Value.1=us-east-1a&Filter.2.Name=instance-type&Filter.2.Value.1=t3.*");
    assert_eq!(offers.text_at("instanceTypeOfferingSet.0.location"), "us-east-1a");
}
