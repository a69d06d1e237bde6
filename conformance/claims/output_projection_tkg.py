"""Promises of the page "Output Projection TKG Kernel API Reference"."""

from conformance.claims.claim import COMPILER, EVERY_BIT, EVERY_CONFIG, SPEED, Claim, Page

_MODEL = "test_output_projection_model::"
_CONTRACT = "test_output_projection_contract::"

PAGE = Page(
    "output_projection_tkg",
    "Output Projection TKG Kernel API Reference",
    (
        Claim(
            "Background",
            "out = attention @ weight + bias",
            (_MODEL + "test_truth_is_the_plain_formula_in_float64", EVERY_BIT, EVERY_CONFIG),
        ),
        Claim(
            "Background",
            "with LNC > 1 the cores share H, and no core needs another's part",
            (
                _MODEL + "test_each_core_adds_its_own_part_of_the_bias_op3",
                _MODEL + "test_the_number_of_cores_changes_no_bit_of_the_plain_result",
                "test_all_kernels::test_two_cores_give_the_same_bits_under_other_interleavings",
            ),
        ),
        Claim(
            "API",
            "arguments attention, weight, bias, TRANSPOSE_OUT, OUT_IN_SB in this order",
            (
                _CONTRACT + "test_signature_keeps_the_published_order_and_appends_quantization",
                _CONTRACT + "test_shifted_positional_arguments_are_refused_op21",
            ),
        ),
        Claim("API", "attention is [D, B, N, S] in HBM or SBUF, index [d, b, n, s]", (EVERY_BIT, EVERY_CONFIG)),
        Claim(
            "API",
            "weight is [N*D, H], index [n*D + d, h]",
            (
                _MODEL + "test_every_head_meets_its_own_weights_op5_op6_op7",
                _MODEL + "test_heads_are_packed_as_the_contract_says_op6",
            ),
        ),
        Claim(
            "API",
            "bias is optional, [1, H]",
            (
                _MODEL + "test_every_token_row_gets_the_bias_op4",
                _MODEL + "test_each_core_adds_its_own_part_of_the_bias_op3",
            ),
        ),
        Claim(
            "API",
            "without TRANSPOSE_OUT the result is [B*S, H], index [b*S + s, h]",
            (_MODEL + "test_result_has_the_shape_of_the_contract_and_attention_dtype_op19", EVERY_BIT),
        ),
        Claim(
            "API",
            "with TRANSPOSE_OUT it is [128, LNC, H/(128 LNC), B*S], h = h_0*H_1*H_2 + h_1*H_2 + h_2",
            (_MODEL + "test_transposed_result_holds_consecutive_hidden_indices_per_partition_op1_op2",),
            decided="the page calls H_0 the core and H_1 = 128, and writes the shape [H_1, H_0, H_2, B*S]",
        ),
        Claim("API", "OUT_IN_SB leaves the result in SBUF, else it goes to HBM", (EVERY_BIT, EVERY_CONFIG)),
        Claim(
            "Data types",
            "float32, float16 and bfloat16",
            (EVERY_BIT, _MODEL + "test_result_has_the_shape_of_the_contract_and_attention_dtype_op19"),
            ("attention_dtype", "weight_dtype", "bias_dtype"),
        ),
        Claim("Restrictions", "N*D is the number of rows of weight",
              (_CONTRACT + "test_every_rule_about_calls_has_an_edge",)),
        Claim("Restrictions", "H is divisible by LNC", rules=("h_multiple_of_lnc",)),
        Claim(
            "Restrictions", "B*S is at most 128",
            (_CONTRACT + "test_limit_accepts_its_edge_and_refuses_the_next_step_op22",), ("tokens_at_most_128",),
        ),
        Claim(
            "Restrictions", "D is at most 128",
            (_CONTRACT + "test_limit_accepts_its_edge_and_refuses_the_next_step_op22",), ("head_size_at_most_128",),
        ),
        Claim(
            "Restrictions", "without TRANSPOSE_OUT, H is a multiple of 512*LNC",
            (_CONTRACT + "test_limit_accepts_its_edge_and_refuses_the_next_step_op22",), ("h_multiple_of_512_lnc",),
        ),
        Claim(
            "Restrictions", "with TRANSPOSE_OUT, H is a multiple of 128*LNC",
            (_CONTRACT + "test_limit_accepts_its_edge_and_refuses_the_next_step_op22",), ("h_multiple_of_128_lnc",),
        ),
        Claim(
            "Restrictions", "with TRANSPOSE_OUT, N*H is at most 81920 for 32-bit floats and 163840 for 16-bit floats",
            (_CONTRACT + "test_limit_accepts_its_edge_and_refuses_the_next_step_op22",), ("nh_limit",),
        ),
        Claim(
            "Implementation", "N is folded into D where that fills the contraction better",
            (
                _MODEL + "test_packing_follows_the_published_search_for_every_legal_head_size",
                _MODEL + "test_packed_heads_share_one_pass",
            ),
        ),
        Claim("Implementation", "tiles, memory access and block-wise weights for bandwidth", open=SPEED),
        Claim(
            "Implementation", "partial results accumulate in PSUM banks",
            (
                _MODEL + "test_every_recorded_value_has_the_bits_of_the_rounding_point_table",
                _MODEL + "test_the_last_psum_tile_holds_the_rest_of_h2_op8",
            ),
        ),
        Claim(
            "Implementation", "the bias reaches every partition by a shuffle",
            (_MODEL + "test_every_token_row_gets_the_bias_op4", EVERY_BIT),
        ),
        Claim("Implementation", "weights are loaded in blocks that the compiler can prefetch", open=COMPILER),
    ),
)  # fmt: skip
