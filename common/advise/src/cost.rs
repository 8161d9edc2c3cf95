//! What a method uses, and what that costs.

use serde::Serialize;

use crate::ask::Ask;
use crate::prices::{InstanceType, PriceBook};
use crate::site::Site;
use crate::units::{Bytes, GIB, Money, Span};

/// What a method uses of the cloud.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resources {
    /// How long each instance runs.
    pub(crate) instances_run: Span,
    /// Each instance's root volume, if it has one that is billed.
    pub(crate) root_volume: Bytes,
    /// Receivers.
    pub(crate) receivers: u64,
    /// How long a receiver runs.
    pub(crate) receiver_run: Span,
    /// The volume that it writes onto.
    pub(crate) receiver_volume: Bytes,
    /// What is written onto volumes.
    pub(crate) written: Bytes,
    /// What a snapshot holds.
    pub(crate) snapshot: Bytes,
    /// What lies in S3.
    pub(crate) stored: Bytes,
    /// Requests that write to S3.
    pub(crate) puts: u64,
    /// Requests that read from S3.
    pub(crate) gets: u64,
    /// Blocks written by the EBS direct API.
    pub(crate) ebs_blocks: u64,
    /// What crosses the WAN, both directions.
    pub(crate) wan: Bytes,
    /// What of it leaves the cloud.
    pub(crate) out: Bytes,
}

/// A bill, by component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// The instances' hours.
    pub instances: Money,
    /// The receiver's hours.
    pub receiver: Money,
    /// Volumes: the instances', the receiver's, the one that is shipped onto.
    pub volumes: Money,
    /// The snapshot.
    pub snapshot: Money,
    /// Objects in S3.
    pub storage: Money,
    /// Requests: S3, EBS direct API, a volume's I/O where that is billed.
    pub requests: Money,
    /// Bytes across the region's border.
    pub transfer: Money,
    /// All of it.
    pub total: Money,
}

impl Bill {
    /// The components with their names, in their order.
    #[must_use]
    pub fn items(&self) -> [(&'static str, Money); 7] {
        [
            ("instances", self.instances),
            ("receiver", self.receiver),
            ("volumes", self.volumes),
            ("snapshot", self.snapshot),
            ("storage", self.storage),
            ("requests", self.requests),
            ("transfer", self.transfer),
        ]
    }
}

pub(crate) fn bill(
    used: &Resources,
    ask: &Ask,
    site: &Site,
    book: &PriceBook,
    instance: &InstanceType,
    receiver: &InstanceType,
) -> Bill {
    let volume = |size: Bytes, kept: Span| match size.0 {
        0 => Money::ZERO,
        _ => book.stored(book.volume.gb_month, size.whole_gib(), kept),
    };
    let receiver_kept = if site.keep_receiver_volumes { ask.keep } else { used.receiver_run };
    let receiver_volumes =
        (volume(site.receiver_root, receiver_kept) + volume(used.receiver_volume, receiver_kept)) * used.receivers;
    let requests = |price: Money, thousands: u64| price.share(u128::from(thousands), 1000);
    let io = used.written.0.div_ceil(site.io_request.0.max(1));
    let direct = book.ebs_direct.map_or(Money::ZERO, |direct| requests(direct.put_thousand, used.ebs_blocks));
    let across = |price: Money, bytes: Bytes| price.share(u128::from(bytes.0), u128::from(GIB));
    let mut bill = Bill {
        instances: book.instance(instance, used.instances_run) * ask.count,
        receiver: match used.receivers {
            0 => Money::ZERO,
            receivers => book.instance(receiver, used.receiver_run) * receivers,
        },
        volumes: receiver_volumes + volume(used.root_volume, ask.keep) * ask.count,
        snapshot: kept(book, book.snapshot.gb_month, used.snapshot, ask.keep),
        storage: kept(book, book.s3.gb_month, used.stored, ask.keep),
        requests: requests(book.s3.put_thousand, used.puts)
            + requests(book.s3.get_thousand, used.gets)
            + direct
            + book.volume.million_requests.share(u128::from(io), 1_000_000),
        transfer: across(book.transfer.in_gb, Bytes(used.wan.0.saturating_sub(used.out.0)))
            + across(book.transfer.out_gb, used.out),
        total: Money::ZERO,
    };
    bill.total = bill.items().into_iter().map(|(_, money)| money).sum();
    bill
}

fn kept(book: &PriceBook, price: Money, bytes: Bytes, kept: Span) -> Money {
    if bytes.0 == 0 { Money::ZERO } else { book.stored(price, bytes, kept) }
}
