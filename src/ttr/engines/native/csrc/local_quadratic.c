/* The systems of local quadratic fits in their dual form, as engines/torch/quadratic_dual.py states them: for
 * every row, with entries made where they are needed,
 *
 *     A_ij = s_i s_j (e_ij (c_i + c_j + e_ij) + 2 t_i t_j) + ridge [i = j],   A x = b for up to RIGHT b.
 *
 * A = U^T U is factored in blocks of BLOCK rows, each from all rows above it (the left-looking form). U is
 * stored in strips of BLOCK columns, each contiguous from the first row to its diagonal block, so that both
 * factors of every product stream through the caches. In place of a diagonal block of U stands the transpose
 * of its inverse. */
#include <math.h>
#include <string.h>

#include "parallel.h"

enum { RIGHT = LANES < 4 ? 4 : LANES };

/* engines/native/local_quadratic.py holds the same fields in the same order. Tensors are contiguous; U units,
 * R rows of each, P pairs, a multiple of BLOCK: those that only fill it up have s = 0. */
struct local_quadratic {
    int64_t units, rows, pairs, right, threads;
    const real *products, *along, *half, *root; /* e [U,P,P], t, c and s [U,R,P] */
    const real *ridge;                          /* [U,R] */
    real *solution;                             /* [U,R,right,P]: b, which becomes x */
    real *norm;                                 /* [U,R]: |A|_F, or -1 where A is singular */
};

/* One row: its part of the tensors, U and the right sides */
typedef struct {
    const real *e, *t, *c, *s;
    int64_t pairs;
    real ridge, squares, *strips, *right;
} row_system;

static inline matrix strip(const row_system *y, int64_t block) {
    return (matrix){y->strips + BLOCK * BLOCK * block * (block + 1) / 2, BLOCK};
}

/* The block of A in block row b and block column c */
static void entries(row_system *y, int64_t b, int64_t c, matrix to) {
    vec squares = {0};
    for (int64_t i = 0; i < BLOCK; i++) {
        const int64_t at = b * BLOCK + i;
        for (int64_t j = 0; j < BLOCK; j += LANES) {
            const int64_t column = c * BLOCK + j;
            const vec e = *(const uvec *)(y->e + at * y->pairs + column);
            const vec t = *(const uvec *)(y->t + column), half = *(const uvec *)(y->c + column);
            const vec s = *(const uvec *)(y->s + column);
            vec a = s * y->s[at] * (e * (half + y->c[at] + e) + 2 * y->t[at] * t);
            if (b == c)
                for (int l = 0; l < LANES; l++)
                    if (j + l == i) a[l] += y->ridge;
            *(uvec *)(row(to, i) + j) = a;
            squares += a * a;
        }
    }
    for (int l = 0; l < LANES; l++) y->squares += (b == c ? 1 : 2) * squares[l];
}

/* The inverse of the transposed factor of a symmetric block, which is overwritten; 0 if it is not positive
 * definite. Row operations that turn the block into its factor turn the identity into that inverse. */
static int factor(matrix block, matrix inverse) {
    clear(BLOCK, BLOCK, inverse);
    for (int64_t j = 0; j < BLOCK; j++) row(inverse, j)[j] = 1;
    for (int64_t j = 0; j < BLOCK; j++) {
        const real pivot = row(block, j)[j];
        if (!(pivot > 0)) return 0;
        const real scale = 1 / (real)sqrt(pivot);
        for (int64_t l = 0; l < BLOCK; l++) row(block, j)[l] *= scale, row(inverse, j)[l] *= scale;
        for (int64_t i = j + 1; i < BLOCK; i++) {
            const real multiple = -row(block, j)[i];
            add_scaled(BLOCK, multiple, row(block, j), row(block, i));
            add_scaled(BLOCK, multiple, row(inverse, j), row(inverse, i));
        }
    }
    return 1;
}

/* Factors A and solves for the right sides; 0 if A is singular */
static int solve(row_system *y, real *work) {
    const matrix block = {work, BLOCK}, changed = {work + BLOCK * BLOCK, RIGHT};
    const int64_t blocks = y->pairs / BLOCK;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t above = b * BLOCK;
        const matrix own = strip(y, b), inverse = from(own, above, 0), right = {y->right, RIGHT};
        entries(y, b, b, block);
        transposed_product(BLOCK, BLOCK, above, own, own, block, SUBTRACT);
        if (!factor(block, inverse)) return 0;
        for (int64_t c = b + 1; c < blocks; c++) {
            const matrix other = strip(y, c);
            entries(y, b, c, block);
            transposed_product(BLOCK, BLOCK, above, own, other, block, SUBTRACT);
            product(BLOCK, BLOCK, BLOCK, inverse, block, from(other, above, 0), SET);
        }
        memcpy(changed.data, row(right, above), BLOCK * RIGHT * sizeof(real));
        transposed_product(BLOCK, RIGHT, above, own, right, changed, SUBTRACT);
        product(BLOCK, RIGHT, BLOCK, inverse, changed, from(right, above, 0), SET);
    }
    for (int64_t b = blocks - 1; b >= 0; b--) {
        const int64_t above = b * BLOCK;
        const matrix own = strip(y, b), right = {y->right, RIGHT}, at = from(right, above, 0);
        memcpy(changed.data, at.data, BLOCK * RIGHT * sizeof(real));
        transposed_product(BLOCK, RIGHT, BLOCK, from(own, above, 0), changed, at, SET);
        product(above, RIGHT, BLOCK, own, at, right, SUBTRACT);
    }
    return 1;
}

static void fit(const void *job, int64_t task, arena scratch, int64_t *needed) {
    const struct local_quadratic *l = job;
    const int64_t pairs = l->pairs, blocks = pairs / BLOCK, at = task * pairs;
    row_system y = {l->products + task / l->rows * pairs * pairs,
                    l->along + at,
                    l->half + at,
                    l->root + at,
                    pairs,
                    needed ? 0 : l->ridge[task],
                    0,
                    allocate(&scratch, BLOCK * BLOCK * blocks * (blocks + 1) / 2),
                    allocate(&scratch, pairs * RIGHT)};
    real *work = allocate(&scratch, BLOCK * (BLOCK + RIGHT));
    if (needed) {
        *needed = scratch.used;
        return;
    }
    real *solution = l->solution + at * l->right;
    for (int64_t i = 0; i < pairs; i++)
        for (int64_t r = 0; r < RIGHT; r++)
            y.right[i * RIGHT + r] = r < l->right ? solution[r * pairs + i] : 0;
    const int solved = solve(&y, work);
    l->norm[task] = solved ? (real)sqrt(y.squares) : -1;
    for (int64_t r = 0; solved && r < l->right; r++)
        for (int64_t i = 0; i < pairs; i++) solution[r * pairs + i] = y.right[i * RIGHT + r];
}

/* Returns 0, or -1 if there is no memory for the scratch. */
int TTR_NAME(local_quadratic)(const struct local_quadratic *call) {
    return run_tasks(call, call->units * call->rows, call->threads, fit);
}
