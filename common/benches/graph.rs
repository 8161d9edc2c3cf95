//! How long it takes to read rolls and to render profiles, on one core.
//!
//! With the real Rocks 7 rolls (`$ROCKS_SHARED`, else `../shared` beside the repository) when they are there, else with the product's own.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rocks_common::attr::{Attributes, Scope};
use rocks_common::dialect::Dialect;
use rocks_common::generate;
use rocks_common::ids::AttrName;
use rocks_common::node::Eval;
use rocks_common::plan::{Applied, Inventory, Policy, plan};
use rocks_common::profile::{self, Request};
use rocks_common::roll::{self, LoadOptions, RollSet};

struct Case {
    name: &'static str,
    folders: Vec<PathBuf>,
    all: Vec<PathBuf>,
    dialect: Dialect,
    root: String,
    attributes: Vec<(AttrName, String)>,
}

fn case() -> Case {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared =
        std::env::var_os("ROCKS_SHARED").map_or_else(|| here.join("../../shared"), PathBuf::from).join("rocks");
    let folders = |below: &Path| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(below)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.join("graphs").is_dir())
            .collect();
        all.sort();
        all
    };
    let golden = std::fs::read_to_string(shared.join("golden/r7-compute-full/case.json")).ok();
    if let Some(golden) = golden.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()) {
        let list = golden["rolls"].as_array().cloned().unwrap_or_default();
        let attributes: BTreeMap<AttrName, String> =
            serde_json::from_value(golden["attrs"].clone()).unwrap_or_default();
        return Case {
            name: "the real Rocks 7 rolls, compute appliance",
            folders: list.iter().filter_map(|r| r.as_str()).map(|r| shared.join(r)).collect(),
            all: folders(&shared.join("rolls")),
            dialect: Dialect::Rocks7,
            root: "compute".to_owned(),
            attributes: attributes.into_iter().collect(),
        };
    }
    let own = folders(&here.join("../graphs"));
    let set = [("hostname", "h"), ("frontend_url", "https://fe:8443"), ("vim", "yes"), ("java", "yes")];
    Case {
        name: "the product's rolls, development server",
        folders: own.clone(),
        all: own,
        dialect: Dialect::Modern,
        root: "devel-server".to_owned(),
        attributes: set.iter().filter_map(|(n, v)| Some((AttrName::new(n).ok()?, (*v).to_owned()))).collect(),
    }
}

fn attributes(case: &Case, rolls: &RollSet, hostname: &str) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, value) in &case.attributes {
        attributes.set(Scope::Global, name.clone(), value.as_str());
    }
    if let Ok(name) = AttrName::new("hostname") {
        attributes.set(Scope::Host, name, hostname);
    }
    profile::set_host(&mut attributes, case.dialect, &case.root, "x86_64", "linux", None);
    rolls.complete(&mut attributes);
    attributes
}

fn render(case: &Case, rolls: &RollSet, attributes: &Attributes) -> usize {
    let request = Request { root: &case.root, attributes, eval: Eval::Stub, only_rolls: None };
    profile::build(rolls, &request).ok().and_then(|p| generate::kickstart(&p).ok()).map_or(0, |text| text.len())
}

fn benches(criterion: &mut Criterion) {
    let case = case();
    let options = LoadOptions { dialect: case.dialect, ..LoadOptions::default() };
    let mut group = criterion.benchmark_group(case.name);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3)).sample_size(20);
    group.bench_function(format!("parse {} rolls", case.all.len()), |b| {
        b.iter(|| black_box(roll::load(&case.all, &options)))
    });
    let (rolls, _) = roll::load(&case.folders, &options);
    let one = attributes(&case, &rolls, "compute-0-0");
    assert!(render(&case, &rolls, &one) > 0, "the profile cannot be rendered");
    group.bench_function("render one profile", |b| b.iter(|| black_box(render(&case, &rolls, &one))));
    let hosts: Vec<Attributes> = (0..200).map(|i| attributes(&case, &rolls, &format!("compute-0-{i}"))).collect();
    group.bench_function("render 200 hosts that differ in their names", |b| {
        b.iter(|| hosts.iter().map(|host| render(&case, &rolls, host)).sum::<usize>());
    });
    let request = Request { root: &case.root, attributes: &one, eval: Eval::Stub, only_rolls: None };
    let text = profile::build(&rolls, &request).ok().and_then(|p| generate::kickstart(&p).ok()).unwrap_or_default();
    let source = rocks_common::diag::Source::new("k", text);
    group.bench_function("read that kickstart and plan from nothing", |b| {
        b.iter(|| {
            let (kickstart, _) = rocks_common::kickstart::parse(&source, &mut rocks_common::kickstart::NoIncludes);
            black_box(plan(&kickstart, &Applied::default(), &Inventory::default(), &Policy::default()))
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
