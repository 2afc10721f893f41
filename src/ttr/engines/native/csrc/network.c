/* Networks in mini-batches, forwards and backwards: the chunks of a memory in sequence, memories in
 * parallel. */
#include "mirror.h"
#include "parallel.h"

/* Where the weights of a memory that enter a block of chunks are stored; its momentum follows them. */
static real *state_of(const network *n, int64_t block, int64_t memory) {
    return n->states + (block * n->memories + memory) * n->state * (n->momentum ? 2 : 1);
}

static void copy(const network *n, const real *from, real *to) {
    load_rows(from, 1, n->state, (matrix){to, n->state});
}

/* ---- forwards ------------------------------------------------------------------------------------------ */
static void read_out(worker *w, int64_t m, const pass *p, const reading *r) {
    const network *n = w->n;
    int64_t size = n->width[n->layers], last = n->layers - 1;
    if (!n->residual) {
        store_rows(r->o[last], n->tokens, size, n->y + place(w, m, size));
        return;
    }
    const real *gain = n->gain + w->memory * size, *shift = n->shift + w->memory * size;
    for (int64_t i = 0; i < n->tokens; i++) {
        real *y = n->y + place(w, m, size) + i * size, *normed = w->row[0];
        normalise(n, row(r->o[last], i), normed);
        for (int64_t j = 0; j < size; j++) y[j] = normed[j] * gain[j] + shift[j];
        for (int64_t j = 0; j < shared(n); j++) y[j] += row(r->h[0], i)[j];
    }
}

/* The weights that the pairs of chunk m see, and what these compute with them. */
static void enter_chunk(worker *w, int64_t m, pass *p) {
    if (w->n->mirror) map_weights(w, p);
    load_pairs(w, m, p);
}

static void read_chunk(worker *w, int64_t m, const pass *p, reading *r) {
    (w->n->mirror ? read_mapped : read_queries)(w, m, p, r);
}

static void run_forward(const void *job, int64_t memory, arena scratch, int64_t *needed) {
    const network *n = job;
    worker w = reserve_worker(n, memory, &scratch);
    pass p = reserve_pass(n, &scratch);
    reading r = reserve_reading(n, &scratch);
    if (!scratch.base) {
        *needed = scratch.used;
        return;
    }
    copy(n, n->weights + memory * n->state, p.sums);
    if (p.momentum) copy(n, n->momentum + memory * n->state, p.momentum);
    for (int64_t m = 0; m < n->chunks; m++) {
        if (n->states && m % n->block == 0) {
            copy(n, p.sums, state_of(n, m / n->block, memory));
            if (p.momentum) copy(n, p.momentum, state_of(n, m / n->block, memory) + n->state);
        }
        enter_chunk(&w, m, &p);
        read_chunk(&w, m, &p, &r);
        read_out(&w, m, &p, &r);
        step_weights(&w, m, &p, p.sums, p.momentum);
    }
    copy(n, p.sums, n->end_weights + memory * n->state);
    if (p.momentum) copy(n, p.momentum, n->end_momentum + memory * n->state);
}

/* ---- backwards ----------------------------------------------------------------------------------------- */
/* From the gradients of the weights after the chunk to those of the weights that enter, of the pairs and of
 * the coefficients at its end. */
static void back_through_step(worker *w, int64_t m, const pass *p, gradient *d) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), start = place(w, m, 1), end = n->tokens - 1;
    clear(tokens, tokens, d->pairs);
    if (d->momentum) memset(n->grad_momentum_pairs + start, 0, (size_t)n->tokens * sizeof(real));
    for (int64_t l = 0; l < n->layers; l++) {
        int64_t inputs = wide(n, l), outputs = wide(n, l + 1);
        matrix met = {w->wide[0].data, outputs}, scaled = {w->wide[1].data, outputs};
        clear(tokens, outputs, d->s[l]);
        clear(tokens, outputs, scaled);
        for (int moving = 0; moving < (d->momentum ? 2 : 1); moving++) {
            real *behind = moving ? d->momentum : d->sums, sign = moving ? 1 : -1;
            const real *by = moving ? n->momentum_pairs + start : row(w->pairs, end);
            real *grad_by = moving ? n->grad_momentum_pairs + start : row(d->pairs, end);
            affine(n, p->x[l], behind, l, met);
            for (int64_t i = 0; i < n->tokens; i++) {
                add_scaled(outputs, sign * by[i], row(met, i), row(d->s[l], i));
                grad_by[i] += sign * dot(outputs, row(met, i), row(p->s[l], i));
                for (int64_t j = 0; j < outputs; j += LANES)
                    *(uvec *)(row(scaled, i) + j) = sign * by[i] * *(const uvec *)(row(p->s[l], i) + j);
            }
            back(tokens, inputs, outputs, scaled, weight(n, behind, l), w->work, d->x[l], moving ? ADD : SET);
        }
    }
    if (n->kept) n->grad_kept[start + end] += dot(n->state, d->sums, p->sums);
    if (d->momentum) {
        int64_t chunk = m * n->memories + w->memory;
        n->grad_moved[start + end] += dot(n->state, d->sums, p->momentum);
        n->grad_momentum_kept[chunk] = dot(n->state, d->momentum, p->momentum);
        scale(n->state, n->momentum_kept[chunk], d->momentum);
        add_scaled(n->state, n->moved[start + end], d->sums, d->momentum);
    }
    if (n->kept) scale(n->state, n->kept[start + end], d->sums);
}

