/* Local linear regression for a block of queries, as engines/torch/local_linear.py states it: the arguments,
 * the weights of the block, and the sweeps over its pairs.
 *
 * S heads of a group share their keys; a block is C tokens of a group, R = S C rows, row s C + c. Row r
 * weighs the pairs by p_r, which sum to 1, has the mean m_r = sum_i p_ri k_i and solves with A_r = sum_i p_ri
 * (k_i - m_r)(k_i - m_r)^T + diag(ridge_r). The R x n weights of the block are stored; everything else of
 * that size is computed tile by tile. */
#ifndef TTR_LOCAL_LINEAR_H
#define TTR_LOCAL_LINEAR_H

#include <math.h>
#include <string.h>

#include "exponential.h"
#include "scratch.h"

/* engines/native/local_linear.py holds the same fields in the same order. Tensors are contiguous; U groups, S
 * heads of each, T tokens, M pairs, P of them seen by the block. K', D', E', V' are sizes padded to BLOCK,
 * with zeros behind the channels. */
typedef struct {
    /* U, S, T, M; columns >= M + TILE: of the transposes, and rows of the gradients of pairs */
    int64_t groups, sharing, time, pairs, columns;
    /* K, D, V, and E: the channels of the points and, where there are few, their products */
    int64_t key_size, size, value_size, moments;
    /* the tokens of the block, the first pair it sees, the number of pairs before the first token */
    int64_t start, stop, first, slots, threads;
    double target, accepted, least_pivot;       /* those of engines/torch/covariance_solve.py */
    const real *query, *places, *ridge, *slope; /* [U,S,T,K], [U,S,T,D], [U,S,D] or NULL, [U,S,T,D] or NULL */
    const real *bias; /* [U,S,C,P] or NULL, added to the logits; later pairs are masked in any case */
    /* [U,K,columns], [U,D,columns], [U,V,columns] (the last backwards only) */
    const real *keys_t, *points_t, *values_t;
    const real *keys, *points, *values; /* [U,M,K'], [U,M,E'], [U,M,V'], padded (the first backwards only) */
    real *y, *rho;                      /* [U,S,T,V], [U,S,T,D] */
    /* [U,4]: iterations of the slowest row, rows solved directly, the largest residual, singular rows */
    double *report;
    const real *grad; /* [U,S,T,V]; backwards, with all that follow */
    /* shaped as the inputs; grad_ridge is summed over the block */
    real *grad_query, *grad_places, *grad_slope, *grad_ridge;
    /* [U,columns,K'], [U,columns,D'], [U,columns,V']: added to */
    real *grad_keys, *grad_points, *grad_values;
    real *grad_logits; /* [U,S,C,P] or NULL */
} local_linear;

enum { TILE = 64, CHUNK = 64 }; /* pairs and rows that are processed at a time */

/* A block of one group. */
typedef struct {
    const local_linear *l;
    int64_t group, rows, tall, seen, wide; /* R, the same padded, n, the same in whole tiles */
    matrix query, place, ridge, weights;
    matrix moments; /* the first D channels are the means */
    matrix rho, tile;
    real *offset; /* of every row, for a sweep */
} block;

static inline int64_t tokens(const local_linear *l) { return l->stop - l->start; }
/* The part of the block's group, from pair `first` on, of a tensor of pairs [U,M,width], or of a transpose
 * [U,size,columns] */
static inline matrix pairs_of(const block *b, const real *data, int64_t width) {
    return (matrix){(real *)data + (b->group * b->l->pairs + b->l->first) * width, width};
}
static inline matrix transpose_of(const block *b, const real *data, int64_t size) {
    return (matrix){(real *)data + b->group * size * b->l->columns + b->l->first, b->l->columns};
}
static inline matrix keys_t(const block *b) { return transpose_of(b, b->l->keys_t, b->l->key_size); }
static inline matrix points_t(const block *b) { return transpose_of(b, b->l->points_t, b->l->size); }
static inline matrix values_t(const block *b) { return transpose_of(b, b->l->values_t, b->l->value_size); }
static inline matrix keys(const block *b) { return pairs_of(b, b->l->keys, padded(b->l->key_size)); }
static inline matrix points(const block *b) { return pairs_of(b, b->l->points, padded(b->l->moments)); }
static inline matrix values(const block *b) { return pairs_of(b, b->l->values, padded(b->l->value_size)); }

