/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Live audio: push samples as they come, take the answer of each window as it is complete.
 *
 *     ser_stream_push(stream, samples, frames);
 *     while (ser_stream_next(stream, &result, &found) == 0 && found) { ... }
 *
 * The answers do not depend on how the audio was cut into pushes, to the last bit, and they are
 * those of ser_reader_next with ser_predict (SER_PADDING_EXACT), one window per call, on the same
 * audio in a WAV file. A stream has no threads and no callbacks of its own; its memory does not
 * grow with the length of the audio, if what is complete is taken.
 *
 * Frames are converted to 16 kHz in blocks of 20 ms. A window is complete with the block that makes
 * its last sample: at 16 kHz at most 20 ms after its end, at 44.1 and 48 kHz, where the filter
 * waits for up to 18 ms of what follows, at most 40 ms.
 */
#ifndef SER_STREAM_H
#define SER_STREAM_H

#include <ser/audio.h>
#include <ser/common.h>
#include <ser/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A source of live audio and a predictor for it. One thread at a time (BUSY otherwise); any number
 * of streams may share a model, each on its own thread. */
typedef struct ser_stream ser_stream;

/** How the audio comes and what is wanted. Fill with ser_stream_options_init(), then change what
 * you need. */
typedef struct ser_stream_options {
    size_t struct_size;    /**< set by the init function */
    int32_t sampling_rate; /**< of the source, 4000..768000 Hz; default 16000 */
    int32_t channels;      /**< of the source, interleaved, 1..1024; default 1 */
    int32_t channel;       /**< take this channel, from 0; -1 (default): mean of all */
    int32_t nonfinite;     /**< SER_NONFINITE_*; default REFUSE */
    /** Seconds per window, 0.025..600; 0 (default): the model's own value. */
    double window;
    /** A window starts every so many seconds, 0.01..window; 0 (default): the window's length. */
    double hop;
    /** Time constant in seconds of an exponential mean over the windows' probabilities p_k, up to
     * 3600: s_0 = p_0, s_k = a s_(k-1) + (1 - a) p_k, a = exp(-hop / smoothing), in double
     * precision. Windows below the gate leave it alone. 0 (default): each window by itself. */
    double smoothing;
    /** Windows whose level, 20 log10(rms), is below this many dBFS (-200..-1) are not computed but
     * flagged SER_STREAM_GATED; 0 (default): all are computed. */
    double gate;
    int32_t threads;  /**< CPU threads, 1..1024; 0 (default): as the device was opened */
    int32_t reserved; /**< must be 0 */
} ser_stream_options;

/** Bits of ser_stream_result.flags beside those of ser_audio_info.flags. */
enum {
    SER_STREAM_GATED = 1 << 20, /**< below the gate: no probabilities */
    SER_STREAM_LAST = 1 << 21   /**< what was left at ser_stream_flush: shorter than the others */
};

/** The answer of one window. Fill struct_size before the call. Pointers are borrowed, valid until
 * the next call with the stream. */
typedef struct ser_stream_result {
    size_t struct_size; /**< sizeof(ser_stream_result), set by the caller */
    int64_t index;      /**< number of the window, from 0 */
    double start;       /**< seconds from the first frame that was pushed */
    double end;
    /** [label_count], sum 1, smoothed if that was asked for; NULL if gated. */
    const float *probabilities;
    size_t label_count; /**< classes of the model */
    int32_t label;      /**< the likeliest class; -1 if gated */
    int32_t flags;      /**< SER_AUDIO_*, SER_PREDICTION_* and SER_STREAM_* bits */
    float peak;         /**< largest magnitude of the 16 kHz samples; 1 is full scale */
    float rms;          /**< root mean square of the 16 kHz samples */
    /** Weight of each frame of this window, sum 1; NULL if gated or longer than the model's
     * max_seconds. */
    const float *attention;
    size_t attention_count;
    double frame_start; /**< seconds, as start, of the centre of attention frame 0 */
    double frame_step;  /**< seconds between attention frames */
} ser_stream_result;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_stream_options_init(ser_stream_options *options, size_t size);

/**
 * A stream for `model`, which it keeps a reference to. `options` NULL means defaults. The caller
 * frees `*stream`. Errors: ARGUMENT (naming the option), UNSUPPORTED, BUSY (the model is from
 * before a fork or in training), MEMORY, DEVICE. Any thread. Since 0.1.
 */
SER_API int ser_stream_create(ser_model *model, const ser_stream_options *options,
                              ser_stream **stream);

/**
 * Take in `frames` frames (any number, also 0) of interleaved floats, full scale 1. They are
 * copied and converted; nothing is computed. A failed push has taken nothing. Errors: ARGUMENT
 * (also after ser_stream_flush), DATA (NaN or infinity, naming the frame, counted from the first
 * one that was pushed, and the channel), CAPACITY (more than an hour would wait behind the next
 * window: call ser_stream_next first), BUSY, MEMORY, INTERNAL (stays until ser_stream_reset).
 * Since 0.1.
 */
SER_API int ser_stream_push(ser_stream *stream, const float *samples, size_t frames);

/** The same for 16-bit samples, as a WAV file's are read: x / 32768, and 32767 counts as clipped.
 * Since 0.1. */
SER_API int ser_stream_push_s16(ser_stream *stream, const int16_t *samples, size_t frames);

/**
 * Compute the next window if its audio is there. `*found` becomes 1 and `*result` is filled, or
 * `*found` becomes 0 and `*result` is left alone: push more. A window that failed is tried again by
 * the next call. After an error neither is written. Errors: ARGUMENT, BUSY, MEMORY, DEVICE,
 * NUMERIC, INTERNAL. Since 0.1.
 */
SER_API int ser_stream_next(ser_stream *stream, ser_stream_result *result, int32_t *found);

/**
 * The audio has ended: what no window has had yet becomes the last one, as with ser_reader_next
 * (none if the last complete window ends with the audio, or nothing was pushed). ser_stream_next
 * hands it out; pushes are refused until ser_stream_reset. A second flush does nothing. Errors:
 * ARGUMENT, BUSY, MEMORY, INTERNAL. Since 0.1.
 */
SER_API int ser_stream_flush(ser_stream *stream);

/** Begin anew with the same options: time, smoothing and what was pushed are forgotten, and its
 * memory is given back. After a failure nothing has changed. Errors: ARGUMENT, BUSY, MEMORY. Since
 * 0.1. */
SER_API int ser_stream_reset(ser_stream *stream);

/** Free the stream and null the handle; NULL is fine. Since 0.1. */
SER_API void ser_stream_free(ser_stream **stream);

#ifdef __cplusplus
}
#endif

#endif
