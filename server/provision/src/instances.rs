//! The steps that make instances of an image, and wait until they are what they should be.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rocks_common::ids::HostName;
use tokio::time::{Instant, sleep};

use crate::cloud::{Cloud, CloudError, Instance, InstanceState, Launch};
use crate::engine::{Site, StepError, Work};
use crate::ids::{AmiId, InstanceId, SubnetId};
use crate::objects::Objects;
use crate::order::{Join, Order};
use crate::record::{Launched, Record};
use crate::retry::{Pause, Wait, insist, too_long};
use crate::steps::{BOOT, EVERY, ended, lacks};

/// How long instances may take to become what they should be.
const CONVERGE: Duration = Duration::from_secs(1800);
/// How often it is looked which hosts have converged: that is known here.
const SOON: Duration = Duration::from_millis(500);
/// Instances that are launched at the same time.
const LAUNCHES: usize = 16;
/// How often an instance may end before it has converged.
const TRIES: u32 = 3;
/// What instances are called, in tags, that were launched together.
const MEMBERS: &str = "members";
/// Instances that one call launches.
const TOGETHER: usize = 100;

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    pub(crate) async fn launch(&self) -> Result<(), StepError> {
        let Order { hosts, join, .. } = self.record().order;
        if join == Join::Identity {
            let ground = self.ground().await?;
            // The same groups each time: what a group is called is how the cloud knows it again.
            for (nth, group) in hosts.chunks(TOGETHER).enumerate() {
                self.launch_together(&ground, nth, group).await?;
            }
        }
        self.launch_lacking().await?;
        let (began, mut pause) = (Instant::now(), Pause::up_to(EVERY));
        loop {
            let Seen { all_run, given_up } = self.look().await?;
            if let Some((_, why)) = given_up.into_iter().next() {
                return Err(why.into());
            }
            if all_run {
                return Ok(());
            }
            if began.elapsed() >= BOOT {
                return Err(too_long("not all instances run", BOOT).into());
            }
            pause.pass().await;
        }
    }

    /// Launches an instance for each host that has none.
    async fn launch_lacking(&self) -> Result<(), StepError> {
        let Record { order, found, .. } = self.record();
        let lacking: Vec<&HostName> = order.hosts.iter().filter(|host| !found.instances.contains_key(*host)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let ground = self.ground().await?;
        let launches = lacking.into_iter().map(|host| self.launch_one(&ground, host));
        stream::iter(launches).buffer_unordered(LAUNCHES).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Launches instances by one call, if none of these hosts was launched before. Which of them is which host is decided here, by their ids.
    async fn launch_together(&self, ground: &Ground, nth: usize, hosts: &[HostName]) -> Result<(), StepError> {
        let record = self.record();
        let found = &record.found;
        if hosts.iter().any(|host| found.instances.contains_key(host) || found.launches.contains_key(host)) {
            return Ok(());
        }
        let user_data = self.site.members(&record, hosts).await?;
        let one = ground.launch(&record, &format!("{MEMBERS}.{nth}"), MEMBERS, user_data);
        let launch = Launch { count: u32::try_from(hosts.len()).unwrap_or(u32::MAX), ..one };
        let mut ids = match insist(Wait::Settling, || self.cloud.launch(&launch)).await {
            Ok(ids) => ids,
            // They were launched, and one has ended before that was noted. Each gets an instance of its own then; what is left is removed at the end.
            Err(CloudError::Spent(_)) => {
                return self
                    .note(|record| record.found.launches.extend(hosts.iter().map(|host| (host.clone(), 1))))
                    .await;
            }
            Err(error) => return Err(error.into()),
        };
        ids.sort();
        self.note(|record| {
            for (host, id) in hosts.iter().zip(ids) {
                record.found.instances.insert(host.clone(), Launched::new(id));
            }
        })
        .await
    }

    async fn launch_one(&self, ground: &Ground, host: &HostName) -> Result<(), StepError> {
        loop {
            let record = self.record();
            if record.found.instances.contains_key(host) {
                return Ok(());
            }
            let attempt = record.found.launches.get(host).copied().unwrap_or(0);
            let user_data = self.site.member(&record, host).await?;
            // Another token for each attempt: the same would give the instance that has ended.
            let launch = ground.launch(&record, &format!("{host}.{attempt}"), host.as_str(), user_data);
            match self.launched(&launch).await {
                Ok(id) => {
                    let launched = Launched::new(id);
                    return self.note(|record| record.found.instances.extend([(host.clone(), launched)])).await;
                }
                // It ended before it was noted.
                Err(StepError::Cloud(CloudError::Spent(_))) if attempt + 1 < TRIES => {
                    self.note(|record| record.found.launches.extend([(host.clone(), attempt + 1)])).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the instances of the order are launched of and where.
    async fn ground(&self) -> Result<Ground, StepError> {
        let Record { order, found, .. } = self.record();
        let image = found.ami.ok_or_else(|| lacks("image"))?;
        let wait = if order.ami.is_some() { Wait::Nothing } else { Wait::Settling };
        let root_device = self.image_of(&image, wait).await?.root_device;
        let subnet = self.subnet(&order).await?.id;
        Ok(Ground { image, root_device, subnet })
    }

    /// Launches one instance.
    pub(crate) async fn launched(&self, launch: &Launch) -> Result<InstanceId, StepError> {
        let mut ids = insist(Wait::Settling, || self.cloud.launch(launch)).await?;
        ids.pop().ok_or_else(|| CloudError::Unclear("no instance was launched".to_owned()).into())
    }

    /// Looks how the instances are. One that has ended before it was what it should be is launched anew, but not for ever.
    async fn look(&self) -> Result<Seen, StepError> {
        let record = self.record();
        let ids: Vec<InstanceId> = record.found.instances.values().map(|one| one.id.clone()).collect();
        let seen = insist(Wait::Settling, || self.cloud.instances(&ids)).await?;
        let seen: BTreeMap<&InstanceId, &Instance> = seen.iter().map(|one| (&one.id, one)).collect();
        let (mut all_run, mut given_up) = (true, Vec::new());
        let (mut again, mut news) = (Vec::new(), Vec::new());
        for (host, launched) in &record.found.instances {
            let Some(now) = seen.get(&launched.id) else {
                // Not known everywhere yet.
                all_run &= launched.state == InstanceState::Running;
                continue;
            };
            all_run &= now.state == InstanceState::Running;
            let address = if record.order.inside { now.private } else { now.public.or(now.private) };
            if now.state != launched.state || address != launched.address {
                news.push((host.clone(), now.state, address));
            }
            if !now.state.is_alive() && launched.converged.is_none() {
                let tries = record.found.launches.get(host).copied().unwrap_or(0) + 1;
                if tries >= TRIES {
                    given_up.push((host.clone(), ended(now)));
                    continue;
                }
                tracing::warn!(%host, reason = now.reason.as_deref().unwrap_or_default(), "its instance ended; another is launched");
                again.push((host.clone(), tries));
            }
        }
        if !news.is_empty() || !again.is_empty() {
            self.note(|record| {
                for (host, state, address) in news {
                    if let Some(launched) = record.found.instances.get_mut(&host) {
                        (launched.state, launched.address) = (state, address);
                    }
                }
                for (host, tries) in &again {
                    record.found.instances.remove(host);
                    record.found.launches.insert(host.clone(), *tries);
                }
            })
            .await?;
        }
        self.launch_lacking().await?;
        Ok(Seen { all_run, given_up })
    }

    /// Waits until all hosts have reported that they are what they should be, or no more can be hoped for. From here on nothing ends the
    /// provision: what cannot be had for one instance is told, and is no reason to end the others.
    pub(crate) async fn converge(&self) -> Result<(), StepError> {
        let began = Instant::now();
        let mut looked: Option<Instant> = None;
        let mut lost = Vec::new();
        let mut trouble = None;
        loop {
            let Record { order, found, .. } = self.record();
            let is_open = |host: &&HostName| found.instances.get(*host).is_none_or(|one| one.converged.is_none());
            let open: Vec<HostName> = order.hosts.iter().filter(is_open).cloned().collect();
            let there = self.site.converged(&open).await?;
            let now = self.site.now();
            if !there.is_empty() {
                self.note(|record| {
                    for host in &there {
                        if let Some(launched) = record.found.instances.get_mut(host) {
                            launched.converged = Some(now);
                        }
                    }
                })
                .await?;
            }
            let left: Vec<&HostName> = open.iter().filter(|host| !there.contains(host)).collect();
            // The frontend knows at once what it is told; the cloud is asked now and then, and once at the end.
            if left.is_empty() || looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
                match self.look().await {
                    Ok(seen) => (lost, trouble) = (seen.given_up, None),
                    Err(StepError::Cloud(error)) => {
                        tracing::warn!("instances cannot be looked at, or not be replaced: {error}");
                        trouble = Some(error);
                    }
                    Err(error) => return Err(error),
                }
                looked = Some(Instant::now());
            }
            if left.is_empty() {
                return self.note(|record| record.trouble = None).await;
            }
            let is_lost = |host: &&&HostName| lost.iter().any(|(gone, _)| gone == **host);
            if began.elapsed() >= CONVERGE || left.iter().all(|host| is_lost(&host)) {
                // The others are what they should be, and these can be looked at.
                let names: Vec<&str> = left.iter().take(10).map(|host| host.as_str()).collect();
                let why = lost.first().map(|(_, why)| why).or(trouble.as_ref());
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                let trouble = format!("{} hosts have not converged: {}{why}", left.len(), names.join(", "));
                return self.note(|record| record.trouble = Some(trouble)).await;
            }
            sleep(SOON).await;
        }
    }
}

/// How instances are.
struct Seen {
    /// Whether all of them run.
    all_run: bool,
    /// Hosts whose instances ended too often, each with how the last one did.
    given_up: Vec<(HostName, CloudError)>,
}

/// What instances are launched of and where: asked once for all that are launched.
struct Ground {
    image: AmiId,
    root_device: Option<String>,
    subnet: SubnetId,
}

impl Ground {
    /// One instance of the order; `token` and `role` tell it from others.
    fn launch(&self, record: &Record, token: &str, role: &str, user_data: String) -> Launch {
        let order = &record.order;
        Launch {
            token: record.token(token),
            count: 1,
            image: self.image.clone(),
            root_device: self.root_device.clone(),
            kind: order.kind.clone(),
            subnet: self.subnet.clone(),
            groups: order.groups.clone(),
            user_data,
            key: order.key.clone(),
            spot: order.spot,
            root_gib: None,
            tags: record.tags(role),
        }
    }
}
