/* SPDX-License-Identifier: MIT */
/* The pickle machine, with pickles written by hand, byte for byte: PK1 to PK5. */
#include "harness.h"

#include "model/pickle.h"

#define PROTO    "\x80\2"
#define ODICT    "ccollections\nOrderedDict\n)R"
#define TEXT1(a) "X\1\0\0\0" a
#define CPU      "X\3\0\0\0cpu"
#define STORAGE_OF(class, key, location)                                                           \
    "(X\7\0\0\0storagectorch\n" class "\n" key location "K\14tQ"
#define STORAGE STORAGE_OF("FloatStorage", TEXT1("0"), CPU)
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
/* offset 1, shape [3, 2], stride [4, 1] */
#define VIEW            "K\1K\3K\2\x86K\4K\1\x86"
#define TENSOR          REBUILD "(" STORAGE VIEW "\x89" ODICT "tR"
#define STATE_OF(value) PROTO ODICT "(" TEXT1("w") value "u."

#define read(literal, pickle)                                                                      \
    ser_pickle_read("file", (const unsigned char *)(literal), sizeof(literal) - 1, pickle)

/* The literal fails, and nothing is left. */
#define refuse(literal, status, part)                                                              \
    do {                                                                                           \
        ser_pickle p_;                                                                             \
        int64_t live_ = ser_mem_live();                                                            \
        assert_fails(read(literal, &p_), status, part);                                            \
        ck_assert(p_.list == NULL && p_.names == NULL && p_.count == 0);                           \
        ck_assert_int_eq(ser_mem_live(), live_);                                                   \
    } while (0)

static void check_tensor(const ser_pickle_tensor *t)
{
    ck_assert_str_eq(t->name, "w");
    ck_assert_str_eq(t->key, "0");
    ck_assert_str_eq(t->dtype, "F32");
    ck_assert_uint_eq(t->width, 4);
    ck_assert_uint_eq(t->storage_elements, 12);
    ck_assert_uint_eq(t->offset, 1);
    ck_assert_int_eq(t->rank, 2);
    ck_assert(t->shape[0] == 3 && t->shape[1] == 2 && t->stride[0] == 4 && t->stride[1] == 1);
}

#define accept(literal)                                                                            \
    do {                                                                                           \
        ser_pickle p_;                                                                             \
        assert_ok(read(literal, &p_));                                                             \
        ck_assert_uint_eq(p_.count, 1);                                                            \
        check_tensor(&p_.list[0]);                                                                 \
        ser_pickle_clear(&p_);                                                                     \
    } while (0)

START_TEST(state_dicts_of_all_spellings)
{
    accept(STATE_OF(TENSOR));
    accept(PROTO "}" TEXT1("w") TENSOR "s."); /* a plain dict, one pair */
    /* _metadata as torch.save writes it: attributes of the dict, with anything inside */
    accept(PROTO ODICT "(" TEXT1("w") TENSOR "u}X\11\0\0\0_metadata" ODICT "X\0\0\0\0}"
                                             "X\7\0\0\0versionK\1sssb.");
    accept(PROTO ODICT "(" TEXT1("w") TENSOR
           "u}(" TEXT1("a") "]Na" TEXT1("b") "](\x88Ne" TEXT1("c") "G\0\0\0\0\0\0\0\0ub.");
    accept(STATE_OF(REBUILD "(" STORAGE VIEW "\x88" ODICT "NtR"));
    accept(STATE_OF(REBUILD "(" STORAGE VIEW "\x88}}tR"));
    accept(STATE_OF("ctorch._utils\n_rebuild_parameter\n" TENSOR "\x88" ODICT "\x87R"));
    accept(STATE_OF(REBUILD "(" STORAGE_OF("FloatStorage", TEXT1("0"), "X\7\0\0\0cuda:12") VIEW
                    "\x89" ODICT "tR"));
    /* the numbers in every width */
    accept(STATE_OF(REBUILD "(" STORAGE
                            "J\1\0\0\0M\3\0\x8A\1\2\x86\x8A\4\4\0\0\0\x8A\10\1\0\0\0\0\0\0\0\x86"
                            "\x89" ODICT "tR"));
    /* the memo in both widths */
    accept(PROTO ODICT "(" TEXT1("w") "q\0r\1\0\0\0" TENSOR "q\2u}j\0\0\0\0h\2sb.");
}
END_TEST

