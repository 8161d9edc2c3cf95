//! Its frontend.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::ids::HostName;
use tokio::time::{Instant, sleep};

use super::{Kind, Sim, Thing, objects};
use crate::cloud::BootMode;
use crate::engine::{Blocks, Pieces, Shipped, Site, SiteError};
use crate::ids::{AccountId, InstanceId, TemplateId, VolumeId};
use crate::order::Order;
use crate::record::Record;

/// A frontend in memory.
pub(crate) struct SimSite<'s> {
    pub(crate) cloud: &'s Sim,
    pub(crate) kept: Mutex<Option<Record>>,
    pub(crate) hosts: Mutex<BTreeSet<String>>,
    pub(crate) ships: Mutex<u32>,
    /// Receivers that have taken their shipment, and when.
    received: Mutex<BTreeMap<InstanceId, Instant>>,
    /// Templates whose instances are let in.
    pub(crate) lets_in: Mutex<BTreeSet<TemplateId>>,
    /// Hosts that never become what they should be.
    pub(crate) never: Vec<HostName>,
    pub(crate) store_is_full: std::sync::atomic::AtomicBool,
    /// How often what was made for S3 was thrown away: what is made the next time is other bytes, if it is a bundle.
    made: std::sync::atomic::AtomicU64,
    /// How often something was kept.
    keeps: std::sync::atomic::AtomicU64,
}

impl<'s> SimSite<'s> {
    pub(crate) fn new(cloud: &'s Sim) -> Self {
        Self {
            cloud,
            kept: Mutex::default(),
            hosts: Mutex::default(),
            ships: Mutex::default(),
            received: Mutex::default(),
            lets_in: Mutex::default(),
            never: Vec::new(),
            store_is_full: false.into(),
            made: 0.into(),
            keeps: 0.into(),
        }
    }

    pub(crate) fn kept(&self) -> Option<Record> {
        self.kept.lock().expect("no panic").clone()
    }
}

struct SimBlocks(Vec<u32>);

impl Blocks for SimBlocks {
    fn digest(&self) -> &str {
        "d"
    }

    fn indices(&self) -> &[u32] {
        &self.0
    }

    fn read(&self, _: u32) -> io::Result<Vec<u8>> {
        Ok(vec![1; 512 << 10])
    }
}

