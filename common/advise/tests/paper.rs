//! The model beside the paper's tables, cell by cell, and beside the document that derives it.

use rocks_advise::estimate::estimates;
use rocks_advise::paper::{self, Cell, METHODS, PRICES, ROWS};
use rocks_advise::{Method, PriceBook, Rate, Site, Span};

/// How far a cell may be off.
const PERCENT: f64 = 6.0;

fn cells() -> Vec<Cell> {
    paper::cells(&Site::paper(), &PriceBook::shipped(PRICES).expect("it is shipped")).expect("its types are in it")
}

fn cell(row: &str, method: &str) -> Cell {
    let found = cells().into_iter().find(|cell| cell.row.name == row && cell.method == method);
    found.expect("there is such a cell")
}

/// One test for each cell, so that the one that is off says its name.
macro_rules! within {
    ($($name:ident: $residual:ident($row:expr, $method:expr);)*) => {$(
        #[test]
        fn $name() {
            let off = cell($row, $method).$residual();
            assert!(off.abs() <= PERCENT, "{}, {}: {off:+.2}%", $row, $method);
        }
    )*};
}

within! {
    time_lite_standard: time_residual("lite appliance", "standard");
    time_lite_option_1: time_residual("lite appliance", "option 1");
    time_lite_option_2: time_residual("lite appliance", "option 2");
    time_compute_standard: time_residual("compute appliance", "standard");
    time_compute_option_1: time_residual("compute appliance", "option 1");
    time_compute_option_2: time_residual("compute appliance", "option 2");
    time_development_standard: time_residual("development server", "standard");
    time_development_option_1: time_residual("development server", "option 1");
    time_development_option_2: time_residual("development server", "option 2");
    time_small_standard: time_residual("small instance", "standard");
    time_small_option_1: time_residual("small instance", "option 1");
    time_small_option_2: time_residual("small instance", "option 2");
    time_medium_standard: time_residual("high-CPU medium", "standard");
    time_medium_option_1: time_residual("high-CPU medium", "option 1");
    time_medium_option_2: time_residual("high-CPU medium", "option 2");
    time_extra_large_standard: time_residual("high-CPU extra large", "standard");
    time_extra_large_option_1: time_residual("high-CPU extra large", "option 1");
    time_extra_large_option_2: time_residual("high-CPU extra large", "option 2");
    cost_lite_standard: cost_residual("lite appliance", "standard");
    cost_lite_option_1: cost_residual("lite appliance", "option 1");
    cost_lite_option_2: cost_residual("lite appliance", "option 2");
    cost_compute_standard: cost_residual("compute appliance", "standard");
    cost_compute_option_1: cost_residual("compute appliance", "option 1");
    cost_compute_option_2: cost_residual("compute appliance", "option 2");
    cost_development_standard: cost_residual("development server", "standard");
    cost_development_option_1: cost_residual("development server", "option 1");
    cost_development_option_2: cost_residual("development server", "option 2");
    cost_medium_standard: cost_residual("high-CPU medium", "standard");
    cost_medium_option_1: cost_residual("high-CPU medium", "option 1");
    cost_medium_option_2: cost_residual("high-CPU medium", "option 2");
    cost_extra_large_standard: cost_residual("high-CPU extra large", "standard");
    cost_extra_large_option_1: cost_residual("high-CPU extra large", "option 1");
    cost_extra_large_option_2: cost_residual("high-CPU extra large", "option 2");
}

#[test]
fn every_cell_is_there_and_one_row_repeats_another() {
    assert_eq!(cells().len(), ROWS.len() * METHODS.len());
    let (lite, small) = (&ROWS[0], &ROWS[3]);
    assert_eq!(lite.cost, small.cost, "which is why the row does not count");
    assert_eq!(ROWS.iter().filter(|row| !row.cost_holds).map(|row| row.name).collect::<Vec<_>>(), ["small instance"]);
}

/// What the paper says in words: option 1 takes 35% less time than standard, option 2 a little more than option 1.
#[test]
fn what_the_paper_says_in_words_holds() {
    for row in &ROWS {
        let [standard, one, two] =
            ["standard", "option 1", "option 2"].map(|method| cell(row.name, method).time.1.seconds());
        let less = 100.0 * (1.0 - one / standard);
        assert!((30.0..45.0).contains(&less), "{}: {less:.0}% less", row.name);
        assert!(two >= one * 0.999 && two < one * 1.15, "{}: {one:.0} s and {two:.0} s", row.name);
    }
}

fn squares(site: &Site) -> f64 {
    let book = PriceBook::shipped(PRICES).expect("it is shipped");
    paper::cells(site, &book).expect("its types are in it").iter().map(|cell| cell.time_residual().powi(2)).sum()
}

/// The fitted figures are where least squares puts them: moving any by a tenth makes the sum of squares larger.
#[test]
fn the_fitted_parameters_are_at_the_optimum() {
    let site = Site::paper();
    let best = squares(&site);
    let book = PriceBook::shipped(PRICES).expect("it is shipped");
    // The bytes of packages are in the questions, not in the site.
    let option_2 = |factor: f64| -> f64 {
        ROWS.iter()
            .map(|row| {
                let mut ask = row.ask();
                ask.added.bytes = ask.added.bytes.scaled(factor);
                let (made, _) = estimates(&ask, &site, &book).expect("its types are in it");
                let lite = made.iter().find(|one| one.method == Method::Lite).expect("it is in question");
                (lite.time.seconds() / Span::from_seconds(row.seconds[2]).seconds() - 1.0).powi(2)
            })
            .sum()
    };
    let rate = |factor: f64| Rate::from_bits((site.link.rate.as_f64() * factor) as u64);
    for factor in [0.9, 1.1] {
        let mut moved = site.clone();
        moved.link.rate = rate(factor);
        assert!(squares(&moved) > best, "rate x {factor}");
        let mut moved = site.clone();
        moved.link.loss *= factor;
        assert!(squares(&moved) > best, "loss x {factor}");
        let mut moved = site.clone();
        moved.build_package = Span::from_seconds_f64(site.build_package.seconds() * factor);
        moved.install_package = moved.build_package;
        assert!(squares(&moved) > best, "package x {factor}");
        assert!(option_2(factor) > option_2(1.0), "packages' bytes x {factor}");
    }
}

/// The tables in `docs/advisor.md` are these.
#[test]
fn the_document_shows_what_the_model_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/advisor.md");
    let text = std::fs::read_to_string(path).expect("docs/advisor.md is there");
    let made = paper::render(&cells());
    for line in made.lines().filter(|line| !line.is_empty()) {
        assert!(text.contains(line), "docs/advisor.md lacks or has otherwise: {line}\n\nit should have\n\n{made}");
    }
}
