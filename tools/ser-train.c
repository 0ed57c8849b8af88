/* SPDX-License-Identifier: MIT */
/* ser-train: a model that recognises emotion in speech, from labelled clips. */
#include <stdlib.h>
#include <unistd.h>

#include <ser/ser.h>

#include "cli.h"
#include "message.h"
#include "run_dir.h"
#include "stop.h"
#include "train_cv.h"
#include "train_eval.h"
#include "train_options.h"
#include "train_run.h"
#include "train_session.h"

/* The settings of a run that goes on are those that it was started with. */
static int check_earlier(const train_options *o, const run_dir *dir)
{
    if (!o->resume || !run_dir_has(dir, "config.json")) {
        return 0;
    }
    char *path = run_dir_file(dir, "config.json");
    json_error_t error;
    json_t *earlier = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    int code = 0;
    if (earlier == NULL) {
        message_error("%s: %s", path, error.text);
        code = MESSAGE_EXIT_DATA;
    } else {
        code = train_options_match(o, earlier);
    }
    json_decref(earlier);
    free(path);
    return code;
}

static int open_directory(const train_options *o, run_dir *dir)
{
    if (o->dry_run || o->eval_only) {
        return 0;
    }
    int code = run_dir_open(dir, o->output,
                            o->resume  ? RUN_DIR_RESUME
                            : o->force ? RUN_DIR_FORCE
                                       : RUN_DIR_FRESH);
    return code == 0 ? check_earlier(o, dir) : code;
}

static int run(train_options *o, train_session *s, run_dir *dir, int argc, char **argv)
{
    int code = train_options_read(o, argc, argv);
    if (code != CLI_CONTINUE) {
        return code;
    }
    code = open_directory(o, dir);
    if (code == 0) {
        code = train_session_open(s, o, argc, argv);
    }
    if (code != 0) {
        return code;
    }
    if (o->eval_only) {
        return train_eval_only(s);
    }
    return o->cv && !o->dry_run ? train_cross(s, dir) : train_single(s, dir);
}

int main(int argc, char **argv)
{
    train_options options = {0};
    train_session session = {0};
    run_dir dir = {.lock = -1};
    cli_start("ser-train");
    stop_install();
    train_run_install();
    ser_log_set_handler(message_log, NULL);
    int code = run(&options, &session, &dir, argc, argv);
    train_session_close(&session);
    run_dir_close(&dir);
    train_options_free(&options);
    return code;
}