START_TEST(names_are_sorted_and_may_share_a_tensor)
{
    ser_pickle p;
    assert_ok(read(PROTO ODICT "(" TEXT1("z") TENSOR "q\0" TEXT1("a") "h\0X\3\0\0\0m.nh\0u.", &p));
    ck_assert_uint_eq(p.count, 3);
    ck_assert_str_eq(p.list[0].name, "a");
    ck_assert_str_eq(p.list[1].name, "m.n");
    ck_assert_str_eq(p.list[2].name, "z");
    ck_assert_int_eq(memcmp(p.list[0].shape, p.list[2].shape, sizeof p.list[0].shape), 0);
    ser_pickle_clear(&p);
    assert_ok(read(PROTO "}.", &p));
    ck_assert_uint_eq(p.count, 0);
    ser_pickle_clear(&p);
}
END_TEST

START_TEST(every_type_of_storage)
{
    static const struct {
        const char *class, *dtype;
        uint32_t width;
    } types[] = {{"Float", "F32", 4},  {"Half", "F16", 2}, {"BFloat16", "BF16", 2},
                 {"Double", "F64", 8}, {"Long", "I64", 8}, {"Int", "I32", 4},
                 {"Short", "I16", 2},  {"Char", "I8", 1},  {"Byte", "U8", 1},
                 {"Bool", "BOOL", 1}};
    static const char before[] = PROTO "}" TEXT1("w") REBUILD "((X\7\0\0\0storagectorch\n";
    static const char after[] = "Storage\n" TEXT1("0") CPU "K\14tQ" VIEW "\x89}tRs.";
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        unsigned char text[400];
        ser_pickle p;
        size_t length = strlen(types[i].class);
        memcpy(text, before, sizeof before - 1);
        memcpy(text + sizeof before - 1, types[i].class, length);
        memcpy(text + sizeof before - 1 + length, after, sizeof after - 1);
        assert_ok(ser_pickle_read("file", text, sizeof before + sizeof after - 2 + length, &p));
        ck_assert_str_eq(p.list[0].dtype, types[i].dtype);
        ck_assert_uint_eq(p.list[0].width, types[i].width);
        ser_pickle_clear(&p);
    }
}
END_TEST

START_TEST(PK1_opcodes)
{
    /* GLOBAL by the stack, NEWOBJ, INST, OBJ, EXT1, PERSID, BUILD's kin, frames, buffers, sets */
    static const unsigned char others[] = {
        0x93, 0x81, 'i',  'o',  0x82, 'P', 0x95, 0x96, 0x97, 0x98, 0x8F, 0x90, 0x91, 0x92,
        0x94, 0x8C, 0x8D, 0x8E, 'I',  'L', 'S',  'T',  'U',  'V',  'B',  'C',  'F',  'g',
        'p',  'd',  'l',  '0',  '1',  '2', 0x8B, 0x83, 0x84, 0x80, 0,    0xFF};
    for (size_t i = 0; i < sizeof others; i++) {
        char text[] = PROTO "}?.";
        char expected[64];
        ser_pickle p;
        text[3] = (char)others[i];
        (void)snprintf(expected, sizeof expected, "opcode 0x%02X at byte 3", others[i]);
        assert_fails(read(text, &p), SER_ERR_UNSUPPORTED, expected);
    }
}
END_TEST

START_TEST(PK1_begin_and_end)
{
    refuse("", SER_ERR_FORMAT, "does not begin with its protocol");
    refuse("\x80", SER_ERR_FORMAT, "does not begin with its protocol");
    refuse("}.", SER_ERR_FORMAT, "does not begin with its protocol");
    refuse("\x80\3}.", SER_ERR_UNSUPPORTED, "pickle protocol 3; 2 is read");
    refuse("\x80\4}.", SER_ERR_UNSUPPORTED, "pickle protocol 4");
    refuse("\x80\1}.", SER_ERR_UNSUPPORTED, "pickle protocol 1");
    refuse(PROTO, SER_ERR_FORMAT, "without its stop opcode");
    refuse(PROTO "}", SER_ERR_FORMAT, "without its stop opcode");
    refuse(PROTO "}.}", SER_ERR_FORMAT, "1 bytes behind the end");
    refuse(PROTO ".", SER_ERR_FORMAT, "0 values and 0 marks are left");
    refuse(PROTO "}}.", SER_ERR_FORMAT, "2 values and 0 marks are left");
    refuse(PROTO "}(.", SER_ERR_FORMAT, "1 values and 1 marks are left");
}
END_TEST

