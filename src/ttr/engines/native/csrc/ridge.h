/* Ridge regression at every token: z_t in moments.h solves A_t z_t = q_t with A_t = H_t + diag(ridge), by
 * preconditioned conjugate gradient, whose rounds end as in engines/torch/ridge/solve.py. Where the memory
 * decays little within a chunk the preconditioner is blocked recursive least squares
 * (engines/torch/ridge/preconditioner.py has the derivation), elsewhere the diagonal. */
#ifndef TTR_RIDGE_H
#define TTR_RIDGE_H

#include "dots.h"
#include "moments.h"

enum { ROUNDS = 4 };

/* The bounds are relative to |b|, or |A||x|: the iteration stops at `target`, restarts above `refined` unless
 * rounding x costs `rounding`, a row is accepted at `accepted`, and has digits below `hopeless`. A report
 * [B H, 4] has the iterations, the rows with the better preconditioner, the largest residual, and the rows
 * that were not solved, or may have lost their digits: the caller must repeat the call otherwise if there are
 * any. */
struct ridge {
    struct regression r;
    double target, refined, rounding, accepted, hopeless;
    const real *ridge;     /* [H, F] */
    real *solution;        /* [B, T, H, F] */
    double *report;
    real *grad_ridge;      /* [B H, F] */
};

typedef struct {
    const struct ridge *p;
    workspace w;
    int near;      /* whether the preconditioner is M^-1 r = P r - F_{<=t}^T F_{<=t} r, r over a_t / a_m */
    chunk inverse; /* for `apply` to multiply with M^-1: P in the place of H_0 and F of the keys */
    matrix right, x, residual, direction, ahead, preconditioned, diagonal, change; /* [C', F'] */
    real *ridge, *relative, *size, *length, *energy, *active; /* [F'], and [C'] of every token */
} solver;

static inline solver allocate_solver(const struct ridge *p, arena *a) {
    solver s = {p, allocate_workspace(&p->r, a)};
    int64_t tokens = s.w.tokens, size = s.w.size;
    s.inverse = allocate_chunk(tokens, size, a);
    matrix *all[] = {&s.right, &s.x, &s.residual, &s.direction, &s.ahead, &s.preconditioned, &s.diagonal,
                     &s.change};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = allocate_matrix(a, tokens, size);
    s.ridge = allocate(a, size), s.relative = allocate(a, tokens), s.size = allocate(a, tokens);
    s.length = allocate(a, tokens), s.energy = allocate(a, tokens), s.active = allocate(a, tokens);
    return s;
}

static inline real product_of_rows(const solver *s, matrix a, matrix b, int64_t t) {
    vec sum = {0};
    for (int64_t j = 0; j < s->w.size; j += LANES)
        sum += *(const vec *)(row(a, t) + j) * *(const vec *)(row(b, t) + j);
    return horizontal(sum);
}
static inline real norm_of_row(const solver *s, matrix m, int64_t t) {
    return (real)sqrt((double)product_of_rows(s, m, m, t));
}

/* Sums of the diagonal of A_t, and its largest entry */
static inline real largest_at(const solver *s, int64_t t, real *sum) {
    real largest = 0;
    *sum = 0;
    for (int64_t j = 0; j < s->p->r.features; j++) {
        real entry = row(s->diagonal, t)[j];
        largest = entry > largest ? entry : largest, *sum += entry;
    }
    return largest;
}

static inline void write_diagonal(const solver *s) {
    const workspace *w = &s->w;
    int64_t tokens = w->tokens, size = w->size;
    for (int64_t j = 0; j < tokens * size; j += LANES) {
        vec key = *(const vec *)(w->c.keys.data + j);
        *(vec *)(w->carried.data + j) = key * key;
    }
    product(tokens, size, tokens, w->weights, w->carried, s->diagonal, SET);
    for (int64_t j = 0; j < size; j++)
        for (int64_t t = 0; t < tokens; t++)
            row(s->diagonal, t)[j] += w->decay[t] * row(w->c.moments, j)[j] + s->ridge[j];
}

/* F from P and the keys times (w_t / relative_t)^(1/2): R R^T = 1 + K P K^T and F = R^-1 K P. Returns -1
 * where P cannot be computed. */
