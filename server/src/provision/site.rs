//! The frontend's part of a provision: images, hosts and their join documents, the shipment, and what hosts report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use jiff::Timestamp;
use rocks_common::ids::{EnrolmentName, HostName, ImageName};
use rocks_common::wire::{JoinToken, Outcome};
use rocks_provision::cloud::BootMode;
use rocks_provision::engine::{Blocks, Pieces, Shipped, Site, SiteError};
use rocks_provision::ids::{AccountId, ProvisionId, VolumeId};
use rocks_provision::order::{End, Order};
use rocks_provision::record::Record;
use rocks_ship::shipment::Progress;

use super::blocks::Changed;
use super::bundles::{self, Files, Form, Signer};
use super::expire::taken;
use super::userdata::{Job, user_data};
use crate::ca::Authority;
use crate::config::Config;
use crate::identity::{AGE, Rule};
use crate::images::make::{self, EndWith};
use crate::images::{ImageError, Images, Origin};
use crate::kickstart::Service;
use crate::listen::token_hash;
use crate::ship::{self, Way};
use crate::store::{Host, Store, StoreError};

/// For how many seconds a receiver waits for its volume, and for its shipment.
const PATIENCE: u64 = 3600;
/// How long a receiver may take to fit what it received.
const FITTING: Duration = Duration::from_secs(600);
/// The setting that join tokens of provisions are derived from.
const SECRET: &str = "provision_secret";

/// The frontend.
pub struct Frontend {
    pub(super) store: Store,
    pub(super) service: Arc<Service>,
    pub(super) config: Arc<Config>,
    pub(super) images: Arc<Images>,
    authority: Arc<Authority>,
    secret: [u8; 32],
    progress: Mutex<BTreeMap<ProvisionId, String>>,
}

fn failed(error: &dyn std::fmt::Display) -> SiteError {
    SiteError::new(error)
}

/// The store's errors: what it says is final, and that it does not answer passes.
fn stored(error: StoreError) -> SiteError {
    if matches!(error, StoreError::Database(_)) { SiteError::passing(error) } else { SiteError::new(error) }
}

fn of_image(error: ImageError) -> SiteError {
    SiteError::new(&error).hint(error.hint().map(str::to_owned))
}

/// `x86_64`, `aarch64`: as rpm calls what EC2 calls otherwise.
#[must_use]
pub fn rpm_arch(architecture: &str) -> &str {
    if architecture == "arm64" { "aarch64" } else { architecture }
}

/// The host that receives for a provision.
///
/// # Errors
/// Never for a provision's name.
pub fn receiver_of(id: &ProvisionId) -> Result<HostName, SiteError> {
    format!("receiver-{id}").parse().map_err(|error| failed(&error))
}

/// The rule that lets instances of a provision's launch template in.
///
/// # Errors
/// Never for a provision's name.
pub fn enrolment_of(id: &ProvisionId) -> Result<EnrolmentName, SiteError> {
    id.as_str().parse().map_err(|error| failed(&error))
}

