/* SPDX-License-Identifier: MIT */
/*
 * The files of a run. test_report.py reads them with other people's parsers:
 *
 *     test_report --sample plain|nasty DIRECTORY
 */
#include <check.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "escape.h"
#include "message.h"
#include "report.h"
#include "report_sample.h"
#include "text.h"

static char directory[] = "/tmp/ser-report-XXXXXX";
static const char *const file_names[] = {"report.json",   "README.md",  "confusion.csv",
                                         "confusion.svg", "curves.svg", "heldout.csv"};
enum { FILES = sizeof file_names / sizeof file_names[0] };

static char *path_of(const char *name)
{
    return text_join(directory, "/", name);
}

static char *content(const char *name)
{
    char *path = path_of(name);
    FILE *f = fopen(path, "rb");
    free(path);
    if (f == NULL) {
        return NULL;
    }
    char *text = text_alloc(4 << 20, 1);
    text[fread(text, 1, (4 << 20) - 1, f)] = '\0';
    fclose(f);
    return text;
}

static size_t entries(void)
{
    size_t count = 0;
    DIR *d = opendir(directory);
    ck_assert_ptr_nonnull(d);
    for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        count += e->d_name[0] != '.' ? 1 : 0;
    }
    closedir(d);
    return count;
}

static void clear(void)
{
    for (size_t i = 0; i < FILES; i++) {
        char *path = path_of(file_names[i]);
        unlink(path);
        free(path);
    }
}

/* What escape function `put` makes of a text. */
static char *escaped(void (*put)(FILE *, const char *), const char *text)
{
    char *result = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&result, &size);
    ck_assert_ptr_nonnull(f);
    put(f, text);
    fclose(f);
    return result;
}

static void assert_escaped(void (*put)(FILE *, const char *), const char *text,
                           const char *expected)
{
    char *result = escaped(put, text);
    ck_assert_str_eq(result, expected);
    free(result);
}

START_TEST(escapes)
{
    assert_escaped(escape_csv, "plain", "plain");
    assert_escaped(escape_csv, "", "");
    assert_escaped(escape_csv, "a,b", "\"a,b\"");
    assert_escaped(escape_csv, "say \"x\"", "\"say \"\"x\"\"\"");
    assert_escaped(escape_csv, "\xc3\xa4\xff\n", "\xc3\xa4\\xff\\x0a");
    assert_escaped(escape_xml, "<a b='c' d=\"e\">&\x01\xff\xc3\xa4",
                   "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\\x01\\xff\xc3\xa4");
    assert_escaped(escape_xml, "\xef\xbf\xbf", "\\xef\\xbf\\xbf"); /* U+FFFF is not in XML */
    assert_escaped(escape_markdown, "a|b*c_d`e[f](g)<h>&#x\\",
                   "a\\|b\\*c\\_d\\`e\\[f\\](g)\\<h\\>\\&\\#x\\\\");
    assert_escaped(escape_markdown, "\xff\n", "\\\\xff\\\\x0a");
    assert_escaped(escape_markdown_code, "x", "```\nx\n```\n");
    assert_escaped(escape_markdown_code, "a ```` b", "`````\na ```` b\n`````\n");
    assert_escaped(escape_yaml, "no", "\"no\"");
    assert_escaped(escape_yaml, "a\"b\\c\n\xff", "\"a\\\"b\\\\c\\\\x0a\\\\xff\"");
    assert_escaped(escape_yaml, "\xe2\x80\xa8", "\"\\u2028\"");
}
END_TEST

