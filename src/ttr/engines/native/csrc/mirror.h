/* Mirrors: the weights of a matrix are a map of its accumulated gradients A (MIRAS, arXiv 2504.13173).
 *
 *     simplex       W = total softmax(A) over the inputs of every output
 *     power norm    W = A (N + eps)^((2 - q) / q), N = sum |A|^q, q even
 *
 * The pairs of a chunk see the map of the A that enters it. Token i reads with the map of its own A_i,
 *
 *     A_i = decay_i A_{i-1} - step_i x_i s_i^T
 *
 * which has to be formed. Both maps are W = share e, with e = exp(A - top) for the simplex, top the maximum of
 * the column and share = total / sum e, and with e = A for the power norm and one share for all columns. So
 * columns go through a whole chunk one after another, LANES of them in a panel that stays in the first-level
 * cache, and only the shares of a power norm wait for all of them. Panels of a simplex are in units of ln 2,
 * so that e = 2^(panel - top). */
#ifndef TTR_MIRROR_H
#define TTR_MIRROR_H

#include "mini_batch.h"

/* x^n */
static inline vec raised(vec x, int64_t n) {
    vec y = x;
    if (n < 1) return (vec){0} + 1;
    for (int64_t k = 1; k < n; k++) y *= x;
    return y;
}

/* (N + eps)^((2 - q) / q) */
static inline real share_of_norm(const network *n, real norm) {
    const double q = (double)n->mirror_power;
    return (real)pow((double)norm + n->mirror_eps, (2 - q) / q);
}

/* |A|^(q-2), whose product with A is the gradient of N / q, and with A^2 the term of N */
static inline vec slope_of_norm(const network *n, vec a) { return raised(a * a, n->mirror_power / 2 - 1); }

/* ---- columns of a matrix ------------------------------------------------------------------------------- */
static inline real unit(const network *n) {
    return n->mirror == SIMPLEX ? (real)1.44269504088896340736 : 1;
}

/* `by` times LANES columns from column j */
static inline void load_panel(int64_t rows, matrix m, int64_t j, real by, vec *panel) {
    for (int64_t r = 0; r < rows; r++) panel[r] = by * *(const uvec *)(row(m, r) + j);
}
static inline void store_panel(int64_t rows, const vec *panel, matrix m, int64_t j) {
    for (int64_t r = 0; r < rows; r++) *(uvec *)(row(m, r) + j) = panel[r];
}

static inline vec top_of(int64_t rows, const vec *panel) {
    vec top = panel[0];
    for (int64_t r = 1; r < rows; r++) top = maximum(top, panel[r]);
    return top;
}

static inline vec norm_of(const network *n, int64_t rows, const vec *panel) {
    vec sum = {0};
    for (int64_t r = 0; r < rows; r++) sum += panel[r] * panel[r] * slope_of_norm(n, panel[r]);
    return sum;
}

/* The sums of LANES vectors, one in each lane */
static inline vec sums_of(const vec *x) {
    vec across[LANES], sum = {0};
    transpose_square((const real *)x, LANES, (real *)across, LANES);
    for (int l = 0; l < LANES; l++) sum += across[l];
    return sum;
}

/* ---- the weights that the pairs see -------------------------------------------------------------------- */
static inline real norm_of_matrix(const worker *w, int64_t l, matrix a) {
    const network *n = w->n;
    real norm = 0;
    for (int64_t j = 0; j < wide(n, l + 1); j += LANES) {
        load_panel(n->width[l], a, j, 1, w->panel);
        norm += sum_of(norm_of(n, n->width[l], w->panel));
    }
    return norm;
}

/* p->weights from p->sums; columns beyond the width stay 0 */
static inline void map_weights(const worker *w, const pass *p) {
    const network *n = w->n;
    memcpy(p->weights, p->sums, (size_t)n->state * sizeof(real));
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t rows = n->width[l], columns = n->width[l + 1];
        matrix to = weight(n, p->weights, l);
        if (n->mirror == POWER_NORM) {
            scale(rows * wide(n, l + 1), share_of_norm(n, norm_of_matrix(w, l, to)), to.data);
            continue;
        }
        for (int64_t j = 0; j < columns; j += LANES) {
            load_panel(rows, to, j, unit(n), w->panel);
            vec top = top_of(rows, w->panel), sum = {0};
            for (int64_t r = 0; r < rows; r++) sum += w->panel[r] = exponential2(w->panel[r] - top);
            vec share = (real)n->total / sum;
            for (int64_t i = 0; i < LANES; i++)
                if (j + i >= columns) share[i] = 0;
            for (int64_t r = 0; r < rows; r++) w->panel[r] *= share;
            store_panel(rows, w->panel, to, j);
        }
    }
}

