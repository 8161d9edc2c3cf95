//! Join tokens and certificates.

use rocks_common::ids::{Digest, HostName};
use rocks_common::wire::Facts;
use sqlx::Row as _;

use super::{Store, StoreError, name, some};

impl Store {
    /// Keeps the hash of a join token.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, host: &HostName, hash: &Digest, expires: i64, now: i64) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        sqlx::query("delete from token where expires < ?").bind(now).execute(&mut *work).await?;
        let sql = "insert into token (hash, host, expires) values (?, ?, ?)";
        sqlx::query(sql).bind(hash.to_string()).bind(host.as_str()).bind(expires).execute(&mut *work).await?;
        work.commit().await?;
        Ok(())
    }

    /// Whether a join token would be taken. Costs a reading, so that guessing costs us nothing more.
    ///
    /// # Errors
    /// The database's.
    pub async fn knows_token(&self, hash: &Digest, now: i64) -> Result<bool, StoreError> {
        let query = sqlx::query("select 1 from token where hash = ? and expires >= ?").bind(hash.to_string()).bind(now);
        Ok(query.fetch_optional(&self.pool).await?.is_some())
    }

    /// Takes a join token: it is gone afterwards. Wrong, used and expired ones all give nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_token(&self, hash: &Digest, now: i64) -> Result<Option<HostName>, StoreError> {
        let sql = "delete from token where hash = ? returning host, expires";
        let row = sqlx::query(sql).bind(hash.to_string()).fetch_optional(&self.pool).await?;
        match row {
            Some(row) if row.get::<i64, _>(1) >= now => Ok(Some(name(row.get(0))?)),
            _ => Ok(None),
        }
    }

    /// Takes note of a certificate, and of what the agent told of the machine.
    ///
    /// # Errors
    /// There is no such host any more: then the certificate must not be given.
    pub async fn add_certificate(
        &self,
        serial: &str,
        host: &HostName,
        not_after: i64,
        facts: &Facts,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let json = serde_json::to_string(facts).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let sql = "update host set facts = ?, enrolled = coalesce(enrolled, ?) where name = ?";
        let done = sqlx::query(sql).bind(json).bind(now).bind(host.as_str()).execute(&mut *transaction).await?;
        some(done.rows_affected(), "host", host.as_str())?;
        let sql = "insert into certificate (serial, host, not_after, revoked) values (?, ?, ?, 0)";
        sqlx::query(sql).bind(serial).bind(host.as_str()).bind(not_after).execute(&mut *transaction).await?;
        sqlx::query("delete from certificate where not_after < ?")
            .bind(now - 86_400)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The serial numbers of certificates that were revoked and have not ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoked(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("select serial from certificate where revoked = 1").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
