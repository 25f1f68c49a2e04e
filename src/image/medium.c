/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * medium.c: the boot disk of a kernel that takes no initramfs, in the smallest file system that it can mount: EROFS
 * (Linux documentation, "EROFS - Enhanced Read-Only File System"; fs/erofs/erofs_fs.h for the layout), uncompressed.
 *
 * Block 0 has the superblock and all inodes; then come a block for each folder, and the files, each from a block's
 * start on. All numbers are little-endian. Times and owners are zero.
 */
#include "image/image_internal.h"

#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"

#define BLOCK_SIZE_LOG2 12
#define BLOCK_SIZE 4096
#define SUPER_OFFSET 1024
#define SUPER_SIZE 128
#define SUPER_MAGIC 0xe0f5e1e2u
#define INODE_OFFSET 2048 /* of the first one: in slots of INODE_SIZE */
#define INODE_SIZE 32     /* "compact" */
#define INODE_FORMAT 0    /* compact; its data in one piece, of whole blocks */
#define ENTRY_SIZE 12     /* of a folder, without its name */
#define ENTRY_FILE 1
#define ENTRY_FOLDER 2

enum node { NODE_ROOT = 0, NODE_DEV, NODE_INIT, NODE_ARCHIVE, NODE_NEW, NODE_COUNT };

/* Of each, the block at which its data begins, and its size. */
struct medium {
    struct {
        uint32_t block;
        uint64_t size;
    } nodes[NODE_COUNT];
    uint32_t block_count;
};

static const struct {
    const char *name;
    uint16_t mode;
    uint16_t link_count;
} tree[NODE_COUNT] = {
    [NODE_ROOT] = {"", S_IFDIR | 0755, 4},     [NODE_DEV] = {"dev", S_IFDIR | 0755, 2},
    [NODE_INIT] = {"init", S_IFREG | 0755, 1}, [NODE_ARCHIVE] = {"kelpie.cpio", S_IFREG | 0600, 1},
    [NODE_NEW] = {"new", S_IFDIR | 0755, 2},
};

/* A folder's entries, in the order of their names; "." and ".." come before every letter. */
struct folder {
    struct {
        const char *name;
        enum node node;
    } entries[NODE_COUNT + 2];
    size_t count;
};

static uint64_t nid_of(enum node node) {
    ASSERT((unsigned)node < NODE_COUNT);
    static_assert(INODE_OFFSET + NODE_COUNT * INODE_SIZE <= BLOCK_SIZE, "in block 0");
    return INODE_OFFSET / INODE_SIZE + (uint64_t)node;
}

static struct folder folder_of(enum node node) {
    struct folder folder = {.entries = {{".", node}, {"..", NODE_ROOT}}, .count = 2};
    ASSERT((unsigned)node < NODE_COUNT);
    ASSERT(S_ISDIR(tree[node].mode));
    for (unsigned i = NODE_ROOT + 1; node == NODE_ROOT && i < NODE_COUNT; i++) {
        folder.entries[folder.count].name = tree[i].name;
        folder.entries[folder.count].node = (enum node)i;
        folder.count++;
    }
    return folder;
}

/* All entries, then all names. Returns how many bytes they are. */
static size_t folder_encode(enum node node, uint8_t block[BLOCK_SIZE]) {
    struct folder folder = folder_of(node);
    struct cursor_writer out = cursor_writer_init(block, BLOCK_SIZE);
    size_t name_offset = folder.count * ENTRY_SIZE;
    for (size_t i = 0; i < folder.count; i++) {
        enum node target = folder.entries[i].node;
        cursor_write_u64(&out, nid_of(target));
        cursor_write_u16(&out, (uint16_t)name_offset);
        cursor_write_u8(&out, S_ISDIR(tree[target].mode) ? ENTRY_FOLDER : ENTRY_FILE);
        cursor_write_u8(&out, 0);
        name_offset += strlen(folder.entries[i].name);
    }
    for (size_t i = 0; i < folder.count; i++) {
        cursor_write_bytes(&out, folder.entries[i].name, strlen(folder.entries[i].name));
    }
    ASSERT(!out.failed);
    ASSERT(out.size == name_offset);
    return out.size;
}

/* Places everything. False: it is too large for 32-bit block numbers and sizes. */
static bool medium_place(struct medium *medium, size_t init_size, size_t archive_size) {
    uint8_t block[BLOCK_SIZE];
    uint64_t next = 1;
    ASSERT(medium);
    for (unsigned i = 0; i < NODE_COUNT; i++) {
        uint64_t size = i == NODE_INIT ? init_size : archive_size;
        if (S_ISDIR(tree[i].mode)) {
            size = folder_encode((enum node)i, block);
        }
        if (size > UINT32_MAX) {
            return false;
        }
        medium->nodes[i].block = (uint32_t)next;
        medium->nodes[i].size = size;
        next += (size + BLOCK_SIZE - 1) / BLOCK_SIZE;
        ASSERT(next < UINT32_MAX);
    }
    medium->block_count = (uint32_t)next;
    return true;
}

