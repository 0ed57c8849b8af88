/* SPDX-License-Identifier: MIT */
/* products.h as the emulation serves it, and the cache of measured choices (algorithms.h). */
#include "fixture.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/cuda.h"
#include "ops/cuda/products.h"

/* --- Products --- */

enum { MARGIN = 5 }; /* elements beyond what a matrix has */

typedef struct operands {
    cuda_product product;
    const float *a, *b, *d, *bias; /* what is in them */
    ser_tensor result;
} operands;

/* A flat array that holds all entries, on the card and as the host sees it. */
static ser_tensor flat(int64_t rows, int64_t ld, int64_t entries, int64_t pitch, int32_t type,
                       uint64_t seed, const float **values)
{
    const int64_t count = (entries - 1) * pitch + rows * ld + MARGIN;
    const twin t = twin_input(1, count, type, seed, 1.0F, 0);
    *values = t.cpu.data;
    return t.gpu;
}

/* Fills in what the caller has left out: memory, and leading dimensions and pitches that are 0. */
static operands operands_of(cuda_product p)
{
    const int64_t a_rows = p.a_across ? p.k : p.m;
    const int64_t b_rows = p.b_across ? p.k : p.n;
    operands o = {.product = p};
    cuda_product *q = &o.product;
    q->lda = p.lda > 0 ? p.lda : (p.a_across ? p.m : p.k) + 3;
    q->ldb = p.ldb > 0 ? p.ldb : (p.b_across ? p.n : p.k) + 2;
    q->ldd = p.ldd > 0 ? p.ldd : p.n + 1;
    q->a_pitch = p.a_pitch > 0 ? p.a_pitch : a_rows * q->lda + 4;
    q->d_pitch = p.d_pitch > 0 ? p.d_pitch : p.m * q->ldd + 2;
    q->a = flat(a_rows, q->lda, p.entries, q->a_pitch, p.type, 1, &o.a).data;
    q->b = flat(b_rows, q->ldb, p.entries, q->b_pitch, p.type, 2, &o.b).data;
    o.result = flat(p.m, q->ldd, p.entries, q->d_pitch, p.d_type, 3, &o.d);
    q->d = o.result.data;
    if (p.bias != NULL) {
        q->bias = flat(1, p.n, 1, 0, p.d_type, 4, &o.bias).data;
    }
    return o;
}

static double element_of(const operands *o, int64_t e, int64_t i, int64_t j)
{
    const cuda_product *p = &o->product;
    const float *a = o->a + e * p->a_pitch;
    const float *b = o->b + e * p->b_pitch;
    double sum = p->accumulate ? (double)o->d[e * p->d_pitch + i * p->ldd + j] : 0.0;
    sum += o->bias != NULL ? (double)o->bias[j] : 0.0;
    for (int64_t k = 0; k < p->k; k++) {
        sum += (double)(p->a_across ? a[k * p->lda + i] : a[i * p->lda + k]) *
               (double)(p->b_across ? b[k * p->ldb + j] : b[j * p->ldb + k]);
    }
    return p->relu && sum < 0.0 ? 0.0 : sum;
}

static int run(const cuda_product *product)
{
    gpu.queue->planned = ser_products_scratch(gpu.queue);
    gpu.queue->planning = true;
    assert_ok(ser_queue_reserve(gpu.queue, NULL));
    const int status = ser_product_run(cuda_queue_of(gpu.queue), product);
    assert_ok(gpu.ops->sync(gpu.queue));
    return status;
}

/* Every element that belongs to d is right, the others are what they were. */
static void check_product(cuda_product p)
{
    const operands o = operands_of(p);
    const int64_t count = o.result.cols;
    double *expected = ser_mem_alloc((size_t)count, sizeof *expected);
    for (int64_t i = 0; i < count; i++) {
        expected[i] = (double)o.d[i];
    }
    for (int64_t e = 0; e < p.entries; e++) {
        for (int64_t i = 0; i < p.m; i++) {
            for (int64_t j = 0; j < p.n; j++) {
                expected[e * o.product.d_pitch + i * o.product.ldd + j] = element_of(&o, e, i, j);
            }
        }
    }
    assert_ok(run(&o.product));
    const float *got = gpu_values(&o.result);
    const double scale = 1.0 + sqrt((double)p.k);
    for (int64_t i = 0; i < count; i++) {
        ck_assert_msg(fabs((double)got[i] - expected[i]) <= tolerance_of(p.d_type) * scale,
                      "element %lld is %.9g, not %.9g", (long long)i, (double)got[i], expected[i]);
    }
    ser_mem_free(expected);
    twins_free();
}

