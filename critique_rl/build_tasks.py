"""Where a run's prompts come from and who judges the answers: config -> live objects.

Must not know: models, what is done with a score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from critique_rl.config import rewards as judges
from critique_rl.config import search as searches
from critique_rl.config import tasks as sources
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError
from critique_rl.lab.guess.tasks import GuessTasks
from critique_rl.lab.school.reward import SchoolReward
from critique_rl.lab.school.tasks import SchoolTasks
from critique_rl.lab.search.corpus import result
from critique_rl.lab.search.tasks import SearchLabTasks
from critique_rl.lab.search.world import MALFORMED, NOTHING, facts
from critique_rl.lab.tasks import LabTasks
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.protocols import Reward, TaskSource
from critique_rl.rewards.by_name import VerifierRouter
from critique_rl.rewards.choice import ChoiceReward
from critique_rl.rewards.confidence import ConfidenceReward
from critique_rl.rewards.exact import ExactReward
from critique_rl.rewards.format_reward import FormatReward
from critique_rl.rewards.judge import JudgeReward, Review
from critique_rl.rewards.math_verify_reward import MathVerifyReward
from critique_rl.rewards.reasoning_gym_reward import ReasoningGymReward
from critique_rl.rewards.step_similarity import StepSimilarityReward
from critique_rl.tasks.corpus import Bm25Index, Document, read_corpus
from critique_rl.tasks.jsonl import JsonlTasks
from critique_rl.tasks.mixture import MixtureTasks
from critique_rl.tasks.reasoning_gym_tasks import ReasoningGymTasks
from critique_rl.tasks.search import SYSTEM, EpisodeOptions, SearchEnvironment, SearchTasks, Wording
from critique_rl.tasks.steps import StepTasks


def build_tasks(config: sources.TasksConfig) -> TaskSource:
    """The task source that a config class names. Errors: DataError with file and line."""
    match config:
        case sources.LabTasksConfig():
            return LabTasks(**config.model_dump(exclude={"kind"}))
        case sources.GuessTasksConfig():
            return GuessTasks(**config.model_dump(exclude={"kind"}))
        case sources.SchoolTasksConfig():
            return SchoolTasks(**config.model_dump(exclude={"kind", "fixed_accuracy"}))
        case sources.JsonlTasksConfig():
            return JsonlTasks(
                config.path,
                verifier=config.verifier,
                held_out_path=config.held_out_path,
                held_out_fraction=config.held_out_fraction or 0.0,
                system=config.system,
            )
        case sources.ReasoningGymTasksConfig():
            return ReasoningGymTasks(
                config.dataset,
                size=config.size,
                seed=config.seed,
                held_out_size=config.held_out_size,
                params=config.params,
                system=config.system,
            )
        case sources.StepsTasksConfig():
            return StepTasks(
                build_tasks(config.of),
                verifier=config.verifier,
                template=load_prompt(config.prompt) if config.prefix == "turn" else None,
                next_title=config.next_title,
                train_last=config.train_last,
                skip_without_steps=config.skip_without_steps,
            )
        case searches.SearchTasksConfig():
            return SearchTasks(
                config.path,
                verifier=config.verifier,
                held_out_path=config.held_out_path,
                held_out_fraction=config.held_out_fraction or 0.0,
                system=config.system or SYSTEM.format(search=config.search_tag, answer=config.answer_tag),
            )
        case searches.LabSearchTasksConfig():
            return SearchLabTasks(
                find=lab_search_environment(config).find,
                train_people=config.train_people,
                held_out_people=config.held_out_people,
                demonstrations=config.demonstrations,
            )
        case sources.MixtureTasksConfig():
            return MixtureTasks({name: build_tasks(part) for name, part in config.of.items()}, shares=config.trained)
        case _:
            assert_never(config)


def build_environment(config: sources.TasksConfig) -> SearchEnvironment | None:
    """What answers the policy's turns; None for tasks of one turn. Errors: DataError, MissingExtraError."""
    match config:
        case searches.SearchTasksConfig():
            return SearchEnvironment(
                Bm25Index(read_corpus(config.corpus)),
                top_k=config.top_k,
                wording=_wording(config),
                max_result_chars=config.max_result_chars,
                stop_at_calls=config.stop_at_calls,
                **_episodes(config),
            )
        case searches.LabSearchTasksConfig():
            return lab_search_environment(config)
        case _:
            return None


