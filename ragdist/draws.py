"""Randomness as an argument: every draw is named by (seed, stage, record), so that no order of work changes it."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence
from functools import cache
from itertools import permutations

LISTED = 6
"""Sizes up to it have so few permutations that one is looked up: half the cost of sorting."""
_EIGHT = struct.Struct(">8Q")


def _name(seed: int, stage: str, name: str) -> bytes:
    return f"{seed}\x1f{stage}\x1f{name}".encode()


def _digest(seed: int, stage: str, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(_name(seed, stage, name), digest_size=8).digest(), "big")


def draw(seed: int, stage: str, name: str) -> float:
    """A number in [0, 1) that belongs to this record in this stage."""
    return _digest(seed, stage, name) / 2**64


def rng_for(seed: int, stage: str, name: str) -> random.Random:
    """A generator that belongs to this record in this stage."""
    return random.Random(_digest(seed, stage, name))


def draws(seed: int, stage: str, name: str, count: int) -> tuple[int, ...]:
    """`count` independent numbers in [0, 2**64) that belong to this record in this stage.

    For work on every record: making `rng_for` alone costs ten times more.
    """
    digest = block = hashlib.blake2b(_name(seed, stage, name)).digest()
    if count <= 8:  # by far the most
        return _EIGHT.unpack(digest)[:count]
    while len(digest) < 8 * count:
        block = hashlib.blake2b(block).digest()
        digest += block
    return struct.unpack_from(f">{count}Q", digest)


def order_for(seed: int, stage: str, name: str, size: int) -> Sequence[int]:
    """A permutation of range(size) that belongs to this record in this stage; every one is equally likely."""
    if size <= LISTED:
        orders = _orders(size)
        return orders[_digest(seed, stage, name) % len(orders)]
    return sorted(range(size), key=draws(seed, stage, name, size).__getitem__)


@cache
def _orders(size: int) -> list[tuple[int, ...]]:
    return list(permutations(range(size)))
