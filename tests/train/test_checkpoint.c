/* SPDX-License-Identifier: MIT */
/* What a checkpoint brings back, and what is refused without a trace. */
#include "checkpoint_fixture.h"

#include <sys/stat.h>
#include <unistd.h>

#include "train/checkpoint_files.h"

static const char *const file_names[] = {SER_CHECKPOINT_MODEL, SER_CHECKPOINT_TENSORS,
                                         SER_CHECKPOINT_STATE, SER_CHECKPOINT_MANIFEST};
enum { FILES = 4 };

static void save(const char *path, const char *note)
{
    assert_ok(ser_trainer_save(trainer, path, note));
}

static void setup(void)
{
    trainer_setup();
    new_root();
    rich_options();
    start_over(LOGMEL, 1);
}

/* --- Coming back --- */

START_TEST(everything_comes_back)
{
    for (int kind = 0; kind < KINDS; kind++) {
        const char *path = place(kind == WAVE ? "wave" : "logmel");
        const char *note = "untouched";
        start_over(kind, 1);
        train(0, 4);
        assert_ok(ser_trainer_set_rate(trainer, 0.1));
        save(path, "epoch 3, \"clip\" 7 \xC3\xA9\n");
        snapshot saved = take_snapshot();
        train(4, 2);
        ck_assert(!is_same_state(&saved));
        assert_ok(ser_trainer_restore(trainer, path, &note));
        ck_assert_str_eq(note, "epoch 3, \"clip\" 7 \xC3\xA9\n");
        assert_same_state(&saved);
        /* another process's trainer, of another model */
        start_over(kind, 2);
        ck_assert(!is_same_state(&saved));
        assert_ok(ser_trainer_restore(trainer, path, NULL));
        assert_same_state(&saved);
        free_snapshot(&saved);
        ck_assert_uint_eq(count_entries(path), FILES);
    }
}
END_TEST

START_TEST(without_note_and_average)
{
    options.average = 0.0F;
    options.accumulate = 1;
    start_over(LOGMEL, 1);
    const char *path = place("plain");
    train(0, 1);
    save(path, "first");
    train(1, 1);
    save(path, NULL);
    snapshot saved = take_snapshot();
    train(2, 1);
    const char *note = "old";
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_ptr_null(note);
    assert_same_state(&saved);
    free_snapshot(&saved);
}
END_TEST

/* Interrupted before the first or after any update, and more than once: the same bits as in one go. */
START_TEST(resumed_is_uninterrupted)
{
    enum { BATCHES = 12 };
    const char *path = place("run");
    for (int kind = 0; kind < KINDS; kind++) {
        start_over(kind, 1);
        train(0, BATCHES);
        snapshot whole = take_snapshot();
        start_over(kind, 1);
        save(path, NULL);
        for (int done = 0; done < BATCHES; done += 2) {
            start_over(kind, 100 + (uint64_t)done);
            assert_ok(ser_trainer_restore(trainer, path, NULL));
            ck_assert_int_eq(ser_trainer_steps(trainer), done / 2);
            train(done, 2);
            save(path, NULL);
        }
        assert_same_state(&whole);
        free_snapshot(&whole);
    }
}
END_TEST

/* The raw weights are saved and restored, whichever are in use. */
START_TEST(average_in_use)
{
    const char *path = place("average");
    train(0, 6);
    snapshot saved = take_snapshot();
    assert_ok(ser_trainer_use_average(trainer, 1));
    ck_assert(!is_same_state(&saved));
    save(path, NULL);
    assert_ok(ser_trainer_use_average(trainer, 0));
    assert_same_state(&saved);
    train(6, 2);
    assert_ok(ser_trainer_use_average(trainer, 1));
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    assert_ok(ser_trainer_use_average(trainer, 0));
    assert_same_state(&saved);
    free_snapshot(&saved);
}
END_TEST

/* Frozen weights are the checkpoint's too, and the levels that were measured. */
START_TEST(frozen_weights_come_back)
{
    options.freeze = "wav2vec2.encoder.*";
    start_over(LOGMEL, 1);
    ser_batch *batch = make_batch(0, 3);
    assert_ok(ser_trainer_observe(trainer, batch));
    assert_ok(ser_trainer_settle(trainer));
    ser_batch_free(&batch);
    const char *path = place("frozen");
    train(0, 2);
    save(path, NULL);
    snapshot saved = take_snapshot();
    train(2, 4);
    snapshot later = take_snapshot();
    start_over(LOGMEL, 2);
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    assert_same_state(&saved);
    train(2, 4);
    assert_same_state(&later);
    free_snapshot(&saved);
    free_snapshot(&later);
}
END_TEST

