/* SPDX-License-Identifier: MIT */
#include "model/model.h"

#include <string.h>

#include "base/fail.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/fresh.h"
#include "model/json.h"
#include "model/package.h"

/* Weights on their way from the files to the device, one parameter at a time. */
typedef struct loader {
    const ser_package *package;
    const ser_model_options *options;
    ser_net *net;
    float *values;          /* room for the largest parameter */
    uint64_t nonfinite;     /* weights so far that are NaN or infinite */
    const char *first_name; /* of the first tensor that has one */
} loader;

/* An f32 is NaN or infinite if its exponent bits are all set. */
static uint64_t count_nonfinite(const float *values, size_t count)
{
    uint64_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        found += (bits & 0x7F800000U) == 0x7F800000U;
    }
    return found;
}

static int check_values(loader *l, const ser_param *param, const char *tensor, const char *file)
{
    size_t count = (size_t)ser_param_elements(param);
    uint64_t found = count_nonfinite(l->values, count);
    if (found > 0 && l->options->strict != 0) {
        return ser_fail(SER_ERR_DATA, "%s: tensor \"%s\" has %llu NaN or infinite values", file,
                        tensor, (unsigned long long)found);
    }
    if (found > 0 && l->nonfinite == 0) {
        l->first_name = tensor;
    }
    l->nonfinite += found;
    for (size_t i = 0; param->role == SER_PARAM_MEL_STD && i < count; i++) {
        if (l->values[i] <= 0.0F) {
            return ser_fail(SER_ERR_DATA, "%s: tensor \"%s\"[%zu] is %g, must be above 0", file,
                            tensor, i, (double)l->values[i]);
        }
    }
    return 0;
}

static int load_param(loader *l, size_t index)
{
    const ser_param *param = &l->package->params.list[index];
    const ser_tensor_ref *ref = &l->package->bound[index];
    int status;
    if (ref->entry == NULL) {
        status = ser_fresh_values(&l->package->params, index, l->options->seed, l->values);
    } else {
        status = ser_safetensors_read(ref->file, ref->entry, l->values);
        if (status == 0) {
            status = check_values(l, param, ref->entry->name, ref->file->file.name);
        }
    }
    return status != 0 ? status : ser_net_set(l->net, index, l->values);
}

static int load_params(loader *l)
{
    const ser_params *params = &l->package->params;
    int64_t largest = 0;
    for (size_t i = 0; i < params->count; i++) {
        int64_t elements = ser_param_elements(&params->list[i]);
        largest = elements > largest ? elements : largest;
    }
    l->values = ser_mem_alloc_raw((size_t)largest, sizeof(float));
    int status = l->values != NULL ? 0 : SER_ERR_MEMORY;
    for (size_t i = 0; i < params->count && status == 0; i++) {
        status = load_param(l, i);
    }
    ser_mem_free(l->values);
    if (status == 0 && l->nonfinite > 0) {
        ser_log(SER_LOG_WARNING, "%s: %llu NaN or infinite weights, the first in \"%s\"",
                l->package->tensors.name, (unsigned long long)l->nonfinite, l->first_name);
    }
    return status != 0 ? status : ser_net_finish(l->net);
}

/* What the network's activations are on this device: bf16 on devices that have it, unless f32 is
 * asked for. A wish that cannot be met is told. */
static int32_t type_of(const ser_device *device, const ser_model_options *options)
{
    if (!device->ops->bf16) {
        if (options->precision == SER_PRECISION_BF16) {
            ser_log(SER_LOG_WARNING, "bf16 is not available on %s; computing in f32", device->name);
        }
        return SER_F32;
    }
    const bool reduced = options->precision != SER_PRECISION_F32;
    ser_log(SER_LOG_INFO, "model: computing in %s on %s",
            reduced ? "bf16 with f32 sums" : "f32 (no TF32)", device->name);
    return reduced ? SER_BF16 : SER_F32;
}

