/* SPDX-License-Identifier: MIT */
/* CSV manifests: what is read, and every way in which they can be wrong, with its line. */
#include <sys/stat.h>
#include <unistd.h>

#include "data_support.h"
#include "manifest.h"

/* Clips that manifests name: "a.wav" to "e.wav" beside them. */
static void make_clips(void)
{
    static const char *const names[] = {"m/a.wav", "m/b.wav", "m/c.wav", "m/d.wav", "m/e.wav"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        support_text(names[i], "");
    }
}

static int add(dataset *ds, const void *csv, size_t size, const manifest_options *options)
{
    support_write("m/set.csv", csv, size);
    return dataset_add_manifest(ds, support_path("m/set.csv"), options);
}

static int add_text(dataset *ds, const char *csv, const manifest_options *options)
{
    return add(ds, csv, strlen(csv), options);
}

/* A manifest that must be refused with this code and words. */
static void refused(const char *csv, const manifest_options *options, int code, const char *part)
{
    dataset ds = {0};
    assert_says(add_text(&ds, csv, options), code, part);
    dataset_free(&ds);
}

START_TEST(all_columns_are_read)
{
    dataset ds = {0};
    assert_says(add_text(&ds,
                         "speaker,label,path,split,start,end,text,repetition,intensity,corpus\r\n"
                         "7,Anger,a.wav,train,0.5,2.25,\"Kids, \"\"talk\"\"\",2,high,acted\r\n"
                         "Anna,joy,b.wav,dev,,,,,,\r\n"
                         ",sad,c.wav,test,1,,x,,medium,acted\r\n"
                         "8,sad,d.wav,unused,0,1e1,x,,low,acted\r\n"
                         "8,sad,e.wav,,,,,,,",
                         NULL),
                0, "");
    assert_says(dataset_finish(&ds), 0, "");
    ck_assert_uint_eq(ds.count, 5);
    const dataset_clip *c = ds.clips;
    ck_assert_str_eq(c[0].path, support_path("m/a.wav"));
    ck_assert_str_eq(ds.labels[c[0].label], "angry");
    ck_assert_str_eq(ds.speakers[c[0].speaker].name, "7");
    ck_assert_str_eq(ds.corpora[c[0].corpus].name, "acted");
    ck_assert_str_eq(c[0].text, "Kids, \"talk\"");
    ck_assert(c[0].start == 0.5 && c[0].end == 2.25);
    ck_assert_int_eq(c[0].repetition, 2);
    ck_assert_int_eq(c[0].intensity, DATASET_INTENSITY_STRONG);
    ck_assert_int_eq(c[0].split, DATASET_TRAIN);
    ck_assert_int_eq(c[0].line, 2);
    ck_assert_str_eq(ds.corpora[c[1].corpus].name, "set");
    ck_assert_int_eq(c[1].split, DATASET_VALIDATION);
    ck_assert_ptr_null(c[1].text);
    ck_assert(c[1].start == 0.0 && c[1].end == 0.0);
    ck_assert_int_eq(c[2].speaker, -1);
    ck_assert_int_eq(c[2].split, DATASET_TEST);
    ck_assert_int_eq(c[2].intensity, DATASET_INTENSITY_NORMAL);
    ck_assert_int_eq(c[3].split, DATASET_UNUSED);
    ck_assert_int_eq(c[3].intensity, DATASET_INTENSITY_LOW);
    ck_assert_int_eq(c[4].split, DATASET_NO_SPLIT);
    ck_assert_int_eq(c[4].line, 6);
    dataset_free(&ds);
}
END_TEST

/* MF1 */
START_TEST(line_ends_marks_and_quotes_of_all_kinds)
{
    static const char *const good[] = {
        "path,label\na.wav,sad\nb.wav,happy\n",
        "path,label\r\na.wav,sad\r\nb.wav,happy",
        "path,label\ra.wav,sad\rb.wav,happy\r",
        "\xef\xbb\xbfpath,label\n\"a.wav\",\"sad\"\n\n\nb.wav,happy\n",
        "\"path\",\"label\"\n\"a.wav\",sad\n\nb.wav,\"happy\"",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        dataset ds = {0};
        assert_says(add_text(&ds, good[i], NULL), 0, "");
        ck_assert_uint_eq(ds.count, 2);
        ck_assert_str_eq(ds.clips[0].path, support_path("m/a.wav"));
        ck_assert_str_eq(ds.emotions[ds.clips[1].emotion], "happy");
        ck_assert_int_eq(ds.clips[0].line, 2);
        dataset_free(&ds);
    }
}
END_TEST

