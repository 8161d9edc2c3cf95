//! Commands that need the machine's own state, and mostly its frontend.

use std::path::Path;

use jiff::Timestamp;
use rocks_common::wire::{Outcome, Report};

use super::{Format, plan};
use crate::config::Config;
use crate::converge::{self, Turn};
use crate::fetch::FetchError;
use crate::identity::{self, IdentityError};
use crate::joining;
use crate::journal::{Journal, JournalError};
use crate::output::{self, Output};
use crate::process::System;
use crate::service::{self, Agent, ServiceError};
use crate::status::{Status, render_steps};
use crate::{files, imds, userdata};

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs `work` on a runtime of one thread.
pub(super) fn block<T>(output: &mut Output<'_>, work: impl Future<Output = T>) -> Result<T, u8> {
    match runtime() {
        Ok(runtime) => {
            let done = runtime.block_on(work);
            // What still runs beside it, a converge that does not end or a name that is looked up, is not waited for.
            runtime.shutdown_background();
            Ok(done)
        }
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            Err(output::FAILED)
        }
    }
}

fn failure(error: &ServiceError, output: &mut Output<'_>) -> u8 {
    output.message(&format!("error: {error}\n"));
    match error {
        ServiceError::Fetch(FetchError::Network { .. })
        | ServiceError::Identity(IdentityError::Fetch(FetchError::Network { .. })) => output::TEMPORARY,
        ServiceError::Identity(IdentityError::NotEnrolled) => {
            output.message("hint: rocks-agent enrol --join FILE, with what `rocks add host` printed\n");
            output::FAILED
        }
        ServiceError::Journal(JournalError::Locked { .. }) => {
            output.message(
                "hint: the service converges by itself; to do it by hand, `systemctl stop rocks-agent` first\n",
            );
            output::FAILED
        }
        _ => output::FAILED,
    }
}

pub(super) fn status(config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    let status = Status::load(&config.state);
    let text = match format {
        Format::Human => status.render(),
        Format::Json => serde_json::json!({"api_version": "rocks/v1", "status": status}).to_string() + "\n",
    };
    output.data(&text, status.code())
}

pub(super) fn enrol(config: &Config, join: Option<&Path>, output: &mut Output<'_>) -> u8 {
    let work = async {
        match join {
            None => joining::identity(config).await,
            Some(path) => {
                let join = identity::read_join(path).map_err(|error| match error {
                    IdentityError::NotEnrolled => IdentityError::NoFile(path.to_path_buf()),
                    other => other,
                })?;
                identity::enrol(&config.state, &join, identity::facts(&config.root), Timestamp::now()).await
            }
        }
    };
    match block(output, work) {
        Ok(Ok(identity)) => {
            let text = format!(
                "enrolled as {} at {}, certificate until {}\n",
                identity.host, identity.frontend, identity.not_after
            );
            output.data(&text, output::OK)
        }
        Ok(Err(error)) => failure(&error.into(), output),
        Err(code) => code,
    }
}

/// The identity of this machine; it enrols if it has none yet.
pub(super) fn identity(config: &Config, output: &mut Output<'_>) -> Result<identity::Identity, u8> {
    match block(output, joining::identity(config))? {
        Ok(identity) => Ok(identity),
        Err(error) => Err(failure(&error.into(), output)),
    }
}

/// How long the frontend may be out of reach for a report that it waits for.
const REPORT: std::time::Duration = std::time::Duration::from_secs(300);

/// Sends a report, again and again if need be.
pub(super) fn report(identity: &identity::Identity, report: &Report, output: &mut Output<'_>) -> Result<(), u8> {
    let work = async {
        let end = tokio::time::Instant::now() + REPORT;
        let mut client = identity.client()?;
        loop {
            match client.report(report).await {
                Err(FetchError::Network { .. }) if tokio::time::Instant::now() < end => {
                    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                }
                other => return other.map_err(ServiceError::from),
            }
        }
    };
    block(output, work)?.map_err(|error| failure(&error, output))
}

/// Where the agent looks for a receiver's job.
const JOB: &str = "etc/rocks-agent/receive.toml";

/// Takes the documents of this instance's user data, if it has any. An instance that is a host already keeps what it has.
pub(super) fn user_data(config: &Config, address: &str, patience: u64, output: &mut Output<'_>) -> u8 {
    let join = config.root.join("etc/rocks-agent/join.toml");
    if join.exists() || config.state.join(identity::FOLDER).join("identity.json").exists() {
        return output::OK;
    }
    if !imds::is_ec2(&config.root) {
        output.message("this machine does not say that it is an instance of EC2\n");
        return output::OK;
    }
    let patience = std::time::Duration::from_secs(patience);
    let asked = match block(output, imds::insist(address, "/latest/user-data", userdata::BYTES, patience)) {
        Ok(asked) => asked,
        Err(code) => return code,
    };
    let text = match asked {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            output.message(&format!("{error}\n"));
            return output::FAILED;
        }
    };
    let Some(found) = userdata::documents(&String::from_utf8_lossy(&text)) else {
        output.message("the user data is not for Rocks\n");
        return output::OK;
    };
    let job = config.root.join(JOB);
    let put = |path: &Path, text: &str| files::write(path, text.as_bytes(), 0o600);
    // The join document last: with it the service begins.
    let written = found.job.as_deref().map_or(Ok(()), |text| put(&job, text)).and_then(|()| put(&join, &found.join));
    match written {
        Ok(()) => output.data("the user data has a join document\n", output::OK),
        Err(error) => {
            output.message(&format!("error: {}: {error}\n", join.display()));
            output::FAILED
        }
    }
}

