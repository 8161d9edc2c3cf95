#!/usr/bin/env bash
# install.sh WHAT BINDIR DESTDIR [PREFIX [UNITDIR]]: puts one package's files, or all, below DESTDIR.
# WHAT is agent, server, cli, graphs or all. The RPM's spec and `make install` both come here, so that a file list is written once.
set -euo pipefail
what=$1 bin=$2 dest=$3 prefix=${4:-/usr} units=${5:-}
units=${units:-$prefix/lib/systemd/system}
here=$(cd "$(dirname "$0")" && pwd)
put() { install -D -m "$1" "$2" "$dest$3"; }

# What a binary can write itself (completions, man pages) is made here rather than kept in the tree.
written_by() {
    local program=$1 work shell page
    work=$(mktemp -d)
    for shell in bash zsh fish; do
        "$bin/$program" completions "$shell" >"$work/$shell"
    done
    put 0644 "$work/bash" "$prefix/share/bash-completion/completions/$program"
    put 0644 "$work/zsh" "$prefix/share/zsh/site-functions/_$program"
    put 0644 "$work/fish" "$prefix/share/fish/vendor_completions.d/$program.fish"
    "$bin/$program" man "$work/man"
    for page in "$work"/man/*; do
        put 0644 "$page" "$prefix/share/man/man${page##*.}/${page##*/}"
    done
    rm -rf "$work"
}

agent() {
    put 0755 "$bin/rocks-agent" "$prefix/bin/rocks-agent"
    written_by rocks-agent
    local unit
    for unit in rocks-agent rocks-agent-userdata rocks-agent-receive rocks-agent-relay; do
        put 0644 "$here/systemd/$unit.service" "$units/$unit.service"
    done
    put 0644 "$here/preset/80-rocks-agent.preset" "$prefix/lib/systemd/system-preset/80-rocks-agent.preset"
    put 0644 "$here/etc/agent.toml" /etc/rocks-agent/agent.toml
    install -d -m 0755 "$dest$prefix/lib/rocks-agent/config.d" "$dest/etc/rocks-agent/config.d"
    install -d -m 0700 "$dest/var/lib/rocks-agent"
}
server() {
    put 0755 "$bin/rocks-server" "$prefix/bin/rocks-server"
    written_by rocks-server
    put 0644 "$here/systemd/rocks-server.service" "$units/rocks-server.service"
    put 0644 "$here/preset/80-rocks-server.preset" "$prefix/lib/systemd/system-preset/80-rocks-server.preset"
    put 0644 "$here/sysusers.d/rocks.conf" "$prefix/lib/sysusers.d/rocks.conf"
    put 0644 "$here/tmpfiles.d/rocks.conf" "$prefix/lib/tmpfiles.d/rocks.conf"
    put 0644 "$here/etc/rocks.toml" /etc/rocks/rocks.toml
    install -d -m 0755 "$dest$prefix/lib/rocks/config.d" "$dest/etc/rocks/config.d" "$dest/etc/rocks/site-graphs"
    install -d -m 0750 "$dest/var/lib/rocks"
}
cli() {
    put 0755 "$bin/rocks" "$prefix/bin/rocks"
    written_by rocks
}
graphs() {
    install -d -m 0755 "$dest$prefix/share/rocks/graphs"
    [ -d "$here/../graphs" ] || return 0
    (cd "$here/../graphs" && find . -type f ! -name '*.rs' -print0) | while IFS= read -r -d '' f; do
        put 0644 "$here/../graphs/$f" "$prefix/share/rocks/graphs/${f#./}"
    done
}
case $what in
agent | server | cli | graphs) $what ;;
all) agent; server; cli; graphs ;;
*) echo "install.sh: no such package: $what" >&2; exit 2 ;;
esac
