/* SPDX-License-Identifier: MIT */
/* Where bytes come from: files, FIFOs, standard input; and every way in which they do not. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "audio/audio.h"
#include "audio/decoder.h"
#include "audio/source.h"
#include "files.h"
#include "harness.h"

static struct bytes flac_file(size_t frames)
{
    float *x = sine(16000, 1, frames, 440.0);
    uint64_t state = 9;
    for (size_t i = 0; i < frames; i++) {
        x[i] += 0.2F * harness_random(&state);
    }
    struct bytes file = encode(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, x, frames);
    free(x);
    return file;
}

/* Writes all bytes in small pieces from another thread, then closes. */
struct writer {
    pthread_t thread;
    const struct bytes *bytes;
    int fd; /* or -1: open `path` */
    const char *path;
    useconds_t delay; /* before opening and after the first piece */
    size_t piece;
};

static void *write_pieces(void *user)
{
    struct writer *writer = user;
    if (writer->fd < 0) {
        (void)usleep(writer->delay);
        writer->fd = open(writer->path, O_WRONLY | O_CLOEXEC);
    }
    for (size_t done = 0; done < writer->bytes->size;) {
        size_t left = writer->bytes->size - done;
        ssize_t put = write(writer->fd, writer->bytes->data + done,
                            left < writer->piece ? left : writer->piece);
        if (put <= 0) {
            break; /* the reader has refused and gone */
        }
        if (done == 0) {
            (void)usleep(writer->delay);
        }
        done += (size_t)put;
    }
    (void)close(writer->fd);
    return NULL;
}

static void start_writer(struct writer *writer)
{
    (void)signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(pthread_create(&writer->thread, NULL, write_pieces, writer), 0);
}

static void stop_writer(struct writer *writer)
{
    ck_assert_int_eq(pthread_join(writer->thread, NULL), 0);
}

static void check_same(const ser_audio *audio, const struct bytes *file)
{
    ser_audio *expected;
    size_t count;
    size_t expected_count;
    assert_ok(ser_audio_read_memory(file->data, file->size, NULL, &expected));
    const float *x = ser_audio_samples(audio, &count);
    const float *y = ser_audio_samples(expected, &expected_count);
    ck_assert_uint_eq(count, expected_count);
    ck_assert_mem_eq(x, y, count * sizeof *x);
    ser_audio_free(&expected);
}

