/* SPDX-License-Identifier: MIT */
/* ser-record: speak, and see which emotion is heard. */
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "device.h"
#include "message.h"
#include "modelopen.h"
#include "record.h"
#include "stop.h"
#include "text.h"

enum { DEFAULT_SECONDS = 5, CLIP_SECONDS = 600 };

/* The formats of ser-predict that suit a source that goes on. */
static const char *const format_names[] = {"text", "jsonl", NULL};

/* The member of record_options that an option sets. */
#define SETS(member) .offset = offsetof(record_options, member)

static const cli_option options_table[] = {
    {CLI_GROUP, .help = "Recording"},
    {CLI_NUMBER, 's', "seconds", "SECONDS", SETS(seconds), 0.05, 1e7,
     .help = "stop after this much (default: 5; with --continuous not before Ctrl-C)"},
    {CLI_FLAG, 'c', "continuous", NULL, SETS(continuous),
     .help = "one answer per window until Ctrl-C, instead of one for the recording"},
    {CLI_TEXT, 'o', "output", "FILE", SETS(output),
     .help = "keep the recording as FILE, 16-bit WAV or FLAC by its name (.wav, .flac)"},
    {CLI_FLAG, 0, "force", NULL, SETS(force), .help = "replace FILE if it is there"},
    {CLI_TEXT, 0, "source", "NAME", SETS(source),
     .help = "microphone (default: the system's), file:PATH or fast:PATH, or - for raw 16-bit "
             "samples from standard input"},
    {CLI_FLAG, 0, "list-devices", NULL, SETS(list_devices),
     .help = "list the microphones and exit"},
    {CLI_INTEGER, 0, "rate", "HZ", SETS(rate), 4000, 768000,
     .help = "sampling rate (default: the device's own; of -, 16000)"},
    {CLI_INTEGER, 0, "channels", "N", SETS(channels), 1, 64,
     .help = "channels (default: the device's own, at most 2; of -, 1)"},
    {CLI_GROUP, .help = "Answer"},
    {CLI_TEXT, 'm', "model", "FILE", SETS(model),
     .help = "model file or transformers directory (default: $SER_MODEL, else the one installed)"},
    {CLI_TEXT, 'l', "labels", "A,B,...", SETS(labels),
     .help = "choose among these labels of the model only"},
    {CLI_FLAG, 0, "no-predict", NULL, SETS(no_predict), .help = "only record"},
    {CLI_FLAG, 'a', "attention", NULL, SETS(attention),
     .help = "tell also which parts the answer rests on"},
    {CLI_NUMBER, 'w', "window", "SECONDS", SETS(window), 0.025, 600.0,
     .help = "length of the windows of --continuous (default: the model's own)"},
    {CLI_NUMBER, 0, "hop", "SECONDS", SETS(hop), 0.01, 600.0,
     .help = "start a window every so many seconds (default: 1, or the window's length if that is "
             "less)"},
    {CLI_NUMBER, 0, "smoothing", "SECONDS", SETS(smoothing), 0.001, 3600.0,
     .help = "mean over the windows that forgets with this time constant"},
    {CLI_NUMBER, 0, "gate", "DBFS", SETS(gate), -200.0, -1.0,
     .help = "do not compute windows that are quieter, such as -50"},
    {CLI_GROUP, .help = "Output"},
    {CLI_CHOICE, 'f', "format", "FORMAT", SETS(format), .choices = format_names,
     .help = "text (default) or jsonl"},
    {CLI_PRESET, 'j', "json", NULL, SETS(format), OUTPUT_JSONL,
     .help = "the same as --format jsonl"},
    {CLI_FLAG, 0, "levels", NULL, SETS(levels), .help = "jsonl: also the level, every 50 ms"},
    {CLI_CHOICE, 0, "color", "WHEN", SETS(color), .choices = terminal_color_names,
     .help = "auto (default), always or never"},
    {CLI_FLAG, 'q', "quiet", NULL, SETS(quiet), .help = "no meter and no warnings"},
    {CLI_FLAG, 'v', "verbose", NULL, SETS(verbose), .help = "say more on standard error"},
    {CLI_GROUP, .help = "Computation"},
    {CLI_TEXT, 'd', "device", "DEVICE", SETS(device),
     .help = "what computes: auto (default: a GPU if there is one), cpu, cuda or cuda:N"},
    {CLI_CHOICE, 0, "precision", "FORMAT", SETS(precision), .choices = device_precision_names,
     .help = "auto (default: bf16 on a GPU, f32 on the CPU), f32 or bf16"},
    {CLI_INTEGER, 't', "threads", "N", SETS(threads), 1, 1024,
     .help = "CPU threads (default: $OMP_NUM_THREADS, else all)"},
    {CLI_GROUP, .help = "Help"},
    {CLI_HELP, 'h', "help", .help = "print this help and exit"},
    {CLI_VERSION, 'V', "version", .help = "print the version and exit"},
    {.kind = CLI_END},
};

