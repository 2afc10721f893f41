/* Solving A_r x_r = b_r for the rows of a block: engines/torch/covariance_solve.py says which way is taken where, and why. */
#ifndef TTR_COVARIANCES_H
#define TTR_COVARIANCES_H

#include "lines.h"

enum { TOGETHER = 8, BATCH = 8 }; /* rows that are eliminated side by side; pairs that a matrix takes up at a time */

typedef struct {
    matrix inverse, unit, x, residual, direction, image, packed; /* [D', D'], and [R, D'] each; where there are many channels */
    matrix again;                                                /* [CHUNK, V'], what is read again */
    real *size, *norm, *energy, *enough, *error;                 /* of every row */
    int64_t *index, *doubtful, *directly;                        /* rows in work, those to be solved directly, whether a row was at once */
    double *table;                                               /* [D, D'] and BATCH + 3 rows, in each of rows that are eliminated together */
    int64_t steps, direct, singular;
    double largest;                                              /* residual */
} solver;

static inline double *take_doubles(arena *a, int64_t count) { return (double *)take(a, count * (int64_t)(sizeof(double) / sizeof(real))); }
static inline int64_t *take_indices(arena *a, int64_t count) { return (int64_t *)take(a, count * (int64_t)(sizeof(int64_t) / sizeof(real))); }
static inline int many_channels(const lines *l) { return l->moments == l->size; }

static inline solver take_solver(const lines *l, arena *a) {
    int64_t rows = padded(l->sharing * tokens(l)), size = padded(l->size);
    solver s = {.table = take_doubles(a, (l->size + BATCH + 3) * size * (many_channels(l) ? 1 : TOGETHER))};
    s.again = take_matrix(a, CHUNK, padded(l->value_size));
    if (many_channels(l)) {
        s.unit = take_matrix(a, rows, size);
        s.inverse = take_matrix(a, size, size);
        s.x = take_matrix(a, rows, size);
        s.residual = take_matrix(a, rows, size);
        s.direction = take_matrix(a, rows, size);
        s.image = take_matrix(a, rows, size);
        s.packed = take_matrix(a, rows, size);
    }
    s.size = take(a, rows), s.norm = take(a, rows), s.energy = take(a, rows), s.enough = take(a, rows), s.error = take(a, rows);
    s.index = take_indices(a, rows), s.doubtful = take_indices(a, rows), s.directly = take_indices(a, rows);
    return s;
}

/* ---- directly, in float64 --------------------------------------------------------------------------------------------------------------------- */
typedef double several __attribute__((vector_size(TOGETHER * sizeof(double)), may_alias));

/* x = A^-1 x by Cholesky for A [D, D] row by row, of which the lower triangle is given and overwritten; rows are `stride` long. `column` is
 * room for a row. 0, or -1 if A is singular. */
static int cholesky_solve(int64_t size, int64_t stride, double *a, double *column, double *x) {
    for (int64_t k = 0; k < size; k++) {
        double pivot = a[k * stride + k];
        if (!(pivot > 0)) return -1;
        pivot = sqrt(pivot);
        a[k * stride + k] = pivot;
        for (int64_t i = k + 1; i < size; i++) column[i] = a[i * stride + k] /= pivot;
        for (int64_t i = k + 1, first = (k + 1) / TOGETHER; i < size; i++) {
            /* the vector that holds column k + 1 may begin before it, with the factor, which must not move */
            several *target = (several *)(a + i * stride);
            for (int64_t j = k + 1; j <= i && j < (first + 1) * TOGETHER; j++) a[i * stride + j] -= column[i] * column[j];
            for (int64_t j = first + 1; j <= i / TOGETHER; j++) target[j] -= column[i] * ((several *)column)[j];
        }
    }
    for (int64_t i = 0; i < size; i++) {
        double sum = x[i];
        for (int64_t j = 0; j < i; j++) sum -= a[i * stride + j] * x[j];
        x[i] = sum / a[i * stride + i];
    }
    for (int64_t i = size - 1; i >= 0; i--) {
        x[i] /= a[i * stride + i];
        for (int64_t j = 0; j < i; j++) x[j] -= a[i * stride + j] * x[i];
    }
    return 0;
}

