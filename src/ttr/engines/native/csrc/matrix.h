/* Products of small matrices, stored row by row in scratch memory.
 *
 * All sizes are multiples of BLOCK, so that no loop has a remainder; callers pad with zeros. The register
 * tile is the usual one of a matrix product (Goto and van de Geijn, Anatomy of High-Performance Matrix
 * Multiplication, 2008): ROWS rows by two vectors of the result stay in registers, entries of the left matrix
 * are broadcast. Nothing is packed: chunks fit the caches, and either axis of the left matrix may be the
 * contiguous one. */
#ifndef TTR_MATRIX_H
#define TTR_MATRIX_H

#include "simd.h"

/* integers as wide as a real, for the bits of exponents */
typedef __typeof__(__builtin_choose_expr(sizeof(real) == 4, (int32_t)0, (int64_t)0)) integer;

/* AVX-512 has registers for 8 x 2 vectors of the result, AVX2 and the others for 4 x 2 */
#define ROWS (TTR_VECTOR_BYTES == 64 ? 8 : 4)

enum { BLOCK = 16 }; /* the unit of all sizes: a multiple of LANES and of ROWS for every instruction set */
enum combine { SET, ADD, SUBTRACT }; /* C = AB, C += AB, C -= AB */
enum decay_axis { BY_ROW, BY_COLUMN };

static inline int64_t padded(int64_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* A matrix in scratch memory: entry (i, j) is at data[i * stride + j]. */
typedef struct {
    real *data;
    int64_t stride;
} matrix;

static inline real *row(matrix m, int64_t i) { return m.data + i * m.stride; }

static inline matrix from(matrix m, int64_t i, int64_t j) {
    matrix part = {row(m, i) + j, m.stride};
    return part;
}

/* Cache lines to prefetch. A product prefetches them one at a time, spread over its terms: a core has some
 * twenty reads of memory in flight at once and stalls at the next. */
typedef struct {
    const real **next, **end;
} queue;

/* One register tile of C (ROWS rows, `vectors` vectors), over `depth` terms. Entry (i, k) of the left matrix
 * is at a[i * down + k * across]. */
INLINE void tile(int64_t depth, const real *a, int64_t down, int64_t across, const real *b, int64_t b_stride,
                 real *c, int64_t c_stride, int vectors, enum combine how, queue *ahead) {
    vec sum[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = (vec){0};
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; k++) {
        vec right[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) right[j] = *(const uvec *)(b + k * b_stride + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] += a[i * down + k * across] * right[j];
        if (ahead && k % 2 && ahead->next < ahead->end) __builtin_prefetch(*ahead->next++, 0, 2);
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            uvec *out = (uvec *)(c + i * c_stride + j * LANES);
            if (how == SET) *out = sum[i][j];
            if (how == ADD) *out += sum[i][j];
            if (how == SUBTRACT) *out -= sum[i][j];
        }
}

INLINE void product_(int64_t rows, int64_t columns, int64_t depth, const real *a, int64_t down,
                     int64_t across, matrix b, matrix c, enum combine how, queue *ahead) {
    int64_t j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        for (int64_t i = 0; i < rows; i += ROWS)
            tile(depth, a + i * down, down, across, b.data + j, b.stride, row(c, i) + j, c.stride, 2, how,
                 ahead);
    for (; j < columns; j += LANES)
        for (int64_t i = 0; i < rows; i += ROWS)
            tile(depth, a + i * down, down, across, b.data + j, b.stride, row(c, i) + j, c.stride, 1, how,
                 ahead);
}

/* C [rows, columns] from A [rows, depth] and B [depth, columns] */
static __attribute__((noinline)) void product(int64_t rows, int64_t columns, int64_t depth, matrix a,
                                              matrix b, matrix c, enum combine how) {
    if (how == SET) product_(rows, columns, depth, a.data, a.stride, 1, b, c, SET, NULL);
    if (how == ADD) product_(rows, columns, depth, a.data, a.stride, 1, b, c, ADD, NULL);
    if (how == SUBTRACT) product_(rows, columns, depth, a.data, a.stride, 1, b, c, SUBTRACT, NULL);
}

/* C = AB, while the lines of `ahead` are prefetched */
static __attribute__((noinline, unused)) void prefetching_product(int64_t rows, int64_t columns,
                                                                  int64_t depth, matrix a, matrix b, matrix c,
                                                                  queue ahead) {
    product_(rows, columns, depth, a.data, a.stride, 1, b, c, SET, &ahead);
}

/* C [rows, columns] from the transpose of A [depth, rows] and B [depth, columns] */
static __attribute__((noinline)) void transposed_product(int64_t rows, int64_t columns, int64_t depth,
                                                         matrix a, matrix b, matrix c, enum combine how) {
    if (how == SET) product_(rows, columns, depth, a.data, 1, a.stride, b, c, SET, NULL);
    if (how == ADD) product_(rows, columns, depth, a.data, 1, a.stride, b, c, ADD, NULL);
    if (how == SUBTRACT) product_(rows, columns, depth, a.data, 1, a.stride, b, c, SUBTRACT, NULL);
}

/* C_ij = decay_i past_ij + (A^T B)_ij, or with decay_j by column, for A [depth, rows] and B [depth, columns];
 * C may be `past`. Computed tile by tile, since these are whole memories, which do not fit the first-level
 * cache; meanwhile the lines of `ahead` are prefetched. */
static __attribute__((noinline, unused)) void decayed_product(int64_t rows, int64_t columns, int64_t depth,
                                                              matrix a, matrix b, matrix past,
                                                              const real *decay, enum decay_axis by, matrix c,
                                                              queue ahead) {
    for (int64_t j = 0, width = 2 * LANES; j < columns; j += width) {
        if (columns - j < width) width = columns - j;
        for (int64_t i = 0; i < rows; i += ROWS) {
            for (int64_t k = i; k < i + ROWS; k++)
                for (int64_t l = j; l < j + width; l += LANES) {
                    uvec entry = *(const uvec *)(row(past, k) + l);
                    if (by == BY_ROW) entry *= decay[k];
                    if (by == BY_COLUMN) entry *= *(const uvec *)(decay + l);
                    *(uvec *)(row(c, k) + l) = entry;
                }
            product_(ROWS, width, depth, a.data + i, 1, a.stride, from(b, 0, j), from(c, i, j), ADD, &ahead);
        }
    }
}

#ifdef __clang__
INLINE void transpose_square(const real *in, int64_t in_stride, real *out, int64_t out_stride) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) out[j * out_stride + i] = in[i * in_stride + j];
}
#else
/* Transposes LANES x LANES entries. A perfect shuffle of all LANES^2 entries rotates the bits of their index
 * by one, so log2(LANES) shuffles, half the number of bits, transpose. */
