"""A batch spec: unknown keys are errors, overrides reach the critic, shards part the ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.errors import ConfigError
from critique_rl.feedback.batch_spec import BatchSpec, batch_spec, read_batch_file, with_overrides

ROOT = Path(__file__).parents[2]
TREE = {"rollouts": "r.jsonl", "out": "d/f.jsonl", "critic": {"kind": "lab_rules"}}


def test_every_shipped_spec_is_one() -> None:
    files = sorted((ROOT / "feedback" / "runs").glob("*.toml"))
    assert files
    for path in files:
        assert isinstance(batch_spec(read_batch_file(path), source=str(path)), BatchSpec)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"limt": 3}, "limt is not a known key"),
        ({"limit": 0}, "limit"),
        ({"out": "f.csv"}, "out"),
        ({"out": ".jsonl"}, "out"),
        ({"shard": "3/2"}, "no part of a whole"),
        ({"shard": "0/2"}, "shard"),
        ({"critic": {"kind": "none"}}, "gives no feedback"),
        ({"critic": {"kind": "lab_rules", "model": "x"}}, "critic.lab_rules.model is not a known key"),
        ({"critic": None}, "critic"),
    ],
)
def test_a_bad_key_is_named(change: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"^runs/a\.toml: ") as caught:
        batch_spec({**TREE, **change}, source="runs/a.toml")
    assert wanted in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="out is missing"):
        batch_spec({"rollouts": "r.jsonl", "critic": {"kind": "lab_rules"}}, source="x")


def test_overrides_are_laid_over_the_critic_alone() -> None:
    tree = {"critic": {"kind": "openai", "model": "a"}}
    changed = with_overrides(tree, [("critic.model", "b/c"), ("critic.max_tokens", "64"), ("critic.criteria", '["x"]')])
    assert changed == {"critic": {"kind": "openai", "model": "b/c", "max_tokens": 64, "criteria": ["x"]}}
    assert tree == {"critic": {"kind": "openai", "model": "a"}}
    for key in ("limit", "critic", "critic.a.b", "out.critic"):
        with pytest.raises(ConfigError, match=f"--{key}"):
            with_overrides(tree, [(key, "1")])
    with pytest.raises(ConfigError, match="table"):
        with_overrides({"critic": "lab_rules"}, [("critic.model", "x")])


def test_each_id_is_in_exactly_one_shard_whatever_the_file() -> None:
    specs = [batch_spec({**TREE, "shard": f"{part}/5"}, source="x") for part in range(1, 6)]
    names = [f"row {n}" for n in range(200)]
    held = [[spec.takes(name) for spec in specs] for name in names]
    assert all(sum(row) == 1 for row in held)
    assert all(any(row[part] for row in held) for part in range(5))
    assert all(batch_spec(TREE, source="x").takes(name) for name in names)


def test_files_lie_beside_the_output() -> None:
    spec = batch_spec(TREE, source="x")
    assert [str(spec.beside(ending)) for ending in ("failed.jsonl", "run.json")] == ["d/f.failed.jsonl", "d/f.run.json"]


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match="does not exist"):
        read_batch_file(path)
    path.write_text("rollouts =")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_batch_file(path)