/* The row's matrix from its pairs, and Cholesky; solution = A_r^-1 right. 0, or -1 if the matrix is singular. */
static int solve_directly(const block *b, int64_t r, const real *right, double *table, real *solution) {
    const real *p = row(b->weights, r);
    const matrix pairs = points(b);
    int64_t size = b->l->size, stride = (size + TOGETHER - 1) / TOGETHER * TOGETHER, seen = b->seen;
    double *a = table, *mean = a + size * stride, *column = mean + stride, *x = column + stride, *z = x + stride; /* z [BATCH, stride] */
    while (seen > 0 && p[seen - 1] == 0) seen--;
    memset(table, 0, (size_t)((size + BATCH + 3) * stride) * sizeof(double));
    for (int64_t i = 0; i < size; i++) x[i] = right[i], a[i * stride + i] = row(b->ridge, r)[i];
    for (int64_t j = 0; j < seen; j++)
        for (int64_t i = 0; i < size; i++) mean[i] += (double)p[j] * row(pairs, j)[i];
    for (int64_t j = 0; j < seen; j += BATCH) {
        double weight[BATCH];
        for (int64_t k = 0; k < BATCH; k++) {
            const int there = j + k < seen;
            weight[k] = there ? p[j + k] : 0;
            for (int64_t i = 0; i < size; i++) z[k * stride + i] = there ? row(pairs, j + k)[i] - mean[i] : 0;
        }
        for (int64_t i = 0; i < size; i++) {
            several *target = (several *)(a + i * stride);
            double by[BATCH];
            for (int64_t k = 0; k < BATCH; k++) by[k] = weight[k] * z[k * stride + i];
            for (int64_t m = 0; m <= i / TOGETHER; m++) {
                several sum = target[m];
#pragma GCC unroll 8
                for (int64_t k = 0; k < BATCH; k++) sum += by[k] * ((const several *)(z + k * stride))[m];
                target[m] = sum;
            }
        }
    }
    if (cholesky_solve(size, stride, a, column, x)) return -1;
    for (int64_t i = 0; i < size; i++) solution[i] = (real)x[i];
    return 0;
}

static void solve_doubtful(const block *b, solver *s, int64_t count, matrix right, matrix solution) {
    s->direct += count;
    for (int64_t i = 0; i < count; i++) s->singular -= solve_directly(b, s->doubtful[i], row(right, s->doubtful[i]), s->table, row(solution, s->doubtful[i]));
}

/* ---- few channels: elimination in TOGETHER rows side by side, in float64 --------------------------------------------------------------------- */
/* Entry (i, j), i <= j, of the second moments among the moments of a point (products_of in covariance_solve.py) */
static inline int64_t product_at(int64_t size, int64_t i, int64_t j) { return size + i * size - i * (i - 1) / 2 + j - i; }

INLINE void of_rows(matrix m, int64_t r, int64_t rows, int64_t column, several *x) {
    *x = (several){0};
    for (int64_t k = 0; k < rows; k++) (*x)[k] = row(m, r + k)[column];
}

/* A_r of the rows r .. r + rows - 1 into `a`, upper triangles [D, D], and what they are least to leave as pivots */
static void write_covariances(const block *b, int64_t r, int64_t rows, several *a, several *least) {
    int64_t size = b->l->size;
    several mean, other, second, ridge;
    for (int64_t i = 0; i < size; i++) {
        of_rows(b->moments, r, rows, i, &mean);
        of_rows(b->ridge, r, rows, i, &ridge);
        for (int64_t j = i; j < size; j++) {
            of_rows(b->moments, r, rows, product_at(size, i, j), &second);
            of_rows(b->moments, r, rows, j, &other);
            if (i == j && least) least[i] = b->l->least_pivot * second;
            a[i * size + j] = second - mean * other;
        }
        a[i * size + i] += ridge;
    }
}