def lab_search_environment(config: searches.LabSearchTasksConfig) -> SearchEnvironment:
    """The tool of the embedded world: one document a search, in the few words that its policy knows."""
    return SearchEnvironment(
        Bm25Index([Document(fact.id, fact.text) for fact in facts()]),
        top_k=1,
        wording=Wording(show=lambda document: result(document.text), nothing=NOTHING, malformed=MALFORMED, spaced=True),
        # Its policy ends every turn by itself, and is trained to.
        stop_at_calls=False,
        **_episodes(config),
    )


def lab_search_tool() -> Callable[[str], str]:
    """What the embedded world's tool says to a query; the index is made when the first one comes."""
    made: list[SearchEnvironment] = []

    def find(query: str) -> str:
        made[:] = made or [lab_search_environment(searches.LabSearchTasksConfig(kind="lab_search"))]
        return made[0].find(query)

    return find


def _episodes(config: searches.EpisodesConfig) -> EpisodeOptions:
    return {
        "max_turns": config.max_turns,
        "max_turn_tokens": config.max_turn_tokens,
        "no_answer_penalty": config.no_answer_penalty,
        "malformed_penalty": config.malformed_penalty,
    }


def _wording(config: searches.SearchTasksConfig) -> Wording:
    return Wording(search=config.search_tag, answer=config.answer_tag, result=config.result_tag)


def build_reward(config: RunConfig, reviews: Mapping[str, Review] | None = None) -> VerifierRouter:
    """All verifiers of a run by name; "exact" is always there. `reviews` are those who judge, by the reward's name.

    Errors: ConfigError for a reward of kind judge without one.
    """
    rewards: dict[str, Reward] = {"exact": ExactReward()}
    if any(isinstance(part, sources.ReasoningGymTasksConfig) for part in sources.parts_of(config.tasks)):
        rewards["reasoning_gym"] = ReasoningGymReward()
    schools = [p for p in sources.parts_of(config.tasks) if isinstance(p, sources.SchoolTasksConfig)]
    if schools:
        rewards["school"] = SchoolReward(fixed_accuracy=any(part.fixed_accuracy for part in schools))
    if isinstance(config.tasks, searches.SearchTasksConfig | searches.LabSearchTasksConfig):
        wording = _wording(config.tasks) if isinstance(config.tasks, searches.SearchTasksConfig) else Wording()
        rewards[searches.SEARCH_VERIFIER] = ExactReward(
            pattern=wording.answer_pattern,
            form=f"<{wording.answer}>...</{wording.answer}>",
            casefold=True,
            collapse_whitespace=True,
        )
    if isinstance(config.tasks, sources.StepsTasksConfig):
        rewards["step_similarity"] = _judge(judges.StepSimilarityRewardConfig(kind="step_similarity"))
    for name, judge in config.rewards.items():
        if not isinstance(judge, judges.JudgeRewardConfig):
            rewards[name] = _judge(judge)
        elif reviews is not None and name in reviews:
            rewards[name] = JudgeReward(reviews[name])
        else:
            raise ConfigError(f'rewards.{name}: kind = "judge" answers in a run only; choose another kind here')
    return VerifierRouter(rewards)


def _judge(config: judges.UnaidedRewardConfig) -> Reward:
    match config:
        case judges.ExactRewardConfig():
            return ExactReward(
                pattern=config.pattern,
                form=config.form,
                casefold=config.casefold,
                collapse_whitespace=config.collapse_whitespace,
                match=config.match,
            )
        case judges.MathVerifyRewardConfig():
            return MathVerifyReward(timeout_s=config.timeout_s)
        case judges.FormatRewardConfig():
            return FormatReward(pattern=config.pattern, form=config.form)
        case judges.ReasoningGymRewardConfig():
            return ReasoningGymReward(pattern=config.pattern, form=config.form)
        case judges.ChoiceRewardConfig():
            return ChoiceReward(pattern=config.pattern, form=config.form)
        case judges.StepSimilarityRewardConfig():
            return StepSimilarityReward(**config.model_dump(exclude={"kind"}))
        case judges.ConfidenceRewardConfig():
            return ConfidenceReward(answer=_judge(config.answer), **config.model_dump(exclude={"kind", "answer"}))
        case _:
            assert_never(config)
