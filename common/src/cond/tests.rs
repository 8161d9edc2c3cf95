use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Map(BTreeMap<&'static str, &'static str>);

impl Lookup for Map {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
}

fn attributes() -> Map {
    Map(BTreeMap::from([
        ("t", "true"),
        ("f", "No"),
        ("i", "7"),
        ("z", "0"),
        ("fl", "7.0"),
        ("ver", "6.1.1"),
        ("s", "hello"),
        ("e", ""),
        ("sp", " 5 "),
        ("exp", "1e3"),
        ("hex", "0x10"),
        ("us", "1_0"),
        ("neg", "-3"),
        ("nan", "nan"),
        ("arch", "x86_64"),
    ]))
}

fn holds(text: &str, semantics: Semantics) -> Result<bool, EvalError> {
    let cond = Cond::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    cond.holds(&attributes(), semantics)
}

#[test]
fn the_originals_truth() {
    for (text, truth) in [
        ("t", true),
        ("not f", true),
        ("z", false),
        ("e", false),
        ("missing", false),
        ("i == 7", true),
        ("i == '7'", false),
        ("t == 'true'", false),
        ("t == True", false),
        ("True", false),
        ("not None", true),
        ("missing is None", true),
        ("missing < 7", true),
        ("missing >= 7", false),
        ("ver >= 7", true),
        ("ver > 100", true),
        ("fl == 7", true),
        ("sp == 5", true),
        ("exp == 1000", true),
        ("hex == '0x10'", true),
        ("us == '1_0'", true),
        ("nan == nan", false),
        ("1 < i < 8", true),
        ("1 < i < 7", false),
        ("s in ['hello', 'x']", true),
        ("'ell' in s", true),
        ("i in (1, 7)", true),
        ("i % 2", true),
        ("i / 2 == 3", true),
        ("i / 2.0 == 3.5", true),
        ("-neg == 3", true),
        ("s.startswith('he')", true),
        ("'a' if t else ''", true),
        ("s > i", true),
        (" arch=='x86_64' ", true),
        ("t and f or i", true),
        ("i <> 8", true),
        ("s not in ['x']", true),
        ("not (missing >= 7)", true),
        ("e is not None", true),
        ("-7 / 2 == -4", true),
        ("-7 % 3 == 2", true),
    ] {
        assert_eq!(holds(text, Semantics::Python2), Ok(truth), "{text}");
    }
    assert!(holds("missing + 1", Semantics::Python2).is_err());
    assert!(holds("i / z", Semantics::Python2).is_err());
}

#[test]
fn our_truth_refuses_surprises() {
    assert_eq!(holds("t == True", Semantics::Strict), Ok(true));
    assert_eq!(holds("missing < 7", Semantics::Strict), Ok(false));
    assert_eq!(holds("ver >= 7", Semantics::Strict), Err(EvalError::TextWithNumber("6.1.1".into())));
    assert_eq!(holds("ver >= '6'", Semantics::Strict), Ok(true));
    assert_eq!(holds("ver == 7", Semantics::Strict), Ok(false));
}

#[test]
fn what_is_outside_the_grammar_has_a_place() {
    for (text, start) in
        [("a and", 5), ("a b", 2), ("( and x )", 2), ("a = b", 2), ("'x", 0), ("a $ b", 2), ("f(x)", 1), ("1x", 0)]
    {
        let error = Cond::parse(text).expect_err(text);
        assert_eq!(error.span.start, start, "{text}: {error}");
    }
    assert!(Cond::parse(&"(".repeat(2000)).is_err());
    assert!(Cond::parse(&"x ".repeat(limits::COND_BYTES)).is_err());
}

#[test]
fn the_parts_are_glued_as_text_or_kept_apart() {
    let glued = glued_text(Some("x86_64"), None, None, Some("a or b"));
    assert_eq!(glued, "( arch==\"x86_64\" ) and a or b");
    assert_eq!(
        glued_text(Some(" i386, x86_64"), Some("linux"), None, None),
        "( arch==\"i386\" or arch==\"x86_64\" ) and ( os==\"linux\" )"
    );
    let apart =
        Cond::all(vec![Cond::one_of("arch", "i386"), Cond::parse("a or b").expect("a condition")]).expect("two");
    let map = Map(BTreeMap::from([("arch", "x86_64"), ("b", "yes")]));
    assert_eq!(apart.holds(&map, Semantics::Strict), Ok(false));
    assert_eq!(Cond::parse(&glued).expect("it parses").holds(&map, Semantics::Python2), Ok(true));
    assert_eq!(apart.names(), ["arch", "a", "b"]);
}

proptest! {
    #[test]
    fn nothing_panics(text in "\\PC{0,80}", soup in "[a-z0-9'\"()\\[\\],.<>=!+%/* -]{0,60}") {
        for text in [text, soup] {
            if let Ok(cond) = Cond::parse(&text) {
                let _ = cond.holds(&attributes(), Semantics::Python2);
                let _ = cond.holds(&attributes(), Semantics::Strict);
            }
        }
    }
}
