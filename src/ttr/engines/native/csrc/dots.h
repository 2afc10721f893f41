/* Products of one row with several. */
#ifndef TTR_DOTS_H
#define TTR_DOTS_H

#include "simd.h"

enum { TOGETHER = 4 };

INLINE real horizontal(vec x) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* out[0..count) = the products of a row a[K] with rows b + j step, all contiguous in K */
INLINE void dots(real *out, int64_t o, const real *a, const real *b, int64_t step, int64_t K,
                 const int count) {
    vec sums[TOGETHER] = {{0}};
    real rest[TOGETHER] = {0};
    int64_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        const vec x = *(const uvec *)(a + k);
        for (int j = 0; j < count; j++) sums[j] += x * *(const uvec *)(b + j * step + k);
    }
    for (; k < K; k++)
        for (int j = 0; j < count; j++) rest[j] += a[k] * b[j * step + k];
    for (int j = 0; j < count; j++) out[j * o] = horizontal(sums[j]) + rest[j];
}

#endif
