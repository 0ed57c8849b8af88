/* SPDX-License-Identifier: MIT */
/* ser-predict: which emotion is heard in audio files. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ser/ser.h>

#include "cli.h"
#include "decode.h"
#include "device.h"
#include "files.h"
#include "labelchoice.h"
#include "message.h"
#include "modelopen.h"
#include "output.h"
#include "progress.h"
#include "scorer.h"
#include "stop.h"
#include "terminal.h"

typedef struct predict_options {
    const char *model;
    const char *device;
    const char *labels;
    const char *output;
    double window;
    double hop;
    double offset;
    double length;
    int32_t format;
    int32_t top_k;
    int32_t attention;
    int32_t precision;
    int32_t threads;
    int32_t batch_size;
    int32_t channel;
    int32_t strict;
    int32_t any_format;
    int32_t list_devices;
    int32_t color;
    int32_t no_progress;
    int32_t quiet;
    int32_t verbose;
} predict_options;

/* The member of predict_options that an option sets. */
#define SETS(member) .offset = offsetof(predict_options, member)

static const cli_option options_table[] = {
    {CLI_GROUP, .help = "Answer"},
    {CLI_TEXT, 'm', "model", "FILE", SETS(model),
     .help = "model file or transformers directory (default: $SER_MODEL, else the one installed)"},
    {CLI_TEXT, 'l', "labels", "A,B,...", SETS(labels),
     .help = "choose among these labels of the model only"},
    {CLI_NUMBER, 'w', "window", "SECONDS", SETS(window), 0.025, 600.0,
     .help = "one answer per window of this length, instead of one per file"},
    {CLI_NUMBER, 0, "hop", "SECONDS", SETS(hop), 0.01, 600.0,
     .help = "start a window every so many seconds (default: the window's length)"},
    {CLI_FLAG, 'a', "attention", NULL, SETS(attention),
     .help = "tell also which parts the answer rests on (text and jsonl)"},
    {CLI_GROUP, .help = "Audio"},
    {CLI_INTEGER, 'c', "channel", "N", SETS(channel), 0, 1023,
     .help = "take channel N, from 0 (default: the mean of all)"},
    {CLI_NUMBER, 0, "offset", "SECONDS", SETS(offset), 0, 1e9,
     .help = "skip the start of each file"},
    {CLI_NUMBER, 0, "length", "SECONDS", SETS(length), 0.001, 1e9,
     .help = "read at most this much of each file"},
    {CLI_FLAG, 0, "strict", NULL, SETS(strict),
     .help = "fail on files that are cut off or damaged"},
    {CLI_FLAG, 0, "any-format", NULL, SETS(any_format), .help = "try rare containers too"},
    {CLI_GROUP, .help = "Output"},
    {CLI_CHOICE, 'f', "format", "FORMAT", SETS(format), .choices = output_format_names,
     .help = "text (default), jsonl, csv, rttm, audacity or textgrid"},
    {CLI_PRESET, 'j', "json", NULL, SETS(format), OUTPUT_JSONL,
     .help = "the same as --format jsonl"},
    {CLI_INTEGER, 'k', "top-k", "K", SETS(top_k), 1, 1000,
     .help = "show the K best labels (text and jsonl)"},
    {CLI_TEXT, 'o', "output", "FILE", SETS(output),
     .help = "write to FILE, replacing it when all is done; with audacity and textgrid, DIRECTORY/ "
             "for one file per input"},
    {CLI_CHOICE, 0, "color", "WHEN", SETS(color), .choices = terminal_color_names,
     .help = "auto (default), always or never"},
    {CLI_FLAG, 0, "no-progress", NULL, SETS(no_progress), .help = "show no progress bar"},
    {CLI_FLAG, 'q', "quiet", NULL, SETS(quiet), .help = "no progress bar and no warnings"},
    {CLI_FLAG, 'v', "verbose", NULL, SETS(verbose), .help = "say more on standard error"},
    {CLI_GROUP, .help = "Computation"},
    {CLI_TEXT, 'd', "device", "DEVICE", SETS(device),
     .help = "auto (default: a GPU if there is one), cpu, cuda or cuda:N"},
    {CLI_FLAG, 0, "list-devices", NULL, SETS(list_devices),
     .help = "list the usable devices and exit"},
    {CLI_CHOICE, 0, "precision", "FORMAT", SETS(precision), .choices = device_precision_names,
     .help = "auto (default: bf16 on a GPU, f32 on the CPU), f32 or bf16"},
    {CLI_INTEGER, 't', "threads", "N", SETS(threads), 1, 1024,
     .help = "CPU threads (default: $OMP_NUM_THREADS, else all)"},
    {CLI_INTEGER, 'b', "batch-size", "N", SETS(batch_size), 1, 4096,
     .help = "clips or windows computed together (default: 8, on a GPU 32)"},
    {CLI_GROUP, .help = "Help"},
    {CLI_HELP, 'h', "help", .help = "print this help and exit"},
    {CLI_VERSION, 'V', "version", .help = "print the version and exit"},
    {.kind = CLI_END},
};

