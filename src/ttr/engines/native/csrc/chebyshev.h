/* Ridge regression by a polynomial of the second moments H_t at every token:
 *
 *     y_t = U_t^T (mix_t x_t + (1 - mix_t) q_t),      x_t = (2 / f_t) sum_k c_k T_k(S_t) q_t,
 *     S_t = 1 - 2 H_t / f_t,      f_t = ||H_t||_F,      k = 0 .. terms - 1,
 *
 * with the Chebyshev polynomials T_k. x is computed by Clenshaw's recurrence in the form of Reinsch (Stoer and Bulirsch, Introduction to
 * numerical analysis, section 2.3.2). With the scaled moments G = 4 H / f,
 *
 *     d_k = d_{k+1} + c_k q - G b_{k+1},      b_k = b_{k+1} + d_k,      x = (2 / f) (c_0 q + d_1 - G b_1 / 2),
 *
 * which keeps the digits of small eigenvalues: 2 S b is never formed. */
#ifndef TTR_CHEBYSHEV_H
#define TTR_CHEBYSHEV_H

#include "moments.h"

struct polynomial {
    struct regression r;
    int64_t terms;
    const double *coefficients;
    const real *mix; /* [B, T, H] */
    real *grad_mix;
};

typedef struct {
    const struct polynomial *p;
    workspace w;                   /* its scale is 4 / f */
    matrix right, sum, change;     /* q, b_k, d_k [C', F'] */
    double *across, *along, squared; /* k_i^T H_0 k_i, [C', C'] k_i^T H_t k_i; ||H_0||^2 */
} iteration;

static inline double *allocate_doubles(arena *a, int64_t count) {
    return (double *)allocate(a, count * (int64_t)(sizeof(double) / sizeof(real)));
}

static inline iteration allocate_iteration(const struct polynomial *p, arena *a) {
    iteration s = {p, allocate_workspace(&p->r, a)};
    int64_t tokens = s.w.tokens, size = s.w.size;
    s.right = allocate_matrix(a, tokens, size);
    s.sum = allocate_matrix(a, tokens, size);
    s.change = allocate_matrix(a, tokens, size);
    s.across = allocate_doubles(a, tokens), s.along = allocate_doubles(a, tokens * tokens);
    return s;
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
static inline void write_scales(iteration *s) {
    const workspace *w = &s->w;
    int64_t tokens = w->tokens, size = w->size;
    product(tokens, size + tokens, size, w->c.keys, w->c.moments, w->met, SET);
    s->squared = 0;
    for (int64_t i = 0; i < size; i++)
        s->squared += wide_dot(size, row(w->c.moments, i), row(w->c.moments, i));
    for (int64_t i = 0; i < tokens; i++) {
        s->across[i] = wide_dot(size, row(w->met, i), row(w->c.keys, i));
        memcpy(row(w->scores, i), row(w->met, i) + size, (size_t)tokens * sizeof(real));
    }
    for (int64_t t = 0; t < tokens; t++) {
        const real *weights = row(w->weights, t);
        double decay = w->decay[t], all = decay * decay * s->squared;
        for (int64_t i = 0, seen = t / LANES * LANES + LANES; i <= t; i++) {
            double along = decay * s->across[i] + weighted_squares(seen, weights, row(w->scores, i));
            s->along[t * tokens + i] = along;
            all += weights[i] * (decay * s->across[i] + along);
        }
        set_scale(w, t, t < w->p->chunk ? 4 / (all > 0 ? sqrt(all) : 1) : 0);
    }
}

/* b_k and d_k for the first k, the degree of the polynomial. */
static inline void begin(const iteration *s, real coefficient) {
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES)
        *(vec *)(s->sum.data + j) = *(vec *)(s->change.data + j) =
            coefficient * *(const vec *)(s->right.data + j);
}

/* b_k and d_k from b_{k+1}, d_{k+1} and the image of b_{k+1}; with k = 0, x in the place of d_0. */
static inline void advance(const iteration *s, int64_t k, real coefficient) {
    real share = k ? 1 : (real)0.5;
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES) {
        vec change = *(const vec *)(s->change.data + j) + coefficient * *(const vec *)(s->right.data + j) -
                     share * *(const vec *)(s->w.image.data + j);
        *(vec *)(s->change.data + j) = change;
        *(vec *)(s->sum.data + j) += change;
    }
}

/* m_t becomes 2 m_t / f_t for all tokens. */
static inline void divide(const iteration *s, matrix m) {
    for (int64_t t = 0; t < s->w.tokens; t++)
        for (int64_t j = 0; j < s->w.size; j += LANES) *(vec *)(row(m, t) + j) *= s->w.scale[t] / 2;
}

/* The weight of x_t beside q_t. */
static inline real mix_at(const iteration *s, int64_t t) {
    return t < s->w.present ? s->p->mix[at_token(&s->w, t, 1)] : 0;
}

/* out = mix x + (1 - mix) q for all tokens; `out` may be `x`. */
static inline void mix(const iteration *s, matrix x, matrix out) {
    for (int64_t t = 0; t < s->w.tokens; t++) {
        real share = mix_at(s, t);
        for (int64_t j = 0; j < s->w.size; j += LANES)
            *(vec *)(row(out, t) + j) =
                share * *(const vec *)(row(x, t) + j) + (1 - share) * *(const vec *)(row(s->w.query, t) + j);
    }
}

#endif
