//! Commands about how changes reach hosts.

use super::super::rollouts;
use super::super::spec::{Spec, Words};
use super::{Entry, MANY};

/// What a strategy of rollouts is made of.
const STRATEGY: &[(&str, &str)] = &[
    (
        "waves",
        "how many hosts have the new kickstart after each wave, in numbers and then shares (default: 1,10%,50%); the last is all",
    ),
    ("soak", "how long all hosts that have it must have been well before the next wave begins (default: 5m)"),
    (
        "failures",
        "how many hosts, or which share of those that have it, may fail before it stops by itself (default: 0)",
    ),
    ("timeout", "how long a host may take (default: 30m)"),
];

/// They are these.
pub(super) static TABLE: &[Entry] = &[
    spec!(
        ["back", "rollout"],
        ("NAME", 1, 1),
        "Give all hosts of a rollout what they had before it; they keep that until the configuration changes again",
        rollouts::back,
        words = Words::Rollout,
        example = "rocks back rollout compute-1"
    ),
    spec!(
        ["list", "appliance", "rollout"],
        ("[APPLIANCE ...]", 0, MANY),
        "List by which strategy changes reach appliances' hosts, and where it is from",
        rollouts::strategies,
        words = Words::Appliance
    ),
    spec!(
        ["list", "rollout"],
        ("[NAME ...]", 0, MANY),
        "List rollouts; of those that are named also their waves and hosts",
        rollouts::list,
        words = Words::Rollout,
        example = "rocks list rollout compute-1"
    ),
    spec!(
        ["pause", "rollout"],
        ("NAME", 1, 1),
        "Begin no more waves of a rollout until it is resumed",
        rollouts::pause,
        words = Words::Rollout
    ),
    spec!(
        ["remove", "appliance", "rollout"],
        ("APPLIANCE", 1, 1),
        "Remove an appliance's own strategy: changes follow the default, or are immediate; an open rollout goes on as it began",
        rollouts::remove_of_appliance,
        words = Words::Appliance
    ),
    spec!(
        ["remove", "rollout"],
        ("", 0, 0),
        "Remove the strategy of all appliances that have none of their own; an open rollout goes on as it began",
        rollouts::remove_default
    ),
    spec!(
        ["resume", "rollout"],
        ("NAME", 1, 1),
        "Let a rollout go on that is paused, or that stopped: the hosts that failed so far count no more",
        rollouts::resume,
        words = Words::Rollout
    ),
    spec!(
        ["set", "appliance", "rollout"],
        ("APPLIANCE", 1, 1),
        "Let changes reach an appliance's hosts in waves, and stop when hosts fail",
        rollouts::set_of_appliance,
        keys = STRATEGY,
        words = Words::Appliance,
        example = "rocks set appliance rollout compute waves=1,10%,50% soak=5m failures=0 timeout=30m"
    ),
    spec!(
        ["set", "rollout"],
        ("", 0, 0),
        "Let changes reach hosts in waves, for appliances without a strategy of their own",
        rollouts::set_default,
        keys = STRATEGY,
        example = "rocks set rollout waves=1,25% soak=10m"
    ),
    spec!(
        ["wait", "rollout"],
        ("NAME", 1, 1),
        "Wait until a rollout is done; one that stops or is overtaken is waited for no longer",
        rollouts::wait,
        keys = &[("timeout", "for how many seconds (default: 3600)")],
        words = Words::Rollout,
        example = "rocks wait rollout compute-1 timeout=3600"
    ),
];