INLINE void transpose_square(const real *in, int64_t in_stride, real *out, int64_t out_stride) {
    typedef integer picks __attribute__((vector_size(TTR_VECTOR_BYTES)));
    vec now[LANES], next[LANES];
    picks low, high;
#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++) low[l] = l / 2 + l % 2 * LANES, high[l] = low[l] + LANES / 2;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) now[i] = *(const uvec *)(in + i * in_stride);
#pragma GCC unroll 4
    for (int size = LANES; size > 1; size /= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = __builtin_shuffle(now[i], now[i + LANES / 2], low);
            next[2 * i + 1] = __builtin_shuffle(now[i], now[i + LANES / 2], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) now[i] = next[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) *(uvec *)(out + i * out_stride) = now[i];
}
#endif

/* `to` [columns, rows] becomes the transpose of `m` [rows, columns] */
static inline void transpose(int64_t rows, int64_t columns, matrix m, matrix to) {
    for (int64_t j = 0; j < columns; j += LANES)
        for (int64_t i = 0; i < rows; i += LANES)
            transpose_square(row(m, i) + j, m.stride, row(to, j) + i, to.stride);
}

static inline void clear(int64_t rows, int64_t columns, matrix m) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) row(m, i)[j] = 0;
}

/* row i of `to` = by_i times row i of `from` */
static inline void scale_rows(int64_t rows, int64_t columns, matrix from, const real *by, int64_t stride,
                              matrix to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += LANES)
            *(uvec *)(row(to, i) + j) = by[i * stride] * *(const uvec *)(row(from, i) + j);
}

/* y = a x + y over `size` numbers, a multiple of LANES */
static inline void add_scaled(int64_t size, real a, const real *x, real *y) {
    for (int64_t j = 0; j < size; j += LANES) *(uvec *)(y + j) += a * *(const uvec *)(x + j);
}

/* The dot product of vectors of any size; the order of the sum is fixed. */
static inline real dot(int64_t size, const real *restrict a, const real *restrict b) {
    vec sum[4] = {{0}, {0}, {0}, {0}};
    int64_t j = 0;
    for (; j + 4 * LANES <= size; j += 4 * LANES)
        for (int l = 0; l < 4; l++)
            sum[l] += *(const uvec *)(a + j + l * LANES) * *(const uvec *)(b + j + l * LANES);
    for (; j + LANES <= size; j += LANES) sum[0] += *(const uvec *)(a + j) * *(const uvec *)(b + j);
    vec total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real all = 0;
    for (int l = 0; l < LANES; l++) all += total[l];
    for (; j < size; j++) all += a[j] * b[j];
    return all;
}

/* M = M^-1 by Gauss-Jordan elimination. Returns 0, or -1 if a pivot of the positive definite M is not
 * positive. */
static inline int invert(int64_t size, matrix m) {
    for (int64_t k = 0; k < size; k++) {
        real *pivot_row = row(m, k), pivot = pivot_row[k];
        if (!(pivot > 0)) return -1;
        pivot_row[k] = 1;
        for (int64_t j = 0; j < size; j += LANES) *(uvec *)(pivot_row + j) /= (vec){0} + pivot;
        for (int64_t i = 0; i < size; i++) {
            if (i == k) continue;
            real *target = row(m, i), by = target[k];
            target[k] = 0;
            for (int64_t j = 0; j < size; j += LANES)
                *(uvec *)(target + j) -= by * *(const uvec *)(pivot_row + j);
        }
    }
    return 0;
}

#endif
