//! A cloud in memory for tests: EC2's states, delays, tokens and late visibility; calls that fail before or after their effect. Time is
//! tokio's, which tests let pass as fast as it can.

mod faults;
mod objects;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cloud::{
    Ami, Answer, Cloud, CloudError, Import, Instance, InstanceState, Launch, NewImport, NewSnapshot, NewTemplate,
    NewVolume, Owned, Registration, Resource, Rule, Snapshot, SnapshotState, Source, Subnet, Tags, Template, Volume,
    VolumeState, Whose,
};
use crate::ids::{AmiId, GroupId, ImportId, InstanceId, ProvisionId, SnapshotId, SubnetId, TemplateId, VolumeId};

pub(crate) use faults::{Dice, Faults};
pub(crate) use site::SimSite;

/// How long what was made may be unknown to those who ask.
const LAG: Duration = Duration::from_secs(8);

#[derive(Debug)]
struct Thing {
    tags: Tags,
    made: Instant,
    gone: Option<Instant>,
    token: Option<String>,
    state: Kind,
}

#[derive(Debug)]
enum Kind {
    Instance {
        ready: Instant,
        user_data: String,
        is_bad: bool,
    },
    Volume {
        attached: Option<(String, Instant)>,
        written: bool,
    },
    Snapshot {
        whole: Option<Instant>,
        blocks: BTreeSet<u32>,
    },
    /// `of`: its snapshot, or the place of its manifest.
    Ami {
        name: String,
        of: String,
    },
    Import {
        ends: Instant,
        snapshot: Option<String>,
        key: String,
    },
    Group {
        name: String,
        rules: Vec<Rule>,
    },
    Template {
        name: String,
        image: String,
        user_data: String,
    },
}

struct State {
    things: BTreeMap<String, Thing>,
    number: u64,
    dice: Dice,
    faults: Faults,
    launches: u32,
    store: objects::Store,
    /// What was called, for the policy.
    called: BTreeSet<&'static str>,
}

/// The cloud.
pub(crate) struct Sim {
    state: Mutex<State>,
}

fn missing(id: &str) -> CloudError {
    CloudError::Missing(format!("there is no {id}"))
}

impl Sim {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let state = State {
            things: BTreeMap::new(),
            number: 0,
            dice: Dice::new(seed),
            faults,
            launches: 0,
            store: objects::Store::default(),
            called: BTreeSet::new(),
        };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn called(&self) -> BTreeSet<&'static str> {
        self.state().called.clone()
    }

    /// All that lives, however new.
    pub(crate) fn alive(&self) -> Vec<String> {
        let state = self.state();
        let is_alive = |thing: &Thing| match &thing.state {
            // What has ended is only told.
            Kind::Import { snapshot, .. } => snapshot.is_none() && thing.gone.is_none(),
            _ => thing.gone.is_none(),
        };
        let things = state.things.iter().filter(|(_, thing)| is_alive(thing)).map(|(id, _)| id.clone());
        things.chain(state.store.places()).collect()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Ends an instance as the cloud itself does.
    pub(crate) fn take_away(&self, id: &InstanceId) {
        if let Some(thing) = self.state().things.get_mut(id.as_str()) {
            thing.gone = Some(Instant::now());
        }
    }

    /// One call: a while, perhaps a fault, the effect, perhaps a lost answer.
    async fn call<T>(&self, action: &'static str, effect: impl FnOnce(&mut State) -> Answer<T> + Send) -> Answer<T> {
        let (wait, before, after) = {
            let mut state = self.state();
            state.called.insert(action);
            if state.faults.denied.contains(&action) {
                return Err(CloudError::Denied { action, message: "UnauthorizedOperation".to_owned() });
            }
            let (a, b) = (state.faults.before, state.faults.after);
            let dice = &mut state.dice;
            (dice.below(400), dice.below(1000) < a, dice.below(1000) < b)
        };
        sleep(Duration::from_millis(wait / 2)).await;
        if before {
            return Err(CloudError::Throttled("RequestLimitExceeded".to_owned()));
        }
        let result = effect(&mut self.state());
        sleep(Duration::from_millis(wait / 2)).await;
        if after { Err(CloudError::Unclear("the answer was lost".to_owned())) } else { result }
    }
}

impl State {
    fn make(&mut self, prefix: &str, token: Option<&str>, tags: &Tags, state: Kind) -> String {
        if let Some(token) = token {
            let same = self.things.iter().find(|(_, thing)| thing.token.as_deref() == Some(token));
            if let Some((id, _)) = same {
                return id.clone();
            }
        }
        self.number += 1;
        let id = format!("{prefix}-{:017x}", self.number);
        let token = token.map(str::to_owned);
        self.things.insert(id.clone(), Thing { tags: tags.clone(), made: Instant::now(), gone: None, token, state });
        id
    }

