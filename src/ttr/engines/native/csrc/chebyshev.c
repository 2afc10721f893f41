/* Polynomials of the second moments of all tokens, applied to a vector of each:
 *
 *     x_t = (2 / f_t) sum_k c_k T_k(S_t) q_t,      S_t = 1 - 2 H_t / f_t,      k = 0 .. terms - 1,
 *
 * with the Chebyshev polynomials T_k and f_t at least the largest eigenvalue of H_t, by Clenshaw's recurrence
 * in the form of Reinsch (Stoer and Bulirsch, Introduction to numerical analysis, section 2.3.2). With the
 * scaled moments G = 4 H / f,
 *
 *     d_k = d_{k+1} + c_k q - G b_{k+1},      b_k = b_{k+1} + d_k,      x = (2 / f) (c_0 q + d_1 - G b_1 / 2),
 *
 * which keeps the digits of small eigenvalues: 2 S b is never formed.
 *
 * Derivative. With g = dL/dx and b_k now those of (2 / f) g in the place of q, dL/dq is the polynomial of H
 * applied to g, since it is symmetric, and t_{k+1} = 2 S t_k - t_{k-1} for t_k = T_k(S) q, whose adjoint
 * recurrence is Clenshaw's, gives dL/dS = b_1 t_0^T + 2 sum_{k > 0} b_{k+1} t_k^T. Hence
 *
 *     dL/dG = -(b_1 t_0^T / 2 + sum_{k > 0} b_{k+1} t_k^T).
 *
 * x(s H, s f) = x(H, f) / s for every s > 0 gives the derivative by f without a recurrence of its own:
 * f dL/df = -(g.x + H : dL/dH), and g.x = q . dL/dq. */
#include "moments.h"

/* right, solution and their gradients [G, C, F], norm [G, C]; all gradients are contiguous. */
struct polynomial {
    struct chunks chunks;
    int64_t terms, threads;
    const double *coefficients;
    const real *right, *norm, *grad_solution;
    real *solution, *grad_right, *grad_keys, *grad_weights, *grad_decay, *grad_gram, *grad_norm;
};

typedef struct {
    chunk c;                               /* of G_t in the place of H_t */
    matrix right, sum, change, image, met; /* q, b_k, d_k, G b_k [C', F']; what `apply` writes */
    real *scale;                           /* [C'], 4 / f */
} workspace;

static workspace allocate_workspace(const struct polynomial *p, arena *a) {
    workspace w = {allocate_chunk(&p->chunks, a)};
    int64_t tokens = w.c.tokens, size = w.c.size;
    w.right = allocate_matrix(a, tokens, size);
    w.sum = allocate_matrix(a, tokens, size);
    w.change = allocate_matrix(a, tokens, size);
    w.image = allocate_matrix(a, tokens, size);
    w.met = allocate_matrix(a, tokens, size + tokens);
    w.scale = allocate(a, tokens);
    return w;
}

static void load_scaled(const struct polynomial *p, int64_t g, workspace *w) {
    int64_t tokens = p->chunks.tokens;
    load_chunk(&p->chunks, g, &w->c);
    for (int64_t t = 0; t < w->c.tokens; t++) {
        double scale = t < tokens ? 4 / (double)p->norm[g * tokens + t] : 0;
        w->scale[t] = (real)scale;
        w->c.decay[t] = (real)(scale * w->c.decay[t]);
        for (int64_t i = 0; i < tokens; i++)
            row(w->c.weights, t)[i] = (real)(scale * row(w->c.weights, t)[i]);
    }
}

/* The rows [C', F'] of chunk g of a tensor. */
static void load_rows(const struct polynomial *p, int64_t g, const real *tensor, const workspace *w,
                      matrix to) {
    int64_t tokens = p->chunks.tokens, size = p->chunks.features;
    load(tokens, size, tensor + g * tokens * size, size, w->c.tokens, w->c.size, to);
}

/* m_t becomes scale_t m_t / 2 for all tokens. */
static void divide(const workspace *w, matrix m) {
    for (int64_t t = 0; t < w->c.tokens; t++)
        for (int64_t j = 0; j < w->c.size; j += LANES) *(vec *)(row(m, t) + j) *= w->scale[t] / 2;
}

