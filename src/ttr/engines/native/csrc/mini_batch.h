/* One chunk of a network: what its pairs and its queries compute, and the weights after it. */
#ifndef TTR_MINI_BATCH_H
#define TTR_MINI_BATCH_H

#include "network.h"

typedef struct {
    const network *n;
    int64_t memory;
    real *work;
    matrix value, pairs, small[2], wide[3], normed;
    real *row[6];
    vec *panel; /* see mirror.h: one for every token of a chunk, and two more */
    real *push;
} worker;

static inline worker reserve_worker(const network *n, int64_t memory, arena *a) {
    worker w = {.n = n,
                .memory = memory,
                .work = reserve(a, work_of(n)),
                .value = reserve_matrix(a, n->tokens, n->width[n->layers]),
                .pairs = reserve_matrix(a, n->tokens, n->tokens),
                .normed = reserve_matrix(a, n->tokens, n->width[n->layers])};
    for (int i = 0; i < 2; i++) w.small[i] = reserve_matrix(a, n->tokens, n->tokens);
    for (int i = 0; i < 3; i++) w.wide[i] = reserve_matrix(a, n->tokens, widest(n));
    for (int i = 0; i < 6; i++) w.row[i] = reserve(a, n->width[n->layers]);
    if (n->mirror) {
        w.panel = (vec *)reserve(a, (n->tokens + 2) * widest(n) * LANES);
        w.push = reserve(a, n->tokens);
    }
    return w;
}

/* Where the tokens of a chunk begin in a tensor of `size` numbers per token. */
static inline int64_t place(const worker *w, int64_t m, int64_t size) {
    return (m * w->n->memories + w->memory) * w->n->tokens * size;
}

static inline int64_t shared(const network *n) {
    return n->width[0] < n->width[n->layers] ? n->width[0] : n->width[n->layers];
}

/* e = key + n gain + shift - value of row i */
static inline void error_of(const worker *w, const pass *p, int64_t i, const real *normed, real *e) {
    const network *n = w->n;
    int64_t size = n->width[n->layers];
    const real *gain = n->gain + w->memory * size, *shift = n->shift + w->memory * size;
    for (int64_t j = 0; j < size; j++) e[j] = normed[j] * gain[j] + shift[j] - row(w->value, i)[j];
    for (int64_t j = 0; j < shared(n); j++) e[j] += row(p->x[0], i)[j];
}

/* What the error of token i is multiplied by: threshold / |e| where that is below 1 */
static inline real share_of(const worker *w, int64_t m, int64_t i, const real *e) {
    const network *n = w->n;
    int64_t size = n->width[n->layers];
    if (!n->threshold) return 1;
    const real length = (real)sqrt((double)dot(size, e, e)), most = n->threshold[place(w, m, 1) + i];
    return length > most ? most / length : 1;
}

/* |e|^(p-2) of an entry of the error, for a loss sum |e|^p / p */
static inline real weight_of(const network *n, real e) {
    real found = 1;
    for (int64_t k = 2; k < n->loss_power; k++) found *= e < 0 ? -e : e;
    return found;
}

/* The slope of the loss at the error of token i; it may overwrite the error. */
static inline void slope_of(const worker *w, int64_t m, int64_t i, const real *e, real *slope) {
    const network *n = w->n;
    const real share = share_of(w, m, i, e);
    for (int64_t j = 0; j < n->width[n->layers]; j++) slope[j] = share * e[j] * weight_of(n, e[j]);
}

/* Inputs, outputs and slopes of the pairs of chunk m for the weights of `p`. */
static inline void load_pairs(worker *w, int64_t m, pass *p) {
    const network *n = w->n;
    int64_t size = n->width[n->layers], last = n->layers - 1, tokens = tokens_of(n);
    load_rows(n->key + place(w, m, n->width[0]), n->tokens, n->width[0], p->x[0]);
    load_rows(n->value + place(w, m, size), n->tokens, size, w->value);
    load_rows(n->pairs + place(w, m, n->tokens), n->tokens, n->tokens, w->pairs);
    for (int64_t l = 0; l <= last; l++) {
        affine(n, p->x[l], p->weights, l, p->z[l]);
        if (l < last) activate(tokens, wide(n, l + 1), p->z[l], p->x[l + 1]);
    }
    for (int64_t i = 0; i < n->tokens; i++) {
        real *s = row(p->s[last], i), *z = row(p->z[last], i), *normed = w->row[0], *e = w->row[1];
        if (n->residual) {
            const real *gain = n->gain + w->memory * size;
            real rate = normalise(n, z, normed);
            error_of(w, p, i, normed, e);
            slope_of(w, m, i, e, e);
            for (int64_t j = 0; j < size; j++) e[j] *= gain[j];
            through_norm(size, normed, rate, e, s);
        } else {
            for (int64_t j = 0; j < size; j++) s[j] = z[j] - row(w->value, i)[j];
            slope_of(w, m, i, s, s);
        }
    }
    for (int64_t l = last; l-- > 0;) {
        back(tokens, wide(n, l + 1), wide(n, l + 2), p->s[l + 1], weight(n, p->weights, l + 1), w->work,
             p->u[l], SET);
        through_activation(tokens, wide(n, l + 1), p->z[l], p->u[l], p->s[l], SET);
    }
}

