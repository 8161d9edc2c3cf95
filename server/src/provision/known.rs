//! What the frontend knows that predictions are made of: its images, its mirror, and what earlier provisions took.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rocks_advise::{Ask, Estimate, History, Link, Site, Software};
use rocks_common::diag::Source;
use rocks_common::ids::{ApplianceName, ImageName};
use rocks_common::kickstart::{self, NoIncludes, PackageSpec};
use rocks_provision::ids::AmiId;
use rocks_provision::order::{self, Order};
use rocks_provision::record::Status;
use rustix::fs::SeekFrom;

use super::forecast::{self, Forecast, Known};
use super::site::{Frontend, rpm_arch};
use crate::images::Origin;

/// Blocks of an image that are compressed to see what it compresses to.
const SAMPLES: u64 = 128;
/// Bytes of each: as they travel.
const SAMPLE: usize = 64 << 10;
/// The level of the first blocks of a shipment.
const LEVEL: i32 = 3;
/// Extents of an image that are looked at.
const EXTENTS: usize = 65_536;
/// How deep a mirror's folders may be.
const DEPTH: u32 = 6;

/// Why nothing can be predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Unknown {
    /// What is not known.
    pub what: String,
    /// How it can be.
    pub hint: Option<String>,
}

fn unknown(what: impl Into<String>, hint: impl Into<String>) -> Unknown {
    Unknown { what: what.into(), hint: Some(hint.into()) }
}

fn broken(error: &dyn std::fmt::Display) -> Unknown {
    Unknown { what: error.to_string(), hint: None }
}

/// What is predicted for an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// What is kept of it.
    pub forecast: Forecast,
    /// All of it.
    pub estimate: Estimate,
}

impl Frontend {
    /// What is known of an image.
    ///
    /// # Errors
    /// It is not there.
    pub async fn known(&self, image: &ImageName) -> Result<Known, Unknown> {
        let hint = format!("build it with `rocks create image {image}`, or say `image-bytes=SIZE`");
        let found = self.images.get(image).map_err(|error| unknown(error.to_string(), hint))?;
        let packages = match &found.from {
            Origin::Built(made) => made.built.packages.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let disk = self.images.disk(image).map_err(|error| broken(&error))?;
        let ratio = tokio::task::spawn_blocking(move || ratio(&disk)).await.map_err(|error| broken(&error))?;
        let packed = ratio.ok().flatten().map(|ratio| (found.allocated as f64 * ratio) as u64);
        Ok(Known { disk: found.bytes, used: found.allocated, packed, packages })
    }

    /// What instances of `lite` lack of an appliance: as its image has it, if there is one, else as its kickstart names it, without what those
    /// packages need in turn.
    ///
    /// # Errors
    /// The packages of `lite` are not known, or the appliance's kickstart cannot be made.
    pub async fn added(
        &self,
        appliance: &ApplianceName,
        image: Option<&Known>,
        lite: &Known,
        arch: &str,
    ) -> Result<Software, Unknown> {
        if lite.packages.is_empty() {
            let what = "the packages of the lite image are not known: it was not built here";
            return Err(unknown(what, "say `packages-bytes=SIZE`"));
        }
        let mirror = self.config.state.join("mirror/rocks-dist").join(arch);
        let sizes = tokio::task::spawn_blocking(move || packages(&mirror)).await.map_err(|error| broken(&error))?;
        if let Some(image) = image.filter(|image| !image.packages.is_empty()) {
            return Ok(forecast::added(&image.packages, &lite.packages, &sizes));
        }
        let text = self.service.of_appliance(appliance, arch).await.map_err(|error| broken(&error))?;
        let (desired, _) = kickstart::parse(&Source::new("kickstart", text.as_str()), &mut NoIncludes);
        let there: BTreeSet<&str> = lite.packages.iter().map(|package| forecast::name_of(package)).collect();
        let named = desired.packages.install.iter().filter_map(|entry| match &entry.spec {
            PackageSpec::Package(name) => Some(name.as_str()),
            _ => None,
        });
        let lacks: BTreeSet<&str> = named.filter(|name| !there.contains(name)).collect();
        // Of several versions the largest: the names alone do not say which is newest.
        let mut wanted: BTreeMap<&str, (&String, u64)> = BTreeMap::new();
        for (package, bytes) in &sizes {
            let name = forecast::name_of(package);
            if lacks.contains(name) && wanted.get(name).is_none_or(|(_, most)| most < bytes) {
                wanted.insert(name, (package, *bytes));
            }
        }
        let wanted = wanted.into_values().map(|(package, _)| package.clone()).collect();
        Ok(forecast::added(&wanted, &BTreeSet::new(), &sizes))
    }

    /// The frontend's image that an AMI was made of by a provision.
    ///
    /// # Errors
    /// The store's.
    pub async fn image_of(&self, ami: &AmiId) -> Result<Option<ImageName>, Unknown> {
        let all = self.store.provisions().await.map_err(|error| broken(&error))?;
        let made =
            all.into_iter().rev().find(|one| one.found.ami.as_ref() == Some(ami) && one.order.shipment.is_some());
        Ok(made.and_then(|one| one.order.shipment).map(|shipment| shipment.image))
    }

    /// Whether an AMI of an image is in the cloud, by one of our provisions.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_in_cloud(&self, image: &ImageName) -> Result<bool, Unknown> {
        let all = self.store.provisions().await.map_err(|error| broken(&error))?;
        let of = |shipment: &order::Shipment| shipment.image == *image;
        Ok(all.iter().any(|one| one.status == Status::Done && one.order.shipment.as_ref().is_some_and(of)))
    }

