/* SPDX-License-Identifier: MIT */
/* The reader of safetensors headers and data; the names of the tests are the hostile cases' own. */
#include "harness.h"

#include <unistd.h>

#include "builder.h"
#include "model/safetensors.h"

#define ONE   "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define LIMIT ((uint64_t)SER_DEFAULT_HEADER)

static int open_bytes(const void *data, size_t size, uint64_t limit, ser_safetensors *st)
{
    ser_file file;
    assert_ok(ser_file_wrap(data, size, "test.safetensors", &file));
    int status = ser_safetensors_open(&file, limit, st);
    ck_assert(!ser_file_is_open(&file)); /* taken over */
    if (status != 0) {
        ck_assert(!ser_file_is_open(&st->file));
        ck_assert(strncmp(ser_fail_text(), "test.safetensors: ", 18) == 0);
    }
    return status;
}

/* Open a header with `payload` zero bytes behind it and close it again. */
static int try_header(const char *header, size_t payload)
{
    ser_safetensors st;
    int64_t live = ser_mem_live();
    blob b = blob_safetensors(header, NULL, payload);
    int status = open_bytes(b.data, b.size, LIMIT, &st);
    ser_safetensors_close(&st);
    blob_free(&b);
    ck_assert_int_eq(ser_mem_live(), live);
    return status;
}

START_TEST(reads_what_is_there)
{
    const float payload[] = {1.5F, -2.0F, 3.25F, 0.0F};
    ser_safetensors st;
    blob b =
        blob_safetensors("{\"__metadata__\":{\"k\":\"v\",\"format\":\"pt\"},"
                         "\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[0,12]}}  ",
                         payload, sizeof payload);
    assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
    ck_assert_uint_eq(st.count, 2);
    ck_assert_str_eq(st.list[0].name, "b"); /* sorted */
    ck_assert_str_eq(ser_safetensors_metadata(&st, "k"), "v");
    ck_assert_ptr_null(ser_safetensors_metadata(&st, "absent"));
    const ser_tensor_entry *entry = ser_safetensors_find(&st, "b");
    ck_assert_ptr_nonnull(entry);
    ck_assert_int_eq(entry->rank, 2);
    ck_assert_uint_eq(entry->shape[1], 3);
    ck_assert_uint_eq(entry->elements, 3);
    ck_assert_str_eq(entry->dtype, "F32");
    float values[3];
    assert_ok(ser_safetensors_read(&st, entry, values));
    ck_assert_mem_eq(values, payload, sizeof values);
    entry = ser_safetensors_find(&st, "z");
    ck_assert_int_eq(entry->rank, 0);
    assert_ok(ser_safetensors_read(&st, entry, values));
    ck_assert(values[0] == 0.0F);
    ck_assert_ptr_null(ser_safetensors_find(&st, "c"));
    ser_safetensors_close(&st);
    ser_safetensors_close(&st); /* again is harmless */
    blob_free(&b);
}
END_TEST

START_TEST(an_empty_file_of_tensors_is_legal)
{
    assert_ok(try_header("{}", 0));
    assert_ok(try_header("{\"__metadata__\":{}}", 0));
}
END_TEST

/* A buffer of `size` bytes that begins with the length N. */
static int try_length(uint64_t n, size_t size, uint64_t limit)
{
    ser_safetensors st;
    unsigned char bytes[64];
    memset(bytes, '{', sizeof bytes);
    memcpy(bytes, &n, 8);
    int status = open_bytes(bytes, size, limit, &st);
    ser_safetensors_close(&st);
    return status;
}

START_TEST(ST1_length_of_the_header)
{
    static const uint64_t huge[] = {
        57,           1000,           UINT64_C(1) << 31, UINT64_C(1) << 63,
        UINT64_MAX,   UINT64_MAX - 7, UINT64_MAX - 8,    UINT64_MAX - 15,
        INT64_MAX - 7};
    for (size_t size = 0; size < 8; size++) {
        assert_fails(try_length(4, size, LIMIT), SER_ERR_FORMAT, "bytes, less than 8");
    }
    assert_fails(try_length(0, 64, LIMIT), SER_ERR_FORMAT, "a header of 0 bytes in a file of 64");
    assert_fails(try_length(1, 64, LIMIT), SER_ERR_FORMAT, "a header of 1 bytes in a file of 64");
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "a header of %llu bytes in a file of 64",
                       (unsigned long long)huge[i]);
        assert_fails(try_length(huge[i], 64, UINT64_MAX), SER_ERR_FORMAT, text);
    }
    /* whole, but above the limit: another error, because the caller can do something about it */
    assert_fails(try_length(56, 64, 55), SER_ERR_CAPACITY, "limit 55 (max_header_size)");
    assert_fails(try_length(56, 64, 56), SER_ERR_FORMAT, "line 1");
}
END_TEST

