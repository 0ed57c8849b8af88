/* SPDX-License-Identifier: MIT */
/* Archives of torch.save() made by hand, with one fault each: PK6 (views) and PK7 (the zip). */
#include "harness.h"

#include "model/torch_bin.h"
#include "zipper.h"

/* --- Views (PK6) ----------------------------------------------------------------------------- */

typedef struct view {
    uint64_t storage, offset;
    size_t rank;
    uint64_t shape[8], stride[8];
} view;

static void add(blob *b, const void *data, size_t size)
{
    b->data = realloc(b->data, b->size + size);
    ck_assert_ptr_nonnull(b->data);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void add_number(blob *b, uint64_t value)
{
    unsigned char bytes[10] = {0x8A, 8};
    put_number(bytes + 2, value, 8);
    add(b, bytes, sizeof bytes);
}

static void add_tuple(blob *b, const uint64_t *values, size_t count)
{
    add(b, "(", 1);
    for (size_t i = 0; i < count; i++) {
        add_number(b, values[i]);
    }
    add(b, "t", 1);
}

#define ADD(b, literal) add(b, literal, sizeof(literal) - 1)

/* A dict of views named a, b, ... of storage 0, whose class is `types[i]`. */
static blob make_pickle(const view *views, size_t count, const char *const *types)
{
    blob b = {NULL, 0};
    ADD(&b, "\x80\2}(");
    for (size_t i = 0; i < count; i++) {
        char name[] = "X\1\0\0\0a";
        name[5] = (char)('a' + i);
        add(&b, name, 6);
        ADD(&b, "ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\n");
        add(&b, types[i], strlen(types[i]));
        ADD(&b, "Storage\nX\1\0\0\0000X\3\0\0\0cpu");
        add_number(&b, views[i].storage);
        ADD(&b, "tQ");
        add_number(&b, views[i].offset);
        add_tuple(&b, views[i].shape, views[i].rank);
        add_tuple(&b, views[i].stride, views[i].rank);
        ADD(&b, "\x89}tR");
    }
    ADD(&b, "u.");
    return b;
}

static const char *const floats[16] = {"Float", "Float", "Float", "Float", "Float", "Float",
                                       "Float", "Float", "Float", "Float", "Float", "Float",
                                       "Float", "Float", "Float", "Float"};

/* An archive with these views of a storage of 12 floats, 0 to 11. */
static blob make_views(const view *views, size_t count, const char *const *types)
{
    float values[12];
    for (size_t i = 0; i < 12; i++) {
        values[i] = (float)i;
    }
    blob pickle = make_pickle(views, count, types);
    const zip_part parts[] = {{.name = "r/data.pkl", .data = pickle.data, .size = pickle.size},
                              {.name = "r/data/0", .data = values, .size = sizeof values}};
    blob b = zip_write(parts, 2);
    blob_free(&pickle);
    return b;
}

static int open_view(view v)
{
    return torch_status(make_views(&v, 1, floats));
}

static void check_view(view v, const float *expected, size_t count)
{
    float values[12];
    ser_safetensors t;
    blob b = make_views(&v, 1, floats);
    assert_ok(torch_open(&b, &t));
    ck_assert_uint_eq(t.list[0].elements, count);
    ck_assert_uint_le(count, 12);
    assert_ok(ser_safetensors_read(&t, &t.list[0], values));
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(values[i] == expected[i], "%zu: %g", i, (double)values[i]);
    }
    ser_safetensors_close(&t);
    blob_free(&b);
}

