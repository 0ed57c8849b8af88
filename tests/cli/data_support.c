/* SPDX-License-Identifier: MIT */
#include "data_support.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"

static char root[64];
static pid_t owner;
static FILE *captured;
static int saved_stderr = -1;

static int remove_entry(const char *path, const struct stat *facts, int type, struct FTW *walk)
{
    (void)facts;
    (void)type;
    (void)walk;
    return remove(path);
}

static void remove_root(void)
{
    if (root[0] != '\0' && getpid() == owner) {
        nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
}

const char *support_path(const char *name)
{
    static char buffers[8][512];
    static unsigned next;
    char *buffer = buffers[next++ % 8];
    snprintf(buffer, sizeof buffers[0], "%s/%s", root, name);
    return buffer;
}

static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        ck_assert(mkdir(path, 0777) == 0 || errno == EEXIST);
        *slash = '/';
    }
}

void support_write(const char *name, const void *bytes, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s", support_path(name));
    make_folders(path);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(size > 0 ? fwrite(bytes, 1, size, f) : 0, size);
    ck_assert_int_eq(fclose(f), 0);
}

void support_text(const char *name, const char *text)
{
    support_write(name, text, strlen(text));
}

static void put_number(unsigned char *p, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        p[i] = (unsigned char)(value >> 8 * i & 0xff);
    }
}

void support_wav(const char *name, int rate, double seconds, uint64_t seed, double gain)
{
    size_t count = (size_t)lround(seconds * rate);
    unsigned char *bytes = calloc(44 + 2 * count, 1);
    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, "RIFF\0\0\0\0WAVEfmt \20\0\0\0\1\0\1\0", 24);
    put_number(bytes + 4, (uint32_t)(36 + 2 * count), 4);
    put_number(bytes + 24, (uint32_t)rate, 4);
    put_number(bytes + 28, (uint32_t)(2 * rate), 4);
    put_number(bytes + 32, 2, 2);
    put_number(bytes + 34, 16, 2);
    memcpy(bytes + 36, "data", 4);
    put_number(bytes + 40, (uint32_t)(2 * count), 4);
    for (size_t i = 0; i < count; i++) {
        /* Level and pitch wander in their own way for every seed. */
        double t = (double)i / rate;
        double s = (double)(seed % 1000);
        double level = 0.55 + 0.4 * sin(t * (7.0 + 0.73 * s) + s) * sin(t * (23.0 + 1.1 * s));
        double tone = sin(6.28318530718 * (150.0 + 37.0 * fmod(s, 11.0)) * t +
                          9.0 * sin(t * (5.0 + 0.41 * s)));
        int16_t sample = (int16_t)lround(gain * 20000.0 * level * tone);
        put_number(bytes + 44 + 2 * i, (uint16_t)sample, 2);
    }
    support_write(name, bytes, 44 + 2 * count);
    free(bytes);
}

void support_capture(void)
{
    captured = tmpfile();
    ck_assert_ptr_nonnull(captured);
    saved_stderr = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(fileno(captured), STDERR_FILENO), 0);
}

const char *support_release(void)
{
    static char text[1 << 16];
    ck_assert_int_ge(dup2(saved_stderr, STDERR_FILENO), 0);
    close(saved_stderr);
    rewind(captured);
    size_t length = fread(text, 1, sizeof text - 1, captured);
    text[length] = '\0';
    fclose(captured);
    return text;
}

int support_label(const dataset *ds, const char *name)
{
    for (size_t i = 0; i < ds->label_count; i++) {
        if (strcmp(ds->labels[i], name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

void support_clip(dataset *ds, const char *corpus, const char *speaker, const char *label,
                  const char *path)
{
    dataset_clip clip = {.path = intern(&ds->strings, path, NULL), .split = DATASET_NO_SPLIT};
    clip.corpus = dataset_corpus_index(ds, corpus, NULL, "made.csv");
    clip.speaker = speaker[0] != '\0' ? dataset_speaker_index(ds, clip.corpus, speaker) : -1;
    clip.emotion = dataset_emotion_index(ds, label);
    dataset_append(ds, &clip);
}

static bool make_root(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/ser-data-XXXXXX",
             base != NULL && strlen(base) < 32 ? base : "/tmp");
    owner = getpid();
    return mkdtemp(root) != NULL && atexit(remove_root) == 0;
}

int support_run(Suite *suite)
{
    message_init("tool");
    if (!make_root()) {
        perror(root);
        return EXIT_FAILURE;
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
