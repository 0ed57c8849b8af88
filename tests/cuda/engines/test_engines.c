/* SPDX-License-Identifier: MIT */
/*
 * Which engines cuDNN has for the convolutions that libser hands to it, on cards that are not here:
 * cuDNN answers for a described card too. Where engines or heuristics of another release of cuDNN
 * leave a card without a fused convolution on tensor cores, this fails; on the card itself only the
 * time of a prediction would tell.
 */
#include <dlfcn.h>
#include <time.h>

#include "harness.h"
#include "ops/cuda/convolution_graph.h"
#include "profiles.h"

enum { SKIPPED = 77, MOST_PARTS = 32, MOST_TEXT = 2048 };

static cudnn_library library;

/* --- What is asked for --- */

typedef struct shape {
    const char *name;
    int64_t in, out;
    int64_t kernel, stride, bias;
    int64_t padded; /* rows of y per clip */
    bool always;    /* as with SER_CUDNN=1 */
} shape;

/* A 5 s window. Those that are too small to pay are asked for as a user may force them. A linear
 * layer has kernel 1. */
static const shape shapes[] = {
    {"wav2vec2-base conv1", 512, 512, 3, 2, 0, 8000, false},
    {"wav2vec2-base conv2", 512, 512, 3, 2, 0, 4000, false},
    {"wav2vec2-base conv3", 512, 512, 3, 2, 0, 2000, true},
    {"wav2vec2-base conv4", 512, 512, 3, 2, 0, 1000, true},
    {"wav2vec2-base conv5", 512, 512, 2, 2, 0, 500, true},
    {"wav2vec2-base conv6", 512, 512, 2, 2, 0, 250, true},
    {"1024 channels", 1024, 1024, 3, 2, 0, 4000, false},
    {"log-mel stem", 80, 96, 5, 2, 0, 256, true},
    {"wav2vec2-base ffn", 768, 3072, 1, 1, 1, 250, false},
    {"wav2vec2-large ffn", 1024, 4096, 1, 1, 1, 250, false},
    {"small ffn", 256, 1024, 1, 1, 1, 250, true},
    {"no bias", 768, 3072, 1, 1, 0, 250, true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const int64_t batches[] = {8, 32, 64};

static cudnn_part call_of(const shape *s, int64_t batch)
{
    return (cudnn_part){.in = s->in,
                        .out = s->out,
                        .kernel = s->kernel,
                        .stride = s->stride,
                        .rows = batch * s->padded,
                        .bias = s->bias};
}

typedef struct question {
    const shape *shape;
    cudnn_part part;
} question;

/* Every graph once: most batches and layers share theirs. */
static int questions_of(question questions[MOST_PARTS])
{
    int count = 0;
    for (int i = 0; i < SHAPES * 3; i++) {
        const shape *s = &shapes[i / 3];
        const cudnn_part call = call_of(s, batches[i % 3]);
        cudnn_part part = {0};
        bool known = !ser_cudnn_cut(&call, s->always, &part);
        for (int j = 0; j < count; j++) {
            known = known || memcmp(&questions[j].part, &part, sizeof part) == 0;
        }
        if (!known) {
            ck_assert_int_lt(count, MOST_PARTS);
            questions[count] = (question){s, part};
            count++;
        }
    }
    return count;
}

/* --- How calls are cut --- */

START_TEST(test_channels_in_eights)
{
    const cudnn_part good = call_of(&shapes[0], 32);
    cudnn_part part;
    ck_assert(ser_cudnn_cut(&good, false, &part));
    cudnn_part call = good;
    call.in = 516;
    ck_assert(!ser_cudnn_cut(&call, true, &part));
    call = good;
    call.out = 4;
    ck_assert(!ser_cudnn_cut(&call, true, &part));
    call = good;
    call.rows = 0;
    ck_assert(!ser_cudnn_cut(&call, true, &part));
}
END_TEST

/* Clips of `padded` rows: whether they go to cuDNN, and in how many rows at a time. */
static int64_t rows_of(const shape *of, int64_t batch, int64_t padded, bool always)
{
    shape s = *of;
    s.padded = padded;
    const cudnn_part call = call_of(&s, batch);
    cudnn_part part;
    return ser_cudnn_cut(&call, always, &part) ? part.rows : 0;
}

START_TEST(test_when_it_pays)
{
    const shape *layer = &shapes[0];
    ck_assert_int_eq(rows_of(layer, 16, 8000, false), 32000);
    ck_assert_int_eq(rows_of(layer, 16, 7999, false), 0); /* not enough work */
    ck_assert_int_eq(rows_of(layer, 17, 8000, false), 32000);
    ck_assert_int_eq(rows_of(layer, 64, 8000, false), 32000);
    ck_assert_int_eq(rows_of(layer, 9, 8000, true), 32000);
    ck_assert_int_eq(rows_of(layer, 3, 8000, true), 24000); /* less than a part: in one piece */
    ck_assert_int_eq(rows_of(layer, 1, 1, true), 1);
}
END_TEST

START_TEST(test_when_a_linear_layer_pays)
{
    const shape *base = &shapes[8];
    ck_assert_int_eq(rows_of(base, 32, 250, false), 4096);
    ck_assert_int_eq(rows_of(base, 64, 250, false), 4096);
    ck_assert_int_eq(rows_of(base, 31, 250, false), 0); /* not enough work */
    ck_assert_int_eq(rows_of(base, 1, 9000, false), 0); /* 2.2 parts: a third would be waste */
    ck_assert_int_eq(rows_of(base, 8, 250, true), 2000);
    ck_assert_int_eq(rows_of(&shapes[9], 32, 250, false), 2304);
}
END_TEST

/* Whatever the shape, a part is inside the call and far from 2^31 bytes. */
START_TEST(test_parts_are_small)
{
    static const int64_t channels[] = {8, 80, 512, 4096, 16384};
    for (int i = 0; i < 5 * 5 * 3; i++) {
        const cudnn_part call = {.in = channels[i % 5],
                                 .out = channels[i / 5 % 5],
                                 .kernel = 1 + i / 25 * 4,
                                 .stride = 1 + i / 25,
                                 .rows = INT64_C(64) * 400000,
                                 .bias = i % 2};
        cudnn_part part;
        ck_assert(ser_cudnn_cut(&call, true, &part));
        ck_assert_int_gt(part.rows, 0);
        ck_assert_int_le(part.rows, call.rows);
        ck_assert_int_eq(part.bias, call.bias);
        ck_assert_int_le(part.rows * part.stride * part.in, INT64_C(1) << 29);
        ck_assert_int_le(part.rows * part.out, INT64_C(1) << 29);
    }
}
END_TEST

/* --- Engines --- */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static const char *text_of(cudnnStatus_t status)
{
    static char text[MOST_TEXT];
    char reason[MOST_TEXT / 2] = "";
    library.cudnnGetLastErrorString(reason, sizeof reason);
    snprintf(text, sizeof text, "%s: %s", library.cudnnGetErrorString(status), reason);
    return text;
}

static cudnnBackendDescriptor_t properties_of(const card_profile *card)
{
    char json[MOST_TEXT];
    const size_t length = card_profile_json(card, json, sizeof json);
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)length, json},
        {.count = 0},
    };
    cudnnBackendDescriptor_t properties = NULL;
    const cudnnStatus_t status =
        ser_cudnn_make(&library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, list, &properties);
    ck_assert_msg(status == CUDNN_STATUS_SUCCESS, "%s: %s", card->name, text_of(status));
    return properties;
}

