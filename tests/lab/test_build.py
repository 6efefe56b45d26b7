from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.errors import ConfigError
from critique_rl.lab.build import answer_loss, build_policy, build_tokenizer, train_policy
from critique_rl.lab.corpus import Corpus, Example
from critique_rl.lab.measure import LabPolicy, load_lab_policy
from critique_rl.lab.packaged import lab_facts, policy_dir


@pytest.fixture(scope="module")
def policy() -> LabPolicy:
    torch.set_num_threads(1)
    return load_lab_policy(policy_dir())


def test_the_answer_loss_is_the_mean_over_answer_tokens_of_a_plain_loop(policy: LabPolicy) -> None:
    examples = [Example("27+38=", "550"), Example("27+38=\nWrong.\n27+38=", "550")]
    terms: list[float] = []
    with torch.no_grad():
        for example in examples:
            ids = list(policy.encode(example.prompt))
            for token in (*policy.encode(example.answer), policy.eos_id):
                logits = policy.model(torch.tensor([ids])).logits[0, -1]
                terms.append(-float(torch.log_softmax(logits, -1)[token]))
                ids.append(token)
        assert float(answer_loss(policy, examples)) == pytest.approx(sum(terms) / 8, rel=1e-4, abs=1e-6)


def test_two_steps_twice_give_equal_weights_and_another_seed_others() -> None:
    torch.set_num_threads(1)
    losses: list[float] = []
    first, again = (
        train_policy(seed=4, steps=2, progress=lambda step, steps, loss: losses.append(loss)) for _ in range(2)
    )
    other = train_policy(seed=5, steps=1)
    weights = [p.model.state_dict()["model.layers.0.mlp.up_proj.weight"] for p in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert losses[:2] == losses[2:]
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()


def test_a_short_build_writes_what_transformers_loads(tmp_path: Path) -> None:
    built = build_policy(tmp_path / "policy", seed=1, steps=1, samples=200)
    assert built.hard.trials == 200
    facts = lab_facts(tmp_path / "policy")
    assert (facts["seed"], facts["steps"], facts["digits"]) == (1, 1, 2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]


def test_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps: came 0"):
        build_policy(tmp_path, steps=0)


def test_any_text_survives_the_packaged_tokenizer_and_nothing_is_added() -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_dir())
    for text in ("27+38=", "Trage die 1 über! 繰り上がり 🙂", " two  spaces\n\ttab ", "", "x" * 300):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.chat_template is None
    assert {tokenizer.eos_token, tokenizer.pad_token} == {"<eos>", "<pad>"}


def test_digits_are_always_single_tokens_and_answers_join_their_prompt() -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_dir())
    prompt, answer = "27+38= tried 550\nThe ones column adds to fifteen, so carry one into the tens.\n27+38=", "560"
    ids = tokenizer(prompt)["input_ids"] + tokenizer(answer)["input_ids"]
    assert tokenizer(prompt + answer)["input_ids"] == ids
    digits = set(tokenizer("0123456789")["input_ids"])
    assert len(digits) == 10
    assert all(not any(c in "0123456789" for c in piece) or i in digits for piece, i in tokenizer.get_vocab().items())


def test_the_tokenizer_keeps_critiques_short() -> None:
    tokenizer = build_tokenizer(Corpus(digits=2, seed=0).contexts(500))
    lengths = [len(tokenizer(e.prompt)["input_ids"]) for e in Corpus(digits=2, seed=9).contexts(200)]
    assert max(lengths) <= 90
    assert sum(lengths) / len(lengths) < 45
