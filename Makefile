# Everything that needs only Python 3.11, git and make.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: help package bundle frameworks docs pages viewer viewer-check viewer-images recording demo test test-full test-live test-pythons mutants conformance check format bench clean faults faults-live evals audit image-requirements

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make demo          a quick tour with a real agent on this machine
## make test          the tests, in parallel; ARGS='tests/core' for some of them
## make test-full     all transports and protocol versions, the fault matrix, coverage
## make test-live     also against a real Letta server, which is installed and started
## make test-pythons  the tests on every supported Python
## make check         format, lint, types, contracts, quality of the tools' texts
## make format        format, and fix what can be fixed
## make pages         write what follows from the code: reference of the tools, snippets, bundles' descriptions
## make docs          the documentation as a site, in build/site
## make frameworks    run the examples of docs/frameworks.md, each with its framework
## make conformance   MCP's own suite; needs npm
## make faults        break everything in a send, count, and write docs/faults.md
## make bench         compare speed and memory side by side
## make mutants       plant small faults and see which the tests notice; ONLY=core/keys for one module
## make evals         the cases for language models
## make viewer        build the viewer; needs npm
## make package       the package in dist/, checked
## make bundle        the bundle for Claude Desktop in build/; needs npm

# The tools of development, at the versions that were tested; made again when they change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@ $(VENV)/.tour

$(VENV)/.tour: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) what the tour needs: this server and Letta Code, about 80 MB to download."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local]'
	touch $@

# What the tour needs and no more: no linters, no browser.
demo: $(VENV)/.tour
	$(BIN)/letta-conversations-mcp demo $(if $(AGENT),--agent "$$AGENT")

# Every worker, and every server that a test starts, loads the same modules.
unexport PYTHONDONTWRITEBYTECODE

# Three workers for each core, because the tests mostly wait. WORKERS=0 runs them in one process.
WORKERS ?= auto
PARALLEL := --numprocesses=$(WORKERS) --dist=worksteal
SLOWEST := --durations=20 --durations-min=1

# One transport and era, except where these matter.
test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PARALLEL) $(SLOWEST) $(ARGS)

# All transports and eras, every cell of the fault matrix, and coverage.
test-full: $(VENV)/.installed
	$(BIN)/python -m pytest --ways=all $(PARALLEL) $(SLOWEST) --cov --cov-report=term $(ARGS)
	$(BIN)/python -m tests.faults

# Small faults are planted in the code, and the tests have to notice them. ONLY='core/model http' for some modules.
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group mutants
	$(BIN)/python -m tests.mutants $(ONLY)

# Python 3.11 to 3.14, from PATH, or fetched by uv.
test-pythons: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group pythons
	$(BIN)/nox -- $(ARGS)

test-live: $(VENV)/.installed
	$(BIN)/python -m pytest --live

# Needs npm, with which it installs the suite and the Node.js that this needs. SKIP_CONFORMANCE=1 leaves it out.
conformance: $(VENV)/.installed
	$(BIN)/python -m tests.conformance

faults: $(VENV)/.installed
	$(BIN)/python -m tests.faults --write

faults-live: $(VENV)/.installed
	$(BIN)/python -m tests.faults --live --write

# The viewer is shipped built, so that only its authors need npm.
viewer: viewer/node_modules/.package-lock.json
	cd viewer && npm run --silent check && npm run --silent build

# Fails when the shipped page is not what its sources make.
viewer-check: viewer/node_modules/.package-lock.json
	cd viewer && npm run --silent check && node build.mjs --outfile node_modules/.viewer.html
	cmp viewer/node_modules/.viewer.html src/letta_conversations_mcp/server/viewer/viewer.html || \
		{ echo "The viewer is stale: run make viewer and commit the result."; exit 1; }

recording: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group recording
	$(BIN)/python -m tests.cli.tour_recording

viewer-images: $(VENV)/.installed viewer
	$(BIN)/python -m tests.viewer.screenshots

viewer/node_modules/.package-lock.json: viewer/package-lock.json
	cd viewer && npm ci --silent
	touch $@

# The package in dist/, checked.
package: $(VENV)/.package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# The bundle for Claude Desktop in build/; needs npm. It has the package's sources, and uv installs the rest.
BUNDLE := build/mcpb
MCPB := npx --yes @anthropic-ai/mcpb@2.1.2
bundle:
	rm -rf $(BUNDLE) && mkdir -p $(BUNDLE)
	cp -R src pyproject.toml README.md LICENSE distribution/mcpb/manifest.json $(BUNDLE)
	find $(BUNDLE) -name __pycache__ -prune -exec rm -rf {} +
	$(MCPB) validate $(BUNDLE)/manifest.json
	$(MCPB) pack $(BUNDLE) build/letta-conversations-mcp.mcpb

$(VENV)/.package: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group package
	touch $@

# Runs the examples of docs/frameworks.md, each in an environment of its own with its framework.
frameworks: $(VENV)/.installed
	$(BIN)/python -m tests.frameworks.environments
	$(BIN)/python -m pytest tests/frameworks

# The documentation as a site, in build/site; fails for a link that leads nowhere.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

# Everything written from the code and from distribution/server.toml: bundles, snippets, the reference of the tools.
pages: $(VENV)/.installed
	$(BIN)/python -m distribution --record

# What the image installs, with hashes; to be renewed with constraints.txt. Needs uv.
PINS := uv pip compile --quiet --generate-hashes --universal --python-version 3.12 --no-annotate \
	--custom-compile-command "make image-requirements"
image-requirements:
	$(PINS) --extra aiohttp --extra otel --extra redis --constraint constraints.txt pyproject.toml -o deploy/image-requirements.txt
	echo 'hatchling>=1.27' | $(PINS) - -o deploy/image-build-requirements.txt

# Known vulnerabilities of what is installed. Skipped where no index answers.
audit:
	.ci/audit

check: $(VENV)/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/tdqs lint --command "$(BIN)/letta-conversations-mcp --create-agents" --fail-on warning

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# With EVAL_BASE_URL and EVAL_MODEL a model plays the cases; without, they are only checked.
evals: $(VENV)/.installed
	$(BIN)/python -m evals

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .mutants .nox .conformance build dist .coverage* .pytest_cache .ruff_cache .hypothesis
