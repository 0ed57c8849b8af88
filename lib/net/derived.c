/* SPDX-License-Identifier: MIT */
/* Matrices that follow from the parameters or the configuration: folded weight norm, log-mel
 * analysis. */
#include "net/graph.h"

#include <math.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

static const double pi = 3.14159265358979323846;

int ser_net_place_derived(ser_net *net)
{
    const ser_arch *arch = &net->arch;
    int64_t width = arch->hidden_size / arch->position_groups;
    ser_weight_spec position = {
        .rows = width, .cols = arch->position_kernel * width, .groups = arch->position_groups};
    int status = net->ops->weight_create(net->context, &position, &net->position.w);
    if (status != 0 || arch->features != SER_FEATURES_LOGMEL) {
        return status;
    }
    int64_t freqs = arch->mel.fft / 2 + 1;
    ser_weight_spec dft = {.rows = freqs, .cols = arch->mel.frame / 2, .groups = 2};
    ser_weight_spec mel = {.rows = arch->mel.bins, .cols = freqs, .groups = 1};
    status = net->ops->weight_create(net->context, &dft, &net->dft);
    return status == 0 ? net->ops->weight_create(net->context, &mel, &net->mel) : status;
}

/* scale[k] = g[k] / |v[:, :, k]|, Salimans & Kingma 2016 with one norm per tap, as wav2vec 2.0 has
 * it. */
static void tap_scales(const float *g, const float *v, int64_t rows, int64_t taps, double *scale)
{
    for (int64_t k = 0; k < taps; k++) {
        scale[k] = 0.0;
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < taps; k++) {
            double value = (double)v[r * taps + k];
            scale[k] += value * value;
        }
    }
    for (int64_t k = 0; k < taps; k++) {
        scale[k] = (double)g[k] / sqrt(scale[k]);
    }
}

/* In place: v[out][in][k] becomes w[out][k][in] = scale[k] v[out][in][k]. `row` holds [in][k]. */
static void fold(float *v, int64_t outputs, int64_t inputs, int64_t taps, const double *scale,
                 float *row)
{
    int64_t size = inputs * taps;
    for (int64_t o = 0; o < outputs; o++) {
        float *w = v + o * size;
        memcpy(row, w, (size_t)size * sizeof(float));
        for (int64_t k = 0; k < taps; k++) {
            for (int64_t i = 0; i < inputs; i++) {
                w[k * inputs + i] = (float)(scale[k] * (double)row[i * taps + k]);
            }
        }
    }
}

static int finish_position(ser_net *net)
{
    int64_t taps = net->arch.position_kernel;
    int64_t outputs = net->arch.hidden_size;
    int64_t inputs = outputs / net->arch.position_groups;
    size_t count = (size_t)(outputs * inputs * taps);
    int status = SER_ERR_MEMORY;
    float *v = ser_mem_alloc_raw(count, sizeof *v);
    float *g = ser_mem_alloc_raw((size_t)taps, sizeof *g);
    float *row = ser_mem_alloc_raw((size_t)(inputs * taps), sizeof *row);
    double *scale = ser_mem_alloc_raw((size_t)taps, sizeof *scale);
    if (v != NULL && g != NULL && row != NULL && scale != NULL) {
        status = ser_net_download(net, v, net->position_v.data, count);
        if (status == 0) {
            status = ser_net_download(net, g, net->position_g.data, (size_t)taps);
        }
        if (status == 0) {
            tap_scales(g, v, outputs * inputs, taps, scale);
            fold(v, outputs, inputs, taps, scale, row);
            status = ser_net_pack(net, net->position.w, v);
        }
    }
    ser_mem_free(scale);
    ser_mem_free(row);
    ser_mem_free(g);
    ser_mem_free(v);
    return status;
}

/* Periodic Hann window times cos and sin of 2 pi f (n - frame / 2) / fft, for n = 1 .. frame / 2:
 * by halves of a turn, so that odd frames have a table too. */
static int finish_dft(ser_net *net)
{
    const ser_mel_arch *mel = &net->arch.mel;
    const int64_t freqs = mel->fft / 2 + 1;
    const int64_t half = mel->frame / 2;
    const int64_t turn = 2 * (int64_t)mel->fft;
    int status = SER_ERR_MEMORY;
    float *rows = ser_mem_alloc_raw((size_t)(2 * freqs * half), sizeof *rows);
    double *circle = ser_mem_alloc_raw((size_t)turn, 2 * sizeof *circle);
    if (rows != NULL && circle != NULL) {
        for (int64_t i = 0; i < turn; i++) {
            circle[2 * i] = cos(2.0 * pi * (double)i / (double)turn);
            circle[2 * i + 1] = sin(2.0 * pi * (double)i / (double)turn);
        }
        for (int64_t n = 1; n <= half; n++) {
            const double window = 0.5 - 0.5 * cos(2.0 * pi * (double)n / mel->frame);
            for (int64_t f = 0; f < freqs; f++) {
                const int64_t back = f * (mel->frame - 2 * n) % turn; /* of frame / 2 - n samples */
                float *to = rows + f * half + n - 1;
                to[0] = (float)(window * circle[2 * back]);
                to[freqs * half] = (float)(-window * circle[2 * back + 1]);
            }
        }
        status = ser_net_pack(net, net->dft, rows);
    }
    ser_mem_free(circle);
    ser_mem_free(rows);
    return status;
}

static double to_mel(double hz)
{
    return 2595.0 * log10(1.0 + hz / 700.0);
}

static double to_hz(double mel)
{
    return 700.0 * (pow(10.0, mel / 2595.0) - 1.0);
}

/* Triangles of peak 1 on the HTK scale, edges at exact frequencies, evaluated at the DFT bins. */
static int finish_mel(ser_net *net)
{
    const ser_mel_arch *mel = &net->arch.mel;
    int64_t freqs = mel->fft / 2 + 1;
    float *triangles = ser_mem_alloc_raw((size_t)(mel->bins * freqs), sizeof *triangles);
    if (triangles == NULL) {
        return SER_ERR_MEMORY;
    }
    double low = to_mel((double)mel->low);
    double step = (to_mel((double)mel->high) - low) / (mel->bins + 1);
    for (int64_t b = 0; b < mel->bins; b++) {
        double left = to_hz(low + step * (double)b);
        double centre = to_hz(low + step * (double)(b + 1));
        double right = to_hz(low + step * (double)(b + 2));
        for (int64_t f = 0; f < freqs; f++) {
            double hz = (double)f * net->arch.sampling_rate / mel->fft;
            double rising = (hz - left) / (centre - left);
            double falling = (right - hz) / (right - centre);
            triangles[b * freqs + f] = (float)fmax(0.0, fmin(rising, falling));
        }
    }
    int status = ser_net_pack(net, net->mel, triangles);
    ser_mem_free(triangles);
    return status;
}

static int finish_locked(ser_net *net)
{
    for (size_t i = 0; i < net->params.count; i++) {
        if (!net->slots[i].is_set) {
            return ser_fail(SER_ERR_INTERNAL, "net: %s was never set", net->params.list[i].name);
        }
    }
    int status = finish_position(net);
    if (status == 0 && net->arch.features == SER_FEATURES_LOGMEL) {
        status = finish_dft(net);
        status = status == 0 ? finish_mel(net) : status;
    }
    ser_net_staging_free(net);
    net->finished = status == 0;
    return status;
}

int ser_net_finish(ser_net *net)
{
    pthread_mutex_lock(&net->transfer->lock);
    int status = finish_locked(net);
    pthread_mutex_unlock(&net->transfer->lock);
    return status;
}