    fn get(&mut self, id: &str) -> Answer<&mut Thing> {
        self.things.get_mut(id).filter(|thing| thing.gone.is_none()).ok_or_else(|| missing(id))
    }

    /// As those see it who ask.
    fn seen(&mut self, id: &str) -> Option<&mut Thing> {
        let lag = LAG.mul_f64(self.dice.below(1000) as f64 / 1000.0);
        self.things.get_mut(id).filter(|thing| thing.made.elapsed() >= lag)
    }

    fn is_attached_to(&self, instance: &str) -> bool {
        self.things.values().any(|thing| match &thing.state {
            Kind::Volume { attached: Some((to, _)), .. } => to == instance && thing.gone.is_none(),
            _ => false,
        })
    }
}

fn parsed<T: std::str::FromStr>(id: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    id.parse().expect("an id of ours")
}

impl Cloud for Sim {
    async fn subnet(&self, _: Option<&SubnetId>, _: &[&str]) -> Answer<Subnet> {
        self.call("ec2:DescribeSubnets", |_| {
            let id = parsed("subnet-00000000000000001");
            Ok(Subnet { id, vpc: "vpc-1".to_owned(), zone: "us-east-1a".to_owned(), gives_public: true })
        })
        .await
    }

    async fn ensure_group(&self, name: &str, _: &str, tags: &Tags) -> Answer<GroupId> {
        self.call("ec2:CreateSecurityGroup", |state| {
            let same = state.things.iter().find(|(_, thing)| match &thing.state {
                Kind::Group { name: known, .. } => known == name && thing.gone.is_none(),
                _ => false,
            });
            if let Some((id, _)) = same {
                return Ok(parsed(id));
            }
            let kind = Kind::Group { name: name.to_owned(), rules: Vec::new() };
            Ok(parsed(&state.make("sg", None, tags, kind)))
        })
        .await
    }

    async fn allow(&self, group: &GroupId, rule: &Rule) -> Answer<()> {
        self.call("ec2:AuthorizeSecurityGroupIngress", |state| {
            if let Kind::Group { rules, .. } = &mut state.get(group.as_str())?.state
                && !rules.contains(rule)
            {
                rules.push(rule.clone());
            }
            Ok(())
        })
        .await
    }

    async fn disallow(&self, group: &GroupId, rule: &Rule) -> Answer<()> {
        self.call("ec2:RevokeSecurityGroupIngress", |state| {
            if let Kind::Group { rules, .. } = &mut state.get(group.as_str())?.state {
                rules.retain(|one| one != rule);
            }
            Ok(())
        })
        .await
    }

