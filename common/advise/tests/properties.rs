//! What must hold for any question: more to do is never faster or cheaper, and a break-even point is one.

use proptest::prelude::*;
use rocks_advise::advice::{best, score};
use rocks_advise::estimate::estimates;
use rocks_advise::{
    Advice, Ask, Bytes, Dimension, Estimate, History, Image, Method, PackageSource, Prefer, PriceBook, Rate, Site,
    Software, Span, Task, advise,
};

fn now() -> PriceBook {
    PriceBook::newest("us-east-1").expect("it is shipped")
}

fn paper_book() -> PriceBook {
    PriceBook::shipped("aws-us-east-1-2013-01-30").expect("it is shipped")
}

/// A question, a site and prices, from those of today or of the paper.
fn anything() -> impl Strategy<Value = (Ask, Site, PriceBook)> {
    let sizes = (1_u64 << 20..1 << 36, 0.05_f64..1.0, prop::option::of(0.01_f64..1.0), prop::option::of(0_u64..400));
    let added = (0_u64..1500, 0_u64..1 << 33, 0_u64..300);
    let link = (1_u64..2000, 100_u64..400_000, prop_oneof![Just(0.0), 1e-6_f64..0.05]);
    let other = (1_u64..200, 1_u64..5_000_000, any::<bool>(), 0_usize..3, 0_usize..3, any::<bool>(), any::<bool>());
    (sizes, added, link, other).prop_map(|(sizes, (packages, bytes, scripts), (rate, rtt, loss), other)| {
        let (used, packed, changed, build) = sizes;
        let (count, run, paper, prefer, source, lite, reconfigure) = other;
        let used = Bytes(used);
        let mut image = Image::of(used);
        image.packed = used.scaled(packed);
        image.changed = changed.map(|share| (used.scaled(share), used.scaled(share * packed)));
        image.build = build;
        let (book, instance, mut site) = match paper {
            true => (paper_book(), "c1.medium", Site::paper()),
            false => (now(), "m7i.large", Site::default()),
        };
        site.link.rate = Rate::from_megabits(rate);
        site.link.rtt = Span::from_microseconds(rtt);
        site.link.loss = loss;
        site.packages = [PackageSource::Frontend, PackageSource::Region, PackageSource::Published][source];
        let ask = Ask {
            task: if reconfigure { Task::Reconfigure } else { Task::Provision },
            image,
            lite: lite.then(|| Image::of(Bytes(600 << 20))),
            added: Software::of(packages, Bytes(bytes)),
            scripts: Span::from_seconds(scripts),
            count,
            instance: instance.to_owned(),
            receiver: instance.to_owned(),
            run: Span::from_seconds(run),
            keep: Span::from_seconds(run),
            prefer: [Prefer::Time, Prefer::Cost, Prefer::Balance][prefer],
        };
        (ask, site, book)
    })
}

fn all(ask: &Ask, site: &Site, book: &PriceBook) -> Vec<Estimate> {
    estimates(ask, site, book).expect("the type is in the book").0
}

fn of(list: &[Estimate], method: Method) -> &Estimate {
    list.iter().find(|one| one.method == method).expect("it was among the estimates")
}