START_TEST(json_says_it_all)
{
    sample *s = sample_new(false);
    ck_assert_int_eq(report_write_json(directory, &s->run), 0);
    char *path = path_of("report.json");
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(root != NULL, "%s", error.text);
    const char *protocol = NULL;
    int seed = 0;
    double uar = 0.0;
    double low = 0.0;
    double rate = 0.0;
    double mean = 0.0;
    json_t *seconds = NULL;
    json_t *warning = NULL;
    int cell = 0;
    int unpacked = json_unpack(
        root, "{s:s, s:i, s:{s:F}, s:[{s:F, s:[F]!, s:[[i]]}], s:{s:{s:F}}, s:[o, {s:o}], s:o}",
        "protocol", &protocol, "seed", &seed, "config", "rate", &rate, "parts", "uar", &uar,
        "accuracy_interval", &low, "confusion", &cell, "fold_spread", "uar", "mean", &mean,
        "corpora", &seconds, "seconds", &seconds, "warning", &warning);
    ck_assert_int_eq(unpacked, -1); /* the interval has two ends: the ! above must refuse it */
    unpacked = json_unpack(
        root, "{s:s, s:i, s:{s:F}, s:[{s:F, s:[F, *], s:[[i]]}], s:{s:{s:F}}, s:[o, {s:o}], s:o}",
        "protocol", &protocol, "seed", &seed, "config", "rate", &rate, "parts", "uar", &uar,
        "accuracy_interval", &low, "confusion", &cell, "fold_spread", "uar", "mean", &mean,
        "corpora", &seconds, "seconds", &seconds, "warning", &warning);
    ck_assert_int_eq(unpacked, 0);
    ck_assert_str_eq(protocol, s->run.protocol);
    ck_assert_int_eq(seed, 7);
    ck_assert_double_eq_tol(uar, s->pooled.uar, 1e-14);
    ck_assert_double_eq_tol(low, s->pooled.accuracy_interval.low, 1e-14);
    ck_assert_double_eq(rate, 1e-05);
    ck_assert_int_eq(cell, (int)s->pooled.confusion[0]);
    ck_assert(json_is_null(seconds)); /* NaN */
    ck_assert(json_is_null(warning));
    double sum = 0.0;
    for (size_t i = 0; i < SAMPLE_FOLDS; i++) {
        sum += s->fold_results[i].uar / SAMPLE_FOLDS;
    }
    ck_assert_double_eq_tol(mean, sum, 1e-14);
    json_decref(root);
    free(path);
    sample_free(s);
    clear();
}
END_TEST

START_TEST(an_empty_run_has_a_report)
{
    static const char *const labels[] = {"a", "b"};
    run_report run = {.labels = labels, .label_count = 2};
    ck_assert_int_eq(report_write(directory, &run), 0);
    ck_assert_uint_eq(entries(), 2); /* report.json and the card */
    char *card = content("README.md");
    ck_assert_ptr_nonnull(strstr(card, "Nothing was evaluated."));
    free(card);
    char *json = content("report.json");
    ck_assert_ptr_nonnull(strstr(json, "\"protocol\": \"protocol not stated\""));
    free(json);
    clear();
}
END_TEST

static bool has_word(const char *text, const char *word)
{
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        bool starts = at == text || !isalpha((unsigned char)at[-1]);
        if (starts && !isalpha((unsigned char)at[strlen(word)])) {
            return true;
        }
    }
    return false;
}

/* A test part without clips: every score is NaN. */
START_TEST(what_is_not_defined_is_written_so)
{
    sample *s = sample_new(false);
    metrics_set none = {NULL, 0, SAMPLE_CLASSES, SAMPLE_GROUPS, 2};
    metrics_result empty;
    ck_assert_int_eq(metrics_compute(&empty, &none, 1, 100), 0);
    double nothing[SAMPLE_EPOCHS];
    for (int i = 0; i < SAMPLE_EPOCHS; i++) {
        nothing[i] = i == 3 ? INFINITY : NAN;
    }
    s->parts[0].metrics = &empty;
    s->folds[2].metrics = &empty;
    s->curve_set = (report_curves){.epochs = SAMPLE_EPOCHS, .train_loss = nothing};
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    for (size_t i = 0; i < FILES; i++) {
        char *text = content(file_names[i]);
        ck_assert_ptr_nonnull(text);
        ck_assert_msg(!has_word(text, "nan") && !has_word(text, "inf") && !has_word(text, "-nan"),
                      "%s", file_names[i]);
        free(text);
    }
    metrics_free(&empty);
    sample_free(s);
    clear();
}
END_TEST

START_TEST(protocol_stands_with_every_number)
{
    static const char *const sections[] = {"## Results", "### Per corpus", "### Per class",
                                           "### Per fold"};
    sample *s = sample_new(false);
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    char *card = content("README.md");
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        const char *section = strstr(card, sections[i]);
        ck_assert_ptr_nonnull(section);
        const char *protocol = strstr(section, "**Protocol:** RAVDESS and CREMA-D, six folds");
        const char *percent = strstr(section, " %");
        ck_assert_msg(protocol != NULL && protocol < percent, "%s: a number before the protocol",
                      sections[i]);
    }
    ck_assert_ptr_nonnull(strstr(card, "**Protocol:** Clips of the validation speakers"));
    ck_assert_ptr_null(strstr(card, "Speaker-dependent"));
    free(card);
    s->run.speaker_independent = false;
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    static const char *const warned[] = {"README.md", "report.json", "confusion.svg", "curves.svg"};
    for (size_t i = 0; i < sizeof warned / sizeof warned[0]; i++) {
        char *text = content(warned[i]);
        ck_assert_msg(strstr(text, "Speaker-dependent: voices") != NULL, "%s", warned[i]);
        free(text);
    }
    sample_free(s);
    clear();
}
END_TEST

