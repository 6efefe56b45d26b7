"""Config -> live objects: the right class for each name, and every fault before the first token."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import torch

from critique_rl import build_sampler
from critique_rl.algorithms.cispo import Cispo
from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.dapo import Dapo
from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.dr_grpo import DrGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.gspo import Gspo
from critique_rl.algorithms.pass_at_k import PassAtK
from critique_rl.algorithms.rloo import Rloo
from critique_rl.algorithms.self_imitation import SelfImitation
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.algorithms.weighted_reinforce import WeightedReinforce
from critique_rl.build import (
    build,
    build_algorithm,
    build_critic,
    build_reward,
    build_tasks,
)
from critique_rl.build_sampler import build_accelerator, step_config
from critique_rl.config.load import validate
from critique_rl.config.reads import NEEDS
from critique_rl.config.run import RunConfig
from critique_rl.critics.recorded import RecordedCritic
from critique_rl.critics.remote import RemoteCritic
from critique_rl.critics.rules import RegexRuleCritic
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.engines.hf import HFEngine
from critique_rl.errors import ConfigError, CriticSetupError, CritiqueRLError, DataError, ModelError, PromptError
from critique_rl.feedback.store import Exchange, ExchangeStore
from critique_rl.lab.critic import LabCritic
from critique_rl.lab.tasks import LabTasks
from critique_rl.policy.hf import HFPolicy
from critique_rl.stats.calibration import fit_platt
from critique_rl.tasks.jsonl import JsonlTasks
from critique_rl.types import CriticOutcome, CriticRequest, Score, ScoreStatus, Task
from tests.lab_runs import GRPO, LAB, Tree, lab_config
from tests.loop.fakes import Memory, task

CRITICS: dict[str, Tree] = {
    "LabCritic": {"kind": "lab_rules"},
    "RegexRuleCritic": {"kind": "rules", "rules": [{"criterion": "form", "pattern": "x", "directive": "Say x."}]},
    "ScriptedCritic": {"kind": "scripted", "replies": ["{}"]},
    "FailingCritic": {"kind": "scripted", "fail": True},
}
CLASSES = {c.__name__: c for c in (LabCritic, RegexRuleCritic, ScriptedCritic, FailingCritic)}


def config_of(**sections: object) -> RunConfig:
    return validate(sections, source="test")


def rows(path: Path, *verifiers: str) -> Path:
    lines = [{"prompt": f"q{i}", "answer": "a", "verifier": v} for i, v in enumerate(verifiers)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("grpo", Grpo),
        ("dr_grpo", DrGrpo),
        ("dapo", Dapo),
        ("gspo", Gspo),
        ("cispo", Cispo),
        ("rloo", Rloo),
        ("weighted_reinforce", WeightedReinforce),
        ("pass_at_k", PassAtK),
        ("self_imitation", SelfImitation),
        ("critique_grpo", CritiqueGrpo),
        ("directive_distillation", DirectiveDistillation),
        ("two_channel", TwoChannel),
    ],
)
def test_a_method_by_its_name(name: str, wanted: type) -> None:
    algorithm: Tree = {"name": name}
    critic: Tree = {"kind": "lab_rules"} if NEEDS[name] else {"kind": "none"}
    built = build_algorithm(config_of(algorithm=algorithm, critic=critic).algorithm)
    assert type(built) is wanted and built.name == name
    # what the config calls a section and what the method calls a stage are the same three things
    stages = {"critic": "critique", "refinement": "refinement", "distillation": "teacher"}
    assert built.needs == {stages[section] for section in NEEDS[name] if section in stages}


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_by_its_kind(name: str) -> None:
    config = config_of(algorithm={"name": "two_channel"}, critic=CRITICS[name])
    assert config.critic is not None
    assert type(build_critic(config.critic)) is CLASSES[name]


def test_remote_and_recorded_critics(tmp_path: Path) -> None:
    remote = config_of(
        algorithm={"name": "two_channel"}, critic={"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    )
    assert remote.critic is not None
    critic = build_critic(remote.critic, exchanges=tmp_path / "exchanges.jsonl")
    assert isinstance(critic, RemoteCritic) and critic.name == "openai:m"
    critic.close()
    with closing(ExchangeStore(tmp_path / "old.jsonl")) as store:
        store.append(Exchange(key="k", rollout_id="r", critic="c", model="m", messages=(), outcome=CriticOutcome.OK))
    recorded = config_of(
        algorithm={"name": "two_channel"}, critic={"kind": "recorded", "path": str(tmp_path / "old.jsonl")}
    )
    assert recorded.critic is not None
    assert isinstance(build_critic(recorded.critic), RecordedCritic)


@pytest.mark.parametrize("kind", ["openai", "litellm"])
def test_a_critic_without_a_key_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "MY_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = config_of(
        algorithm={"name": "two_channel"}, critic={"kind": kind, "model": "gpt-4o-mini", "api_key_env": "MY_KEY"}
    )
    assert config.critic is not None
    with pytest.raises(CriticSetupError, match="MY_KEY"):
        build_critic(config.critic)


def test_tasks_by_their_kind(tmp_path: Path) -> None:
    lab = build_tasks(config_of(tasks={"kind": "lab", "train_easy": 3, "train_hard": 2, "held_out_hard": 1}).tasks)
    assert isinstance(lab, LabTasks) and (len(lab.easy), len(lab.hard)) == (3, 2)
    path = rows(tmp_path / "rows.jsonl", "exact", "exact", "exact", "exact")
    tasks = build_tasks(config_of(tasks={"kind": "jsonl", "path": str(path), "held_out_fraction": 0.5}).tasks)
    assert isinstance(tasks, JsonlTasks) and len(tasks.held_out()) == 2


def test_rewards_by_name_with_exact_always_there() -> None:
    reward = build_reward(
        config_of(
            rewards={"boxed": {"kind": "exact", "pattern": r"\[(.*)\]"}, "form": {"kind": "format", "pattern": "^A"}}
        )
    )
    assert reward.score(task(), "42").correct
    boxed = Task(id="b", messages=(), answer="42", verifier="boxed")
    assert reward.score(boxed, "it is [42]").correct
    assert reward.score(boxed, "42").status is ScoreStatus.UNPARSED
    assert reward.score(Task(id="f", messages=(), answer="", verifier="form"), "A: x").correct
    with pytest.raises(DataError, match="names verifier 'none'; known are boxed, exact, form"):
        reward.check([Task(id="n", messages=(), answer="", verifier="none")])


def test_exact_itself_can_be_given_options() -> None:
    reward = build_reward(config_of(rewards={"exact": {"kind": "exact", "casefold": True}}))
    assert reward.score(task(answer="Yes"), "yES").correct


def test_a_whole_run_is_built() -> None:
    parts = build(lab_config(), tracker=Memory())
    policy, engine = parts.policy, parts.engine
    assert isinstance(policy, HFPolicy) and isinstance(engine, HFEngine)
    assert engine.model is policy.model  # sampled from the very weights that are trained
    assert not policy.model.training
    assert isinstance(parts.critic, LabCritic) and parts.algorithm.name == "two_channel"
    assert parts.refine_template is not None and parts.refine_template.name == "lab_refine"
    assert parts.teacher_template is not None and parts.teacher_template.name == "lab_teacher"


def test_scalar_grpo_holds_neither_critic_nor_templates_nor_a_second_model() -> None:
    parts = build(lab_config(base=GRPO), tracker=Memory())
    assert (parts.critic, parts.refine_template, parts.teacher_template) == (None, None, None)
    policy = cast(HFPolicy, parts.policy)
    assert policy._teacher is policy._scorer  # pyright: ignore[reportPrivateUsage]
    taught = cast(HFPolicy, build(lab_config(), tracker=Memory()).policy)
    assert taught._teacher is not taught._scorer  # pyright: ignore[reportPrivateUsage]


def test_the_step_reads_the_run_s_own_options() -> None:
    config = lab_config({"distillation": {"k": 3}, "rollout": {"temperature": 0.5, "max_tokens": 9}})
    step = step_config(config)
    assert (step.distillation.k, step.temperature, step.max_completion_tokens) == (3, 0.5, 9)
    assert step.optimizer is config.optimizer and step.refinement is config.refinement


def test_the_conflict_of_the_gradients_is_measured_where_a_trip_wire_looks_at_it() -> None:
    assert step_config(lab_config()).conflict_every == 30
    assert step_config(lab_config({"guards": {"conflict_every": 4}})).conflict_every == 4
    for off in ({"guards": {"conflict_every": 0}}, {"guards": {"mode": "off"}}):
        assert step_config(lab_config(off)).conflict_every == 0
    assert step_config(lab_config(base=GRPO)).conflict_every == 0  # nothing is injected
    taught: Tree = {"algorithm": {"use": ["targets"]}}
    base = {key: LAB[key] for key in LAB if key != "refinement"}
    assert step_config(lab_config(taught, base=base)).conflict_every == 30
    for join in ("advantages", "signed", "sequential"):  # no step has two losses
        joined: Tree = {"join": join} if join == "sequential" else {"join": join, "support": "sampled"}
        assert step_config(lab_config(taught | {"distillation": joined}, base=base)).conflict_every == 0
    assert step_config(lab_config()).gradient_combiner is None


def test_device_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        accelerator = build_accelerator(config_of(policy={"device": "cpu", "threads": 1}))
        assert accelerator.device.type == "cpu" and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device; set it to 'auto' or 'cpu'"):
        build_accelerator(config_of(policy={"device": "cuda"}))


BOTH: Tree = {"algorithm": {"name": "two_channel"}, "critic": {"kind": "lab_rules"}}


def template(path: Path, inputs: str, body: str) -> str:
    path.write_text(f'+++\nname = "x"\nversion = 1\ndescription = "d"\ninputs = [{inputs}]\n+++\n{body}\n')
    return str(path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModelError, "nowhere"),
        (PromptError, "prompt 'none' does not exist"),
        (PromptError, "placeholders and declared inputs differ"),
        (PromptError, "only attempt, directive, question can be filled"),
        (DataError, "names verifier 'unknown'"),
        (DataError, "none.jsonl"),
        (ConfigError, "a step wants 9 different tasks"),
        (CriticSetupError, "NO_SUCH_KEY"),
    ],
)
def test_every_fault_is_found_before_a_token_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[CritiqueRLError], words: str
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    bad_file = str(tmp_path / "none.jsonl")
    changes: dict[str, Tree] = {
        "nowhere": {"policy": {"model": str(tmp_path / "nowhere")}},
        "prompt 'none' does not exist": {**BOTH, "refinement": {"prompt": "none"}},
        "placeholders and declared inputs differ": {
            **BOTH,
            "distillation": {"prompt": template(tmp_path / "a.md", '"question"', "{{ directive }}")},
        },
        "only attempt, directive, question can be filled": {
            **BOTH,
            "refinement": {"prompt": template(tmp_path / "b.md", '"reference"', "{{ reference }}")},
        },
        "names verifier 'unknown'": {
            "tasks": {"kind": "jsonl", "path": str(rows(tmp_path / "r.jsonl", "unknown")), "held_out_fraction": 0},
            "rollout": {"prompts_per_step": 1},
        },
        "a step wants 9 different tasks": {
            "tasks": {"kind": "jsonl", "path": str(rows(tmp_path / "few.jsonl", "exact")), "held_out_fraction": 0},
            "rollout": {"prompts_per_step": 9},
        },
        "none.jsonl": {"tasks": {"kind": "jsonl", "path": bad_file, "held_out_fraction": 0}},
        "NO_SUCH_KEY": {**BOTH, "critic": {"kind": "openai", "model": "m", "api_key_env": "NO_SUCH_KEY"}},
    }
    if words != "nowhere":
        monkeypatch.setattr(build_sampler, "load_policy", lambda *_, **__: pytest.fail("the model was loaded first"))
    with pytest.raises(error, match=words):
        build(config_of(**changes[words]), tracker=Memory())


def test_scores_are_mapped_as_an_earlier_run_calibrated_them(tmp_path: Path) -> None:
    fitted = fit_platt([0.1, 0.4, 0.6, 0.9, 0.7, 0.2], [False, True, False, True, True, False])
    path = tmp_path / "rescue.json"
    path.write_text(json.dumps({"table": [{"critic": "lab-rules", "calibrator": fitted.to_dict()}]}))
    config = lab_config({"trust": {"calibration": str(path)}})
    mapped = build(config, tracker=Memory()).score_map
    assert mapped is not None
    assert mapped(0.3) == pytest.approx(float(fitted.apply([0.3])[0]))
    assert build(lab_config(), tracker=Memory()).score_map is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "is no result of"),
        ('{"table": [{"critic": "another"}]}', "measures no critic called 'lab-rules'"),
        ('{"table": [{"critic": "lab-rules", "calibrator": null}]}', "too few scores of lab-rules"),
        ('{"table": [{"critic": "lab-rules", "calibrator": {"method": "magic"}}]}', "magic"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rescue.json").write_text(text)
    with pytest.raises(ConfigError, match=f"trust.calibration.*{said}"):
        build(lab_config({"trust": {"calibration": str(tmp_path / "rescue.json")}}), tracker=Memory())


def test_a_panel_has_one_event_loop_and_leaves_none_behind() -> None:
    def loops() -> int:
        return sum(thread.name == "critique-rl-calls" for thread in threading.enumerate())

    member = {"kind": "openai", "model": "x", "base_url": "http://127.0.0.1:9/v1", "max_attempts": 1}
    config = config_of(algorithm={"name": "two_channel"}, critic={"members": [member, {**member, "name": "y"}]})
    assert config.critic is not None
    before = loops()
    panel = build_critic(config.critic)
    assert panel is not None
    request = CriticRequest(rollout_id="r", task=task(), attempt="41", score=Score(reward=0.0))
    assert panel.review([request])[0].outcome is CriticOutcome.FAILED  # nobody listens there
    assert loops() == before + 1
    panel.close()
    assert loops() == before