impl Frontend {
    /// The frontend, with the secret that its store has.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(
        store: Store,
        service: Arc<Service>,
        config: Arc<Config>,
        images: Arc<Images>,
        authority: Arc<Authority>,
    ) -> Result<Self, StoreError> {
        let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
        let known = store.setting(SECRET).await?.and_then(|text| engine.decode(text).ok());
        let secret = match known.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(secret) => secret,
            None => {
                let mut secret = [0; 32];
                aws_lc_rs::rand::fill(&mut secret).map_err(|_| StoreError::Conflict("no randomness".to_owned()))?;
                store.set_setting(SECRET, &engine.encode(secret)).await?;
                secret
            }
        };
        Ok(Self { store, service, config, images, authority, secret, progress: Mutex::default() })
    }

    /// What a provision is doing beside its steps: how far its shipment is.
    #[must_use]
    pub fn doing(&self, id: &ProvisionId) -> Option<String> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn says(&self, id: &ProvisionId, what: Option<String>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Some(what) => progress.insert(id.clone(), what),
            None => progress.remove(id),
        };
    }

    /// Adds a host if there is none; gives what was known of it.
    async fn ensure(&self, record: &Record, host: &HostName) -> Result<Option<Host>, SiteError> {
        match self.store.host(host).await {
            Ok(known) => return Ok(Some(known)),
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(stored(error)),
        }
        let new = Host::new(host.clone(), record.order.appliance.clone(), rpm_arch(&record.order.architecture));
        self.store.add_host(&new).await.map_err(stored)?;
        Ok(None)
    }

    /// Adds a host if there is none, and gives its join document. The token follows from the frontend's secret and the names: whoever
    /// asks again for the same launch gets the same, and the cloud sees that it is the same.
    async fn join(&self, record: &Record, host: &HostName, launch: u32) -> Result<String, SiteError> {
        let known = self.ensure(record, host).await?;
        let text = record.token(&format!("{host}/{launch}"));
        let bytes = blake3::keyed_hash(&self.secret, text.as_bytes());
        let token = JoinToken(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_bytes()));
        let now = Timestamp::now().as_second();
        let (hash, hours) = (token_hash(&token), i64::from(self.config.token_hours));
        // One that was taken already is not given again.
        let is_taken =
            launch == 0 && known.as_ref().is_some_and(|host| host.enrolled >= Some(record.began.as_second()));
        let is_known = self.store.knows_token(&hash, now).await.map_err(stored)?.is_some();
        if !is_known && !is_taken {
            self.store.add_token(host, &hash, now + hours * 3600, now).await.map_err(stored)?;
        }
        let ca = self.ca()?;
        let frontend = &self.service.frontend_url;
        Ok(format!("frontend = {frontend:?}\ntoken = {:?}\nca = \"\"\"\n{ca}\"\"\"\n", token.0))
    }

    /// What instances of a provision are told that join by their identity documents. They name the provision, so that they are not taken for
    /// instances that another rule is for.
    fn by_identity(&self, id: &ProvisionId) -> Result<String, SiteError> {
        let (ca, frontend, rule) = (self.ca()?, &self.service.frontend_url, enrolment_of(id)?);
        let join =
            format!("frontend = {frontend:?}\nidentity = \"ec2\"\nenrolment = \"{rule}\"\nca = \"\"\"\n{ca}\"\"\"\n");
        Ok(user_data(&join, None))
    }

    fn ca(&self) -> Result<String, SiteError> {
        std::fs::read_to_string(self.config.state.join("ca/ca.pem")).map_err(|error| failed(&error))
    }

    /// What the receiver has said since then: whether what it received is verified and fitted to the cloud, or why not. Nothing if it has not
    /// said anything yet.
    async fn said(&self, host: &HostName, since: Timestamp) -> Result<Option<()>, SiteError> {
        let known = self.store.host(host).await.map_err(stored)?;
        match known.last.filter(|last| last.received >= since.as_second()) {
            None => Ok(None),
            Some(last) if last.outcome == Outcome::Converged => Ok(Some(())),
            Some(_) => {
                let reports = self.store.reports(host, 1).await.map_err(stored)?;
                let why =
                    reports.first().and_then(|(report, _)| report.findings.first()).map(|one| one.message.clone());
                Err(failed(&format!("the receiver failed: {}", why.unwrap_or_default())))
            }
        }
    }

    /// Waits until the receiver has said it.
    async fn fitted(&self, host: &HostName, since: Timestamp) -> Result<(), SiteError> {
        while self.said(host, since).await?.is_none() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    async fn remove(&self, hosts: &[HostName]) -> Result<(), SiteError> {
        for host in hosts {
            match self.store.remove_hosts(std::slice::from_ref(host)).await {
                Ok(()) | Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(stored(error)),
            }
        }
        Ok(())
    }

    /// Where what goes into S3 is made for a provision.
    fn bundles(&self, record: &Record) -> std::path::PathBuf {
        self.config.state.join("bundles").join(record.unique())
    }

    /// Removes what was made for provisions that are not open any more.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn sweep(&self, open: &[Record]) -> std::io::Result<()> {
        let wanted: Vec<String> = open.iter().map(Record::unique).collect();
        bundles::sweep(&self.config.state.join("bundles"), &wanted)
    }

    /// Who signs bundles.
    ///
    /// # Errors
    /// The configuration does not say it.
    fn signer(&self) -> Result<Signer, SiteError> {
        let Config { bundle_account, bundle_certificate, bundle_key, bundle_ec2_certificate, .. } = &*self.config;
        let all =
            (bundle_account.clone(), bundle_certificate.clone(), bundle_key.clone(), bundle_ec2_certificate.clone());
        let (Some(account), Some(certificate), Some(key), Some(ec2_certificate)) = all else {
            let hint = "set bundle_account, bundle_certificate, bundle_key and bundle_ec2_certificate";
            return Err(SiteError::new("nobody is named who signs bundles").hint(Some(hint.to_owned())));
        };
        Ok(Signer { account, certificate, key, ec2_certificate })
    }

    fn digest(&self, image: &ImageName) -> Result<String, SiteError> {
        let known = self.images.get(image);
        Ok(known.map_err(of_image)?.digest)
    }

    fn disk(&self, image: &ImageName) -> Result<std::path::PathBuf, SiteError> {
        self.images.disk(image).map_err(of_image)
    }
}

impl Site for Frontend {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn keep(&self, record: &Record) -> Result<(), SiteError> {
        self.store.keep_provision(record).await.map_err(stored)
    }

