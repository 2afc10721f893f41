/* The forward pass; chebyshev.h has the equations. */
#include "chebyshev.h"

/* x in `change`, by Clenshaw's recurrence */
static void solve(const iteration *s) {
    const double *coefficients = s->p->coefficients;
    memcpy(s->right.data, s->w.query.data, (size_t)(s->w.tokens * s->w.size) * sizeof(real));
    begin(s, (real)coefficients[s->p->terms - 1]);
    for (int64_t k = s->p->terms - 2; k >= 0; k--) {
        apply(&s->w.c, s->sum, s->w.met, s->w.image);
        advance(s, k, (real)coefficients[k]);
    }
    divide(s, s->change);
}

static void forward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    iteration s = allocate_iteration(p, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    load_first(&s.w, head);
    for (int64_t n = 0; n * p->r.chunk < p->r.time; n++) {
        load_chunk(&s.w, n);
        save_state(&s.w);
        write_scales(&s);
        solve(&s);
        mix(&s, s.change, s.change);
        read_out(&s.w, s.change);
        write_pairs(&s.w);
    }
    store_last(&s.w);
}

int TTR_NAME(chebyshev_forward)(const struct polynomial *p) {
    return run_tasks(p, p->r.batch * p->r.heads, p->r.threads, forward);
}
