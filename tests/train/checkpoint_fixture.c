/* SPDX-License-Identifier: MIT */
#include "checkpoint_fixture.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void rich_options(void)
{
    options.steps = 12;
    options.warmup_steps = 3;
    options.schedule = SER_SCHEDULE_COSINE;
    options.accumulate = 2;
    options.average = 0.9F;
    options.label_smoothing = 0.1F;
    options.projection_dropout = 0.1F;
    options.hidden_dropout = 0.1F;
    options.attention_dropout = 0.1F;
    options.activation_dropout = 0.1F;
    options.classifier_dropout = 0.1F;
    options.layer_drop = 0.3F;
    options.mask_time_probability = 0.2F;
    options.mask_time_length = 2;
    options.mask_channel_probability = 0.2F;
    options.mask_channel_length = 2;
    options.augment.speed_probability = 0.5F;
    options.augment.speed = 0.1F;
    options.augment.noise_probability = 0.5F;
    options.augment.noise_snr_low = 20.0F;
    options.augment.noise_snr_high = 40.0F;
    options.augment.mel_warp = 0.05F;
    options.augment.mel_tilt = 0.2F;
    options.augment.mel_time_spans = 1;
    options.augment.mel_time_width = 4;
}

void train(int first, int count)
{
    for (int i = first; i < first + count; i++) {
        ser_clip clips[3];
        ser_batch *batch;
        for (int k = 0; k < 3; k++) {
            clips[k] = clip_of((3 * i + k) % CLIPS);
        }
        assert_ok(ser_batch_create(trainer, clips, 3, i / 2, 1, &batch));
        (void)step(batch);
        ser_batch_free(&batch);
    }
}

snapshot take_snapshot(void)
{
    static const enum ser_training_array arrays[] = {SER_TRAINING_WEIGHT, SER_TRAINING_MOMENT1,
                                                     SER_TRAINING_MOMENT2, SER_TRAINING_AVERAGE};
    const size_t kinds = options.average > 0.0F ? 4 : 3;
    const ser_params *params = ser_net_params(model->net);
    snapshot s = {.step = trainer->step,
                  .batches = trainer->batches,
                  .updates = ser_training_updates(trainer->training),
                  .rate_factor = trainer->rate_factor};
    s.values = malloc((size_t)model->parameter_count * 5 * sizeof *s.values);
    for (size_t i = 0; i < params->count; i++) {
        const size_t elements = (size_t)ser_param_elements(&params->list[i]);
        assert_ok(ser_net_get(model->net, i, s.values + s.count));
        s.count += elements;
        for (size_t k = 0; k < kinds && ser_training_is_trained(trainer->training, i); k++) {
            assert_ok(ser_training_get(trainer->training, arrays[k], i, s.values + s.count));
            s.count += elements;
        }
    }
    return s;
}

void free_snapshot(snapshot *s)
{
    free(s->values);
    s->values = NULL;
}

bool is_same_state(const snapshot *s)
{
    snapshot now = take_snapshot();
    bool same = now.count == s->count && now.step == s->step && now.batches == s->batches &&
                now.updates == s->updates && now.rate_factor == s->rate_factor &&
                memcmp(now.values, s->values, s->count * sizeof *s->values) == 0;
    free_snapshot(&now);
    return same;
}

void assert_same_state(const snapshot *s)
{
    ck_assert_int_eq(trainer->step, s->step);
    ck_assert_int_eq(trainer->batches, s->batches);
    ck_assert(is_same_state(s));
}

void start_over(int kind, uint64_t seed)
{
    make_model(kind, seed);
    make_trainer();
}

static char root_path[256];

void new_root(void)
{
    static int count;
    snprintf(root_path, sizeof root_path, "%s/%d", harness_tmpdir(), count++);
    ck_assert_int_eq(mkdir(root_path, 0777), 0);
}

const char *root(void)
{
    return root_path;
}

const char *place(const char *name)
{
    static char paths[64][8192];
    static unsigned next;
    char *to = paths[next++ % 64];
    snprintf(to, sizeof paths[0], "%s/%s", root_path, name);
    return to;
}

const char *within(const char *path, const char *file)
{
    static char paths[8][8192];
    static unsigned next;
    char *to = paths[next++ % 8];
    snprintf(to, sizeof paths[0], "%s/%s", path, file);
    return to;
}

unsigned char *read_bytes(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size + 1);
    ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
    bytes[*size] = '\0';
    (void)fclose(file);
    return bytes;
}

void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

void copy_directory(const char *from, const char *to)
{
    DIR *directory = opendir(from);
    ck_assert_ptr_nonnull(directory);
    ck_assert_int_eq(mkdir(to, 0777), 0);
    for (struct dirent *e = readdir(directory); e != NULL; e = readdir(directory)) {
        if (e->d_name[0] != '.') {
            size_t size;
            unsigned char *bytes = read_bytes(within(from, e->d_name), &size);
            write_bytes(within(to, e->d_name), bytes, size);
            free(bytes);
        }
    }
    (void)closedir(directory);
}

size_t count_entries(const char *path)
{
    DIR *directory = opendir(path);
    size_t count = 0;
    ck_assert_ptr_nonnull(directory);
    for (struct dirent *e = readdir(directory); e != NULL; e = readdir(directory)) {
        count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 ? 1 : 0;
    }
    (void)closedir(directory);
    return count;
}

long dead_pid(void)
{
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    return (long)child;
}