/* A checkpoint's model is a model. */
START_TEST(model_file_loads)
{
    const char *path = place("model");
    train(0, 2);
    save(path, NULL);
    ser_model *loaded;
    assert_ok(ser_model_load(device, within(path, SER_CHECKPOINT_MODEL), NULL, &loaded));
    ck_assert_uint_eq(ser_model_parameter_count(loaded), ser_model_parameter_count(model));
    ser_model_free(&loaded);
}
END_TEST

START_TEST(between_updates_only)
{
    train(0, 1);
    assert_fails(ser_trainer_save(trainer, place("half"), NULL), SER_ERR_UNSUPPORTED,
                 "accumulated");
    ck_assert_int_ne(access(place("half"), F_OK), 0);
    train(1, 1);
    save(place("half"), NULL);
}
END_TEST

START_TEST(note_must_be_utf8)
{
    const char *path = place("note");
    save(path, "good");
    assert_fails(ser_trainer_save(trainer, path, "\xFF"), SER_ERR_ARGUMENT, "UTF-8");
    const char *note = NULL;
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "good");
    ck_assert_uint_eq(count_entries(root()), 1);
}
END_TEST

/* --- Damage (CK5, CK8) --- */

/* Restoring from `path` fails, names `part`, and leaves the trainer as it is. */
static void refuse(const char *path, int status, const char *part, const snapshot *before)
{
    assert_fails(ser_trainer_restore(trainer, path, NULL), status, part);
    ck_assert(is_same_state(before));
}

START_TEST(flipped_bits)
{
    enum { PLACES = 40 };
    const char *path = place("flip");
    train(0, 2);
    save(path, "a note");
    snapshot saved = take_snapshot();
    for (int f = 0; f < FILES; f++) {
        size_t size;
        const char *file = within(path, file_names[f]);
        unsigned char *bytes = read_bytes(file, &size);
        for (size_t i = 0; i < PLACES; i++) {
            const size_t at = i * (size - 1) / (PLACES - 1);
            bytes[at] ^= (unsigned char)(1U << (i % 8));
            write_bytes(file, bytes, size);
            int status = ser_trainer_restore(trainer, path, NULL);
            if (f < FILES - 1) {
                ck_assert_int_eq(status, SER_ERR_MISMATCH);
                ck_assert_ptr_nonnull(strstr(ser_fail_text(), file_names[f]));
            }
            /* in the manifest a blank may become another one */
            ck_assert(is_same_state(&saved));
            bytes[at] ^= (unsigned char)(1U << (i % 8));
        }
        write_bytes(file, bytes, size);
        free(bytes);
    }
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    free_snapshot(&saved);
}
END_TEST

START_TEST(missing_and_short_files)
{
    const char *good = place("good");
    train(0, 2);
    save(good, NULL);
    snapshot saved = take_snapshot();
    for (int f = 0; f < FILES; f++) {
        char name[16];
        snprintf(name, sizeof name, "bad%d", f);
        const char *bad = place(name);
        size_t size;
        copy_directory(good, bad);
        const char *file = within(bad, file_names[f]);
        unsigned char *bytes = read_bytes(file, &size);
        write_bytes(file, bytes, size / 2);
        refuse(bad, f < FILES - 1 ? SER_ERR_MISMATCH : SER_ERR_FORMAT, file_names[f], &saved);
        write_bytes(file, bytes, 0);
        refuse(bad, f < FILES - 1 ? SER_ERR_MISMATCH : SER_ERR_FORMAT, file_names[f], &saved);
        ck_assert_int_eq(remove(file), 0);
        refuse(bad, SER_ERR_FORMAT, file_names[f], &saved);
        ck_assert_int_eq(symlink(within(good, file_names[f]), file), 0);
        refuse(bad, SER_ERR_IO, file_names[f], &saved);
        ck_assert_int_eq(remove(file), 0);
        ck_assert_int_eq(mkdir(file, 0777), 0);
        refuse(bad, SER_ERR_IO, file_names[f], &saved);
        free(bytes);
    }
    free_snapshot(&saved);
}
END_TEST

