"""How many tokens a text has for a base model, by that model's own tokenizer.json.

Exact counts make the estimate of a training and the check of lengths better; nothing depends on them. Where the tokenizer cannot be
had (no package, no file, no right to it, a model that is made on the spot), there is no counter, and bytes / 4 is the estimate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.clients.huggingface import Hub
from controller.errors import Permanent, Temporary

FILE = "tokenizer.json"
AGAIN_SECONDS = 600.0
"""So long a tokenizer that could not be had is not asked for again."""
MOST_BYTES = 100_000_000
Counter = Callable[[str], int]


class Tokens:
    """Counters by base model, kept; files lie below `folder`, by the commit that they are of."""

    def __init__(self, folder: Path, hub: Callable[[], Hub], clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._hub, self._clock = folder, hub, clock
        self._kept: dict[tuple[str, str], tuple[float, Counter | None]] = {}

    def counter(self, base_model: str, revision: str | None) -> Counter | None:
        """Of a Hub id or a folder of this machine. Never raises."""
        key = (base_model, revision or "main")
        at, found = self._kept.get(key, (0.0, None))
        if key not in self._kept or (found is None and self._clock() - at > AGAIN_SECONDS):
            found = self._counter(*key)
            self._kept[key] = (self._clock(), found)
        return found

    def _counter(self, base_model: str, revision: str) -> Counter | None:
        try:
            from tokenizers import Tokenizer

            path = self._file(base_model, revision)
            tokenizer: Any = Tokenizer.from_file(str(path)) if path else None
        except (Temporary, Permanent, OSError, ImportError):
            return None
        except Exception as error:  # the library raises plain Exceptions for files that it cannot read
            if type(error) is not Exception:
                raise
            return None
        return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)) if tokenizer else None

    def _file(self, base_model: str, revision: str) -> Path | None:
        if base_model.startswith(("/", ".")):
            path = Path(base_model) / FILE
            return path if path.is_file() else None
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
            return None
        repositories = self._hub().repositories
        commit = repositories.revision(base_model, revision)
        if commit is None or not any(one.name == FILE and one.size <= MOST_BYTES for one in repositories.files(base_model, commit)):
            return None
        path = self.folder / commit / FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            repositories.download(base_model, FILE, path, revision=commit)
        return path