static const cli_program program = {
    .name = "ser-predict",
    .usage = "[OPTION]... FILE|DIRECTORY|-...",
    .summary = "Recognise emotion in speech. Directories are searched for audio files; - is\n"
               "standard input. Nothing leaves this machine.",
    .options = options_table,
    .footer = "Exit status: 0 all done, 1 some inputs failed, 2 wrong usage, 3 input or output,\n"
              "4 device, 5 numeric failure, 7 bad model or audio. See ser-predict(1).\n",
};

/* What main() opens, in the order in which it is freed again, from the end. */
typedef struct predict_session {
    predict_options options;
    ser_device_options device_options;
    ser_device *device;
    ser_model *model;
    ser_predictor *predictor;
    file_list files;
    labelchoice choice;
    char device_name[32];
    output out;
    bool out_open;
    decoder *decoder;
    size_t group; /* clips or windows per call of the predictor */
} predict_session;

enum {
    BATCHES_PER_CALL = 8, /* on a GPU: it computes one while the next is made ready */
    MEMORY_AHEAD =
        64 << 20, /* bytes of decoded audio that wait for their call; as many are in it */
    MOST_DECODERS = 16,
};

static int check_options(predict_options *o)
{
    if (o->hop > 0.0 && o->window <= 0.0) {
        return message_usage("--hop needs --window");
    }
    if (o->hop > o->window) {
        return message_usage("--hop: %g is longer than the window of %g seconds; audio between the "
                             "windows would be left out",
                             o->hop, o->window);
    }
    if (o->hop <= 0.0) {
        o->hop = o->window;
    }
    if (o->quiet && o->verbose) {
        return message_usage("--quiet and --verbose contradict each other");
    }
    return CLI_CONTINUE;
}

static int read_command_line(predict_session *s, int argc, char **argv)
{
    predict_options *o = &s->options;
    int first = 0;
    *o = (predict_options){.device = "auto", .channel = -1};
    int code = cli_parse(&program, argc, argv, o, &first);
    if (code != CLI_CONTINUE || (code = check_options(o)) != CLI_CONTINUE) {
        return code;
    }
    message_set_verbosity(o->verbose - o->quiet);
    ser_log_set_level(o->verbose ? SER_LOG_DEBUG : o->quiet ? SER_LOG_ERROR : SER_LOG_WARNING);
    ser_device_options_init(&s->device_options, sizeof s->device_options);
    s->device_options.threads = o->threads;
    code = device_parse(o->device, &s->device_options);
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (o->list_devices) {
        return device_list(o->format == OUTPUT_JSONL);
    }
    if (first == argc) {
        fprintf(stderr, "Usage: %s %s\n", program.name, program.usage);
        return message_usage("no input; name audio files or directories, or - for standard input");
    }
    code = files_collect(&s->files, argv + first, argc - first);
    return code != CLI_CONTINUE ? code
                                : output_check(o->format, o->output, o->attention != 0, &s->files);
}

/* Whether somebody may be waiting for the first windows of a stream that goes on. */
static bool is_live(const predict_session *s)
{
    return s->files.count == 1 && strcmp(s->files.entries[0].path, "-") == 0;
}

/* An answer should not depend on which other files were named, whatever the model asks for. */
static int make_predictor(predict_session *s)
{
    predict_options *o = &s->options;
    bool gpu = ser_device_kind(s->device) != SER_DEVICE_CPU;
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    if (o->batch_size == 0) { /* the library's own choice, but for a stream that may be live */
        o->batch_size = gpu && !is_live(s) ? 32 : 8;
    }
    s->group = (size_t)o->batch_size * (gpu && !is_live(s) ? BATCHES_PER_CALL : 1);
    options.max_batch = o->batch_size;
    options.padding = SER_PADDING_EXACT;
    return ser_predictor_create(s->model, &options, &s->predictor);
}

static int open_model(predict_session *s)
{
    predict_options *o = &s->options;
    int code = modelopen(&s->device_options, o->model, o->precision, &s->device, &s->model);
    if (code != 0) {
        return code;
    }
    int status = make_predictor(s);
    if (status != 0) {
        message_error("%s", ser_error_message());
        return message_exit_code(status);
    }
    device_describe(s->device, &s->device_options, s->device_name, sizeof s->device_name);
    modelopen_note(s->device, s->model);
    return 0;
}

