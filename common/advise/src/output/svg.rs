//! The answer as a picture, as the paper's Figures 4 and 5: time and cost against the number of instances, a line a method.
//!
//! It is one SVG file without scripts or other files. Colours follow the reader's light or dark scheme; lines differ in dash and
//! marker too, and lines that lie upon each other in width, so that colour alone says nothing. Everything in it is told in words.

use std::fmt::Write as _;

use crate::advice::best;
use crate::ask::{Ask, Method, Task};
use crate::estimate::{AdviseError, Estimate, estimates};
use crate::history::History;
use crate::output::scale::{Axis, whole};
use crate::prices::PriceBook;
use crate::site::Site;
use crate::turning::Dimension;
use crate::units::lossy;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 460.0;
const TOP: f64 = 124.0;
const BOTTOM: f64 = 404.0;
/// The panels' plots: left and right edge. Right of each is room for the lines' names.
const PANELS: [(f64, f64); 2] = [(64.0, 392.0), (552.0, 880.0)];
/// The figures of the paper go to 16 instances.
const INSTANCES: u64 = 16;
/// Ticks of the number of instances, about.
const TICKS: u64 = 8;
/// Points that are calculated, at most, beside those.
const POINTS: u64 = 64;

const STYLE: &str = "\
text{fill:#1b1f24;font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;font-size:12px}\
.page{fill:#fff}.faint{fill:#57606a}.grid{stroke:#d8dee4}.axis{stroke:#57606a}.title{font-size:16px;font-weight:600}\
.panel{font-weight:600;font-size:13px}.now{stroke:#8c959f;stroke-dasharray:2 3}\
.bundle{stroke:#9a3412;fill:#9a3412}.udt{stroke:#0b62a8;fill:#0b62a8}.lite{stroke:#116b3c;fill:#116b3c}\
.ebs{stroke:#8a3ffc;fill:#8a3ffc}.converge{stroke:#116b3c;fill:#116b3c}.line{fill:none}.text{stroke:none}.mark{stroke:#fff;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.faint{fill:#9da7b3}.grid{stroke:#2b323b}\
.axis{stroke:#9da7b3}.now{stroke:#6e7681}.bundle{stroke:#ff9b66;fill:#ff9b66}.udt{stroke:#6cb6ff;fill:#6cb6ff}\
.lite{stroke:#56d388;fill:#56d388}.ebs{stroke:#c9a6ff;fill:#c9a6ff}.converge{stroke:#56d388;fill:#56d388}.line{fill:none}\
.text{stroke:none}.mark{stroke:#0d1117}}";

/// Dash, width and marker of a method's line.
const fn look(method: Method) -> (&'static str, f64, char) {
    match method {
        Method::Bundle => ("9 4", 6.0, 's'),
        Method::Udt => ("none", 4.5, 'o'),
        Method::Lite | Method::Converge => ("6 3 1.5 3", 3.0, 't'),
        Method::Ebs => ("2 3", 1.8, 'd'),
    }
}

/// One method's line: its points.
struct Line {
    method: Method,
    /// Instances, seconds, dollars.
    points: Vec<(f64, f64, f64)>,
}

/// The picture.
///
/// # Errors
/// The question names an instance type without a price, or no instance.
pub fn svg(ask: &Ask, site: &Site, book: &PriceBook, history: &History) -> Result<String, AdviseError> {
    let site = site.with_history(history);
    let last = ask.count.max(INSTANCES);
    let lines = lines(ask, &site, book, last)?;
    let (now, _) = estimates(ask, &site, book)?;
    let choice = best(&now, ask.prefer).map(|best| best.method);
    let what = match ask.task {
        Task::Provision => "Provisioning",
        Task::Reconfigure => "Reconfiguration",
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" aria-labelledby=\"title desc\">\n<title id=\"title\">{what}: time and cost by method</title>\n\
         <desc id=\"desc\">{}</desc>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
        escaped(&told(ask, &now, choice))
    );
    let added = if ask.added.bytes.0 > 0 { format!(", {} of packages", ask.added.bytes) } else { String::new() };
    let title = format!("{what} {}: {} image{added}", ask.instance, ask.image.used);
    let _ = writeln!(out, "<text class=\"title\" x=\"24\" y=\"30\">{}</text>", escaped(&title));
    let link = format!(
        "{}, {} round trip, {} lost; {}",
        site.link.rate,
        site.link.rtt,
        Dimension::Loss.show(site.link.loss),
        book
    );
    let _ = writeln!(out, "<text class=\"faint\" x=\"24\" y=\"50\">{}</text>", escaped(&link));
    legend(&mut out, &lines, choice, ask);
    let longest = lines.iter().flat_map(|line| &line.points).map(|p| p.1).fold(0.0, f64::max);
    let (unit, name) = match longest {
        s if s < 180.0 => (1.0, "s"),
        s if s < 10_800.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    };
    let kept = if ask.keep == ask.run { String::new() } else { format!(" (storage: {})", ask.keep.brief()) };
    let panels: [Panel; 2] = [
        Panel { title: format!("Time until all are ready, {name}"), unit, value: |p| p.1 },
        Panel { title: format!("Cost for {}{kept}, US$", ask.run.brief()), unit: 1.0, value: |p| p.2 },
    ];
    for (panel, edges) in panels.iter().zip(PANELS) {
        panel.draw(&mut out, &lines, edges, last, ask.count);
    }
    Ok(out + "</svg>\n")
}

