//! Tags, on everything that has an id.

use std::collections::BTreeMap;

use super::select::{Described, check_filters, filters, page, paged, passes};
use super::{Cloud, Context, done};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// The tags of one resource.
pub(crate) type Tags = BTreeMap<String, String>;

/// As answers have them.
pub(crate) fn tag_set(tags: &Tags) -> Value {
    Value::List(tags.iter().map(|(k, v)| Value::of([("key", k.into()), ("value", v.into())])).collect())
}

fn check(key: &str, value: &str) -> Answer<()> {
    if key.is_empty() || key.chars().count() > 127 {
        return Err(ApiError::invalid(key, "Key", "A tag key has 1 to 127 characters."));
    }
    if key.to_lowercase().starts_with("aws:") {
        let message = "Tag keys starting with 'aws:' are reserved for internal use";
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    if value.chars().count() > 255 {
        return Err(ApiError::invalid(value, "Value", "A tag value has at most 255 characters."));
    }
    Ok(())
}

fn pairs(params: &Params) -> Answer<Tags> {
    let mut tags = Tags::new();
    for tag in params.list("Tag") {
        let (key, value) = (tag.need("Key")?, tag.text("Value").unwrap_or_default());
        check(key, value)?;
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            let message = format!("Duplicate tag key '{key}' specified.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    }
    if tags.len() > 50 {
        return Err(too_many());
    }
    Ok(tags)
}

fn too_many() -> ApiError {
    ApiError::new("TagLimitExceeded", "The maximum number of tags for a resource has been reached.")
}

/// Reads the tags that a call gives to what it makes, by resource type.
pub(crate) fn specified(params: &Params, kinds: &[&str]) -> Answer<BTreeMap<String, Tags>> {
    let mut all = BTreeMap::new();
    for spec in params.list("TagSpecification") {
        let kind = spec.need("ResourceType")?;
        if !kinds.contains(&kind) {
            let message = format!("'{kind}' is not a valid taggable resource type for this operation.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        if all.insert(kind.to_owned(), pairs(spec)?).is_some() {
            let message = format!("Tag specification resource type '{kind}' is given twice.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
    }
    Ok(all)
}

/// One tag, to be filtered.
struct Tagged {
    id: String,
    kind: &'static str,
    key: String,
    value: String,
}

static NO_TAGS: Tags = Tags::new();

impl Described for Tagged {
    const FILTERS: &'static [&'static str] = &["resource-id", "resource-type", "key", "value"];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![match filter {
            "resource-id" => self.id.clone(),
            "resource-type" => self.kind.to_owned(),
            "key" => self.key.clone(),
            _ => self.value.clone(),
        }]
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

impl Cloud {
    /// The tags of a resource.
    fn tags_of(&mut self, id: &str, now: u64) -> Answer<&mut Tags> {
        let missing = |code: &'static str| move || ApiError::new(code, format!("The ID '{id}' does not exist"));
        let kind = id.split_once('-').map_or(id, |(kind, _)| kind);
        Ok(match kind {
            "i" => {
                let found = self.instances.get_mut(id).filter(|i| i.consistency.seen(now));
                &mut found.ok_or_else(missing("InvalidInstanceID.NotFound"))?.tags
            }
            "vol" => &mut self.volumes.get_mut(id).ok_or_else(missing("InvalidVolume.NotFound"))?.tags,
            "snap" => &mut self.snapshots.get_mut(id).ok_or_else(missing("InvalidSnapshot.NotFound"))?.tags,
            "ami" => &mut self.images.get_mut(id).ok_or_else(missing("InvalidAMIID.NotFound"))?.tags,
            "sg" => &mut self.groups.get_mut(id).ok_or_else(missing("InvalidGroup.NotFound"))?.tags,
            "lt" => &mut self.templates.get_mut(id).ok_or_else(missing("InvalidLaunchTemplateId.NotFound"))?.tags,
            "import" => &mut self.imports.get_mut(id).ok_or_else(missing("InvalidConversionTaskId"))?.tags,
            _ => return Err(missing("InvalidID")()),
        })
    }

    pub(super) fn create_tags(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let (ids, tags) = (params.texts("ResourceId"), pairs(params)?);
        for (needed, name) in [(ids.is_empty(), "ResourceId"), (tags.is_empty(), "Tag")] {
            if needed {
                return Err(ApiError::missing(name));
            }
        }
        params.finish()?;
        // All or none.
        for id in &ids {
            let have = self.tags_of(id, context.now)?;
            if have.len() + tags.keys().filter(|k| !have.contains_key(*k)).count() > 50 {
                return Err(too_many());
            }
        }
        for id in &ids {
            self.tags_of(id, context.now)?.extend(tags.clone());
        }
        Ok(done())
    }

    pub(super) fn delete_tags(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("ResourceId");
        let tags: Vec<(Option<String>, Option<String>)> = params
            .list("Tag")
            .into_iter()
            .map(|t| (t.text("Key").map(str::to_owned), t.text("Value").map(str::to_owned)))
            .collect();
        if ids.is_empty() {
            return Err(ApiError::missing("ResourceId"));
        }
        params.finish()?;
        for id in &ids {
            self.tags_of(id, context.now)?;
        }
        for id in &ids {
            // A tag without a value goes whatever its value is; no tags at all means all of them.
            self.tags_of(id, context.now)?.retain(|k, v| {
                !tags.is_empty()
                    && !tags.iter().any(|(key, value)| {
                        key.as_deref() == Some(k) && value.as_deref().is_none_or(|value| value == v)
                    })
            });
        }
        Ok(done())
    }

    pub(super) fn describe_tags(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let (filters, page) = (filters(params, "Filter")?, page(params, false, 5)?);
        check_filters::<Tagged>(&filters)?;
        params.finish()?;
        let mut all: Vec<Tagged> = Vec::new();
        let mut add = |kind: &'static str, id: &str, tags: &Tags| {
            for (key, value) in tags {
                all.push(Tagged { id: id.to_owned(), kind, key: key.clone(), value: value.clone() });
            }
        };
        self.instances.iter().for_each(|(id, it)| add("instance", id, &it.tags));
        self.volumes.iter().for_each(|(id, it)| add("volume", id, &it.tags));
        self.snapshots.iter().for_each(|(id, it)| add("snapshot", id, &it.tags));
        self.images.iter().for_each(|(id, it)| add("image", id, &it.tags));
        self.groups.iter().for_each(|(id, it)| add("security-group", id, &it.tags));
        self.templates.iter().for_each(|(id, it)| add("launch-template", id, &it.tags));
        self.imports.iter().for_each(|(id, it)| add("import-snapshot-task", id, &it.tags));
        let mut keyed: Vec<(String, Value)> = all
            .iter()
            .filter(|t| passes(*t, &filters))
            .map(|t| {
                let value = Value::of([
                    ("resourceId", (&t.id).into()),
                    ("resourceType", t.kind.into()),
                    ("key", (&t.key).into()),
                    ("value", (&t.value).into()),
                ]);
                (format!("{} {}", t.id, t.key), value)
            })
            .collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(paged("tagSet", page.take(keyed.iter().map(|(k, v)| (k.as_str(), v.clone())))))
    }
}
