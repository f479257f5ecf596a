/* Search over rows of codes and over lists, with the loops of kernel_paths.h. */

#define MAX_WORDS 31        /* of a code: a byte counts the ones of 31 bytes, and 11 bits those of all */
#define MAX_LISTS (1 << 20) /* so that distance << 20 | number has 31 bits */
#define STEP 32             /* codes; every path's groups are parts of it */
#define BLOCK 4096          /* words; half as many where they are copied: both must stay in the cache */
#define TILE 256            /* queries that meet a block; their heaps stay in the next cache */
#define FEW 16              /* queries that do not pay for planes of what they meet */
#define MANY INT32_MAX
#define WHOLE(n) (((n) + STEP - 1) / STEP * STEP)
#define FAR UINT16_MAX      /* than any code */
#define POSITION (((uint64_t)1 << 48) - 1)

#include "kernel_paths.h"

static const Path *current = &paths[PATHS - 1];

typedef struct { /* codes round a centroid */
    const uint8_t *codes, *ids; /* ids are int64, at any address */
    int64_t n;
    int64_t low, high;    /* least and greatest distance of a code from the centroid */
    const int64_t *rings; /* where the codes at `low`, `low` + 1, ... begin, if they are in this order; else NULL */
} List;

typedef struct {
    int64_t count;
    int width;
    List *each;
    int32_t *highs;      /* of each, LOST where there are no codes */
    uint64_t *centroids; /* planes */
    size_t stride;
    Py_buffer *views; /* what codes and ids are kept by */
} Lists;

#define LOST (-2 * FAR)

typedef struct { /* what one call needs */
    const Path *path;
    const Lists *lists;
    int width, words, block; /* bytes and words of a code, codes of a block */
    uint64_t *queries;       /* in words */
    uint64_t *planes, *hits; /* of a block */
    uint64_t *near;          /* distances of a block or of all centroids */
    int64_t *open, *order, *starts;
} Work;

static void finish(Work *work)
{
    free(work->queries), free(work->planes), free(work->hits), free(work->near);
    free(work->open), free(work->order), free(work->starts);
}

/* 0 where there is no memory. */
static int begin(Work *work, const Py_buffer *queries, const Lists *lists)
{
    const size_t width = (size_t)queries->shape[1], words = (width + 7) / 8, count = lists ? (size_t)lists->count : 0;
    *work = (Work){.path = current, .lists = lists, .width = (int)width, .words = (int)words};
    work->block = words == 1 ? BLOCK : BLOCK / 2 / work->words / STEP * STEP;
    work->queries = calloc((size_t)queries->shape[0] * words + 1, 8);
    work->planes = calloc(BLOCK + 8 * MAX_WORDS, 8);
    work->hits = malloc(8 * (BLOCK + 1)), work->near = malloc(8 * (BLOCK + count + STEP));
    work->open = malloc(8 * (count + 1)), work->order = malloc(8 * (count + 1));
    work->starts = malloc(8 * (64 * words + 2));
    if (!work->queries || !work->planes || !work->hits || !work->near || !work->open || !work->order || !work->starts)
        return finish(work), 0;
    for (Py_ssize_t q = 0; q < queries->shape[0]; q++)
        memcpy(work->queries + (size_t)q * words, (const uint8_t *)queries->buf + (size_t)q * width, width);
    return 1;
}

/* ---- codes, block by block */

typedef struct { /* codes that a loop can look at */
    const uint8_t *at;
    size_t stride, next; /* from plane to plane, 0 in rows; from code to code */
    int n;
    int64_t first; /* number of the first */
} Piece;

INLINE void transpose(const uint8_t *rows, int n, int width, size_t stride, uint64_t *planes)
{
    const int whole = width / 8;
    for (int i = 0; i < n; i++, rows += width) {
        for (int w = 0; w < whole; w++)
            memcpy(planes + (size_t)w * stride + i, rows + 8 * w, 8);
        if (width % 8) {
            uint64_t word = 0;
            memcpy(&word, rows + 8 * whole, (size_t)(width % 8));
            planes[(size_t)whole * stride + (size_t)i] = word;
        }
    }
}

