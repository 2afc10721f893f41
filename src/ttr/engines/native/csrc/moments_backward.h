/* What the derivatives of regressions on second moments have in common; moments.h has the equations. */
#ifndef TTR_MOMENTS_BACKWARD_H
#define TTR_MOMENTS_BACKWARD_H

#include "moments.h"

typedef struct {
    matrix query, key, value;     /* the gradients, [C', F'] and [C', V'] */
    matrix weights, gram, memory; /* [C', C'], [F', F'], [F', V']; the last two are carried between chunks */
    matrix scaled;                /* [C', C'], the gradient by the weights of `apply`, and */
    real *decay, *scaled_decay;   /* by a, and by the decay of `apply` */
    real *to_end;
    matrix grad_y, first, last;              /* [C', V'], [C', C'] */
    matrix value_t, memory_t, gram_t, met_y; /* [V', C'], [V', F'], [F', F'], [C', F'] */
} gradients;

static inline gradients allocate_gradients(const workspace *w, arena *a) {
    int64_t tokens = w->tokens, size = w->size, wide = w->wide;
    gradients d = {.query = allocate_matrix(a, tokens, size)};
    d.key = allocate_matrix(a, tokens, size);
    d.value = allocate_matrix(a, tokens, wide), d.weights = allocate_matrix(a, tokens, tokens);
    d.gram = allocate_matrix(a, size, size), d.memory = allocate_matrix(a, size, wide);
    d.scaled = allocate_matrix(a, tokens, tokens);
    d.decay = allocate(a, tokens), d.scaled_decay = allocate(a, tokens), d.to_end = allocate(a, tokens);
    d.grad_y = allocate_matrix(a, tokens, wide);
    d.first = allocate_matrix(a, tokens, tokens), d.last = allocate_matrix(a, tokens, tokens);
    d.value_t = allocate_matrix(a, wide, tokens), d.memory_t = allocate_matrix(a, wide, size);
    d.gram_t = allocate_matrix(a, size, size), d.met_y = allocate_matrix(a, tokens, size);
    return d;
}

/* The gradients by the moments after the last chunk, and by those before the first. */
static inline void load_gradients(const workspace *w, int64_t head, gradients *d) {
    const struct regression *p = w->p;
    int64_t features = p->features, values = p->values;
    load(features, features, p->grad_end_gram + head * features * features, features, w->size, w->size,
         d->gram);
    load(features, values, p->grad_end_memory + head * features * values, values, w->size, w->wide,
         d->memory);
}
static inline void store_last_gradients(const workspace *w, const gradients *d) {
    const struct regression *p = w->p;
    int64_t features = p->features, values = p->values;
    store(features, features, d->gram, p->grad_gram + w->head * features * features, features);
    store(features, values, d->memory, p->grad_memory + w->head * features * values, values);
}

/* Loads a chunk, the moments before it and the gradients of its read-outs; all other gradients are 0. */
static inline void load_backward(workspace *w, int64_t number, gradients *d) {
    load_chunk(w, number);
    load_saved_state(w);
    load_tokens(w, w->p->grad_y, w->p->values, d->grad_y);
    clear(w->tokens, w->size, d->key);
    clear(w->tokens, w->wide, d->value);
    clear(w->tokens, w->tokens, d->scaled);
    clear(1, w->tokens, (matrix){d->decay, w->tokens});
    clear(1, w->tokens, (matrix){d->scaled_decay, w->tokens});
}

/* The gradients of U = a_C U_0 + sum_i e_i k_i v_i^T and H likewise, from those carried in `memory` and
 * `gram`, which become those by U_0 and H_0. */
static inline void differentiate_write(const workspace *w, gradients *d) {
    int64_t tokens = w->tokens, size = w->size, wide = w->wide, last = w->p->chunk - 1;
    real by = w->decay[last], sum = 0;
    transpose(size, size, d->gram, d->gram_t);
    for (int64_t i = 0; i < size; i++) {
        sum += dot(size, row(d->gram, i), row(w->c.moments, i)) +
               dot(wide, row(d->memory, i), row(w->memory, i));
        add_scaled(size, 1, row(d->gram, i), row(d->gram_t, i));
    }
    d->decay[last] += sum;
    transpose(size, wide, d->memory, d->memory_t);
    product(tokens, size, wide, w->value, d->memory_t, w->carried, SET);
    product(tokens, wide, size, w->c.keys, d->memory, w->read, SET);
    product(tokens, size, size, w->c.keys, d->gram_t, w->image, SET);
    for (int64_t i = 0; i < tokens; i++) {
        const real *key = row(w->c.keys, i);
        d->to_end[i] = dot(size, row(w->carried, i), key) + dot(size, row(w->image, i), key) / 2;
        add_scaled(size, w->to_end[i], row(w->carried, i), row(d->key, i));
        add_scaled(size, w->to_end[i], row(w->image, i), row(d->key, i));
        add_scaled(wide, w->to_end[i], row(w->read, i), row(d->value, i));
    }
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j < size; j += LANES) *(vec *)(row(d->gram, i) + j) *= by;
        for (int64_t j = 0; j < wide; j += LANES) *(vec *)(row(d->memory, i) + j) *= by;
    }
}