    /// What earlier provisions took.
    ///
    /// # Errors
    /// The store's.
    pub async fn history(&self) -> Result<History, Unknown> {
        self.store.history().await.map_err(|error| broken(&error))
    }

    /// The link to the cloud, as the configuration has it.
    #[must_use]
    pub fn link(&self) -> Link {
        self.config.link()
    }

    /// The site that predictions are made for, with a link.
    #[must_use]
    pub fn place(&self, link: Link) -> Site {
        forecast::site(link, self.config.aws_bucket.is_some())
    }

    /// What an order asks.
    async fn ask(&self, order: &Order) -> Result<Ask, Unknown> {
        if order.template && order.shipment.is_none() {
            return Err(unknown(
                "a launch template takes no time",
                "predicted is what its instances would take without it",
            ));
        }
        let sent = match (&order.shipment, &order.ami) {
            (Some(shipment), _) => Some(shipment.image.clone()),
            (None, Some(ami)) => self.image_of(ami).await?,
            (None, None) => None,
        };
        let sent = sent.ok_or_else(|| unknown("the image is none that this frontend sent", "nothing is predicted"))?;
        let sent = self.known(&sent).await?;
        if order.method != order::Method::Lite {
            return Ok(forecast::ask(order, &sent, None, Software::default()));
        }
        let own = order.appliance.as_str().parse::<ImageName>().map_err(|error| broken(&error))?;
        let own = self.known(&own).await.ok();
        let added = self.added(&order.appliance, own.as_ref(), &sent, rpm_arch(&order.architecture)).await?;
        // Without an image of its own it is the lite one, and what is added.
        let grown = || Known { used: sent.used + added.installed.0, ..sent.clone() };
        let image = own.unwrap_or_else(grown);
        Ok(forecast::ask(order, &image, Some(&sent).filter(|_| order.shipment.is_some()), added))
    }

    /// What an order will take and cost.
    ///
    /// # Errors
    /// Something is not known that this depends on.
    pub async fn predict(&self, order: &Order) -> Result<Predicted, Unknown> {
        let (ask, history, link) = (self.ask(order).await?, self.history().await?, self.link());
        let method = forecast::method_of(order.method);
        let site = forecast::site_for(self.place(link), order);
        let made = forecast::estimate(&ask, method, &site, &order.region, &history).map_err(|error| broken(&error))?;
        let estimate = made.ok_or_else(|| broken(&format!("the model does not know {method} here")))?;
        Ok(Predicted { forecast: Forecast { ask, link, time: estimate.time }, estimate })
    }
}

/// What of an image is left when it is compressed, by some of its blocks; nothing if it has too few.
fn ratio(disk: &Path) -> io::Result<Option<f64>> {
    let file = File::open(disk)?;
    let mut extents = Vec::new();
    let (mut at, mut whole) = (0_u64, 0_u64);
    while extents.len() < EXTENTS {
        let from = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let to = rustix::fs::seek(&file, SeekFrom::Hole(from))?;
        extents.push((whole, from, to));
        (at, whole) = (to, whole + (to - from));
    }
    let (mut raw, mut packed) = (0_usize, 0_usize);
    let mut block = vec![0; SAMPLE];
    for sample in 0..SAMPLES.min(whole / SAMPLE as u64) {
        let wanted = whole / SAMPLES.min(whole / SAMPLE as u64) * sample;
        let nth = extents.partition_point(|(before, _, _)| *before <= wanted).saturating_sub(1);
        let Some((before, from, to)) = extents.get(nth) else { continue };
        let at = from + (wanted - before);
        let length = usize::try_from((to - at).min(SAMPLE as u64)).unwrap_or(SAMPLE);
        file.read_exact_at(&mut block[..length], at)?;
        if block[..length].iter().any(|byte| *byte != 0) {
            raw += length;
            packed += zstd::bulk::compress(&block[..length], LEVEL)?.len().min(length);
        }
    }
    Ok((raw > 8 * SAMPLE).then(|| packed as f64 / raw as f64))
}

/// The packages below a mirror's folder, as `name-version-release.arch`, and their bytes.
fn packages(mirror: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(mirror.to_path_buf(), 0)];
    while let Some((folder, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Mirrors link to packages that lie elsewhere.
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if meta.is_dir() && depth < DEPTH {
                todo.push((entry.path(), depth + 1));
            } else if let Some(package) = name.strip_suffix(".rpm") {
                found.insert(package.to_owned(), meta.len());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_says_how_well_it_compresses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        assert_eq!(ratio(&path).unwrap(), None);
        // Text and noise, with holes between.
        let mut seed = 1_u64;
        for nth in 0..64 {
            let block: Vec<u8> = if nth % 2 == 0 {
                b"the same words again and again\n".iter().copied().cycle().take(SAMPLE).collect()
            } else {
                let next = |_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as u8
                };
                (0..SAMPLE).map(next).collect()
            };
            file.write_all_at(&block, nth * (1 << 20)).unwrap();
        }
        let ratio = ratio(&path).unwrap().expect("enough");
        assert!((0.45..0.56).contains(&ratio), "{ratio}");
    }

    #[test]
    fn packages_of_a_mirror_are_found_with_their_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("Packages/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("bash-5-1.x86_64.rpm"), [0; 77]).unwrap();
        std::fs::write(deep.join("README"), [0; 7]).unwrap();
        assert_eq!(packages(folder.path()), BTreeMap::from([("bash-5-1.x86_64".to_owned(), 77)]));
        assert!(packages(&folder.path().join("none")).is_empty());
    }
}
