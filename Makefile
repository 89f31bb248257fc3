# Two commands: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# The oldest supported torch, and Python 3.12 where it can be started.
OLDEST_PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
OLDEST := $(shell sed -n 's/^ *"\(torch\|torchvision\)>=\(.*\)",/\1==\2.*/p' pyproject.toml)
export OMP_WAIT_POLICY ?= PASSIVE

ifeq ($(UV_TORCH_BACKEND),)
unexport UV_TORCH_BACKEND # uv refuses an empty one
endif

TESTS := quick

.DEFAULT_GOAL := help
.PHONY: help install demo serve test quick thorough test-thorough test-oldest fuzz faults check gpu docs audit format lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(BIN)/.installed ## install what is needed into .venv

# A torch build chosen by UV_TORCH_BACKEND (cpu, cu126, auto, ...) has other hashes than the ones that are locked.
$(BIN)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --compile-bytecode $(if $(UV_TORCH_BACKEND),--no-verify-hashes) --constraint requirements.lock --group dev --editable .
	touch $@

demo: install ## start the service, evaluate the zoo through HTTP, print the report; DETACH=1 ends by itself
	$(BIN)/withstand demo $(if $(DETACH),--detach)

serve: install ## start the service
	$(BIN)/withstand serve

check: install ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

test: install ## run every check and test, but those of test-thorough
	$(MAKE) --no-print-directory --jobs 2 check $(TESTS)

# Two processes on two cores: a thread for each is enough for torch, and more wait for each other.
quick thorough: install
	env -u MAKEFLAGS OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(if $(filter thorough,$@),-m '')

test-thorough: ## the same with more cases of what slow tests show: 10 minutes longer
	$(MAKE) --no-print-directory test TESTS=thorough

test-oldest: .venv-oldest/bin/.installed ## run the tests of common, models and attacks with the oldest supported torch
	.venv-oldest/bin/python -m pytest --numprocesses 2 --dist worksteal tests/common tests/models tests/attacks

.venv-oldest/bin/.installed: pyproject.toml
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
	VIRTUAL_ENV=.venv-oldest .venv-oldest/bin/uv pip install --compile-bytecode --group dev --editable . $(OLDEST:%='%')
	touch $@

fuzz: install ## damage files at random for FUZZ_S seconds per reader (60 if unset), and ask every route 50 random questions
	$(BIN)/python -W ignore -m tests.fuzz $(FUZZ_S) 2>/dev/null  # libtiff reports what is broken there
	CONTRACT_EXAMPLES=50 $(BIN)/python -m pytest --numprocesses 2 tests/service/http/test_contract.py

faults: install ## kill servers and device processes FAULT_ROUNDS times (20 if unset), and see that nothing is lost or done twice
	FAULT_ROUNDS=$(or $(FAULT_ROUNDS),20) $(BIN)/python -m pytest --capture no --override-ini faulthandler_timeout=1300 \
		tests/end_to_end/test_faults.py tests/service/cluster/test_cluster.py tests/service/cluster/test_autoscaling.py

gpu: install ## measure everything on a GPU and write a page into benchmarks/results; toy sizes without one
	$(BIN)/python -m benchmarks.gpu

audit: install ## look for known vulnerabilities of what is locked, and list it (CycloneDX) in dist/withstand.cdx.json
	mkdir -p dist
	$(BIN)/uv tool run --from cyclonedx-bom cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/withstand.cdx.json $(BIN)/python
	$(BIN)/uv tool run pip-audit --requirement requirements.lock --disable-pip --require-hashes

docs: install ## make the site of the documents in site/; SERVE=1 serves it at http://127.0.0.1:8001 and follows changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve,build)

format: install ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: ## renew requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --upgrade --no-emit-index-url --group dev pyproject.toml --output-file requirements.lock
