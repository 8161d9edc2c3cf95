//! The paper's tables, the setup that they were measured in, and how far the model is from each cell.
//!
//! "Improved Virtual Machine Cloud Provisioning", Tables I (time) and II (cost). `docs/advisor.md` says where each figure of
//! the setup is from.

use std::fmt::Write as _;

use crate::ask::{Ask, Image, Method, Prefer, Software, Task};
use crate::estimate::{AdviseError, Estimate, estimates};
use crate::history::Learned;
use crate::link::Link;
use crate::prices::PriceBook;
use crate::site::{Cloud, Cut, PackageSource, Site};
use crate::units::{Bytes, GIB, Money, Rate, Span};

/// The methods of the tables, in their columns' order, and what the paper calls them.
pub const METHODS: [(Method, &str); 3] =
    [(Method::Bundle, "standard"), (Method::Udt, "option 1"), (Method::Lite, "option 2")];

/// The shipped price book with the paper's prices.
pub const PRICES: &str = "aws-us-east-1-2013-01-30";

/// The disk of the paper's virtual machines. From Table II: what is constant in it is what three volumes of this size cost for
/// a day (option 1), and a PUT for each 10 MB of it (standard).
const DISK: Bytes = Bytes(10 * GIB);

/// Bytes of packages for each byte that an image is larger than the lite one. Fitted.
const PACKED: f64 = 0.6;

/// A row of the tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// What the paper calls it.
    pub name: &'static str,
    /// The appliance, in [`APPLIANCES`].
    pub appliance: usize,
    /// The instance type.
    pub instance: &'static str,
    /// Table I, in seconds, by [`METHODS`].
    pub seconds: [u64; 3],
    /// Table II, in ten-thousandths of a dollar, by [`METHODS`].
    pub cost: [i128; 3],
    /// Whether the row of Table II is the paper's own for these conditions.
    pub cost_holds: bool,
}

/// An appliance of the paper: name, GiB of its image, packages that its kickstart names.
pub const APPLIANCES: [(&str, f64, u64); 3] = [("lite", 2.2, 46), ("compute", 3.9, 184), ("development", 4.2, 324)];

/// The rows of Tables I and II. The row "small instance" of Table II repeats the lite row, where Table I has the compute
/// appliance: it is shown, and does not count.
pub const ROWS: [Row; 6] = [
    row("lite appliance", 0, "m1.small", [1387, 863, 866], [817, 2530, 2530], true),
    row("compute appliance", 1, "m1.small", [2523, 1584, 1608], [870, 2734, 2734], true),
    row("development server", 2, "m1.small", [3019, 1894, 2069], [879, 2761, 2761], true),
    row("small instance", 1, "m1.small", [2523, 1584, 1618], [817, 2530, 2530], false),
    row("high-CPU medium", 1, "c1.medium", [2510, 1537, 1557], [1870, 4695, 4695], true),
    row("high-CPU extra large", 1, "c1.xlarge", [2429, 1503, 1512], [6829, 14621, 14621], true),
];

const fn row(
    name: &'static str,
    appliance: usize,
    instance: &'static str,
    seconds: [u64; 3],
    cost: [i128; 3],
    cost_holds: bool,
) -> Row {
    Row { name, appliance, instance, seconds, cost, cost_holds }
}

impl Site {
    /// The paper's setup: a frontend with four cores of 1.6 GHz at UCSD, and EC2 US East of January 2013.
    #[must_use]
    pub fn paper() -> Self {
        // UCSD to Virginia and back takes about 70 ms. Rate and loss are fitted: they are what UDT and one TCP stream made of it.
        let link = Link { rate: Rate::from_megabits(37), rtt: Span::from_microseconds(70_000), loss: 0.000_107 };
        // Fitted; one figure for both, because installing waits for the disk and for scripts, here as there.
        let package = Span::from_seconds(2);
        Self {
            link,
            build_package: package,
            install_package: package,
            // tar, gzip and AES behind each other, on one such core.
            bundle: Rate::from_megabytes(11),
            part: Bytes(10_000_000),
            cut: Cut::Disk,
            // A connection of its own for each part: TCP's and TLS's greetings.
            part_trips: 3.0,
            packages: PackageSource::Frontend,
            // yum of then: one after the other; a named package brings others with it, each with its request.
            fetch_flows: 1,
            fetch_trips: 8.0,
            overlap: false,
            receiver_root: DISK,
            keep_receiver_volumes: true,
            // Small files through ext3 and its journal: some three blocks of 4 KiB. Fitted to Table II's cost of a GB.
            io_request: Bytes(12 << 10),
            cloud: Cloud {
                boot: Span::from_seconds(30),
                boot_work: Span::from_seconds(40),
                volume: Span::from_seconds(30),
                volume_write: Rate::from_megabytes(40),
                snapshot: Span::from_seconds(10),
                snapshot_rate: Rate::from_megabytes(50),
                register: Span::from_seconds(5),
                import: None,
                region: Link { rate: Rate::from_megabits(250), rtt: Span::from_microseconds(1000), loss: 0.0 },
            },
            learned: Learned::default(),
        }
    }
}

