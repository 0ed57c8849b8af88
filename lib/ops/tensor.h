/* SPDX-License-Identifier: MIT */
/* A view of a dense row-major matrix on a device, and the rows of it that are speech. */
#ifndef SER_OPS_TENSOR_H
#define SER_OPS_TENSOR_H

#include <stdint.h>

enum { SER_F32 = 0, SER_BF16 = 1 };

/* [rows, cols], cols contiguous. A vector is one row. data NULL means "absent" where an op allows
 * it. */
typedef struct ser_tensor {
    void *data; /* device memory */
    int64_t rows;
    int64_t cols;
    int32_t type; /* SER_F32 or SER_BF16 */
} ser_tensor;

/* Which rows of a [batch * padded, C] matrix are real: clip b owns rows b * padded up to, not
 * including, b * padded + valid[b]; the rest of its `padded` rows is padding. */
typedef struct ser_rows {
    int64_t batch;
    int64_t padded;
    const int32_t *valid; /* [batch], device memory */
} ser_rows;

static inline ser_tensor ser_tensor_f32(void *data, int64_t rows, int64_t cols)
{
    const ser_tensor tensor = {data, rows, cols, SER_F32}; /* C++ includes this too */
    return tensor;
}

#endif
