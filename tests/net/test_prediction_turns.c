/* SPDX-License-Identifier: MIT */
/*
 * Batches in turn: one is prepared while another is under way, and read while the next is. On the
 * CPU and on the emulated CUDA backend, against the same batches one at a time.
 */
#include "emulator.h"
#include "net/workspace.h"
#include "ops/cuda/cuda.h"
#include "random_net.h"

enum { MOST = 3, SEED = 40, BATCHES = 4 };

static random_net net;
static bool on_card;

static void open_net(int kind, bool card)
{
    on_card = card;
    random_net_open_on(card ? &ser_cuda_ops : &ser_cpu_ops, SER_F32, kind, SEED, &net);
}

static void close_net(void)
{
    random_net_close(&net);
    ck_assert_int_eq(ser_mem_live(), 0);
    ck_assert_uint_eq(emulator_live(), 0);
}

static void setup(void)
{
    emulator_reset();
}

typedef struct batch {
    int64_t count;
    int64_t samples[MOST];
    float *data[MOST];
} batch;

static const batch shapes[BATCHES] = {
    {.count = 1, .samples = {2000}},
    {.count = 3, .samples = {5000, 900, 3111}},
    {.count = 2, .samples = {1500, 1200}},
    {.count = 2, .samples = {7000, 6500}},
};

static void fill_batches(batch batches[BATCHES])
{
    for (int i = 0; i < BATCHES; i++) {
        batches[i] = shapes[i];
        for (int64_t b = 0; b < batches[i].count; b++) {
            const int64_t samples = batches[i].samples[b];
            batches[i].data[b] = malloc((size_t)samples * sizeof(float));
            random_clip(batches[i].data[b], samples, (uint64_t)(10 * i + b));
        }
    }
}

static void free_batches(batch batches[BATCHES])
{
    for (int i = 0; i < BATCHES; i++) {
        for (int64_t b = 0; b < batches[i].count; b++) {
            free(batches[i].data[b]);
        }
    }
}

static void write_clip(const void *source, int64_t clip, float *to)
{
    const batch *b = source;
    memcpy(to, b->data[clip], (size_t)b->samples[clip] * sizeof *to);
}

static int prepare(ser_workspace *w, const batch *b, bool alone)
{
    const ser_clips clips = {
        .count = b->count, .samples = b->samples, .write = write_clip, .source = b};
    /* The image of the batch under way, which a copy may still read (emulated ones are quick). */
    const void *image = w->images[w->image];
    const size_t size = w->image_size;
    char *before = w->images[0] != NULL && w->images[1] != NULL && !alone ? malloc(size) : NULL;
    if (before != NULL) {
        memcpy(before, image, size);
    }
    const int status = ser_net_prepare(net.net, w, &clips, alone);
    /* written to host memory, never to the card's */
    ck_assert(status != 0 || on_card == (w->images[w->image] != NULL));
    if (before != NULL && status == 0 && w->image_size == size) { /* else they are new */
        ck_assert_mem_eq(before, image, size);
    }
    free(before);
    return status;
}

static ser_workspace *workspace(void)
{
    ser_workspace *w;
    assert_ok(ser_workspace_create(net.net, 1, 400, 1, false, &w));
    return w;
}

/* What a batch gives when there is no other. */
typedef struct answer {
    size_t alpha, pooled, labels; /* values */
    float *data;
} answer;

static answer copy_outputs(const ser_outputs *o, const batch *b)
{
    const ser_arch *arch = ser_net_arch(net.net);
    const size_t count = (size_t)b->count;
    answer a = {
        .alpha = count * (size_t)o->padded,
        .pooled = count * (size_t)arch->hidden_size,
        .labels = count * (size_t)arch->classifier_size[arch->classifier_count - 1],
    };
    a.data = malloc((a.alpha + a.pooled + 2 * a.labels) * sizeof(float));
    memcpy(a.data, o->alpha, a.alpha * sizeof(float));
    memcpy(a.data + a.alpha, o->pooled, a.pooled * sizeof(float));
    memcpy(a.data + a.alpha + a.pooled, o->logits, a.labels * sizeof(float));
    memcpy(a.data + a.alpha + a.pooled + a.labels, o->probabilities, a.labels * sizeof(float));
    return a;
}

