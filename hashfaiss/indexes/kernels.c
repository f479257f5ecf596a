/* Exact search of binary codes: what FAISS's flat and IVF indexes answer, several times faster.

   FAISS compares one query with one code at a time. Here a block of codes that fits the processor's nearest cache meets
   many queries, up to 32 codes a step. A step is looked at only by its least distance; what is nearer than the k-th
   best so far, a handful, enters a heap.

   Inverted lists hold their codes in order of distance from their centroid. By the triangle inequality a code within D
   of a query is as far from the centroid as the query is, give or take D: of each list only that shell is compared, D
   being the k-th distance so far. What is left out is proven farther, so answers are those of a flat scan.

   A distance and a position are one number, distance << 48 | position. Their order is that of the answers, smallest
   position first among equals, in whatever order codes are seen: results depend on no processor and no batch.

   Codes are rows of bytes, as FAISS holds them, read where they lie. Of rows that are not words of 8 bytes, a block is
   copied into planes (all first words, all second words, ...) as it is met, if that pays. Bits are only compared and
   counted, so the order of bytes does not matter.

   kernel_loops.h has the loops that look at codes, kernel_paths.h compiles them for each instruction set, and
   kernel_search.h searches with them. Here is what Python sees, and kernels.py says what each function takes. All
   arguments are checked before memory is looked at; then other threads run, unless it is soon done. Whoever changes an
   array meanwhile gets a wrong answer, but nothing is read or written outside. */

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_search.h"

#define HELD (1 << 17) /* codes that are compared without letting other threads run */

/* ---- arguments */

typedef struct {
    const char *name;
    char sign; /* 'u'nsigned or 'i'nteger */
    int size, dims, writable;
} Spec;

static int take(PyObject *object, Spec spec, Py_buffer *view)
{
    const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (spec.writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0) {
        view->obj = NULL;
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_ValueError, "%s: give a %scontiguous array", spec.name,
                         spec.writable ? "writable, " : "");
        return 0;
    }
    const char *format = view->format ? view->format : "B";
    format += strspn(format, "@=<");
    if (strlen(format) != 1 || !strchr(spec.sign == 'u' ? "BHILQN" : "bhilqn", *format) || view->itemsize != spec.size
        || view->ndim != spec.dims) {
        PyErr_Format(PyExc_TypeError, "%s: give %d-dimensional %sint%d", spec.name, spec.dims,
                     spec.sign == 'u' ? "u" : "", 8 * spec.size);
        return 0;
    }
    return 1;
}

/* Arrays, at addresses of their type; then as many arguments as `more` says. */
static int take_all(PyObject *args, int more, const Spec *specs, int count, Py_buffer *views)
{
    if (PyTuple_Size(args) != count + more)
        return PyErr_Format(PyExc_TypeError, "give %d arguments", count + more), 0;
    for (int i = 0; i < count; i++) {
        if (!take(PyTuple_GetItem(args, more + i), specs[i], &views[i]))
            return 0;
        if ((uintptr_t)views[i].buf % (uintptr_t)specs[i].size)
            return PyErr_Format(PyExc_ValueError, "%s: give an aligned array", specs[i].name), 0;
    }
    return 1;
}

static PyObject *release(PyObject *result, int count, Py_buffer *views)
{
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&views[i]);
    return result;
}

static int check(int good, const char *problem)
{
    if (!good)
        PyErr_SetString(PyExc_ValueError, problem);
    return good;
}

static int of_width(const Py_buffer *view, Py_ssize_t width)
{
    return check(view->shape[1] == width && width >= 1 && width <= 8 * MAX_WORDS,
                 "give codes of one width, 1 to 248 bytes");
}

static int start(Work *work, const Py_buffer *queries, const Lists *lists)
{
    return begin(work, queries, lists) || (PyErr_NoMemory(), 0);
}

/* ---- lists */

static const char LISTS[] = "hashfaiss.lists";

static void drop(Lists *lists)
{
    for (int64_t i = 0; lists->views && i < 2 * lists->count; i++)
        PyBuffer_Release(&lists->views[i]);
    for (int64_t c = 0; lists->each && c < lists->count; c++)
        free((void *)lists->each[c].rings);
    free(lists->views), free(lists->each), free(lists->highs), free(lists->centroids), free(lists);
}

static void drop_capsule(PyObject *capsule)
{
    drop(PyCapsule_GetPointer(capsule, LISTS));
}

static int take_item(PyObject *sequence, int64_t place, Spec spec, Py_buffer *view)
{
    PyObject *item = PySequence_GetItem(sequence, (Py_ssize_t)place);
    const int taken = item && take(item, spec, view);
    Py_XDECREF(item);
    return taken;
}

