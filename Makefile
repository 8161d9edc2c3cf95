# The commands of the README. Each begins by installing what it needs (packaging/bootstrap.sh), and is quick when nothing is missing.
#
#   make demo      the main job, end to end, narrated (root: it boots a container)   DEMO_KEEP=1 leaves it running
#   make test      all tests; the end-to-end ones need root and are skipped, with a word, without it
#   make ec2       provisions alone, on a local EC2 (root)
#   make bench     the benchmarks, as tables
#   make bench-ec2 the methods of provisioning side by side on a local EC2, half an hour (root)
#   make asan      the transport's tests under AddressSanitizer, the C++ library's baseline included
#   make build     release binaries
#   make packages  RPMs of the release binaries into target/rpm
#   make install   release binaries, units, graphs under $(DESTDIR)$(PREFIX)
#   make clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export ROCKS_CACHE ?= $(HOME)/.cache/rocks-cloud
# Where cargo stands when rustup put it there, the tests' own ksvalidator, and the sbin folders that a plain user's PATH lacks.
export PATH := $(HOME)/.cargo/bin:$(ROCKS_CACHE)/venv/bin:$(PATH):/usr/sbin:/sbin
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr
# Provisions on EC2: its SDK takes minutes and gigabytes to build, so only tests and packages have it.
AWS := rocks-server/aws
CLIPPY = RUSTC_WORKSPACE_WRAPPER="$$(rustup which clippy-driver 2>/dev/null || command -v clippy-driver)" CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__
UNITDIR ?= $(PREFIX)/lib/systemd/system
ifdef CI
export CARGO_INCREMENTAL := 0
# Nobody stands by to run it again: all that fails is to be seen at once.
NO_FAIL_FAST := --no-fail-fast
endif

.PHONY: help demo test bench asan build packages install clean bootstrap bootstrap-build fmt lint unit units-check shell-check e2e ec2 bench-ec2

help:
	@sed -n '3,12s/^# \{0,3\}//p' Makefile

bootstrap:
	@packaging/bootstrap.sh

bootstrap-build:
	@packaging/bootstrap.sh build

demo: bootstrap
	@cargo build --locked --quiet -p rocks-server -p rocks-agent -p rocks-tests --bins
	@$(TARGET)/debug/demo

# The order is from what fails fastest to what takes longest.
test: bootstrap fmt shell-check units-check lint unit

fmt: bootstrap
	cargo fmt --all --check

# Clippy as the compiler, so that whatever is looked at is built as well: `cargo clippy` would compile the SDK a second time.
lint: bootstrap
	$(CLIPPY) cargo build --locked --workspace --all-targets --features $(AWS)

# The binaries first: tests run them.
unit: lint
	$(CLIPPY) ROCKS_MINICLOUD=$(abspath $(TARGET))/debug/minicloud cargo test --locked --workspace --features $(AWS) $(NO_FAIL_FAST) -- --test-threads=2

# The end-to-end tests alone: they boot instances, one at a time.
e2e: bootstrap
	cargo build --locked --workspace --bins
	cargo test --locked -p rocks-tests --test 'e2e*' -- --test-threads=1 --nocapture

# The provisions alone, on a local EC2 whose instances boot.
ec2: bootstrap
	$(CLIPPY) cargo build --locked --workspace --all-targets --features $(AWS)
	$(CLIPPY) cargo test --locked --workspace --features $(AWS) --test provision -- --test-threads=1 --nocapture

shell-check: bootstrap
	@if command -v shellcheck >/dev/null; then shellcheck packaging/*.sh .ci/run; else echo 'shellcheck is not here: left out'; fi
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; else echo 'cargo-deny is not here: left out'; fi

units-check:
	packaging/check-units.sh

bench: bootstrap
	cargo bench --locked -p rocks-common
	cargo build --locked --release --workspace --bins
	$(TARGET)/release/swarm 2000
	$(TARGET)/release/agentbench

# Only the module over UDT4's C++ library stands on code that is not memory safe: it, the library and what runs beside them, with every
# access looked at. The sanitizer is behind a switch that the stable toolchain honours when told so; build scripts, being of the host, stay as they are.
# A compiler without the sanitizer leaves the C++ as it is: what it does wrong then shows only where it meets our memory.
ASAN_HOST := x86_64-unknown-linux-gnu
asan: bootstrap
	@cxx=; if echo 'int main() { return 0; }' | $${CXX:-g++} -x c++ -fsanitize=address -c -o /dev/null - 2>/dev/null; then \
	  cxx='-fsanitize=address -fno-omit-frame-pointer'; \
	else echo "$${CXX:-g++} has no sanitizer: the library itself is not looked into"; fi; \
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CXXFLAGS="$$cxx" \
	cargo test --locked -p rocks-ship --features udt4 --target $(ASAN_HOST) --target-dir $(TARGET)/asan

bench-ec2: bootstrap
	$(CLIPPY) cargo build --locked --workspace --all-targets --features $(AWS)
	$(TARGET)/debug/methodbench --svg $(TARGET)/methods.svg

build: bootstrap-build
	cargo build --locked --release -p rocks-server -p rocks-agent --bins --features $(AWS)

packages: build bootstrap
	packaging/build-rpm.sh $(TARGET)/release $(TARGET)/rpm

install: build
	packaging/install.sh all "$(TARGET)/release" "$(DESTDIR)" "$(PREFIX)" "$(UNITDIR)"

clean:
	cargo clean