static int make_net(ser_device *device, const ser_model_options *options,
                    const ser_package *package, ser_net **net)
{
    int status = ser_net_create(device->ops, device->context, device->threads,
                                &package->config.arch, type_of(device, options), net);
    if (status != 0) {
        *net = NULL;
        return status;
    }
    loader l = {.package = package, .options = options, .net = *net};
    status = load_params(&l);
    if (status != 0) {
        ser_net_free(*net);
        *net = NULL;
    }
    return status;
}

static uint64_t count_parameters(const ser_params *params)
{
    uint64_t total = 0;
    for (size_t i = 0; i < params->count; i++) {
        total += (uint64_t)ser_param_elements(&params->list[i]);
    }
    return total;
}

/* `package` gives its configuration away; its caller clears the rest. */
static int make_model(ser_device *device, const char *path, const ser_model_options *options,
                      ser_package *package, ser_model **result)
{
    ser_model *model = ser_mem_alloc(1, sizeof *model);
    if (model == NULL) {
        return SER_ERR_MEMORY;
    }
    atomic_init(&model->references, 1);
    atomic_init(&model->users, 0);
    model->fork_generation = ser_fork_generation();
    model->device = ser_device_acquire(device);
    model->parameter_count = count_parameters(&package->params);
    int status = make_net(device, options, package, &model->net);
    if (status == 0) {
        model->config = package->config;
        package->config = (ser_config){.labels = NULL};
        model->config_text = ser_config_print(&model->config);
        model->path = ser_mem_strdup(path);
        status = model->config_text != NULL && model->path != NULL ? 0 : SER_ERR_MEMORY;
    }
    if (status != 0) {
        ser_model_release(model);
        return status;
    }
    *result = model;
    return 0;
}

static int finish(ser_device *device, const char *path, const ser_model_options *options,
                  int status, ser_package *package, ser_model **model)
{
    if (status == 0) {
        status = make_model(device, path, options, package, model);
    }
    ser_package_clear(package);
    return status;
}

int ser_model_open(ser_device *device, const char *path, const ser_model_options *options,
                   ser_model **model)
{
    ser_package package;
    int status = ser_fork_check(device->fork_generation, "the device");
    if (status != 0) {
        return status;
    }
    status = ser_package_open(path, options->max_header_size, &package);
    return finish(device, path, options, status, &package, model);
}

int ser_model_open_memory(ser_device *device, const void *data, size_t size,
                          const ser_model_options *options, ser_model **model)
{
    ser_package package;
    int status = ser_fork_check(device->fork_generation, "the device");
    if (status != 0) {
        return status;
    }
    status = ser_package_open_memory(data, size, options->max_header_size, &package);
    return finish(device, "", options, status, &package, model);
}

int ser_model_from_backbone(ser_device *device, const char *backbone, const char *const *labels,
                            size_t label_count, const ser_model_options *options, ser_model **model)
{
    ser_package package;
    int status = ser_fork_check(device->fork_generation, "the device");
    if (status != 0) {
        return status;
    }
    const ser_head head = {labels, label_count, options->layer_mix != 0};
    status = ser_package_open_backbone(backbone, &head, options->max_header_size, &package);
    return finish(device, backbone, options, status, &package, model);
}

int ser_model_from_config(ser_device *device, const char *config, const char *const *labels,
                          size_t label_count, const ser_model_options *options, ser_model **model)
{
    ser_package package;
    int status = ser_fork_check(device->fork_generation, "the device");
    if (status != 0) {
        return status;
    }
    const ser_head head = {labels, label_count, options->layer_mix != 0};
    status = ser_package_make(config, &head, &package);
    return finish(device, "", options, status, &package, model);
}

/* --- Writing --- */

/* A training summary is a handful of numbers; the header that holds it must stay readable. */
enum { MAX_TRAINING = 1 << 20 };

typedef struct values_source {
    const ser_model *model;
    double temperature;
} values_source;

