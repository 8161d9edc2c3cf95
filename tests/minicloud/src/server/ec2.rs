//! EC2 and STS: the Query protocol.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::body::{Response, answer as reply};
use super::{Admitted, Caller, CutOff, Described, Outcome, Shared, now};
use crate::access;
use crate::cloud::Context;
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml;
use crate::sigv4::{Refusal, sha256_hex};

/// The longest form that is read.
const LONGEST: usize = 2 << 20;

pub(super) async fn answer(
    shared: &Shared,
    caller: Caller,
    request: http::Request<Incoming>,
) -> Result<Response, CutOff> {
    let body = match Limited::new(request.into_body(), LONGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Err(CutOff),
    };
    // Query calls come as a form, or in the URL.
    let params = Params::parse(if caller.method == "GET" { caller.query.as_bytes() } else { &body });
    let action = params.text("Action").unwrap_or_default().to_owned();
    let service = caller.service.clone();
    let refuse = |e: &ApiError| {
        let text = if service == "sts" {
            sts_refusal(e, &caller.request)
        } else {
            xml::refusal(&e.code, &e.message, &caller.request)
        };
        reply(e.status, "text/xml;charset=UTF-8", text)
    };
    let admitted = caller.authenticate(shared, &sha256_hex(&body)).map_err(|r| refused(&service, r));
    let user = admitted.as_ref().map(|a| a.access.user.clone()).unwrap_or_default();
    let parameters = params.leaves().into_iter().filter(|(n, _)| n != "Action" && n != "Version");
    let parameters = parameters.map(|(n, v)| (n, v.to_owned())).collect();
    let needs = match service.as_str() {
        // Anybody may ask who they are.
        "sts" => Vec::new(),
        _ => shared.with_cloud(|cloud| cloud.needs(&action, &params, &user, now())),
    };
    let permissions = if needs.is_empty() { vec![format!("{service}:{action}")] } else { access::actions(&needs) };
    let what = Described { action: action.clone(), permissions, parameters, user };
    let denied = match &admitted {
        Err(e) => Some(e.clone()),
        Ok(_) if action.is_empty() => {
            Some(ApiError::new("MissingAction", "The request must contain the parameter Action"))
        }
        Ok(_) if !caller.throttle(shared, &action) => {
            Some(ApiError::new("RequestLimitExceeded", "Request limit exceeded."))
        }
        Ok(a) => caller.lacks(shared, a, &needs).map(|lacking| unauthorized(&lacking, &caller.request)),
    };
    let work = async {
        let admitted = admitted.as_ref().map_err(Clone::clone)?;
        if service == "sts" {
            return sts(shared, admitted, &action, &params, &caller.request);
        }
        let version = params.text("Version").unwrap_or_default();
        if version != "2016-11-15" {
            let message = format!("The API version '{version}' is not the one of this service, 2016-11-15.");
            return Err(ApiError::new("NoSuchVersion", message));
        }
        let console = match action.as_str() {
            "GetConsoleOutput" => params.text("InstanceId").and_then(|id| shared.machines.console(id)),
            _ => None,
        };
        let arn = admitted.arn(&shared.config.account);
        let context = Context { now: now(), caller: &arn, console: console.as_deref() };
        let value = shared.with_cloud(|cloud| cloud.call(&action, &params, &context))?;
        let text = xml::response(&action, &caller.request, &value);
        Ok(Outcome { response: reply(200, "text/xml;charset=UTF-8", text), code: None })
    };
    caller.conclude(shared, what, denied, refuse, work).await
}

/// What EC2 says to a signature that it does not believe.
fn refused(service: &str, refusal: Refusal) -> ApiError {
    let not_validated = "AWS was not able to validate the provided access credentials";
    match refusal {
        Refusal::Unsigned => {
            ApiError::new("MissingAuthenticationToken", "Request is missing Authentication Token").with_status(403)
        }
        Refusal::Malformed(why) => ApiError::new("IncompleteSignature", why),
        Refusal::UnknownKey(_) if service == "sts" => {
            ApiError::new("InvalidClientTokenId", "The security token included in the request is invalid.")
        }
        Refusal::UnknownKey(_) => ApiError::new("AuthFailure", not_validated),
        Refusal::Skewed | Refusal::Expired => {
            ApiError::new("RequestExpired", "Request has expired. Is the clock of the caller right?")
        }
        Refusal::Mismatch { canonical } if service == "sts" => {
            let message = format!(
                "The request signature we calculated does not match the signature you provided. \
                 The Canonical String for this request should have been\n'{canonical}'"
            );
            ApiError::new("SignatureDoesNotMatch", message)
        }
        Refusal::Mismatch { canonical } => {
            tracing::debug!("the canonical request was\n{canonical}");
            ApiError::new("AuthFailure", not_validated)
        }
    }
}

fn unauthorized(words: &str, request: &str) -> ApiError {
    // On AWS only those who may decode it can read it; here there is nothing in it that is not said already.
    let encoded = sha256_hex(format!("{words} {request}").as_bytes());
    let message = format!(
        "You are not authorized to perform this operation. {words}. Encoded authorization failure message: {encoded}"
    );
    ApiError::new("UnauthorizedOperation", message)
}

fn sts(shared: &Shared, admitted: &Admitted, action: &str, params: &Params, request: &str) -> Answer<Outcome> {
    if action != "GetCallerIdentity" {
        return Err(ApiError::new(
            "InvalidAction",
            format!("Could not find operation {action} for version 2011-06-15"),
        ));
    }
    params.finish()?;
    let account = &shared.config.account;
    let text = format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>AIDA{}</UserId><Account>{account}</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>{request}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
        xml::escaped(&admitted.arn(account)),
        &sha256_hex(admitted.access.user.as_bytes())[..17].to_uppercase(),
    );
    Ok(Outcome { response: reply(200, "text/xml", text), code: None })
}

fn sts_refusal(e: &ApiError, request: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{}</Code>\
         <Message>{}</Message></Error><RequestId>{request}</RequestId></ErrorResponse>",
        xml::escaped(&e.code),
        xml::escaped(&e.message)
    )
}
