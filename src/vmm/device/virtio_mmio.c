/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_mmio.h"

#include <string.h>

#include "base/assert.h"

/* The registers (virtio 1.2, 4.2.2). */
#define REGISTER_MAGIC 0x000
#define REGISTER_VERSION 0x004
#define REGISTER_DEVICE_ID 0x008
#define REGISTER_VENDOR_ID 0x00c
#define REGISTER_DEVICE_FEATURES 0x010
#define REGISTER_DEVICE_FEATURES_SELECT 0x014
#define REGISTER_DRIVER_FEATURES 0x020
#define REGISTER_DRIVER_FEATURES_SELECT 0x024
#define REGISTER_QUEUE_SELECT 0x030
#define REGISTER_QUEUE_SIZE_MAX 0x034
#define REGISTER_QUEUE_SIZE 0x038
#define REGISTER_QUEUE_READY 0x044
#define REGISTER_QUEUE_NOTIFY VIRTIO_MMIO_QUEUE_NOTIFY
#define REGISTER_INTERRUPT_STATUS 0x060
#define REGISTER_INTERRUPT_ACK 0x064
#define REGISTER_STATUS 0x070
#define REGISTER_DESCRIPTORS_LOW 0x080
#define REGISTER_DESCRIPTORS_HIGH 0x084
#define REGISTER_AVAILABLE_LOW 0x090
#define REGISTER_AVAILABLE_HIGH 0x094
#define REGISTER_USED_LOW 0x0a0
#define REGISTER_USED_HIGH 0x0a4
#define REGISTER_SHM_LENGTH_LOW 0x0b0
#define REGISTER_SHM_LENGTH_HIGH 0x0b4
#define REGISTER_SHM_BASE_LOW 0x0b8
#define REGISTER_SHM_BASE_HIGH 0x0bc
#define REGISTER_CONFIG_GENERATION 0x0fc
#define REGISTER_SIZE 4u
#define CONFIG_OFFSET 0x100u

#define MAGIC 0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR_ID 0x504c454bu /* "KELP" */

#define STATE_TAG_MMIO STATE_TAG('V', 'M', 'I', 'O')
#define STATE_VERSION 1

#define INTERRUPTS 3u /* the bits there are */

/* What the driver sets one after the other, each on top of all before it (3.1.1). */
static const uint32_t status_order[] = {VIRTIO_STATUS_ACKNOWLEDGE, VIRTIO_STATUS_DRIVER,
                                        VIRTIO_STATUS_FEATURES_OK, VIRTIO_STATUS_DRIVER_OK};
#define STATUS_FEATURES_INDEX 2u /* FEATURES_OK's place in it */

void virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *device) {
    ASSERT(mmio && device);
    ASSERT(device->ops);
    *mmio = (struct virtio_mmio){.device = device};
}

static bool status_has(const struct virtio_mmio *mmio, uint32_t bits) {
    ASSERT(mmio->device);
    ASSERT(bits != 0);
    return (mmio->device->status & bits) == bits;
}

/* ---- Features --------------------------------------------------------------------------------- */

static uint32_t device_features_word(const struct virtio_mmio *mmio) {
    uint64_t features = virtio_device_offered(mmio->device);
    if (mmio->device_features_select > 1) {
        return 0;
    }
    ASSERT(mmio->device_features_select <= 1);
    return (uint32_t)(features >> (32 * mmio->device_features_select));
}

/* Between DRIVER and FEATURES_OK, and never again. */
static void write_driver_features(struct virtio_mmio *mmio, uint32_t value) {
    ASSERT(mmio->device);
    ASSERT(!mmio->device->active || status_has(mmio, VIRTIO_STATUS_FEATURES_OK));
    if (!status_has(mmio, VIRTIO_STATUS_DRIVER) || status_has(mmio, VIRTIO_STATUS_FEATURES_OK)) {
        return;
    }
    if (mmio->driver_features_select > 1) {
        /* Nothing is offered there: whoever accepts it is refused. */
        mmio->driver_features_unknown = mmio->driver_features_unknown || value != 0;
        return;
    }
    uint32_t shift = 32 * mmio->driver_features_select;
    mmio->driver_features &= ~((uint64_t)UINT32_MAX << shift);
    mmio->driver_features |= (uint64_t)value << shift;
}