static void print_configs(const card_profile *card, const question *q, const cudnn_config *configs,
                          int32_t count)
{
    static const char *const numerical[] = {"tensor-core", "down-convert", "reduced-sum", "fft",
                                            "nondeterministic"};
    static const char *const behavior[] = {"run-time-compiled"};
    printf("%-9s %-21s %7lld", card->name, q->shape->name, (long long)q->part.rows);
    for (int32_t i = 0; i < count; i++) {
        printf(" %lld(%dK)", (long long)configs[i].engine, configs[i].shared / 1024);
    }
    for (size_t i = 0; i < sizeof numerical / sizeof *numerical; i++) {
        printf("%s%s", configs[0].numerical >> i & 1 ? " " : "",
               configs[0].numerical >> i & 1 ? numerical[i] : "");
    }
    printf(" %s, %lld bytes\n", configs[0].behavior & 1 ? behavior[0] : "precompiled",
           (long long)configs[0].workspace);
}

/* Compile the engine for the card. Loading it needs a driver, which is where this may end. */
static void check_compiles(const card_profile *card, const cudnn_graph *graph, cudnn_config *config)
{
    cudnn_plan plan = {0};
    const double start = seconds();
    const cudnnStatus_t status = ser_cudnn_plan_build(graph, config, &plan);
    if (status == CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING) {
        printf("%-9s not compiled: %s\n", card->name, text_of(status));
        return;
    }
    ck_assert_msg(status == CUDNN_STATUS_SUCCESS ||
                      status == CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER,
                  "%s: engine %lld: %s", card->name, (long long)config->engine, text_of(status));
    printf("%-9s engine %lld compiled in %.1f s\n", card->name, (long long)config->engine,
           seconds() - start);
    ser_cudnn_plan_free(graph, &plan);
}

