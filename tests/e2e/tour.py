"""Runs the tour of README.md as it is written, in a fresh clone of HEAD: `python tests/e2e/tour.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUST_SAY = (
    "v1.4.0 Simulated answer of anthropic/claude-3.5-sonnet at openrouter",
    "x-turnout-version: v1.5.0",
    "Turnout: Promote feature_dev to v2.0.0",
    "version: v2.0.0",
    'Turnout: Revert "Try v3.0.0 for feature_dev"',
    "chain and sequence are whole",
)


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    tour = text[text.index("## A tour of five minutes") : text.index("## Where to go on")]
    return re.findall(r"^```sh\n(.*?)^```$", tour, re.MULTILINE | re.DOTALL)


def main() -> int:
    script = "set -euo pipefail\n" + "\n".join(f"echo '--- block {n}'\n{block}" for n, block in enumerate(blocks(), 1))
    identity = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "turnout"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "-q", "-B", "main"], check=True)
        try:
            run = subprocess.run(
                ["bash", "-c", script],
                cwd=clone,
                env={**os.environ, **identity, "NO_COLOR": "1"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        finally:
            subprocess.run(["make", "-s", "down"], cwd=clone, check=False)
    print(run.stdout)
    if run.returncode:
        print(f"the tour ended with {run.returncode}", file=sys.stderr)
        return 1
    missing = [text for text in MUST_SAY if text not in run.stdout]
    for text in missing:
        print(f"the tour never said: {text}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
