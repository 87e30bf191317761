# make demo · make test · make check — each sets up what it needs in .venv first. LOCKED=1: exactly the files of requirements/ci.txt.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: demo test check lock clean

demo: $(READY)
	rm -rf runs/demo
	$(VENV)/bin/poise demo --out runs/demo

test: $(READY)
	$(VENV)/bin/python scripts/test

check: $(READY)
	$(VENV)/bin/python scripts/check

# torch first and exactly pinned: on processors without a GPU any other request brings gigabytes of CUDA libraries
$(READY): pyproject.toml constraints.txt requirements/ci.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
ifdef LOCKED
	$(PIP) --no-deps --require-hashes -r requirements/ci.txt
	$(PIP) --no-deps --no-build-isolation -e .
else
	$(PIP) -c constraints.txt -e '.[dev]'
endif
	touch $(READY)

# What CI installs, by hash. Not in it: torch, whose files differ by index (a CPU build here, CUDA on PyPI), and what torch alone asks for.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check uv
	echo torch > $(VENV)-lock/excluded
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev -c constraints.txt --excludes $(VENV)-lock/excluded \
	  --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet -o requirements/ci.txt
	rm -r $(VENV)-lock

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
