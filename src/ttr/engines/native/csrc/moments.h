/* Regressions on the second moments of all tokens, in chunks:
 *
 *     y_t = U_t^T z_t,      U_t = a_t U_0 + sum_{i <= t} W_ti k_i v_i^T,
 *     H_t = a_t H_0 + sum_{i <= t} W_ti k_i k_i^T,
 *
 * with the moments H_0, U_0 before the chunk, and z_t computed from H_t and the query. No H_t is formed: one
 * product with each of them is two matrix products for the whole chunk (MesaNet, arXiv 2506.05233, section
 * 3). A chunk, at most BLOCK tokens, stays in the first caches of a core. */
#ifndef TTR_MOMENTS_H
#define TTR_MOMENTS_H

#include <math.h>
#include <string.h>

#include "parallel.h"

/* Tensors of tokens are [B, T, H, .], those of chunks [N, B H, ..], all contiguous; N = ceil(T / C). The last
 * chunk's factors are those of pairs that write nothing. */
struct regression {
    int64_t batch, heads, time, chunk, features, values, threads;
    const real *query, *key, *value;
    const real *weights, *decay, *to_end; /* W [.., C, C], a [.., C], and e [.., C]: the weights of the
                                             chunk's pairs in the memory after it */
    const real *gram, *memory;            /* H [B, H, F, F] and U [B, H, F, V] before the call */
    real *y, *end_gram, *end_memory;
    real *states; /* [N, B H, F, F + V], H and U before each chunk; NULL where nobody will differentiate */
    const real *grad_y, *grad_end_gram, *grad_end_memory;
    real *grad_query, *grad_key, *grad_value, *grad_weights, *grad_decay, *grad_to_end, *grad_gram,
        *grad_memory;
};

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

/* One chunk of one head. */
typedef struct {
    const struct regression *p;
    int64_t tokens, size, wide;           /* C', F', V' */
    int64_t head, number, present;        /* of B H; of the chunk; its tokens */
    chunk c;                              /* its moments are H_0; its weights and decay may be scaled */
    matrix memory, query, value, weights; /* U_0 [F', V'], [C', F'], [C', V'], W [C', C'] */
    matrix image, met;                    /* [C', F'], [C', F' + C']: what `apply` writes */
    matrix read, scores, carried;         /* [C', V'], [C', C'], [C', F'] */
    real *decay, *to_end;                 /* [C'], a, e */
    real *scale;                          /* [C'], by which those of `c` are multiplied */
} workspace;

static inline workspace allocate_workspace(const struct regression *p, arena *a) {
    int64_t tokens = padded(p->chunk), size = padded(p->features), wide = padded(p->values);
    workspace w = {p, tokens, size, wide, .c = allocate_chunk(tokens, size, a)};
    w.memory = allocate_matrix(a, size, wide);
    w.query = allocate_matrix(a, tokens, size);
    w.value = allocate_matrix(a, tokens, wide);
    w.weights = allocate_matrix(a, tokens, tokens);
    w.image = allocate_matrix(a, tokens, size);
    w.met = allocate_matrix(a, tokens, size + tokens);
    w.read = allocate_matrix(a, tokens, wide);
    w.scores = allocate_matrix(a, tokens, tokens);
    w.carried = allocate_matrix(a, tokens, size);
    w.decay = allocate(a, tokens), w.to_end = allocate(a, tokens), w.scale = allocate(a, tokens);
    return w;
}

/* The chunk's rows of a tensor of tokens with `size` channels begin at this number and are H size apart. */
static inline int64_t at_token(const workspace *w, int64_t t, int64_t size) {
    const struct regression *p = w->p;
    int64_t b = w->head / p->heads, h = w->head % p->heads;
    return ((b * p->time + w->number * p->chunk + t) * p->heads + h) * size;
}
static inline int64_t at_chunk(const workspace *w, int64_t size) {
    return (w->number * w->p->batch * w->p->heads + w->head) * size;
}

static inline void load_tokens(const workspace *w, const real *tensor, int64_t size, matrix to) {
    load(w->present, size, tensor + at_token(w, 0, size), w->p->heads * size, w->tokens, padded(size), to);
}

/* Loads a chunk, but for its U_0 and H_0. */
static inline void load_chunk(workspace *w, int64_t number) {
    const struct regression *p = w->p;
    int64_t chunk = p->chunk, left = p->time - number * chunk;
    w->number = number, w->present = left < chunk ? left : chunk;
    load_tokens(w, p->query, p->features, w->query);
    load_tokens(w, p->key, p->features, w->c.keys);
    load_tokens(w, p->value, p->values, w->value);
    transpose(w->tokens, w->size, w->c.keys, from(w->c.moments, 0, w->size));
    load(chunk, chunk, p->weights + at_chunk(w, chunk * chunk), chunk, w->tokens, w->tokens, w->weights);
    load(1, chunk, p->decay + at_chunk(w, chunk), chunk, 1, w->tokens, (matrix){w->decay, w->tokens});
    load(1, chunk, p->to_end + at_chunk(w, chunk), chunk, 1, w->tokens, (matrix){w->to_end, w->tokens});
}

