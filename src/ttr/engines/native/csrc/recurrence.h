/* The recurrence as the caller passes it, and the scratch memory of one thread.
 *
 *     S_j = D_j S_{j-1} + step_j (key_j value_j^T - erase_j (S_x^T read_j)^T),     y_t = scale S_t^T query_t
 *
 * as forms/linear_recurrence.py states it, with one pair per token. The last axis of every tensor is
 * contiguous; `stride` counts entries over batch, time and head (a memory: over batch, head and key channel).
 * A tensor that is absent has data NULL. */
#ifndef TTR_RECURRENCE_H
#define TTR_RECURRENCE_H

#include "scratch.h"

typedef struct {
    real *data;
    int64_t stride[3];
} tensor;

enum decay { NO_DECAY, HEAD_DECAY, CHANNEL_DECAY };

/* engines/native/recurrence.py holds the same fields in the same order. */
typedef struct {
    int64_t batch, heads, time, key_size, value_size;
    int64_t chunk;    /* tokens of a chunk */
    int64_t interval; /* chunks between two memories that `forward` saves: the checkpoint interval */
    int64_t threads;
    int64_t decay, old, reads_first;
    tensor query, key, value, read, erase, step, log_decay, memory;
    tensor scale;   /* of the query; one number, with strides 0 */
    tensor y, last; /* results of forward; their gradients in backward. `last` is the final memory. */
    real *states, *scores, *written; /* what forward saves, or NULL */
    tensor grad_query, grad_key, grad_value, grad_read, grad_erase, grad_step, grad_log_decay, grad_memory;
} recurrence;

static inline real *at(tensor t, int64_t batch, int64_t time, int64_t head) {
    return t.data + batch * t.stride[0] + time * t.stride[1] + head * t.stride[2];
}

/* Lookups are the rows that read the memory: in group 0 the reads (absent in an additive memory), in the last
 * group the queries. Sets of keys: one, at which pairs (key, w) are written; or two, (key, value) and (erase,
 * w), of which the last is the corrected one. */
static inline int64_t groups(const recurrence *r) { return r->read.data ? 2 : 1; }
static inline int64_t sets(const recurrence *r) { return r->erase.data ? 2 : 1; }
static inline int64_t chunk_rows(const recurrence *r) { return padded(r->chunk); }
static inline int64_t chunks(const recurrence *r) { return (r->time + r->chunk - 1) / r->chunk; }
static inline int64_t intervals(const recurrence *r) { return (chunks(r) + r->interval - 1) / r->interval; }

enum { MOST_INTERVAL = 64 };
/* LINE: entries of a cache line; MOST_TENSORS: tensors whose rows one product may prefetch */
enum { LINE = 64 / sizeof(real), MOST_TENSORS = 12 };

/* A chunk, in scratch memory. C tokens (padded), R = groups C lookups. */
typedef struct {
    const recurrence *r;
    int64_t batch, head;
    int64_t start, tokens; /* the first token, and the number of tokens */
    int64_t size;          /* C for this chunk */
    int64_t keys, values;  /* F and V, padded */

    matrix up, down;    /* [C + 1, E]: e^b and e^-b without their powers of two (decay.h) */
    integer *power;     /* [C + 1, E]: those powers */
    double *total;      /* [E]: the cumulative log decay */
    real *memory_decay; /* [F]: e^b of the whole chunk, the decay of the memory that enters it */
    integer *centre;    /* [F]: the reference of all exponents of the chunk, */
    int whole;          /* if there is one */
    const real **lines; /* storage for a queue of cache lines */

    /* [R, F], scaled for the scores, and for reading the memory that enters */
    matrix lookup, lookup_to_memory;
    /* [C, F] of each set, scaled for the scores, and for writing to the memory that leaves */
    matrix key[2], key_to_memory[2];
    matrix scores[2];  /* [R, C] of each set */
    matrix written[2]; /* [C, V] of each set */
    /* [max(F, V, C / 2), C]: a transpose, or scores between the halves of a chunk (scores.inc) */
    matrix transposed;
    matrix late, early, across; /* [C, F], [F, C], [C, F]: of a part of the chunk (scores.inc) */
} chunk;

