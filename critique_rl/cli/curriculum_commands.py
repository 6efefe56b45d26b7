"""`curriculum measure | order | show`: what tasks do to each other, and the order in which to train on them.

Owns: their flags and what they print. Must not know: how anything is trained, predicted or drawn.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from critique_rl.cli.numbers import count, seed
from critique_rl.errors import ConfigError

if TYPE_CHECKING:
    from critique_rl.stats.transfer import Forecast, Stability, TransferMatrix

METHODS = ("exact", "net_gain", "greedy_acc", "worst", "manual")
Pairs = Sequence[tuple[str, str]]


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The verb with its three commands."""
    verb = verbs.add_parser("curriculum", help="measure how tasks transfer, and order them")
    own = verb.add_subparsers(dest="curriculum_verb", metavar="COMMAND", required=True)
    measure = own.add_parser("measure", help="one run for each task of a mixture, evaluated on all tasks")
    measure.add_argument("run", metavar="RUN.toml", help='tasks.kind = "mixture"; any key can be overridden')
    measure.add_argument("--arm", metavar="ARM", help="whose sections to use, if the file has arms")
    measure.add_argument("--seeds", type=seed, nargs="+", default=[], metavar="N", help="instead of the file's")
    measure.add_argument("--jobs", type=count, default=2, metavar="N", help="runs at a time (default: 2)")
    measure.add_argument(
        "--normaliser",
        choices=("none", "base", "own_gain"),
        default="none",
        help="what a task's change is divided by where orders are compared (default: none)",
    )
    measure.add_argument("--output", metavar="DIR", help="default: runs/NAME-transfer")
    measure.add_argument("--resume", action="store_true", help="keep what is finished there and go on with the rest")
    order = own.add_parser("order", help="the orders that a transfer matrix speaks for, with what they predict")
    order.add_argument("transfer", metavar="TRANSFER.json", help="of `measure`, or of any other trainer")
    order.add_argument("--method", choices=METHODS, help="which one -o writes (default: exact, or manual with --order)")
    order.add_argument("--order", metavar="A,B,C", help="an order of your own, for --method manual")
    order.add_argument(
        "--saturation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a pass brings a task to the same success from everywhere; without it every order is worth the same",
    )
    order.add_argument("--structured", metavar="A,B", default="", help="tasks to put first where orders are close")
    order.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="with --structured: how much lower a predicted mean may be (default: its standard error)",
    )
    order.add_argument("--draws", type=count, default=300, metavar="N", help="draws of the matrix (default: 300)")
    order.add_argument("-o", "--output", metavar="FILE.toml", help="write a run file with one stage a task")
    order.add_argument(
        "--run", metavar="RUN.toml", help="the run file to put stages behind (default: the one measured)"
    )
    order.add_argument(
        "--replay-fraction",
        type=float,
        metavar="R",
        help="share of each batch for tasks of earlier stages (default: 0)",
    )
    show = own.add_parser("show", help="a transfer matrix, or a staged run beside what was predicted of it")
    show.add_argument("path", metavar="TRANSFER.json|RUN_DIR")
    show.add_argument("--transfer", metavar="TRANSFER.json", help="with a run directory: the prediction")
    show.add_argument(
        "--picture",
        metavar="FILE.png",
        help="where the picture goes (default: beside the matrix, or in the run directory)",
    )
    show.add_argument("--out", metavar="FILE.json", help="with a run directory: write predicted and realised here, too")


def handle(known: argparse.Namespace, pairs: Pairs) -> int:
    """0, or 1 if a single-task run failed."""
    verb = str(known.curriculum_verb)
    if pairs and verb != "measure":
        raise ConfigError(f"unknown argument '--{pairs[0][0]}'; see --help of this command")
    if verb == "measure":
        return _measure(known, pairs)
    return _order(known) if verb == "order" else _show(known)


