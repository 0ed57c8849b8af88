/* SPDX-License-Identifier: MIT */
#include "audio/container.h"

#include <string.h>

#include "base/fail.h"

struct magic {
    size_t offset;
    const char *bytes;
    size_t size;
    const char *looks_like;
    int status;
};

#define AUDIO SER_ERR_UNSUPPORTED
#define ALIEN SER_ERR_FORMAT
#define AT(offset, text, what, status)                                                             \
    {                                                                                              \
        offset, text, sizeof text - 1, what, status                                                \
    }

/* Only for the message: which mistake was made, and whether a converter would help. */
static const struct magic other_magics[] = {
    AT(4, "ftyp", "an MP4, M4A or AAC file", AUDIO),
    AT(0, "\x1A\x45\xDF\xA3", "a Matroska or WebM file", AUDIO),
    AT(0, "\x30\x26\xB2\x75\x8E\x66\xCF\x11", "a WMA or ASF file", AUDIO),
    AT(0, "#!AMR", "an AMR file", AUDIO),
    AT(0, "\xFF\xF1", "an AAC stream", AUDIO),
    AT(0, "\xFF\xF9", "an AAC stream", AUDIO),
    AT(0, "MAC ", "a Monkey's Audio file", AUDIO),
    AT(0, "wvpk", "a WavPack file", AUDIO),
    AT(0, "NIST_1A", "a NIST SPHERE file", AUDIO),
    AT(0, "MATLAB 5.0", "a MATLAB file", AUDIO),
    AT(0, "Creative Voice File", "a Creative VOC file", AUDIO),
    AT(0, "\x64\xA3", "an IRCAM file", AUDIO),
    AT(2, "\xA3\x64", "an IRCAM file", AUDIO),
    AT(0, "PVF1", "a PVF file", AUDIO),
    AT(0, "2BIT", "an AVR file", AUDIO),
    AT(0, " paf", "an Ensoniq PARIS file", AUDIO),
    AT(0, "fap ", "an Ensoniq PARIS file", AUDIO),
    AT(0, "\xF0\x7E", "a MIDI sample dump", AUDIO),
    AT(0, "MThd", "a MIDI file", ALIEN),
    AT(28, "alac", "a CAF file with ALAC", AUDIO),
    AT(8, "8SVX", "an Amiga SVX file", AUDIO),
    AT(8, "16SV", "an Amiga SVX file", AUDIO),
    AT(8, "AVI ", "an AVI video", AUDIO),
    AT(8, "WEBP", "a WebP image", ALIEN),
    AT(0, "\xFF\xD8\xFF", "a JPEG image", ALIEN),
    AT(0, "\x89PNG", "a PNG image", ALIEN),
    AT(0, "GIF8", "a GIF image", ALIEN),
    AT(0, "%PDF", "a PDF document", ALIEN),
    AT(0, "PK\x03\x04", "a ZIP archive", ALIEN),
    AT(0, "\x1F\x8B", "a gzip file", ALIEN),
    AT(0, "\x28\xB5\x2F\xFD", "a Zstandard file", ALIEN),
    AT(0, "\xFD\x37zXZ", "an xz file", ALIEN),
    AT(0, "\x7F\x45LF", "a program", ALIEN),
    AT(0, "<!DOCTYPE", "an HTML page", ALIEN),
    AT(0, "<!doctype", "an HTML page", ALIEN),
    AT(0, "<html", "an HTML page", ALIEN),
    AT(0, "<?xml", "an XML document", ALIEN),
};

static bool has(const unsigned char *head, size_t size, size_t offset, const char *bytes,
                size_t count)
{
    return size >= offset + count && memcmp(head + offset, bytes, count) == 0;
}

#define HAS(offset, text) has(head, size, offset, text, sizeof text - 1)

/* ISO 11172-3, 2.4.1.3: eleven sync bits, then no reserved value in version, layer, bit rate or
 * sampling rate. Layer 0 would be AAC's ADTS header. */
static bool is_mpeg(const unsigned char *head, size_t size)
{
    return size >= 4 && head[0] == 0xFF && (head[1] & 0xE0U) == 0xE0U &&
           (head[1] & 0x18U) != 0x08U && (head[1] & 0x06U) != 0 && (head[2] & 0xF0U) != 0xF0U &&
           (head[2] & 0x0CU) != 0x0CU;
}

enum ser_container ser_container_detect(const unsigned char *head, size_t size)
{
    if ((HAS(0, "RIFF") || HAS(0, "RIFX")) && HAS(8, "WAVE")) {
        return SER_CONTAINER_WAVE;
    }
    if (HAS(0, "RF64") && HAS(8, "WAVE")) {
        return SER_CONTAINER_RF64;
    }
    if (HAS(0, "riff\x2E\x91\xCF\x11\xA5\xD6\x28\xDB\x04\xC1\x00\x00")) {
        return SER_CONTAINER_W64;
    }
    if (HAS(0, "FORM") && (HAS(8, "AIFF") || HAS(8, "AIFC"))) {
        return SER_CONTAINER_AIFF;
    }
    /* libsndfile prints when it opens a damaged ALAC file, and asserts in its decoder. */
    if (HAS(0, "caff") && !HAS(28, "alac")) {
        return SER_CONTAINER_CAF;
    }
    if (HAS(0, ".snd") || HAS(0, "dns.")) {
        return SER_CONTAINER_AU;
    }
    if (HAS(0, "fLaC")) {
        return SER_CONTAINER_FLAC;
    }
    if (HAS(0, "OggS")) {
        return SER_CONTAINER_OGG;
    }
    if (HAS(0, "ID3")) {
        return SER_CONTAINER_ID3;
    }
    return is_mpeg(head, size) ? SER_CONTAINER_MPEG : SER_CONTAINER_OTHER;
}

static bool is_text(const unsigned char *head, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool space = head[i] >= 8 && head[i] <= 13;
        if ((head[i] < 32 && !space) || head[i] == 127) {
            return false;
        }
    }
    return true;
}

int ser_container_check(const char *name, const unsigned char *head, size_t size)
{
    if (size == 0) {
        return ser_fail(SER_ERR_DATA, "%s: no audio: the file is empty", name);
    }
    if (ser_container_detect(head, size) != SER_CONTAINER_OTHER) {
        return 0;
    }
    size = size < SER_CONTAINER_HEAD ? size : SER_CONTAINER_HEAD;
    const char *looks_like = is_text(head, size) ? "text" : "unknown binary data";
    int status = SER_ERR_FORMAT;
    for (size_t i = 0; i < sizeof other_magics / sizeof other_magics[0]; i++) {
        const struct magic *magic = &other_magics[i];
        if (has(head, size, magic->offset, magic->bytes, magic->size)) {
            looks_like = magic->looks_like;
            status = magic->status;
            break;
        }
    }
    return ser_fail(status, "%s: not a supported audio file (looks like %s)%s", name, looks_like,
                    status == SER_ERR_UNSUPPORTED ? "; convert it to WAV or FLAC" : "");
}
