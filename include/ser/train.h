/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Training: a model, clips and labels in; a better model out.
 *
 * A trainer takes a model exclusively. Clips become batches (ser_batch_create, from any number of
 * threads: the audio front end and the augmentation run there), batches become steps. All
 * randomness is a function of the seed, the epoch and the clip's id, never of time or threads: the
 * same calls give the same bits, and a run that was saved and restored goes on as if it had never
 * stopped.
 */
#ifndef SER_TRAIN_H
#define SER_TRAIN_H

#include <ser/audio.h>
#include <ser/common.h>
#include <ser/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Trains one model. One thread at a time, but for ser_trainer_cancel and ser_batch_create. */
typedef struct ser_trainer ser_trainer;

/** Clips made ready for a step: host memory, immutable, bound to its trainer. */
typedef struct ser_batch ser_batch;

/** How the learning rate falls after the warm-up. */
enum {
    SER_SCHEDULE_CONSTANT = 0,
    SER_SCHEDULE_LINEAR = 1, /**< straight to 0 at the end of the run */
    SER_SCHEDULE_COSINE = 2  /**< half a cosine to 0 at the end of the run */
};

/**
 * Changes to the waveform and the log-mels while training; all 0 (none) by default. A value with a
 * probability is drawn per clip and epoch.
 */
typedef struct ser_augment_options {
    size_t struct_size;      /**< set by the init function */
    float speed_probability; /**< of a change of speed (tempo and pitch together) */
    float speed;             /**< largest change, such as 0.1: 0.9 .. 1.1 */
    float gain_db;           /**< random gain of up to this many dB either way, before noise */
    float noise_probability; /**< of added noise with a random spectral slope */
    float noise_snr_low;     /**< dB below the clip's peak level */
    float noise_snr_high;
    float silence_probability; /**< of silence or faint noise at both ends */
    float silence;             /**< longest, in seconds, per end */
    float crop_probability;    /**< of other margins than the model's trimming leaves */
    float crop;                /**< seconds by which each end moves outwards or inwards at most */
    float lowpass_probability; /**< of a low-pass, as of a poor channel or codec */
    float lowpass_low;         /**< Hz, its lowest corner */
    float max_seconds;         /**< a random part of longer clips; 0: the model's window */
    float mel_warp;            /**< largest stretch of the mel axis, such as 0.05; log-mel models */
    float mel_tilt;            /**< standard deviation of a spectral tilt, in nats at the ends */
    float mel_ripple;          /**< standard deviation of a smooth random equaliser, nats */
    int32_t mel_channel_spans, mel_channel_width; /**< masked bands: how many, widest in bins */
    int32_t mel_time_spans, mel_time_width;       /**< masked spans: how many, widest in frames */
} ser_augment_options;

/** How to train. Fill with ser_trainer_options_init(), then change what you need. */
typedef struct ser_trainer_options {
    size_t struct_size;    /**< set by the init function */
    uint64_t seed;         /**< of all randomness; default 0 */
    int64_t steps;         /**< updates of the whole run: the schedule's length; default 1000 */
    int64_t warmup_steps;  /**< of rising rate; default a tenth of `steps` (-1) */
    int32_t schedule;      /**< SER_SCHEDULE_*; default LINEAR */
    int32_t accumulate;    /**< batches per update; default 1 */
    float rate;            /**< learning rate of the backbone; default 3e-5 */
    float head_rate;       /**< of layer mix, pooling and classifier; default 0: as `rate` */
    float layer_decay;     /**< rate of each block relative to the one above; default 1 */
    float weight_decay;    /**< decoupled; not on norms, biases and vectors; default 0.01 */
    float beta1, beta2;    /**< of AdamW; default 0.9, 0.999 */
    float eps;             /**< of AdamW; default 1e-8 */
    float clip_norm;       /**< largest norm of the gradient; default 1; 0: no limit */
    float average;         /**< decay of a moving average of the weights; default 0: none */
    float label_smoothing; /**< default 0 */
    const float *class_weights; /**< [label_count], or NULL (default): all 1; copied */
    float projection_dropout, hidden_dropout, attention_dropout, activation_dropout;
    float classifier_dropout; /**< defaults 0.1, 0.1, 0.1, 0, 0.1 */
    float layer_drop;         /**< probability that a step skips a block; default 0 */
    float
        mask_time_probability; /**< share of frames masked in spans (wav2vec 2.0), also where the backbone is frozen; default 0.05 */
    int32_t mask_time_length;  /**< frames per span; default 10 */
    float mask_channel_probability; /**< share of channels masked in spans; default 0 */
    int32_t mask_channel_length;    /**< channels per span; default 10 */
    int32_t freeze_features;        /**< 1 (default): the convolutions on the waveform stay as they
                                       are; log-mel models train theirs anyway */
    int32_t freeze_layers; /**< blocks, from the first, that stay as they are, with everything below
                              them; -1: the whole backbone; default 0 */
    const char *freeze;    /**< comma-separated patterns of parameter names that stay as they are
                              (* and ?), or NULL */
    uint64_t cache_bytes;  /**< memory of the device for outputs of frozen convolutions, or on a GPU
                              for samples where they are trained; default 2 GiB; 0: none. Used where
                              no augmentation changes the waveform */
    int32_t max_skipped;   /**< skipped steps in a row that end the run with NUMERIC; default 10 */
    ser_augment_options augment;
} ser_trainer_options;