static inline void allocate_chunk(chunk *c, const recurrence *r, arena *a) {
    int64_t size = chunk_rows(r), keys = padded(r->key_size), values = padded(r->value_size),
            rows = groups(r) * size;
    int64_t widest = keys > values ? keys : values, channels = r->decay == CHANNEL_DECAY ? keys : 1;
    c->r = r, c->keys = keys, c->values = values;
    c->up = allocate_matrix(a, size + 1, channels);
    c->down = allocate_matrix(a, size + 1, channels);
    c->power = (integer *)allocate(a, (size + 1) * channels);
    c->total = (double *)allocate(a, channels * (int64_t)(sizeof(double) / sizeof(real)));
    c->memory_decay = allocate(a, keys);
    c->centre = (integer *)allocate(a, keys);
    c->lookup = allocate_matrix(a, rows, keys);
    c->lookup_to_memory = r->decay == NO_DECAY ? c->lookup : allocate_matrix(a, rows, keys);
    for (int64_t s = 0; s < sets(r); s++) {
        c->key[s] = allocate_matrix(a, size, keys);
        c->key_to_memory[s] = r->decay == NO_DECAY ? c->key[s] : allocate_matrix(a, size, keys);
        c->scores[s] = allocate_matrix(a, rows, size);
        c->written[s] = allocate_matrix(a, size, values);
    }
    c->transposed = allocate_matrix(a, widest > size / 2 ? widest : size / 2, size);
    c->lines =
        (const real **)allocate(a, MOST_TENSORS * size * (widest / LINE) * (8 / (int64_t)sizeof(real)));
    if (r->decay == CHANNEL_DECAY) {
        c->late = allocate_matrix(a, size, keys);
        c->early = allocate_matrix(a, keys, size);
        c->across = allocate_matrix(a, size, keys);
    }
}

/* What forward saves: the memory that enters every interval, [F, V]; per chunk the scores, [sets, R, C],
 * those of the corrected set with their diagonal blocks inverted (triangle.h); per chunk of a delta rule W,
 * [C, V]. All padded, head after head. */
static inline real *saved_state(const chunk *c, int64_t interval) {
    const recurrence *r = c->r;
    return r->states + ((c->batch * r->heads + c->head) * intervals(r) + interval) * c->keys * c->values;
}

static inline void choose_head(chunk *c, int64_t index) {
    c->batch = index / c->r->heads, c->head = index % c->r->heads;
}

/* Go to a chunk; its scores and W are those in the saved tensors, if there are any. */
static inline void place_chunk(chunk *c, int64_t index) {
    const recurrence *r = c->r;
    c->start = index * r->chunk;
    c->tokens = r->time - c->start < r->chunk ? r->time - c->start : r->chunk;
    c->size = padded(c->tokens);
    int64_t place = (c->batch * r->heads + c->head) * chunks(r) + index, size = chunk_rows(r),
            corrected = sets(r) - 1;
    for (int64_t s = 0; s < sets(r); s++) {
        c->scores[s].stride = c->size;
        if (r->scores) c->scores[s].data = r->scores + (place * sets(r) + s) * groups(r) * size * size;
    }
    if (r->written && r->read.data) c->written[corrected].data = r->written + place * size * c->values;
}

/* Copy the chunk's rows of `size` entries, times `step` where there is one, into `to` [C, columns], and fill
 * the rest with zeros. */
static inline void load(const chunk *c, tensor from, int64_t size, tensor step, matrix to, int64_t columns) {
    for (int64_t i = 0; i < c->size; i++) {
        real *restrict out = row(to, i);
        int64_t filled = 0;
        if (i < c->tokens) {
            const real *restrict in = at(from, c->batch, c->start + i, c->head);
            real factor = step.data ? *at(step, c->batch, c->start + i, c->head) : 1;
            for (int64_t j = 0; j < size; j++) out[j] = factor * in[j];
            filled = size;
        }
        for (int64_t j = filled; j < columns; j++) out[j] = 0;
    }
}

/* Queue the rows of a tensor at `count` tokens to be prefetched: they are often a page apart, a pattern that
 * hardware does not prefetch. */
static inline void prefetch(const chunk *c, queue *ahead, tensor t, int64_t size, int64_t start,
                            int64_t count) {
    if (!t.data) return;
    for (int64_t i = start > 0 ? start : 0; i < start + count && i < c->r->time; i++)
        for (int64_t j = 0; j < size; j += LINE) *ahead->end++ = at(t, c->batch, i, c->head) + j;
}

static inline void prefetch_inputs(const chunk *c, queue *ahead, int64_t start, int64_t count) {
    const recurrence *r = c->r;
    prefetch(c, ahead, r->key, r->key_size, start, count);
    prefetch(c, ahead, r->query, r->key_size, start, count);
    prefetch(c, ahead, r->value, r->value_size, start, count);
    if (r->read.data != r->key.data) prefetch(c, ahead, r->read, r->key_size, start, count);
    prefetch(c, ahead, r->erase, r->key_size, start, count);
    if (r->decay == CHANNEL_DECAY) prefetch(c, ahead, r->log_decay, r->key_size, start, count);
}

/* Copy the tokens of the chunk to a tensor. */
static inline void store(const chunk *c, matrix from, int64_t size, tensor to) {
    for (int64_t i = 0; i < c->tokens; i++) {
        real *restrict out = at(to, c->batch, c->start + i, c->head);
        const real *restrict in = row(from, i);
        for (int64_t j = 0; j < size; j++) out[j] = in[j];
    }
}

#endif
