"""No-op passes over 1,000 and 10,000 bindings (cold process, warm cache; one changed file), beside `terraform plan` of 1,000."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, child, middle, python, table
from controller.testing.simulation import ENVIRONMENT, GATEWAY, binding

RUNS = 5
PASS = """
import sys
from pathlib import Path
from controller.app import Controller
from controller.clients import Clients
from controller.testing.doubles import FilesDouble, ReloadDouble
from benchmarks.still_gateway import StillGateway
controller = Controller(sys.argv[1], "local")
doors = {"gateway": StillGateway(Path(sys.argv[2])), "files": FilesDouble(), "reload": ReloadDouble()}
controller.flow.clients = lambda settings: Clients(settings, doors)
controller.settle()
"""
OBJECT = '{{ model = "acme/model", endpoint = "openrouter", version = "v{n}" }}'
FORMS = ("map of objects, for_each", "blocks, object inputs", "blocks, string inputs")


def main_tf(form: str) -> str:
    """A configuration of 1,000 `terraform_data` with what a binding's spec holds."""
    if form == FORMS[0]:
        entries = "".join(f"    a{n} = {OBJECT.format(n=n)}\n" for n in range(1000))
        each = 'resource "terraform_data" "r" {\n  for_each = local.bindings\n  input    = each.value\n}\n'
        return f"locals {{\n  bindings = {{\n{entries}  }}\n}}\n{each}"
    value = OBJECT if "object" in form else '"v{n}"'
    return "".join(f'resource "terraform_data" "r{n}" {{\n  input = {value.format(n=n)}\n}}\n' for n in range(1000))


def repository(folder: Path, count: int) -> Path:
    """A repository with `count` bindings and one gateway."""
    repo = folder / f"repo{count}"
    files = {"environments/local/environment.yaml": ENVIRONMENT, "state/gateways/main.yaml": GATEWAY}
    for number in range(count):
        files.update(binding(f"agent-{number}", f"v{number}"))
    for path, text in files.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text)
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "Begin"],
    ):
        subprocess.run(["git", "-C", str(repo), *command], check=True)
    return repo


def turnout(folder: Path, count: int) -> dict[str, Cost]:
    repo, still = repository(folder, count), folder / f"gateway{count}.json"
    command = python(PASS, str(repo), str(still))
    cold = child(command)
    child(command)
    idle = middle([child(command) for _ in range(RUNS)])
    changed = []
    for number in range(RUNS):
        path = repo / "state/bindings/agent-7.yaml"
        path.write_text(path.read_text().replace("version: ", f"version: x{number}"))
        subprocess.run(["git", "-C", str(repo), "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qam", "One"], check=True)
        changed.append(child(command))
    return {"first pass, everything created": cold, "no-op pass": idle, "one changed file": middle(changed)}


def terraform(folder: Path, form: str) -> Cost | None:
    if shutil.which("terraform") is None:
        return None
    root = folder / f"terraform-{FORMS.index(form)}"
    root.mkdir()
    (root / "main.tf").write_text(main_tf(form))
    env = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    env.pop("TF_CLI_CONFIG_FILE", None)
    subprocess.run(["terraform", "init", "-input=false"], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["terraform", "apply", "-auto-approve", "-input=false"], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL
    )
    plan = ["terraform", "plan", "-input=false", "-detailed-exitcode"]
    return middle([child(plan, cwd=root, env=env) for _ in range(3)])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {count: turnout(folder, count) for count in (1000, 10_000)}
        peers = {form: terraform(folder, form) for form in FORMS}
    rows = [["pass", "CPU s", "wall s", "memory MB"]]
    for count, costs in found.items():
        rows += [
            [f"turnout, {count} bindings: {what}", f"{c.cpu:.2f}", f"{c.wall:.2f}", f"{c.memory:.0f}"] for what, c in costs.items()
        ]
    for form, peer in peers.items():
        if peer:
            rows.append(
                [
                    f"terraform plan, 1000 terraform_data ({form}): no-op",
                    f"{peer.cpu:.2f}",
                    f"{peer.wall:.2f}",
                    f"{peer.memory:.0f}",
                ]
            )
    table("Passes (cold process, warm cache; medians)", rows)
    idle = found[10_000]["no-op pass"]
    for form, peer in peers.items():
        if peer:
            print(f"  terraform plan of 1,000 ({form}) / turnout no-op of 10,000: {peer.cpu / idle.cpu:.1f} x CPU")
