/* Networks of several matrices with GELU between them, trained in mini-batches at test time (TTT, arXiv
 * 2407.04620; Titans, 2501.00663).
 *
 * One chunk of C tokens, with weights W and momentum Z of every matrix as they enter it; see
 * engines/torch/dual_form/chunks.py:
 *
 *     pairs     x_1 = key, z_l = x_l W_l + b_l, x_{l+1} = gelu(z_l), s_L = the gradient of the loss in z_L,
 *               u_l = s_{l+1} W_{l+1}^T, s_l = u_l gelu'(z_l)
 *     queries   h_1 = query, o_l = kept (h_l W_l + b_l) + moved (h_l Z_l + zb_l) - P (h_l x_l^T + 1) s_l,
 *               h_{l+1} = gelu(o_l)
 *     weights   W' = kept_C W + moved_C Z - x^T (P_C s)
 *               Z' = momentum_kept Z + x^T (momentum_pairs s)
 *
 * The loss is half the squared error or, with a threshold, the Huber loss of its length, whose slope is the
 * error, shortened to the threshold. With a residual the prediction is key + LN(z_L) gain + shift, and the
 * read-out query + LN(o_L) gain + shift. One thread computes all chunks of a memory, so the weights stay in
 * the cache of a core and results are the same to the last bit for any number of threads. */
#ifndef TTR_NETWORK_H
#define TTR_NETWORK_H

#include <math.h>
#include <string.h>

#include "exponential.h"
#include "scratch.h"

enum { MOST_LAYERS = 8, MOST_BLOCK = 16 }; /* as in ttr.engines.native.network */

/* Tensors are contiguous: [chunks, memories, tokens, ...]. All weights of a memory are stored side by side,
 * each matrix with its sizes padded to BLOCK and then its bias, 0 where the network has none: `state` numbers
 * in all. A tensor that is absent is NULL. */
typedef struct {
    int64_t chunks, memories, tokens, layers, residual, bias, block, threads, state;
    int64_t width[MOST_LAYERS + 1]; /* of the key, of the hidden layers, of the value */
    double eps;
    const real *key, *value, *query, *pairs, *kept, *moved, *momentum_kept, *momentum_pairs, *gain, *shift,
        *weights, *momentum, *threshold;
    real *y, *end_weights, *end_momentum;
    real *states; /* [blocks, memories, 1 or 2, state]: the weights and the momentum that enter every block of
                     chunks */
    const real *grad_y, *grad_end_weights, *grad_end_momentum; /* backwards, with all that follow */
    real *grad_key, *grad_value, *grad_query, *grad_pairs, *grad_kept, *grad_moved, *grad_momentum_kept,
        *grad_momentum_pairs;
    real *grad_gain, *grad_shift, *grad_weights, *grad_momentum, *grad_threshold;
} network;

/* What the pairs of a chunk compute for its queries, its weights and its derivative. */
typedef struct {
    real *weights, *momentum;                                              /* that enter */
    matrix x[MOST_LAYERS], z[MOST_LAYERS], s[MOST_LAYERS], u[MOST_LAYERS]; /* of matrix l, u of its output */
} pass;

/* ---- scratch memory ------------------------------------------------------------------------------------ */
/* Allocates zeros. */
static inline real *reserve(arena *a, int64_t size) {
    real *found = allocate(a, size);
    if (found) memset(found, 0, (size_t)padded(size) * sizeof(real));
    return found;
}

static inline matrix reserve_matrix(arena *a, int64_t rows, int64_t columns) {
    return (matrix){reserve(a, padded(rows) * padded(columns)), padded(columns)};
}

static inline int64_t tokens_of(const network *n) { return padded(n->tokens); }
static inline int64_t wide(const network *n, int64_t l) { return padded(n->width[l]); }
static inline int64_t widest(const network *n) {
    int64_t most = 0;
    for (int64_t l = 0; l <= n->layers; l++) most = wide(n, l) > most ? wide(n, l) : most;
    return most;
}

/* Where matrix l begins among the weights of a memory; its bias follows it. */
static inline int64_t offset(const network *n, int64_t l) {
    int64_t at = 0;
    for (int64_t i = 0; i < l; i++) at += (wide(n, i) + 1) * wide(n, i + 1);
    return at;
}
static inline matrix weight(const network *n, real *weights, int64_t l) {
    return (matrix){weights + offset(n, l), wide(n, l + 1)};
}
static inline real *bias(const network *n, real *weights, int64_t l) {
    return weights + offset(n, l) + wide(n, l) * wide(n, l + 1);
}