static int64_t eliminate(const block *b, solver *s, matrix right, matrix solution) {
    int64_t size = b->l->size, doubtful = 0;
    several *a = (several *)s->table, *x = a + size * size, *least = x + size;
    for (int64_t r = 0; r < b->rows; r += TOGETHER) {
        int64_t rows = fewer(TOGETHER, b->rows - r), lost[TOGETHER] = {0};
        write_covariances(b, r, rows, a, least);
        for (int64_t i = 0; i < size; i++) of_rows(right, r, rows, i, x + i);
        for (int64_t k = 0; k < size; k++) {
            several pivot = a[k * size + k];
            for (int64_t m = 0; m < rows; m++) lost[m] |= !(pivot[m] > 0 && pivot[m] >= least[k][m]);
            for (int64_t i = k + 1; i < size; i++) {
                several by = a[k * size + i] / pivot;
                for (int64_t j = i; j < size; j++) a[i * size + j] -= by * a[k * size + j];
                x[i] -= by * x[k];
            }
        }
        for (int64_t i = size - 1; i >= 0; i--) {
            for (int64_t j = i + 1; j < size; j++) x[i] -= a[i * size + j] * x[j];
            x[i] /= a[i * size + i];
        }
        for (int64_t i = 0; i < size; i++)
            for (int64_t m = 0; m < rows; m++) row(solution, r + m)[i] = (real)x[i][m];
        /* what the rounded solution leaves */
        write_covariances(b, r, rows, a, NULL);
        double left[TOGETHER] = {0}, all[TOGETHER] = {0};
        for (int64_t i = 0; i < size; i++) {
            several target, sum, entry;
            of_rows(right, r, rows, i, &target);
            sum = target;
            for (int64_t j = 0; j < size; j++) {
                of_rows(solution, r, rows, j, &entry);
                sum -= a[i < j ? i * size + j : j * size + i] * entry;
            }
            for (int64_t m = 0; m < rows; m++) left[m] += sum[m] * sum[m], all[m] += target[m] * target[m];
        }
        for (int64_t m = 0; m < rows; m++) { /* of a row that lost its digits the moments cannot tell what is left */
            if (lost[m]) s->doubtful[doubtful++] = r + m;
            else if (all[m] > 0 && sqrt(left[m] / all[m]) > s->largest) s->largest = sqrt(left[m] / all[m]);
        }
    }
    return doubtful;
}

/* ---- many: conjugate gradient ------------------------------------------------------------------------------------------------------------------ */
/* M = M^-1 by Gauss and Jordan. 0, or -1 if a pivot of the positive definite M is lost. */
static int invert(int64_t size, matrix m) {
    for (int64_t k = 0; k < size; k++) {
        real *pivot_row = row(m, k), pivot = pivot_row[k];
        if (!(pivot > 0)) return -1;
        pivot_row[k] = 1;
        for (int64_t j = 0; j < size; j += LANES) *(uvec *)(pivot_row + j) /= (vec){0} + pivot;
        for (int64_t i = 0; i < size; i++) {
            if (i == k) continue;
            real *target = row(m, i), by = target[k];
            target[k] = 0;
            for (int64_t j = 0; j < size; j += LANES) *(uvec *)(target + j) -= by * *(const uvec *)(pivot_row + j);
        }
    }
    return 0;
}

/* The inverse of the average of the block's matrices, or of its diagonal where that has none; 1 on the diagonal behind the channels. */
static void precondition(const block *b, solver *s) {
    int64_t size = b->l->size, wide = padded(size);
    matrix scaled = b->tile, average = s->inverse;
    real share = 1 / (real)b->rows;
    clear(wide, wide, average);
    for (int64_t j = 0; j < b->seen; j += TILE) { /* a row of `scaled` is a pair, of whose channels there may be more than it has columns */
        int64_t some = fewer(TILE, b->seen - j);
        real weight[TILE] = {0};
        for (int64_t r = 0; r < b->rows; r++)
            for (int64_t c = 0; c < TILE; c += LANES) *(uvec *)(weight + c) += *(const uvec *)(row(b->weights, r) + j + c);
        for (int64_t i = 0; i < wide; i += TILE) {
            int64_t columns = fewer(TILE, wide - i);
            for (int64_t c = 0; c < some; c++)
                for (int64_t k = 0; k < columns; k += LANES)
                    *(uvec *)(row(scaled, c) + k) = weight[c] * share * *(const uvec *)(row(points(b), j + c) + i + k);
            transposed_product(columns, wide, some, scaled, from(points(b), j, 0), from(average, i, 0), ADD);
        }
    }
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t j = 0; j < wide; j += LANES) *(uvec *)(row(s->packed, r) + j) = share * *(const uvec *)(row(b->moments, r) + j);
    transposed_product(wide, wide, b->rows, s->packed, b->moments, average, SUBTRACT);
    for (int64_t i = 0; i < wide; i++) {
        real *diagonal = row(average, i) + i;
        for (int64_t h = 0; h < b->l->sharing; h++) *diagonal += row(b->ridge, h * tokens(b->l))[i] / (real)b->l->sharing;
        if (i >= size) *diagonal = 1;
    }
}

