//! Two hundred provisions on the local EC2, each of whose frontends is killed at random moments: what goes on ends well, what is cancelled
//! leaves nothing, and the bill has no item that nobody owns.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Minicloud, Pretender, SITE, begun, leaks, order};
use futures_util::stream::{self, StreamExt as _};
use rocks_aws::Aws;
use rocks_provision::cloud::{Cloud as _, Owned, Resource, Whose};
use rocks_provision::engine::{Site as _, run};
use rocks_provision::ids::AmiId;
use rocks_provision::order::Method;
use rocks_provision::record::{Record, Status};
use tokio::sync::watch;
use tokio::time::sleep;

/// Provisions in all, and how many are under way at the same time.
const PROVISIONS: u64 = 200;
const TOGETHER: usize = 100;
/// The longest that a frontend lives before it is killed: about as long as a provision takes here.
const LIFE_MS: u64 = 12_000;

/// Numbers that look random and are the same each time (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// The methods, one after the other; what goes through S3 is a disk that `qemu-img` makes and the cloud opens with it.
fn methods() -> Vec<Method> {
    let mut all = vec![Method::Udt, Method::Ebs, Method::Lite];
    if common::has_qemu() {
        all.push(Method::Bundle);
    }
    all
}

/// One provision, killed once or twice, and then carried on to its end; every third is cancelled after the first kill.
async fn provision(aws: &Aws, image: &AmiId, number: u64) -> Record {
    let mut dice = Dice(number);
    let methods = methods();
    let method = methods[usize::try_from(number).unwrap_or(0) % methods.len()];
    let cancels = dice.below(3) == 0;
    let site = Pretender::default();
    let mut wanted = order(method, 1, Some(image));
    // One processor each: accounts have a limit of them.
    (wanted.kind, wanted.receiver_kind) = ("t2.micro".to_owned(), "t2.micro".to_owned());
    site.keep(&begun(&format!("{method}-{number}"), wanted)).await.expect("kept");
    let (cancel, mut cancelled) = watch::channel(false);
    for _ in 0..=dice.below(2) {
        let life = Duration::from_millis(dice.below(LIFE_MS));
        let record = site.last().expect("a record");
        tokio::select! {
            ended = run(aws, &site, record, &mut cancelled) => { ended.expect("kept"); }
            () = sleep(life) => {}
        }
        if cancels {
            cancel.send_replace(true);
        }
    }
    let record = site.last().expect("a record");
    if !record.status.is_open() {
        return record;
    }
    run(aws, &site, record, &mut cancelled).await.expect("kept")
}

/// What the bill has that goes on costing.
fn open_items(cloud: &Minicloud) -> BTreeSet<String> {
    let bill = cloud.ask("GET", "bill", "");
    let items = bill["items"].as_array().cloned().unwrap_or_else(|| panic!("no items: {bill}"));
    let open = items.iter().filter(|one| one["end"].is_null());
    open.map(|one| one["id"].as_str().unwrap_or_else(|| panic!("no id: {one}")).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_hundred_provisions_with_kills_nothing_is_left_that_nobody_owns() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws().await;
    let (_sender, mut never) = watch::channel(false);
    let first = begun("ebs-first", order(Method::Ebs, 0, None));
    let first = run(&aws, &Pretender::default(), first, &mut never).await.expect("kept");
    let image = first.found.ami.clone().expect("an image");
    let mut records: Vec<Record> = stream::iter(0..PROVISIONS)
        .map(|number| provision(&aws, &image, number))
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    let ended = |fits: fn(&Status) -> bool| records.iter().filter(|record| fits(&record.status)).count() as u64;
    let (done, cancelled) = (ended(|s| *s == Status::Done), ended(|s| *s == Status::Cancelled));
    let other: Vec<&Status> =
        records.iter().map(|r| &r.status).filter(|s| !matches!(s, Status::Done | Status::Cancelled)).collect();
    assert_eq!((done + cancelled, other), (PROVISIONS, Vec::new()));
    assert!(cancelled > PROVISIONS / 10 && done > PROVISIONS / 2, "{done} done, {cancelled} cancelled");
    records.push(first);
    assert_eq!(leaks(&aws, SITE, &records).await, Vec::<Owned>::new());
    // Whatever costs something belongs to a provision that is there, or is the root volume of its instance.
    let owned = aws.owned(Whose::Site(SITE)).await.expect("listed");
    let kept: BTreeSet<String> =
        records.iter().filter(|r| r.status == Status::Done).map(|r| r.id.to_string()).collect();
    for one in &owned {
        assert!(one.provision.as_ref().is_some_and(|id| kept.contains(id.as_str())), "{one:?}");
    }
    let ours: BTreeSet<String> = owned.iter().map(|one| one.resource.to_string()).collect();
    let instances = owned.iter().filter(|one| matches!(one.resource, Resource::Instance(_))).count();
    let unknown: Vec<String> = open_items(&cloud).difference(&ours).cloned().collect();
    let roots = unknown.iter().filter(|id| id.starts_with("vol-")).count();
    assert_eq!((roots, unknown.len()), (instances, instances), "{unknown:?}");
}