START_TEST(swapped_files)
{
    const char *first = place("first");
    const char *second = place("second");
    train(0, 2);
    save(first, NULL);
    train(2, 2);
    save(second, NULL);
    snapshot saved = take_snapshot();
    for (int f = 0; f < FILES; f++) {
        char name[16];
        snprintf(name, sizeof name, "mixed%d", f);
        const char *mixed = place(name);
        size_t size;
        copy_directory(second, mixed);
        unsigned char *bytes = read_bytes(within(first, file_names[f]), &size);
        write_bytes(within(mixed, file_names[f]), bytes, size);
        free(bytes);
        refuse(mixed, SER_ERR_MISMATCH, f < FILES - 1 ? file_names[f] : SER_CHECKPOINT_STATE,
               &saved);
    }
    free_snapshot(&saved);
}
END_TEST

/* Replace `from` with `to`, which must not be longer, in a file; blanks fill up. */
static void edit(const char *path, const char *from, const char *to)
{
    size_t size;
    unsigned char *bytes = read_bytes(path, &size);
    char *at = strstr((char *)bytes, from);
    ck_assert_msg(at != NULL, "%s lacks %s", path, from);
    const size_t room = strlen(from);
    memset(at, ' ', room);
    memcpy(at, to, strlen(to));
    write_bytes(path, bytes, size);
    free(bytes);
}

/* What the manifest may say. */
START_TEST(manifests)
{
    static const struct {
        const char *from, *to;
        int status;
        const char *part;
    } cases[] = {
        {"\"version\": 1", "\"version\": 2", SER_ERR_VERSION, "version 2; this libser ("},
        {"\"version\": 1", "\"version\": 0", SER_ERR_FORMAT, "version is 0"},
        {"\"version\": 1", "\"versiom\": 1", SER_ERR_FORMAT, "version is missing"},
        {"ser-checkpoint", "ser-chequpoint", SER_ERR_FORMAT, "format"},
        {"\"files\"", "\"filez\"", SER_ERR_FORMAT, "files is missing"},
        {"\"state.json\"", "\"state.jsom\"", SER_ERR_FORMAT, "state.json is missing"},
        {"\"size\"", "\"sise\"", SER_ERR_FORMAT, "size is missing"},
        {"\"xxh3_128\"", "\"xxh3_129\"", SER_ERR_FORMAT, "xxh3_128 is missing"},
        {"\"xxh3_128\": \"", "\"xxh3_128\": [\"", SER_ERR_FORMAT, "manifest.json"},
        {"{", "[", SER_ERR_FORMAT, "manifest.json"},
    };
    const char *good = place("good");
    save(good, NULL);
    snapshot saved = take_snapshot();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[16];
        snprintf(name, sizeof name, "edited%zu", i);
        const char *bad = place(name);
        copy_directory(good, bad);
        size_t length = strlen(cases[i].from);
        char to[64];
        snprintf(to, sizeof to, "%.*s", (int)length, cases[i].to);
        edit(within(bad, SER_CHECKPOINT_MANIFEST), cases[i].from, to);
        refuse(bad, cases[i].status, cases[i].part, &saved);
    }
    free_snapshot(&saved);
}
END_TEST

/* Write the manifest anew, so that only the reader of the content can object. */
static void seal(const char *path)
{
    ser_checkpoint_place where;
    assert_ok(ser_checkpoint_place_open(path, &where));
    where.temporary = ser_mem_strdup(where.name);
    assert_ok(ser_checkpoint_seal(&where));
    ser_mem_free(where.temporary);
    where.temporary = NULL;
    ser_checkpoint_place_close(&where);
}

START_TEST(states)
{
    static const struct {
        const char *from, *to;
        int status;
        const char *part;
    } cases[] = {
        {"\"step\": 1", "\"step\":-1", SER_ERR_FORMAT, "step is -1"},
        {"\"step\": 1", "\"stop\": 1", SER_ERR_FORMAT, "step is missing"},
        {"\"batches\": 2", "\"batches\":[]", SER_ERR_FORMAT, "batches is []"},
        {"\"updates\": 1", "\"updates\":\"\"", SER_ERR_FORMAT, "updates is \"\""},
        {"\"rate_factor\": 1.0", "\"rate_factor\": -1", SER_ERR_FORMAT, "rate_factor is -1"},
        {"\"rate_factor\": 1.0", "\"rate_factor\": 9e9", SER_ERR_FORMAT, "rate_factor is 9e+09"},
        {"\"version\": 1,\n \"step\": 1,\n \"batches\": 2,\n \"updates\": 1",
         "\"version\":1,\"step\":9999999999,\"batches\":2,\"updates\":1", SER_ERR_FORMAT,
         "out of range"},
        {"\"rate_factor\": 1.0", "\"rate_factor\":nul", SER_ERR_FORMAT, "state.json"},
        {"\"average\": 0.8", "\"average\": 0 ,", SER_ERR_FORMAT, "state.json"},
        {"\"note\": \"n\"", "\"note\": 1", SER_ERR_FORMAT, "note is 1"},
    };
    const char *good = place("good");
    train(0, 2);
    save(good, "n");
    snapshot saved = take_snapshot();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[16];
        snprintf(name, sizeof name, "edited%zu", i);
        const char *bad = place(name);
        copy_directory(good, bad);
        edit(within(bad, SER_CHECKPOINT_STATE), cases[i].from, cases[i].to);
        seal(bad);
        refuse(bad, cases[i].status, cases[i].part, &saved);
    }
    free_snapshot(&saved);
}
END_TEST

