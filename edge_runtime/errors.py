"""The exception tree: every error that Andon raises on purpose.

A message says where, what was wanted and what came. The command line prints it as it is and ends
with exit code 1, so none of them needs a traceback to be understood.
"""

from collections.abc import Sequence


class AndonError(Exception):
    """Something that the user can understand and mend."""


class ModelError(AndonError):
    """A model file that is not what its contract, or this gateway, promises."""


class StateError(AndonError):
    """A state whose names, shapes or dtypes are not those of the model."""


class ConfigError(AndonError):
    """A configuration with one or more problems; all of them at once.

    Args:
        problems: One sentence each, with file and key.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class PayloadError(AndonError):
    """A payload that is not a sample.

    Args:
        cause: Short stable name, counted and published, such as ``not_json``.
        detail: What was wanted and what came.
    """

    def __init__(self, cause: str, detail: str) -> None:
        self.cause = cause
        self.detail = detail
        super().__init__(f"{cause}: {detail}")


class RecordedFileError(AndonError):
    """A recorded file (CSV, Parquet) that cannot be read as time, stream and sensors."""


class BrokerError(AndonError):
    """The broker refused us, or cannot be used as configured."""


class TrainingError(AndonError):
    """Training cannot start or cannot go on."""


class ExportError(AndonError):
    """A detector that was not exported, because the file would not have kept its promise."""


class AdoptError(AndonError):
    """A foreign model that was not given a contract, because it would not have kept it."""


class StoreError(AndonError):
    """The gateway's database."""


class StoreUnavailableError(StoreError):
    """It cannot be written now and may be again later: full, locked, read-only, an I/O error."""


class StoreFullError(StoreUnavailableError):
    """There is no room for more: on the disk, or within ``max_mb``."""


class StoreDamagedError(StoreError):
    """It does not hold what was written into it."""


class StoreRefusedError(StoreError):
    """It is in use, of another version, or not ours: it is left alone."""


class StoreInUseError(StoreRefusedError):
    """Another daemon has it, which may come to its end."""