static void answers_alone(const batch batches[BATCHES], answer answers[BATCHES])
{
    for (int i = 0; i < BATCHES; i++) {
        const ser_stages *stages;
        ser_workspace *w = workspace();
        assert_ok(ser_net_forward(net.net, w, batches[i].count,
                                  (const float *const *)(uintptr_t)batches[i].data,
                                  batches[i].samples, &stages));
        answers[i] = copy_outputs(&stages->outputs, &batches[i]);
        ser_workspace_free(w);
    }
}

static void check(const ser_outputs *outputs, const batch *b, const answer *wanted, int turn)
{
    answer got = copy_outputs(outputs, b);
    ck_assert_uint_eq(got.alpha, wanted->alpha);
    const size_t count = got.alpha + got.pooled + 2 * got.labels;
    for (size_t i = 0; i < count; i++) {
        /* attention behind a clip's end is undefined, but for these nets zero or the same */
        ck_assert_msg(memcmp(&got.data[i], &wanted->data[i], sizeof(float)) == 0,
                      "turn %d, value %zu: %g, not %g", turn, i, (double)got.data[i],
                      (double)wanted->data[i]);
    }
    free(got.data);
}

/*
 * Shapes come plainly, recorded and replayed, on either image, growing and shrinking. Among them: a
 * large one is planned for one image, a small one is replayed on both, and the large one comes to
 * the other image, whose results have been small so far.
 */
static const int order[] = {0, 0, 3, 0, 0, 0, 0, 0, 3, 0, 0, 3, 3, 2, 0, 0, 0, 0, 2, 2, 2, 2, 1,
                            0, 1, 1, 2, 1, 1, 2, 1, 0, 3, 0, 3, 3, 3, 2, 1, 3, 0, 1, 2, 1, 3, 1};
enum { TURNS = sizeof order / sizeof *order };

START_TEST(test_turns_give_the_bits_of_single_batches)
{
    batch batches[BATCHES];
    answer answers[BATCHES];
    ser_outputs outputs;
    ser_outputs before;
    fill_batches(batches);
    open_net(_i / 2 == 0 ? NET_BASE : NET_LOGMEL, _i % 2 == 1);
    answers_alone(batches, answers);
    ser_workspace *w = workspace();
    assert_ok(prepare(w, &batches[order[0]], true));
    assert_ok(ser_net_launch(w, &outputs));
    assert_ok(ser_net_wait(w));
    for (int turn = 0; turn < TURNS; turn++) {
        assert_ok(prepare(w, &batches[order[turn]], false));
        assert_ok(ser_net_wait(w));
        assert_ok(ser_net_launch(w, &outputs));
        if (turn > 0) { /* while this turn is under way */
            check(&before, &batches[order[turn - 1]], &answers[order[turn - 1]], turn);
        }
        before = outputs;
    }
    assert_ok(ser_net_wait(w));
    check(&before, &batches[order[TURNS - 1]], &answers[order[TURNS - 1]], TURNS);
    for (int i = 0; i < BATCHES; i++) { /* and alone again, in the same workspace */
        assert_ok(prepare(w, &batches[i], true));
        assert_ok(ser_net_launch(w, &outputs));
        assert_ok(ser_net_wait(w));
        check(&outputs, &batches[i], &answers[i], TURNS + i);
        free(answers[i].data);
    }
    ser_workspace_free(w);
    close_net();
    free_batches(batches);
}
END_TEST

static int transfers;

static int count_upload(ser_queue *queue, void *device, const void *host, size_t size)
{
    transfers++;
    return ser_cuda_ops.upload(queue, device, host, size);
}

