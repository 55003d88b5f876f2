"""`turnout dataset`: rows before a training names them: the report that a TrainingRequest would get, and a split that stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.lazy import Lazy

if TYPE_CHECKING:
    from controller.app import Controller
    from controller.datasets.validate import Needs

SCHEMES = ("ls://", "hf://")


@click.group(name="dataset", cls=Lazy)
@options
def command() -> None:
    """Rows that a model is to learn from, before a TrainingRequest names them."""


@command.command(name="check")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--method", type=click.Choice(["sft", "dpo", "orpo"]), default="sft", show_default=True, help="How it shall learn.")
@click.option(
    "--mode", type=click.Choice(["demo", "production"]), default="production", show_default=True, help="How many rows it takes."
)
@click.option("--evaluation", metavar="SOURCE", multiple=True, help="What later judges it: no question of it may be trained on.")
@click.option(
    "--length", metavar="TOKENS", type=click.IntRange(min=1), default=None, help="Sequence length; default: the environment's."
)
@click.option("--split", metavar="NAME", default=None, help="Of a SOURCE elsewhere; default: all of it.")
@click.option("--evaluation-split", metavar="NAME", default=None, help="Of an evaluation set elsewhere.")
@as_json
@options
@pass_call
def check(
    call: Call,
    sources: tuple[str, ...],
    method: str,
    mode: str,
    evaluation: tuple[str, ...],
    length: int | None,
    split: str | None,
    evaluation_split: str | None,
    json_: bool,
) -> int:
    """Say whether rows are fit to train on, as a TrainingRequest would find them. Nothing is started and nothing is paid.

    SOURCE is one or more JSON-lines files, committed or not, or one data set elsewhere: ls://NAME of LangSmith, hf://ORG/NAME of
    the Hub, each perhaps with @REVISION. Exit code 1 when a training could not start.
    """
    import msgspec

    from controller.datasets.tell import as_text
    from controller.datasets.validate import validate

    with call.controller() as controller, call.busy("reading"):
        rows = _rows(controller, sources, split)
        judging = _rows(controller, evaluation, evaluation_split) if evaluation else ()
        needs = _needs(controller, method, mode, length)
    report = validate(rows, needs, evaluation=judging)
    if json_:
        call.emit({**msgspec.to_builtins(report), "stops": report.stops, "more": report.more})
    else:
        click.echo(as_text(report), nl=False)
    return 1 if report.stops else 0


def _rows(controller: Controller, sources: Sequence[str], split: str | None) -> tuple[Any, ...]:
    """Several files are one data set; a data set elsewhere stands alone."""
    from controller.errors import TurnoutError

    elsewhere = [source for source in sources if source.startswith(SCHEMES)]
    if elsewhere and len(sources) > 1:
        raise click.UsageError(f"{elsewhere[0]} stands alone: one data set elsewhere, or files")
    if elsewhere:
        return controller.dataset(elsewhere[0], split=split)
    unknown = [source for source in sources if "://" in source]
    if unknown:
        raise TurnoutError(f"{unknown[0]!r} is no data set", "write ls://NAME-OR-ID, hf://ORG/NAME, or JSON-lines files")
    if split is not None:
        raise click.UsageError("files have no split; name the file of it")
    return controller.dataset("", [(source, _content(source)) for source in sources])


def _content(path: str) -> bytes:
    from controller.errors import NotFound

    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", "name a JSON-lines file, ls://NAME or hf://ORG/NAME") from error


def _needs(controller: Controller, method: Any, mode: str, length: int | None) -> Needs:
    """As the provider of TrainingRequest asks them, from the same defaults."""
    from controller.datasets.validate import Needs

    defaults = controller.settings(worktree=True).spec.training
    least = {"demo": defaults.demo, "production": defaults.production}[mode].minimum
    return Needs(method=method, sequence_length=length or defaults.hyperparameters.max_length, minimum=least)


@command.command(name="split")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--held-out", metavar="SHARE", default="10%", show_default=True, help="Of the questions, for evaluations.")
@click.option("--seed", metavar="TEXT", default="", help="Another, equally stable split for each.")
@click.option("--train", "train", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--evaluation", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@as_json
@options
@pass_call
def split(call: Call, file: Path, held_out: str, seed: str, train: Path, evaluation: Path, force: bool, json_: bool) -> int:
    """Write the rows of a JSON-lines file into two: one to train on, one to judge with.

    The question alone decides where a row goes, whatever its case, spaces and punctuation: no question is in both files, the
    order of the rows does not matter, and rows that come later move none of those that are there. A larger share moves rows out
    of the training file and none back.
    """
    from controller.errors import TurnoutError

    share, outputs = _share(held_out), {"train": train, "evaluation": evaluation}
    if len({path.resolve() for path in (file, train, evaluation)}) < 3:
        raise click.UsageError("FILE, --train and --evaluation are three files")
    there = [str(path) for path in outputs.values() if path.exists()]
    if there and not force:
        raise TurnoutError(f"{' and '.join(there)} exists already", "nothing was written; --force overwrites")
    parts = _parts(str(file), share, seed)
    empty = next((name for name, lines in parts.items() if not lines), "")
    if empty:
        raise TurnoutError(f"of {len(parts['train'] + parts['evaluation'])} rows none would be for {empty}", "another --held-out")
    for name, lines in parts.items():
        outputs[name].parent.mkdir(parents=True, exist_ok=True)
        outputs[name].write_bytes(b"".join(line + b"\n" for line in lines))
    if json_:
        call.emit({name: {"path": str(outputs[name]), "rows": len(lines)} for name, lines in parts.items()})
    else:
        for name, lines in parts.items():
            click.echo(f"{len(lines)} rows to {outputs[name]}")
    return 0


def _share(text: str) -> float:
    """`10%`, or percent as a number, as `heldOut` of a TrainingRequest."""
    from controller.model import percent

    try:
        share = percent(text if "%" in text else float(text)) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise click.BadParameter(f"{text!r}: write a percentage between 0 and 100, such as 10%", param_hint="--held-out")
    return float(share)


def _parts(path: str, share: float, seed: str) -> dict[str, list[bytes]]:
    """Lines as they are, by the file they go to. Raises TurnoutError for a row that has no question."""
    from controller.clients.datasets import rows_of
    from controller.datasets.rows import read
    from controller.datasets.split import divided
    from controller.errors import Permanent, TurnoutError

    content = _content(path)
    try:
        good, bad = read(rows_of(path, content))
    except Permanent as error:
        raise TurnoutError(str(error)) from error
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise TurnoutError(f"{path}: {bad[0]}{more}", f"`turnout dataset check {path}` tells all; nothing was written")
    lines = [line for line in content.splitlines() if line.strip()]
    rows = divided(good, {"train": 1 - share, "evaluation": share}, salt=seed)
    return {name: [lines[row.number - 1] for row in found] for name, found in rows.items()}
