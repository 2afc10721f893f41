/* Cumulative decays, each as a power of two times a factor near 1.
 *
 * Let b_i be the cumulative log decay in a chunk, inclusive, summed in double precision. Then
 *
 *     e^{b_i} = up_i 2^{n_i},     e^{-b_j} = down_j 2^{-n_j},
 *     n_i the integer nearest to b_i / log 2,     up, down in [0.7, 1.5],
 *
 * and e^{b_i - b_j} = up_i down_j 2^{n_i - n_j} needs no exponential of its own, cannot overflow where b_i <=
 * b_j, and is correct to the last places however large b is. Factors 2^{n_i - m} and 2^{m - n_j} for any
 * integer m have exact products, so the choice of the reference m, which depends on later tokens of the
 * chunk, changes no bit of a result (law 3: causal to the last bit).
 *
 * Row 0 of `up`, `down` and `power` stands for b = 0 before the chunk, row i + 1 for token i. */
#ifndef TTR_DECAY_H
#define TTR_DECAY_H

#include "recurrence.h"

enum { MANTISSA = sizeof(real) == 4 ? 23 : 52, BIAS = sizeof(real) == 4 ? 127 : 1023 };
/* The range of exponents for which one reference in the middle serves the whole chunk: factors stay within
 * 2^+-43, e^+-30. */
enum { WIDEST = 86 };

/* 2^n for n <= BIAS; 0 where it is below the normal numbers */
static inline real power_of_two(integer n) {
    union {
        integer bits;
        real value;
    } power = {(integer)((n > -BIAS ? n + BIAS : 0) << MANTISSA)};
    return power.value;
}

/* up, down and power of `size` cumulative log decays: e^{+-y} = cosh y +- sinh y by their series, |y| <=
 * log(2) / 2. */
static inline void split_exponential(int64_t size, const double *restrict total, real *restrict up,
                                     real *restrict down, integer *restrict power) {
    static const real even[] = {1,          1 / 2.,       1 / 24.,        1 / 720.,
                                1 / 40320., 1 / 3628800., 1 / 479001600., 1 / 87178291200.};
    static const real odd[] = {1,           1 / 6.,        1 / 120.,        1 / 5040.,
                               1 / 362880., 1 / 39916800., 1 / 6227020800., 1 / 1307674368000.};
    enum { TERMS = sizeof(real) == 4 ? 4 : 8 }; /* the next term is below the rounding */
    const double log2 = 0.693147180559945309417,
                 nearest = 6755399441055744.0; /* 1.5 2^52: adding it rounds to an integer */
    for (int64_t j = 0; j < size; j++) {
        double n = (total[j] / log2 + nearest) - nearest;
        real y = (real)(total[j] - n * log2), square = y * y, cosine = even[TERMS - 1], sine = odd[TERMS - 1];
#pragma GCC unroll 8
        for (int k = TERMS - 2; k >= 0; k--)
            cosine = cosine * square + even[k], sine = sine * square + odd[k];
        up[j] = cosine + y * sine;
        down[j] = cosine - y * sine;
        power[j] = (integer)n;
    }
}

static inline integer *power_row(const chunk *c, int64_t i) { return c->power + i * c->up.stride; }

/* The offset of the row of `up` by which a lookup of token i is multiplied: 1 for the token's own decay, 0
 * where the lookup reads the memory before that decay. */
static inline int64_t shift(const recurrence *r, int64_t reads) {
    return (reads ? r->old : r->reads_first) ? 0 : 1;
}
/* How many keys of its chunk a lookup of token i sees. */
static inline int64_t visible(const recurrence *r, int64_t reads, int64_t i) {
    return i + (reads || r->reads_first ? 0 : 1);
}
static inline int64_t is_read(const recurrence *r, int64_t group) { return group == 0 && r->read.data; }

/* Choose one reference for all exponents of the chunk, if their range allows it, and multiply `up` and `down`
 * by the powers of two relative to it. */
static inline void centre_exponents(chunk *c, int64_t first) {
    const integer *top = power_row(c, first), *bottom = power_row(c, c->size);
    integer range = 0;
    for (int64_t j = 0; j < c->keys; j++) range = top[j] - bottom[j] > range ? top[j] - bottom[j] : range;
    c->whole = range <= WIDEST;
    if (!c->whole) return;
    integer *restrict centre = c->centre;
    for (int64_t j = 0; j < c->keys; j++) centre[j] = bottom[j] + (top[j] - bottom[j]) / 2;
    for (int64_t i = first; i <= c->size; i++) {
        real *restrict up = row(c->up, i), *restrict down = row(c->down, i);
        const integer *restrict power = power_row(c, i);
        for (int64_t j = 0; j < c->keys; j++) {
            up[j] *= power_of_two(power[j] - centre[j]);
            down[j] *= power_of_two(centre[j] - power[j]);
        }
    }
}

