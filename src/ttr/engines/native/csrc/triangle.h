/* The unit lower triangular system of a chunk, (I + A) W = U, by substitution in blocks of ROWS tokens.
 *
 * `invert_blocks` overwrites every diagonal block A_bb with (I + A_bb)^{-1}, also found by substitution: with
 * near-equal keys and a step of 1, the doubling (I - A)(I + A^2)(I + A^4)... over the whole chunk would lose
 * all digits. */
#ifndef TTR_TRIANGLE_H
#define TTR_TRIANGLE_H

#include "matrix.h"

static inline void invert_blocks(int64_t size, matrix a) {
    for (int64_t start = 0; start < size; start += ROWS) {
        real inverse[ROWS][ROWS] = {{0}};
        matrix block = from(a, start, start);
        for (int i = 0; i < ROWS; i++) {
            inverse[i][i] = 1;
            for (int k = 0; k < i; k++)
                for (int j = 0; j <= k; j++) inverse[i][j] -= row(block, i)[k] * inverse[k][j];
        }
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < ROWS; j++) row(block, i)[j] = inverse[i][j];
    }
}

/* u [size, columns] becomes (I + A)^{-1} u. A block can be solved in place, because one register tile reads
 * all of its rows before it writes. */
static inline void solve(int64_t size, int64_t columns, matrix a, matrix u) {
    for (int64_t start = 0; start < size; start += ROWS) {
        matrix block = from(u, start, 0);
        if (start) product(ROWS, columns, start, from(a, start, 0), u, block, SUBTRACT);
        product(ROWS, columns, ROWS, from(a, start, start), block, block, SET);
    }
}

/* u becomes (I + A)^{-T} u. */
static inline void solve_transposed(int64_t size, int64_t columns, matrix a, matrix u) {
    for (int64_t start = size - ROWS; start >= 0; start -= ROWS) {
        int64_t below = start + ROWS;
        matrix block = from(u, start, 0);
        if (below < size)
            transposed_product(ROWS, columns, size - below, from(a, below, start), from(u, below, 0), block,
                               SUBTRACT);
        transposed_product(ROWS, columns, ROWS, from(a, start, start), block, block, SET);
    }
}

#endif
