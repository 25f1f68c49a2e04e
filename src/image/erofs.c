/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Writes an EROFS file system from its first byte to its last. See erofs.h. */
#include "image/erofs.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "base/error.h"
#include "image/erofs_internal.h"

#define PIECE_SIZE 65536u /* written at once, or left as a hole */
#define FORMAT_EXTENDED 1u
#define FORMAT_PLAIN (0u << 1)
#define FORMAT_INLINE (2u << 1)

/* A file on its way. */
struct output {
    struct host *host;
    int fd;
    const struct image_erofs *erofs;
    struct erofs_plan plan;
    struct image_hasher *hasher;
    uint64_t offset; /* of the piece */
    size_t used;
    uint8_t piece[PIECE_SIZE];
    uint8_t attributes[2 * IMAGE_ATTRIBUTES_SIZE_MAX];
};

static void output_cleanup(struct output **output) {
    ASSERT(output);
    if (*output) {
        erofs_plan_deinit(&(*output)->plan);
        image_hasher_destroy((*output)->hasher);
        free(*output);
    }
}

static void output_check(const struct output *output) {
    ASSERT(output);
    ASSERT(output->used <= PIECE_SIZE);
}

static uint64_t position(const struct output *output) {
    output_check(output);
    ASSERT(output->offset % PIECE_SIZE == 0);
    return output->offset + output->used;
}