    async fn delete_group(&self, group: &GroupId) -> Answer<()> {
        self.call("ec2:DeleteSecurityGroup", |state| {
            let in_use = state.things.values().any(|thing| {
                matches!(thing.state, Kind::Instance { .. })
                    && thing.gone.is_none_or(|gone| gone.elapsed() < Duration::from_secs(5))
                    && thing.tags.role == "receiver"
            });
            if in_use {
                return Err(CloudError::InUse("DependencyViolation".to_owned()));
            }
            if let Ok(thing) = state.get(group.as_str()) {
                thing.gone = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    async fn launch(&self, launch: &Launch) -> Answer<Vec<InstanceId>> {
        self.call("ec2:RunInstances", |state| {
            if state.faults.full {
                return Err(CloudError::Capacity("InsufficientInstanceCapacity".to_owned()));
            }
            let mut ids = Vec::new();
            let first = format!("{}#", launch.token);
            let mut made =
                state.things.values().filter(|thing| thing.token.as_ref().is_some_and(|it| it.starts_with(&first)));
            if made.any(|thing| thing.gone.is_some()) {
                return Err(CloudError::Spent("IdempotentInstanceTerminated".to_owned()));
            }
            for nth in 0..launch.count {
                let is_bad = state.launches < state.faults.stillborn;
                state.launches += 1;
                let ready = Instant::now() + Duration::from_secs(5 + state.dice.below(20));
                let kind = Kind::Instance { ready, user_data: launch.user_data.clone(), is_bad };
                let id = state.make("i", Some(&format!("{}#{nth}", launch.token)), &launch.tags, kind);
                if let Some(Thing { state: Kind::Instance { user_data, .. }, .. }) = state.things.get(&id)
                    && *user_data != launch.user_data
                {
                    let message = "the token was used with other parameters".to_owned();
                    return Err(CloudError::Refused { code: "IdempotentParameterMismatch".to_owned(), message });
                }
                ids.push(parsed(&id));
            }
            Ok(ids)
        })
        .await
    }

    async fn instances(&self, ids: &[InstanceId]) -> Answer<Vec<Instance>> {
        self.call("ec2:DescribeInstances", |state| {
            let mut all = Vec::new();
            for id in ids {
                let Some(thing) = state.seen(id.as_str()) else { continue };
                let Kind::Instance { ready, is_bad, .. } = &thing.state else { continue };
                if *is_bad && *ready <= Instant::now() {
                    thing.gone = thing.gone.or(Some(*ready));
                }
                let Kind::Instance { ready, .. } = &thing.state else { continue };
                let state = match thing.gone {
                    Some(gone) if gone.elapsed() < Duration::from_secs(10) => InstanceState::ShuttingDown,
                    Some(_) => InstanceState::Terminated,
                    None if *ready <= Instant::now() => InstanceState::Running,
                    None => InstanceState::Pending,
                };
                let address = Some(Ipv4Addr::new(10, 0, 0, 9));
                let reason = thing.gone.map(|_| "Server.InternalError".to_owned());
                let role = thing.tags.role.clone();
                all.push(Instance {
                    id: id.clone(),
                    state,
                    reason,
                    private: address,
                    public: address,
                    launched: None,
                    role,
                });
            }
            Ok(all)
        })
        .await
    }

    async fn terminate(&self, ids: &[InstanceId]) -> Answer<()> {
        self.call("ec2:TerminateInstances", |state| {
            for id in ids {
                if let Ok(thing) = state.get(id.as_str()) {
                    thing.gone = Some(Instant::now());
                    for other in state.things.values_mut() {
                        if let Kind::Volume { attached, .. } = &mut other.state
                            && attached.as_ref().is_some_and(|(to, _)| to == id.as_str())
                        {
                            *attached = None;
                        }
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn create_template(&self, new: &NewTemplate) -> Answer<Template> {
        self.call("ec2:CreateLaunchTemplate", |state| {
            let is_other = |thing: &Thing| match &thing.state {
                Kind::Template { name, .. } => *name == new.name && thing.token.as_ref() != Some(&new.token),
                _ => false,
            };
            if state.things.values().any(is_other) {
                return Err(CloudError::Exists("InvalidLaunchTemplateName.AlreadyExistsException".to_owned()));
            }
            let (name, image, user_data) = (new.name.clone(), new.image.to_string(), new.user_data.clone());
            let kind = Kind::Template { name, image, user_data };
            let id = parsed(&state.make("lt", Some(&new.token), &new.tags, kind));
            Ok(Template { id, account: parsed("123456789012") })
        })
        .await
    }

    async fn delete_template(&self, id: &TemplateId) -> Answer<()> {
        self.call("ec2:DeleteLaunchTemplate", |state| {
            if let Ok(thing) = state.get(id.as_str()) {
                thing.gone = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    async fn create_volume(&self, new: &NewVolume) -> Answer<VolumeId> {
        self.call("ec2:CreateVolume", |state| {
            let kind = Kind::Volume { attached: None, written: false };
            Ok(parsed(&state.make("vol", Some(&new.token), &new.tags, kind)))
        })
        .await
    }

    async fn volume(&self, id: &VolumeId) -> Answer<Option<Volume>> {
        self.call("ec2:DescribeVolumes", |state| {
            let Some(thing) = state.seen(id.as_str()) else { return Err(missing(id.as_str())) };
            let Kind::Volume { attached, .. } = &thing.state else { return Err(missing(id.as_str())) };
            if thing.gone.is_some() {
                return Ok(None);
            }
            let attached = attached
                .as_ref()
                .map(|(to, since)| (parsed::<InstanceId>(to), since.elapsed() >= Duration::from_secs(3)));
            let volume_state = match attached {
                Some(_) => VolumeState::InUse,
                None if thing.made.elapsed() < Duration::from_secs(4) => VolumeState::Creating,
                None => VolumeState::Available,
            };
            Ok(Some(Volume { id: id.clone(), state: volume_state, attached }))
        })
        .await
    }

    async fn attach(&self, volume: &VolumeId, to: &InstanceId, _: &str) -> Answer<()> {
        self.call("ec2:AttachVolume", |state| {
            let runs =
                matches!(&state.get(to.as_str())?.state, Kind::Instance { ready, .. } if *ready <= Instant::now());
            if !runs {
                return Err(CloudError::State("IncorrectState".to_owned()));
            }
            if let Kind::Volume { attached, .. } = &mut state.get(volume.as_str())?.state {
                match attached {
                    Some((other, _)) if other != to.as_str() => {
                        return Err(CloudError::InUse("VolumeInUse".to_owned()));
                    }
                    Some(_) => {}
                    None => *attached = Some((to.to_string(), Instant::now())),
                }
            }
            Ok(())
        })
        .await
    }

    async fn detach(&self, volume: &VolumeId) -> Answer<()> {
        self.call("ec2:DetachVolume", |state| {
            if let Kind::Volume { attached, .. } = &mut state.get(volume.as_str())?.state {
                *attached = None;
            }
            Ok(())
        })
        .await
    }

    async fn delete_volume(&self, volume: &VolumeId) -> Answer<()> {
        self.call("ec2:DeleteVolume", |state| {
            let Ok(thing) = state.get(volume.as_str()) else { return Ok(()) };
            if matches!(thing.state, Kind::Volume { attached: Some(_), .. }) {
                return Err(CloudError::InUse("VolumeInUse".to_owned()));
            }
            thing.gone = Some(Instant::now());
            Ok(())
        })
        .await
    }

    async fn create_snapshot(&self, volume: &VolumeId, tags: &Tags) -> Answer<SnapshotId> {
        self.call("ec2:CreateSnapshot", |state| {
            match &state.get(volume.as_str())?.state {
                Kind::Volume { attached: None, written: true } => {}
                Kind::Volume { written: false, .. } => panic!("a snapshot of a volume that nothing was written to"),
                _ => panic!("a snapshot of a volume that is still attached"),
            }
            let whole = Some(Instant::now() + Duration::from_secs(20 + state.dice.below(60)));
            let kind = Kind::Snapshot { whole, blocks: BTreeSet::new() };
            Ok(parsed(&state.make("snap", None, tags, kind)))
        })
        .await
    }

    async fn snapshot(&self, id: &SnapshotId) -> Answer<Option<Snapshot>> {
        self.call("ec2:DescribeSnapshots", |state| {
            let Some(thing) = state.seen(id.as_str()) else { return Err(missing(id.as_str())) };
            let Kind::Snapshot { whole, .. } = &thing.state else { return Err(missing(id.as_str())) };
            let is_whole = whole.is_some_and(|whole| whole <= Instant::now());
            let state = if is_whole { SnapshotState::Completed } else { SnapshotState::Pending };
            Ok(thing.gone.is_none().then(|| Snapshot { id: id.clone(), state, progress: 50 }))
        })
        .await
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Answer<()> {
        self.call("ec2:DeleteSnapshot", |state| {
            let in_use = state.things.values().any(|thing| match &thing.state {
                Kind::Ami { of, .. } => of == id.as_str() && thing.gone.is_none(),
                _ => false,
            });
            if in_use {
                return Err(CloudError::InUse("InvalidSnapshot.InUse".to_owned()));
            }
            if let Ok(thing) = state.get(id.as_str()) {
                if thing.tags.site.is_empty() {
                    let (action, message) = ("ec2:DeleteSnapshot", "it has no tags".to_owned());
                    return Err(CloudError::Denied { action, message });
                }
                thing.gone = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    async fn start_snapshot(&self, new: &NewSnapshot) -> Answer<SnapshotId> {
        self.call("ebs:StartSnapshot", |state| {
            let kind = Kind::Snapshot { whole: None, blocks: BTreeSet::new() };
            Ok(parsed(&state.make("snap", Some(&new.token), &new.tags, kind)))
        })
        .await
    }

    async fn put_block(&self, id: &SnapshotId, index: u32, block: Vec<u8>) -> Answer<()> {
        self.call("ebs:PutSnapshotBlock", |state| match &mut state.get(id.as_str())?.state {
            Kind::Snapshot { whole: None, blocks } => {
                assert_eq!(block.len(), 512 << 10);
                blocks.insert(index);
                Ok(())
            }
            _ => Err(CloudError::State("the snapshot is not pending".to_owned())),
        })
        .await
    }

    async fn complete_snapshot(&self, id: &SnapshotId, count: u32) -> Answer<()> {
        self.call("ebs:CompleteSnapshot", |state| {
            if let Kind::Snapshot { whole, blocks } = &mut state.get(id.as_str())?.state {
                assert_eq!(blocks.len(), count as usize, "not all blocks were written");
                whole.get_or_insert(Instant::now() + Duration::from_secs(10));
            }
            Ok(())
        })
        .await
    }

    async fn import_snapshot(&self, new: &NewImport) -> Answer<ImportId> {
        self.call("ec2:ImportSnapshot", |state| state.begin_import(new)).await
    }

    async fn import(&self, id: &ImportId) -> Answer<Option<Import>> {
        self.call("ec2:DescribeImportSnapshotTasks", |state| Ok(state.look_at_import(id.as_str()))).await
    }

    async fn cancel_import(&self, id: &ImportId) -> Answer<()> {
        self.call("ec2:CancelImportTask", |state| {
            state.advance_imports();
            if let Ok(Thing { state: Kind::Import { snapshot: None, .. }, gone, .. }) = state.get(id.as_str()) {
                *gone = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    async fn tag_snapshot(&self, id: &SnapshotId, tags: &Tags) -> Answer<()> {
        self.call("ec2:CreateTags", |state| {
            state.get(id.as_str())?.tags = tags.clone();
            Ok(())
        })
        .await
    }

    async fn imports(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        self.call("ec2:DescribeImportSnapshotTasks", |state| Ok(state.owned_imports(whose))).await
    }

    async fn register(&self, image: &Registration) -> Answer<AmiId> {
        self.call("ec2:RegisterImage", |state| {
            let same = state.things.iter().find(|(_, thing)| match &thing.state {
                Kind::Ami { name, .. } => *name == image.name && thing.gone.is_none(),
                _ => false,
            });
            if let Some((id, _)) = same {
                return Ok(parsed(id));
            }
            let (of, whole) = match &image.of {
                Source::Snapshot(id) => match &state.get(id.as_str())?.state {
                    Kind::Snapshot { whole, .. } => {
                        (id.to_string(), whole.is_some_and(|whole| whole <= Instant::now()))
                    }
                    _ => (id.to_string(), false),
                },
                Source::Bundle(bucket, key) => (key.to_string(), state.store.is_bundle(bucket, key)),
            };
            if !whole {
                return Err(CloudError::State("IncorrectState: the snapshot is pending".to_owned()));
            }
            let kind = Kind::Ami { name: image.name.clone(), of };
            Ok(parsed(&state.make("ami", None, &image.tags, kind)))
        })
        .await
    }

    async fn ami(&self, id: &AmiId) -> Answer<Option<Ami>> {
        self.call("ec2:DescribeImages", |state| {
            let mut ami = Ami {
                id: id.clone(),
                available: Some(true),
                snapshot: None,
                root_device: Some("/dev/xvda".to_owned()),
                architecture: "x86_64".to_owned(),
            };
            // Images of others are always there.
            if id.as_str().starts_with("ami-0bace") {
                return Ok(Some(ami));
            }
            let Some(thing) = state.seen(id.as_str()) else { return Err(missing(id.as_str())) };
            let age = thing.made.elapsed();
            ami.available = (age >= Duration::from_secs(6)).then_some(true);
            Ok(thing.gone.is_none().then_some(ami))
        })
        .await
    }

    async fn deregister(&self, id: &AmiId) -> Answer<()> {
        self.call("ec2:DeregisterImage", |state| {
            if let Ok(thing) = state.get(id.as_str()) {
                thing.gone = Some(Instant::now());
            }
            Ok(())
        })
        .await
    }

    async fn owned(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        self.call("ec2:DescribeSecurityGroups", |state| {
            let ids: Vec<String> = state.things.keys().cloned().collect();
            let mut all = Vec::new();
            for id in ids {
                let Some(thing) = state.seen(&id) else { continue };
                let fits = match whose {
                    Whose::Site(site) => thing.tags.site == site,
                    Whose::Provision(site, provision) => thing.tags.site == site && thing.tags.provision == *provision,
                };
                if thing.gone.is_some() || !fits || matches!(thing.state, Kind::Import { .. }) {
                    continue;
                }
                let resource = match thing.state {
                    Kind::Template { .. } => Resource::Template(parsed(&id)),
                    Kind::Instance { .. } => Resource::Instance(parsed(&id)),
                    Kind::Volume { .. } => Resource::Volume(parsed(&id)),
                    Kind::Snapshot { .. } => Resource::Snapshot(parsed(&id)),
                    Kind::Ami { .. } => Resource::Ami(parsed(&id)),
                    Kind::Group { .. } => Resource::Group(parsed(&id)),
                    Kind::Import { .. } => Resource::Import(parsed(&id)),
                };
                let (provision, role) = (Some(thing.tags.provision.clone()), thing.tags.role.clone());
                all.push(Owned { resource, provision, role });
            }
            Ok(all)
        })
        .await
    }
}

/// A provision's name.
pub(crate) fn provision(text: &str) -> ProvisionId {
    parsed(text)
}
