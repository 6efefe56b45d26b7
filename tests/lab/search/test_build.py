"""The starting policy of the search world: what is trained, equal builds, and what the packaged one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from critique_rl.build_tasks import lab_search_tool
from critique_rl.errors import ConfigError
from critique_rl.lab.measure import load_lab_policy
from critique_rl.lab.packaged import lab_facts
from critique_rl.lab.search.build import build_search_policy, own_words_loss, train_search_policy
from critique_rl.lab.search.corpus import Lesson, LessonTurn
from critique_rl.lab.search.measure import measure_searches, play_all
from critique_rl.lab.search.packaged import search_policy_dir
from critique_rl.lab.search.world import select_people, words

FIND = lab_search_tool()


def test_a_build_writes_a_policy_and_what_was_measured(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    measured = build_search_policy(
        tmp_path, find=FIND, steps=2, people=2, samples=2, progress=lambda s, n, _: heard.append((s, n))
    )
    facts = json.loads((tmp_path / "LAB.json").read_text())
    assert (facts["world"], facts["steps"], facts["people"]) == ("search", 2, 2)
    assert facts["measured"]["episodes"] == measured.episodes == 8
    assert heard == [(1, 2), (2, 2)]
    assert load_lab_policy(tmp_path).encode("town of lodo") == load_lab_policy(search_policy_dir()).encode(
        "town of lodo"
    )


def test_equal_seeds_give_equal_weights() -> None:
    left, right = train_search_policy(seed=1, steps=1), train_search_policy(seed=1, steps=1)
    for a, b in zip(left.model.parameters(), right.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="wanted at least 1"):
        train_search_policy(seed=0, steps=0)


def test_the_loss_is_of_the_policys_own_words() -> None:
    policy = train_search_policy(seed=0, steps=1)
    turns = (
        LessonTurn("<search> lodo </search>", "<result> nothing </result>"),
        LessonTurn("<answer> x </answer>", ""),
    )
    lesson = Lesson("town of lodo bakin mafek ?", turns)
    ids = [*policy.encode("town of lodo bakin mafek ? <search> lodo </search>"), policy.eos_id]
    own = [6, 7, 8, 9]
    heard = policy.encode("<result> nothing </result>")
    own += [len(ids) + len(heard) + i for i in range(4)]
    ids += [*heard, *policy.encode("<answer> x </answer>"), policy.eos_id]
    logprobs = torch.log_softmax(policy.model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
    by_hand = -sum(float(logprobs[t - 1, ids[t]].detach()) for t in own) / len(own)
    assert float(own_words_loss(policy, [lesson]).detach()) == pytest.approx(by_hand, abs=1e-5)


def test_the_packaged_policy_searches_with_some_success_and_mostly_by_one_name() -> None:
    facts = lab_facts(search_policy_dir())
    assert facts["parameters"] == 192576
    assert (search_policy_dir() / "model.safetensors").stat().st_size < 3_000_000
    people = select_people("held_out", 20)
    measured = measure_searches(load_lab_policy(search_policy_dir()), people, find=FIND, samples=4, seed=1)
    assert 0.25 < measured.success["town"] < 0.65
    assert 0.15 < measured.success["land"] < 0.55
    assert measured.first_name["given"] > 2 * measured.first_name["family"] > 0
    assert measured.solved_once["land"] > measured.success["land"]


def test_a_played_episode_is_its_calls() -> None:
    policy = load_lab_policy(search_policy_dir())
    calls = play_all(policy, [p.question("town") for p in select_people("held_out", 8)], find=FIND, seed=2)
    assert all(1 <= len(episode) <= 3 for episode in calls)
    assert all(tag in ("search", "answer", "") for episode in calls for tag, _ in episode)
    assert all(tag != "answer" for episode in calls for tag, _ in episode[:-1])


def test_the_tokenizer_has_a_token_for_every_word() -> None:
    policy = load_lab_policy(search_policy_dir())
    assert len(policy.encode(" ".join(words()))) == len(words())
    assert policy.decode(policy.encode("<search> lodo </search>")) == "<search> lodo </search>"
