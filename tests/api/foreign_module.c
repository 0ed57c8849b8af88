/* SPDX-License-Identifier: MIT */
/* What is not the module that libser looks for: of another release, or with SER_STRANGER something
 * else altogether. */
#include <stddef.h>
#include <stdint.h>

#ifdef SER_STRANGER
int stranger(void);
int stranger(void)
{
    return 1;
}
#else
extern const uint32_t ser_module_version;
const uint32_t ser_module_version = 1;

const void *ser_module_open(const void *host);
const void *ser_module_open(const void *host)
{
    (void)host;
    return NULL;
}
#endif
