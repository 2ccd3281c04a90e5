"""The errors a person can cause, each one sentence: what, got, wanted, which knob.

Every class takes one message argument only: an exception with arguments of its own cannot be
unpickled, and would reach the driver of a cluster as another type.
"""


class RagdistError(Exception):
    """Base of all errors that ragdist raises on purpose; the command line exits with `exit_code`."""

    exit_code = 2


class ConfigError(RagdistError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(RagdistError):
    """A document, question or record cannot be used as it is."""


class ModelError(RagdistError):
    """A model or tokenizer cannot be loaded or does not fit its use."""


class StorageError(RagdistError):
    """A file or folder cannot be written or read: disk full, no permission, locked by another run."""


class TrainError(RagdistError):
    """A training job ended without a tuned model, though its input was fine."""

    exit_code = 1


class EngineError(RagdistError):
    """An engine hangs, died, or holds other weights than it should; no text of it was kept."""

    exit_code = 1


class TeacherError(RagdistError):
    """A teacher cannot be reached, refuses the key, or keeps failing; what it wrote so far is kept."""

    exit_code = 1


class PartError(RagdistError):
    """A retriever, attack or metric of the user's own raised, or gave what it should not; its cause is that error."""

    exit_code = 1


class Stopped(RagdistError):
    """A person or the cluster asked the run to end; its state is saved and the same command goes on."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What an error says, without what its library adds in further lines."""
    return str(error).strip().partition("\n")[0]