static const cli_program program = {
    .name = "ser-record",
    .usage = "[OPTION]...",
    .summary = "Record speech and recognise emotion in it; Ctrl-C stops. The audio never leaves\n"
               "this machine, and is written nowhere but to the FILE of --output.",
    .options = options_table,
    .footer = "Exit status: 0 done, 2 wrong usage, 3 input or output, 4 no microphone or\n"
              "device, 5 numeric failure, 6 microphone lost, 7 bad model or audio. See\n"
              "ser-record(1).\n",
};

/* Options that only windows, only answers or only a file have. */
static int check_belonging(const record_options *o)
{
    const struct {
        bool given;
        const char *name;
        bool possible;
        const char *needs;
    } rules[] = {
        {o->window > 0.0, "window", o->continuous, "needs --continuous"},
        {o->hop > 0.0, "hop", o->continuous, "needs --continuous"},
        {o->smoothing > 0.0, "smoothing", o->continuous, "needs --continuous"},
        {o->gate < 0.0, "gate", o->continuous, "needs --continuous"},
        {o->window > 0.0, "window", !o->no_predict, "contradicts --no-predict"},
        {o->hop > 0.0, "hop", !o->no_predict, "contradicts --no-predict"},
        {o->smoothing > 0.0, "smoothing", !o->no_predict, "contradicts --no-predict"},
        {o->gate < 0.0, "gate", !o->no_predict, "contradicts --no-predict"},
        {o->attention, "attention", !o->no_predict, "contradicts --no-predict"},
        {o->labels != NULL, "labels", !o->no_predict, "contradicts --no-predict"},
        {o->levels, "levels", o->format == OUTPUT_JSONL, "needs --format jsonl"},
        {o->force, "force", o->output != NULL, "needs --output"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].given && !rules[i].possible) {
            return message_usage("--%s %s", rules[i].name, rules[i].needs);
        }
    }
    return CLI_CONTINUE;
}

static int check_options(record_options *o)
{
    int code = check_belonging(o);
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (o->quiet && o->verbose) {
        return message_usage("--quiet and --verbose contradict each other");
    }
    if (!o->continuous && !o->no_predict && o->seconds > CLIP_SECONDS) {
        return message_usage("--seconds: one answer is for %d s at most; --continuous answers for "
                             "windows, --no-predict only records",
                             CLIP_SECONDS);
    }
    if (o->source != NULL && strcmp(o->source, "-") == 0 && isatty(STDIN_FILENO)) {
        return message_usage("--source -: standard input is a terminal; pipe raw 16-bit samples "
                             "into it");
    }
    if (o->seconds <= 0.0 && !o->continuous) {
        o->seconds = DEFAULT_SECONDS;
    }
    return CLI_CONTINUE;
}

static void list_one(const capture_device *d, bool json)
{
    if (json) {
        printf("{\"source\":");
        text_json(stdout, d->source);
        printf(",\"description\":");
        text_json(stdout, d->description);
        printf(",\"default\":%s,\"monitor\":%s}\n", d->is_default ? "true" : "false",
               d->is_monitor ? "true" : "false");
        return;
    }
    char *source = text_printable(d->source);
    char *description = text_printable(d->description);
    printf("%c %s  %s%s\n", d->is_default ? '*' : ' ', source, description,
           d->is_monitor ? " (what the computer plays)" : "");
    free(description);
    free(source);
}