/* up, down, power and memory_decay of the chunk. */
static inline void load_decay(chunk *c) {
    const recurrence *r = c->r;
    int64_t channels = r->decay == CHANNEL_DECAY ? c->keys : 1,
            size = r->decay == CHANNEL_DECAY ? r->key_size : 1;
    c->whole = 0;
    if (r->decay == NO_DECAY)
        for (int64_t f = 0; f < c->keys; f++) c->memory_decay[f] = 1;
    if (r->decay == NO_DECAY) return;
    for (int64_t j = 0; j < channels; j++)
        c->total[j] = 0, row(c->up, 0)[j] = row(c->down, 0)[j] = 1, c->power[j] = 0;
    for (int64_t i = 0; i < c->size; i++) {
        if (i < c->tokens) {
            const real *restrict log = at(r->log_decay, c->batch, c->start + i, c->head);
            double *restrict total = c->total;
            for (int64_t j = 0; j < size; j++) total[j] += log[j];
        }
        split_exponential(channels, c->total, row(c->up, i + 1), row(c->down, i + 1), power_row(c, i + 1));
    }
    const real *up = row(c->up, c->size);
    const integer *power = power_row(c, c->size);
    for (int64_t j = 0; j < c->keys; j++)
        c->memory_decay[j] = channels > 1 ? up[j] * power_of_two(power[j]) : up[0] * power_of_two(power[0]);
    if (channels > 1) centre_exponents(c, r->reads_first || r->old ? 0 : 1);
}

/* Scale a lookup, decayed by row lambda, to read the memory that enters the chunk, and a key to be written to
 * the one that leaves. Both work in place if out is in. */
static inline void scale_lookup(const chunk *c, int64_t lambda, const real *in, real *out) {
    const integer *power = c->whole ? c->centre : power_row(c, lambda);
    real left = row(c->up, lambda)[0] * power_of_two(power[0]);
    if (c->r->decay == HEAD_DECAY)
#pragma GCC ivdep
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * left;
    else
#pragma GCC ivdep
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * power_of_two(power[f]);
}

static inline void scale_key(const chunk *c, int64_t token, const real *in, real *out) {
    const real *up = row(c->up, c->size);
    const integer *last = power_row(c, c->size), *power = power_row(c, token + 1);
    real left = up[0] * row(c->down, token + 1)[0] * power_of_two(last[0] - power[0]);
    if (c->r->decay == HEAD_DECAY)
#pragma GCC ivdep
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * left;
    else if (c->whole)
#pragma GCC ivdep
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * up[f];
    else
#pragma GCC ivdep
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * up[f] * power_of_two(last[f] - power[f]);
}

static inline void multiply(int64_t size, const real *restrict by, real *restrict x) {
    for (int64_t j = 0; j < size; j++) x[j] *= by[j];
}

/* Keys of every set, scaled for the scores and for writing to the memory. */
static inline void load_keys(chunk *c) {
    const recurrence *r = c->r;
    for (int64_t s = 0; s < sets(r); s++) {
        load(c, s ? r->erase : r->key, r->key_size, (tensor){0}, c->key[s], c->keys);
        if (r->decay == NO_DECAY) continue;
        for (int64_t i = 0; i < c->size; i++) {
            if (r->decay == CHANNEL_DECAY) multiply(c->keys, row(c->down, i + 1), row(c->key[s], i));
            scale_key(c, i, row(c->key[s], i), row(c->key_to_memory[s], i));
        }
    }
}

/* Reads (times the step) and queries, scaled for the scores and for reading the memory. */
static inline void load_lookups(chunk *c) {
    const recurrence *r = c->r;
    for (int64_t g = 0; g < groups(r); g++) {
        int64_t reads = is_read(r, g);
        matrix lookup = from(c->lookup, g * c->size, 0),
               lookup_to_memory = from(c->lookup_to_memory, g * c->size, 0);
        load(c, reads ? r->read : r->query, r->key_size, reads ? r->step : r->scale, lookup, c->keys);
        if (r->decay == NO_DECAY) continue;
        for (int64_t i = 0; i < c->size; i++) {
            int64_t lambda = i + shift(r, reads);
            if (r->decay == CHANNEL_DECAY) multiply(c->keys, row(c->up, lambda), row(lookup, i));
            scale_lookup(c, lambda, row(lookup, i), row(lookup_to_memory, i));
        }
    }
}

#endif
