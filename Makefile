# What a person does with this project, each as one word. `make` lists them.

# Versions of the tools that tests run; `make tools` builds them into target/tools/bin.
CSI_SANITY := v5.6.0
VERSITYGW  := v1.8.0
ENVOY      := 1.40.0
# What benchmarks compare with; `make bench` builds them into the same folder.
RESTIC     := v0.18.1
KOPIA      := v0.22.3
# What tests/format/restore.py imports; they go to target/tools/python.
PYTHON     := blake3==1.0.11 zstandard==0.25.0 cryptography==50.0.2

ARGS ?=

# What `make soak` runs: so many simulated schedules, from this seed on.
SEEDS ?= 100000
FIRST ?= 0

.PHONY: help demo test cluster-test soak bench rivals lint audit tools clean

help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## show the whole thing on this machine, in a minute or two (ARGS="--data FOLDER --output json")
	@scripts/packages xfsprogs:mkfs.xfs btrfs-progs:mkfs.btrfs e2fsprogs:mkfs.ext4 util-linux:losetup
	@cargo build --release --locked --bin varve
	@cargo run --release --locked --quiet --bin varve -- demo $(ARGS)

test: tools ## run everything that must hold: format, lints, unit, property, privileged and conformance tests
	@scripts/test

cluster-test: ## run the tests that need a Kubernetes cluster, in one that is built and started here (ARGS="clone grow")
	@scripts/go-tool github.com/versity/versitygw/cmd/versitygw $(VERSITYGW)
	@scripts/cluster-test $(ARGS)

soak: ## run many simulated schedules of writers, deleters and collectors (SEEDS=1000000 FIRST=5000)
	@VARVE_SEED=$(FIRST) VARVE_SEEDS=$(SEEDS) cargo test --locked --package varve-repository --test simulation \
		-- --exact schedules --nocapture

bench: rivals ## measure what is promised, beside limits and rivals (QUICK=1 for a smaller form; ARGS="--only backup")
	@cargo build --release --locked --bin varve
	@cargo build --release --locked --package varve-bench
	@cargo run --release --locked --quiet --package varve-bench -- $(if $(QUICK),--quick) $(ARGS)

lint: ## check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

audit: ## check licences, sources and advisories of every dependency; installs cargo-deny where it is missing
	@command -v cargo-deny >/dev/null || { echo 'installing cargo-deny: this takes some minutes'; cargo install --locked cargo-deny; }
	cargo deny --locked check

rivals: ## install what benchmarks run and compare with
	@scripts/packages xfsprogs:mkfs.xfs e2fsprogs:mkfs.ext4 util-linux:losetup fio:fio
	@scripts/go-tool github.com/versity/versitygw/cmd/versitygw $(VERSITYGW)
	@scripts/rivals github.com/restic/restic/cmd/restic=github.com/restic/restic@$(RESTIC) \
		github.com/kopia/kopia=github.com/kopia/kopia@$(KOPIA)

tools: ## install what the tests need
	@scripts/packages xfsprogs:mkfs.xfs btrfs-progs:mkfs.btrfs e2fsprogs:mkfs.ext4 util-linux:losetup \
		fio:fio sqlite3:sqlite3 etcd-server:etcd
	@scripts/go-tool github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity $(CSI_SANITY)
	@scripts/go-tool github.com/versity/versitygw/cmd/versitygw $(VERSITYGW)
	@scripts/envoy $(ENVOY)
	@scripts/python-packages $(PYTHON)

clean: ## remove everything that was built
	cargo clean
