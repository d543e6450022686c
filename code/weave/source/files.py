"""Write files so that a reader never sees half of one, and cache texts under a checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file, then rename it: a reader sees all of the old content or all of the new."""
    path = path.resolve()  # write to the target of a symbolic link instead of replacing the link
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with _aside(path, data) as temporary:
        os.chmod(temporary, mode)
        os.replace(temporary, path)


def create_atomically(path: Path, data: bytes) -> None:
    """Write a new file, all of it or nothing.

    Raises:
        FileExistsError: It is there already.
    """
    with _aside(path, data) as temporary:
        os.chmod(temporary, 0o644)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.replace(temporary, path)


@contextlib.contextmanager
def _aside(path: Path, data: bytes) -> Iterator[str]:
    """Within the block there is a temporary file of this content beside a path; its errors name the path."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        yield temporary
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def digest(*parts: bytes) -> str:
    """SHA-256 of several parts; each is hashed on its own, so that no two lists of parts share a digest."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def cached(folder: Path, key: str, make: Callable[[], str]) -> str:
    """Return the text stored under ``key`` in ``folder``, or make and store it; the folder keeps only the last key."""
    path = folder / key
    if (stored := read_checked(path)) is not None:
        return stored
    text = make()
    write_checked(path, text)
    for old in folder.iterdir():
        if old.name != key and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    return text


def read_checked(path: Path, *about: bytes) -> str | None:
    """Return the text that ``write_checked`` wrote with the same ``about``; None if it is missing or damaged."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        checksum, _, text = path.read_bytes().decode().partition("\n")
        if checksum == digest(text.encode(), *about):
            return text
    return None


def write_checked(path: Path, text: str, *about: bytes) -> None:
    """Write a text below a checksum of itself and of everything that it was made from."""
    write_atomically(path, f"{digest(text.encode(), *about)}\n{text}".encode())
