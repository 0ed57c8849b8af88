/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "ops/cuda/cuda.h"
#include "ops/device.h"

enum { SLACK = 64, MAX_BLOCKS = 512 };

side cpu, gpu;

typedef enum owner { HOST, GPU, CPU_WEIGHT, GPU_WEIGHT } owner;

static struct {
    owner owner;
    void *memory;
} blocks[MAX_BLOCKS];
static int block_count;
static ser_device *card; /* with SER_TEST_CUDA; else the emulation is used directly */

static void keep(owner by, void *memory)
{
    ck_assert_int_lt(block_count, MAX_BLOCKS);
    blocks[block_count].owner = by;
    blocks[block_count++].memory = memory;
}

static void *host_memory(size_t size)
{
    void *memory = ser_mem_alloc(size, 1);
    ck_assert_ptr_nonnull(memory);
    keep(HOST, memory);
    return memory;
}

static void *gpu_memory(size_t size)
{
    void *memory = NULL;
    assert_ok(gpu.ops->alloc(gpu.context, size, &memory));
    keep(GPU, memory);
    return memory;
}

void fixture_open(void)
{
    const char *name;
    cpu.ops = &ser_cpu_ops;
    assert_ok(cpu.ops->open(0, &cpu.context, &name));
    assert_ok(cpu.ops->queue_create(cpu.context, 1, &cpu.queue));
    if (getenv("SER_TEST_CUDA") != NULL) {
        assert_ok(ser_device_create(SER_DEVICE_CUDA, 0, 1, &card));
        gpu.ops = card->ops;
        gpu.context = card->context;
    } else {
        gpu.ops = &ser_cuda_ops;
        assert_ok(gpu.ops->open(0, &gpu.context, &name));
    }
    assert_ok(gpu.ops->queue_create(gpu.context, 1, &gpu.queue));
}

void twins_free(void)
{
    while (block_count > 0) {
        void *memory = blocks[--block_count].memory;
        switch (blocks[block_count].owner) {
        case HOST: ser_mem_free(memory); break;
        case GPU: gpu.ops->free(gpu.context, memory); break;
        case CPU_WEIGHT: cpu.ops->weight_free(cpu.context, memory); break;
        case GPU_WEIGHT: gpu.ops->weight_free(gpu.context, memory); break;
        }
    }
}

void fixture_close(void)
{
    twins_free();
    gpu.ops->queue_free(gpu.queue);
    if (card != NULL) {
        ser_device_release(card);
    } else {
        gpu.ops->close(gpu.context);
    }
    cpu.ops->queue_free(cpu.queue);
    cpu.ops->close(cpu.context);
    ck_assert_int_eq(ser_mem_live(), 0);
}

/* --- bf16 on the host --- */

static uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) {
        return (uint16_t)(bits >> 16 | 0x40);
    }
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

static float of_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static size_t size_of(int32_t type)
{
    return type == SER_BF16 ? sizeof(uint16_t) : sizeof(float);
}

static void to_gpu(void *device, const float *values, size_t count, int32_t type)
{
    const void *source = values;
    if (type == SER_BF16) {
        uint16_t *packed = host_memory(count * sizeof *packed);
        for (size_t i = 0; i < count; i++) {
            packed[i] = bf16_of(values[i]);
        }
        source = packed;
    }
    assert_ok(gpu.ops->upload(gpu.queue, device, source, count * size_of(type)));
    assert_ok(gpu.ops->sync(gpu.queue));
}

void *gpu_bytes(const ser_tensor *x)
{
    const size_t size = (size_t)(x->rows * x->cols) * size_of(x->type);
    void *bytes = host_memory(size);
    assert_ok(gpu.ops->download(gpu.queue, bytes, x->data, size));
    assert_ok(gpu.ops->sync(gpu.queue));
    return bytes;
}

float *gpu_values(const ser_tensor *x)
{
    const size_t count = (size_t)(x->rows * x->cols);
    void *bytes = gpu_bytes(x);
    if (x->type == SER_F32) {
        return bytes;
    }
    float *values = host_memory(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = of_bf16(((const uint16_t *)bytes)[i]);
    }
    return values;
}

void *gpu_copy(const void *host, size_t size)
{
    void *device = gpu_memory(size);
    assert_ok(gpu.ops->upload(gpu.queue, device, host, size));
    assert_ok(gpu.ops->sync(gpu.queue));
    return device;
}

