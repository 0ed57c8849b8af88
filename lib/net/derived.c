/* SPDX-License-Identifier: MIT */
/* Matrices that follow from the parameters or the configuration: folded weight norm, log-mel
 * analysis. */
#include "net/graph.h"

#include <math.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

static const double pi = 3.14159265358979323846;

/* --- Biases in bf16 --- */

/* The linear layers between activations: projection, the score's hidden layer, four of every block. */
static int32_t affine_count(const ser_net *net)
{
    return 2 + 4 * net->arch.layers;
}

static ser_affine *affine_at(const ser_net *net, int32_t i)
{
    ser_net *n = (ser_net *)(uintptr_t)net; /* what it points to is not const */
    if (i < 2) {
        return i == 0 ? &n->projection : &n->pool_hidden;
    }
    ser_block *block = &net->blocks[(i - 2) / 4];
    ser_affine *const of_block[] = {&block->qkv, &block->out, &block->ffn_in, &block->ffn_out};
    return of_block[(i - 2) % 4];
}

/* Places one after the other in the network's own memory; returns the elements that takes. */
static int64_t assign_biases(ser_net *net)
{
    enum { ALIGNMENT = 128 }; /* elements: 256 bytes, as in workspace.c */
    int64_t total = 0;
    for (int32_t i = 0; i < affine_count(net); i++) {
        ser_affine *affine = affine_at(net, i);
        if (affine->bias.data != NULL) {
            affine->bias_bf16 = affine->bias;
            affine->bias_bf16.type = SER_BF16;
            affine->bias_bf16.data =
                (void *)((uintptr_t)net->biases + (uintptr_t)total * sizeof(uint16_t));
            total += (affine->bias.cols + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        }
    }
    return total;
}

static int place_biases(ser_net *net)
{
    const size_t size = (size_t)assign_biases(net) * sizeof(uint16_t); /* offsets, so far */
    int status = net->ops->alloc(net->context, size, &net->biases);
    if (status != 0) {
        net->biases = NULL;
        return status;
    }
    assign_biases(net);
    return 0;
}

void ser_net_lend_biases(ser_net *net, const float *w, size_t count, void *rounded)
{
    for (int32_t i = 0; i < affine_count(net); i++) {
        ser_affine *affine = affine_at(net, i);
        const uintptr_t at = (uintptr_t)affine->bias.data - (uintptr_t)w;
        if (affine->bias.data != NULL && at < count * sizeof *w) { /* else it is frozen */
            affine->bias_bf16.data =
                (void *)((uintptr_t)rounded + at / sizeof *w * sizeof(uint16_t));
        }
    }
}

void ser_net_take_biases(ser_net *net)
{
    if (net->biases != NULL) {
        assign_biases(net);
    }
}

int ser_net_refresh_biases(const ser_net *net, ser_queue *queue)
{
    int status = 0;
    for (int32_t i = 0; i < affine_count(net) && net->biases != NULL && status == 0; i++) {
        const ser_affine *affine = affine_at(net, i);
        if (affine->bias.data != NULL) {
            status = net->ops->convert(queue, &affine->bias, &affine->bias_bf16);
        }
    }
    return status;
}

/* --- Places --- */

int ser_net_place_derived(ser_net *net)
{
    const ser_arch *arch = &net->arch;
    int64_t width = arch->hidden_size / arch->position_groups;
    ser_weight_spec position = {.rows = width,
                                .cols = arch->position_kernel * width,
                                .groups = arch->position_groups,
                                .type = net->type};
    int status = net->ops->weight_create(net->context, &position, &net->position.w);
    if (status == 0 && net->type == SER_BF16) {
        status = place_biases(net);
    }
    if (status != 0 || arch->features != SER_FEATURES_LOGMEL) {
        return status;
    }
    int64_t freqs = arch->mel.fft / 2 + 1;
    ser_weight_spec dft = {.rows = freqs, .cols = arch->mel.frame / 2, .groups = 2};
    ser_weight_spec mel = {.rows = arch->mel.bins, .cols = freqs, .groups = 1};
    status = net->ops->weight_create(net->context, &dft, &net->dft);
    return status == 0 ? net->ops->weight_create(net->context, &mel, &net->mel) : status;
}

/* --- Content --- */

ser_weight_norm_args ser_net_position_fold(const ser_net *net)
{
    return (ser_weight_norm_args){
        .g = net->position_g,
        .v = net->position_v,
        .kernel = net->arch.position_kernel,
        .groups = net->arch.position_groups,
        .w = net->position.w,
    };
}

/* The folded weight of the positional convolution, by the op that training has too. */
static int finish_position(ser_net *net)
{
    ser_queue *queue = net->transfer->queue;
    const ser_weight_norm_args args = ser_net_position_fold(net);
    ser_queue_plan(queue);
    int status = ser_weight_norm_fwd(queue, &args);
    const int reserved = ser_queue_reserve(queue, NULL); /* also ends the planning */
    status = status == 0 ? reserved : status;
    status = status == 0 ? ser_weight_norm_fwd(queue, &args) : status;
    return status == 0 ? net->ops->sync(queue) : status;
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
    status = status == 0 ? ser_net_refresh_biases(net, net->transfer->queue) : status;
    status = status == 0 ? net->ops->sync(net->transfer->queue) : status; /* others read them */
    if (status == 0 && net->arch.features == SER_FEATURES_LOGMEL) {
        status = finish_dft(net);
        status = status == 0 ? finish_mel(net) : status;
    }
    ser_net_staging_free(net);
    ser_queue *queue = net->transfer->queue;
    ser_device_memory_free(net->ops, net->context, &queue->scratch);
    queue->scratch_size = 0;
    queue->planned = 0;
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
