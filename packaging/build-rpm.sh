#!/usr/bin/env bash
# build-rpm.sh BINDIR OUT: makes rocks-agent, rocks-server, rocks-cli and rocks-graphs into OUT from the binaries in BINDIR.
#
#   SOURCE_DATE_EPOCH  the build time that goes into the packages (default: the last commit's)
#   ROCKS_RELEASE      the packages' release (default 1)
#   ROCKS_BUNDLED=no   leave out `Provides: bundled(crate(x))` (asks cargo, which takes a second)
set -euo pipefail
[ $# = 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
tree=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "$1" && pwd); mkdir -p "$2"; out=$(cd "$2" && pwd)
for b in rocks-agent rocks-server rocks; do [ -x "$bin/$b" ] || { echo "build-rpm: $bin/$b is missing: build first" >&2; exit 1; }; done
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$tree/Cargo.toml")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$tree" log -1 --format=%ct 2>/dev/null || stat -c %Y "$tree/Cargo.lock")}
export SOURCE_DATE_EPOCH

# Statically linked crates are declared, and their licences are part of the packages' licence.
bundled() {
    [ "${ROCKS_BUNDLED:-yes}" = yes ] || return 0
    cargo tree --manifest-path "$tree/Cargo.toml" --locked --offline -p "$1" --prefix none --edges normal --format '{p}' 2>/dev/null |
        awk '$1 !~ /^rocks-/ {v=$2; sub(/^v/, "", v); gsub(/-/, "~", v); sub(/\+.*/, "", v); print "Provides: bundled(crate(" $1 ")) = " v}' | sort -u
}
license='Apache-2.0 AND MIT AND BSD-3-Clause AND ISC AND Unicode-3.0 AND Zlib AND LGPL-2.1-or-later WITH GCC-exception-2.0'
# The soname of the one shared library beside libc: its symbol is the same on every RPM distribution of this width.
libsystemd='libsystemd.so.0()(64bit)'
[ "$(getconf LONG_BIT)" = 64 ] || libsystemd=libsystemd.so.0

{
    printf '%%global rocks_bundled_agent %%{expand:%s}\n' "$(bundled rocks-agent)"
    printf '%%global rocks_bundled_server %%{expand:%s}\n' "$(bundled rocks-server)"
    cat "$tree/packaging/rpm/rocks.spec"
} >"$work/rocks.spec"

rpmbuild -bb --quiet \
    --define "_topdir $work/top" --define "_rpmdir $out" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "_buildhost rocks" --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    --define "_binary_payload w3.zstdio" \
    --define "rocks_version $version" --define "rocks_release ${ROCKS_RELEASE:-1}" --define "rocks_license $license" \
    --define "rocks_bin $bin" --define "rocks_tree $tree" --define "rocks_libsystemd $libsystemd" \
    "$work/rocks.spec" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
ls "$out"/rocks-*-"$version"-"${ROCKS_RELEASE:-1}".*.rpm
