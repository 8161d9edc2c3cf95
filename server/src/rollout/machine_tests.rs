use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::*;
use crate::rollout::strategy::{Share, Strategy};

/// What the tests say of hosts.
#[derive(Debug, Clone, Default)]
struct World {
    away: BTreeSet<HostName>,
    never_came: BTreeSet<HostName>,
    last: BTreeMap<HostName, (Digest, Outcome)>,
}

impl Sight for World {
    fn presence(&self, host: &HostName) -> Presence {
        if self.away.contains(host) { Presence::Away } else { Presence::Here }
    }

    fn came(&self, host: &HostName, _: Timestamp) -> bool {
        !self.never_came.contains(host)
    }

    fn last(&self, host: &HostName) -> Option<(Digest, Outcome)> {
        self.last.get(host).copied()
    }
}

fn host(at: usize) -> HostName {
    format!("a-0-{at}").parse().expect("a name")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn old() -> Digest {
    Digest::of(b"old")
}

fn new() -> Digest {
    Digest::of(b"new")
}

fn strategy(waves: &str, failures: &str) -> Strategy {
    Strategy {
        waves: waves.parse().expect("waves"),
        soak: "10s".parse().expect("a span"),
        failures: failures.parse().expect("failures"),
        timeout: "100s".parse().expect("a span"),
    }
}

fn begin(count: usize, strategy: Strategy, world: &World) -> Rollout {
    let start = Start {
        name: "a-1".parse().expect("a name"),
        number: 1,
        appliance: "a".parse().expect("a name"),
        what: "attr x".to_owned(),
        strategy,
    };
    let mut hosts: Vec<HostName> = (0..count).map(host).collect();
    hosts.sort_by_key(|host| world.away.contains(host));
    let concerned = hosts.into_iter().map(|host| Concerned { host, former: old(), target: new() });
    Rollout::begin(start, concerned.collect(), at(0), world).0
}

fn report(rollout: &mut Rollout, who: usize, outcome: Outcome, when: i64) {
    let event = Event::Report { host: host(who), kickstart: Some(new()), outcome };
    rollout.on(event, at(when)).expect("reports are always taken");
}

fn states(rollout: &Rollout) -> Vec<HostState> {
    rollout.members().iter().map(|member| member.state).collect()
}

use HostState::{Away, Converged, Gone, Held, Released, Returned, Silent};

#[test]
fn waves_follow_each_other_when_all_have_been_well_for_long_enough() {
    let world = World::default();
    let mut rollout = begin(4, strategy("1,50%", "0"), &world);
    assert_eq!(states(&rollout), [Released, Held, Held, Held]);
    assert_eq!(rollout.deadline(), Some(at(100)));
    // A report on what it had says nothing.
    let event = Event::Report { host: host(0), kickstart: Some(old()), outcome: Outcome::Incomplete };
    assert_eq!(rollout.on(event, at(1)), Ok(Moves::default()));
    report(&mut rollout, 0, Outcome::Converged, 5);
    assert_eq!(rollout.deadline(), Some(at(15)));
    assert_eq!(rollout.tick(at(14), &world), Moves::default());
    assert_eq!(rollout.tick(at(15), &world).released, [1]);
    report(&mut rollout, 1, Outcome::Unchanged, 16);
    assert_eq!(rollout.tick(at(26), &world).released, [2, 3]);
    report(&mut rollout, 3, Outcome::Converged, 30);
    assert_eq!(rollout.header().status, Status::Running);
    report(&mut rollout, 2, Outcome::Converged, 31);
    assert_eq!((&rollout.header().status, rollout.header().ended), (&Status::Done, Some(at(31))));
    assert_eq!(rollout.deadline(), None);
}

#[test]
fn a_canary_that_fails_stops_it_and_the_administrator_goes_on_or_back() {
    let world = World::default();
    let mut rollout = begin(3, strategy("1", "0"), &world);
    report(&mut rollout, 0, Outcome::Incomplete, 5);
    assert!(
        matches!(&rollout.header().status, Status::Stopped { why, failed } if why == "1 of 1 hosts failed, and 0 may" && *failed == [host(0)])
    );
    assert_eq!(rollout.tick(at(1000), &world), Moves::default());
    assert!(rollout.on(Event::Pause, at(6)).is_err());

    let mut on = rollout.clone();
    on.on(Event::Resume, at(20)).expect("it goes on");
    assert_eq!((on.deadline(), on.header().counts.bad()), (Some(at(30)), 0));
    assert_eq!(on.tick(at(30), &world).released, [1, 2]);
    report(&mut on, 1, Outcome::Converged, 31);
    // The one that was excused fails again, and then does not.
    report(&mut on, 0, Outcome::Incomplete, 32);
    assert_eq!(on.header().status, Status::Running);
    report(&mut on, 0, Outcome::Converged, 33);
    assert_eq!((on.header().counts.excused, on.header().counts.converged), (0, 2));
    report(&mut on, 0, Outcome::Incomplete, 34);
    assert!(matches!(on.header().status, Status::Stopped { .. }), "it is excused once");

    // What nobody can be given stays as it is.
    let mut lost = rollout.clone();
    let moves = lost.on(Event::Back(HashSet::from([old()])), at(20)).expect("it goes back");
    assert_eq!((moves.returned, moves.touched, states(&lost)), (vec![], vec![0], states(&rollout)));
    assert_eq!((&lost.header().status, lost.keeps(&host(0)), lost.keeps(&host(1))), (&Status::Backed, false, true));
    assert!(lost.members()[0].reason.as_ref().is_some_and(|reason| reason.contains("not kept")));

    let moves = rollout.on(Event::Back(HashSet::new()), at(20)).expect("it goes back");
    assert_eq!((moves.returned, states(&rollout)), (vec![0], vec![Returned, Held, Held]));
    assert!(rollout.keeps(&host(0)) && rollout.keeps(&host(1)));
    assert!(rollout.on(Event::Resume, at(21)).is_err() && rollout.on(Event::Back(HashSet::new()), at(21)).is_err());
    rollout.on(Event::Supersede(None), at(22)).expect("overtaken");
    assert!(!rollout.keeps(&host(0)) && rollout.header().ended == Some(at(20)));
}

#[test]
fn who_says_nothing_in_time_has_failed_and_who_was_never_there_has_not() {
    let mut world = World::default();
    let mut rollout = begin(1, strategy("1", "0"), &world);
    assert_eq!(rollout.tick(at(99), &world), Moves::default());
    rollout.tick(at(100), &world);
    assert_eq!(states(&rollout), [Silent]);
    assert!(matches!(rollout.header().status, Status::Stopped { .. }));

    // Those who are away when it begins come last and are not waited for; all the same they count when they come and fail.
    world.away.insert(host(0));
    let mut rollout = begin(3, strategy("1,100%", "0"), &world);
    assert_eq!(rollout.header().sizes, [1, 2, 3]);
    report(&mut rollout, 1, Outcome::Converged, 1);
    rollout.tick(at(11), &world);
    report(&mut rollout, 2, Outcome::Converged, 12);
    assert_eq!(rollout.tick(at(22), &world).released, [2]);
    assert_eq!((states(&rollout), &rollout.header().status), (vec![Converged, Converged, Away], &Status::Done));

    // Who goes away later is given up only if another proves that the kickstart, and the frontend, are well.
    let mut world = World::default();
    world.never_came.extend([host(0), host(1)]);
    let mut rollout = begin(2, strategy("2", "0"), &world);
    rollout.tick(at(100), &world);
    assert_eq!(states(&rollout), [Silent, Silent]);
    let mut rollout = begin(2, strategy("2", "0"), &world);
    report(&mut rollout, 1, Outcome::Converged, 1);
    rollout.tick(at(100), &world);
    assert_eq!((states(&rollout), &rollout.header().status), (vec![Away, Converged], &Status::Done));
}

#[test]
fn the_time_in_which_the_frontend_did_not_run_does_not_count() {
    let world = World::default();
    let mut rollout = begin(2, strategy("1", "0"), &world).resumed(at(5000));
    assert_eq!((rollout.deadline(), rollout.tick(at(5000), &world)), (Some(at(5100)), Moves::default()));
    report(&mut rollout, 0, Outcome::Converged, 5001);
    assert_eq!(rollout.resumed(at(9000)).deadline(), Some(at(9010)));
}

#[test]
fn paused_it_releases_nobody_and_takes_reports() {
    let world = World::default();
    let mut rollout = begin(3, strategy("1", "0"), &world);
    rollout.on(Event::Pause, at(1)).expect("paused");
    report(&mut rollout, 0, Outcome::Converged, 2);
    assert_eq!((rollout.deadline(), rollout.tick(at(1000), &world)), (None, Moves::default()));
    rollout.on(Event::Resume, at(1000)).expect("it goes on");
    assert_eq!(rollout.tick(at(1000), &world).released, [1, 2]);
    // Failures while it is paused are looked at when it goes on.
    rollout.on(Event::Pause, at(1001)).expect("paused");
    report(&mut rollout, 1, Outcome::Refused, 1002);
    assert_eq!(rollout.header().status, Status::Paused);
    rollout.on(Event::Resume, at(1003)).expect("it goes on");
    assert!(matches!(rollout.header().status, Status::Stopped { .. }));
}

#[test]
fn some_may_fail_and_a_late_failure_begins_the_watch_anew() {
    let world = World::default();
    let mut rollout = begin(10, strategy("5", "20%"), &world);
    for who in 0..5 {
        report(&mut rollout, who, Outcome::Converged, 1);
    }
    report(&mut rollout, 0, Outcome::Incomplete, 8);
    assert_eq!((&rollout.header().status, rollout.deadline()), (&Status::Running, Some(at(18))));
    report(&mut rollout, 1, Outcome::Incomplete, 9);
    assert!(matches!(&rollout.header().status, Status::Stopped { why, .. } if why == "2 of 5 hosts failed, and 1 may"));
}

#[test]
fn a_host_that_never_left_its_target_or_is_gone_is_not_waited_for() {
    let mut world = World::default();
    world.last.insert(host(0), (new(), Outcome::Unchanged));
    world.last.insert(host(1), (new(), Outcome::Incomplete));
    let mut rollout = begin(3, strategy("2", "0"), &world);
    assert_eq!(states(&rollout), [Converged, Released, Held]);
    rollout.on(Event::Gone(host(1)), at(1)).expect("taken");
    rollout.on(Event::Gone(host(2)), at(1)).expect("taken");
    assert!(!rollout.keeps(&host(2)));
    assert_eq!(rollout.tick(at(11), &world).released, [0_usize; 0]);
    assert_eq!((states(&rollout), &rollout.header().status), (vec![Converged, Gone, Gone], &Status::Done));
}

#[derive(Debug, Clone)]
enum Act {
    Report(usize, Outcome, bool),
    Wait(i64),
    Pause,
    Resume,
    Back,
    Gone(usize),
}

fn act() -> impl proptest::strategy::Strategy<Value = Act> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Converged),
        1 => Just(Outcome::Unchanged),
        1 => Just(Outcome::Incomplete),
        1 => Just(Outcome::Refused)
    ];
    prop_oneof![
        12 => (0_usize..12, outcome, prop::bool::weighted(0.9)).prop_map(|(who, what, is_new)| Act::Report(who, what, is_new)),
        6 => (1_i64..60).prop_map(Act::Wait),
        1 => Just(Act::Pause),
        2 => Just(Act::Resume),
        1 => Just(Act::Gone(3)),
        1 => prop::bool::weighted(0.2).prop_map(|back| if back { Act::Back } else { Act::Pause }),
    ]
}