static inline pass reserve_pass(const network *n, arena *a) {
    pass p = {.weights = reserve(a, n->state), .momentum = n->momentum ? reserve(a, n->state) : NULL};
    for (int64_t l = 0; l < n->layers; l++) {
        p.x[l] = reserve_matrix(a, n->tokens, n->width[l]);
        p.z[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        p.s[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        p.u[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
    }
    return p;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */
/* Copy rows of `size` numbers, side by side, into a matrix, and back; an empty tensor is NULL, which must not
 * be passed to memcpy. */
static inline void load_rows(const real *from, int64_t rows, int64_t size, matrix to) {
    for (int64_t i = 0; size && i < rows; i++)
        memcpy(row(to, i), from + i * size, (size_t)size * sizeof(real));
}
static inline void store_rows(matrix from, int64_t rows, int64_t size, real *to) {
    for (int64_t i = 0; size && i < rows; i++)
        memcpy(to + i * size, row(from, i), (size_t)size * sizeof(real));
}

/* y = a y over `size` numbers, a multiple of LANES */
static inline void scale(int64_t size, real a, real *y) {
    for (int64_t j = 0; j < size; j += LANES) *(uvec *)(y + j) *= a;
}
/* to_i = by_i from_i */
static inline void scale_rows(int64_t rows, int64_t columns, matrix from, const real *by, int64_t stride,
                              matrix to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += LANES)
            *(uvec *)(row(to, i) + j) = by[i * stride] * *(const uvec *)(row(from, i) + j);
}
static inline void add_rows(int64_t rows, int64_t columns, matrix from, real *to) {
    for (int64_t i = 0; i < rows; i++) add_scaled(columns, 1, row(from, i), to);
}

/* gelu(x) = x g, g = sigmoid(w), w = 2 sqrt(2 / pi) (x + 0.044715 x^3), and its first two derivatives */
typedef struct {
    vec value, slope, second;
} gelu_parts;
static inline gelu_parts gelu(vec x) {
    const real rate = (real)1.5957691216057307118, cubic = (real)0.044715;
    vec square = x * x, g = sigmoid(rate * x * (1 + cubic * square)), w = rate * (1 + 3 * cubic * square),
        spread = g * (1 - g);
    return (gelu_parts){x * g, g + x * spread * w,
                        spread * (2 * w + x * (w * w * (1 - 2 * g) + 6 * rate * cubic * x))};
}
static inline void activate(int64_t rows, int64_t columns, matrix z, matrix x) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += LANES)
            *(uvec *)(row(x, i) + j) = gelu(*(const uvec *)(row(z, i) + j)).value;
}
/* d += or = gelu'(z) by */
static inline void through_activation(int64_t rows, int64_t columns, matrix z, matrix by, matrix d,
                                      enum combine how) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += LANES) {
            uvec *out = (uvec *)(row(d, i) + j);
            vec slope = gelu(*(const uvec *)(row(z, i) + j)).slope * *(const uvec *)(row(by, i) + j);
            if (how == ADD) slope += *out;
            *out = slope;
        }
}

/* ---- the norm of a row: n = (z - mean) rate, rate = 1 / sqrt(variance + eps) --------------------------- */
static inline real mean(int64_t size, const real *x) {
    real sum = 0;
    for (int64_t j = 0; j < size; j++) sum += x[j];
    return sum / (real)size;
}
static inline real normalise(const network *n, const real *z, real *normed) {
    int64_t size = n->width[n->layers];
    real centre = mean(size, z);
    for (int64_t j = 0; j < size; j++) normed[j] = z[j] - centre;
    real rate = 1 / (real)sqrt((double)dot(size, normed, normed) / (double)size + n->eps);
    for (int64_t j = 0; j < size; j++) normed[j] *= rate;
    return rate;
}
/* The gradient of z from that of n: rate (d - mean(d) - n mean(d n)) */
static inline void through_norm(int64_t size, const real *normed, real rate, const real *d, real *out) {
    real centre = mean(size, d), along = dot(size, d, normed) / (real)size;
    for (int64_t j = 0; j < size; j++) out[j] = rate * (d[j] - centre - normed[j] * along);
}

