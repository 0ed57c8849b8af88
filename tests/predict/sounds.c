/* SPDX-License-Identifier: MIT */
#include "sounds.h"

#include <math.h>

#include "../audio/files.h"

static float value_at(const sound *s, size_t frame, size_t channel, uint64_t *state)
{
    const float noise = harness_random(state);
    switch (frame * 8 / s->frames) {
    case 1:
    case 2: return 0.0F;
    case 3: return noise > 0.0F ? 1.0F : 0.5F * noise; /* 32767 must count, for 16 bits */
    case 4: return 0.2F + 0.1F * noise;
    case 6: return channel % 2 == 0 ? 0.25F : -0.25F;
    default: return 0.3F * noise + 0.3F * sinf(0.05F * (float)(frame % 100000));
    }
}

sound sound_make(int32_t rate, int32_t channels, size_t frames, bool s16)
{
    const size_t count = frames * (size_t)channels;
    sound s = {.rate = rate, .channels = channels, .frames = frames};
    uint64_t state = 5;
    s.floats = calloc(count + 1, sizeof *s.floats);
    for (size_t i = 0; i < count; i++) {
        s.floats[i] = value_at(&s, i / (size_t)channels, i % (size_t)channels, &state);
    }
    if (s16) {
        s.shorts = calloc(count + 1, sizeof *s.shorts);
        for (size_t i = 0; i < count; i++) {
            const float scaled = 32768.0F * s.floats[i];
            s.shorts[i] = (int16_t)(scaled < 32767.0F ? scaled : 32767.0F);
        }
    }
    return s;
}

void sound_free(sound *s)
{
    free(s->floats);
    free(s->shorts);
    *s = (sound){0};
}

const char *sound_save(const sound *s)
{
    const unsigned bits = s->shorts != NULL ? 16 : 32;
    const size_t size = s->frames * (size_t)s->channels * bits / 8;
    struct bytes file = wave_head(s->shorts != NULL ? 1 : 3, (unsigned)s->channels,
                                  (unsigned)s->rate, bits, 36 + (uint32_t)size, (uint32_t)size);
    bytes_append(&file, s->shorts != NULL ? (const void *)s->shorts : s->floats, size);
    const char *path = bytes_save(&file, "sound.wav");
    bytes_free(&file);
    return path;
}

ser_stream_options stream_options(const sound *s, double window, double hop)
{
    ser_stream_options options;
    ser_stream_options_init(&options, sizeof options);
    options.sampling_rate = s->rate;
    options.channels = s->channels;
    options.window = window;
    options.hop = hop;
    return options;
}

int push(ser_stream *stream, const sound *s, size_t first, size_t count)
{
    const size_t at = first * (size_t)s->channels;
    return s->shorts != NULL ? ser_stream_push_s16(stream, s->shorts + at, count)
                             : ser_stream_push(stream, s->floats + at, count);
}

static answer *append(answers *a)
{
    a->list = realloc(a->list, (a->count + 1) * sizeof *a->list);
    answer *last = &a->list[a->count++];
    memset(last, 0, sizeof *last);
    return last;
}

static float *copy_of(const float *x, size_t count)
{
    float *copy = malloc((count + 1) * sizeof *copy);
    memcpy(copy, x, count * sizeof *copy);
    return copy;
}

static void keep(answers *to, const ser_stream_result *r)
{
    answer *a = append(to);
    a->result = *r;
    if (r->probabilities != NULL) {
        ck_assert_uint_le(r->label_count, MAX_LABELS);
        memcpy(a->probabilities, r->probabilities, r->label_count * sizeof(float));
    }
    if (r->attention != NULL) {
        a->attention = copy_of(r->attention, r->attention_count);
    }
}

void collect(ser_stream *stream, answers *to)
{
    for (;;) {
        ser_stream_result result = {.struct_size = sizeof result};
        int32_t found = -1;
        assert_ok(ser_stream_next(stream, &result, &found));
        if (found == 0) {
            return;
        }
        ck_assert_int_eq(found, 1);
        keep(to, &result);
    }
}