/* Adds to the gradient of the sums that of their map, `d_weights`:
 *
 *     simplex       W (dW - sum_r W dW / total)
 *     power norm    share dW + push A |A|^(q-2), push = (2 - q) share (dW.A) / (N + eps) */
static inline void back_through_map(const worker *w, const pass *p, real *d_weights, real *d_sums) {
    const network *n = w->n;
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t rows = n->width[l], outputs = wide(n, l + 1), size = rows * outputs;
        matrix now = weight(n, p->weights, l), d_now = weight(n, d_weights, l), d_sum = weight(n, d_sums, l);
        if (n->mirror == POWER_NORM) {
            const real *a = weight(n, p->sums, l).data, norm = norm_of_matrix(w, l, weight(n, p->sums, l)),
                       share = share_of_norm(n, norm),
                       push = (real)((double)(2 - n->mirror_power) * (double)share *
                                     (double)dot(size, d_now.data, a) / ((double)norm + n->mirror_eps));
            for (int64_t i = 0; i < size; i += LANES) {
                const vec entry = *(const uvec *)(a + i);
                *(uvec *)(d_sum.data + i) +=
                    share * *(const uvec *)(d_now.data + i) + push * entry * slope_of_norm(n, entry);
            }
            continue;
        }
        for (int64_t j = 0; j < outputs; j += LANES) {
            vec along = {0};
            for (int64_t r = 0; r < rows; r++)
                along += *(const uvec *)(row(now, r) + j) * *(const uvec *)(row(d_now, r) + j);
            along /= (real)n->total;
            for (int64_t r = 0; r < rows; r++)
                *(uvec *)(row(d_sum, r) + j) +=
                    *(const uvec *)(row(now, r) + j) * (*(const uvec *)(row(d_now, r) + j) - along);
        }
    }
}

/* ---- the queries --------------------------------------------------------------------------------------- */
/* step_i s_i */
static inline vec step_of(const worker *w, const pass *p, int64_t l, int64_t i, int64_t j) {
    return row(w->pairs, i)[i] * *(const uvec *)(row(p->s[l], i) + j);
}

/* The panel of A_i from that of A_{i-1}; returns the maximum of every column. */
static inline vec advance_panel(const worker *w, int64_t m, const pass *p, int64_t l, int64_t i, int64_t j,
                                const vec *before, vec *after) {
    const network *n = w->n;
    const real decay = n->decay[place(w, m, 1) + i], *x = row(p->x[l], i);
    const vec step = unit(n) * step_of(w, p, l, i, j);
    vec top = decay * before[0] - x[0] * step;
    for (int64_t r = 0; r < n->width[l]; r++) {
        after[r] = decay * before[r] - x[r] * step;
        top = maximum(top, after[r]);
    }
    return top;
}

/* h e for the panel of token i; what its share needs is stored. */
static inline vec read_panel(const worker *w, reading *r, int64_t l, int64_t i, int64_t j, vec top) {
    const network *n = w->n;
    const int64_t rows = n->width[l];
    const real *h = row(r->h[l], i);
    vec along = {0}, sum = {0};
    if (n->mirror == POWER_NORM) {
        for (int64_t k = 0; k < rows; k++) {
            const vec a = w->panel[k];
            along += h[k] * a;
            sum += a * a * slope_of_norm(n, a);
        }
        r->norm[l][i] += sum_of(sum);
        return along;
    }
    for (int64_t k = 0; k < rows; k++) {
        const vec e = exponential2(w->panel[k] - top);
        sum += e;
        along += h[k] * e;
    }
    *(uvec *)(row(r->top[l], i) + j) = top;
    *(uvec *)(row(r->share[l], i) + j) = (real)n->total / sum;
    return along;
}

static inline void read_mapped(worker *w, int64_t m, const pass *p, reading *r) {
    const network *n = w->n;
    load_rows(n->query + place(w, m, n->width[0]), n->tokens, n->width[0], r->h[0]);
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t rows = n->width[l], outputs = wide(n, l + 1);
        memset(r->norm[l], 0, (size_t)n->tokens * sizeof(real));
        for (int64_t j = 0; j < outputs; j += LANES) {
            load_panel(rows, weight(n, p->sums, l), j, unit(n), w->panel);
            for (int64_t i = 0; i < n->tokens; i++) {
                const vec top = advance_panel(w, m, p, l, i, j, w->panel, w->panel);
                *(uvec *)(row(r->o[l], i) + j) = read_panel(w, r, l, i, j, top);
            }
        }
        for (int64_t i = 0; i < n->tokens; i++) {
            real *share = row(r->share[l], i);
            if (n->mirror == POWER_NORM)
                for (int64_t j = 0; j < outputs; j++) share[j] = share_of_norm(n, r->norm[l][i]);
            for (int64_t j = 0; j < outputs; j += LANES)
                *(uvec *)(row(r->o[l], i) + j) *= *(const uvec *)(share + j);
        }
        if (l + 1 < n->layers) activate(tokens_of(n), outputs, r->o[l], r->h[l + 1]);
    }
}

