/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>

#include "random_net.h"
#include "train/groups.h"

enum { MOST = 128 };

static ser_arch arch;
static ser_params params;
static ser_trainer_options options;
static float rates[MOST], decays[MOST];

static void use(int kind)
{
    ser_params_clear(&params);
    arch = random_arch(kind);
    assert_ok(ser_params_plan(&arch, &params));
    ck_assert_uint_le(params.count, MOST);
}

static void setup(void)
{
    ser_trainer_options_init(&options, sizeof options);
    options.rate = 0.5F;
    options.weight_decay = 0.25F;
    use(NET_BASE);
}

static void teardown(void)
{
    ser_params_clear(&params);
    ck_assert_int_eq(ser_mem_live(), 0);
}

static int plan(void)
{
    return ser_groups_plan(&arch, &params, &options, rates, decays);
}

static size_t find(const char *name)
{
    for (size_t i = 0; i < params.count; i++) {
        if (strcmp(params.list[i].name, name) == 0) {
            return i;
        }
    }
    ck_abort_msg("no parameter %s", name);
    return 0;
}

#define BLOCKS "wav2vec2.encoder.layers."
#define CONVS  "wav2vec2.feature_extractor.conv_layers."

static double rate(const char *name)
{
    return (double)rates[find(name)];
}

START_TEST(everything_but_the_convolutions_by_default)
{
    assert_ok(plan());
    ck_assert_double_eq(rate(CONVS "0.conv.weight"), 0.0);
    ck_assert_double_eq(rate(CONVS "0.layer_norm.bias"), 0.0);
    ck_assert_double_eq(rate(CONVS "6.conv.weight"), 0.0);
    for (size_t i = 0; i < params.count; i++) {
        bool conv = strncmp(params.list[i].name, CONVS, strlen(CONVS)) == 0;
        ck_assert_double_eq((double)rates[i], conv ? 0.0 : 0.5);
    }
    options.freeze_features = 0;
    assert_ok(plan());
    ck_assert_double_eq(rate(CONVS "0.conv.weight"), 0.5);
}
END_TEST

START_TEST(log_mel_models_train_their_convolutions_but_no_statistics)
{
    use(NET_LOGMEL);
    assert_ok(plan());
    ck_assert_double_eq(rate(CONVS "0.conv.weight"), 0.5);
    ck_assert_double_eq(rate("wav2vec2.feature_extractor.mel.mean"), 0.0);
    ck_assert_double_eq(rate("wav2vec2.feature_extractor.mel.std"), 0.0);
}
END_TEST

START_TEST(the_head_has_its_own_rate)
{
    options.head_rate = 0.75F;
    assert_ok(plan());
    for (size_t i = 0; i < params.count; i++) {
        ck_assert(!params.list[i].head || rates[i] == 0.75F);
    }
    ck_assert_double_eq(rate(BLOCKS "0.layer_norm.weight"), 0.5);
    options.rate = 0.0F;
    assert_ok(plan());
    ck_assert_double_eq(rate(BLOCKS "0.layer_norm.weight"), 0.0);
    ck_assert_double_eq(rate("classifier.2.bias"), 0.75);
}
END_TEST

START_TEST(rates_fall_from_the_top_block_down)
{
    use(NET_LARGE); /* three blocks, pre-norm */
    options.layer_decay = 0.5F;
    options.freeze_features = 0;
    assert_ok(plan());
    ck_assert_double_eq(rate("classifier.0.weight"), 0.5);
    ck_assert_double_eq(rate("layer_mix.weight"), 0.5);
    ck_assert_double_eq(rate("wav2vec2.encoder.layer_norm.weight"), 0.5); /* above the top block */
    ck_assert_double_eq(rate(BLOCKS "2.attention.q_proj.weight"), 0.5);
    ck_assert_double_eq(rate(BLOCKS "1.final_layer_norm.bias"), 0.25);
    ck_assert_double_eq(rate(BLOCKS "0.feed_forward.output_dense.bias"), 0.125);
    const char *below[] = {CONVS "3.conv.bias", "wav2vec2.feature_projection.projection.weight",
                           "wav2vec2.feature_projection.layer_norm.weight",
                           "wav2vec2.encoder.pos_conv_embed.conv.weight_v"};
    for (size_t i = 0; i < 4; i++) {
        ck_assert_double_eq(rate(below[i]), 0.0625);
    }
    use(NET_BASE); /* two blocks, post-norm */
    assert_ok(plan());
    ck_assert_double_eq(rate("wav2vec2.encoder.layer_norm.weight"), 0.125);
    ck_assert_double_eq(rate(BLOCKS "1.layer_norm.weight"), 0.5);
}
END_TEST

