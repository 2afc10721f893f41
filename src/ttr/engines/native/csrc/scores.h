/* Scores of the probes of a chunk against its keys, and their derivative.
 *
 *     scores_ij = sum_f probe_if key_jf e^{c_if - b_jf} for the keys j that probe i sees, else exactly 0,
 *
 * c_i = b_i, or b_{i-1} where the probe looks up before the decay. With a decay per head the exponential stands outside the sum; with one
 * per channel the probes and keys have taken it in already where one reference does for the chunk. Where the gates are too strong for
 * that, the chunk is halved down to pieces of at most PIECE tokens: probes of the late half meet keys of the early half over the border
 * between them, both exponents <= 0; inside a piece every pair has its own exponent. Nothing overflows whatever the gates. */
#ifndef TTR_SCORES_H
#define TTR_SCORES_H

#include "decay.h"

enum { PIECE = 8 }; /* a multiple of ROWS that divides BLOCK: so are all parts of a chunk */

typedef real piece __attribute__((vector_size(PIECE * sizeof(real)), may_alias));

/* A part of a chunk that one pair of references serves: `late` tokens from `middle` on meet `early` tokens from `start` on. */
typedef struct {
    int64_t start, middle, late;
} crossing;

/* Late probes and early keys over their border, in c->late [late, F] and, transposed, in c->early [F, early]. */
static inline void cross_probes(const chunk *c, crossing x, int64_t group, matrix late) {
    const integer *restrict border = power_row(c, x.middle);
    for (int64_t i = 0; i < x.late; i++) {
        int64_t token = x.middle + i;
        const integer *restrict power = power_row(c, token + shift(c->r, is_read(c->r, group)));
        const real *restrict probe = row(c->probe, group * c->size + token);
        real *restrict out = row(late, i);
        for (int64_t f = 0; f < c->keys; f++) out[f] = probe[f] * power_of_two(power[f] - border[f]);
    }
}

static inline void cross_keys(const chunk *c, crossing x, matrix key, matrix early) {
    const integer *restrict border = power_row(c, x.middle);
    for (int64_t j = 0; j < x.middle - x.start; j++) {
        const integer *restrict power = power_row(c, x.start + j + 1);
        const real *restrict in = row(key, x.start + j);
        real *restrict out = row(early, j);
        for (int64_t f = 0; f < c->keys; f++) out[f] = in[f] * power_of_two(border[f] - power[f]);
    }
}

/* Inside a piece. Sums run over channels in the order of a product's, so that which way a chunk goes, which its last gates decide, changes
 * no bit of a score. */
static inline void piece_scores(const chunk *c, int64_t set, int64_t start, int64_t size) {
    real(*restrict key)[PIECE] = (real(*)[PIECE])c->early.data;
    integer(*restrict power)[PIECE] = (integer(*)[PIECE])c->across.data;
    for (int64_t j = 0; j < PIECE; j++)
        for (int64_t f = 0; f < c->keys; f++) {
            key[f][j] = j < size ? row(c->key[set], start + j)[f] : 0;
            power[f][j] = j < size ? power_row(c, start + j + 1)[f] : 0;
        }
    for (int64_t g = 0; g < groups(c->r); g++)
        for (int64_t i = start; i < start + size; i++) {
            int64_t reads = is_read(c->r, g);
            const integer *late = power_row(c, i + shift(c->r, reads));
            const real *probe = row(c->probe, g * c->size + i);
            piece sum = {0};
            for (int64_t f = 0; f < c->keys; f++) {
                real near[PIECE] __attribute__((aligned(sizeof(piece))));
                for (int j = 0; j < PIECE; j++) {
                    integer between = late[f] - power[f][j]; /* > 0 only for keys that the probe does not see */
                    near[j] = key[f][j] * power_of_two(between < 0 ? between : 0);
                }
                sum += probe[f] * *(const piece *)near;
            }
            for (int64_t j = start; j < visible(c->r, reads, i); j++) row(c->scores[set], g * c->size + i)[j] = sum[j - start];
        }
}

static inline void halve_scores(const chunk *c, int64_t set, int64_t start, int64_t size) {
    if (size > PIECE) {
        int64_t early = (size / 2 + PIECE - 1) / PIECE * PIECE;
        crossing x = {start, start + early, size - early};
        matrix keys = {c->across.data, c->keys}, turned = {c->early.data, padded(early)}, found = {c->turned.data, padded(early)};
        cross_keys(c, x, c->key[set], keys);
        clear(padded(early) - early, c->keys, from(keys, early, 0));
        transpose(padded(early), c->keys, keys, turned);
        for (int64_t g = 0; g < groups(c->r); g++) {
            cross_probes(c, x, g, c->late);
            product(x.late, padded(early), c->keys, c->late, turned, found, SET);
            for (int64_t i = 0; i < x.late; i++)
                for (int64_t j = 0; j < early; j++) row(c->scores[set], g * c->size + x.middle + i)[start + j] = row(found, i)[j];
        }
        halve_scores(c, set, start, early);
        halve_scores(c, set, x.middle, x.late);
        return;
    }
    piece_scores(c, set, start, size);
}