static inline void load_state(workspace *w, const real *gram, int64_t gram_step, const real *memory,
                              int64_t memory_step) {
    int64_t features = w->p->features, values = w->p->values;
    load(features, features, gram, gram_step, w->size, w->size, w->c.moments);
    load(features, values, memory, memory_step, w->size, w->wide, w->memory);
}

/* `apply` multiplies with scale H_t at token t. */
static inline void set_scale(const workspace *w, int64_t t, double scale) {
    w->scale[t] = (real)scale;
    w->c.decay[t] = (real)(scale * w->decay[t]);
    for (int64_t i = 0; i < w->tokens; i++)
        row(w->c.weights, t)[i] = (real)(scale * row(w->weights, t)[i]);
}

/* image_t = H_t x_t for all tokens, x and image [C', F']; `met` [C', F' + C'] becomes [x_t H_0, x_t.k_i]. */
static inline void apply(const chunk *c, matrix x, matrix met, matrix image) {
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

/* y_t = a_t U_0^T z_t + sum_{i <= t} W_ti (z_t.k_i) v_i */
static inline void read_out(const workspace *w, matrix z) {
    const struct regression *p = w->p;
    product(w->tokens, w->wide, w->size, z, w->memory, w->read, SET);
    product(w->tokens, w->tokens, w->size, z, from(w->c.moments, 0, w->size), w->scores, SET);
    for (int64_t t = 0; t < w->tokens; t++) {
        for (int64_t j = 0; j < w->wide; j += LANES) *(vec *)(row(w->read, t) + j) *= w->decay[t];
        for (int64_t i = 0; i < w->tokens; i += LANES)
            *(vec *)(row(w->scores, t) + i) *= *(const vec *)(row(w->weights, t) + i);
    }
    product(w->tokens, w->wide, w->tokens, w->scores, w->value, w->read, ADD);
    store(w->present, p->values, w->read, p->y + at_token(w, 0, p->values), p->heads * p->values);
}

/* H and U after the chunk in the place of those before it */
static inline void write_pairs(const workspace *w) {
    real last = w->decay[w->p->chunk - 1];
    for (int64_t i = 0; i < w->tokens; i++)
        for (int64_t j = 0; j < w->size; j += LANES)
            *(vec *)(row(w->carried, i) + j) = w->to_end[i] * *(const vec *)(row(w->c.keys, i) + j);
    for (int64_t i = 0; i < w->size; i++) {
        for (int64_t j = 0; j < w->size; j += LANES) *(vec *)(row(w->c.moments, i) + j) *= last;
        for (int64_t j = 0; j < w->wide; j += LANES) *(vec *)(row(w->memory, i) + j) *= last;
    }
    transposed_product(w->size, w->size, w->tokens, w->carried, w->c.keys, w->c.moments, ADD);
    transposed_product(w->size, w->wide, w->tokens, w->carried, w->value, w->memory, ADD);
}

static inline void store_state(const workspace *w, real *gram, int64_t gram_step, real *memory,
                        int64_t memory_step) {
    int64_t features = w->p->features, values = w->p->values;
    store(features, features, w->c.moments, gram, gram_step);
    store(features, values, w->memory, memory, memory_step);
}

/* The moments before the first chunk, and after the last. */
static inline void load_first(workspace *w, int64_t head) {
    const struct regression *p = w->p;
    int64_t features = p->features, values = p->values;
    w->head = head;
    load_state(w, p->gram + head * features * features, features, p->memory + head * features * values,
               values);
}
static inline void store_last(const workspace *w) {
    const struct regression *p = w->p;
    int64_t features = p->features, values = p->values;
    store_state(w, p->end_gram + w->head * features * features, features,
                p->end_memory + w->head * features * values, values);
}

/* The moments before a chunk are saved by the forward pass for the backward pass. */
static inline void save_state(const workspace *w) {
    int64_t features = w->p->features, both = features + w->p->values;
    real *state = w->p->states ? w->p->states + at_chunk(w, features * both) : NULL;
    if (state) store_state(w, state, both, state + features, both);
}
static inline void load_saved_state(workspace *w) {
    int64_t features = w->p->features, both = features + w->p->values;
    const real *state = w->p->states + at_chunk(w, features * both);
    load_state(w, state, both, state + features, both);
}

#endif
