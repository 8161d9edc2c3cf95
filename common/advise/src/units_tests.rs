use proptest::prelude::*;

use super::*;

#[test]
fn money_is_read_and_written_exactly() {
    for (text, pico) in
        [("0.065", 65_000_000_000), ("1", PICO), (".5", PICO / 2), ("0.0000004", 400_000), ("-2.5", -5 * PICO / 2)]
    {
        assert_eq!(text.parse::<Money>().unwrap(), Money::from_picodollars(pico), "{text}");
    }
    for bad in ["", ".", "1,5", "$1", "1e3", "0.0000000000001", "--1"] {
        assert!(bad.parse::<Money>().is_err(), "{bad}");
    }
    let money: Money = "0.08166".parse().unwrap();
    assert_eq!(
        (money.to_string(), format!("{money:.2}"), format!("{money:>8.3}")),
        ("0.0817".into(), "0.08".into(), "   0.082".into())
    );
    assert_eq!("-0.00001".parse::<Money>().unwrap().to_string(), "0.0000");
    assert_eq!(serde_json::to_string(&money).unwrap(), "\"0.08166\"");
    assert_eq!(serde_json::to_string(&Money::ZERO).unwrap(), "\"0\"");
}

#[test]
fn a_number_in_a_file_is_the_text_that_was_written() {
    for text in ["0.065", "0.1", "0.0104", "0.08925", "3"] {
        assert_eq!(serde_json::from_str::<Money>(text).unwrap(), text.parse().unwrap());
    }
}

#[test]
fn a_month_of_hours_costs_a_month() {
    let month: Money = "0.095".parse().unwrap();
    assert_eq!(month.share(730 * 3600, 730 * 3600), month);
    // 720 of 2160 parts of 10 cents: a third, rounded once.
    assert_eq!("0.10".parse::<Money>().unwrap().share(720, 2160).picodollars(), 33_333_333_333);
    assert_eq!(Money::from_picodollars(5).share(1, 2).picodollars(), 3);
    assert_eq!(Money::from_picodollars(-5).share(1, 2).picodollars(), -3);
    assert_eq!(month.share(1, 0), Money::ZERO);
}

#[test]
fn sizes_times_and_rates_are_read() {
    assert_eq!("2.5GiB".parse::<Bytes>().unwrap(), Bytes(2_684_354_560));
    assert_eq!("10 MB".parse::<Bytes>().unwrap(), Bytes(10_000_000));
    assert_eq!("4096".parse::<Bytes>().unwrap(), Bytes(4096));
    assert_eq!("2.0".parse::<Bytes>().unwrap(), Bytes(2));
    assert!("1.5".parse::<Bytes>().unwrap_err().to_string().contains("1.5GiB"), "a part of a byte");
    assert!("0.5 B".parse::<Bytes>().is_err());
    assert_eq!("180ms".parse::<Span>().unwrap().microseconds(), 180_000);
    assert_eq!("1.5 h".parse::<Span>().unwrap(), Span::from_seconds(5400));
    assert_eq!("100Mbit/s".parse::<Rate>().unwrap(), Rate::from_megabits(100));
    assert_eq!("1G".parse::<Rate>().unwrap(), Rate::from_megabits(1000));
    assert_eq!("12.5MB/s".parse::<Rate>().unwrap(), Rate::from_megabits(100));
    for bad in ["-1GiB", "2 parsecs", "9999999TiB", "GiB"] {
        assert!(bad.parse::<Bytes>().is_err(), "{bad}");
    }
    assert!("12".parse::<Span>().is_err() && "0Mbit/s".parse::<Rate>().is_err() && "1mb".parse::<Rate>().is_err());
    let told = "5 h".parse::<Rate>().unwrap_err().to_string();
    assert_eq!(told, "`5 h` is no rate: write a number with kbit/s, Mbit/s, Gbit/s, kB/s, MB/s or GB/s");
}

#[test]
fn quantities_are_written_for_people() {
    assert_eq!(Span::from_seconds(1387).clock(), "23:07");
    let spans: Vec<String> = [0.18, 3.21, 59.6, 1387.0, 90_000.0, 200_000.0]
        .iter()
        .map(|s| Span::from_seconds_f64(*s).to_string())
        .collect();
    assert_eq!(spans, ["180 ms", "3.2 s", "1 min 00 s", "23 min 07 s", "25 h 00 min", "2 d 07 h"]);
    assert_eq!(Bytes::from_gib(2.2).to_string(), "2.2 GiB");
    assert_eq!((Bytes(512).to_string(), Bytes(180 << 20).to_string()), ("512 B".into(), "180 MiB".into()));
    assert_eq!(Rate::from_megabits(37).to_string(), "37 Mbit/s");
    assert_eq!(Rate::from_bits(2_500_000_000).to_string(), "2.5 Gbit/s");
}

proptest! {
    #[test]
    fn money_survives_writing_and_reading(pico in -1_000_000_000_000_000_000_i128..1_000_000_000_000_000_000) {
        let money = Money::from_picodollars(pico);
        let text = serde_json::to_string(&money).unwrap();
        prop_assert_eq!(serde_json::from_str::<Money>(&text).unwrap(), money);
    }

    #[test]
    fn sums_do_not_depend_on_their_order(items in prop::collection::vec(-1_000_000_000_000_000_i128..1_000_000_000_000_000, 0..50)) {
        let forward: Money = items.iter().map(|p| Money::from_picodollars(*p)).sum();
        let backward: Money = items.iter().rev().map(|p| Money::from_picodollars(*p)).sum();
        prop_assert_eq!(forward, backward);
    }

    #[test]
    fn shares_add_up_to_within_a_unit_each(price in 0_i128..10_000_000_000_000, a in 0_u64..1 << 40, b in 0_u64..1 << 40, whole in 1_u64..1 << 40) {
        let price = Money::from_picodollars(price);
        let share = |part: u64| price.share(u128::from(part), u128::from(whole)).picodollars();
        prop_assert!((share(a) + share(b) - share(a + b)).abs() <= 2);
        prop_assert!(share(a) <= share(a + b));
    }
}
