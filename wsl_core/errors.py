"""The errors that the package raises on purpose.

Every message names the file or the argument, what was found, what was expected, and what to do about it.
"""

__all__ = ["WSLError", "UsageError", "DataError", "DownloadError", "TrainingError"]


class WSLError(Exception):
    """Base of every error that this package raises on purpose."""


class UsageError(WSLError, ValueError):
    """An argument is wrong. The command line exits with status 2."""


class DataError(WSLError, ValueError):
    """A file or a sample is not what its format promises."""


class DownloadError(WSLError, OSError):
    """A download failed, or what arrived is not what was announced."""


class TrainingError(WSLError, RuntimeError):
    """A training run cannot go on."""