/* Keep what each probe sees, times its decay where that is one per head. Scores and their gradient pass here alike. */
static inline void decay_and_mask(const chunk *c, matrix scores) {
    for (int64_t g = 0; g < groups(c->r); g++)
        for (int64_t i = 0; i < c->size; i++) {
            int64_t reads = is_read(c->r, g), seen = visible(c->r, reads, i), lambda = i + shift(c->r, reads);
            real *restrict line = row(scores, g * c->size + i);
            if (c->r->decay == DECAYS_HEADS) {
                const real up = row(c->up, lambda)[0], *restrict down = row(c->down, 1);
                const integer late = power_row(c, lambda)[0], *restrict power = power_row(c, 1);
                for (int64_t j = 0; j < c->size; j++) {
                    integer between = late - power[j]; /* > 0 only for keys that the probe does not see */
                    line[j] *= up * down[j] * power_of_two(between < 0 ? between : 0);
                }
            }
            for (int64_t j = seen; j < c->size; j++) line[j] = 0;
        }
}

static inline void find_scores(const chunk *c, int64_t set) {
    if (c->r->decay == DECAYS_CHANNELS && !c->whole) {
        clear(groups(c->r) * c->size, c->size, c->scores[set]);
        halve_scores(c, set, 0, c->size);
        return;
    }
    matrix turned = {c->turned.data, c->size};
    transpose(c->size, c->keys, c->key[set], turned);
    for (int64_t g = 0; g < groups(c->r); g++)
        for (int64_t i = g * c->size, seen = BLOCK; seen <= c->size; i += BLOCK, seen += BLOCK)
            product(BLOCK, seen, c->keys, from(c->probe, i, 0), turned, from(c->scores[set], i, 0), SET);
    decay_and_mask(c, c->scores[set]);
}

/* The same pieces backwards: from the gradient of the scores to those of probes and keys, which are added to. */
static inline void halve_gradient(const chunk *c, int64_t set, matrix gradient, matrix grad_probe, matrix grad_key, int64_t start, int64_t size) {
    if (size > PIECE) {
        int64_t early = (size / 2 + PIECE - 1) / PIECE * PIECE, late = size - early;
        crossing x = {start, start + early, late};
        matrix keys = {c->early.data, c->keys}, part = {c->across.data, c->keys};
        for (int64_t g = 0; g < groups(c->r); g++) {
            int64_t first = g * c->size + x.middle;
            matrix scores = from(gradient, first, start);
            cross_keys(c, x, c->key[set], keys);
            product(late, c->keys, early, scores, keys, part, SET);
            for (int64_t i = 0; i < late; i++) {
                const integer *restrict power = power_row(c, x.middle + i + shift(c->r, is_read(c->r, g))), *border = power_row(c, x.middle);
                for (int64_t f = 0; f < c->keys; f++)
                    row(grad_probe, first + i)[f] += row(part, i)[f] * power_of_two(power[f] - border[f]);
            }
            cross_probes(c, x, g, c->late);
            transposed_product(early, c->keys, late, scores, c->late, part, SET);
            for (int64_t j = 0; j < early; j++) {
                const integer *restrict power = power_row(c, start + j + 1), *border = power_row(c, x.middle);
                for (int64_t f = 0; f < c->keys; f++) row(grad_key, start + j)[f] += row(part, j)[f] * power_of_two(border[f] - power[f]);
            }
        }
        halve_gradient(c, set, gradient, grad_probe, grad_key, start, early);
        halve_gradient(c, set, gradient, grad_probe, grad_key, x.middle, late);
        return;
    }
    for (int64_t g = 0; g < groups(c->r); g++)
        for (int64_t i = start; i < start + size; i++) {
            int64_t reads = is_read(c->r, g), line = g * c->size + i;
            const integer *restrict late = power_row(c, i + shift(c->r, reads));
            for (int64_t j = start; j < visible(c->r, reads, i); j++) {
                const integer *restrict power = power_row(c, j + 1);
                const real *restrict probe = row(c->probe, line), *restrict key = row(c->key[set], j), score = row(gradient, line)[j];
                real *restrict to_probe = row(grad_probe, line), *restrict to_key = row(grad_key, j);
                for (int64_t f = 0; f < c->keys; f++) {
                    real weight = score * power_of_two(late[f] - power[f]);
                    to_probe[f] += weight * key[f];
                    to_key[f] += weight * probe[f];
                }
            }
        }
}

/* From the gradient of a set's scores, [R, C], to those of its probes and keys, which are added to. `gradient` is overwritten. */
static inline void scores_backward(const chunk *c, int64_t set, matrix gradient, matrix grad_probe, matrix grad_key) {
    decay_and_mask(c, gradient);
    if (c->r->decay == DECAYS_CHANNELS && !c->whole) {
        halve_gradient(c, set, gradient, grad_probe, grad_key, 0, c->size);
        return;
    }
    for (int64_t g = 0; g < groups(c->r); g++)
        for (int64_t i = 0; i < c->size; i += BLOCK) {
            matrix line = from(gradient, g * c->size + i, 0);
            product(BLOCK, c->keys, i + BLOCK, line, c->key[set], from(grad_probe, g * c->size + i, 0), ADD);
            transposed_product(BLOCK, c->keys, c->size - i, from(line, 0, i), from(c->probe, g * c->size + i, 0), from(grad_key, i, 0), ADD);
        }
}

#endif
