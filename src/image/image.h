/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * image.h: what a guest boots from: a kernel and its modules, an initramfs with kelpie-guest and a
 * busybox userland, and disks.
 *
 * Everything made or fetched lies in a cache ($XDG_CACHE_HOME/kelpie, else $HOME/.cache/kelpie), named by
 * content, written under a temporary name and renamed, so that many processes may use it at once.
 */
#ifndef KELPIE_IMAGE_IMAGE_H
#define KELPIE_IMAGE_IMAGE_H

#include "host/host.h"
#include "image/image_limits.h"

enum image_kernel_form {
    IMAGE_KERNEL_BZIMAGE = 0,
    IMAGE_KERNEL_KRUNFW, /* libkrunfw: a shared library that carries it (host/host_krunfw.h) */
};

/* Where a guest's kernel comes from. */
struct image_kernel {
    enum image_kernel_form form;
    char path[HOST_PATH_SIZE_MAX + 1]; /* the bzImage or library */
    char modules_dir[HOST_PATH_SIZE_MAX +
                     1]; /* …/lib/modules/<release>, or empty: none (built in) */
    char release[IMAGE_RELEASE_SIZE_MAX +
                 1]; /* as in the image's header (setup header, kernel_version); libkrunfw: empty */
    char digest[IMAGE_DIGEST_SIZE]; /* SHA-256 of the bzImage or library */
};

struct image_boot {
    struct image_kernel kernel;
    char initramfs_path[HOST_PATH_SIZE_MAX + 1];
    char initramfs_digest[IMAGE_DIGEST_SIZE];
};

/*
 * Finds the kernel: `requested` (may be NULL), $KELPIE_KERNEL, the cache, Debian's linux-image-cloud package (fetched
 * with apt-get download and unpacked into the cache, nothing installed), /boot/vmlinuz-$(uname -r) or the newest in /boot.
 * A requested one that is wrong is an error, never replaced by another; it may be libkrunfw, told by its content, which has no
 * modules. A bzImage's modules are looked for in
 * ../lib/modules/<release> beside it (as unpacked), then in /lib/modules/<release>.
 * Errors: NOT_FOUND (what was tried, what to do), BAD_CONFIG field "kernel", TIMED_OUT, CANCELLED.
 */
KELPIE_CHECKED enum kelpie_status image_kernel_find(struct host *host, const char *requested,
                                                    const struct host_wait *wait,
                                                    struct image_kernel *ret_kernel,
                                                    struct kelpie_error *err);

/*
 * Writes, or finds in the cache, the uncompressed ELF file (vmlinux) that is in a bzImage. BAD_CONFIG, field "kernel": there is none
 * in it, or it is packed in a way that is not known here.
 */
KELPIE_CHECKED enum kelpie_status image_kernel_unpack(struct host *host,
                                                      const struct image_kernel *kernel,
                                                      const struct host_wait *wait, char *ret_path,
                                                      size_t path_size, struct kelpie_error *err);

/*
 * Writes, or finds in the cache, the initramfs for this kernel. It is a newc archive named by the SHA-256 of its bytes:
 *   /init                     kelpie-guest
 *   /bin/busybox, /bin/<applet>  a static busybox and a link for each applet; /sbin, /usr/bin, /usr/sbin lead to /bin
 *   /lib/modules/kelpie/X.ko the modules that the guest needs, decompressed
 *   /etc/kelpie/modules       those to load before anything else: absolute paths, one a line, in load order
 *   /etc/kelpie/modules.disk  the same for those that only disks need (virtio_blk, overlay, file systems): to be
 *                             loaded, behind the first list, when the first disk is set up. A list may be empty;
 *                             one may name a module that another has loaded already, which is no error.
 *   /etc/kelpie/modules.net   the same for a network
 *   /etc/kelpie/modules.vsock the same for a channel over vsock, when there is no virtio port, and for the balloon that
 *                             the monitors with vsock have: it gives back what the guest has freed
 *   /etc/passwd, group, hosts; /root /tmp /proc /sys /dev /run /mnt, to mount on
 */
