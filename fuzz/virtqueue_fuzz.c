/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A virtio device of two queues, driven by the input's bytes: a byte is an operation, those behind it are its arguments. The
 * driver's side writes registers and memory, the device's pops, pushes and signals. Each result is compared with the
 * model of the queue, and after each operation what always holds is checked. */
#include <string.h>

#include "base/assert.h"
#include "support/virtqueue_guest.h"
#include "vmm/device/virtio_mmio.h"
#include "vmm/device/virtqueue_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_SIZE 0x8000ull
#define QUEUE_COUNT 2u
#define QUEUE_SIZE_MAX 16u
#define QUEUE_BASE 0x1000ull /* of each, and its parts behind it */
#define QUEUE_STRIDE 0x1000ull
#define AVAILABLE 0x200ull
#define USED 0x400ull
#define TABLE 0x3000ull /* indirect */
#define OFFERED (1ull << 3 | 1ull << 40)
#define STATE_SIZE 1024u
#define INPUT_SIZE_MAX 256u /* a longer one says nothing new, slowly */
#define STATUS 0x70
#define RUNNING 15u

struct machine {
    struct virtio_device device; /* first */
    struct virtio_mmio mmio;
    struct model models[QUEUE_COUNT];
    bool attached[QUEUE_COUNT]; /* a model follows the queue */
    uint32_t last_pop[QUEUE_COUNT];
    bool can_unpop[QUEUE_COUNT];
    uint32_t interrupts;
    bool saved; /* once is enough, for it is slow */
};

struct input {
    const uint8_t *data;
    size_t size;
    size_t offset;
};

static _Alignas(4096) uint8_t bytes[MEMORY_SIZE];
static struct memory memory;
static struct machine machine;
static struct machine twin;
static struct virtqueue_chain chain;
static struct model_chain expected;

static uint64_t take(struct input *input, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size && input->offset < input->size; i++) {
        value |= (uint64_t)input->data[input->offset++] << (8 * i);
    }
    return value;
}

/* ---- The device ------------------------------------------------------------------------------- */

static void config_read(struct virtio_device *device, uint64_t offset, void *data, uint32_t size) {
    (void)device;
    virtio_config_read("configuration", 13, offset, data, size);
}

static void activate(struct virtio_device *device) {
    ASSERT(device->active);
}

static void reset(struct virtio_device *device) {
    struct machine *self = (struct machine *)device;
    memset(self->attached, 0, sizeof(self->attached));
    memset(self->can_unpop, 0, sizeof(self->can_unpop));
}

static void notify(struct virtio_device *device, uint16_t queue_index) {
    ASSERT(device->active);
    ASSERT(device->queues[queue_index].ready);
}

static void save(struct virtio_device *device, struct state_writer *state, uint16_t instance) {
    (void)device;
    (void)state;
    (void)instance;
}

static enum kelpie_status load(struct virtio_device *device, struct state_reader *state,
                               uint16_t instance, struct kelpie_error *err) {
    (void)device;
    (void)state;
    (void)instance;
    (void)err;
    return KELPIE_OK;
}

static const struct virtio_ops ops = {.name = "fuzz",
                                      .id = VIRTIO_ID_ENTROPY,
                                      .queue_count = QUEUE_COUNT,
                                      .queue_size_max = QUEUE_SIZE_MAX,
                                      .config_read = config_read,
                                      .activate = activate,
                                      .reset = reset,
                                      .notify = notify,
                                      .save = save,
                                      .load = load};

static void count_interrupt(void *context) {
    ((struct machine *)context)->interrupts++;
}

static void power_on(struct machine *self) {
    memset(self, 0, sizeof(*self));
    virtio_device_init(&self->device, &ops, &memory, (struct device_irq){count_interrupt, self},
                       OFFERED);
    virtio_mmio_init(&self->mmio, &self->device);
}

/* ---- What always holds ------------------------------------------------------------------------ */

static void attach(uint32_t index) {
    const struct virtqueue *queue = &machine.device.queues[index];
    struct model *model = &machine.models[index];
    memset(model, 0, sizeof(*model));
    model->memory = bytes;
    model->memory_size = MEMORY_SIZE;
    model->size = queue->size;
    model->descriptors = queue->descriptors_gpa;
    model->available = queue->available_gpa;
    model->used = queue->used_gpa;
    model->event_index = queue->event_index;
    model->indirect = queue->indirect;
    ASSERT(model_is_possible(model, QUEUE_SIZE_MAX));
    ASSERT(queue->next_used == 0 && queue->next_available == 0 && queue->signalled_used == 0);
    machine.attached[index] = true;
    machine.can_unpop[index] = false;
}