START_TEST(ST2_header_is_no_json_object)
{
    static const char *const headers[] = {
        "{\"\xFF\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", /* not UTF-8 */
        "\xEF\xBB\xBF{" ONE "}",                                               /* byte order mark */
        "{\"\xC0\xAF\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", /* overlong */
        "{\"\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{" ONE, /* truncated */
        "{\"a\":{\"dtype\":\"F3",
        "[" ONE "]",
        "[]",
        "12",
        "\"text\"",
        "{" ONE "}x",
        "{" ONE "}{}",
        "{" ONE "},",
        "{'a':1}",
        "{" ONE ",}",
        "// {}",
        "        ",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        assert_fails(try_header(headers[i], 8), SER_ERR_FORMAT, "(byte ");
    }
    char nul[] = "{" ONE "}";
    nul[2] = '\0'; /* a raw NUL within a name */
    ser_safetensors st;
    uint64_t n = sizeof nul - 1;
    unsigned char bytes[8 + sizeof nul - 1 + 8] = {0};
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, nul, sizeof nul - 1);
    assert_fails(open_bytes(bytes, sizeof bytes, LIMIT, &st), SER_ERR_FORMAT, "(byte ");
}
END_TEST

START_TEST(ST3_white_space_before_the_brace)
{
    assert_ok(try_header(" \t\r\n{" ONE "}", 8));
}
END_TEST

START_TEST(ST4_duplicate_keys)
{
    assert_fails(try_header("{" ONE "," ONE "}", 8), SER_ERR_FORMAT, "duplicate");
    assert_fails(try_header("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],"
                            "\"data_offsets\":[0,8]}}",
                            8),
                 SER_ERR_FORMAT, "duplicate");
    assert_fails(try_header("{\"__metadata__\":{},\"__metadata__\":{}," ONE "}", 8), SER_ERR_FORMAT,
                 "duplicate");
    assert_fails(try_header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}," ONE "}", 8),
                 SER_ERR_FORMAT, "duplicate");
    /* the same name, spelled with an escape */
    assert_fails(try_header("{" ONE ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[0],"
                            "\"data_offsets\":[8,8]}}",
                            8),
                 SER_ERR_FORMAT, "duplicate");
}
END_TEST

static int try_tensor(const char *dtype, const char *shape, const char *offsets, size_t payload)
{
    char header[512];
    (void)snprintf(header, sizeof header, "{\"a\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}",
                   dtype, shape, offsets);
    return try_header(header, payload);
}

START_TEST(ST5_data_offsets)
{
    static const char *const offsets[] = {
        "[8]",
        "[]",
        "[0,8,8]",
        "[8,0]",
        "[-8,0]",
        "[0,-8]",
        "[0.0,8.0]",
        "[0,8.0]",
        "[0,1e3]",
        "[0,\"8\"]",
        "\"0,8\"",
        "[0,null]",
        "[0,true]",
        "{\"0\":8}",
        "null",
        "8",
        "[0,[8]]",
        "[0,9223372036854775808]",             /* 2^63 */
        "[0,36893488147419103232]",            /* 2^65 */
        "[9007199254740993,9007199254741001]", /* 2^53 + 1 */
        "[9223372036854775799,9223372036854775807]",
    };
    assert_ok(try_tensor("\"F32\"", "[2]", "[0,8]", 8));
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        int status = try_tensor("\"F32\"", "[2]", offsets[i], 8);
        ck_assert_msg(status == SER_ERR_FORMAT, "%s: %d", offsets[i], status);
    }
    /* 2^53 and 2^53 + 1 are the same double: the bytes in between must not count as none */
    assert_fails(try_tensor("\"U8\"", "[0]", "[9007199254740992,9007199254740993]", 8),
                 SER_ERR_FORMAT, "1 bytes between data_offsets, but its shape needs 0");
}
END_TEST

