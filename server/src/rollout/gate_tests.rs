use jiff::Timestamp;
use rocks_common::wire::Outcome;

use super::*;
use crate::rollout::machine::{Concerned, Event, Sight, Start};
use crate::rollout::strategy::Strategy;
use crate::rollout::wave::Presence;

/// Sees that all hosts are here and have come.
pub(crate) struct All;

impl Sight for All {
    fn presence(&self, _: &HostName) -> Presence {
        Presence::Here
    }

    fn came(&self, _: &HostName, _: Timestamp) -> bool {
        true
    }

    fn last(&self, _: &HostName) -> Option<(Digest, Outcome)> {
        None
    }
}

fn names() -> Vec<HostName> {
    ["a", "b", "c"].map(|name| name.parse().expect("a name")).to_vec()
}

fn of(letter: u8) -> Digest {
    Digest::of(&[letter])
}

/// Three hosts, by what each is to have and what it has; `-`: nothing, `>`: it moved here.
fn cases<'n>(names: &'n [HostName], targets: &[u8; 3], served: &[u8; 3]) -> Vec<Case<'n>> {
    let one = |at: usize| Case {
        host: &names[at],
        target: of(targets[at]),
        served: match served[at] {
            b'-' => None,
            b'>' => Some(of(b'x')),
            letter => Some(of(letter)),
        },
        has_moved: served[at] == b'>',
    };
    (0..3).map(one).collect()
}

/// A rollout from A to B of all three, one by one, the first of which is released.
fn rollout(names: &[HostName]) -> Rollout {
    let start = Start {
        name: "x-1".parse().expect("a name"),
        number: 1,
        appliance: "x".parse().expect("a name"),
        what: String::new(),
        strategy: Strategy { waves: "1,2".parse().expect("waves"), ..Strategy::default() },
    };
    let hosts = names.iter().map(|host| Concerned { host: host.clone(), former: of(b'A'), target: of(b'B') }).collect();
    Rollout::begin(start, hosts, Timestamp::UNIX_EPOCH, &All).0
}

fn kept(decision: &Decision) -> Vec<usize> {
    let mut kept: Vec<usize> = decision.keep.iter().copied().collect();
    kept.sort_unstable();
    kept
}

#[test]
fn without_a_strategy_everything_is_immediate() {
    let names = names();
    assert_eq!(decide(&cases(&names, b"BBB", b"AAA"), None, false), Decision::default());
}

#[test]
fn a_change_waits_but_not_for_new_hosts_and_those_that_moved_here() {
    let names = names();
    let decision = decide(&cases(&names, b"BBB", b"A->"), None, true);
    assert_eq!((decision.begin.as_slice(), kept(&decision)), (&[0][..], vec![0]));
    assert_eq!(decide(&cases(&names, b"BBB", b"->-"), None, true), Decision::default());
    assert_eq!(decide(&cases(&names, b"ABA", b"ABA"), None, true), Decision::default());
}

#[test]
fn an_open_rollout_holds_until_something_else_changes() {
    let names = names();
    let open = rollout(&names);
    let same = decide(&cases(&names, b"BBB", b"BAA"), Some(&open), true);
    assert_eq!((same.supersedes, same.begin.len(), kept(&same)), (false, 0, vec![1, 2]));
    // Also when its strategy was removed meanwhile.
    assert_eq!(decide(&cases(&names, b"BBB", b"BAA"), Some(&open), false), same);
    // A newer change takes its place, with all hosts that differ from it.
    let next = decide(&cases(&names, b"CCC", b"BAA"), Some(&open), true);
    assert_eq!((next.supersedes, next.begin), (true, vec![0, 1, 2]));
    // Taken back half way: only those who left have a way to go.
    let back = decide(&cases(&names, b"AAA", b"BAA"), Some(&open), true);
    assert_eq!((back.supersedes, back.begin.as_slice(), kept(&back)), (true, &[0][..], vec![0]));
    // Without a strategy the newer change is immediate for all.
    let now = decide(&cases(&names, b"CCC", b"BAA"), Some(&open), false);
    assert_eq!((now.supersedes, now.begin.len(), now.keep.len()), (true, 0, 0));
}

#[test]
fn who_went_back_stays_until_something_changes() {
    let names = names();
    let mut open = rollout(&names);
    open.on(Event::Back(HashSet::new()), Timestamp::UNIX_EPOCH).expect("it goes back");
    let same = decide(&cases(&names, b"BBB", b"AAA"), Some(&open), true);
    assert_eq!((same.supersedes, kept(&same)), (false, vec![0, 1, 2]));
    let mended = decide(&cases(&names, b"CCC", b"AAA"), Some(&open), true);
    assert_eq!((mended.supersedes, mended.begin), (true, vec![0, 1, 2]));
    let undone = decide(&cases(&names, b"AAA", b"AAA"), Some(&open), true);
    assert_eq!((undone.supersedes, undone.begin.len(), undone.keep.len()), (true, 0, 0));
}