/* Inside the module products.h cannot be called. */
static bool is_emulation(void)
{
    return gpu.ops == &ser_cuda_ops;
}

static cuda_product shape_of(int64_t m, int64_t n, int64_t k, int64_t entries)
{
    return (cuda_product){.m = m, .n = n, .k = k, .entries = entries};
}

START_TEST(test_layouts)
{
    const int32_t factors[] = {SER_F32, SER_BF16, SER_BF16};
    const int32_t results[] = {SER_F32, SER_BF16, SER_F32};
    const int64_t shapes[][4] = {{7, 5, 19, 1}, {7, 5, 19, 3}, {1, 1, 1, 1}};
    for (int i = 0; i < 36 && is_emulation(); i++) {
        const int64_t *s = shapes[i / 12];
        cuda_product p = shape_of(s[0], s[1], s[2], s[3]);
        p.a_across = (i & 1) != 0;
        p.b_across = (i & 2) != 0;
        p.type = factors[i / 4 % 3];
        p.d_type = results[i / 4 % 3];
        check_product(p); /* one b for all entries */
        p.b_pitch = 17 * 25;
        p.accumulate = true;
        check_product(p);
    }
}
END_TEST

START_TEST(test_epilogues)
{
    for (int i = 0; i < 8 && is_emulation(); i++) {
        cuda_product p = shape_of(4, 11, 8, 2);
        p.type = SER_BF16;
        p.d_type = (i & 1) != 0 ? SER_BF16 : SER_F32;
        p.bias = (i & 2) != 0 ? &p : NULL; /* wanted: its memory comes later */
        p.relu = (i & 4) != 0;
        p.accumulate = i == 7;
        check_product(p);
    }
}
END_TEST

/* Entries between each other's rows, as conv has them. */
START_TEST(test_interleaved_entries)
{
    cuda_product p = shape_of(6, 9, 12, 2);
    p.lda = 16;
    p.a_pitch = 8;
    p.ldd = 18;
    p.d_pitch = 9;
    if (is_emulation()) {
        check_product(p);
    }
}
END_TEST

START_TEST(test_overlaps_are_refused)
{
    const cuda_product good = shape_of(6, 9, 12, 2);
    if (!is_emulation()) {
        return;
    }
    cuda_product p = operands_of(good).product;
    p.lda = 11;
    assert_fails(run(&p), SER_ERR_INTERNAL, "overlaps itself");
    p = operands_of(good).product;
    p.ldd = 8;
    assert_fails(run(&p), SER_ERR_INTERNAL, "overlaps itself");
    p = operands_of(good).product;
    p.d_pitch = 8;
    assert_fails(run(&p), SER_ERR_INTERNAL, "share elements");
    p = operands_of(good).product;
    p.d_type = SER_BF16;
    assert_fails(run(&p), SER_ERR_INTERNAL, "bf16 result");
}
END_TEST

/* --- The cache of choices --- */

static const char *const device = "Fast Card 80GB-sm_90-132sm-cublasLt130100";
static const char *const file_name = "products-Fast_Card_80GB-sm_90-132sm-cublasLt130100.bin";

enum { FILE_MAX = 4096 };

static product_key key_of(int64_t n)
{
    return (product_key){.m = 100 + n, .n = 768, .k = 3072, .entries = 1, .flags = 3};
}

static product_choice choice_of(uint64_t n)
{
    product_choice choice = {.workspace = n * 1000};
    for (uint64_t i = 0; i < 8; i++) {
        choice.algorithm[i] = n << 32 | i;
    }
    return choice;
}

static ser_algorithms *table(void)
{
    ser_algorithms *a = NULL;
    assert_ok(ser_algorithms_open(device, &a));
    return a;
}

static void put(ser_algorithms *a, int64_t n)
{
    const product_key key = key_of(n);
    const product_choice choice = choice_of((uint64_t)n);
    ser_algorithms_put(a, &key, &choice);
}