static int open_output(predict_session *s)
{
    const predict_options *o = &s->options;
    output_setup setup = {
        .format = o->format,
        .path = o->output,
        .labels = s->choice.labels,
        .label_count = s->choice.count,
        .top = (size_t)o->top_k,
        .attention = o->attention != 0,
        .segments = o->window > 0.0,
        .several = s->files.count > 1,
        .channel = o->channel,
        .device = s->device_name,
        .model = ser_model_path(s->model),
        .screen = terminal_probe(STDOUT_FILENO, o->color),
    };
    if (o->output != NULL && strcmp(o->output, "-") != 0) {
        setup.screen.unicode = false;
        setup.screen.color = o->color == TERMINAL_COLOR_ALWAYS;
        setup.screen.columns = 80;
    }
    s->out_open = true;
    return output_open(&s->out, &setup);
}

static size_t decoder_threads(int32_t asked, size_t ahead)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t threads = asked > 0 ? (size_t)asked : online > 0 ? (size_t)online : 1;
    threads = threads < MOST_DECODERS ? threads : MOST_DECODERS;
    return threads < ahead ? threads : ahead;
}

/* To whole samples, in the way in which a predictor counts them. */
static double whole_samples(double seconds)
{
    return (double)llround(seconds * SER_SAMPLING_RATE) / SER_SAMPLING_RATE;
}

static void start_decoder(predict_session *s)
{
    const predict_options *o = &s->options;
    double window = whole_samples(ser_model_window(s->model));
    decode_plan plan = {
        .files = &s->files,
        .window = o->window > 0.0 ? o->window : window,
        .hop = o->window > 0.0 ? o->hop : window,
        .limit = whole_samples(ser_model_max_seconds(s->model)),
        .join = o->window <= 0.0,
    };
    ser_audio_options_init(&plan.audio, sizeof plan.audio);
    plan.audio.offset = o->offset;
    plan.audio.length = o->length;
    plan.audio.channel = o->channel;
    plan.audio.strict = o->strict;
    plan.audio.any_format = o->any_format;
    plan.ahead = 2 * s->group < s->files.count ? 2 * s->group : s->files.count;
    plan.memory = MEMORY_AHEAD;
    plan.threads = decoder_threads(o->threads, plan.ahead);
    s->decoder = decoder_start(&plan);
}

static int exit_code_of(const scorer_result *result)
{
    if (result->files_failed == 0) {
        return MESSAGE_EXIT_OK;
    }
    return result->files_done > 0 ? MESSAGE_EXIT_SOME : result->first_failure;
}

static int interrupted(const predict_session *s, const scorer_result *result)
{
    message_error("stopped after %zu of %zu inputs%s", result->files_done + result->files_failed,
                  s->files.count,
                  s->out.sink.path != NULL ? "; the output file was not written" : "");
    return 128 + stop_requested();
}

static int score(predict_session *s)
{
    progress bar;
    scorer_result result;
    const predict_options *o = &s->options;
    progress_start(&bar, !o->quiet && !o->no_progress, STDERR_FILENO,
                   s->files.count > 1 ? "files" : "windows",
                   s->files.count > 1 ? (int64_t)s->files.count : 0);
    start_decoder(s);
    scorer_setup setup = {
        .predictor = s->predictor,
        .choice = &s->choice,
        .batch = (size_t)o->batch_size,
        .group = s->group,
        .memory = MEMORY_AHEAD,
        .offset = o->offset,
        .segments = o->window > 0.0,
        .files = &s->files,
        .decoder = s->decoder,
        .out = &s->out,
        .progress = &bar,
    };
    int code = scorer_run(&setup, &result);
    progress_end(&bar);
    if (code != 0) {
        return code;
    }
    if (stop_requested() != 0) {
        return interrupted(s, &result);
    }
    message_note("%zu of %zu inputs, %zu clips and windows, %.1f s of audio", result.files_done,
                 s->files.count, result.units, result.seconds);
    message_note("waited %.3f s for decoding, %.3f s for the device, %.3f s writing",
                 result.decoding, result.computing, result.writing);
    code = result.files_done > 0 || o->format == OUTPUT_JSONL ? output_commit(&s->out) : 0;
    return code != 0 ? code : exit_code_of(&result);
}

static int run(predict_session *s, int argc, char **argv)
{
    int code = read_command_line(s, argc, argv);
    if (code != CLI_CONTINUE) {
        return code;
    }
    code = open_model(s);
    if (code == 0) {
        code = labelchoice_make(&s->choice, s->model, s->options.labels);
    }
    if (code == 0) {
        code = open_output(s);
    }
    return code != 0 ? code : score(s);
}

int main(int argc, char **argv)
{
    cli_start(program.name);
    stop_install();
    ser_log_set_handler(message_log, NULL);
    predict_session s = {0};
    int code = run(&s, argc, argv);
    if (s.out_open) {
        output_close(&s.out);
    }
    if (stop_requested() != 0) {
        _exit(code); /* a decoder may be waiting for a pipe that never ends */
    }
    decoder_free(&s.decoder);
    ser_predictor_free(&s.predictor);
    ser_model_free(&s.model);
    ser_device_free(&s.device);
    labelchoice_free(&s.choice);
    files_free(&s.files);
    return code;
}
