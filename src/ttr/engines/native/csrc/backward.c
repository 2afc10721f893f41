/* The derivative of the recurrence, chunk by chunk from the last, in one scan.
 *
 * Notation as in forward.c. D stacks minus the gradient of the right-hand side of the triangular system on
 * the gradient of y, in the order of the lookups X = [P; Q]. With the gradient G' of the memory S' that
 * leaves a chunk,
 *
 *     dW = key~ G' + (M^Q)^T dY,     dU = (I + M^P)^{-T} dW,     D = [-dU; dY],
 *     dX~ = D S^T,     dM = D W^T,     dkey~ = W G'^T,     G = e^{b_C} G' + X~^T D,
 *
 * and the gradient of V is dU; where V itself is written (erase given, or additive), it is key~ G' + M_key^T
 * D, and that of its scores is D V^T. From dM, dX~ and dkey~ follow the gradients dx, dk of the lookups and
 * keys themselves. Every e^{c_i} multiplies an x_i and every e^{-b_j} a k_j, hence
 *
 *     dc_i = <x_i, dx_i>,     db_j = -<k_j, dk_j>,
 *     db_C = <S', G'> = e^{b_C} <S, G'> + sum_j <key~_j, dkey~_j>,
 *
 * with decays per channel without the sum over channels. The gradient of a token's log decay is the sum of db
 * over the token itself and all later tokens of its chunk. Memories and their gradients are stored
 * transposed, [V, F], the layout that most products need. */
#include "scores.inc"
#include "threads.h"
#include "triangle.h"

typedef struct {
    chunk c;
    matrix grad_memory;             /* [V, F], of the memory that leaves, then of the one that enters */
    matrix entering[MOST_INTERVAL]; /* [V, F] of each chunk of an interval */
    matrix change;                  /* D [R, V] */
    matrix grad_value;              /* [C, V] */
    matrix grad_lookup;             /* [R, F] */
    matrix grad_key;                /* [C, F] */
    matrix grad_scores;             /* [R, C] */
    matrix grad_decay; /* [C + 1, F]: db, rows as in decay.h; with a decay per head the first column */
    real *grad_step;   /* [C] */
} gradient;

/* rows [C, V] += or = key~ G', by way of its transpose */
static void read_back(gradient *b, matrix key_to_memory, matrix rows) {
    chunk *c = &b->c;
    matrix transposed = {c->transposed.data, c->size}, found = {b->grad_lookup.data, c->size};
    transpose(c->size, c->keys, key_to_memory, transposed);
    product(c->values, c->size, c->keys, b->grad_memory, transposed, found, SET);
    transpose(c->values, c->size, found, rows);
}

/* out [C, V] += M^T d for one group of scores */
static void add_transposed(const chunk *c, matrix scores, matrix d, matrix out) {
    for (int64_t j = 0; j < c->size; j += ROWS)
        transposed_product(ROWS, c->values, c->size - j, from(scores, j, j), from(d, j, 0), from(out, j, 0),
                           ADD);
}

/* D, and the gradients of values and steps */
static void differentiate_written(gradient *b) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    int64_t queries = (groups(r) - 1) * c->size, corrected = sets(r) - 1;
    load(c, r->y, r->value_size, (tensor){0}, from(b->change, queries, 0), c->values);
    if (r->read.data) {
        read_back(b, c->key_to_memory[corrected], b->grad_value);
        add_transposed(c, from(c->scores[corrected], queries, 0), from(b->change, queries, 0), b->grad_value);
        solve_transposed(c->size, c->values, c->scores[corrected], b->grad_value);
        for (int64_t i = 0; i < c->size; i++)
            for (int64_t v = 0; v < c->values; v++) row(b->change, i)[v] = -row(b->grad_value, i)[v];
    }
    if (!r->read.data || corrected) {
        read_back(b, c->key_to_memory[0], b->grad_value);
        for (int64_t g = 0; g < groups(r); g++)
            add_transposed(c, from(c->scores[0], g * c->size, 0), from(b->change, g * c->size, 0),
                           b->grad_value);
    }
    for (int64_t i = 0; i < c->tokens; i++) {
        const real *restrict value = at(r->value, c->batch, c->start + i, c->head), *restrict grad =
                                                                                        row(b->grad_value, i);
        real *restrict out = at(r->grad_value, c->batch, c->start + i, c->head);
        real step = r->step.data ? *at(r->step, c->batch, c->start + i, c->head) : 1;
        for (int64_t v = 0; v < r->value_size; v++) out[v] = step * grad[v];
        b->grad_step[i] = r->step.data ? dot(r->value_size, value, grad) : 0;
    }
}

/* Gradients of the rows `x` (queries, reads or keys of the chunk) from `grad`, that of the rows multiplied by
 * `decayed` and `scale` (a step or a number, if any); adds sign <x, dx> to db. */
