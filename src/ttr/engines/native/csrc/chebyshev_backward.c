/* The backward pass; chebyshev.h has the equations.
 *
 * Through x = p(H) q: with g = dL/dx and b_k now those of (2 / f) g in the place of q, dL/dq is p(H) g, since
 * p(H) is symmetric, and t_{k+1} = 2 S t_k - t_{k-1} for t_k = T_k(S) q, whose adjoint recurrence is
 * Clenshaw's, gives dL/dS = b_1 t_0^T + 2 sum_{k > 0} b_{k+1} t_k^T. At fixed f, hence, by S = 1 - G / 2,
 *
 *     dL/dG = -(b_1 t_0^T / 2 + sum_{k > 0} b_{k+1} t_k^T).
 *
 * Through f: x(s H, s f) = x(H, f) / s for every s > 0 gives f dL/df = -(g.x + G : dL/dG), and g.x = q . dL/dq.
 * df/dH = H / f then adds, in terms of G, (f dL/df / 16) G to dL/dG.
 *
 * The gradients by G = 4 / f (a H_0 + sum W k k^T) of all tokens are never formed: of each rank-1 term b t^T,
 * those by W are products of b.k_i and t.k_i. */
#include "chebyshev.h"

typedef struct {
    matrix powers, met;           /* t_k [C', F'] and t_k.k_i [C', C'] for k < terms - 1, one below the other */
    matrix solution;              /* [C', F'] */
    matrix query, key, value;     /* the gradients, [C', F'] and [C', V'] */
    matrix weights, gram, memory; /* [C', C'], [F', F'], [F', V']; the last two are carried between chunks */
    matrix scaled;                /* [C', C'], the gradient by 4 W / f */
    real *decay, *scaled_decay, *to_end, *of_pair;
    matrix grad_y, first, last;              /* [C', V'], [C', C'] */
    matrix value_t, memory_t, gram_t, met_y; /* [V', C'], [V', F'], [F', F'], [C', F'] */
} gradients;

static gradients allocate_gradients(const workspace *w, arena *a) {
    int64_t tokens = w->tokens, size = w->size, wide = w->wide, steps = w->p->terms - 1;
    gradients d = {allocate_matrix(a, steps * tokens, size), allocate_matrix(a, steps * tokens, tokens)};
    d.solution = allocate_matrix(a, tokens, size);
    d.query = allocate_matrix(a, tokens, size), d.key = allocate_matrix(a, tokens, size);
    d.value = allocate_matrix(a, tokens, wide), d.weights = allocate_matrix(a, tokens, tokens);
    d.gram = allocate_matrix(a, size, size), d.memory = allocate_matrix(a, size, wide);
    d.scaled = allocate_matrix(a, tokens, tokens);
    d.decay = allocate(a, tokens), d.scaled_decay = allocate(a, tokens), d.to_end = allocate(a, tokens);
    d.of_pair = allocate(a, tokens);
    d.grad_y = allocate_matrix(a, tokens, wide);
    d.first = allocate_matrix(a, tokens, tokens), d.last = allocate_matrix(a, tokens, tokens);
    d.value_t = allocate_matrix(a, wide, tokens), d.memory_t = allocate_matrix(a, wide, size);
    d.gram_t = allocate_matrix(a, size, size), d.met_y = allocate_matrix(a, tokens, size);
    return d;
}

/* row_t of `to` = scale_t row_t of m */
static void scale_rows(int64_t rows, int64_t columns, const real *scale, matrix m, matrix to) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t j = 0; j < columns; j += LANES)
            *(vec *)(row(to, t) + j) = scale[t] * *(const vec *)(row(m, t) + j);
}

/* ---- the memory after the chunk ------------------------------------------------------------------------ */
/* The gradients of U = a_C U_0 + sum_i e_i k_i v_i^T and H likewise, from those carried in `memory` and
 * `gram`, which become those by U_0 and H_0. */