static bool has(ser_algorithms *a, int64_t n, bool loaded)
{
    const product_key key = key_of(n);
    const product_choice expected = choice_of((uint64_t)n);
    product_choice got;
    if (!ser_algorithms_find(a, &key, &got)) {
        return false;
    }
    ck_assert_mem_eq(got.algorithm, expected.algorithm, sizeof got.algorithm);
    ck_assert_uint_eq(got.workspace, expected.workspace);
    ck_assert_int_eq(got.loaded, loaded);
    return true;
}

/* Whether a new process would find choice n. */
static bool stored(int64_t n)
{
    ser_algorithms *a = table();
    const bool found = has(a, n, true);
    ser_algorithms_close(a);
    return found;
}

/* A fresh directory for the test, set in SER_CACHE_DIR; the file's path in it. */
static const char *use_directory(const char *name)
{
    static char path[FILE_MAX];
    const char *directory = harness_tmpfile(name);
    ck_assert_int_eq(setenv("SER_CACHE_DIR", directory, 1), 0);
    (void)snprintf(path, sizeof path, "%s/%s", directory, file_name);
    return path;
}

static size_t read_file(const char *path, unsigned char bytes[FILE_MAX])
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    const size_t size = fread(bytes, 1, FILE_MAX, file);
    ck_assert_int_eq(fclose(file), 0);
    return size;
}

static void write_file(const char *path, const unsigned char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(chmod(path, 0600), 0);
}

static int log_lines;

static void count_line(int32_t level, const char *text, void *user)
{
    (void)level;
    (void)text;
    (void)user;
    log_lines++;
}

/* Log lines from now on at `level` or above. */
static void count_lines(int32_t level)
{
    log_lines = 0;
    ser_log_handler_set(count_line, NULL);
    ser_log_level_set(level);
}

START_TEST(test_choices_last)
{
    const char *path = use_directory("deep/er");
    ser_algorithms *a = table();
    ck_assert(ser_algorithms_lasting(a));
    ck_assert(!has(a, 1, false));
    put(a, 1);
    put(a, 2);
    ck_assert(has(a, 1, false));
    ser_algorithms_close(a);
    ck_assert(stored(1) && stored(2) && !stored(3));
    struct stat about;
    ck_assert_int_eq(stat(path, &about), 0);
    ck_assert_uint_eq(about.st_mode & 07777, 0600);
}
END_TEST

/* What was looked at is not looked at again. Only another choice is written. */
START_TEST(test_loaded_until_put)
{
    const char *path = use_directory("loaded");
    ser_algorithms *a = table();
    put(a, 1);
    ser_algorithms_close(a);
    a = table();
    ck_assert(has(a, 1, true));
    ck_assert_int_eq(unlink(path), 0);
    put(a, 1);
    ck_assert(has(a, 1, false));
    ck_assert_int_eq(access(path, F_OK), -1);
    const product_key key = key_of(1);
    const product_choice other = choice_of(9);
    product_choice got;
    ser_algorithms_put(a, &key, &other);
    ser_algorithms_close(a);
    a = table();
    ck_assert(ser_algorithms_find(a, &key, &got) && got.loaded);
    ck_assert_mem_eq(got.algorithm, other.algorithm, sizeof got.algorithm);
    ser_algorithms_close(a);
}
END_TEST

static int files_beside(void)
{
    int entries = 0;
    DIR *directory = opendir(getenv("SER_CACHE_DIR"));
    ck_assert_ptr_nonnull(directory);
    for (struct dirent *e = readdir(directory); e != NULL; e = readdir(directory)) {
        entries += e->d_name[0] != '.';
    }
    (void)closedir(directory);
    return entries;
}

/* Both processes' shapes are kept, and nothing but the file is left. */
START_TEST(test_two_processes)
{
    use_directory("two");
    ser_algorithms *a = table();
    ser_algorithms *b = table();
    put(a, 1);
    put(b, 2);
    put(a, 3);
    ser_algorithms_close(a);
    ser_algorithms_close(b);
    ck_assert(stored(1) && stored(2) && stored(3));
    ck_assert_int_eq(files_beside(), 1);
}
END_TEST

