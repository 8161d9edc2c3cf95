//! The bill: what was held, how much of it, from when to when.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::time::{Millis, iso};

/// Something that costs money for as long as it is held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// `instance`, `volume`, `snapshot`, `address`, `object`, `upload`.
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    /// What the price depends on: the instance type, the volume type...
    pub(crate) detail: String,
    /// How much of it: 1 instance, so many bytes...
    pub(crate) quantity: f64,
    /// What `quantity` counts.
    pub(crate) unit: &'static str,
    pub(crate) start: Millis,
    pub(crate) end: Option<Millis>,
}

/// All items, and what is counted.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    items: Vec<Item>,
    /// Calls by `service:action`.
    requests: BTreeMap<String, u64>,
    /// Bytes by where they went: `s3 in internet`...
    bytes: BTreeMap<String, u64>,
}

impl Ledger {
    /// Begins an item.
    pub(crate) fn open(
        &mut self,
        kind: &'static str,
        id: &str,
        detail: impl Into<String>,
        (quantity, unit): (f64, &'static str),
        now: Millis,
    ) {
        let item = Item { kind, id: id.to_owned(), detail: detail.into(), quantity, unit, start: now, end: None };
        self.items.push(item);
    }

    /// Ends what is held of that kind and id.
    pub(crate) fn close(&mut self, kind: &str, id: &str, now: Millis) {
        for item in self.items.iter_mut().filter(|i| i.kind == kind && i.id == id && i.end.is_none()) {
            item.end = Some(now);
        }
    }

    /// Counts a call.
    pub(crate) fn request(&mut self, service: &str, action: &str) {
        *self.requests.entry(format!("{service}:{action}")).or_default() += 1;
    }

    /// Counts bytes.
    pub(crate) fn moved(&mut self, what: &str, bytes: u64) {
        if bytes > 0 {
            *self.bytes.entry(what.to_owned()).or_default() += bytes;
        }
    }

    /// The bill as it stands now, with `others`, bytes that were counted elsewhere.
    pub(crate) fn show(&self, now: Millis, others: &BTreeMap<String, u64>) -> Value {
        let mut totals: BTreeMap<String, f64> = BTreeMap::new();
        let items: Vec<Value> = self
            .items
            .iter()
            .map(|i| {
                let seconds = i.end.unwrap_or(now).saturating_sub(i.start) as f64 / 1000.0;
                *totals.entry(format!("{} {} {}-seconds", i.kind, i.detail, i.unit)).or_default() +=
                    seconds * i.quantity;
                json!({
                    "kind": i.kind, "id": i.id, "detail": i.detail, "quantity": i.quantity, "unit": i.unit,
                    "seconds": seconds, "start": iso(i.start), "end": i.end.map(iso),
                })
            })
            .collect();
        let mut bytes = self.bytes.clone();
        bytes.extend(others.clone());
        json!({ "now": iso(now), "items": items, "totals": totals, "requests": self.requests, "bytes": bytes })
    }

    /// Items that are still held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Vec<&Item> {
        self.items.iter().filter(|i| i.end.is_none()).collect()
    }
}
