/* The recurrence, chunk by chunk: y and the final memory.
 *
 * In a chunk with memory S that enters it, P the reads times their steps, Q the queries, V the values times
 * their steps, a tilde for rows multiplied by their decay, and scores M as in scores.inc (Gated DeltaNet,
 * arXiv 2412.06464; KDA, 2510.26692; additive: GLA, 2312.06635):
 *
 *     (I + M^P) W = V - P~ S                       erase given: (I + M^P_erase) W = -(M^P_key V) - P~ S
 *     y = Q~ S + M^Q W                                          y = Q~ S + M^Q_key V + M^Q_erase W
 *     S' = e^{b_C} S + key~^T W                                 S' = e^{b_C} S + key~^T V + erase~^T W
 *
 * An additive memory has no P and W = V. P and Q are stacked, so that one product serves both. */
#include "scores.inc"
#include "threads.h"
#include "triangle.h"

/* W of a delta rule, from P~ S + M^P_key V in `known` */
static void correct(const chunk *c, matrix known, matrix scores, matrix written) {
    const recurrence *r = c->r;
    if (sets(r) == 1) load(c, r->value, r->value_size, r->step, written, c->values);
    else clear(c->size, c->values, written);
    for (int64_t i = 0; i < c->size; i++)
        for (int64_t j = 0; j < c->values; j++) row(written, i)[j] -= row(known, i)[j];
    invert_blocks(c->size, scores);
    solve(c->size, c->values, scores, written);
}

/* out [C, V] += M w for one group of scores M, whose entries above the diagonal are 0 */
static void add_read_outs(const chunk *c, matrix scores, matrix written, matrix out) {
    for (int64_t i = 0; i < c->size; i += ROWS)
        product(ROWS, c->values, i + ROWS, from(scores, i, 0), written, from(out, i, 0), ADD);
}

static void run_chunk(chunk *c, matrix memory, matrix out) {
    const recurrence *r = c->r;
    int64_t queries = (groups(r) - 1) * c->size, corrected = sets(r) - 1;
    load_decay(c);
    load_keys(c);
    load_lookups(c);
    for (int64_t s = 0; s < sets(r); s++) find_scores(c, s);
    queue ahead = {c->lines, c->lines};
    prefetch_inputs(c, &ahead, c->start + r->chunk, r->chunk);
    prefetch(c, &ahead, r->y, r->value_size, c->start, c->tokens);
    prefetching_product(groups(r) * c->size, c->values, c->keys, c->lookup_to_memory, memory, out, ahead);
    if (!r->read.data || corrected) load(c, r->value, r->value_size, r->step, c->written[0], c->values);
    if (corrected)
        for (int64_t g = 0; g < 2; g++)
            add_read_outs(c, from(c->scores[0], g * c->size, 0), c->written[0], from(out, g * c->size, 0));
    if (r->read.data) correct(c, out, c->scores[corrected], c->written[corrected]);
    add_read_outs(c, from(c->scores[corrected], queries, 0), c->written[corrected], from(out, queries, 0));
    store(c, from(out, queries, 0), r->value_size, r->y);
    decayed_product(c->keys, c->values, c->size, c->key_to_memory[0], c->written[0], memory, c->memory_decay,
                    BY_ROW, memory, (queue){0});
    if (sets(r) > 1)
        transposed_product(c->keys, c->values, c->size, c->key_to_memory[1], c->written[1], memory, ADD);
}

static void copy_memory(const recurrence *r, real *in, int64_t in_stride, real *out, int64_t out_stride) {
    for (int64_t f = 0; f < r->key_size; f++)
        for (int64_t v = 0; v < r->value_size; v++) out[f * out_stride + v] = in[f * in_stride + v];
}

static void run_interval(chunk *c, int64_t index, matrix memory, matrix out) {
    const recurrence *r = c->r;
    int64_t first = index * r->interval,
            end = first + r->interval < chunks(r) ? first + r->interval : chunks(r);
    if (r->states) {
        real *state = saved_state(c, index);
        for (int64_t j = 0; j < c->keys * c->values; j++) state[j] = memory.data[j];
    }
    for (int64_t i = first; i < end; i++) {
        place_chunk(c, i);
        run_chunk(c, memory, out);
    }
}

static void run_heads(const recurrence *r, int64_t first, int64_t count, arena scratch, int64_t *needed) {
    chunk c;
    allocate_chunk(&c, r, &scratch);
    matrix memory[MOST_TOGETHER], out = allocate_matrix(&scratch, groups(r) * chunk_rows(r), c.values);
    for (int64_t h = 0; h < count; h++) memory[h] = allocate_matrix(&scratch, c.keys, c.values);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    for (int64_t h = 0; h < count; h++) {
        choose_head(&c, first + h);
        clear(c.keys, c.values, memory[h]);
        copy_memory(r, at(r->memory, c.batch, c.head, 0), r->memory.stride[2], memory[h].data,
                    memory[h].stride);
    }
    for (int64_t i = 0; i < intervals(r); i++)
        for (int64_t h = 0; h < count; h++) {
            choose_head(&c, first + h);
            run_interval(&c, i, memory[h], out);
        }
    for (int64_t h = 0; h < count; h++) {
        choose_head(&c, first + h);
        copy_memory(r, memory[h].data, memory[h].stride, at(r->last, c.batch, c.head, 0), r->last.stride[2]);
    }
}

int TTR_NAME(forward)(const recurrence *r) { return run_all_heads(r, run_heads); }

/* For the caller to compare with the size of its own struct. */
int TTR_NAME(recurrence_size)(void) { return sizeof(recurrence); }
