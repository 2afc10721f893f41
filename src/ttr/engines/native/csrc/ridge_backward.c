/* The backward pass of ridge regression: with g = dL/dx, dL/dq = b where A b = g, since A is symmetric, and
 * dL/dA = -b x^T. */
#include "moments_backward.h"
#include "ridge.h"

static void backward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct ridge *p = job;
    solver s = allocate_solver(p, &scratch);
    gradients d = allocate_gradients(&s.w, &scratch);
    matrix solution = allocate_matrix(&scratch, s.w.tokens, s.w.size), met = s.w.scores;
    real *of_ridge = allocate(&scratch, s.w.size);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    int64_t tokens = s.w.tokens, size = s.w.size, features = p->r.features;
    s.w.head = head;
    load_ridge(&s);
    load_gradients(&s.w, head, &d);
    clear(1, size, (matrix){of_ridge, size});
    for (int64_t n = (p->r.time - 1) / p->r.chunk; n >= 0; n--) {
        load_backward(&s.w, n, &d);
        load_tokens(&s.w, p->solution, features, solution);
        differentiate_write(&s.w, &d);
        prepare(&s);
        differentiate_read(&s.w, solution, s.right, &d);
        solve(&s);
        product(tokens, tokens, size, solution, from(s.w.c.moments, 0, size), met, SET);
        apply(&s.w.c, s.x, s.w.met, s.w.image);
        subtract_outer(&s.w, 1, s.x, solution, met, &d);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t j = 0; j < size; j += LANES) {
                vec by = *(const vec *)(row(s.x, t) + j), x = *(const vec *)(row(solution, t) + j);
                *(vec *)(of_ridge + j) -= by * x;
            }
        memcpy(d.query.data, s.x.data, (size_t)(tokens * size) * sizeof(real));
        store_gradients(&s.w, &d);
    }
    store_last_gradients(&s.w, &d);
    store(1, features, (matrix){of_ridge, size}, p->grad_ridge + head * features, features);
}

int TTR_NAME(ridge_backward)(const struct ridge *p) {
    return run_tasks(p, p->r.batch * p->r.heads, p->r.threads, backward);
}
