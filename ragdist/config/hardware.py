"""What `model.dtype=auto` asks of this machine, without torch."""

from pathlib import Path

NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags (x86, x86, arm) of machines that multiply bfloat16 faster than float32."""

LEAST_CPUS = 0.01
"""Cores that a rank takes of a machine of which others ask for all."""


def native_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 faster than float32."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and not NATIVE_BFLOAT16.isdisjoint(flags.read_text().split())
