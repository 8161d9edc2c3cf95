//! The answer as text for people.

use std::fmt::Write as _;

use crate::advice::Advice;
use crate::ask::Task;
use crate::estimate::Estimate;
use crate::history::Accuracy;
use crate::turning::{Dimension, Turn};

/// Rows as columns that stand below each other: the first to the left, the others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| if i == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(ToOwned::to_owned).to_vec()
}

/// The whole answer.
#[must_use]
pub fn table(advice: &Advice) -> String {
    let ask = &advice.ask;
    let mut out = String::new();
    let what = match ask.task {
        Task::Provision => "provision",
        Task::Reconfigure => "reconfigure",
    };
    let instances = if ask.count == 1 { "instance" } else { "instances" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{what}: {} {instances} of {}, paid for {}; prices {}",
        ask.count,
        ask.instance,
        ask.run.brief(),
        advice.prices
    );
    let loss = Dimension::Loss.show(advice.link.loss);
    let _ = writeln!(out, "link: {}, {} round trip, {loss} lost\n", advice.link.rate, advice.link.rtt);
    out.push_str(&summary(advice));
    let _ = writeln!(out, "\nCHOICE by {}: {}", ask.prefer.name(), advice.choice);
    for none in &advice.unavailable {
        let _ = writeln!(out, "not {}: {}", none.method, none.reason);
    }
    out.push_str("\nCOST, US$\n");
    out.push_str(&bills(&advice.estimates));
    for estimate in &advice.estimates {
        let _ = writeln!(out, "\n{}", estimate.method.name().to_uppercase());
        out.push_str(&phases(estimate));
    }
    out.push_str("\nWHAT WOULD CHANGE THE CHOICE, all else as asked\n");
    out.push_str(&turns(advice));
    if !advice.accuracy.is_empty() {
        out.push_str("\nEARLIER PREDICTIONS\n");
        out.push_str(&accuracy(&advice.accuracy));
    }
    out
}

fn summary(advice: &Advice) -> String {
    let mut rows = vec![row(["METHOD", "TIME", "COST", "WAN"])];
    for one in &advice.estimates {
        let mark = if one.method == advice.choice { "* " } else { "  " };
        rows.push(vec![
            format!("{mark}{}", one.method),
            one.time.to_string(),
            format!("${}", one.bill.total),
            one.wan.to_string(),
        ]);
    }
    columns(&rows)
}

fn bills(estimates: &[Estimate]) -> String {
    let mut rows =
        vec![std::iter::once(String::new()).chain(estimates.iter().map(|one| one.method.to_string())).collect()];
    let of: Vec<_> = estimates.iter().map(|one| one.bill.items()).collect();
    let names = of.first().map(|items| items.map(|(name, _)| name)).unwrap_or_default();
    for (i, name) in names.into_iter().enumerate() {
        rows.push(std::iter::once(name.to_owned()).chain(of.iter().map(|items| items[i].1.to_string())).collect());
    }
    let totals = estimates.iter().map(|one| one.bill.total.to_string());
    rows.push(std::iter::once("total".to_owned()).chain(totals).collect());
    columns(&rows)
}

fn phases(estimate: &Estimate) -> String {
    let mut rows = vec![row(["phase", "starts", "takes", "from"])];
    for phase in &estimate.phases {
        let basis = match phase.samples {
            0 => "expected".to_owned(),
            1 => "1 measured".to_owned(),
            n => format!("{n} measured"),
        };
        rows.push(vec![phase.kind.name().to_owned(), phase.start.clock(), phase.takes.to_string(), basis]);
    }
    columns(&rows)
}

fn turns(advice: &Advice) -> String {
    if advice.turns.is_empty() {
        return format!("nothing that was tried: {} stays the choice\n", advice.choice);
    }
    let mut out = String::new();
    for turn in &advice.turns {
        let _ = writeln!(out, "{}", sentence(turn));
    }
    out
}

fn sentence(turn: &Turn) -> String {
    let (name, at) = (turn.dimension.name(), turn.dimension.show(turn.first));
    let end = match (turn.dimension, turn.upwards()) {
        (Dimension::Count, true) => " or more",
        (Dimension::Count, false) => " or fewer",
        (_, true) => " and above",
        (_, false) => " and below",
    };
    format!("{name}: {at}{end}: {} (until then {})", turn.to, turn.from)
}

/// Predictions beside what happened.
#[must_use]
pub fn accuracy(list: &[Accuracy]) -> String {
    let mut rows = vec![row(["at", "method", "predicted", "took", "error"])];
    for one in list {
        rows.push(vec![
            one.at.clone(),
            one.method.to_string(),
            one.predicted.to_string(),
            one.took.to_string(),
            format!("{:+.1}%", one.error_percent),
        ]);
    }
    columns(&rows)
}
