"""Brings the peers of the benchmark into its cache folder, each on its own: a virtual environment or unpacked Debian packages.

Nothing outside of the cache folder changes: no package is installed into the system, no service is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gateway.machine import cache

_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class CannotInstall(Exception):
    """The registry, pip or apt said no; the text is the line that says why."""


def folder(name: str) -> Path:
    return cache() / "peers" / name


def debian_program(name: str) -> Path | None:
    """A program of the system, or else the one that `from_debian` has unpacked."""
    found = shutil.which(name, path=_SYSTEM_PATH)
    if found:
        return Path(found)
    unpacked = [folder(name) / place / name for place in ("usr/sbin", "usr/bin")]
    return next((path for path in unpacked if path.exists()), None)


def debian_environment(name: str) -> dict[str, str]:
    """Where unpacked packages have their libraries."""
    libraries = [str(path) for place in ("usr/lib", "lib") for path in (folder(name) / place).glob("*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}


def from_debian(name: str) -> None:
    """Download a package with what it needs and this system lacks, and unpack it. Raises CannotInstall."""
    if shutil.which("apt-get") is None:
        raise CannotInstall(f"there is no apt-get here; install {name} with what this system has")
    with tempfile.TemporaryDirectory() as temporary:
        packages = Path(temporary)
        (packages / "partial").mkdir()
        command = ["apt-get", "install", "--yes", "--no-install-recommends", "--download-only"]
        command += ["-o", f"Dir::Cache::archives={packages}", "-o", "Debug::NoLocking=1", name]
        try:
            _run(command)
        except CannotInstall:
            _run(["apt-get", "-o", "DPkg::Lock::Timeout=60", "update"])  # a fresh machine has no lists
            _run(command)
        made = folder(name).with_name(f"{name}.new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for package in sorted(packages.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(made)])
        if not any(made.iterdir()):
            raise CannotInstall(f"apt downloaded nothing for {name}")
        shutil.rmtree(folder(name), ignore_errors=True)
        made.rename(folder(name))


def python_program(name: str, program: str) -> Path | None:
    """A program of the environment that `from_pypi` has made."""
    found = folder(name) / "bin" / program
    return found if found.exists() else None


def from_pypi(name: str, requirement: str, program: str) -> None:
    """A virtual environment with this one requirement; half of one does not stay. Raises CannotInstall."""
    shutil.rmtree(folder(name), ignore_errors=True)
    folder(name).parent.mkdir(parents=True, exist_ok=True)
    try:
        _run([sys.executable, "-m", "venv", str(folder(name))])
        pip = [str(folder(name) / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, requirement])
        if python_program(name, program) is None:
            raise CannotInstall(f"{requirement} brought no program {program!r}")
    except BaseException:
        shutil.rmtree(folder(name), ignore_errors=True)
        raise


def _run(command: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{command[0]}: {error}") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip() and not line.startswith("WARNING")]
        telling = [line for line in lines if line.lower().startswith(("error", "e:"))] or lines or ["no reason given"]
        raise CannotInstall(f"{Path(command[0]).name} ended with {done.returncode}: {telling[-1].strip()[:200]}")
