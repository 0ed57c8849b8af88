/* SPDX-License-Identifier: MIT */
/* What runs of ser-train do not show quickly: the order of clips, notes of checkpoints, files of a
 * run directory after a crash. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli_config.h"
#include "message.h"
#include "run_dir.h"
#include "text.h"
#include "train_loader.h"
#include "train_options.h"
#include "train_state.h"

enum { CLIPS = 1000, BATCH = 8 };

static char folder[] = "/tmp/ser-train-test-XXXXXX";

/* ---- plans ---- */

static loader_pool make_pool(void)
{
    loader_pool pool = {.count = CLIPS};
    pool.clips = text_alloc(CLIPS, sizeof *pool.clips);
    pool.copies = text_alloc(CLIPS, sizeof *pool.copies);
    pool.lengths = text_alloc(CLIPS, sizeof *pool.lengths);
    for (uint32_t i = 0; i < CLIPS; i++) {
        pool.clips[i] = i;
        pool.lengths[i] = 16000 + (i * 7919) % 80000;
    }
    return pool;
}

static bool same_plan(const loader_plan *a, const loader_plan *b)
{
    return a->batches == b->batches &&
           memcmp(a->order, b->order, a->starts[a->batches] * sizeof *a->order) == 0;
}

/* Marks the clips of a plan; each may come once. */
static size_t count_clips(const loader_plan *plan)
{
    bool seen[CLIPS] = {false};
    size_t count = plan->starts[plan->batches];
    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_lt(plan->order[i], CLIPS);
        ck_assert(!seen[plan->order[i]]);
        seen[plan->order[i]] = true;
    }
    return count;
}

START_TEST(an_epoch_is_a_function_of_seed_and_number)
{
    loader_pool pool = make_pool();
    loader_plan plan;
    loader_plan same;
    loader_plan later;
    loader_plan other;
    loader_plan_shuffle(&plan, &pool, BATCH, 1, 5, 3);
    loader_plan_shuffle(&same, &pool, BATCH, 1, 5, 3);
    loader_plan_shuffle(&later, &pool, BATCH, 1, 5, 4);
    loader_plan_shuffle(&other, &pool, BATCH, 1, 6, 3);
    ck_assert(same_plan(&plan, &same));
    ck_assert(!same_plan(&plan, &later));
    ck_assert(!same_plan(&plan, &other));
    ck_assert_uint_eq(count_clips(&plan), CLIPS);
    loader_plan_free(&plan);
    loader_plan_free(&same);
    loader_plan_free(&later);
    loader_plan_free(&other);
    loader_pool_free(&pool);
}
END_TEST

/* Share of a batch that would be padding, if it were padded to its longest clip. */
static double padding(const loader_plan *plan)
{
    double used = 0.0;
    double room = 0.0;
    for (size_t b = 0; b < plan->batches; b++) {
        uint32_t longest = 0;
        for (size_t i = plan->starts[b]; i < plan->starts[b + 1]; i++) {
            uint32_t length = plan->pool->lengths[plan->order[i]];
            longest = length > longest ? length : longest;
            used += length;
        }
        room += (double)longest * (double)(plan->starts[b + 1] - plan->starts[b]);
    }
    return 1.0 - used / room;
}

START_TEST(batches_hold_clips_of_similar_length)
{
    loader_pool pool = make_pool();
    loader_plan plan;
    loader_plan_shuffle(&plan, &pool, BATCH, 1, 1, 0);
    ck_assert_double_lt(padding(&plan), 0.05); /* 0.4 in random order */
    /* but do not come in the order of length */
    size_t rising = 0;
    for (size_t b = 1; b < plan.batches; b++) {
        rising +=
            pool.lengths[plan.order[plan.starts[b]]] > pool.lengths[plan.order[plan.starts[b - 1]]];
    }
    ck_assert_uint_gt(rising, plan.batches / 4);
    ck_assert_uint_lt(rising, 3 * plan.batches / 4);
    loader_plan_free(&plan);
    loader_pool_free(&pool);
}
END_TEST