START_TEST(lines_are_counted_through_quoted_newlines)
{
    dataset ds = {0};
    assert_says(add_text(&ds,
                         "path,text,label\na.wav,\"two\r\nlines\n\nmore\",sad\n\r\nb.wav,x,happy\n",
                         NULL),
                0, "");
    ck_assert_str_eq(ds.clips[0].text, "two\r\nlines\n\nmore");
    ck_assert_int_eq(ds.clips[0].line, 2);
    ck_assert_int_eq(ds.clips[1].line, 7);
    dataset_free(&ds);
    refused("path,text,label\na.wav,\"1\n2\",sad\nb.wav,x\n", NULL, 7,
            "line 4: 2 fields where the header has 3");
}
END_TEST

START_TEST(delimiters_are_explicit)
{
    static const manifest_options semicolon = {.delimiter = ';'};
    static const manifest_options tab = {.delimiter = '\t'};
    dataset ds = {0};
    assert_says(add_text(&ds, "path;label;text\na.wav;sad;x, y\n", &semicolon), 0, "");
    assert_says(add_text(&ds, "path\tlabel\nb.wav\thappy\n", &tab), 0, "");
    ck_assert_str_eq(ds.clips[0].text, "x, y");
    ck_assert_uint_eq(ds.count, 2);
    dataset_free(&ds);
    refused("path;label\na.wav;sad\n", NULL, 7,
            "line 1: one column only; the delimiter seems to "
            "be ';': say so with --delimiter");
    refused("path\tlabel\na.wav\tsad\n", NULL, 7, "a tab");
    refused("path,label\na.wav,sad\n", &semicolon, 7, "','");
}
END_TEST

START_TEST(bad_headers_are_refused)
{
    refused("file,label\na.wav,sad\n", NULL, 7, "line 1: the header has no column 'path'");
    refused("path,emotion\na.wav,sad\n", NULL, 7, "no column 'label'");
    refused("path,label,path\na.wav,sad,b.wav\n", NULL, 7, "column 'path' is there twice");
    refused("\n\npath,x,label,x\n", NULL, 7, "line 3: the column 'x' is there twice");
}
END_TEST

START_TEST(unknown_columns_are_named)
{
    dataset ds = {0};
    assert_says(add_text(&ds, "path,valence,label,speakr\na.wav,1,sad,2\n", NULL), 0,
                "these columns are ignored: valence, speakr");
    ck_assert_uint_eq(ds.count, 1);
    ck_assert_int_eq(ds.clips[0].speaker, -1);
    dataset_free(&ds);
}
END_TEST

START_TEST(rows_have_as_many_fields_as_the_header)
{
    refused("path,label\na.wav,sad\nb.wav\n", NULL, 7, "line 3: 1 field where the header has 2");
    refused("path,label\na.wav,sad,x\n", NULL, 7, "line 2: 3 fields where the header has 2");
    refused("path,label\na.wav,sad,\n", NULL, 7, "line 2: 3 fields");
}
END_TEST

START_TEST(stray_quotes_are_refused)
{
    refused("path,label\na\".wav,sad\n", NULL, 7, "line 2: a quote where none may be");
    refused("path,label\n\"a.wav\"x,sad\n", NULL, 7, "line 2: a quote where none may be");
    refused("path,label\na.wav, \"sad\"\n", NULL, 7, "line 2: a quote where none may be");
    refused("path,label\na.wav,sad\n\"b.wav,happy\nc.wav,sad\n", NULL, 7,
            "line 3: the file ends within a quoted field");
}
END_TEST

START_TEST(blanks_belong_to_fields)
{
    refused("path,label,split\na.wav,sad, train\n", NULL, 7, "line 2: split ' train'");
    refused("path,label\n a.wav,sad\n", NULL, 3, "/ a.wav: No such file");
    dataset ds = {0};
    assert_says(add_text(&ds, "path,label\na.wav, sad \n", NULL), 0, "");
    dataset_free(&ds);
}
END_TEST

