"""The `[tasks]` sections of questions that are answered by searching: `search` and `lab_search`.

Owns: their defaults, and what they share: the tool and how long an episode may be. Must not know: how anything is
found or read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

Tag = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
SEARCH_VERIFIER = "search"
"""The verifier that these tasks bring along: the answer's tag, compared exactly but for case and white space."""


QUERY_RATES = (
    "query_unique_ratio",
    "first_query_unique_ratio",
    "first_query_jaccard_div",
    "evidence_overlap",
    "repeated_queries",
    "answered",
)
"""What evaluations of such tasks measure beside success, each in [0, 1]."""


class EpisodesConfig(Strict):
    """What every task with a tool has; rollout.max_tokens bounds an episode with all that the tool says."""

    max_turns: int = Field(default=4, ge=1, description="turns of the policy in an episode; the last should answer")
    max_turn_tokens: int | None = Field(
        default=None, ge=1, description="longest turn, in tokens (None: what rollout.max_tokens leaves)"
    )
    no_answer_penalty: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="taken from the reward of an episode that ends without an answer (arXiv 2602.19526, known to us "
        "from its abstract)",
    )
    malformed_penalty: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="taken for every turn without a call that can be read, unless the episode is right in the end; no "
        "reward falls below -1",
    )


class SearchTasksConfig(EpisodesConfig):
    """Questions `{"question": "...", "answer": "..."}` about a corpus `{"id": "...", "text": "..."}`, found by BM25."""

    kind: Literal["search"]
    path: Path = Field(description="training questions, relative to the working directory")
    corpus: Path = Field(description="documents to search in")
    held_out_path: Path | None = Field(default=None, description="a second file of questions, for evaluation only")
    held_out_fraction: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="share of the questions in `path` kept for evaluation; 0 keeps none"
    )
    verifier: str = Field(default=SEARCH_VERIFIER, min_length=1, description="reward of the rows that name none")
    system: str = Field(default="", description="system turn put before every question; empty: one about the calls")
    top_k: int = Field(default=3, ge=1, description="documents that a search gives")
    max_result_chars: int | None = Field(default=None, ge=1, description="longest text of one document (None: all)")
    search_tag: Tag = Field(default="search", description="<search>words</search> searches")
    answer_tag: Tag = Field(default="answer", description="<answer>text</answer> ends the episode")
    stop_at_calls: bool = Field(
        default=True, description="a turn ends with the tag that closes a call; false: with the policy's end token only"
    )
    result_tag: Tag = Field(default="result", description='<result id="...">text</result> is what the tool says')

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if (self.held_out_path is None) == (self.held_out_fraction is None):
            raise ValueError("set exactly one of held_out_path and held_out_fraction (0 keeps nothing for evaluation)")
        tags = [self.search_tag, self.answer_tag, self.result_tag]
        if len(set(tags)) < len(tags):
            raise ValueError(f"the tags {tags} must differ, or no call could be told from another")
        return self


class LabSearchTasksConfig(EpisodesConfig):
    """The embedded world of searches: people with three names each, and registers that know some of them."""

    kind: Literal["lab_search"]
    max_turns: int = Field(default=3, ge=1, description="turns of the policy in an episode; the last should answer")
    max_turn_tokens: int | None = Field(default=8, ge=1, description="longest turn, in tokens")
    train_people: int = Field(default=80, ge=1, le=80, description="people that training asks about, twice each")
    held_out_people: int = Field(default=120, ge=0, le=120, description="people kept for evaluation")
    demonstrations: int = Field(
        default=4, ge=1, description="worked episodes of each training task, whose first queries differ; for SFT"
    )