static int try_two(int a0, int a1, int b0, int b1, size_t payload)
{
    char header[512];
    (void)snprintf(header, sizeof header,
                   "{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]},"
                   "\"b\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}",
                   a1 - a0, a0, a1, b1 - b0, b0, b1);
    return try_header(header, payload);
}

START_TEST(ST6_layout_of_the_data)
{
    assert_ok(try_two(0, 4, 4, 9, 9));
    assert_ok(try_two(5, 9, 0, 5, 9)); /* in any order of names */
    assert_fails(try_two(0, 5, 4, 9, 9), SER_ERR_FORMAT, "overlap");
    assert_fails(try_two(0, 9, 0, 9, 9), SER_ERR_FORMAT, "overlap");
    assert_fails(try_two(0, 9, 2, 3, 9), SER_ERR_FORMAT, "overlap");
    assert_fails(try_two(0, 4, 5, 9, 9), SER_ERR_FORMAT, "\"b\": data_offsets leave a gap");
    assert_fails(try_two(1, 4, 4, 9, 9), SER_ERR_FORMAT, "\"a\": data_offsets leave a gap");
    assert_fails(try_two(0, 4, 4, 10, 9), SER_ERR_FORMAT, "\"b\": ends beyond the file");
    assert_fails(try_two(0, 4, 4, 9, 8), SER_ERR_FORMAT, "ends beyond the file, which has 8 bytes");
    assert_fails(try_two(0, 4, 4, 9, 10), SER_ERR_FORMAT, "1 bytes behind the last tensor");
    assert_fails(try_header("{}", 1), SER_ERR_FORMAT, "1 bytes behind");
}
END_TEST

START_TEST(ST7_shapes)
{
    static const char *const wrong[] = {"[-2]", "[2.0]", "[\"2\"]", "2",
                                        "null", "{}",    "[null]",  "[[2]]"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_fails(try_tensor("\"F32\"", wrong[i], "[0,8]", 8), SER_ERR_FORMAT, "shape must be");
    }
    /* 4194305 * 4194305 * 211106198978564 = 4 modulo 2^64 */
    assert_fails(try_tensor("\"U8\"", "[4194305,4194305,211106198978564]", "[0,4]", 4),
                 SER_ERR_FORMAT, "product of its shape overflows");
    /* elements fit in 64 bits, bits do not */
    assert_fails(try_tensor("\"F32\"", "[4611686018427387904]", "[0,0]", 0), SER_ERR_FORMAT,
                 "product of its shape overflows");
    assert_fails(try_tensor("\"F32\"", "[4611686018427387904,4,0]", "[0,0]", 0), SER_ERR_FORMAT,
                 "product of its shape overflows");
    assert_fails(try_tensor("\"F32\"", "[3]", "[0,8]", 8), SER_ERR_FORMAT,
                 "8 bytes between data_offsets, but its shape needs 12");
    assert_ok(try_tensor("\"F32\"", "[0]", "[0,0]", 0));
    assert_ok(try_tensor("\"F32\"", "[3,0,5]", "[0,0]", 0));
    assert_ok(try_tensor("\"F32\"", "[]", "[0,4]", 4));
    assert_ok(try_tensor("\"F32\"", "[1,1,1,1,1,1,1,1]", "[0,4]", 4));
    assert_fails(try_tensor("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]", 4), SER_ERR_FORMAT,
                 "at most 8");
}
END_TEST

START_TEST(ST7_rank_of_a_million)
{
    enum { RANK = 1000000 };
    char *header = malloc(2 * RANK + 200);
    size_t n =
        (size_t)sprintf(header, "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[1");
    for (int i = 1; i < RANK; i++) {
        memcpy(header + n, ",1", 2);
        n += 2;
    }
    memcpy(header + n, "]}}", 4);
    int status = try_header(header, 4);
    ck_assert_msg(status == SER_ERR_FORMAT || status == SER_ERR_CAPACITY, "%d", status);
    free(header);
}
END_TEST

START_TEST(ST8_empty_tensor_at_the_offset_of_another)
{
    assert_ok(try_two(0, 0, 0, 9, 9));
    assert_ok(try_two(0, 9, 0, 0, 9));
    assert_fails(try_two(4, 4, 0, 9, 9), SER_ERR_FORMAT, "overlap"); /* within another */
    assert_ok(try_two(0, 9, 9, 9, 9));
    assert_fails(try_two(0, 9, 10, 10, 9), SER_ERR_FORMAT, "gap");
}
END_TEST

