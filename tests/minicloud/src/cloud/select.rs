//! What all descriptions share: ids, filters, pages, and what is not visible yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::tags::Tags;
use super::time::Millis;
use crate::access::like;
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// Makes ids (splitmix64): not to be guessed from one another by the eye, yet the same for the same seed.
#[derive(Debug)]
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `i-0123456789abcdef0`
    pub(crate) fn make(&mut self, kind: &str) -> String {
        format!("{kind}-0{:016x}", self.number())
    }
}

/// When a resource can be seen by those who ask for it by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Consistency {
    pub(crate) visible: Millis,
}

impl Consistency {
    pub(crate) fn seen(self, now: Millis) -> bool {
        now >= self.visible
    }
}

/// A resource that can be filtered.
pub(crate) trait Described {
    /// The filters that it has besides those by tag.
    const FILTERS: &'static [&'static str];
    /// What a filter looks at.
    fn facts(&self, filter: &str) -> Vec<String>;
    /// Its tags.
    fn tags(&self) -> &Tags;
}

/// A filter of a call.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    name: String,
    values: Vec<String>,
}

/// Reads the filters of a call.
pub(crate) fn filters(params: &Params, list: &str) -> Answer<Vec<Filter>> {
    params
        .list(list)
        .into_iter()
        .map(|f| {
            let name = f.need("Name")?.to_owned();
            let values = f.texts("Value");
            if values.is_empty() {
                return Err(ApiError::new("InvalidParameterValue", format!("The filter '{name}' has no value")));
            }
            if values.len() > 200 {
                return Err(ApiError::new("FilterLimitExceeded", "A filter has at most 200 values"));
            }
            Ok(Filter { name, values })
        })
        .collect()
}

/// Refuses filters that the resource has not.
pub(crate) fn check_filters<T: Described>(filters: &[Filter]) -> Answer<()> {
    let known = |f: &Filter| {
        T::FILTERS.contains(&f.name.as_str())
            || f.name.starts_with("tag:")
            || f.name == "tag-key"
            || f.name == "tag-value"
    };
    match filters.iter().find(|f| !known(f)) {
        Some(f) => Err(ApiError::new("InvalidParameterValue", format!("The filter '{}' is invalid", f.name))),
        None => Ok(()),
    }
}

/// Whether a resource passes all filters.
pub(crate) fn passes<T: Described>(it: &T, filters: &[Filter]) -> bool {
    filters.iter().all(|f| {
        let facts: Vec<String> = if let Some(key) = f.name.strip_prefix("tag:") {
            it.tags().get(key).cloned().into_iter().collect()
        } else if f.name == "tag-key" {
            it.tags().keys().cloned().collect()
        } else if f.name == "tag-value" {
            it.tags().values().cloned().collect()
        } else {
            it.facts(&f.name)
        };
        facts.iter().any(|fact| f.values.iter().any(|pattern| like(pattern, fact)))
    })
}

/// What part of a long description is wanted.
#[derive(Debug)]
pub(crate) struct Page {
    limit: usize,
    /// The first id of this page.
    from: Option<String>,
}

/// Reads which page is wanted; `ids` says whether single resources are asked for, which have no pages.
pub(crate) fn page(params: &Params, ids: bool, least: i64) -> Answer<Page> {
    let limit = match params.int("MaxResults")? {
        None => 1000,
        Some(_) if ids => {
            let message = "The parameter MaxResults cannot be used together with ids";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        Some(n) if n < least => {
            let message = format!(
                "Value ( {n} ) for parameter maxResults is invalid. Expecting a value greater than or equal to {least}."
            );
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        Some(n) => usize::try_from(n.min(1000)).unwrap_or(1000),
    };
    let from = match params.text("NextToken").filter(|t| !t.is_empty()) {
        None => None,
        Some(token) => {
            let wrong = || ApiError::new("InvalidPaginationToken", "The pagination token is not valid or is expired");
            let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
            Some(String::from_utf8(bytes).map_err(|_| wrong())?)
        }
    };
    Ok(Page { limit, from })
}

impl Page {
    /// The part of resources in the order of their ids, and the next page's token.
    pub(crate) fn take<'a, T>(&self, all: impl IntoIterator<Item = (&'a str, T)>) -> (Vec<T>, Option<String>) {
        let mut rest = all.into_iter().filter(|(id, _)| self.from.as_deref().is_none_or(|from| *id >= from));
        let taken = rest.by_ref().take(self.limit).map(|(_, it)| it).collect();
        let next = rest.next().map(|(id, _)| URL_SAFE_NO_PAD.encode(id));
        (taken, next)
    }
}

/// An answer with a list and the token of the next page.
pub(crate) fn paged(name: &'static str, (items, next): (Vec<Value>, Option<String>)) -> Value {
    Value::of([(name, items.into()), ("nextToken", next.into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let all = ["a", "b", "c", "d", "e", "f", "g"];
        let pairs = || all.iter().map(|x| (*x, *x));
        let first = page(&Params::parse(b"MaxResults=5"), false, 5).expect("a page");
        let (taken, next) = first.take(pairs());
        assert_eq!(taken, ["a", "b", "c", "d", "e"]);
        let form = format!("MaxResults=5&NextToken={}", next.expect("more"));
        let (taken, next) = page(&Params::parse(form.as_bytes()), false, 5).expect("a page").take(pairs());
        assert_eq!((taken, next), (vec!["f", "g"], None));
        for (form, ids, code) in [
            ("MaxResults=4", false, "InvalidParameterValue"),
            ("MaxResults=5", true, "InvalidParameterCombination"),
            ("NextToken=%21", false, "InvalidPaginationToken"),
        ] {
            assert_eq!(page(&Params::parse(form.as_bytes()), ids, 5).expect_err(form).code, code);
        }
    }

    #[test]
    fn ids_look_like_ids() {
        let (mut a, mut b) = (Ids::new(7), Ids::new(7));
        let id = a.make("vol");
        assert_eq!(id, b.make("vol"));
        assert!(id.len() == 21 && a.make("vol") != id, "{id}");
    }
}
