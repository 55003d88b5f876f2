"""Programs that run somewhere else: one script each, with its own dependencies, importing nothing of Turnout.

They stand beside the flow, not in it. A backend (a local subprocess, a job of a vendor, a cluster) is given the script as text and
a request as data; what comes back are JSON lines. What a program needs is written in its own header (PEP 723) and nowhere else, so
that the environment a backend makes and the one a vendor makes from the script are the same.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

# The reference pattern of PEP 723.
_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def dependencies(path: Path | str) -> list[str]:
    """The requirements of a program as its header names them, for example `["torch>=2.13,<2.14"]`; [] when it names none.

    Raises ValueError when the file has no such header, more than one, or one that is not TOML.
    """
    found = list(_BLOCK.finditer(Path(path).read_text(encoding="utf-8")))
    if len(found) != 1:
        raise ValueError(f"{path}: found {len(found)} headers of the form '# /// script', allowed is exactly one (PEP 723)")
    lines = found[0]["content"].splitlines()
    try:
        header = tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: the header '# /// script' is not TOML: {error}") from error
    return [str(one) for one in header.get("dependencies", [])]
