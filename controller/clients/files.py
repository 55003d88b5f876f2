"""The door to files that other programs read: digests, atomic writes, backups."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from controller.errors import Temporary
from controller.resource import digest
from controller.settings import Settings


class Files:
    """Paths are absolute, or relative to the environment's data folder."""

    def __init__(self, settings: Settings) -> None:
        self.data = settings.data

    def digest(self, path: str) -> str | None:
        """Of the text that is there; None when there is no such file. Raises Temporary."""
        text = self.read(path)
        return None if text is None else digest(text)

    def read(self, path: str) -> str | None:
        """The text that is there; None when there is no such file. Raises Temporary."""
        try:
            return (self.data / path).read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Temporary(f"{path} cannot be read: {error}") from error

    def write(self, path: str, text: str, *, backup: bool = True) -> str:
        """Replaces a file atomically; returns the path of the backup of what was there, or nothing. Raises Temporary."""
        target = self.data / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = ""
            mode = 0o644
            if target.exists():
                old = target.read_bytes()
                mode = target.stat().st_mode & 0o777
                kept = f"{target}.{digest(old.decode(errors='replace'))[:8]}.bak" if backup else ""
            if kept:
                _replace(Path(kept), old, mode)
            _replace(target, text.encode(), mode)
            return kept
        except OSError as error:
            raise Temporary(f"{path} cannot be written: {error.strerror or error}") from error


def _replace(path: Path, data: bytes, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