/* ---- the queries, backwards ---------------------------------------------------------------------------- */
/* What token i adds to the gradient of A_i is W do (h - o / total) for the simplex, and share h do + push A
 * |A|^(q-2) with push = (2 - q) do.o / (N + eps) for the power norm. With D that gradient and what later
 * tokens left of it, decay_i D is passed on, and
 *
 *     dh = W do,  dx = -step D s,  ds = -step x^T D,  d step = -x^T D s,  d decay = D.A_{i-1} */
static inline void back_through_panel(const worker *w, int64_t m, const reading *r, const pass *p, int64_t l, int64_t i,
                                      int64_t j, const real *o, real *d_h, gradient *d) {
    const network *n = w->n;
    const int64_t rows = n->width[l], every = padded(rows);
    const vec *before = w->panel + i * every, *after = before + every, step = step_of(w, p, l, i, j);
    vec *behind = w->panel + (n->tokens + 1) * every, ds = {0}, d_decay = {0};
    const real decay = w->n->decay[place(w, m, 1) + i];
    const vec share = *(const uvec *)(row(r->share[l], i) + j), by = share * *(const uvec *)(o + j),
              mean = *(const uvec *)(row(r->o[l], i) + j) / (real)n->total,
              top = *(const uvec *)(row(r->top[l], i) + j);
    const real *h = row(r->h[l], i), *x = row(p->x[l], i);
    real *d_x = row(d->x[l], i);
    for (int64_t first = 0; first < rows; first += LANES) {
        vec read[LANES] = {{0}}, written[LANES] = {{0}};
        const int64_t count = rows - first < LANES ? rows - first : LANES;
        for (int64_t k = 0; k < count; k++) {
            const int64_t at_row = first + k;
            const vec a = after[at_row];
            vec total = behind[at_row];
            if (n->mirror == POWER_NORM) {
                read[k] = a * by;
                total += h[at_row] * by + w->push[i] * a * slope_of_norm(n, a);
            } else {
                read[k] = exponential2(a - top) * by;
                total += read[k] * (h[at_row] - mean);
            }
            written[k] = total * step;
            ds += x[at_row] * total;
            d_decay += total * before[at_row];
            behind[at_row] = decay * total;
        }
        *(uvec *)(d_h + first) += sums_of(read);
        *(uvec *)(d_x + first) -= sums_of(written);
    }
    *(uvec *)(row(d->s[l], i) + j) = -row(w->pairs, i)[i] * ds;
    row(d->pairs, i)[i] -= sum_of(ds * *(const uvec *)(row(p->s[l], i) + j));
    n->grad_decay[place(w, m, 1) + i] += sum_of(d_decay) / unit(n);
}

/* From the gradient o of the read-outs of matrix l to that of its queries, h, of its pairs, and of the
 * sums at the chunk's start. */
static inline void back_through_mapped(worker *w, int64_t m, const pass *p, const reading *r, int64_t l,
                                       matrix o, matrix h, gradient *d) {
    const network *n = w->n;
    const int64_t rows = n->width[l], every = padded(rows), outputs = wide(n, l + 1);
    for (int64_t i = 0; n->mirror == POWER_NORM && i < n->tokens; i++)
        w->push[i] = (real)((double)(2 - n->mirror_power) * (double)dot(outputs, row(o, i), row(r->o[l], i)) /
                            ((double)r->norm[l][i] + n->mirror_eps));
    clear(tokens_of(n), every, d->x[l]);
    clear(tokens_of(n), every, h);
    for (int64_t j = 0; j < outputs; j += LANES) {
        vec *behind = w->panel + (n->tokens + 1) * every;
        load_panel(rows, weight(n, p->sums, l), j, unit(n), w->panel);
        load_panel(rows, weight(n, d->sums, l), j, 1, behind);
        for (int64_t i = 0; i < n->tokens; i++)
            advance_panel(w, m, p, l, i, j, w->panel + i * every, w->panel + (i + 1) * every);
        for (int64_t i = n->tokens; i-- > 0;)
            back_through_panel(w, m, r, p, l, i, j, row(o, i), row(h, i), d);
        store_panel(rows, behind, weight(n, d->sums, l), j);
    }
}

#endif
