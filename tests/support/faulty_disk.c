/* A disk that fails below one folder, for one process: LD_PRELOAD, see faulty_disk.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITES = 1, SYNCS = 2 };

/* As faulty_disk.py lays it out. */
struct control {
    int32_t kind, first, last, done[3];
    char folder[4000];
};

static volatile struct control *control;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("EDGED_TEST_DISK");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (shared != MAP_FAILED)
        control = shared;
}

static int below(const char *path)
{
    size_t length = control ? strlen((const char *)control->folder) : 0;
    return length && path && !strncmp(path, (const char *)control->folder, length);
}

static int below_of(int descriptor)
{
    char link[64], path[4096];
    if (!control)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

/* Counts one more, and says whether it fails, with errno set. */
static int fails(int kind)
{
    int number = __sync_add_and_fetch(&control->done[kind], 1);
    if (control->kind != kind || number < control->first || number > control->last)
        return 0;
    errno = kind == WRITES ? ENOSPC : EIO;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define ON_DESCRIPTOR(type, name, kind, parameters, arguments, ...) \
    type name parameters \
    { \
        REAL(type, name, __VA_ARGS__); \
        if (below_of(descriptor) && fails(kind)) \
            return -1; \
        return real arguments; \
    }

ON_DESCRIPTOR(ssize_t, write, WRITES, (int descriptor, const void *from, size_t n), (descriptor, from, n), int,
              const void *, size_t)
ON_DESCRIPTOR(ssize_t, pwrite, WRITES, (int descriptor, const void *from, size_t n, off_t at),
              (descriptor, from, n, at), int, const void *, size_t, off_t)
ON_DESCRIPTOR(ssize_t, pwrite64, WRITES, (int descriptor, const void *from, size_t n, off64_t at),
              (descriptor, from, n, at), int, const void *, size_t, off64_t)
ON_DESCRIPTOR(int, fsync, SYNCS, (int descriptor), (descriptor), int)
ON_DESCRIPTOR(int, fdatasync, SYNCS, (int descriptor), (descriptor), int)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int, name, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        if (flags & O_CREAT && below(path) && access(path, F_OK) && fails(WRITES)) \
            return -1; \
        return real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

#define OF_NAME(name, parameters, path, arguments, ...) \
    int name parameters \
    { \
        REAL(int, name, __VA_ARGS__); \
        if (below(path) && fails(WRITES)) \
            return -1; \
        return real arguments; \
    }

OF_NAME(mkdir, (const char *path, mode_t mode), path, (path, mode), const char *, mode_t)
OF_NAME(rename, (const char *from, const char *to), to, (from, to), const char *, const char *)
OF_NAME(link, (const char *from, const char *to), to, (from, to), const char *, const char *)
