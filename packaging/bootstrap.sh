#!/usr/bin/env bash
# Installs what building, testing and the demonstration need, on Debian 12 (and its relatives) or Fedora/Rocky.
#
#   packaging/bootstrap.sh            everything
#   packaging/bootstrap.sh build      only what `cargo build` needs
#
# Idempotent: when nothing is missing it changes nothing, asks no network and takes a fraction of a second. Packages are installed as
# root (with sudo when there); without either it says what is missing and fails. Rust comes through rustup when cargo is
# missing or too old. ksvalidator goes into a Python environment of its own under $ROCKS_CACHE, never into the system's Python.
set -euo pipefail

want=${1:-all}
min_rust=1.95
cache=${ROCKS_CACHE:-$HOME/.cache/rocks-cloud}
say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo "$@"
    else die "needs root for: $*"; fi
}

# --- packages ---------------------------------------------------------------------------------------------------------
# One line per need: what proves that it is there (a command, or a pkg-config module), Debian's package, Fedora's package.
needs_build="cc gcc gcc
make make make
curl curl curl
pkg-config pkg-config pkgconf-pkg-config
pc:libsystemd libsystemd-dev systemd-devel
git git git"
needs_test="rpm rpm rpm
rpmbuild rpm rpm-build
rpmsign rpm rpm-sign
dnf dnf dnf
createrepo_c createrepo-c createrepo_c
systemd-nspawn systemd-container systemd-container
systemd-analyze systemd systemd
gpg gnupg gnupg2
ip iproute2 iproute
nsenter util-linux util-linux
nft nftables nftables
ssh-keygen openssh-client openssh
mke2fs e2fsprogs e2fsprogs
sfdisk fdisk util-linux
mkfs.xfs xfsprogs xfsprogs
qemu-img qemu-utils qemu-img
qemu-system-x86_64 qemu-system-x86 qemu-system-x86-core
file:/usr/share/seabios/bios-256k.bin seabios seabios-bin
file:/usr/share/OVMF/OVMF_CODE_4M.fd:/usr/share/edk2/ovmf/OVMF_CODE.fd ovmf edk2-ovmf
python3 python3 python3
py:venv python3-venv python3
shellcheck shellcheck ShellCheck
xz xz-utils xz
zstd zstd zstd"

present() {
    case $1 in
    pc:*) have pkg-config && pkg-config --exists "${1#pc:}" ;;
    py:venv) have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    file:*)
        local file
        for file in $(tr : ' ' <<<"${1#file:}"); do [ -e "$file" ] && return 0; done
        return 1 ;;
    *) have "$1" || [ -x "/usr/sbin/$1" ] ;;
    esac
}

family=unknown
if have apt-get && have dpkg; then family=debian
elif have dnf; then family=fedora; fi

install_missing() {
    local missing=() proof deb rpm
    while read -r proof deb rpm; do
        [ -n "$proof" ] || continue
        present "$proof" && continue
        case $family in debian) missing+=("$deb") ;; *) missing+=("$rpm") ;; esac
    done <<<"$1"
    # Without the certificates nothing can be fetched over HTTPS.
    if [ "$family" = debian ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then missing+=(ca-certificates); fi
    [ ${#missing[@]} -gt 0 ] || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    say "installing ${missing[*]}"
    case $family in
    debian)
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
        ;;
    fedora)
        # createrepo_c and others stand in CRB on the RHEL family; ShellCheck in EPEL, and it is only a nicety.
        if [ -e /etc/redhat-release ] && ! grep -q Fedora /etc/redhat-release; then
            as_root dnf -y -q install dnf-plugins-core
            as_root dnf config-manager --set-enabled crb || :
        fi
        as_root dnf -y -q install "${missing[@]}" || as_root dnf -y -q install --skip-broken "${missing[@]}"
        ;;
    *) die "neither apt-get nor dnf is here; install by hand: ${missing[*]}" ;;
    esac
}

install_missing "$needs_build"
[ "$want" = build ] || install_missing "$needs_test"

# --- Rust -------------------------------------------------------------------------------------------------------------
PATH=$HOME/.cargo/bin:$PATH
rust_ok() {
    local v
    v=$(cargo --version 2>/dev/null | awk '{print $2}') || return 1
    [ -n "$v" ] && [ "$(printf '%s\n%s\n' "$min_rust" "$v" | sort -V | head -1)" = "$min_rust" ]
}
if ! rust_ok; then
    say "installing Rust (at least $min_rust) through rustup"
    if have rustup; then
        rustup toolchain install stable --profile minimal --component clippy,rustfmt
        rustup default stable
    elif [ "$family" = debian ] && apt-cache show rustup >/dev/null 2>&1; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup >/dev/null
        rustup toolchain install stable --profile minimal --component clippy,rustfmt
        rustup default stable
    else
        installer=$(mktemp); trap 'rm -f "$installer"' EXIT
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o "$installer"
        sh "$installer" -y --no-modify-path --profile minimal --component clippy,rustfmt --default-toolchain stable
    fi
    rust_ok || die "cargo is still missing or older than $min_rust"
fi
if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
    if have rustup; then rustup component add clippy rustfmt; else die "cargo has no clippy or rustfmt"; fi
fi
[ "$want" = build ] && exit 0

# --- ksvalidator --------------------------------------------------------------------------------------------------------
# An outside opinion on our kickstarts: the parser that Anaconda itself uses. Tests that want it say so and skip without it.
venv=$cache/venv
pykickstart=3.78
if [ ! -x "$venv/bin/ksvalidator" ] || [ "$(cat "$venv/.version" 2>/dev/null)" != "$pykickstart" ]; then
    say "installing pykickstart $pykickstart into $venv"
    rm -rf "$venv"; mkdir -p "$cache"
    # The system's Python, not one of a version manager that may be gone tomorrow.
    python=/usr/bin/python3; [ -x $python ] && $python -c 'import ensurepip, venv' 2>/dev/null || python=python3
    if "$python" -m venv "$venv" && "$venv/bin/pip" install -q "pykickstart==$pykickstart"; then
        printf '%s\n' "$pykickstart" >"$venv/.version"
    else
        say "pykickstart could not be installed: tests that need ksvalidator will be skipped"
    fi
fi
exit 0
