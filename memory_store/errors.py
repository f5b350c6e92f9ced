"""Everything that can go wrong in the memory.

MemoryStoreError
├── InvalidMemory     what was to be stored cannot be: empty, too long, NUL, broken Unicode, a bad interval
│   └── ReaderEnded   somebody ended the process that read a document, the document is not to blame
├── NoSuchMemory      no memory, source or namespace has this name
├── WriteRefused      the source is not trusted enough to write
├── EmbedderFault     an embedding model gave vectors that cannot be used
├── StoreBusy         another program holds the file
├── StoreUnusable     the file cannot be opened, read or written, or is damaged
│   ├── StoreTooNew   a newer program wrote it
│   └── StoreLocked   it is encrypted and the key is missing or wrong
└── DiskFull          no space is left
"""

from __future__ import annotations


class MemoryStoreError(Exception):
    """Root of this package's errors: `message` says what is wrong, `hint` what to do about it."""

    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidMemory(MemoryStoreError):
    """A text, time, tag or name that cannot be stored."""


class ReaderEnded(InvalidMemory):
    """The process that read a document was ended from outside; the same document may be read the next time."""

    retryable = True


class NoSuchMemory(MemoryStoreError):
    """Nothing has this id, or it was forgotten."""


class WriteRefused(MemoryStoreError):
    """The source has lost too much trust to write."""


class PackageMissing(MemoryStoreError):
    """A package that this alone needs is not installed."""


class EmbedderFault(MemoryStoreError):
    """An embedding model gave another shape than it promised, or numbers that are not finite."""


class StoreBusy(MemoryStoreError):
    """Another program writes to the file, or reads from it while it must be rewritten."""

    retryable = True


class StoreUnusable(MemoryStoreError):
    """The file cannot be opened, read or written, or its content contradicts itself."""


class StoreTooNew(StoreUnusable):
    """The file has schema steps that this program does not know."""


class StoreLocked(StoreUnusable):
    """The file is encrypted, and the key is missing or wrong; or the package that decrypts is not installed."""


class DiskFull(MemoryStoreError):
    """The write did not fit; what was there before is unchanged."""

    retryable = True
