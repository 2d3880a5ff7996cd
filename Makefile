# A fresh clone needs two commands: `make demo` and `make test`. `make help` lists the rest.

# The interpreters to try; the first that runs and is 3.11 to 3.13 makes the environment.
PYTHON ?= python3 python3.13 python3.12 python3.11
# A package index to read besides the usual one, such as that of torch's CPU build.
TORCH_INDEX ?=
# Further arguments for what `test`, `demo`, `bench`, `gallery` and `quality` start.
ARGS =

# What `make lock` pins; the other versions are the newest that fit pyproject.toml.
TORCH := torch==2.13.0

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

bin := .venv/bin
stamp := .venv/.installed
index := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Sets $$python. Each candidate is really run, as a name on PATH may be a shim with nothing behind it.
define find-python
python=; \
for candidate in $(PYTHON); do \
  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
  then python="$$candidate"; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "Andon needs Python 3.11, 3.12 or 3.13; none of these is one: $(PYTHON)" >&2; exit 1; \
fi
endef

# $(call apt-install,PACKAGE): as root or through sudo without a password, else one sentence.
define apt-install
sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
if ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; then \
  echo "Please install $(1) (on Debian and Ubuntu: sudo apt install $(1)) and run make again." >&2; exit 1; \
fi; \
echo "Installing $(1) with apt"; \
$$sudo apt-get update -qq; \
$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(1) >/dev/null
endef

.PHONY: help
help: ## list the targets
	@sed -En 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: venv ## train, export and run on simulated pumps, one of which fails
	@$(bin)/andon demo $(ARGS)

.PHONY: test
test: venv tools ## run the tests
	@$(bin)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: torture
torture: venv tools ## kill, cut, fill, flip, flood and soak the gateway for some twenty minutes
	@ANDON_TORTURE=full ANDON_TORTURE_RESULTS=benchmarks/results/torture.json \
	  $(bin)/python -m pytest tests/torture $(ARGS)

.PHONY: check
check: venv ## run the linters, the type checker and the import rules
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/python -m pip check

.PHONY: bench
bench: performance ## measure what the gateway costs, and what its journal costs on the disk, in some quarter of an hour
	@$(bin)/python -m benchmarks.durability -o benchmarks/results/durability.json

.PHONY: bench-quick
bench-quick: venv tools ## try every row of docs/performance.md in some two minutes, and write nothing
	@$(bin)/python -m benchmarks.performance --quick $(ARGS)

.PHONY: performance
performance: venv tools ## the rows of docs/performance.md alone, or some of them, and write them there
	@$(bin)/python -m benchmarks.performance $(ARGS)

.PHONY: cells
cells: venv ## measure what each cell costs, and write it into docs/cells.md
	@$(bin)/python benchmarks/cells.py -o benchmarks/results/cells.json --document docs/cells.md $(ARGS)

.PHONY: gallery
gallery: venv ## train and draw the teaching examples into gallery-out
	@$(bin)/andon gallery -o gallery-out --steps 4000 $(ARGS)

.PHONY: quality
quality: data venv ## train and judge the detectors on ANDON_DATA for 10 to 40 minutes, write docs/quality.md
	@$(bin)/python -m benchmarks.quality "$(ANDON_DATA)" $(ARGS)

# Before the environment is made, which takes minutes.
.PHONY: data
data:
	@if [ ! -d "$(ANDON_DATA)" ]; then \
	  echo "ANDON_DATA wants the folder with the recorded data sets, got '$(ANDON_DATA)':" \
	    "make quality ANDON_DATA=FOLDER" >&2; exit 1; \
	fi

.PHONY: venv
venv: $(stamp) ## make .venv and install requirements.lock into it

# Debian keeps ensurepip, without which venv fails half-way, in a package of its own.
$(stamp): requirements.lock pyproject.toml
	@$(find-python); \
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
	  package="$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
	  $(call apt-install,$$package); \
	fi; \
	$(bin)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv
	@echo "Installing requirements.lock into .venv: 0.4 GB, some GB more where torch brings CUDA along"
	@$(bin)/python -m pip install $(index) -r requirements.lock \
	  | sed -un 's/^ *\(Downloading .*[0-9] [MG]B)\).*/  \1/p; s/^Installing collected.*/  Unpacking/p'
	@$(bin)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The tests' broker, what makes its certificates, and what looks at the gallery's page. Debian's
# mosquitto may start a service of its own, on loopback; the tests use ports of their own.
.PHONY: tools
tools:
	@missing=; \
	for tool in mosquitto openssl chromium; do \
	  PATH="$$PATH:/usr/sbin" command -v "$$tool" >/dev/null || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ]; then $(call apt-install,$${missing# }); fi

# The oldest Python that pyproject.toml admits is the one that packages drop first.
.PHONY: lock
lock: ## write requirements.lock anew from pyproject.toml
	@$(find-python); \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  echo "The lock is made with Python 3.11: make lock PYTHON=python3.11" >&2; exit 1; \
	fi; \
	fresh="$$(mktemp -d)"; trap 'rm -rf "$$fresh"' EXIT; \
	"$$python" -m venv "$$fresh"; \
	"$$fresh/bin/python" -m pip install --quiet --upgrade $(index) $(TORCH) setuptools \
	  --editable '.[train,demo,dev]'; \
	{ echo '# Written by `make lock`: andon[train,demo,dev] and all that it needs.'; \
	  "$$fresh/bin/python" -m pip freeze --all --exclude-editable --exclude pip \
	    | sed -E '/^(nvidia|cuda|triton)/d; s/\+cpu$$//'; \
	} > "$$fresh/lock"; \
	cp "$$fresh/lock" requirements.lock

.PHONY: clean
clean: ## remove .venv and everything else that is made
	rm -rf .venv build dist demo-out gallery-out *.egg-info .*_cache .hypothesis
	find train export evaluate edge_runtime tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