/* softmax(z / T) with z = W h + b is the softmax of (W / T) h + b / T. */
static int get_values(const void *user, size_t index, float *values)
{
    const values_source *source = user;
    const ser_net *net = source->model->net;
    const ser_param *param = &ser_net_params(net)->list[index];
    bool last =
        (param->role == SER_PARAM_CLASSIFIER_WEIGHT || param->role == SER_PARAM_CLASSIFIER_BIAS) &&
        param->index == ser_net_arch(net)->classifier_count - 1;
    int status = ser_net_get(net, index, values);
    if (status == 0 && last && source->temperature != 1.0) {
        size_t count = (size_t)ser_param_elements(param);
        for (size_t i = 0; i < count; i++) {
            values[i] = (float)((double)values[i] / source->temperature);
        }
    }
    return status;
}

static int check_training(const char *text)
{
    json_t *root = NULL;
    size_t length = strlen(text);
    if (length > MAX_TRAINING) {
        return ser_fail(SER_ERR_ARGUMENT, "training: %zu bytes of JSON, limit %d", length,
                        MAX_TRAINING);
    }
    int status = ser_json_parse("training", text, length, SER_JSON_MAX_VALUES, &root);
    json_decref(root);
    return status == 0 || status == SER_ERR_MEMORY
               ? status
               : ser_fail_prefix(SER_ERR_ARGUMENT, "ser_trainer_save_model: ");
}

/* The configuration's text with another training summary. */
static int print_config(const ser_model *model, const char *training, char **text)
{
    int status = check_training(training);
    char *copy = status == 0 ? ser_mem_strdup(training) : NULL;
    if (status != 0 || copy == NULL) {
        return status != 0 ? status : SER_ERR_MEMORY;
    }
    ser_config config = model->config; /* borrows all but the summary */
    config.training = copy;
    *text = ser_config_print(&config);
    ser_mem_free(copy);
    return *text != NULL ? 0 : SER_ERR_MEMORY;
}

int ser_model_write(const ser_model *model, const ser_model_changes *changes, const char *path)
{
    char *own_text = NULL;
    int status = ser_fork_check(model->fork_generation, "the model");
    if (status == 0 && changes != NULL && changes->training != NULL) {
        status = print_config(model, changes->training, &own_text);
    }
    if (status != 0) {
        return status;
    }
    const values_source values = {model, changes != NULL ? changes->temperature : 1.0};
    const char *const metadata[][2] = {
        {"format", "ser"},
        {"version", "1"},
        {"config", own_text != NULL ? own_text : model->config_text}};
    const ser_tensor_source source = {
        .params = ser_net_params(model->net),
        .metadata = metadata,
        .metadata_count = sizeof metadata / sizeof metadata[0],
        .get = get_values,
        .user = &values,
    };
    status = ser_safetensors_write(path, &source);
    ser_mem_free(own_text);
    return status;
}

/* --- Users --- */

int ser_model_share(ser_model *model)
{
    int users = atomic_load(&model->users);
    do {
        if (users < 0) {
            return ser_fail(SER_ERR_BUSY, "the model is being trained");
        }
    } while (!atomic_compare_exchange_weak(&model->users, &users, users + 1));
    return 0;
}

void ser_model_unshare(ser_model *model)
{
    atomic_fetch_sub(&model->users, 1);
}

int ser_model_take(ser_model *model)
{
    int users = 0;
    if (!atomic_compare_exchange_strong(&model->users, &users, -1)) {
        return users < 0 ? ser_fail(SER_ERR_BUSY, "the model is being trained")
                         : ser_fail(SER_ERR_BUSY,
                                    "the model is in use by %d predictor%s; free them first", users,
                                    users == 1 ? "" : "s");
    }
    return 0;
}

void ser_model_give_back(ser_model *model)
{
    atomic_store(&model->users, 0);
}

void ser_model_acquire(ser_model *model)
{
    atomic_fetch_add(&model->references, 1);
}

void ser_model_release(ser_model *model)
{
    if (model == NULL || atomic_fetch_sub(&model->references, 1) != 1) {
        return;
    }
    ser_net_free(model->net);
    ser_config_clear(&model->config);
    ser_mem_free(model->config_text);
    ser_mem_free(model->path);
    ser_device_release(model->device);
    ser_mem_free(model);
}
