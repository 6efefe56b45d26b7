from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from critique_rl.errors import ConfigError
from critique_rl.lab.measure import LabPolicy, load_lab_policy
from critique_rl.lab.packaged import lab_facts
from critique_rl.lab.school.build import build_school_policy, train_school_policy
from critique_rl.lab.school.corpus import END, Lesson, SchoolCorpus
from critique_rl.lab.school.packaged import school_policy_dir
from critique_rl.lab.training import share_loss
from tests.lab.plain_loss import plain_terms


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(school_policy_dir())


def test_the_loss_is_the_mean_divergence_of_a_plain_loop(policy: LabPolicy) -> None:
    lessons = [
        Lesson("s 27+8=", ("=", "3", "5", END), ({"=": 0.4, "<": 0.6}, {"3": 1.0}, {"5": 0.5, "6": 0.5}, {END: 1.0})),
        Lesson("o 4172=", ("1", END), ({"1": 0.75, "4": 0.25}, {END: 1.0})),
    ]
    terms = plain_terms(policy, lessons, end=END)
    assert len(terms) == 6
    with torch.no_grad():
        assert float(share_loss(policy, lessons, end=END)) == pytest.approx(sum(terms) / 6, rel=1e-4, abs=1e-5)


def test_a_step_twice_gives_equal_weights_and_another_seed_others() -> None:
    torch.set_num_threads(1)
    losses: list[float] = []
    first, again, other = (
        train_school_policy(seed=seed, steps=1, progress=lambda step, steps, loss: losses.append(loss))
        for seed in (4, 4, 5)
    )
    weights = [p.model.state_dict()["model.layers.0.mlp.up_proj.weight"] for p in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert losses[:3] == losses[3:6] != losses[6:]  # a step of each of three rounds
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_a_short_build_writes_what_transformers_loads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    measured = build_school_policy(tmp_path / "policy", seed=1, steps=1, problems=1)
    facts = lab_facts(tmp_path / "policy")
    assert (facts["seed"], facts["steps"], facts["problems_per_kind"], facts["world"]) == (1, 1, 1, "school")
    assert facts["measured"] == measured.to_dict()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert torch.get_num_threads() == threads


def test_no_steps_and_too_many_problems_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps: came 0"):
        build_school_policy(tmp_path, steps=0)
    with pytest.raises(ConfigError, match="5000 problems of the kind 'sum'"):
        build_school_policy(tmp_path, steps=1, problems=5000)


def test_every_piece_is_one_token_of_the_packaged_tokenizer(policy: LabPolicy) -> None:
    corpus = SchoolCorpus(seed=9)
    lessons = [*corpus.drills(40), *corpus.longer_drills(20), *corpus.short(140), *corpus.chains(40)]
    for lesson in lessons:
        for piece in {p for shares in lesson.shares for p in shares if p != END}:
            assert len(policy.encode(piece)) == 1
        answer = "".join(lesson.pieces)
        assert policy.encode(lesson.prompt + answer) == policy.encode(lesson.prompt) + policy.encode(answer)


def test_the_packaged_tokenizer_keeps_any_text_and_adds_nothing(policy: LabPolicy) -> None:
    for text in (
        "c 3-4-2=step by step: 3-4=9;",
        "w sea wave salt=",
        "繰り上がり 🙂",
        " two  spaces\n\ttab ",
        "x" * 300,
    ):
        assert policy.decode(policy.encode(text)) == text
    solution = "step by step: 7+4=1; 1-2=9; 9-3=6; 6+5=1; 1-8=3; so 3"
    assert len(policy.encode(solution)) == 36