static void differentiate_write(const workspace *w, gradients *d) {
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

/* ---- the read-out -------------------------------------------------------------------------------------- */
/* The gradients of y_t = a_t U_0^T z_t + sum_i W_ti (z_t.k_i) v_i; that by z to `sum`, and z to `change`. */
static void differentiate_read(const workspace *w, gradients *d) {
    int64_t tokens = w->tokens, size = w->size, wide = w->wide;
    mix(w, d->solution, w->change);
    product(tokens, tokens, size, w->change, from(w->c.moments, 0, size), w->scores, SET);
    transpose(tokens, wide, w->value, d->value_t);
    transpose(size, wide, w->memory, d->memory_t);
    product(tokens, tokens, wide, d->grad_y, d->value_t, d->last, SET);
    product(tokens, size, wide, d->grad_y, d->memory_t, d->met_y, SET);
    for (int64_t t = 0; t < tokens; t++) {
        d->decay[t] += dot(size, row(d->met_y, t), row(w->change, t));
        for (int64_t i = 0; i < tokens; i += LANES) {
            vec weight = *(const vec *)(row(w->weights, t) + i), score = *(const vec *)(row(w->scores, t) + i),
                *other = (vec *)(row(d->last, t) + i);
            *(vec *)(row(d->weights, t) + i) = score * *other;
            *(vec *)(row(d->first, t) + i) = weight * score;
            *other *= weight;
        }
    }
    scale_rows(tokens, size, w->decay, d->met_y, w->sum);
    product(tokens, size, tokens, d->last, w->c.keys, w->sum, ADD);
    transposed_product(tokens, size, tokens, d->last, w->change, d->key, ADD);
    transposed_product(tokens, wide, tokens, d->first, d->grad_y, d->value, ADD);
    scale_rows(tokens, size, w->decay, w->change, w->carried);
    transposed_product(size, wide, tokens, w->carried, d->grad_y, d->memory, ADD);
}

/* z = q + mix (x - q): the gradient by x to `right`, that by q to `query`. */
static void differentiate_mix(const workspace *w, gradients *d) {
    for (int64_t t = 0; t < w->tokens; t++) {
        const real *grad = row(w->sum, t), share = mix_at(w, t);
        if (t < w->present)
            w->p->grad_mix[at_token(w, t, 1)] =
                dot(w->size, grad, row(d->solution, t)) - dot(w->size, grad, row(w->query, t));
        for (int64_t j = 0; j < w->size; j += LANES) {
            *(vec *)(row(w->right, t) + j) = share * *(const vec *)(grad + j);
            *(vec *)(row(d->query, t) + j) = (1 - share) * *(const vec *)(grad + j);
        }
    }
}

/* ---- the solution -------------------------------------------------------------------------------------- */
/* t_k, t_k.k_i and x. t_{k+1} = t_k + e_{k+1} with e_{k+1} = e_k - G t_k and e_1 = -G t_0 / 2: Reinsch's form
 * again. */
static void write_powers(const workspace *w, gradients *d) {
    int64_t tokens = w->tokens, count = tokens * w->size, steps = w->p->terms - 1;
    const double *coefficients = w->p->coefficients;
    memcpy(d->powers.data, w->query.data, (size_t)count * sizeof(real));
    for (int64_t j = 0; j < count; j += LANES)
        *(vec *)(d->solution.data + j) = (real)coefficients[0] * *(const vec *)(w->query.data + j);
    for (int64_t k = 0; k < steps; k++) {
        matrix power = from(d->powers, k * tokens, 0);
        real *next = k + 1 < steps ? power.data + count : w->sum.data; /* the last is not needed again */
        apply(&w->c, power, w->met, w->image);
        for (int64_t t = 0; t < tokens; t++)
            memcpy(row(d->met, k * tokens + t), row(w->met, t) + w->size, (size_t)tokens * sizeof(real));
        for (int64_t j = 0; j < count; j += LANES) {
            vec *change = (vec *)(w->change.data + j), image = *(const vec *)(w->image.data + j);
            *change = k ? *change - image : (real)-0.5 * image;
            *(vec *)(next + j) = *(const vec *)(power.data + j) + *change;
            *(vec *)(d->solution.data + j) += (real)coefficients[k + 1] * *(const vec *)(next + j);
        }
    }
    divide(w, d->solution);
}

/* Subtracts b_k t_{k-1}^T, or half of it for k = 1, from the gradient by G: `met` holds the products of b_k
 * with H_0 and the keys. */
static void add_step(const workspace *w, int64_t k, gradients *d) {
    int64_t tokens = w->tokens, size = w->size;
    real share = k == 1 ? (real)0.5 : 1;
    matrix power = from(d->powers, (k - 1) * tokens, 0);
    for (int64_t t = 0; t < tokens; t++) {
        const real *met = row(w->met, t), *weights = row(w->c.weights, t),
                   *other_met = row(d->met, (k - 1) * tokens + t);
        for (int64_t i = 0; i < tokens; i += LANES) {
            vec own = share * *(const vec *)(met + size + i), other = *(const vec *)(other_met + i),
                weight = *(const vec *)(weights + i);
            *(vec *)(row(d->scaled, t) + i) -= own * other;
            *(vec *)(row(d->first, t) + i) = weight * own;
            *(vec *)(row(d->last, t) + i) = share * weight * other;
        }
        d->scaled_decay[t] -= share * dot(size, met, row(power, t));
        for (int64_t j = 0; j < size; j += LANES)
            *(vec *)(row(w->carried, t) + j) = share * w->c.decay[t] * *(const vec *)(row(w->sum, t) + j);
    }
    transposed_product(tokens, size, tokens, d->first, power, d->key, SUBTRACT);
    transposed_product(tokens, size, tokens, d->last, w->sum, d->key, SUBTRACT);
    transposed_product(size, size, tokens, power, w->carried, d->gram, SUBTRACT);
}

/* From the gradient by x in `right`. */
static void differentiate_solution(const workspace *w, gradients *d) {
    const double *coefficients = w->p->coefficients;
    int64_t tokens = w->tokens, degree = w->p->terms - 1;
    clear(tokens, tokens, d->scaled);
    clear(1, tokens, (matrix){d->scaled_decay, tokens});
    divide(w, w->right);
    begin(w, (real)coefficients[degree]);
    for (int64_t k = degree; k > 0; k--) {
        apply(&w->c, w->sum, w->met, w->image);
        add_step(w, k, d);
        advance(w, k - 1, (real)coefficients[k - 1]);
    }
    for (int64_t j = 0; j < tokens * w->size; j += LANES)
        *(vec *)(d->query.data + j) += *(const vec *)(w->change.data + j);
}

/* Adds (f dL/df / 16) G to the gradient by G, and with it H_0 and the keys' products with G. */
static void differentiate_norm(const workspace *w, gradients *d) {
    int64_t tokens = w->tokens, size = w->size;
    matrix pairs = d->first, within = d->last;
    real *of_pair = d->of_pair, past = 0;
    clear(1, tokens, (matrix){of_pair, tokens});
    for (int64_t t = 0; t < tokens; t++) {
        const real *weights = row(w->c.weights, t);
        real *found = row(d->scaled, t), decay = w->c.decay[t],
             all = dot(size, row(w->query, t), row(w->change, t)) + decay * d->scaled_decay[t] +
                   dot(tokens, weights, found),
             share = -all / 16;
        double reach = w->decay[t] * w->squared;
        for (int64_t i = 0; i <= t; i++) {
            reach += row(w->weights, t)[i] * w->across[i];
            found[i] += (real)(share * (double)w->scale[t] * w->along[t * tokens + i]);
            of_pair[i] += share * decay * weights[i];
        }
        d->scaled_decay[t] += (real)(share * (double)w->scale[t] * reach);
        past += share * decay * decay;
        for (int64_t i = 0; i < tokens; i += LANES)
            *(vec *)(row(pairs, t) + i) = share * *(const vec *)(weights + i);
    }
    /* sum_t (f dL/df / 16) G_t of all tokens by H_0 and by k_i k_j^T */
    for (int64_t i = 0; i < size; i++) add_scaled(size, past, row(w->c.moments, i), row(d->gram, i));
    scale_rows(tokens, size, of_pair, w->c.keys, w->carried);
    transposed_product(size, size, tokens, w->carried, w->c.keys, d->gram, ADD);
    transposed_product(tokens, tokens, tokens, w->c.weights, pairs, within, SET);
    product(tokens, size + tokens, size, w->c.keys, w->c.moments, w->met, SET);
    for (int64_t i = 0; i < tokens; i++) {
        for (int64_t j = 0; j < tokens; j += LANES)
            *(vec *)(row(within, i) + j) *= 2 * *(const vec *)(row(w->met, i) + size + j);
        add_scaled(size, 2 * of_pair[i], row(w->met, i), row(d->key, i));
    }
    product(tokens, size, tokens, within, w->c.keys, d->key, ADD);
}

static void store_gradients(const workspace *w, const gradients *d) {
    const struct polynomial *p = w->p;
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

static void backward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    workspace w = allocate_workspace(p, &scratch);
    gradients d = allocate_gradients(&w, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    int64_t features = p->features, values = p->values, both = features + values;
    real *grad_gram = p->grad_gram + head * features * features,
         *grad_memory = p->grad_memory + head * features * values;
    w.head = head;
    load(features, features, p->grad_end_gram + head * features * features, features, w.size, w.size, d.gram);
    load(features, values, p->grad_end_memory + head * features * values, values, w.size, w.wide, d.memory);
    for (int64_t n = (p->time - 1) / p->chunk; n >= 0; n--) {
        load_chunk(&w, n);
        const real *state = p->states + at_chunk(&w, features * both);
        load_state(&w, state, both, state + features, both);
        load_tokens(&w, p->grad_y, values, d.grad_y);
        clear(w.tokens, w.size, d.key);
        clear(w.tokens, w.wide, d.value);
        clear(1, w.tokens, (matrix){d.decay, w.tokens});
        differentiate_write(&w, &d);
        write_scales(&w);
        write_powers(&w, &d);
        differentiate_read(&w, &d);
        differentiate_mix(&w, &d);
        differentiate_solution(&w, &d);
        differentiate_norm(&w, &d);
        store_gradients(&w, &d);
    }
    store(features, features, d.gram, grad_gram, features);
    store(features, values, d.memory, grad_memory, values);
}

int TTR_NAME(chebyshev_backward)(const struct polynomial *p) {
    return run_tasks(p, p->batch * p->heads, p->threads, backward);
}