START_TEST(PK6_views_within_their_storage)
{
    check_view((view){12, 0, 1, {12}, {1}}, (float[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 12);
    check_view((view){12, 11, 1, {1}, {1}}, (float[]){11}, 1);
    check_view((view){12, 11, 0, {0}, {0}}, (float[]){11}, 1);
    check_view((view){12, 1, 2, {2, 3}, {6, 2}}, (float[]){1, 3, 5, 7, 9, 11}, 6);
    check_view((view){12, 0, 2, {3, 4}, {1, 3}}, (float[]){0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11},
               12);
    check_view((view){12, 0, 3, {2, 1, 3}, {3, 1U << 31, 1}}, (float[]){0, 1, 2, 3, 4, 5}, 6);
    check_view((view){12, 4, 2, {2, 2}, {0, 1}}, (float[]){4, 5, 4, 5}, 4);
    check_view((view){12, 12, 1, {0}, {1}}, NULL, 0);
    check_view((view){12, 0, 2, {0, 1U << 31}, {1, 1}}, NULL, 0);
}
END_TEST

START_TEST(PK6_views_beyond_their_storage)
{
    static const char beyond[] = "tensor \"a\": it reaches beyond its storage";
    const uint64_t big = UINT64_C(1) << 62;
    const view views[] = {
        {12, 0, 1, {13}, {1}},
        {12, 1, 1, {12}, {1}},
        {12, 12, 1, {1}, {1}},
        {12, 12, 0, {0}, {0}},
        {12, 13, 1, {0}, {1}},
        {12, 0, 1, {2}, {12}},
        {12, 0, 2, {3, 4}, {4, 2}},
        {12, 0, 1, {2}, {INT64_MAX}},
        {12, INT64_MAX, 1, {2}, {INT64_MAX}},
        {12, INT64_MAX, 1, {1}, {1}},
        {12, 0, 2, {big, 4}, {1, 1}}, /* shapes whose product wraps around */
        {12, 0, 2, {big, 4}, {0, 0}},
        {12, 0, 3, {4194305, 4194305, UINT64_C(211106198978564)}, {0, 0, 0}},
        {12, 0, 2, {big, 2}, {4, big}}, /* and reaches */
        {12, 0, 1, {big}, {4}},
        {12, 0, 3, {big, 4, 0}, {1, 1, 1}}, /* also where a 0 would hide it */
    };
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        assert_fails(open_view(views[i]), SER_ERR_FORMAT, beyond);
    }
    assert_fails(open_view((view){12, 0, 2, {2, 12}, {0, 1}}), SER_ERR_FORMAT,
                 "it has more elements than its storage");
    assert_fails(open_view((view){12, 0, 1, {1U << 30}, {0}}), SER_ERR_FORMAT,
                 "it has more elements than its storage");
}
END_TEST

START_TEST(PK6_storages_and_records)
{
    static const char size[] = "its storage has another size than its record";
    assert_fails(open_view((view){11, 0, 1, {1}, {1}}), SER_ERR_FORMAT, size);
    assert_fails(open_view((view){13, 0, 1, {1}, {1}}), SER_ERR_FORMAT, size);
    assert_fails(open_view((view){0, 0, 1, {0}, {1}}), SER_ERR_FORMAT, size);
    /* * 4 wraps around to 48 */
    assert_fails(open_view((view){(UINT64_C(1) << 62) + 12, 0, 1, {1}, {1}}), SER_ERR_FORMAT, size);
    const view twice[] = {{12, 0, 1, {12}, {1}}, {12, 0, 1, {12}, {1}}};
    assert_ok(torch_status(make_views(twice, 2, floats)));
    const char *const mixed[] = {"Float", "Int"};
    assert_fails(torch_status(make_views(twice, 2, mixed)), SER_ERR_FORMAT,
                 "its storage has another type elsewhere");
    const char *const narrow[] = {"Half"};
    assert_fails(torch_status(make_views(twice, 1, narrow)), SER_ERR_FORMAT, size);
}
END_TEST

START_TEST(PK6_sharing_is_bounded)
{
    /* a file of 1 MB, of which every tensor takes all */
    enum { COUNT = 8, ELEMENTS = 1 << 18 };
    view views[COUNT + 1];
    float *values = calloc(ELEMENTS, sizeof *values);
    for (size_t i = 0; i <= COUNT; i++) {
        views[i] = (view){ELEMENTS, 0, 1, {ELEMENTS}, {1}};
    }
    for (size_t count = COUNT; count <= COUNT + 1; count++) {
        blob pickle = make_pickle(views, count, floats);
        const zip_part parts[] = {
            {.name = "r/data.pkl", .data = pickle.data, .size = pickle.size},
            {.name = "r/data/0", .data = values, .size = ELEMENTS * sizeof *values}};
        blob b = zip_write(parts, 2);
        blob_free(&pickle);
        if (count == COUNT) {
            assert_ok(torch_status(b));
        } else {
            assert_fails(torch_status(b), SER_ERR_CAPACITY, "together more than 8 times the file");
        }
    }
    free(values);
}
END_TEST

/* A matrix of which every window of the file holds little, transposed and sliced. */
START_TEST(strided_tensors_larger_than_a_window)
{
    enum { ROWS = 300, COLUMNS = 70, STEP = 3 };
    size_t size = (size_t)ROWS * COLUMNS * STEP;
    float *values = malloc(size * sizeof *values);
    float *got = malloc((size_t)ROWS * COLUMNS * sizeof *got);
    ck_assert(values != NULL && got != NULL);
    for (size_t i = 0; i < size; i++) {
        values[i] = (float)i;
    }
    view v = {size, 2, 2, {COLUMNS, ROWS}, {STEP, COLUMNS * STEP}};
    blob pickle = make_pickle(&v, 1, floats);
    const zip_part parts[] = {{.name = "r/data/0", .data = values, .size = size * sizeof *values},
                              {.name = "r/data.pkl", .data = pickle.data, .size = pickle.size}};
    blob b = zip_write(parts, 2);
    ser_safetensors t;
    assert_ok(torch_open(&b, &t));
    assert_ok(ser_safetensors_read(&t, &t.list[0], got));
    for (size_t c = 0; c < COLUMNS; c++) {
        for (size_t r = 0; r < ROWS; r++) {
            ck_assert(got[c * ROWS + r] == (float)(2 + c * STEP + r * COLUMNS * STEP));
        }
    }
    ser_safetensors_close(&t);
    blob_free(&b);
    blob_free(&pickle);
    free(values);
    free(got);
}
END_TEST

/* --- Archives (PK7) -------------------------------------------------------------------------- */

enum { PKL, DATA, ORDER, EXTRA, PARTS };

static unsigned char good_pickle[400];
static const float good_values[2] = {1.5F, -2.0F};

/* data.pkl, data/0, byteorder and a record that nothing names. */
static void good_parts(zip_part parts[PARTS])
{
    const view v = {2, 0, 1, {2}, {1}};
    blob pickle = make_pickle(&v, 1, floats);
    ck_assert_uint_le(pickle.size, sizeof good_pickle);
    memcpy(good_pickle, pickle.data, pickle.size);
    parts[PKL] = (zip_part){.name = "r/data.pkl", .data = good_pickle, .size = pickle.size};
    parts[DATA] = (zip_part){.name = "r/data/0", .data = good_values, .size = sizeof good_values};
    parts[ORDER] = (zip_part){.name = "r/byteorder", .data = "little", .size = 6};
    parts[EXTRA] = (zip_part){.name = "r/.data/serialization_id", .data = "12345", .size = 5};
    blob_free(&pickle);
}

static int open_parts(const zip_part parts[PARTS])
{
    return torch_status(zip_write(parts, PARTS));
}

#define WITH(part, field, value)                                                                   \
    do {                                                                                           \
        good_parts(parts);                                                                         \
        parts[part].field = (value);                                                               \
    } while (0)

START_TEST(PK7_records)
{
    zip_part parts[PARTS];
    good_parts(parts);
    assert_ok(open_parts(parts));
    for (size_t i = 0; i < PARTS; i++) {
        WITH(i, method, 8);
        assert_fails(open_parts(parts), SER_ERR_UNSUPPORTED, "is compressed");
        WITH(i, flags, 1);
        assert_fails(open_parts(parts), SER_ERR_UNSUPPORTED, "is encrypted");
        WITH(i, crc_fault, 1);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "\": wrong CRC");
        WITH(i, local_name, "r/x");
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, local_method, 8);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, claimed_local, 1);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, claimed, 1 << 20);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, claimed, 0xFFFF0000U);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, place_fault, 1);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
        WITH(i, place_fault, 0x40000000);
        assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
    }
}
END_TEST