/* --- Twins --- */

/* Elements before the first row, a multiple of 64 so that it is aligned in every type. */
static int64_t lead(int64_t cols, int64_t front)
{
    return ((SLACK + front) * cols + 63) / 64 * 64;
}

/* `values` between NaN on both sides; `front` rows of zeros before them; NULL: NaN everywhere. */
static twin make(int64_t rows, int64_t cols, int32_t type, int64_t front, const float *values)
{
    const int64_t before = lead(cols, front);
    const size_t total = (size_t)(before + (rows + SLACK) * cols);
    const size_t count = (size_t)(rows * cols);
    float *host = host_memory(total * sizeof *host);
    for (size_t i = 0; i < total; i++) {
        host[i] = NAN;
    }
    memset(host + before - front * cols, 0, (size_t)(front * cols) * sizeof *host);
    for (size_t i = 0; values != NULL && i < count; i++) {
        host[(size_t)before + i] = type == SER_BF16 ? of_bf16(bf16_of(values[i])) : values[i];
    }
    char *device = gpu_memory(total * size_of(type));
    to_gpu(device, host, total, type);
    twin t = {.cpu = ser_tensor_f32(host + before, rows, cols)};
    t.gpu = (ser_tensor){
        .data = device + (size_t)before * size_of(type), .rows = rows, .cols = cols, .type = type};
    return t;
}

twin twin_values(int64_t rows, int64_t cols, int32_t type, const float *values)
{
    return make(rows, cols, type, 0, values);
}

twin twin_input(int64_t rows, int64_t cols, int32_t type, uint64_t seed, float scale, int64_t front)
{
    const size_t count = (size_t)(rows * cols);
    float *values = host_memory(count * sizeof *values);
    harness_fill(values, count, seed, scale);
    return make(rows, cols, type, front, values);
}

twin twin_output(int64_t rows, int64_t cols, int32_t type)
{
    return make(rows, cols, type, 0, NULL);
}

twin twin_absent(void)
{
    return (twin){.cpu = {.data = NULL}};
}

twin twin_part(twin whole, int64_t first, int64_t rows)
{
    const size_t elements = (size_t)(first * whole.cpu.cols);
    whole.cpu.data = (float *)whole.cpu.data + elements;
    whole.gpu.data = (char *)whole.gpu.data + elements * size_of(whole.gpu.type);
    whole.cpu.rows = whole.gpu.rows = rows;
    return whole;
}

twin_rows twin_rows_of(int64_t batch, int64_t padded, const int32_t *valid)
{
    const size_t size = (size_t)batch * sizeof *valid;
    int32_t *host = host_memory(size);
    memcpy(host, valid, size);
    twin_rows rows = {.cpu = {.batch = batch, .padded = padded, .valid = host}};
    rows.gpu = rows.cpu;
    rows.gpu.valid = gpu_copy(valid, size);
    return rows;
}

void twin_fill_padding(twin *x, const twin_rows *rows, float value)
{
    float *data = x->cpu.data;
    const int64_t cols = x->cpu.cols;
    for (int64_t b = 0; b < rows->cpu.batch; b++) {
        for (int64_t i = (b * rows->cpu.padded + rows->cpu.valid[b]) * cols;
             i < (b + 1) * rows->cpu.padded * cols; i++) {
            data[i] = value;
        }
    }
    to_gpu(x->gpu.data, data, (size_t)(x->cpu.rows * cols), x->gpu.type);
}

twin_weight twin_weight_of(int64_t rows, int64_t cols, int64_t groups, int32_t type, uint64_t seed,
                           float scale)
{
    const ser_weight_spec spec = {.rows = rows, .cols = cols, .groups = groups, .type = type};
    ser_weight_spec plain = spec;
    plain.type = SER_F32;
    const twin values = twin_input(groups * rows, cols, type, seed, scale, 0);
    twin_weight w = {.cpu = NULL};
    assert_ok(cpu.ops->weight_create(cpu.context, &plain, &w.cpu));
    keep(CPU_WEIGHT, w.cpu);
    assert_ok(cpu.ops->weight_set(cpu.queue, w.cpu, values.cpu.data));
    assert_ok(gpu.ops->weight_create(gpu.context, &spec, &w.gpu));
    keep(GPU_WEIGHT, w.gpu);
    const size_t size = (size_t)(groups * rows * cols) * sizeof(float);
    assert_ok(gpu.ops->weight_set(gpu.queue, w.gpu, gpu_copy(values.cpu.data, size)));
    assert_ok(gpu.ops->sync(gpu.queue));
    return w;
}

