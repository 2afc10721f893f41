/* The forward pass; chebyshev.h has the equations. */
#include "chebyshev.h"

/* x; every t_k takes the place of the one before it. */
static void solve(const iteration *s, matrix power) {
    begin(s, power);
    for (int64_t k = 0; k + 1 < s->p->terms; k++) {
        apply(&s->w.c, power, s->w.met, s->w.image);
        advance(s, k, power, power);
    }
    divide(s, s->solution);
}

static void forward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct polynomial *p = job;
    iteration s = allocate_iteration(p, &scratch);
    matrix power = allocate_matrix(&scratch, s.w.tokens, s.w.size);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    load_first(&s.w, head);
    for (int64_t n = 0; n * p->r.chunk < p->r.time; n++) {
        load_chunk(&s.w, n);
        save_state(&s.w);
        write_scales(&s);
        solve(&s, power);
        mix(&s, s.solution, s.solution);
        read_out(&s.w, s.solution);
        write_pairs(&s.w);
    }
    store_last(&s.w);
}

int TTR_NAME(chebyshev_forward)(const struct polynomial *p) {
    return run_tasks(p, p->r.batch * p->r.heads, p->r.threads, forward);
}
