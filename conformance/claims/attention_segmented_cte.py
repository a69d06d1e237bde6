"""Promises of the page "Attention Segmented CTE Kernel API Reference"."""

from conformance.claims.claim import EVERY_BIT, EVERY_CONFIG, Claim, Page

_MODEL = "test_segmented_model::"
_KERNEL = "test_segmented_kernel::"
_DEFECTS = "test_segmented_defects::"

PAGE = Page(
    "attention_segmented_cte",
    "Attention Segmented CTE Kernel API Reference",
    (
        Claim(
            "Background", "the cache is processed in segments of configurable size",
            (_MODEL + "test_the_length_of_segments_changes_rounding_only",
             _KERNEL + "test_b13_a_rounded_reciprocal_loses_no_segment"),
        ),
        Claim(
            "Background", "the cache lies in blocks, found through page tables",
            (_KERNEL + "test_permuted_pages_unread_blocks_and_a_wider_table_change_no_bit",
             _MODEL + "test_permuting_blocks_with_the_cache_changes_no_bit"),
        ),
        Claim(
            "Background", "a cached prefix is attended before the chunk",
            (_MODEL + "test_truth_is_plain_softmax_attention", _KERNEL + "test_b8_the_prior_is_attended_once",
             _MODEL + "test_one_chunk_and_several_over_a_growing_cache_differ_by_rounding_only"),
        ),
        Claim(
            "floor_nisa_kernel", "float32 to int32, the largest integer not above",
            ("test_floor_ceil_model::test_every_bfloat16_code_has_the_floor_of_its_exact_value",
             _KERNEL + "test_every_bfloat16_is_rounded_as_python_does",
             _KERNEL + "test_float32_near_integers_and_halves_is_rounded_as_python_does"),
        ),
        Claim(
            "ceil_nisa_kernel", "float32 to int32, the smallest integer not below",
            ("test_floor_ceil_model::test_every_bfloat16_code_has_the_ceiling_of_its_exact_value",
             _KERNEL + "test_every_bfloat16_is_rounded_as_python_does"),
        ),
        Claim(
            "load_kv_cache", "loads the blocks of one KV head, from the table entry that block_table_offset names",
            (_KERNEL + "test_every_token_of_a_block_has_its_place_and_all_others_are_zero",
             _KERNEL + "test_the_offset_of_a_load_may_be_unsigned",
             _DEFECTS + "test_b11_rows_do_not_share_a_table_offset"),
        ),
        Claim(
            "load_kv_cache", "k_pre_transposed keys need no transpose and give the same tiles",
            (_KERNEL + "test_layouts_change_no_bit",
             _MODEL + "test_layouts_of_queries_keys_and_result_change_no_bit"),
        ),
        Claim(
            "load_kv_cache", "temporaries come from the allocator and go back to it",
            (_KERNEL + "test_helpers_leave_an_allocator_where_it_was",
             _KERNEL + "test_b9_tiles_at_addresses_of_their_own_share_no_bytes_while_they_are_read"),
        ),
        Claim("API", "q is (batch, seqlen, d) with tp_q; tp_out turns the result",
              (_KERNEL + "test_layouts_change_no_bit", _DEFECTS + "test_results_come_in_the_callers_layout")),
        Claim(
            "API", "the table may hold -1 for padding, which is skipped",
            (_DEFECTS + "test_b14_entries_behind_the_tokens_may_be_skipped_or_anything",
             _KERNEL + "test_b14_a_skipped_page_behind_the_tokens_is_zeros",
             _MODEL + "test_skipped_pages_of_padding_reach_padding_only"),
        ),
        Claim("API", "prior_tokens is (1, 1) and a multiple of block_size",
              (_MODEL + "test_an_illegal_call_is_refused_by_its_rule",)),
        Claim("API", "block_size and prior_seg_size cut cache and loop", (EVERY_CONFIG,),
              ("block_size", "segment", "segment_limit")),
        Claim("API", "scale multiplies the scores", (EVERY_BIT, _MODEL + "test_truth_is_plain_softmax_attention"),
              ("scale",)),
        Claim(
            "API", "sliding_window bounds what a query sees",
            (_MODEL + "test_a_window_over_everything_equals_none_up_to_rounding",
             _DEFECTS + "test_b16_a_table_narrower_than_the_window"), ("window", "window_limit", "window_kvp"),
        ),
        Claim(
            "API", "a sink takes part in every row's softmax, once, by head",
            (_KERNEL + "test_b1_the_sink_counts_once_whatever_the_prior",
             _KERNEL + "test_b3_every_row_has_its_own_sink"),
        ),
        Claim("API", "num_q_heads query heads share the KV heads",
              (EVERY_CONFIG, _KERNEL + "test_rows_share_a_pass_only_where_they_meet_the_same_keys_and_fit"),
              ("heads",)),
        Claim(
            "API", "kvp_offset places this rank's keys in a divided cache",
            (_MODEL + "test_ranks_of_a_divided_cache_join_to_the_whole",
             _DEFECTS + "test_b12_an_offset_of_the_prior_adds_no_zero_scores"),
        ),
        Claim(
            "API", "k_scale (128, 1) multiplies Q before the scores, so keys are dequantised late",
            (_DEFECTS + "test_b5_k_scale_acts_in_the_partial_segment",
             _MODEL + "test_k_scale_of_a_power_of_two_equals_scaled_queries"),
        ),
        Claim(
            "API", "v_scale (128, 1) multiplies the normalised result, per head dimension",
            (_DEFECTS + "test_b7_v_scale_runs_along_the_head_dim", _KERNEL + "test_b7_v_scale_runs_along_the_head"),
        ),
        Claim("Note", "for Trn2 and Trn3", (EVERY_BIT,), decided="every legal case runs on generation 3"),
    ),
)  # fmt: skip