static int fill(Lists *lists, PyObject *codes, PyObject *ids, const Work *work)
{
    int64_t rings[64 * MAX_WORDS + 2];
    for (int64_t c = 0; c < lists->count; c++) {
        Py_buffer *views = &lists->views[2 * c];
        List *list = &lists->each[c];
        if (!take_item(codes, c, (Spec){"codes of a list", 'u', 1, 2, 0}, &views[0])
            || !take_item(ids, c, (Spec){"ids of a list", 'i', 8, 1, 0}, &views[1])
            || !of_width(&views[0], lists->width)
            || !check(views[0].shape[0] == views[1].shape[0], "give each code of a list an id"))
            return 0;
        list->codes = views[0].buf, list->ids = views[1].buf, list->n = views[0].shape[0];
        const int64_t count = look(work, list, work->queries + c * work->words, rings);
        int64_t *kept = count ? malloc(8 * (size_t)count) : NULL;
        if (count && !kept)
            return PyErr_NoMemory(), 0;
        if (count)
            memcpy(kept, rings + list->low, 8 * (size_t)count);
        list->rings = kept, lists->highs[c] = (int32_t)list->high;
    }
    return 1;
}

/* lists(codes, ids, centroids): a place to search in */
static PyObject *make_lists(PyObject *self, PyObject *args)
{
    Py_buffer centroids = {0};
    PyObject *capsule = NULL;
    Work work;
    (void)self;
    if (!take_all(args, 2, &(Spec){"centroids", 'u', 1, 2, 0}, 1, &centroids))
        return release(NULL, 1, &centroids);
    PyObject *codes = PyTuple_GetItem(args, 0), *ids = PyTuple_GetItem(args, 1);
    const Py_ssize_t count = centroids.shape[0];
    Lists *lists = calloc(1, sizeof *lists);
    if (lists && of_width(&centroids, centroids.shape[1])
        && check(count >= 1 && count <= MAX_LISTS, "give 1 to 1,048,576 lists")
        && check(PySequence_Size(codes) == count && PySequence_Size(ids) == count, "give each list codes and ids")
        && start(&work, &centroids, NULL)) {
        *lists = (Lists){.count = count, .width = (int)centroids.shape[1], .stride = (size_t)WHOLE(count)};
        lists->views = calloc((size_t)(2 * count), sizeof *lists->views);
        lists->each = calloc((size_t)count, sizeof *lists->each), lists->highs = calloc((size_t)count, 4);
        lists->centroids = calloc(lists->stride * (size_t)work.words, 8);
        if (lists->views && lists->each && lists->highs && lists->centroids) {
            transpose(centroids.buf, (int)count, lists->width, lists->stride, lists->centroids);
            capsule = fill(lists, codes, ids, &work) ? PyCapsule_New(lists, LISTS, drop_capsule) : NULL;
        }
        finish(&work);
    }
    if (lists && !capsule)
        drop(lists);
    return release(capsule || PyErr_Occurred() ? capsule : PyErr_NoMemory(), 1, &centroids);
}

/* ---- searches */

/* Where to search: lists, or an array of codes. */
static int take_place(PyObject *object, const Py_buffer *queries, Py_buffer *codes, const Lists **lists)
{
    *lists = PyCapsule_IsValid(object, LISTS) ? PyCapsule_GetPointer(object, LISTS) : NULL;
    return (*lists || take(object, (Spec){"codes", 'u', 1, 2, 0}, codes))
           && of_width(queries, *lists ? (*lists)->width : codes->shape[1]);
}

/* Lets other threads run where so many codes are compared that it pays: to wait for the interpreter again costs as much
   as a scan of some 100,000 codes. */
static PyThreadState *let_others(int64_t queries, const Lists *lists, const Py_buffer *codes)
{
    int64_t rows = lists ? 0 : codes->shape[0];
    for (int64_t c = 0; lists && c < lists->count && rows <= HELD; c++)
        rows += lists->each[c].n;
    return queries * rows > HELD ? PyEval_SaveThread() : NULL;
}

static void go_on(PyThreadState *others)
{
    if (others)
        PyEval_RestoreThread(others);
}

/* nearest(place, queries, distances, positions): how many codes were compared */
static PyObject *nearest(PyObject *self, PyObject *args)
{
    const Spec specs[] = {{"queries", 'u', 1, 2, 0}, {"distances", 'i', 4, 2, 1}, {"positions", 'i', 8, 2, 1}};
    Py_buffer views[4] = {{0}}, *queries = &views[0], *distances = &views[1], *positions = &views[2];
    const Lists *lists;
    PyObject *result = NULL;
    Work work;
    (void)self;
    if (!take_all(args, 1, specs, 3, views) || !take_place(PyTuple_GetItem(args, 0), queries, &views[3], &lists))
        return release(NULL, 4, views);
    const int64_t n = queries->shape[0], k = distances->shape[1];
    if (check(k >= 1 && distances->shape[0] == n && positions->shape[0] == n && positions->shape[1] == k,
              "give room for as many answers to each query, 1 or more")
        && start(&work, queries, lists)) {
        int64_t seen = 0;
        PyThreadState *others = let_others(n, lists, &views[3]);
        for (int64_t first = 0; first < n; first += TILE)
            seen += find_nearest(&work, &views[3], first, LESS(first + TILE, n), k, distances->buf, positions->buf);
        finish(&work);
        go_on(others);
        result = PyLong_FromLongLong(seen);
    }
    return release(result, 4, views);
}