START_TEST(PK7_names_and_overlaps)
{
    zip_part parts[PARTS];
    WITH(EXTRA, name, "r/data/0");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "two records of one name");
    WITH(EXTRA, name, "s/other");
    assert_fails(open_parts(parts), SER_ERR_FORMAT,
                 "\"s/other\" is not in the folder of the others");
    WITH(EXTRA, name, "other");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "is not in the folder of the others");
    WITH(PKL, name, "data.pkl");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "is not in the folder of the others");
    WITH(PKL, name, "r/data.pk");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "no data.pkl");
    WITH(DATA, name, "r/data/1");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "its storage is not in the archive");
    WITH(DATA, name, "r/data/00");
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "its storage is not in the archive");
    /* the same bytes under one name in both headers, so that nothing but the place is wrong */
    WITH(EXTRA, at, &parts[DATA]);
    parts[EXTRA].data = parts[DATA].data;
    parts[EXTRA].size = parts[DATA].size;
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "damaged zip archive");
    /* a whole archive within a record, whose entries the outer directory lists too */
    good_parts(parts);
    blob inner = zip_write(parts, PARTS);
    const size_t length = inner.size - ZIP_END;
    zip_part outer[] = {
        parts[PKL], {.name = "r/data/0", .data = inner.data, .size = length}, parts[ORDER]};
    outer[2].place_fault = -(int32_t)(length + 1); /* somewhere within: no header there */
    assert_fails(torch_status(zip_write(outer, 3)), SER_ERR_FORMAT, "damaged zip archive");
    size_t order = 30 + 10 + parts[PKL].size + 30 + 8 + parts[DATA].size;
    outer[2].place_fault = -(int32_t)(length - order); /* the inner "byteorder" */
    assert_fails(torch_status(zip_write(outer, 3)), SER_ERR_FORMAT, "overlaps another");
    blob_free(&inner);
}
END_TEST

