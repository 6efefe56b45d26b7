"""`critique-rl phases`: find strategic phrases in right answers.

Must not know: how phrases are found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from critique_rl.cli.numbers import count, seed

SHOWN = 20


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The parser of the verb."""
    phases = verbs.add_parser("phases", help="strategic phrases of right answers, for [phases]")
    looks = phases.add_subparsers(dest="phases_verb", metavar="COMMAND", required=True)
    mine = looks.add_parser("mine", help="n-grams that many right answers share, by clusters")
    mine.add_argument("source", metavar="RUN_DIR|FILE.jsonl", help="a run, or lines with text and correct")
    mine.add_argument("-o", "--output", default="grams.json", metavar="FILE", help="default: grams.json")
    mine.add_argument("--min-words", type=count, metavar="N", help="shortest phrase (default: 3)")
    mine.add_argument("--max-words", type=count, metavar="N", help="longest phrase (default: 5)")
    mine.add_argument("--clusters", type=count, metavar="K", help="clusters of k-means (default: 100)")
    mine.add_argument("--top", type=float, metavar="SHARE", help="share of the clusters that is kept (default: 0.2)")
    mine.add_argument("--by", choices=("count", "quantile"), help="how that share is taken (default: count)")
    mine.add_argument(
        "--max-per-solution", type=float, metavar="C", help="leave out phrases more frequent than this within answers"
    )
    mine.add_argument("--embedder", metavar="NAME", help='"hashed" (default), or a sentence-transformers model')
    mine.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means")


def handle(known: argparse.Namespace) -> int:
    """Run it. Errors: ConfigError, DataError, MissingExtraError."""
    from pydantic import ValidationError

    from critique_rl.config.phases import MiningConfig
    from critique_rl.errors import ConfigError
    from critique_rl.experiment import write_json
    from critique_rl.mining import mine_file, mined_json

    given = {key: getattr(known, key) for key in MiningConfig.model_fields if getattr(known, key, None) is not None}
    try:
        options = MiningConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"phases mine: {'.'.join(map(str, first['loc']))} {first['msg']}".replace("  ", " ")
        ) from None
    found = mine_file(Path(known.source), options, seed=known.seed)
    write_json(Path(known.output), mined_json(found, options, source=str(known.source), seed=known.seed))
    print(
        f"{known.output}: {len(found.grams)} phrases of {found.candidates} in {found.clusters} clusters, from "
        f"{found.solutions} right answers; {found.share:.0%} of their words stand in one"
    )
    for gram, frequency in list(zip(found.grams, found.frequency, strict=True))[:SHOWN]:
        print(f"  {frequency:6d}  {' '.join(gram)}")
    return 0
