"""A table of models that are trained by several methods and judged alike, as a file: `ragdist reproduce TABLE`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ragdist.config.block import SettingsBlock

OF_DUET = ("reciter/model", "discoverer/model", "DSF/model")


class TableRow(SettingsBlock):
    """One model of the table."""

    job: Literal["", "raft", "atm", "duet"] = ""
    """What trains it; empty is the base model. Rows of one job with the same settings share one run."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Where it differs from the table's, nested or by dotted keys."""
    model: str = "model"
    """Its folder in the run's; of DuetRAG one of `reciter/model`, `discoverer/model`, `DSF/model`."""
    source: str = ""
    """The paper that it is from."""
    differs: str = ""
    """What is not as in that paper."""
    published: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """The paper's numbers by condition, shares between 0 and 1."""

    @model_validator(mode="after")
    def _trained_as_it_says(self) -> Self:
        if not self.job and (self.settings or self.model != "model"):
            raise PydanticCustomError("row", "settings and model are of what is trained; name a job, or leave them out")
        if self.job == "duet" and self.model not in OF_DUET:
            raise PydanticCustomError("row", f"of job: duet model is one of {', '.join(OF_DUET)}")
        return self


class TableFile(SettingsBlock):
    """What a table's file holds."""

    title: str
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of all rows: data, seed, model, and how they are judged."""
    rows: dict[str, TableRow] = Field(min_length=1)
    """By label; the first is what the others are compared with."""