/* The gradients of y_t = a_t U_0^T z_t + sum_i W_ti (z_t.k_i) v_i; that by z is written to `grad_z`. */
static inline void differentiate_read(const workspace *w, matrix z, matrix grad_z, gradients *d) {
    int64_t tokens = w->tokens, size = w->size, wide = w->wide;
    product(tokens, tokens, size, z, from(w->c.moments, 0, size), w->scores, SET);
    transpose(tokens, wide, w->value, d->value_t);
    transpose(size, wide, w->memory, d->memory_t);
    product(tokens, tokens, wide, d->grad_y, d->value_t, d->last, SET);
    product(tokens, size, wide, d->grad_y, d->memory_t, d->met_y, SET);
    for (int64_t t = 0; t < tokens; t++) {
        d->decay[t] += dot(size, row(d->met_y, t), row(z, t));
        for (int64_t i = 0; i < tokens; i += LANES) {
            vec weight = *(const vec *)(row(w->weights, t) + i),
                score = *(const vec *)(row(w->scores, t) + i), *other = (vec *)(row(d->last, t) + i);
            *(vec *)(row(d->weights, t) + i) = score * *other;
            *(vec *)(row(d->first, t) + i) = weight * score;
            *other *= weight;
        }
    }
    scale_rows(tokens, size, d->met_y, w->decay, 1, grad_z);
    product(tokens, size, tokens, d->last, w->c.keys, grad_z, ADD);
    transposed_product(tokens, size, tokens, d->last, z, d->key, ADD);
    transposed_product(tokens, wide, tokens, d->first, d->grad_y, d->value, ADD);
    scale_rows(tokens, size, z, w->decay, 1, w->carried);
    transposed_product(size, wide, tokens, w->carried, d->grad_y, d->memory, ADD);
}

/* Subtracts share b_t x_t^T from the gradient by the matrix of `apply` at every token, given what that wrote
 * to `met` for b, and the products x_t.k_i [C', C']. */
static inline void subtract_outer(const workspace *w, real share, matrix b, matrix x, matrix x_met,
                                  gradients *d) {
    int64_t tokens = w->tokens, size = w->size;
    for (int64_t t = 0; t < tokens; t++) {
        const real *met = row(w->met, t);
        for (int64_t i = 0; i < tokens; i += LANES) {
            vec own = share * *(const vec *)(met + size + i), other = *(const vec *)(row(x_met, t) + i),
                weight = *(const vec *)(row(w->c.weights, t) + i);
            *(vec *)(row(d->scaled, t) + i) -= own * other;
            *(vec *)(row(d->first, t) + i) = weight * own;
            *(vec *)(row(d->last, t) + i) = share * weight * other;
        }
        d->scaled_decay[t] -= share * dot(size, met, row(x, t));
        for (int64_t j = 0; j < size; j += LANES)
            *(vec *)(row(w->carried, t) + j) = share * w->c.decay[t] * *(const vec *)(row(b, t) + j);
    }
    transposed_product(tokens, size, tokens, d->first, x, d->key, SUBTRACT);
    transposed_product(tokens, size, tokens, d->last, b, d->key, SUBTRACT);
    transposed_product(size, size, tokens, x, w->carried, d->gram, SUBTRACT);
}

static inline void store_gradients(const workspace *w, const gradients *d) {
    const struct regression *p = w->p;
    int64_t chunk = p->chunk, features = p->features, values = p->values;
    for (int64_t t = 0; t < chunk; t++) {
        add_scaled(w->tokens, w->scale[t], row(d->scaled, t), row(d->weights, t));
        p->grad_decay[at_chunk(w, chunk) + t] = d->decay[t] + w->scale[t] * d->scaled_decay[t];
        p->grad_to_end[at_chunk(w, chunk) + t] = d->to_end[t];
    }
    store(chunk, chunk, d->weights, p->grad_weights + at_chunk(w, chunk * chunk), chunk);
    store(w->present, features, d->query, p->grad_query + at_token(w, 0, features), p->heads * features);
    store(w->present, features, d->key, p->grad_key + at_token(w, 0, features), p->heads * features);
    store(w->present, values, d->value, p->grad_value + at_token(w, 0, values), p->heads * values);
}

#endif