START_TEST(endless_fields_are_refused)
{
    size_t size = 3 << 20;
    char *csv = malloc(size + 1);
    ck_assert_ptr_nonnull(csv);
    memset(csv, 'x', size);
    csv[size] = '\0';
    memcpy(csv, "path,label\n\"", 12);
    refused(csv, NULL, 7, "line 2: a field of more than 1048576 bytes: is a quote not closed?");
    for (size_t i = 11; i < size; i += 2) {
        csv[i] = '\n';
    }
    csv[11] = '"';
    refused(csv, NULL, 7, "is a quote not closed?");
    memset(csv, ',', size);
    refused(csv, NULL, 7, "line 1: more than 1024 columns");
    free(csv);
}
END_TEST

/* MF2 */
START_TEST(bytes_that_are_no_text_are_refused)
{
    static const char nul[] = "path,label\na.wav,sa\0d\n";
    static const char nul_path[] = "path,label\na\0.wav,sad\n";
    dataset ds = {0};
    assert_says(add(&ds, nul, sizeof nul - 1, NULL), 7, "line 2: label: a NUL byte");
    dataset_free(&ds);
    assert_says(add(&ds, nul_path, sizeof nul_path - 1, NULL), 7, "line 2: path: a NUL byte");
    dataset_free(&ds);
    refused("path,label,text\na.wav,sad,ok\nb.wav,sad,caf\xe9\n", NULL, 7,
            "line 3: text: byte 4 (0xe9) is not UTF-8");
    refused("path,label,x\xff\na.wav,sad,\n", NULL, 7, "line 1: field 3: byte 2 (0xff)");
    refused("path,label,x\na.wav,sad,\xc3\n", NULL, 7, "line 2: x: byte 1 (0xc3)");
    refused("\xff\xfep\0a\0", NULL, 7, "UTF-16");
    refused("\xfe\xff\0p\0a", NULL, 7, "UTF-16");
}
END_TEST

START_TEST(names_of_files_are_bytes)
{
    dataset ds = {0};
    support_text("m/caf\xe9.wav", "");
    assert_says(add_text(&ds, "path,label,text\ncaf\xe9.wav,sad,caf\xc3\xa9\n", NULL), 0, "");
    ck_assert_str_eq(ds.clips[0].path, support_path("m/caf\xe9.wav"));
    dataset_free(&ds);
}
END_TEST

/* MF3 */
START_TEST(relative_paths_start_at_the_root)
{
    dataset ds = {0};
    char csv[512];
    char root[512];
    snprintf(csv, sizeof csv, "path,label\nm/a.wav,sad\n%s,happy\n", support_path("m/b.wav"));
    snprintf(root, sizeof root, "%s", support_path("m/.."));
    const manifest_options options = {.root = root};
    assert_says(add_text(&ds, csv, &options), 0, "");
    ck_assert_str_eq(ds.clips[0].path, support_path("m/../m/a.wav"));
    ck_assert_str_eq(ds.clips[1].path, support_path("m/b.wav"));
    dataset_free(&ds);
}
END_TEST

START_TEST(a_bare_name_is_relative_to_here)
{
    dataset ds = {0};
    char before[512];
    ck_assert_ptr_nonnull(getcwd(before, sizeof before));
    support_text("m/set.csv", "path,label\na.wav,sad\n-,happy\n");
    support_text("m/-", "");
    ck_assert_int_eq(chdir(support_path("m")), 0);
    assert_says(dataset_add_manifest(&ds, "set.csv", NULL), 0, "");
    ck_assert_int_eq(chdir(before), 0);
    ck_assert_str_eq(ds.clips[0].path, "./a.wav");
    ck_assert_str_eq(ds.clips[1].path, "./-"); /* never standard input */
    dataset_free(&ds);
}
END_TEST

