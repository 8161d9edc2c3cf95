//! Rules by which instances enrol, and the instances that did: each once.

use std::collections::HashMap;

use rocks_common::ids::{Digest, EnrolmentName, HostName};
use rocks_provision::ids::{InstanceId, ProvisionId};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::identity::take_place;
use super::{NewCertificate, Store, StoreError, name, some, unique};
use crate::identity::{Document, LONGEST_AGE, Rule};

/// An instance that enrolled, and is a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Enrolled {
    /// The instance.
    pub instance: InstanceId,
    /// Where it is.
    pub region: String,
    /// The rule that let it in.
    pub enrolment: EnrolmentName,
}

/// An instance that is to become a host.
#[derive(Debug)]
pub struct NewInstance<'n> {
    /// What EC2 says of it.
    pub document: &'n Document,
    /// The rule that lets it in.
    pub rule: &'n EnrolmentName,
    /// The digest of the public key that it came with.
    pub key: &'n Digest,
    /// Its architecture, as rpm calls it.
    pub arch: &'n str,
}

impl NewInstance<'_> {
    /// Takes note that it enrols. Gives whether it is the first time; if not, it must have been with the same key and as `host`.
    async fn note(&self, work: &mut SqliteConnection, host: Option<&str>, now: i64) -> Result<bool, StoreError> {
        let (instance, key) = (self.document.instance_id.as_str(), self.key.to_string());
        let sql = "insert into enrolled (instance, enrolment, account, region, key, enrolled) values (?, ?, ?, ?, ?, ?)
                   on conflict (instance) do nothing";
        let query = sqlx::query(sql)
            .bind(instance)
            .bind(self.rule.as_str())
            .bind(self.document.account_id.as_str())
            .bind(&self.document.region)
            .bind(&key)
            .bind(now);
        if query.execute(&mut *work).await?.rows_affected() > 0 {
            return Ok(true);
        }
        let query = sqlx::query("select 1 from enrolled where instance = ? and host is ? and key = ?");
        match query.bind(instance).bind(host).bind(&key).fetch_optional(&mut *work).await? {
            Some(_) => Ok(false),
            None => Err(StoreError::Conflict(format!("instance `{instance}` has enrolled before"))),
        }
    }
}

fn valid<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Invalid(format!("an enrolment with `{text}`")))
}

fn rule(row: &SqliteRow) -> Result<Rule, StoreError> {
    let (images, age, count): (&str, i64, Option<i64>) = (row.get(4), row.get(5), row.get(6));
    let images: Result<Vec<_>, StoreError> = images.split(',').map(valid).collect();
    Ok(Rule {
        name: name(row.get(0))?,
        appliance: name(row.get(1))?,
        account: valid(row.get(2))?,
        region: row.get(3),
        images: images?,
        age_seconds: u32::try_from(age).unwrap_or(0),
        count: count.map(|count| u32::try_from(count).unwrap_or(0)),
        provision: row.get::<Option<&str>, _>(7).map(valid).transpose()?,
    })
}