/* The next of codes `first` to `last`, of n that there are: as they lie, if `queries` that meet them are too few to pay
   for planes and the loops take such rows, else in planes. */
static Piece cut(const Work *work, const uint8_t *rows, int64_t n, int64_t first, int64_t last, int64_t queries)
{
    const int width = work->width, count = (int)LESS(last - first, work->block);
    const int in_rows = width == 8 || (queries < FEW && (width == 16 || width == 32));
    const size_t stride = (size_t)work->block + 8; /* planes that begin at the same place of a page are slow */
    rows += width * first;
    if (in_rows && (first + WHOLE(count) <= n || count >= STEP))
        return (Piece){rows, 0, (size_t)width, first + WHOLE(count) <= n ? count : count / STEP * STEP, first};
    switch (width) { /* a width that the compiler knows */
    case 4: transpose(rows, count, 4, stride, work->planes); break;
    case 16: transpose(rows, count, 16, stride, work->planes); break;
    case 20: transpose(rows, count, 20, stride, work->planes); break;
    case 32: transpose(rows, count, 32, stride, work->planes); break;
    default: transpose(rows, count, width, stride, work->planes);
    }
    return (Piece){(const uint8_t *)work->planes, 8 * stride, 8, count, first};
}

/* A hit of a scan with its position: the code's id (int64, at any address), or its number where there are none. */
INLINE uint64_t placed(uint64_t hit, int64_t first, const uint8_t *ids)
{
    int64_t position = first + (int64_t)(hit & POSITION);
    if (ids)
        memcpy(&position, ids + 8 * position, 8);
    return (hit & ~POSITION) | ((uint64_t)position & POSITION);
}

/* ---- the k nearest, in a heap with the worst of them on top */

typedef struct {
    uint64_t *keys;
    int64_t k, filled, seen;
} Heap;

static void sink(uint64_t *keys, int64_t n, uint64_t key) /* in place of the top */
{
    int64_t at = 0, child;
    while ((child = 2 * at + 1) < n) {
        child += child + 1 < n && keys[child + 1] > keys[child];
        if (keys[child] <= key)
            break;
        keys[at] = keys[child], at = child;
    }
    keys[at] = key;
}

static void push(Heap *heap, uint64_t key)
{
    uint64_t *keys = heap->keys;
    int64_t at = heap->filled;
    if (at < heap->k) {
        for (heap->filled++; at && keys[(at - 1) / 2] < key; at = (at - 1) / 2)
            keys[at] = keys[(at - 1) / 2];
        keys[at] = key;
    } else if (key < keys[0])
        sink(keys, at, key);
}

INLINE int64_t farthest(const Heap *heap)
{
    return heap->filled < heap->k ? FAR : (int64_t)(heap->keys[0] >> 48);
}

/* What of a piece is nearer. A scan's limit is that at its beginning, so the first are short. Where codes have no ids
   they come in order of position, and one as far as the k-th comes too late. */
static void feed(const Work *work, Piece piece, const uint8_t *ids, const uint64_t *query, Heap *heap)
{
    for (int at = 0; at < piece.n;) {
        const uint32_t below = (uint32_t)farthest(heap) + (ids != NULL);
        const int64_t step = heap->seen < 2 * STEP ? 2 * STEP : heap->seen / STEP * STEP;
        const int n = (int)LESS(step, piece.n - at);
        const uint8_t *codes = piece.at + piece.next * (size_t)at;
        const int found = below ? work->path->scan(codes, piece.stride, n, work->words, query, below, work->hits) : 0;
        for (int hit = 0; hit < found; hit++)
            push(heap, placed(work->hits[hit], piece.first + at, ids));
        at += n, heap->seen += n;
    }
}

/* The answers, from a heap that lies where their positions will. */
static void settle(Heap *heap, int32_t *distances, int64_t *positions)
{
    for (int64_t n = heap->filled - 1; n > 0; n--) {
        const uint64_t key = heap->keys[n];
        heap->keys[n] = heap->keys[0];
        sink(heap->keys, n, key);
    }
    for (int64_t i = 0; i < heap->k; i++) {
        const int there = i < heap->filled;
        distances[i] = there ? (int32_t)(heap->keys[i] >> 48) : INT32_MAX;
        positions[i] = there ? (int64_t)(heap->keys[i] & POSITION) : -1;
    }
}

