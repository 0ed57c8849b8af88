/* SPDX-License-Identifier: MIT */
#include "random_net.h"

#include <math.h>

#include "net/graph.h"

static random_net fixture;

static void open_net(int kind)
{
    random_net_open(kind, 100, &fixture);
}

static void close_net(void)
{
    random_net_close(&fixture);
}

static void assert_param(size_t index, const float *wanted)
{
    size_t size =
        (size_t)ser_param_elements(&ser_net_params(fixture.net)->list[index]) * sizeof(float);
    float *got = malloc(size);
    assert_ok(ser_net_get(fixture.net, index, got));
    ck_assert_msg(memcmp(got, wanted, size) == 0, "%s differs",
                  ser_net_params(fixture.net)->list[index].name);
    free(got);
}

START_TEST(get_returns_what_was_set)
{
    open_net(_i);
    for (size_t i = 0; i < ser_net_params(fixture.net)->count; i++) {
        float *wanted = random_param(fixture.net, i, 100 + i);
        assert_param(i, wanted);
        free(wanted);
    }
    close_net();
}
END_TEST

START_TEST(one_of_q_k_v_can_change_alone)
{
    open_net(NET_BASE);
    size_t q = random_find(fixture.net, SER_PARAM_Q_WEIGHT, 1);
    size_t k = random_find(fixture.net, SER_PARAM_K_WEIGHT, 1);
    float *old_q = random_param(fixture.net, q, 100 + q);
    float *new_k = random_param(fixture.net, k, 7);
    assert_ok(ser_net_set(fixture.net, k, new_k));
    assert_param(k, new_k);
    assert_param(q, old_q);
    free(old_q);
    free(new_k);
    close_net();
}
END_TEST

START_TEST(get_before_all_of_q_k_v_are_there)
{
    ser_arch arch = random_arch(NET_BASE);
    random_net_create(&arch, &fixture);
    size_t k = random_find(fixture.net, SER_PARAM_K_WEIGHT, 0);
    size_t q = random_find(fixture.net, SER_PARAM_Q_WEIGHT, 0);
    float *wanted = random_param(fixture.net, k, 7);
    assert_ok(ser_net_set(fixture.net, k, wanted));
    assert_param(k, wanted);
    assert_fails(ser_net_get(fixture.net, q, wanted), SER_ERR_INTERNAL,
                 "q_proj.weight was never set");
    free(wanted);
    random_net_close(&fixture);
}
END_TEST

START_TEST(finish_wants_every_parameter)
{
    ser_arch arch = random_arch(NET_LOGMEL);
    random_net_create(&arch, &fixture);
    for (size_t i = 1; i < ser_net_params(fixture.net)->count; i++) {
        float *values = random_param(fixture.net, i, i);
        assert_ok(ser_net_set(fixture.net, i, values));
        free(values);
    }
    assert_fails(ser_net_finish(fixture.net), SER_ERR_INTERNAL, "mel.mean was never set");
    assert_fails(ser_net_set(fixture.net, 10000, NULL), SER_ERR_INTERNAL, "no parameter 10000");
    assert_fails(ser_net_get(fixture.net, 10000, NULL), SER_ERR_INTERNAL, "no parameter 10000");
    random_net_close(&fixture);
}
END_TEST

static float *unpack(ser_weight *weight)
{
    const ser_weight_spec *spec = ser_weight_get_spec(weight);
    float *values = malloc((size_t)(spec->rows * spec->cols * spec->groups) * sizeof *values);
    assert_ok(ser_cpu_ops.weight_get(fixture.net->transfer->queue, weight, values));
    return values;
}

START_TEST(weight_norm_is_folded_per_tap)
{
    open_net(NET_BASE);
    size_t index = random_find(fixture.net, SER_PARAM_POSITION_V, 0);
    const int64_t *shape = ser_net_params(fixture.net)->list[index].shape;
    float *v = random_param(fixture.net, index, 100 + index);
    size_t g_index = random_find(fixture.net, SER_PARAM_POSITION_G, 0);
    float *g = random_param(fixture.net, g_index, 100 + g_index);
    float *w = unpack(fixture.net->position.w);
    for (int64_t k = 0; k < shape[2]; k++) {
        double sum = 0.0;
        for (int64_t j = 0; j < shape[0] * shape[1]; j++) {
            sum += (double)v[j * shape[2] + k] * (double)v[j * shape[2] + k];
        }
        for (int64_t o = 0; o < shape[0]; o++) {
            for (int64_t i = 0; i < shape[1]; i++) {
                double wanted =
                    (double)g[k] * (double)v[(o * shape[1] + i) * shape[2] + k] / sqrt(sum);
                double got = (double)w[(o * shape[2] + k) * shape[1] + i];
                ck_assert_double_eq_tol(got, wanted, 1e-7);
            }
        }
    }
    free(v);
    free(g);
    free(w);
    close_net();
}
END_TEST

