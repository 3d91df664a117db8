# Two commands matter: `make run` starts the app, `make test` proves that it works.
# PYTHON=python3.12 picks the interpreter; TORCH="torch==… --index-url …" picks another build of torch.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
JOBS ?= 3
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet
RUN = $(VENV)/.installed
DEV = $(VENV)/.installed-dev
CLIENTS = .venv-clients/.installed

.PHONY: run test test-long lint types fmt bench browser clean
.DELETE_ON_ERROR:

run: $(RUN)
	$(BIN)/python app.py

# Three workers, of which one has the browser (tests/conftest.py says why): half of the browser tests' time is waiting, and the
# suite must end within five minutes on two cores. One thread of torch's for each, as more would only take turns on them.
# JOBS=0 runs everything in one process.
test: $(DEV) $(CLIENTS) browser lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not long" -n $(JOBS)

# One after another and with all threads: these measure memory and time. Exit code 5 is pytest's "no tests were collected".
test-long: $(DEV) $(CLIENTS) browser
	$(BIN)/python -m pytest -m long --timeout 1800 || test $$? -eq 5

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

fmt: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(RUN)
	$(BIN)/python benchmarks/decode.py

# torch goes in first and pinned: the range in requirements.txt would take the newest build, which may be a larger one.
$(RUN): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) $(TORCH)
	$(PIP) -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUN)
	$(PIP) -r requirements-dev.txt
	@touch $@

# Other people's clients, run as programs against the server: an environment of their own, as some want older packages.
$(CLIENTS): requirements-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-clients.txt
	@touch $@

# The browser tests use the system's Chromium or Chrome. Root installs one; anybody else is told how. CI never goes without.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium fonts-liberation >/dev/null; \
	else \
		echo "No browser was found: install Chromium or Google Chrome, or the browser tests are left out."; \
		test -z "$$CI"; \
	fi

clean:
	rm -rf $(VENV) .venv-clients .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
