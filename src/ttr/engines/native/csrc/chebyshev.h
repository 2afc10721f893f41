/* Ridge regression by a polynomial of the second moments H_t at every token:
 *
 *     y_t = U_t^T (mix_t x_t + (1 - mix_t) q_t),      x_t = (2 / f_t) sum_k c_k T_k(S_t) q_t,
 *     S_t = 1 - 2 H_t / f_t,      f_t = ||H_t||_F,      k = 0 .. terms - 1,
 *
 * with the Chebyshev polynomials T_k, in chunks: U_t = a_t U_0 + sum_{i <= t} W_ti k_i v_i^T, and H_t
 * likewise. x is computed by Clenshaw's recurrence in the form of Reinsch (Stoer and Bulirsch, Introduction to
 * numerical analysis, section 2.3.2). With the scaled moments G = 4 H / f,
 *
 *     d_k = d_{k+1} + c_k q - G b_{k+1},      b_k = b_{k+1} + d_k,      x = (2 / f) (c_0 q + d_1 - G b_1 / 2),
 *
 * which keeps the digits of small eigenvalues: 2 S b is never formed. */
#ifndef TTR_CHEBYSHEV_H
#define TTR_CHEBYSHEV_H

#include <math.h>

#include "moments.h"

/* Tensors of tokens are [B, T, H, .], those of chunks [N, B H, ..], all contiguous; N = ceil(T / C). The last
 * chunk's factors are those of pairs that write nothing. */
struct polynomial {
    int64_t batch, heads, time, chunk, features, values, terms, threads;
    const double *coefficients;
    const real *query, *key, *value, *mix; /* mix [B, T, H] */
    const real *weights, *decay, *to_end;  /* W [.., C, C], a [.., C], and e [.., C]: the weights of the chunk's
                                              pairs in the memory after it */
    const real *gram, *memory;             /* H [B, H, F, F] and U [B, H, F, V] before the call */
    real *y, *end_gram, *end_memory;
    real *states; /* [N, B H, F, F + V], H and U before each chunk; NULL where nobody will differentiate */
    const real *grad_y, *grad_end_gram, *grad_end_memory;
    real *grad_query, *grad_key, *grad_value, *grad_mix, *grad_weights, *grad_decay, *grad_to_end, *grad_gram,
        *grad_memory;
};

/* One chunk of one head; C', F', V' are sizes padded with zeros. */
typedef struct {
    const struct polynomial *p;
    int64_t tokens, size, wide;            /* C', F', V' */
    int64_t head, number, present;         /* of B H; of the chunk; its tokens */
    chunk c;                               /* its moments are H_0, its weights and decay those of G */
    matrix memory, query, value, weights;  /* U_0 [F', V'], [C', F'], [C', V'], W [C', C'] */
    matrix right, sum, change, image, met; /* q, b_k, d_k, G b_k [C', F']; what `apply` writes */
    matrix read, scores, carried;          /* [C', V'], [C', C'], [C', F'] */
    real *decay, *to_end, *scale;          /* [C'], a, e, 4 / f */
    double *across, *along, squared;       /* k_i^T H_0 k_i, [C', C'] k_i^T H_t k_i; ||H_0||^2 */
} workspace;

static inline double *allocate_doubles(arena *a, int64_t count) {
    return (double *)allocate(a, count * (int64_t)(sizeof(double) / sizeof(real)));
}

static inline workspace allocate_workspace(const struct polynomial *p, arena *a) {
    int64_t tokens = padded(p->chunk), size = padded(p->features), wide = padded(p->values);
    workspace w = {p, tokens, size, wide, .c = allocate_chunk(tokens, size, a)};
    w.memory = allocate_matrix(a, size, wide);
    w.query = allocate_matrix(a, tokens, size);
    w.value = allocate_matrix(a, tokens, wide);
    w.weights = allocate_matrix(a, tokens, tokens);
    w.right = allocate_matrix(a, tokens, size);
    w.sum = allocate_matrix(a, tokens, size);
    w.change = allocate_matrix(a, tokens, size);
    w.image = allocate_matrix(a, tokens, size);
    w.met = allocate_matrix(a, tokens, size + tokens);
    w.read = allocate_matrix(a, tokens, wide);
    w.scores = allocate_matrix(a, tokens, tokens);
    w.carried = allocate_matrix(a, tokens, size);
    w.decay = allocate(a, tokens), w.to_end = allocate(a, tokens), w.scale = allocate(a, tokens);
    w.across = allocate_doubles(a, tokens), w.along = allocate_doubles(a, tokens * tokens);
    return w;
}

/* The chunk's rows of a tensor of tokens with `size` channels begin at this number and are H size apart. */
static inline int64_t at_token(const workspace *w, int64_t t, int64_t size) {
    const struct polynomial *p = w->p;
    int64_t b = w->head / p->heads, h = w->head % p->heads;
    return ((b * p->time + w->number * p->chunk + t) * p->heads + h) * size;
}
static inline int64_t at_chunk(const workspace *w, int64_t size) {
    return (w->number * w->p->batch * w->p->heads + w->head) * size;
}

