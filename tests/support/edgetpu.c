/* Stands in for libedgetpu.so.1 where there is no Edge TPU: one on USB, at "usb:0".
 *
 * It takes over the operator that the compiler for the Edge TPU makes, and answers each byte with the next one. What that
 * operator was given says what fails: "prepare", "invoke", or "later" each invoke of a process but its first ones; or that
 * it crashes. As libusb does, it binds a socket of netlink, whose address (-DADDRESS=) one process at a time can have, as
 * one at a time can have an Edge TPU.
 *
 * The layouts are those of tensorflow/lite/core/c/common.h, as far as they are used.
 */
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OK, ERROR };
enum { ALLOW_DYNAMIC_TENSORS = 1, FIRST_INVOKES = 3 };

typedef struct { int size; int data[]; } IntArray;
typedef struct {
    int type;
    uint8_t *data;
    IntArray *dims;
    float scale;
    int32_t zero_point;
    int allocation;
    size_t bytes;
    const void *where, *name, *delegate;
    int buffer;
    bool stale, variable;
    int quantization;
    void *quantized, *sparsity, *signature;
} Tensor;
typedef struct {
    IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *told;
    int told_size;
} Node;
typedef struct Context Context;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external;
    void *async_kernel;
    uint64_t inplace_operator;
} Registration;

typedef struct Delegate {
    void *data;
    int (*prepare)(Context *, struct Delegate *);
    void *copy_from, *copy_to, *free_buffer;
    int64_t flags;
    void *opaque;
    int device;
} Delegate;

struct Context {
    size_t tensors_size;
    int (*get_execution_plan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl, *resize_tensor, *report_error, *add_tensors;
    int (*get_node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};

static int left = -1; /* so many invokes do not fail; none ever does while it is negative */

static int invoke(Context *context, Node *node)
{
    Tensor *in = &context->tensors[node->inputs->data[0]], *out = &context->tensors[node->outputs->data[0]];

    for (size_t i = 0; i < out->bytes; i++)
        out->data[i] = in->data[i] + 1;
    if (!left)
        return ERROR;
    left -= left > 0;
    return OK;
}

static int prepare(Context *context, Delegate *delegate)
{
    IntArray *plan;
    if (context->get_execution_plan(context, &plan) != OK)
        return ERROR;
    IntArray *ours = calloc(1, sizeof *ours + plan->size * sizeof(int));
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Registration *registration;
        context->get_node(context, plan->data[i], &node, &registration);
        if (!registration->custom_name || strcmp(registration->custom_name, "edgetpu-custom-op"))
            continue;
        ours->data[ours->size++] = plan->data[i];
        if (node->told_size == 7 && !memcmp(node->told, "prepare", 7))
            return ERROR;
        if (node->told_size == 5 && !memcmp(node->told, "crash", 5))
            abort();
        if (node->told_size == 6 && !memcmp(node->told, "invoke", 6))
            left = 0;
        if (node->told_size == 5 && !memcmp(node->told, "later", 5))
            left = FIRST_INVOKES;
    }
    Registration own = { .invoke = invoke, .custom_name = "Stand-in", .version = 1 };
    int done = context->replace(context, own, ours, delegate);
    free(ours);
    return done;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *))
{
    const char *device = count ? values[0] : "";
    if (*device && strcmp(device, "usb") && strcmp(device, "usb:0") && strcmp(device, ":0"))
        return NULL;
    struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_pid = ADDRESS, .nl_groups = 1 };
    int found = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (found < 0 || bind(found, (struct sockaddr *)&address, sizeof address)) {
        if (found >= 0)
            close(found);
        return NULL;
    }
    Delegate *made = calloc(1, sizeof *made);
    made->prepare = prepare;
    made->flags = ALLOW_DYNAMIC_TENSORS; /* as libedgetpu says; else operators that no one knows are refused first */
    made->device = found;
    return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate)
{
    if (delegate)
        close(delegate->device);
    free(delegate);
}