/* A good archive with `size` bytes of the end record at `at` exchanged. */
static int open_with_end(size_t at, uint64_t value, size_t size)
{
    zip_part parts[PARTS];
    good_parts(parts);
    blob b = zip_write(parts, PARTS);
    put_number(b.data + b.size - ZIP_END + at, value, size);
    return torch_status(b);
}

START_TEST(PK7_ends)
{
    static const char end[] = "does not end as a zip archive does";
    zip_part parts[PARTS];
    good_parts(parts);
    blob good = zip_write(parts, PARTS);
    for (size_t size = 4; size < good.size; size++) {
        assert_fails(torch_status(blob_copy(good.data, size)), SER_ERR_FORMAT,
                     size < ZIP_END ? "not a zip archive" : end);
    }
    blob longer = {calloc(good.size + 1, 1), good.size + 1};
    memcpy(longer.data, good.data, good.size);
    assert_fails(torch_status(longer), SER_ERR_FORMAT, end);
    assert_fails(open_with_end(20, 1, 2), SER_ERR_FORMAT, end); /* a comment */
    assert_fails(open_with_end(10, PARTS - 1, 2), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end(8, (PARTS + 1) * 0x10001U, 4), SER_ERR_FORMAT,
                 "damaged zip archive");
    assert_fails(open_with_end(8, 0, 4), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end(4, 1, 2), SER_ERR_FORMAT, "damaged zip archive"); /* several disks */
    assert_fails(open_with_end(12, 0xFFFFFFFFU, 4), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end(16, 0xFFFFFFFFU, 4), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end(16, 0, 4), SER_ERR_FORMAT, "damaged zip archive");
    blob_free(&good);
    assert_fails(torch_status(zip_write(parts, 0)), SER_ERR_FORMAT, "not a zip archive of torch");
}
END_TEST

/* Records whose data looks like the end of an archive. */
static int open_with_data(const void *data, size_t size)
{
    zip_part parts[PARTS];
    good_parts(parts);
    parts[EXTRA].data = data;
    parts[EXTRA].size = size;
    return open_parts(parts);
}

START_TEST(PK7_two_ends)
{
    enum { SIZE = 80 };
    unsigned char data[SIZE] = {0};
    memcpy(data + 40, "PK\5\6", 4);
    assert_ok(open_with_data(data, SIZE)); /* four bytes by chance */
    memcpy(data + 20, "PK\6\7", 4);        /* with a locator, libzip would believe it */
    assert_fails(open_with_data(data, SIZE), SER_ERR_FORMAT, "a zip archive with two ends");
    memset(data + 20, 0, 4);
    zip_part parts[PARTS];
    good_parts(parts);
    parts[EXTRA].data = data;
    parts[EXTRA].size = SIZE;
    blob b = zip_write(parts, PARTS);
    unsigned char *at = memmem(b.data, b.size, "PK\5\6", 4);
    size_t comment = b.size - (size_t)(at - b.data) - ZIP_END; /* which would reach to the end */
    blob_free(&b);
    put_number(data + 40 + 20, comment, 2);
    assert_fails(open_with_data(data, SIZE), SER_ERR_FORMAT, "a zip archive with two ends");
    unsigned char many[17 * 4];
    for (size_t i = 0; i < sizeof many; i++) {
        many[i] = (unsigned char)"PK\5\6"[i % 4];
    }
    assert_ok(open_with_data(many, 16 * 4));
    assert_fails(open_with_data(many, 17 * 4), SER_ERR_FORMAT, "a zip archive with two ends");
}
END_TEST