static void check_queue(uint32_t index) {
    const struct virtqueue *queue = &machine.device.queues[index];
    if (!queue->ready) {
        machine.attached[index] = false;
        return;
    }
    ASSERT((machine.device.status & VIRTIO_STATUS_FEATURES_OK) != 0);
    if (!machine.attached[index]) {
        attach(index);
    }
    const struct model *model = &machine.models[index];
    ASSERT(queue->size == model->size); /* hazard A4 */
    ASSERT(queue->descriptors_gpa == model->descriptors);
    ASSERT(queue->available_gpa == model->available);
    ASSERT(queue->used_gpa == model->used);
    ASSERT(queue->broken == model->broken);
    ASSERT(queue->next_available == model->popped % 65536);
    ASSERT(queue->next_used == model->pushed % 65536);
}

static void check(void) {
    const struct virtio_device *device = &machine.device;
    bool broken = false;
    for (uint32_t i = 0; i < QUEUE_COUNT; i++) {
        check_queue(i);
        broken = broken || device->queues[i].broken;
    }
    uint32_t ladder = device->status & RUNNING;
    ASSERT(ladder == 0 || ladder == 1 || ladder == 3 || ladder == 11 || ladder == RUNNING);
    ASSERT((device->status & ~(RUNNING | 64 | 128)) == 0);
    ASSERT(broken == ((device->status & VIRTIO_STATUS_NEEDS_RESET) != 0));
    ASSERT(device->active == (ladder == RUNNING));
    ASSERT(device->interrupt_status <= 3);
    bool negotiated = (device->status & VIRTIO_STATUS_FEATURES_OK) != 0;
    ASSERT(negotiated == virtio_device_has(device, VIRTIO_F_VERSION_1));
    ASSERT((device->driver_features & ~(OFFERED | 0x130000000ull)) == 0);
}

/* ---- The driver's side ------------------------------------------------------------------------ */

static void access(uint64_t offset, uint64_t value, uint32_t size, bool write) {
    uint8_t data[9] = {0};
    offset %= VMM_MMIO_WINDOW_SIZE - size + 1;
    memcpy(data, &value, size);
    data[size] = 0x5a;
    if (write) {
        virtio_mmio_ops.write(&machine.mmio, offset, data, size);
    } else {
        virtio_mmio_ops.read(&machine.mmio, offset, data, size);
    }
    ASSERT(data[size] == 0x5a);
}

static void set(uint64_t offset, uint64_t value) {
    access(offset, value, 4, true);
}

/* The whole way up, as an honest driver goes; `features` and `sizes` choose. */
static void climb(uint64_t features, uint64_t sizes) {
    set(STATUS, 0);
    set(STATUS, 1);
    set(STATUS, 3);
    set(0x24, 1);
    set(0x20, 1);
    set(0x24, 0);
    set(0x20, (features & 3) << 28);
    set(STATUS, 11);
    for (uint32_t i = 0; i < QUEUE_COUNT; i++) {
        set(0x30, i);
        set(0x38, 1u << (sizes >> (4 * i) & 15) % 5);
        set(0x80, QUEUE_BASE + i * QUEUE_STRIDE);
        set(0x90, QUEUE_BASE + i * QUEUE_STRIDE + AVAILABLE);
        set(0xa0, QUEUE_BASE + i * QUEUE_STRIDE + USED);
        set(0x44, 1);
    }
    set(STATUS, RUNNING);
}

static void describe(struct input *input) {
    static const uint64_t tables[] = {QUEUE_BASE, QUEUE_BASE + QUEUE_STRIDE, TABLE, TABLE};
    uint64_t where = take(input, 1);
    uint64_t flags = take(input, 1);
    struct guest_descriptor descriptor = {
        .gpa = take(input, 2), .size = take(input, 2), .flags = flags & 7, .next = take(input, 1)};
    if ((flags & GUEST_INDIRECT) != 0 && (flags & 8) == 0) {
        descriptor.gpa = TABLE;
        descriptor.size = 16 * (descriptor.size & 15);
    }
    descriptor.gpa |= (flags & 0x10) != 0 ? take(input, 1) << 56 | 0xffffffffff0000ull : 0;
    descriptor.size |= (flags & 0x20) != 0 ? 0xffff0000u : 0;
    guest_describe(bytes, tables[where & 3], (uint32_t)(where >> 2) % QUEUE_SIZE_MAX, descriptor);
}