static void super_encode(const struct medium *medium, struct cursor_writer *out) {
    static const uint8_t zeros[SUPER_SIZE];
    ASSERT(out->size == 0 && out->capacity == SUPER_SIZE);
    ASSERT(medium->block_count > NODE_COUNT);
    cursor_write_u32(out, SUPER_MAGIC);
    cursor_write_u32(out, 0); /* checksum: without its feature, none */
    cursor_write_u32(out, 0); /* compatible features */
    cursor_write_u8(out, BLOCK_SIZE_LOG2);
    cursor_write_u8(out, 0); /* no more slots of superblock */
    cursor_write_u16(out, (uint16_t)nid_of(NODE_ROOT));
    cursor_write_u64(out, NODE_COUNT);
    cursor_write_bytes(out, zeros, 8 + 4); /* its time */
    cursor_write_u32(out, medium->block_count);
    cursor_write_u32(out, 0);           /* where inodes are counted from: block 0 */
    cursor_write_u32(out, 0);           /* no extended attributes */
    cursor_write_bytes(out, zeros, 16); /* uuid */
    cursor_write_bytes(out, "kelpie\0\0\0\0\0\0\0\0\0", 16);
    cursor_write_bytes(out, zeros, SUPER_SIZE - out->size); /* no incompatible features */
    ASSERT(!out->failed && out->size == SUPER_SIZE);
}

static void inode_encode(const struct medium *medium, enum node node, struct cursor_writer *out) {
    size_t start = out->size;
    ASSERT((unsigned)node < NODE_COUNT);
    ASSERT(medium->nodes[node].block > 0);
    cursor_write_u16(out, INODE_FORMAT);
    cursor_write_u16(out, 0); /* no extended attributes */
    cursor_write_u16(out, tree[node].mode);
    cursor_write_u16(out, tree[node].link_count);
    cursor_write_u32(out, (uint32_t)medium->nodes[node].size);
    cursor_write_u32(out, 0);
    cursor_write_u32(out, medium->nodes[node].block);
    cursor_write_u32(out, (uint32_t)node + 1); /* its number, for 32-bit programs */
    cursor_write_u16(out, 0);                  /* user */
    cursor_write_u16(out, 0);                  /* group */
    cursor_write_u32(out, 0);
    ASSERT(!out->failed && out->size - start == INODE_SIZE);
}

static enum kelpie_status write_node(struct host *host, int fd, const struct medium *medium,
                                     enum node node, const void *data, struct kelpie_error *err) {
    ASSERT(data);
    ASSERT((unsigned)node < NODE_COUNT);
    uint64_t offset = (uint64_t)medium->nodes[node].block * BLOCK_SIZE;
    return host_file_write_at(host, fd, data, (size_t)medium->nodes[node].size, offset, err);
}

/* Superblock, inodes and folders. */
static enum kelpie_status write_structure(struct host *host, int fd, const struct medium *medium,
                                          struct kelpie_error *err) {
    uint8_t block[BLOCK_SIZE] = {0};
    struct cursor_writer super = cursor_writer_init(block + SUPER_OFFSET, SUPER_SIZE);
    struct cursor_writer inodes =
        cursor_writer_init(block + INODE_OFFSET, sizeof(block) - INODE_OFFSET);
    ASSERT(fd != HOST_FD_NONE);
    static_assert(SUPER_OFFSET + SUPER_SIZE <= INODE_OFFSET, "one behind the other");
    super_encode(medium, &super);
    for (unsigned i = 0; i < NODE_COUNT; i++) {
        inode_encode(medium, (enum node)i, &inodes);
    }
    TRY(host_file_write_at(host, fd, block, sizeof(block), 0, err));
    for (unsigned i = 0; i < NODE_COUNT; i++) {
        if (S_ISDIR(tree[i].mode)) {
            size_t size = folder_encode((enum node)i, block);
            ASSERT(size == medium->nodes[i].size);
            TRY(write_node(host, fd, medium, (enum node)i, block, err));
        }
    }
    return KELPIE_OK;
}

enum kelpie_status image_medium_build(struct host *host, const struct image_boot *boot, int *ret_fd,
                                      uint64_t *ret_size, struct kelpie_error *err) {
    AUTO_MEM char *archive = NULL;
    size_t archive_size = 0;
    struct medium medium = {.block_count = 0};
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(boot->initramfs_path[0] == '/');
    ASSERT(ret_fd && ret_size);
    size_t init_size = (size_t)((uintptr_t)image_guest_data_end - (uintptr_t)image_guest_data);
    TRY(host_file_load(host, boot->initramfs_path, IMAGE_INITRAMFS_SIZE_MAX, &archive,
                       &archive_size, err));
    if (!medium_place(&medium, init_size, archive_size)) {
        return error_set(err, KELPIE_NO_SPACE, "the initramfs is too large for a boot disk");
    }
    uint64_t size = (uint64_t)medium.block_count * BLOCK_SIZE;
    TRY(host_memory_file(host, "kelpie-medium", size, &fd.fd, err));
    TRY(write_structure(host, fd.fd, &medium, err));
    TRY(write_node(host, fd.fd, &medium, NODE_INIT, image_guest_data, err));
    TRY(write_node(host, fd.fd, &medium, NODE_ARCHIVE, archive, err));
    *ret_fd = host_fd_take(&fd);
    *ret_size = size;
    return KELPIE_OK;
}