static int list_devices(bool json)
{
    capture_list list;
    char *why = NULL;
    int code = capture_list_devices(&list, &why);
    if (code != 0) {
        return code;
    }
    for (size_t i = 0; i < list.count; i++) {
        list_one(&list.items[i], json);
    }
    if (list.count == 0) {
        message_error("no microphone found: %s", why != NULL ? why : "no sound system answers");
        message_error("plug one in or start PulseAudio or PipeWire; --source file:FILE plays an "
                      "audio file in its place, and --source - takes raw samples from a pipe");
        code = MESSAGE_EXIT_DEVICE;
    }
    free(why);
    capture_list_free(&list);
    int written = cli_finish_output();
    return code != 0 ? code : written;
}

static int read_command_line(record_session *s, int argc, char **argv)
{
    record_options *o = &s->options;
    int first = 0;
    *o = (record_options){.device = "auto"};
    int code = cli_parse(&program, argc, argv, o, &first);
    if (code != CLI_CONTINUE || (code = check_options(o)) != CLI_CONTINUE) {
        return code;
    }
    if (first < argc) {
        return message_usage("'%s': this program takes no files; --source file:PATH plays one, "
                             "--output names the recording",
                             argv[first]);
    }
    message_set_verbosity(o->verbose - o->quiet);
    ser_log_set_level(o->verbose ? SER_LOG_DEBUG : o->quiet ? SER_LOG_ERROR : SER_LOG_WARNING);
    ser_device_options_init(&s->device_options, sizeof s->device_options);
    s->device_options.threads = o->threads;
    code = device_parse(o->device, &s->device_options);
    if (code == CLI_CONTINUE && o->list_devices) {
        code = list_devices(o->format == OUTPUT_JSONL);
    }
    if (code == CLI_CONTINUE && o->output != NULL) {
        code = recording_check(o->output, o->force);
    }
    return code;
}

/* The model's own window is the length that it was made for, and what the library takes. */
static int choose_windows(record_session *s)
{
    record_options *o = &s->options;
    if (!o->continuous) {
        return 0;
    }
    bool own = o->window <= 0.0;
    o->window = own ? ser_model_window(s->model) : o->window;
    if (o->hop > o->window) {
        return message_usage("--hop: %g is longer than the window of %g seconds%s; sound between "
                             "the windows would be left out",
                             o->hop, o->window, own ? " (the model's)" : "");
    }
    o->hop = o->hop > 0.0 ? o->hop : fmin(1.0, o->window);
    return 0;
}

/* All that takes time, before there is sound. */
static int open_model(record_session *s)
{
    const record_options *o = &s->options;
    if (o->no_predict) {
        return 0;
    }
    int code = modelopen(&s->device_options, o->model, o->precision, &s->device, &s->model);
    if (code == 0) {
        device_describe(s->device, &s->device_options, s->device_name, sizeof s->device_name);
        modelopen_note(s->device, s->model);
        code = labelchoice_make(&s->choice, s->model, o->labels);
    }
    if (code == 0) {
        code = choose_windows(s);
    }
    return code != 0 ? code : record_answer_prepare(s);
}

static int open_output(record_session *s)
{
    const record_options *o = &s->options;
    output_setup setup = {
        .format = o->format,
        .labels = s->choice.labels,
        .label_count = s->choice.count,
        .attention = o->attention != 0,
        .segments = o->continuous != 0,
        .live = true,
        .channel = -1,
        .device = s->device_name,
        .model = s->model != NULL ? ser_model_path(s->model) : NULL,
        .screen = terminal_probe(STDOUT_FILENO, o->color),
    };
    int code = output_open(&s->out, &setup);
    s->out_open = code == 0;
    if (code == 0) {
        record_output_start(s);
    }
    return code;
}

static int open_recording(record_session *s)
{
    if (s->options.output == NULL) {
        return 0;
    }
    recording_setup setup = {
        .path = s->options.output,
        .force = s->options.force != 0,
        .rate = s->rate,
        .channels = s->channels,
        .frames = s->limit,
    };
    return recording_open(&setup, &s->recording);
}

