//! What people see: the table and the picture, as they were looked at and found good. `ADVISE_BLESS=1` writes them anew.

use quick_xml::Reader;
use quick_xml::events::Event;
use rocks_advise::paper::{PRICES, ROWS};
use rocks_advise::{
    Ask, Bytes, History, Image, Link, Method, Observation, PhaseKind, Prefer, PriceBook, Rate, Run, Site, Software,
    Span, Task, advise, output,
};

fn golden(name: &str, made: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("ADVISE_BLESS").is_some() {
        std::fs::write(&path, made).expect("the folder is there");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{name} is not what it was (ADVISE_BLESS=1 writes it anew):\n{made}");
}

fn question() -> (Ask, Site, PriceBook, History) {
    let mut image = Image::of(Bytes::from_gib(1.5));
    image.build = Some(180);
    let ask = Ask {
        task: Task::Provision,
        image,
        lite: None,
        added: Software::of(140, Bytes(300 << 20)),
        scripts: Span::from_seconds(12),
        count: 8,
        instance: "m7i.large".to_owned(),
        receiver: "t3.medium".to_owned(),
        run: Span::from_seconds(4 * 3600),
        keep: Span::from_seconds(86_400),
        prefer: Prefer::Balance,
    };
    let link = Link { rate: Rate::from_megabits(100), rtt: Span::from_microseconds(180_000), loss: 0.001 };
    let site = Site { link, ..Site::default() };
    let took = Span::from_seconds(25);
    let boot = Observation { phase: PhaseKind::Boot, load: Default::default(), took };
    let run = Run {
        at: "2026-05-04T10:00:00Z".to_owned(),
        method: Method::Udt,
        count: 4,
        link,
        predicted: Some(Span::from_seconds(200)),
        took: Span::from_seconds(187),
        phases: vec![boot],
    };
    let book = PriceBook::newest("us-east-1").expect("it is shipped");
    (ask, site, book, History { runs: vec![run] })
}

#[test]
fn the_table_is_as_it_was() {
    let (ask, site, book, history) = question();
    golden("table.txt", &output::table::table(&advise(&ask, &site, &book, &history).unwrap()));
}

#[test]
fn the_pictures_are_as_they_were() {
    let (ask, site, book, history) = question();
    golden("provision.svg", &output::svg::svg(&ask, &site, &book, &history).unwrap());
    let then = PriceBook::shipped(PRICES).expect("it is shipped");
    golden("paper.svg", &output::svg::svg(&ROWS[1].ask(), &Site::paper(), &then, &History::default()).unwrap());
}

#[test]
fn json_says_everything_in_plain_units() {
    let (ask, site, book, history) = question();
    let text = output::json(&advise(&ask, &site, &book, &history).unwrap()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["api_version"], "rocks/v1");
    assert_eq!(json["prices"], "aws-us-east-1-2026-06-17");
    let udt = json["estimates"].as_array().unwrap().iter().find(|one| one["method"] == "udt").unwrap();
    assert!(udt["time"].is_number() && udt["wan"].is_u64() && udt["bill"]["total"].is_string());
    let boot = udt["phases"].as_array().unwrap().iter().find(|phase| phase["kind"] == "boot").unwrap();
    assert_eq!((boot["samples"].as_u64(), boot["load"]["count"].as_u64()), (Some(1), Some(8)));
    assert!(json["turns"].as_array().is_some_and(|turns| turns.iter().all(|turn| turn["first"].is_number())));
    assert_eq!(json["accuracy"][0]["method"], "udt");
}

/// Well-formed; every number in it a number; what is drawn within the page; and told in words for who does not see it.
#[test]
fn any_picture_is_sound() {
    let (base, site, book, history) = question();
    let paper = PriceBook::shipped(PRICES).expect("it is shipped");
    let mut pictures = Vec::new();
    for (task, count, instance) in [
        (Task::Provision, 1, "m7i.large"),
        (Task::Reconfigure, 250, "t3.micro"),
        (Task::Provision, 10_000, "c7i.xlarge"),
    ] {
        let ask = Ask { task, count, instance: instance.to_owned(), ..base.clone() };
        pictures.push(output::svg::svg(&ask, &site, &book, &history).unwrap());
    }
    for row in &ROWS {
        pictures.push(output::svg::svg(&row.ask(), &Site::paper(), &paper, &History::default()).unwrap());
    }
    let mut odd = base.clone();
    (odd.image, odd.added, odd.run, odd.keep) = (Image::of(Bytes(0)), Software::default(), Span::ZERO, Span::ZERO);
    pictures.push(output::svg::svg(&odd, &site, &book, &History::default()).unwrap());
    for svg in pictures {
        assert!(svg.contains("role=\"img\" aria-labelledby=\"title desc\""));
        assert!(svg.contains("prefers-color-scheme:dark"));
        assert!(!svg.contains("NaN") && !svg.contains("inf\"") && !svg.contains("inf,"), "{svg}");
        let (mut depth, mut lines, mut desc) = (0_i32, 0, String::new());
        let mut within = String::new();
        let mut reader = Reader::from_str(&svg);
        loop {
            match reader.read_event().expect("well-formed") {
                Event::Start(tag) => {
                    depth += 1;
                    within = tag.name().as_ref().to_owned();
                    if within == "polyline" {
                        lines += 1;
                        let points = tag.try_get_attribute("points").unwrap().expect("a line has points");
                        for point in points.value.split(' ') {
                            let (x, y) = point.split_once(',').expect("x,y");
                            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                            assert!((0.0..=960.0).contains(&x) && (123.9..=404.1).contains(&y), "{point}");
                        }
                    }
                }
                Event::End(_) => depth -= 1,
                Event::Text(text) if within == "desc" => desc.push_str(&text),
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        assert!(lines >= 6, "two plots of three lines at least: {lines}");
        assert!(desc.contains("takes") && desc.contains("The choice by balance is"), "{desc}");
    }
}