/* From the gradient of the read-outs to d->o[0], that of the last matrix's output. */
static void back_through_read_out(worker *w, int64_t m, const reading *r, matrix out) {
    const network *n = w->n;
    int64_t size = n->width[n->layers], last = n->layers - 1;
    const real *grad_y = n->grad_y + place(w, m, size);
    clear(tokens_of(n), wide(n, n->layers), out);
    if (!n->residual) {
        load_rows(grad_y, n->tokens, size, out);
        return;
    }
    for (int64_t i = 0; i < n->tokens; i++, grad_y += size) {
        real *normed = w->row[0], *scaled = w->row[1];
        const real *gain = n->gain + w->memory * size;
        real *grad_gain = n->grad_gain + w->memory * size, *grad_shift = n->grad_shift + w->memory * size;
        real rate = normalise(n, row(r->o[last], i), normed);
        for (int64_t j = 0; j < size; j++) {
            scaled[j] = grad_y[j] * gain[j];
            grad_gain[j] += grad_y[j] * normed[j];
            grad_shift[j] += grad_y[j];
        }
        through_norm(size, normed, rate, scaled, row(out, i));
    }
}

/* From the gradient o of the read-outs of matrix l to those of its queries, h, of its pairs and its weights. */
static void back_through_matrix(worker *w, int64_t m, const pass *p, const reading *r, int64_t l, matrix o,
                                matrix h, gradient *d) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), inputs = wide(n, l), outputs = wide(n, l + 1), start = place(w, m, 1);
    matrix transposed = {w->work, tokens}, weighted = w->small[0], d_scores = w->small[1];
    transpose(tokens, outputs, p->s[l], transposed);
    product(tokens, tokens, outputs, o, transposed, d_scores, SET);
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t j = 0; j < tokens; j++) {
            real d_weighted = j <= i ? -row(d_scores, i)[j] : 0, pair = row(w->pairs, i)[j],
                 score = row(r->scores[l], i)[j];
            row(d->pairs, i)[j] += d_weighted * score;
            row(d_scores, i)[j] = d_weighted * pair;
            row(weighted, i)[j] = score * pair;
        }
    transposed_product(tokens, outputs, tokens, weighted, o, d->s[l], SUBTRACT);
    transposed_product(tokens, inputs, tokens, d_scores, r->h[l], d->x[l], ADD);
    product(tokens, inputs, tokens, d_scores, p->x[l], h, SET);
    for (int moving = 0; moving < (n->momentum ? 2 : 1); moving++) {
        const real *by = moving ? n->moved + start : n->kept ? n->kept + start : NULL;
        real *grad_by = moving ? n->grad_moved : n->grad_kept,
             *grad_weights = moving ? d->momentum : d->sums;
        matrix scaled = o;
        if (by) {
            scaled = (matrix){w->wide[0].data, outputs};
            clear(tokens, outputs, scaled);
            scale_rows(n->tokens, outputs, o, by, 1, scaled);
            for (int64_t i = 0; i < n->tokens; i++)
                grad_by[start + i] += dot(outputs, row(o, i), row(moving ? r->moving[l] : r->now[l], i));
        }
        back(tokens, inputs, outputs, scaled, weight(n, moving ? p->momentum : p->sums, l), w->work, h,
             ADD);
        transposed_product(inputs, outputs, tokens, r->h[l], scaled, weight(n, grad_weights, l), ADD);
        if (n->bias) add_rows(tokens, outputs, scaled, bias(n, grad_weights, l));
    }
}

