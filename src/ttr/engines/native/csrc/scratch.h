/* An arena: scratch memory of one thread, allocated piece by piece; with base NULL the pieces are only
 * counted. */
#ifndef TTR_SCRATCH_H
#define TTR_SCRATCH_H

#include "matrix.h"

typedef struct {
    real *base;
    int64_t used;
} arena;

static inline real *allocate(arena *a, int64_t size) {
    real *piece = a->base ? a->base + a->used : NULL;
    a->used += padded(size);
    return piece;
}

static inline matrix allocate_matrix(arena *a, int64_t rows, int64_t columns) {
    matrix m = {allocate(a, rows * columns), columns};
    return m;
}

#endif