/* Of what the driver wrote: all of it is offered, and the legacy interface is left out (2.2, 6.1). */
static bool features_are_acceptable(const struct virtio_mmio *mmio) {
    ASSERT(mmio->device);
    ASSERT(mmio->device->ops);
    return !mmio->driver_features_unknown &&
           (mmio->driver_features & ~virtio_device_offered(mmio->device)) == 0 &&
           (mmio->driver_features & VIRTIO_F_VERSION_1) != 0;
}

static void queue_negotiate(struct virtqueue *queue, uint64_t features) {
    ASSERT(queue);
    ASSERT(!queue->ready);
    queue->event_index = (features & VIRTIO_F_EVENT_IDX) != 0;
    queue->indirect = (features & VIRTIO_F_INDIRECT_DESC) != 0;
}

static void accept_features(struct virtio_mmio *mmio) {
    ASSERT(features_are_acceptable(mmio));
    ASSERT(!status_has(mmio, VIRTIO_STATUS_FEATURES_OK));
    mmio->device->driver_features = mmio->driver_features;
    for (uint16_t i = 0; i < mmio->device->ops->queue_count; i++) {
        queue_negotiate(&mmio->device->queues[i], mmio->driver_features);
    }
}

/* ---- Status ----------------------------------------------------------------------------------- */

/* Tells of queues that were found broken, whether or not the device did. */
static void report_broken(struct virtio_device *device) {
    ASSERT(device->ops);
    ASSERT(device->ops->queue_count <= VMM_QUEUE_COUNT_MAX);
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        if (device->queues[i].broken) {
            virtio_device_signal(device, i);
        }
    }
}

static void reset(struct virtio_mmio *mmio) {
    ASSERT(mmio);
    ASSERT(mmio->device);
    virtio_device_reset(mmio->device);
    virtio_mmio_init(mmio, mmio->device);
}

static bool status_bit_is_acceptable(const struct virtio_mmio *mmio, uint32_t bit) {
    ASSERT(bit != 0);
    ASSERT(!status_has(mmio, bit));
    if (bit == VIRTIO_STATUS_FEATURES_OK) {
        return features_are_acceptable(mmio);
    }
    /* A device that needs a reset, or was given up, does not begin. */
    return bit != VIRTIO_STATUS_DRIVER_OK ||
           (mmio->device->status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)) == 0;
}

static void status_bit_set(struct virtio_mmio *mmio, uint32_t bit) {
    struct virtio_device *device = mmio->device;
    ASSERT(!status_has(mmio, bit));
    ASSERT(!device->active);
    if (bit == VIRTIO_STATUS_FEATURES_OK) {
        accept_features(mmio);
    }
    device->status |= bit;
    if (bit == VIRTIO_STATUS_DRIVER_OK) {
        device->active = true;
        device->ops->activate(device);
        report_broken(device);
    }
}

/* 2.1.1: the driver adds bits in order; only a reset takes any away. What goes against that has no effect, and the
 * driver sees it when it reads the status. NEEDS_RESET is the device's. */
static void write_status(struct virtio_mmio *mmio, uint32_t value) {
    ASSERT(mmio);
    ASSERT(mmio->device);
    if (value == 0) {
        reset(mmio);
        return;
    }
    uint32_t kept = mmio->device->status & ~VIRTIO_STATUS_NEEDS_RESET;
    if ((kept & ~value) != 0) {
        return;
    }
    mmio->device->status |= value & VIRTIO_STATUS_FAILED;
    for (size_t i = 0; i < ARRAY_SIZE(status_order); i++) {
        uint32_t bit = status_order[i];
        if (status_has(mmio, bit)) {
            continue;
        }
        if ((value & bit) == 0 || !status_bit_is_acceptable(mmio, bit)) {
            return;
        }
        status_bit_set(mmio, bit);
    }
}

/* ---- Queues ----------------------------------------------------------------------------------- */

/* The selected queue, or NULL (hazard A2). */
static struct virtqueue *selected(const struct virtio_mmio *mmio) {
    ASSERT(mmio->device);
    ASSERT(mmio->device->ops->queue_count <= VMM_QUEUE_COUNT_MAX);
    return mmio->queue_select < mmio->device->ops->queue_count
               ? &mmio->device->queues[mmio->queue_select]
               : NULL;
}

/* The selected queue when the driver may set it up: after the features, before the device begins. Else NULL. */
static struct virtqueue *selected_in_setup(const struct virtio_mmio *mmio) {
    ASSERT(mmio->device);
    ASSERT(mmio->device->active == status_has(mmio, VIRTIO_STATUS_DRIVER_OK));
    if (!status_has(mmio, VIRTIO_STATUS_FEATURES_OK) || mmio->device->active) {
        return NULL;
    }
    return selected(mmio);
}