static inline void load_tokens(const workspace *w, const real *tensor, int64_t size, matrix to) {
    load(w->present, size, tensor + at_token(w, 0, size), w->p->heads * size, w->tokens, padded(size), to);
}

static inline double wide_dot(int64_t size, const real *a, const real *b) {
    double sums[LANES] = {0}, sum = 0;
    for (int64_t j = 0; j < size; j += LANES)
        for (int l = 0; l < LANES; l++) sums[l] += (double)a[j + l] * b[j + l];
    for (int l = 0; l < LANES; l++) sum += sums[l];
    return sum;
}

/* sum_j weights_j scores_j^2 */
static inline double weighted_squares(int64_t size, const real *weights, const real *scores) {
    double sums[LANES] = {0}, sum = 0;
    for (int64_t j = 0; j < size; j += LANES)
        for (int l = 0; l < LANES; l++)
            sums[l] += weights[j + l] * ((double)scores[j + l] * scores[j + l]);
    for (int l = 0; l < LANES; l++) sum += sums[l];
    return sum;
}

/* 4 / f_t for all tokens, without H_t: with s_ij = k_i.k_j,
 *
 *     ||H_t||^2 = a_t^2 ||H_0||^2 + a_t sum_i W_ti k_i^T H_0 k_i + sum_i W_ti k_i^T H_t k_i,
 *     k_i^T H_t k_i = a_t k_i^T H_0 k_i + sum_j W_tj s_ij^2,
 *
 * of which no term is negative. In double, since squares leave the range of float early. Leaves s in `scores`
 * and the rows H_0 k_i in `met`. */
static void write_scales(workspace *w) {
    int64_t tokens = w->tokens, size = w->size, chunk = w->p->chunk;
    product(tokens, size + tokens, size, w->c.keys, w->c.moments, w->met, SET);
    w->squared = 0;
    for (int64_t i = 0; i < size; i++)
        w->squared += wide_dot(size, row(w->c.moments, i), row(w->c.moments, i));
    for (int64_t i = 0; i < tokens; i++) {
        w->across[i] = wide_dot(size, row(w->met, i), row(w->c.keys, i));
        memcpy(row(w->scores, i), row(w->met, i) + size, (size_t)tokens * sizeof(real));
    }
    for (int64_t t = 0; t < tokens; t++) {
        const real *weights = row(w->weights, t);
        double decay = w->decay[t], all = decay * decay * w->squared;
        for (int64_t i = 0, seen = t / LANES * LANES + LANES; i <= t; i++) {
            double along = decay * w->across[i] + weighted_squares(seen, weights, row(w->scores, i));
            w->along[t * tokens + i] = along;
            all += weights[i] * (decay * w->across[i] + along);
        }
        double scale = t < chunk ? 4 / (all > 0 ? sqrt(all) : 1) : 0;
        w->scale[t] = (real)scale;
        w->c.decay[t] = (real)(scale * decay);
        for (int64_t i = 0; i < tokens; i++) row(w->c.weights, t)[i] = (real)(scale * weights[i]);
    }
}

/* Loads a chunk, but for its U_0 and H_0. */
static inline void load_chunk(workspace *w, int64_t number) {
    const struct polynomial *p = w->p;
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

/* b_k and d_k for the first k, the degree of the polynomial. */
static inline void begin(const workspace *w, real coefficient) {
    for (int64_t j = 0; j < w->tokens * w->size; j += LANES)
        *(vec *)(w->sum.data + j) = *(vec *)(w->change.data + j) =
            coefficient * *(const vec *)(w->right.data + j);
}

/* b_k and d_k from b_{k+1}, d_{k+1} and the image of b_{k+1}; with k = 0, x in the place of d_0. */
static inline void advance(const workspace *w, int64_t k, real coefficient) {
    real share = k ? 1 : (real)0.5;
    for (int64_t j = 0; j < w->tokens * w->size; j += LANES) {
        vec change = *(const vec *)(w->change.data + j) + coefficient * *(const vec *)(w->right.data + j) -
                     share * *(const vec *)(w->image.data + j);
        *(vec *)(w->change.data + j) = change;
        *(vec *)(w->sum.data + j) += change;
    }
}

/* m_t becomes 2 m_t / f_t for all tokens. */
static inline void divide(const workspace *w, matrix m) {
    for (int64_t t = 0; t < w->tokens; t++)
        for (int64_t j = 0; j < w->size; j += LANES) *(vec *)(row(m, t) + j) *= w->scale[t] / 2;
}

/* The weight of x_t beside q_t. */
static inline real mix_at(const workspace *w, int64_t t) {
    return t < w->present ? w->p->mix[at_token(w, t, 1)] : 0;
}

/* out = mix x + (1 - mix) q for all tokens; `out` may be `x`. */
static inline void mix(const workspace *w, matrix x, matrix out) {
    for (int64_t t = 0; t < w->tokens; t++) {
        real share = mix_at(w, t);
        for (int64_t j = 0; j < w->size; j += LANES)
            *(vec *)(row(out, t) + j) =
                share * *(const vec *)(row(x, t) + j) + (1 - share) * *(const vec *)(row(w->query, t) + j);
    }
}

#endif
