/* The loops that look at codes, written once. kernel_paths.h includes this for each instruction set, having defined

     PATH(name), TARGET      what a function is called there, and what lets the compiler use the instructions
     VEC, LANES              a vector, and how many 64-bit words it holds
     LOAD, STORE, SPREAD     words from and to memory, at any address; one word in all lanes
     XOR, COUNT, PLUS, SUMS  bits that differ; ones in each part of a lane, added up, and summed over the parts
     LESSER, BELOW           lane by lane the lesser of numbers under 2^31; whether any is less
     ROWS2, ROWS4            counts of rows of 2 or 4 words that lie one after another, to one a lane, in their order
     KEYS(sums, number)      sums * 2^20 + number, lane by lane

   Codes come in planes, word w of code i at planes + w * stride + 8 * i, or, of 1, 2 or 4 words, in rows. Whole groups
   of GROUP codes are read. */

#define GROUP (4 * LANES)

/* Distances of LANES codes from one query. */
TARGET INLINE VEC PATH(of)(const uint8_t *at, size_t stride, int words, const uint64_t *query)
{
    VEC counts = COUNT(XOR(LOAD(at), SPREAD(query[0])));
    for (int w = 1; w < words; w++)
        counts = PLUS(counts, COUNT(XOR(LOAD(at + (size_t)w * stride), SPREAD(query[w]))));
    return SUMS(counts);
}

/* The same in rows of 2 or 4 words; `query` repeats them to 8. */
TARGET INLINE VEC PATH(part)(const uint8_t *at, int words, const uint64_t *query, int number)
{
    return COUNT(XOR(LOAD(at + 8 * LANES * number), LOAD((const uint8_t *)(query + LANES * number % words))));
}

TARGET INLINE VEC PATH(in_rows)(const uint8_t *at, int words, const uint64_t *query)
{
    const VEC a = PATH(part)(at, words, query, 0), b = PATH(part)(at, words, query, 1);
    if (words == 2)
        return SUMS(ROWS2(a, b));
    return SUMS(ROWS4(a, b, PATH(part)(at, words, query, 2), PATH(part)(at, words, query, 3)));
}

TARGET INLINE int PATH(emit)(VEC distances, int i, int n, uint32_t below, uint64_t *hits, int found)
{
    uint64_t near[LANES];
    STORE(near, distances);
    for (int lane = 0; lane < LANES && i + lane < n; lane++) {
        hits[found] = near[lane] << 48 | (uint64_t)(i + lane);
        found += near[lane] < below;
    }
    return found;
}

/* Codes nearer than `below`: (distance << 48 | number) into `hits`, which has room for n + 1. Returns how many. Four
   vectors are looked at by their least distance alone, which is all there is to do for most. */
TARGET INLINE int PATH(scan_words)(const uint8_t *codes, size_t stride, int n, int words, const uint64_t *given,
                                   uint32_t below, uint64_t *hits)
{
    const int rows = !stride && words > 1;
    const size_t next = 8 * LANES * (size_t)(rows ? words : 1);
    const VEC limit = SPREAD(below);
    uint64_t query[MAX_WORDS];
    int found = 0;
    for (int w = 0; w < (rows ? 8 : words); w++)
        query[w] = given[rows ? w % words : w];
#define NEXT(number)                                                                                                   \
    (rows ? PATH(in_rows)(codes + number * next, words, query) : PATH(of)(codes + number * next, stride, words, query))
    for (int i = 0; i < n; i += GROUP, codes += 4 * next) {
        for (size_t line = 0; !stride && line < 4 * next; line += 64)
            FETCH(codes + AHEAD + line);
        const VEC a = NEXT(0), b = NEXT(1), c = NEXT(2), d = NEXT(3);
        if (!BELOW(LESSER(LESSER(a, b), LESSER(c, d)), limit))
            continue;
        const VEC group[4] = {a, b, c, d};
        for (int part = 0, j = i; part < 4; part++, j += LANES)
            if (BELOW(group[part], limit))
                found = PATH(emit)(group[part], j, n, below, hits, found);
    }
#undef NEXT
    return found;
}

/* The same, with loops unrolled for the usual numbers of words; `stride` 0 says that codes lie in rows. */
TARGET static int PATH(scan)(const uint8_t *codes, size_t stride, int n, int words, const uint64_t *query,
                             uint32_t below, uint64_t *hits)
{
    switch (stride ? -words : words) {
    case 1: return PATH(scan_words)(codes, 0, n, 1, query, below, hits);
    case -1: return PATH(scan_words)(codes, stride, n, 1, query, below, hits);
    case 2: return PATH(scan_words)(codes, 0, n, 2, query, below, hits);
    case 4: return PATH(scan_words)(codes, 0, n, 4, query, below, hits);
    case -2: return PATH(scan_words)(codes, stride, n, 2, query, below, hits);
    case -4: return PATH(scan_words)(codes, stride, n, 4, query, below, hits);
    default: return PATH(scan_words)(codes, stride, n, words, query, below, hits);
    }
}

/* All distances; `out` has room for whole groups. */
TARGET static void PATH(distances)(const uint8_t *planes, size_t stride, int n, int words, const uint64_t *query,
                                   uint64_t *out)
{
    for (int i = 0; i < n; i += LANES)
        STORE(out + i, PATH(of)(planes + 8 * (size_t)i, stride, words, query));
}

/* The nearest of `count` centroids, the first of equals, for each code: (distance << 20 | number) into `best`. */
TARGET INLINE void PATH(assign_words)(const uint8_t *planes, size_t stride, int n, int words,
                                      const uint64_t *centroids, int count, uint64_t *best)
{
    for (int i = 0; i < n; i += GROUP) {
        const uint8_t *at = planes + 8 * (size_t)i;
        VEC a = SPREAD(INT32_MAX), b = a, c = a, d = a;
        for (int number = 0; number < count; number++) {
            const uint64_t *centroid = centroids + (size_t)words * number;
            const VEC ordinal = SPREAD(number);
            a = LESSER(a, KEYS(PATH(of)(at, stride, words, centroid), ordinal));
            b = LESSER(b, KEYS(PATH(of)(at + 8 * LANES, stride, words, centroid), ordinal));
            c = LESSER(c, KEYS(PATH(of)(at + 16 * LANES, stride, words, centroid), ordinal));
            d = LESSER(d, KEYS(PATH(of)(at + 24 * LANES, stride, words, centroid), ordinal));
        }
        STORE(best + i, a), STORE(best + i + LANES, b), STORE(best + i + 2 * LANES, c), STORE(best + i + 3 * LANES, d);
    }
}

TARGET static void PATH(assign)(const uint8_t *planes, size_t stride, int n, int words, const uint64_t *centroids,
                                int count, uint64_t *best)
{
    switch (words) {
    case 1: PATH(assign_words)(planes, stride, n, 1, centroids, count, best); break;
    case 2: PATH(assign_words)(planes, stride, n, 2, centroids, count, best); break;
    default: PATH(assign_words)(planes, stride, n, words, centroids, count, best);
    }
}

#undef PATH
#undef TARGET
#undef VEC
#undef LANES
#undef LOAD
#undef STORE
#undef SPREAD
#undef XOR
#undef COUNT
#undef PLUS
#undef SUMS
#undef LESSER
#undef BELOW
#undef ROWS2
#undef ROWS4
#undef KEYS
#undef GROUP
