/* Local linear regression for a block of queries and its derivative, group by group. */
#include "covariances.inc"
#include "parallel.h"

/* right = m - q */
static void displace(const block *b, matrix right) {
    int64_t wide = padded(b->l->size);
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t j = 0; j < wide; j++)
            row(right, r)[j] = j < b->l->size ? row(b->moments, r)[j] - row(b->place, r)[j] : 0;
}

static void run_forward(const void *job, int64_t group, arena scratch, int64_t *needed) {
    const local_linear *l = job;
    block b = allocate_block(l, group, &scratch);
    solver s = allocate_solver(l, &scratch);
    matrix y = allocate_matrix(&scratch, b.tall, padded(l->value_size));
    if (needed) {
        *needed = scratch.used;
        return;
    }
    weigh(&b);
    if (l->slope) {
        load(&b, l->slope, l->size, b.rho);
        for (int64_t r = 0; r < b.rows; r++) s.index[r] = r;
        sweep(&b, b.rows, s.index, b.rho, (matrix){NULL, 0}, y);
    } else {
        displace(&b, b.place);
        solve(&b, &s, b.place, b.rho, y);
        store(&b, b.rho, l->size, l->rho);
        write_report(&b, &s);
    }
    store(&b, y, l->value_size, l->y);
}

/* ---- backwards; letters as at the head of engines/torch/local_linear.py -------------------------------- */
typedef struct {
    matrix grad, pulled, f, eta, query; /* g; p_i (c_i - cbar) [R, n]; f; eta; the derivative in the query */
    matrix tilted, logits, counts;      /* tiles */
    real *shift, *offset;               /* rho . diag(ridge) eta, and rho . m */
} gradient;

static gradient allocate_gradient(const block *b, arena *a) {
    const local_linear *l = b->l;
    gradient d = {.grad = allocate_matrix(a, b->tall, padded(l->value_size)),
                  .pulled = allocate_matrix(a, b->tall, b->wide)};
    d.f = allocate_matrix(a, b->tall, padded(l->size)), d.eta = allocate_matrix(a, b->tall, padded(l->size));
    d.query = allocate_matrix(a, b->tall, padded(l->key_size));
    d.tilted = allocate_matrix(a, CHUNK, TILE), d.logits = allocate_matrix(a, CHUNK, TILE),
    d.counts = allocate_matrix(a, CHUNK, TILE);
    d.shift = allocate(a, b->tall), d.offset = allocate(a, b->tall);
    return d;
}

/* pulled = p (c - cbar) and f */
static void pull(const block *b, gradient *d) {
    const local_linear *l = b->l;
    load(b, l->grad, l->value_size, d->grad);
    clear_columns(d->grad, b->rows, l->value_size, padded(l->value_size));
    for (int64_t i = 0; i < b->rows; i += CHUNK) {
        int64_t some = fewer(CHUNK, b->rows - i);
        real average[CHUNK] = {0};
        for (int64_t j = 0; j < b->seen; j += TILE) {
            int64_t depth = fewer(TILE, b->seen - j);
            matrix tile = from(d->pulled, i, j);
            product(whole(some), TILE, l->value_size, from(d->grad, i, 0), from(values_t(b), 0, j), tile,
                    SET);
            if (depth < TILE) clear_columns(tile, some, depth, TILE);
            for (int64_t r = 0; r < some; r++)
                average[r] += dot(TILE, row(b->weights, i + r) + j, row(tile, r));
        }
        for (int64_t j = 0; j < b->seen; j += TILE) {
            matrix tile = from(d->pulled, i, j);
            for (int64_t r = 0; r < some; r++)
                for (int64_t c = 0; c < TILE; c += LANES) {
                    uvec *entry = (uvec *)(row(tile, r) + c);
                    *entry = *(const uvec *)(row(b->weights, i + r) + j + c) * (*entry - average[r]);
                }
            product(whole(some), padded(l->size), fewer(TILE, b->seen - j), tile, from(points(b), j, 0),
                    from(d->f, i, 0), j ? ADD : SET);
        }
    }
    clear_columns(d->f, b->rows, l->size, padded(l->size));
}

