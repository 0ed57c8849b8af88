/* SPDX-License-Identifier: MIT */
/*
 * A sound card for ALSA that is a plug-in: format, channels and rate are what its configuration
 * says, it runs by the clock, and it can overrun or be unplugged after so many frames:
 *
 *     pcm_type.fake { lib "/path/fake_card.so" }
 *     pcm.card { type fake; format S32; channels 4; rate 44100; overrun 8000; unplug 16000 }
 *
 * Channel c of frame f is the 16-bit number (7919 f + 12345 c) mod 2^16 - 2^15, with other bits
 * below where the format has more.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>

typedef struct card {
    snd_pcm_ioplug_t io;
    snd_pcm_format_t format;
    long channels;
    long rate;
    long overrun; /* once, at this frame; 0: never */
    long unplug;
    struct timespec start;
    int64_t position; /* frames handed over since the first start */
    int64_t begun;    /* `position` at the last start */
} card;

static int64_t sounded(const card *c)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds =
        (double)(now.tv_sec - c->start.tv_sec) + 1e-9 * (double)(now.tv_nsec - c->start.tv_nsec);
    return (int64_t)(seconds * (double)c->rate);
}

static int card_start(snd_pcm_ioplug_t *io)
{
    card *c = io->private_data;
    clock_gettime(CLOCK_MONOTONIC, &c->start);
    c->begun = c->position;
    struct itimerspec often = {{0, 5000000}, {0, 5000000}};
    return timerfd_settime(io->poll_fd, 0, &often, NULL);
}

static int card_stop(snd_pcm_ioplug_t *io)
{
    (void)io;
    return 0;
}

static snd_pcm_sframes_t card_pointer(snd_pcm_ioplug_t *io)
{
    card *c = io->private_data;
    int64_t frames = sounded(c);
    if (c->overrun > 0 && c->begun + frames >= c->overrun) {
        c->overrun = 0;
        return -EPIPE;
    }
    if (c->unplug > 0 && c->begun + frames >= c->unplug) {
        snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED); /* an error would make it XRUN */
    }
    return frames % (snd_pcm_sframes_t)io->buffer_size;
}

static void put_sample(const card *c, unsigned char *to, int64_t frame, int64_t channel)
{
    int32_t value = (int32_t)((7919 * frame + 12345 * channel) & 0xFFFF) - 0x8000;
    uint32_t wide = (uint32_t)value << 16 | 0x5A5AU;
    int16_t narrow = (int16_t)value;
    uint32_t low = (uint32_t)value << 8 | 0x7FU; /* the byte above is not part of the sample */
    float real = (float)value / 32768.0F;
    switch (c->format) {
    case SND_PCM_FORMAT_S16: memcpy(to, &narrow, 2); break;
    case SND_PCM_FORMAT_S32: memcpy(to, &wide, 4); break;
    case SND_PCM_FORMAT_S24: memcpy(to, &low, 4); break;
    case SND_PCM_FORMAT_S24_3LE: memcpy(to, &low, 3); break;
    case SND_PCM_FORMAT_FLOAT: memcpy(to, &real, 4); break;
    default: *to = (unsigned char)((value >> 8) + 128); break;
    }
}

static snd_pcm_sframes_t card_transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas,
                                       snd_pcm_uframes_t offset, snd_pcm_uframes_t size)
{
    card *c = io->private_data;
    for (snd_pcm_uframes_t i = 0; i < size; i++) {
        for (unsigned channel = 0; channel < io->channels; channel++) {
            const snd_pcm_channel_area_t *area = &areas[channel];
            unsigned char *to = area->addr;
            put_sample(c, to + (area->first + (offset + i) * area->step) / 8, c->position, channel);
        }
        c->position++;
    }
    return (snd_pcm_sframes_t)size;
}

static int card_close(snd_pcm_ioplug_t *io)
{
    close(io->poll_fd);
    free(io->private_data);
    return 0;
}

static int card_revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned count,
                        unsigned short *revents)
{
    (void)count;
    uint64_t ticks;
    if (read(io->poll_fd, &ticks, sizeof ticks) < 0) {
        ticks = 0;
    }
    *revents = (unsigned short)fds->revents;
    return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {.start = card_start,
                                                    .stop = card_stop,
                                                    .pointer = card_pointer,
                                                    .transfer = card_transfer,
                                                    .close = card_close,
                                                    .poll_revents = card_revents};

static int constrain(card *c)
{
    const unsigned access = SND_PCM_ACCESS_RW_INTERLEAVED;
    const unsigned format = (unsigned)c->format;
    const unsigned channels = (unsigned)c->channels;
    const unsigned rate = (unsigned)c->rate;
    int status = snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_ACCESS, 1, &access);
    if (status >= 0) {
        status = snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_FORMAT, 1, &format);
    }
    if (status >= 0) {
        status = snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_CHANNELS, 1, &channels);
    }
    if (status >= 0) {
        status = snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_RATE, 1, &rate);
    }
    return status;
}

static void read_config(card *c, snd_config_t *config)
{
    snd_config_iterator_t i;
    snd_config_iterator_t next;
    snd_config_for_each(i, next, config)
    {
        snd_config_t *entry = snd_config_iterator_entry(i);
        const char *id;
        const char *text;
        long number;
        if (snd_config_get_id(entry, &id) < 0) {
            continue;
        }
        if (strcmp(id, "format") == 0 && snd_config_get_string(entry, &text) >= 0) {
            c->format = snd_pcm_format_value(text);
        } else if (snd_config_get_integer(entry, &number) >= 0) {
            long *field = strcmp(id, "channels") == 0  ? &c->channels
                          : strcmp(id, "rate") == 0    ? &c->rate
                          : strcmp(id, "overrun") == 0 ? &c->overrun
                                                       : &c->unplug;
            *field = number;
        }
    }
}

int _snd_pcm_fake_open(snd_pcm_t **pcm, const char *name, snd_config_t *root, snd_config_t *config,
                       snd_pcm_stream_t stream, int mode);
int _snd_pcm_fake_open(snd_pcm_t **pcm, const char *name, snd_config_t *root, snd_config_t *config,
                       snd_pcm_stream_t stream, int mode)
{
    (void)root;
    card *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return -ENOMEM;
    }
    *c = (card){.format = SND_PCM_FORMAT_S16, .channels = 2, .rate = 48000};
    read_config(c, config);
    c->io.version = SND_PCM_IOPLUG_VERSION;
    c->io.name = "fake card";
    c->io.callback = &callbacks;
    c->io.private_data = c;
    c->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    c->io.poll_events = POLLIN;
    int status = snd_pcm_ioplug_create(&c->io, name, stream, mode);
    if (status < 0) {
        card_close(&c->io);
        return status;
    }
    status = constrain(c);
    if (status < 0) {
        snd_pcm_ioplug_delete(&c->io);
        return status;
    }
    *pcm = c->io.pcm;
    return 0;
}

/* By this symbol ALSA knows for which of its versions the plug-in was made. */
SND_DLSYM_BUILD_VERSION(SND_PCM_PLUGIN_ENTRY(fake), SND_PCM_DLSYM_VERSION)