impl Store {
    /// Adds a rule.
    ///
    /// # Errors
    /// There is one of that name, or no such appliance.
    pub async fn add_enrolment(&self, rule: &Rule) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        let appliance = sqlx::query("select 1 from appliance where name = ?").bind(rule.appliance.as_str());
        if appliance.fetch_optional(&mut *work).await?.is_none() {
            return Err(StoreError::Missing { kind: "appliance", name: rule.appliance.to_string() });
        }
        let images: Vec<&str> = rule.images.iter().map(|image| image.as_str()).collect();
        let sql = "insert into enrolment (name, appliance, account, region, images, age_seconds, count, provision)
                   values (?, ?, ?, ?, ?, ?, ?, ?)";
        let query = sqlx::query(sql)
            .bind(rule.name.as_str())
            .bind(rule.appliance.as_str())
            .bind(rule.account.as_str())
            .bind(&rule.region)
            .bind(images.join(","))
            .bind(i64::from(rule.age_seconds))
            .bind(rule.count.map(i64::from))
            .bind(rule.provision.as_ref().map(ProvisionId::as_str));
        unique(query.execute(&mut *work).await, "enrolment", rule.name.as_str())?;
        Ok(work.commit().await?)
    }

    /// All rules, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn enrolments(&self) -> Result<Vec<Rule>, StoreError> {
        let sql = "select name, appliance, account, region, images, age_seconds, count, provision from enrolment order by name";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(rule).collect()
    }

    /// Removes a rule. Hosts that it let in stay.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn remove_enrolment(&self, rule: &EnrolmentName) -> Result<(), StoreError> {
        let done = sqlx::query("delete from enrolment where name = ?").bind(rule.as_str()).execute(&self.pool).await?;
        some(done.rows_affected(), "enrolment", rule.as_str())
    }

    /// Makes an instance a host, and takes note of its certificate, both or neither. An instance enrols once. One that asks again with the same
    /// key did not hear the answer: it gets another certificate.
    ///
    /// # Errors
    /// A conflict if the rule has as many hosts as it may have, the instance has enrolled before, or there is a host of its name. The certificate
    /// must not be given then.
    pub async fn enrol_instance(
        &self,
        new: &NewInstance<'_>,
        certificate: &NewCertificate<'_>,
        now: i64,
    ) -> Result<(), StoreError> {
        let (instance, host) = (new.document.instance_id.as_str(), certificate.host.as_str());
        let mut work = self.pool.begin().await?;
        // Written first: from here on nobody else counts, or enrols the same.
        let is_new = new.note(&mut work, Some(host), now).await?;
        if is_new {
            let row = sqlx::query("select appliance, count from enrolment where name = ?").bind(new.rule.as_str());
            let row = row.fetch_optional(&mut *work).await?;
            let row = row.ok_or_else(|| StoreError::Missing { kind: "enrolment", name: new.rule.to_string() })?;
            let (appliance, most): (&str, Option<i64>) = (row.get(0), row.get(1));
            let sql = "select count(*) from enrolled where enrolment = ? and host is not null";
            let count: i64 = sqlx::query(sql).bind(new.rule.as_str()).fetch_one(&mut *work).await?.get(0);
            if most.is_some_and(|most| count >= most) {
                return Err(StoreError::Conflict(format!("enrolment `{}` has {count} living hosts already", new.rule)));
            }
            let sql = "insert into host (name, appliance, arch, os, rack, rank) values (?, ?, ?, 'linux', 0, 0)";
            let query = sqlx::query(sql).bind(host).bind(appliance).bind(new.arch);
            unique(query.execute(&mut *work).await, "host", host)?;
            let query = sqlx::query("update enrolled set host = ? where instance = ?").bind(host).bind(instance);
            query.execute(&mut *work).await?;
        }
        certificate.note(&mut work, now).await?;
        work.commit().await?;
        // Also when it is there already: whoever added it may have been broken off before it was told.
        self.changed();
        Ok(())
    }

    /// Takes note of the certificate of an instance that a provision launched to be a host that there is. An instance enrols once here, too; whoever was
    /// the host before is it no more.
    ///
    /// # Errors
    /// A conflict if the instance has enrolled before, with another key, or if the host was given to another machine by hand after it was launched; or
    /// there is no such host. The certificate must not be given then.
    pub async fn enrol_member(
        &self,
        new: &NewInstance<'_>,
        certificate: &NewCertificate<'_>,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        // Its provision sees to the end of its host, so that none is named here, and says when the instance has ended: one that was stopped
        // and is started again has a new document.
        let is_new = new.note(&mut work, None, now).await?;
        let sql = "select 1 from host where name = ? and by_hand > ?";
        let launched = new.document.pending_time.as_second();
        let given = sqlx::query(sql).bind(certificate.host.as_str()).bind(launched).fetch_optional(&mut *work).await?;
        if is_new && given.is_some() {
            let message =
                format!("a join document of {} was asked for after the instance was launched", certificate.host);
            return Err(StoreError::Conflict(message));
        }
        let has_revoked = is_new && take_place(&mut work, certificate.host, None).await?;
        certificate.note(&mut work, now).await?;
        work.commit().await?;
        if has_revoked {
            self.changed();
        }
        Ok(())
    }

    /// Hosts that were enrolled so.
    ///
    /// # Errors
    /// The database's.
    pub async fn enrolled(&self) -> Result<HashMap<HostName, Enrolled>, StoreError> {
        let sql = "select host, instance, region, enrolment from enrolled where host is not null";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let one = Enrolled { instance: valid(row.get(1))?, region: row.get(2), enrolment: name(row.get(3))? };
                Ok((name(row.get(0))?, one))
            })
            .collect()
    }

    /// Takes note that an instance is terminated. What is known of those that have been for so long that no document of theirs is good any more
    /// is forgotten.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_instance(&self, instance: &InstanceId, now: i64) -> Result<(), StoreError> {
        let sql = "update enrolled set ended = ?, host = null where instance = ?";
        let query = sqlx::query(sql).bind(now).bind(instance.as_str());
        query.execute(&self.pool).await?;
        let old = now - 2 * i64::from(LONGEST_AGE);
        sqlx::query("delete from enrolled where ended < ?").bind(old).execute(&self.pool).await?;
        Ok(())
    }
}