START_TEST(confined_paths_stay_inside)
{
    static const manifest_options confine = {.confine = true};
    dataset ds = {0};
    support_text("m/in/f..wav", "");
    support_text("outside.wav", "");
    unlink(support_path("m/link.wav"));
    unlink(support_path("m/inner.wav"));
    ck_assert_int_eq(symlink("../outside.wav", support_path("m/link.wav")), 0);
    ck_assert_int_eq(symlink("a.wav", support_path("m/inner.wav")), 0);
    assert_says(add_text(&ds, "path,label\nin/f..wav,sad\ninner.wav,sad\n", &confine), 0, "");
    dataset_free(&ds);
    refused("path,label\na.wav,sad\n../outside.wav,sad\n", &confine, 7,
            "line 3: path '../outside.wav': --confine refuses");
    refused("path,label\nin/../a.wav,sad\n", &confine, 7, "--confine refuses");
    refused("path,label\n/etc/hostname,sad\n", &confine, 7, "--confine refuses absolute");
    refused("path,label\nlink.wav,sad\n", &confine, 7, "line 2: path 'link.wav': a link leads out");
    assert_says(add_text(&ds, "path,label\nlink.wav,sad\n../outside.wav,sad\n", NULL), 0, "");
    dataset_free(&ds);
    static const manifest_options nowhere = {.confine = true, .root = "/no/such/folder"};
    refused("path,label\na.wav,sad\n", &nowhere, 3, "/no/such/folder: No such file");
}
END_TEST

/* MF4 */
START_TEST(missing_files_are_all_reported)
{
    static const char csv[] = "path,label\na.wav,sad\ngone.wav,sad\nm/,happy\nb.wav,happy\n"
                              ".,happy\n.,sad\ngone.wav,happy\n";
    static const manifest_options skip = {.skip_bad = true};
    refused(csv, NULL, 3, "line 3: ");
    refused(csv, NULL, 3, "gone.wav: No such file or directory");
    refused(csv, NULL, 3, "line 6: ");
    refused(csv, NULL, 3, "/.: not a regular file");
    refused(csv, NULL, 3, "5 of 7 files are missing; --skip-bad leaves them out");
    dataset ds = {0};
    assert_says(add_text(&ds, csv, &skip), 0, "5 of 7 files are missing and left out");
    ck_assert_uint_eq(ds.count, 2);
    ck_assert_uint_eq(ds.skipped_count, 5);
    ck_assert_int_eq(ds.skipped[0].line, 3);
    ck_assert_str_eq(ds.skipped[0].source, support_path("m/set.csv"));
    ck_assert_str_eq(ds.skipped[2].reason, "not a regular file");
    dataset_free(&ds);
}
END_TEST

/* MF5 */
START_TEST(unknown_labels_are_all_listed)
{
    static const char csv[] = "path,label\na.wav,angyr\nb.wav,sad\nc.wav,angyr\nd.wav,qqqq\n"
                              "e.wav,hapiness\n";
    refused(csv, NULL, 7, "line 2: the label 'angyr' is not known (2 rows); did you mean 'angry'?");
    refused(csv, NULL, 7, "line 5: the label 'qqqq' is not known (1 row); map it with --alias");
    refused(csv, NULL, 7,
            "line 6: the label 'hapiness' is not known (1 row); did you mean "
            "'happiness' (happy)?");
    refused("path,label\na.wav,\n", NULL, 7, "line 2: the label is empty");
    dataset ds = {0};
    labels_add_drop(&ds.rules, "qqqq");
    labels_add_alias(&ds.rules, "angyr,hapiness=happy");
    assert_says(add_text(&ds, csv, NULL), 0, "");
    ck_assert_uint_eq(ds.count, 4);
    ck_assert_uint_eq(ds.dropped, 1);
    dataset_free(&ds);
    char many[1024] = "path,label\n";
    for (int i = 0; i < 14; i++) {
        sprintf(many + strlen(many), "a.wav,qq%cqq\n", 'a' + i);
    }
    refused(many, NULL, 7, "4 more rows with other labels that are not known");
}
END_TEST

/* MF6 */
START_TEST(duplicate_rows_are_noticed)
{
    dataset ds = {0};
    assert_says(add_text(&ds,
                         "path,label,split,start,end\na.wav,sad,train,,\nb.wav,happy,train,,\n"
                         "a.wav,sad,train,,\na.wav,sad,test,,\nb.wav,happy,train,1,2\n",
                         NULL),
                0, "a.wav is there already (1 such rows)");
    ck_assert_uint_eq(ds.count, 5);
    assert_says(add_text(&ds, "path,label\na.wav,sad\na.wav,sad\na.wav,happy\n", NULL), 0,
                "a.wav is there already (2 such rows)");
    dataset_free(&ds);
}
END_TEST

