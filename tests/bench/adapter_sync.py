"""How soon vLLM writes with the next version of an adapter: what `vllm_forge` measures too.

python -m tests.bench adapter_sync
"""

from tests.bench.vllm_forge import run as run