/* Adds to the gradients the terms of the pairs j .. j + some - 1 in the rows i .. i + count - 1. */
static void spread(const block *b, gradient *d, int64_t i, int64_t count, int64_t j, int64_t some,
                   const int64_t *index) {
    const local_linear *l = b->l;
    matrix grad_points = {l->grad_points + (b->group * l->columns + l->first + j) * padded(l->size),
                          padded(l->size)};
    matrix grad_keys = {l->grad_keys + (b->group * l->columns + l->first + j) * padded(l->key_size),
                        padded(l->key_size)};
    matrix grad_values = {l->grad_values + (b->group * l->columns + l->first + j) * padded(l->value_size),
                          padded(l->value_size)};
    if (l->slope) clear(count, TILE, d->tilted);
    else tilt(b, count, index, from(d->eta, i, 0), b->offset + i, j, some, d->tilted);
    product(whole(count), TILE, l->size, from(b->rho, i, 0), from(points_t(b), 0, j), d->counts, SET);
    for (int64_t r = 0; r < count; r++)
        for (int64_t c = 0; c < TILE; c += LANES) {
            uvec *tilted = (uvec *)(row(d->tilted, r) + c), *counts = (uvec *)(row(d->counts, r) + c);
            vec p = *(const uvec *)(row(b->weights, i + r) + j + c),
                untilted = 1 - (*counts - d->offset[i + r]);
            *tilted = *(const uvec *)(row(d->pulled, i + r) + j + c) - *tilted;
            *(uvec *)(row(d->logits, r) + c) = untilted * *tilted + d->shift[i + r] * p;
            *counts = p * untilted;
        }
    if (some < TILE) {
        clear_columns(d->counts, count, some, TILE);
        clear_columns(d->logits, count, some, TILE);
    }
    product(whole(count), padded(l->key_size), some, d->logits, from(keys(b), j, 0), from(d->query, i, 0),
            j ? ADD : SET);
    transposed_product(padded(some), padded(l->key_size), count, d->logits, from(b->query, i, 0), grad_keys,
                       ADD);
    transposed_product(padded(some), padded(l->value_size), count, d->counts, from(d->grad, i, 0),
                       grad_values, ADD);
    transposed_product(padded(some), padded(l->size), count, d->tilted, from(b->rho, i, 0), grad_points,
                       SUBTRACT);
    if (!l->slope)
        transposed_product(padded(some), padded(l->size), count, d->counts, from(d->eta, i, 0), grad_points,
                           SUBTRACT);
    for (int64_t r = 0; l->grad_logits && r < count; r++)
        memcpy(l->grad_logits + (b->group * b->rows + i + r) * b->seen + j, row(d->logits, r),
               (size_t)some * sizeof(real));
}

static void run_backward(const void *job, int64_t group, arena scratch, int64_t *needed) {
    const local_linear *l = job;
    block b = allocate_block(l, group, &scratch);
    solver s = allocate_solver(l, &scratch);
    gradient d = allocate_gradient(&b, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    weigh(&b);
    load(&b, l->slope ? l->slope : l->rho, l->size, b.rho);
    clear_columns(b.rho, b.rows, l->size, padded(l->size));
    pull(&b, &d);
    if (l->slope)
        for (int64_t r = 0; r < b.rows; r++) {
            d.shift[r] = dot(l->size, row(b.rho, r), row(d.f, r));
            for (int64_t j = 0; j < l->size; j++) row(d.f, r)[j] = -row(d.f, r)[j];
        }
    else {
        solve(&b, &s, d.f, d.eta, (matrix){NULL, 0});
        write_report(&b, &s);
        clear_columns(d.eta, b.rows, l->size, padded(l->size));
        for (int64_t r = 0; r < b.rows; r++) {
            real *total = l->grad_ridge + (b.group * l->sharing + r / tokens(l)) * l->size;
            d.shift[r] = 0;
            for (int64_t j = 0; j < l->size; j++) {
                real each = row(b.rho, r)[j] * row(d.eta, r)[j];
                d.shift[r] += row(b.ridge, r)[j] * each;
                total[j] += each;
            }
        }
    }
    for (int64_t r = 0; r < b.rows; r++) s.index[r] = r;
    offsets(&b, b.rows, s.index, b.rho);
    memcpy(d.offset, b.offset, (size_t)b.rows * sizeof(real));
    if (!l->slope) offsets(&b, b.rows, s.index, d.eta);
    for (int64_t i = 0; i < b.rows; i += CHUNK)
        for (int64_t j = 0; j < b.seen; j += TILE)
            spread(&b, &d, i, fewer(CHUNK, b.rows - i), j, fewer(TILE, b.seen - j), s.index + i);
    store(&b, d.query, l->key_size, l->grad_query);
    if (l->slope) store(&b, d.f, l->size, l->grad_slope);
    else store(&b, d.eta, l->size, l->grad_places);
}

int TTR_NAME(local_linear_forward)(const local_linear *l) {
    return run_tasks(l, l->groups, l->threads, run_forward);
}
int TTR_NAME(local_linear_backward)(const local_linear *l) {
    return run_tasks(l, l->groups, l->threads, run_backward);
}

/* For the caller to compare with the size of its own struct. */
int TTR_NAME(local_linear_size)(void) { return sizeof(local_linear); }