def _measure(known: argparse.Namespace, pairs: Pairs) -> int:
    from critique_rl.cli.quiet import quiet_libraries
    from critique_rl.config.load import read_run_file, resolve

    run_file = read_run_file(Path(known.run), pairs)
    first = resolve(run_file, arm=known.arm or next(iter(run_file.arms), None))
    name = str(run_file.base.get("name", first.name))
    output = Path(known.output) if known.output else Path(first.output) / f"{name}-transfer"
    if not known.resume and (output / "transfer.json").exists():
        raise ConfigError(f"{output} holds a matrix already; add --resume to go on with it, or choose --output")
    quiet_libraries()
    from critique_rl.curriculum import measure
    from critique_rl.report.transfer_table import matrix_table

    matrix, failed = measure(
        run_file,
        output,
        arm=known.arm,
        seeds=known.seeds,
        jobs=known.jobs,
        resume=bool(known.resume),
        normaliser=known.normaliser,
        command=shlex.join(["critique-rl", *sys.argv[1:]]),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if matrix is not None:
        print(matrix_table(matrix))
        print(f"matrix: {output / 'transfer.json'}\npicture: {output / 'transfer.png'}")
    for run, error in failed.items():
        print(f"critique-rl: error: {run}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _order(known: argparse.Namespace) -> int:
    from critique_rl.report.transfer_table import order_table
    from critique_rl.schedule.transfer_file import read_transfer

    method = str(known.method or ("manual" if known.order else "exact"))
    if (method == "manual") != bool(known.order):
        raise ConfigError("--method manual and --order A,B,C go together; give both, or neither")
    if known.tolerance is not None and not known.structured:
        raise ConfigError("--tolerance has no effect without --structured; remove it, or name the tasks to put first")
    if not known.output and (known.run or known.replay_fraction is not None):
        raise ConfigError("--run and --replay-fraction have no effect without -o FILE.toml")
    path = Path(known.transfer)
    matrix = read_transfer(path)
    found = _forecasts(matrix, known, path)
    print(order_table(matrix, [(name, *rest) for name, rest in found.items()]))
    if not known.saturation:
        print("without saturation every order is predicted the same: start plus all changes")
    if known.output:
        _write_run_file(known, path, matrix, method, found[method][0])
    return 0


def _forecasts(
    matrix: TransferMatrix, known: argparse.Namespace, path: Path
) -> dict[str, tuple[Forecast, Stability | None]]:
    """Every rule's order with what it predicts; one given by hand comes last."""
    structured = [name for name in str(known.structured).split(",") if name]
    try:
        best = matrix.order("exact")
        if structured:
            near = matrix.predict(best).mean_se if known.tolerance is None else float(known.tolerance)
            best = matrix.order("exact", structured=structured, tolerance=near)
        orders = {"exact": best, "net_gain": matrix.order("net_gain"), "greedy_acc": matrix.order("greedy_acc")}
        orders["worst"] = matrix.worst_order()
        if known.order:
            orders["manual"] = matrix.named(str(known.order).split(","))
        forecasts = {name: matrix.predict(order, saturation=bool(known.saturation)) for name, order in orders.items()}
        stable = {
            name: None
            if matrix.se is None or name == "worst" or not known.saturation
            else matrix.stability(order, draws=int(known.draws))
            for name, order in orders.items()
        }
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return {name: (forecast, stable[name]) for name, forecast in forecasts.items()}


def _write_run_file(
    known: argparse.Namespace, path: Path, matrix: TransferMatrix, method: str, forecast: Forecast
) -> None:
    from critique_rl.config.curriculum import with_stages
    from critique_rl.config.load import read_run_file, resolve_stages
    from critique_rl.schedule.transfer_file import read_transfer_tree

    source = known.run or read_transfer_tree(path).get("run_file")
    if not isinstance(source, str) or not source:
        raise ConfigError(f"{path} does not say which run file it was measured with; give it as --run RUN.toml")
    target = Path(known.output)
    if target.exists():
        raise ConfigError(f"{target} exists already; choose another name")
    read_run_file(Path(source))
    text = with_stages(
        Path(source).read_text(encoding="utf-8"),
        [matrix.tasks[i] for i in forecast.order],
        replay_fraction=known.replay_fraction or 0.0,
        note=f"Order by `critique-rl curriculum order`, rule {method}: predicted mean {forecast.mean:.1%}.",
    )
    target.write_text(text, encoding="utf-8")
    try:
        resolve_stages(read_run_file(target))
    except ConfigError:
        target.unlink()
        raise
    print(f"run file: {target}")


def _show(known: argparse.Namespace) -> int:
    path = Path(known.path)
    if not path.is_dir():
        if known.transfer:
            raise ConfigError("--transfer has no effect with a matrix; give a run directory, or remove it")
        if known.out:
            raise ConfigError("--out has no effect with a matrix: it is a JSON file itself; remove it")
        return _show_matrix(path, Path(known.picture) if known.picture else path.with_suffix(".png"))
    transfer = Path(known.transfer) if known.transfer else path / "transfer.json"
    if not known.transfer and transfer.exists():
        return _show_matrix(transfer, Path(known.picture) if known.picture else transfer.with_suffix(".png"))
    if not known.transfer:
        raise ConfigError(f"{path} is a run directory; say what was predicted of it: --transfer TRANSFER.json")
    picture = Path(known.picture) if known.picture else path / "curriculum.png"
    return _show_staged(path, transfer, picture, Path(known.out) if known.out else None)


def _show_matrix(path: Path, picture: Path) -> int:
    from critique_rl.report.transfer_chart import draw_transfer
    from critique_rl.report.transfer_table import matrix_table
    from critique_rl.schedule.transfer_file import read_transfer

    matrix = read_transfer(path)
    print(matrix_table(matrix))
    draw_transfer(matrix, path=picture)
    print(f"picture: {picture}")
    return 0


def _show_staged(directory: Path, transfer: Path, picture: Path, out: Path | None) -> int:
    import json

    import numpy as np

    from critique_rl.cli.quiet import quiet_libraries
    from critique_rl.schedule.transfer_file import read_transfer

    quiet_libraries()
    from critique_rl.curriculum import staged_result, staged_runs
    from critique_rl.report.transfer_chart import draw_staged
    from critique_rl.report.transfer_table import staged_table

    matrix = read_transfer(transfer)
    runs = staged_runs(directory, matrix.tasks)
    tables = [
        staged_table(
            matrix,
            matrix.predict(matrix.named(run.order)),
            start=np.array(run.start),
            results=np.array(run.results),
            title=f"{run.arm}: {' > '.join(run.order)}, mean of {run.seeds} seed{'s' if run.seeds > 1 else ''}",
        )
        for run in runs
    ]
    print("\n\n".join(tables))
    drawn = [(run.arm, matrix.predict(matrix.named(run.order)), np.array(run.results[-1])) for run in runs]
    draw_staged(drawn, tasks=matrix.tasks, path=picture)
    print(f"picture: {picture}")
    if out is not None:
        command = shlex.join(["critique-rl", *sys.argv[1:]])
        out.write_text(json.dumps(staged_result(directory, matrix, command=command), indent=2) + "\n", encoding="utf-8")
    return 0
