"""Files that commands write for other programs: replaced as a whole, so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from controller.errors import TurnoutError


def replace(path: Path, content: bytes) -> None:
    """Writes beside the file and renames: of two writers the later one wins, whole. Keeps the file's mode. Raises TurnoutError."""
    try:
        target = path.resolve()  # a link stays a link
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise TurnoutError(f"{path} cannot be written: {error.strerror or error}", "nothing was changed") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