static void store_rows(gradient *b, matrix grad, tensor x, tensor out, matrix decayed, int64_t first,
                       real sign, tensor scale) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    for (int64_t i = 0; i < c->tokens; i++) {
        const real *restrict in = at(x, c->batch, c->start + i, c->head);
        real *restrict dx = row(grad, i), *restrict to = at(out, c->batch, c->start + i, c->head),
                       *restrict db = row(b->grad_decay, i + first);
        real factor = scale.data ? *at(scale, c->batch, c->start + i, c->head) : 1, sum = 0;
        int steps = scale.data && scale.data == r->step.data;
        if (r->decay == CHANNEL_DECAY) multiply(c->keys, row(decayed, i + first), dx);
        for (int64_t f = 0; f < r->key_size; f++) to[f] = factor * dx[f];
        if (r->decay == CHANNEL_DECAY)
            for (int64_t f = 0; f < r->key_size; f++) db[f] += sign * factor * in[f] * dx[f];
        if (r->decay == HEAD_DECAY || steps) sum = dot(r->key_size, in, dx);
        if (r->decay == HEAD_DECAY) db[0] += sign * factor * sum;
        if (steps) b->grad_step[i] += sum;
    }
}

static void differentiate_keys(gradient *b, int64_t set) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    int64_t rows = groups(r) * c->size;
    real *whole = row(b->grad_decay, c->size); /* not restrict: store_rows adds to the same row */
    matrix transposed = {c->transposed.data, c->size}, grad_scores = {b->grad_scores.data, c->size};
    transpose(c->size, c->values, c->written[set], transposed);
    for (int64_t i = 0; i < rows; i += BLOCK)
        product(BLOCK, i % c->size + BLOCK, c->values, from(b->change, i, 0), transposed,
                from(grad_scores, i, 0), SET);
    product(c->size, c->keys, c->values, c->written[set], b->grad_memory, b->grad_key, SET);
    if (r->decay != NO_DECAY)
        for (int64_t i = 0; i < c->size; i++) {
            real *restrict grad = row(b->grad_key, i), *restrict key = row(c->key[set], i);
            scale_key(c, i, grad, grad);
            if (r->decay == CHANNEL_DECAY)
                for (int64_t f = 0; f < c->keys; f++) whole[f] += key[f] * grad[f];
            else whole[0] += dot(c->keys, key, grad);
        }
    scores_backward(c, set, grad_scores, b->grad_lookup, b->grad_key);
    store_rows(b, b->grad_key, set ? r->erase : r->key, set ? r->grad_erase : r->grad_key, c->down, 1, -1,
               (tensor){0});
}

/* The gradient of the memory that enters, from that of the one that leaves; adds e^{b_C} <S, G'> to db_C. */
static void differentiate_memory(gradient *b, matrix entering) {
    chunk *c = &b->c;
    if (c->r->decay != NO_DECAY) {
        real *restrict sum = row(b->grad_key, 0); /* no longer needed */
        for (int64_t f = 0; f < c->keys; f++) sum[f] = 0;
        for (int64_t v = 0; v < c->values; v++) {
            real *restrict grad = row(b->grad_memory, v);
            const real *restrict memory = row(entering, v), *restrict decay = c->memory_decay;
            for (int64_t f = 0; f < c->keys; f++) {
                grad[f] *= decay[f];
                sum[f] += memory[f] * grad[f];
            }
        }
        for (int64_t f = 0; f < c->keys; f++)
            row(b->grad_decay, c->size)[c->r->decay == CHANNEL_DECAY ? f : 0] += sum[f];
    }
    transposed_product(c->values, c->keys, groups(c->r) * c->size, b->change, c->lookup_to_memory,
                       b->grad_memory, ADD);
}

/* The gradient of a token's log decay: the sum of db over the token itself and all later ones. */
static void store_decay(gradient *b) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    int64_t size = r->decay == CHANNEL_DECAY ? r->key_size : 1;
    if (r->decay == NO_DECAY) return;
    for (int64_t i = c->size; i > 0; i--) {
        real *restrict db = row(b->grad_decay, i), *restrict later = row(b->grad_decay, i + 1);
        if (i < c->size)
            for (int64_t f = 0; f < size; f++) db[f] += later[f];
        if (i > c->tokens) continue;
        real *restrict out = at(r->grad_log_decay, c->batch, c->start + i - 1, c->head);
        for (int64_t f = 0; f < size; f++) out[f] = db[f];
    }
}

