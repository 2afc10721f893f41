/* The passes of step.c over ``n`` rows of a memory, columns from ``c`` on in steps of a TYPE; each returns where it stopped. step.c
 * includes this for vectors and for single numbers, which take the columns that fill no vector. */
enum { LANES_OF(TYPE) = sizeof(TYPE) / sizeof(real) };
#define AT(x) ((TYPE) * (const ANYWHERE *)(x))
#define PUT(x, value) (*(ANYWHERE *)(x) = (ANYWHERE)(value))
#define SPREAD(x) ((x) - (TYPE){0}) /* outside the loops, whose writes the compiler takes to change every number in memory */

/* ``ahead`` numbers further on lies what comes next, to be fetched meanwhile; 0 where it is in the cache. */
#define FETCH(x) if (ahead && c % LINE == 0) __builtin_prefetch((x) + ahead, 0, 2)

/* found += S^T error, y += S^T query. */
INLINE int64_t NAME(read_rows, TYPE)(int64_t c, const real *rows, const real *error, const real *query, real *found, real *y, int64_t V, const int n) {
    TYPE p[ROWS], q[ROWS];
    for (int r = 0; r < n; r++) p[r] = SPREAD(error[r]), q[r] = SPREAD(query[r]);
    for (; c + LANES_OF(TYPE) <= V; c += LANES_OF(TYPE)) {
        TYPE sum_found = AT(found + c), sum_y = AT(y + c);
        for (int r = 0; r < n; r++) {
            TYPE s = AT(rows + r * V + c);
            LOAD_ONCE(s);
            sum_found += p[r] * s;
            sum_y += q[r] * s;
        }
        PUT(found + c, sum_found);
        PUT(y + c, sum_y);
    }
    return c;
}

/* to = decay from + key written^T - erase erased^T; the last term only where there is an erase key. */
INLINE int64_t NAME(write_rows, TYPE)(int64_t c, const real *from, real *to, const real *decay, const real *key, const real *erase,
                                      const real *written, const real *erased, int64_t V, const int n, int64_t ahead) {
    TYPE d[ROWS], k[ROWS], minus[ROWS];
    for (int r = 0; r < n; r++) d[r] = SPREAD(decay[r]), k[r] = SPREAD(key[r]), minus[r] = SPREAD(erase ? erase[r] : 0);
    for (; c + LANES_OF(TYPE) <= V; c += LANES_OF(TYPE)) {
        TYPE w = AT(written + c), e = AT(erased + c);
        for (int r = 0; r < n; r++) {
            FETCH(from + r * V + c);
            TYPE s = d[r] * AT(from + r * V + c) + k[r] * w;
            if (erase) s -= minus[r] * e;
            PUT(to + r * V + c, s);
        }
    }
    return c;
}

/* to = decay from + key written^T, and y += S^T query of what is written, or with ``first`` of what was there. */
INLINE int64_t NAME(add_rows, TYPE)(int64_t c, const real *from, real *to, const real *decay, const real *key, const real *query,
                                    const real *written, real *y, int64_t V, const int n, int64_t ahead, const int first) {
    TYPE d[ROWS], k[ROWS], q[ROWS];
    for (int r = 0; r < n; r++) d[r] = SPREAD(decay[r]), k[r] = SPREAD(key[r]), q[r] = SPREAD(query[r]);
    for (; c + LANES_OF(TYPE) <= V; c += LANES_OF(TYPE)) {
        TYPE w = AT(written + c), sum_y = AT(y + c);
        for (int r = 0; r < n; r++) {
            FETCH(from + r * V + c);
            TYPE s = AT(from + r * V + c), next = d[r] * s + k[r] * w;
            if (first) sum_y += q[r] * s;
            else sum_y += q[r] * next;
            PUT(to + r * V + c, next);
        }
        PUT(y + c, sum_y);
    }
    return c;
}

#undef AT
#undef PUT
#undef FETCH
#undef SPREAD