/// What a turn came to: also a machine that is as its kickstart says is not converged if the frontend gives it none.
fn code_of(outcome: Option<Outcome>, error: Option<&FetchError>) -> u8 {
    match (error, outcome) {
        (Some(FetchError::Network { .. }), _) => output::TEMPORARY,
        (Some(FetchError::Refused { status, .. }), _) if *status == 429 || *status >= 500 => output::TEMPORARY,
        (Some(FetchError::Refused { .. } | FetchError::Untrusted { .. }), _) => output::NOT_CONVERGED,
        (_, Some(Outcome::Incomplete | Outcome::Refused)) => output::NOT_CONVERGED,
        (None, Some(Outcome::Unchanged | Outcome::Converged)) => output::OK,
        (Some(FetchError::Address(_)), _) | (None, None) => output::FAILED,
    }
}

pub(super) fn converge(config: Config, format: Format, output: &mut Output<'_>) -> u8 {
    let work = async {
        let mut agent = Agent::open(config).await?;
        let turned = agent.turn(0, true).await?;
        agent.keep_status(&turned, None);
        if let Some(report) = &turned.report {
            agent.tell_frontend(report).await;
        }
        Ok::<_, ServiceError>(turned)
    };
    let turned = match block(output, work) {
        Ok(Ok(turned)) => turned,
        Ok(Err(error)) => return failure(&error, output),
        Err(code) => return code,
    };
    let code = code_of(turned.report.as_ref().map(|report| report.outcome), turned.error.as_ref());
    if let Some(error) = &turned.error {
        output.message(&format!("error: {error}\n"));
    }
    let Some(report) = &turned.report else { return code };
    let text = match format {
        Format::Json => serde_json::json!({"api_version": "rocks/v1", "report": report}).to_string() + "\n",
        Format::Human => {
            let mut text = report.diff.clone().unwrap_or_default();
            text.push_str(&render_steps(report));
            text + match report.outcome {
                Outcome::Unchanged => "nothing to do\n",
                Outcome::Converged => "converged\n",
                Outcome::Incomplete => "not converged\n",
                Outcome::Refused => "refused\n",
            }
        }
    };
    output.data(&text, code)
}

pub(super) fn plan(config: Config, diff: bool, format: Format, output: &mut Output<'_>) -> u8 {
    let work = async {
        let identity = joining::identity(&config).await?;
        let known = crate::fetch::Known {
            digest: None,
            generation: rocks_common::ids::Generation::default(),
            host: identity.host.clone(),
            seal_key: identity.seal_key,
        };
        let fetched = identity.client()?.kickstart(&known, 0).await?;
        Ok::<_, ServiceError>((identity, fetched))
    };
    let (identity, fetched) = match block(output, work) {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => return failure(&error, output),
        Err(code) => return code,
    };
    let Some(fetched) = fetched else { return output::FAILED };
    let mut config = config;
    config.policy.frontend = Some(identity.frontend.clone());
    let source = rocks_common::diag::Source::new("kickstart", fetched.text.as_str());
    let (desired, problems) = rocks_common::kickstart::parse(&source, &mut converge::RootIncludes(&config.root));
    if problems.has_errors() {
        output.message(&problems.render());
        return output::FAILED;
    }
    let applied = match Journal::look(&config.state) {
        Ok(state) => state.applied,
        Err(error) => return failure(&error.into(), output),
    };
    let turn = Turn { config: &config, processes: &System, mirror: None, facts: identity::facts(&config.root) };
    match turn.plan(&desired, &applied) {
        Ok(made) => {
            let old = std::fs::read_to_string(config.state.join("applied.ks")).unwrap_or_default();
            let diff = if diff { rocks_common::kickstart::unified_diff(&old, &fetched.text) } else { None };
            plan::show(&made, diff.as_deref(), format, output)
        }
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            output::FAILED
        }
    }
}

pub(super) fn run(config: Config, output: &mut Output<'_>) -> u8 {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROCKS_LOG").unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
    match block(output, service::run(config)) {
        Ok(Ok(())) => output::OK,
        Ok(Err(error)) => failure(&error, output),
        Err(code) => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_another_agent_at_work_is_told_what_to_do() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let error = ServiceError::Journal(JournalError::Locked { path: "lock".into() });
        assert_eq!(failure(&error, &mut Output { out: &mut out, err: &mut err }), output::FAILED);
        assert!(String::from_utf8_lossy(&err).contains("systemctl stop rocks-agent"));
    }

    #[test]
    fn a_turn_is_only_well_if_the_frontend_had_its_say() {
        let network = FetchError::Network { frontend: String::new(), why: String::new() };
        let refused =
            |status| FetchError::Refused { status, code: String::new(), title: String::new(), retry_after: None };
        let same = Some(Outcome::Unchanged);
        assert_eq!(code_of(same, None), output::OK);
        assert_eq!(code_of(same, Some(&network)), output::TEMPORARY);
        for (status, code) in [
            (403, output::NOT_CONVERGED),
            (404, output::NOT_CONVERGED),
            (429, output::TEMPORARY),
            (503, output::TEMPORARY),
        ] {
            assert_eq!(code_of(same, Some(&refused(status))), code, "{status}");
            assert_eq!(code_of(None, Some(&refused(status))), code, "{status}");
        }
        assert_eq!(code_of(Some(Outcome::Incomplete), None), output::NOT_CONVERGED);
        assert_eq!(code_of(Some(Outcome::Refused), None), output::NOT_CONVERGED);
        assert_eq!(code_of(None, None), output::FAILED);
    }
}