static inline int factorise(const solver *s) {
    const workspace *w = &s->w;
    int64_t tokens = w->tokens, size = w->size, middle = w->p->chunk / 2;
    matrix inverse = s->inverse.moments, read = s->inverse.keys, factor = s->inverse.shares;
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j < size; j++) row(inverse, i)[j] = w->decay[middle] * row(w->c.moments, i)[j];
        row(inverse, i)[i] += i < w->p->features ? s->ridge[i] : 1;
    }
    if (invert(size, inverse)) return -1;
    for (int64_t t = 0; t < tokens; t++) {
        real root = (real)sqrt((double)(row(w->weights, t)[t] / s->relative[t]));
        for (int64_t j = 0; j < size; j++) row(w->carried, t)[j] = root * row(w->c.keys, t)[j];
    }
    product(tokens, size, size, w->carried, inverse, read, SET);
    transpose(tokens, size, w->carried, from(inverse, 0, size));
    product(tokens, tokens, size, read, from(inverse, 0, size), factor, SET);
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i <= t; i++) {
            real *entry = row(factor, t) + i, sum = *entry + (i == t);
            for (int64_t j = 0; j < i; j++) sum -= row(factor, t)[j] * row(factor, i)[j];
            *entry = i < t ? sum / row(factor, i)[i] : (real)sqrt((double)sum);
        }
        for (int64_t i = 0; i < t; i++) add_scaled(size, -row(factor, t)[i], row(read, i), row(read, t));
        for (int64_t j = 0; j < size; j++) row(read, t)[j] /= row(factor, t)[t];
        for (int64_t i = 0; i < tokens; i++) row(s->inverse.weights, t)[i] = i <= t ? -1 : 0;
        s->inverse.decay[t] = 1;
    }
    transpose(tokens, size, read, from(inverse, 0, size));
    return 0;
}

/* The system of a chunk that is loaded, and its preconditioner */
static inline void prepare(solver *s) {
    const workspace *w = &s->w;
    int64_t chunk = w->p->chunk;
    double first = w->decay[0], last = w->decay[chunk - 1];
    for (int64_t t = 0; t < w->tokens; t++) {
        set_scale(w, t, 1);
        s->relative[t] = t < chunk ? w->decay[t] / w->decay[chunk / 2] : 1;
    }
    write_diagonal(s);
    s->near = first > 0 && last > 0.1353352832366127 * first && factorise(s) == 0; /* e^-2 */
}

static inline void precondition(const solver *s) {
    const workspace *w = &s->w;
    for (int64_t t = 0; t < w->tokens; t++)
        for (int64_t j = 0; j < w->size; j++) {
            real by = s->near ? s->relative[t] : row(s->diagonal, t)[j];
            row(s->change, t)[j] = row(s->residual, t)[j] / (by > 0 ? by : 1);
        }
    if (s->near) apply(&s->inverse, s->change, w->met, s->preconditioned);
    else memcpy(s->preconditioned.data, s->change.data, (size_t)(w->tokens * w->size) * sizeof(real));
}

/* image = A x; where `known` is not NULL it is M x = A x - (1 - relative) diag(ridge) x. */
static inline void multiply(const solver *s, matrix x, const matrix *known, matrix image) {
    const workspace *w = &s->w;
    if (!known) apply(&w->c, x, w->met, image);
    for (int64_t t = 0; t < w->tokens; t++) {
        const real *start = known ? row(*known, t) : row(image, t), share = known ? 1 - s->relative[t] : 1;
        for (int64_t j = 0; j < w->size; j += LANES)
            *(vec *)(row(image, t) + j) =
                *(const vec *)(start + j) +
                share * *(const vec *)(s->ridge + j) * *(const vec *)(row(x, t) + j);
    }
}

/* x += what conjugate gradient from 0 finds for the rows of `residual` that are active, until they are within
 * target |b|. A row that has converged is left as it is, to the last bit. Returns the iterations. */
