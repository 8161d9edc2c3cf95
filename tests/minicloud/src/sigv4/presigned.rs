//! Presigned URLs: the signature in the query.

use super::{ALGORITHM, Refusal, Request, Scope, Signed, query_pairs, seconds};

/// A week.
const LONGEST: i64 = 604_800;

/// Reads the signature in a request's query, if there is one; it must hold now.
pub(crate) fn presigned(request: &Request<'_>, now: i64) -> Result<Option<Signed>, Refusal> {
    let pairs = query_pairs(request.query);
    let get = |name: &str| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let Some(algorithm) = get("X-Amz-Algorithm") else { return Ok(None) };
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    if algorithm != ALGORITHM {
        return Err(malformed("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let need = |name: &str| {
        get(name).ok_or_else(|| {
            malformed("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
        })
    };
    let scope = Scope::parse(need("X-Amz-Credential")?).ok_or_else(|| malformed("the Credential is mal-formed"))?;
    let time = need("X-Amz-Date")?.to_owned();
    let expires: i64 = need("X-Amz-Expires")?.parse().map_err(|_| malformed("X-Amz-Expires should be a number"))?;
    if !(1..=LONGEST).contains(&expires) {
        return Err(malformed("X-Amz-Expires must be from 1 to a week (in seconds)"));
    }
    let names: Vec<String> = need("X-Amz-SignedHeaders")?.split(';').map(str::to_owned).collect();
    let signature = need("X-Amz-Signature")?.to_owned();
    let at = seconds(&time).ok_or_else(|| malformed("X-Amz-Date must be in the ISO8601 Long Format"))?;
    if at - now > super::SKEW_SECONDS {
        return Err(malformed("Request is not yet valid"));
    }
    if now >= at + expires {
        return Err(Refusal::Expired);
    }
    Ok(Some(Signed { scope, time, signature, names }))
}