START_TEST(updates_are_whole)
{
    loader_pool pool = make_pool();
    loader_plan plan;
    loader_plan_shuffle(&plan, &pool, BATCH, 4, 1, 0); /* 125 batches: one is left out */
    ck_assert_uint_eq(plan.batches, 124);
    ck_assert_uint_eq(plan.batches, loader_plan_batches(&pool, BATCH, 4));
    ck_assert_uint_eq(count_clips(&plan), CLIPS - BATCH);
    loader_plan_free(&plan);
    ck_assert_uint_eq(loader_plan_batches(&pool, BATCH, 126), 0);
    pool.count = 17;
    loader_plan_shuffle(&plan, &pool, BATCH, 1, 1, 0); /* a short batch is one */
    ck_assert_uint_eq(plan.batches, 3);
    ck_assert_uint_eq(count_clips(&plan), 17);
    loader_plan_free(&plan);
    pool.count = CLIPS;
    loader_pool_free(&pool);
}
END_TEST

START_TEST(sorted_plans_begin_with_the_longest)
{
    loader_pool pool = make_pool();
    loader_plan plan;
    loader_plan_sort(&plan, &pool, 16);
    ck_assert_uint_eq(count_clips(&plan), CLIPS);
    for (size_t i = 1; i < CLIPS; i++) {
        ck_assert_uint_ge(pool.lengths[plan.order[i - 1]], pool.lengths[plan.order[i]]);
    }
    loader_plan_free(&plan);
    loader_pool_free(&pool);
}
END_TEST

/* ---- notes ---- */

START_TEST(a_note_brings_everything_back)
{
    train_state s = {0};
    train_state back = {0};
    bool other = true;
    for (int i = 0; i < 3; i++) {
        train_epoch epoch = {.train_loss = 1.0 / 3.0,
                             .train_accuracy = i / 7.0,
                             .validation_loss = i == 1 ? NAN : 0.1,
                             .validation_uar = i == 1 ? NAN : 2.0 / 3.0,
                             .rate = 3e-5,
                             .head_rate = 1e-300};
        train_state_next_epoch(&s, &epoch);
    }
    s.batch = 7;
    s.loss_sum = 1234.0 / 7.0;
    s.clips = 56;
    s.correct = 31;
    s.skipped = 2;
    s.rate = 0.1;
    s.gradient_norm = 1.0 / 9.0;
    s.best_epoch = 2;
    s.best_uar = 0.7000000000000001;
    s.temperature = 1.1;
    char *note = train_state_note(&s, 0xfedcba9876543210U);
    ck_assert(train_state_read(&back, note, 0xfedcba9876543210U, &other));
    ck_assert(!other);
    char *again = train_state_note(&back, 0xfedcba9876543210U);
    ck_assert_str_eq(note, again);
    ck_assert_int_eq(back.epoch, 3);
    ck_assert(memcmp(&back.loss_sum, &s.loss_sum, sizeof s.loss_sum) == 0);
    ck_assert(memcmp(&back.best_uar, &s.best_uar, sizeof s.best_uar) == 0);
    ck_assert_double_eq(back.history[2].train_loss, 1.0 / 3.0);
    ck_assert(isnan(back.history[1].validation_uar));
    ck_assert(!train_state_read(&back, note, 1, &other));
    ck_assert(other);
    free(again);
    free(note);
    train_state_free(&back);
    train_state_free(&s);
}
END_TEST

START_TEST(notes_of_others_are_none)
{
    static const char *const notes[] = {
        "",
        "hello",
        "[]",
        "{\"version\":1}",
        "{\"version\":2,\"data\":\"0000000000000000\"}",
        "{\"version\":1,\"data\":\"0000000000000000\",\"epoch\":3,\"history\":[]}",
        "{\"version\":1,\"data\":\"0000000000000000\",\"epoch\":-1,\"history\":[]}",
        "{\"version\":1,\"data\":\"0000000000000000\",\"batch\":-1,\"history\":[]}",
    };
    train_state s = {0};
    bool other = true;
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        ck_assert_msg(!train_state_read(&s, notes[i], 0, &other), "%s", notes[i]);
        ck_assert(!other);
    }
    ck_assert(!train_state_read(&s, NULL, 0, &other));
    train_state_free(&s);
}
END_TEST