    async fn build(&self, order: &Order) -> Result<(), SiteError> {
        let Some(shipment) = &order.shipment else { return Ok(()) };
        let Some(appliance) = shipment.build.clone() else { return Ok(()) };
        if self.images.get(&shipment.image).is_ok() {
            return Ok(());
        }
        let build = make::Order {
            appliance,
            name: shipment.image.clone(),
            arch: rpm_arch(&order.architecture).to_owned(),
            disk_mib: Some(u64::from(shipment.gib) << 10),
            gpgkeys: Vec::new(),
        };
        let told = |error: make::MakeError| SiteError::new(&error).hint(error.hint());
        let build = make::prepare(build, &self.service, &self.config, &self.images).await.map_err(told)?;
        build.run(|_, _| {}).await.map_err(told)?;
        Ok(())
    }

    async fn boots(&self, order: &Order) -> Result<BootMode, SiteError> {
        // Graviton knows nothing else.
        if rpm_arch(&order.architecture) == "aarch64" {
            return Ok(BootMode::Uefi);
        }
        let shipment = order.shipment.as_ref().ok_or_else(|| failed(&"there is no image"))?;
        let image = self.images.get(&shipment.image);
        let image = image.map_err(of_image)?;
        let ways = match &image.from {
            Origin::Built(made) => made.built.boots.as_slice(),
            // Whoever made it says more with `boot=`.
            _ => &[],
        };
        let has = |way: &str| ways.iter().any(|one| one == way);
        Ok(match (has("uefi"), has("bios")) {
            (true, true) => BootMode::UefiPreferred,
            (true, false) => BootMode::Uefi,
            (false, _) => BootMode::LegacyBios,
        })
    }

    async fn receiver(&self, record: &Record, volume: &VolumeId, device: &str) -> Result<String, SiteError> {
        let join = self.join(record, &receiver_of(&record.id)?, 0).await?;
        let job = Job { volume: volume.as_str(), device, port: record.order.port, patience: PATIENCE };
        Ok(user_data(&join, Some(&job)))
    }