/* Neither cut, nor lengthened, nor with a byte changed; then it is written anew. */
START_TEST(test_damaged_files)
{
    unsigned char bytes[FILE_MAX];
    const char *path = use_directory("damaged");
    ser_algorithms *a = table();
    put(a, 1);
    put(a, 2);
    ser_algorithms_close(a);
    const size_t size = read_file(path, bytes);
    write_file(path, bytes, size);
    ck_assert(stored(1) && stored(2));
    for (size_t i = size % 5; i <= size; i += 5) {
        write_file(path, bytes, i == size ? size + 1 : i);
        ck_assert(!stored(1) && !stored(2));
    }
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x10;
        write_file(path, bytes, size);
        ck_assert(!stored(1) && !stored(2));
        bytes[i] ^= 0x10;
    }
    count_lines(SER_LOG_DEBUG);
    a = table();
    ck_assert_int_eq(log_lines, 1);
    put(a, 3);
    ser_algorithms_close(a);
    ck_assert(stored(3) && !stored(1));
}
END_TEST

/* A count that would have the reader go beyond the file, with a hash (FNV-1a) that is right. */
START_TEST(test_false_counts)
{
    unsigned char bytes[FILE_MAX];
    const uint64_t counts[] = {0, 1, 3, SER_ALGORITHMS_MAX + 1, UINT64_MAX / 160 + 2, UINT64_MAX};
    const char *path = use_directory("counts");
    ser_algorithms *a = table();
    put(a, 1);
    put(a, 2);
    ser_algorithms_close(a);
    const size_t size = read_file(path, bytes);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        uint64_t hash = 0xCBF29CE484222325U;
        memcpy(bytes + 8, &counts[c], 8);
        for (size_t i = 0; i < size - 8; i++) {
            hash = (hash ^ bytes[i]) * 0x100000001B3U;
        }
        memcpy(bytes + size - 8, &hash, 8);
        write_file(path, bytes, size);
        ck_assert(!stored(1) && !stored(2));
    }
}
END_TEST

START_TEST(test_foreign_files)
{
    unsigned char bytes[FILE_MAX];
    const char *path = use_directory("foreign");
    ser_algorithms *a = NULL;
    /* Another device, but of the same file name. */
    assert_ok(ser_algorithms_open("Fast_Card_80GB-sm_90-132sm-cublasLt130100", &a));
    put(a, 1);
    ser_algorithms_close(a);
    ck_assert_int_eq(access(path, F_OK), 0);
    ck_assert(!stored(1));
    a = table();
    put(a, 2);
    ser_algorithms_close(a);
    ck_assert(stored(2));
    const size_t size = read_file(path, bytes);
    ck_assert_int_eq(chmod(path, 0620), 0); /* others may write */
    ck_assert(!stored(2));
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert(stored(2));
    ck_assert_int_eq(truncate(path, 10000000), 0); /* too large */
    ck_assert(!stored(2));
    ck_assert_int_eq(unlink(path), 0);
    const char *elsewhere = harness_tmpfile("elsewhere");
    write_file(elsewhere, bytes, size);
    ck_assert_int_eq(symlink(elsewhere, path), 0);
    ck_assert(!stored(2));
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* does not make it wait */
    ck_assert(!stored(2));
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert(!stored(2));
}
END_TEST

/* A choice goes to the file in `folder` of the test's directory, where there is none yet. */
static void check_place(const char *folder)
{
    ser_algorithms *a = table();
    ck_assert(!has(a, 1, true));
    put(a, 1);
    ser_algorithms_close(a);
    ck_assert(stored(1));
    ck_assert_int_eq(access(harness_tmpfile(folder), F_OK), 0);
}

START_TEST(test_places)
{
    ck_assert_int_eq(unsetenv("SER_CACHE_DIR"), 0);
    ck_assert_int_eq(setenv("HOME", harness_tmpfile("home"), 1), 0);
    ck_assert_int_eq(setenv("XDG_CACHE_HOME", "not/absolute", 1), 0);
    check_place("home/.cache/ser");
    ck_assert_int_eq(setenv("XDG_CACHE_HOME", harness_tmpfile("xdg"), 1), 0);
    check_place("xdg/ser");
}
END_TEST