/** One clip for a batch. Fill struct_size; everything 0 but what you set is fine. */
typedef struct ser_clip {
    size_t struct_size;     /**< sizeof(ser_clip), set by the caller */
    const ser_audio *audio; /**< only read during ser_batch_create */
    uint64_t id;            /**< the clip's own number: seeds its augmentation, names its cached
                               features (0: not cached) and stands in messages */
    int32_t label;          /**< 0 .. label_count - 1; -1: none (evaluation, or soft targets) */
    float weight;           /**< of the clip in the loss; 0 means 1 */
    const float *targets;   /**< [label_count] soft labels instead of `label`, or NULL */
    const uint8_t *classes; /**< [label_count]: not 0 where the clip's corpus has the class: its
                               softmax runs over these; NULL: all */
} ser_clip;

/** What a step did. Fill struct_size before the call. */
typedef struct ser_step_result {
    size_t struct_size;
    int64_t step;         /**< updates done so far */
    int32_t updated;      /**< 1: weights changed; 0: gradients were only accumulated */
    int32_t skipped;      /**< 1: NaN or infinity in loss or gradient, nothing changed */
    double loss;          /**< weighted mean over the batch's clips */
    double gradient_norm; /**< before clipping; 0 while accumulating */
    double rate;          /**< learning rate of the backbone at this step */
    double head_rate;
    int32_t correct;  /**< clips whose likeliest class was their label */
    int64_t bad_clip; /**< id of the first clip with a loss that is not finite; -1: none */
} ser_step_result;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_trainer_options_init(ser_trainer_options *options, size_t size);

/**
 * Train `model`, which no predictor may use meanwhile (BUSY otherwise, both ways). The trainer keeps
 * its own reference; training happens on the model's device. `options` NULL means defaults. The
 * caller frees `*trainer`. Errors: ARGUMENT, BUSY, MEMORY, DEVICE. Since 0.1.
 */
SER_API int ser_trainer_create(ser_model *model, const ser_trainer_options *options,
                               ser_trainer **trainer);

/**
 * Make a batch of `count` (1..4096) clips: the model's audio front end and, with `augment` not 0,
 * the augmentation of `epoch`. Any number of threads at once. The caller frees `*batch`. Errors:
 * ARGUMENT (naming the clip), DATA (a clip without a frame), MEMORY. Since 0.1.
 */
SER_API int ser_batch_create(const ser_trainer *trainer, const ser_clip *clips, size_t count,
                             int64_t epoch, int32_t augment, ser_batch **batch);

/** Free a batch and null the handle; NULL is fine. Since 0.1. */
SER_API void ser_batch_free(ser_batch **batch);

/**
 * For fresh log-mel models, before the first step: measure mean and deviation of each bin over
 * batches made without augmentation. ser_trainer_observe adds a batch, ser_trainer_settle writes
 * the result into the model; batches with augmentation are made after that. A model on the waveform
 * has nothing to measure (0 is returned). Errors: ARGUMENT (after the first step; an augmented batch;
 * settle without a batch), BUSY (after a fork), NUMERIC, MEMORY. Since 0.1.
 */
SER_API int ser_trainer_observe(ser_trainer *trainer, const ser_batch *batch);
SER_API int ser_trainer_settle(ser_trainer *trainer);

/**
 * One batch forward and backward, and on every `accumulate`-th call an update. `result` may be
 * NULL. A step that is skipped drops what was accumulated for its update. After MEMORY nothing has
 * changed but that a cache of clips may have been given up; after DEVICE the weights may have
 * changed. Errors: ARGUMENT (a batch of another trainer, a clip without label or targets, 64 results
 * that wait to be collected), CANCELLED, NUMERIC (max_skipped steps in a row were not finite; the text
 * names clips), BUSY (after a fork), MEMORY, DEVICE. Since 0.1.
 */
SER_API int ser_train_step(ser_trainer *trainer, const ser_batch *batch, ser_step_result *result);

