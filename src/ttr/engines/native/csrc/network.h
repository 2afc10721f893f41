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

enum mirror { NO_MIRROR, SIMPLEX, POWER_NORM };
enum { MOST_LAYERS = 8, MOST_BLOCK = 16 }; /* as in ttr.engines.native.network */

/* Tensors are contiguous: [chunks, memories, tokens, ...]. All weights of a memory are stored side by side,
 * each matrix with its sizes padded to BLOCK and then its bias, 0 where the network has none: `state` numbers
 * in all. A tensor that is absent is NULL. */
typedef struct {
    int64_t chunks, memories, tokens, layers, residual, bias, block, threads, state;
    int64_t loss_power, mirror, mirror_power; /* of |e| in the loss, of |A| in a power norm */
    int64_t width[MOST_LAYERS + 1]; /* of the key, of the hidden layers, of the value */
    double eps, mirror_eps, total; /* of the norm; of a power norm, of a simplex */
    const real *key, *value, *query, *pairs, *kept, *moved, *momentum_kept, *momentum_pairs, *gain, *shift,
        *weights, *momentum, *threshold, *decay;
    real *y, *end_weights, *end_momentum;
    real *states; /* [blocks, memories, 1 or 2, state]: the weights and the momentum that enter every block of
                     chunks */
    const real *grad_y, *grad_end_weights, *grad_end_momentum; /* backwards, with all that follow */
    real *grad_key, *grad_value, *grad_query, *grad_pairs, *grad_kept, *grad_moved, *grad_momentum_kept,
        *grad_momentum_pairs;
    real *grad_gain, *grad_shift, *grad_weights, *grad_momentum, *grad_threshold, *grad_decay;
} network;

/* What the pairs of a chunk compute for its queries, its weights and its derivative. */
typedef struct {
    real *sums, *momentum; /* that enter */
    real *weights;         /* that the pairs see: the map of the sums, without a mirror the sums */
    matrix x[MOST_LAYERS], z[MOST_LAYERS], s[MOST_LAYERS], u[MOST_LAYERS]; /* of matrix l, u of its output */
} pass;

/* A field is the gradient of the field of that name, o and h those of the queries. */
typedef struct {
    real *sums, *momentum; /* of those after the chunk; when it is done, of those that enter it */
    real *weights;         /* of those that the pairs see: without a mirror the same */
    matrix x[MOST_LAYERS], z[MOST_LAYERS], s[MOST_LAYERS], value, query, pairs, o[2], h;
} gradient;

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
    pass p = {.sums = reserve(a, n->state), .momentum = n->momentum ? reserve(a, n->state) : NULL};
    p.weights = n->mirror ? reserve(a, n->state) : p.sums;
    for (int64_t l = 0; l < n->layers; l++) {
        p.x[l] = reserve_matrix(a, n->tokens, n->width[l]);
        p.z[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        p.s[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        p.u[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
    }
    return p;
}

static gradient reserve_gradient(const network *n, arena *a) {
    gradient d = {.sums = reserve(a, n->state),
                  .momentum = n->momentum ? reserve(a, n->state) : NULL,
                  .value = reserve_matrix(a, n->tokens, n->width[n->layers]),
                  .pairs = reserve_matrix(a, n->tokens, n->tokens),
                  .h = reserve_matrix(a, n->tokens, widest(n))};
    d.weights = n->mirror ? reserve(a, n->state) : d.sums;
    for (int i = 0; i < 2; i++) d.o[i] = reserve_matrix(a, n->tokens, widest(n));
    for (int64_t l = 0; l < n->layers; l++) {
        d.x[l] = reserve_matrix(a, n->tokens, n->width[l]);
        d.z[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
        d.s[l] = reserve_matrix(a, n->tokens, n->width[l + 1]);
    }
    return d;
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
/* In double: what is left of a row after its mean may be small beside it. */
static inline real mean(int64_t size, const real *x) {
    double sum = 0;
    for (int64_t j = 0; j < size; j++) sum += x[j];
    return (real)(sum / (double)size);
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

#endif
