/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as an audio file. The last byte chooses the options, so that a corpus of plain audio
 * files serves as it is. tests/audio/test_mutate.c feeds the same function without libFuzzer.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/ser.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ser_audio_options choose_options(uint8_t byte)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.max_seconds = 2.0;
    options.strict = byte & 1;
    options.any_format = (byte & 2) != 0 ? 1 : 0;
    options.nonfinite = (byte & 4) != 0 ? SER_NONFINITE_REFUSE : SER_NONFINITE_ZERO;
    options.channel = (byte & 8) != 0 ? 0 : -1;
    options.offset = (byte & 16) != 0 ? 0.01 : 0.0;
    options.length = (byte & 32) != 0 ? 0.05 : 0.0;
    return options;
}

static int is_documented(int status)
{
    switch (status) {
    case SER_OK:
    case SER_ERR_MEMORY:
    case SER_ERR_FORMAT:
    case SER_ERR_DATA:
    case SER_ERR_UNSUPPORTED:
    case SER_ERR_CAPACITY: return 1;
    default: return 0;
    }
}

/* What must hold of every clip, whatever it was made from. */
static int is_sound(const ser_audio *audio, const ser_audio_options *options)
{
    size_t count;
    const float *x = ser_audio_samples(audio, &count);
    ser_audio_info info = {.struct_size = sizeof info};
    if (x == NULL || count == 0 || ser_audio_get_info(audio, &info) != 0) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i])) {
            return 0;
        }
    }
    double expected = (double)info.frames * SER_SAMPLING_RATE / info.sampling_rate;
    return fabs((double)count - expected) <= 0.5 &&
           (double)count <= options->max_seconds * 16000.0 + 1.0 && isfinite(info.rms) &&
           isfinite(info.dc_offset) && info.channels >= 1 && info.channels <= 1024 &&
           (options->strict == 0 || (info.flags & SER_AUDIO_TRUNCATED) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ser_audio_options options = choose_options(size > 0 ? data[size - 1] : 0);
    ser_audio *audio;
    int status = ser_audio_read_memory(data, size, &options, &audio);
    if (!is_documented(status) || (status == 0) != (audio != NULL) ||
        (status == 0 && !is_sound(audio, &options)) ||
        (status != 0 && ser_error_message()[0] == '\0')) {
        __builtin_trap();
    }
    ser_audio_free(&audio);
    return 0;
}
