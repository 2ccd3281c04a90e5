"""DeepSpeed as this project uses it: one configuration from the settings, nothing compiled, nothing printed."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ragdist.config import TrainConfig

NOISY = ("transformers", "trl", "accelerate", "deepspeed", "DeepSpeed", "peft", "datasets", "torch.distributed")


def accumulation(train: TrainConfig, workers: int) -> int:
    """Microbatches that one worker sums into a step; settings hold that it divides evenly. Where passes are cut by
    tokens, 1: how many there are is said step by step."""
    if train.tokens_per_pass:
        return 1
    return train.examples_per_step // (train.microbatch * workers)


def zero_config(train: TrainConfig, workers: int, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration; one path for all stages, so that ZeRO 0 is the same engine unsharded.

    Args:
        train: decides stage, offload, clipping and sizes.
        workers: size of the process group.
        dtype: bfloat16 keeps fp32 master weights in the optimizer; float32 has nothing to keep.

    Raises:
        ConfigError: the stage keeps no master weights.
    """
    train.check_precision(dtype.itemsize)
    stage = train.stage(workers, dtype.itemsize)
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": torch.cuda.is_available()}
    if train.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if train.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": train.microbatch,
        "gradient_accumulation_steps": accumulation(train, workers),
        # Silent means 1.0 to DeepSpeed. At stage 0 it would clip and forget the norm: `clip_before_steps` does not.
        "gradient_clipping": train.gradient_clip if stage else 0.0,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own would be compiled on first use
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": sys.maxsize,
    }


def clip_before_steps(optimizer: torch.optim.Optimizer, largest: float) -> None:
    """At stage 0: clips the norm of all gradients to `largest` (0 does not clip), and leaves it to the engine.

    The engine asks its optimizer for `_global_grad_norm` after each step; other stages keep it by themselves.
    """

    def clip(stepping: Any, *_: Any) -> None:
        parameters = [parameter for group in stepping.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([part.grad for part in parameters if part.grad is not None])
        if largest:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        stepping._global_grad_norm = norm.item()

    optimizer.register_step_pre_hook(clip)


def average_nothing(engine: Any) -> None:
    """Before the first step: a rank that is alone keeps its gradients where they are, unless its stage flattens them.

    DeepSpeed would copy all of them into one buffer and back, to average them with nobody.
    """
    if torch.distributed.get_world_size() == 1 and not engine.zero_optimization_stage():
        engine.enable_backward_allreduce = False


def prepare() -> None:
    """Makes deepspeed importable without a compiler; call it before anything else imports deepspeed.

    The shared-memory op only serves tensor-parallel inference, and takes a minute to compile.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with quiet():
        import deepspeed  # noqa: F401
    # `import deepspeed.comm.torch` would give torch itself, which that module imports under its own name.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps bars and warnings of the training libraries, which no setting of ours causes, out of the terminal."""
    from transformers.utils import logging as hf_logging

    levels = {name: logging.getLogger(name).level for name in NOISY}
    bars = hf_logging.is_progress_bar_enabled()
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def process_group() -> Iterator[None]:
    """A torch process group: the one that is there (Ray Train makes it), else one of this process alone.

    The lonely one stays for the life of the process: DeepSpeed remembers its groups and cannot use a second one.
    """
    if "RANK" in os.environ:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    alone["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # unset, accelerate would halve it
    before = dict(os.environ)
    os.environ.update(alone)
    try:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        yield
    finally:
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # else the next model loaded here is sharded too
        for name in {*alone, *(name for name in os.environ if name.startswith("ACCELERATE_"))}:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
