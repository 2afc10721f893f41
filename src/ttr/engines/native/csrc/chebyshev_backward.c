/* The backward pass; chebyshev.h has the equations.
 *
 * Through x = p(H) q: with g = dL/dx, dL/dq is p(H) g, since p(H) is symmetric. The adjoint of t_{k+1} =
 * 2 S t_k - t_{k-1} is Clenshaw's recurrence, here too in its differences,
 *
 *     d_k = d_{k+1} + c_k g - G b_{k+1},      b_k = b_{k+1} + d_k,      p(H) g = c_0 g + d_1 - G b_1 / 2,
 *
 * with (2 / f) g in the place of g. It gives dL/dS = b_1 t_0^T + 2 sum_{k > 0} b_{k+1} t_k^T. At fixed f,
 * hence, by S = 1 - G / 2,
 *
 *     dL/dG = -(b_1 t_0^T / 2 + sum_{k > 0} b_{k+1} t_k^T).
 *
 * Through f: x(s H, s f) = x(H, f) / s for every s > 0 gives f dL/df = -(g.x + G : dL/dG), and g.x =
 * q . dL/dq. df/dH = H / f then adds, in terms of G, (f dL/df / 16) G to dL/dG.
 *
 * The gradients by G = 4 / f (a H_0 + sum W k k^T) of all tokens are never formed: of each rank-1 term b t^T,
 * those by W are products of b.k_i and t.k_i. */
#include "chebyshev.h"
#include "moments_backward.h"

typedef struct {
    gradients g;
    matrix powers, met;        /* t_k [C', F'] and, but for the last, t_k.k_i [C', C'], one below the other */
    matrix right, sum, change; /* (2 / f) g, b_k, d_k [C', F'] */
    double *share, *of_pair;   /* [C'], of every token (f dL/df / 16) (4 / f)^2, and its sum with a and W */
} derivative;

static derivative allocate_derivative(const iteration *s, arena *a) {
    int64_t tokens = s->w.tokens, size = s->w.size, steps = s->p->terms - 1;
    derivative d = {allocate_gradients(&s->w, a), allocate_matrix(a, (steps + 1) * tokens, size)};
    d.met = allocate_matrix(a, steps * tokens, tokens);
    d.right = allocate_matrix(a, tokens, size);
    d.sum = allocate_matrix(a, tokens, size);
    d.change = allocate_matrix(a, tokens, size);
    d.share = allocate_doubles(a, tokens), d.of_pair = allocate_doubles(a, tokens);
    return d;
}

/* t_k, t_k.k_i and x */
static void write_powers(const iteration *s, derivative *d) {
    int64_t tokens = s->w.tokens;
    begin(s, d->powers);
    for (int64_t k = 0; k + 1 < s->p->terms; k++) {
        matrix power = from(d->powers, k * tokens, 0);
        apply(&s->w.c, power, s->w.met, s->w.image);
        for (int64_t t = 0; t < tokens; t++)
            memcpy(row(d->met, k * tokens + t), row(s->w.met, t) + s->w.size, (size_t)tokens * sizeof(real));
        advance(s, k, power, from(d->powers, (k + 1) * tokens, 0));
    }
    divide(s, s->solution);
}

/* z = q + mix (x - q), with its gradient in `sum`: that by x to `right`, that by q to `query`. */
static void differentiate_mix(const iteration *s, derivative *d) {
    for (int64_t t = 0; t < s->w.tokens; t++) {
        const real *grad = row(d->sum, t), share = mix_at(s, t);
        if (t < s->w.present)
            s->p->grad_mix[at_token(&s->w, t, 1)] =
                dot(s->w.size, grad, row(s->solution, t)) - dot(s->w.size, grad, row(s->w.query, t));
        for (int64_t j = 0; j < s->w.size; j += LANES) {
            *(vec *)(row(d->right, t) + j) = share * *(const vec *)(grad + j);
            *(vec *)(row(d->g.query, t) + j) = (1 - share) * *(const vec *)(grad + j);
        }
    }
}

/* b_k and d_k from b_{k+1}, d_{k+1} and the image of b_{k+1}, of which `share` is subtracted: all, or half of
 * it for p(H) g in the place of d_0. */
