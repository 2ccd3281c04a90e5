"""Chunks to search in."""

import random

from ragdist.records import Chunk, content_id


def chunk(text, title="t"):
    return Chunk(id=content_id(title, text), document_id="d", title=title, text=text)


def corpus(size, seed=0):
    rng = random.Random(seed)
    pieces = (chunk(" ".join(rng.choices([f"w{i}" for i in range(60)], k=12)), f"t{n}") for n in range(size))
    return {piece.id: piece for piece in pieces}