    async fn ship(&self, record: &Record, to: SocketAddr) -> Result<Shipped, SiteError> {
        let shipment = record.order.shipment.as_ref().ok_or_else(|| failed(&"there is no image to ship"))?;
        let (image, host) = (self.disk(&shipment.image)?, receiver_of(&record.id)?);
        let digest = self.digest(&shipment.image)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ending = EndWith(stop.clone());
        let (authority, config, of) = (self.authority.clone(), self.config.clone(), host.clone());
        let (told, mut heard) = tokio::sync::watch::channel(None::<Progress>);
        let mut work = tokio::task::spawn_blocking(move || {
            let order = ship::Order { image: &image, base: None, host: &of, to, way: Way::Udt, rate: None };
            let tell = |at| {
                told.send_replace(Some(at));
            };
            ship::ship(&order, &authority, &config.names, &stop, &tell)
        });
        // A receiver takes one shipment and is gone. If it was the last frontend's, nobody listens any more, and its word is all there is.
        let fitted = self.fitted(&host, record.began);
        tokio::pin!(fitted);
        let shipped = loop {
            tokio::select! {
                shipped = &mut work => break Some(shipped),
                fitted = &mut fitted => {
                    fitted?;
                    break None;
                }
                Ok(()) = heard.changed() => {
                    let at = *heard.borrow_and_update();
                    let text = at.map(|at| format!("{:?} {}/{}", at.phase, at.done, at.of).to_lowercase());
                    self.says(&record.id, text);
                    // Often enough for people.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        self.says(&record.id, None);
        drop(ending);
        let Some(shipped) = shipped else {
            return Ok(Shipped { sent_bytes: record.found.sent_bytes.unwrap_or(0), digest });
        };
        let shipped = shipped.map_err(|error| failed(&error))?.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            failed(&format!("{error}{cause}"))
        })?;
        match tokio::time::timeout(FITTING, fitted).await {
            Ok(fitted) => fitted?,
            Err(_) => return Err(failed(&"the receiver does not say that the image is fitted")),
        }
        Ok(Shipped { sent_bytes: shipped.sent_bytes, digest: shipped.digest })
    }

    async fn blocks(&self, order: &Order) -> Result<Box<dyn Blocks>, SiteError> {
        let shipment = order.shipment.as_ref().ok_or_else(|| failed(&"there is no image"))?;
        let disk = self.disk(&shipment.image)?;
        let base = shipment.base.as_ref().map(|base| self.disk(base)).transpose()?;
        let digest = || {
            let base = shipment.base.as_ref().map(|base| self.digest(base)).transpose()?;
            let image = self.digest(&shipment.image)?;
            Ok::<_, SiteError>(base.map_or(image.clone(), |base| format!("{image} over {base}")))
        };
        let before = digest()?;
        let known = before.clone();
        let work = tokio::task::spawn_blocking(move || Changed::new(known, &disk, base.as_deref()));
        let changed = work.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        if digest()? != before {
            return Err(failed(&"the image was built anew while it was read"));
        }
        Ok(Box::new(changed))
    }

    async fn bundle(&self, record: &Record) -> Result<Box<dyn Pieces>, SiteError> {
        let shipment = record.order.shipment.as_ref().ok_or_else(|| failed(&"there is no image"))?;
        let (disk, folder) = (self.disk(&shipment.image)?, self.bundles(record));
        let form = match record.order.store().map(|store| store.end) {
            Some(End::Register) => Form::Bundle {
                prefix: shipment.image.to_string(),
                architecture: record.order.architecture.clone(),
                signer: self.signer()?,
            },
            _ => Form::Disk,
        };
        let (told, mut heard) = tokio::sync::watch::channel(0_u64);
        let stop = Arc::new(AtomicBool::new(false));
        let ending = EndWith(stop.clone());
        let mut work = tokio::task::spawn_blocking(move || {
            let mut tell = |done| {
                told.send_replace(done);
            };
            Files::of(&disk, &folder, &form, &stop, &mut tell)
        });
        let files = loop {
            tokio::select! {
                files = &mut work => break files,
                Ok(()) = heard.changed() => {
                    let done = *heard.borrow_and_update();
                    self.says(&record.id, Some(format!("bundle {done}/{}", u64::from(shipment.gib) << 30)));
                    // Often enough for people.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        };
        self.says(&record.id, None);
        drop(ending);
        let files = files.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(Box::new(files))
    }

    async fn sent(&self, record: &Record) -> Result<(), SiteError> {
        let folder = self.bundles(record);
        bundles::discard(&folder).map_err(|error| failed(&format!("{}: {error}", folder.display())))
    }

    async fn member(&self, record: &Record, host: &HostName) -> Result<String, SiteError> {
        let launch = record.found.launches.get(host).copied().unwrap_or(0);
        Ok(user_data(&self.join(record, host, launch).await?, None))
    }

    async fn members(&self, record: &Record, hosts: &[HostName]) -> Result<String, SiteError> {
        for host in hosts {
            self.ensure(record, host).await?;
        }
        self.by_identity(&record.id)
    }

    async fn template(&self, record: &Record) -> Result<String, SiteError> {
        self.by_identity(&record.id)
    }

    async fn let_in(&self, record: &Record, account: &AccountId) -> Result<(), SiteError> {
        let image = record.found.ami.clone().ok_or_else(|| failed(&"there is no image"))?;
        let rule = Rule {
            name: enrolment_of(&record.id)?,
            appliance: record.order.appliance.clone(),
            account: account.clone(),
            region: record.order.region.clone(),
            images: vec![image],
            age_seconds: AGE,
            count: record.order.most,
            provision: Some(record.id.clone()),
        };
        let known = self.store.enrolments().await.map_err(stored)?;
        if known.contains(&rule) {
            return Ok(());
        }
        self.store.add_enrolment(&rule).await.map_err(stored)
    }

    async fn converged(&self, hosts: &[HostName]) -> Result<Vec<HostName>, SiteError> {
        let mut there = Vec::new();
        for host in hosts {
            let known = match self.store.host(host).await {
                Ok(known) => known,
                // Removed by hand: it does not become what it should be, and the others do.
                Err(StoreError::Missing { .. }) => continue,
                Err(error) => return Err(stored(error)),
            };
            let Some(last) = known.last else { continue };
            let wanted = self.service.slot(host).served().map(|served| served.body.digest);
            let is_good = matches!(last.outcome, Outcome::Converged | Outcome::Unchanged);
            if is_good && (wanted.is_none() || last.kickstart == wanted) {
                there.push(host.clone());
            }
        }
        Ok(there)
    }

    async fn received(&self, record: &Record) -> Result<(), SiteError> {
        self.remove(&[receiver_of(&record.id)?]).await
    }

    async fn forget(&self, record: &Record) -> Result<(), SiteError> {
        Site::sent(self, record).await?;
        self.remove(&[receiver_of(&record.id)?]).await?;
        let rules = self.store.enrolments().await.map_err(stored)?;
        for rule in rules.iter().filter(|rule| rule.provision.as_ref() == Some(&record.id)) {
            match self.store.remove_enrolment(&rule.name).await {
                Ok(()) | Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(stored(error)),
            }
        }
        // A host that was removed by hand may be another provision's by now.
        let all = self.store.provisions().await.map_err(stored)?;
        let taken = taken(&all, record);
        for host in record.order.hosts.iter().filter(|host| !taken.contains(host)) {
            self.store.expire_host(host).await.map_err(stored)?;
        }
        Ok(())
    }
}
