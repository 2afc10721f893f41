/* The second moments of all tokens of a chunk,
 *
 *     H_t = a_t H_0 + sum_{i <= t} W_ti k_i k_i^T,
 *
 * which are never formed: one product with each of them is two matrix products for the whole chunk (MesaNet,
 * arXiv 2506.05233, section 3). Everything stays in the first caches of a core. */
#ifndef TTR_MOMENTS_H
#define TTR_MOMENTS_H

#include <string.h>

#include "parallel.h"

/* One chunk, its sizes padded with zeros to C' and F'. */
typedef struct {
    int64_t tokens, size;
    matrix moments; /* [F', F' + C'], [H_0 K^T]: H_0 of the memory before the chunk */
    matrix keys;    /* [C', F'] */
    matrix weights; /* [C', C'], W */
    matrix shares;  /* [C', C'], scratch of a product */
    real *decay;    /* [C'], a */
} chunk;

static inline chunk allocate_chunk(int64_t tokens, int64_t size, arena *a) {
    chunk c = {tokens, size};
    c.moments = allocate_matrix(a, size, size + tokens);
    c.keys = allocate_matrix(a, tokens, size);
    c.weights = allocate_matrix(a, tokens, tokens);
    c.shares = allocate_matrix(a, tokens, tokens);
    c.decay = allocate(a, tokens);
    return c;
}

/* `to` [all, wide] becomes the matrix [rows, columns] at `data`, padded with zeros. */
static inline void load(int64_t rows, int64_t columns, const real *data, int64_t step, int64_t all,
                        int64_t wide, matrix to) {
    for (int64_t i = 0; i < all; i++) {
        int64_t some = i < rows ? columns : 0;
        if (some) memcpy(row(to, i), data + i * step, (size_t)some * sizeof(real));
        for (int64_t j = some; j < wide; j++) row(to, i)[j] = 0;
    }
}

static inline void store(int64_t rows, int64_t columns, matrix m, real *data, int64_t step) {
    for (int64_t i = 0; i < rows; i++) memcpy(data + i * step, row(m, i), (size_t)columns * sizeof(real));
}

/* image_t = H_t x_t for all tokens, x and image [C', F']; `met` [C', F' + C'] becomes [x_t H_0, x_t.k_i]. */
static void apply(const chunk *c, matrix x, matrix met, matrix image) {
    product(c->tokens, c->size + c->tokens, c->size, x, c->moments, met, SET);
    for (int64_t t = 0; t < c->tokens; t++) {
        const real *all = row(met, t);
        for (int64_t j = 0; j < c->size; j += LANES)
            *(vec *)(row(image, t) + j) = c->decay[t] * *(const vec *)(all + j);
        for (int64_t i = 0; i < c->tokens; i += LANES)
            *(vec *)(row(c->shares, t) + i) =
                *(const vec *)(row(c->weights, t) + i) * *(const vec *)(all + c->size + i);
    }
    product(c->tokens, c->size, c->tokens, c->shares, c->keys, image, ADD);
}

#endif