/* Where the block's rows of head s begin in a tensor [U,S,T,size] */
static inline int64_t place_of(const block *b, int64_t s, int64_t size) {
    return ((b->group * b->l->sharing + s) * b->l->time + b->l->start) * size;
}

/* An empty tensor is NULL, which must not be passed to memcpy. */
static inline void load(const block *b, const real *tensor, int64_t size, matrix to) {
    for (int64_t s = 0, count = tokens(b->l); size && s < b->l->sharing; s++)
        for (int64_t c = 0; c < count; c++)
            memcpy(row(to, s * count + c), tensor + place_of(b, s, size) + c * size,
                   (size_t)size * sizeof(real));
}

static inline void store(const block *b, matrix m, int64_t size, real *tensor) {
    for (int64_t s = 0, count = tokens(b->l); size && s < b->l->sharing; s++)
        for (int64_t c = 0; c < count; c++)
            memcpy(tensor + place_of(b, s, size) + c * size, row(m, s * count + c),
                   (size_t)size * sizeof(real));
}

static inline block allocate_block(const local_linear *l, int64_t group, arena *a) {
    int64_t rows = l->sharing * tokens(l), tall = padded(rows), seen = l->slots + l->stop - l->first,
            wide = (seen + TILE - 1) / TILE * TILE;
    block b = {.l = l, .group = group, .rows = rows, .tall = tall, .seen = seen, .wide = wide};
    b.query = allocate_matrix(a, tall, padded(l->key_size));
    b.place = allocate_matrix(a, tall, padded(l->size));
    b.ridge = allocate_matrix(a, tall, padded(l->size));
    b.rho = allocate_matrix(a, tall, padded(l->size));
    b.moments = allocate_matrix(a, tall, padded(l->moments));
    b.tile = allocate_matrix(a, CHUNK, TILE);
    b.offset = allocate(a, tall);
    b.weights = allocate_matrix(a, tall, wide);
    return b;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */
/* How many rows a product computes for `count` of them: a multiple of ROWS */
static inline int64_t whole(int64_t count) { return (count + ROWS - 1) / ROWS * ROWS; }
static inline int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }
static inline void clear_columns(matrix m, int64_t rows, int64_t from_column, int64_t to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = from_column; j < to; j++) row(m, i)[j] = 0;
}

/* ---- weights ------------------------------------------------------------------------------------------- */
/* Turns the first `visible` logits into weights that sum to 1, or are all 0 where every logit is -inf; the
 * others become 0. NaN spreads over its row. */
static inline void softmax(int64_t visible, int64_t wide, real *x) {
    const vec none = (vec){0} - (real)INFINITY;
    for (int64_t j = visible; j < wide; j++) x[j] = -(real)INFINITY;
    vec most = none, total = {0};
    for (int64_t j = 0; j < visible; j += LANES) most = maximum(*(const uvec *)(x + j), most);
    real top = most[0], sum = 0;
    for (int l = 1; l < LANES; l++) top = most[l] > top ? most[l] : top;
    if (top == -(real)INFINITY) top = 0;
    for (int64_t j = 0; j < visible; j += LANES) {
        vec logit = *(const uvec *)(x + j),
            e = (vec)((ints)exponential(logit - top) & ~(ints)(logit == none));
        *(uvec *)(x + j) = e;
        total += e;
    }
    for (int l = 0; l < LANES; l++) sum += total[l];
    const real scale = sum == 0 ? 0 : 1 / sum; /* NaN: scaled by it */
    for (int64_t j = 0; j < visible; j += LANES) *(uvec *)(x + j) *= scale;
    for (int64_t j = (visible + LANES - 1) / LANES * LANES; j < wide; j++) x[j] = 0;
}