/* ---- run directory ---- */

static void put(const char *name, const char *text)
{
    char *path = text_join(folder, "/", name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    free(path);
}

/* As a file is replaced as a whole: other names of the old one keep what it holds. */
static void replace(const char *name, const char *text)
{
    put("new", text);
    char *from = text_join(folder, "/", "new");
    char *to = text_join(folder, "/", name);
    ck_assert_int_eq(rename(from, to), 0);
    free(to);
    free(from);
}

static void make(const char *name)
{
    char *path = text_join(folder, "/", name);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    free(path);
}

static bool has(const char *name)
{
    char *path = text_join(folder, "/", name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static char *get(const char *name)
{
    char *path = text_join(folder, "/", name);
    char *text = text_alloc(10000, 1);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    size_t length = fread(text, 1, 9999, f);
    text[length] = '\0';
    fclose(f);
    free(path);
    return text;
}

static void set_up(void)
{
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    message_set_verbosity(-1);
}

static void tear_down(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(lines_after_a_checkpoint_are_taken_back)
{
    run_dir dir;
    put("config.json", "{}");
    put("metrics.jsonl", "{\"step\":1}\n{\"step\":2}\nnonsense\n{\"loss\":3}\n{\"step\":3}\n"
                         "{\"kind\":\"epoch\",\"step\":2,\"epoch\":1}\n"
                         "{\"kind\":\"epoch\",\"step\":2,\"epoch\":2}\n{\"st");
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_RESUME), 0);
    ck_assert_int_eq(run_dir_trim(&dir, "metrics.jsonl", 2, 1), 0);
    ck_assert_int_eq(run_dir_append(&dir, "metrics.jsonl", json_pack("{s:i}", "step", 3)), 0);
    char *text = get("metrics.jsonl");
    ck_assert_str_eq(text, "{\"step\":1}\n{\"step\":2}\n"
                           "{\"kind\":\"epoch\",\"step\":2,\"epoch\":1}\n{\"step\":3}\n");
    free(text);
    ck_assert_int_eq(run_dir_trim(&dir, "nothing.jsonl", 2, 1), 0);
    ck_assert(!has("nothing.jsonl"));
    run_dir_close(&dir);
}
END_TEST

START_TEST(the_newest_checkpoints_are_kept)
{
    run_dir dir;
    size_t count = 0;
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FRESH), 0);
    ck_assert_int_eq(run_dir_prepare(&dir), 0);
    static const char *const names[] = {"checkpoints/step-9",   "checkpoints/step-100",
                                        "checkpoints/step-20",  "checkpoints/step-x",
                                        "checkpoints/step-120", "checkpoints/step-50.tmp-1-0"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        make(names[i]);
    }
    put("checkpoints/step-9/state.json", "x");
    put("checkpoints/step-50.tmp-1-0/state.json", "x");
    int64_t *steps = run_dir_checkpoints(&dir, &count);
    ck_assert_uint_eq(count, 4);
    ck_assert_int_eq(steps[0], 120);
    ck_assert_int_eq(steps[1], 100);
    ck_assert_int_eq(steps[3], 9);
    free(steps);
    ck_assert(!has("checkpoints/step-50.tmp-1-0")); /* of a save that was killed */
    run_dir_rotate(&dir, 100, 2);                   /* 120 is of a run that went back */
    ck_assert(!has("checkpoints/step-120"));
    ck_assert(has("checkpoints/step-100"));
    ck_assert(has("checkpoints/step-20"));
    ck_assert(!has("checkpoints/step-9"));
    ck_assert(has("checkpoints/step-x"));
    run_dir_close(&dir);
}
END_TEST

