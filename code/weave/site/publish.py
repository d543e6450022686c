"""Building a site aside, so that a build that fails or is killed leaves the last good site in place."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from mkdocs.utils import CountHandler

from weave.source.git import git


def fix_date(root: Path) -> None:
    """Make the commit's date the site's date, so that two builds of one commit are the same bytes."""
    if "SOURCE_DATE_EPOCH" not in os.environ and (date := "".join(git(root, "log", "-1", "--format=%ct"))):
        os.environ["SOURCE_DATE_EPOCH"] = date


def folder_aside(final: Path) -> str:
    """Return a new folder to build in, and delete those that killed builds left behind."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}-*.part"):
        owner = left.name.removeprefix(f".{final.name}-").partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except (ProcessLookupError, ValueError):
            if left.name.endswith("-old.part") and not final.exists():  # killed between the two steps of `publish`
                left.rename(final)
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            pass
    aside = tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-{os.getpid()}-", suffix=".part")
    os.chmod(aside, 0o755)
    return aside


def clear(final: Path) -> None:
    """Delete what this process built aside and did not publish."""
    for left in final.parent.glob(f".{final.name}-{os.getpid()}-*.part"):
        shutil.rmtree(left, ignore_errors=True)


def publish(built: Path, final: Path, lock: Path) -> None:
    """Put a finished site in the place of the last one."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        old = built.with_name(built.name.removesuffix(".part") + "-old.part")
        if final.exists():
            final.rename(old)
        built.rename(final)
        shutil.rmtree(old, ignore_errors=True)


def strict_warnings() -> bool:
    """Return whether `mkdocs build --strict` is about to fail."""
    return any(
        handler.get_counts() for handler in logging.getLogger("mkdocs").handlers if isinstance(handler, CountHandler)
    )
