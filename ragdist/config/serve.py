"""Settings of `ragdist serve`: where it listens, what it bounds, and its replicas on a cluster."""

from __future__ import annotations

from pydantic import Field, model_validator

from ragdist.config.block import SettingsBlock


class ServeConfig(SettingsBlock):
    """A finished run over HTTP (`ragdist serve`); may differ from those that the run was made with."""

    host: str = "127.0.0.1"
    """Address that is listened on; 0.0.0.0 for all of this machine's."""
    port: int = Field(8000, ge=0, le=65535)
    """Port; 0 takes a free one."""
    token_file: str = ""
    """File with the token that requests must carry; empty takes RAGDIST_TOKEN, else a file of this user's own, made on
    first use."""
    concurrent: int = Field(16, ge=1, le=1024)
    """Texts that a model writes at the same time; each holds keys and values of its whole prompt."""
    waiting: int = Field(64, ge=0)
    """Requests that may wait for their turn; more are refused with 503."""
    timeout_s: float = Field(120, gt=0)
    """Longest time for an answer, waiting included, in seconds; then it is given up with 504."""
    max_request_kib: int = Field(1024, ge=1)
    """Largest body of a request, in KiB."""
    max_new_tokens: int = Field(0, ge=0)
    """Most tokens that a request may ask for; 0 is what the run's answers were given."""
    replicas: int = Field(1, ge=1)
    """On a cluster: replicas at least."""
    max_replicas: int = Field(1, ge=1)
    """On a cluster: replicas at most; they come and go with the requests."""
    cpus_per_replica: float = Field(1, gt=0)
    """On a cluster: CPU cores of a replica."""
    gpus_per_replica: float = Field(0, ge=0)
    """On a cluster: GPUs of a replica."""

    @property
    def proxy_timeout_s(self) -> float:
        """Longest time for a request at a proxy in front of replicas: beyond what a replica takes to give one up."""
        return self.timeout_s + 10

    @model_validator(mode="after")
    def _most_is_not_least(self) -> ServeConfig:
        if self.max_replicas < self.replicas:
            raise ValueError(
                f"serve.max_replicas={self.max_replicas} is less than serve.replicas={self.replicas}; raise it"
            )
        return self