/* Read `path` while standard input is a pipe that delivers the bytes. */
static int read_from_stdin(const char *path, const struct bytes *bytes, bool nonblocking,
                           ser_audio **audio)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    if (nonblocking) {
        ck_assert_int_eq(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    }
    int saved = dup(STDIN_FILENO);
    ck_assert_int_eq(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
    (void)close(ends[0]);
    struct writer writer = {.bytes = bytes, .fd = ends[1], .delay = 20000, .piece = 1000};
    start_writer(&writer);
    int status = ser_audio_read(path, NULL, audio);
    if (saved >= 0) {
        (void)dup2(saved, STDIN_FILENO);
        (void)close(saved);
    } else {
        (void)close(STDIN_FILENO);
    }
    stop_writer(&writer);
    return status;
}

START_TEST(au13_standard_input)
{
    struct bytes file = flac_file(20000);
    static const char *const names[] = {"-", "/dev/stdin"};
    for (size_t i = 0; i < 4; i++) {
        ser_audio *audio;
        assert_ok(read_from_stdin(names[i % 2], &file, i >= 2, &audio));
        check_same(audio, &file);
        ser_audio_free(&audio);
    }
    bytes_free(&file);
}
END_TEST

START_TEST(au13_standard_input_without_audio)
{
    struct bytes text = {0};
    ser_audio *audio;
    assert_fails(read_from_stdin("-", &text, false, &audio), SER_ERR_DATA,
                 "standard input: no audio: the file is empty");
    bytes_append_text(&text, "short text");
    assert_fails(read_from_stdin("-", &text, false, &audio), SER_ERR_FORMAT,
                 "standard input: not a supported audio file (looks like text)");
    /* An endless stream of something else is refused after its first bytes. */
    for (size_t i = 0; i < 100000; i++) {
        bytes_append_text(&text, "y\n");
    }
    assert_fails(read_from_stdin("-", &text, false, &audio), SER_ERR_FORMAT, "(looks like text)");
    bytes_free(&text);
}
END_TEST

START_TEST(au13_fifo)
{
    struct bytes file = flac_file(20000);
    const char *path = harness_tmpfile("fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    struct writer writer = {.bytes = &file, .fd = -1, .path = path, .delay = 30000, .piece = 777};
    start_writer(&writer);
    ser_audio *audio;
    assert_ok(ser_audio_read(path, NULL, &audio));
    stop_writer(&writer);
    check_same(audio, &file);
    ser_audio_free(&audio);
    bytes_free(&file);
}
END_TEST

/* What a shell passes for <(command). */
START_TEST(au13_process_substitution)
{
    struct bytes file = flac_file(20000);
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    struct writer writer = {.bytes = &file, .fd = ends[1], .delay = 1000, .piece = 4096};
    start_writer(&writer);
    ser_reader *reader;
    assert_ok(ser_reader_open(path, NULL, &reader));
    stop_writer(&writer);
    ser_audio *audio;
    assert_ok(ser_reader_next(reader, 100.0, 100.0, &audio, NULL));
    check_same(audio, &file);
    ser_audio_free(&audio);
    ser_reader_free(&reader);
    (void)close(ends[0]);
    bytes_free(&file);
}
END_TEST

static int spool(const struct bytes *bytes, const struct ser_spool_limits *limits,
                 struct ser_source *source)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    *source = (struct ser_source){.fd = -1};
    source->name = ser_mem_strdup("pipe");
    struct writer writer = {.bytes = bytes, .fd = ends[1], .piece = 10000};
    start_writer(&writer);
    int status = ser_source_spool(source, ends[0], false, limits);
    (void)close(ends[0]);
    stop_writer(&writer);
    return status;
}

/* The memory limit moves the bytes to a file that has no name, and they stay the same. */
START_TEST(au13_spool_to_a_file)
{
    struct bytes file = flac_file(500000);
    ck_assert_uint_gt(file.size, 600000);
    static const struct ser_spool_limits limits[] = {
        {.memory = 1, .total = INT64_MAX},
        {.memory = 300000, .total = INT64_MAX},
        {.memory = (size_t)16 << 20, .total = INT64_MAX},
    };
    for (size_t i = 0; i < 3; i++) {
        struct ser_source source;
        assert_ok(spool(&file, &limits[i], &source));
        ck_assert_int_eq(source.size, (int64_t)file.size);
        ck_assert_int_eq(source.fd >= 0, i < 2);
        unsigned char *copy = malloc(file.size + 1);
        ck_assert_uint_eq(ser_source_read_at(&source, 0, copy, file.size + 1), file.size);
        ck_assert_mem_eq(copy, file.data, file.size);
        ck_assert_uint_eq(ser_source_read_at(&source, 12345, copy, 10), 10);
        ck_assert_mem_eq(copy, file.data + 12345, 10);
        if (source.fd >= 0) {
            struct stat st;
            ck_assert_int_eq(fstat(source.fd, &st), 0);
            ck_assert_uint_eq(st.st_nlink, 0);
        }
        free(copy);
        ser_source_close(&source);
    }
    bytes_free(&file);
}
END_TEST

START_TEST(au13_spool_limit)
{
    struct bytes file = flac_file(100000);
    struct ser_spool_limits limits = {.memory = 1000, .total = 70000};
    struct ser_source source;
    assert_fails(spool(&file, &limits, &source), SER_ERR_CAPACITY, "pipe: more than 70000 bytes");
    ser_source_close(&source);
    bytes_free(&file);
}
END_TEST

static void check_io(const char *path, const char *reason)
{
    ser_audio *audio;
    ser_reader *reader;
    assert_fails(ser_audio_read(path, NULL, &audio), SER_ERR_IO, reason);
    ck_assert_ptr_null(audio);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), path));
    assert_fails(ser_reader_open(path, NULL, &reader), SER_ERR_IO, reason);
    ck_assert_ptr_null(reader);
}

START_TEST(au16_cannot_open)
{
    check_io(harness_tmpfile("missing.wav"), strerror(ENOENT));
    check_io("", strerror(ENOENT));
    check_io(harness_tmpdir(), strerror(EISDIR));
    check_io("/dev/null", "a device, not a file");
    check_io("/dev/zero", "a device, not a file");
    const char *loop = harness_tmpfile("loop");
    ck_assert_int_eq(symlink(loop, loop), 0);
    check_io(loop, strerror(ELOOP));
    check_io(harness_tmpfile("missing.wav/inner.wav"), strerror(ENOENT));
    static char long_name[5000];
    memset(long_name, 'a', sizeof long_name - 1);
    ser_audio *audio;
    assert_fails(ser_audio_read(long_name, NULL, &audio), SER_ERR_IO, "aaaa");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", harness_tmpfile("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    check_io(address.sun_path, strerror(ENXIO));
    (void)close(fd);
}
END_TEST