START_TEST(ST9_types)
{
    static const struct {
        const char *name;
        const char *shape;
        size_t size;
    } known[] = {{"\"F64\"", "[2]", 16},    {"\"I64\"", "[2]", 16},    {"\"I32\"", "[2]", 8},
                 {"\"I16\"", "[2]", 4},     {"\"I8\"", "[2]", 2},      {"\"U64\"", "[2]", 16},
                 {"\"U32\"", "[2]", 8},     {"\"U16\"", "[2]", 4},     {"\"U8\"", "[2]", 2},
                 {"\"BOOL\"", "[2]", 2},    {"\"C64\"", "[2]", 16},    {"\"F8_E5M2\"", "[2]", 2},
                 {"\"F8_E4M3\"", "[2]", 2}, {"\"F8_E8M0\"", "[2]", 2}, {"\"F6_E2M3\"", "[4]", 3},
                 {"\"F6_E3M2\"", "[4]", 3}, {"\"F4\"", "[4]", 2}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        char header[256];
        ser_safetensors st;
        float values[8];
        (void)snprintf(header, sizeof header,
                       "{\"some\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":[0,%zu]}}",
                       known[i].name, known[i].shape, known[i].size);
        blob b = blob_safetensors(header, NULL, known[i].size);
        assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
        ck_assert(!ser_tensor_is_readable(&st.list[0]));
        char text[64];
        (void)snprintf(text, sizeof text, "tensor \"some\" is %.*s; F32, F16 and BF16",
                       (int)strlen(known[i].name) - 2, known[i].name + 1);
        assert_fails(ser_safetensors_read(&st, &st.list[0], values), SER_ERR_UNSUPPORTED, text);
        ser_safetensors_close(&st);
        blob_free(&b);
    }
    assert_fails(try_tensor("\"F31\"", "[2]", "[0,8]", 8), SER_ERR_FORMAT,
                 "dtype \"F31\" is unknown");
    assert_fails(try_tensor("\"f32\"", "[2]", "[0,8]", 8), SER_ERR_FORMAT,
                 "dtype \"f32\" is unknown");
    assert_fails(try_tensor("32", "[2]", "[0,8]", 8), SER_ERR_FORMAT, "dtype 32 is unknown");
    assert_fails(try_tensor("null", "[2]", "[0,8]", 8), SER_ERR_FORMAT, "dtype null is unknown");
    assert_fails(try_tensor("\"F4\"", "[3]", "[0,2]", 2), SER_ERR_FORMAT,
                 "do not fill whole bytes");
}
END_TEST

START_TEST(tensors_are_objects_of_three_keys)
{
    static const char *const headers[] = {
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}",
        "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}",
        "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"strides\":[1]}}",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        assert_fails(try_header(headers[i], 8), SER_ERR_FORMAT, "tensor \"a\"");
    }
    assert_fails(try_header("{\"__metadata__\":[]}", 0), SER_ERR_FORMAT, "__metadata__ must be");
    assert_fails(try_header("{\"__metadata__\":{\"k\":1}}", 0), SER_ERR_FORMAT,
                 "__metadata__.k must be a text");
    assert_fails(try_header("{\"a\x1b[31m\":{}}", 0), SER_ERR_FORMAT, "(byte "); /* raw control */
    assert_fails(try_header("{\"\\u001b[31m\":{}}", 0), SER_ERR_FORMAT, "tensor \"?[31m\"");
}
END_TEST

START_TEST(ST13_file_changes_while_open)
{
    const float payload[] = {1, 2, 3, 4, 5, 6, 7, 8};
    float values[8];
    ser_safetensors st;
    ser_file file;
    int directory;
    const char *path = harness_tmpfile("changing.safetensors");
    blob b = blob_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}}",
                              payload, sizeof payload);
    blob_write(&b, path);
    assert_ok(ser_file_open(path, &file, &directory));
    assert_ok(ser_safetensors_open(&file, LIMIT, &st));
    assert_ok(ser_safetensors_read(&st, &st.list[0], values));
    ck_assert_mem_eq(values, payload, sizeof payload);
    ck_assert_int_eq(truncate(path, (off_t)b.size - 4), 0);
    assert_fails(ser_safetensors_read(&st, &st.list[0], values), SER_ERR_IO, "become shorter");
    ser_safetensors_close(&st);
    /* shorter between the look at its size and the reading of its header */
    blob_write(&b, path);
    assert_ok(ser_file_open(path, &file, &directory));
    ck_assert_int_eq(truncate(path, 12), 0);
    assert_fails(ser_safetensors_open(&file, LIMIT, &st), SER_ERR_IO, "become shorter");
    blob_free(&b);
}
END_TEST

