/* SPDX-License-Identifier: MIT */
/* Writes zip archives in every state of health, takes good ones apart, and opens them as
 * pytorch_model.bin. */
#ifndef SER_TESTS_ZIPPER_H
#define SER_TESTS_ZIPPER_H

#include "builder.h"
#include "model/safetensors.h"

/* A record; everything but name, data and size is a fault. */
typedef struct zip_part {
    const char *name;
    const void *data;
    size_t size;
    unsigned method; /* 8: deflated, so it claims */
    unsigned flags;  /* 1: encrypted */
    uint32_t crc_fault;
    const char *local_name;    /* NULL: the same */
    uint32_t local_method;     /* differs from `method` by this */
    uint32_t claimed;          /* added to the size that both headers claim */
    uint32_t claimed_local;    /* and to that of the local one alone */
    int32_t place_fault;       /* added to the place that the directory gives */
    const struct zip_part *at; /* lies where that one lies: no bytes of its own */
} zip_part;

blob zip_write(const zip_part *list, size_t count);

uint32_t zip_crc(const void *data, size_t size);

enum { ZIP_END = 22 };

/* Numbers of a file, little-endian. */
void put_number(unsigned char *to, uint64_t value, size_t width);
uint64_t get_number(const unsigned char *from, size_t width);

/* A file of tests/golden/torch_bin. */
blob golden_blob(const char *name);

/* The records of a good archive, pointing into it; their number. */
size_t zip_take_apart(const blob *archive, zip_part *list, char (*names)[64], size_t limit);

/* Open an archive in memory; a failure must leave nothing allocated. */
int torch_open(const blob *b, ser_safetensors *tensors);

/* Open and close it, and free the blob. */
int torch_status(blob b);

#endif