static void write_queue_ready(struct virtio_mmio *mmio, struct virtqueue *queue, uint32_t value) {
    ASSERT(queue);
    ASSERT(!mmio->device->active);
    if (value == 0 && queue->ready) {
        virtqueue_reset(queue);
        queue_negotiate(queue, mmio->device->driver_features);
    } else if (value == 1 && !queue->ready) {
        (void)virtqueue_enable(queue);
        report_broken(mmio->device);
    }
}

static void set_low(uint64_t *address, uint32_t value) {
    ASSERT(address);
    *address = (*address & ~(uint64_t)UINT32_MAX) | value;
    ASSERT((uint32_t)*address == value);
}

static void set_high(uint64_t *address, uint32_t value) {
    ASSERT(address);
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
    ASSERT(*address >> 32 == value);
}

/* Registers of the selected queue; locked once it is ready (hazard A4). */
static void write_queue(struct virtio_mmio *mmio, uint64_t offset, uint32_t value) {
    ASSERT(offset < CONFIG_OFFSET);
    ASSERT(offset % REGISTER_SIZE == 0);
    struct virtqueue *queue = selected_in_setup(mmio);
    if (!queue) {
        return;
    }
    if (offset == REGISTER_QUEUE_READY) {
        write_queue_ready(mmio, queue, value);
        return;
    }
    if (queue->ready || queue->broken) {
        return;
    }
    switch (offset) {
    case REGISTER_QUEUE_SIZE:
        /* One that no 16 bits hold is as impossible as 0 (hazard A5). */
        queue->size = value <= UINT16_MAX ? (uint16_t)value : 0;
        break;
    case REGISTER_DESCRIPTORS_LOW:
        set_low(&queue->descriptors_gpa, value);
        break;
    case REGISTER_DESCRIPTORS_HIGH:
        set_high(&queue->descriptors_gpa, value);
        break;
    case REGISTER_AVAILABLE_LOW:
        set_low(&queue->available_gpa, value);
        break;
    case REGISTER_AVAILABLE_HIGH:
        set_high(&queue->available_gpa, value);
        break;
    case REGISTER_USED_LOW:
        set_low(&queue->used_gpa, value);
        break;
    case REGISTER_USED_HIGH:
        set_high(&queue->used_gpa, value);
        break;
    default:
        break;
    }
}

static void kick(struct virtio_mmio *mmio, uint32_t queue_index) {
    ASSERT(mmio->busy);
    ASSERT(mmio->device);
    struct virtio_device *device = mmio->device;
    if (!device->active || queue_index >= device->ops->queue_count) {
        return;
    }
    const struct virtqueue *queue = &device->queues[queue_index];
    if (!queue->ready || queue->broken) {
        return;
    }
    device->ops->notify(device, (uint16_t)queue_index);
    report_broken(device);
}

/* False: the device is at work further up the stack, and is not entered again (hazard A10). Nothing that we have comes
 * here so: a device reaches memory only, and an interrupt is an event that somebody else takes. */
static bool enter(struct virtio_mmio *mmio) {
    ASSERT(mmio);
    ASSERT(mmio->device);
    bool was_busy = mmio->busy;
    mmio->busy = true;
    return !was_busy;
}

void virtio_mmio_notify(struct virtio_mmio *mmio, uint32_t queue_index) {
    if (!enter(mmio)) {
        return;
    }
    kick(mmio, queue_index);
    ASSERT(mmio->busy);
    mmio->busy = false;
}

/* ---- The window ------------------------------------------------------------------------------- */

static uint32_t read_register(const struct virtio_mmio *mmio, uint64_t offset) {
    const struct virtio_device *device = mmio->device;
    const struct virtqueue *queue = selected(mmio);
    ASSERT(offset < CONFIG_OFFSET);
    ASSERT(device->ops);
    switch (offset) {
    case REGISTER_MAGIC:
        return MAGIC;
    case REGISTER_VERSION:
        return VERSION;
    case REGISTER_DEVICE_ID:
        return device->ops->id;
    case REGISTER_VENDOR_ID:
        return VENDOR_ID;
    case REGISTER_DEVICE_FEATURES:
        return device_features_word(mmio);
    case REGISTER_QUEUE_SIZE_MAX:
        return queue ? queue->size_max : 0;
    case REGISTER_QUEUE_READY:
        return queue && queue->ready;
    case REGISTER_INTERRUPT_STATUS:
        return device->interrupt_status;
    case REGISTER_STATUS:
        return device->status;
    case REGISTER_SHM_LENGTH_LOW:
    case REGISTER_SHM_LENGTH_HIGH:
    case REGISTER_SHM_BASE_LOW:
    case REGISTER_SHM_BASE_HIGH:
        return UINT32_MAX; /* 4.2.2: there is no such region */
    case REGISTER_CONFIG_GENERATION:
        return device->config_generation;
    default:
        return 0; /* none, or one to write only */
    }
}