/* b_k and d_k for the first k, the degree of the polynomial. */
static void begin(const workspace *w, real coefficient) {
    for (int64_t j = 0; j < w->c.tokens * w->c.size; j += LANES)
        *(vec *)(w->sum.data + j) = *(vec *)(w->change.data + j) =
            coefficient * *(const vec *)(w->right.data + j);
}

/* b_k and d_k from b_{k+1}, d_{k+1} and the image of b_{k+1}; with k = 0, x in the place of d_0. */
static void advance(const workspace *w, int64_t k, real coefficient) {
    real share = k ? 1 : (real)0.5;
    for (int64_t j = 0; j < w->c.tokens * w->c.size; j += LANES) {
        vec change = *(const vec *)(w->change.data + j) + coefficient * *(const vec *)(w->right.data + j) -
                     share * *(const vec *)(w->image.data + j);
        *(vec *)(w->change.data + j) = change;
        *(vec *)(w->sum.data + j) += change;
    }
}

static void forward(const void *job, int64_t g, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    workspace w = allocate_workspace(p, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    int64_t tokens = p->chunks.tokens, size = p->chunks.features;
    load_scaled(p, g, &w);
    load_rows(p, g, p->right, &w, w.right);
    begin(&w, (real)p->coefficients[p->terms - 1]);
    for (int64_t k = p->terms - 2; k >= 0; k--) {
        apply(&w.c, w.sum, w.met, w.image);
        advance(&w, k, (real)p->coefficients[k]);
    }
    divide(&w, w.change);
    store(tokens, size, w.change, p->solution + g * tokens * size);
}

/* ---- derivative ---------------------------------------------------------------------------------------- */
typedef struct {
    matrix powers, scores;       /* t_k [C', F'] and t_k.k_i [C', C'] for k < terms - 1, one below the other */
    matrix keys, gram, weights;  /* the gradients [C', F'], [F', F'], [C', C'] */
    matrix carried, first, last; /* [C', F'] and twice [C', C']: b_k with its weights; see `add_step` */
    real *decay;                 /* [C'], a gradient */
} gradients;

static gradients allocate_gradients(const struct polynomial *p, const workspace *w, arena *a) {
    int64_t tokens = w->c.tokens, size = w->c.size, steps = p->terms - 1;
    gradients d = {allocate_matrix(a, steps * tokens, size), allocate_matrix(a, steps * tokens, tokens)};
    d.keys = allocate_matrix(a, tokens, size);
    d.gram = allocate_matrix(a, size, size);
    d.weights = allocate_matrix(a, tokens, tokens);
    d.carried = allocate_matrix(a, tokens, size);
    d.first = allocate_matrix(a, tokens, tokens);
    d.last = allocate_matrix(a, tokens, tokens);
    d.decay = allocate(a, tokens);
    return d;
}

static void clear_gradients(const workspace *w, gradients *d) {
    int64_t tokens = w->c.tokens, size = w->c.size;
    clear(tokens, size, d->keys);
    clear(size, size, d->gram);
    clear(tokens, tokens, d->weights);
    clear(tokens, tokens, d->first);
    clear(tokens, tokens, d->last);
    clear(1, tokens, (matrix){d->decay, tokens});
}

/* From t_0: t_{k+1} = t_k + e_{k+1} with e_{k+1} = e_k - G t_k and e_1 = -G t_0 / 2, Reinsch's form again. */
static void write_powers(const struct polynomial *p, const workspace *w, gradients *d) {
    int64_t tokens = w->c.tokens, count = tokens * w->c.size;
    for (int64_t k = 0; k < p->terms - 1; k++) {
        matrix power = from(d->powers, k * tokens, 0);
        apply(&w->c, power, w->met, w->image);
        for (int64_t t = 0; t < tokens; t++)
            memcpy(row(d->scores, k * tokens + t), row(w->met, t) + w->c.size,
                   (size_t)tokens * sizeof(real));
        for (int64_t j = 0; j < count && k + 2 < p->terms; j += LANES) {
            vec *change = (vec *)(w->change.data + j), image = *(const vec *)(w->image.data + j);
            *change = k ? *change - image : (real)-0.5 * image;
            *(vec *)(power.data + count + j) = *(const vec *)(power.data + j) + *change;
        }
    }
}

/* Subtracts b_k t_{k-1}^T, or half of it for k = 1, from the gradient by G: `met` holds the products of b_k
 * with H_0 and the keys. */
static void add_step(const workspace *w, int64_t k, gradients *d) {
    int64_t tokens = w->c.tokens, size = w->c.size;
    real share = k == 1 ? (real)0.5 : 1;
    matrix power = from(d->powers, (k - 1) * tokens, 0);
    for (int64_t t = 0; t < tokens; t++) {
        const real *met = row(w->met, t), *weights = row(w->c.weights, t),
                   *scores = row(d->scores, (k - 1) * tokens + t);
        for (int64_t i = 0, seen = t / BLOCK * BLOCK + BLOCK; i < seen; i += LANES) {
            uvec own = share * *(const uvec *)(met + size + i), other = *(const uvec *)(scores + i),
                 weight = *(const uvec *)(weights + i);
            *(uvec *)(row(d->weights, t) + i) -= own * other;
            *(uvec *)(row(d->first, t) + i) = weight * own;
            *(uvec *)(row(d->last, t) + i) = share * weight * other;
        }
        d->decay[t] -= share * dot(size, met, row(power, t));
        for (int64_t j = 0; j < size; j += LANES)
            *(vec *)(row(d->carried, t) + j) = share * w->c.decay[t] * *(const vec *)(row(w->sum, t) + j);
    }
    transposed_product(tokens, size, tokens, d->first, power, d->keys, SUBTRACT);
    transposed_product(tokens, size, tokens, d->last, w->sum, d->keys, SUBTRACT);
    transposed_product(size, size, tokens, power, d->carried, d->gram, SUBTRACT);
}

/* Writes the gradients of chunk g: those by W, a and f from those by 4 W / f and 4 a / f. */
static void write_gradients(const struct polynomial *p, int64_t g, const workspace *w, gradients *d) {
    int64_t tokens = p->chunks.tokens, size = p->chunks.features;
    for (int64_t t = 0; t < tokens; t++) {
        double all = dot(w->c.size, row(d->powers, t), row(w->change, t)) + d->decay[t] * w->c.decay[t] +
                     dot(w->c.tokens, row(d->weights, t), row(w->c.weights, t));
        p->grad_norm[g * tokens + t] = (real)(-all * w->scale[t] / 4);
        p->grad_decay[g * tokens + t] = w->scale[t] * d->decay[t];
        for (int64_t i = 0; i < tokens; i++) row(d->weights, t)[i] *= w->scale[t];
    }
    store(tokens, size, w->change, p->grad_right + g * tokens * size);
    store(tokens, size, d->keys, p->grad_keys + g * tokens * size);
    store(tokens, tokens, d->weights, p->grad_weights + g * tokens * tokens);
    store(size, size, d->gram, p->grad_gram + g * size * size);
}

static void backward(const void *job, int64_t g, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    workspace w = allocate_workspace(p, &scratch);
    gradients d = allocate_gradients(p, &w, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    load_scaled(p, g, &w);
    clear_gradients(&w, &d);
    load_rows(p, g, p->right, &w, d.powers);
    write_powers(p, &w, &d);
    load_rows(p, g, p->grad_solution, &w, w.right);
    divide(&w, w.right);
    begin(&w, (real)p->coefficients[p->terms - 1]);
    for (int64_t k = p->terms - 1; k > 0; k--) {
        apply(&w.c, w.sum, w.met, w.image);
        add_step(&w, k, &d);
        advance(&w, k - 1, (real)p->coefficients[k - 1]);
    }
    write_gradients(p, g, &w, &d);
}

int TTR_NAME(chebyshev_forward)(const struct polynomial *p) {
    return run_tasks(p, p->chunks.groups, p->threads, forward);
}

int TTR_NAME(chebyshev_backward)(const struct polynomial *p) {
    return run_tasks(p, p->chunks.groups, p->threads, backward);
}
