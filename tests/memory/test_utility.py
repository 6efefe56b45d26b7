"""What a skill is worth: Welch's interval by hand, and when it is harmful enough to go."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from critique_rl.memory.utility import Evidence, evidence_by_skill, is_harmful, saving, utility


def evidence(shown: list[float], withheld: list[float]) -> Evidence:
    found = Evidence()
    for side, rates in ((True, shown), (False, withheld)):
        for rate in rates:
            found = found.plus(rate, shown=side)
    return found


def test_by_hand() -> None:
    # means .75 and .25; sample variances .125 each; error^2 = .125/2 + .125/2 = .125; v = .125^2 / (2 * .0625^2) = 2;
    # t_{2, .975} = 4.302653: half = 4.302653 * .3535534 = 1.521218
    found = utility(evidence([0.5, 1.0], [0.0, 0.5]))
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - 1.521218, abs=1e-5)
    assert found.high == pytest.approx(0.5 + 1.521218, abs=1e-5)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=8).filter(lambda x: len(set(x)) > 1),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=8).filter(lambda x: len(set(x)) > 1),
)
def test_welch_as_scipy_has_it(shown: list[float], withheld: list[float]) -> None:
    found = utility(evidence(shown, withheld))
    bounds = ttest_ind(shown, withheld, equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert found.low == pytest.approx(bounds.low, abs=1e-9)
    assert found.high == pytest.approx(bounds.high, abs=1e-9)


def test_too_little_to_tell() -> None:
    assert utility(evidence([1.0], [0.0, 0.0])) is None
    assert utility(Evidence()) is None


def test_sides_that_never_vary_still_have_a_width() -> None:
    # 4 groups each; variance of one deviating group of four: 3/16 = .1875; error^2 = 2 * .1875 / 4 = .09375
    found = utility(evidence([0.0] * 4, [1.0] * 4))
    assert found is not None
    assert found.value == -1.0
    assert found.low < -1.0 < found.high < 0.0


def test_harm_needs_evidence_size_and_certainty() -> None:
    bad = evidence([0.0] * 9 + [0.5], [1.0] * 9 + [0.5])
    assert is_harmful(bad, epsilon=0.05, min_groups=10)
    assert not is_harmful(bad, epsilon=0.05, min_groups=11)
    assert not is_harmful(bad, epsilon=0.95, min_groups=10)
    assert not is_harmful(evidence([0.0, 1.0] * 5, [0.5, 0.75] * 5), epsilon=0.05, min_groups=10)
    good = evidence([1.0] * 9 + [0.5], [0.0] * 10)
    assert not is_harmful(good, epsilon=0.0, min_groups=2)


def test_it_survives_json() -> None:
    found = {"dyn_001": evidence([0.5, 1.0], [0.25])}
    assert evidence_by_skill(json.loads(json.dumps({k: e.to_json() for k, e in found.items()}))) == found


def test_saving() -> None:
    assert saving(100, 25) == 0.75
    assert saving(10, 20) == -1.0  # longer than what it came from
