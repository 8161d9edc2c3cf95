//! The original's answers for real and synthetic rolls, byte for byte.
//!
//! The cases are not part of this repository. They are looked for in `$ROCKS_SHARED/rocks`, else in `../shared/rocks` beside the
//! repository; without them this test says so and passes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rocks_common::attr::{Attributes, Scope};
use rocks_common::dialect::Dialect;
use rocks_common::generate;
use rocks_common::ids::AttrName;
use rocks_common::node::{Eval, EvalFailure, EvalRequest, Evaluator};
use rocks_common::profile::{self, Profile, Request};
use rocks_common::roll::{self, LoadOptions};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    rolls: Vec<String>,
    root: String,
    arch: String,
    os: String,
    attrs: BTreeMap<AttrName, String>,
    engine: String,
    eval: String,
    site: Option<String>,
    roll: Option<serde_json::Value>,
}

fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("ROCKS_SHARED").map_or(beside, PathBuf::from).join("rocks");
    folder.join("golden").is_dir().then_some(folder)
}

/// Runs code as the original does: in a folder with the rolls' `include/`, with `<var>` values in the environment.
struct Shell(PathBuf);

impl Evaluator for Shell {
    fn eval(&self, request: &EvalRequest<'_>) -> Result<String, EvalFailure> {
        let fail = |error: std::io::Error| EvalFailure(error.to_string());
        #[expect(clippy::disallowed_methods, reason = "a test plays the frontend")]
        let mut child = Command::new("sh")
            .args(["-c", request.shell])
            .current_dir(&self.0)
            .envs(request.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        child.stdin.take().expect("piped").write_all(request.body.as_bytes()).ok();
        let output = child.wait_with_output().map_err(fail)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn make(shared: &Path, case: &Case) -> Result<Profile, String> {
    let dialect = if case.engine == "7" { Dialect::Rocks7 } else { Dialect::Rocks61 };
    let folders: Vec<PathBuf> = case.rolls.iter().map(|roll| shared.join(roll)).collect();
    let site = case.site.as_ref().map(|site| shared.join(site));
    let (rolls, problems) = roll::load(&folders, &LoadOptions { dialect, site, ..LoadOptions::default() });
    if problems.has_errors() {
        return Err(problems.render());
    }
    let mut attributes = Attributes::new();
    for (name, value) in &case.attrs {
        attributes.set(Scope::Host, name.clone(), value.as_str());
    }
    profile::set_host(&mut attributes, dialect, &case.root, &case.arch, &case.os, None);
    rolls.complete(&mut attributes);
    let shell = Shell(folders[0].clone());
    let eval = match case.eval.as_str() {
        "run" => Eval::Run(&shell),
        "stub" => Eval::Stub,
        _ => Eval::No,
    };
    let only: Option<Vec<String>> = case.roll.as_ref().map(|roll| match roll {
        serde_json::Value::Array(names) => names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
        other => other.as_str().unwrap_or_default().split(',').map(str::to_owned).collect(),
    });
    let request = Request { root: &case.root, attributes: &attributes, eval, only_rolls: only.as_deref() };
    profile::build(&rolls, &request).map_err(|problems| problems.render())
}

fn first_difference(got: &str, want: &str) -> String {
    let (got, want): (Vec<_>, Vec<_>) = (got.lines().collect(), want.lines().collect());
    let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
    format!("line {}: got {:?}, want {:?} ({} and {} lines)", at + 1, got.get(at), want.get(at), got.len(), want.len())
}

/// All that is wrong with one case.
fn judge(shared: &Path, folder: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let case: Case = serde_json::from_str(&read("case.json").expect("case.json")).expect("a case");
    if folder.join("jumpstart.txt").exists() {
        return Vec::new();
    }
    let made = make(shared, &case);
    if read("error.txt").is_some() {
        return made.err().map_or_else(|| vec!["it must fail, and did not".to_owned()], |_| Vec::new());
    }
    let profile = match made {
        Ok(profile) => profile,
        Err(error) => return vec![format!("it failed: {error}")],
    };
    let mut wrong = Vec::new();
    let order: Vec<&str> = profile.order().collect();
    let mut compare = |what: &str, got: &str, want: Option<String>| {
        if let Some(want) = want
            && got.trim_end() != want.trim_end()
        {
            wrong.push(format!("{what}: {}", first_difference(got, &want)));
        }
    };
    compare("order", &order.join("\n"), read("order.txt"));
    compare("packages", &profile.package_lines().join("\n"), read("packages.txt"));
    let kickstart = generate::kickstart(&profile).expect("the original prints whatever there is");
    if let Some(want) = read("kickstart.ks")
        && kickstart != want
    {
        wrong.push(format!("kickstart: {}", first_difference(&kickstart, &want)));
    }
    let position: HashMap<&str, usize> = order.iter().enumerate().map(|(i, name)| (*name, i)).collect();
    for pair in read("order-pairs.txt").unwrap_or_default().lines() {
        let (head, tail) = pair.split_once(' ').expect("two names");
        if let (Some(head_at), Some(tail_at)) = (position.get(head), position.get(tail))
            && head_at > tail_at
        {
            // With a cycle in the orders some constraint cannot hold; the sequence itself is compared above.
            if read("order.txt").is_none() {
                wrong.push(format!("{head} comes after {tail}"));
            }
        }
    }
    wrong
}

#[test]
fn the_originals_answers() {
    let Some(shared) = shared() else {
        println!("skipped: no golden cases (ROCKS_SHARED is not set)");
        return;
    };
    let mut folders: Vec<_> =
        fs::read_dir(shared.join("golden")).expect("golden").map(|entry| entry.expect("entry").path()).collect();
    folders.sort();
    let mut failures = Vec::new();
    for folder in &folders {
        for wrong in judge(&shared, folder) {
            failures.push(format!("{}: {wrong}", folder.file_name().unwrap_or_default().to_string_lossy()));
        }
    }
    assert!(!folders.is_empty());
    assert!(failures.is_empty(), "{} failures in {} cases:\n{}", failures.len(), folders.len(), failures.join("\n"));
}