static int open_capture(record_session *s)
{
    const record_options *o = &s->options;
    const capture_options options = {.source = o->source, .rate = o->rate, .channels = o->channels};
    int code = capture_open(&options, &s->capture);
    if (code != 0) {
        return code;
    }
    s->rate = capture_rate(s->capture);
    s->channels = capture_channels(s->capture);
    s->source = text_copy(capture_source(s->capture));
    s->description = text_copy(capture_description(s->capture));
    s->limit = o->seconds > 0.0 ? llround(o->seconds * s->rate) : 0;
    s->buffer = text_alloc(RECORD_BUFFER * (size_t)s->channels, sizeof *s->buffer);
    record_meter_start(&s->meter, s->rate, s->channels);
    message_note("%s: %d Hz, %d channels", s->source, (int)s->rate, (int)s->channels);
    code = record_answer_open(s); /* what takes memory before there is a file */
    return code != 0 ? code : open_recording(s);
}

static void tell_begin(const record_session *s)
{
    if (s->options.quiet) {
        return;
    }
    if (s->limit > 0) {
        message_error("recording %g s from %s; Ctrl-C stops early", s->options.seconds,
                      s->description);
    } else {
        message_error("recording from %s; Ctrl-C stops", s->description);
    }
}

static void tell_end(const record_session *s, const char *kept)
{
    capture_losses losses = capture_lost(s->capture);
    if (losses.overruns > 0 || s->missed > 0.0) {
        message_warning("about %.2f s of sound are missing (%lld times; %.1f s without the device)",
                        (double)losses.frames / (double)s->rate + s->missed,
                        (long long)losses.overruns, s->missed);
    }
    if (s->frames == 0) {
        message_error("nothing was recorded");
    } else if (kept != NULL && !s->options.quiet) {
        message_error("%s: %.2f s, %d Hz, %d channel%s", kept, s->kept, (int)s->rate,
                      (int)s->channels, s->channels > 1 ? "s" : "");
    }
    message_note("%.2f s recorded, %.3f s in the network", record_seconds(s), s->computing);
}

/* Ctrl-C is the way to stop, and no failure; other signals are told to whoever sent them. A source
 * without a sample is bad audio. */
static int exit_code(const record_session *s)
{
    int number = stop_requested();
    if (s->code != 0) {
        return s->code;
    }
    if (number != 0 && (number != SIGINT || s->frames == 0)) {
        return 128 + number;
    }
    return s->frames == 0 ? MESSAGE_EXIT_DATA : 0;
}

static int record(record_session *s)
{
    char *kept = NULL;
    record_screen_open(s);
    tell_begin(s);
    record_event_start(s);
    record_loop(s);
    if (s->recording != NULL) { /* before the answers, which may take long */
        record_end(s, "disk", recording_finish(&s->recording, &kept, &s->kept));
    }
    record_answer_finish(s);
    record_screen_close(s);
    record_event_end(s, kept);
    record_output_finish(s);
    tell_end(s, kept);
    free(kept);
    return exit_code(s);
}

static int run(record_session *s, int argc, char **argv)
{
    int code = read_command_line(s, argc, argv);
    if (code != CLI_CONTINUE) {
        return code;
    }
    code = open_model(s);
    if (code == 0) {
        code = open_output(s);
    }
    if (code == 0) {
        code = open_capture(s);
    }
    return code != 0 ? code : record(s);
}

static void init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

int main(int argc, char **argv)
{
    cli_start(program.name);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is a failure to write */
    stop_install();
    ser_log_set_handler(message_log, NULL);
    record_session s = {0};
    init_lock(&s.lock);
    int code = run(&s, argc, argv);
    if (s.recording != NULL) {
        char *kept = NULL;
        recording_finish(&s.recording, &kept, &s.kept); /* nothing was recorded: it is removed */
        free(kept);
    }
    record_worker_free(&s);
    record_output_finish(&s);
    capture_close(&s.capture);
    output_close(&s.out);
    record_screen_free(&s);
    ser_stream_free(&s.stream);
    ser_predictor_free(&s.predictor);
    labelchoice_free(&s.choice);
    ser_model_free(&s.model);
    ser_device_free(&s.device);
    free(s.source);
    free(s.description);
    free(s.scores);
    free(s.clip);
    free(s.buffer);
    return code;
}