START_TEST(PK1_operands_that_are_cut_off)
{
    refuse(PROTO "K", SER_ERR_FORMAT, "opcode 0x4B at byte 2: the pickle ends within it");
    refuse(PROTO "M\1", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "J\1\0\0", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "\x8A", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "\x8A\4\1\1\1", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "\x8A\11\1\1\1\1\1\1\1\1\1.", SER_ERR_FORMAT, "an integer of 9 bytes");
    refuse(PROTO "G\0\0\0\0\0\0\0", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "X\1\0\0", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "X\4\0\0\0abc", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "X\xFF\xFF\xFF\xFF"
                 "abc",
           SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "h", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "}r\0\0\0", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "ctorch", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "ctorch\n", SER_ERR_FORMAT, "ends within it");
    refuse(PROTO "ctorch\nFloatStorage", SER_ERR_FORMAT, "ends within it");
}
END_TEST

START_TEST(PK2_symbols)
{
    refuse(PROTO "cos\nsystem\n(X\4\0\0\0true\x85R.", SER_ERR_UNSUPPORTED,
           "global \"os.system\" at byte 2 is not allowed");
    refuse(PROTO "cbuiltins\neval\n.", SER_ERR_UNSUPPORTED, "\"builtins.eval\"");
    refuse(PROTO "c__builtin__\neval\n.", SER_ERR_UNSUPPORTED, "\"__builtin__.eval\"");
    refuse(PROTO "ctorch\nload\n.", SER_ERR_UNSUPPORTED, "\"torch.load\"");
    refuse(PROTO "ctorch.serialization\nload\n.", SER_ERR_UNSUPPORTED,
           "\"torch.serialization.load\"");
    refuse(PROTO "c\n\n.", SER_ERR_UNSUPPORTED, "global \".\"");
    /* a Cyrillic o, a blank, a longer and a shorter name, another case, parts that end elsewhere */
    refuse(PROTO "ct\xD0\xBErch\nFloatStorage\n.", SER_ERR_UNSUPPORTED, "\"t??rch.FloatStorage\"");
    refuse(PROTO "ctorch \nFloatStorage\n.", SER_ERR_UNSUPPORTED, "\"torch?.FloatStorage\"");
    refuse(PROTO "ctorch\nFloatStorage2\n.", SER_ERR_UNSUPPORTED, "FloatStorage2");
    refuse(PROTO "ctorch\nFloatStorag\n.", SER_ERR_UNSUPPORTED, "FloatStorag\"");
    refuse(PROTO "cTorch\nFloatStorage\n.", SER_ERR_UNSUPPORTED, "Torch.FloatStorage");
    refuse(PROTO "ctorch._utils\nrebuild_tensor_v2\n.", SER_ERR_UNSUPPORTED, "_utils.rebuild");
    refuse(PROTO "ctorch._utils.\n_rebuild_tensor_v2\n.", SER_ERR_UNSUPPORTED, "not allowed");
    refuse(PROTO "ctorch\n_utils._rebuild_tensor_v2\n.", SER_ERR_UNSUPPORTED, "not allowed");
    refuse(PROTO "ctorch._utils\n_rebuild_tensor_v3\n.", SER_ERR_UNSUPPORTED, "not allowed");
    refuse(PROTO "ctorch\nUntypedStorage\n.", SER_ERR_UNSUPPORTED, "not allowed");
}
END_TEST

