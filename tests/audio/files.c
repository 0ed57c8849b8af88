/* SPDX-License-Identifier: MIT */
#include "files.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

const char *__lsan_default_suppressions(void);

/* libsndfile 1.2.0 forgets libvorbis's tables of a Vorbis file whose header is damaged. */
const char *__lsan_default_suppressions(void)
{
    return "leak:vorbis_info_init\n";
}

void bytes_append(struct bytes *bytes, const void *data, size_t size)
{
    unsigned char *grown = realloc(bytes->data, bytes->size + size + 1);
    ck_assert_ptr_nonnull(grown);
    if (size > 0) {
        memcpy(grown + bytes->size, data, size);
    }
    bytes->data = grown;
    bytes->size += size;
}

void bytes_append_text(struct bytes *bytes, const char *text)
{
    bytes_append(bytes, text, strlen(text));
}

void bytes_append_number(struct bytes *bytes, uint64_t value, size_t size, bool big_endian)
{
    unsigned char data[8];
    for (size_t i = 0; i < size; i++) {
        data[big_endian ? size - 1 - i : i] = (unsigned char)(value >> (8 * i));
    }
    bytes_append(bytes, data, size);
}

void bytes_append_zeros(struct bytes *bytes, size_t count)
{
    unsigned char *zeros = calloc(count + 1, 1);
    ck_assert_ptr_nonnull(zeros);
    bytes_append(bytes, zeros, count);
    free(zeros);
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

const char *bytes_save(const struct bytes *bytes, const char *name)
{
    const char *path = harness_tmpfile(name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    if (bytes->size > 0) {
        ck_assert_uint_eq(fwrite(bytes->data, 1, bytes->size, file), bytes->size);
    }
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

struct memory_file {
    struct bytes bytes;
    size_t position;
};

static sf_count_t memory_length(void *user)
{
    const struct memory_file *file = user;
    return (sf_count_t)file->bytes.size;
}

static sf_count_t memory_seek(sf_count_t offset, int whence, void *user)
{
    struct memory_file *file = user;
    sf_count_t base = 0;
    if (whence == SEEK_CUR) {
        base = (sf_count_t)file->position;
    } else if (whence == SEEK_END) {
        base = (sf_count_t)file->bytes.size;
    }
    file->position = (size_t)(base + offset);
    return base + offset;
}

static sf_count_t memory_read(void *data, sf_count_t size, void *user)
{
    struct memory_file *file = user;
    size_t left = file->position < file->bytes.size ? file->bytes.size - file->position : 0;
    size_t count = (size_t)size < left ? (size_t)size : left;
    if (count > 0) {
        memcpy(data, file->bytes.data + file->position, count);
    }
    file->position += count;
    return (sf_count_t)count;
}

static sf_count_t memory_write(const void *data, sf_count_t size, void *user)
{
    struct memory_file *file = user;
    size_t end = file->position + (size_t)size;
    if (end > file->bytes.size) {
        bytes_append_zeros(&file->bytes, end - file->bytes.size);
    }
    if (size > 0) {
        memcpy(file->bytes.data + file->position, data, (size_t)size);
    }
    file->position = end;
    return size;
}

static sf_count_t memory_tell(void *user)
{
    const struct memory_file *file = user;
    return (sf_count_t)file->position;
}

bool can_encode(int format, int rate, int channels)
{
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
    return sf_format_check(&info) != 0;
}

struct bytes encode(int format, int rate, int channels, const float *x, size_t frames)
{
    SF_VIRTUAL_IO io = {memory_length, memory_seek, memory_read, memory_write, memory_tell};
    SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
    struct memory_file file = {0};
    SNDFILE *out = sf_open_virtual(&io, SFM_WRITE, &info, &file);
    ck_assert_msg(out != NULL, "format %x: %s", (unsigned)format, sf_strerror(NULL));
    (void)sf_command(out, SFC_SET_CLIPPING, NULL, SF_TRUE);
    /* Small portions: some encoders of libsndfile keep a whole call on the stack. */
    for (size_t done = 0; done < frames;) {
        size_t part = frames - done < 1000 ? frames - done : 1000;
        ck_assert_int_eq(sf_writef_float(out, x + done * (size_t)channels, (sf_count_t)part),
                         (sf_count_t)part);
        done += part;
    }
    ck_assert_int_eq(sf_close(out), 0);
    return file.bytes;
}

struct bytes wave_head(unsigned tag, unsigned channels, unsigned rate, unsigned bits,
                       uint32_t riff_size, uint32_t data_size)
{
    struct bytes file = {0};
    bytes_append_text(&file, "RIFF");
    bytes_append_number(&file, riff_size, 4, false);
    bytes_append_text(&file, "WAVEfmt ");
    bytes_append_number(&file, 16, 4, false);
    bytes_append_number(&file, tag, 2, false);
    bytes_append_number(&file, channels, 2, false);
    bytes_append_number(&file, rate, 4, false);
    bytes_append_number(&file, (uint64_t)rate * channels * bits / 8, 4, false);
    bytes_append_number(&file, channels * bits / 8, 2, false);
    bytes_append_number(&file, bits, 2, false);
    bytes_append_text(&file, "data");
    bytes_append_number(&file, data_size, 4, false);
    return file;
}

struct bytes float_wave(int rate, const float *x, size_t frames)
{
    uint32_t size = (uint32_t)(4 * frames);
    struct bytes file = wave_head(3, 1, (unsigned)rate, 32, 36 + size, size);
    bytes_append(&file, x, size);
    return file;
}

float *sine(int rate, int channels, size_t frames, double hertz)
{
    float *x = malloc((frames * (size_t)channels + 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < frames; i++) {
        double phase = 2.0 * acos(-1.0) * hertz * (double)i / rate;
        for (size_t c = 0; c < (size_t)channels; c++) {
            x[i * (size_t)channels + c] = (float)(0.5 * sin(phase));
        }
    }
    return x;
}