static int count_download(ser_queue *queue, void *host, const void *device, size_t size)
{
    transfers++;
    return ser_cuda_ops.download(queue, host, device, size);
}

/* One to the device and one back: in a small network more would be most of the time. */
START_TEST(test_two_transfers)
{
    batch batches[BATCHES];
    ser_outputs outputs;
    fill_batches(batches);
    open_net(_i, true);
    ser_ops ops = ser_cuda_ops;
    ops.upload = count_upload;
    ops.download = count_download;
    ser_workspace *w = workspace();
    w->queue->ops = &ops;
    assert_ok(prepare(w, &batches[1], true));
    transfers = 0;
    assert_ok(ser_net_launch(w, &outputs));
    assert_ok(ser_net_wait(w));
    ck_assert_int_eq(transfers, 2);
    w->queue->ops = &ser_cuda_ops;
    ser_workspace_free(w);
    close_net();
    free_batches(batches);
}
END_TEST

START_TEST(test_launch_needs_a_prepared_batch)
{
    batch batches[BATCHES];
    ser_outputs outputs;
    fill_batches(batches);
    open_net(NET_LOGMEL, _i == 1);
    ser_workspace *w = workspace();
    assert_fails(ser_net_launch(w, &outputs), SER_ERR_INTERNAL, "launch before prepare");
    assert_ok(prepare(w, &batches[0], true));
    assert_ok(ser_net_launch(w, &outputs));
    assert_ok(ser_net_wait(w));
    assert_fails(ser_net_launch(w, &outputs), SER_ERR_INTERNAL, "launch before prepare");
    batch none = batches[0];
    none.samples[0] = 1;
    assert_fails(prepare(w, &none, true), SER_ERR_INTERNAL, "has 1 samples");
    assert_fails(ser_net_launch(w, &outputs), SER_ERR_INTERNAL, "launch before prepare");
    ser_workspace_free(w);
    close_net();
    free_batches(batches);
}
END_TEST

/* A batch that does not fit is prepared while another is under way: whose outputs can be read. */
START_TEST(test_the_batch_under_way_survives)
{
    batch batches[BATCHES];
    answer answers[BATCHES];
    ser_outputs outputs;
    ser_outputs other;
    fill_batches(batches);
    open_net(NET_LOGMEL, true);
    answers_alone(batches, answers);
    ser_workspace *w = workspace();
    for (int turn = 0; turn < 4; turn++) {
        assert_ok(prepare(w, &batches[0], false));
        assert_ok(ser_net_launch(w, &outputs));
        emulator_memory_limit(emulator_memory_used() + 1000);
        assert_fails(prepare(w, &batches[3], false), SER_ERR_MEMORY, "are needed at once");
        assert_ok(ser_net_wait(w));
        check(&outputs, &batches[0], &answers[0], turn);
        emulator_memory_limit(0);
    }
    assert_ok(prepare(w, &batches[0], false));
    assert_ok(ser_net_launch(w, &outputs));
    assert_ok(prepare(w, &batches[3], false));
    assert_ok(ser_net_wait(w));
    assert_ok(ser_net_launch(w, &other));
    check(&outputs, &batches[0], &answers[0], 5);
    assert_ok(ser_net_wait(w));
    check(&other, &batches[3], &answers[3], 6);
    for (int i = 0; i < BATCHES; i++) {
        free(answers[i].data);
    }
    ser_workspace_free(w);
    close_net();
    free_batches(batches);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("prediction_turns");
    TCase *tcase = tcase_create("prediction_turns");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, test_turns_give_the_bits_of_single_batches, 0, 4);
    tcase_add_loop_test(tcase, test_two_transfers, 0, NET_KINDS);
    tcase_add_loop_test(tcase, test_launch_needs_a_prepared_batch, 0, 2);
    tcase_add_test(tcase, test_the_batch_under_way_survives);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
