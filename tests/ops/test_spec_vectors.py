"""Worked numbers of the channels, T1 to T18 of the directive one, T1 to T20 of the other: which test holds which.

The pair throughout: S = (.50 .25 .15 .07 .03), T = (.10 .60 .05 .20 .05). A row names files under tests/ and their
tests. What the package offers no form of is listed beside it, with the reason.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Literal

import pytest

from critique_rl.critics.consensus import majority

TESTS = Path(__file__).parents[1]
DIVERGENCES, GRADIENTS = "ops/test_divergences.py", "ops/test_divergence_gradients.py"
FUSED, RATIOS, OBJECTIVES = "ops/test_fused_vectors.py", "ops/test_ratios.py", "ops/test_policy_objectives.py"
GAPS, TARGETS, SURROGATE = "ops/test_gaps.py", "ops/test_targets.py", "ops/test_support_surrogate.py"

VECTORS: dict[str, list[tuple[str, str]]] = {
    "T1 the three divergences, whole": [
        (DIVERGENCES, "test_full_divergence"),
        (FUSED, "test_t1_full_divergences"),
    ],
    "T2 the JSD's mixture, truncations, tail": [
        (DIVERGENCES, "test_jsd_mixes_the_teacher_in_by_alpha"),
        (DIVERGENCES, "test_jsd_ends_are_the_two_kls_and_rescaling_keeps_the_scale"),
        (DIVERGENCES, "test_truncated_supports"),
        (DIVERGENCES, "test_a_raw_sum_is_no_divergence"),
        (DIVERGENCES, "test_all_but_one_id_plus_tail_is_the_full_divergence"),
        (DIVERGENCES, "test_whole_vocabulary_has_no_phantom_tail"),
        (FUSED, "test_t2_the_mixture_of_jsd"),
        (FUSED, "test_t2_truncated_supports"),
        ("ops/test_bins.py", "test_mass_and_tail_by_hand"),
        ("ops/test_bins.py", "test_no_mass_left_is_a_floor_and_not_minus_infinity"),
    ],
    "T3 what a gap may be used for": [
        (GRADIENTS, "test_policy_gradient_with_the_gap_as_advantage_is_the_negative_reverse_gradient"),
        (FUSED, "test_t3_what_a_gap_may_be_used_for"),
        (GAPS, "test_as_an_advantage_it_descends_the_reverse_divergence"),
    ],
    "T4 gradients": [
        (GRADIENTS, "test_spec_gradients"),
        (GRADIENTS, "test_renormalised_gradient_leaves_unseen_ids_alone_and_raw_does_not_conserve"),
        (GRADIENTS, "test_worked_joint_step"),
        (FUSED, "test_t4_and_t17_gradients"),
        ("policy/test_step.py", "test_worked_example_of_both_channels_on_one_token"),
    ],
    "T5 the sampled gap and its sum with a reward": [
        (GAPS, "test_by_hand"),
        ("algorithms/test_gap_advantages.py", "test_a_clipped_gap_is_added_to_every_directed_tokens_advantage"),
        ("algorithms/test_gap_advantages.py", "test_the_weight_is_the_gaps"),
        ("ops/test_penalties.py", "test_values_by_hand"),
        ("ops/test_losses.py", "test_a_missing_teacher_is_a_mask_and_never_probability_one"),
        (RATIOS, "test_clipped_surrogate_by_hand"),
    ],
    "T6 per-entry clip of the forward kind": [
        (DIVERGENCES, "test_entry_clip_bounds_each_term_of_the_forward_kind"),
        (GRADIENTS, "test_clipped_entries_stop_pushing"),
        (GRADIENTS, "test_clipped_entries_against_a_plain_loop_and_finite_differences"),
    ],
    "T7 a clipped surrogate per support id": [
        (RATIOS, "test_support_surrogate_of_two_ids_by_hand"),
        (SURROGATE, "test_two_ids_by_hand"),
        (SURROGATE, "test_off_the_old_policy_every_id_has_its_own_ratio"),
        (SURROGATE, "test_both_ids_beyond_the_clip_have_a_loss_and_no_gradient"),
        (SURROGATE, "test_a_wider_gap_clip_lets_the_first_id_say_more"),
        (SURROGATE, "test_four_ids_by_hand"),
        (SURROGATE, "test_one_shared_id_by_hand"),
        (SURROGATE, "test_its_direction_is_not_that_of_the_divergence"),
        ("loop/test_hints.py", "test_the_choice_by_hand"),
        ("stats/test_overlap.py", "test_shared_ids_by_hand"),
    ],
    "T8 denominators": [
        ("ops/test_losses.py", "test_each_channel_divides_by_its_own_tokens"),
        (OBJECTIVES, "test_means_per_sequence_by_hand"),
    ],
    "T9 a missing teacher is a mask": [
        ("ops/test_losses.py", "test_a_missing_teacher_is_a_mask_and_never_probability_one"),
        (GAPS, "test_a_missing_teacher_is_unknown_and_never_praise"),
    ],
    "T10 engine drift": [(RATIOS, "test_engine_drift_kills_exactly_the_gradients_that_agree_with_it")],
    "T11 the teacher's average": [
        ("policy/test_teacher.py", "test_the_average_covers_one_minus_one_minus_rate_to_the_steps"),
        ("policy/test_teacher.py", "test_averaging_the_factors_of_a_product_is_not_averaging_the_product"),
    ],
    "T12 targets between student and teacher": [
        (TARGETS, "test_mixed_is_a_geometric_mean"),
        (TARGETS, "test_clipped_gap_moves_no_id_further_than_the_clip"),
        (TARGETS, "test_the_divergence_to_a_clipped_target_is_a_true_one"),
    ],
    "T13 dense shaping of an advantage": [
        ("ops/test_gaps.py", "test_signed_advantages_by_hand"),
        ("ops/test_gaps.py", "test_certainty_weights_by_hand"),
        ("loop/test_selection.py", "test_the_weight_by_reliance_is_that_of_the_paper"),
    ],
    "T14 group statistics": [
        ("ops/test_advantages.py", "test_group_of_four_by_hand"),
        ("ops/test_advantages.py", "test_no_contrast_teaches_exactly_nothing"),
    ],
    "T15 votes and the importance cap": [
        ("ops/test_spec_vectors.py", "test_t15_votes"),
        (OBJECTIVES, "test_truncated_weights_by_hand"),
    ],
    "T16 overlap, masses, entropy gap": [
        ("ops/test_logprobs.py", "test_overlap_and_masses_on_the_other_sides_top_two"),
        ("ops/test_logprobs.py", "test_entropy_gap_of_teacher_and_student"),
        ("stats/test_overlap.py", "test_each_sides_mass_on_the_others_top_two"),
        ("stats/test_overlap.py", "test_all_ids_or_all_but_one_are_the_whole_vocabulary"),
        ("loop/test_target_figures.py", "test_on_the_students_support_both_sides_are_known"),
        ("loop/test_readings.py", "test_figures_of_a_shared_support"),
    ],
    "T17 closed-form gradients on supports": [
        (GRADIENTS, "test_spec_gradients"),
        (DIVERGENCES, "test_jsd_ends_are_the_two_kls_and_rescaling_keeps_the_scale"),
    ],
    "T18 the centred gap": [
        (DIVERGENCES, "test_centred_gap_has_mean_zero_and_less_variance"),
        (GAPS, "test_the_centred_gap_by_hand"),
        (GAPS, "test_a_centred_gap_has_the_policy_gradient_of_the_plain_one"),
        (
            "algorithms/test_gap_advantages.py",
            "test_a_centred_gap_has_the_divergence_of_both_sides_added_before_the_clip",
        ),
    ],
}

NOT_OFFERED = {
    "T5 the sampled gap and its sum with a reward": "a sum without a gap clip: [distillation] gap_clip is finite",
    "T8 denominators": "one denominator for both losses: it scales the directive gradient by the share of hints",
    "T13 dense shaping of an advantage": "reversed signs and weights by pass rate: no method of the package has them",
    "T15 votes and the importance cap": "a verdict of 0 as a vote, and the process reward: see test_t15_votes",
    "T16 overlap, masses, entropy gap": "the top-K overlap of two sides as a figure of every step: it needs the top K "
    "of both, which only a shared support and a choice of hints pay for; the shared mass of the bins is logged else",
}

PROPERTIES: dict[str, list[tuple[str, str]]] = {
    "shift of logits, sum of gradients, permutation of ids": [
        (GRADIENTS, "test_invariances"),
        (TARGETS, "test_invariances"),
        (SURROGATE, "test_invariances"),
    ],
    "no directive: loss exactly 0, denominators as without": [
        ("algorithms/test_two_channel.py", "test_a_silent_critic_is_plain_grpo_samples_and_gradients_alike"),
        ("algorithms/test_gap_advantages.py", "test_without_directives_it_is_the_method_bit_for_bit"),
        ("policy/test_step.py", "test_denominators_count_tokens_not_signals"),
    ],
    "a teacher that agrees teaches nothing": [
        (GRADIENTS, "test_a_teacher_that_agrees_teaches_nothing"),
        ("policy/test_step.py", "test_a_teacher_equal_to_the_student_teaches_nothing"),
        ("algorithms/test_gap_advantages.py", "test_a_teacher_that_says_what_the_sampler_said_teaches_nothing"),
        (SURROGATE, "test_a_teacher_that_agrees_teaches_nothing"),
    ],
    "K to V is monotone": [(GRADIENTS, "test_tail_bound_grows_with_nested_supports_up_to_the_full_value")],
    "chunks change nothing": [("policy/test_step_reference.py", "test_no_chunk_size_of_the_head_changes_the_gradient")],
    "narrow input, wide sums": [
        (DIVERGENCES, "test_narrow_input_is_reduced_in_float32_and_no_rows_give_no_values"),
        (TARGETS, "test_narrow_input_is_widened_and_no_rows_are_no_targets"),
        (GAPS, "test_narrow_input_is_widened"),
    ],
    "a masked teacher of NaN poisons nothing": [
        ("ops/test_losses.py", "test_a_missing_teacher_row_reaches_no_parameter"),
        ("policy/test_step.py", "test_a_masked_teacher_of_nan_is_as_good_as_none"),
        ("policy/test_surrogate_step.py", "test_a_masked_token_of_nan_moves_nothing"),
        (TARGETS, "test_padding_stays_padding_and_nan_stays_loud"),
    ],
    "the completion's ids are kept": [
        ("loop/test_targets.py", "test_targets_of_other_tokens_are_an_internal_error"),
        (
            "loop/test_targets.py",
            "test_a_real_teacher_scores_the_very_ids_of_a_completion_that_no_encoder_would_give_back",
        ),
    ],
}

ADVANTAGES, LOSSES, CRITIQUE_GRPO = "ops/test_advantages.py", "ops/test_losses.py", "algorithms/test_critique_grpo.py"
REFINEMENTS: dict[str, list[tuple[str, str]]] = {
    "T1 a union of failures and one success": [
        (ADVANTAGES, "test_all_fail_with_one_correct_refinement"),
        (ADVANTAGES, "test_all_fail_with_one_correct_refinement_scaled"),
        (ADVANTAGES, "test_general_all_fail_form"),
        (ADVANTAGES, "test_eight_failures_with_one_correct_and_one_wrong_refinement"),
    ],
    "T2 a union of failures alone": [
        (ADVANTAGES, "test_all_wrong_union_is_exactly_zero"),
        (LOSSES, "test_all_wrong_union_has_no_loss_and_no_gradient"),
    ],
    "T3 partly solved groups": [(ADVANTAGES, "test_partly_solved_groups")],
    "T4 the first turn's baseline": [(ADVANTAGES, "test_first_turn_baseline")],
    "T5 the shaping table": [
        (RATIOS, "test_shaping_table"),
        (RATIOS, "test_shaping_gradient_is_symmetric_about_gamma_and_at_most_a_quarter"),
    ],
    "T6 the objective of seven failures and one refinement": [
        (LOSSES, "test_one_correct_refinement_among_seven_failures"),
        ("policy/test_step.py", "test_seven_failures_and_one_correct_refinement"),
    ],
    "T7 the shaped gradient towards logits": [(RATIOS, "test_shaped_logit_gradient_by_hand")],
    "T8 the printed clip, left out": [(RATIOS, "test_no_clip_on_the_shaped_weight")],
    "T9 micro-batches add up": [
        (LOSSES, "test_six_sequence_losses_average_to_the_same_number_in_any_split"),
        (LOSSES, "test_any_micro_batch_split_gives_the_same_gradient"),
    ],
    "T10 the ratio modes": [
        (RATIOS, "test_gradient_weights_of_the_three_modes"),
        (RATIOS, "test_the_table_of_gradient_weights_on_real_logits"),
        (RATIOS, "test_identical_contexts_give_a_ratio_of_exactly_one"),
        (RATIOS, "test_awr_floor_drops_hopeless_tokens"),
    ],
    "T11 weight by reliance": [("loop/test_selection.py", "test_the_weight_by_reliance_is_that_of_the_paper")],
    "T12 the pace of unsolved prompts": [("schedule/test_anneal.py", "test_the_pace_of_the_data_by_hand")],
    "T13 Mann-Kendall and Sen": [("stats/test_trend.py", "test_mann_kendall_and_sen")],
    "T14 chance that all fail, and its bounds": [
        ("stats/test_intervals.py", "test_bound_inverts_the_chance_that_all_eight_fail"),
        ("stats/test_intervals.py", "test_bound_after_nothing_but_failures"),
    ],
    "T15 exponential mean": [("stats/test_trend.py", "test_ema_by_hand")],
    "T16 order inside a group and of groups": [
        ("algorithms/test_grpo.py", "test_the_order_inside_a_group_does_not_matter"),
        (CRITIQUE_GRPO, "test_no_order_of_groups_or_rollouts_changes_an_advantage"),
    ],
    "T17 without refinements plain GRPO": [(CRITIQUE_GRPO, "test_without_refinements_it_is_grpo_bit_for_bit")],
    "T18 a group with a success is left alone": [("schedule/test_plateau.py", "test_the_modes")],
    "T19 scored under the bare prompt": [
        ("policy/test_step.py", "test_training_sees_the_bare_prompt_and_the_very_completion_ids")
    ],
    "T20 none is not all": [(CRITIQUE_GRPO, "test_none_injected_is_not_a_way_to_say_all")],
}
"""The refinement channel: T1 to T20 (Critique-GRPO, arXiv 2506.03106, its ratio modes, when a critic is asked);
of T11 only the weight, since nothing here ranks hints by how far they are from all right and all wrong."""


@pytest.mark.parametrize("what", [*VECTORS, *PROPERTIES, *REFINEMENTS])
def test_every_number_and_property_has_a_home(what: str) -> None:
    homes = VECTORS.get(what, []) + PROPERTIES.get(what, []) + REFINEMENTS.get(what, [])
    assert homes or what in NOT_OFFERED
    for path, name in homes:
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path} lost {name}"


def test_the_table_is_complete() -> None:
    assert [row.split()[0] for row in VECTORS] == [f"T{n}" for n in range(1, 19)]
    assert [row.split()[0] for row in REFINEMENTS] == [f"T{n}" for n in range(1, 21)]
    assert set(NOT_OFFERED) <= set(VECTORS)


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([1, 1, -1], 1),
        ([1, -1], None),
        ([1, 1, -1, -1, None], None),
        ([None, -1], -1),
        ([None, None], None),
        # where "neutral" counts as a vote this is no verdict; here it is none given, and those who give one decide
        ([1, -1, None], None),
        ([None, None, 1], 1),
    ],
)
def test_t15_votes(votes: list[int | None], verdict: int | None) -> None:
    said: dict[int | None, Literal["correct", "incorrect"] | None] = {1: "correct", -1: "incorrect", None: None}
    assert majority([said[vote] for vote in votes]) == said[verdict]