static void poke(struct input *input) {
    uint64_t gpa = take(input, 2) % (MEMORY_SIZE - 8);
    guest_poke(bytes, gpa, take(input, 2), 2);
}

static void offer(uint32_t index, uint64_t head) {
    uint32_t size = machine.attached[index] ? machine.models[index].size : 1;
    guest_offer(bytes, QUEUE_BASE + index * QUEUE_STRIDE + AVAILABLE, size,
                head >= 0xf0 ? (uint32_t)head << 8 : (uint32_t)head % (size + (head >= 0xe0)));
}

/* ---- The device's side ------------------------------------------------------------------------ */

static void signal(uint32_t index) {
    struct virtio_device *device = &machine.device;
    uint32_t before = machine.interrupts;
    bool needed_reset = (device->status & VIRTIO_STATUS_NEEDS_RESET) != 0;
    bool wanted = model_wants_interrupt(&machine.models[index]);
    bool first = machine.models[index].broken && !needed_reset;
    virtio_device_signal(device, (uint16_t)index);
    ASSERT(machine.interrupts - before == (wanted || first));
}

static void pop(uint32_t index) {
    struct virtqueue *queue = &machine.device.queues[index];
    bool has = model_pop(&machine.models[index], &expected);
    ASSERT(virtqueue_pop(queue, &chain) == has);
    ASSERT(queue->broken == machine.models[index].broken);
    if (queue->broken) {
        signal(index);
    }
    if (!has) {
        return;
    }
    uint64_t total = 0;
    ASSERT(chain.head == expected.head);
    ASSERT((uint32_t)chain.readable_count + chain.writable_count == expected.part_count);
    for (uint32_t i = 0; i < expected.part_count; i++) {
        ASSERT(chain.parts[i].iov_base == bytes + expected.parts[i].gpa);
        ASSERT(chain.parts[i].iov_len == expected.parts[i].size);
        ASSERT((i >= chain.readable_count) == expected.parts[i].writable);
        total += expected.parts[i].size;
    }
    ASSERT(chain.readable_size + chain.writable_size == total);
    machine.last_pop[index] = chain.head;
    machine.can_unpop[index] = true;
}

static void push(uint32_t index, uint32_t head, uint32_t written) {
    struct model *model = &machine.models[index];
    head %= model->size;
    if (!model->in_flight[head]) {
        return;
    }
    uint64_t entry = model_push(model, head);
    machine.can_unpop[index] = machine.can_unpop[index] && machine.last_pop[index] != head;
    virtqueue_push(&machine.device.queues[index], (uint16_t)head, written);
    ASSERT(guest_peek(bytes, entry, 4) == head);
    ASSERT(guest_peek(bytes, entry + 4, 4) == written);
    ASSERT(guest_peek(bytes, model->used + 2, 2) == model->pushed % 65536);
}

static void unpop(uint32_t index) {
    if (machine.can_unpop[index]) {
        chain.head = (uint16_t)machine.last_pop[index];
        virtqueue_unpop(&machine.device.queues[index], &chain);
        model_unpop(&machine.models[index], machine.last_pop[index]);
        machine.can_unpop[index] = false;
    }
}

static bool model_looks(struct model *model, bool *ret_has) {
    uint64_t waiting = 0;
    if (!model->broken && !model_waiting(model, &waiting)) {
        model->broken = true;
    }
    *ret_has = !model->broken && waiting > 0;
    return !model->broken && waiting == 0 && model->event_index;
}

static void has_available(uint32_t index) {
    struct model *model = &machine.models[index];
    bool has = false;
    bool twice = model_looks(model, &has);
    bool actual = virtqueue_has_available(&machine.device.queues[index]);
    if (twice) {
        (void)model_looks(model, &has); /* the number that asks may lie on the ring itself */
        uint64_t event = model->used + 4 + 8ull * model->size;
        ASSERT(guest_peek(bytes, event, 2) == model->popped % 65536);
    }
    ASSERT(actual == has);
    if (model->broken) {
        signal(index);
    }
}

