//! The steps that make instances of an image, and wait until they are what they should be.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rocks_common::ids::HostName;

use crate::cloud::{Cloud, CloudError, Instance, InstanceState, Launch};
use crate::engine::{Site, StepError, Work};
use crate::ids::{AmiId, InstanceId, SubnetId};
use crate::objects::Objects;
use crate::order::{Join, Order};
use crate::record::{Launched, Record};
use crate::retry::{Wait, insist, until};
use crate::steps::{BOOT, EVERY, ended, lacks};

/// How long instances may take to become what they should be.
const CONVERGE: Duration = Duration::from_secs(1800);
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
        let ground = self.ground().await?;
        if join == Join::Identity {
            // The same groups each time: what a group is called is how the cloud knows it again.
            for (nth, group) in hosts.chunks(TOGETHER).enumerate() {
                self.launch_together(&ground, nth, group).await?;
            }
        }
        stream::iter(hosts.iter().map(|host| self.launch_one(&ground, host)))
            .buffer_unordered(LAUNCHES)
            .try_collect::<Vec<()>>()
            .await?;
        until("not all instances run", EVERY, BOOT, || async {
            let seen = self.look().await.map_err(step_cloud)?;
            Ok(seen.values().all(|state| *state == InstanceState::Running).then_some(()))
        })
        .await?;
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
        let mut ids = insist(Wait::Settling, || self.cloud.launch(&launch)).await?;
        ids.sort();
        self.note(|record| {
            for (host, id) in hosts.iter().zip(ids) {
                record.found.instances.insert(host.clone(), Launched::new(id));
            }
        })
        .await
    }

    async fn launch_one(&self, ground: &Ground, host: &HostName) -> Result<(), StepError> {
        let record = self.record();
        if record.found.instances.contains_key(host) {
            return Ok(());
        }
        let attempt = record.found.launches.get(host).copied().unwrap_or(0);
        let user_data = self.site.member(&record, host).await?;
        // Another token for each attempt: the same would give the instance that has ended.
        let launch = ground.launch(&record, &format!("{host}.{attempt}"), host.as_str(), user_data);
        let id = self.launched(&launch).await?;
        self.note(|record| {
            record.found.instances.insert(host.clone(), Launched::new(id));
        })
        .await
    }

    /// What the instances of the order are launched of and where.
    async fn ground(&self) -> Result<Ground, StepError> {
        let Record { order, found, .. } = self.record();
        let image = found.ami.ok_or_else(|| lacks("image"))?;
        let wait = if order.ami.is_some() { Wait::Nothing } else { Wait::Settling };
        let root_device = self.image_of(&image, wait).await?.root_device;
        let subnet = insist(Wait::Nothing, || self.cloud.subnet(order.subnet.as_ref())).await?.id;
        Ok(Ground { image, root_device, subnet })
    }

    /// Launches one instance.
    pub(crate) async fn launched(&self, launch: &Launch) -> Result<InstanceId, StepError> {
        let mut ids = insist(Wait::Settling, || self.cloud.launch(launch)).await?;
        ids.pop().ok_or_else(|| CloudError::Unclear("no instance was launched".to_owned()).into())
    }

    /// How the instances are. One that has ended before it was what it should be is launched anew.
    async fn look(&self) -> Result<BTreeMap<HostName, InstanceState>, StepError> {
        let record = self.record();
        let ids: Vec<InstanceId> = record.found.instances.values().map(|one| one.id.clone()).collect();
        let seen = insist(Wait::Settling, || self.cloud.instances(&ids)).await?;
        let seen: BTreeMap<&InstanceId, &Instance> = seen.iter().map(|one| (&one.id, one)).collect();
        let mut states = BTreeMap::new();
        let mut again = Vec::new();
        let mut news = Vec::new();
        for (host, launched) in &record.found.instances {
            let Some(now) = seen.get(&launched.id) else {
                // Not known everywhere yet.
                states.insert(host.clone(), launched.state);
                continue;
            };
            states.insert(host.clone(), now.state);
            let address = if record.order.inside { now.private } else { now.public.or(now.private) };
            if now.state != launched.state || address != launched.address {
                news.push((host.clone(), now.state, address));
            }
            if !now.state.is_alive() && launched.converged.is_none() {
                let tries = record.found.launches.get(host).copied().unwrap_or(0) + 1;
                if tries >= TRIES {
                    return Err(ended(now).into());
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
        if !again.is_empty() {
            let ground = self.ground().await?;
            for (host, _) in again {
                self.launch_one(&ground, &host).await?;
                states.insert(host, InstanceState::Pending);
            }
        }
        Ok(states)
    }

    pub(crate) async fn converge(&self) -> Result<(), StepError> {
        let began = tokio::time::Instant::now();
        let hosts = self.record().order.hosts;
        loop {
            let there = self.site.converged(&hosts).await?;
            let now = self.site.now();
            let known = self.record().found.instances;
            let news: Vec<&HostName> = there
                .iter()
                .filter(|host| known.get(*host).is_some_and(|launched| launched.converged.is_none()))
                .collect();
            if !news.is_empty() {
                self.note(|record| {
                    for host in news {
                        if let Some(launched) = record.found.instances.get_mut(host) {
                            launched.converged = Some(now);
                        }
                    }
                })
                .await?;
            }
            let left: Vec<&HostName> = hosts.iter().filter(|host| !there.contains(host)).collect();
            if left.is_empty() {
                self.look().await?;
                return Ok(());
            }
            if began.elapsed() >= CONVERGE {
                // The others are what they should be, and these can be looked at.
                let names: Vec<&str> = left.iter().take(10).map(|host| host.as_str()).collect();
                let trouble = format!("{} hosts have not converged: {}", left.len(), names.join(", "));
                return self.note(|record| record.trouble = Some(trouble)).await;
            }
            self.look().await?;
            tokio::time::sleep(EVERY).await;
        }
    }
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
            token: record.id.token(token),
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

fn step_cloud(error: StepError) -> CloudError {
    match error {
        StepError::Cloud(error) => error,
        StepError::Site(error) | StepError::Keep(error) => {
            CloudError::Refused { code: "Frontend".to_owned(), message: error.what }
        }
    }
}
