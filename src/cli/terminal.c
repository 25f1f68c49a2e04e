/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/terminal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/assert.h"

struct terminal terminal_init(int fd) {
    ASSERT(fd >= 0);
    return (struct terminal){.fd = fd};
}

bool terminal_present(const struct terminal *terminal) {
    ASSERT(terminal->fd >= 0);
    ASSERT(terminal);
    return isatty(terminal->fd) == 1;
}

enum kelpie_status terminal_make_raw(struct terminal *terminal, struct kelpie_error *err) {
    ASSERT(terminal);
    ASSERT(!terminal->raw);
    if (tcgetattr(terminal->fd, &terminal->saved) != 0) {
        return error_set_os(err, errno, "cannot read the terminal's settings");
    }
    struct termios raw = terminal->saved;
    cfmakeraw(&raw);
    if (tcsetattr(terminal->fd, TCSANOW, &raw) != 0) {
        return error_set_os(err, errno, "cannot make the terminal raw");
    }
    terminal->raw = true;
    return KELPIE_OK;
}

void terminal_renew(struct terminal *terminal) {
    ASSERT(terminal);
    ASSERT(terminal->fd >= 0);
    if (terminal->raw) {
        struct termios raw = terminal->saved;
        cfmakeraw(&raw);
        (void)tcsetattr(terminal->fd, TCSANOW, &raw);
    }
}

void terminal_restore(struct terminal *terminal) {
    ASSERT(terminal->fd >= 0);
    ASSERT(terminal);
    if (terminal->raw) {
        /* A terminal that was hung up has nothing to restore. */
        (void)tcsetattr(terminal->fd, TCSANOW, &terminal->saved);
        terminal->raw = false;
    }
}

bool terminal_size(const struct terminal *terminal, uint16_t *ret_rows, uint16_t *ret_columns) {
    ASSERT(terminal->fd >= 0);
    ASSERT(ret_rows);
    ASSERT(ret_columns);
    struct winsize size = {0};
    if (ioctl(terminal->fd, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) {
        return false;
    }
    *ret_rows = size.ws_row;
    *ret_columns = size.ws_col;
    return true;
}