static void back_through_queries(worker *w, int64_t m, const pass *p, const reading *r, gradient *d) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n);
    matrix o = {d->o[0].data, wide(n, n->layers)};
    back_through_read_out(w, m, r, o);
    for (int64_t l = n->layers; l-- > 0;) {
        int64_t inputs = wide(n, l);
        matrix h = {d->h.data, inputs};
        (n->mirror ? back_through_mapped : back_through_matrix)(w, m, p, r, l, o, h, d);
        if (l == 0) {
            store_rows(h, n->tokens, n->width[0], n->grad_query + place(w, m, n->width[0]));
            break;
        }
        o = (matrix){d->o[o.data == d->o[0].data].data, inputs};
        through_activation(tokens, inputs, r->o[l - 1], h, o, SET);
    }
    if (!n->residual) return;
    int64_t size = n->width[n->layers];
    for (int64_t i = 0; i < n->tokens; i++)
        for (int64_t j = 0; j < shared(n); j++)
            n->grad_query[place(w, m, n->width[0]) + i * n->width[0] + j] +=
                n->grad_y[place(w, m, size) + i * size + j];
}

/* From the gradient of the slope of the loss at the error e to that of e, in place, and of the threshold t
 * where it shortens the error: (t / |e|) (d - (d.e) e / |e|^2), and for a power p: (p - 1) |e|^(p-2) d. */
static void through_slope(const worker *w, int64_t m, int64_t i, const real *e, real *d) {
    const network *n = w->n;
    const int64_t size = n->width[n->layers];
    const real share = share_of(w, m, i, e);
    if (share != 1) {
        const real squared = dot(size, e, e), along = dot(size, d, e);
        for (int64_t j = 0; j < size; j++) d[j] = share * (d[j] - along * e[j] / squared);
        n->grad_threshold[place(w, m, 1) + i] += along / (real)sqrt((double)squared);
    }
    for (int64_t j = 0; j < size; j++) d[j] *= (real)(n->loss_power - 1) * weight_of(n, e[j]);
}

/* From the gradient of the last slope, s = rate (h - mean(h) - n mean(h n)) with h = g gain, g the slope of the
 * loss at e = key + n gain + shift - value, to those of the last output, of value, gain and shift, and of the
 * key (d->x[0]). */
static void back_through_error(worker *w, int64_t m, const pass *p, gradient *d) {
    const network *n = w->n;
    int64_t size = n->width[n->layers], last = n->layers - 1;
    for (int64_t i = 0; i < n->tokens; i++) {
        real *ds = row(d->s[last], i), *dz = row(d->z[last], i), *normed = w->row[0], *e = w->row[1],
             *slope = w->row[2], *dn = w->row[3], *de = w->row[4], *g = w->row[5];
        real *d_value = row(d->value, i), *s = row(p->s[last], i);
        if (!n->residual) {
            for (int64_t j = 0; j < size; j++)
                dz[j] = ds[j], e[j] = row(p->z[last], i)[j] - row(w->value, i)[j];
            through_slope(w, m, i, e, dz);
            for (int64_t j = 0; j < size; j++) d_value[j] = -dz[j];
            continue;
        }
        const real *gain = n->gain + w->memory * size;
        real *grad_gain = n->grad_gain + w->memory * size, *grad_shift = n->grad_shift + w->memory * size;
        real rate = normalise(n, row(p->z[last], i), normed);
        error_of(w, p, i, normed, e);
        slope_of(w, m, i, e, g);
        /* s depends on h by a symmetric linear map, so the same map gives the gradient of h */
        through_norm(size, normed, rate, ds, slope);
        real along = 0;
        for (int64_t j = 0; j < size; j++) along += g[j] * gain[j] * normed[j];
        along /= (real)size;
        real centred = dot(size, ds, normed) / (real)size, grown = dot(size, ds, s) / (real)size;
        for (int64_t j = 0; j < size; j++) de[j] = slope[j] * gain[j];
        through_slope(w, m, i, e, de);
        for (int64_t j = 0; j < size; j++) {
            dn[j] = de[j] * gain[j] - rate * (ds[j] * along + g[j] * gain[j] * centred);
            grad_gain[j] += slope[j] * g[j] + de[j] * normed[j];
            grad_shift[j] += de[j];
            d_value[j] = -de[j];
        }
        through_norm(size, normed, rate, dn, dz);
        for (int64_t j = 0; j < size; j++) dz[j] -= rate * normed[j] * grown;
        for (int64_t j = 0; j < shared(n); j++) row(d->x[0], i)[j] -= d_value[j];
    }
}

