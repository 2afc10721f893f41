/* The forward pass; chebyshev.h has the equations. */
#include "chebyshev.h"

/* x in `change`, by Clenshaw's recurrence */
static void solve(const workspace *w) {
    const double *coefficients = w->p->coefficients;
    memcpy(w->right.data, w->query.data, (size_t)(w->tokens * w->size) * sizeof(real));
    begin(w, (real)coefficients[w->p->terms - 1]);
    for (int64_t k = w->p->terms - 2; k >= 0; k--) {
        apply(&w->c, w->sum, w->met, w->image);
        advance(w, k, (real)coefficients[k]);
    }
    divide(w, w->change);
}

/* y_t = a_t U_0^T z_t + sum_{i <= t} W_ti (z_t.k_i) v_i for the vectors z in `change` */
static void read_out(const workspace *w) {
    const struct polynomial *p = w->p;
    product(w->tokens, w->wide, w->size, w->change, w->memory, w->read, SET);
    product(w->tokens, w->tokens, w->size, w->change, from(w->c.moments, 0, w->size), w->scores, SET);
    for (int64_t t = 0; t < w->tokens; t++) {
        for (int64_t j = 0; j < w->wide; j += LANES) *(vec *)(row(w->read, t) + j) *= w->decay[t];
        for (int64_t i = 0; i < w->tokens; i += LANES)
            *(vec *)(row(w->scores, t) + i) *= *(const vec *)(row(w->weights, t) + i);
    }
    product(w->tokens, w->wide, w->tokens, w->scores, w->value, w->read, ADD);
    store(w->present, p->values, w->read, p->y + at_token(w, 0, p->values), p->heads * p->values);
}

/* H and U after the chunk in the place of those before it */
static void write_pairs(const workspace *w) {
    real last = w->decay[w->p->chunk - 1];
    for (int64_t i = 0; i < w->tokens; i++)
        for (int64_t j = 0; j < w->size; j += LANES)
            *(vec *)(row(w->carried, i) + j) = w->to_end[i] * *(const vec *)(row(w->c.keys, i) + j);
    for (int64_t i = 0; i < w->size; i++) {
        for (int64_t j = 0; j < w->size; j += LANES) *(vec *)(row(w->c.moments, i) + j) *= last;
        for (int64_t j = 0; j < w->wide; j += LANES) *(vec *)(row(w->memory, i) + j) *= last;
    }
    transposed_product(w->size, w->size, w->tokens, w->carried, w->c.keys, w->c.moments, ADD);
    transposed_product(w->size, w->wide, w->tokens, w->carried, w->value, w->memory, ADD);
}

static void store_state(const workspace *w, real *gram, int64_t gram_step, real *memory,
                        int64_t memory_step) {
    int64_t features = w->p->features, values = w->p->values;
    store(features, features, w->c.moments, gram, gram_step);
    store(features, values, w->memory, memory, memory_step);
}

static void forward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    workspace w = allocate_workspace(p, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    int64_t features = p->features, values = p->values, both = features + values;
    w.head = head;
    load_state(&w, p->gram + head * features * features, features, p->memory + head * features * values,
               values);
    for (int64_t n = 0; n * p->chunk < p->time; n++) {
        load_chunk(&w, n);
        real *state = p->states ? p->states + at_chunk(&w, features * both) : NULL;
        if (state) store_state(&w, state, both, state + features, both);
        write_scales(&w);
        solve(&w);
        mix(&w, w.change, w.change);
        read_out(&w);
        write_pairs(&w);
    }
    store_state(&w, p->end_gram + head * features * features, features,
                p->end_memory + head * features * values, values);
}

int TTR_NAME(chebyshev_forward)(const struct polynomial *p) {
    return run_tasks(p, p->batch * p->heads, p->threads, forward);
}