START_TEST(PK3_operands_of_the_wrong_type)
{
    refuse(PROTO "}NR.", SER_ERR_FORMAT, "not a symbol and a tuple");
    refuse(PROTO "K\1)R.", SER_ERR_FORMAT, "not a symbol and a tuple");
    refuse(PROTO "ccollections\nOrderedDict\n}R.", SER_ERR_FORMAT, "not a symbol and a tuple");
    refuse(PROTO "ctorch\nFloatStorage\n)R.", SER_ERR_FORMAT, "FloatStorage is not a function");
    refuse(PROTO "ccollections\nOrderedDict\n]\x85R.", SER_ERR_FORMAT,
           "OrderedDict with arguments");
    refuse(PROTO ")}b.", SER_ERR_FORMAT, "its container is no dict");
    refuse(PROTO "}}b.", SER_ERR_FORMAT, "only the attributes of an OrderedDict");
    refuse(PROTO ODICT "]b.", SER_ERR_FORMAT, "only the attributes of an OrderedDict");
    refuse(PROTO STORAGE "}b.", SER_ERR_FORMAT, "its container is no dict");
    refuse(PROTO "](" TEXT1("a") "Nu.", SER_ERR_FORMAT, "its container is no dict");
    refuse(PROTO ")" TEXT1("a") "Ns.", SER_ERR_FORMAT, "its container is no dict");
    refuse(PROTO "}(" TEXT1("a") "u.", SER_ERR_FORMAT, "1 values are no pairs");
    refuse(PROTO "}(" TEXT1("a") "NNu.", SER_ERR_FORMAT, "3 values are no pairs");
    refuse(PROTO "}K\1Ns.", SER_ERR_FORMAT, "a key that is no text");
    refuse(PROTO "}]Ns.", SER_ERR_FORMAT, "a key that is no text");
    refuse(PROTO "}Na.", SER_ERR_FORMAT, "its container is no list");
    refuse(PROTO ")(Ne.", SER_ERR_FORMAT, "its container is no list");
}
END_TEST

START_TEST(PK3_underflow)
{
    refuse(PROTO "R.", SER_ERR_FORMAT, "needs 2 values, the stack has 0");
    refuse(PROTO ")R.", SER_ERR_FORMAT, "needs 2 values, the stack has 1");
    refuse(PROTO "}b.", SER_ERR_FORMAT, "needs 1 values, the stack has 0");
    refuse(PROTO "b.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "Q.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "N\x87.", SER_ERR_FORMAT, "needs 3 values, the stack has 1");
    refuse(PROTO "\x86.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "}s.", SER_ERR_FORMAT, "needs 2 values, the stack has 1");
    refuse(PROTO "a.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "q\0.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "t.", SER_ERR_FORMAT, "there is no mark");
    refuse(PROTO "}u.", SER_ERR_FORMAT, "there is no mark");
    refuse(PROTO "]e.", SER_ERR_FORMAT, "there is no mark");
    refuse(PROTO "(u.", SER_ERR_FORMAT, "the stack has 0");
    /* never below a mark */
    refuse(PROTO "N(\x85.", SER_ERR_FORMAT, "needs 1 values, the stack has 0");
    refuse(PROTO "}(" TEXT1("a") "Ns.", SER_ERR_FORMAT, "the stack has 0");
    refuse(PROTO "}(q\0.", SER_ERR_FORMAT, "the stack has 0");
}
END_TEST

START_TEST(PK4_memo)
{
    refuse(PROTO "h\0.", SER_ERR_FORMAT, "nothing was stored as 0");
    refuse(PROTO "}q\0h\1.", SER_ERR_FORMAT, "nothing was stored as 1");
    refuse(PROTO "j\xFF\xFF\xFF\xFF.", SER_ERR_FORMAT, "nothing was stored as 4294967295");
    refuse(PROTO "}r\xFF\xFF\xFF\xFF.", SER_ERR_FORMAT, "stores as 4294967295 where 0 is next");
    refuse(PROTO "}q\1.", SER_ERR_FORMAT, "stores as 1 where 0 is next");
    /* a dict within itself, and in its own attributes */
    refuse(PROTO "}q\0" TEXT1("w") "h\0s.", SER_ERR_FORMAT, "\"w\" is no tensor");
    refuse(PROTO ODICT "q\0}" TEXT1("w") "h\0sbh\0\x86.", SER_ERR_FORMAT, "no dict of tensors");
    refuse(PROTO "]q\0h\0a.", SER_ERR_FORMAT, "no dict of tensors");
}
END_TEST