/**
 * The first half of ser_train_step: returns once the step is under way, so that the caller can make
 * the next batch ready while a GPU computes (on a CPU the step is done). The batch may be freed then.
 * One step computes at a time; the next submission waits for it when everything else is ready, and
 * so does every function that uses what it changes. A step's failure after its submission is
 * returned by whichever call waited for it, and that step has no result; after an error from this
 * call the batch's own step has not begun, whichever of the two failed. Results wait for
 * ser_train_collect, at most 64 of them (ARGUMENT). Errors as for ser_train_step. Since 0.1.
 */
SER_API int ser_train_submit(ser_trainer *trainer, const ser_batch *batch);

/**
 * The result of the oldest step that was submitted and not collected; waits for it if it is under
 * way. `*found` becomes 0, and `result` is left alone, if there is none. Errors: ARGUMENT, NUMERIC,
 * DEVICE, BUSY (after a fork). Since 0.1.
 */
SER_API int ser_train_collect(ser_trainer *trainer, ser_step_result *result, int32_t *found);

/**
 * Loss and class probabilities of a batch with the weights as they are (see ser_trainer_use_average).
 * `losses` [clips] (0 without label) and `probabilities` [clips, label_count] may be NULL. Nothing
 * is changed. Errors as for ser_train_step; NUMERIC if the network gave NaN or infinity. Since 0.1.
 */
SER_API int ser_trainer_evaluate(ser_trainer *trainer, const ser_batch *batch, float *losses,
                                 float *probabilities);

/** 1: evaluate with the moving average of the weights; 0: with the weights themselves. Steps always
 * train the latter and are refused (ARGUMENT) in between. Nothing happens without `average`. Since
 * 0.1. */
SER_API int ser_trainer_use_average(ser_trainer *trainer, int32_t use);

/** Multiply all rates with `factor` (0..1e6) from now on, on top of the schedule, instead of with an
 * earlier factor. Errors: ARGUMENT. Since 0.1. */
SER_API int ser_trainer_set_rate(ser_trainer *trainer, double factor);

/** Make the next step or evaluation return CANCELLED, once; one that runs finishes first. Any thread, also a signal handler. Since
 * 0.1. */
SER_API void ser_trainer_cancel(ser_trainer *trainer);

/** Updates done so far, without a step that is under way. Since 0.1. */
SER_API int64_t ser_trainer_steps(const ser_trainer *trainer);

/** Number of trained weights; the model's others are frozen. Since 0.1. */
SER_API uint64_t ser_trainer_trained_count(const ser_trainer *trainer);

/**
 * Write a checkpoint: the directory `path` appears complete or not at all (it is made beside, flushed
 * to the disk and renamed; an existing one is replaced). `note` (may be NULL) is the caller's own
 * text, such as its position in the epoch, and comes back from ser_trainer_restore. Between updates
 * only: UNSUPPORTED while gradients are accumulated. Errors: ARGUMENT, IO, MEMORY, BUSY (after a
 * fork), and what a step under way fails with; nothing is written then. Since 0.1.
 */
SER_API int ser_trainer_save(ser_trainer *trainer, const char *path, const char *note);

/**
 * Go on from a checkpoint of the same model architecture and options that matter (trained
 * parameters, average); the weights are replaced. `*note` (may be NULL) is borrowed from the trainer
 * until the next restore. Every file is checked against its checksum first: after an error the
 * trainer is unchanged, but for MEMORY or DEVICE in the middle of taking over what was checked; a
 * step that was under way has been taken in. Results that were not collected are dropped. Like
 * ser_trainer_settle not beside ser_batch_create. The caller answers for the same seed, schedule and
 * accumulation as before. Errors: ARGUMENT, IO, FORMAT, VERSION (newer), MISMATCH, MEMORY. Since 0.1.
 */
SER_API int ser_trainer_restore(ser_trainer *trainer, const char *path, const char **note);

/**
 * Write the model as ser_model_save does, with the moving average where there is one. Logits are
 * divided by `temperature` (0.001..1000; 1: as trained), which is folded into the last layer.
 * `training` is JSON text of an object (at most 1 MiB) for the config's free-form summary, or NULL: as
 * it is. Errors: ARGUMENT, IO, MEMORY, DEVICE, BUSY (after a fork). Since 0.1.
 */
SER_API int ser_trainer_save_model(ser_trainer *trainer, const char *path, double temperature,
                                   const char *training);

/** Give the model back, with the weights that are in use (ser_trainer_use_average), and null the
 * handle; NULL is fine. Batches outlive their trainer only to be freed. Since 0.1. */
SER_API void ser_trainer_free(ser_trainer **trainer);

#ifdef __cplusplus
}
#endif

#endif
