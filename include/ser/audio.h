/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Audio in: any file, rate and channel count becomes 16 kHz mono float.
 *
 * Files are untrusted. Content decides the format, never the name: WAV (RIFF, RF64, W64), AIFF, AU,
 * CAF, FLAC, Ogg (Vorbis, Opus, FLAC) and MP3 are read, other containers only with `any_format`.
 * A file is decoded until its data ends, whatever its header claims.
 */
#ifndef SER_AUDIO_H
#define SER_AUDIO_H

#include <ser/common.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Sampling rate of everything that libser hands to a network, in Hz. */
#define SER_SAMPLING_RATE 16000

/** A clip: 16 kHz mono float samples. Immutable, reference-free and shareable between threads. */
typedef struct ser_audio ser_audio;

/** An open file that is decoded piece by piece, for audio of any length. One thread at a time. */
typedef struct ser_reader ser_reader;

/** What to do with NaN and infinity in float files. */
enum {
    SER_NONFINITE_REFUSE = 0, /**< SER_ERR_DATA, naming the position */
    SER_NONFINITE_ZERO = 1    /**< replace with 0 and count */
};

/** How to read audio. Fill with ser_audio_options_init(), then change what you need. */
typedef struct ser_audio_options {
    size_t struct_size; /**< set by the init function */
    double offset;      /**< skip this many seconds; default 0 */
    double length;      /**< read at most this many seconds; 0 (default): to the end */
    double max_seconds; /**< refuse longer audio with CAPACITY (ser_audio_read only); default 3600;
                           0: no limit */
    int32_t channel;    /**< take this channel, from 0; -1 (default): mean of all */
    int32_t nonfinite;  /**< SER_NONFINITE_*; default REFUSE */
    int32_t strict;     /**< 1: a truncated file is an error; 0 (default): a flag */
    int32_t any_format; /**< 1: try rare containers of libsndfile too; 0 (default): refuse them */
} ser_audio_options;

/** What was noticed while reading; bits of ser_audio_info.flags. */
enum {
    SER_AUDIO_TRUNCATED = 1 << 0, /**< the data ended before the header said, or was damaged */
    SER_AUDIO_SILENT = 1 << 1,    /**< all samples equal (digital silence or pure DC) */
    SER_AUDIO_CLIPPED = 1 << 2,   /**< more than 1 % of the samples at or above full scale */
    SER_AUDIO_DC_OFFSET = 1 << 3, /**< |mean| above 5 % of full scale */
    SER_AUDIO_NONFINITE = 1 << 4, /**< NaN or infinity replaced by 0 */
    SER_AUDIO_CANCELLED = 1 << 5, /**< channels cancel: the mean has under 1 % of their power */
    SER_AUDIO_SHORT = 1 << 6      /**< under 400 samples (a predictor: under one frame) */
};

/** Facts about a clip and the file it came from. Fill struct_size before the call. */
typedef struct ser_audio_info {
    size_t struct_size;    /**< sizeof(ser_audio_info), set by the caller */
    int64_t frames;        /**< frames decoded at the source rate */
    int32_t sampling_rate; /**< of the source, Hz */
    int32_t channels;      /**< of the source */
    int32_t flags;         /**< SER_AUDIO_* bits */
    float clipped_ratio;   /**< share of source samples at or above full scale */
    float dc_offset;       /**< mean of the 16 kHz samples */
    float peak;            /**< largest magnitude of the 16 kHz samples */
    float rms;             /**< root mean square of the 16 kHz samples */
    int32_t nonfinite;     /**< samples that were NaN or infinite, saturated at INT32_MAX */
} ser_audio_info;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_audio_options_init(ser_audio_options *options, size_t size);

/**
 * Decode a file to 16 kHz mono. `path` "-" reads standard input, which is spooled first, so formats
 * that seek (FLAC, Ogg) work from a pipe. n source frames give round(n * 16000 / rate) samples,
 * resampled by libsoxr. `options` NULL means defaults. The caller frees `*audio`.
 * Errors: ARGUMENT, IO (with the system's reason), FORMAT (not audio), DATA (no samples, NaN),
 * UNSUPPORTED (rate outside 4..768 kHz, rare container), CAPACITY (longer than max_seconds),
 * MEMORY. Any thread. Since 0.1.
 */
SER_API int ser_audio_read(const char *path, const ser_audio_options *options, ser_audio **audio);

/** The same from a file's bytes in memory, only read during the call. Since 0.1. */
SER_API int ser_audio_read_memory(const void *data, size_t size, const ser_audio_options *options,
                                  ser_audio **audio);

/**
 * Copy samples that the program already has: `frames` frames of `channels` (1..1024) interleaved
 * floats at `sampling_rate` (4000..768000 Hz), full scale 1.0. Same options and errors as
 * ser_audio_read. Any thread. Since 0.1.
 */
SER_API int ser_audio_from_samples(const float *samples, size_t frames, int32_t channels,
                                   int32_t sampling_rate, const ser_audio_options *options,
                                   ser_audio **audio);

/** The 16 kHz mono samples and their count (`count` may be NULL). Borrowed from `audio`. Since 0.1.
 */
SER_API const float *ser_audio_samples(const ser_audio *audio, size_t *count);

/** Length in seconds. Since 0.1. */
SER_API double ser_audio_duration(const ser_audio *audio);

/** Fill `*info`, whose struct_size the caller has set. Errors: ARGUMENT. Since 0.1. */
SER_API int ser_audio_get_info(const ser_audio *audio, ser_audio_info *info);

/** Free the clip and null the handle; NULL and a null handle are fine. Since 0.1. */
SER_API void ser_audio_free(ser_audio **audio);

/**
 * Open a file (or "-") for reading window by window in bounded memory. Options and errors as for
 * ser_audio_read, but max_seconds is ignored. The caller frees `*reader`. Since 0.1.
 */
SER_API int ser_reader_open(const char *path, const ser_audio_options *options,
                            ser_reader **reader);

/**
 * Next window of `window` seconds; windows start every `hop` seconds (0 < hop <= window), and the
 * last one ends with the audio and may be shorter. The first call fixes `window` and `hop`.
 * Sets `*audio` (the caller frees it) and `*start` (seconds from the start of the audio that is
 * read; may be NULL); `*audio` is NULL after the last window. The samples are the same, bit for
 * bit, as those of ser_audio_read, but memory stays near two windows. Errors as for ser_audio_read.
 * Since 0.1.
 */
SER_API int ser_reader_next(ser_reader *reader, double window, double hop, ser_audio **audio,
                            double *start);

/** 1 once the last window has been handed out, else 0. Since 0.1. */
SER_API int ser_reader_at_end(const ser_reader *reader);

/** Facts about what was read so far; flags as in ser_audio_get_info. Errors: ARGUMENT. Since 0.1.
 */
SER_API int ser_reader_get_info(const ser_reader *reader, ser_audio_info *info);

/** Close the file, free the reader and null the handle; NULL is fine. Since 0.1. */
SER_API void ser_reader_free(ser_reader **reader);

#ifdef __cplusplus
}
#endif

#endif
