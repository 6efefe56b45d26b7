from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from critique_rl.errors import ConfigError
from critique_rl.lab.guess.build import build_guess_policy, train_guess_policy
from critique_rl.lab.guess.corpus import END, Lesson
from critique_rl.lab.guess.packaged import guess_policy_dir
from critique_rl.lab.measure import LabPolicy, load_lab_policy
from critique_rl.lab.packaged import lab_facts
from critique_rl.lab.training import share_loss
from tests.lab.plain_loss import plain_terms


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(guess_policy_dir())


def test_the_loss_is_the_mean_divergence_of_a_plain_loop(policy: LabPolicy) -> None:
    lessons = [
        Lesson("7+2[1]=", ("2", "8", END), ({"2": 0.75, "3": 0.25}, {"8": 1.0}, {END: 0.5, " c": 0.5})),
        Lesson("7+2[026]=", ("abstain", END), ({"abstain": 1.0}, {END: 1.0})),
    ]
    terms = plain_terms(policy, lessons, end=END)
    assert len(terms) == 5
    with torch.no_grad():
        assert float(share_loss(policy, lessons, end=END)) == pytest.approx(sum(terms) / 5, rel=1e-4, abs=1e-5)


def test_two_steps_twice_give_equal_weights_and_another_seed_others() -> None:
    torch.set_num_threads(1)
    losses: list[float] = []
    first, again = (
        train_guess_policy(seed=4, steps=2, progress=lambda step, steps, loss: losses.append(loss)) for _ in range(2)
    )
    other = train_guess_policy(seed=5, steps=1)
    weights = [p.model.state_dict()["model.layers.0.mlp.up_proj.weight"] for p in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert losses[:2] == losses[2:]
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_a_short_build_writes_what_transformers_loads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    measured = build_guess_policy(tmp_path / "policy", seed=1, steps=1, problems=1, floor=0.01)
    facts = lab_facts(tmp_path / "policy")
    assert (facts["seed"], facts["steps"], facts["problems_per_n"], facts["world"]) == (1, 1, 1, "guess")
    assert facts["measured"] == measured.to_dict()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert torch.get_num_threads() == threads


def test_no_steps_and_too_many_problems_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps: came 0"):
        build_guess_policy(tmp_path, steps=0)
    with pytest.raises(ConfigError, match="5000 problems with 1 candidates"):
        build_guess_policy(tmp_path, steps=1, problems=5000)


def test_the_packaged_tokenizer_keeps_any_text_and_adds_nothing(policy: LabPolicy) -> None:
    for text in ("7+2[026]=27 c3", "abstain", "繰り上がり 🙂", " two  spaces\n\ttab ", "x" * 300):
        assert policy.decode(policy.encode(text)) == text
    question, answer = "7+2[026]=", "27 c3"
    assert policy.encode(question + answer) == policy.encode(question) + policy.encode(answer)
    assert len(policy.encode(answer)) == 4
