"""Tests' variants that take long and whose siblings say nearly the same: file -> test -> variants.

    is_long(node_id) -> bool        then `conftest.py` marks it slow, for `make test-slow`

A variant is a piece of what stands in brackets after the test's name; an empty one means all.
"""

LONG = {
    "equivalence/test_engine_weights.py": {
        "test_an_update_in_any_step_is_told_and_leaves_no_stale_page": ("torch", "step2", "step9"),
        "test_the_same_version_with_other_weights_reuses_nothing": ("torch",),
    },
    "equivalence/test_jump_forward.py": {
        "test_preempted_within_forced_runs_is_uninterrupted": ("torch",),
        "test_what_a_grammar_forces_changes_no_answer": ("torch-{'token_budget': 7",),
    },
    "equivalence/test_speculation.py": {
        "test_the_text_so_far_as_guess_changes_no_answer": ("torch",),
        "test_half_right_guesses_change_no_answer_and_charge_what_was_made": ("torch",),
    },
    "equivalence/test_engine_mixtures.py": {
        "test_in_any_company_and_any_cut_the_answer_is_the_one_alone": (
            "'page_size': 4}-torch",
            "'page_size': 16}-torch",
            "'token_budget': 5}-torch",
            "'prefix_cache': False}-torch",
            "'max_running': 1}-torch",
        ),
    },
    "equivalence/test_tier.py": {
        "test_copies_back_that_take_several_steps_change_no_answer": ("torch",),
        "test_answers_are_those_without_it": ("settings1-torch", "settings2-torch")
        + ("settings3-torch", "settings4-torch", "settings6-torch"),
    },
    "equivalence/test_kernels_triton.py": {
        "test_adapters_of_mixed_ranks": ("dtype1",),
        "test_attention_of_decodes": ("None-dtype1",),
        "test_attention_of_chunks": ("None-dtype1",),
    },
    "integration/test_asynchronous.py": {
        "test_a_round_is_resumed_to_the_bit": ("one_step_off",),
        "test_a_crash_between_any_two_parts_of_a_step_loses_and_doubles_nothing": (
            *("one_step_off-rows", "one_step_off-checkpoint", "one_step_off-journal"),
            *("asynchronous-update", "asynchronous-checkpoint"),
        ),
    },
    "integration/test_bench_serving.py": {
        "test_two_servers_are_compared": ("",),
        "test_a_running_server_answers_each_kind_of_workload": (
            *("vtc-overload", "slora-uniform", "sglang-json", "single"),
        ),
    },
    "integration/test_load.py": {
        "test_two_servers_take_turns_and_are_compared_pair_by_pair": ("",),
    },
    "integration/test_program_shapes.py": {
        "test_ours_finds_the_optimum_and_every_way_says_the_same": (
            *("agents", "tree_of_thought", "skeleton", "branch_solve_merge", "multi_turn_long"),
        ),
    },
    "integration/test_sft.py": {
        "test_killed_at_any_step_it_goes_on_to_the_same_bits": ("full",),
    },
    "integration/test_tuning_search.py": {
        "test_a_bad_start_is_improved_threefold": ("-5",),
    },
    "properties/test_adapter_memory.py": {
        "test_a_planted_bug_is_found": ("LetsACopyWriteAfterItsPagesAreGone",),
    },
    "properties/test_thought_buffer_file.py": {
        "test_a_kill_between_any_two_statements_leaves_before_or_after": (
            *("replace", "load", "merge", "rebuild", "retire"),
        ),
    },
    "properties/test_tier_states.py": {
        "test_a_planted_bug_is_found": ("CountsEachAlone",),
    },
    "properties/test_fairness.py": {
        "test_shares_follow_the_weights": ("Vtc",),
        "test_dlpm_keeps_tenants_within_its_own_bound_and_its_deficits_in_range": ("mean",),
    },
    "unit/bench/test_fairness_bench.py": {
        "test_the_whole_bench_tells_its_figures": ("",),
    },
    "unit/bench/test_simulated_fairness.py": {
        "test_a_measured_cost_is_shared_as_fairly_as_tokens_are": ("",),
        "test_knowing_lengths_removes_the_oscillation": ("",),
        "test_the_arena_s_spread_of_service_is_the_published_one": ("",),
    },
    "unit/bench/test_simulated_slora.py": {
        "test_dropping_the_late_and_small_areas_first_beat_the_paper_s_admission": ("",),
        "test_throughput_is_within_a_tenth_of_the_published": (
            "a100-80-7b static r64 n=200 R=10 fcfs",
            "a100-80-7b r64 n=200 R=10 fcfs",
        ),
        "test_better_kernels_reach_what_their_constants_promise": ("",),
    },
    "unit/envs/test_tasks.py": {
        "test_splits_are_disjoint_and_repeatable": ("checkmate-in-one",),
    },
    "unit/kernels/test_triton_compiles.py": {
        "test_what_a_call_launches_compiles_and_fits": ("",),
    },
    "unit/reasoning/test_s_star_bench.py": {
        "test_rivals_get_at_least_the_budget_of_s_star": ("",),
        "test_figures_fit_together_and_come_out_alike": ("",),
    },
    "unit/train/test_checkpoint_faults.py": {
        "test_a_kill_at_any_call_leaves_a_whole_checkpoint": ("new-within", "redone"),
    },
    "integration/test_server_replicas.py": {
        "test_without_a_living_replica_requests_are_refused_until_there_is_one": ("",),
    },
    "integration/test_algorithms_run.py": {
        "test_an_update_changes_the_policy_and_micro_batches_do_not_change_it": (
            *("loss sapo", "loss dual_clip", "loss kl_cov", "loss clip_cov", "loss cispo"),
            *("advantage maxrl", "advantage dr_grpo", "constant", "overlong", "normalized"),
        ),
    },
    "integration/test_soak.py": {
        "test_a_server_stays_whole": ("15",),
    },
    "integration/test_ranks.py": {
        "test_no_rank_outlives_the_engine": ("ctrl-c",),
    },
    "integration/test_injected_faults.py": {
        "test_the_statistics_are_those_of_a_run_without_faults": ("train", "drop", "one step off"),
        "test_200_faults_are_accounted_for": ("fresh", "one step off"),
    },
    "integration/test_server_faults.py": {
        "test_two_thousand_connections_at_once_are_all_answered": ("",),
    },
    "equivalence/test_tensor_parallel.py": {
        "test_savings_change_only_cost": ("token_budget",),
    },
    "properties/test_ageing.py": {
        "test_passes_are_bounded": ("dlpm",),
    },
    "unit/bench/test_workload.py": {
        "test_equal_seeds_give_equal_work_and_others_do_not": (
            "overload_512",
            "overload_768",
            "poisson_short_long",
            "on_off_overload",
        ),
    },
    "unit/reasoning/test_s_star_stages.py": {
        "test_two_runs_are_equal_to_the_bit": ("public_majority", "random"),
    },
}


def is_long(node_id: str) -> bool:
    path, _, name = node_id.removeprefix("tests/").partition("::")
    test, _, variant = name.partition("[")
    return any(one in variant for one in LONG.get(path, {}).get(test, ()))