/* From the gradients of inputs and slopes of the pairs to those of the weights, the key and the value. */
static void back_through_pairs(worker *w, int64_t m, const pass *p, gradient *d) {
    const network *n = w->n;
    int64_t tokens = tokens_of(n), last = n->layers - 1, size = n->width[n->layers];
    for (int64_t l = 0; l < last; l++) {
        int64_t inputs = wide(n, l + 1), outputs = wide(n, l + 2);
        matrix du = {w->wide[0].data, inputs};
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t j = 0; j < inputs; j += LANES) {
                gelu_parts g = gelu(*(const uvec *)(row(p->z[l], i) + j));
                vec ds = *(const uvec *)(row(d->s[l], i) + j);
                *(uvec *)(row(du, i) + j) = ds * g.slope;
                *(uvec *)(row(d->z[l], i) + j) = ds * g.second * *(const uvec *)(row(p->u[l], i) + j);
            }
        product(tokens, outputs, inputs, du, weight(n, p->weights, l + 1), d->s[l + 1], ADD);
        transposed_product(inputs, outputs, tokens, du, p->s[l + 1], weight(n, d->weights, l + 1), ADD);
    }
    back_through_error(w, m, p, d);
    for (int64_t l = last;; l--) {
        int64_t inputs = wide(n, l), outputs = wide(n, l + 1);
        back(tokens, inputs, outputs, d->z[l], weight(n, p->weights, l), w->work, d->x[l], ADD);
        transposed_product(inputs, outputs, tokens, p->x[l], d->z[l], weight(n, d->weights, l), ADD);
        if (n->bias) add_rows(tokens, outputs, d->z[l], bias(n, d->weights, l));
        if (l == 0) break;
        through_activation(tokens, inputs, p->z[l - 1], d->x[l], d->z[l - 1], ADD);
    }
    store_rows(d->x[0], n->tokens, n->width[0], n->grad_key + place(w, m, n->width[0]));
    store_rows(d->value, n->tokens, size, n->grad_value + place(w, m, size));
    store_rows(d->pairs, n->tokens, n->tokens, n->grad_pairs + place(w, m, n->tokens));
}

static void run_backward(const void *job, int64_t memory, arena scratch, int64_t *needed) {
    const network *n = job;
    worker w = reserve_worker(n, memory, &scratch);
    reading r = reserve_reading(n, &scratch);
    gradient d = reserve_gradient(n, &scratch);
    pass passes[MOST_BLOCK];
    for (int64_t i = 0; i < n->block; i++) passes[i] = reserve_pass(n, &scratch);
    if (!scratch.base) {
        *needed = scratch.used;
        return;
    }
    copy(n, n->grad_end_weights + memory * n->state, d.sums);
    if (d.momentum) copy(n, n->grad_end_momentum + memory * n->state, d.momentum);
    for (int64_t block = (n->chunks - 1) / n->block; block >= 0; block--) {
        int64_t first = block * n->block, count = n->chunks - first < n->block ? n->chunks - first : n->block;
        copy(n, state_of(n, block, memory), passes[0].sums);
        if (d.momentum) copy(n, state_of(n, block, memory) + n->state, passes[0].momentum);
        for (int64_t i = 0; i < count; i++) {
            enter_chunk(&w, first + i, &passes[i]);
            if (i + 1 < count)
                step_weights(&w, first + i, &passes[i], passes[i + 1].sums, passes[i + 1].momentum);
        }
        for (int64_t i = count; i-- > 0;) {
            int64_t m = first + i, size = n->width[n->layers];
            load_rows(n->value + place(&w, m, size), n->tokens, size, w.value);
            load_rows(n->pairs + place(&w, m, n->tokens), n->tokens, n->tokens, w.pairs);
            read_chunk(&w, m, &passes[i], &r);
            if (n->mirror)
                clear(tokens_of(n), tokens_of(n), d.pairs);
            else
                back_through_step(&w, m, &passes[i], &d);
            back_through_queries(&w, m, &passes[i], &r, &d);
            if (n->mirror) memset(d.weights, 0, (size_t)n->state * sizeof(real));
            back_through_pairs(&w, m, &passes[i], &d);
            if (n->mirror) back_through_map(&w, &passes[i], d.weights, d.sums);
        }
    }
    copy(n, d.sums, n->grad_weights + memory * n->state);
    if (d.momentum) copy(n, d.momentum, n->grad_momentum + memory * n->state);
}

int TTR_NAME(network_forward)(const network *n) { return run_tasks(n, n->memories, n->threads, run_forward); }
int TTR_NAME(network_backward)(const network *n) {
    return run_tasks(n, n->memories, n->threads, run_backward);
}
