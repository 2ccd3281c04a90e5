"""Randomness as an argument: every draw is named by (seed, stage, record), so that no order of work changes it."""

from __future__ import annotations

import hashlib
import random


def _digest(seed: int, stage: str, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\x1f{stage}\x1f{name}".encode(), digest_size=8).digest(), "big")


def draw(seed: int, stage: str, name: str) -> float:
    """A number in [0, 1) that belongs to this record in this stage."""
    return _digest(seed, stage, name) / 2**64


def rng_for(seed: int, stage: str, name: str) -> random.Random:
    """A generator that belongs to this record in this stage."""
    return random.Random(_digest(seed, stage, name))