static void choose_inverse(const block *b, solver *s) {
    int64_t wide = padded(b->l->size);
    precondition(b, s);
    if (invert(wide, s->inverse) == 0) return;
    precondition(b, s);
    for (int64_t i = 0; i < wide; i++) {
        real diagonal = row(s->inverse, i)[i];
        clear(1, wide, from(s->inverse, i, 0));
        row(s->inverse, i)[i] = diagonal > 0 ? 1 / diagonal : 1;
    }
}

static inline void gather(const int64_t *index, int64_t count, int64_t wide, matrix from_rows, matrix to) {
    for (int64_t i = 0; i < count; i++) memcpy(row(to, i), row(from_rows, index[i]), (size_t)wide * sizeof(real));
}

/* image_i += diag(ridge) x_i */
static inline void add_ridge(int64_t wide, const real *ridge, const real *x, real *image) {
    for (int64_t j = 0; j < wide; j += LANES) *(uvec *)(image + j) += *(const uvec *)(ridge + j) * *(const uvec *)(x + j);
}

/* s->x solves for s->unit in the rows with energy. A row whose energy is 0 has converged, or was not wanted; whether it has converged at all
 * is for the caller to see. */
static void iterate(const block *b, solver *s) {
    const real tiny = sizeof(real) == 8 ? (real)2.3e-308 : (real)1.2e-38;
    const int64_t wide = padded(b->l->size);
    for (; s->steps < b->l->size + 16; s->steps++) {
        int64_t count = 0;
        for (int64_t r = 0; r < b->rows; r++)
            if (s->energy[r] > 0) s->index[count++] = r;
        if (count == 0) return;
        gather(s->index, count, wide, s->direction, s->packed);
        sweep(b, count, s->index, s->packed, s->image, (matrix){NULL, 0});
        for (int64_t i = 0; i < count; i++) {
            int64_t r = s->index[i];
            add_ridge(wide, row(b->ridge, r), row(s->packed, i), row(s->image, i));
            real along = dot(wide, row(s->packed, i), row(s->image, i)), step = s->energy[r] / (along > tiny ? along : tiny);
            add_scaled(wide, step, row(s->packed, i), row(s->x, r));
            add_scaled(wide, -step, row(s->image, i), row(s->residual, r));
        }
        gather(s->index, count, wide, s->residual, s->packed);
        product(whole(count), wide, wide, s->packed, s->inverse, s->image, SET);
        for (int64_t i = 0; i < count; i++) {
            int64_t r = s->index[i];
            real energy = dot(wide, row(s->packed, i), row(s->image, i)), *direction = row(s->direction, r), turn = energy / s->energy[r];
            for (int64_t j = 0; j < wide; j += LANES) *(uvec *)(direction + j) = *(const uvec *)(row(s->image, i) + j) + turn * *(const uvec *)(direction + j);
            s->energy[r] = energy > s->enough[r] ? energy : 0;
        }
    }
}

/* right_r in units of its largest entry, so that no square under- or overflows; rows that see little more pairs than they have channels are
 * doubtful, the others are given energy. */