static void descend(const iteration *s, derivative *d, int64_t k, real share) {
    real coefficient = (real)s->p->coefficients[k];
    for (int64_t j = 0; j < s->w.tokens * s->w.size; j += LANES) {
        vec *change = (vec *)(d->change.data + j), image = *(const vec *)(s->w.image.data + j);
        *change += coefficient * *(const vec *)(d->right.data + j) - share * image;
        *(vec *)(d->sum.data + j) += *change;
    }
}

/* From the gradient by x in `right`. */
static void differentiate_solution(const iteration *s, derivative *d) {
    int64_t tokens = s->w.tokens, size = s->w.size, degree = s->p->terms - 1;
    divide(s, d->right);
    clear(tokens, size, d->change);
    clear(tokens, size, d->sum);
    clear(tokens, size, s->w.image);
    descend(s, d, degree, 1);
    for (int64_t k = degree - 1; k >= 0; k--) {
        real share = k ? 1 : (real)0.5;
        matrix power = from(d->powers, k * tokens, 0), met = from(d->met, k * tokens, 0);
        apply(&s->w.c, d->sum, s->w.met, s->w.image);
        subtract_outer(&s->w, share, d->sum, power, met, &d->g);
        descend(s, d, k, share);
    }
    for (int64_t j = 0; j < tokens * size; j += LANES)
        *(vec *)(d->g.query.data + j) += *(const vec *)(d->change.data + j);
}

/* y += a x, where a x may be in the range of float without a */
static void add_wide(int64_t size, double a, const real *x, real *y) {
    for (int64_t j = 0; j < size; j++) y[j] += (real)(a * x[j]);
}

/* Adds (f dL/df / 16) G to the gradient by G, and with it H_0 and the keys' products with G. The factors of
 * H_0 and of the pairs are in double, since (4 / f)^2 leaves the range of float early. */
static void differentiate_norm(const iteration *s, derivative *d) {
    const workspace *w = &s->w;
    int64_t tokens = w->tokens, size = w->size;
    matrix within = d->g.last;
    double past = 0;
    memset(d->of_pair, 0, (size_t)tokens * sizeof(double));
    for (int64_t t = 0; t < tokens; t++) {
        real *found = row(d->g.scaled, t);
        double all = dot(size, row(w->query, t), row(d->change, t)) + w->c.decay[t] * d->g.scaled_decay[t] +
                     dot(tokens, row(w->c.weights, t), found),
               decay = w->decay[t], reach = decay * s->squared, share = -all / 16 * w->scale[t];
        d->share[t] = share * w->scale[t];
        for (int64_t i = 0; i <= t; i++) {
            reach += row(w->weights, t)[i] * s->across[i];
            found[i] += (real)(share * s->along[t * tokens + i]);
            d->of_pair[i] += d->share[t] * decay * row(w->weights, t)[i];
        }
        d->g.scaled_decay[t] += (real)(share * reach);
        past += d->share[t] * decay * decay;
    }
    /* sum_t (f dL/df / 16) G_t of all tokens by H_0 and by k_i k_j^T */
    product(tokens, size + tokens, size, w->c.keys, w->c.moments, w->met, SET);
    clear(tokens, size, w->carried);
    for (int64_t i = 0; i < size; i++) add_wide(size, past, row(w->c.moments, i), row(d->g.gram, i));
    for (int64_t i = 0; i < tokens; i++) {
        add_wide(size, d->of_pair[i], row(w->c.keys, i), row(w->carried, i));
        add_wide(size, 2 * d->of_pair[i], row(w->met, i), row(d->g.key, i));
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t t = i; t < tokens; t++)
                sum += d->share[t] * row(w->weights, t)[i] * row(w->weights, t)[j];
            row(within, i)[j] = row(within, j)[i] = (real)(2 * sum * row(w->met, i)[size + j]);
        }
    }
    transposed_product(size, size, tokens, w->carried, w->c.keys, d->g.gram, ADD);
    product(tokens, size, tokens, within, w->c.keys, d->g.key, ADD);
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
        mix(&s, s.solution, d.change);
        differentiate_read(&s.w, d.change, d.sum, &d.g);
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