/* `head`, `piece` so many times, `tail` */
static int repeated(const char *head, const char *piece, size_t times, const char *tail)
{
    size_t room = strlen(head) + times * strlen(piece) + strlen(tail);
    char *text = malloc(room + 1);
    ser_pickle p;
    ck_assert_ptr_nonnull(text);
    char *next = stpcpy(text, head);
    for (size_t i = 0; i < times; i++) {
        next = stpcpy(next, piece);
    }
    (void)stpcpy(next, tail);
    int64_t live = ser_mem_live();
    int status = ser_pickle_read("file", (const unsigned char *)text, room, &p);
    ser_pickle_clear(&p);
    ck_assert_int_eq(ser_mem_live(), live);
    free(text);
    return status;
}

START_TEST(PK4_depth_and_number)
{
    assert_fails(repeated(PROTO "N", "\x85", 64, "."), SER_ERR_FORMAT, "no dict of tensors");
    assert_fails(repeated(PROTO "N", "\x85", 65, "."), SER_ERR_CAPACITY, "more than 64 deep");
    assert_fails(repeated(PROTO "N", "\x85", 1000000, "."), SER_ERR_CAPACITY, "more than 64 deep");
    assert_fails(repeated(PROTO "", "(", 64, "."), SER_ERR_FORMAT, "64 marks are left");
    assert_fails(repeated(PROTO "", "(", 65, "."), SER_ERR_CAPACITY, "more than 64 open marks");
    assert_fails(repeated(PROTO, "}", 1000000, "."), SER_ERR_FORMAT, "1000000 values");
    assert_fails(repeated(PROTO, "N", 5000000, "."), SER_ERR_CAPACITY, "more than 4194304 values");
}
END_TEST

/* A dict with `count` more pairs of one name than one, whose tensor is built anew or the same. */
static int many_pairs(size_t count, size_t name_length, bool fresh)
{
    static const char start[] = REBUILD "q\1(" STORAGE VIEW "\x89}tq\2Rq\3";
    unsigned char *text = malloc(sizeof start + name_length + 32 + count * 7);
    ck_assert_ptr_nonnull(text);
    ser_pickle p;
    memcpy(text, PROTO "}(X\0\0\0\0", 9);
    text[5] = (unsigned char)name_length;
    text[6] = (unsigned char)(name_length >> 8);
    memset(text + 9, 'a', name_length);
    size_t size = 9 + name_length;
    memcpy(text + size, "q\0", 2);
    memcpy(text + size + 2, start, sizeof start - 1);
    size += sizeof start + 1;
    for (size_t i = 0; i < count; i++, size += fresh ? 7 : 4) {
        memcpy(text + size, fresh ? "h\0h\1h\2R" : "h\0h\3", fresh ? 7 : 4);
    }
    memcpy(text + size, "u.", 2);
    int64_t live = ser_mem_live();
    int status = ser_pickle_read("file", text, size + 2, &p);
    ser_pickle_clear(&p);
    ck_assert_int_eq(ser_mem_live(), live);
    free(text);
    return status;
}

START_TEST(PK4_tensors_and_names)
{
    assert_ok(many_pairs(0, 1, true));
    assert_fails(many_pairs(65535, 1, true), SER_ERR_FORMAT, "duplicate tensor \"a\"");
    assert_fails(many_pairs(65536, 1, true), SER_ERR_CAPACITY, "more than 65536 tensors");
    assert_fails(many_pairs(65536, 1, false), SER_ERR_CAPACITY, "65537 tensors, limit 65536");
    /* the names together would be longer than the pickle */
    assert_fails(many_pairs(65535, 60000, false), SER_ERR_FORMAT, "duplicate tensors: ");
}
END_TEST