static void write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value) {
    ASSERT(mmio->device);
    ASSERT(offset < CONFIG_OFFSET);
    switch (offset) {
    case REGISTER_DEVICE_FEATURES_SELECT:
        mmio->device_features_select = value;
        break;
    case REGISTER_DRIVER_FEATURES:
        write_driver_features(mmio, value);
        break;
    case REGISTER_DRIVER_FEATURES_SELECT:
        mmio->driver_features_select = value;
        break;
    case REGISTER_QUEUE_SELECT:
        mmio->queue_select = value;
        break;
    case REGISTER_QUEUE_NOTIFY:
        kick(mmio, value);
        break;
    case REGISTER_INTERRUPT_ACK:
        mmio->device->interrupt_status &= ~value;
        break;
    case REGISTER_STATUS:
        write_status(mmio, value);
        break;
    default:
        write_queue(mmio, offset, value); /* or a register that is none */
        break;
    }
}

/* 4.2.2.2: registers are read and written as aligned 32 bits. Config fields have any size. */
static bool is_register(uint64_t offset, uint32_t size) {
    ASSERT(size > 0);
    ASSERT(size <= sizeof(uint64_t));
    return offset < CONFIG_OFFSET && offset % REGISTER_SIZE == 0 && size == REGISTER_SIZE;
}

static void mmio_read(void *context, uint64_t offset, void *data, uint32_t size) {
    struct virtio_mmio *mmio = context;
    ASSERT(mmio && data);
    ASSERT(offset + size <= VMM_MMIO_WINDOW_SIZE);
    memset(data, 0, size);
    if (is_register(offset, size)) {
        uint32_t value = read_register(mmio, offset);
        memcpy(data, &value, sizeof(value));
    } else if (offset >= CONFIG_OFFSET && mmio->device->ops->config_read) {
        mmio->device->ops->config_read(mmio->device, offset - CONFIG_OFFSET, data, size);
    }
}

static void mmio_write(void *context, uint64_t offset, const void *data, uint32_t size) {
    struct virtio_mmio *mmio = context;
    ASSERT(mmio && data);
    ASSERT(offset + size <= VMM_MMIO_WINDOW_SIZE);
    if (!enter(mmio)) {
        return;
    }
    if (is_register(offset, size)) {
        uint32_t value = 0;
        memcpy(&value, data, sizeof(value));
        write_register(mmio, offset, value);
    } else if (offset >= CONFIG_OFFSET && mmio->device->ops->config_write) {
        mmio->device->ops->config_write(mmio->device, offset - CONFIG_OFFSET, data, size);
    }
    mmio->busy = false;
}

const struct device_ops virtio_mmio_ops = {
    .name = "virtio-mmio", .read = mmio_read, .write = mmio_write};

/* ---- Saving and loading ----------------------------------------------------------------------- */

void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *state, uint16_t instance) {
    struct virtio_device *device = mmio->device;
    ASSERT(device && device->ops);
    ASSERT(device->ops->save);
    /* So that a broken queue and NEEDS_RESET are never one without the other. */
    report_broken(device);
    struct cursor_writer *writer = state_begin(state, STATE_TAG_MMIO, STATE_VERSION, instance);
    cursor_write_u32(writer, device->ops->id);
    cursor_write_u16(writer, device->ops->queue_count);
    cursor_write_u32(writer, mmio->device_features_select);
    cursor_write_u32(writer, mmio->driver_features_select);
    cursor_write_u64(writer, mmio->driver_features);
    cursor_write_u8(writer, mmio->driver_features_unknown);
    cursor_write_u32(writer, mmio->queue_select);
    cursor_write_u32(writer, device->status);
    cursor_write_u32(writer, device->interrupt_status);
    cursor_write_u32(writer, device->config_generation);
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        virtqueue_save(&device->queues[i], writer);
    }
    state_end(state);
    device->ops->save(device, state, instance);
}