static PyObject *joined(const Hits *hits, int64_t *counts, int64_t n)
{
    int64_t total = 0, seen = 0;
    for (int64_t q = 0; q < n; seen += hits[q++].seen)
        total += counts[q] = hits[q].used;
    PyObject *keys = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(8 * total));
    char *at = keys ? PyBytes_AsString(keys) : NULL;
    for (int64_t q = 0; at && q < n; at += 8 * hits[q++].used)
        if (hits[q].used)
            memcpy(at, hits[q].keys, 8 * (size_t)hits[q].used);
    return keys ? Py_BuildValue("(NL)", keys, (long long)seen) : NULL;
}

/* within(place, radius, queries, counts): distance << 48 | position of all there are, query by query, and how many
   codes were compared */
static PyObject *within(PyObject *self, PyObject *args)
{
    const Spec specs[] = {{"queries", 'u', 1, 2, 0}, {"counts", 'i', 8, 1, 1}};
    Py_buffer views[3] = {{0}}, *queries = &views[0], *counts = &views[1];
    const Lists *lists;
    PyObject *result = NULL;
    Work work;
    (void)self;
    if (!take_all(args, 2, specs, 2, views) || !take_place(PyTuple_GetItem(args, 0), queries, &views[2], &lists))
        return release(NULL, 3, views);
    const int64_t n = queries->shape[0];
    const long long radius = PyLong_AsLongLong(PyTuple_GetItem(args, 1));
    if (!PyErr_Occurred() && check(radius >= 0 && radius < FAR, "give a radius from 0 to 65534")
        && check(counts->shape[0] == n, "give room for one count a query") && start(&work, queries, lists)) {
        Hits *hits = calloc((size_t)n + 1, sizeof *hits);
        int enough = hits != NULL;
        PyThreadState *others = let_others(n, lists, &views[2]);
        enough = enough && find_within(&work, &views[2], n, (uint32_t)radius + 1, hits);
        finish(&work);
        go_on(others);
        result = enough ? joined(hits, counts->buf, n) : PyErr_NoMemory();
        for (int64_t q = 0; hits && q < n; q++)
            free(hits[q].keys);
        free(hits);
    }
    return release(result, 3, views);
}

/* assign(codes, centroids, distances, numbers) */
static PyObject *assign(PyObject *self, PyObject *args)
{
    const Spec specs[] = {{"codes", 'u', 1, 2, 0}, {"centroids", 'u', 1, 2, 0}, {"distances", 'i', 4, 1, 1},
                          {"numbers", 'i', 4, 1, 1}};
    Py_buffer views[4] = {{0}}, *codes = &views[0], *centroids = &views[1];
    PyObject *result = NULL;
    Work work;
    (void)self;
    if (!take_all(args, 0, specs, 4, views) || !of_width(centroids, codes->shape[1]))
        return release(NULL, 4, views);
    const int64_t n = codes->shape[0], count = centroids->shape[0];
    if (check(count >= 1 && count <= MAX_LISTS, "give 1 to 1,048,576 centroids")
        && check(views[2].shape[0] == n && views[3].shape[0] == n, "give room for one distance and number a code")
        && start(&work, centroids, NULL)) {
        Py_BEGIN_ALLOW_THREADS
        assign_all(&work, codes, (int)count, views[2].buf, views[3].buf);
        finish(&work);
        Py_END_ALLOW_THREADS
        Py_INCREF(Py_None);
        result = Py_None;
    }
    return release(result, 4, views);
}

/* ---- the module */

static PyObject *names(PyObject *self, PyObject *none)
{
    PyObject *list = PyList_New(0);
    (void)self, (void)none;
    for (int i = 0; list && i < PATHS; i++) {
        PyObject *name = supported(&paths[i]) ? PyUnicode_FromString(paths[i].name) : NULL;
        if (name && PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyObject *use(PyObject *self, PyObject *args)
{
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(args, "s:use", &name))
        return NULL;
    for (int i = 0; i < PATHS; i++)
        if (!strcmp(name, paths[i].name) && supported(&paths[i])) {
            current = &paths[i];
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this processor has no %s", name);
}

static PyMethodDef methods[] = {{"paths", names, METH_NOARGS, NULL},
                                {"use", use, METH_VARARGS, NULL},
                                {"lists", make_lists, METH_VARARGS, NULL},
                                {"nearest", nearest, METH_VARARGS, NULL},
                                {"within", within, METH_VARARGS, NULL},
                                {"assign", assign, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModule_Create(&module);
}