/* ---- all within a radius */

typedef struct {
    uint64_t *keys;
    int64_t used, room, seen;
} Hits;

static int keep(const Work *work, Piece piece, const uint8_t *ids, const uint64_t *query, uint32_t below, Hits *hits)
{
    const int found = work->path->scan(piece.at, piece.stride, piece.n, work->words, query, below, work->hits);
    if (hits->used + found > hits->room) {
        const int64_t room = 2 * hits->room + found;
        uint64_t *keys = realloc(hits->keys, 8 * (size_t)room);
        if (!keys)
            return 0;
        hits->keys = keys, hits->room = room;
    }
    for (int hit = 0; hit < found; hit++)
        hits->keys[hits->used++] = placed(work->hits[hit], piece.first, ids);
    hits->seen += piece.n;
    return 1;
}

/* ---- inverted lists */

static void measure(const Work *work, const uint64_t *query)
{
    const Lists *lists = work->lists;
    work->path->distances((const uint8_t *)lists->centroids, 8 * lists->stride, (int)lists->count, work->words, query,
                          work->near);
}

/* Which codes of a list may lie within `limit` of a query at `distance` from its centroid: those whose own distance from
   it differs by no more (triangle inequality). Returns where they begin. At the list's end some before them are taken
   in, to make whole groups. */
INLINE int64_t shell(const List *list, int64_t distance, int64_t limit, int64_t *last)
{
    int64_t low = distance - limit, high = distance + limit, first, whole;
    low = low < list->low ? list->low : low, high = high > list->high ? list->high : high;
    *last = low > high ? 0 : list->n;
    if (low > high || !list->rings)
        return 0;
    first = list->rings[low - list->low], *last = list->rings[high - list->low + 1], whole = WHOLE(*last - first);
    if (first + whole > list->n && whole <= list->n)
        first = list->n - whole, *last = list->n;
    return first;
}

static void feed_list(const Work *work, int64_t c, const uint64_t *query, Heap *heap)
{
    const List *list = &work->lists->each[c];
    int64_t last, first = shell(list, (int64_t)work->near[c], farthest(heap), &last);
    for (Piece piece; first < last; first += piece.n) {
        piece = cut(work, list->codes, list->n, first, last, 1);
        feed(work, piece, list->ids, query, heap);
    }
}

/* First the list whose centroid is nearest. Its k-th distance leaves few others; these, sorted by distance, are visited
   while they may hold something. */
static void feed_lists(const Work *work, const uint64_t *query, Heap *heap)
{
    const int64_t count = work->lists->count;
    const int32_t *highs = work->lists->highs;
    const int levels = 64 * work->words + 2;
    const uint64_t *near = work->near;
    int64_t best = INT64_MAX, open = 0;
    measure(work, query);
    for (int64_t c = 0; c < count; c++) { /* without a branch: it would be guessed wrong as often as not */
        const int64_t key = (int64_t)near[c] * MAX_LISTS + c + ((int64_t)(highs[c] == LOST) << 40);
        best = LESS(key, best);
    }
    best %= MAX_LISTS;
    feed_list(work, best, query, heap);
    for (int64_t c = 0, limit = farthest(heap); c < count; c++) {
        work->open[open] = c;
        open += (int64_t)near[c] <= limit + highs[c] && c != best;
    }
    memset(work->starts, 0, 8 * (size_t)levels);
    for (int64_t i = 0; i < open; i++)
        work->starts[near[work->open[i]] + 1]++;
    for (int d = 1; d < levels; d++)
        work->starts[d] += work->starts[d - 1];
    for (int64_t i = 0; i < open; i++)
        work->order[work->starts[near[work->open[i]]]++] = work->open[i];
    for (int64_t i = 0; i < open; i++)
        feed_list(work, work->order[i], query, heap);
}

