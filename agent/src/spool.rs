//! Reports on their way to the frontend: kept until it has them, and never larger than it takes.

use std::io;
use std::path::{Path, PathBuf};

use rocks_common::diag::Severity;
use rocks_common::limits::REPORT_BYTES;
use rocks_common::wire::{Finding, Report, StepState};

use crate::fetch::{Client, FetchError};
use crate::files;

/// Most reports that wait to be sent.
const SPOOLED: usize = 32;
/// Most findings and steps of a report that is too large otherwise.
const FEW: usize = 200;

fn folder(state: &Path) -> PathBuf {
    state.join("reports")
}

/// Keeps a report until it is sent.
///
/// # Errors
/// The file system's.
pub fn keep(state: &Path, report: &Report) -> io::Result<()> {
    let json = json_of(report, REPORT_BYTES)?;
    files::write(&folder(state).join(format!("{}.json", report.id)), &json, 0o600)
}

/// The report as it is sent: what is too large for the frontend loses what people can best do without.
fn json_of(report: &Report, limit: usize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(report)?;
    if json.len() <= limit {
        return Ok(json);
    }
    let mut short = report.clone();
    short.findings.push(Finding {
        code: "report-shortened".to_owned(),
        severity: Severity::Note,
        subject: "report".to_owned(),
        message: format!("it had {} bytes, and the frontend takes {limit}: outputs are cut", json.len()),
        hint: Some("`rocks-agent status` on the instance has all of it".to_owned()),
    });
    // First of what went well, then of everything.
    let cuts: [fn(&mut Report); 5] = [
        |short| cut_outputs(short, 0, |state| state == StepState::Done),
        |short| cut_outputs(short, 2048, |_| true),
        |short| short.diff = None,
        |short| cut_outputs(short, 0, |_| true),
        |short| {
            // The last ones are the report's own; of the steps those that failed count.
            short.findings.drain(..short.findings.len().saturating_sub(FEW));
            short.steps.sort_by_key(|step| step.state == StepState::Done);
            short.steps.truncate(FEW);
            short.steps.iter_mut().for_each(|step| step.title = step.title.chars().take(200).collect());
            short.steps.iter_mut().for_each(|step| step.reason = step.reason.chars().take(200).collect());
            short.findings.iter_mut().for_each(|found| found.message = found.message.chars().take(600).collect());
        },
    ];
    for cut in cuts {
        cut(&mut short);
        let json = serde_json::to_vec(&short)?;
        if json.len() <= limit {
            return Ok(json);
        }
    }
    Err(io::Error::other(format!("a report of {} bytes cannot be made to fit", json.len())))
}

fn cut_outputs(report: &mut Report, keep: usize, of: fn(StepState) -> bool) {
    for step in report.steps.iter_mut().filter(|step| of(step.state)) {
        let from = step.output_tail.len().saturating_sub(keep);
        let from = (from..=step.output_tail.len()).find(|at| step.output_tail.is_char_boundary(*at)).unwrap_or(0);
        step.output_tail.drain(..from);
    }
}

/// Whether a report that was refused so is refused for what it is: then it is not sent again. Else it waits for the
/// frontend, or for another certificate.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 401 | 403 | 408 | 425 | 429)
}

/// Sends what waits; what cannot be sent now stays. Whether nothing waits any more.
pub async fn send(state: &Path, client: &mut Client) -> bool {
    let mut waiting: Vec<_> = std::fs::read_dir(folder(state))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    waiting.sort();
    // The newest are worth most.
    let extra = waiting.len().saturating_sub(SPOOLED);
    for (_, path) in waiting.drain(..extra) {
        tracing::warn!("{} is given up: newer reports wait", path.display());
        let _ = std::fs::remove_file(path);
    }
    for (_, path) in waiting {
        let report = match read(&path) {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!("{} is given up: {error}", path.display());
                let _ = std::fs::remove_file(path);
                continue;
            }
        };
        match client.report(&report).await {
            Ok(()) => {}
            Err(error @ FetchError::Refused { status, .. }) if is_final(status) => {
                tracing::warn!("{} is given up: {error}", path.display());
            }
            Err(_) => return false,
        }
        let _ = std::fs::remove_file(path);
    }
    true
}