KELPIE_CHECKED enum kelpie_status
image_initramfs_build(struct host *host, const struct image_kernel *kernel,
                      const struct host_wait *wait, char *ret_path, size_t path_size,
                      char ret_digest[IMAGE_DIGEST_SIZE], struct kelpie_error *err);

/* Both of the above. */
KELPIE_CHECKED enum kelpie_status
image_boot_prepare(struct host *host, const char *requested_kernel, const struct host_wait *wait,
                   struct image_boot *ret_boot, struct kelpie_error *err);

/*
 * The boot disk of a guest whose kernel takes no initramfs: a memory file with a read-only EROFS file system of whole
 * 4 KiB blocks. Equal inputs give equal bytes.
 *   /init         kelpie-guest, which unpacks the archive into a tmpfs, makes that its root, and lets go of the disk
 *   /kelpie.cpio  boot's initramfs
 *   /dev, /new    to mount on
 */
KELPIE_CHECKED enum kelpie_status image_medium_build(struct host *host,
                                                     const struct image_boot *boot, int *ret_fd,
                                                     uint64_t *ret_size, struct kelpie_error *err);

/* Reads modules.dep (and modules.builtin) in `modules_dir` and lists, in load order and each once, the files that the
 * wanted modules need: names relative to modules_dir. A wanted module that is built in needs nothing; one
 * that does not exist is left out. Pure but for reading the files. */
struct image_module_list {
    char names[IMAGE_MODULE_COUNT_MAX][IMAGE_MODULE_NAME_SIZE_MAX + 1];
    size_t count;
};
KELPIE_CHECKED enum kelpie_status image_module_order(struct host *host, const char *modules_dir,
                                                     const char *const *wanted, size_t wanted_count,
                                                     struct image_module_list *ret_list,
                                                     struct kelpie_error *err);

/*
 * Opens a disk for a VM. A raw image is opened as it is (read_only: for reading) after checking that it is a regular
 * file of a whole number of 512-byte sectors; its bytes are never guessed at. A folder is turned into an ext4 image in
 * the cache's temporary space with mkfs.ext4 -d, of its content's size and a half again, at least 16 MiB, and unlinked at once:
 * only the descriptor holds it. Errors: BAD_CONFIG field "disks[N].path", BACKEND_MISSING (e2fsprogs), NO_SPACE.
 */
struct image_disk {
    int fd; /* the caller closes it */
    uint64_t size;
};
KELPIE_CHECKED enum kelpie_status image_disk_open(struct host *host, const char *path,
                                                  bool read_only, size_t index,
                                                  const struct host_wait *wait,
                                                  struct image_disk *ret_disk,
                                                  struct kelpie_error *err);

/* An empty, unlinked file for a VM's private copy of a disk, in the cache's temporary space. */
KELPIE_CHECKED enum kelpie_status image_scratch_file(struct host *host, int *ret_fd,
                                                     struct kelpie_error *err);

/*
 * Makes an empty file a disk of `size` bytes with an empty, writable ext4 file system: a copy of one in the cache, which is
 * formatted once for each size. Few of its bytes are not a hole. Errors: BACKEND_MISSING (e2fsprogs), NO_SPACE.
 */
KELPIE_CHECKED enum kelpie_status image_disk_format(struct host *host, int fd, uint64_t size,
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err);

/* Something of 64 hexadecimal digits that was found out about a file's content, for as long as the file is the same by path,
 * size, time, inode and device (stamp.c). A file that was written just now is not noted. */
bool image_note_find(struct host *host, const char *kind, const char *path,
                     char ret_digest[IMAGE_DIGEST_SIZE]);
KELPIE_CHECKED enum kelpie_status image_note_store(struct host *host, const char *kind,
                                                   const char *path, const char *digest,
                                                   struct kelpie_error *err);

/* The SHA-256 of bytes. */
KELPIE_CHECKED enum kelpie_status image_digest_bytes(const void *data, size_t size,
                                                     char ret_digest[IMAGE_DIGEST_SIZE],
                                                     struct kelpie_error *err);

/* The cache's folder, made if it is missing (0700). */
KELPIE_CHECKED enum kelpie_status image_cache_dir(struct host *host, char *ret_path, size_t size,
                                                  struct kelpie_error *err);

#endif
