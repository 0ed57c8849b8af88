/* SPDX-License-Identifier: MIT */
/* Thousands of damaged archives of PyTorch, the same ones in every run: as they are, where a CRC
 * catches most, and with a damaged pickle in an archive that is whole. */
#include "harness.h"

#include "fuzz_torch_bin.h"
#include "zipper.h"

enum { MAX_PARTS = 128 };

static uint64_t state;

static size_t pick(size_t count)
{
    double unit = ((double)harness_random(&state) + 1.0) / 2.0;
    size_t i = (size_t)(unit * (double)count);
    return i < count ? i : count - 1;
}

static void run(uint8_t route, const void *data, size_t size)
{
    blob b = {malloc(size + 1),
              size + 1}; /* exactly as long, so that a sanitizer sees every overrun */
    ck_assert_ptr_nonnull(b.data);
    b.data[0] = route;
    memcpy(b.data + 1, data, size);
    (void)LLVMFuzzerTestOneInput(b.data, b.size);
    blob_free(&b);
}

/* A bit, a byte, an opcode, a large number, a cut, a doubled piece. */
static void damage(blob *b, size_t from, size_t to)
{
    static const char opcodes[] = "(.cRbQ}])t\x85\x86\x87"
                                  "aesuN\x88\x89JKM\x8AGXhjqr\x80\x93\x81\x95";
    for (size_t changes = 1 + pick(3); changes > 0 && from < to; changes--) {
        size_t at = from + pick(to - from);
        size_t room = to - at < 8 ? to - at : 8;
        switch (pick(7)) {
        case 0: b->data[at] ^= (unsigned char)(1U << pick(8)); break;
        case 1: b->data[at] = (unsigned char)pick(256); break;
        case 2:
        case 3: b->data[at] = (unsigned char)opcodes[pick(sizeof opcodes - 1)]; break;
        case 4: memset(b->data + at, pick(2) == 0 ? 0xFF : 0x7F, 1 + pick(room)); break;
        case 5: memmove(b->data + at, b->data + from + pick(to - from - room + 1), room); break;
        default:
            if (pick(8) == 0 && to == b->size) {
                b->size = to = at;
            }
            break;
        }
    }
}

static void damage_archive(const char *name, int rounds)
{
    blob good = golden_blob(name);
    run(FUZZ_ARCHIVE, good.data, good.size);
    for (int i = 0; i < rounds; i++) {
        blob b = blob_copy(good.data, good.size);
        /* most often the directory and the end records, which lie behind all else */
        damage(&b, pick(4) == 0 || b.size < 2000 ? 0 : b.size - 2000, b.size);
        run(FUZZ_ARCHIVE, b.data, b.size);
        blob_free(&b);
    }
    for (size_t size = 0; size < good.size; size += 1 + good.size / 100) {
        run(FUZZ_ARCHIVE, good.data, size);
    }
    blob_free(&good);
}

/* The archive with its data.pkl exchanged. */
static blob with_pickle(const zip_part *parts, size_t count, const blob *pickle)
{
    zip_part changed[MAX_PARTS];
    memcpy(changed, parts, count * sizeof parts[0]);
    for (size_t i = 0; i < count; i++) {
        if (strstr(changed[i].name, "/data.pkl") != NULL) {
            changed[i].data = pickle->data;
            changed[i].size = pickle->size;
        }
    }
    return zip_write(changed, count);
}

static void damage_pickle(const char *name, int rounds)
{
    static char names[MAX_PARTS][64];
    zip_part parts[MAX_PARTS];
    blob good = golden_blob(name);
    size_t count = zip_take_apart(&good, parts, names, MAX_PARTS);
    const zip_part *pickle = NULL;
    for (size_t i = 0; i < count; i++) {
        pickle = strstr(parts[i].name, "/data.pkl") != NULL ? &parts[i] : pickle;
    }
    ck_assert_ptr_nonnull(pickle);
    for (int i = 0; i < rounds; i++) {
        blob p = blob_copy(pickle->data, pickle->size);
        damage(&p, 0, p.size);
        run(FUZZ_PICKLE, p.data, p.size);
        blob b = with_pickle(parts, count, &p);
        run(FUZZ_ARCHIVE, b.data, b.size);
        blob_free(&b);
        blob_free(&p);
    }
    for (size_t size = 0; size < pickle->size; size++) {
        run(FUZZ_PICKLE, pickle->data, size);
    }
    blob_free(&good);
}

START_TEST(bytes_of_archives)
{
    state = 1;
    damage_archive("views.bin", 1200);
    damage_archive("pretraining/pytorch_model.bin", 300);
}
END_TEST

START_TEST(pickles_within_archives)
{
    state = 2;
    damage_pickle("views.bin", 1500);
    damage_pickle("module.bin", 300);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("torch_mutations");
    TCase *tcase = tcase_create("torch_mutations");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, bytes_of_archives);
    tcase_add_test(tcase, pickles_within_archives);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