/* Loads the rows of the block and computes the weights and the moments of its pairs. */
static inline void weigh(const block *b) {
    const local_linear *l = b->l;
    int64_t count = tokens(l), features = padded(l->moments);
    load(b, l->query, l->key_size, b->query);
    clear_columns(b->query, b->rows, l->key_size, padded(l->key_size));
    load(b, l->places, l->size, b->place);
    clear_columns(b->place, b->rows, l->size, padded(l->size));
    clear(b->tall, padded(l->size), b->ridge);
    if (l->ridge)
        for (int64_t i = 0; i < b->rows; i++)
            memcpy(row(b->ridge, i), l->ridge + (b->group * l->sharing + i / count) * l->size,
                   (size_t)l->size * sizeof(real));
    for (int64_t i = 0; i < b->rows; i += CHUNK) {
        int64_t some = fewer(CHUNK, b->rows - i);
        for (int64_t j = 0; j < b->wide; j += TILE)
            product(whole(some), TILE, l->key_size, from(b->query, i, 0), from(keys_t(b), 0, j),
                    from(b->weights, i, j), SET);
        for (int64_t r = i; r < i + some; r++) {
            int64_t c = r % count, visible = b->seen - count + c + 1;
            real *logits = row(b->weights, r);
            if (l->bias) {
                const real *bias = l->bias + (b->group * b->rows + r) * b->seen;
                for (int64_t j = 0; j < visible; j++) logits[j] += bias[j];
            }
            softmax(visible, b->wide, logits);
        }
        for (int64_t j = 0; j < b->seen; j += TILE)
            product(whole(some), features, fewer(TILE, b->seen - j), from(b->weights, i, j),
                    from(points(b), j, 0), from(b->moments, i, 0), j ? ADD : SET);
    }
}

/* ---- sweeps -------------------------------------------------------------------------------------------- */
/* b->offset_i = m_r . x_i for the rows r = index_i */
static inline void offsets(const block *b, int64_t count, const int64_t *index, matrix x) {
    for (int64_t i = 0; i < count; i++) b->offset[i] = dot(b->l->size, row(b->moments, index[i]), row(x, i));
}

/* A tile of p_rj (x_i . k_j - m_r . x_i) for the rows r = index_i, i < count <= CHUNK; `some` of its columns
 * are pairs, the others 0. */
static inline void tilt(const block *b, int64_t count, const int64_t *index, matrix x, const real *offset,
                        int64_t j, int64_t some, matrix tile) {
    product(whole(count), TILE, b->l->size, x, from(points_t(b), 0, j), tile, SET);
    for (int64_t i = 0; i < count; i++) {
        const real *p = row(b->weights, index[i]) + j;
        for (int64_t c = 0; c < TILE; c += LANES)
            *(uvec *)(row(tile, i) + c) =
                *(const uvec *)(p + c) * (*(const uvec *)(row(tile, i) + c) - offset[i]);
    }
    if (some < TILE) clear_columns(tile, count, some, TILE);
}

/* For the rows r = index_i: image_i = Cov_r x_i and y_i = sum_j (p_rj - tilt_rj(x_i)) v_j; either may be
 * absent, with data NULL. */
static inline void sweep(const block *b, int64_t count, const int64_t *index, matrix x, matrix image,
                         matrix y) {
    offsets(b, count, index, x);
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t some = fewer(CHUNK, count - i);
        for (int64_t j = 0; j < b->seen; j += TILE) {
            int64_t depth = fewer(TILE, b->seen - j);
            tilt(b, some, index + i, from(x, i, 0), b->offset + i, j, depth, b->tile);
            if (image.data)
                product(whole(some), padded(b->l->size), depth, b->tile, from(points(b), j, 0),
                        from(image, i, 0), j ? ADD : SET);
            if (!y.data) continue;
            for (int64_t r = 0; r < some; r++)
                for (int64_t c = 0; c < TILE; c += LANES) {
                    uvec *entry = (uvec *)(row(b->tile, r) + c);
                    *entry = *(const uvec *)(row(b->weights, index[i + r]) + j + c) - *entry;
                }
            product(whole(some), padded(b->l->value_size), depth, b->tile, from(values(b), j, 0),
                    from(y, i, 0), j ? ADD : SET);
        }
    }
}

#endif
