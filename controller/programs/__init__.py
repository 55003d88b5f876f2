"""Programs that run somewhere else: one script each, with its own dependencies, importing nothing of Turnout.

They stand beside the flow, not in it. A backend (a local subprocess, a job of a vendor, a cluster) is given the script as text and
a request as data; what comes back are JSON lines. What a program needs is written in its own header (PEP 723) and nowhere else, so
that the environment a backend makes and the one a vendor makes from the script are the same.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
import zlib
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


_TOGETHER = '''\
{header}
"""{name} and its neighbours as one file: unpacks them and becomes {name}. Its request is in the variable TURNOUT_REQUEST."""

import base64
import json
import os
import pathlib
import sys
import tempfile
import zlib

PACKED = "{packed}"
folder = pathlib.Path(tempfile.mkdtemp(prefix="turnout-"))
for name, text in json.loads(zlib.decompress(base64.b85decode(PACKED))).items():
    (folder / name).write_text(text, encoding="utf-8")
(folder / "request.json").write_text(os.environ["TURNOUT_REQUEST"], encoding="utf-8")
os.execv(sys.executable, [sys.executable, str(folder / "{name}"), "--request", str(folder / "request.json")])
'''


def together(path: Path, *neighbours: Path) -> str:
    """A program that needs others beside it, as one script with the header of `path`: for a place that takes one file."""
    texts = {each.name: each.read_text(encoding="utf-8") for each in (path, *neighbours)}
    header = _BLOCK.search(texts[path.name])
    if header is None:
        raise ValueError(f"{path}: found no header of the form '# /// script' (PEP 723)")
    packed = base64.b85encode(zlib.compress(json.dumps(texts).encode(), 9)).decode()
    return _TOGETHER.format(header=header[0], packed=packed, name=path.name)