/// Every method of `less` takes no more and costs no more than that of `more`.
fn no_better(less: &[Estimate], more: &[Estimate], what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(less.len(), more.len());
    for (a, b) in less.iter().zip(more) {
        prop_assert_eq!(a.method, b.method);
        prop_assert!(a.time <= b.time, "{}: {} in {} becomes {}", what, a.method, a.time, b.time);
        // Each of the bill's shares is rounded on its own, to a 10^-12 of a dollar.
        let slack = i128::from(1000_u16);
        let (first, second) = (a.bill.total.picodollars(), b.bill.total.picodollars());
        prop_assert!(first <= second + slack, "{}: {} for {} becomes {}", what, a.method, a.bill.total, b.bill.total);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn more_is_never_faster_or_cheaper((ask, site, book) in anything(), factor in 1.01_f64..4.0) {
        let before = all(&ask, &site, &book);
        let grown = |change: &dyn Fn(&mut Ask)| {
            let mut ask = ask.clone();
            change(&mut ask);
            all(&ask, &site, &book)
        };
        let larger = |bytes: &mut Bytes| *bytes = bytes.scaled(factor);
        no_better(&before, &grown(&|ask| {
            larger(&mut ask.image.used);
            larger(&mut ask.image.packed);
            larger(&mut ask.image.disk);
            ask.image.changed = ask.image.changed.map(|(used, packed)| (used.scaled(factor), packed.scaled(factor)));
        }), "image")?;
        no_better(&before, &grown(&|ask| larger(&mut ask.image.disk)), "disk")?;
        no_better(&before, &grown(&|ask| larger(&mut ask.added.bytes)), "bytes of packages")?;
        no_better(&before, &grown(&|ask| ask.added.packages += 1), "packages")?;
        no_better(&before, &grown(&|ask| ask.image.build = ask.image.build.map(|n| n + 1)), "build")?;
        no_better(&before, &grown(&|ask| ask.count += 1), "instances")?;
        no_better(&before, &grown(&|ask| ask.run = ask.run * 2), "period")?;
        no_better(&before, &grown(&|ask| ask.keep = ask.keep * 2), "storage")?;
        no_better(&before, &grown(&|ask| ask.scripts = ask.scripts + Span::from_seconds(1)), "scripts")?;
        let slower = |change: &dyn Fn(&mut Site)| {
            let mut site = site.clone();
            change(&mut site);
            all(&ask, &site, &book)
        };
        no_better(&before, &slower(&|site| site.link.rate = Rate::from_bits((site.link.rate.as_f64() / factor) as u64)), "rate")?;
        no_better(&before, &slower(&|site| site.link.rtt = site.link.rtt * 2), "round trip")?;
        no_better(&before, &slower(&|site| site.link.loss = (site.link.loss + 1e-4) * factor), "loss")?;
    }

    #[test]
    fn a_bill_is_the_sum_of_its_items_and_phases_make_the_time((ask, site, book) in anything()) {
        for one in all(&ask, &site, &book) {
            prop_assert_eq!(one.bill.items().into_iter().map(|(_, money)| money).sum::<rocks_advise::Money>(), one.bill.total);
            prop_assert!(one.bill.items().iter().all(|(_, money)| money.picodollars() >= 0));
            prop_assert_eq!(one.phases.iter().map(|phase| phase.end()).max().unwrap_or_default(), one.time);
            prop_assert!(one.time.seconds().is_finite());
        }
    }

    #[test]
    fn the_choice_is_the_best((ask, site, book) in anything()) {
        let advice = advise(&ask, &site, &book, &History::default()).unwrap();
        let least = advice.estimates.iter().map(|one| score(one, ask.prefer)).fold(f64::INFINITY, f64::min);
        prop_assert_eq!(score(advice.chosen().unwrap(), ask.prefer), least);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// On its near side the choice is as asked, on its far side the other, and there is nothing between.
    #[test]
    fn methods_cross_where_they_break_even((ask, site, book) in anything()) {
        let advice = advise(&ask, &site, &book, &History::default()).unwrap();
        for turn in &advice.turns {
            let at = |value: f64| {
                let (ask, site) = turn.dimension.with(&ask, &site, value);
                all(&ask, &site, &book)
            };
            let (near, far) = (at(turn.last), at(turn.first));
            prop_assert_eq!(best(&near, ask.prefer).unwrap().method, turn.from, "{:?}", turn);
            prop_assert_eq!(best(&far, ask.prefer).unwrap().method, turn.to, "{:?}", turn);
            let ahead = |list: &[Estimate]| score(of(list, turn.to), ask.prefer) - score(of(list, turn.from), ask.prefer);
            prop_assert!(ahead(&near) >= 0.0 && ahead(&far) <= 0.0, "{:?}: {} and {}", turn, ahead(&near), ahead(&far));
            match turn.dimension {
                Dimension::Count => prop_assert_eq!((turn.first - turn.last).abs(), 1.0),
                // As fine as the dimension's grain: a millionth, or a few bytes, bits or microseconds.
                dimension => {
                    let grain = match dimension {
                        Dimension::Rtt => 2e-6,
                        Dimension::Loss => 0.0,
                        _ => 2.0,
                    };
                    let apart = (turn.first - turn.last).abs();
                    prop_assert!(apart <= 2e-6 * turn.first.max(turn.last) + grain, "{:?}", turn);
                }
            }
            // Time does not jump along the link's dimensions: the two take the same there.
            if ask.prefer == Prefer::Time && matches!(turn.dimension, Dimension::Rate | Dimension::Loss) {
                let (a, b) = (of(&far, turn.from).time.seconds(), of(&far, turn.to).time.seconds());
                prop_assert!((a - b).abs() <= 1e-3 * a.max(b) + 1e-3, "{:?}: {} and {}", turn, a, b);
            }
        }
    }
}

fn example() -> Advice {
    let mut image = Image::of(Bytes::from_gib(1.5));
    image.build = None;
    let ask = Ask {
        task: Task::Provision,
        image,
        lite: None,
        added: Software::of(100, Bytes(100 << 20)),
        scripts: Span::ZERO,
        count: 4,
        instance: "m7i.large".to_owned(),
        receiver: "t3.medium".to_owned(),
        run: Span::from_seconds(3600),
        keep: Span::from_seconds(3600),
        prefer: Prefer::Time,
    };
    advise(&ask, &Site::default(), &now(), &History::default()).expect("the type is in the book")
}

/// The paper's finding in today's terms: `lite` is the fastest while little is added, and a break-even point says how much that is.
#[test]
fn lite_is_the_choice_while_little_is_added() {
    let advice = example();
    assert_eq!(advice.choice, Method::Lite);
    let turn = advice
        .turns
        .iter()
        .find(|turn| turn.dimension == Dimension::Added && turn.upwards())
        .expect("more is too much");
    assert!(turn.to != Method::Lite && turn.first > advice.ask.added.bytes.as_f64());
    assert!(turn.first > advice.ask.image.packed.as_f64() / 2.0, "{turn:?}");
}

/// Published in the region, packages cross the WAN once: 16 instances take no more than a tenth longer than one.
#[test]
fn the_region_keeps_lite_flat_and_the_frontend_does_not() {
    let (ask, book) = (example().ask, now());
    let time = |count: u64, packages: PackageSource| {
        let site = Site { packages, ..Site::default() };
        of(&all(&Ask { count, ..ask.clone() }, &site, &book), Method::Lite).time.seconds()
    };
    assert!(time(16, PackageSource::Region) <= 1.1 * time(1, PackageSource::Region));
    assert!(time(16, PackageSource::Frontend) > 1.5 * time(1, PackageSource::Frontend));
}

#[test]
fn what_is_not_offered_is_said() {
    let mut ask = example().ask;
    ask.instance = "c1.xlarge".to_owned();
    ask.receiver = "m1.small".to_owned();
    let advice = advise(&ask, &Site::paper(), &paper_book(), &History::default()).unwrap();
    assert_eq!(advice.unavailable.len(), 1);
    assert_eq!((advice.unavailable[0].method, advice.estimates.len()), (Method::Ebs, 3));
    ask.count = 0;
    assert_eq!(
        advise(&ask, &Site::paper(), &paper_book(), &History::default()).unwrap_err().to_string(),
        "a provision is of one instance at least"
    );
}