START_TEST(ST16_little_endian_bytes)
{
    static const unsigned char bytes[] = {0x00, 0x00, 0x80, 0x3F, 0x00, 0x00, 0x00, 0xC0};
    float values[2];
    ser_safetensors st;
    blob b = blob_safetensors("{" ONE "}", bytes, sizeof bytes);
    assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
    assert_ok(ser_safetensors_read(&st, &st.list[0], values));
    ck_assert(values[0] == 1.0F && values[1] == -2.0F);
    ser_safetensors_close(&st);
    blob_free(&b);
}
END_TEST

/* One format, whatever else the bytes could be taken for. */
START_TEST(ST17_polyglots)
{
    /* a zip archive's end record may lie in the data of the last tensor: still tensors */
    static const unsigned char end_record[24] = {'P', 'K', 5, 6};
    blob b = blob_safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[24],\"data_offsets\":[0,24]}}",
                              end_record, sizeof end_record);
    ser_safetensors st;
    assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
    ser_safetensors_close(&st);
    blob_free(&b);
    /* and what begins as something else is nothing */
    static const struct {
        const char *bytes;
        const char *hint;
    } others[] = {
        {"PK\3\4\24\0\0\0\0\0\0\0", "zip archive"},
        {"\x80\2}q\0X\5\0\0\0alpha", "Python pickle"},
        {"GGUF\3\0\0\0\1\0\0\0", "GGUF"},
        {"version https://git-lfs", "Git LFS pointer"},
        {"{\"a\": 1, \"b\": 2}", "not a safetensors file"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_fails(open_bytes(others[i].bytes, 12, LIMIT, &st), SER_ERR_FORMAT, others[i].hint);
    }
}
END_TEST

static int read_all(const blob *b)
{
    ser_safetensors st;
    ser_file file;
    float values[2];
    int status = ser_file_wrap(b->data, b->size, "test.safetensors", &file);
    if (status == 0) {
        status = ser_safetensors_open(&file, LIMIT, &st);
    }
    if (status == 0) {
        status = ser_safetensors_read(&st, &st.list[0], values);
        ser_safetensors_close(&st);
    }
    return status;
}

START_TEST(every_allocation_may_fail)
{
    blob b = blob_safetensors("{" ONE "}", NULL, 8);
    int64_t live = ser_mem_live();
    for (int sticky = 0; sticky < 2; sticky++) {
        int status = SER_ERR_MEMORY;
        for (uint64_t n = 1; status != 0; n++) {
            ser_mem_fail_at(n, sticky != 0);
            status = read_all(&b);
            ser_mem_fail_at(0, false);
            ck_assert(status == 0 || status == SER_ERR_MEMORY);
            ck_assert_int_eq(ser_mem_live(), live);
            ck_assert_uint_lt(n, 100);
        }
    }
    blob_free(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *tcase = tcase_create("reader");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, reads_what_is_there);
    tcase_add_test(tcase, an_empty_file_of_tensors_is_legal);
    tcase_add_test(tcase, ST1_length_of_the_header);
    tcase_add_test(tcase, ST2_header_is_no_json_object);
    tcase_add_test(tcase, ST3_white_space_before_the_brace);
    tcase_add_test(tcase, ST4_duplicate_keys);
    tcase_add_test(tcase, ST5_data_offsets);
    tcase_add_test(tcase, ST6_layout_of_the_data);
    tcase_add_test(tcase, ST7_shapes);
    tcase_add_test(tcase, ST7_rank_of_a_million);
    tcase_add_test(tcase, ST8_empty_tensor_at_the_offset_of_another);
    tcase_add_test(tcase, ST9_types);
    tcase_add_test(tcase, tensors_are_objects_of_three_keys);
    tcase_add_test(tcase, ST13_file_changes_while_open);
    tcase_add_test(tcase, ST16_little_endian_bytes);
    tcase_add_test(tcase, ST17_polyglots);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