/// What must hold whatever happens.
fn check(rollout: &Rollout, count: usize) -> Result<(), TestCaseError> {
    let header = rollout.header();
    prop_assert_eq!(rollout.members().len(), count, "a host was lost");
    prop_assert_eq!(Counts::count(rollout.members()), header.counts);
    let allowed = header.wave.checked_sub(1).map_or(0, |last| header.sizes[last]);
    for (at, member) in rollout.members().iter().enumerate() {
        prop_assert!(!member.state.has_target() || at < allowed, "{} was released before its wave", member.host);
        prop_assert!(at >= allowed || member.state != Held, "{} was forgotten", member.host);
    }
    let counts = header.counts;
    let taken = (counts.released + counts.converged + counts.failed + counts.silent + counts.away) as usize;
    // Of one that is done hosts may go away.
    if header.status == Status::Running {
        prop_assert!(counts.bad() as usize <= header.strategy.failures.or_fewer(taken), "it went on beyond its budget");
    }
    if header.status == Status::Done {
        prop_assert_eq!((counts.held, counts.released), (0, 0));
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_no_wave_is_exceeded_and_no_host_lost(
        count in 1_usize..12,
        waves in prop::sample::select(vec!["1", "1,10%,50%", "2,5", "30%,60%", "100%", "1,3,50%,99%"]),
        failures in prop::sample::select(vec![Share::Count(0), Share::Count(2), Share::Percent(25)]),
        away in prop::collection::btree_set(0_usize..12, 0..4),
        never in prop::collection::btree_set(0_usize..12, 0..4),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let world = World {
            away: away.into_iter().map(host).collect(),
            never_came: never.into_iter().map(host).collect(),
            last: BTreeMap::new(),
        };
        let mut rollout = begin(count, strategy(waves, &failures.to_string()), &world);
        let mut now = 0;
        check(&rollout, count)?;
        for act in acts {
            let before = rollout.clone();
            let event = match act {
                Act::Wait(seconds) => {
                    now += seconds;
                    rollout.tick(at(now), &world);
                    let more = rollout.header().wave - before.header().wave;
                    prop_assert!(more <= 1, "one wave at a time");
                    if more == 1 {
                        prop_assert_eq!(before.header().counts.released, 0, "the wave before was still waited for");
                        prop_assert_eq!(&before.header().status, &Status::Running);
                    }
                    check(&rollout, count)?;
                    continue;
                }
                Act::Report(who, outcome, is_new) => {
                    let kickstart = Some(if is_new { new() } else { old() });
                    Event::Report { host: host(who), kickstart, outcome }
                }
                Act::Pause => Event::Pause,
                Act::Resume => Event::Resume,
                Act::Back => Event::Back(HashSet::new()),
                Act::Gone(who) => Event::Gone(host(who)),
            };
            let refused = rollout.on(event, at(now)).is_err();
            prop_assert!(!refused || states(&rollout) == states(&before), "what was refused changed something");
            prop_assert_eq!(rollout.header().wave, before.header().wave, "an event alone releases nobody");
            check(&rollout, count)?;
        }
        // Left alone, and with an administrator who always says go on, it ends.
        for _ in 0..100 {
            if matches!(rollout.header().status, Status::Done | Status::Backed) {
                break;
            }
            let _ = rollout.on(Event::Resume, at(now));
            now = rollout.deadline().map_or(now + 1, |deadline| deadline.as_second().max(now));
            rollout.tick(at(now), &world);
            check(&rollout, count)?;
        }
        prop_assert!(matches!(rollout.header().status, Status::Done | Status::Backed), "it does not end: {:?}", rollout.header());
    }
}