/* The sums and the momentum after chunk m; they may overwrite those that enter. */
static inline void step_weights(worker *w, int64_t m, const pass *p, real *sums, real *momentum) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), end = place(w, m, 1) + n->tokens - 1;
    if (sums != p->sums) memcpy(sums, p->sums, (size_t)n->state * sizeof(real));
    if (n->kept) scale(n->state, n->kept[end], sums);
    if (momentum) {
        add_scaled(n->state, n->moved[end], p->momentum, sums);
        if (momentum != p->momentum) memcpy(momentum, p->momentum, (size_t)n->state * sizeof(real));
        scale(n->state, n->momentum_kept[m * n->memories + w->memory], momentum);
    }
    for (int64_t l = 0; l < n->layers; l++) {
        int64_t inputs = wide(n, l), outputs = wide(n, l + 1);
        matrix scaled = {w->wide[0].data, outputs};
        scale_rows(n->tokens, outputs, p->s[l], row(w->pairs, n->tokens - 1), 1, scaled);
        clear(tokens - n->tokens, outputs, from(scaled, n->tokens, 0));
        transposed_product(inputs, outputs, tokens, p->x[l], scaled, weight(n, sums, l), SUBTRACT);
        if (n->bias)
            for (int64_t i = 0; i < n->tokens; i++)
                add_scaled(outputs, -1, row(scaled, i), bias(n, sums, l));
        if (!momentum) continue;
        scale_rows(n->tokens, outputs, p->s[l], n->momentum_pairs + place(w, m, 1), 1, scaled);
        transposed_product(inputs, outputs, tokens, p->x[l], scaled, weight(n, momentum, l), ADD);
        if (n->bias) add_rows(n->tokens, outputs, scaled, bias(n, momentum, l));
    }
}

/* What the queries of a chunk compute in every matrix, saved for the derivative. */
typedef struct {
    matrix h[MOST_LAYERS], o[MOST_LAYERS], scores[MOST_LAYERS], now[MOST_LAYERS], moving[MOST_LAYERS];
    matrix top[MOST_LAYERS], share[MOST_LAYERS]; /* with a mirror instead of the last three, see mirror.h */
    real *norm[MOST_LAYERS];
} reading;

static inline reading reserve_reading(const network *n, arena *a) {
    reading r = {0};
    for (int64_t l = 0; l < n->layers; l++) {
        r.h[l] = reserve_matrix(a, n->tokens, n->width[l]);
        r.o[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        if (n->mirror) {
            r.top[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
            r.share[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
            r.norm[l] = reserve(a, n->tokens);
            continue;
        }
        r.scores[l] = reserve_matrix(a, n->tokens, n->tokens);
        r.now[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        r.moving[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
    }
    return r;
}

static inline void read_queries(worker *w, int64_t m, const pass *p, reading *r) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), start = place(w, m, 1);
    load_rows(n->query + place(w, m, n->width[0]), n->tokens, n->width[0], r->h[0]);
    for (int64_t l = 0; l < n->layers; l++) {
        int64_t inputs = wide(n, l), outputs = wide(n, l + 1);
        matrix transposed = {w->work, tokens}, weighted = w->small[0];
        affine(n, r->h[l], p->weights, l, r->now[l]);
        transpose(tokens, inputs, p->x[l], transposed);
        product(tokens, tokens, inputs, r->h[l], transposed, r->scores[l], SET);
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t j = 0; j < tokens; j += LANES) {
                uvec *score = (uvec *)(row(r->scores[l], i) + j);
                if (n->bias) *score += 1;
                *(uvec *)(row(weighted, i) + j) = *score * *(const uvec *)(row(w->pairs, i) + j);
            }
        if (n->momentum) affine(n, r->h[l], p->momentum, l, r->moving[l]);
        for (int64_t i = 0; i < n->tokens; i++)
            for (int64_t j = 0; j < outputs; j += LANES) {
                vec sum = *(const uvec *)(row(r->now[l], i) + j);
                if (n->kept) sum *= n->kept[start + i];
                if (n->momentum) sum += n->moved[start + i] * *(const uvec *)(row(r->moving[l], i) + j);
                *(uvec *)(row(r->o[l], i) + j) = sum;
            }
        product(tokens, outputs, tokens, weighted, p->s[l], r->o[l], SUBTRACT);
        if (l + 1 < n->layers) activate(tokens, outputs, r->o[l], r->h[l + 1]);
    }
}

#endif