/* A status that a driver and we could have brought about together. */
static bool status_is_possible(const struct virtio_device *device) {
    ASSERT(device->ops);
    bool broken = false;
    bool touched = false;
    for (uint16_t i = 0; i < device->ops->queue_count; i++) {
        const struct virtqueue *queue = &device->queues[i];
        broken = broken || queue->broken;
        touched = touched || queue->ready || queue->broken || queue->size != 0 ||
                  queue->descriptors_gpa != 0 || queue->available_gpa != 0 || queue->used_gpa != 0;
    }
    uint32_t left = device->status & ~(VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED);
    for (size_t i = 0; i < ARRAY_SIZE(status_order) && (left & status_order[i]) != 0; i++) {
        left &= ~status_order[i];
    }
    ASSERT(ARRAY_SIZE(status_order) > STATUS_FEATURES_INDEX);
    bool negotiated = (device->status & VIRTIO_STATUS_FEATURES_OK) != 0;
    bool needs_reset = (device->status & VIRTIO_STATUS_NEEDS_RESET) != 0;
    return left == 0 && (negotiated || !touched) && broken == needs_reset;
}

/* Everything else that is not any number at all. */
static bool is_possible(const struct virtio_mmio *mmio) {
    const struct virtio_device *device = mmio->device;
    ASSERT(device);
    bool negotiated = status_has(mmio, VIRTIO_STATUS_FEATURES_OK);
    ASSERT(device->driver_features == (negotiated ? mmio->driver_features : 0));
    if (!status_is_possible(device) || (negotiated && !features_are_acceptable(mmio))) {
        return false;
    }
    if (!status_has(mmio, VIRTIO_STATUS_DRIVER) &&
        (mmio->driver_features != 0 || mmio->driver_features_unknown)) {
        return false;
    }
    return (device->interrupt_status & ~INTERRUPTS) == 0 &&
           (device->active || device->interrupt_status == 0);
}

/* Reads into a transport and a device that are after init. False: something is out of range (hazard B1). */
static bool load(struct virtio_mmio *mmio, struct cursor_reader *reader) {
    struct virtio_device *device = mmio->device;
    ASSERT(device->status == 0);
    ASSERT(!device->active);
    bool fits = cursor_read_u32(reader) == device->ops->id;
    fits = (cursor_read_u16(reader) == device->ops->queue_count) && fits;
    mmio->device_features_select = cursor_read_u32(reader);
    mmio->driver_features_select = cursor_read_u32(reader);
    mmio->driver_features = cursor_read_u64(reader);
    uint8_t unknown = cursor_read_u8(reader);
    mmio->driver_features_unknown = unknown != 0;
    mmio->queue_select = cursor_read_u32(reader);
    device->status = cursor_read_u32(reader);
    device->interrupt_status = cursor_read_u32(reader);
    device->config_generation = cursor_read_u32(reader);
    device->active = status_has(mmio, VIRTIO_STATUS_DRIVER_OK);
    device->driver_features =
        status_has(mmio, VIRTIO_STATUS_FEATURES_OK) ? mmio->driver_features : 0;
    fits = fits && unknown <= 1;
    for (uint16_t i = 0; i < device->ops->queue_count && fits; i++) {
        queue_negotiate(&device->queues[i], device->driver_features);
        fits = virtqueue_load(&device->queues[i], reader);
    }
    return fits && is_possible(mmio);
}

enum kelpie_status virtio_mmio_load(struct virtio_mmio *mmio, struct state_reader *state,
                                    uint16_t instance, struct kelpie_error *err) {
    struct virtio_device *device = mmio->device;
    ASSERT(device && device->ops);
    ASSERT(device->ops->load);
    struct cursor_reader reader;
    TRY(state_find(state, STATE_TAG_MMIO, STATE_VERSION, instance, &reader, err));
    /* Into copies, so that a section that is refused leaves nothing behind. */
    struct virtio_device loaded_device = *device;
    struct virtio_mmio loaded = {.device = &loaded_device};
    bool valid = load(&loaded, &reader);
    TRY(state_check(&reader, valid, device->ops->name, err));
    loaded.device = device;
    *device = loaded_device;
    *mmio = loaded;
    TRY(device->ops->load(device, state, instance, err));
    if (device->interrupt_status != 0) {
        /* Its edge may have come after the interrupt controller was saved; once too often does no harm. */
        device_irq_trigger(&device->irq);
    }
    return KELPIE_OK;
}