/* MF7: what --group-column names takes the place of the speaker. */
START_TEST(groups_may_have_another_column)
{
    static const manifest_options group = {.group_column = "session"};
    dataset ds = {0};
    assert_says(add_text(&ds, "path,label,speaker,session\na.wav,sad,1,A\nb.wav,sad,2,A\n", &group),
                0, "ignored: speaker");
    ck_assert_uint_eq(ds.speaker_count, 1);
    ck_assert_str_eq(ds.speakers[0].name, "A");
    dataset_free(&ds);
    refused("path,label\na.wav,sad\n", &group, 7, "no column 'session', which --group-column");
}
END_TEST

/* MF8 */
START_TEST(empty_manifests_are_refused)
{
    refused("", NULL, 7, "set.csv: empty: a header line");
    refused("\n\r\n", NULL, 7, "empty: a header line");
    refused("path,label\n", NULL, 7, "no rows below the header");
    dataset ds = {0};
    assert_says(add_text(&ds, "path,label\na.wav,sad\nb.wav,sadness\n", NULL), 0, "");
    assert_says(dataset_finish(&ds), 7, "every clip is labelled 'sad'");
    dataset_free(&ds);
    assert_says(dataset_add_manifest(&ds, support_path("m/absent.csv"), NULL), 3, "No such file");
    assert_says(dataset_add_manifest(&ds, support_path("m"), NULL), 3, "Is a directory");
    dataset_free(&ds);
}
END_TEST