static int keep_lists(const Work *work, const uint64_t *query, uint32_t below, Hits *hits)
{
    measure(work, query);
    for (int64_t c = 0; c < work->lists->count; c++) {
        const List *list = &work->lists->each[c];
        int64_t last, first = shell(list, (int64_t)work->near[c], (int64_t)below - 1, &last);
        for (Piece piece; first < last; first += piece.n) {
            piece = cut(work, list->codes, list->n, first, last, 1);
            if (!keep(work, piece, list->ids, query, below, hits))
                return 0;
        }
    }
    return 1;
}

/* Learn how a list's codes lie round its centroid; `rings` has room for 64 a word and 2 numbers. Returns how many of
   them are needed. */
static int64_t look(const Work *work, List *list, const uint64_t *centroid, int64_t *rings)
{
    int64_t before = -1, sorted = 1;
    Piece piece;
    list->low = FAR, list->high = LOST;
    for (int64_t first = 0; first < list->n; first += piece.n) {
        piece = cut(work, list->codes, list->n, first, list->n, MANY);
        work->path->distances(piece.at, piece.stride, piece.n, work->words, centroid, work->near);
        for (int64_t i = 0; i < piece.n; i++) {
            const int64_t distance = (int64_t)work->near[i];
            sorted &= distance >= before;
            list->low = LESS(list->low, distance), list->high = distance > list->high ? distance : list->high;
            for (; sorted && before < distance; before++)
                rings[before + 1] = first + i;
            before = distance;
        }
    }
    rings[list->n ? list->high + 1 : 0] = list->n;
    return list->n && sorted ? list->high - list->low + 2 : 0;
}

/* ---- what Python asks for */

/* Queries `first` to `last`, `codes` where there are no lists. The heaps lie where the positions will. Returns how many
   codes were compared. */
static int64_t find_nearest(const Work *work, const Py_buffer *codes, int64_t first, int64_t last, int64_t k,
                            int32_t *distances, int64_t *positions)
{
    const uint64_t *queries = work->queries + first * work->words;
    const int64_t n = last - first;
    int64_t seen = 0;
    Heap heaps[TILE];
    for (int64_t q = 0; q < n; q++)
        heaps[q] = (Heap){(uint64_t *)positions + (first + q) * k, k, 0, 0};
    Piece piece;
    for (int64_t at = 0; !work->lists && at < codes->shape[0]; at += piece.n) {
        piece = cut(work, codes->buf, codes->shape[0], at, codes->shape[0], n);
        for (int64_t q = 0; q < n; q++)
            feed(work, piece, NULL, queries + q * work->words, &heaps[q]);
    }
    for (int64_t q = 0; q < n; q++) {
        if (work->lists)
            feed_lists(work, queries + q * work->words, &heaps[q]);
        settle(&heaps[q], distances + (first + q) * k, positions + (first + q) * k);
        seen += heaps[q].seen;
    }
    return seen;
}

/* 0 where there is no memory. */
static int find_within(const Work *work, const Py_buffer *codes, int64_t n, uint32_t below, Hits *hits)
{
    int enough = 1;
    Piece piece;
    for (int64_t q = 0; work->lists && enough && q < n; q++)
        enough = keep_lists(work, work->queries + q * work->words, below, &hits[q]);
    for (int64_t at = 0; !work->lists && enough && at < codes->shape[0]; at += piece.n) {
        piece = cut(work, codes->buf, codes->shape[0], at, codes->shape[0], n);
        for (int64_t q = 0; enough && q < n; q++)
            enough = keep(work, piece, NULL, work->queries + q * work->words, below, &hits[q]);
    }
    return enough;
}

/* The centroids are what `begin` was given as queries. */
static void assign_all(const Work *work, const Py_buffer *codes, int count, int32_t *distances, int32_t *numbers)
{
    Piece piece;
    for (int64_t at = 0; at < codes->shape[0]; at += piece.n) {
        piece = cut(work, codes->buf, codes->shape[0], at, codes->shape[0], MANY);
        work->path->assign(piece.at, piece.stride, piece.n, work->words, work->queries, count, work->near);
        for (int i = 0; i < piece.n; i++) {
            distances[at + i] = (int32_t)(work->near[i] >> 20);
            numbers[at + i] = (int32_t)(work->near[i] & (MAX_LISTS - 1));
        }
    }
}