static bool is_zero(const uint8_t *data, size_t size) {
    ASSERT(data);
    ASSERT(size > 0);
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

static enum kelpie_status flush(struct output *output, struct kelpie_error *err) {
    output_check(output);
    ASSERT(output->hasher);
    ASSERT(output->fd != HOST_FD_NONE);
    if (output->used == 0) {
        return KELPIE_OK;
    }
    TRY(image_wait_check(output->host, output->erofs->wait, err));
    TRY(image_hasher_update(output->hasher, output->piece, output->used, err));
    if (!is_zero(output->piece, output->used)) {
        TRY(host_file_write_at(output->host, output->fd, output->piece, output->used,
                               output->offset, err));
    }
    output->offset += output->used;
    output->used = 0;
    return KELPIE_OK;
}

/* data NULL: zeros. */
static enum kelpie_status put(struct output *output, const uint8_t *data, uint64_t size,
                              struct kelpie_error *err) {
    output_check(output);
    ASSERT(output->used < PIECE_SIZE);
    for (uint64_t done = 0; done < size;) {
        size_t count = (size_t)min_u64(PIECE_SIZE - output->used, size - done);
        if (data) {
            memcpy(output->piece + output->used, data + done, count);
        } else {
            memset(output->piece + output->used, 0, count);
        }
        output->used += count;
        done += count;
        if (output->used == PIECE_SIZE) {
            TRY(flush(output, err));
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status put_zeros_to(struct output *output, uint64_t offset,
                                       struct kelpie_error *err) {
    output_check(output);
    ASSERT(offset >= position(output));
    ASSERT(offset <= output->plan.block_count * EROFS_BLOCK_SIZE);
    return put(output, NULL, offset - position(output), err);
}

/* From the data file, whose end may be missing: a hole. */
static enum kelpie_status put_data(struct output *output, uint64_t offset, uint64_t size,
                                   struct kelpie_error *err) {
    output_check(output);
    ASSERT(output->erofs->data_fd != HOST_FD_NONE || size == 0);
    ASSERT(offset % EROFS_BLOCK_SIZE == 0);
    while (size > 0) {
        size_t wanted = (size_t)min_u64(PIECE_SIZE - output->used, size);
        size_t count = 0;
        TRY(host_file_read_at(output->host, output->erofs->data_fd, output->piece + output->used,
                              wanted, offset, &count, err));
        memset(output->piece + output->used + count, 0, wanted - count);
        output->used += wanted;
        offset += wanted;
        size -= wanted;
        if (output->used == PIECE_SIZE) {
            TRY(flush(output, err));
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status put_super(struct output *output, struct kelpie_error *err) {
    static const uint8_t zeros[EROFS_SUPER_SIZE];
    uint8_t super[EROFS_SUPER_SIZE];
    const struct erofs_plan *plan = &output->plan;
    struct cursor_writer out = cursor_writer_init(super, sizeof(super));
    ASSERT(plan->place_count > 0);
    ASSERT(plan->places[0].offset / EROFS_SLOT_SIZE <= UINT16_MAX);
    cursor_write_u32(&out, EROFS_SUPER_MAGIC);
    cursor_write_u32(&out,
                     0); /* checksum: without its feature, none; the file is named by a digest */
    cursor_write_u32(&out, 0); /* compatible features */
    cursor_write_u8(&out, EROFS_BLOCK_SIZE_LOG2);
    cursor_write_u8(&out, 0); /* no more slots of superblock */
    cursor_write_u16(&out, (uint16_t)(plan->places[0].offset / EROFS_SLOT_SIZE));
    cursor_write_u64(&out, plan->place_count);
    cursor_write_bytes(&out, zeros, 8 + 4); /* its time */
    cursor_write_u32(&out, (uint32_t)plan->block_count);
    cursor_write_u32(&out, 0);           /* where inodes are counted from: block 0 */
    cursor_write_u32(&out, 0);           /* no shared attributes */
    cursor_write_bytes(&out, zeros, 16); /* uuid */
    cursor_write_bytes(&out, "kelpie\0\0\0\0\0\0\0\0\0", 16);
    cursor_write_bytes(&out, zeros, EROFS_SUPER_SIZE - out.size); /* no incompatible features */
    ASSERT(!out.failed && out.size == EROFS_SUPER_SIZE);
    TRY(put_zeros_to(output, EROFS_SUPER_OFFSET, err));
    return put(output, super, sizeof(super), err);
}

/* The kernel's "new" encoding of a device number, 12 and 20 bits. */
static uint32_t device_number(const struct image_inode *inode) {
    ASSERT(inode->device_major < 1u << 12);
    ASSERT(inode->device_minor < 1u << 20);
    return (inode->device_minor & 0xff) | inode->device_major << 8 |
           (inode->device_minor & ~0xffu) << 12;
}

/* A folder has a name of its own, one in itself, and one in each folder in it. */
static uint32_t count_links(const struct erofs_plan *plan, const struct erofs_place *place) {
    const struct image_inode *inode = image_tree_inode(plan->tree, place->inode);
    uint32_t count = inode->link_count;
    ASSERT(count > 0);
    if ((inode->mode & S_IFMT) != S_IFDIR) {
        return count;
    }
    ASSERT(count == 1);
    for (size_t i = 0; i < place->child_count; i++) {
        uint32_t child = image_tree_inode_of(plan->tree, place->children[i]);
        count += (image_tree_inode(plan->tree, child)->mode & S_IFMT) == S_IFDIR;
    }
    return count + 1;
}

static void encode_inode(const struct erofs_plan *plan, const struct erofs_place *place,
                         uint8_t buffer[EROFS_INODE_SIZE]) {
    static const uint8_t zeros[16];
    const struct image_inode *inode = image_tree_inode(plan->tree, place->inode);
    struct cursor_writer out = cursor_writer_init(buffer, EROFS_INODE_SIZE);
    uint32_t type = inode->mode & S_IFMT;
    bool is_device = type == S_IFCHR || type == S_IFBLK;
    uint32_t layout = place->tail_size > 0 ? FORMAT_INLINE : FORMAT_PLAIN;
    uint32_t attribute_words =
        place->attributes_size ? (place->attributes_size - EROFS_ATTRIBUTES_HEAD_SIZE) / 4 + 1 : 0;
    ASSERT(attribute_words <= UINT16_MAX);
    cursor_write_u16(&out, (uint16_t)(FORMAT_EXTENDED | layout));
    cursor_write_u16(&out, (uint16_t)attribute_words);
    cursor_write_u16(&out, (uint16_t)inode->mode);
    cursor_write_u16(&out, 0);
    cursor_write_u64(&out, place->size);
    cursor_write_u32(&out, is_device ? device_number(inode) : place->block);
    cursor_write_u32(&out, (uint32_t)(place - plan->places) + 1); /* for 32-bit programs */
    cursor_write_u32(&out, inode->uid);
    cursor_write_u32(&out, inode->gid);
    cursor_write_u64(&out, (uint64_t)inode->modified_s);
    cursor_write_u32(&out, inode->modified_ns);
    cursor_write_u32(&out, count_links(plan, place));
    cursor_write_bytes(&out, zeros, sizeof(zeros));
    ASSERT(!out.failed && out.size == EROFS_INODE_SIZE);
}

/* `size` bytes of the content, from `from` on. */
static enum kelpie_status put_content(struct output *output, const struct erofs_place *place,
                                      uint64_t from, uint64_t size, struct kelpie_error *err) {
    const struct erofs_plan *plan = &output->plan;
    const struct image_inode *inode = image_tree_inode(plan->tree, place->inode);
    ASSERT(from + size <= place->size);
    if (size == 0) {
        return KELPIE_OK;
    }
    if ((inode->mode & S_IFMT) == S_IFREG) {
        return put_data(output, inode->data_offset + from, size, err);
    }
    if ((inode->mode & S_IFMT) == S_IFLNK) {
        const char *target = image_tree_text(plan->tree, inode->target);
        return put(output, (const uint8_t *)target + from, size, err);
    }
    AUTO_MEM uint8_t *folder = NULL;
    TRY(erofs_folder_encode(plan, place, &folder, err));
    ASSERT(folder);
    return put(output, folder + from, size, err);
}

static enum kelpie_status put_inodes(struct output *output, struct kelpie_error *err) {
    const struct erofs_plan *plan = &output->plan;
    uint8_t encoded[EROFS_INODE_SIZE];
    for (uint32_t i = 0; i < plan->place_count; i++) {
        const struct erofs_place *place = &plan->places[i];
        const struct image_inode *inode = image_tree_inode(plan->tree, place->inode);
        ASSERT(place->attributes_size <= sizeof(output->attributes));
        TRY(put_zeros_to(output, place->offset, err));
        encode_inode(plan, place, encoded);
        TRY(put(output, encoded, sizeof(encoded), err));
        (void)erofs_attributes_encode(plan->tree, inode, output->attributes,
                                      place->attributes_size);
        TRY(put(output, output->attributes, place->attributes_size, err));
        TRY(put_content(output, place, place->size - place->tail_size, place->tail_size, err));
    }
    ASSERT(position(output) <= plan->inodes_end);
    return KELPIE_OK;
}

static enum kelpie_status put_blocks(struct output *output, struct kelpie_error *err) {
    const struct erofs_plan *plan = &output->plan;
    ASSERT(position(output) <= plan->inodes_end);
    for (uint32_t i = 0; i < plan->place_count; i++) {
        const struct erofs_place *place = &plan->places[i];
        if (place->block > 0) {
            TRY(put_zeros_to(output, (uint64_t)place->block * EROFS_BLOCK_SIZE, err));
            TRY(put_content(output, place, 0, place->size - place->tail_size, err));
        }
    }
    ASSERT(position(output) <= plan->block_count * EROFS_BLOCK_SIZE);
    return put_zeros_to(output, plan->block_count * EROFS_BLOCK_SIZE, err);
}

enum kelpie_status image_erofs_write(struct host *host, const struct image_erofs *erofs, int fd,
                                     uint64_t *ret_size, char ret_digest[IMAGE_DIGEST_SIZE],
                                     struct kelpie_error *err) {
    ASSERT(erofs->tree && erofs->wait);
    ASSERT(ret_size && ret_digest);
    __attribute__((cleanup(output_cleanup))) struct output *output =
        host_allocate(host, sizeof(*output), err);
    if (!output) {
        return KELPIE_NO_MEMORY;
    }
    output->host = host;
    output->fd = fd;
    output->erofs = erofs;
    TRY(erofs_plan_init(&output->plan, host, erofs->tree, err));
    TRY(image_hasher_create(host, &output->hasher, err));
    TRY(put_super(output, err));
    TRY(put_inodes(output, err));
    TRY(put_blocks(output, err));
    TRY(flush(output, err));
    TRY(host_file_truncate(host, fd, output->offset, err));
    *ret_size = output->offset;
    return image_hasher_finish(output->hasher, ret_digest, err);
}