answers stream_all(ser_stream *stream, const sound *s, size_t size)
{
    answers all = {0};
    uint64_t state = 9;
    for (size_t done = 0; done < s->frames;) {
        size_t part = size > 0 ? size : (size_t)((1.0F + harness_random(&state)) * 1500.0F);
        part = part < s->frames - done ? part : s->frames - done;
        assert_ok(push(stream, s, done, part));
        done += part;
        collect(stream, &all);
    }
    assert_ok(ser_stream_flush(stream));
    collect(stream, &all);
    return all;
}

static void predict_window(ser_audio *audio, double start, answers *to)
{
    ser_audio_info info = {.struct_size = sizeof info};
    float p[MAX_LABELS];
    const size_t labels = ser_model_label_count(model);
    assert_ok(ser_audio_get_info(audio, &info));
    assert_ok(ser_predict(predictor, audio, p, MAX_LABELS));
    const ser_prediction prediction = details(0);
    size_t count = 0;
    ser_audio_samples(audio, &count);
    ser_stream_result r = {
        .struct_size = sizeof r,
        .index = (int64_t)to->count,
        .start = start,
        .end = (rint(start * SER_SAMPLING_RATE) + (double)count) / SER_SAMPLING_RATE,
        .probabilities = p,
        .label_count = labels,
        .flags = prediction.flags,
        .peak = info.peak,
        .rms = info.rms,
        .attention = prediction.attention,
        .attention_count = prediction.attention_count,
        .frame_start = start + prediction.frame_start,
        .frame_step = prediction.frame_step,
    };
    for (size_t i = 1; i < labels; i++) {
        r.label = p[i] > p[r.label] ? (int32_t)i : r.label;
    }
    keep(to, &r);
}

answers read_all(const sound *s, double window, double hop)
{
    answers all = {0};
    ser_predictor_options options = options_of(0, 0.0, 0.0);
    options.padding = SER_PADDING_EXACT;
    create(&options);
    ser_reader *reader = NULL;
    int status = ser_reader_open(sound_save(s), NULL, &reader);
    if (status == SER_ERR_DATA) { /* no audio, or less than half a sample */
        return all;
    }
    assert_ok(status);
    ser_audio *audio;
    double start;
    while (ser_reader_at_end(reader) == 0) {
        assert_ok(ser_reader_next(reader, window, hop, &audio, &start));
        predict_window(audio, start, &all);
        ser_audio_free(&audio);
    }
    ser_reader_free(&reader);
    return all;
}

void assert_same(const answers *got, const answers *wanted, int32_t flags)
{
    ck_assert_uint_eq(got->count, wanted->count);
    for (size_t i = 0; i < got->count; i++) {
        ser_stream_result x = got->list[i].result;
        ser_stream_result y = wanted->list[i].result;
        ck_assert_msg((x.flags & flags) == (y.flags & flags), "window %zu: flags %x, not %x", i,
                      (unsigned)x.flags, (unsigned)y.flags);
        ck_assert_msg(memcmp(got->list[i].probabilities, wanted->list[i].probabilities,
                             sizeof got->list[i].probabilities) == 0,
                      "window %zu has other probabilities", i);
        ck_assert_int_eq(x.attention != NULL, y.attention != NULL);
        if (x.attention != NULL) {
            ck_assert_uint_eq(x.attention_count, y.attention_count);
            ck_assert_mem_eq(got->list[i].attention, wanted->list[i].attention,
                             x.attention_count * sizeof(float));
        }
        ck_assert_int_eq(x.probabilities != NULL, y.probabilities != NULL);
        x.flags = y.flags;
        x.probabilities = y.probabilities;
        x.attention = y.attention;
        ck_assert_msg(memcmp(&x, &y, sizeof x) == 0, "window %zu at %g..%g differs from %g..%g", i,
                      x.start, x.end, y.start, y.end);
    }
}

void answers_free(answers *a)
{
    for (size_t i = 0; i < a->count; i++) {
        free(a->list[i].attention);
    }
    free(a->list);
    *a = (answers){0};
}