static int64_t start(const block *b, solver *s, matrix right) {
    const int64_t wide = padded(b->l->size), count = tokens(b->l);
    int64_t doubtful = 0;
    for (int64_t r = 0; r < b->rows; r++) {
        real most = 0;
        for (int64_t j = 0; j < b->l->size; j++) most = row(right, r)[j] > most ? row(right, r)[j] : -row(right, r)[j] > most ? -row(right, r)[j] : most;
        s->size[r] = most > 0 ? most : 1;
        for (int64_t j = 0; j < wide; j++) row(s->unit, r)[j] = j < b->l->size ? row(right, r)[j] / s->size[r] : 0;
        memcpy(row(s->residual, r), row(s->unit, r), (size_t)wide * sizeof(real));
    }
    clear(b->rows, wide, s->x);
    product(whole(b->rows), wide, wide, s->unit, s->inverse, s->direction, SET);
    for (int64_t r = 0; r < b->rows; r++) {
        s->norm[r] = s->energy[r] = dot(wide, row(s->unit, r), row(s->direction, r));
        s->enough[r] = (real)(b->l->target * b->l->target) * s->energy[r];
        s->directly[r] = b->l->slots + b->l->start + r % count + 1 < 2 * b->l->size;
        if (s->directly[r]) s->energy[r] = 0, s->doubtful[doubtful++] = r;
    }
    return doubtful;
}

/* The errors of the rows r = index_i: what their solutions, whose images are image_i, leave of the right-hand side, in the norm that the
 * iteration measures. */
static void measure(const block *b, solver *s, int64_t count, const int64_t *index, matrix solution) {
    const int64_t wide = padded(b->l->size);
    for (int64_t i = 0; i < count; i++) {
        int64_t r = index[i];
        real *residual = row(s->residual, i), *image = row(s->image, i);
        add_ridge(wide, row(b->ridge, r), row(solution, r), image);
        for (int64_t j = 0; j < wide; j++) residual[j] = row(s->unit, r)[j] - image[j] / s->size[r];
    }
    product(whole(count), wide, wide, s->residual, s->inverse, s->direction, SET);
    for (int64_t i = 0; i < count; i++) {
        double all = s->norm[index[i]], left = dot(wide, row(s->residual, i), row(s->direction, i));
        s->error[index[i]] = left == left ? sqrt((left > 0 ? left : 0) / (all > 0 ? all : 1)) : left;
    }
}

/* A_r solution_r = right_r for all rows and, unless its data are NULL, y_r = sum_j (p_rj - tilt_rj(solution_r)) v_j. */
static void solve(const block *b, solver *s, matrix right, matrix solution, matrix y) {
    const int64_t wide = padded(b->l->size);
    int64_t doubtful;
    s->steps = s->direct = s->singular = 0, s->largest = 0;
    if (!many_channels(b->l)) {
        doubtful = eliminate(b, s, right, solution);
        solve_doubtful(b, s, doubtful, right, solution);
        for (int64_t r = 0; r < b->rows; r++) s->index[r] = r;
        if (y.data) sweep(b, b->rows, s->index, solution, (matrix){NULL, 0}, y);
        return;
    }
    choose_inverse(b, s);
    doubtful = start(b, s, right);
    iterate(b, s);
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t j = 0; j < wide; j++) row(solution, r)[j] = s->size[r] * row(s->x, r)[j];
    solve_doubtful(b, s, doubtful, right, solution);
    for (int64_t r = 0; r < b->rows; r++) s->index[r] = r;
    sweep(b, b->rows, s->index, solution, s->image, y);
    measure(b, s, b->rows, s->index, solution);
    doubtful = 0;
    for (int64_t r = 0; r < b->rows; r++)
        if (!s->directly[r] && !(s->error[r] <= b->l->accepted * b->l->target)) s->doubtful[doubtful++] = r;
    solve_doubtful(b, s, doubtful, right, solution);
    for (int64_t i = 0; i < doubtful; i += CHUNK) {
        int64_t some = fewer(CHUNK, doubtful - i), *index = s->doubtful + i;
        gather(index, some, wide, solution, s->packed);
        sweep(b, some, index, s->packed, s->image, y.data ? s->again : y);
        measure(b, s, some, index, solution);
        for (int64_t r = 0; y.data && r < some; r++) memcpy(row(y, index[r]), row(s->again, r), (size_t)b->l->value_size * sizeof(real));
    }
    for (int64_t r = 0; r < b->rows; r++) s->largest = s->error[r] <= s->largest ? s->largest : s->error[r];
}

/* What a block's rows tell of their solve. */
static void tell(const block *b, const solver *s) {
    double *told = b->l->told + 4 * b->group;
    told[0] = (double)s->steps, told[1] = (double)s->direct, told[2] = s->largest, told[3] = (double)s->singular;
}

#endif
