/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* An archive onto a disk that is full. What is in the archives is tested with the initramfs (image_test.c). */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "image/image_internal.h"

#define BLOCK_SIZE 10240 /* libarchive writes so much at once */
#define HEADER_SIZE 112  /* of a file with a short name */

/* Two files, of which the first ends `short_by` bytes before the block does: the second one's header, or its data, is what fills
 * the block, and so what fails. Returns how the whole ended. */
static enum kelpie_status write_two(struct host *host, int fd, size_t short_by) {
    static const char bytes[BLOCK_SIZE];
    struct image_cpio *cpio = NULL;
    struct kelpie_error err;
    char digest[IMAGE_DIGEST_SIZE];
    const struct image_cpio_file first = {
        .path = "a", .mode = 0644, .data = bytes, .size = BLOCK_SIZE - HEADER_SIZE - short_by};
    const struct image_cpio_file second = {
        .path = "b", .mode = 0644, .data = bytes, .size = sizeof(bytes)};
    assert_int_equal(image_cpio_create(host, fd, &cpio, &err), KELPIE_OK);
    enum kelpie_status status = image_cpio_file(cpio, &first, &err);
    if (status == KELPIE_OK) {
        status = image_cpio_file(cpio, &second, &err);
    }
    if (status == KELPIE_OK) {
        status = image_cpio_finish(cpio, digest, &err);
    }
    image_cpio_destroy(cpio);
    return status;
}

/* Under a sanitizer, which has an allocator of its own, it is the sanitizer that sees a leak. */
static void nothing_leaks_whatever_was_to_be_written(void **state) {
    struct host *host = NULL;
    int fd = HOST_FD_NONE;
    (void)state;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(host_file_open(host, "/dev/full", HOST_OPEN_WRITE, 0, &fd, NULL), KELPIE_OK);
    assert_int_equal(write_two(host, fd, 0), KELPIE_NO_SPACE);
    const size_t before = mallinfo2().uordblks;
    for (size_t short_by = 0; short_by < 2 * HEADER_SIZE; short_by += 4) {
        assert_int_equal(write_two(host, fd, short_by), KELPIE_NO_SPACE);
    }
    /* What the allocator keeps for later is in use too, as far as it knows: less than one block of those that leaked. */
    assert_true(mallinfo2().uordblks < before + BLOCK_SIZE);
    host_close(host, fd);
    host_destroy(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_leaks_whatever_was_to_be_written),
    };
    return cmocka_run_group_tests_name("image/cpio", tests, NULL, NULL);
}
