"""The answers that a finished run's policy gives to its held-out tasks, as records.

Owns: asking anew what the last evaluation asked, with its draws, and the file of the answers. Must not know: training,
what is done with answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from critique_rl.config.run import RunConfig
from critique_rl.decisions.deployed import HeldOutAnswer
from critique_rl.errors import CheckpointError
from critique_rl.types import ScoreStatus

FILE = "held_out.jsonl"


def held_out_answers(config: RunConfig, directory: Path) -> list[HeldOutAnswer]:
    """Load the newest checkpoint of the run in `directory`, ask it the tasks of its last evaluation, write FILE there.

    Errors: CheckpointError if there is none or FILE cannot be written, and those of building a policy and its tasks.
    """
    from critique_rl.build_sampler import build_sampler
    from critique_rl.build_tasks import build_environment, build_reward, build_tasks
    from critique_rl.engines.vllm_server import VllmServerEngine
    from critique_rl.loop.checkpoint import latest_checkpoint
    from critique_rl.loop.evaluate import ask
    from critique_rl.loop.progress import Progress
    from critique_rl.loop.seeds import derive_seed

    saved = latest_checkpoint(directory / "checkpoints")
    if saved is None:
        raise CheckpointError(f"{directory} holds no checkpoint, so its policy cannot be asked again; run it anew")
    step = Progress.from_json(cast("dict[str, object]", saved.state["progress"])).step
    tasks, reward = build_tasks(config.tasks).held_out(), build_reward(config)
    closing: list[Callable[[], None]] = []
    policy, engine = build_sampler(config, closing=closing)
    try:
        policy.restore(saved.directory)
        answers = ask(
            tasks,
            policy=policy,
            engine=engine,
            reward=reward,
            config=config.evaluation,
            max_tokens=config.evaluation_tokens,
            seed=derive_seed(config.seed, step, "evaluation"),
            environment=build_environment(config.tasks),
        )
    finally:
        if isinstance(engine, VllmServerEngine):
            engine.close()
        for close in closing:
            close()
    found = [
        HeldOutAnswer(
            task=answer.task.id,
            kind=answer.task.kind or "all",
            text=answer.text,
            correct=answer.score.correct,
            readable=answer.score.status is ScoreStatus.OK,
            confidence=answer.score.confidence,
        )
        for answer in answers
    ]
    _write(directory / FILE, found)
    return found


def _write(path: Path, found: Sequence[HeldOutAnswer]) -> None:
    try:
        path.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in found), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error.strerror}") from error