START_TEST(mel_matrices_follow_their_formulas)
{
    open_net(NET_LOGMEL);
    const ser_mel_arch *mel = &fixture.net->arch.mel;
    float *dft = unpack(fixture.net->dft);
    const double tau = 6.28318530717958647693;
    const int half = mel->frame / 2;
    for (int f = 0; f <= mel->fft / 2; f += 37) {
        for (int n = 1; n <= half; n += 11) {
            double window = 0.5 - 0.5 * cos(tau * n / mel->frame);
            double phase = tau * f * (n - mel->frame / 2.0) / mel->fft;
            float c = dft[f * half + n - 1];
            float s = dft[(mel->fft / 2 + 1 + f) * half + n - 1];
            ck_assert_double_eq_tol((double)c, window * cos(phase), 1e-7);
            ck_assert_double_eq_tol((double)s, window * sin(phase), 1e-7);
        }
    }
    float *triangles = unpack(fixture.net->mel);
    int freqs = mel->fft / 2 + 1;
    for (int b = 0; b < mel->bins; b++) { /* rise, fall, and nothing else; about peak 1 */
        float peak = 0.0F;
        int turns = 0;
        for (int f = 1; f < freqs; f++) {
            const float *t = triangles + b * freqs;
            ck_assert_float_ge(t[f], 0.0F);
            peak = t[f] > peak ? t[f] : peak;
            turns += f > 1 && t[f - 1] > t[f - 2] && t[f] <= t[f - 1];
        }
        ck_assert_int_eq(turns, 1);
        ck_assert_float_le(peak, 1.0F);
        ck_assert_float_ge(peak, 0.5F);
    }
    /* bin 0 rises from 60 Hz: HTK mel(60) and mel(7600), 15 steps between them */
    double low = 2595.0 * log10(1.0 + 60.0 / 700.0);
    double step = (2595.0 * log10(1.0 + 7600.0 / 700.0) - low) / 15.0;
    double centre = 700.0 * (pow(10.0, (low + step) / 2595.0) - 1.0);
    ck_assert_double_eq_tol((double)triangles[3], (3.0 * 31.25 - 60.0) / (centre - 60.0), 1e-6);
    ck_assert_float_eq(triangles[1], 0.0F);
    free(triangles);
    free(dft);
    close_net();
}
END_TEST

START_TEST(create_refuses_what_the_ops_cannot_do)
{
    ser_net *net = NULL;
    ser_arch arch = random_arch(NET_BASE);
    arch.conv_padding[0] = 1;
    assert_fails(ser_net_create(&ser_cpu_ops, NULL, 1, &arch, SER_F32, &net), SER_ERR_UNSUPPORTED,
                 "conv_padding");
    arch = random_arch(NET_LOGMEL);
    arch.conv_norm = SER_NORM_GROUP;
    assert_fails(ser_net_create(&ser_cpu_ops, NULL, 1, &arch, SER_F32, &net), SER_ERR_UNSUPPORTED,
                 "features.norm");
    arch.conv_count = 0;
    assert_fails(ser_net_create(&ser_cpu_ops, NULL, 1, &arch, SER_F32, &net), SER_ERR_UNSUPPORTED,
                 "conv_dim");
    ck_assert_ptr_null(net);
}
END_TEST

/* The op that folds the group norm holds a patch of the waveform of that length. */
START_TEST(group_norm_limits_the_first_kernel)
{
    ser_net *net = NULL;
    ser_arch arch = random_arch(NET_BASE);
    ck_assert_int_eq(arch.conv_norm, SER_NORM_GROUP);
    arch.conv_kernel[0] = SER_MAX_WAVE_KERNEL + 1;
    assert_fails(ser_net_create(&ser_cpu_ops, NULL, 1, &arch, SER_F32, &net), SER_ERR_UNSUPPORTED,
                 "features.conv_kernel: the first is 65, limit 64 with group norm");
    ck_assert_ptr_null(net);
    arch.conv_kernel[0] = SER_MAX_WAVE_KERNEL;
    random_net_create(&arch, &fixture);
    close_net();
    arch.conv_kernel[0] = SER_MAX_WAVE_KERNEL + 1;
    arch.conv_norm = SER_NORM_LAYER;
    random_net_create(&arch, &fixture);
    close_net();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("weights");
    TCase *tc = tcase_create("weights");
    tcase_add_loop_test(tc, get_returns_what_was_set, 0, NET_KINDS);
    tcase_add_test(tc, one_of_q_k_v_can_change_alone);
    tcase_add_test(tc, get_before_all_of_q_k_v_are_there);
    tcase_add_test(tc, finish_wants_every_parameter);
    tcase_add_test(tc, weight_norm_is_folded_per_tap);
    tcase_add_test(tc, mel_matrices_follow_their_formulas);
    tcase_add_test(tc, create_refuses_what_the_ops_cannot_do);
    tcase_add_test(tc, group_norm_limits_the_first_kernel);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
