"""Every exception hashfaiss raises on purpose.

    HashfaissError                could not do it: exit code 1
    ├── ArgumentError             was asked wrongly (also a ValueError): exit code 2
    ├── ImageError                one image cannot be read; `reason` says why
    ├── LabelError                a label file, or labels that cannot be trained on
    ├── ModelError                a model file that is not one, or of another format
    ├── TrainingError             training cannot start, continue or finish
    │   └── DivergedError         the loss is not a number any more
    └── IndexFolderError          an index folder that is missing, or not one
        ├── CorruptIndexError     a stored file is damaged
        ├── IndexLockedError      another process is writing
        ├── NewerFormatError      it was written by a later hashfaiss
        └── EncoderMismatchError  the codes were made by another encoder, or by none that is known

Each message says what was asked, what is the case, and what to do.
"""

from __future__ import annotations


class HashfaissError(Exception):
    """Anything hashfaiss could not do; the message is meant for people."""


class ArgumentError(HashfaissError, ValueError):
    """An argument outside what the call allows."""


class ImageError(HashfaissError):
    """One image cannot be read.

    Attributes:
        path: the file asked for, or None for an image in memory.
        reason: why not, in a few words.
    """

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(f"cannot read image {path!r}: {reason}" if path else f"cannot read image: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str | None, str]]:
        return type(self), (self.path, self.reason)


class LabelError(HashfaissError):
    """A label file that cannot be read, or labels that do not fit the task."""


class ModelError(HashfaissError):
    """A model file that cannot be used."""


class TrainingError(HashfaissError):
    """Training cannot start, continue or finish."""


class DivergedError(TrainingError):
    """The loss is not a number any more; the same settings lead there again."""


class IndexFolderError(HashfaissError):
    """An index folder that is missing or is not one."""


class CorruptIndexError(IndexFolderError):
    """A stored file is damaged or gone."""


class IndexLockedError(IndexFolderError):
    """Another process is writing to the index."""


class NewerFormatError(IndexFolderError):
    """An index of a format that this hashfaiss does not know: nothing of it is damaged, and nothing is to be mended."""


class EncoderMismatchError(IndexFolderError):
    """The index was made by another encoder than the one given, or its codes were imported without theirs."""