/* ---- products ------------------------------------------------------------------------------------------ */
/* out (+)= x W^T for few rows x, as the transpose of W x^T, so that W is read along its rows */
static inline void back(int64_t tokens, int64_t inputs, int64_t outputs, matrix x, matrix w, real *work,
                        matrix out, enum combine how) {
    matrix transposed = {work, tokens}, product_transposed = {work + tokens * outputs, tokens};
    transpose(tokens, outputs, x, transposed);
    product(inputs, tokens, outputs, w, transposed, product_transposed, SET);
    if (how == SET) {
        transpose(inputs, tokens, product_transposed, out);
        return;
    }
    matrix straight = {work + tokens * (inputs + outputs), inputs};
    transpose(inputs, tokens, product_transposed, straight);
    for (int64_t i = 0; i < tokens; i++) add_scaled(inputs, 1, row(straight, i), row(out, i));
}
/* The size of `work` that `back` needs */
static inline int64_t work_of(const network *n) { return 3 * tokens_of(n) * widest(n); }

/* x W + b */
static inline void affine(const network *n, matrix x, real *weights, int64_t l, matrix out) {
    const real *b = bias(n, weights, l);
    for (int64_t i = 0; i < tokens_of(n); i++) memcpy(row(out, i), b, (size_t)wide(n, l + 1) * sizeof(real));
    product(tokens_of(n), wide(n, l + 1), wide(n, l), x, weight(n, weights, l), out, ADD);
}

/* ---- one chunk ----------------------------------------------------------------------------------------- */
typedef struct {
    const network *n;
    int64_t memory;
    real *work;
    matrix value, pairs, small[2], wide[3], normed;
    real *row[5];
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
    for (int i = 0; i < 5; i++) w.row[i] = reserve(a, n->width[n->layers]);
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
            const real share = share_of(w, m, i, e);
            for (int64_t j = 0; j < size; j++) e[j] *= share * gain[j];
            through_norm(size, normed, rate, e, s);
        } else {
            for (int64_t j = 0; j < size; j++) s[j] = z[j] - row(w->value, i)[j];
            const real share = share_of(w, m, i, s);
            for (int64_t j = 0; j < size; j++) s[j] *= share;
        }
    }
    for (int64_t l = last; l-- > 0;) {
        back(tokens, wide(n, l + 1), wide(n, l + 2), p->s[l + 1], weight(n, p->weights, l + 1), w->work,
             p->u[l], SET);
        through_activation(tokens, wide(n, l + 1), p->z[l], p->u[l], p->s[l], SET);
    }
}

/* The weights and the momentum after chunk m; they may overwrite those that enter. */
static inline void step_weights(worker *w, int64_t m, const pass *p, real *weights, real *momentum) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), end = place(w, m, 1) + n->tokens - 1;
    if (weights != p->weights) memcpy(weights, p->weights, (size_t)n->state * sizeof(real));
    if (n->kept) scale(n->state, n->kept[end], weights);
    if (momentum) {
        add_scaled(n->state, n->moved[end], p->momentum, weights);
        if (momentum != p->momentum) memcpy(momentum, p->momentum, (size_t)n->state * sizeof(real));
        scale(n->state, n->momentum_kept[m * n->memories + w->memory], momentum);
    }
    for (int64_t l = 0; l < n->layers; l++) {
        int64_t inputs = wide(n, l), outputs = wide(n, l + 1);
        matrix scaled = {w->wide[0].data, outputs};
        scale_rows(n->tokens, outputs, p->s[l], row(w->pairs, n->tokens - 1), 1, scaled);
        clear(tokens - n->tokens, outputs, from(scaled, n->tokens, 0));
        transposed_product(inputs, outputs, tokens, p->x[l], scaled, weight(n, weights, l), SUBTRACT);
        if (n->bias)
            for (int64_t i = 0; i < n->tokens; i++)
                add_scaled(outputs, -1, row(scaled, i), bias(n, weights, l));
        if (!momentum) continue;
        scale_rows(n->tokens, outputs, p->s[l], n->momentum_pairs + place(w, m, 1), 1, scaled);
        transposed_product(inputs, outputs, tokens, p->x[l], scaled, weight(n, momentum, l), ADD);
        if (n->bias) add_rows(n->tokens, outputs, scaled, bias(n, momentum, l));
    }
}

/* What the queries of a chunk compute in every matrix, saved for the derivative. */
typedef struct {
    matrix h[MOST_LAYERS], o[MOST_LAYERS], scores[MOST_LAYERS], now[MOST_LAYERS], moving[MOST_LAYERS];
} reading;

static inline reading reserve_reading(const network *n, arena *a) {
    reading r = {0};
    for (int64_t l = 0; l < n->layers; l++) {
        r.h[l] = reserve_matrix(a, n->tokens, n->width[l]);
        r.scores[l] = reserve_matrix(a, n->tokens, n->tokens);
        r.o[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
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
