/* SPDX-License-Identifier: MIT */
#include "profiles.h"

#include <stdio.h>

/* What a compute capability fixes: threads and blocks of a multiprocessor, shared memory of a block
 * (CUDA C++ Programming Guide, technical specifications per compute capability). */
#define SM_80  2048, 32, 163 * 1024
#define SM_86  1536, 16, 99 * 1024
#define SM_89  1536, 24, 99 * 1024
#define SM_90  2048, 32, 227 * 1024
#define SM_100 2048, 32, 227 * 1024
#define SM_120 1536, 24, 99 * 1024

const card_profile card_profiles[] = {
    {"A100", 800, 108, SM_80, 1410, 1215, 40, 40},
    {"RTX 3090", 860, 82, SM_86, 1695, 9751, 24, 6},
    {"A10", 860, 72, SM_86, 1695, 6251, 24, 6},
    {"L4", 890, 58, SM_89, 2040, 6251, 24, 48},
    {"RTX 4090", 890, 128, SM_89, 2520, 10501, 24, 72},
    {"H100", 900, 132, SM_90, 1980, 2619, 80, 50},
    {"H200", 900, 132, SM_90, 1980, 3125, 141, 50},
    {"B200", 1000, 148, SM_100, 1965, 3906, 180, 126},
    {"RTX 5090", 1200, 170, SM_120, 2407, 14001, 32, 96},
};
const size_t card_profile_count = sizeof card_profiles / sizeof *card_profiles;

size_t card_profile_json(const card_profile *card, char *text, size_t size)
{
    const int length = snprintf(
        text, size,
        "{\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"totalGlobalMem\":%lld,"
        "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
        "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"warpSize\":32,"
        "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
        "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":%d,"
        "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
        "\"supportCoopLaunch\":1,\"smClockRateKHz\":%d,\"memClockRateKHz\":%d,"
        "\"l2CacheSize\":%lld,\"deviceName\":\"NVIDIA %s\"}",
        card->version, card->memory * 1000000000LL, card->multiprocessors, card->shared,
        card->blocks, card->threads, card->clock * 1000, card->memory_clock * 1000,
        (long long)(card->l2 * 1048576.0), card->name);
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}
