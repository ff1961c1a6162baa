# make lab · test · check · book · notebooks · results · bench · faults
# Each first creates .venv from requirements.lock, or refreshes it. Works with GNU make 3.81 and a POSIX shell, as on macOS.

VENV := .venv/bin/python
READY := .venv/.ready
TABLE := $(VENV) -m rlbook_utils.front && $(VENV) lab/pages.py
PIP := $(VENV) -m pip --disable-pip-version-check --no-input -qq
KNOWN_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# A moved repository, or a Python that has been removed, leaves a .venv that looks ready and is not.
$(shell test "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" && $(VENV) -c "" 2>/dev/null || rm -f $(READY))

.PHONY: lab test check book notebooks results bench faults
.SILENT:

lab: $(READY)
	JUPYTER_CONFIG_PATH=lab $(VENV) -m jupyterlab $(LAB_ARGS)

# Each part runs even where an earlier one fails; pytest comes last, so that its summary closes the output.
test: $(READY)
	failed=0; \
	$(VENV) -m ruff check || failed=1; \
	$(VENV) -m ruff format --check || failed=1; \
	RLBOOK_BUDGET=smoke $(VENV) -m pytest --nbval-lax --nbval-cell-timeout=120 $(TEST_ARGS) tests chapters || failed=1; \
	exit $$failed

# What a change should pass before it is committed, in three minutes: all but the tests that train or open a browser.
check: $(READY)
	$(VENV) -m ruff check
	$(VENV) -m ruff format --check
	RLBOOK_BUDGET=smoke $(VENV) -m pytest -q -m "not slow" $(TEST_ARGS) tests

book: $(READY)
	$(VENV) book/build.py

notebooks: $(READY)
	$(VENV) -m rlbook_utils.notebooks $(if $(FORCE),--force) $(CHAPTERS)
	$(TABLE)

results: $(READY)
	$(VENV) -m rlbook_utils.results $(if $(ROW),--row '$(ROW)') $(if $(SEEDS),--seeds '$(SEEDS)') \
		$(if $(filter-out 0,$(WRITE)),--write) $(if $(filter-out 0,$(STALE)),--stale)
	$(if $(or $(ROW),$(SEEDS)),$(if $(filter-out 0,$(WRITE)$(STALE)),$(TABLE)),$(TABLE))

bench: $(READY)
	$(VENV) benchmarks/run.py

faults: $(READY)
	$(VENV) tests/faults.py $(FAULT)

# Everything here speaks on stderr: the output of `make results` is nothing but JSON lines.
# Python 3.11 comes first because requirements.lock was made with it; PYTHON=... chooses another.
# If one package cannot be built, the others are installed one by one, without what they ask for (it has a line of its own);
# only torch's CUDA build asks for more than the lock names. Of gym-super-mario-bros only the game's file is used, never what it asks for.
$(READY): requirements.lock pyproject.toml
	exec >&2; \
	if ! $(VENV) -c '$(KNOWN_PYTHON)' 2>/dev/null; then \
		for python in "$${PYTHON:-python3.11}" python3.12 python3; do \
			"$$python" -c '$(KNOWN_PYTHON)' 2>/dev/null && rm -rf .venv && "$$python" -m venv .venv && break; \
		done; \
	fi; \
	if ! $(VENV) -c '$(KNOWN_PYTHON)' 2>/dev/null; then \
		echo "This needs Python 3.11 or 3.12 with its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; \
	fi; \
	echo "Installing requirements.lock into .venv: a few minutes the first time ..."; \
	if ! $(PIP) install -r requirements.lock; then \
		echo "Not everything could be installed at once, so the packages are installed one by one ..."; \
		failed=""; \
		while read -r line; do \
			case "$$line" in "" | "#"*) continue ;; torch==*) deps="" ;; *) deps=--no-deps ;; esac; \
			$(PIP) --retries 1 install $$deps "$$line" </dev/null || failed="$$failed $${line%% *}"; \
		done <requirements.lock; \
		echo "Could not be installed, so that what needs them does not work:$${failed:- (none)}."; \
	fi; \
	$(PIP) install --no-deps gym-super-mario-bros==7.4.0 || \
		echo "Super Mario's game could not be fetched; the rest of the book works without it."; \
	$(PIP) install --no-deps --no-build-isolation -e . && $(VENV) -c "import rlbook_utils.run, jupyterlab" || { \
		echo "The set-up is not complete: mend what is named above, then run make again."; exit 1; }; \
	printf '%s\n' "$(CURDIR)" >$(READY)
