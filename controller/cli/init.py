"""`turnout init`: a new state repository for somebody else's project, from the files in `templates/`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click

from controller.cli.call import Call, options, pass_call

DEFAULT_AGENTS = ("feature_dev", "code_review", "cicd", "docs")
TEMPLATES = Path(__file__).parent / "templates"
FILES = {
    "README.md": "README.md",
    "state/gateways/main.yaml": "gateway.yaml",
    "environments/local/environment.yaml": "environment.yaml",
    ".github/workflows/turnout-plan.yaml": "turnout-plan.yaml",
    ".github/workflows/turnout-reconcile.yaml": "turnout-reconcile.yaml",
}


@click.command(name="init")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--agent", "agents", metavar="NAME", multiple=True, help="An agent to bind; may be repeated.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@options
@pass_call
def command(call: Call, directory: Path, agents: tuple[str, ...], force: bool) -> int:
    """Make a state repository: bindings, a gateway, a local environment that needs no key, workflows and a README.

    HUGGINGFACE_JOBS_ENABLED, MODELOPS_DEFAULT_BASE_MODEL and MODELOPS_HUB_ORG of this process go into its `training:`.
    """
    from controller.address import NAME, NAME_RULE
    from controller.cli.surroundings import training
    from controller.cli.text import clean
    from controller.errors import TurnoutError

    names = tuple(dict.fromkeys(agents)) or DEFAULT_AGENTS
    wrong = [name for name in names if not NAME.match(name)]
    if wrong:
        raise click.BadParameter(f"{', '.join(map(repr, wrong))}: {NAME_RULE}", param_hint="--agent")
    files = contents(directory.resolve().name, names)
    there = [path for path in files if (directory / path).exists()]
    if there and not force:
        raise TurnoutError(f"{directory} has {', '.join(there)} already", "nothing was written; --force overwrites")
    branch = _repository(directory)
    files = {path: text.replace("@@BRANCH@@", branch) for path, text in files.items()}
    block, said = training(os.environ)
    files["environments/local/environment.yaml"] += block
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
        click.echo(f"wrote {directory / path}")
    if said:
        click.echo(clean(said))
    steps = (f"cd {directory}", f"git add -A && git commit -m 'Bind {', '.join(names)}'", "turnout validate", "turnout up")
    click.echo("\nNext:\n  " + "\n  ".join(steps))
    return 0


def contents(project: str, agents: tuple[str, ...]) -> dict[str, str]:
    """Path -> text of the new repository. `@@BRANCH@@` is still to be filled in."""
    bindings = "\n".join(f"| `{agent}` | `state/bindings/{agent}.yaml` |" for agent in agents)
    words = {"@@PROJECT@@": project, "@@AGENT@@": agents[0], "@@BINDINGS@@": bindings}
    files = {path: _filled(template, words) for path, template in FILES.items()}
    for agent in agents:
        files[f"state/bindings/{agent}.yaml"] = _filled("binding.yaml", {"@@AGENT@@": agent})
    return files


def _filled(template: str, words: dict[str, str]) -> str:
    text = (TEMPLATES / template).read_text()
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def _repository(directory: Path) -> str:
    """Makes the repository where there is none; returns the branch that HEAD names."""
    from controller.errors import TurnoutError

    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / ".git").exists():
        made = _git(directory, "init", "-q", "-b", "main")
        if made.returncode:
            raise TurnoutError(f"git init failed: {made.stderr.strip()}")
        click.echo(f"made a git repository in {directory}")
    return _git(directory, "symbolic-ref", "--short", "HEAD").stdout.strip() or "main"


def _git(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(directory), *args], capture_output=True, text=True, check=False)
