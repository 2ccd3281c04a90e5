"""Measured together with the latency of one client."""

from tests.bench.serve_latency import run

__all__ = ["run"]