START_TEST(a_best_model_belongs_to_each_checkpoint)
{
    run_dir dir;
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FRESH), 0);
    ck_assert_int_eq(run_dir_prepare(&dir), 0);
    ck_assert_int_eq(run_dir_keep_best(&dir, 4), ENOENT);
    ck_assert_int_eq(run_dir_take_best(&dir, 4), 0); /* none was kept: nothing to bring back */
    for (int64_t step = 4; step <= 6; step++) {
        char name[32];
        snprintf(name, sizeof name, "checkpoints/step-%d", (int)step);
        make(name);
        if (step < 6) { /* 5 and 6 have the same */
            replace("best.safetensors", step == 4 ? "four" : "five");
        }
        ck_assert_int_eq(run_dir_keep_best(&dir, step), 0);
        ck_assert_int_eq(run_dir_keep_best(&dir, step), 0); /* saved again */
    }
    put("checkpoints/best-7.safetensors", "of a save that was killed");
    put("checkpoints/best-4.txt", "mine");
    run_dir_rotate(&dir, 6, 3);
    ck_assert(has("checkpoints/best-4.safetensors"));
    ck_assert(!has("checkpoints/best-7.safetensors"));
    ck_assert(has("checkpoints/best-4.txt"));
    for (int64_t step = 6; step >= 4; step -= 2) {
        ck_assert_int_eq(run_dir_take_best(&dir, step), 0);
        ck_assert_int_eq(run_dir_take_best(&dir, step), 0); /* a second time */
        char *text = get("best.safetensors");
        ck_assert_str_eq(text, step == 4 ? "four" : "five");
        free(text);
    }
    run_dir_rotate(&dir, 4, 1);
    ck_assert(has("checkpoints/best-4.safetensors"));
    ck_assert(!has("checkpoints/best-5.safetensors"));
    run_dir_clear(&dir);
    ck_assert(!has("checkpoints/best-4.safetensors"));
    run_dir_close(&dir);
}
END_TEST

START_TEST(what_a_killed_run_left_is_no_obstacle)
{
    run_dir dir;
    put("config.json", "{}");
    put(".probe", "");
    put(".ser-12-0.tmp", "half a model");
    put("config.json.12-0.tmp", "{");
    put("metrics.jsonl.12-3.tmp", "{");
    make("checkpoints");
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FRESH), 0);
    ck_assert(!has(".ser-12-0.tmp"));
    ck_assert(!has("config.json.12-0.tmp"));
    ck_assert(!has("metrics.jsonl.12-3.tmp"));
    ck_assert(!has(".probe"));
    run_dir_close(&dir);
    put("notes.tmp", "mine");
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FRESH), MESSAGE_EXIT_USAGE);
    ck_assert(has("notes.tmp"));
}
END_TEST

START_TEST(one_run_at_a_time)
{
    run_dir dir;
    run_dir second;
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FRESH), 0);
    ck_assert_int_eq(run_dir_open(&second, folder, RUN_DIR_SHARED), MESSAGE_EXIT_IO);
    run_dir_close(&dir);
    ck_assert_int_eq(run_dir_open(&second, folder, RUN_DIR_SHARED), 0);
    run_dir_close(&second);
}
END_TEST

START_TEST(clearing_leaves_other_files)
{
    run_dir dir;
    ck_assert_int_eq(run_dir_open(&dir, folder, RUN_DIR_FORCE), 0);
    ck_assert_int_eq(run_dir_prepare(&dir), 0);
    make("checkpoints/step-3");
    put("checkpoints/step-3/state.json", "x");
    put("report.json", "{}");
    put("thesis.tex", "x");
    run_dir_clear(&dir);
    ck_assert(!has("report.json"));
    ck_assert(!has("checkpoints/step-3"));
    ck_assert(has("thesis.tex"));
    run_dir_close(&dir);
}
END_TEST

/* ---- settings ---- */