/* Without a place choices are the process's; it says so once. */
START_TEST(test_no_place)
{
    write_file(harness_tmpfile("file"), (const unsigned char *)"x", 1);
    const char *const places[] = {"", harness_tmpfile("file/below")};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(setenv("SER_CACHE_DIR", places[i], 1), 0);
        count_lines(SER_LOG_INFO);
        ser_algorithms *a = table();
        ck_assert(!ser_algorithms_lasting(a));
        put(a, 1);
        put(a, 2);
        ck_assert(has(a, 1, false) && has(a, 2, false));
        ser_algorithms_close(a);
        ck_assert_int_eq(log_lines, 1);
    }
}
END_TEST

START_TEST(test_place_that_goes_away)
{
    const char *path = use_directory("away");
    ser_algorithms *a = table();
    put(a, 1);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(getenv("SER_CACHE_DIR")), 0);
    count_lines(SER_LOG_INFO);
    sleep(2); /* the file is written once a second */
    put(a, 2);
    put(a, 3);
    ck_assert(!ser_algorithms_lasting(a));
    ck_assert(has(a, 1, false) && has(a, 2, false) && has(a, 3, false));
    ck_assert_int_eq(log_lines, 1);
    ser_algorithms_close(a);
}
END_TEST

START_TEST(test_full_table)
{
    ck_assert_int_eq(setenv("SER_CACHE_DIR", "", 1), 0);
    ser_algorithms *a = table();
    for (int64_t i = 0; i <= SER_ALGORITHMS_MAX; i++) {
        put(a, i);
    }
    ck_assert(has(a, 0, false) && has(a, SER_ALGORITHMS_MAX - 1, false));
    ck_assert(!has(a, SER_ALGORITHMS_MAX, false));
    ser_algorithms_close(a);
}
END_TEST

START_TEST(test_out_of_memory)
{
    use_directory("memory");
    ser_algorithms *a = NULL;
    ser_mem_fail_at(1, true);
    ck_assert_int_eq(ser_algorithms_open(device, &a), SER_ERR_MEMORY);
    ser_mem_fail_at(0, false);
    a = table();
    put(a, 1);
    ser_mem_fail_at(1, true);
    put(a, 2);
    ser_mem_fail_at(0, false);
    ck_assert(has(a, 1, false) && !has(a, 2, false));
    ser_mem_fail_at(2, true); /* the entry, not the file */
    put(a, 3);
    ser_mem_fail_at(0, false);
    ck_assert(has(a, 3, false) && !stored(3));
    ser_algorithms_close(a);
    ser_mem_fail_at(2, true); /* the table, not the file */
    a = table();
    ser_mem_fail_at(0, false);
    ck_assert(!has(a, 1, true));
    ser_algorithms_close(a);
    ck_assert(stored(1));
}
END_TEST

enum { THREADS = 4, EACH = 40 };

typedef struct worker {
    pthread_t thread;
    ser_algorithms *table;
    int64_t first;
    bool found;
} worker;

static void *work(void *data)
{
    worker *w = data;
    w->found = true;
    for (int64_t i = 0; i < EACH; i++) {
        const product_key key = key_of(w->first + i);
        const product_choice choice = choice_of((uint64_t)(w->first + i));
        product_choice got;
        ser_algorithms_put(w->table, &key, &choice);
        w->found = w->found && ser_algorithms_find(w->table, &key, &got) &&
                   got.workspace == choice.workspace;
    }
    return NULL;
}

START_TEST(test_threads)
{
    use_directory("threads");
    worker workers[THREADS];
    ser_algorithms *a = table();
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){.table = a, .first = (int64_t)i * EACH / 2}; /* some by two */
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        ck_assert(workers[i].found);
    }
    ser_algorithms_close(a);
    for (int64_t i = 0; i < (THREADS + 1) * EACH / 2; i++) {
        ck_assert(stored(i));
    }
}
END_TEST

CUDA_SUITE("products", test_layouts, test_epilogues, test_interleaved_entries,
           test_overlaps_are_refused, test_choices_last, test_loaded_until_put, test_two_processes,
           test_damaged_files, test_false_counts, test_foreign_files, test_places, test_no_place,
           test_place_that_goes_away, test_full_table, test_out_of_memory, test_threads)
