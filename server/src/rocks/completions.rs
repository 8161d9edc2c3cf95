//! Completions for shells: the words of the command table, and the names that the frontend knows.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use http::Method;

use super::client;
use super::spec::{Spec, Words};

/// What completes the words of `spec`.
pub(super) fn of(spec: &'static Spec) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| candidates(spec, &current.to_string_lossy()))
}

fn candidates(spec: &Spec, current: &str) -> Vec<CompletionCandidate> {
    let path = match spec.words {
        Words::Host => "/api/v1/hosts",
        Words::Appliance => "/api/v1/appliances",
        Words::Roll => "/api/v1/rolls",
        Words::Mirror => "/api/v1/mirrors",
        Words::Image => "/api/v1/images",
        Words::Provision => "/api/v1/provisions",
        Words::Enrolment => "/api/v1/enrolments",
        Words::Rollout => "/api/v1/rollouts",
        Words::Path => return clap_complete::engine::PathCompleter::any().complete_from(current),
        Words::None => "",
    };
    let socket =
        std::env::var_os("ROCKS_SOCKET").map_or_else(|| super::first_there(super::SOCKETS).to_owned(), PathBuf::from);
    let rows = match path {
        "" => None,
        // A frontend that does not answer has no names.
        path => client::call(&socket, Method::GET, path, None).ok(),
    };
    let names = rows.iter().flat_map(|rows| rows.as_array().into_iter().flatten());
    let names = names.filter_map(|row| row["name"].as_str().map(ToOwned::to_owned));
    let keys = spec.keys.iter().map(|(key, _)| format!("{key}="));
    names.chain(keys).filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

trait CompleteFrom {
    fn complete_from(&self, current: &str) -> Vec<CompletionCandidate>;
}

impl CompleteFrom for clap_complete::engine::PathCompleter {
    fn complete_from(&self, current: &str) -> Vec<CompletionCandidate> {
        clap_complete::engine::ValueCompleter::complete(self, OsStr::new(current))
    }
}
