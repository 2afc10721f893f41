/* Softmax attention of one token: every query reads all pairs of its head,
 *
 *     y = sum_i p_i value_i,   p = softmax(scale query . key_i + log_weight_i)
 *
 * The queries of the heads that share a key read it together. */
#include <math.h>

#include "dots.h"
#include "exponential.h"
#include "parallel.h"

/* A row's last axis is contiguous; strides count entries. ``log_weight`` is NULL where all are 0. */
struct attention {
    int64_t batch, heads, key_heads, pairs, features, values, threads;
    int64_t query_strides[2];                   /* of the batch and a head */
    int64_t key_strides[3], value_strides[3];   /* of the batch, a pair and a head */
    int64_t weight_strides[3];                  /* of the batch, a pair and a head */
    double scale;
    const real *query, *key, *value, *log_weight;
    real *y; /* [B,H,V], contiguous */
};

enum { FAR = -87 }; /* below, e^x is negligible beside 1, in float64 too */

/* e^(x - top), and 0 where that is negligible; the sum of all, which is NaN if any is */
static real normalise(real *x, int64_t n, real top) {
    real sum = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = n - i < LANES ? n - i : LANES;
        vec z = (vec){0} + FAR - 1;
        for (int64_t j = 0; j < left; j++) z[j] = x[i + j] - top;
        vec p = exponential(z);
        p = (vec)((ints)p & ~(ints)(z < (real)FAR));
        for (int64_t j = 0; j < left; j++) x[i + j] = p[j];
        sum += horizontal(p);
    }
    return sum;
}

/* y[0..count LANES) += the rows at ``from``, ``step`` apart, times p */
INLINE void weigh(real *y, const real *from, int64_t step, const real *p, int64_t n, const int count) {
    vec sums[TOGETHER] = {{0}};
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < count; j++) sums[j] += p[i] * *(const uvec *)(from + i * step + j * LANES);
    for (int j = 0; j < count; j++) *(uvec *)(y + j * LANES) = sums[j];
}

static void attend(const void *job, int64_t task, arena scratch, int64_t *needed) {
    const struct attention *c = job;
    const int64_t b = task / c->key_heads, shared = task % c->key_heads, group = c->heads / c->key_heads;
    real *p = allocate(&scratch, c->pairs);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    const int64_t *ks = c->key_strides, *vs = c->value_strides, *ws = c->weight_strides;
    const real *keys = c->key + b * ks[0] + shared * ks[2];
    const real *values = c->value + b * vs[0] + shared * vs[2];
    for (int64_t h = shared * group; h < (shared + 1) * group; h++) {
        const real *query = c->query + b * c->query_strides[0] + h * c->query_strides[1];
        int64_t i = 0;
        for (; i + TOGETHER <= c->pairs; i += TOGETHER)
            dots(p + i, 1, query, keys + i * ks[1], ks[1], c->features, TOGETHER);
        for (; i < c->pairs; i++) dots(p + i, 1, query, keys + i * ks[1], ks[1], c->features, 1);
        real top = -INFINITY;
        for (i = 0; i < c->pairs; i++) {
            p[i] *= (real)c->scale;
            if (c->log_weight) p[i] += c->log_weight[b * ws[0] + i * ws[1] + h * ws[2]];
            top = p[i] > top ? p[i] : top;
        }
        const real share = 1 / normalise(p, c->pairs, top);
        real *y = c->y + (b * c->heads + h) * c->values;
        int64_t v = 0;
        for (; v + TOGETHER * LANES <= c->values; v += TOGETHER * LANES)
            weigh(y + v, values + v, vs[1], p, c->pairs, TOGETHER);
        for (; v + LANES <= c->values; v += LANES) weigh(y + v, values + v, vs[1], p, c->pairs, 1);
        for (; v < c->values; v++) {
            real sum = 0;
            for (i = 0; i < c->pairs; i++) sum += p[i] * values[i * vs[1] + v];
            y[v] = sum;
        }
        for (v = 0; v < c->values; v++) y[v] *= share;
    }
}

/* Returns 0, or -1 if there is no memory for the scratch. */
int TTR_NAME(attend)(const struct attention *call) {
    return run_tasks(call, call->batch * call->key_heads, call->threads, attend);
}
