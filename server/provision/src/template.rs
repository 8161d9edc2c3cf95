//! The step that makes a launch template.

use crate::cloud::{Cloud, NewTemplate};
use crate::engine::{Site, StepError, Work};
use crate::objects::Objects;
use crate::retry::{Wait, insist};
use crate::steps::lacks;

/// What a launch template is called, in tags.
const TEMPLATE: &str = "template";

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    pub(crate) async fn template(&self) -> Result<(), StepError> {
        let record = self.record();
        let order = &record.order;
        let image = record.found.ami.clone().ok_or_else(|| lacks("image"))?;
        let wait = if order.ami.is_some() { Wait::Nothing } else { Wait::Settling };
        let new = NewTemplate {
            token: record.token(TEMPLATE),
            // Names are an account's, and two frontends may give a provision the same.
            name: format!("rocks-{}-{}", record.id, record.site),
            root_device: self.image_of(&image, wait).await?.root_device,
            image,
            kind: order.kind.clone(),
            subnet: order.subnet.clone(),
            groups: order.groups.clone(),
            user_data: self.site.template(&record).await?,
            key: order.key.clone(),
            spot: order.spot,
            encrypted: order.encrypted,
            kms_key: order.kms_key.clone(),
            tags: record.tags(TEMPLATE),
        };
        let made = insist(Wait::Settling, || self.cloud.create_template(&new)).await?;
        self.note(|record| record.found.template = Some(made.id.clone())).await?;
        // Nobody knows of the template yet: no instance of it comes before it is let in.
        Ok(self.site.let_in(&self.record(), &made.account).await?)
    }
}
