# Changeover. `make demo` and `make test` install what they need: Debian packages by apt-get, npm packages by the lockfile.
SHELL := /bin/sh
.DEFAULT_GOAL := build

# Node 24 or newer: the system's or, once npm has run, the one from the lockfile.
NODE = $$(tools/find-node)
TSX = $(NODE) --disable-warning=ExperimentalWarning --import tsx
ADDONS = tap-tun/build/tap_tun.node block-io/build/block_io.node

RUN_PACKAGES = g++ make iproute2 e2fsprogs
TEST_PACKAGES = $(RUN_PACKAGES) python3 libpcap-dev curl wrk tshark libnbd-bin python3-libnbd nbdkit qemu-utils fio xfsprogs \
  iputils-ping iperf3 patch strace util-linux procps netbase openssl redis-tools nmap hping3 tcpreplay \
  qemu-system-x86 busybox-static cpio ethtool
# Peers that only the bench runs. Where one is missing its column says so.
BENCH_PACKAGES = vde2 slirp4netns haproxy iputils-arping liblwip-dev nginx-light

.PHONY: build demo test bench soak fuzz lint docs clean run-packages test-packages bench-packages

build: node_modules/.changeover-installed $(ADDONS) node_modules/.bundle/made ## install npm packages, compile the addons, bundle the processes

demo: run-packages build ## the main job for real, in a network namespace and a scratch folder of its own
	@bin/changeover demo $(DEMO)

test: test-packages build node_modules/.test-addons-built node_modules/.netem-guest/ready lint ## every test; the last line counts them
	@$(TSX) tools/test.ts $(TESTS)

bench: test-packages bench-packages build ## ours and the peers in the same run
	@$(TSX) bench/main.ts $(BENCH)

soak: test-packages build node_modules/.netem-guest/ready ## the long counts, each for at most SECONDS (600; 0: to its end)
	@SOAK=1 $(TSX) tools/test.ts --soak $(TESTS)

fuzz: test-packages build ## parsers and servers with fresh seeds and large counts
	@FUZZ=1 $(TSX) tools/test.ts --soak fuzz

lint: node_modules/.changeover-installed ## format, lint and types
	@node_modules/.bin/biome check --error-on-warnings .
	@node_modules/.bin/tsc

docs: node_modules/.changeover-installed ## the generated pages of docs/
	@$(TSX) tools/configuration-reference.ts
	@$(TSX) tools/points-reference.ts

clean:
	rm -rf node_modules tap-tun/build block-io/build

node_modules/.changeover-installed: package.json package-lock.json | run-packages
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# raw-socket and cap are the tests' independent probes; they compile with the headers of the Node that runs them.
node_modules/.test-addons-built: node_modules/.changeover-installed | test-packages
	@node=$(NODE); PATH="$$(dirname $$node):$$PATH" npm_config_nodedir="$$(dirname $$(dirname $$node))" \
	  npm rebuild raw-socket cap --loglevel=error --foreground-scripts > node_modules/.rebuild.log 2>&1 \
	  || { tail -40 node_modules/.rebuild.log; exit 1; }
	@touch $@

# A bridge with netem for the tests' lossy paths. Where it cannot be made the test that needs it says so.
node_modules/.netem-guest/ready: tools/netem-guest node_modules/.changeover-installed | test-packages
	-@rm -f $@; sh tools/netem-guest node_modules/.netem-guest

tap-tun/build/tap_tun.node: node_modules/.changeover-installed $(wildcard tap-tun/src/native/*.[ch] tap-tun/src/native/ring/*.[ch] tap-tun/*.sh)
	@sh tap-tun/build.sh

block-io/build/block_io.node: node_modules/.changeover-installed $(wildcard block-io/native/* block-io/*.sh)
	@sh block-io/build.sh

# One file for each process: they start in a fraction of the time. Without them, or when they are stale, the sources are run.
node_modules/.bundle/made: node_modules/.changeover-installed tools/bundle.ts $(shell find src tap-tun/src block-io/src -name '*.ts')
	@mkdir -p $(@D) && $(NODE) --disable-warning=ExperimentalWarning tools/bundle.ts && touch $@

run-packages:
	@sh tools/install-packages $(RUN_PACKAGES)

test-packages:
	@sh tools/install-packages $(TEST_PACKAGES)

bench-packages:
	@sh tools/install-packages $(BENCH_PACKAGES)