static size_t save_into(struct machine *self, uint8_t *buffer) {
    static struct state_writer state;
    size_t size = 0;
    state_writer_init(&state, buffer, STATE_SIZE);
    virtio_mmio_save(&self->mmio, &state, 0);
    ASSERT(state_writer_finish(&state, &size, NULL) == KELPIE_OK);
    return size;
}

/* The frame's checksum is made again, so that the payload is what is judged. */
static bool load_payload(const uint8_t *payload, size_t size) {
    static struct state_writer writer;
    static struct state_reader reader;
    uint8_t buffer[STATE_SIZE];
    size_t total = 0;
    state_writer_init(&writer, buffer, sizeof(buffer));
    cursor_write_bytes(state_begin(&writer, STATE_TAG('V', 'M', 'I', 'O'), 1, 0), payload, size);
    state_end(&writer);
    ASSERT(state_writer_finish(&writer, &total, NULL) == KELPIE_OK);
    power_on(&twin);
    ASSERT(state_reader_init(&reader, buffer, total, NULL) == KELPIE_OK);
    return virtio_mmio_load(&twin.mmio, &reader, 0, NULL) == KELPIE_OK;
}

/* What was saved loads and is saved the same; what was changed is refused, or is saved the same (hazards B1, C9). */
static void save_and_load(uint64_t place, uint8_t change) {
    uint8_t first[STATE_SIZE];
    uint8_t second[STATE_SIZE];
    const size_t frame = 24;
    const size_t end = 24;
    for (uint32_t i = 0; i < QUEUE_COUNT; i++) {
        for (uint32_t head = 0; machine.attached[i] && head < machine.models[i].size; head++) {
            push(i, head, 0);
        }
    }
    size_t size = save_into(&machine, first);
    size_t payload = size - frame - end;
    ASSERT(load_payload(first + frame, payload));
    ASSERT(twin.device.active == machine.device.active);
    ASSERT(save_into(&twin, second) == size);
    ASSERT(memcmp(first, second, size) == 0);
    first[frame + place % payload] ^= change;
    if (load_payload(first + frame, payload)) {
        ASSERT(save_into(&twin, second) == size);
        ASSERT(memcmp(first + frame, second + frame, payload) == 0);
    }
}

/* ---- Operations ------------------------------------------------------------------------------- */

static void driver_operation(struct input *input, uint64_t operation) {
    uint64_t argument = take(input, 1);
    switch (operation) {
    case 0:
        set((argument % 64) * 4, take(input, 4));
        break;
    case 1:
        set((argument % 64) * 4, take(input, 1));
        break;
    case 2:
        access(take(input, 2), 0, 1u << argument % 4, false);
        break;
    case 3:
        access(take(input, 2), take(input, 8), 1u << argument % 4, true);
        break;
    case 4:
        climb(argument, take(input, 1));
        break;
    case 5:
        poke(input);
        break;
    case 6:
        describe(input);
        break;
    default:
        offer(argument % QUEUE_COUNT, take(input, 1));
        break;
    }
}

static void device_operation(struct input *input, uint64_t operation) {
    uint64_t argument = take(input, 1);
    uint32_t index = argument % QUEUE_COUNT;
    if (operation == 14 && !machine.saved) {
        machine.saved = true;
        save_and_load(argument, (uint8_t)take(input, 1));
    }
    if (operation == 15) {
        virtio_device_config_changed(&machine.device);
    }
    /* Between activate and reset only. */
    if (!machine.device.active || !machine.attached[index]) {
        return;
    }
    switch (operation) {
    case 8:
    case 9:
        pop(index);
        break;
    case 10:
        push(index, (uint32_t)(argument >> 1), (uint32_t)take(input, 2));
        break;
    case 11:
        unpop(index);
        break;
    case 12:
        signal(index);
        break;
    case 13:
        has_available(index);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {.data = data, .size = size};
    if (size > INPUT_SIZE_MAX) {
        return -1;
    }
    memset(bytes, 0, sizeof(bytes));
    memory_init(&memory, bytes, MEMORY_SIZE);
    power_on(&machine);
    while (input.offset < size) { /* each turn takes a byte */
        uint64_t operation = take(&input, 1) % 16;
        if (operation < 8) {
            driver_operation(&input, operation);
        } else {
            device_operation(&input, operation);
        }
        check();
    }
    return 0;
}
