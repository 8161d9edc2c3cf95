//! Join tokens and certificates.

use rocks_common::ids::{Digest, HostName};
use rocks_common::wire::Facts;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, name, some};

/// A certificate to take note of.
#[derive(Debug)]
pub struct NewCertificate<'c> {
    /// Its serial number, in hexadecimal.
    pub serial: &'c str,
    /// Whose it is.
    pub host: &'c HostName,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// What the agent told of the machine.
    pub facts: &'c Facts,
}

/// Why a certificate is given.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'p> {
    /// A join token, and the key (its digest) that the certificate is for.
    Token(&'p Digest, &'p Digest),
    /// The certificate that it takes the place of: its serial number, and when it ends in seconds since 1970.
    Former(&'p str, i64),
}

impl NewCertificate<'_> {
    /// Takes note of it in a change that is under way.
    pub(super) async fn note(&self, work: &mut SqliteConnection, now: i64) -> Result<(), StoreError> {
        let host = self.host.as_str();
        let json = serde_json::to_string(self.facts).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let sql = "update host set facts = ?, enrolled = coalesce(enrolled, ?) where name = ?";
        let done = sqlx::query(sql).bind(json).bind(now).bind(host).execute(&mut *work).await?;
        some(done.rows_affected(), "host", host)?;
        let sql = "insert into certificate (serial, host, not_after, revoked) values (?, ?, ?, 0)";
        sqlx::query(sql).bind(self.serial).bind(host).bind(self.not_after).execute(&mut *work).await?;
        let sql = "delete from certificate where not_after < ?";
        sqlx::query(sql).bind(now - 86_400).execute(&mut *work).await?;
        Ok(())
    }
}

/// Lets another machine take a host's place: the certificates of the one before are revoked, and the tokens that it has
/// taken give it no others. Nor do those that were given out before and that nobody has taken: whoever comes with one is late.
/// Says whether it had any. `token`: the one that is taken now, if it is by one.
pub(super) async fn take_place(
    work: &mut SqliteConnection,
    host: &HostName,
    token: Option<&str>,
) -> Result<bool, StoreError> {
    // No key has this digest. The token stays, so that it is not made again.
    let sql = "update token set key = '' where host = ? and hash <> ?
               and (key is not null or expires <= (select expires from token where hash = ?))";
    let token = token.unwrap_or_default();
    sqlx::query(sql).bind(host.as_str()).bind(token).bind(token).execute(&mut *work).await?;
    let sql = "update certificate set revoked = 1 where host = ? and revoked = 0";
    Ok(sqlx::query(sql).bind(host.as_str()).execute(&mut *work).await?.rows_affected() > 0)
}

async fn note_token(
    work: &mut SqliteConnection,
    host: &HostName,
    hash: &Digest,
    expires: i64,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query("delete from token where expires < ?").bind(now).execute(&mut *work).await?;
    let sql = "insert into token (hash, host, expires) values (?, ?, ?)";
    sqlx::query(sql).bind(hash.to_string()).bind(host.as_str()).bind(expires).execute(&mut *work).await?;
    Ok(())
}

impl Store {
    /// Keeps the hash of a join token.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, host: &HostName, hash: &Digest, expires: i64, now: i64) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        note_token(&mut work, host, hash, expires, now).await?;
        Ok(work.commit().await?)
    }

    /// Does so for one that the administrator asked for: from here on the host is not that of the instance which was launched to be it.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token_by_hand(
        &self,
        host: &HostName,
        hash: &Digest,
        expires: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        let query = sqlx::query("update host set by_hand = ? where name = ?").bind(now).bind(host.as_str());
        query.execute(&mut *work).await?;
        note_token(&mut work, host, hash, expires, now).await?;
        Ok(work.commit().await?)
    }

    /// The host of a join token that has not ended, whether it was taken or not: with which key it may be taken again
    /// is seen when it is. Costs a reading, so that guessing costs us nothing more.
    ///
    /// # Errors
    /// The database's.
    pub async fn knows_token(&self, hash: &Digest, now: i64) -> Result<Option<HostName>, StoreError> {
        let query = sqlx::query("select host from token where hash = ? and expires >= ?");
        let row = query.bind(hash.to_string()).bind(now).fetch_optional(&self.pool).await?;
        row.map(|row| name(row.get(0))).transpose()
    }

    /// Takes note of a certificate, and of what the agent told of the machine. A join token is taken by the key that the
    /// certificate is for, and whoever was the host before is it no more; whoever has that key and did not hear the answer
    /// may take it again until it ends. One that is wrong, taken with another key or expired is missing, and so is a former
    /// certificate that was revoked or is another host's: its host may have been removed, and be there again as another machine.
    ///
    /// # Errors
    /// There is no such token or former certificate, or no such host any more: then nothing was noted, and the certificate
    /// must not be given.
    pub async fn add_certificate(
        &self,
        new: &NewCertificate<'_>,
        proof: Proof<'_>,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        let mut has_revoked = false;
        // Each is written first: from here on nobody else takes the token or revokes the certificate.
        match proof {
            Proof::Token(token, key) => {
                let (token, key, host) = (token.to_string(), key.to_string(), new.host.as_str());
                let sql = "update token set key = ? where hash = ? and host = ? and expires >= ? and key is null";
                let query = sqlx::query(sql).bind(&key).bind(&token).bind(host).bind(now);
                if query.execute(&mut *work).await?.rows_affected() > 0 {
                    has_revoked = take_place(&mut work, new.host, Some(&token)).await?;
                } else {
                    let sql = "select 1 from token where hash = ? and host = ? and expires >= ? and key = ?";
                    let query = sqlx::query(sql).bind(&token).bind(host).bind(now).bind(&key);
                    some(query.fetch_all(&mut *work).await?.len() as u64, "token", "")?;
                }
            }
            Proof::Former(serial, not_after) => {
                // A store that was put back from a copy does not know all of them: it does from here on.
                let sql = "insert into certificate (serial, host, not_after, revoked) values (?, ?, ?, 0)
                           on conflict (serial) do update set revoked = 0 where host = excluded.host and revoked = 0";
                let query = sqlx::query(sql).bind(serial).bind(new.host.as_str()).bind(not_after);
                some(query.execute(&mut *work).await?.rows_affected(), "certificate", serial)?;
            }
        }
        new.note(&mut work, now).await?;
        work.commit().await?;
        if has_revoked {
            self.changed();
        }
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
