/* The forward pass of ridge regression; ridge.h has the equations. */
#include "ridge.h"

static void forward(const void *job, int64_t head, arena scratch, int64_t *needed) {
    const struct ridge *p = job;
    solver s = allocate_solver(p, &scratch);
    if (needed) {
        *needed = scratch.used;
        return;
    }
    int64_t features = p->r.features;
    load_first(&s.w, head);
    load_ridge(&s);
    for (int64_t n = 0; n * p->r.chunk < p->r.time; n++) {
        load_chunk(&s.w, n);
        save_state(&s.w);
        prepare(&s);
        memcpy(s.right.data, s.w.query.data, (size_t)(s.w.tokens * s.w.size) * sizeof(real));
        solve(&s);
        store(s.w.present, features, s.x, p->solution + at_token(&s.w, 0, features), p->r.heads * features);
        read_out(&s.w, s.x);
        write_pairs(&s.w);
    }
    store_last(&s.w);
}

int TTR_NAME(ridge_forward)(const struct ridge *p) {
    return run_tasks(p, p->r.batch * p->r.heads, p->r.threads, forward);
}
