# Everything runs in .venv, which is made from pyproject.toml when it is absent or older.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
PYTHON ?= python3

.PHONY: help setup repro test test-slow coverage lint format results web

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: .venv/.installed  ## make .venv and install medistill with all its extras

.venv/.installed: pyproject.toml
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	@echo "installing medistill and what it needs into .venv (minutes)"
	@python -m pip install --quiet --disable-pip-version-check -e ".[train,pipeline,dicom,pretrained,dev]"
	@touch .venv/.installed

repro: setup  ## run the whole graph, track it in MLflow and promote the best student
	@# DVC refuses a lock file that git ignores. As long as the committed one is empty, changes to it stay out of git's sight.
	@! git show HEAD:dvc.lock 2>/dev/null | grep -q '^stages: {}' || git update-index --skip-worktree dvc.lock
	python -m pipeline check
	dvc repro
	python -m pipeline track
	python -m pipeline promote || test $$? -eq 3
	@echo
	@echo "The report:     reports/index.html"
	@echo "The heat maps:  reports/explain/index.html"
	@echo "Compare models: source .venv/bin/activate && python -m pipeline ui"

# Two processes of one thread each. Whole files, in their order: the longest fixture belongs to one, and it is early.
PYTEST = OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

test: setup lint  ## lint and test (minutes)
	$(PYTEST) -m "not slow"

# Pipes of servers and processes that a test has killed are closed when Python comes across them, in whichever test that is.
test-slow: setup  ## the tests that take long or need a service
	$(PYTEST) -W ignore::pytest.PytestUnraisableExceptionWarning -m slow

coverage: setup  ## which lines and branches no test takes (minutes)
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing:skip-covered

lint: setup  ## code, form, spelling, types
	ruff check .
	ruff format --check .
	codespell
	mypy

format: setup  ## put the code into its form
	ruff check --fix .
	ruff format .

results: setup  ## the tables of docs/results.md (a day on two cores); DATA=FOLDER: of real images, too
	python -m benchmarks.results --workers 2 $(if $(DATA),--data $(DATA))

web: setup  ## the web pages of all exports, or of MODEL=NAME; needs npm
	@ls $(if $(MODEL),exports/$(MODEL),exports/*)/bundle.json >/dev/null
	@mkdir -p .cache/web && cp src/medistill/web/package.json .cache/web
	npm install --prefix .cache/web --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error
	python -m medistill.web.build .cache/web/node_modules $(if $(MODEL),exports/$(MODEL),exports/*)