START_TEST(matrices_alone_decay)
{
    use(NET_LARGE);
    options.freeze_features = 0;
    assert_ok(plan());
    for (size_t i = 0; i < params.count; i++) {
        const ser_param *p = &params.list[i];
        bool matrix = p->rank >= 2 && p->role != SER_PARAM_POSITION_G;
        ck_assert_msg(decays[i] == (matrix ? 0.25F : 0.0F), "%s", p->name);
    }
    ck_assert_double_eq((double)decays[find("layer_mix.weight")], 0.0);
    ck_assert_double_eq((double)decays[find("wav2vec2.encoder.pos_conv_embed.conv.weight_g")], 0.0);
    ck_assert_double_eq((double)decays[find("wav2vec2.encoder.pos_conv_embed.conv.weight_v")],
                        0.25);
    ck_assert_double_eq((double)decays[find("classifier.0.bias")], 0.0);
}
END_TEST

START_TEST(freezing_by_depth)
{
    options.freeze_features = 0;
    options.freeze_layers = 1;
    assert_ok(plan());
    const char *frozen[] = {CONVS "0.conv.weight", "wav2vec2.feature_projection.projection.bias",
                            "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
                            "wav2vec2.encoder.layer_norm.weight", BLOCKS "0.layer_norm.weight"};
    for (size_t i = 0; i < 5; i++) {
        ck_assert_double_eq(rate(frozen[i]), 0.0);
    }
    ck_assert_double_eq(rate(BLOCKS "1.layer_norm.weight"), 0.5);
    options.freeze_layers = -1;
    assert_ok(plan());
    for (size_t i = 0; i < params.count; i++) {
        ck_assert_double_eq((double)rates[i], params.list[i].head ? 0.5 : 0.0);
    }
    options.freeze_layers = 3;
    assert_fails(plan(), SER_ERR_ARGUMENT, "freeze_layers is 3, the model has 2 blocks");
    use(NET_LARGE); /* pre-norm: the last norm is above all blocks but the top one */
    options.freeze_layers = 2;
    assert_ok(plan());
    ck_assert_double_eq(rate("wav2vec2.encoder.layer_norm.weight"), 0.5);
    ck_assert_double_eq(rate(BLOCKS "1.layer_norm.weight"), 0.0);
}
END_TEST

START_TEST(freezing_by_name)
{
    options.freeze = BLOCKS "?.attention.*, classifier.0.bias ,pooling.*";
    assert_ok(plan());
    ck_assert_double_eq(rate(BLOCKS "1.attention.k_proj.bias"), 0.0);
    ck_assert_double_eq(rate(BLOCKS "1.layer_norm.bias"), 0.5);
    ck_assert_double_eq(rate("classifier.0.bias"), 0.0);
    ck_assert_double_eq(rate("classifier.0.weight"), 0.5);
    ck_assert_double_eq(rate("pooling.score.weight"), 0.0);
    options.freeze = "";
    assert_ok(plan());
    options.freeze = "pooling.*,encoder.nothing";
    assert_fails(plan(), SER_ERR_ARGUMENT, "\"encoder.nothing\" matches no parameter");
    options.freeze = "pooling.*,";
    assert_fails(plan(), SER_ERR_ARGUMENT, "\"\" matches no parameter");
}
END_TEST

START_TEST(something_must_be_left)
{
    options.freeze = "*";
    assert_fails(plan(), SER_ERR_ARGUMENT, "nothing is left to train");
    options.freeze = NULL;
    options.rate = 0.0F;
    assert_fails(plan(), SER_ERR_ARGUMENT, "nothing is left to train");
}
END_TEST

START_TEST(patterns)
{
    static const struct {
        const char *name, *pattern;
        bool matches;
    } cases[] = {
        {"abc", "abc", true},      {"abc", "ab", false},      {"abc", "abcd", false},
        {"abc", "a?c", true},      {"abc", "a?", false},      {"abc", "*", true},
        {"abc", "a*", true},       {"abc", "*c", true},       {"abc", "*b*", true},
        {"abc", "*d*", false},     {"abc", "a**c", true},     {"abcbc", "a*bc", true},
        {"aaaab", "*a*a*b", true}, {"aaaa", "*a*a*b", false}, {"", "*", true},
        {"", "?", false},          {"a", "", false},          {"", "", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool got = ser_pattern_matches(cases[i].name, cases[i].pattern, strlen(cases[i].pattern));
        ck_assert_msg(got == cases[i].matches, "%s %s", cases[i].name, cases[i].pattern);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("groups");
    TCase *tc = tcase_create("groups");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, everything_but_the_convolutions_by_default);
    tcase_add_test(tc, log_mel_models_train_their_convolutions_but_no_statistics);
    tcase_add_test(tc, the_head_has_its_own_rate);
    tcase_add_test(tc, rates_fall_from_the_top_block_down);
    tcase_add_test(tc, matrices_alone_decay);
    tcase_add_test(tc, freezing_by_depth);
    tcase_add_test(tc, freezing_by_name);
    tcase_add_test(tc, something_must_be_left);
    tcase_add_test(tc, patterns);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