/* --- Other trainers --- */

static void refuse_here(const char *path, const char *part)
{
    snapshot before = take_snapshot();
    refuse(path, SER_ERR_MISMATCH, part, &before);
    free_snapshot(&before);
}

START_TEST(other_trainers)
{
    const char *path = place("one");
    train(0, 2);
    save(path, NULL);

    start_over(WAVE, 1);
    refuse_here(path, "model.safetensors");

    options.average = 0.0F;
    start_over(LOGMEL, 1);
    refuse_here(path, "average");
    options.average = 0.5F; /* another decay is fine */
    start_over(LOGMEL, 1);
    assert_ok(ser_trainer_restore(trainer, path, NULL));

    options.freeze = "classifier.0.*";
    start_over(LOGMEL, 1);
    refuse_here(path, "other parameters were trained");
    const char *frozen = place("frozen");
    train(0, 2);
    save(frozen, NULL);
    options.freeze = NULL;
    start_over(LOGMEL, 1);
    refuse_here(frozen, "weight.classifier.0.weight is missing");

    /* other labels */
    static const char *const names[] = {"low", "middle", "higher"};
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    assert_ok(
        ser_model_create_from_config(device, tiny_config(LOGMEL), names, LABELS, NULL, &model));
    make_trainer();
    refuse_here(path, "labels");
}
END_TEST

/* --- Memory --- */

START_TEST(out_of_memory)
{
    const char *path = place("memory");
    train(0, 2);
    save(path, "old");
    snapshot saved = take_snapshot();
    const int64_t live = ser_mem_live();
    int failures = 0;
    for (uint64_t nth = 1;; nth++) {
        ser_mem_fail_at(nth, false);
        int status = ser_trainer_save(trainer, path, "new");
        ser_mem_fail_at(0, false);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert_uint_eq(count_entries(root()), 1);
        if (status == 0) {
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        failures++;
    }
    ck_assert_int_gt(failures, 20);
    failures = 0;
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    train(2, 2);
    snapshot later = take_snapshot();
    const int64_t after = ser_mem_live();
    for (uint64_t nth = 1;; nth++) {
        ser_mem_fail_at(nth, false);
        int status = ser_trainer_restore(trainer, path, NULL);
        ser_mem_fail_at(0, false);
        ck_assert_int_eq(ser_mem_live(), after);
        ck_assert(is_same_state(status == 0 ? &saved : &later));
        if (status == 0) {
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        failures++;
    }
    ck_assert_int_gt(failures, 20);
    free_snapshot(&saved);
    free_snapshot(&later);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *tcase = tcase_create("checkpoint");
    tcase_set_timeout(tcase, 60.0);
    tcase_add_checked_fixture(tcase, setup, trainer_teardown);
    tcase_add_test(tcase, everything_comes_back);
    tcase_add_test(tcase, without_note_and_average);
    tcase_add_test(tcase, resumed_is_uninterrupted);
    tcase_add_test(tcase, average_in_use);
    tcase_add_test(tcase, frozen_weights_come_back);
    tcase_add_test(tcase, model_file_loads);
    tcase_add_test(tcase, between_updates_only);
    tcase_add_test(tcase, note_must_be_utf8);
    tcase_add_test(tcase, flipped_bits);
    tcase_add_test(tcase, missing_and_short_files);
    tcase_add_test(tcase, swapped_files);
    tcase_add_test(tcase, manifests);
    tcase_add_test(tcase, states);
    tcase_add_test(tcase, other_trainers);
    tcase_add_test(tcase, out_of_memory);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