static void check_engines(const card_profile *card, const question *q, const cudnn_config *configs,
                          int32_t count)
{
    ck_assert_msg(count > 0, "%s: no engine on tensor cores for %s", card->name, q->shape->name);
    print_configs(card, q, configs, count);
    /* More shared memory than Ampere has: made for what Hopper has new. */
    ck_assert_msg(card->version != 900 || configs[0].shared > 163 << 10,
                  "%s: no engine of its own for %s", card->name, q->shape->name);
    for (int32_t i = 0; i < count; i++) {
        ck_assert(configs[i].numerical >> CUDNN_NUMERICAL_NOTE_TENSOR_CORE & 1);
        ck_assert(!(configs[i].numerical >> CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC & 1));
        ck_assert_int_le(configs[i].workspace, CUDNN_WORKSPACE_LIMIT);
        ck_assert_int_le(configs[i].shared, card->shared + 1024);
    }
}

START_TEST(test_engines)
{
    const card_profile *card = &card_profiles[_i];
    /* Everything is asked, and one engine compiled (seconds), on one card of a generation. */
    const bool all = card->version % 100 == 0 && (_i == 0 || card->version != card[-1].version);
    question questions[MOST_PARTS];
    const int count = questions_of(questions);
    const cudnnBackendDescriptor_t properties = properties_of(card);
    ck_assert_int_ge(count, 4);
    for (int i = 0; i < count; i++) {
        cudnn_graph graph = {.library = &library, .properties = properties};
        cudnn_config configs[CUDNN_CONFIGS];
        if (questions[i].shape->always && !all) {
            continue;
        }
        const cudnnStatus_t status = ser_cudnn_graph_build(&graph, &questions[i].part);
        ck_assert_msg(status == CUDNN_STATUS_SUCCESS, "%s: %s", questions[i].shape->name,
                      text_of(status));
        const int32_t found = ser_cudnn_configs(&graph, configs);
        check_engines(card, &questions[i], configs, found);
        if (all && (i == 0 || questions[i].shape == &shapes[8])) {
            check_compiles(card, &graph, &configs[0]);
        }
        ser_cudnn_configs_free(&graph, configs, found);
        ser_cudnn_graph_free(&graph);
    }
    library.cudnnBackendDestroyDescriptor(properties);
}
END_TEST

/* A graph that no card has an engine for: the check above can fail. */
START_TEST(test_no_engine)
{
    const cudnn_part part = {.in = 512, .out = 512, .kernel = 3, .stride = 2, .rows = 32000};
    const card_profile card = {.name = "tiny",
                               .version = 800,
                               .multiprocessors = 1,
                               .threads = 2048,
                               .blocks = 32,
                               .shared = 1024,
                               .clock = 1000,
                               .memory_clock = 1000,
                               .memory = 1,
                               .l2 = 1};
    cudnn_graph graph = {.library = &library, .properties = properties_of(&card)};
    cudnn_config configs[CUDNN_CONFIGS];
    ck_assert_int_eq(ser_cudnn_graph_build(&graph, &part), CUDNN_STATUS_SUCCESS);
    ck_assert_int_eq(ser_cudnn_configs(&graph, configs), 0);
    ser_cudnn_graph_free(&graph);
    library.cudnnBackendDestroyDescriptor(graph.properties);
}
END_TEST

/* --- Libraries --- */

/* NULL, or what is missing here. The driver's stub, which the toolkit has for linking without a
 * driver, is enough: it carries the driver's name, so cuDNN finds it once it is loaded. */
static const char *missing(void)
{
    static const char *const parts[] = {"libcudnn_heuristic.so.",
                                        "libcudnn_engines_precompiled.so.",
                                        "libcudnn_engines_runtime_compiled.so."};
    const char *stub = getenv("SER_TEST_LIBCUDA");
    if ((stub == NULL || dlopen(stub, RTLD_NOW | RTLD_GLOBAL) == NULL) &&
        dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) == NULL) {
        return dlerror();
    }
    const char *why = ser_cudnn_load(&library);
    if (why == NULL && library.cudnnGetVersion() < 90800) {
        why = "cuDNN before 9.8 cannot describe cards";
    }
    for (size_t i = 0; why == NULL && i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%d", parts[i], CUDNN_MAJOR);
        why = dlopen(name, RTLD_LAZY) == NULL ? dlerror() : NULL;
    }
    return why;
}

int main(void)
{
    Suite *suite = suite_create("engines");
    TCase *parts = tcase_create("parts");
    tcase_add_test(parts, test_channels_in_eights);
    tcase_add_test(parts, test_when_it_pays);
    tcase_add_test(parts, test_when_a_linear_layer_pays);
    tcase_add_test(parts, test_parts_are_small);
    suite_add_tcase(suite, parts);
    const char *why = missing();
    if (why == NULL) {
        TCase *engines = tcase_create("engines");
        tcase_set_timeout(engines, 120); /* seconds; a tenth of it on an idle machine */
        tcase_add_loop_test(engines, test_engines, 0, (int)card_profile_count);
        tcase_add_test(engines, test_no_engine);
        suite_add_tcase(suite, engines);
    } else {
        printf("engines are not asked for: %s\n", why);
    }
    const int status = harness_run(suite);
    return status == 0 && why != NULL ? SKIPPED : status;
}