START_TEST(bad_values_are_refused)
{
    static const struct {
        const char *column;
        const char *value;
        const char *part;
    } cases[] = {
        {"split", "training", "line 3: split 'training': not train, validation"},
        {"start", "-1", "line 3: start '-1': not a number of seconds"},
        {"start", "abc", "start 'abc'"},
        {"start", "1e10", "from 0 to 1e9"},
        {"end", "nan", "end 'nan'"},
        {"end", "0", "end 0 is not after start 0"},
        {"repetition", "0", "repetition '0': not an integer from 1 to 1000000"},
        {"repetition", "1.5", "repetition '1.5'"},
        {"intensity", "loud", "intensity 'loud': not low, normal"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char csv[256];
        snprintf(csv, sizeof csv, "path,label,%s\na.wav,sad,\nb.wav,sad,%s\n", cases[i].column,
                 cases[i].value);
        refused(csv, NULL, 7, cases[i].part);
    }
    refused("path,label,start,end\na.wav,sad,2,1\n", NULL, 7, "line 2: end 1 is not after start 2");
    refused("path,label\n,sad\n", NULL, 7, "line 2: the path is empty");
}
END_TEST

START_TEST(too_many_corpora_are_a_mistake)
{
    static char csv[300 * 32];
    size_t length = (size_t)sprintf(csv, "path,label,corpus\n");
    for (int i = 0; i < 300; i++) {
        length += (size_t)sprintf(csv + length, "a.wav,sad,c%d\n", i);
    }
    refused(csv, NULL, 7, "line 258: more than 256 corpora");
}
END_TEST

/* MF9: rows share their strings, so that memory is that of the clips. */
START_TEST(many_rows_share_their_strings)
{
    enum { ROWS = 50000 };
    char *csv = malloc(64 + ROWS * 48);
    ck_assert_ptr_nonnull(csv);
    size_t length = (size_t)sprintf(csv, "path,label,speaker,text,start,end\n");
    for (int i = 0; i < ROWS; i++) {
        length += (size_t)sprintf(csv + length, "a.wav,sad,speaker %d,text %d,%d,%d\n", i % 100,
                                  i % 7, i, i + 1);
    }
    dataset ds = {0};
    assert_says(add_text(&ds, csv, NULL), 0, "");
    free(csv);
    ck_assert_uint_eq(ds.count, ROWS);
    ck_assert_uint_eq(ds.speaker_count, 100);
    ck_assert_uint_lt(ds.strings.count, 120);
    ck_assert_int_eq(ds.clips[ROWS - 1].line, ROWS + 1);
    ck_assert_ptr_eq(ds.clips[0].text, ds.clips[7].text);
    dataset_free(&ds);
}
END_TEST

/* MF10 */
static void check_field(const char *text, bool guard, const char *expected)
{
    char got[256];
    FILE *f = tmpfile();
    ck_assert_ptr_nonnull(f);
    manifest_put_field(f, text, guard);
    rewind(f);
    got[fread(got, 1, sizeof got - 1, f)] = '\0';
    fclose(f);
    ck_assert_str_eq(got, expected);
}

START_TEST(fields_are_quoted_and_guarded_on_request)
{
    check_field("plain", true, "plain");
    check_field("a,b", false, "\"a,b\"");
    check_field("say \"x\"\n", false, "\"say \"\"x\"\"\n\"");
    check_field("=1+1", false, "=1+1");
    check_field("=1+1", true, "'=1+1");
    check_field("@x,y", true, "\"'@x,y\"");
    check_field("-5", true, "'-5");
    check_field("", true, "");
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
    dataset ds = {0};
    dataset back = {0};
    static const uint8_t parts[] = {DATASET_TRAIN, DATASET_TEST, DATASET_UNUSED};
    support_text("m/odd \"name\",\n.wav", "");
    assert_says(add_text(&ds,
                         "path,label,speaker,text,start,end,repetition,intensity\n"
                         "a.wav,calm,1,\"x, \"\"y\"\"\",0.1,0.30000000000000004,2,high\n"
                         "\"odd \"\"name\"\",\n.wav\",sad,,,,,,\nc.wav,sad,2,,,,,\n",
                         NULL),
                0, "");
    assert_says(dataset_finish(&ds), 0, "");
    assert_says(manifest_write(&ds, parts, support_path("out.csv"), false), 0, "");
    assert_says(dataset_add_manifest(&back, support_path("out.csv"), NULL), 0, "");
    assert_says(dataset_finish(&back), 0, "");
    ck_assert_uint_eq(back.count, 3);
    for (size_t i = 0; i < 3; i++) {
        const dataset_clip *x = &ds.clips[i];
        const dataset_clip *y = &back.clips[i];
        ck_assert_str_eq(x->path, y->path);
        ck_assert_int_eq(x->label, y->label);
        ck_assert(x->start == y->start && x->end == y->end);
        ck_assert_int_eq(x->repetition, y->repetition);
        ck_assert_int_eq(x->intensity, y->intensity);
        ck_assert_int_eq(y->split, parts[i]);
        ck_assert_int_eq(x->speaker < 0, y->speaker < 0);
    }
    ck_assert_str_eq(back.clips[0].text, "x, \"y\"");
    ck_assert_str_eq(back.corpora[0].name, "set");
    assert_says(manifest_write(&ds, NULL, support_path("no/such/out.csv"), false), 3,
                "cannot open");
    dataset_free(&back);
    dataset_free(&ds);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("manifest");
    TCase *tests = tcase_create("manifest");
    tcase_add_checked_fixture(tests, make_clips, NULL);
    tcase_add_test(tests, all_columns_are_read);
    tcase_add_test(tests, line_ends_marks_and_quotes_of_all_kinds);
    tcase_add_test(tests, lines_are_counted_through_quoted_newlines);
    tcase_add_test(tests, delimiters_are_explicit);
    tcase_add_test(tests, bad_headers_are_refused);
    tcase_add_test(tests, unknown_columns_are_named);
    tcase_add_test(tests, rows_have_as_many_fields_as_the_header);
    tcase_add_test(tests, stray_quotes_are_refused);
    tcase_add_test(tests, blanks_belong_to_fields);
    tcase_add_test(tests, endless_fields_are_refused);
    tcase_add_test(tests, bytes_that_are_no_text_are_refused);
    tcase_add_test(tests, names_of_files_are_bytes);
    tcase_add_test(tests, relative_paths_start_at_the_root);
    tcase_add_test(tests, a_bare_name_is_relative_to_here);
    tcase_add_test(tests, confined_paths_stay_inside);
    tcase_add_test(tests, missing_files_are_all_reported);
    tcase_add_test(tests, unknown_labels_are_all_listed);
    tcase_add_test(tests, duplicate_rows_are_noticed);
    tcase_add_test(tests, groups_may_have_another_column);
    tcase_add_test(tests, empty_manifests_are_refused);
    tcase_add_test(tests, bad_values_are_refused);
    tcase_add_test(tests, too_many_corpora_are_a_mistake);
    tcase_add_test(tests, many_rows_share_their_strings);
    tcase_add_test(tests, fields_are_quoted_and_guarded_on_request);
    tcase_add_test(tests, what_is_written_is_read_back);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