START_TEST(PK5_storages)
{
#define REFUSE_STORAGE(storage, part) refuse(PROTO storage ".", SER_ERR_FORMAT, part)
    static const char tuple[] = "not (\"storage\", class, key, location, number of elements)";
    REFUSE_STORAGE("NQ", tuple);
    REFUSE_STORAGE("X\7\0\0\0storageQ", tuple);
    REFUSE_STORAGE(")Q", tuple);
    REFUSE_STORAGE("(X\7\0\0\0storagectorch\nFloatStorage\n" TEXT1("0") CPU "tQ", tuple);
    REFUSE_STORAGE("(X\7\0\0\0storagectorch\nFloatStorage\n" TEXT1("0") CPU "K\1NtQ", tuple);
    REFUSE_STORAGE("(X\7\0\0\0Storagectorch\nFloatStorage\n" TEXT1("0") CPU "K\1tQ", tuple);
    REFUSE_STORAGE("(X\7\0\0\0storage" TEXT1("0") TEXT1("0") CPU "K\1tQ", tuple);
    REFUSE_STORAGE("(X\7\0\0\0storageccollections\nOrderedDict\n" TEXT1("0") CPU "K\1tQ", tuple);
    REFUSE_STORAGE("(X\7\0\0\0storagectorch._utils\n_rebuild_parameter\n" TEXT1("0") CPU "K\1tQ",
                   tuple);
    REFUSE_STORAGE("(X\7\0\0\0storagectorch\nFloatStorage\n" TEXT1("0") CPU "J\xFF\xFF\xFF\xFFtQ",
                   tuple);
    REFUSE_STORAGE("(X\7\0\0\0storagectorch\nFloatStorage\n" TEXT1("0") CPU "\x88tQ", tuple);
#define KEY(key) STORAGE_OF("FloatStorage", key, CPU)
    static const char digits[] = "a storage's key must be 1 to 20 digits";
    REFUSE_STORAGE(KEY("X\0\0\0\0"), digits);
    REFUSE_STORAGE(KEY("X\2\0\0\0.."), digits);
    REFUSE_STORAGE(KEY(TEXT1("/")), digits);
    REFUSE_STORAGE(KEY("X\5\0\0\0../x0"), digits);
    REFUSE_STORAGE(KEY("X\3\0\0\0"
                       "1/2"),
                   digits);
    REFUSE_STORAGE(KEY("X\2\0\0\0"
                       "1\0"),
                   digits);
    REFUSE_STORAGE(KEY("X\25\0\0\0"
                       "111111111111111111111"),
                   digits);
    REFUSE_STORAGE(KEY("K\0"), digits);
    REFUSE_STORAGE(KEY("N"), digits);
#define LOCATION(location) STORAGE_OF("FloatStorage", TEXT1("0"), location)
    static const char device[] = "a storage's location must be a device";
    REFUSE_STORAGE(LOCATION("X\0\0\0\0"), device);
    REFUSE_STORAGE(LOCATION("X\5\0\0\0cuda:"), device);
    REFUSE_STORAGE(LOCATION("X\6\0\0\0cuda:x"), device);
    REFUSE_STORAGE(LOCATION("X\4\0\0\0cpu/"), device);
    REFUSE_STORAGE(LOCATION("X\2\0\0\0:0"), device);
    REFUSE_STORAGE(LOCATION("X\4\0\0\0cpu\0"), device);
    REFUSE_STORAGE(LOCATION("X\21\0\0\0aaaaaaaaaaaaaaaaa"), device);
    REFUSE_STORAGE(LOCATION("N"), device);
}
END_TEST

START_TEST(PK5_arguments_of_tensors)
{
    static const char wrong[] = "not the arguments of a tensor";
    static const char numbers[] = "shape and stride must be equally many numbers";
#define ARGS(args) refuse(STATE_OF(REBUILD "(" args "tR"), SER_ERR_FORMAT, wrong)
    ARGS(STORAGE VIEW "\x89");
    ARGS(STORAGE VIEW "\x89" ODICT "NN");
    ARGS("N" VIEW "\x89" ODICT);
    ARGS("K\0" VIEW "\x89" ODICT);
    ARGS("ctorch\nFloatStorage\n" VIEW "\x89" ODICT);
    ARGS(STORAGE "NK\3\x85K\1\x85\x89" ODICT);
    ARGS(STORAGE "J\xFF\xFF\xFF\xFFK\3\x85K\1\x85\x89" ODICT);
    ARGS(STORAGE VIEW "N" ODICT);
    ARGS(STORAGE VIEW "K\0" ODICT);
    ARGS(STORAGE VIEW "\x89N");
    ARGS(STORAGE VIEW "\x89}" TEXT1("h") "Ns");     /* hooks */
    ARGS(STORAGE VIEW "\x89}}" TEXT1("n") "\x88s"); /* a negated view */
    ARGS("");
#define SHAPE_AND_STRIDE(both)                                                                     \
    refuse(STATE_OF(REBUILD "(" STORAGE "K\0" both "\x89}tR"), SER_ERR_FORMAT, numbers)
    SHAPE_AND_STRIDE("K\3\x85K\3K\1\x86");
    SHAPE_AND_STRIDE(")K\1\x85");
    SHAPE_AND_STRIDE("K\3K\1");
    SHAPE_AND_STRIDE("]]");
    SHAPE_AND_STRIDE("N\x85K\1\x85");
    SHAPE_AND_STRIDE("K\3\x85J\xFF\xFF\xFF\xFF\x85");
    SHAPE_AND_STRIDE("J\xFD\xFF\xFF\xFF\x85K\1\x85");
    SHAPE_AND_STRIDE("\x8A\10\0\0\0\0\0\0\0\x80\x85K\1\x85");
    SHAPE_AND_STRIDE("(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t");
    static const char parameter[] = "not the arguments of a parameter";
#define PARAMETER "ctorch._utils\n_rebuild_parameter\n"
    refuse(STATE_OF(PARAMETER TENSOR "\x88\x86R"), SER_ERR_FORMAT, parameter);
    refuse(STATE_OF(PARAMETER "N\x88}\x87R"), SER_ERR_FORMAT, parameter);
    refuse(STATE_OF(PARAMETER TENSOR "K\1}\x87R"), SER_ERR_FORMAT, parameter);
    refuse(STATE_OF(PARAMETER TENSOR "\x88N\x87R"), SER_ERR_FORMAT, parameter);
}
END_TEST

