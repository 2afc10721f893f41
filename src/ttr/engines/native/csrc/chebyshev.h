/* Ridge regression by a polynomial of the second moments H_t at every token:
 *
 *     y_t = U_t^T (mix_t x_t + (1 - mix_t) q_t),      x_t = (2 / f_t) sum_k c_k T_k(S_t) q_t,
 *     S_t = 1 - 2 H_t / f_t,      f_t = ||H_t||_F,      k = 0 .. terms - 1,
 *
 * with the Chebyshev polynomials T_k. With the scaled moments G = 4 H / f, t_k = T_k(S) q follow from
 * t_{k+1} = 2 S t_k - t_{k-1} in its differences e_k = t_k - t_{k-1}, the form of Reinsch (Stoer and
 * Bulirsch, Introduction to numerical analysis, section 2.3.2, who apply it to Clenshaw's recurrence):
 *
 *     e_1 = -G t_0 / 2,      e_{k+1} = e_k - G t_k,      t_{k+1} = t_k + e_{k+1}.
 *
 * 2 S t, whose rounding errors hide small eigenvalues, is not formed, and no t_k is longer than q. In
 * Clenshaw's recurrence the sums grow with their number, and with them the rounding errors: two to five times
 * as large in float. */
#ifndef TTR_CHEBYSHEV_H
#define TTR_CHEBYSHEV_H

#include <float.h>

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
    matrix solution, change;       /* x, e_k [C', F'] */
    double *across, *along, squared; /* k_i^T H_0 k_i, [C', C'] k_i^T H_t k_i; ||H_0||^2 */
} iteration;

static inline double *allocate_doubles(arena *a, int64_t count) {
    return (double *)allocate(a, count * (int64_t)(sizeof(double) / sizeof(real)));
}

static inline iteration allocate_iteration(const struct polynomial *p, arena *a) {
    iteration s = {p, allocate_workspace(&p->r, a)};
    int64_t tokens = s.w.tokens, size = s.w.size;
    s.solution = allocate_matrix(a, tokens, size);
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

/* ||H||^2 up to here counts as 0, as in solvers/chebyshev.py: entries within the rounding error of the norm,
 * or of this square, are subnormal numbers. */
static const double SMALLEST = sizeof(real) == sizeof(float)
                                   ? (double)(FLT_MIN / FLT_EPSILON) * (FLT_MIN / FLT_EPSILON)
                                   : DBL_MIN / DBL_EPSILON;

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
        set_scale(w, t, t < w->p->chunk ? 4 / (all > SMALLEST ? sqrt(all) : 1) : 0);
    }
}

/* t_0, and its term of the sum for x */
static inline void begin(const iteration *s, matrix power) {
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES) {
        vec query = *(const vec *)(s->w.query.data + j);
        *(vec *)(power.data + j) = query;
        *(vec *)(s->solution.data + j) = (real)s->p->coefficients[0] * query;
    }
}

/* t_{k+1}, which may take the place of t_k, from t_k and its image, and its term */
static inline void advance(const iteration *s, int64_t k, matrix power, matrix next) {
    real coefficient = (real)s->p->coefficients[k + 1];
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES) {
        vec *change = (vec *)(s->change.data + j), image = *(const vec *)(s->w.image.data + j);
        *change = k ? *change - image : (real)-0.5 * image;
        vec found = *(const vec *)(power.data + j) + *change;
        *(vec *)(next.data + j) = found;
        *(vec *)(s->solution.data + j) += coefficient * found;
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