START_TEST(settings_reach_the_trainer)
{
    char *words[] = {"ser-train",
                     "--dataset=ravdess=x",
                     "--arch",
                     "ser-mini",
                     "--output",
                     "y",
                     "--lr",
                     "0.25",
                     "--warmup",
                     "0.2",
                     "--schedule",
                     "cosine",
                     "--ema",
                     "0.5",
                     "--freeze-layers",
                     "-1",
                     "--augment-mel-time-spans",
                     "3",
                     "--seed",
                     "9",
                     "--repeat",
                     "ravdess=3",
                     "--repeat",
                     "tess=2",
                     "--feature-cache-mb",
                     "1"};
    train_options o;
    ser_trainer_options t;
    ck_assert_int_eq(train_options_read(&o, sizeof words / sizeof words[0], words), CLI_CONTINUE);
    train_options_fill(&o, 1000, &t);
    ck_assert_float_eq(t.rate, 0.25F);
    ck_assert_int_eq(t.steps, 1000);
    ck_assert_int_eq(t.warmup_steps, 200);
    ck_assert_int_eq(t.schedule, SER_SCHEDULE_COSINE);
    ck_assert_float_eq(t.average, 0.5F);
    ck_assert_int_eq(t.freeze_layers, -1);
    ck_assert_int_eq(t.freeze_features, 1);
    ck_assert_int_eq(t.augment.mel_time_spans, 3);
    ck_assert_uint_eq(t.seed, 9);
    ck_assert_uint_eq(t.cache_bytes, 1U << 20);
    ck_assert_float_eq(t.mask_time_probability, 0.0F);
    ck_assert(train_options_augments(&o));
    ck_assert_uint_eq(train_options_repeat(&o, "ravdess"), 3);
    ck_assert_uint_eq(train_options_repeat(&o, "tess"), 2);
    ck_assert_uint_eq(train_options_repeat(&o, "savee"), 1);
    o.warmup = 77.0;
    train_options_fill(&o, 1000, &t);
    ck_assert_int_eq(t.warmup_steps, 77);
    train_options_fill(&o, 10, &t);
    ck_assert_int_eq(t.warmup_steps, 10);
    train_options_free(&o);
}
END_TEST

START_TEST(differences_are_those_of_settings)
{
    json_t *a = json_pack("{s:f, s:s, s:i}", "lr", 0.1 + 0.2, "device", "cpu", "epochs", 3);
    json_t *b = json_pack("{s:f, s:s, s:f}", "lr", 0.3, "device", "cuda", "epochs", 3.0);
    ck_assert_ptr_null(cli_config_difference(&train_program, a, b));
    json_object_set_new(b, "drop", json_pack("[s]", "sad"));
    ck_assert_str_eq(cli_config_difference(&train_program, a, b), "drop");
    json_object_set_new(a, "drop", json_pack("[s]", "sad"));
    ck_assert_ptr_null(cli_config_difference(&train_program, a, b));
    json_object_set_new(b, "lr", json_real(0.31));
    ck_assert_str_eq(cli_config_difference(&train_program, a, b), "lr");
    json_decref(a);
    json_decref(b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train");
    TCase *plain = tcase_create("plain");
    tcase_add_test(plain, an_epoch_is_a_function_of_seed_and_number);
    tcase_add_test(plain, batches_hold_clips_of_similar_length);
    tcase_add_test(plain, updates_are_whole);
    tcase_add_test(plain, sorted_plans_begin_with_the_longest);
    tcase_add_test(plain, a_note_brings_everything_back);
    tcase_add_test(plain, notes_of_others_are_none);
    tcase_add_test(plain, settings_reach_the_trainer);
    tcase_add_test(plain, differences_are_those_of_settings);
    suite_add_tcase(suite, plain);
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, set_up, tear_down);
    tcase_add_test(files, lines_after_a_checkpoint_are_taken_back);
    tcase_add_test(files, the_newest_checkpoints_are_kept);
    tcase_add_test(files, a_best_model_belongs_to_each_checkpoint);
    tcase_add_test(files, what_a_killed_run_left_is_no_obstacle);
    tcase_add_test(files, one_run_at_a_time);
    tcase_add_test(files, clearing_leaves_other_files);
    suite_add_tcase(suite, files);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