/// An appliance's image. It was sent as it is, and a tree of files leaves nothing out: compressed is what is in use.
fn image(appliance: usize) -> Image {
    let (_, gib, packages) = APPLIANCES[appliance];
    let used = Bytes::from_gib(gib);
    Image { disk: DISK, used, packed: used, changed: None, build: Some(packages) }
}

impl Row {
    /// The question that the row answers: one instance, an hour of it, a day of storage.
    #[must_use]
    pub fn ask(&self) -> Ask {
        let ((_, gib, packages), (_, lite_gib, lite_packages)) = (APPLIANCES[self.appliance], APPLIANCES[0]);
        let installed = Bytes::from_gib(gib - lite_gib);
        Ask {
            task: Task::Provision,
            image: image(self.appliance),
            lite: Some(image(0)),
            added: Software { packages: packages - lite_packages, bytes: installed.scaled(PACKED), installed },
            scripts: Span::ZERO,
            count: 1,
            instance: self.instance.to_owned(),
            receiver: self.instance.to_owned(),
            run: Span::from_seconds(3600),
            keep: Span::from_seconds(86_400),
            prefer: Prefer::default(),
        }
    }

    /// The model's estimates, by [`METHODS`].
    ///
    /// # Errors
    /// The price book has no such type.
    pub fn model(&self, site: &Site, book: &PriceBook) -> Result<Vec<Estimate>, AdviseError> {
        let (mut made, _) = estimates(&self.ask(), site, book)?;
        made.retain(|one| METHODS.iter().any(|(method, _)| *method == one.method));
        Ok(made)
    }
}

/// A cell of a table beside the model's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// The row.
    pub row: &'static Row,
    /// What the paper calls the method.
    pub method: &'static str,
    /// The paper's time and the model's.
    pub time: (Span, Span),
    /// The paper's cost and the model's.
    pub cost: (Money, Money),
}

impl Cell {
    /// By how many percent the model's time is above the paper's.
    #[must_use]
    pub fn time_residual(&self) -> f64 {
        100.0 * (self.time.1.seconds() / self.time.0.seconds() - 1.0)
    }

    /// By how many percent the model's cost is above the paper's.
    #[must_use]
    pub fn cost_residual(&self) -> f64 {
        100.0 * (self.cost.1.dollars() / self.cost.0.dollars() - 1.0)
    }
}

/// All cells, with this setup and these prices.
///
/// # Errors
/// The price book lacks one of the paper's instance types.
pub fn cells(site: &Site, book: &PriceBook) -> Result<Vec<Cell>, AdviseError> {
    let mut cells = Vec::new();
    for row in &ROWS {
        for (i, estimate) in row.model(site, book)?.into_iter().enumerate() {
            // Ten-thousandths of a dollar.
            let cost = Money::from_picodollars(row.cost[i] * 100_000_000);
            cells.push(Cell {
                row,
                method: METHODS[i].1,
                time: (Span::from_seconds(row.seconds[i]), estimate.time),
                cost: (cost, estimate.bill.total),
            });
        }
    }
    Ok(cells)
}

/// Both tables beside the model, as Markdown that reads well as text.
#[must_use]
pub fn render(cells: &[Cell]) -> String {
    let mut out = String::new();
    let head: Vec<String> = METHODS.iter().map(|(method, name)| format!("{name} (`{method}`)")).collect();
    for time in [true, false] {
        let title = if time { "Table I, min:s" } else { "Table II, US$" };
        let _ = writeln!(out, "| {title:<20} | {:<27} | {:<27} | {:<27} |", head[0], head[1], head[2]);
        let _ = writeln!(out, "|:{0:-<20}-|:{0:-<27}-|:{0:-<27}-|:{0:-<27}-|", "");
        for row in cells.chunks(METHODS.len()) {
            let text = |cell: &Cell| {
                if time {
                    let (paper, model) = (cell.time.0.clock(), cell.time.1.clock());
                    format!("{paper} → {model} ({:+.1}%)", cell.time_residual())
                } else if cell.row.cost_holds {
                    format!("{} → {} ({:+.1}%)", cell.cost.0, cell.cost.1, cell.cost_residual())
                } else {
                    format!("{} → {} (see note)", cell.cost.0, cell.cost.1)
                }
            };
            let cells: Vec<String> = row.iter().map(text).collect();
            let name = row.first().map_or("", |cell| cell.row.name);
            let _ = writeln!(out, "| {name:<20} | {:<27} | {:<27} | {:<27} |", cells[0], cells[1], cells[2]);
        }
        out.push('\n');
    }
    out.push_str("paper → model (model above paper). Note: that row of Table II repeats the lite row, where Table I has the compute appliance.\n");
    out
}