impl Site for SimSite<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    async fn keep(&self, record: &Record) -> Result<(), SiteError> {
        // Quick mostly, and at times slower than the cloud: steps end while others keep what they know.
        let nth = self.keeps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        sleep(Duration::from_millis([5, 70, 3, 900, 20][usize::try_from(nth % 5).unwrap_or_default()])).await;
        if self.store_is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(SiteError::passing("the store is full"));
        }
        // What is kept can be read again.
        let text = serde_json::to_string(record).expect("it can be written");
        *self.kept.lock().expect("no panic") = Some(serde_json::from_str(&text).expect("it can be read"));
        Ok(())
    }

    async fn build(&self, _: &Order) -> Result<(), SiteError> {
        sleep(Duration::from_secs(15)).await;
        Ok(())
    }

    async fn boots(&self, _: &Order) -> Result<BootMode, SiteError> {
        Ok(BootMode::UefiPreferred)
    }

    async fn receiver(&self, record: &Record, volume: &VolumeId, device: &str) -> Result<String, SiteError> {
        self.hosts.lock().expect("no panic").insert(format!("receiver-{}", record.id));
        Ok(format!("receive {volume} {device}"))
    }

    async fn ship(&self, record: &Record, to: SocketAddr) -> Result<Shipped, SiteError> {
        // A receiver takes one shipment; then it fits the image, whether the frontend is there or not, reports, and is gone.
        let receiver = record.found.receiver.clone().expect("a receiver");
        let received = || self.received.lock().expect("no panic").get(&receiver).copied();
        if received().is_none() {
            sleep(Duration::from_secs(20)).await;
            self.received.lock().expect("no panic").insert(receiver.clone(), Instant::now());
        }
        sleep(Duration::from_secs(10).saturating_sub(received().map_or(Duration::ZERO, |at| at.elapsed()))).await;
        let mut state = self.cloud.state();
        let volume = record.found.volume.as_ref().expect("a volume").as_str();
        assert!(
            state.is_attached_to(receiver.as_str()) && to.port() == 8444,
            "shipped to a receiver without its volume"
        );
        let is_open = state.things.values().any(|thing| match &thing.state {
            Kind::Group { rules, .. } => rules.iter().any(|rule| rule.from == "198.51.100.7/32" && rule.port == 8444),
            _ => false,
        });
        assert!(is_open, "the port is not open");
        if let Some(Thing { state: Kind::Volume { written, .. }, .. }) = state.things.get_mut(volume) {
            *written = true;
        }
        *self.ships.lock().expect("no panic") += 1;
        Ok(Shipped { sent_bytes: 1000, digest: "d".to_owned() })
    }

    async fn blocks(&self, _: &Order) -> Result<Box<dyn Blocks>, SiteError> {
        Ok(Box::new(SimBlocks((0..1500).step_by(2).collect())))
    }

    async fn bundle(&self, record: &Record) -> Result<Box<dyn Pieces>, SiteError> {
        sleep(Duration::from_secs(20)).await;
        Ok(Box::new(objects::SimPieces::new(record, &self.made)))
    }

    async fn sent(&self, _: &Record) -> Result<(), SiteError> {
        self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn members(&self, record: &Record, hosts: &[HostName]) -> Result<String, SiteError> {
        self.hosts.lock().expect("no panic").extend(hosts.iter().map(ToString::to_string));
        Ok(format!("members of {}", record.id))
    }

    async fn member(&self, record: &Record, host: &HostName) -> Result<String, SiteError> {
        self.hosts.lock().expect("no panic").insert(host.to_string());
        Ok(format!("{}/{host}", record.id))
    }

    async fn template(&self, record: &Record) -> Result<String, SiteError> {
        Ok(format!("enrol as {}", record.id))
    }

    async fn let_in(&self, record: &Record, _: &AccountId) -> Result<(), SiteError> {
        let template = record.found.template.clone().expect("a template");
        let state = self.cloud.state();
        let known = state.things.get(template.as_str()).map(|thing| &thing.state);
        let ami = record.found.ami.as_ref().expect("an image");
        let is_ours = matches!(known, Some(Kind::Template { image, user_data, .. })
            if image == ami.as_str() && *user_data == format!("enrol as {}", record.id));
        assert!(is_ours, "{known:?}");
        self.lets_in.lock().expect("no panic").insert(template);
        Ok(())
    }

    async fn converged(&self, hosts: &[HostName]) -> Result<Vec<HostName>, SiteError> {
        // As the frontend lets them in: each is the host that the record says.
        let instances = self.kept().map(|record| record.found.instances).unwrap_or_default();
        let state = self.cloud.state();
        let runs = |host: &HostName| {
            let mine = instances.get(host).map(|one| one.id.as_str());
            state.things.iter().any(|(id, thing)| match &thing.state {
                Kind::Instance { ready, is_bad, .. } => {
                    mine == Some(id.as_str())
                        && thing.gone.is_none()
                        && !is_bad
                        && ready.elapsed() > Duration::from_secs(20)
                }
                _ => false,
            })
        };
        Ok(hosts.iter().filter(|host| runs(host) && !self.never.contains(host)).cloned().collect())
    }

    async fn received(&self, record: &Record) -> Result<(), SiteError> {
        self.hosts.lock().expect("no panic").remove(&format!("receiver-{}", record.id));
        Ok(())
    }

    async fn forget(&self, _: &Record) -> Result<(), SiteError> {
        self.hosts.lock().expect("no panic").clear();
        self.lets_in.lock().expect("no panic").clear();
        Ok(())
    }
}
