# Everything that people and CI run. `make demo` and `make test` set up what they need, the second time in seconds.

PYTHON ?= python3
VENV := .venv
# Twice quiet: errors only, and no word of an index of this machine's own that has not everything.
QUIET := --quiet --quiet --disable-pip-version-check
PIP := $(VENV)/bin/pip $(QUIET)
RUN := $(VENV)/bin/python

.PHONY: help demo test test-slow test-conformance bench check format generate image overlay container lock clean
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.installed-fleet ## a tour of edged: real requests, models over the air, a power cut; a minute
	@$(RUN) -m tools.demo

test: $(VENV)/.installed-dev system-packages .venv-tritonclient/.installed tests/nodejs/node_modules/.installed check ## all checks and tests, but those marked slow
	$(RUN) -m pytest -m "not slow" -n 2

test-slow: $(VENV)/.installed-dev slow-packages .venv-tritonclient/.installed tests/nodejs/node_modules/.installed ## the tests that take minutes
	$(RUN) -m pytest -m slow

test-conformance: $(VENV)/.installed-dev system-packages .venv-conformance/.installed ## the conformance suite of The Update Framework, from its own repository
	$(RUN) -m pytest -m slow tests/integration/test_tuf_conformance.py

bench: $(VENV)/.installed-dev ## what edged costs, beside what cannot be avoided; a quarter of an hour
	$(RUN) benchmarks/serving.py
	$(RUN) benchmarks/regions.py
	$(RUN) benchmarks/saturation.py

check: $(VENV)/.installed-dev ## lint, format, types, generated files
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) tools/generate_protos.py --check
	$(RUN) tools/generate_settings_doc.py --check
	$(RUN) tools/generate_update_diagram.py --check

format: $(VENV)/.installed-dev ## puts the code in form
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

generate: $(VENV)/.installed-dev ## makes the generated files anew
	$(RUN) tools/generate_protos.py
	$(RUN) tools/generate_settings_doc.py
	$(RUN) tools/generate_update_diagram.py

# The time of the commit: it makes the image the same again, and is the earliest that a device takes the time for.
EPOCH = $(shell git log -1 --format=%ct)
BUILD = podman build --timestamp $(EPOCH) --build-arg SOURCE_DATE_EPOCH=$(EPOCH)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' edged/__init__.py)+$(shell git rev-parse --short HEAD)

image: ## the bootable image edged, with BASE=… (needs podman): docs/operations.md
	@test -n "$(BASE)" || { echo "say on which bootc image, by its digest: make image BASE=…@sha256:…" >&2; exit 1; }
	$(BUILD) -f bootc/Containerfile --build-arg VERSION=$(VERSION) --build-arg BASE=$(BASE) -t edged .

overlay: ## the image edged-CLASS on top of it, with CLASS=…: bootc/overlays/README.md
	@test -e "bootc/overlays/$(CLASS).Containerfile" || { echo "say for which hardware class: make overlay CLASS=…, a name in bootc/overlays" >&2; exit 1; }
	$(BUILD) -f bootc/overlays/$(CLASS).Containerfile --build-arg EDGED=edged $(ENGINE:%=--build-arg ENGINE=%) -t edged-$(CLASS) .

container: ## the plain container edged, with BASE=… (needs podman): docs/operations.md
	@test -n "$(BASE)" || { echo "say on which image with Python, by its digest: make container BASE=…@sha256:…" >&2; exit 1; }
	$(BUILD) -f bootc/container/Containerfile --build-arg BASE=$(BASE) -t edged .

lock: ## pins all packages anew (needs uv)
	uv pip compile pyproject.toml --extra onnxruntime $(LOCK) -o requirements.lock
	uv pip compile pyproject.toml --extra openvino $(LOCK) -c requirements.lock -o requirements-openvino.lock
	uv pip compile pyproject.toml --extra edgetpu $(LOCK) -c requirements.lock -o requirements-edgetpu.lock
	uv pip compile --group build $(LOCK) -c requirements.lock -o requirements-build.lock
	uv pip compile pyproject.toml --extra onnxruntime --extra openvino --extra edgetpu --extra fleet --group dev $(LOCK) -c requirements.lock -c requirements-openvino.lock -c requirements-edgetpu.lock -c requirements-build.lock -o requirements-dev.lock
	uv pip compile tests/tritonclient/requirements.in $(LOCK) -o tests/tritonclient/requirements.lock
LOCK := --quiet --universal --generate-hashes --no-annotate --no-header --upgrade

clean: ## removes what make made
	rm -rf $(VENV) .venv-tritonclient .venv-conformance tests/nodejs/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: system-packages slow-packages
system-packages:
	@$(PYTHON) tools/system_packages.py

slow-packages:
	@$(PYTHON) tools/system_packages.py slow

# An environment is there when its pip is. Where that fails, as without Debian's python3-venv, nothing half made stays.
$(VENV)/bin/pip .venv-tritonclient/bin/pip .venv-conformance/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("edged needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "making $(@:/bin/pip=)"
	@$(PYTHON) -m venv --clear $(@:/bin/pip=) || { rm -rf $(@:/bin/pip=); \
	  echo "$(@:/bin/pip=) cannot be made: install python3-venv (Debian, Ubuntu) or set PYTHON=…" >&2; exit 1; }

$(VENV)/.installed: requirements.lock requirements-build.lock pyproject.toml $(VENV)/bin/pip
	@echo "installing edged into $(VENV) (about a minute)"
	@$(PIP) install --require-hashes -r requirements-build.lock
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What publishing needs beyond edged; no device has it.
$(VENV)/.installed-fleet: requirements-dev.lock $(VENV)/.installed
	@sed -n '/^fastcdc==/,/[^\\]$$/p' requirements-dev.lock > $(VENV)/fleet.lock
	@$(PIP) install --require-hashes --no-deps -r $(VENV)/fleet.lock
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# tritonclient needs an older protobuf than edged, so it has an environment of its own.
.venv-tritonclient/.installed: tests/tritonclient/requirements.lock .venv-tritonclient/bin/pip
	@echo "installing tritonclient into .venv-tritonclient"
	@.venv-tritonclient/bin/pip $(QUIET) install --require-hashes -r $<
	@touch $@

# The suite is published as a repository only, and pins a python-tuf of its own: this version of it was passed.
.venv-conformance/.installed: .venv-conformance/bin/pip
	@echo "installing tuf-conformance into .venv-conformance"
	@.venv-conformance/bin/pip $(QUIET) install "tuf-conformance @ git+https://github.com/theupdateframework/tuf-conformance@v2.5.0"
	@touch $@

tests/nodejs/node_modules/.installed: tests/nodejs/package-lock.json
	@if command -v npm >/dev/null; then cd tests/nodejs && npm ci --silent --no-audit --no-fund; fi
	@mkdir -p $(@D) && touch $@
