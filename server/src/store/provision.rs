//! Provisions, each as the document that the engine keeps.

use rocks_advise::{History, Run};
use rocks_provision::ids::ProvisionId;
use rocks_provision::record::Record;
use sqlx::Row as _;

use super::{Store, StoreError, some, unique};
use crate::provision::forecast::Forecast;

fn record(text: &str) -> Result<Record, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Invalid(format!("a provision: {error}")))
}

impl Store {
    /// Keeps a provision that begins.
    ///
    /// # Errors
    /// There is one of that name.
    pub async fn begin_provision(&self, record: &Record) -> Result<(), StoreError> {
        let body = serde_json::to_string(record).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let sql = "insert into provision (name, status, body) values (?, 'open', ?)";
        let query = sqlx::query(sql).bind(record.id.as_str()).bind(body);
        unique(query.execute(&self.pool).await, "provision", record.id.as_str()).map(drop)
    }

    /// Keeps a provision, in place of what was known of it.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep_provision(&self, record: &Record) -> Result<(), StoreError> {
        let body = serde_json::to_string(record).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let status = if record.status.is_open() { "open" } else { "ended" };
        let sql = "insert into provision (name, status, body) values (?, ?, ?)
                   on conflict (name) do update set status = excluded.status, body = excluded.body";
        sqlx::query(sql).bind(record.id.as_str()).bind(status).bind(body).execute(&self.pool).await?;
        Ok(())
    }

    /// All provisions, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn provisions(&self) -> Result<Vec<Record>, StoreError> {
        let rows = sqlx::query("select body from provision order by number").fetch_all(&self.pool).await?;
        rows.iter().map(|row| record(row.get(0))).collect()
    }

    /// A provision.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn provision(&self, id: &ProvisionId) -> Result<Record, StoreError> {
        let query = sqlx::query("select body from provision where name = ?").bind(id.as_str());
        let row = query.fetch_optional(&self.pool).await?;
        let row = row.ok_or_else(|| StoreError::Missing { kind: "provision", name: id.to_string() })?;
        record(row.get(0))
    }

    /// Forgets a provision that has ended.
    ///
    /// # Errors
    /// There is none of that name, or it has not ended.
    pub async fn remove_provision(&self, id: &ProvisionId) -> Result<(), StoreError> {
        if self.provision(id).await?.status.is_open() {
            return Err(StoreError::Conflict(format!("provision `{id}` has not ended")));
        }
        let done = sqlx::query("delete from provision where name = ?").bind(id.as_str()).execute(&self.pool).await?;
        some(done.rows_affected(), "provision", id.as_str())
    }

    /// Notes what was predicted for a provision that begins.
    ///
    /// # Errors
    /// The database's.
    pub async fn foresee(&self, id: &ProvisionId, forecast: &Forecast) -> Result<(), StoreError> {
        let body = serde_json::to_string(forecast).map_err(|error| StoreError::Invalid(error.to_string()))?;
        // One that bore the name earlier and did not come to its end says nothing.
        sqlx::query("delete from run where provision = ? and run is null")
            .bind(id.as_str())
            .execute(&self.pool)
            .await?;
        let sql = "insert into run (provision, forecast) values (?, ?)";
        sqlx::query(sql).bind(id.as_str()).bind(body).execute(&self.pool).await?;
        Ok(())
    }

    /// What was predicted for a provision that has not come to its end.
    ///
    /// # Errors
    /// The database's.
    pub async fn foreseen(&self, id: &ProvisionId) -> Result<Option<Forecast>, StoreError> {
        let query = sqlx::query("select forecast from run where provision = ? and run is null").bind(id.as_str());
        let row = query.fetch_optional(&self.pool).await?;
        row.map(|row| {
            serde_json::from_str(row.get(0)).map_err(|error| StoreError::Invalid(format!("a forecast: {error}")))
        })
        .transpose()
    }

    /// Notes what came of a provision, in place of what was predicted for it alone.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep_run(&self, id: &ProvisionId, forecast: &Forecast, run: &Run) -> Result<(), StoreError> {
        let text = |error: serde_json::Error| StoreError::Invalid(error.to_string());
        let (forecast, run) =
            (serde_json::to_string(forecast).map_err(text)?, serde_json::to_string(run).map_err(text)?);
        let mut change = self.pool.begin().await?;
        let gone = sqlx::query("delete from run where provision = ? and run is null").bind(id.as_str());
        gone.execute(&mut *change).await?;
        let sql = "insert into run (provision, forecast, run) values (?, ?, ?)";
        sqlx::query(sql).bind(id.as_str()).bind(forecast).bind(run).execute(&mut *change).await?;
        Ok(change.commit().await?)
    }

    /// What provisions took, the newest thousand of them, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn history(&self) -> Result<History, StoreError> {
        let sql = "select run from run where run is not null order by number desc limit 1000";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let read = |text: &str| serde_json::from_str(text).map_err(|e| StoreError::Invalid(format!("a run: {e}")));
        let runs: Result<Vec<Run>, StoreError> = rows.iter().rev().map(|row| read(row.get(0))).collect();
        Ok(History { runs: runs? })
    }
}