START_TEST(what_is_no_state_dict)
{
    refuse(PROTO "N.", SER_ERR_FORMAT, "no dict of tensors");
    refuse(PROTO "].", SER_ERR_FORMAT, "no dict of tensors");
    refuse(PROTO TENSOR ".", SER_ERR_FORMAT, "no dict of tensors");
    refuse(STATE_OF("K\1"), SER_ERR_FORMAT, "\"w\" is no tensor: not a state dict");
    refuse(STATE_OF(STORAGE), SER_ERR_FORMAT, "\"w\" is no tensor");
    refuse(STATE_OF("}" TEXT1("x") TENSOR "s"), SER_ERR_FORMAT, "\"w\" is no tensor");
    refuse(PROTO "}X\0\0\0\0" TENSOR "s.", SER_ERR_FORMAT, "\"\" is no name of a tensor");
    refuse(PROTO "}X\3\0\0\0a\nb" TENSOR "s.", SER_ERR_FORMAT, "\"a?b\" is no name");
    refuse(PROTO "}X\3\0\0\0a\0b" TENSOR "s.", SER_ERR_FORMAT, "\"a?b\" is no name");
    refuse(PROTO "}X\2\0\0\0\xC3\xA4" TENSOR "s.", SER_ERR_FORMAT,
           "\"?"
           "?\" is no name");
    refuse(PROTO "}(" TEXT1("w") TENSOR "q\0" TEXT1("w") "h\0u.", SER_ERR_FORMAT,
           "duplicate tensor \"w\"");
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    static const char text[] = PROTO ODICT "(" TEXT1("w") "q\0" TENSOR "u.";
    ser_pickle p;
    int64_t live = ser_mem_live();
    for (uint64_t n = 1;; n++) {
        ser_mem_fail_at(n, false);
        int status = read(text, &p);
        ser_mem_fail_at(0, false);
        if (status == 0) {
            ck_assert_uint_gt(n, 8);
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        ck_assert_int_eq(ser_mem_live(), live);
    }
    ser_pickle_clear(&p);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pickle");
    TCase *tcase = tcase_create("pickle");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, state_dicts_of_all_spellings);
    tcase_add_test(tcase, names_are_sorted_and_may_share_a_tensor);
    tcase_add_test(tcase, every_type_of_storage);
    tcase_add_test(tcase, PK1_opcodes);
    tcase_add_test(tcase, PK1_begin_and_end);
    tcase_add_test(tcase, PK1_operands_that_are_cut_off);
    tcase_add_test(tcase, PK2_symbols);
    tcase_add_test(tcase, PK3_operands_of_the_wrong_type);
    tcase_add_test(tcase, PK3_underflow);
    tcase_add_test(tcase, PK4_memo);
    tcase_add_test(tcase, PK4_depth_and_number);
    tcase_add_test(tcase, PK4_tensors_and_names);
    tcase_add_test(tcase, PK5_storages);
    tcase_add_test(tcase, PK5_arguments_of_tensors);
    tcase_add_test(tcase, what_is_no_state_dict);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
