/* Stands for NVIDIA's libcuda.so.1: the calls that edged makes, on the memory of this process.

   The file `faults` beside the library says what goes wrong, a line each: `NAME CODE AFTER TIMES` has a call fail with
   that CUresult, so many times once it was made AFTER times; `devices COUNT 0 0` and `memory BYTES 0 0` say what there
   is. Errors from 700 to 719 break the context: from then on every call fails so. What is queued on a stream is done
   when that is waited for, no sooner. As the driver since 570 does, cuInit names a thread, and fails where it may not. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       OPERATING_SYSTEM = 304 };

struct fault { char name[64]; int code, after, times; };
struct work { void *to; const void *from; size_t size; void (*call)(void); };

static struct fault faults[16];
static struct work queue[256];
static struct { void *at; size_t size; } rooms[256];
static int fault_count, queued, devices = 1, broken, current;
static size_t memory = 1 << 30, taken;
static pid_t initialized;

static void read_faults(void) {
    Dl_info self;
    char path[4096];
    dladdr((void *)read_faults, &self);
    snprintf(path, sizeof path, "%s", self.dli_fname);
    snprintf(strrchr(path, '/') + 1, 16, "faults");
    FILE *file = fopen(path, "r");
    struct fault read;
    fault_count = 0;
    while (file && fscanf(file, "%63s %d %d %d", read.name, &read.code, &read.after, &read.times) == 4) {
        if (!strcmp(read.name, "devices")) devices = read.code;
        else if (!strcmp(read.name, "memory")) memory = read.code;
        else faults[fault_count++] = read;
    }
    if (file) fclose(file);
}

static int failing(const char *name) {
    if (broken) return broken;
    for (int each = 0; each < fault_count; each++)
        if (!strcmp(faults[each].name, name) && faults[each].after-- <= 0 && faults[each].times-- > 0) {
            if (faults[each].code >= 700 && faults[each].code < 720) broken = faults[each].code;
            return faults[each].code;
        }
    if (initialized != getpid()) return NOT_INITIALIZED;
    return 0;
}

#define MAYBE_FAIL(name) do { int code = failing(name); if (code) return code; } while (0)

int cuInit(unsigned flags) {
    (void)flags;
    if (initialized && initialized != getpid()) return NOT_INITIALIZED; /* by who this one was forked of */
    if (!initialized) read_faults();
    initialized = getpid();
    MAYBE_FAIL("cuInit");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", gettid());
    int devices_file = open("/proc/devices", O_RDONLY), name = open(path, O_WRONLY);
    if (devices_file < 0 || name < 0) return OPERATING_SYSTEM;
    close(devices_file);
    close(name);
    return devices ? 0 : NO_DEVICE;
}

int cuDeviceGetCount(int *count) { MAYBE_FAIL("cuDeviceGetCount"); *count = devices; return 0; }

int cuDeviceGet(int *device, int number) {
    MAYBE_FAIL("cuDeviceGet");
    *device = number;
    return number < devices ? 0 : INVALID_DEVICE;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    MAYBE_FAIL("cuDevicePrimaryCtxRetain");
    *context = (void *)(intptr_t)(device + 1);
    return 0;
}

int cuCtxSetCurrent(void *context) { MAYBE_FAIL("cuCtxSetCurrent"); current = context != NULL; return 0; }

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    MAYBE_FAIL("cuMemGetInfo_v2");
    *free_bytes = memory - taken;
    *total = memory;
    return current ? 0 : INVALID_CONTEXT;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    MAYBE_FAIL("cuMemAlloc_v2");
    if (!current) return INVALID_CONTEXT;
    if (!size) return 1;
    if (size > memory - taken) return OUT_OF_MEMORY;
    for (int each = 0; each < 256; each++)
        if (!rooms[each].at) {
            rooms[each].at = malloc(size);
            rooms[each].size = size;
            taken += size;
            *address = (uint64_t)rooms[each].at;
            return 0;
        }
    return OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t address) {
    MAYBE_FAIL("cuMemFree_v2");
    for (int each = 0; each < 256; each++)
        if (rooms[each].at && rooms[each].at == (void *)address) {
            free(rooms[each].at);
            taken -= rooms[each].size;
            rooms[each].at = NULL;
            return 0;
        }
    return 1;
}

/* The bytes that there are from an address of the GPU on; 0 for one that is none. */
size_t standin_room(uint64_t address) {
    for (int each = 0; each < 256; each++)
        if (rooms[each].at && rooms[each].at == (void *)address) return rooms[each].size;
    return 0;
}

static int add(struct work work) {
    if (queued == 256) return OUT_OF_MEMORY;
    queue[queued++] = work;
    return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    (void)stream;
    MAYBE_FAIL("cuMemcpyHtoDAsync_v2");
    return size > standin_room(to) ? 1 : add((struct work){(void *)to, from, size, NULL});
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    (void)stream;
    MAYBE_FAIL("cuMemcpyDtoHAsync_v2");
    return size > standin_room(from) ? 1 : add((struct work){to, (void *)from, size, NULL});
}

/* Queues work as an engine does; 0 where it was. */
int standin_queue(void (*call)(void)) {
    MAYBE_FAIL("launch");
    return add((struct work){NULL, NULL, 0, call});
}

int cuStreamCreate(void **stream, unsigned flags) {
    MAYBE_FAIL("cuStreamCreate");
    *stream = (void *)(intptr_t)(0x10 + flags);
    return 0;
}

int cuStreamSynchronize(void *stream) {
    (void)stream;
    MAYBE_FAIL("cuStreamSynchronize");
    for (int each = 0; each < queued; each++) {
        if (queue[each].call) queue[each].call();
        else memcpy(queue[each].to, queue[each].from, queue[each].size);
    }
    queued = 0;
    return 0;
}

int standin_initialized(void) { return initialized == getpid() && current; }

int cuGetErrorName(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
        : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == OPERATING_SYSTEM ? "CUDA_ERROR_OPERATING_SYSTEM" : NULL;
    return *text ? 0 : 1;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : code == NO_DEVICE ? "no CUDA-capable device is detected"
        : code == 700 ? "an illegal memory access was encountered"
        : code == OPERATING_SYSTEM ? "OS call failed or operation not supported on this OS" : NULL;
    return *text ? 0 : 1;
}
