/*
 * A PKCS#11 module that forwards every call to a real one, and misbehaves on demand.
 *
 * Tests load it in place of the real module. FAULTY_MODULE_TARGET names that one, and
 * FAULTY_MODULE_CONTROL a file that testbed/faulty_module.py makes: one record for each
 * function, mapped by whoever takes part. So a test counts calls and orders faults while
 * the process that it tests runs, without a word between the two. Several processes may
 * share one file; then the counts are those of all together.
 *
 * No header of PKCS#11 is needed, because nothing here looks at an argument except the
 * session, which comes first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long Word;

enum { CKR_OK = 0, CKR_GENERAL_ERROR = 5, CKR_FUNCTION_NOT_SUPPORTED = 0x54 };
enum { ACTION_CLOSE_SESSIONS = 1, ACTION_LOGOUT = 2, ACTION_STRAND = 3 };
enum { ARGUMENTS = 8, POLL_MICROSECONDS = 500 };

/*
 * Every argument of every function is a pointer or an integer of at most one register, and
 * there are eight at most. On x86-64 (System V) and aarch64 (AAPCS64) such arguments lie in
 * the same registers and stack words however many follow them. So one signature does for
 * all: a function of fewer arguments never reads the words beyond its own, and reading them
 * here is safe, because the stack of the caller goes on above them.
 */
#if !defined(__LP64__) || !(defined(__x86_64__) || defined(__aarch64__))
#error "the one signature for all functions is known to work on 64-bit x86 and ARM only"
#endif
typedef Word Function(Word, Word, Word, Word, Word, Word, Word, Word);

#define F(name) AT_##name,
enum {
#include "functions.h"
    FUNCTIONS
};
#undef F

/* CK_FUNCTION_LIST, in memory as compilers for Unix lay it out: eight bytes, then pointers. */
typedef struct {
    unsigned char major, minor;
    Function *functions[FUNCTIONS];
} FunctionList;

typedef _Atomic int64_t Count;

/* What is ordered: let `after` calls pass, then do it to `times` calls; -1 for all. */
typedef struct {
    Count after, times, value;
} Order;

/* One function. Python knows this layout as a table of field names. */
typedef struct {
    Count calls, inside, inside_most, delay_microseconds, releases;
    Order hang, failure, action;
    Count unused[2];
} Record;

_Static_assert(sizeof(Record) == 128, "records fill whole cache lines, and Python counts on it");

static Function *target[FUNCTIONS];
static Record *control;
static bool loaded;
static pthread_once_t loading = PTHREAD_ONCE_INIT;

/* --- every call -------------------------------------------------------------------- */

static Word forward(int index, const Word *a)
{
    if (target[index] == NULL)
        return CKR_FUNCTION_NOT_SUPPORTED;
    return target[index](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

static Word invoke(int index, Word first, Word second)
{
    const Word arguments[ARGUMENTS] = {first, second};
    return forward(index, arguments);
}

static bool count_down(Count *count)
{
    int64_t left = atomic_load(count);
    while (left > 0)
        if (atomic_compare_exchange_weak(count, &left, left - 1))
            return true;
    return false;
}

/* Whether an order is meant for this very call; each turn is given to one thread only. */
static bool is_due(Order *order)
{
    if (atomic_load(&order->times) == 0 || count_down(&order->after))
        return false;
    return count_down(&order->times) || atomic_load(&order->times) < 0;
}

static void pause_for(int64_t microseconds)
{
    struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (nanosleep(&left, &left) != 0)
        continue;
}

static void close_all_sessions(Word session)
{
    Word information[4]; /* CK_SESSION_INFO: slot, state, flags, device error. */
    if (invoke(AT_C_GetSessionInfo, session, (Word)information) == CKR_OK)
        invoke(AT_C_CloseAllSessions, information[0], 0);
}

/* Do to the real module what a test has ordered, behind the back of whoever calls. */
static void act(int64_t action, int index, const Word *arguments)
{
    if (action == ACTION_CLOSE_SESSIONS)
        close_all_sessions(arguments[0]);
    else if (action == ACTION_LOGOUT)
        invoke(AT_C_Logout, arguments[0], 0);
    else if (action == ACTION_STRAND)
        /* The caller's own call then meets an operation that nobody will ever end. */
        forward(index, arguments);
}

static Word misbehave(Record *record, int index, const Word *arguments)
{
    /* Read before the order, so that a release in between is not missed. */
    int64_t releases = atomic_load(&record->releases);
    if (is_due(&record->hang))
        while (atomic_load(&record->releases) == releases)
            pause_for(POLL_MICROSECONDS);
    int64_t delay = atomic_load(&record->delay_microseconds);
    if (delay > 0)
        pause_for(delay);
    if (is_due(&record->action))
        act(atomic_load(&record->action.value), index, arguments);
    if (is_due(&record->failure))
        return (Word)atomic_load(&record->failure.value);
    return forward(index, arguments);
}

static void raise_to(Count *most, int64_t value)
{
    int64_t known = atomic_load(most);
    while (known < value && !atomic_compare_exchange_weak(most, &known, value))
        continue;
}

static void load(void);

static Word call(int index, const Word *arguments)
{
    pthread_once(&loading, load);
    if (!loaded)
        return CKR_GENERAL_ERROR;
    Record *record = &control[index];
    atomic_fetch_add(&record->calls, 1);
    raise_to(&record->inside_most, atomic_fetch_add(&record->inside, 1) + 1);
    Word result = misbehave(record, index, arguments);
    atomic_fetch_sub(&record->inside, 1);
    return result;
}

/* --- what a module exports ----------------------------------------------------------- */

#define F(name)                                                                                \
    Word name(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h)                  \
    {                                                                                          \
        const Word arguments[ARGUMENTS] = {a, b, c, d, e, f, g, h};                            \
        return call(AT_##name, arguments);                                                     \
    }
#include "functions.h"
#undef F

static FunctionList ours = {2, 40, {
#define F(name) name,
#include "functions.h"
#undef F
}};

/* --- loading ------------------------------------------------------------------------- */

static Word give_our_list(Word list, Word b, Word c, Word d, Word e, Word f, Word g, Word h)
{
    (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    *(FunctionList **)list = &ours;
    return CKR_OK;
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL ? value : "";
}

static bool map_control(const char *path)
{
    struct stat status;
    void *memory = MAP_FAILED;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return false;
    if (fstat(file, &status) == 0 && status.st_size == FUNCTIONS * sizeof(Record))
        memory = mmap(NULL, FUNCTIONS * sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    control = memory;
    return memory != MAP_FAILED;
}

static bool find_target(const char *path)
{
    FunctionList *theirs;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    Word (*list_functions)(FunctionList **);
    if (library == NULL)
        return false;
    *(void **)&list_functions = dlsym(library, "C_GetFunctionList");
    if (list_functions == NULL || list_functions(&theirs) != CKR_OK)
        return false;
    for (int index = 0; index < FUNCTIONS; index++)
        target[index] = theirs->functions[index];
    target[AT_C_GetFunctionList] = give_our_list;
    return true;
}

static void load(void)
{
    const char *path = variable("FAULTY_MODULE_TARGET");
    const char *file = variable("FAULTY_MODULE_CONTROL");
    if (!find_target(path))
        fprintf(stderr, "faulty module: FAULTY_MODULE_TARGET=%s is not a PKCS#11 module\n", path);
    else if (!map_control(file))
        fprintf(stderr, "faulty module: FAULTY_MODULE_CONTROL=%s cannot be used\n", file);
    else
        loaded = true;
}