START_TEST(au16_no_permission)
{
    struct bytes file = flac_file(1000);
    const char *path = bytes_save(&file, "secret.flac");
    ck_assert_int_eq(chmod(path, 0), 0);
    pid_t child = fork();
    if (child == 0) {
        /* Root may read everything, so it must not be root that tries. */
        if (geteuid() == 0 && seteuid(65534) != 0) {
            _exit(2);
        }
        ser_audio *audio;
        int status = ser_audio_read(path, NULL, &audio);
        bool good = status == SER_ERR_IO && strstr(ser_error_message(), strerror(EACCES)) != NULL;
        _exit(good ? 0 : 1);
    }
    int result = 0;
    ck_assert_int_eq(waitpid(child, &result, 0), child);
    ck_assert_int_eq(result, 0);
    bytes_free(&file);
}
END_TEST

/* The descriptor turns into one that cannot be read: what a failing disk or server looks like. */
START_TEST(au16_error_in_the_middle)
{
    struct bytes file = flac_file(200000);
    struct ser_decoder decoder;
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    assert_ok(ser_decoder_open(&decoder, bytes_save(&file, "failing.flac"), NULL, 0, &options));
    static float x[4096];
    int64_t got;
    assert_ok(ser_decoder_read(&decoder, x, 4096, &got));
    ck_assert_int_eq(got, 4096);
    int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(dup2(directory, decoder.source.fd), decoder.source.fd);
    (void)close(directory);
    int status = 0;
    while (status == 0 && got > 0) {
        status = ser_decoder_read(&decoder, x, 4096, &got);
    }
    ck_assert_int_eq(status, SER_ERR_IO);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "failing.flac: reading failed at byte "));
    ck_assert_ptr_nonnull(strstr(ser_error_message(), strerror(EISDIR)));
    ser_decoder_close(&decoder);
    bytes_free(&file);
}
END_TEST

/* A file that shrinks while it is read is a truncated one. */
START_TEST(file_shrinks)
{
    float *x = sine(16000, 1, 200000, 440.0);
    struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, x, 200000);
    const char *path = bytes_save(&file, "shrinking.wav");
    ser_reader *reader;
    assert_ok(ser_reader_open(path, NULL, &reader));
    ck_assert_int_eq(truncate(path, 200000), 0);
    ser_audio *audio = NULL;
    int64_t windows = 0;
    do {
        ser_audio_free(&audio);
        assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
        windows++;
    } while (audio != NULL);
    ck_assert_int_lt(windows, 10);
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_reader_get_info(reader, &info));
    ck_assert_int_eq(info.flags, SER_AUDIO_TRUNCATED);
    ser_reader_free(&reader);
    bytes_free(&file);
    free(x);
}
END_TEST

/* No descriptor is left open, whatever happened. */
START_TEST(no_descriptor_leaks)
{
    struct bytes file = flac_file(1000);
    struct bytes text = {0};
    bytes_append_text(&text, "text");
    const char *good = bytes_save(&file, "good.flac");
    const char *bad = bytes_save(&text, "bad.flac");
    int before = dup(STDOUT_FILENO);
    for (size_t i = 0; i < 50; i++) {
        ser_audio *audio;
        ser_reader *reader;
        assert_ok(ser_audio_read(good, NULL, &audio));
        ser_audio_free(&audio);
        ck_assert_int_ne(ser_audio_read(bad, NULL, &audio), 0);
        ck_assert_int_ne(ser_audio_read(harness_tmpdir(), NULL, &audio), 0);
        assert_ok(ser_reader_open(good, NULL, &reader));
        ser_reader_free(&reader);
    }
    int after = dup(STDOUT_FILENO);
    ck_assert_int_eq(after, before + 1);
    (void)close(before);
    (void)close(after);
    bytes_free(&text);
    bytes_free(&file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("source");
    TCase *source = tcase_create("source");
    tcase_set_timeout(source, 60);
    tcase_add_test(source, au13_standard_input);
    tcase_add_test(source, au13_standard_input_without_audio);
    tcase_add_test(source, au13_fifo);
    tcase_add_test(source, au13_process_substitution);
    tcase_add_test(source, au13_spool_to_a_file);
    tcase_add_test(source, au13_spool_limit);
    tcase_add_test(source, au16_cannot_open);
    tcase_add_test(source, au16_no_permission);
    tcase_add_test(source, au16_error_in_the_middle);
    tcase_add_test(source, file_shrinks);
    tcase_add_test(source, no_descriptor_leaks);
    suite_add_tcase(suite, source);
    return harness_run(suite);
}