/* PyTorch always writes the zip64 records. */
static int open_with_end64(size_t at, uint64_t value, size_t size)
{
    enum { END64 = ZIP_END + 20 + 56 };
    blob b = golden_blob("views.bin");
    unsigned char *end64 = b.data + b.size - END64;
    ck_assert(memcmp(end64, "PK\6\6", 4) == 0);
    put_number(end64 + at, value, size);
    return torch_status(b);
}

START_TEST(PK7_lies_of_zip64)
{
    assert_ok(open_with_end64(0, 0x06064B50U, 4)); /* as it was */
    assert_fails(open_with_end64(0, 0, 4), SER_ERR_FORMAT, "no zip64 end record");
    assert_fails(open_with_end64(24, 7, 8), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end64(32, 7, 8), SER_ERR_FORMAT, "damaged zip archive");
    /* room for 2^40 entries is asked for by nobody */
    assert_fails(open_with_end64(32, UINT64_C(1) << 40, 8), SER_ERR_CAPACITY,
                 "a zip archive of 1099511627776 records, limit 65600");
    assert_fails(open_with_end64(40, UINT64_MAX, 8), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end64(48, UINT64_MAX, 8), SER_ERR_FORMAT, "damaged zip archive");
    assert_fails(open_with_end64(56 + 8, UINT64_MAX, 8), SER_ERR_FORMAT, "no zip64 end record");
    assert_fails(open_with_end64(56 + 8, 0, 8), SER_ERR_FORMAT, "no zip64 end record");
}
END_TEST

START_TEST(PK7_byteorder)
{
    zip_part parts[PARTS];
    good_parts(parts);
    parts[ORDER] = (zip_part){.name = "r/byteorder", .data = "big", .size = 3};
    assert_fails(open_parts(parts), SER_ERR_UNSUPPORTED, "big-endian tensors; convert it once");
    parts[ORDER] = (zip_part){.name = "r/byteorder", .data = "middle-endian, that is", .size = 22};
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "byteorder is neither");
    parts[ORDER] = (zip_part){.name = "r/byteorder", .data = "", .size = 0};
    assert_fails(open_parts(parts), SER_ERR_FORMAT, "byteorder is neither");
    parts[ORDER].name = "r/version"; /* PyTorch 1 wrote none */
    assert_ok(open_parts(parts));
}
END_TEST

START_TEST(the_pickle_is_bounded)
{
    ser_file file;
    ser_safetensors tensors;
    zip_part parts[PARTS];
    good_parts(parts);
    blob b = zip_write(parts, PARTS);
    assert_ok(ser_file_wrap(b.data, b.size, "file.bin", &file));
    assert_fails(ser_torch_bin_open(&file, parts[PKL].size - 1, &tensors), SER_ERR_CAPACITY,
                 "(max_header_size)");
    assert_ok(ser_file_wrap(b.data, b.size, "file.bin", &file));
    assert_ok(ser_torch_bin_open(&file, parts[PKL].size, &tensors));
    ser_safetensors_close(&tensors);
    blob_free(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("torch_archive");
    TCase *tcase = tcase_create("torch_archive");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, PK6_views_within_their_storage);
    tcase_add_test(tcase, PK6_views_beyond_their_storage);
    tcase_add_test(tcase, PK6_storages_and_records);
    tcase_add_test(tcase, PK6_sharing_is_bounded);
    tcase_add_test(tcase, strided_tensors_larger_than_a_window);
    tcase_add_test(tcase, PK7_records);
    tcase_add_test(tcase, PK7_names_and_overlaps);
    tcase_add_test(tcase, PK7_ends);
    tcase_add_test(tcase, PK7_two_ends);
    tcase_add_test(tcase, PK7_lies_of_zip64);
    tcase_add_test(tcase, PK7_byteorder);
    tcase_add_test(tcase, the_pickle_is_bounded);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