/* --- Checking --- */

static bool is_valid_row(const twin_rows *rows, int64_t r)
{
    return rows == NULL || r % rows->cpu.padded < rows->cpu.valid[r / rows->cpu.padded];
}

void twin_check(const char *name, const twin *y, const twin_rows *rows, double tolerance,
                bool zeros)
{
    const float *expected = y->cpu.data;
    const float *got = gpu_values(&y->gpu);
    const int64_t cols = y->cpu.cols;
    double scale = 0.0;
    for (int64_t i = 0; i < y->cpu.rows * cols; i++) {
        if (is_valid_row(rows, i / cols) && isfinite(expected[i])) {
            scale = fmax(scale, fabs((double)expected[i]));
        }
    }
    /* An assertion that holds costs a write to a file: they are for what fails. */
    for (int64_t i = 0; i < y->cpu.rows * cols; i++) {
        const long long row = (long long)(i / cols);
        const long long col = (long long)(i % cols);
        if (!is_valid_row(rows, i / cols)) {
            if (zeros && got[i] != 0.0F) {
                ck_abort_msg("%s[%lld, %lld]: padding holds %g", name, row, col, (double)got[i]);
            }
            continue;
        }
        const double error = fabs((double)got[i] - (double)expected[i]);
        const bool agrees = isnan(expected[i])       ? isnan(got[i])
                            : !isfinite(expected[i]) ? got[i] == expected[i]
                                                     : error <= tolerance * fmax(scale, 1e-30);
        if (!agrees) {
            ck_abort_msg("%s[%lld, %lld] is %.9g, not %.9g (largest value %.3g)", name, row, col,
                         (double)got[i], (double)expected[i], scale);
        }
    }
}

void twin_check_dropped(const twin *y, const twin_rows *rows, float p)
{
    const float *got = gpu_values(&y->gpu);
    const float *expected = y->cpu.data;
    int64_t count = 0;
    int64_t dropped = 0;
    for (int64_t e = 0; e < y->cpu.rows * y->cpu.cols; e++) {
        if (is_valid_row(rows, e / y->cpu.cols)) {
            const bool same = y->gpu.type == SER_BF16 || got[e] == expected[e];
            if (!same || (got[e] == 0.0F) != (expected[e] == 0.0F)) {
                ck_abort_msg("element %d is %g, not %g", (int)e, (double)got[e],
                             (double)expected[e]);
            }
            dropped += got[e] == 0.0F;
            count++;
        }
    }
    const double sigma = sqrt((double)p * (1.0 - (double)p) * (double)count);
    ck_assert_double_eq_tol((double)dropped, (double)p * (double)count, 5.0 * sigma + 1.0);
}

static void check_untouched(const char *name, const char *where, const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isnan(values[i])) {
            ck_abort_msg("%s: written %s", name, where);
        }
    }
}

void twin_check_slack(const char *name, const twin *y)
{
    ser_tensor around = y->gpu;
    const int64_t cols = y->gpu.cols;
    const int64_t before = lead(cols, 0) / cols;
    around.rows = before;
    around.data = (char *)y->gpu.data - (size_t)(before * cols) * size_of(y->gpu.type);
    check_untouched(name, "before its first row", gpu_values(&around), before * cols);
    around.rows = SLACK;
    around.data = (char *)y->gpu.data + (size_t)(y->gpu.rows * cols) * size_of(y->gpu.type);
    check_untouched(name, "behind its last row", gpu_values(&around), SLACK * cols);
}

void side_poison(const side *s)
{
    if (s->queue->scratch == NULL) {
        return;
    }
    if (s->ops->host_memory) {
        memset(s->queue->scratch, 0xFF, s->queue->scratch_size); /* all bits set is a NaN */
        return;
    }
    void *poison = ser_mem_alloc_raw(s->queue->scratch_size, 1);
    ck_assert_ptr_nonnull(poison);
    memset(poison, 0xFF, s->queue->scratch_size);
    assert_ok(s->ops->upload(s->queue, s->queue->scratch, poison, s->queue->scratch_size));
    assert_ok(s->ops->sync(s->queue));
    ser_mem_free(poison);
}