fn lines(ask: &Ask, site: &Site, book: &PriceBook, last: u64) -> Result<Vec<Line>, AdviseError> {
    let mut lines: Vec<Line> = Vec::new();
    let mut counts: Vec<u64> = (0..POINTS).map(|i| 1 + i * (last - 1) / (POINTS - 1)).collect();
    // The ticks too: the lines' markers stand there.
    counts.extend(whole(last, TICKS));
    counts.sort_unstable();
    counts.dedup();
    for count in counts {
        let (made, _) = estimates(&Ask { count, ..ask.clone() }, site, book)?;
        for one in made {
            let point = (lossy(count), one.time.seconds(), one.bill.total.dollars());
            match lines.iter_mut().find(|line| line.method == one.method) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { method: one.method, points: vec![point] }),
            }
        }
    }
    Ok(lines)
}

/// The picture in words.
fn told(ask: &Ask, now: &[Estimate], choice: Option<Method>) -> String {
    let mut text = format!("For {} instances: ", ask.count);
    let each: Vec<String> =
        now.iter().map(|one| format!("{} takes {} and costs ${}", one.method, one.time, one.bill.total)).collect();
    text.push_str(&each.join("; "));
    if let Some(choice) = choice {
        let _ = write!(text, ". The choice by {} is {choice}.", ask.prefer.name());
    }
    text
}

fn legend(out: &mut String, lines: &[Line], choice: Option<Method>, ask: &Ask) {
    let mut x = 24.0;
    for line in lines {
        let (dash, width, marker) = look(line.method);
        let class = line.method.name();
        let _ = writeln!(
            out,
            "<path class=\"line {class}\" d=\"M{x} 74h34\" stroke-width=\"{width}\" stroke-dasharray=\"{dash}\"/>{}",
            mark(marker, class, x + 17.0, 74.0)
        );
        let chosen = choice == Some(line.method);
        let name = match (chosen, line.method) {
            (true, method) => format!("{method}: the choice by {}", ask.prefer.name()),
            (false, method) => method.to_string(),
        };
        let weight = if chosen { " font-weight=\"600\"" } else { "" };
        let _ = writeln!(out, "<text x=\"{}\" y=\"78\"{weight}>{}</text>", x + 42.0, escaped(&name));
        x += 66.0 + if chosen { 7.1 } else { 6.6 } * lossy(name.chars().count() as u64);
    }
}

/// One plot.
struct Panel {
    title: String,
    unit: f64,
    value: fn(&(f64, f64, f64)) -> f64,
}

