//! What agents reported.

use rocks_common::ids::HostName;
use rocks_common::wire::Report;
use sqlx::Row as _;

use super::{MASK, Store, StoreError};

/// Reports that are kept of each host.
const REPORTS_KEPT: i64 = 20;
/// Secrets shorter than this are not looked for in reports: they would hit by chance.
const SECRET_BYTES: usize = 4;

impl Store {
    /// Keeps a report; one that is there already is kept once. Values of the host's secret attributes are left out of it.
    ///
    /// # Errors
    /// There is no such host.
    pub async fn add_report(&self, host: &HostName, report: &Report, now: i64) -> Result<(), StoreError> {
        let of = self.host(host).await?;
        let secrets = self.attributes_for(&of, true).await?;
        let report = masked(report, secrets.iter().map(|s| s.value.as_str()));
        let invalid = |error: serde_json::Error| StoreError::Invalid(error.to_string());
        let body = serde_json::to_string(&report).map_err(invalid)?;
        let outcome = serde_json::to_value(report.outcome).map_err(invalid)?;
        let id = format!("{host}/{}", report.id);
        let mut work = self.pool.begin().await?;
        let sql = "insert into report (id, host, received, body) values (?, ?, ?, ?) on conflict (id) do nothing";
        let done = sqlx::query(sql).bind(id).bind(host.as_str()).bind(now).bind(body).execute(&mut *work).await?;
        if done.rows_affected() > 0 {
            let generation = report.generation.and_then(|g| i64::try_from(g.0).ok());
            let sql = "update host set outcome = ?, reported_generation = ?, reported = ?, reported_kickstart = ?
                       where name = ?";
            let query = sqlx::query(sql).bind(outcome.as_str()).bind(generation).bind(now);
            let query = query.bind(report.kickstart.map(|digest| digest.to_string())).bind(host.as_str());
            query.execute(&mut *work).await?;
            // Several may come in one second: the order in which they came decides.
            let sql = "delete from report where host = ? and rowid not in
                       (select rowid from report where host = ? order by received desc, rowid desc limit ?)";
            let query = sqlx::query(sql).bind(host.as_str()).bind(host.as_str()).bind(REPORTS_KEPT);
            query.execute(&mut *work).await?;
        }
        work.commit().await?;
        Ok(())
    }

    /// The newest report of `host` with when it came, in seconds since 1970.
    ///
    /// # Errors
    /// The database's.
    pub async fn last_report(&self, host: &HostName) -> Result<Option<(Report, i64)>, StoreError> {
        Ok(self.reports(host, 1).await?.pop())
    }

    /// The newest `most` reports of `host`, the newest first, with when each came, in seconds since 1970.
    ///
    /// # Errors
    /// The database's.
    pub async fn reports(&self, host: &HostName, most: u32) -> Result<Vec<(Report, i64)>, StoreError> {
        let sql = "select body, received from report where host = ? order by received desc, rowid desc limit ?";
        let rows = sqlx::query(sql).bind(host.as_str()).bind(most).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let report =
                    serde_json::from_str(row.get(0)).map_err(|error| StoreError::Invalid(error.to_string()))?;
                Ok((report, row.get(1)))
            })
            .collect()
    }
}

/// `report` without the values `secrets`, wherever they stand.
fn masked<'s>(report: &Report, secrets: impl Iterator<Item = &'s str>) -> Report {
    // A value of several lines stands in a diff with a mark before each.
    let lines = secrets.flat_map(str::lines).map(str::trim).filter(|line| line.len() >= SECRET_BYTES);
    let mut lines: Vec<&str> = lines.collect();
    // The longest first: one may be the beginning of another.
    lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
    let mut report = report.clone();
    let texts = report.diff.iter_mut();
    let steps = report.steps.iter_mut().flat_map(|s| [&mut s.title, &mut s.reason, &mut s.output_tail]);
    let findings = report.findings.iter_mut().flat_map(|f| [&mut f.subject, &mut f.message]);
    for text in texts.chain(steps).chain(findings) {
        for line in &lines {
            if text.contains(line) {
                *text = text.replace(line, MASK);
            }
        }
    }
    report
}