typedef int (*writer)(const char *, const run_report *);

/* With nothing on standard error. No assertion: Check writes each to a file. */
static int write_quietly(writer write, const char *where, const run_report *run)
{
    int saved = dup(STDERR_FILENO);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    int code = write(where, run);
    dup2(saved, STDERR_FILENO);
    close(null);
    close(saved);
    return code;
}

START_TEST(a_full_disk_leaves_the_old_files)
{
    sample *s = sample_new(false);
    char *old[FILES];
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    for (size_t i = 0; i < FILES; i++) {
        old[i] = content(file_names[i]);
    }
    s->run.name = "another name";
    s->paths[0][0] = 'X';
    static const writer writers[] = {report_write,
                                     report_write_json,
                                     report_write_card,
                                     report_write_confusion_csv,
                                     report_write_confusion_svg,
                                     report_write_curves_svg,
                                     report_write_heldout};
    enum { WRITERS = sizeof writers / sizeof writers[0] };
    int codes[WRITERS];
    struct rlimit before;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = {.rlim_cur = 100, .rlim_max = before.rlim_max};
    int limited = setrlimit(RLIMIT_FSIZE, &small);
    for (size_t i = 0; i < WRITERS; i++) {
        codes[i] = write_quietly(writers[i], directory, &s->run);
    }
    int freed = setrlimit(RLIMIT_FSIZE, &before);
    (void)signal(SIGXFSZ, handler);
    ck_assert_int_eq(limited, 0);
    ck_assert_int_eq(freed, 0);
    for (size_t i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(codes[i], MESSAGE_EXIT_IO);
    }
    ck_assert_uint_eq(entries(), FILES); /* no temporary is left */
    for (size_t i = 0; i < FILES; i++) {
        char *now = content(file_names[i]);
        ck_assert_str_eq(now, old[i]);
        free(now);
        free(old[i]);
    }
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    char *now = content("report.json");
    ck_assert_ptr_nonnull(strstr(now, "another name"));
    free(now);
    sample_free(s);
    clear();
}
END_TEST

START_TEST(no_directory_is_an_error)
{
    sample *s = sample_new(false);
    char *where = path_of("missing");
    ck_assert_int_eq(write_quietly(report_write, where, &s->run), MESSAGE_EXIT_IO);
    free(where);
    sample_free(s);
}
END_TEST

START_TEST(the_same_bytes_twice)
{
    sample *s = sample_new(true);
    char *first[FILES];
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    for (size_t i = 0; i < FILES; i++) {
        first[i] = content(file_names[i]);
    }
    sample_free(s);
    s = sample_new(true);
    ck_assert_int_eq(report_write(directory, &s->run), 0);
    for (size_t i = 0; i < FILES; i++) {
        char *again = content(file_names[i]);
        ck_assert_str_eq(again, first[i]);
        free(again);
        free(first[i]);
    }
    sample_free(s);
    clear();
}
END_TEST

/* In the locale that the environment names: a test chooses one where numbers have commas. */
static int write_sample(const char *kind, const char *where)
{
    const char *set = setlocale(LC_ALL, "");
    sample *s = sample_new(strcmp(kind, "nasty") == 0);
    metrics_names names = {.protocol = s->run.protocol,
                           .part = "all folds",
                           .labels = s->run.labels,
                           .groups = s->groups,
                           .corpora = (const char *const[]){"ravdess", "crema-d"}};
    metrics_print(stdout, &s->pooled, &names);
    putchar('\n');
    metrics_print_groups(stdout, &s->pooled, &names);
    metrics_print_line(stdout, &s->pooled, &names);
    printf("locale %s, %.1f\n", set != NULL ? set : "unknown", 0.5);
    int code = report_write(where, &s->run);
    sample_free(s);
    return code;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--sample") == 0) {
        return write_sample(argv[2], argv[3]);
    }
    if (mkdtemp(directory) == NULL) {
        return EXIT_FAILURE;
    }
    Suite *suite = suite_create("report");
    TCase *tests = tcase_create("report");
    tcase_add_test(tests, escapes);
    tcase_add_test(tests, json_says_it_all);
    tcase_add_test(tests, an_empty_run_has_a_report);
    tcase_add_test(tests, what_is_not_defined_is_written_so);
    tcase_add_test(tests, protocol_stands_with_every_number);
    tcase_add_test(tests, a_full_disk_leaves_the_old_files);
    tcase_add_test(tests, no_directory_is_an_error);
    tcase_add_test(tests, the_same_bytes_twice);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    rmdir(directory);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
