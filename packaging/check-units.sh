#!/usr/bin/env bash
# Checks the units of this package with systemd's own tools: their syntax, and that their exposure stays below a threshold (the
# score of `systemd-analyze security`, times ten: 0 is a sealed box, 100 an open one).
set -euo pipefail
cd "$(dirname "$0")/systemd"
command -v systemd-analyze >/dev/null || { echo 'systemd-analyze is not here: units were not checked'; exit 0; }

root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/usr/{bin,lib/systemd}
# `verify` wants the programs that a unit names: stand-ins, in a root of their own.
for unit in *.service; do
    sed -n 's/^Exec[A-Za-z]*=[-@:+!]*\(\/[^ ]*\).*/\1/p' "$unit"
done | sort -u | while read -r program; do
    mkdir -p "$root$(dirname "$program")"; printf '#!/bin/sh\n' >"$root$program"; chmod +x "$root$program"
done
cp -r /usr/lib/systemd/system "$root/usr/lib/systemd/"
cp ./*.service "$root/usr/lib/systemd/system/"
mkdir -p "$root/etc"; printf 'root:x:0:0::/root:/bin/sh\nrocks:x:990:990::/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nrocks:x:990:\n' >"$root/etc/group"

fail=0
check() {
    local unit=$1 threshold=$2 out
    # systemd's own units refer to programs that this root lacks; only what is said of ours counts.
    out=$(systemd-analyze verify --man=no --recursive-errors=no --root="$root" "$root/usr/lib/systemd/system/$unit" 2>&1 | grep -F "${unit%.service}" || :)
    if [ -n "$out" ]; then echo "$unit: $out"; fail=1; fi
    if ! out=$(systemd-analyze security --no-pager --offline=true --threshold="$threshold" "$PWD/$unit" 2>&1); then
        echo "$out" | tail -1; echo "$unit: exposure is above $threshold"; fail=1
    else
        echo "$unit: $(echo "$out" | tail -1 | sed 's/^[^A-Za-z]*//')"
    fi
}
check rocks-server.service 15
check rocks-agent.service 75
check rocks-agent-userdata.service 40
check rocks-agent-receive.service 80
check rocks-agent-relay.service 15
exit $fail