impl Panel {
    fn draw(&self, out: &mut String, lines: &[Line], (left, right): (f64, f64), last: u64, now: u64) {
        let value = |point: &(f64, f64, f64)| (self.value)(point) / self.unit;
        let largest = lines.iter().flat_map(|line| &line.points).map(value).fold(0.0, f64::max);
        let axis = Axis::holding(largest, 5);
        let y = |v: f64| BOTTOM - (BOTTOM - TOP) * v / axis.end();
        let span = (lossy(last) - 1.0).max(1.0);
        let x = |n: f64| left + (right - left) * (n - 1.0) / span;
        let _ = writeln!(
            out,
            "<text class=\"panel\" x=\"{}\" y=\"{}\">{}</text>",
            left - 40.0,
            TOP - 16.0,
            escaped(&self.title)
        );
        if let Some(spread) = spread(lines, &value) {
            // Lines upon each other look like a mistake; say that they are not.
            let _ = writeln!(
                out,
                "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\">at {last} all within {spread:.2}%</text>",
                left + 12.0,
                TOP + 18.0
            );
        }
        for tick in axis.values() {
            let at = y(tick);
            let class = if tick == 0.0 { "axis" } else { "grid" };
            let _ = writeln!(
                out,
                "<path class=\"{class}\" d=\"M{left:.1} {at:.1}H{right:.1}\"/><text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                at + 4.0,
                axis.text(tick)
            );
        }
        for tick in whole(last, TICKS) {
            let at = x(lossy(tick));
            let _ = writeln!(
                out,
                "<path class=\"axis\" d=\"M{at:.1} {BOTTOM:.1}v5\"/><text class=\"faint\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
                BOTTOM + 20.0
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">instances</text>",
            f64::midpoint(left, right),
            BOTTOM + 40.0
        );
        let at = x(lossy(now));
        let _ = writeln!(
            out,
            "<path class=\"now\" d=\"M{at:.1} {TOP:.1}V{BOTTOM:.1}\"><title>as asked: {now} instances</title></path>"
        );
        for line in lines {
            let (dash, width, marker) = look(line.method);
            let class = line.method.name();
            let points: Vec<String> = line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(value(p)))).collect();
            let _ = writeln!(
                out,
                "<polyline class=\"line {class}\" points=\"{}\" stroke-width=\"{width}\" stroke-dasharray=\"{dash}\" stroke-linejoin=\"round\"><title>{class}</title></polyline>",
                points.join(" ")
            );
            // A marker where the axis has a tick, so that lines that lie upon each other can be told apart.
            let shown = whole(last, TICKS);
            for point in line.points.iter().filter(|p| shown.iter().any(|tick| (lossy(*tick) - p.0).abs() < 0.5)) {
                out.push_str(&mark(marker, class, x(point.0), y(value(point))));
            }
            out.push('\n');
        }
        let ends: Vec<(f64, Method)> =
            lines.iter().filter_map(|line| Some((y(value(line.points.last()?)), line.method))).collect();
        for (end, at, method) in apart(ends) {
            let class = method.name();
            let _ = writeln!(
                out,
                "<path class=\"line {class}\" d=\"M{:.1} {end:.1}L{:.1} {at:.1}\" stroke-width=\"1\"/><text class=\"text {class}\" x=\"{:.1}\" y=\"{:.1}\">{class}</text>",
                right + 6.0,
                right + 16.0,
                right + 20.0,
                at + 4.0
            );
        }
    }
}

/// By how many percent the lines' ends differ, if that is too little to be seen.
fn spread(lines: &[Line], value: &dyn Fn(&(f64, f64, f64)) -> f64) -> Option<f64> {
    let ends = lines.iter().filter_map(|line| line.points.last()).map(value);
    let (least, most) = ends.fold((f64::INFINITY, 0.0_f64), |(least, most), v| (least.min(v), most.max(v)));
    let percent = 100.0 * (most / least - 1.0);
    (lines.len() > 1 && percent.is_finite() && percent < 2.0).then_some(percent)
}

/// Where the lines' names stand: near their ends, but not upon each other. Gives end, place, method.
fn apart(mut ends: Vec<(f64, Method)>) -> Vec<(f64, f64, Method)> {
    const GAP: f64 = 15.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut placed: Vec<(f64, f64, Method)> = Vec::new();
    for (end, method) in ends {
        let least = placed.last().map_or(f64::NEG_INFINITY, |(_, at, _)| at + GAP);
        placed.push((end, end.max(least), method));
    }
    // If they ran out at the bottom, all move up as far as they must.
    let mut most = BOTTOM;
    for (_, at, _) in placed.iter_mut().rev() {
        *at = at.min(most);
        most = *at - GAP;
    }
    placed
}

fn mark(marker: char, class: &str, x: f64, y: f64) -> String {
    let path = match marker {
        's' => format!("M{:.1} {:.1}h8v8h-8z", x - 4.0, y - 4.0),
        't' => format!("M{x:.1} {:.1}l4.6 8h-9.2z", y - 5.0),
        'd' => format!("M{x:.1} {:.1}l4 4l-4 4l-4 -4z", y - 4.0),
        _ => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
    };
    format!("<path class=\"{class} mark\" d=\"{path}\"/>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