static inline int64_t iterate(const solver *s) {
    const workspace *w = &s->w;
    int64_t iterations = 0, limit = w->p->features + 16;
    for (int first = 1;; first = 0) {
        int64_t count = 0;
        for (int64_t t = 0; t < w->tokens; t++) {
            if (s->active[t] && !(norm_of_row(s, s->residual, t) > (real)s->p->target * s->length[t]))
                s->active[t] = 0;
            count += s->active[t] > 0;
        }
        if (!count || iterations == limit) return iterations;
        iterations++;
        precondition(s);
        for (int64_t t = 0; t < w->tokens; t++) {
            real energy = product_of_rows(s, s->residual, s->preconditioned, t),
                 ratio = first || !s->active[t] ? 0 : energy / s->energy[t];
            if (!(energy > 0)) s->active[t] = 0;
            s->energy[t] = energy;
            for (int64_t j = 0; j < w->size; j += LANES) {
                vec *direction = (vec *)(row(s->direction, t) + j), *ahead = (vec *)(row(s->ahead, t) + j),
                    residual = *(const vec *)(row(s->residual, t) + j),
                    preconditioned = *(const vec *)(row(s->preconditioned, t) + j);
                *direction = preconditioned + ratio * (first ? (vec){0} : *direction);
                *ahead = residual + ratio * (first ? (vec){0} : *ahead);
            }
        }
        multiply(s, s->direction, s->near ? &s->ahead : NULL, w->image);
        for (int64_t t = 0; t < w->tokens; t++) {
            real curvature = product_of_rows(s, s->direction, w->image, t);
            if (!(curvature > 0)) s->active[t] = 0;
            if (!s->active[t]) continue;
            real step = s->energy[t] / curvature;
            add_scaled(w->size, step, row(s->direction, t), row(s->x, t));
            add_scaled(w->size, -step, row(w->image, t), row(s->residual, t));
        }
    }
}

/* residual = right - A x */
static inline void measure(const solver *s) {
    multiply(s, s->x, NULL, s->residual);
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES) {
        vec *residual = (vec *)(s->residual.data + j);
        *residual = *(const vec *)(s->right.data + j) - *residual;
    }
}

/* A x = right for all tokens; `right` is divided by its largest entries, so that no square under- or
 * overflows. */
static inline void solve(const solver *s) {
    const workspace *w = &s->w;
    double *report = s->p->report + 4 * w->head;
    int64_t iterations = 0, left = 1;
    real error[BLOCK], sum;
    clear(w->tokens, w->size, s->x);
    for (int64_t t = 0; t < w->tokens; t++) {
        real *right = row(s->right, t), most = 0;
        for (int64_t j = 0; j < w->size; j++) {
            real entry = (real)fabs((double)right[j]);
            most = entry > most ? entry : most;
        }
        s->size[t] = most > 0 ? most : 1;
        for (int64_t j = 0; j < w->size; j++) row(s->residual, t)[j] = right[j] /= s->size[t];
        s->length[t] = error[t] = norm_of_row(s, s->right, t);
        s->active[t] = s->length[t] > 0;
    }
    for (int round = 0; round < ROUNDS && left; round++) {
        iterations += iterate(s);
        measure(s);
        left = 0;
        for (int64_t t = 0; t < w->tokens; t++) {
            real before = error[t];
            error[t] = norm_of_row(s, s->residual, t);
            s->active[t] = error[t] > s->p->refined * s->length[t] && error[t] < before / 2 &&
                           error[t] > s->p->rounding * largest_at(s, t, &sum) * norm_of_row(s, s->x, t);
            left += s->active[t] > 0;
        }
    }
    if (iterations > report[0]) report[0] = (double)iterations;
    if (s->near) report[1] += (double)w->present;
    for (int64_t t = 0; t < w->present; t++) {
        double length = s->length[t], x = norm_of_row(s, s->x, t), largest = largest_at(s, t, &sum);
        double relative = error[t] / (length > 0 ? length : 1);
        if (relative > report[2]) report[2] = relative;
        report[3] += !(error[t] <= s->p->accepted * (length > largest * x ? length : largest * x) &&
                       s->p->rounding * sum * x <= s->p->hopeless * length);
    }
    for (int64_t t = 0; t < w->tokens; t++)
        for (int64_t j = 0; j < w->size; j += LANES) *(vec *)(row(s->x, t) + j) *= s->size[t];
}

static inline void load_ridge(const solver *s) {
    int64_t features = s->p->r.features;
    load(1, features, s->p->ridge + s->w.head % s->p->r.heads * features, features, 1, s->w.size,
         (matrix){s->ridge, s->w.size});
}

#endif