static void run_chunk(gradient *b, matrix entering) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    int64_t rows = groups(r) * c->size;
    if (r->decay != NO_DECAY) clear(c->size + 1, c->keys, b->grad_decay);
    load_lookups(c);
    differentiate_written(b);
    queue ahead = {c->lines, c->lines};
    prefetch(c, &ahead, r->grad_query, r->key_size, c->start, c->tokens);
    prefetch(c, &ahead, r->grad_key, r->key_size, c->start, c->tokens);
    prefetch(c, &ahead, r->grad_read, r->key_size, c->start, c->tokens);
    prefetch(c, &ahead, r->grad_erase, r->key_size, c->start, c->tokens);
    prefetch_inputs(c, &ahead, c->start - r->chunk, r->chunk);
    prefetch(c, &ahead, r->y, r->value_size, c->start - r->chunk, r->chunk);
    prefetch(c, &ahead, r->grad_value, r->value_size, c->start - r->chunk, r->chunk);
    prefetching_product(rows, c->keys, c->values, b->change, entering, b->grad_lookup, ahead);
    if (r->decay != NO_DECAY)
        for (int64_t i = 0; i < rows; i++) {
            int64_t reads = is_read(r, i / c->size);
            scale_lookup(c, i % c->size + shift(r, reads), row(b->grad_lookup, i), row(b->grad_lookup, i));
        }
    for (int64_t s = 0; s < sets(r); s++) differentiate_keys(b, s);
    for (int64_t g = 0; g < groups(r); g++) {
        int64_t reads = is_read(r, g);
        store_rows(b, from(b->grad_lookup, g * c->size, 0), reads ? r->read : r->query,
                   reads ? r->grad_read : r->grad_query, c->up, shift(r, reads), 1,
                   reads ? r->step : r->scale);
    }
    differentiate_memory(b, entering);
    store_decay(b);
    if (r->step.data)
        for (int64_t i = 0; i < c->tokens; i++)
            *at(r->grad_step, c->batch, c->start + i, c->head) = b->grad_step[i];
}

/* Go to a chunk, and load what all of its computations need. */
static void enter_chunk(gradient *b, int64_t i) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    place_chunk(c, i);
    load_decay(c);
    load_keys(c);
    if (!r->read.data || r->erase.data) load(c, r->value, r->value_size, r->step, c->written[0], c->values);
}

static void run_interval(gradient *b, int64_t index) {
    chunk *c = &b->c;
    const recurrence *r = c->r;
    int64_t first = index * r->interval,
            end = first + r->interval < chunks(r) ? first + r->interval : chunks(r);
    matrix saved = {saved_state(c, index), c->values};
    transpose(c->keys, c->values, saved, b->entering[0]);
    for (int64_t i = first; i < end - 1; i++) {
        matrix memory = b->entering[i - first], next = b->entering[i - first + 1];
        queue ahead = {c->lines, c->lines};
        enter_chunk(b, i);
        prefetch_inputs(c, &ahead, c->start + r->chunk, r->chunk);
        if (i == end - 2) prefetch(c, &ahead, r->y, r->value_size, c->start + r->chunk, r->chunk);
        decayed_product(c->values, c->keys, c->size, c->written[0], c->key_to_memory[0], memory,
                        c->memory_decay, BY_COLUMN, next, ahead);
        if (sets(r) > 1)
            transposed_product(c->values, c->keys, c->size, c->written[1], c->key_to_memory[1], next, ADD);
    }
    for (int64_t i = end - 1; i >= first; i--) {
        enter_chunk(b, i);
        run_chunk(b, b->entering[i - first]);
    }
}

static void allocate_gradient(gradient *b, const recurrence *r, arena *scratch) {
    chunk *c = &b->c;
    allocate_chunk(c, r, scratch);
    int64_t size = chunk_rows(r), rows = groups(r) * size, widest = c->keys > c->values ? c->keys : c->values;
    for (int64_t i = 0; i < r->interval; i++) b->entering[i] = allocate_matrix(scratch, c->values, c->keys);
    b->change = allocate_matrix(scratch, rows, c->values);
    b->grad_value = allocate_matrix(scratch, size, c->values);
    b->grad_lookup = allocate_matrix(scratch, rows, widest);
    b->grad_lookup.stride = c->keys;
    b->grad_key = allocate_matrix(scratch, size, c->keys);
    b->grad_scores = allocate_matrix(scratch, rows, size);
    b->grad_decay = allocate_matrix(scratch, size + 1, c->keys);
    b->grad_step = allocate(scratch, size);
}

static void run_heads(const recurrence *r, int64_t first, int64_t count, arena scratch, int64_t *needed) {
    gradient b;
    chunk *c = &b.c;
    matrix grad_memory[MOST_TOGETHER];
    allocate_gradient(&b, r, &scratch);
    for (int64_t h = 0; h < count; h++) grad_memory[h] = allocate_matrix(&scratch, c->values, c->keys);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    for (int64_t h = 0; h < count; h++) {
        choose_head(c, first + h);
        clear(c->values, c->keys, grad_memory[h]);
        for (int64_t f = 0; f < r->key_size; f++)
            for (int64_t v = 0; v < r->value_size; v++)
                row(grad_memory[h], v)[f] = at(r->last, c->batch, c->head, f)[v];
    }
    for (int64_t i = intervals(r) - 1; i >= 0; i--)
        for (int64_t h = 0; h < count; h++) {
            choose_head(c, first + h);
            b.grad_memory = grad_memory[h];
            run_interval(&b, i);
        }
    for (int64_t h = 0; h < count; h++) {
        choose_head(c, first + h);
        for (int64_t f = 0; f < r->key_size; f++)
            for (int64_t v = 0; v < r->value_size; v++)
                at(r->grad_memory, c->batch, c->head, f)[v] = row(grad_memory[h], v)[f];
    }
}

int TTR_NAME(backward)(const recurrence *r) { return run_all_heads(r, run_heads); }
