"""What reaches the samples of a run with several objectives: which rollouts and tokens, what is told and warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from critique_rl.algorithms.by_name import build_algorithm
from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.objectives import CombinedObjectives, Combiner
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import CritiqueGrpoConfig, DistillationConfig, GrpoConfig, TwoChannelConfig
from critique_rl.config.objectives import ObjectivesConfig
from critique_rl.errors import DataError
from critique_rl.types import Group, ScoreStatus, TrainSample
from tests.algorithms.groups import ERROR, advantages, assert_same_samples, critique, group, refinement, rollout
from tests.lab_runs import Tree
from tests.tiny import gradient, tiny_policy

RIGHT: Tree = {"source": "verifier"}
OWN: Tree = {"source": "python", "function": "math:pow", "low": 0, "high": 1}
STATED: Tree = {"source": "confidence"}
R1, R2 = [1.0, 0, 0, 1], [0.2, 0.9, 0.4, 0.5]
TAUGHT = TwoChannelConfig(use=("targets", "refinements"))


class Table:
    """A reader of values that the test says, by task and objective; None where the verifier failed."""

    def __init__(self, names: Sequence[str], **tasks: Mapping[str, Sequence[float | None]]) -> None:
        self.names = tuple(names)
        self.tasks = tasks

    def read(self, group: Group) -> list[list[float | None]]:
        columns = self.tasks[group.task.id]
        rows = [[columns[name][i] for name in self.names] for i in range(len(group.rollouts))]
        failed = [score.status is ScoreStatus.ERROR for score in group.scores]
        return [[None] * len(self.names) if bad else row for row, bad in zip(rows, failed, strict=True)]


def combiner(combine: str, table: Table, of: Tree | None = None, **keys: object) -> Combiner:
    kinds: Tree = {name: RIGHT if name == "right" else OWN for name in table.names} if of is None else of
    return Combiner(ObjectivesConfig.model_validate({"combine": combine, "of": kinds, "eps": 0.0, **keys}), table)


def method(made: Combiner, config: GrpoConfig | CritiqueGrpoConfig | TwoChannelConfig | None = None):
    return build_algorithm(config or GrpoConfig(), combiner=made)


def two(**tasks: tuple[Sequence[float | None], Sequence[float | None]]) -> Table:
    return Table(("right", "own"), **{task: {"right": a, "own": b} for task, (a, b) in tasks.items()})


def near(*values: float) -> object:
    return pytest.approx(list(values), abs=1e-6)


# -- which rollouts ----------------------------------------------------------------------------------------------------


def test_the_combined_advantage_is_on_every_token() -> None:
    made = combiner("dvao", two(t=(R1, R2)), ddof=0)
    samples = method(made).assemble([group(R1)])
    assert advantages(samples) == near(0.2649179, -0.1324589, -0.7947536, 0.6622947)
    assert all(s.pg_weight.tolist() == [1.0] * len(s.completion_ids) for s in samples)
    assert all(s.objective_advantages is None for s in samples)


def test_a_criterion_that_the_critic_does_not_score_is_told_once() -> None:
    kinds: Tree = {"right": RIGHT, "said": {"source": "critic", "criterion": "from"}}
    table = Table(("right", "said"), t={"right": R1, "said": [None] * 4})
    fed = group(R1)
    scored = replace(fed, critiques={"r1": critique("r1", 0.5, 0.25)})  # criteria "0" and "1"
    made = combiner("gdpo", table, kinds)
    method(made).assemble([fed])  # nobody was asked: that says nothing
    assert made.messages() == []
    method(made).assemble([scored])
    (told,) = made.messages()
    assert told.startswith("objective said: no critique of this step scores 'from', but '0' and '1'; correct criterion")
    method(made).assemble([scored])
    assert made.messages() == []
    known = combiner("gdpo", table, {"right": RIGHT, "said": {"source": "critic", "criterion": "1"}})
    method(known).assemble([scored])
    assert known.messages() == []


def test_a_task_that_comes_twice_in_a_step_counts_once() -> None:
    # where an epoch of recalled rows ends inside a step, the next one may begin with the same rollouts
    once, twice = (combiner("gdpo", two(t=(R1, R2), u=(R2, R1))) for _ in range(2))
    fed = [group(R1), group(R2, task="u")]
    single = method(once).assemble(fed)
    assert_same_samples(method(twice).assemble([*fed, group(R1)]), [*single, *single[:4]])
    assert twice.figures() == once.figures()


@pytest.mark.parametrize(("combine", "scale"), [("sum", "std"), ("sum_unscaled", "none")])
def test_one_objective_beside_one_of_weight_0_is_grpo(combine: str, scale: Literal["std", "none"]) -> None:
    kinds: Tree = {"right": RIGHT, "own": OWN | {"weight": 0.0}}
    keys: Tree = {"eps": 1e-6} if combine == "sum" else {"eps": None}
    made = combiner(combine, two(t=(R1, R2), u=(R2, R1)), kinds, **keys)
    fed = [group(R1), group(R2, task="u")]
    wanted = build_algorithm(GrpoConfig(scale=scale)).assemble(fed)
    assert advantages(method(made).assemble(fed)) == pytest.approx(advantages(wanted), abs=1e-12)
    assert made.figures()["objectives/own/mean"] == pytest.approx(0.5)


def test_a_failed_verifier_and_a_late_group_are_in_no_statistic() -> None:
    late = replace(group([1, 0], task="late"), late=True)
    fed = [group([1, ERROR, 0, 0, 1]), late]
    table = two(t=([1, 9, 0, 0, 1], [0.2, 9, 0.9, 0.4, 0.5]))  # the late group is not even read
    made = combiner("dvao", table, ddof=0)
    samples = method(made).assemble(fed)
    assert [s.advantages[0] for s in samples[:5]] == near(0.2649179, 0.0, -0.1324589, -0.7947536, 0.6622947)
    assert [bool(s.pg_weight.any()) for s in samples] == [True, False, True, True, True, False, False]
    assert not any(s.advantages.any() for s in samples[5:])


def test_a_rollout_without_any_value_learns_nothing() -> None:
    made = combiner("gdpo", two(t=([1, None, 0, 0, 1], [0.2, None, 0.9, 0.4, 0.5])))
    samples = method(made).assemble([group([1, 1, 0, 0, 1])])
    assert not samples[1].pg_weight.any() and not samples[1].advantages.any()
    assert sum(s.advantages[0] for s in samples) == pytest.approx(0.0)
    assert made.figures()["objectives/right/missing"] == pytest.approx(0.2)


def test_a_rollout_of_unknown_log_probs_counts_and_is_not_trained() -> None:
    fed = group(R1)
    fed = replace(fed, rollouts=(replace(fed.rollouts[0], behaviour_logprobs=()), *fed.rollouts[1:]))
    samples = method(combiner("dvao", two(t=(R1, R2)), ddof=0)).assemble([fed])
    assert not samples[0].pg_weight.any() and not samples[0].advantages.any()
    assert advantages(samples[1:]) == near(-0.1324589, -0.7947536, 0.6622947)


def test_refinements_and_targets_stay_as_they_are() -> None:
    fed = [group(R1, [refinement(0, 1.0)], critiques=[critique("r1", 0.4)], taught=["r1"])]
    plain = TwoChannel(TAUGHT).assemble(fed)
    ours = method(combiner("dvao", two(t=(R1, R2)), ddof=0), TAUGHT).assemble(fed)
    assert_same_samples([replace(s, advantages=p.advantages) for s, p in zip(ours, plain, strict=True)], plain)
    assert_same_samples(ours[4:], plain[4:])
    assert advantages(ours[:4]) == near(0.2649179, -0.1324589, -0.7947536, 0.6622947)


def test_name_and_needs_stay_and_a_run_without_objectives_is_not_wrapped() -> None:
    made = method(combiner("gdpo", two()), TAUGHT)
    assert isinstance(made, CombinedObjectives)
    assert (made.name, made.needs) == ("two_channel", TwoChannel(TAUGHT).needs)
    assert not isinstance(build_algorithm(GrpoConfig()), CombinedObjectives)
    assert made.assemble([]) == []


def test_joins_change_the_combined_advantages() -> None:
    made = combiner("dvao", two(t=(R1, R2)), ddof=0)
    joined = build_algorithm(
        TAUGHT, distillation=DistillationConfig(join="advantages", support="sampled"), combiner=made
    )
    assert isinstance(joined, GapAdvantages) and isinstance(joined.method, CombinedObjectives)
    samples = joined.assemble([group(R1, critiques=[critique("r1")], taught=["r1"])])
    assert samples[0].advantages[0] == pytest.approx(0.2649179, abs=1e-6)
    assert samples[1].advantages[0] == pytest.approx(-0.1324589 - 1.0, abs=1e-6)  # the gap of -1.5, clipped at 1


def test_a_bad_value_is_named_before_the_method_sees_a_reward() -> None:
    class Broken(Table):
        def read(self, group: Group) -> list[list[float | None]]:
            raise DataError("objectives.of.own for rollout 'r1' is nan")

    class Unreachable:
        name = "unreachable"
        needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

        def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
            raise AssertionError("the method came first")

    with pytest.raises(DataError, match="rollout 'r1' is nan"):
        CombinedObjectives(Unreachable(), combiner("gdpo", Broken(("right", "own")))).assemble([group(R1)])


# -- the whole step ----------------------------------------------------------------------------------------------------

G1, G2 = ([1.0, 0, 0, 1], [1.0, 1, 0, 0]), ([0.0, 0, 0, 1], [1.0, 1, 1, 1])


def test_the_batch_of_gdpo_is_the_whole_step() -> None:
    fed = [group(G1[0]), group(G2[0], task="u")]
    samples = method(combiner("gdpo", two(t=G1, u=G2))).assemble(fed)
    wanted = [1.527525, 0, -1.527525, 0, -0.440959, -0.440959, -0.440959, 1.322876]
    assert advantages(samples) == near(*wanted)
    back = method(combiner("gdpo", two(t=G1, u=G2))).assemble(fed[::-1])
    assert advantages(back) == near(*wanted[4:], *wanted[:4])
    # group by group it would be another function: one that no cut of the step into parts may become
    alone = method(combiner("gdpo", two(t=G1, u=G2))).assemble(fed[:1])
    assert advantages(alone)[0] != pytest.approx(1.527525, abs=1e-3)


def test_no_cut_of_the_step_changes_its_gradient() -> None:
    # advantages are stamped once, before rows are shared out to micro-batches or ranks
    fed = [group(G1[0]), group(G2[0], task="u")]
    samples = method(combiner("gdpo", two(t=G1, u=G2))).assemble(fed)
    policy = tiny_policy()
    whole, cut = gradient(policy, samples), gradient(policy, samples, max_tokens=6)
    assert whole.abs().max().item() > 1e-3
    assert torch.allclose(whole, cut, rtol=0, atol=1e-12)


def test_token_norm_counts_the_rollouts_own_tokens() -> None:
    # rollouts of 1 and 2 tokens: z = +-.707107, token mean -.235702, std over 3 tokens sqrt(2/3) = .816497
    made = combiner("gdpo", two(t=([1.0, 0], [0.0, 0])), batch_norm="tokens")
    assert advantages(method(made).assemble([group([1, 0])])) == near(1.154701, -0.577350)


# -- which tokens ------------------------------------------------------------------------------------------------------


def stated(*, tokens: tuple[str, str], combine: str = "sum_unscaled", **keys: object) -> list[TrainSample]:
    """Two rollouts of four tokens, the first of which states a confidence from its third token on."""
    kinds: Tree = {"right": RIGHT | {"tokens": tokens[0]}, "sure": STATED | {"tokens": tokens[1]}}
    table = Table(("right", "sure"), t={"right": [1.0, 0], "sure": [0.2, 0.8]})
    keys = {"eps": None, **keys} if combine == "sum_unscaled" else keys
    fed = group([1, 0])
    fed = replace(fed, rollouts=(rollout("r0", range(6, 10)), rollout("r1", range(6, 10))), confidence_tokens={"r0": 2})
    return method(combiner(combine, table, kinds, **keys)).assemble([fed])


def test_each_objective_moves_its_own_tokens() -> None:
    # centred: right +-.5, sure -+.3
    both = stated(tokens=("answer", "confidence"))
    assert both[0].advantages.tolist() == near(0.5, 0.5, -0.3, -0.3)
    assert both[1].advantages.tolist() == near(-0.5, -0.5, -0.5, -0.5)  # it states none: all of it is answer
    assert all(s.pg_weight.all() for s in both)
    everywhere = stated(tokens=("all", "confidence"))
    assert everywhere[0].advantages.tolist() == near(0.5, 0.5, 0.2, 0.2)
    together = stated(tokens=("all", "all"))
    assert together[0].advantages.tolist() == near(0.2, 0.2, 0.2, 0.2)


def test_tokens_are_split_after_the_batch_is_normalised() -> None:
    # z = +-1/sqrt(2) of both with opposite signs: the totals are 0, and the batch has nothing to divide by
    split = stated(tokens=("answer", "confidence"), combine="gdpo")
    root = 1 / np.sqrt(2)
    assert split[0].advantages.tolist() == near(root, root, -root, -root)
    assert stated(tokens=("all", "all"), combine="gdpo")[0].advantages.tolist() == [0.0] * 4


@pytest.mark.parametrize("combine", ["pcgrad", "mgda", "mgda_normalized"])
def test_methods_on_gradients_get_each_objectives_own_advantages(combine: str) -> None:
    kinds: Tree = {"right": RIGHT, "own": OWN | ({"weight": 0.5} if combine == "pcgrad" else {})}
    samples = method(combiner(combine, two(t=(R1, R2)), kinds, ddof=0)).assemble([group(R1)])
    weight = 0.5 if combine == "pcgrad" else 1.0
    own = [(r - 0.5) / 0.2549510 * weight for r in R2]
    for i, sample in enumerate(samples):
        found = sample.objective_advantages
        assert found is not None and found.shape == (2, i + 1)
        assert found[0].tolist() == near(*[1 if R1[i] else -1] * (i + 1)) and found[1].tolist() == near(
            *[own[i]] * (i + 1)
        )
        assert sample.advantages.tolist() == pytest.approx(found.sum(axis=0).tolist())


def test_objectives_of_gradients_are_split_by_tokens_too() -> None:
    found = stated(tokens=("answer", "confidence"), combine="pcgrad")[0].objective_advantages
    root = 1 / np.sqrt(2)
    assert found is not None
    assert found[0].tolist() == near(root, root, 0, 0) and found[1].tolist() == near(0, 0, -root, -root)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_figures_by_objective() -> None:
    made = combiner("dvao", two(t=(R1, R2), u=([1.0] * 4, [0.5] * 4)), ddof=0)
    assert made.figures() == {}
    method(made).assemble([group(R1), group([1] * 4, task="u")])
    found = made.figures()
    assert found["objectives/right/mean"] == pytest.approx(0.75)
    assert found["objectives/right/spread"] == pytest.approx(0.25)  # (.5 + 0) / 2
    assert found["objectives/own/flat"] == 0.5 and found["objectives/own/missing"] == 0.0
    assert found["objectives/right/weight"] == pytest.approx(0.6622947)  # of the group that has any
    assert found["objectives/right/correlation"] == pytest.approx(0.861640, abs=1e-6)
    assert found["objectives/own/correlation"] == pytest.approx(-0.096561, abs=1e-6)
    assert found["objectives/agreement"] == pytest.approx(0.5380507)
    assert found["objectives/live_groups"] == 0.5
    assert made.messages() == []


def test_whether_a_group_is_alive_is_asked_of_the_final_advantages() -> None:
    # the summed reward is constant, the normalised objectives are not
    three = Table(("right", "a", "b"), t={"right": [1.0, 0, 0, 1], "a": [0.0, 1, 0, 0], "b": [0.0, 0, 1, 0]})
    alive = {}
    for combine in ("sum", "dvao", "gdpo", "pcgrad"):
        made = combiner(combine, three)
        samples = method(made).assemble([group([1, 0, 0, 1])])
        alive[combine] = made.figures()["objectives/live_groups"]
        assert any(s.advantages.any() for s in samples) == (combine in ("gdpo", "pcgrad"))
    assert alive == {"sum": 0.0, "dvao": 0.0, "gdpo": 1.0, "pcgrad": 1.0}
    conflict = combiner("pcgrad", two(t=([1.0, 0], [0.0, 1])))
    samples = method(conflict).assemble([group([1, 0])])
    assert not any(s.advantages.any() for s in samples) and conflict.figures()["objectives/live_groups"] == 1.0


def test_a_figure_that_is_not_known_is_not_there() -> None:
    made = combiner("sum", two(t=([1.0, 0], [None, None])))
    method(made).assemble([group([1, 0])])
    found = made.figures()
    assert found["objectives/own/missing"] == 1.0 and "objectives/own/mean" not in found
    assert not any(np.isnan(value) for value in found.values())
    method(made).assemble([])
    assert made.figures() == {}


def test_an_objective_that_nobody_measures_is_told_once() -> None:
    made = combiner("sum", two(t=([1.0, 0], [None, None])))
    for _ in range(2):
        method(made).assemble([group([1, 0])])
    assert made.messages() == [
        "objective own has no value for any of 2 rollouts, so it moves nothing: compare [objectives.of.own] with what "
        "its source gives"
    ]
    assert made.messages() == []
    # a critic that was not asked is nothing to tell
    kinds: Tree = {"right": RIGHT, "own": {"source": "critic"}}
    quiet = combiner("sum", two(t=([1.0, 0], [None, None])), kinds)
    method(quiet).assemble([group([1, 0])])
    assert quiet.messages() == []


@pytest.mark.parametrize(
    ("combine", "told"), [("sum", 1), ("sum_unscaled", 1), ("dvao", 1), ("gdpo", 0), ("mo_grpo", 0)]
)
def test_ranges_that_differ_are_told_where_the_method_rests_on_them(combine: str, told: int) -> None:
    kinds: Tree = {"right": RIGHT, "own": {"source": "python", "function": "math:pow"}}
    keys: Tree = {"eps": None} if combine == "sum_unscaled" else {}
    made = combiner(combine, two(t=([1.0, 0], [-120.0, 30])), kinds, **keys)
    method(made).assemble([group([1, 0])])
    messages = made.messages()
    assert len(messages) == told
    assert all("own has values outside of [0, 1]" in m and "set low and high" in m for m in messages)


RIGHT_ANSWERS, HONEST = [1.0, 1, 0, 0], [0.99, 0.84, 0.36, 0.96]


@pytest.mark.parametrize(
    ("combine", "tokens", "warned"),
    [
        ("gdpo", "all", True),
        ("advantage_sum", "all", True),
        ("mo_grpo", "all", True),
        ("gdpo", "confidence", False),
        ("dvao", "all", False),
        ("sum_unscaled", "all", False),
        ("pcgrad", "all", False),
    ],
)
def test_a_confidence_that_outweighs_right_answers_is_told(combine: str, tokens: str, warned: bool) -> None:
    # sigma_right .5, sigma_sure .2531181: normalised, a right answer has .51 of the weight that it should have
    kinds: Tree = {"right": RIGHT, "sure": STATED | {"tokens": tokens}}
    table = Table(("right", "sure"), t={"right": RIGHT_ANSWERS, "sure": HONEST})
    made = combiner(combine, table, kinds, **({"eps": None} if combine == "sum_unscaled" else {}))
    for _ in range(2):
        method(made).assemble([group(RIGHT_ANSWERS)])
    messages = made.messages()
    assert len(messages) == warned
    assert all("gives a right answer 0.51 times the weight of a stated confidence" in m for m in messages)


def test_no_rollout_at_all() -> None:
    made = combiner("gdpo", two(t=([9, 9], [9, 9])))
    samples = method(made).assemble([group([ERROR, ERROR])])
    assert not any(s.pg_weight.any() for s in samples)
    assert made.figures() == {} and made.messages() == []