/// Sends a report that could not be kept. Whether it need not be sent any more.
pub async fn send_unkept(report: &Report, client: &mut Client) -> bool {
    let fitting = json_of(report, REPORT_BYTES).and_then(|json| Ok(serde_json::from_slice::<Report>(&json)?));
    let why = match fitting {
        Ok(report) => match client.report(&report).await {
            Ok(()) => return true,
            Err(error @ FetchError::Refused { status, .. }) if is_final(status) => error.to_string(),
            Err(_) => return false,
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!("the report {} is given up: {why}", report.id);
    true
}

/// A report that waits; one that an agent from before kept may be too large.
fn read(path: &Path) -> io::Result<Report> {
    let bytes = files::read(path, 64 << 20)?.ok_or(io::ErrorKind::NotFound)?;
    let report = serde_json::from_slice(&bytes)?;
    if bytes.len() <= REPORT_BYTES { Ok(report) } else { Ok(serde_json::from_slice(&json_of(&report, REPORT_BYTES)?)?) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rocks_common::wire::{Facts, Outcome, StepReport};

    use super::*;

    fn report(steps: usize, output: usize, findings: usize, diff: usize) -> Report {
        let step = |number: usize| StepReport {
            id: number.to_string(),
            title: format!("step {number}"),
            reason: String::new(),
            state: if number.is_multiple_of(10) { StepState::Failed } else { StepState::Done },
            duration_ms: 1,
            exit_code: None,
            output_tail: "ä".repeat(output / 2),
        };
        let found = |number: usize| Finding {
            code: "c".into(),
            severity: Severity::Error,
            subject: number.to_string(),
            message: "m".repeat(1000),
            hint: None,
        };
        Report {
            id: "r".into(),
            facts: Facts::default(),
            kickstart: None,
            generation: None,
            started: Timestamp::UNIX_EPOCH,
            duration_ms: 1,
            outcome: Outcome::Incomplete,
            steps: (0..steps).map(step).collect(),
            findings: (0..findings).map(found).collect(),
            diff: Some("d".repeat(diff)),
        }
    }

    #[test]
    fn a_report_that_is_too_large_is_sent_without_what_it_can_do_without() {
        let kept = |report: &Report| {
            let json = json_of(report, 1 << 20).expect("it fits");
            assert!(json.len() <= 1 << 20);
            serde_json::from_slice::<Report>(&json).expect("it is one")
        };
        let small = report(3, 1000, 3, 1000);
        assert_eq!(json_of(&small, 1 << 20).expect("it fits"), serde_json::to_vec(&small).expect("json"));
        let short = kept(&report(100, 16 << 10, 3, 1000));
        assert_eq!(short.findings.last().map(|found| found.code.as_str()), Some("report-shortened"));
        // What failed still has its words, what went well none.
        assert!(short.steps[0].output_tail.len() == 16 << 10 && short.steps[1].output_tail.is_empty());
        assert_eq!(short.steps.len(), 100);
        assert_eq!(kept(&report(3, 100, 0, 2 << 20)).diff, None);
        let many = kept(&report(20_000, 100, 5_000, 0));
        assert_eq!((many.steps.len(), many.findings.len()), (FEW, FEW));
        assert!(many.steps.iter().all(|step| step.state == StepState::Failed));
    }

    #[test]
    fn what_was_kept_is_read_also_if_it_was_kept_too_large() {
        let state = tempfile::tempdir().expect("a folder");
        keep(state.path(), &report(400, 16 << 10, 3, 10)).expect("kept");
        let path = folder(state.path()).join("r.json");
        assert!(std::fs::metadata(&path).expect("there").len() <= REPORT_BYTES as u64);
        std::fs::write(&path, serde_json::to_vec(&report(400, 16 << 10, 3, 10)).expect("json")).expect("written");
        assert_eq!(read(&path).expect("read").findings.len(), 4);
        std::fs::write(&path, "{").expect("written");
        assert!(read(&path).is_err());
    }

    #[test]
    fn only_what_will_never_be_taken_is_given_up() {
        assert!([400, 404, 413, 422].into_iter().all(is_final));
        assert!([401, 403, 408, 429, 500, 503].into_iter().all(|status| !is_final(status)));
    }
}
