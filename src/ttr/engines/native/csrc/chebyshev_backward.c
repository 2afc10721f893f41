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
#include "moments_backward.h"

typedef struct {
    gradients g;
    matrix powers, met; /* t_k [C', F'] and t_k.k_i [C', C'] for k < terms - 1, one below the other */
    matrix solution;    /* [C', F'] */
    real *of_pair;      /* [C'] */
} derivative;

static derivative allocate_derivative(const iteration *s, arena *a) {
    int64_t tokens = s->w.tokens, size = s->w.size, steps = s->p->terms - 1;
    derivative d = {allocate_gradients(&s->w, a), allocate_matrix(a, steps * tokens, size)};
    d.met = allocate_matrix(a, steps * tokens, tokens);
    d.solution = allocate_matrix(a, tokens, size);
    d.of_pair = allocate(a, tokens);
    return d;
}

/* t_k, t_k.k_i and x. t_{k+1} = t_k + e_{k+1} with e_{k+1} = e_k - G t_k and e_1 = -G t_0 / 2: Reinsch's form
 * again. */
static void write_powers(const iteration *s, derivative *d) {
    int64_t tokens = s->w.tokens, count = tokens * s->w.size, steps = s->p->terms - 1;
    const double *coefficients = s->p->coefficients;
    memcpy(d->powers.data, s->w.query.data, (size_t)count * sizeof(real));
    for (int64_t j = 0; j < count; j += LANES)
        *(vec *)(d->solution.data + j) = (real)coefficients[0] * *(const vec *)(s->w.query.data + j);
    for (int64_t k = 0; k < steps; k++) {
        matrix power = from(d->powers, k * tokens, 0);
        real *next = k + 1 < steps ? power.data + count : s->sum.data; /* the last is not needed again */
        apply(&s->w.c, power, s->w.met, s->w.image);
        for (int64_t t = 0; t < tokens; t++)
            memcpy(row(d->met, k * tokens + t), row(s->w.met, t) + s->w.size, (size_t)tokens * sizeof(real));
        for (int64_t j = 0; j < count; j += LANES) {
            vec *change = (vec *)(s->change.data + j), image = *(const vec *)(s->w.image.data + j);
            *change = k ? *change - image : (real)-0.5 * image;
            *(vec *)(next + j) = *(const vec *)(power.data + j) + *change;
            *(vec *)(d->solution.data + j) += (real)coefficients[k + 1] * *(const vec *)(next + j);
        }
    }
    divide(s, d->solution);
}

/* z = q + mix (x - q): the gradient by x to `right`, that by q to `query`. */
static void differentiate_mix(const iteration *s, derivative *d) {
    for (int64_t t = 0; t < s->w.tokens; t++) {
        const real *grad = row(s->sum, t), share = mix_at(s, t);
        if (t < s->w.present)
            s->p->grad_mix[at_token(&s->w, t, 1)] =
                dot(s->w.size, grad, row(d->solution, t)) - dot(s->w.size, grad, row(s->w.query, t));
        for (int64_t j = 0; j < s->w.size; j += LANES) {
            *(vec *)(row(s->right, t) + j) = share * *(const vec *)(grad + j);
            *(vec *)(row(d->g.query, t) + j) = (1 - share) * *(const vec *)(grad + j);
        }
    }
}

/* From the gradient by x in `right`. */
static void differentiate_solution(const iteration *s, derivative *d) {
    const double *coefficients = s->p->coefficients;
    int64_t tokens = s->w.tokens, degree = s->p->terms - 1;
    divide(s, s->right);
    begin(s, (real)coefficients[degree]);
    for (int64_t k = degree; k > 0; k--) {
        apply(&s->w.c, s->sum, s->w.met, s->w.image);
        subtract_outer(&s->w, k == 1 ? (real)0.5 : 1, s->sum, from(d->powers, (k - 1) * tokens, 0),
                       from(d->met, (k - 1) * tokens, 0), &d->g);
        advance(s, k - 1, (real)coefficients[k - 1]);
    }
    for (int64_t j = 0; j < tokens * s->w.size; j += LANES)
        *(vec *)(d->g.query.data + j) += *(const vec *)(s->change.data + j);
}

/* Adds (f dL/df / 16) G to the gradient by G, and with it H_0 and the keys' products with G. */
static void differentiate_norm(const iteration *s, derivative *d) {
    int64_t tokens = s->w.tokens, size = s->w.size;
    matrix pairs = d->g.first, within = d->g.last;
    real *of_pair = d->of_pair, past = 0;
    clear(1, tokens, (matrix){of_pair, tokens});
    for (int64_t t = 0; t < tokens; t++) {
        const real *weights = row(s->w.c.weights, t);
        real *found = row(d->g.scaled, t), decay = s->w.c.decay[t],
             all = dot(size, row(s->w.query, t), row(s->change, t)) + decay * d->g.scaled_decay[t] +
                   dot(tokens, weights, found),
             share = -all / 16;
        double reach = s->w.decay[t] * s->squared;
        for (int64_t i = 0; i <= t; i++) {
            reach += row(s->w.weights, t)[i] * s->across[i];
            found[i] += (real)(share * (double)s->w.scale[t] * s->along[t * tokens + i]);
            of_pair[i] += share * decay * weights[i];
        }
        d->g.scaled_decay[t] += (real)(share * (double)s->w.scale[t] * reach);
        past += share * decay * decay;
        for (int64_t i = 0; i < tokens; i += LANES)
            *(vec *)(row(pairs, t) + i) = share * *(const vec *)(weights + i);
    }
    /* sum_t (f dL/df / 16) G_t of all tokens by H_0 and by k_i k_j^T */
    for (int64_t i = 0; i < size; i++) add_scaled(size, past, row(s->w.c.moments, i), row(d->g.gram, i));
    scale_rows(tokens, size, of_pair, s->w.c.keys, s->w.carried);
    transposed_product(size, size, tokens, s->w.carried, s->w.c.keys, d->g.gram, ADD);
    transposed_product(tokens, tokens, tokens, s->w.c.weights, pairs, within, SET);
    product(tokens, size + tokens, size, s->w.c.keys, s->w.c.moments, s->w.met, SET);
    for (int64_t i = 0; i < tokens; i++) {
        for (int64_t j = 0; j < tokens; j += LANES)
            *(vec *)(row(within, i) + j) *= 2 * *(const vec *)(row(s->w.met, i) + size + j);
        add_scaled(size, 2 * of_pair[i], row(s->w.met, i), row(d->g.key, i));
    }
    product(tokens, size, tokens, within, s->w.c.keys, d->g.key, ADD);
}

static void backward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    iteration s = allocate_iteration(p, &scratch);
    derivative d = allocate_derivative(&s, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    s.w.head = head;
    load_gradients(&s.w, head, &d.g);
    for (int64_t n = (p->r.time - 1) / p->r.chunk; n >= 0; n--) {
        load_backward(&s.w, n, &d.g);
        differentiate_write(&s.w, &d.g);
        write_scales(&s);
        write_powers(&s, &d);
        mix(&s, d.solution, s.change);
        differentiate_read(&s.w, s.change, s.sum, &d.g);
        differentiate_mix(&s, &d);
        differentiate_solution(&s, &d);
        differentiate_norm(&s, &d);
        store_gradients(&s.w, &d.g);
    }
    store_last_gradients(&s.w, &d.g);
}

int TTR_NAME(chebyshev_backward)(const struct polynomial *p) {
    return run_tasks(p, p->r.batch * p->r.heads, p->r.threads, backward);
}
